"""What an estimator sees in one frame: people as joints in pixels, with confidence.

Promises: a joint that is not seen is NaN in every axis and has confidence 0, and nothing else
is; values are float32 and do not change; a frame without people is an empty tuple.
Leaves out: who is who from frame to frame (tracking/tracker.py), joint names (the layouts of
pose_classification/layouts.py, which every estimator names).

Shapes: V joints, D axes (2, or 3 with depth).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PersonPose:
    """One person in one frame; `build_pose` makes it from what a model says.

    joints: (V, D) in pixels of the frame, x to the right, y down; the third axis, if there is
    one, is depth in pixels, smaller nearer to the camera. NaN where not seen.
    confidence: (V,) in [0, 1], 0 where not seen. box: (4,) x0, y0, x1, y1 in pixels; it may
    reach beyond the frame. score: in [0, 1], how sure it is that this is a person.
    """

    joints: Array
    confidence: Array
    box: Array
    score: float

    def __post_init__(self) -> None:
        num_joints, num_axes = self.joints.shape
        if num_axes not in (2, 3) or self.confidence.shape != (num_joints,):
            shapes = f"{self.joints.shape} and {self.confidence.shape}"
            raise ValueError(f"joints (V, 2 or 3) and confidence (V,), not {shapes}")
        if self.box.shape != (4,):
            raise ValueError(f"a box (4,), not {self.box.shape}")
        for array in (self.joints, self.confidence, self.box):
            array.setflags(write=False)

    @property
    def is_seen(self) -> NDArray[np.bool_]:
        """(V,) which joints are seen."""
        return self.confidence > 0

    @property
    def num_seen(self) -> int:
        return int(np.count_nonzero(self.confidence))


@dataclass(frozen=True, eq=False)
class FramePoses:
    """Everybody in one frame. index: from 0 in the video; seconds: when it is shown."""

    index: int
    seconds: float
    people: tuple[PersonPose, ...]


def build_pose(
    joints: ArrayLike,
    confidence: ArrayLike,
    *,
    box: ArrayLike | None = None,
    score: float | None = None,
    min_confidence: float = 0.0,
) -> PersonPose:
    """A person from (V, D) joints and (V,) confidence, copied; V is at least 1.

    A joint counts as seen where all of it is finite and its confidence lies above
    `min_confidence` (and above 0). Without `box`: the smallest one around the seen joints (NaN
    where none is); without `score`: their mean confidence (0 where none is).
    """
    joints = np.array(joints, np.float32)
    confidence = np.nan_to_num(np.array(confidence, np.float32), posinf=1, neginf=0)
    confidence = confidence.clip(0, 1)
    is_seen = np.isfinite(joints).all(axis=-1) & (confidence > max(min_confidence, 0.0))
    joints[~is_seen] = np.nan
    confidence[~is_seen] = 0
    if box is None:
        box = box_around(joints)
    if score is None:
        score = float(confidence[is_seen].mean()) if is_seen.any() else 0.0
    score = float(min(max(score, 0.0), 1.0))
    return PersonPose(joints, confidence, np.array(box, np.float32), score)


def box_around(joints: Array) -> Array:
    """(4,) x0, y0, x1, y1 of the smallest box around (V, D) joints; NaN where none is seen."""
    seen = joints[np.isfinite(joints[:, :2]).all(axis=1), :2]
    if not len(seen):
        return np.full(4, np.nan, np.float32)
    return np.concatenate([seen.min(axis=0), seen.max(axis=0)]).astype(np.float32)
