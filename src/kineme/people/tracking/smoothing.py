"""Joints over time with short gaps closed and jitter taken out, live as offline.

Promises: `fill_gaps` draws straight lines across gaps that are short in seconds, never beyond the
first or last sight; `OneEuroFilter` looks at nothing later, so a live stream gets the numbers
that `smooth_track` gives; what is missing stays missing; nothing depends on the frame rate or on
how large people are in the picture (speeds are in body sizes a second).
Method: the one-euro filter (Casiez, Roussel, Vogel 2012), one cutoff for each joint: still joints
are smoothed much, fast ones hardly, so that nothing trails behind.
Leaves out: who is who (tracker.py).

Shapes: T rows of one person, V joints, D axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kineme.data.tracks import Track, Tracks

Array = NDArray[np.float64]

SLACK_SECONDS = 1e-6  # by which sums of fractions may be off


@dataclass(frozen=True)
class SmoothingSettings:
    """How much is smoothed.

    max_gap_seconds: gaps up to this long are filled; 0 fills none. min_cutoff: hertz, of joints
    that stand still: lower is calmer. responsiveness: hertz gained for each body size a second:
    higher trails less behind. speed_cutoff: hertz, of the speed itself. size_seconds: over which
    the body size is a mean.
    """

    max_gap_seconds: float = 0.5
    min_cutoff: float = 1.0
    responsiveness: float = 15.0
    speed_cutoff: float = 2.0
    size_seconds: float = 1.0


class OneEuroFilter:
    """Smooths one person row by row. A joint that was missing for longer than
    `max_gap_seconds` starts anew."""

    def __init__(self, settings: SmoothingSettings) -> None:
        self.settings = settings
        self._seconds = -math.inf  # of the row before
        self._size = math.nan  # pixels
        self._joints = np.zeros((0, 2))  # (V, D) the last smoothed; V = 0 before the first row
        self._raw = self._joints  # (V, D) the last seen
        self._speeds = self._joints  # (V, D) pixels a second
        self._seen_at = np.zeros(0)  # (V,) seconds

    def update(
        self, seconds: float, joints: NDArray[np.float32], box: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(V, D) smoothed joints of the next row, seen at `seconds`; NaN where `joints` is.

        box: (4,) of the body, from which its size comes. Raises ValueError where time goes back.
        """
        now = joints.astype(np.float64)
        is_seen: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(now), axis=-1)
        if not len(self._joints):
            self._joints, self._raw = np.full((2, *now.shape), np.nan)
            self._speeds = np.zeros(now.shape)
            self._seen_at = np.full(len(now), -math.inf)
        elif seconds <= self._seconds:
            raise ValueError(f"{seconds} s does not come after {self._seconds} s")
        size = self._body_size(seconds, box, now)
        step = seconds - self._seen_at  # (V,)
        is_new = is_seen & (step > self._longest_step(seconds))
        is_old = is_seen & ~is_new
        self._joints[is_new] = now[is_new]
        self._speeds[is_new] = 0
        if is_old.any():
            self._smooth(now, is_old, step[is_old], size)
        self._raw[is_seen] = now[is_seen]
        self._seen_at[is_seen] = seconds
        self._seconds = seconds
        return np.where(is_seen[:, None], self._joints, np.nan).astype(np.float32)

    def _smooth(self, now: Array, is_old: NDArray[np.bool_], step: Array, size: float) -> None:
        joints, speeds, settings = self._joints, self._speeds, self.settings
        speed = (now[is_old] - self._raw[is_old]) / step[:, None]
        share = _share(np.full(len(step), settings.speed_cutoff), step)[:, None]
        speeds[is_old] += share * (speed - speeds[is_old])
        sizes_a_second = np.linalg.norm(speeds[is_old][:, :2], axis=-1) / size
        cutoff = settings.min_cutoff + settings.responsiveness * sizes_a_second
        joints[is_old] += _share(cutoff, step)[:, None] * (now[is_old] - joints[is_old])

    def _longest_step(self, seconds: float) -> float:
        """Seconds after which a joint starts anew; never the step to the row before."""
        last = seconds - self._seconds
        return max(self.settings.max_gap_seconds, 1.5 * last if math.isfinite(last) else 0.0)

    def _body_size(self, seconds: float, box: NDArray[np.float32], joints: Array) -> float:
        """Pixels from corner to corner of the body's box, a mean over the last second."""
        corners = box.astype(np.float64).reshape(2, 2)
        if not np.isfinite(corners).all():
            seen = joints[np.isfinite(joints).all(axis=-1), :2]
            if len(seen):
                corners = np.stack([seen.min(axis=0), seen.max(axis=0)])
        size = max(float(np.linalg.norm(corners[1] - corners[0])), 1.0)
        if not math.isfinite(self._size):
            self._size = size if math.isfinite(size) else math.nan
        elif math.isfinite(size):
            share = 1 - math.exp(-(seconds - self._seconds) / self.settings.size_seconds)
            self._size += share * (size - self._size)
        return self._size


