"""One person found twice: kept once.

Promises: of poses that lie closer than a share of their size, the surest stays; order by score.
Leaves out: the same person in two frames (tracking.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kineme.people.poses import PersonPose, box_around


def without_duplicates(people: Iterable[PersonPose], max_distance: float) -> tuple[PersonPose, ...]:
    """`people` by falling score, without those nearer than `max_distance` to a surer one."""
    kept: list[PersonPose] = []
    for person in sorted(people, key=lambda one: -one.score):
        if all(pose_distance(person, other) >= max_distance for other in kept):
            kept.append(person)
    return tuple(kept)


def pose_distance(one: PersonPose, other: PersonPose) -> float:
    """Mean distance of the joints that both show, as a share of the smaller one's size.

    The size is the square root of the area of the box around the joints, but at least a quarter
    of its longer side (somebody seen from the side is narrow). Infinite without a common joint.
    """
    gaps = np.linalg.norm(one.joints[:, :2] - other.joints[:, :2], axis=1)
    is_common = np.isfinite(gaps)
    if not is_common.any():
        return float("inf")
    size = min(_size(one), _size(other))
    return float(gaps[is_common].mean() / max(size, 1e-6))


def _size(pose: PersonPose) -> float:
    x0, y0, x1, y1 = box_around(pose.joints).tolist()
    width, height = x1 - x0, y1 - y0
    return float(max(np.sqrt(width * height), max(width, height) / 4))
