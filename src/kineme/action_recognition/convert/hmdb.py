"""HMDB51 and J-HMDB: class folders of videos, and lists that split them three ways.

A list `<class>_test_split<k>.txt` has a line `<file> <number>` for each video of the class: 1 is
training, 2 is test, 0 is not used in split k. Kuehne et al., ICCV 2011; Jhuang et al., ICCV 2013.
A file is known by its name without its ending: the lists say .avi, whatever the videos are now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kineme.action_recognition.convert.found import Found, Source
from kineme.action_recognition.convert.videos import videos_in
from kineme.data.conversion import Tally, folder_of
from kineme.data.inputs import read_bytes
from kineme.errors import DataError, Problem
from kineme.network import TEST, TRAIN

JHMDB_CLASSES = (
    "brush_hair", "catch", "clap", "climb_stairs", "golf", "jump", "kick_ball", "pick", "pour",
    "pullup", "push", "run", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "stand",
    "swing_baseball", "throw", "walk", "wave",
)  # fmt: skip
_SPLIT_OF = {"1": TRAIN, "2": TEST, "0": None}
_LIST = re.compile(r"(?P<label>.+)_test_split(?P<split>[123])\.txt")
_MAX_LIST_BYTES = 1 << 24


def read_hmdb(settings: Any, tally: Tally) -> Source:
    """The videos of split `settings.split`, or all of them, unsplit, where that is null."""
    return _read(settings, tally, name="HMDB51", classes=())


def read_jhmdb(settings: Any, tally: Tally) -> Source:
    """The same for J-HMDB's 21 classes."""
    return _read(settings, tally, name="J-HMDB", classes=JHMDB_CLASSES)


def _read(settings: Any, tally: Tally, *, name: str, classes: tuple[str, ...]) -> Source:
    data = folder_of(settings.data)
    videos = videos_in(data / "videos" if (data / "videos").is_dir() else data, "")
    if settings.split is None:
        return Source(f"{name}, not split", videos)
    lists = _find_lists(data, settings.split_dir, settings.split)
    by_label: dict[str, dict[str, Found]] = {}
    for video in videos:
        by_label.setdefault(video.label, {})[video.name] = video
    problems = [
        Problem(str(data), f"a list of class {label!r}", f"none for split {settings.split}")
        for label in sorted({*by_label, *classes} - set(lists))
    ]
    problems += [
        Problem(str(path), f"videos of class {label!r}", f"no folder {label} in {data}")
        for label, path in lists.items()
        if label not in by_label
    ]
    found: list[Found] = []
    for label, path in lists.items():
        for item in _split(path, by_label.get(label, {}), tally):
            (problems if isinstance(item, Problem) else found).append(item)  # type: ignore[arg-type]
    if problems:
        raise DataError.of(problems)
    if not found:
        raise DataError(str(data), "videos that the lists name", "none of them")
    order = {TRAIN: 0, TEST: 1}
    ordered = sorted(found, key=lambda video: order[video.split])
    return Source(f"{name}, split {settings.split}", tuple(ordered))


def _find_lists(data: Path, split_dir: str | None, split: int) -> dict[str, Path]:
    """The list of each class, in `split_dir`, or in `data` or a folder in it."""
    folders = [data, *sorted(data.iterdir())]
    if split_dir:
        folders = [folder_of(split_dir, key="dataset_convert.split_dir")]
    lists: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _LIST.fullmatch(path.name)
            if match and match["split"] == str(split):
                lists.setdefault(match["label"], path)
    if not lists:
        raise DataError(
            str(split_dir or data),
            f"lists <class>_test_split{split}.txt",
            "none",
            "Set dataset_convert.split_dir, or dataset_convert.split: null.",
        )
    return lists


def _split(path: Path, videos: Mapping[str, Found], tally: Tally) -> Iterator[Found | Problem]:
    """The videos of one class that are used, each with its split, and what is wrong."""
    seen: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        words = line.rsplit(None, 1)
        if not words:
            continue
        if len(words) != 2 or words[1] not in _SPLIT_OF:
            expected = "a file and 0, 1 or 2"
            yield Problem(f"{path}:{number}", expected, repr(line.strip())[:80])
            continue
        name, code = Path(words[0]).stem, words[1]
        if seen.setdefault(name, code) != code:
            expected = f"one number for {name!r}"
            yield Problem(f"{path}:{number}", expected, f"{code}, and {seen[name]} before")
        elif name not in videos:
            tally.add(
                "videos that the lists name and that are not there", f"{path}:{number} {name}"
            )
        elif (split := _SPLIT_OF[code]) is None:
            tally.add("videos that the split does not use, left out", videos[name].id)
        else:
            yield Found(videos[name].path, name, videos[name].label, split)
    for name in videos.keys() - seen.keys() if seen else ():
        tally.add("videos that no list names, left out", videos[name].id)


def _lines(path: Path) -> list[str]:
    data = read_bytes(path, max_bytes=_MAX_LIST_BYTES)
    try:
        return data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(str(path), "UTF-8 text", f"other bytes at {error.start:,}") from error
