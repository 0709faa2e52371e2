"""People who exercise a known number of times: what tests of counting share.

Figures and exercises are those of synthetic.py; here each repetition has a tempo of its own, there
are pauses, and people stand before and after. They are seen in 2-D pixels by a camera, or in 3-D.
"""

from dataclasses import dataclass

import numpy as np

from kineme import synthetic
from kineme.figures import JOINTS, Motion, make_bodies, pose, seen_from
from kineme.pose_classification.layouts import LAYOUTS

BODIES = make_bodies(20, seed=41)
EXERCISES = tuple(synthetic.EXERCISES)


@dataclass(frozen=True)
class Setting:
    """How hard it is made. Ranges are drawn from; pause: share of repetitions that are followed
    by 0.5 to 2.5 s of rest; dropped: share of joints; hidden: whether a limb is for a while."""

    tempo: tuple[float, float] = (0.3, 0.8)
    variation: float = 0.25
    pause: float = 0.1
    jitter: tuple[float, float] = (0.004, 0.014)
    dropped: float = 0.06
    hidden: float = 0.25
    azimuth: tuple[float, float] = (-80, 80)
    elevation: tuple[float, float] = (0, 25)
    fps: tuple[float, ...] = (15.0, 25.0, 30.0)
    standing: tuple[float, float] = (0.3, 3.0)
    drift: float = 0.3
    axes: tuple[int, ...] = (2, 2, 3)
    layouts: tuple[str, ...] = ("coco", "nvidia", "body-25")


HARD = Setting(
    tempo=(0.15, 1.2),
    variation=0.45,
    pause=0.3,
    jitter=(0.01, 0.035),
    dropped=0.2,
    hidden=0.6,
    azimuth=(-180, 180),
    elevation=(0, 40),
    fps=(10.0, 15.0, 25.0, 50.0),
)


@dataclass(frozen=True)
class Exercising:
    joints: np.ndarray
    seconds: np.ndarray
    layout: str
    exercise: str
    count: int
    ends: np.ndarray  # (count,) seconds
    duration_seconds: float  # usual


def exercise(seed: int, setting: Setting, *, name: str = "", count: int | None = None):
    """One person doing `name` (by seed) `count` times (3 to 12 by seed)."""
    rng = np.random.default_rng([7919, seed])
    name = name or EXERCISES[seed % len(EXERCISES)]
    drawn = int(rng.integers(3, 13))
    count = drawn if count is None else count
    fps = float(rng.choice(setting.fps))
    seconds, cycle, ends, usual = _timing(rng, setting, count, fps)
    positions = _posed(name, seed, cycle, seconds, rng)
    layout = LAYOUTS[str(rng.choice(setting.layouts))]
    joints = _seen(rng, setting, positions, int(rng.choice(setting.axes)), fps)
    at = [JOINTS.index(joint) for joint in layout.joints]
    return Exercising(joints[:, at], seconds, layout.name, name, count, ends, usual)


def _timing(rng, setting, count, fps):
    before, after = rng.uniform(*setting.standing, 2)
    tempo = np.exp(rng.uniform(*np.log(setting.tempo)))
    lasts = (1 / tempo) * np.exp(rng.uniform(-1, 1, count) * setting.variation)
    pauses = np.where(rng.random(count) < setting.pause, rng.uniform(0.5, 2.5, count), 0)
    knots, values = [0.0, before], [0.0, 0.0]
    for i in range(count):
        knots.append(knots[-1] + lasts[i])
        values.append(i + 1.0)
        if pauses[i] and i < count - 1:
            knots.append(knots[-1] + pauses[i])
            values.append(i + 1.0)
    total = knots[-1] + after
    seconds = np.arange(int(total * fps)) / fps
    seconds = seconds + rng.uniform(-0.15, 0.15, len(seconds)) / fps
    cycle = np.interp(seconds, [*knots, total], [*values, values[-1]])
    ends = np.interp(np.arange(1, count + 1), values, knots)
    begins = before, knots[-1]
    return seconds, (cycle, begins), ends, float(np.median(lasts)) if count else 0.0


