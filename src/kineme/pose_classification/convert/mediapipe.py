"""MediaPipe Pose (BlazePose) landmarks in JSON, 33 per person.

MediaPipe itself writes no file, so these forms are read: a file is a clip, a list with an
entry per frame (or {"frames": [...]}). An entry is null or [] (nobody), one person, a list
of persons, or an object with `pose_landmarks` (or `landmarks`) or `pose_world_landmarks`
holding one of these. A person is 33 landmarks; a landmark is {"x", "y", "z", "visibility"}
or [x, y, z, visibility], visibility 1 if absent.

Written: x - 0.5, y - 0.5, z for image landmarks, and world landmarks (metres) as they are.
The two are not mixed: what is converted at once has the units of the first landmarks found.
A landmark of visibility 0 is missing. People are followed by distance (clips.link).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally
from kineme.errors import DataError
from kineme.pose_classification.convert.clips import Source, link, mark_missing
from kineme.pose_classification.convert.folders import source_of
from kineme.pose_classification.convert.reading import as_list, numbers, read_json, take

NUM_JOINTS = 33
_IMAGE_KEYS = ("pose_landmarks", "landmarks")
_WORLD_KEY = "pose_world_landmarks"
_OFFSETS = {"image": np.array([0.5, 0.5, 0, 0], np.float32), "world": np.zeros(4, np.float32)}


def read_mediapipe(settings: Any, tally: Tally) -> Source:
    """A clip for every JSON file."""
    units = Units()
    return source_of(
        settings,
        tally,
        name="MediaPipe",
        layouts=("mediapipe-33",),
        is_clip=lambda path: path.suffix.lower() == ".json" and path.is_file(),
        read=partial(read_mediapipe_clip, units=units, tally=tally),
    )


class Units:
    """Landmarks of the image, in shares of it, and those of the world, in metres, are not mixed.

    which: "image" or "world", where only these will do; "": those of the first frame with any.
    """

    def __init__(self, which: str = "") -> None:
        self._which, self._is_fixed = which, bool(which)

    def hold(self, found: str, where: str) -> None:
        """Raise DataError where `found` is the other one."""
        self._which = self._which or found
        if found != self._which:
            expected = f"{self._which} landmarks{'' if self._is_fixed else ', as elsewhere'}"
            fix = "" if self._is_fixed else "Convert what differs on its own."
            raise DataError(where, expected, f"{found} landmarks", fix)


def read_mediapipe_clip(
    path: Path, name: str, *, units: Units, tally: Tally
) -> NDArray[np.float32]:
    """(M, T, 33, 3) of one file."""
    frames = []
    for seen in mediapipe_people(path, units):
        visibility = seen[..., 3]
        frames.append(seen[..., :3])
        broken = mark_missing(frames[-1], visibility)
        tally.add("joints with numbers that are not finite", name, broken)
    linked = link(frames)
    return linked if linked.size else np.zeros((1, len(frames), NUM_JOINTS, 3), np.float32)


def mediapipe_people(path: Path, units: Units) -> Iterator[NDArray[np.float32]]:
    """(P, 33, 4) of each frame of one file, as `read_mediapipe` writes it, and visibility."""
    content = read_json(path)
    if isinstance(content, dict):
        content = take(content, "frames", str(path))
    for index, frame in enumerate(as_list(content, str(path))):
        where, which = f"{path}: frame {index}", "image"
        if isinstance(frame, dict):
            keys = [key for key in (*_IMAGE_KEYS, _WORLD_KEY) if key in frame]
            key = keys[0] if keys else _IMAGE_KEYS[0]
            where, frame = f"{where}: {key}", take(frame, key, where)
            which = "world" if key == _WORLD_KEY else "image"
        people = _people(frame, where)
        if len(people):
            units.hold(which, where)
        yield people - _OFFSETS[which]


def _people(frame: Any, where: str) -> NDArray[np.float32]:
    """(P, 33, 4): x, y, z, visibility."""
    if not frame:
        return np.zeros((0, NUM_JOINTS, 4), np.float32)
    people = as_list(frame, where)
    if not _is_person(people[0]):
        people = [people]
    return np.stack([_person(person, where) for person in people])


def _is_person(value: Any) -> bool:
    """Whether this is a list of landmarks, and not a landmark."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict | list)


def _person(value: Any, where: str) -> NDArray[np.float32]:
    rows = []
    for index, landmark in enumerate(as_list(value, where)):
        place = f"{where}[{index}]"
        if isinstance(landmark, dict):
            landmark = [take(landmark, axis, place) for axis in "xyz"] + [
                landmark.get("visibility", 1.0)
            ]
        row = numbers(landmark, (-1,), place)
        if len(row) not in (3, 4):
            raise DataError(place, "x, y, z and perhaps visibility", f"{len(row)} numbers")
        rows.append([*row, 1.0][:4])
    if len(rows) != NUM_JOINTS:
        raise DataError(where, f"{NUM_JOINTS} landmarks", f"{len(rows)}")
    return np.array(rows, np.float32)
