"""People whom kineme followed through videos: files of tracks, a clip each.

Written: what models are shown of videos, too (layout_mapping.in_picture): x / width - 0.5,
y / height - 0.5, and as third channel the confidence, or for layouts of three axes z / width. A
joint that was not seen is missing. A clip reaches from the first frame in which anybody in it was
seen to the last.
Leaves out: following people (people/tracking/tracker.py), the file itself (data/tracks.py).

Shapes: M persons, T frames, V joints, C = 3 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally, path_of
from kineme.data.tracks import Track, Tracks
from kineme.errors import DataError
from kineme.pose_classification.convert.clips import Source, in_time
from kineme.pose_classification.convert.folders import find_clips, source_of
from kineme.pose_classification.layout_mapping import in_picture
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.people import by_motion, motion_energy

_MAX_NUMBERS = 2**30  # of one clip


def read_tracks(
    settings: Any, tally: Tally, prepared: Callable[[Tracks], Tracks] = lambda tracks: tracks
) -> Source:
    """A clip for every .npz file, all of the layout of the first. prepared: what is written of it
    (people/training_sets/stored_tracks.py smooths)."""
    found = next(find_clips(path_of(settings.data), _is_clip), None)
    first = Tracks.load(found.path) if found else None
    layout, estimator = (first.layout, first.estimator) if first else ("", "")
    about: dict[str, tuple[float, str]] = {}

    def read(path: Path, name: str) -> NDArray[np.float32]:
        tracks = Tracks.load(path)
        if tracks.estimator != estimator:
            tally.add("tracks of another estimator than the first", name)
        about[name] = tracks.fps, tracks.estimator
        return _read_clip(
            prepared(tracks), path, name, layout=layout, settings=settings, tally=tally
        )

    source = source_of(
        settings,
        tally,
        name="Tracks",
        layouts=(layout,) if layout in LAYOUTS else (),
        is_clip=_is_clip,
        read=read,
    )
    clips = (
        replace(clip, fps=about[clip.id][0], estimator=about[clip.id][1]) for clip in source.clips
    )
    return replace(source, clips=clips)


def _read_clip(
    tracks: Tracks, path: Path, name: str, *, layout: str, settings: Any, tally: Tally
) -> NDArray[np.float32]:
    """(M, T, V, 3) of one file: those who move most where `settings.num_persons` limits them."""
    if tracks.layout != layout:
        fix = "Convert what differs on its own."
        raise DataError(str(path), f"layout {layout!r} as in the first", repr(tracks.layout), fix)
    people: Sequence[Track] = tracks.tracks
    if settings.num_persons and len(people) > settings.num_persons:
        energies = np.array([[_energy(track) for track in people]])
        chosen = sorted(by_motion(energies)[0][: settings.num_persons].tolist())
        beyond = len(people) - len(chosen)
        tally.add(f"persons beyond the {len(chosen)} that move most", name, beyond)
        people = tuple(people[i] for i in chosen)
    return skeleton_of(tracks, people, str(path), name=name, settings=settings, tally=tally)


def skeleton_of(
    tracks: Tracks, people: Sequence[Track], where: str, *, name: str, settings: Any, tally: Tally
) -> NDArray[np.float32]:
    """(M, T, V, 3) of `people` of these tracks, from the first sight of any to the last.

    where: the file, for errors; name: of the clip.
    """
    num_joints = len(tracks.joint_names)
    if not people:
        return np.zeros((1, 0, num_joints, 3), np.float32)
    numbers = np.unique(np.concatenate([track.frames for track in people]))
    places = in_time(numbers.tolist(), settings.max_gap_frames, name, tally)
    shape = (len(people), int(places[-1]) + 1, num_joints, 3)
    if np.prod(shape, dtype=float) > _MAX_NUMBERS:
        received = f"{len(people):,} people in {shape[1]:,} frames"
        fix = "Set dataset_convert.num_persons, or cut the video into parts."
        raise DataError(where, f"at most {_MAX_NUMBERS:,} numbers in a clip", received, fix)
    skeleton = np.full(shape, np.nan, np.float32)
    for row, track in zip(skeleton, people, strict=True):
        row[places[np.searchsorted(numbers, track.frames)]] = _in_picture(track, tracks)
    return skeleton


def _is_clip(path: Path) -> bool:
    return path.suffix.lower() == ".npz" and path.is_file()


def _in_picture(track: Track, tracks: Tracks) -> NDArray[np.float32]:
    """(T, V, 3) as shares of the picture, NaN where not seen."""
    layout = LAYOUTS.get(tracks.layout)
    values = in_picture(
        track.joints,
        track.confidence,
        width=tracks.width,
        height=tracks.height,
        num_channels=3,
        num_axes=layout.num_axes if layout else tracks.num_axes,
    )
    values[track.confidence == 0] = np.nan
    return values


def _energy(track: Track) -> float:
    """How much somebody moves; see people.motion_energy."""
    x = np.nan_to_num(track.joints[..., :2]).transpose(2, 0, 1)[None, ..., None]
    is_seen: NDArray[np.bool_] = (track.confidence > 0)[None, ..., None]
    return float(motion_energy(x.astype(np.float32), is_seen)[0, 0])