def _posed(name, seed, timing, seconds, rng):
    cycle, (begin, end) = timing
    draw = synthetic.Draws(seed, 1)
    number = np.minimum(np.floor(cycle).astype(int), max(int(cycle[-1]) - 1, 0))
    rise = ((1 - np.cos(2 * np.pi * cycle)) / 2) ** rng.uniform(0.7, 1.4)
    vigour = rng.uniform(0.8, 1.0) + rng.uniform(-0.08, 0.08, 64)[number]
    is_left = ((rng.random() < 0.5) + number * (rng.random() < 0.6)) % 2
    reps = synthetic._Reps(
        cycle[None], (rise * vigour)[None], np.stack([is_left, 1 - is_left], -1).astype(float)[None]
    )
    standing = synthetic._standing(draw, seconds)
    working = synthetic.EXERCISES[name](draw, reps, standing)
    weight = synthetic._smooth((seconds - begin + 0.4) / 0.5)
    weight = (weight * (1 - synthetic._smooth((seconds - end) / 0.5)))[None]
    if int(cycle[-1]) == 0:
        weight = 0 * weight
    mixed = Motion(
        *(
            rest + weight.reshape(weight.shape + (1,) * (rest.ndim - 2)) * (work - rest)
            for rest, work in zip(standing, working, strict=True)
        )
    )
    body = BODIES[int(rng.integers(len(BODIES)))]
    return pose([body], synthetic._sway(draw, seconds, mixed))


def _seen(rng, setting, positions, num_axes, fps):
    """(T, V, C): pixels of 1280 x 720, or metres with depth around the pelvis; NaN if unseen."""
    azimuth, elevation = rng.uniform(*setting.azimuth), rng.uniform(*setting.elevation)
    seen = seen_from(positions - [0, 0.9, 0], np.array([azimuth]), np.array([elevation]))[0]
    num_frames, num_joints = seen.shape[:2]
    seen += rng.normal(0, rng.uniform(*setting.jitter), seen.shape) + rng.normal(
        0, 0.008, (1, num_joints, 3)
    )
    if num_axes == 3:
        joints = seen - seen[:, :1]
    else:
        path = np.linspace(0, 1, num_frames)[:, None] * rng.uniform(
            -setting.drift, setting.drift, 3
        )
        seen = seen + path[:, None] + [0, 0, rng.uniform(3, 7)]
        joints = 1000 * seen[..., :2] / seen[..., 2:] + [640, 360]
    is_seen = rng.random((num_frames, num_joints)) > rng.uniform(0, setting.dropped)
    if rng.random() < setting.hidden:
        limb = synthetic._LIMBS[rng.integers(4)]
        first, last = np.sort(rng.uniform(0, num_frames, 2)).astype(int)
        is_seen[first : min(last, first + num_frames // 3), limb] = False
    joints[~is_seen] = np.nan
    return joints.astype(np.float32)


def gesturing(seed: int, setting: Setting, *, seconds: float = 20.0) -> Exercising:
    """Somebody who moves arms, trunk and knees at random: nothing repeats."""
    rng = np.random.default_rng([104729, seed])
    fps = float(rng.choice(setting.fps))
    now = np.arange(int(seconds * fps)) / fps
    draw = synthetic.Draws(seed, 1)

    def wander(size: float, *shape: int) -> np.ndarray:
        knots = np.arange(0, seconds + 3, rng.uniform(0.5, 1.2))
        values = rng.uniform(-size, size, (len(knots), *shape)) * (
            rng.random(len(knots)) < 0.6
        ).reshape(-1, *[1] * len(shape))
        at = np.clip(np.searchsorted(knots, now, side="right"), 1, len(knots) - 1)
        share = synthetic._smooth((now - knots[at - 1]) / (knots[at] - knots[at - 1]))
        share = share.reshape(-1, *[1] * len(shape))
        return (values[at - 1] + share * (values[at] - values[at - 1]))[None]

    standing = synthetic._standing(draw, now)
    moved = standing._replace(
        flex=standing.flex + wander(25),
        bend=standing.bend + wander(12),
        pelvis=standing.pelvis - np.abs(wander(0.2, 3)) * [0, 1, 0],
        arms=standing.arms + np.abs(wander(80, 2, 4)) * [0.5, 1, 0.2, 1],
    )
    body = BODIES[int(rng.integers(len(BODIES)))]
    positions = pose([body], synthetic._sway(draw, now, moved))
    layout = LAYOUTS[str(rng.choice(setting.layouts))]
    joints = _seen(rng, setting, positions, int(rng.choice(setting.axes)), fps)
    at = [JOINTS.index(joint) for joint in layout.joints]
    return Exercising(joints[:, at], now, layout.name, "gestures", 0, np.zeros(0), 0.0)
