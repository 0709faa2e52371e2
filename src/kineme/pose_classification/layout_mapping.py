"""Joints of one layout from those of another, by name.

Promises: a joint that both have is taken as it is; one that lies between joints of the other
(the neck between the shoulders, the pelvis between the hips) is their middle, seen as surely as
the least sure of them; a joint for which nothing stands is missing: NaN, confidence 0.
Leaves out: turning and scaling (transforms.py).

Shapes: T frames, V joints of the source, W joints of the target, D axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.errors import DataError, listed
from kineme.pose_classification.layouts import Layout

_SHOULDERS = ("left_shoulder", "right_shoulder")
_HIPS = ("left_hip", "right_hip")
_SIDED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "eye": (("eye_inner", "eye_outer"),),
    "hand": (("middle",), ("index", "pinky"), ("wrist",)),
    "middle": (("index", "pinky"), ("hand",)),
    "hand_tip": (("middle",), ("index",)),
    "foot": (("big_toe", "ankle"), ("ankle",)),
    "big_toe": (("foot",),),
}
_STAND_INS: Mapping[str, tuple[tuple[str, ...], ...]] = {  # the first that is all there counts
    "neck": (_SHOULDERS,),
    "chest": (_SHOULDERS, ("neck",)),
    "pelvis": (_HIPS,),
    "spine": (("neck", "pelvis"), (*_SHOULDERS, *_HIPS), ("neck", *_HIPS)),
    "head": (("left_ear", "right_ear"), ("nose",)),
    "nose": (("head",),),
    **{
        f"{side}_{joint}": tuple(tuple(f"{side}_{name}" for name in names) for names in options)
        for joint, options in _SIDED.items()
        for side in ("left", "right")
    },
}


@dataclass(frozen=True)
class LayoutMapping:
    """From the joints of `source` to those of `target`.

    origins: for each joint of the target, the joints of the source whose middle it is; empty
    where there are none.
    """

    source: Layout
    target: Layout
    origins: tuple[tuple[int, ...], ...]

    @property
    def is_same(self) -> bool:
        """Whether every joint stays what and where it is."""
        return self.source.joints == self.target.joints

    @property
    def missing(self) -> tuple[str, ...]:
        """Joints of the target for which nothing stands."""
        pairs = zip(self.target.joints, self.origins, strict=True)
        return tuple(name for name, origins in pairs if not origins)

    def apply(
        self, joints: NDArray[np.float32], confidence: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(T, W, D) joints and (T, W) confidence, from (T, V, D) and (T, V)."""
        if self.is_same:
            return joints, confidence
        places = np.full((len(joints), len(self.origins), joints.shape[2]), np.nan, np.float32)
        trust = np.zeros(places.shape[:2], np.float32)
        for to, origins in enumerate(self.origins):
            if origins:
                places[:, to] = joints[:, origins].mean(axis=1)  # NaN where one is not seen
                trust[:, to] = confidence[:, origins].min(axis=1)
        return places, trust

    def told(self, *, missing: str = "missing") -> str:
        """What becomes of the joints, in one line. missing: the word for those without any."""
        if self.is_same:
            return f"joints of {self.source.name} as they are"
        made = [
            f"{name} from {' and '.join(self.source.joints[i] for i in origins)}"
            for name, origins in zip(self.target.joints, self.origins, strict=True)
            if origins and [self.source.joints[i] for i in origins] != [name]
        ]
        num_same = len(self.target.joints) - len(made) - len(self.missing)
        parts = [f"{num_same} of {len(self.target.joints)} by name"]
        parts += [listed(made, 40)] if made else []
        parts += [f"{missing}: {listed(self.missing, 40)}"] if self.missing else []
        return f"joints of {self.target.name} from {self.source.name}: {'; '.join(parts)}"


def map_layout(source: Layout, target: Layout) -> LayoutMapping:
    """How joints of `source` become those of `target`.

    Raises DataError where more than half of them would be missing.
    """
    mapping = join_by_name(source, target)
    if 2 * len(mapping.missing) > len(target.joints):
        raise DataError(
            f"joints of {source.name!r}",
            f"at least half of those of {target.name!r}, by name",
            f"{len(mapping.missing)} of {len(target.joints)} missing: {listed(mapping.missing)}",
            "Use an estimator of another layout, or a model of this one.",
        )
    return mapping


def join_by_name(source: Layout, target: Layout) -> LayoutMapping:
    """As `map_layout`, however many joints are missing."""
    return LayoutMapping(source, target, tuple(_origins(name, source) for name in target.joints))


def _origins(name: str, source: Layout) -> tuple[int, ...]:
    for names in ((name,), *_STAND_INS.get(name, ())):
        if all(one in source.joints for one in names):
            return tuple(source.joints.index(one) for one in names)
    return ()


def in_picture(
    joints: NDArray[np.float32],
    confidence: NDArray[np.float32],
    *,
    width: int,
    height: int,
    num_channels: int,
    num_axes: int,
) -> NDArray[np.float32]:
    """(T, V, C) as models see joints (T, V, D) in pixels; a joint that is not seen is zero.

    x / width - 0.5, y / height - 0.5, of `num_axes` 3 depth / width (0 where there is none), then
    confidence (T, V): as files of tracks are converted (convert/tracks.py).
    """
    values = np.zeros((*joints.shape[:2], max(num_channels, num_axes + 1)), np.float32)
    values[..., :2] = joints[..., :2] / np.array([width, height], np.float32) - 0.5
    if num_axes == 3 and joints.shape[2] == 3:
        values[..., 2] = joints[..., 2] / width
    values[..., num_axes] = confidence
    values[confidence == 0] = 0
    return np.ascontiguousarray(values[..., :num_channels])