def _share(cutoff: Array, step: Array) -> Array:
    """(V,) how much of a new value a low pass of `cutoff` hertz takes after `step` seconds."""
    turn = 2 * np.pi * cutoff * step
    return np.asarray(turn / (turn + 1))


def smooth_track(track: Track, settings: SmoothingSettings) -> Track:
    """The track with smoothed joints: those that `OneEuroFilter` gives row by row."""
    smoother = OneEuroFilter(settings)
    rows = zip(track.seconds.tolist(), track.joints, track.boxes, strict=True)
    joints = [smoother.update(seconds, joints, box) for seconds, joints, box in rows]
    return replace(track, joints=np.stack(joints) if joints else track.joints)


def smooth_tracks(tracks: Tracks, settings: SmoothingSettings) -> Tracks:
    """Every track smoothed, then its short gaps filled, so that what was seen is as it is live."""
    smoothed = (smooth_track(track, settings) for track in tracks.tracks)
    filled = tuple(fill_gaps(track, settings.max_gap_seconds) for track in smoothed)
    return replace(tracks, tracks=filled)


def fill_gaps(track: Track, max_gap_seconds: float) -> Track:
    """The track with joints on a straight line between two sights of them that lie at most
    `max_gap_seconds` apart, in frames of their own where nothing was seen.

    Confidence and score of what is filled are the lower of both ends. Longer gaps, and what lies
    before the first or after the last sight, stay missing.
    """
    if max_gap_seconds <= 0 or len(track) < 2:
        return track
    track = _with_rows_between(track, max_gap_seconds)
    seconds = track.seconds
    is_seen: NDArray[np.bool_] = np.greater(track.confidence, 0)
    before, after, share = _neighbours(seconds, is_seen, max_gap_seconds)
    joints = _between(track.joints, before, after, share)
    ends = [np.take_along_axis(track.confidence, at, axis=0) for at in (before, after)]
    has_box = np.logical_and.reduce(np.isfinite(track.boxes), axis=1, keepdims=True)
    before, after, share = _neighbours(seconds, has_box, max_gap_seconds)
    boxes = _between(track.boxes[:, None], before, after, share)[:, 0]
    return replace(track, joints=joints, confidence=np.minimum(*ends), boxes=boxes)


def _with_rows_between(track: Track, max_gap_seconds: float) -> Track:
    """Rows without anything seen for the frames missing in short gaps."""
    is_short = np.diff(track.seconds) <= max_gap_seconds + SLACK_SECONDS
    num_more = np.where(is_short, np.diff(track.frames) - 1, 0)
    if not num_more.any():
        return track
    rows = np.concatenate([[0], 1 + np.arange(len(num_more)) + np.cumsum(num_more)])
    at = np.arange(rows[-1] + 1)
    is_row = np.isin(at, rows)
    source = np.cumsum(is_row) - 1  # the row before, or the row itself
    frames = track.frames[source] + (at - rows[source])
    missing = np.float32(np.nan)
    return replace(
        track,
        frames=frames,
        seconds=np.where(
            is_row, track.seconds[source], np.interp(frames, track.frames, track.seconds)
        ),
        joints=np.where(is_row[:, None, None], track.joints[source], missing),
        confidence=np.where(is_row[:, None], track.confidence[source], np.float32(0)),
        boxes=np.where(is_row[:, None], track.boxes[source], missing),
        scores=np.minimum(
            track.scores[source], track.scores[np.minimum(source + ~is_row, len(track) - 1)]
        ),
    )


def _neighbours(
    seconds: Array, is_seen: NDArray[np.bool_], max_gap_seconds: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Of (T, V): the rows of the sights before and after, and how far from one to the other.

    Both are the row itself where a joint is seen, and where it is to stay missing.
    """
    own = np.broadcast_to(np.arange(len(seconds))[:, None], is_seen.shape)
    before = np.maximum.accumulate(np.where(is_seen, own, -1), axis=0)
    after = np.minimum.accumulate(np.where(is_seen, own, len(seconds))[::-1], axis=0)[::-1]
    is_inside = (before >= 0) & (after < len(seconds))
    before, after = np.where(is_inside, before, own), np.where(is_inside, after, own)
    gap = seconds[after] - seconds[before]
    is_filled = (gap > 0) & (gap <= max_gap_seconds + SLACK_SECONDS)
    before, after = np.where(is_filled, before, own), np.where(is_filled, after, own)
    share = (seconds[own] - seconds[before]) / np.where(is_filled, gap, 1)
    return before, after, share


def _between(
    values: NDArray[np.float32],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    share: Array,
) -> NDArray[np.float32]:
    """(T, V, D): what is seen as it is, what is not on the line between its neighbours."""
    first, last = (np.take_along_axis(values, at[..., None], axis=0) for at in (before, after))
    line = first + share[..., None] * (last.astype(np.float64) - first)
    is_line = (before != after)[..., None]
    return np.where(is_line, line, values).astype(np.float32)
