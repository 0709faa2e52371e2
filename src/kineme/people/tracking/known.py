"""What is remembered of one person who is followed, and where they are expected next.

Promises: memory of a fixed size; uneven times are allowed for; joints that are hidden are
carried along with the body.
Method: an observer of position and velocity of the whole body; velocity fades with the time
unseen. Bone lengths are remembered as mean and spread.
Leaves out: who is who (tracker.py).

Shapes: V joints, E bones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from kineme.people.poses import PersonPose
from kineme.people.tracking.association import Array
from kineme.pose_classification.layouts import Layout

_TRUNK = ("shoulder", "hip", "neck", "pelvis", "spine", "chest")
_VELOCITY_SECONDS = 0.25  # over which velocity is a mean
_FADING_SECONDS = 1.0  # in which it fades where nobody is seen
_TRUST_SECONDS = 0.5  # in which a hidden joint is forgotten
_SIZE_SECONDS = 0.5
_BONE_ROWS = 30  # over which bone lengths are a mean
_MIN_BONE_ROWS = 5  # below which they say nothing


class Sight(NamedTuple):
    """One person as seen in one frame. joints (V, 2), size of the body in pixels, bones (E,) as
    of `association.bone_logs`."""

    pose: PersonPose
    frame_index: int
    seconds: float
    joints: Array
    size: float
    bones: Array


class Bones:
    """Logarithms of bone lengths (E,) seen so far; NaN where too few were."""

    def __init__(self, logs: Array) -> None:
        self._count = np.isfinite(logs).astype(float)
        self._mean = np.nan_to_num(logs)
        self._variance = np.zeros_like(logs)

    def add(self, logs: Array) -> None:
        is_seen = np.isfinite(logs)
        self._count += is_seen
        gain = is_seen / np.clip(self._count, 1, _BONE_ROWS)
        off = np.where(is_seen, logs - self._mean, 0)
        self._mean = self._mean + gain * off
        self._variance = (1 - gain) * (self._variance + gain * off**2)

    @property
    def means(self) -> Array:
        return np.where(self._count >= _MIN_BONE_ROWS, self._mean, np.nan)

    @property
    def deviations(self) -> Array:
        return np.asarray(np.sqrt(self._variance))


class KnownPerson:
    """id: 0 while tentative. sight: the last one. joints: (V, 2) where they were then, hidden
    ones where they should have been, NaN for those never seen; trust: (V,) in them."""

    def __init__(self, sight: Sight) -> None:
        self.id, self.num_rows, self.sight = 0, 1, sight
        self.joints, self.size = sight.joints.copy(), sight.size
        self.trust = sight.pose.confidence.astype(float)
        self.velocity = np.zeros(2)  # pixels in a second
        self.bones = Bones(sight.bones)

    def expected(self, seconds: float) -> tuple[Array, Array]:
        """Joints (V, 2) and box (4,) at `seconds`."""
        faded = 1 - math.exp(-(seconds - self.sight.seconds) / _FADING_SECONDS)
        travel = self.velocity * _FADING_SECONDS * faded
        return self.joints + travel, np.add(self.sight.pose.box, np.tile(travel, 2), dtype=float)

    def see(self, sight: Sight, layout: Layout) -> None:
        """This person is the one of `sight`, in a later frame."""
        step = max(sight.seconds - self.sight.seconds, 1e-3)
        joints, box = self.expected(sight.seconds)
        off = _shift(joints, box, sight, layout)
        self.num_rows += 1
        share = max(1 - math.exp(-step / _VELOCITY_SECONDS), 1 / (self.num_rows - 1))
        self.velocity = self.velocity + share * off / step
        is_seen = np.logical_and.reduce(np.isfinite(sight.joints), axis=1)
        self.joints = np.where(is_seen[:, None], sight.joints, joints + off)
        faded = self.trust * math.exp(-step / _TRUST_SECONDS)
        self.trust = np.where(is_seen, sight.pose.confidence, faded)
        self.size += (1 - math.exp(-step / _SIZE_SECONDS)) * (sight.size - self.size)
        self.bones.add(sight.bones)
        self.sight = sight


def _shift(joints: Array, box: Array, sight: Sight, layout: Layout) -> Array:
    """(2,) from where the body was expected to where it is seen: of the trunk where it can be
    told, else of all joints, else of the box."""
    off = sight.joints - joints
    is_known = np.logical_and.reduce(np.isfinite(off), axis=1)
    is_trunk = is_known & np.isin([name.rpartition("_")[2] for name in layout.joints], _TRUNK)
    if is_trunk.sum() >= 2:
        return np.asarray(off[is_trunk].mean(axis=0))
    if is_known.any():
        return np.asarray(np.median(off[is_known], axis=0))
    return np.asarray((sight.pose.box - box).reshape(2, 2).mean(axis=0))
