"""Videos into lists that training reads in place: `path,label,split,start,end`, nothing copied.

Promises: every video in a list has been opened; a path in a list leads there from wherever the
list is read: relative where the videos lie below it, absolute elsewhere.
Leaves out: which videos there are (videos.py, hmdb.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from kineme import files
from kineme.action_recognition.convert.found import WHOLE, Source
from kineme.data.conversion import Tally
from kineme.data.frames import frame_paths
from kineme.data.names import is_utf8
from kineme.data.video import VideoFacts
from kineme.data.video.probing import probe_all
from kineme.errors import DataError, Problem
from kineme.network import TEST, TRAIN, VAL

HEADER = ("path", "label", "split", "start", "end")


def write_lists(
    source: Source, folder: Path, *, num_workers: int, tally: Tally
) -> tuple[dict[str, int], list[Problem]]:
    """`<split>.csv` for each split, or `videos.csv`; frames by id, and what cannot be read."""
    counts, problems = _counted(source, num_workers, tally)
    root = folder.absolute()
    for split in source.splits:
        rows = [
            (_shown(video.path.absolute(), root), video.label, split, "", "")
            for video in source.videos
            if video.split == split and video.id in counts
        ]
        files.write_csv(folder / list_name(split), HEADER, rows)
    for name in map(list_name, (WHOLE, TRAIN, VAL, TEST)):
        if name not in map(list_name, source.splits) and (folder / name).exists():
            tally.add("lists of an earlier conversion, still in the folder", name)
    return counts, problems


def list_name(split: str) -> str:
    """The file that lists `split`."""
    return "videos.csv" if split == WHOLE else f"{split}.csv"


def _shown(path: Path, root: Path) -> str:
    return os.path.relpath(path, root) if path.is_relative_to(root) else str(path)


def _counted(
    source: Source, num_workers: int, tally: Tally
) -> tuple[dict[str, int], list[Problem]]:
    """Frames of each video by its id, and what is wrong with the others."""
    probed = [video for video in source.videos if not video.path.is_dir()]
    paths = list(dict.fromkeys(video.path for video in probed))
    answers: dict[Path, VideoFacts | DataError] = {}
    if paths:
        found = probe_all(paths, num_workers=max(num_workers, 1))
        answers = dict(zip(paths, found, strict=True))
    counts: dict[str, int] = {}
    problems: list[Problem] = []
    for video in source.videos:
        try:
            if not is_utf8(str(video.path)):
                raise DataError(str(video.path), "a name in UTF-8", "other bytes", "Rename it.")
            facts = answers.get(video.path)
            if isinstance(facts, DataError):
                raise facts
            counts[video.id] = facts.num_frames if facts else len(frame_paths(video.frames))
            if facts and facts.damage:
                tally.add("damaged videos, listed all the same", f"{video.id} ({facts.damage})")
        except DataError as error:
            problems += error.problems
    return counts, problems
