"""Folders of videos: `[train | val | test /] <class> / <video>`.

A video is a file, a folder of frames, or TAO's folder whose `rgb/` holds them (to add flow to
data that have none). With nothing but train, val and test on top, these are the splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kineme.action_recognition.convert.found import WHOLE, Found, Source
from kineme.action_recognition.listing import find_entries
from kineme.data.conversion import Tally, folder_of
from kineme.data.names import OF_FINDER
from kineme.errors import DataError, Problem
from kineme.network import TEST, TRAIN, VAL

SPLITS = (TRAIN, VAL, TEST)


def read_videos(settings: Any, tally: Tally) -> Source:
    """Every video under `settings.data`. Raises DataError with all problems."""
    del tally
    root = folder_of(settings.data)
    splits = [name for name in SPLITS if (root / name).is_dir()]
    has_others = any(
        entry.is_dir() and entry.name not in (*SPLITS, OF_FINDER) and entry.name[0] != "."
        for entry in os.scandir(root)
    )
    if not splits or has_others:
        return Source("folders of videos", videos_in(root, WHOLE))
    videos: list[Found] = []
    problems: list[Problem] = []
    for split in splits:
        try:
            videos += videos_in(root / split, split)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems)
    return Source("folders of videos", tuple(videos))


def videos_in(root: Path, split: str) -> tuple[Found, ...]:
    """The videos of `<root>/<class>/<video>`. Raises DataError with all problems."""
    videos: list[Found] = []
    problems: list[Problem] = []
    for entry in find_entries(root, TRAIN):
        name = entry.path.stem if entry.is_file else entry.path.name
        video = Found(entry.path, name, entry.label or "", split)
        if video.frames == entry.path and (entry.path / "u").is_dir():
            problems.append(Problem(str(entry.path), "colour frames in rgb/", "only flow"))
        videos.append(video)
    problems += clashes(videos)
    if problems:
        raise DataError.of(problems)
    return tuple(videos)


def clashes(videos: Sequence[Found]) -> list[Problem]:
    """Videos that would be written to one folder."""
    first: dict[str, Path] = {}
    problems = []
    for video in videos:
        other = first.setdefault(video.id, video.path)
        if other != video.path:
            received = f"{other.name!r} and {video.path.name!r}"
            fix = "Rename or remove one."
            problems.append(Problem(str(other.parent), "one video of each name", received, fix))
    return problems
