"""How well the people seen in a frame fit the people known so far, and who is who.

Promises: similarities lie in [0, 1]; a pair that fits worse than the limit is never made, and
never makes another pair worse; the same input gives the same pairs.
Method: distances of the joints that both sides see, in body sizes and weighed by confidence
(after the object key point similarity of COCO), and the overlap of boxes; bone lengths tell
apart those who stand on one spot.
Leaves out: where people are expected to be (tracker.py).

Shapes: K people known, P people seen, V joints, E bones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kineme.pose_classification.layouts import Layout

Array = NDArray[np.float64]

_SIGMAS = {  # of COCO's annotators, in square roots of the person's area
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072,
    "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
_SIGMA = 0.08  # of joints that COCO does not have
_AREA_OF_BOX = 0.53  # a person fills about half of the box
_MIN_JOINTS = 3  # that both sides see; below that only boxes are compared
_SHARE_OF_JOINTS = 0.7
_MIN_BONE = 0.02  # of the body size; a shorter one points at the camera
_LOOSENESS_OF_BONES = 0.15  # in logarithms


class Bodies(NamedTuple):
    """People at one moment. joints (K, V, 2), NaN where never seen; weights (K, V) in [0, 1];
    boxes (K, 4)."""

    joints: Array
    weights: Array
    boxes: Array


def sigmas_of(layout: Layout) -> Array:
    """(V,) how far off a joint may be, in square roots of the person's area."""
    words = [name.removeprefix("left_").removeprefix("right_") for name in layout.joints]
    return np.array([_SIGMAS.get(word, _SIGMA) for word in words])


def sizes_of(boxes: Array) -> Array:
    """(K,) body sizes in pixels: the square root of the area that a person fills."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)
    return np.asarray(np.sqrt(_AREA_OF_BOX * sides.prod(axis=1)))


def similarity(
    known: Bodies, seen: Bodies, *, sigmas: Array, spread: Array, sizes: Array
) -> tuple[Array, Array]:
    """(K, P) in [0, 1], of joints and boxes together, and of joints alone.

    sigmas: (V,). spread: (K,) how far off the whole of a known person may be, in body sizes.
    sizes: (K,) of the known ones.
    """
    gaps = known.joints[:, None] - seen.joints[None]  # (K, P, V, 2)
    squares = np.nan_to_num((gaps**2).sum(axis=-1), nan=np.inf, copy=False)
    weights = known.weights[:, None] * seen.weights[None] * np.isfinite(squares)
    size = np.sqrt(sizes[:, None] * sizes_of(seen.boxes)[None])[..., None]
    reach = (2 * sigmas) ** 2 + spread[:, None, None] ** 2
    near = np.exp(-squares / (2 * size**2 * reach))
    total = weights.sum(axis=-1)
    of_joints = (near * weights).sum(axis=-1) / np.maximum(total, 1e-9)
    share = _SHARE_OF_JOINTS * ((weights > 0).sum(axis=-1) >= _MIN_JOINTS)
    together = share * of_joints + (1 - share) * overlap(known.boxes, seen.boxes)
    return together, np.where(share > 0, of_joints, 0)


def overlap(first: Array, second: Array) -> Array:
    """(K, P) intersection over union of boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=-1) for b in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9))


def bone_logs(joints: Array, edges: Sequence[tuple[int, int]], sizes: Array) -> Array:
    """(P, E) logarithms of bone lengths in pixels, NaN where a joint is missing or the bone is
    seen along its length."""
    ends = np.array(edges).reshape(-1, 2)
    lengths = np.linalg.norm(joints[:, ends[:, 0]] - joints[:, ends[:, 1]], axis=-1)
    lengths = np.where(lengths > _MIN_BONE * sizes[:, None], lengths, np.nan)
    return np.asarray(np.log(lengths))


def bone_difference(means: Array, deviations: Array, seen: Array) -> Array:
    """(K, P) in [0, 1] how much bones (P, E) differ from those known (K, E) by mean and
    standard deviation, 0 where no bone is known of both."""
    off = np.abs(means[:, None] - seen[None]) / (_LOOSENESS_OF_BONES + deviations[:, None])
    is_known = np.isfinite(off)
    off = np.where(is_known, np.minimum(off, 3) / 3, 0)
    return np.asarray(off.sum(axis=-1) / np.maximum(is_known.sum(axis=-1), 1))


def assign(costs: Array, limit: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the smallest total cost; a pair of `limit` or more is left open.

    Leaving two open costs as much as the limit, so that one good pair is not given up for two
    poor ones.
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    if not costs.size:
        return []
    rows, columns = linear_sum_assignment(np.minimum(costs, limit))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if costs[row, column] < limit]
