"""What a body does as numbers that repeat when its movement does.

Promises: signals do not depend on where in the picture somebody is, nor how large; left and right
are folded, so that the same movement done in turns by both sides repeats with every one of them;
short gaps are bridged, and what is hidden for longer follows from what is seen with it.
Method: angles and heights of points of the body, each pair as its mean and its difference without
sign; what is missing by regression on what is seen at the same time.
Leaves out: what in them repeats (excursions.py).

Shapes: T moments at an even rate, P = 13 points of the body, C axes, F signals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kineme.people.repetitions.joint_angles import BENDS, bend, point, trunk_lean

Array = NDArray[np.float64]

RATE = 15.0  # moments a second
_SMOOTH_SECONDS = 0.1  # deviation of the bell that takes out jitter
_MAX_GAP_SECONDS = 0.6  # bridged by a straight line
_MIN_SEEN = 0.4  # share of the moments in which a signal has to be known
_DEGREES_OF_TRUNK = 60.0  # what moving by a trunk's length counts as
_MIN_WHOLE_SECONDS = 4.0  # with everything known, from which the rest can be learned
_RIDGE = 4.0  # squared degrees
_ROUNDS = 4


class BodySignals(NamedTuple):
    """signals: (T, F) degrees or what counts as such; F = 0 where too little is seen. points:
    (T, P, C) smoothed, NaN where not seen. place: (T, C) of the trunk in trunk lengths, size:
    (T,) logarithm of the trunk's length; both NaN where not seen. seen: share of the points."""

    signals: Array
    points: Array
    place: Array
    size: Array
    seen: float


