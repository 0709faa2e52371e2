"""Who acts in a video: of the people in it, those worth learning from.

Those act whose joints travel farthest over the whole video, as shares of the picture, each step
counted by its confidence. So somebody who moves counts more than who stands, who is seen long more
than who passes, who fills the picture more than who is far away; and nobody is left out for
standing still, where no one else is there.
Promises: equal tracks give equal answers, by rising id where all else is equal.
Leaves out: following people (tracking/tracker.py).

Shapes: T rows of a track, V joints, D axes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from kineme.data.tracks import Track, Tracks

_MAX_SEAM_SECONDS = 2.0
_MAX_SEAM_SIZES = 1.0  # from middle to middle, in diagonals of the larger box
_COLUMNS = ("frames", "seconds", "joints", "confidence", "boxes", "scores")


def acting(tracks: Tracks, num_persons: int) -> tuple[Track, ...]:
    """Those whose joints travel farthest, by rising id."""
    ranked = sorted(tracks.tracks, key=lambda track: (-distance_travelled(track, tracks), track.id))
    return tuple(sorted(ranked[:num_persons], key=lambda track: track.id))


def distance_travelled(track: Track, tracks: Tracks) -> float:
    """How far the joints go from row to row, the mean of all V, in diagonals of the picture.

    A step counts as much as the less sure of its two ends; unseen joints go nowhere.
    """
    steps = np.linalg.norm(np.diff(track.joints[..., :2].astype(np.float64), axis=0), axis=-1)
    trust = np.minimum(track.confidence[1:], track.confidence[:-1])
    total = float(np.where(trust > 0, np.nan_to_num(steps) * trust, 0).sum())
    num_joints: int = track.joints.shape[1]
    return total / (num_joints * math.hypot(tracks.width, tracks.height))


def join_sights(tracks: Tracks) -> Tracks:
    """The tracks, one of those that follow each other in time, place and scene.

    A tracker gives somebody who was lost in a fast turn a new id. Live, that is right; of a clip
    that shows one deed, both are the one who does it.
    """
    people: list[Track] = []
    for track in sorted(tracks.tracks, key=lambda track: int(track.frames[0])):
        seams = [(_seam(before, track, tracks.cuts), i) for i, before in enumerate(people)]
        nearest, place = min(seams, default=(math.inf, -1))
        if nearest <= _MAX_SEAM_SIZES:
            people[place] = _joined(people[place], track)
        else:
            people.append(track)
    return replace(tracks, tracks=tuple(sorted(people, key=lambda track: track.id)))


def _seam(before: Track, after: Track, cuts: tuple[int, ...]) -> float:
    """How far from the last sight to the first, in body sizes; infinite where they are not one."""
    last, first = int(before.frames[-1]), int(after.frames[0])
    seconds = float(after.seconds[0] - before.seconds[-1])
    if first <= last or seconds > _MAX_SEAM_SECONDS or any(last < cut <= first for cut in cuts):
        return math.inf
    boxes = np.stack([before.boxes[-1], after.boxes[0]]).astype(float).reshape(2, 2, 2)
    middles, sizes = boxes.mean(axis=1), np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
    distance = float(np.linalg.norm(middles[1] - middles[0]) / max(float(sizes.max()), 1.0))
    return distance if math.isfinite(distance) else math.inf


def _joined(before: Track, after: Track) -> Track:
    columns = {n: np.concatenate([getattr(before, n), getattr(after, n)]) for n in _COLUMNS}
    return Track(before.id, **columns)
