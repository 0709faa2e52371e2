"""From folders of videos to the clips of who acts in them, for training.

`[train | val | test /] <class> / [<subject> /] <video>`: people are found, followed and
smoothed, those who act are picked (acting.py), and clips are written as of any other format.

Promises: the split is the folders', a list's, an official one, or one that names alone decide
(splits.py); videos that cannot be read are counted and named, the others are converted; a second
run takes the tracks of the first from the cache (tracked_videos.py).
Leaves out: files of training (pose_classification/convert/writing.py). One clip is one video: a
long video of several labels has to be cut first.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kineme.action_recognition.convert.hmdb import read_hmdb
from kineme.action_recognition.listing import is_frame_folder, is_video_file
from kineme.data.cache import default_cache
from kineme.data.conversion import DATA_KEY, MAX_SHOWN, Tally, failed_problems, path_of
from kineme.data.tracks import Tracks
from kineme.errors import DataError, Problem, SpecError, listed
from kineme.network import TEST
from kineme.people.estimators import build_estimator, spelled_settings
from kineme.people.estimators.choosing import choose_estimator
from kineme.people.tracking.smoothing import SmoothingSettings, smooth_tracks
from kineme.people.training_sets.acting import acting, join_sights
from kineme.people.training_sets.splits import (
    hold_out,
    note_absent_classes,
    split_by_list,
    without_clashes,
)
from kineme.people.training_sets.tracked_videos import TrackedVideo, track_videos
from kineme.pose_classification.convert.clips import (
    TRAIN_STEM,
    UNKNOWN,
    VAL_STEM,
    WHOLE,
    Clip,
    Source,
)
from kineme.pose_classification.convert.folders import Found, find_clips, labelled
from kineme.pose_classification.convert.reading import class_names
from kineme.pose_classification.convert.tracks import skeleton_of
from kineme.spec.suggest import did_you_mean

PROTOCOLS = ("split1", "split2", "split3")  # of HMDB51 and J-HMDB
_PROGRESS_SECONDS = 15.0  # between lines


def read_videos(settings: Any, tally: Tally) -> Source:
    """The clips of the videos at `settings.data`: a reader of dataset_convert.

    All videos are looked at before this returns. Raises DataError where there are none or none
    can be read, SpecError for settings that cannot be.
    """
    given = _estimator_settings(settings.estimator_settings)
    chosen = choose_estimator(settings.estimator, given)
    estimator = build_estimator(chosen.name, given)
    found, protocol = _find(settings, tally)
    for clip in found if chosen.reason else ():
        tally.add(f"videos whose people {chosen.name} finds, as {chosen.reason}", clip.id)
    answers = track_videos(
        [clip.path for clip in found],
        default_cache(),
        estimator=chosen.name,
        settings=given,
        num_workers=settings.workers,
        progress=_Progress(len(found)).at,
    )
    videos, problems = _sorted_out(found, answers, tally)
    if not videos:
        raise DataError.of(problems[:MAX_SHOWN])
    classes = class_names(clip.label for clip in found if clip.label is not None)
    num_persons = settings.num_persons or 1
    clips = _clips(videos, classes, num_persons, settings, tally)
    return Source(
        name="Videos",
        layouts=(estimator.layout,),
        classes=classes,
        clips=(replace(clip, estimator=chosen.name) for clip in clips),
        num_persons=num_persons,
        protocol=protocol,
        failed=tuple(
            failed_problems(problems, len(found), where=DATA_KEY, max_bad=settings.max_bad)
        ),
        estimator_settings=spelled_settings(estimator),
    )


# Which videos ------------------------------------------------------------------------------


def _find(settings: Any, tally: Tally) -> tuple[list[Found], str]:
    """The videos with class and side, and what split them."""
    root = path_of(settings.data)
    if settings.protocol not in (None, "none"):
        return _by_official_lists(settings, tally)
    found = without_clashes(list(find_clips(root, _is_video)))
    if settings.labels:
        found = labelled(found, Path(settings.labels), tally)
    if not found:
        fix = "Give <class>/<video>, or say what it is by dataset_convert.format."
        raise DataError(str(root), "class folders with videos", "none", fix)
    found = _of_classes(found, settings.classes)
    protocol = "folders" if any(clip.stem != WHOLE for clip in found) else "none"
    is_open = protocol == "none" and settings.protocol is None and settings.val_share > 0
    if settings.split_file:
        found, protocol = split_by_list(found, Path(settings.split_file), tally), "split_file"
    elif is_open and any(clip.label is not None for clip in found):
        found, protocol = hold_out(found, settings.val_share, settings.subject_pattern, tally)
    if not found:
        raise DataError("dataset_convert.split_file", "videos that it names", "none of them")
    note_absent_classes(found, tally)
    return found, protocol


def _by_official_lists(settings: Any, tally: Tally) -> tuple[list[Found], str]:
    """J-HMDB and HMDB51: the test list is what validation sees."""
    if settings.protocol not in PROTOCOLS or settings.split_file:
        expected = f"one of {', '.join((*PROTOCOLS, 'none'))} for format videos, without split_file"
        raise SpecError("dataset_convert.protocol", expected, repr(settings.protocol))
    number = PROTOCOLS.index(settings.protocol) + 1
    videos = read_hmdb(_Lists(settings.data, number), tally).videos
    found = [
        Found(v.path, f"{v.label}/{v.name}", v.label, VAL_STEM if v.split == TEST else TRAIN_STEM)
        for v in videos
    ]
    return _of_classes(found, settings.classes), settings.protocol


@dataclass(frozen=True)
class _Lists:
    """What `read_hmdb` is asked."""

    data: str
    split: int
    split_dir: str | None = None


def _of_classes(found: list[Found], names: Sequence[str] | None) -> list[Found]:
    if names is None:
        return found
    there = sorted({clip.label for clip in found if clip.label is not None})
    if absent := [name for name in names if name not in there]:
        fix = did_you_mean(absent[0], there)
        expected = f"classes of the data ({listed(there, 30)})"
        raise SpecError("dataset_convert.classes", expected, listed(map(repr, absent)), fix)
    return [clip for clip in found if clip.label in names]


def _is_video(path: Path) -> bool:
    return is_frame_folder(path) if path.is_dir() else is_video_file(path)


def _estimator_settings(words: Sequence[str]) -> dict[str, object]:
    """key=value, an estimator's own setting each."""
    pairs = [word.partition("=") for word in words]
    if bad := [word for word, pair in zip(words, pairs, strict=True) if not all(pair)]:
        raise SpecError("dataset_convert.estimator_settings", "key=value", repr(bad[0]))
    return {key.strip(): value.strip() for key, _, value in pairs}


