"""Scenes of two people held against what was made of them: what tests and a benchmark share.

Shapes: P = 2 people, T frames, V joints of a layout.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from kineme.data.tracks import Tracks
from kineme.figures import JOINTS
from kineme.people.follower import Follower
from kineme.people.poses import FramePoses, PersonPose, build_pose
from kineme.people.segments import Segment
from kineme.people.timeline import Classifier, Timeline, TimelineSettings
from kineme.pose_classification.layouts import LAYOUTS, Layout
from kineme.scenes import Scene
from kineme.synthetic import CLASS_NAMES

COCO = LAYOUTS["coco"]
_MAX_DISTANCE = 0.25  # of joints, in heights of the picture's person, to be of that person


def sights(scene: Scene, seed: int, *, noise: float = 0.015) -> list[FramePoses]:
    """What an estimator would say: joints off by `noise` heights, those hidden missing, one sight
    in fifty missed, and whoever shows less than a third of the joints."""
    rng = np.random.default_rng(seed)
    at = [JOINTS.index(name) for name in COCO.joints]
    joints = np.stack([scene.joints(p)[:, at] for p in (0, 1)])
    hidden = np.stack([scene.is_hidden(p)[:, at] for p in (0, 1)])
    heights = np.ptp(joints[..., 1], axis=2)
    frames = []
    for t in range(scene.num_frames):
        people: list[PersonPose] = []
        for p in rng.permutation(2):
            if rng.random() < 0.02 or (~hidden[p, t]).mean() < 1 / 3:
                continue
            confidence = np.where(hidden[p, t], 0, rng.uniform(0.5, 0.95, len(at)))
            places = joints[p, t] + rng.normal(0, noise * heights[p, t], (len(at), 2))
            people.append(build_pose(places, confidence))
        frames.append(FramePoses(t, t / scene.fps, tuple(people)))
    return frames


Rows = Sequence[tuple[int, np.ndarray]]  # of a frame: id, joints (V, 2)


def rows_of(tracks: Tracks, num_frames: int) -> list[Rows]:
    rows: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num_frames)]
    for track in tracks.tracks:
        for frame, joints in zip(track.frames.tolist(), track.joints, strict=True):
            rows[frame].append((track.id, joints[:, :2]))
    return rows


def ids_of(scene: Scene, rows: Iterable[Rows], layout: Layout = COCO) -> np.ndarray:
    """(P, T) which id each person goes by, 0 where nobody says.

    As in CLEAR MOT (Bernardin and Stiefelhagen 2008): who goes by the id of the moment before keeps
    it while its joints are near enough; the others are paired nearest first. Joints by name.
    """
    names = [name for name in layout.joints if name in JOINTS]
    ours, theirs = ([joints.index(n) for n in names] for joints in (layout.joints, JOINTS))
    truth = np.stack([scene.joints(p)[:, theirs] for p in (0, 1)])
    heights = np.ptp(truth[..., 1], axis=2)
    ids = np.zeros((2, scene.num_frames), np.int64)
    last = np.zeros(2, np.int64)
    for t, found in enumerate(rows):
        if not found:
            continue
        seen = np.stack([joints[ours] for _, joints in found])  # (K, V, 2)
        gaps = np.linalg.norm(truth[:, t, None] - seen[None], axis=-1) / heights[:, t, None, None]
        far = np.where(np.isnan(gaps).all(-1), 9, np.nanmedian(np.nan_to_num(gaps, nan=9), -1))
        for row, (id_, _) in enumerate(found):
            for person in np.flatnonzero((last == id_) & (far[:, row] < _MAX_DISTANCE)):
                far[person, row] -= 1  # beats all others
        for person, row in zip(*linear_sum_assignment(far), strict=True):
            if far[person, row] < _MAX_DISTANCE:
                ids[person, t] = last[person] = found[row][0]
    return ids


@dataclass(frozen=True)
class Judgement:
    """switches: how often somebody's id was not the one before. right: (P, T) whether the
    timeline has the true label; a moment unseen counts under the id before, or else after it.
    seen: (P, T) whether they go by an id. border_seconds: (P, T) to the next change of the true
    label."""

    switches: int
    right: np.ndarray
    seen: np.ndarray
    border_seconds: np.ndarray


def judge(scene: Scene, ids: np.ndarray, segments: Sequence[Segment]) -> Judgement:
    right = np.zeros(ids.shape, bool)
    borders = np.full(ids.shape, np.inf)
    switches = 0
    for p, own in enumerate(ids):
        named = own[own > 0]
        switches += int((np.diff(named) != 0).sum())
        for t, id_ in enumerate(_filled(own)):
            now = (t + 0.5) / scene.fps
            said = [s.label for s in segments if s.person == id_ and s.start <= now < s.end]
            right[p, t] = said == [CLASS_NAMES[scene.labels[p, t]]]
        for change in np.flatnonzero(np.diff(scene.labels[p])) + 1:
            away = np.abs(np.arange(scene.num_frames) + 0.5 - change) / scene.fps
            borders[p] = np.minimum(borders[p], away)
    return Judgement(switches, right, ids > 0, borders)


def _filled(ids: np.ndarray) -> list[int]:
    """Where nobody says: the id before, at the beginning the first."""
    last = int(ids[ids > 0][0]) if (ids > 0).any() else 0
    filled = []
    for id_ in ids.tolist():
        last = id_ or last
        filled.append(last)
    return filled


class _NoEstimator:
    layout = COCO.name


def followed(
    frames: Sequence[FramePoses], classifier: Classifier, settings: TimelineSettings
) -> tuple[list[Rows], list[Segment]]:
    """Rows of each frame and everybody's segments, as an analysis without pixels finds them."""
    follower = Follower(_NoEstimator(), COCO, Timeline(classifier, settings))  # type: ignore[arg-type]
    rows: list[Rows] = []
    segments: list[Segment] = []
    for frame in frames:
        step = follower.follow(frame)
        rows.append([(id_, pose.joints[:, :2]) for id_, pose in step.found])
        segments += step.over
    return rows, [*segments, *follower.timeline.finish()]
