"""One person found twice: kept once.

Promises: of poses that lie closer than a share of their size, the surest stays; order by score.
Poses are also one person where half of their joints lie in the same places, however far off the
others are: a model that sees a part of somebody puts the rest where it may be.
Leaves out: the same person in two frames (tracking/tracker.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from kineme.people.poses import PersonPose, box_around

_MIN_JOINTS = 6  # that both show, below which half of them tell nothing
_INSIDE = 0.9  # share of the smaller box from which it lies in the larger one


def without_duplicates(people: Iterable[PersonPose], max_distance: float) -> tuple[PersonPose, ...]:
    """`people` by falling score, without those nearer than `max_distance` to a surer one, or with
    the nearer half of their joints than half of that: than all of it, where one lies in the other.
    """
    kept: list[PersonPose] = []
    for person in sorted(people, key=lambda one: -one.score):
        if not any(_is_one(person, other, max_distance) for other in kept):
            kept.append(person)
    return tuple(kept)


def _is_one(person: PersonPose, other: PersonPose, max_distance: float) -> bool:
    if pose_distance(person, other) < max_distance:
        return True
    if int((person.is_seen & other.is_seen).sum()) < _MIN_JOINTS:
        return False
    is_inside = _share_inside(person, other) >= _INSIDE
    limit = max_distance if is_inside else max_distance / 2
    return pose_distance(person, other, share=0.5) < limit


def pose_distance(one: PersonPose, other: PersonPose, *, share: float = 1.0) -> float:
    """Mean distance of the joints that both show, as a share of the smaller one's size.

    share: of these joints, the nearest ones; at least one. The size is the square root of the
    area of the box around the joints, but at least a quarter of its longer side (somebody seen
    from the side is narrow). Infinite without a common joint.
    """
    gaps = np.linalg.norm(one.joints[:, :2] - other.joints[:, :2], axis=1)
    gaps = np.sort(gaps[np.isfinite(gaps)])
    if not len(gaps):
        return float("inf")
    size = min(_size(one), _size(other))
    return float(gaps[: math.ceil(share * len(gaps))].mean() / max(size, 1e-6))


def _share_inside(one: PersonPose, other: PersonPose) -> float:
    """How much of the smaller of the boxes around their joints lies in the other's."""
    first, second = box_around(one.joints), box_around(other.joints)
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    areas = [max(float((box[2:] - box[:2]).prod()), 1e-6) for box in (first, second)]
    return float(np.clip(sides, 0, None).prod()) / min(areas)


def _size(pose: PersonPose) -> float:
    x0, y0, x1, y1 = box_around(pose.joints).tolist()
    width, height = x1 - x0, y1 - y0
    return float(max(np.sqrt(width * height), max(width, height) / 4))