# What became of them -----------------------------------------------------------------------


def _sorted_out(
    found: Sequence[Found], answers: Sequence[TrackedVideo | DataError], tally: Tally
) -> tuple[list[tuple[Found, TrackedVideo]], list[Problem]]:
    """The videos with tracks, and what is wrong with the others."""
    videos: list[tuple[Found, TrackedVideo]] = []
    problems: list[Problem] = []
    for clip, answer in zip(found, answers, strict=True):
        if isinstance(answer, DataError):
            tally.add("videos that cannot be read, left out", clip.id)
            problems += answer.problems[:1]
            continue
        videos.append((clip, answer))
        if answer.damage:
            words = f"{clip.id} ({answer.damage})"
            tally.add("damaged videos, looked at as far as they go", words)
        if not answer.is_new:
            tally.add("videos whose tracks were in the cache", clip.id)
    return videos, problems


def _clips(
    videos: Sequence[tuple[Found, TrackedVideo]],
    classes: tuple[str, ...],
    num_persons: int,
    settings: Any,
    tally: Tally,
) -> Iterator[Clip]:
    for found, video in videos:
        if classes and found.label is None:
            tally.add("clips without a class, left out", found.id)
            continue
        tracks = join_sights(Tracks.load(video.path))
        if settings.smoothing:
            tracks = smooth_tracks(tracks, SmoothingSettings())
        people = acting(tracks, num_persons)
        tally.add("people who act less, left out", found.id, len(tracks.tracks) - len(people))
        skeleton = skeleton_of(
            tracks, people, str(found.path), name=found.id, settings=settings, tally=tally
        )
        if people and 2 * skeleton.shape[1] < tracks.num_frames:
            tally.add("clips whose actor is seen in less than half of the video", found.id)
        label = UNKNOWN if found.label is None else classes.index(found.label)
        yield Clip(found.id, skeleton, label, found.stem, tracks.fps)


# How far it is -----------------------------------------------------------------------------


class _Progress:
    """A line on stderr now and then: videos done, and the time to go, were all others new."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._began = self._told = clock()

    def at(self, done: int, num_new: int) -> None:
        now = self._clock()
        if now - self._told < _PROGRESS_SECONDS:
            return
        self._told = now
        left = (now - self._began) / max(num_new, 1) * (self._total - done)
        minutes, seconds = divmod(round(left), 60)
        line = f"people in videos  {done}/{self._total}  {minutes}:{seconds:02d} to go"
        with contextlib.suppress(OSError, ValueError):  # a closed pipe does not end a run
            print(line, file=sys.stderr, flush=True)