def body_signals(points: Array) -> BodySignals:
    """Signals of (T, P, C) points at RATE; NaN where they are not seen."""
    seen = float(np.isfinite(points[..., 0]).mean()) if points.size else 0.0
    smoothed = steadied(points)
    trunk, place = _trunk(smoothed)
    if not np.isfinite(trunk):
        return BodySignals(np.zeros((len(points), 0)), smoothed, place, place[:, 0], seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.log(_trunk_lengths(smoothed))
    pairs, singles = _raw_signals(smoothed, trunk)
    raw = _completed(np.concatenate([pairs.reshape(len(pairs), -1), singles], axis=1))
    return BodySignals(_folded(raw, pairs.shape[1]), smoothed, place / trunk, size, seen)


def even_rows(points: Array, seconds: Array, *, start: float | None = None) -> Array:
    """(T', P, C) at RATE from `start` or `seconds[0]` on: means of the frames nearest to each
    moment, NaN where there is none. points: (T, P, C), T > 0; seconds: (T,) rising."""
    start = float(seconds[0]) if start is None else start
    moments = ((seconds - start) * RATE + 0.5).astype(np.int64)
    is_seen = np.isfinite(points)
    sums = np.zeros((int(moments[-1]) + 1, *points.shape[1:]))
    number = np.zeros(sums.shape)
    np.add.at(sums, moments, np.where(is_seen, points, 0))
    np.add.at(number, moments, is_seen)
    return np.where(number > 0, sums / np.maximum(number, 1), np.nan)


def steadied(points: Array) -> Array:
    """(T, P, C) at RATE with short gaps bridged and jitter taken out; longer gaps stay NaN."""
    return _smoothed(_bridged(points))


def _raw_signals(points: Array, trunk: float) -> tuple[Array, Array]:
    """Pairs (T, K, 2) of left and right, and signals (T, S) of the body as a whole."""
    shoulders, hips = point(points, "shoulders"), point(points, "hips")
    scale = _DEGREES_OF_TRUNK / trunk

    def height(name: str, above: Array) -> Array:
        return np.asarray(scale * (above - point(points, name))[:, 1])

    pairs = []
    for side in ("left", "right"):
        one = [bend(points, name) for name in BENDS if name.startswith(side)]
        one += [height(f"{side}_{part}", shoulders) for part in ("wrist", "elbow")]
        one += [height(f"{side}_{part}", hips) for part in ("knee", "ankle", "shoulder")]
        pairs.append(np.stack(one, axis=1))
    spreads = [
        scale
        * np.linalg.norm(point(points, f"left_{part}") - point(points, f"right_{part}"), axis=-1)
        for part in ("ankle", "wrist")
    ]
    singles = np.stack([trunk_lean(points), height("head", hips), *spreads], axis=1)
    return np.stack(pairs, axis=2), singles


def _folded(raw: Array, num_pairs: int) -> Array:
    """(T, F) signals in which nothing tells left from right; unknown columns are left out."""
    pairs = raw[:, : 2 * num_pairs].reshape(len(raw), num_pairs, 2)
    left, right = pairs[..., 0], pairs[..., 1]
    is_one = np.isnan(left) != np.isnan(right)  # the other side is never seen
    one = np.where(np.isnan(left), right, left)
    mean = np.where(is_one, one, (left + right) / 2)
    apart = np.where(is_one, 0, np.abs(left - right) / 2)
    signals = np.concatenate([mean, apart, raw[:, 2 * num_pairs :]], axis=1)
    return np.asarray(signals[:, np.isfinite(signals).all(axis=0)])


def _completed(raw: Array) -> Array:
    """`raw` (T, F) without gaps: a column known too rarely is NaN throughout."""
    is_known = np.isfinite(raw)
    is_usable = is_known.mean(axis=0) >= _MIN_SEEN
    raw = np.where(is_usable, raw, np.nan)
    if is_known[:, is_usable].all() or not is_usable.any():
        return raw
    raw[:, is_usable] = _regressed(raw[:, is_usable])
    return raw


def _regressed(values: Array) -> Array:
    """(T, F) with what is missing as what is known in the same moment leads to expect."""
    is_known = np.isfinite(values)
    mean = np.nanmean(values, axis=0)
    filled = np.where(is_known, values - mean, 0)
    patterns, which = np.unique(is_known, axis=0, return_inverse=True)
    which = which.reshape(-1)
    whole = is_known.all(axis=1)
    learned = filled[whole] if whole.sum() >= _MIN_WHOLE_SECONDS * RATE else filled
    for _ in range(_ROUNDS):
        shared = learned.T @ learned / len(learned)
        for i, known in enumerate(patterns):
            if known.all() or not known.any():
                continue
            own = shared[np.ix_(known, known)] + _RIDGE * np.eye(int(known.sum()))
            by = np.linalg.solve(own, shared[np.ix_(known, ~known)])
            at = np.flatnonzero(which == i)
            filled[np.ix_(at, ~known)] = filled[np.ix_(at, known)] @ by
        learned = filled
    return np.asarray(filled + mean)


def _trunk_lengths(points: Array) -> Array:
    """(T,) in the units of the points: from hips to shoulders, or what an upper arm tells of it."""
    trunk = np.linalg.norm(point(points, "shoulders") - point(points, "hips"), axis=-1)
    if np.isfinite(trunk).mean() >= _MIN_SEEN:
        return np.asarray(trunk)
    arms = [
        np.linalg.norm(point(points, f"{side}_shoulder") - point(points, f"{side}_elbow"), axis=-1)
        for side in ("left", "right")
    ]
    return np.asarray(1.6 * np.fmax(*arms))


def _trunk(points: Array) -> tuple[float, Array]:
    """Length of the trunk where it is seen at its full length, and (T, C) where the body is."""
    lengths = _trunk_lengths(points)
    known = lengths[np.isfinite(lengths)]
    hips, shoulders = point(points, "hips"), point(points, "shoulders")
    place = np.where(np.isfinite(hips), hips, shoulders)
    if len(known) < _MIN_SEEN * len(points) or not len(known):
        return float("nan"), place
    length = float(np.quantile(known, 0.8))
    return (length if length > 0 else float("nan")), place


def _bridged(points: Array) -> Array:
    """Gaps of up to _MAX_GAP_SECONDS on straight lines between their ends."""
    rows = np.arange(len(points))[:, None]
    is_seen = np.isfinite(points[..., 0])
    before = np.maximum.accumulate(np.where(is_seen, rows, -1), axis=0)
    after = np.minimum.accumulate(np.where(is_seen, rows, len(points))[::-1], axis=0)[::-1]
    is_bridge = ~is_seen & (before >= 0) & (after < len(points))
    is_bridge &= after - before <= _MAX_GAP_SECONDS * RATE
    at, column = np.nonzero(is_bridge)
    first, last = before[at, column], after[at, column]
    share = ((at - first) / np.maximum(last - first, 1))[:, None]
    bridged = points.copy()
    bridged[at, column] = (1 - share) * points[first, column] + share * points[last, column]
    return bridged


def _smoothed(points: Array) -> Array:
    """Lone spikes and jitter taken out; what is missing stays missing."""
    from scipy.ndimage import correlate1d, median_filter  # type: ignore[import-untyped]

    is_seen = np.isfinite(points)
    filled = np.where(is_seen, points, 0)
    calm = median_filter(filled, size=(3, 1, 1), mode="nearest")
    has_both = correlate1d(is_seen.astype(float), np.ones(3), axis=0, mode="nearest") > 2.5
    filled = np.where(has_both, calm, filled)
    width = _SMOOTH_SECONDS * RATE
    steps = np.arange(-int(3 * width), int(3 * width) + 1)
    bell = np.exp(-0.5 * (steps / width) ** 2)
    total = correlate1d(filled * is_seen, bell, axis=0, mode="constant")
    weight = correlate1d(is_seen.astype(float), bell, axis=0, mode="constant")
    with np.errstate(invalid="ignore"):
        return np.where(is_seen, total / weight, np.nan)
