"""Key points that another program found in a video, in place of an estimator.

Promises: frame k of the video gets what the file says of frame k (`first_frame` is the number of
the video's first frame there); frames that it does not name have nobody in them. What is read
over is counted in `notes`, a line each.
Leaves out: track numbers of other programs (people are followed by
tracking/tracker.py), 3-D in metres.

Formats, as pose_classification/convert describes them: openpose (a folder with a file per frame),
coco (a JSON list of results), deepstream (BodyPose JSON, `pose25d`), mediapipe (JSON, a list with
an entry per frame, image landmarks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally
from kineme.errors import DataError, SpecError
from kineme.people.estimators.frames import checked
from kineme.people.poses import PersonPose, build_pose
from kineme.pose_classification.convert.deepstream import read_tracks
from kineme.pose_classification.convert.image_keypoints import coco_people, openpose_people
from kineme.pose_classification.convert.mediapipe import Units, mediapipe_people
from kineme.pose_classification.layouts import LAYOUTS

Array = NDArray[np.float32]

FORMATS = ("openpose", "coco", "deepstream", "mediapipe")
_LAYOUTS = {  # that a format may have; the number of joints decides
    "openpose": ("body-25", "openpose"),
    "coco": ("coco", "halpe-26", "body-25", "openpose"),
    "deepstream": ("nvidia",),
    "mediapipe": ("mediapipe-33",),
}


@dataclass(frozen=True)
class KeypointFilesSettings:
    """What can be set.

    path: the file, or the folder of an OpenPose clip. format: who wrote it. first_frame: the number
    that it gives to the first frame of the video. source: the camera, of several in a DeepStream
    file. min_confidence: of a joint that counts as seen.
    """

    path: str = ""
    format: str = field(default="openpose", metadata={"choices": FORMATS})
    first_frame: int = field(default=0, metadata={"bounds": (0, 10**9)})
    source: int = field(default=0, metadata={"bounds": (0, 10**9)})
    min_confidence: float = field(default=0.0, metadata={"bounds": (0.0, 1.0)})


class KeypointFiles:
    """People as a file has them. layout: by the format and the number of joints."""

    settings_type: ClassVar[type[KeypointFilesSettings]] = KeypointFilesSettings

    def __init__(self, settings: KeypointFilesSettings) -> None:
        self.settings = settings
        path = Path(settings.path)
        if not settings.path:
            raise SpecError("files.path", "a file, or the folder of an OpenPose clip", "nothing")
        if not path.exists():
            raise DataError("files.path", "a file or folder", f"{settings.path!r}, not there")
        tally = Tally()
        self._is_share = settings.format == "mediapipe"  # of the frame, not pixels
        self._frames = _READERS[settings.format](path, settings, tally)
        self.layout: str = _layout(self._frames, path, settings.format)
        self.num_before = sum(number < settings.first_frame for number in self._frames)
        tally.add("frames before first_frame, left out", str(path), self.num_before)
        self.notes: tuple[str, ...] = tuple(tally.lines())
        self.reset()

    def reset(self) -> None:
        """Begin again with the first frame."""
        self._next = self.settings.first_frame

    def detect(self, frame: NDArray[np.uint8]) -> tuple[PersonPose, ...]:
        """Everybody in the next frame, the surest first; `frame` says how large it is."""
        height, width = checked(frame).shape[:2]
        rows = self._frames.get(self._next, np.zeros((0, 1, 3), np.float32))
        self._next += 1
        if self._is_share:
            rows = rows * np.array([width, height, width, 1], np.float32)
        found = [
            build_pose(row[:, :-1], row[:, -1], min_confidence=self.settings.min_confidence)
            for row in rows
        ]
        return tuple(sorted((pose for pose in found if pose.num_seen), key=lambda one: -one.score))


def _openpose(path: Path, settings: KeypointFilesSettings, tally: Tally) -> dict[int, Array]:
    if not path.is_dir():
        raise DataError(str(path), "a folder with a file for each frame", "a file")
    return openpose_people(path, tally)


def _coco(path: Path, settings: KeypointFilesSettings, tally: Tally) -> dict[int, Array]:
    return coco_people(path)[0]


def _mediapipe(path: Path, settings: KeypointFilesSettings, tally: Tally) -> dict[int, Array]:
    """Shares of the frame; they are written about its middle."""
    middle = np.array([0.5, 0.5, 0, 0], np.float32)
    people = mediapipe_people(path, Units("image"))
    return {number: rows + middle for number, rows in enumerate(people)}


def _deepstream(path: Path, settings: KeypointFilesSettings, tally: Tally) -> dict[int, Array]:
    asked = SimpleNamespace(pose_type="25dbp", num_joints=LAYOUTS["nvidia"].num_joints)
    tracks = read_tracks(path, asked, tally)
    sources = sorted({source for source, _ in tracks})
    if sources and settings.source not in sources:
        expected = f"a source of the file ({', '.join(map(str, sources))})"
        raise SpecError("files.source", expected, str(settings.source))
    frames: dict[int, list[Array]] = {}
    for (source, name), track in tracks.items():
        if source != settings.source:
            tally.add("tracks of other sources, left out", f"object {name} of source {source}")
            continue
        for number, pose in zip(track.frames, track.poses, strict=True):
            frames.setdefault(number, []).append(pose.reshape(-1, 4))
    return {number: np.stack(poses) for number, poses in frames.items()}


_READERS = {
    "openpose": _openpose,
    "coco": _coco,
    "deepstream": _deepstream,
    "mediapipe": _mediapipe,
}


def _layout(frames: Mapping[int, Array], path: Path, name: str) -> str:
    """The layout that has as many joints as the file; a file with nobody has the likeliest."""
    counts = {rows.shape[1] for rows in frames.values() if len(rows)}
    if not counts:
        return _LAYOUTS[name][0]
    fitting = [one for one in _LAYOUTS[name] if {LAYOUTS[one].num_joints} == counts]
    if not fitting:
        joints = {one: LAYOUTS[one].num_joints for one in _LAYOUTS[name]}
        expected = "joints of " + " or ".join(f"{one} ({n})" for one, n in joints.items())
        received = " and ".join(map(str, sorted(counts)))
        raise DataError(str(path), f"as many {expected}", f"{received} joints")
    return fitting[0]
