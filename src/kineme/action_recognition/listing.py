"""Which videos a folder or a list names: entries with ids and labels, nothing opened.

Layouts: `<root>/<class>/<video>`, where a video is a file, a folder of frames, or TAO's
folder of `rgb/`, `u/`, `v/`; a folder of such videos without classes, for inference; a
CSV (header `path,label,split,start,end`) or JSON lines with the same keys, where only
`path` must be there; start and end in seconds, paths from the list's own folder.
Promises: natural order of names; hidden files and others that are no videos are passed
over; links out of the data set are refused; all problems of a list at once.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.data import archives, images
from kineme.errors import DataError, Problem
from kineme.network import PREDICT, TEST, TRAIN, VAL

VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp",
    ".gif",
)  # fmt: skip
LIST_ENDINGS = (".csv", ".jsonl")
SPLITS = {TRAIN: (TRAIN,), VAL: (VAL, TEST), TEST: (TEST, VAL), PREDICT: ()}
_KEYS = ("path", "label", "split", "start", "end")


@dataclass(frozen=True)
class Entry:
    """A video by name. label: its class, None where unknown. start, end: seconds, or None."""

    id: str
    path: Path
    is_file: bool
    label: str | None = None
    start: float | None = None
    end: float | None = None


def find_entries(where: Path, split: str) -> list[Entry]:
    """The videos at `where` for `split`. Raises DataError with all problems."""
    if where.suffix.lower() in LIST_ENDINGS:
        return _from_list(where, split)
    if not where.is_dir():
        received = "a file" if where.exists() else "nothing there"
        raise DataError(
            str(where), "a folder of videos, a .csv or .jsonl list, or an archive", received
        )
    if split == PREDICT:
        return _unlabelled(where)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for folder in _folders(where):
        name = folder.name
        found = [
            Entry(f"{name}/{child.name}", child, child.is_file(), name)
            for child in _videos_in(folder, where)
        ]
        entries += found
        if not found:
            problems.append(Problem(str(folder), "videos or folders of frames", "none"))
    if not entries and not problems:
        problems.append(
            Problem(str(where), "class folders with videos", "none", "Give <root>/<class>/<video>.")
        )
    if problems:
        raise DataError.of(problems)
    return entries


def _unlabelled(where: Path) -> list[Entry]:
    """The videos of one folder; of its class folders, where it has those instead."""
    entries = [Entry(child.name, child, child.is_file()) for child in _videos_in(where, where)]
    if not entries:
        entries = [
            Entry(f"{folder.name}/{child.name}", child, child.is_file())
            for folder in _folders(where)
            for child in _videos_in(folder, where)
        ]
    if not entries:
        raise DataError(str(where), "videos or folders of frames", "none")
    return entries


def _folders(where: Path) -> list[Path]:
    children = images.natural_order(name for name in os.listdir(where) if not name.startswith("."))
    return [
        archives.resolve_inside(where, where / name) and where / name
        for name in children
        if (where / name).is_dir()
    ]


def _videos_in(folder: Path, root: Path) -> Iterator[Path]:
    """Files with a video's ending and folders of frames, in natural order."""
    for name in images.natural_order(os.listdir(folder)):
        path = folder / name
        if name.startswith("."):
            continue
        is_video = path.is_dir() and is_frame_folder(path)
        if is_video or (not path.is_dir() and name.lower().endswith(VIDEO_ENDINGS)):
            archives.resolve_inside(root, path)
            yield path


def is_frame_folder(path: Path) -> bool:
    """Whether a folder is one video: TAO's rgb/, u/ or v/ in it, or frames themselves."""
    for child in os.scandir(path):
        if child.is_dir() and child.name in ("rgb", "u", "v"):
            return True
        if child.is_file() and child.name.lower().endswith(images.IMAGE_ENDINGS):
            return True
    return False


def _from_list(where: Path, split: str) -> list[Entry]:
    rows = list(_csv_rows(where) if where.suffix.lower() == ".csv" else _json_rows(where))
    problems = [row for row in rows if isinstance(row, Problem)]
    entries = []
    known_splits = {row["split"] for row in rows if not isinstance(row, Problem)} - {""}
    wanted = next((name for name in SPLITS[split] if name in known_splits), None)
    for number, row in enumerate(rows, start=2 if where.suffix.lower() == ".csv" else 1):
        if isinstance(row, Problem):
            continue
        if known_splits and SPLITS[split] and row["split"] != wanted:
            continue
        entry = _entry(where, number, row, is_labelled=split != PREDICT)
        (problems if isinstance(entry, Problem) else entries).append(entry)  # type: ignore[arg-type]
    if not entries and not problems:
        expected = f"rows of split {' or '.join(SPLITS[split])}" if known_splits else "rows"
        problems.append(Problem(str(where), expected, f"{len(rows)} rows, none of them"))
    if problems:
        raise DataError.of(problems)
    return entries


def _csv_rows(where: Path) -> Iterator[dict[str, str] | Problem]:
    with _opened(where) as file:
        table = csv.DictReader(file)
        if "path" not in (table.fieldnames or ()):
            received = ",".join(table.fieldnames or ())[:80] or "nothing"
            yield Problem(str(where), "a header with path,label,split,start,end", received)
            return
        for row in table:
            yield {key: (row.get(key) or "").strip() for key in _KEYS}


def _json_rows(where: Path) -> Iterator[dict[str, str] | Problem]:
    with _opened(where) as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Problem(f"{where}:{number}", "a JSON object", f"{error}")
                continue
            if not isinstance(row, Mapping):
                yield Problem(f"{where}:{number}", "a JSON object", repr(row)[:60])
                continue
            yield {key: _text(row.get(key)) for key in _KEYS}


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _opened(where: Path) -> Any:
    try:
        return open(where, encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(str(where), "a list that can be read", str(error.strerror)) from error


def _entry(
    where: Path, number: int, row: Mapping[str, str], *, is_labelled: bool
) -> Entry | Problem:
    place = f"{where}:{number}"
    if not row["path"]:
        return Problem(place, "a path", "nothing")
    path = Path(row["path"])
    path = path if path.is_absolute() else where.parent / path
    if not path.exists():
        return Problem(f"{place}: path", "a video", f"{row['path']!r}, which does not exist")
    if is_labelled and not row["label"]:
        return Problem(f"{place}: label", "a class name", "nothing")
    times: list[float | None] = []
    for key in ("start", "end"):
        try:
            times.append(float(row[key]) if row[key] else None)
        except ValueError:
            return Problem(f"{place}: {key}", "seconds", repr(row[key]))
    start, end = times
    is_stretch = start is not None or end is not None
    name = (
        f"{row['path']}#{start or 0:g}-{'' if end is None else f'{end:g}'}"
        if is_stretch
        else row["path"]
    )
    return Entry(name, path, path.is_file(), row["label"] or None, start, end)
