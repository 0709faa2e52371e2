"""People who walk through one picture, with the truth of who is who: what tests of tracking share.

Bodies are those of figures.py, walking on the spot and carried along paths of a flat floor, seen
by one camera. Whoever is behind somebody loses the joints that lie within the other's outline.

Shapes: P people, T frames, V = 17 joints of coco, x right, y down in pixels of 1280 x 720.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kineme.data.tracks import Tracks
from kineme.figures import JOINTS, Body, Motion, make_bodies, pose
from kineme.people.poses import FramePoses, PersonPose, build_pose
from kineme.people.tracking.recording import TracksRecorder
from kineme.people.tracking.tracker import Tracker, TrackingSettings
from kineme.pose_classification.layouts import LAYOUTS

LAYOUT = LAYOUTS["coco"]
WIDTH, HEIGHT = 1280, 720
_AT = [JOINTS.index(name) for name in LAYOUT.joints]
_FOCAL, _CAMERA_HEIGHT = 1000.0, 2.2  # pixels, metres


@dataclass(frozen=True)
class Scene:
    """frames: what an estimator sees. who: for each frame, the person (0 to P - 1) of each of
    its people, -1 for nobody real."""

    frames: list[FramePoses]
    who: list[list[int]]


def film(
    paths: np.ndarray,
    *,
    seed: int,
    fps: float = 25.0,
    bodies: tuple[Body, ...] | None = None,
    present: np.ndarray | None = None,
    hides: bool = True,
    noise: float = 0.012,
    missed: float = 0.02,
    faint: float = 0.05,
    ghosts: float = 0.0,
) -> Scene:
    """paths (P, T, 2): metres to the right of and away from the camera. present (P, T).

    noise: of joints, in body heights. missed, faint: shares of sights that are missing, or
    unsure. ghosts: how many people there are in a frame who do not exist.
    """
    rng = np.random.default_rng(seed)
    bodies = bodies or make_bodies(len(paths), seed + 100)
    joints, depth = _project(_walk(bodies, paths, rng, fps), paths)
    heights = joints[..., 1].max(axis=2) - joints[..., 1].min(axis=2)
    scene = Scene([], [])
    for t in range(paths.shape[1]):
        people: list[PersonPose] = []
        who: list[int] = []
        for p in rng.permutation(len(paths)):
            is_there = present is None or present[p, t]
            if not is_there or rng.random() < missed:
                continue
            confidence = rng.uniform(0.6, 0.95, len(_AT))
            for other in range(len(paths)):
                in_front = other != p and depth[other, t] < depth[p, t]
                if hides and in_front and (present is None or present[other, t]):
                    confidence[_covered(joints[p, t], joints[other, t])] = 0
            share = (confidence > 0).mean()
            if share < 0.3:
                continue
            seen = joints[p, t] + rng.normal(0, noise * heights[p, t], (len(_AT), 2))
            score = 0.25 if share < 0.6 or rng.random() < faint else rng.uniform(0.6, 0.9)
            people.append(build_pose(seen, confidence, box=_box(seen, confidence), score=score))
            who.append(int(p))
        for _ in range(rng.poisson(ghosts)):
            shape = joints[0, 0] - joints[0, 0].mean(axis=0)
            seen = shape * rng.uniform(0.3, 0.8) + rng.uniform((0, 0), (WIDTH, HEIGHT))
            people.append(build_pose(seen, np.full(len(_AT), 0.3), score=rng.uniform(0.2, 0.7)))
            who.append(-1)
        scene.frames.append(FramePoses(t, t / fps, tuple(people)))
        scene.who.append(who)
    return scene


def _walk(bodies: tuple[Body, ...], paths: np.ndarray, rng: np.random.Generator, fps: float):
    """(P, T, V, 3) in metres, at the origin, turned the way the path goes."""
    step = np.gradient(paths, 1 / fps, axis=1)
    speed = np.linalg.norm(step, axis=-1)
    phase = np.cumsum(speed, axis=1) / fps / 0.75 * np.pi + rng.uniform(0, 6, (len(paths), 1))
    stride = np.clip(speed / 1.4, 0, 1)
    zero = np.zeros_like(phase)
    legs = [
        np.stack(
            [
                zero,
                0.12 * stride * np.maximum(np.cos(phase + turn), 0),
                0.4 * stride * np.sin(phase + turn),
            ],
            -1,
        )
        for turn in (0, np.pi)
    ]
    arms = [np.stack([zero, 8 + 25 * stride * np.sin(phase + turn + np.pi), zero, 20 + zero], -1)
            for turn in (0, np.pi)]  # fmt: skip
    two = np.zeros((*phase.shape, 2))
    motion = Motion(
        pelvis=np.stack([zero, -0.05 * stride, zero], -1), tilt=zero, flex=zero + 4, bend=zero,
        nod=zero, feet=np.stack(legs, 2), heel=two, toe_out=two + 6, arms=np.stack(arms, 2),
    )  # fmt: skip
    posed = pose(bodies, motion)[:, :, _AT]
    heading = np.arctan2(step[..., 0], -step[..., 1])  # 0: towards the camera
    heading = np.where(speed > 0.05, heading, 0.0)[..., None]
    x, y, z = np.moveaxis(posed, -1, 0)
    return np.stack([x * np.cos(heading) + z * np.sin(heading), y,
                     -x * np.sin(heading) + z * np.cos(heading)], -1)  # fmt: skip


def _project(posed: np.ndarray, paths: np.ndarray):
    """Joints (P, T, V, 2) in pixels and distances (P, T) in metres."""
    away = paths[..., 1, None] - posed[..., 2]
    x = (paths[..., 0, None] + posed[..., 0]) * _FOCAL / away + WIDTH / 2
    y = (_CAMERA_HEIGHT - posed[..., 1]) * _FOCAL / away + HEIGHT / 3
    return np.stack([x, y], -1), paths[..., 1]


def _covered(joints: np.ndarray, front: np.ndarray) -> np.ndarray:
    """(V,) which joints lie behind somebody in front."""
    low, high = front.min(axis=0), front.max(axis=0)
    room = np.array([0, 0.15 * (high - low)[1]])
    return ((joints > low - room) & (joints < high + room)).all(axis=1)


def _box(joints: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    seen = joints[confidence > 0]
    low, high = seen.min(axis=0), seen.max(axis=0)
    room = 0.08 * (high - low).max()
    return np.concatenate([low - room, high + room])


# Paths -----------------------------------------------------------------------------------


def crossing(seed: int, *, gap: float, seconds: float = 6.0, fps: float = 25.0) -> np.ndarray:
    """(2, T, 2): two who walk past each other, `gap` metres between them in depth."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * fps)) / fps - seconds / 2
    speeds = rng.uniform(0.8, 1.6, 2)
    far = rng.uniform(5.5, 8)
    slope = rng.uniform(-0.15, 0.15, 2)
    shift = rng.uniform(-0.5, 0.5)
    first = np.stack([speeds[0] * t + shift, far + slope[0] * t], -1)
    second = np.stack([-speeds[1] * t + shift, far + gap + slope[1] * t], -1)
    return np.stack([first, second])


