"""People who exercise, made up: labelled skeletons without a camera, a person or a download.

Promises: the same (seed, index) gives the same sample in any set; classes are balanced;
one frame rarely tells the exercise, its movement does. Posing in 3-D (`pose_exercises`) is
apart from looking at it (`look_at`), so that the same figures can be rendered as
clips. Writes nothing.
Leaves out: how a figure is built (figures.py).

Shapes: N samples, T frames, V = 34 joints, S = 2 sides (left, right). Metres and degrees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kineme.data.randomness import normal, uniform
from kineme.figures import JOINTS, Array, Body, Motion, make_bodies, pose, seen_from

FOCAL_LENGTH = 1200.0  # 3dbp values are millimetres from the pelvis over this


@dataclass(frozen=True)
class View:
    """Where the camera stands, in degrees: 0 is face to face, +90 sees the figure's left."""

    azimuth: float
    elevation: float


class Figures(NamedTuple):
    """Posed figures. positions (N, T, V, 3) in the figure's axes, the floor at y = 0."""

    positions: Array
    labels: NDArray[np.int64]
    body_of_sample: NDArray[np.int64]


class Exercises(NamedTuple):
    """A set as `pose_classification` reads it: data (N, 3, T, V, 1), a missing joint is zero."""

    data: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]


TRAIN_BODIES = make_bodies(10, seed=1)
HELD_OUT_BODIES = make_bodies(5, seed=2)
TRAIN_VIEWS = tuple(View(a, e) for e in (0, 12, 24) for a in (-75, -45, -15, 15, 45, 75))
HELD_OUT_VIEWS = tuple(View(a, e) for e in (6, 18) for a in (-60, -30, 0, 30, 60))


def make_exercises(
    num_samples: int,
    seed: int,
    *,
    bodies: Sequence[Body] = TRAIN_BODIES,
    views: Sequence[View] = TRAIN_VIEWS,
    num_frames: int = 64,
    fps: float = 15.0,
) -> Exercises:
    """Exercises as a pose estimator would report them: noisy, with dropped joints.

    Classes follow each other, so that any multiple of six is balanced. Values are those of
    DeepStream's 3dbp: (joint - pelvis) in millimetres / 1200, in the camera's axes.
    """
    figures = pose_exercises(num_samples, seed, bodies=bodies, num_frames=num_frames, fps=fps)
    seen, ids = look_at(figures, seed, bodies=bodies, views=views)
    draw = Draws(seed, num_samples)
    seen += estimator_noise(draw, seen.shape)
    seen -= seen[:, :, :1]
    seen *= joints_seen(draw, num_frames)[..., None]
    data = (seen * (1000 / FOCAL_LENGTH)).transpose(0, 3, 1, 2)[..., None]
    return Exercises(data.astype(np.float32), figures.labels, ids, CLASS_NAMES)


def look_at(
    figures: Figures, seed: int, *, bodies: Sequence[Body], views: Sequence[View]
) -> tuple[Array, tuple[str, ...]]:
    """Positions in the axes of a camera near one of `views`, and a name for each sample."""
    draw = Draws(seed, len(figures.labels))
    view_of_sample = draw.choice("view", len(views))
    azimuths = np.array([view.azimuth for view in views])[view_of_sample]
    elevations = np.array([view.elevation for view in views])[view_of_sample]
    seen = seen_from(
        figures.positions,
        azimuths + draw("azimuth", -7, 7)[:, 0],
        elevations + draw("elevation", -3, 3)[:, 0],
    )
    names = [f"{CLASS_NAMES[label]}_{i:04d}" for i, label in enumerate(figures.labels)]
    ids = tuple(
        f"{name}_{bodies[body].name}_{views[view].azimuth:+04.0f}"
        for name, body, view in zip(names, figures.body_of_sample, view_of_sample, strict=True)
    )
    return seen, ids


def pose_exercises(
    num_samples: int,
    seed: int,
    *,
    bodies: Sequence[Body] = TRAIN_BODIES,
    num_frames: int = 64,
    fps: float = 15.0,
) -> Figures:
    """Clean 3-D figures; sample i does exercise i mod 6 with one of `bodies`."""
    labels = np.arange(num_samples) % len(CLASS_NAMES)
    body_of_sample = Draws(seed, num_samples).choice("body", len(bodies))
    positions = np.empty((num_samples, num_frames, len(JOINTS), 3))
    for label, exercise in enumerate(EXERCISES.values()):
        rows = np.flatnonzero(labels == label)
        draw = Draws(seed, rows)
        motion = _motion(exercise, draw, np.arange(num_frames) / fps)
        positions[rows] = pose([bodies[i] for i in body_of_sample[rows]], motion)
    return Figures(positions, labels.astype(np.int64), body_of_sample)


