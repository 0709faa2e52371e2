"""A human figure: a body of given proportions, posed by angles and planned feet.

Promises: a body's bones keep their lengths; planted feet stay planted and nothing sinks
into the floor; knees and elbows bend one way.
Method: arms by forward kinematics; legs by two-bone inverse kinematics between the pelvis
and the feet, the pelvis lowered where a foot would be out of reach.
Leaves out: which movements there are (synthetic.py), faces, clothes, balance and forces.

Shapes: N samples, T frames, V = 34 joints, S = 2 sides (left, right). The figure's own axes are
x to its left, y up, z forward; a camera's are x right, y down, z away. Metres and degrees.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kineme.data.randomness import uniform
from kineme.pose_classification.layouts import LAYOUTS

Array = NDArray[np.float64]
JOINTS = LAYOUTS["nvidia"].joints


@dataclass(frozen=True)
class Body:
    """A build. `height` in metres at average proportions, on which the rest are factors."""

    name: str
    height: float
    legs: float = 1.0
    arms: float = 1.0
    trunk: float = 1.0
    shoulders: float = 1.0
    hips: float = 1.0


class Motion(NamedTuple):
    """What figures do over time. Lengths are in leg lengths, angles in degrees."""

    pelvis: Array  # (N, T, 3) away from standing upright
    tilt: Array  # (N, T) of the pelvis, forward
    flex: Array  # (N, T) of the back, forward
    bend: Array  # (N, T) of the back, to the left
    nod: Array  # (N, T) of the head, down
    feet: Array  # (N, T, S, 3) outward, up and forward of the place under the hip
    heel: Array  # (N, T, S) how far it is raised over the toes
    toe_out: Array  # (N, T, S)
    arms: Array  # (N, T, S, 4) plane (0 forward, 90 sideways), raised in it, twist, elbow


def make_bodies(count: int, seed: int) -> tuple[Body, ...]:
    """`count` builds: 1.50 to 1.95 m tall, proportions within 10 % of average."""
    draws = uniform(seed, 0, np.arange(count), name="body", size=6)
    return tuple(
        Body(
            f"body{seed}{chr(97 + i)}",
            1.5 + 0.45 * row[0],
            *(0.9 + 0.2 * factor for factor in row[1:]),
        )
        for i, row in enumerate(draws.tolist())
    )


def pose(bodies: Sequence[Body], motion: Motion) -> Array:
    """Joint positions (N, T, V, 3) in metres of N `bodies` in `motion`, the floor at y = 0."""
    size = _sizes(bodies)
    hip_turn = _turn("x", motion.tilt)
    low_back = hip_turn @ _turn("z", -0.4 * motion.bend) @ _turn("x", 0.4 * motion.flex)
    chest = hip_turn @ _turn("z", -motion.bend) @ _turn("x", motion.flex)
    head = chest @ _turn("z", 0.4 * motion.bend) @ _turn("x", motion.nod)
    legs = [_plan_leg(size, motion, hip_turn, side) for side in (0, 1)]

    joints = {"pelvis": _pelvis(size, motion, legs)}
    joints["spine"] = joints["pelvis"] + _along(low_back, (0, 0.115, 0)) * size["trunk"]
    joints["neck"] = joints["spine"] + _along(chest, (0, 0.185, 0)) * size["trunk"]
    for name, offset in _HEAD.items():
        joints[name] = joints["neck"] + _along(head, offset) * size["height"]
    for side, name in enumerate(("left", "right")):
        arm = _arm(size, motion.arms[:, :, side], joints["neck"], chest, side)
        leg = _leg(size, legs[side], joints["pelvis"], side)
        joints |= {f"{name}_{part}": value for part, value in {**arm, **leg}.items()}
    return np.stack([joints[name] for name in JOINTS], axis=2)


def seen_from(positions: Array, azimuths: Array, elevations: Array) -> Array:
    """Positions (N, T, V, 3) in the axes of a camera at (N,) azimuths and elevations."""
    turn = _turn("x", elevations) @ _turn("y", -azimuths)
    to_camera = np.diag([1.0, -1.0, -1.0]) @ turn
    seen: Array = np.einsum("nij,ntvj->ntvi", to_camera, positions)
    return seen


def _sizes(bodies: Sequence[Body]) -> dict[str, Array]:
    """Segment lengths in metres, each (N, 1, 1), from average shares of the body height."""

    def column(part: str) -> Array:
        return np.array([getattr(body, part) for body in bodies])[:, None, None]

    height = column("height")
    return {
        "height": height,
        "leg": (0.245 + 0.246) * height * column("legs"),
        "thigh": 0.245 * height * column("legs"),
        "shank": 0.246 * height * column("legs"),
        "upper_arm": 0.186 * height * column("arms"),
        "forearm": 0.146 * height * column("arms"),
        "trunk": height * column("trunk"),
        "shoulders": height * column("shoulders"),
        "hips": height * column("hips"),
    }


_ANKLE = 0.042  # above the sole, in body heights
_FOOT = {  # out, up, forward of the ankle, in body heights
    "big_toe": (-0.012, -_ANKLE, 0.105), "small_toe": (0.032, -_ANKLE, 0.085),
    "heel": (0.0, -_ANKLE, -0.035),
}  # fmt: skip
_HAND = {  # out, down the forearm, forward of the wrist
    "pinky": (0.006, 0.050, -0.022), "middle": (0.004, 0.100, 0.0),
    "index": (0.002, 0.056, 0.016), "thumb": (-0.006, 0.042, 0.040),
}  # fmt: skip
_HEAD = {  # left, up, forward of the neck
    "nose": (0.0, 0.085, 0.060), "left_eye": (0.018, 0.103, 0.048),
    "right_eye": (-0.018, 0.103, 0.048), "left_ear": (0.043, 0.094, 0.004),
    "right_ear": (-0.043, 0.094, 0.004),
}  # fmt: skip


def _arm(
    size: Mapping[str, Array], angles: Array, neck: Array, chest: Array, side: int
) -> dict[str, Array]:
    out = (1, -1)[side]
    plane, raised, twist, elbow = np.moveaxis(angles, -1, 0)
    shoulder = neck + _along(chest, (out * 0.112, -0.022, 0)) * size["shoulders"]
    upper = chest @ _turn("y", out * plane) @ _turn("x", -raised) @ _turn("y", twist)
    lower = upper @ _turn("x", -np.clip(elbow, 0, 150))
    joints = {"shoulder": shoulder}
    joints["elbow"] = shoulder + _along(upper, (0, -1, 0)) * size["upper_arm"]
    joints["wrist"] = joints["elbow"] + _along(lower, (0, -1, 0)) * size["forearm"]
    for name, (outward, down, forward) in _HAND.items():
        offset = _along(lower, (out * outward, -down, forward))
        joints[name] = joints["wrist"] + offset * size["height"]
    return joints


class _LegPlan(NamedTuple):
    """Where a foot stands (ankle, turned and facing) and where its hip is from the pelvis."""

    ankle: Array
    foot: Array
    facing: Array
    hip: Array


def _plan_leg(size: Mapping[str, Array], motion: Motion, hip_turn: Array, side: int) -> _LegPlan:
    out = np.array([(1, -1)[side], 1, 1])
    facing = _turn("y", out[0] * motion.toe_out[:, :, side])
    foot = facing @ _turn("x", motion.heel[:, :, side])
    hip = _along(hip_turn, out * (0.088, -0.02, 0)) * size["hips"]
    ankle = out * (
        np.array([0.088, 0, 0]) * size["hips"] + np.array([0, _ANKLE, 0]) * size["height"]
    )
    ankle = ankle + out * size["leg"] * motion.feet[:, :, side]
    # A raised heel turns the foot about its toes, which stay where they are planted.
    toe = out * _FOOT["big_toe"]
    return _LegPlan(
        ankle + (_along(facing, toe) - _along(foot, toe)) * size["height"], foot, facing, hip
    )


def _pelvis(size: Mapping[str, Array], motion: Motion, legs: Sequence[_LegPlan]) -> Array:
    """Where the motion wants the pelvis, or as much lower as both feet need to be reached."""
    upright = 0.985 * size["leg"] + _ANKLE * size["height"] + 0.02 * size["hips"]
    pelvis: Array = np.array([0.0, 1.0, 0.0]) * upright + size["leg"] * motion.pelvis
    for leg in legs:
        away = np.linalg.norm((pelvis + leg.hip - leg.ankle)[..., ::2], axis=-1)
        up = np.sqrt(np.maximum((0.9995 * size["leg"][..., 0]) ** 2 - away**2, 0))
        pelvis[..., 1] = np.minimum(pelvis[..., 1], (leg.ankle - leg.hip)[..., 1] + up)
    return pelvis


def _leg(size: Mapping[str, Array], plan: _LegPlan, pelvis: Array, side: int) -> dict[str, Array]:
    """The knee of two bones from hip to ankle, bent the way the foot faces, and the foot."""
    out = np.array([(1, -1)[side], 1, 1])
    hip, ankle = pelvis + plan.hip, plan.ankle
    span = np.linalg.norm(ankle - hip, axis=-1, keepdims=True)
    down = (ankle - hip) / span
    along = (size["thigh"] ** 2 - size["shank"] ** 2 + span**2) / (2 * span)
    forward = _along(plan.facing, (0, 0, 1))
    ahead = forward - (forward * down).sum(-1, keepdims=True) * down
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    knee = hip + along * down + np.sqrt(np.maximum(size["thigh"] ** 2 - along**2, 0)) * ahead
    joints = {"hip": hip, "knee": knee, "ankle": ankle}
    for name, offset in _FOOT.items():
        joints[name] = ankle + _along(plan.foot, out * offset) * size["height"]
    return joints


def _turn(axis: str, degrees: Array) -> Array:
    """Rotation matrices (..., 3, 3) about x, y or z, right-handed."""
    radians = np.radians(degrees)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.zeros((*radians.shape, 3, 3)) + np.eye(3)
    matrix[..., first, first] = matrix[..., second, second] = np.cos(radians)
    matrix[..., second, first] = np.sin(radians)
    matrix[..., first, second] = -matrix[..., second, first]
    return matrix


def _along(turn: Array, offset: Sequence[float] | Array) -> Array:
    moved: Array = turn @ np.asarray(offset, dtype=float)
    return moved
