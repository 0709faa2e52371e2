"""Lists of videos: CSV with the header `path,label,split,start,end`, JSON lines of these keys.

Only `path` must be there; paths are relative to the list's own folder. split: train, val or
test; a list without splits is all one. start, end: seconds of a stretch of a video file.
Promises: every problem of a list at once, by line; what is not understood is a problem.
Leaves out: opening the videos (sources.py).
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.action_recognition.entries import Entry, Listing
from kineme.data.inputs import read_bytes
from kineme.errors import Problem, printable
from kineme.network import PREDICT, TEST, TRAIN, VAL

ENDINGS = (".csv", ".jsonl")
SPLITS = {TRAIN: (TRAIN,), VAL: (VAL, TEST), TEST: (TEST, VAL), PREDICT: ()}  # by preference

_KEYS = ("path", "label", "split", "start", "end")
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Row:
    """place: file and line, for problems."""

    place: str
    values: Mapping[str, str]


def read_list(where: Path, split: str) -> Listing:
    """The entries of `split`. Raises DataError where the list itself cannot be read."""
    content = read_bytes(where, max_bytes=_MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        received = f"byte {content[error.start]:#04x}"
        return Listing((), (Problem(f"{where}:{line}", "text in UTF-8", received),))
    found = list(_csv_rows(where, text) if where.suffix.lower() == ".csv" else _lines(where, text))
    problems = [row for row in found if isinstance(row, Problem)]
    rows = [row for row in found if isinstance(row, _Row)]
    wanted, notes = _of_split(where, rows, split, problems)
    entries = []
    for row in wanted:
        entry = _entry(where.parent, row, is_labelled=split != PREDICT)
        if isinstance(entry, Entry):
            entries.append(entry)
        else:
            problems += entry
    if not entries and not problems:
        has_splits = any(row.values["split"] for row in rows) and SPLITS[split]
        expected = f"rows of split {' or '.join(SPLITS[split])}" if has_splits else "rows"
        problems.append(Problem(str(where), expected, f"{len(rows)} rows, none of them"))
    return Listing(tuple(entries), tuple(problems), notes)


def _csv_rows(where: Path, text: str) -> Iterator[_Row | Problem]:
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in table.fieldnames or ()]
        if "path" not in names:
            received = ",".join(names)[:80] or "nothing"
            yield Problem(str(where), "a header with path,label,split,start,end", received)
            return
        table.fieldnames = names
        for row in table:
            values = {key: (row.get(key) or "").strip() for key in _KEYS}
            yield _Row(f"{where}:{table.line_num}", values)
    except csv.Error as error:
        yield Problem(f"{where}:{table.line_num}", "a row of a CSV table", str(error))


def _lines(where: Path, text: str) -> Iterator[_Row | Problem]:
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{where}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Problem(place, "a JSON object", str(error))
            continue
        if isinstance(row, Mapping):
            yield _Row(place, {key: _text(row.get(key)) for key in _KEYS})
        else:
            yield Problem(place, "a JSON object", repr(row)[:60])


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _of_split(
    where: Path, rows: list[_Row], split: str, problems: list[Problem]
) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows of `split`: all of them, where no row says one or `split` has no name."""
    known = {row.values["split"] for row in rows} - {""}
    for name in sorted(known - {TRAIN, VAL, TEST}):
        place = next(row.place for row in rows if row.values["split"] == name)
        problems.append(Problem(f"{place}: split", "train, val or test", repr(name)))
    if not known or not SPLITS[split]:
        return rows, ()
    wanted = next((name for name in SPLITS[split] if name in known), None)
    unsaid = [row for row in rows if not row.values["split"]]
    notes: tuple[str, ...] = ()
    if unsaid:
        notes = (
            f"{printable(str(where))}: {len(unsaid)} of {len(rows)} rows name no split and are "
            f"left out, the first {unsaid[0].values['path']!r}.",
        )
    return [row for row in rows if row.values["split"] == wanted], notes


def _entry(folder: Path, row: _Row, *, is_labelled: bool) -> Entry | list[Problem]:
    """One video, or all that is wrong with its row."""
    values, problems = row.values, []
    if not values["path"]:
        problems.append(Problem(row.place, "a path", "nothing"))
    path = folder / values["path"]
    is_there = os.path.exists(path)  # False for names that cannot be, too
    if values["path"] and not is_there:
        received = f"{values['path']!r}, which does not exist"
        problems.append(Problem(f"{row.place}: path", "a video", received))
    if is_labelled and not values["label"]:
        problems.append(Problem(f"{row.place}: label", "a class name", "nothing"))
    elif values["label"].encode(errors="replace").decode() != values["label"]:
        received = ascii(values["label"])
        problems.append(Problem(f"{row.place}: label", "text in UTF-8", received))
    times: dict[str, float | None] = {}
    for key in ("start", "end"):
        times[key] = _seconds(values[key]) if values[key] else None
        if times[key] is None and values[key]:
            problems.append(Problem(f"{row.place}: {key}", "seconds", repr(values[key])))
    start, end = times["start"], times["end"]
    if end is not None and end <= (start or 0):
        received = f"{values['start'] or 0} to {values['end']}"
        problems.append(Problem(f"{row.place}: start, end", "a start before the end", received))
    is_folder = is_there and path.is_dir()
    if is_folder and (values["start"] or values["end"]):
        expected = "nothing, as frames in a folder have no time"
        received = f"{values['start'] or 0} to {values['end'] or 'the end'}"
        problems.append(Problem(f"{row.place}: start, end", expected, received))
    if problems:
        return problems
    name = values["path"]
    if start is not None or end is not None:
        name += f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"
    label = values["label"] or None
    return Entry(printable(name), path, not is_folder, path, label, start, end)


def _seconds(text: str) -> float | None:
    """A time in seconds; None for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
