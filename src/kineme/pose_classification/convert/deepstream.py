"""Body poses that NVIDIA's DeepStream BodyPose-3D app published, as TAO converts them.

A JSON list of batches: {"num_frames_in_batch", "batches": [frame]}; a frame has `objects`
and usually `frame_num` and `source_id`; an object has `object_id` and `pose3d` (3dbp) or
`pose25d` (25dbp, 2dbp): x, y, z, confidence for each joint, flat.

Written: 3dbp (p - pelvis) / focal_length; 25dbp x / width - 0.5, y / height - 0.5, z;
2dbp the first two of these. Each track is cut into windows of sequence_length frames,
one every sequence_length * sequence_overlap frames, tails of sequence_length_min or more
kept; a window lies at the start of sequence_length_max frames of zeros.

Where this differs from TAO: frames follow `frame_num`, so short gaps become missing
frames and longer ones, or a number that goes back, begin a new track; sources are kept
apart; a frame whose pelvis is not seen cannot be centred and is missing whole; numbers
that are not finite are missing. All of it is counted.

Shapes: F frames of a track, V joints, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally, path_of
from kineme.errors import DataError, Problem
from kineme.pose_classification.convert.clips import UNKNOWN, WHOLE, Clip, Source
from kineme.pose_classification.convert.reading import (
    as_int,
    as_list,
    class_names,
    iter_json_list,
    numbers,
    read_rows,
    take,
)
from kineme.pose_classification.layouts import layouts_with

_KEYS = {"3dbp": "pose3d", "25dbp": "pose25d", "2dbp": "pose25d"}


@dataclass
class Track:
    """One person of one camera, growing frame by frame. poses: (V * 4,) each."""

    frames: list[int] = field(default_factory=list)
    poses: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True)
class Named:
    """What a label file says of one track: `label` from frame `start` to `end`, both in it."""

    label: str
    start: float
    end: float


Key = tuple[int, int]  # source_id, object_id


def read_deepstream(settings: Any, tally: Tally) -> Source:
    """Windows of every track in the file `settings.data`, labelled if `settings.labels` is set.

    Without `settings.merge` each object has a file of its own, named object_<id>, or
    object_<source>_<id> when there are several sources.
    """
    named = read_labels_of_tracks(Path(settings.labels)) if settings.labels else {}
    classes = class_names(row.label for rows in named.values() for row in rows)
    tracks = read_tracks(path_of(settings.data), settings, tally)
    known = tracks.keys() | {(None, number) for _, number in tracks}
    for source, number in named:
        if (source, number) not in known:
            of_source = "" if source is None else f" of source {source}"
            tally.add("labels of objects that are not there", f"object {number}{of_source}")
    return Source(
        name="DeepStream BodyPose",
        layouts=layouts_with(settings.num_joints),
        classes=classes,
        clips=_windows(tracks, named, classes, settings, tally=tally),
        num_persons=1,
        num_frames=settings.sequence_length_max,
        kpi={"Number of objects": len(tracks)},
    )


def read_tracks(path: Path, settings: Any, tally: Tally) -> dict[Key, Track]:
    """Tracks by (source_id, object_id), in the order in which they first appear."""
    key = _KEYS[settings.pose_type]
    flag = f"Let the app publish it: --publish-pose {key}."
    tracks: dict[Key, Track] = {}
    num_frames: dict[int, int] = {}  # of each source; stands in where there is no frame_num
    for b, batch in enumerate(iter_json_list(path)):
        where = f"{path}: batch {b}"
        frames = as_list(take(batch, "batches", where), f"{where}: batches")
        expected = take(batch, "num_frames_in_batch", where)
        if expected != len(frames):
            received = f"{len(frames)} in batches"
            raise DataError(where, f"{expected!r} frames, as num_frames_in_batch says", received)
        for f, frame in enumerate(frames):
            at = f"{where}, frame {f}"
            objects = as_list(take(frame, "objects", at), f"{at}: objects")
            source = as_int(frame.get("source_id", 0), f"{at}: source_id")
            num_frames[source] = num_frames.get(source, 0) + 1
            number = as_int(frame.get("frame_num", num_frames[source]), f"{at}: frame_num")
            for o, person in enumerate(objects):
                place = f"{at}, object {o}"
                name = as_int(take(person, "object_id", place), f"{place}: object_id")
                pose = _pose(take(person, key, place, flag), settings, f"{place}: {key}")
                track = tracks.setdefault((source, name), Track())
                if track.frames and track.frames[-1] == number:
                    what = "poses of an object seen twice in a frame, the first kept"
                    tally.add(what, f"object {name}, frame {number}")
                    continue
                track.frames.append(number)
                track.poses.append(pose)
    return tracks


def coordinates(
    poses: NDArray[np.float32], settings: Any, name: str, tally: Tally
) -> NDArray[np.float32]:
    """(F, V, C) from (F, V, 4), NaN where a joint is missing."""
    is_finite = np.isfinite(poses).all(axis=-1)
    tally.add("joints with numbers that are not finite", name, int((~is_finite).sum()))
    seen = is_finite & (poses[..., 3] != 0)
    if settings.pose_type == "3dbp":
        root = poses[:, :1, :3]
        rootless = ~seen[:, 0] & seen.any(axis=1)
        tally.add("frames without a pelvis, made missing", name, int(rootless.sum()))
        seen &= seen[:, :1]
        values = (np.where(seen[..., None], poses[..., :3], 0) - root) / settings.focal_length
    else:
        size = np.array([settings.input_width, settings.input_height], np.float32)
        values = poses[..., :3].copy()
        values[..., :2] = values[..., :2] / size - 0.5
        values = values[..., : 2 if settings.pose_type == "2dbp" else 3]
    return np.where(seen[..., None], values, np.nan).astype(np.float32)


def segments(
    frames: Sequence[int], max_gap_frames: int, name: str, tally: Tally
) -> Iterator[tuple[int, NDArray[np.int64], slice]]:
    """(first frame number, place of each pose in the segment, its poses) of a track's parts."""
    numbers_ = np.array(frames, np.int64)
    steps = np.diff(numbers_)
    back, long = steps <= 0, steps - 1 > max_gap_frames
    tally.add("times that frame_num goes back, track split", name, int(back.sum()))
    what = f"gaps longer than {max_gap_frames} frames, track split"
    tally.add(what, name, int(long.sum()))
    filled = steps[~back & ~long] - 1
    tally.add("frames missing from a track, filled as missing", name, int(filled.sum()))
    bounds = [0, *(np.flatnonzero(back | long) + 1).tolist(), len(frames)]
    for first, last in pairwise(bounds):
        yield frames[first], numbers_[first:last] - frames[first], slice(first, last)


