"""Angles of a body in degrees, from joints by name, in any layout.

Promises: the same points of the body whatever the layout calls or lacks; an angle with a joint
that is missing is NaN, never a guess.
Leaves out: what angles mean (form_rules.py) and how they repeat (search.py).
Angles of joints in a picture are those of the picture: what points at the camera looks shorter.

Shapes: T frames, V joints, C axes (2: x right, y down; 3: with depth), P = 13 points of the body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kineme.pose_classification.layouts import LAYOUTS

Array = NDArray[np.float64]

POINTS: Mapping[str, tuple[str, ...]] = {  # of the body, and the joints that may stand for them
    "head": ("nose", "head"),
    "left_shoulder": ("left_shoulder",),
    "right_shoulder": ("right_shoulder",),
    "left_elbow": ("left_elbow",),
    "right_elbow": ("right_elbow",),
    "left_wrist": ("left_wrist", "left_hand"),
    "right_wrist": ("right_wrist", "right_hand"),
    "left_hip": ("left_hip",),
    "right_hip": ("right_hip",),
    "left_knee": ("left_knee",),
    "right_knee": ("right_knee",),
    "left_ankle": ("left_ankle", "left_foot"),
    "right_ankle": ("right_ankle", "right_foot"),
}
_AT = {name: i for i, name in enumerate(POINTS)}

BENDS: Mapping[str, tuple[str, str, str]] = {  # the main angles: from, at, to
    f"{side}_{name}": (f"{side}_{a}", f"{side}_{name}", f"{side}_{b}")
    for name, a, b in (
        ("elbow", "shoulder", "wrist"),
        ("shoulder", "hip", "elbow"),
        ("hip", "shoulder", "knee"),
        ("knee", "hip", "ankle"),
    )
    for side in ("left", "right")
}


def joints_of(layout: str | Sequence[str]) -> tuple[str, ...]:
    """Names of joints, of a known layout or as given. Raises ValueError for a layout unknown."""
    if not isinstance(layout, str):
        return tuple(layout)
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout out of {', '.join(LAYOUTS)}, got {layout!r}")
    return LAYOUTS[layout].joints


def refuse_others(joints: NDArray[np.floating], layout: str | Sequence[str]) -> None:
    """Raise ValueError where (..., V, C) `joints` are not as many as the layout has."""
    wanted = len(joints_of(layout))
    if joints.ndim < 2 or joints.shape[-2] != wanted:
        raise ValueError(f"expected (..., {wanted}, C) joints of the layout, got {joints.shape}")


def point_columns(layout: str | Sequence[str]) -> NDArray[np.int64]:
    """(P,) which joint of the layout is which point of the body, -1 where there is none."""
    joints = joints_of(layout)
    found = [[joints.index(n) for n in names if n in joints] for names in POINTS.values()]
    return np.array([columns[0] if columns else -1 for columns in found])


def points_of(joints: NDArray[np.floating], columns: NDArray[np.int64]) -> Array:
    """(T, P, C) points of the body out of (T, V, C) joints; NaN in every axis where missing."""
    points: Array = np.array(joints[:, columns], dtype=np.float64)
    points[:, columns < 0] = np.nan
    points[~np.isfinite(points).all(axis=-1)] = np.nan
    return points


def point(points: Array, name: str) -> Array:
    """(T, C) of one point of the body; `shoulders` and `hips` lie between both."""
    if name in _AT:
        return points[:, _AT[name]]
    sides = [points[:, _AT[f"{side}_{name[:-1]}"]] for side in ("left", "right")]
    return np.asarray((sides[0] + sides[1]) / 2)


def angle_between(first: Array, middle: Array, last: Array) -> Array:
    """(T,) degrees in [0, 180] at `middle` between the ways to `first` and `last`, each (T, C)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        one, other = (_unit(end - middle) for end in (first, last))
    apart, along = (np.linalg.norm(one + sign * other, axis=-1) for sign in (-1, 1))
    return np.asarray(np.degrees(2 * np.arctan2(apart, along)))


def bend(points: Array, name: str) -> Array:
    """(T,) degrees of one of the main angles BENDS."""
    one, at, other = (point(points, part) for part in BENDS[name])
    return angle_between(one, at, other)


def trunk_lean(points: Array) -> Array:
    """(T,) degrees of the trunk away from upright, to whichever side."""
    hips, shoulders = point(points, "hips"), point(points, "shoulders")
    up = np.zeros(points.shape[-1])
    up[1] = -1
    return angle_between(shoulders, hips, hips + up)


def _unit(ways: Array) -> Array:
    return np.asarray(ways / np.linalg.norm(ways, axis=-1, keepdims=True))
