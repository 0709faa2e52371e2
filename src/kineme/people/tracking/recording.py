"""What a tracker says frame by frame, put together person by person.

Promises: every row that was added is in the tracks, as it was seen.
Leaves out: following people (tracker.py), the file (data/tracks.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kineme.data.tracks import Track, Tracks
from kineme.people.poses import FramePoses, PersonPose
from kineme.pose_classification.layouts import Layout


@dataclass(frozen=True)
class Recording:
    """A video of people of `layout`: its size in pixels, rate (0.0 where nothing says it), name,
    and what found the people."""

    layout: Layout
    width: int
    height: int
    fps: float
    source: str
    estimator: str = ""

    def tracks(
        self, tracks: Iterable[Track], *, num_frames: int, num_axes: int, cuts: Iterable[int]
    ) -> Tracks:
        """The people found in it, by rising id, in frames of which `cuts` begin a new scene."""
        return Tracks(
            layout=self.layout.name,
            joint_names=self.layout.joints,
            width=self.width,
            height=self.height,
            fps=self.fps,
            source=self.source,
            num_frames=num_frames,
            num_axes=num_axes,
            cuts=tuple(cuts),
            tracks=tuple(tracks),
            estimator=self.estimator,
        )


@dataclass
class _Rows:
    frames: list[tuple[int, float]] = field(default_factory=list)  # index, seconds
    poses: list[PersonPose] = field(default_factory=list)


def track_of(id_: int, frames: Sequence[tuple[int, float]], poses: Sequence[PersonPose]) -> Track:
    """One person, seen in `frames` (index, seconds) as in `poses`."""
    return Track(
        id_,
        np.array([index for index, _ in frames], np.int64),
        np.array([seconds for _, seconds in frames], np.float64),
        np.stack([pose.joints for pose in poses]),
        np.stack([pose.confidence for pose in poses]),
        np.stack([pose.box for pose in poses]),
        np.array([pose.score for pose in poses], np.float32),
    )


class TracksRecorder:
    """Collects `add`ed frames; `tracks` may be asked for at any time."""

    def __init__(self) -> None:
        self._rows: dict[int, _Rows] = {}
        self._cuts: list[int] = []
        self._num_frames, self._num_axes = 0, 2

    def add(
        self, frame: FramePoses, found: tuple[tuple[int, PersonPose], ...], *, is_cut: bool = False
    ) -> None:
        """found: what `Tracker.update` said of `frame`."""
        self._num_frames = frame.index + 1
        if is_cut:
            self._cuts.append(frame.index)
        for id_, pose in found:
            rows = self._rows.setdefault(id_, _Rows())
            rows.frames.append((frame.index, frame.seconds))
            rows.poses.append(pose)
            self._num_axes = pose.joints.shape[1]

    def tracks(
        self, layout: Layout, *, width: int, height: int, fps: float = 0.0, source: str = ""
    ) -> Tracks:
        """What was added so far, as tracks of a video of that size, rate and name."""
        return Recording(layout, width, height, fps, source).tracks(
            [track_of(id_, rows.frames, rows.poses) for id_, rows in sorted(self._rows.items())],
            num_frames=self._num_frames,
            num_axes=self._num_axes,
            cuts=self._cuts,
        )