def meeting(seed: int, *, turn: bool, seconds: float = 8.0, fps: float = 25.0) -> np.ndarray:
    """(2, T, 2): two who walk up to each other, stand close for 2 s, and go on or back."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * fps)) / fps
    speed = rng.uniform(0.8, 1.4)
    walk = np.minimum(t, 3.0) + np.maximum(t - 5.0, 0) * (-1 if turn else 1)
    x = speed * (walk - 3.0) - 0.2
    far = rng.uniform(5.5, 7.5)
    aside = rng.uniform(0.15, 0.4)
    return np.stack([np.stack([x, 0 * t + far], -1), np.stack([-x, 0 * t + far + aside], -1)])


def crowd(num: int, seed: int, *, seconds: float = 4.0, fps: float = 25.0) -> np.ndarray:
    """(num, T, 2): people who walk anywhere on a large square."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * fps)) / fps
    start = rng.uniform((-9, 10), (9, 30), (num, 2))
    angle, speed = rng.uniform(0, 2 * np.pi, num), rng.uniform(0.3, 1.5, num)
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return start[:, None] + velocity[:, None] * t[None, :, None]


# Judging ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """switches: how often somebody's id was not the one before. recall: share of the sights that
    were given an id. mota: 1 - (sights without an id + nobodies with one + switches) / sights.
    ids: of each person, in order of time."""

    switches: int
    recall: float
    mota: float
    num_ids: int


def judge(scene: Scene, found: list[tuple[tuple[int, PersonPose], ...]]) -> Judgement:
    last: dict[int, int] = {}
    switches = sights = named = false = 0
    ids: set[int] = set()
    for frame, who, pairs in zip(scene.frames, scene.who, found, strict=True):
        truth = {id(seen): person for seen, person in zip(frame.people, who, strict=True)}
        sights += sum(person >= 0 for person in who)
        for track, seen in pairs:
            ids.add(track)
            person = truth[id(seen)]
            if person < 0:
                false += 1
                continue
            named += 1
            switches += last.get(person, track) != track
            last[person] = track
    mota = 1 - (sights - named + false + switches) / max(sights, 1)
    return Judgement(switches, named / max(sights, 1), mota, len(ids))


def track_all(
    frames: Iterable[FramePoses],
    settings: TrackingSettings,
    *,
    width: int,
    height: int,
    fps: float = 0.0,
    source: str = "",
    cuts: Iterable[int] = (),
) -> Tracks:
    """The tracks of a whole video, as `Tracker.update` finds them frame by frame.

    width, height, fps, source: as Tracks says. cuts: indices of frames that begin a new scene.
    """
    tracker, recorder, begins_scene = Tracker(settings), TracksRecorder(), set(cuts)
    for frame in frames:
        is_cut = frame.index in begins_scene
        recorder.add(frame, tracker.update(frame, is_cut=is_cut), is_cut=is_cut)
    return recorder.tracks(settings.layout, width=width, height=height, fps=fps, source=source)