class Part(NamedTuple):
    """What somebody does from `start` to `end`, in seconds: one of EXERCISES."""

    exercise: str
    start: float
    end: float


def pose_parts(body: Body, parts: Sequence[Part], draw: "Draws", seconds: Array) -> Array:
    """(T, V, 3) of somebody who does one exercise after another, each from standing to standing.

    draw: of one row. seconds: (T,); outside the parts the figure stands.
    """
    standing = _standing(draw, seconds)
    motion = standing
    for number, part in enumerate(parts):
        own = Draws(draw.seed, draw.rows * _MAX_PARTS + number)
        since = np.maximum(seconds - part.start, 0)[None]
        weight = _smooth(since / _PASSAGE_SECONDS)
        weight = weight * _smooth((part.end - seconds) / _PASSAGE_SECONDS)
        working = EXERCISES[part.exercise](own, _repetitions(own, since), standing)
        motion = _between(motion, working, weight)
    positions: Array = pose([body], _sway(draw, seconds, motion))[0]
    return positions


# What the exercises are ------------------------------------------------------------------

_PASSAGE_SECONDS = 0.5  # from standing to the exercise's first pose
_MAX_PARTS = 64  # so that no two rows share a draw


def _squat(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    depth = rep.effort
    lean = 40 * depth * draw("lean", 0.7, 1.2)
    return rest._replace(
        pelvis=_stack(0, -0.52 * depth, -0.2 * depth),
        tilt=0.45 * lean,
        flex=0.55 * lean,
        nod=-0.5 * lean,
        feet=rest.feet + _sides(_stack(draw("stance", 0.04, 0.2), 0, 0)),
        toe_out=rest.toe_out + _sides(draw("toes", 0, 14)),
        arms=_arm_style(draw, lean, ("hang", "forward", "hips")),
    )


def _lunge(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    depth, front = rep.effort, rep.side
    stride = draw("stride", 0.8, 1.0)
    step = _smooth(depth / 0.6)  # the foot lands before the body sinks
    ahead = front * _sides(step * stride)
    lift = front * _sides(0.48 * step * (1 - step))
    lean = 12 * depth * draw("lean", 0, 1.5)
    return rest._replace(
        pelvis=_stack(0, -0.38 * depth**1.5, 0.44 * stride * depth),
        tilt=0.5 * lean,
        flex=0.5 * lean,
        feet=rest.feet + np.stack([0 * ahead, lift, ahead], -1),
        heel=58 * (1 - front) * _sides(depth),
        arms=_arm_style(draw, lean, ("hang", "hips", "forward")),
    )


def _jumping_jack(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    spread = rep.effort
    wide = draw("wide", 0.25, 0.42) * spread
    hop = draw("hop", 0.03, 0.09) * np.sin(2 * np.pi * rep.cycle) ** 2
    raised = 10 + draw("reach", 120, 158) * spread
    return rest._replace(
        pelvis=_stack(0, hop - 0.02, 0),
        feet=rest.feet + _sides(_stack(wide, hop, 0)),
        heel=_sides(320 * hop),
        arms=_arms(draw("plane", 72, 90), raised, 0, draw("elbow", 8, 30)),
    )


def _overhead_press(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    raised = draw("rack", 18, 42) + 138 * rep.effort
    lean = -draw("lean", 0, 7) * rep.effort
    upright_forearm = draw("forearm", 166, 178) - raised
    arms = _arms(draw("plane", 50, 82), raised, 0, np.maximum(upright_forearm, 4))
    return rest._replace(flex=lean, nod=0.5 * lean, arms=arms)


def _arm_curl(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    effort = _sides(rep.effort)
    is_alternating = _sides(np.round(draw("alternating", 0, 1)))
    effort = np.where(is_alternating > 0, effort * rep.side, effort)
    swing = _sides(draw("swing", 0, 25)) * effort
    arms = np.stack(
        [_sides(draw("plane", 0, 25)) + 0 * effort, 4 + swing, 0 * effort, 12 + 128 * effort], -1
    )
    return rest._replace(flex=-draw("lean", 0, 8) * rep.effort, arms=arms)


def _side_bend(draw: "Draws", rep: "_Reps", rest: Motion) -> Motion:
    to_left = rep.effort * (rep.side[..., 0] - rep.side[..., 1])
    bend = 44 * to_left
    hang = _arm_style(draw, np.zeros_like(bend), ("hang", "hips"))
    over = _arms(88, np.full_like(bend, 152), 0, 25)
    is_reaching = np.round(draw("reaching", 0, 1))  # the arm away from the bend goes overhead
    reach = (np.minimum(rep.effort, 1) * is_reaching)[..., None] * (1 - rep.side)
    return rest._replace(
        pelvis=_stack(-0.08 * to_left, -0.02 * rep.effort, 0),
        bend=bend,
        feet=rest.feet + _sides(_stack(draw("stance", 0.02, 0.18), 0, 0)),
        arms=hang + (over - hang) * reach[..., None],
    )


Exercise = Callable[["Draws", "_Reps", Motion], Motion]
EXERCISES: Mapping[str, Exercise] = {
    "squat": _squat,
    "lunge": _lunge,
    "jumping_jack": _jumping_jack,
    "overhead_press": _overhead_press,
    "arm_curl": _arm_curl,
    "side_bend": _side_bend,
}
CLASS_NAMES = tuple(EXERCISES)


class _Reps(NamedTuple):
    """Repetitions: cycle (N, T) counts them, effort (N, T) in [0, 1.1] rises and falls in each,
    side (N, T, S) is 1 for the side that works (the same every time, or in turns)."""

    cycle: Array
    effort: Array
    side: Array


def _motion(exercise: Exercise, draw: "Draws", seconds: Array) -> Motion:
    """The exercise over time: standing idle first, or joined in the middle of a repetition."""
    since = np.maximum(seconds - draw("start", -2.0, 0.25 * seconds[-1]), 0)
    standing = _standing(draw, seconds)
    working = exercise(draw, _repetitions(draw, since), standing)
    return _sway(draw, seconds, _between(standing, working, _smooth(since / _PASSAGE_SECONDS)))


def _repetitions(draw: "Draws", since: Array) -> _Reps:
    """since: seconds (N, T) from the start of the first."""
    cycle = since * draw("tempo", 0.4, 0.75)
    number = np.floor(cycle).astype(int)
    rise = ((1 - np.cos(2 * np.pi * cycle)) / 2) ** draw("sharpness", 0.7, 1.4)
    vigour = draw("amplitude", 0.8, 1.0) + np.take_along_axis(
        draw("repetition", -0.08, 0.08, size=32), number % 32, axis=1
    )
    is_taking_turns = draw("turns", 0, 1) < 0.6
    is_left = ((draw("first", 0, 1) < 0.5) + number * is_taking_turns) % 2
    return _Reps(cycle, rise * vigour, np.stack([is_left, 1 - is_left], -1).astype(float))


def _between(rest: Motion, work: Motion, weight: Array) -> Motion:
    """From `rest`, weight (N, T) 0, to `work`, weight 1."""
    return Motion(
        *(
            first + weight.reshape(weight.shape + (1,) * (first.ndim - 2)) * (second - first)
            for first, second in zip(rest, work, strict=True)
        )
    )


def _standing(draw: "Draws", seconds: Array) -> Motion:
    """Upright with hanging arms."""
    zero = np.zeros((len(draw.rows), len(seconds)))
    return Motion(
        pelvis=_stack(zero, 0, 0),
        tilt=zero,
        flex=zero,
        bend=zero,
        nod=zero,
        feet=_sides(_stack(zero + draw("feet", -0.02, 0.08), 0, 0)),
        heel=_sides(zero),
        toe_out=_sides(zero + draw("toe_out", 3, 14)),
        arms=_arm_style(draw, zero, ("hang",)),
    )


def _sway(draw: "Draws", seconds: Array, motion: Motion) -> Motion:
    """Nobody stands still: slow waves of a few degrees."""

    def wave(name: str, size: float) -> Array:
        turns = seconds * draw(f"{name} rate", 0.15, 0.5) + draw(f"{name} phase", 0, 1)
        return np.asarray(size * np.sin(2 * np.pi * turns) * draw(f"{name} size", 0.3, 1))

    return motion._replace(
        tilt=motion.tilt + wave("tilt", 1.5),
        flex=motion.flex + wave("flex", 2) + draw("posture", -3, 9),
        bend=motion.bend + wave("bend", 2),
        nod=motion.nod + wave("nod", 6),
        arms=motion.arms + _arms(0, wave("raised", 2), 0, 2 + wave("elbow", 2)),
    )


def _arms(plane: float | Array, raised: Array, twist: float, elbow: float | Array) -> Array:
    """Both arms alike (N, T, S, 4): raised from hanging by `raised` in the vertical plane at
    `plane` degrees from forward, turned about themselves by `twist`, bent at the elbow."""
    return _sides(np.stack(np.broadcast_arrays(plane, raised, twist, elbow), -1))


def _arm_style(draw: "Draws", lean: Array, styles: tuple[str, ...]) -> Array:
    """What idle arms do, one of `styles` for each sample; hanging and forward follow gravity."""
    poses = {
        "hang": _arms(25, 9 + lean, 0, 12),
        "forward": _arms(6, 84 + lean, 0, 8),
        "hips": _arms(95, 42 + 0 * lean, 180, 100),
    }
    style = draw.choice("arm style", len(styles))
    chosen: Array = np.stack([poses[name] for name in styles])[style, np.arange(len(style))]
    return chosen


# What a pose estimator does to it --------------------------------------------------------


def estimator_noise(draw: "Draws", shape: tuple[int, ...]) -> Array:
    """Metres of error (N, T, V, 3): jitter of 4 to 14 mm, and a steady bias per joint."""
    jitter = draw.normal("jitter", int(np.prod(shape[1:]))).reshape(shape)
    bias = draw.normal("bias", shape[2] * 3).reshape(shape[0], 1, shape[2], 3)
    return jitter * draw("jitter size", 0.004, 0.014)[..., None, None] + 0.008 * bias


_LIMBS = tuple(
    [i for i, joint in enumerate(JOINTS) if joint.startswith(side) and joint.endswith(parts)]
    for side in ("left", "right")
    for parts in (
        ("elbow", "wrist", "pinky", "middle", "index", "thumb"),
        ("knee", "ankle", "toe", "heel"),
    )
)


def joints_seen(draw: "Draws", num_frames: int) -> NDArray[np.bool_]:
    """(N, T, V): up to 6 % of the joints drop out singly, and one limb in four for a while."""
    size = num_frames * len(JOINTS)
    singles = draw("dropped", 0, 1, size=size).reshape(-1, num_frames, len(JOINTS))
    is_seen = singles > draw("drop rate", 0, 0.06)[..., None]
    limb = np.array([np.isin(np.arange(len(JOINTS)), joints) for joints in _LIMBS])
    first = draw("hidden from", 0, 0.8)
    moment = np.arange(num_frames) / num_frames
    is_hidden = (moment >= first) & (moment < first + draw("hidden for", 0.1, 0.4))
    is_hidden &= draw("hidden", 0, 1) < 0.25
    is_seen &= ~(is_hidden[..., None] & limb[draw.choice("limb", len(limb))][:, None])
    is_seen[:, :, 0] = True  # without its pelvis a figure has no place
    return is_seen


# Small tools -----------------------------------------------------------------------------


class Draws:
    """Named draws for some samples of a set: `draw("tempo", 0.4, 0.8)` is (N, 1)."""

    def __init__(self, seed: int, rows: int | NDArray[np.int64]) -> None:
        self.seed = seed
        self.rows = np.arange(rows) if isinstance(rows, int) else rows

    def __call__(self, name: str, low: float, high: float, *, size: int = 1) -> Array:
        return low + (high - low) * uniform(self.seed, 0, self.rows, name=name, size=size)

    def choice(self, name: str, count: int) -> NDArray[np.int64]:
        return (self(name, 0, count)[:, 0]).astype(np.int64)

    def normal(self, name: str, size: int) -> Array:
        return normal(self.seed, 0, self.rows, name=name, size=size)


def _smooth(x: Array) -> Array:
    """0 below 0, 1 above 1, and a gentle S between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _stack(x: float | Array, y: float | Array, z: float | Array) -> Array:
    return np.stack(np.broadcast_arrays(x, y, z), -1).astype(float)


def _sides(values: Array) -> Array:
    """(N, T, ...) for both sides: (N, T, S, ...)."""
    return np.stack([values, values], axis=2)