def read_labels_of_tracks(path: Path) -> dict[tuple[int | None, int], list[Named]]:
    """Rows by (source_id or None, object_id) of a CSV or JSON with object_id and label.

    Raises DataError naming every stretch that ends before it starts or has two labels.
    """
    problems: list[Problem] = []
    named: dict[tuple[int | None, int], list[Named]] = {}
    optional = ("source_id", "start_frame", "end_frame")
    for place, row in read_rows(path, ("object_id", "label"), optional):
        value = {
            key: as_int(row[key], f"{place}: {key}")
            for key in ("object_id", *optional)
            if row.get(key) is not None
        }
        one = Named(
            str(row["label"]), value.get("start_frame", -np.inf), value.get("end_frame", np.inf)
        )
        if one.end < one.start:
            expected = f"end_frame {one.start} or later, as start_frame is {one.start}"
            problems.append(Problem(place, expected, str(one.end)))
        named.setdefault((value.get("source_id"), value["object_id"]), []).append(one)
    for (_, number), rows in named.items():
        problems += _contradictions(f"{path}: object {number}", rows)
    if problems:
        raise DataError.of(problems)
    return named


def _contradictions(where: str, rows: Sequence[Named]) -> Iterator[Problem]:
    """The first frame in which `rows`, of one object, give it two labels."""
    reached: Named | None = None  # of those that began earlier, the one that ends last
    for one in sorted(rows, key=lambda row: row.start):
        if reached and one.label != reached.label and one.start <= min(reached.end, one.end):
            received = f"{reached.label!r} and {one.label!r} in frame {one.start}"
            yield Problem(where, "one label in a frame", received, "Give each its own frames.")
            return
        reached = one if reached is None or one.end > reached.end else reached


def _windows(
    tracks: Mapping[Key, Track],
    named: Mapping[tuple[int | None, int], list[Named]],
    classes: tuple[str, ...],
    settings: Any,
    *,
    tally: Tally,
) -> Iterator[Clip]:
    step = int(settings.sequence_length * settings.sequence_overlap)
    has_sources = len({source for source, _ in tracks}) > 1
    for (source, number), track in tracks.items():
        name = f"object_{source}_{number}" if has_sources else f"object_{number}"
        poses = np.stack(track.poses).reshape(len(track.poses), settings.num_joints, 4)
        track.poses.clear()
        values = coordinates(poses, settings, name, tally)
        rows = [*named.get((source, number), ()), *named.get((None, number), ())]
        for first, places, part in segments(track.frames, settings.max_gap_frames, name, tally):
            length = int(places[-1]) + 1
            whole = np.full((1, length, *values.shape[1:]), np.nan, np.float32)
            whole[0, places] = values[part]
            if length < settings.sequence_length_min:
                what = f"tracks shorter than {settings.sequence_length_min} frames, left out"
                tally.add(what, name)
            for start in range(0, length - settings.sequence_length_min + 1, step):
                window = whole[:, start : start + settings.sequence_length]
                id_ = f"{name}/{first + start}"
                label = _label(rows, first + start, window.shape[1])
                if classes and label is None:
                    tally.add("windows without a label, left out", id_)
                    continue
                yield Clip(
                    id=id_,
                    skeleton=window.copy(),
                    label=UNKNOWN if label is None else classes.index(label),
                    stem=WHOLE if settings.merge else name,
                )


def _label(rows: Sequence[Named], first: int, length: int) -> str | None:
    """The label that covers most of the window, if it covers half of it or more."""
    covered: dict[str, float] = {}
    for row in rows:
        frames = min(row.end, first + length - 1) - max(row.start, first) + 1
        covered[row.label] = covered.get(row.label, 0) + max(frames, 0)
    best = max(covered, key=covered.__getitem__, default=None)
    return best if best is not None and 2 * covered[best] >= length else None


def _pose(value: Any, settings: Any, where: str) -> NDArray[np.float32]:
    pose = numbers(value, (-1,), where)
    if len(pose) != 4 * settings.num_joints:
        joints, rest = divmod(len(pose), 4)
        fix = "" if rest else f"Set dataset_convert.num_joints: {joints}."
        expected = f"4 numbers for each of {settings.num_joints} joints (num_joints)"
        raise DataError(where, expected, f"{len(pose)} numbers, {len(pose) / 4:g} joints", fix)
    return pose
