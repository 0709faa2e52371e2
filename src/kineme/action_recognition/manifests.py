"""Lists of videos: CSV with the header `path,label,split,start,end`, JSON lines of these keys.

Only `path` must be there; paths are relative to the list's own folder. split: train, val or
test; a list without splits is all one. start, end: seconds of a stretch of a video file.
Promises: every problem of a list at once, by line; what is not understood is a problem. Further
columns and keys are passed over with a note, and are problems where one looks like a misspelling.
Leaves out: opening the videos (sources.py).
"""

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.action_recognition.entries import Entry, Listing
from kineme.data.inputs import read_bytes
from kineme.data.labels import unique_keys
from kineme.errors import Problem, listed, printable, shortened
from kineme.network import PREDICT, TEST, TRAIN, VAL
from kineme.spec.suggest import closest, did_you_mean

ENDINGS = (".csv", ".jsonl")
SPLITS = {TRAIN: (TRAIN,), VAL: (VAL, TEST), TEST: (TEST, VAL), PREDICT: ()}  # by preference

_KEYS = ("path", "label", "split", "start", "end")
_TIMES = ("start", "end")
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class _Row:
    """place: file and line, for problems. others: keys that are not known."""

    place: str
    values: Mapping[str, str]
    others: tuple[str, ...] = ()


def is_list(where: Path) -> bool:
    """Whether a path is called as lists are, and no folder."""
    return where.suffix.lower() in ENDINGS and not where.is_dir()


def read_list(where: Path, split: str) -> Listing:
    """The entries of `split`. Raises DataError where the list itself cannot be read."""
    rows, problems = _read(where)
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
    others = dict.fromkeys(name for row in rows for name in row.others)
    if others:
        told = listed(map(repr, others), 5)
        more = f"{printable(str(where))}: unknown columns or keys are passed over: {told}."
        notes = (*notes, more)
    return Listing(tuple(entries), tuple(problems), notes)


def list_splits(where: Path) -> tuple[str, ...]:
    """The splits that a list names, training first; none where all of it is one.

    Raises DataError where the list itself cannot be read.
    """
    named = {row.values["split"] for row in _read(where)[0]}
    return tuple(split for split in (TRAIN, VAL, TEST) if split in named)


def _read(where: Path) -> tuple[list[_Row], list[Problem]]:
    """All rows, and what is wrong with the list apart from the values in them."""
    content = read_bytes(where, max_bytes=_MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        received = f"byte {content[error.start]:#04x}"
        return [], [Problem(f"{where}:{line}", "text in UTF-8", received)]
    found = list(_csv_rows(where, text) if where.suffix.lower() == ".csv" else _lines(where, text))
    rows = [row for row in found if isinstance(row, _Row)]
    return rows, [row for row in found if isinstance(row, Problem)]


def _csv_rows(where: Path, text: str) -> Iterator[_Row | Problem]:
    table = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in table.fieldnames or ()]
        problems = list(_header_problems(where, names))
        yield from problems
        if problems:
            return
        table.fieldnames = names
        others = tuple(name for name in names if name and name not in _KEYS)
        for row in table:
            place = f"{where}:{table.line_num}"
            further = row.get(None) or []  # values beyond the last column
            if any(text.strip() for text in further):
                received = str(len(names) + len(further))
                yield Problem(place, f"{len(names)} values, as in the header", received)
                continue
            values = {key: (row.get(key) or "").strip() for key in _KEYS}
            yield _Row(place, values, others)
    except csv.Error as error:
        yield Problem(f"{where}:{table.line_num}", "a row of a CSV table", str(error))


def _header_problems(where: Path, names: list[str]) -> Iterator[Problem]:
    """Columns that occur twice or are misspelt, and no path."""
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            yield Problem(str(where), "each column once", f"{name!r} {count} times")
    misspelt = list(_misspelt(names))
    for name in misspelt:
        expected = f"columns of {','.join(_KEYS)}"
        yield Problem(str(where), expected, repr(name), did_you_mean(name, _KEYS))
    if "path" not in (*names, *(closest(name, _KEYS) for name in misspelt)):
        received = ",".join(names)[:80] or "nothing"
        yield Problem(str(where), f"a header with {','.join(_KEYS)}", received)


def _misspelt(names: Iterable[str]) -> Iterator[str]:
    """Unknown names that are close to a known one which is not among them."""
    names = list(names)
    for name in dict.fromkeys(names):
        if name and name not in _KEYS and closest(name, set(_KEYS) - set(names)):
            yield name


def _lines(where: Path, text: str) -> Iterator[_Row | Problem]:
    told: set[str] = set()  # misspelt keys, each at its first line
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{where}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            yield Problem(place, "a JSON object", str(error))
            continue
        if not isinstance(row, Mapping):
            yield Problem(place, "a JSON object", repr(row)[:60])
            continue
        for name in _misspelt(row):
            if name not in told:
                expected = f"keys of {','.join(_KEYS)}"
                yield Problem(place, expected, repr(name), did_you_mean(name, _KEYS))
            told.add(name)
        strange = [key for key in _KEYS if not _is_cell(key, row.get(key))]
        for key in strange:
            expected = "a number" if key in _TIMES else "a text or a whole number"
            yield Problem(f"{place}: {key}", expected, shortened(row[key]))
        if strange:
            continue
        others = tuple(name for name in row if name not in (*_KEYS, *told))
        yield _Row(place, {key: _text(row.get(key)) for key in _KEYS}, others)


def _is_cell(key: str, value: Any) -> bool:
    """Whether a JSON value may stand for a cell of a table."""
    kinds = (str, int, float) if key in _TIMES else (str, int)
    return value is None or (isinstance(value, kinds) and not isinstance(value, bool))


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
