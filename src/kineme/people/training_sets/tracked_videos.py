"""Tracks of many videos, each looked at once and kept in the cache.

    <cache>/tracks/ab/abcdef....npz    by content of the video, estimator and its settings
    <cache>/tracks/ab/abcdef....json   what was wrong with the video, where anything was

Promises: what is there and whole is not made again, whatever the video is called now; a run that
was stopped goes on with the first video it had not finished; a video that cannot be read, or that
kills its worker, costs itself alone; tracks are kept as they were seen, before any smoothing.
Whoever the estimator sees is followed, however unsure it is (its `min_score` decides): these videos
were chosen because somebody acts in them, often small or blurred, and of those followed only who
acts most is taken (acting.py). An analysis asks more (TrackingSettings.new_score): nobody chooses
among the people that it reports, and each shadow would be one.
Leaves out: which videos there are and who in them acts (clips.py). The cache may be
deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme import __version__
from kineme.data.cache import temporary_cache
from kineme.data.frames import content_hash
from kineme.data.tracks import Tracks
from kineme.data.workers import run_tasks
from kineme.errors import DataError, ResourceError
from kineme.files import sweep_temporaries, write_errors_named, write_json
from kineme.people.estimators import Estimator, build_estimator, spelled_settings
from kineme.people.poses import FramePoses
from kineme.people.sources import StoredSource
from kineme.people.tracking.cuts import CutDetector
from kineme.people.tracking.recording import TracksRecorder
from kineme.people.tracking.tracker import Tracker, TrackingSettings
from kineme.pose_classification.layouts import LAYOUTS

_TASK = "kineme.people.training_sets.tracked_videos:track_video"
_SURE_FROM = 0.0  # score from which the tracker follows somebody

Progress = Callable[[int, int], None]  # videos done, and how many of them were made now


@dataclass(frozen=True)
class TrackedVideo:
    """path: of the tracks. damage: of the video, in words, "" for nothing. is_new: made now."""

    path: Path
    damage: str
    is_new: bool


def track_videos(
    videos: Sequence[Path],
    cache: Path,
    *,
    estimator: str,
    settings: Mapping[str, object],
    num_workers: int,
    progress: Progress = lambda done, num_new: None,
) -> list[TrackedVideo | DataError]:
    """The tracks of each video (a file or a folder of images), or why it has none.

    num_workers: processes; 0 looks in this one. progress: told after each video.
    Raises SpecError and CheckpointError for the estimator, ResourceError for a full disk.
    """
    built = build_estimator(estimator, settings)  # what is wrong with it is told once
    folder = _writable(cache / "tracks")
    shared = {
        "folder": str(folder.absolute()),
        "estimator": estimator,
        "settings": dict(settings),
        "made_by": {
            "kineme": __version__,
            "estimator": estimator,
            "settings": spelled_settings(built),
            "sure_from": _SURE_FROM,
        },
    }
    names = [str(video.absolute()) for video in videos]
    tasks: deque[Mapping[str, Any]] = deque({"name": n, **shared} for n in dict.fromkeys(names))
    found: dict[str, TrackedVideo | DataError] = {}
    num_new = 0
    for task, answer in run_tasks(_TASK, tasks, num_workers=min(num_workers, len(tasks))):
        is_bad = isinstance(answer, DataError)
        found[task["name"]] = (
            answer if is_bad else TrackedVideo(**{**answer, "path": Path(answer["path"])})
        )
        num_new += is_bad or answer["is_new"]
        progress(len(found), num_new)
    return [found[name] for name in names]


def track_video(task: Mapping[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
    """In a worker: the tracks of one video, made or found, as `TrackedVideo` says."""
    video = Path(task["name"])
    facts = {"video": content_hash(video, beat), **task["made_by"]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    target = Path(task["folder"], key[:2], f"{key}.npz")
    is_new = not _is_whole(target)
    if is_new:
        _make(video, target, task, beat)
    return {"path": str(target), "damage": _damage_of(target), "is_new": is_new}


def _make(video: Path, target: Path, task: Mapping[str, Any], beat: Callable[[], None]) -> None:
    estimator = _estimator(task["estimator"], json.dumps(task["settings"]))
    estimator.reset()
    layout, source = LAYOUTS[estimator.layout], StoredSource(video)
    tracker = Tracker(
        TrackingSettings(layout, high_score=_SURE_FROM, low_score=_SURE_FROM, new_score=_SURE_FROM)
    )
    cuts, recorder = CutDetector(), TracksRecorder()
    for moment in source.moments():
        is_cut = cuts.is_cut(moment.frame)
        poses = FramePoses(moment.index, moment.seconds, estimator.detect(moment.frame))
        recorder.add(poses, tracker.update(poses, is_cut=is_cut), is_cut=is_cut)
        beat()
    tracks = recorder.tracks(
        layout, width=source.width, height=source.height, fps=source.fps, source=video.name
    )
    with write_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.damage:  # before the tracks, so that whoever finds these finds it
            write_json(target.with_suffix(".json"), {"damage": source.damage})
        tracks.save(target)


@functools.lru_cache(maxsize=1)
def _estimator(name: str, settings: str) -> Estimator:
    return build_estimator(name, json.loads(settings))


def _is_whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        Tracks.load(path)
    except DataError:  # cut short by a disk, or of another version: made again
        return False
    return True


def _damage_of(target: Path) -> str:
    try:
        found = json.loads(target.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get("damage", "")) if isinstance(found, dict) else ""


def _writable(folder: Path) -> Path:
    """`folder`, or where it cannot be written one that goes with this process."""
    try:
        with write_errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except ResourceError:
        return temporary_cache("tracks")
    if not os.access(folder, os.W_OK):
        return temporary_cache("tracks")
    for shelf in folder.iterdir():
        if shelf.is_dir():
            sweep_temporaries(shelf)
    return folder
