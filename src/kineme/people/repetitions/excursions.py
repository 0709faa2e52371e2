"""Where a movement leaves a pose and comes back, again and again.

Promises: a repetition is counted whole, from rest over its far point back to rest, whatever its
tempo and with pauses anywhere; movements unlike the others are left out; where no movement is
large enough or done twice there are none.
Method: principal components of the body's signals; in each, turns that exceed half of the usual
stroke (so neither drift nor jitter counts); each stretch between turns is held, phase by phase,
against the median of all. The component and direction whose stretches are most alike is taken.
Leaves out: the signals (body_signals.py), what is told of repetitions (search.py).

Shapes: T moments, F signals, R repetitions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.people.repetitions.body_signals import RATE

Array = NDArray[np.float64]

MIN_STROKE = 10.0  # degrees of root mean square over signals that move: less is swaying
MIN_LIKENESS = 0.35
_MIN_LIKENESS_BESIDE = 0.1
_LIKE_ENOUGH = 0.4  # between two directions of one component, beyond which more counts more
_MIN_MEAN_LIKENESS, _MORE_IF_FEW = 0.35, 0.4
_NUM_COMPONENTS = 3
_MIN_SHARE = 0.12  # of the whole movement
_NUM_ALIKE = 4
_JITTER = 0.1
_NEAR, _SLOW, _MORE_IN_TURNS = 0.35, 0.8, 1.6
_STEP, _START = round(0.4 * RATE), round(0.4 * RATE)
_LEVEL = 0.1  # of a stroke, above which rest is left
_PHASES = 12  # of each stroke
_MIN_SECONDS = 0.3
_MAX_SECONDS = 15.0


@dataclass(frozen=True, eq=False)
class Excursions:
    """Repetitions found: starts, turns, ends (R,) as moments; likeness (R,) to the usual one, in
    [0, 1]. margin: how clearly strokes differ from what is too
    small to count, in [0, 1]. share: of the whole movement that lies in the component."""

    starts: NDArray[np.int64]
    turns: NDArray[np.int64]
    ends: NDArray[np.int64]
    likeness: Array
    margin: float
    share: float

    def __len__(self) -> int:
        return len(self.starts)


NONE = Excursions(*(np.zeros(0, np.int64),) * 3, np.zeros(0), 0.0, 0.0)


def find_excursions(signals: Array) -> Excursions:
    """The repetitions in (T, F) signals at RATE that are most alike; NONE where there are none."""
    if min(signals.shape) == 0 or len(signals) < 2 * _MIN_SECONDS * RATE:
        return NONE
    signals = signals * _clearness(signals)
    axes, power = _axes(signals)
    calm = (signals - signals.mean(axis=0)) @ axes
    best, best_score = NONE, 0.0
    for component, share in zip(calm.T[:_NUM_COMPONENTS], power.tolist(), strict=False):
        if share < _MIN_SHARE:  # what bends the main movement turns twice as often
            break
        found = [_in_direction(sign * component, calm, share) for sign in (1, -1)]
        one = max(found, key=_weight)
        if len(one) and (score := _score(one)) > best_score:
            best, best_score = one, score
    return _in_turns(calm, best, float(power[: calm.shape[1]].sum()))


def _clearness(signals: Array) -> Array:
    """(F,) weights that fall where a signal jitters more than movements of a second do."""
    jitter = np.diff(signals, n=2, axis=0).std(axis=0)
    step = (signals[_STEP:] - signals[:-_STEP]).std(axis=0)
    return np.asarray(1 / (1 + (jitter / np.maximum(_JITTER * step, 1e-9)) ** 2))


def _axes(signals: Array) -> tuple[Array, Array]:
    """(F, K) directions in which most is moved, and their shares (K,) of it. What is moved once
    and stays so weighs little."""
    steps = signals[_STEP:] - signals[:-_STEP]
    power, axes = np.linalg.eigh(steps.T @ steps)
    order = np.argsort(power)[::-1][:_NUM_ALIKE]
    return axes[:, order], np.maximum(power[order], 0) / max(float(power.sum()), 1e-9)


def _score(found: Excursions) -> float:
    mean = float(found.likeness.mean())
    return float(mean * found.share**0.5 * min(len(found), 4))


def _in_turns(calm: Array, best: Excursions, share: float) -> Excursions:
    """`best`, unless far more leave one pose in different ways: left and right in turns.

    A pose that is passed in full motion is the middle of a movement, not its beginning.
    """
    speed = np.linalg.norm(np.gradient(calm, axis=0), axis=1)
    most, found = max(_MORE_IN_TURNS * _weight(best), 3 * _LIKE_ENOUGH), best
    for rest in _rest_poses(calm, speed):
        one = _in_direction(np.linalg.norm(calm - rest, axis=1), calm, share)
        if not len(one) or _weight(one) < most:
            continue
        passing = np.median(speed[np.concatenate([one.starts, one.ends])])
        spans = zip(one.starts, one.ends, strict=True)
        moving = np.median(np.concatenate([speed[start:end] for start, end in spans]))
        if passing < _SLOW * moving:
            most, found = _weight(one), one
    return found


def _rest_poses(calm: Array, speed: Array) -> list[Array]:
    """Poses (K,) that movements may begin with: at the beginning, in the middle of the main
    component, and where the body is slow most often."""
    middle = np.abs(calm[:, 0] - np.quantile(calm[:, 0], (0.1, 0.9)).mean())
    poses = [calm[:_START], calm[middle <= np.quantile(middle, 0.1)]]
    slow = np.flatnonzero((speed[1:-1] <= speed[:-2]) & (speed[1:-1] < speed[2:])) + 1
    if len(slow) >= 3:
        apart = np.linalg.norm(calm[slow][:, None] - calm[slow][None], axis=-1)
        near = _NEAR * np.quantile(np.linalg.norm(calm - np.median(calm, axis=0), axis=1), 0.9)
        poses.append(calm[slow[apart[(apart <= near).sum(axis=1).argmax()] <= near]])
    return [np.median(pose, axis=0) for pose in poses]


def _weight(found: Excursions) -> float:
    """How many there are, those that are hardly alike in part."""
    return float(np.minimum(found.likeness, _LIKE_ENOUGH).sum())


def _in_direction(signal: Array, centred: Array, share: float) -> Excursions:
    """Excursions towards higher values of one component."""
    turns, margin = _turns(signal)
    first = 0 if len(turns) > 1 and signal[turns[0]] < signal[turns[1]] else 1
    rests, tops = turns[first::2], turns[first + 1 :: 2]
    num = min(len(tops), len(rests) - 1)
    if num < 2:
        return NONE
    tops = tops[:num]
    spans = [_span(signal, *at) for at in zip(rests[:num], tops, rests[1:], strict=False)]
    starts, ends = (np.array(column, dtype=np.int64) for column in zip(*spans, strict=True))
    likeness = _likeness(centred, starts, tops, ends)
    seconds = (ends - starts) / RATE
    keep = _kept(likeness, (seconds >= _MIN_SECONDS) & (seconds <= _MAX_SECONDS))
    num = int(keep.sum())
    if num < 2 or likeness[keep].mean() < _MIN_MEAN_LIKENESS + _MORE_IF_FEW / num:
        return NONE
    return Excursions(starts[keep], tops[keep], ends[keep], likeness[keep], margin, share)


def _turns(signal: Array) -> tuple[NDArray[np.int64], float]:
    """Moments at which the signal turns for good, and how clear that is."""
    low, high = np.quantile(signal, (0.05, 0.95))
    floor = max(MIN_STROKE, 0.25 * float(high - low))
    turns = _zigzag(signal, floor)
    strokes = np.abs(np.diff(signal[turns]))
    if not len(strokes):
        return turns, 0.0
    usual = _middle_of_weight(strokes)
    threshold = max(0.5 * usual, MIN_STROKE)
    turns = _zigzag(signal, threshold)
    every = np.abs(np.diff(signal[_zigzag(signal, 0.1 * usual)]))
    clear = np.abs(np.log2(np.maximum(every, 1e-9) / threshold))
    return turns, float(min(clear.min(initial=1.0), 1.0))


def _zigzag(signal: Array, threshold: float) -> NDArray[np.int64]:
    """Moments of lows and highs in turn, each at least `threshold` from the one before."""
    values = signal.tolist()
    low = high = 0
    turns: list[int] = []
    way = 0  # 1 while rising, -1 while falling
    for i, value in enumerate(values):
        if value > values[high]:
            high = i
        if value < values[low]:
            low = i
        if way >= 0 and values[high] - value >= threshold:
            turns.append(high)
            way, low = -1, i
        elif way <= 0 and value - values[low] >= threshold:
            turns.append(low)
            way, high = 1, i
    if way:
        turns.append(high if way > 0 else low)
    return np.array(turns, dtype=np.int64)


def _middle_of_weight(strokes: Array) -> float:
    """The stroke below which lies half of all movement."""
    ordered = np.sort(strokes)
    total = np.cumsum(ordered)
    return float(ordered[np.searchsorted(total, total[-1] / 2)])


def _span(signal: Array, rest: int, top: int, next_rest: int) -> tuple[int, int]:
    """When rest is left before `top` and reached after it."""
    rise, fall = signal[rest : top + 1], signal[top : next_rest + 1]
    left = np.flatnonzero(rise <= signal[rest] + _LEVEL * (signal[top] - signal[rest]))[-1]
    level = signal[next_rest] + _LEVEL * (signal[top] - signal[next_rest])
    back = np.flatnonzero(fall <= level)[0]
    return int(rest + left), int(top + back)


def _likeness(
    centred: Array, starts: NDArray[np.int64], tops: NDArray[np.int64], ends: NDArray[np.int64]
) -> Array:
    """(R,) of each stretch to the two others most like it, phase by phase in K components."""
    if len(starts) < 2:
        return np.zeros(len(starts))
    phases = np.linspace(0, 1, _PHASES)[:, None]
    at = np.concatenate([starts + phases * (tops - starts), tops + phases * (ends - tops)])
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, len(centred) - 1)
    share = (at - below)[..., None]
    paths = (1 - share) * centred[below] + share * centred[above]  # (phases, R, K)
    paths = paths.transpose(1, 0, 2)
    spread = ((paths - paths.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    off = ((paths[:, None] - paths[None]) ** 2).sum(axis=(2, 3))
    alike = 1 - np.sqrt(off / np.maximum(np.maximum(spread[:, None], spread[None]), 1e-9))
    np.fill_diagonal(alike, -np.inf)
    nearest = np.sort(alike, axis=1)[:, ::-1][:, : 1 if len(starts) < 6 else 2]
    return np.asarray(np.clip(nearest.mean(axis=1), 0, 1))


def _kept(likeness: Array, is_possible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those that are like others, and those beside them that are so in part."""
    keep = is_possible & (likeness >= MIN_LIKENESS)
    may = is_possible & (likeness >= _MIN_LIKENESS_BESIDE)
    for order in (range(1, len(keep)), range(len(keep) - 2, -1, -1)):
        step = 1 if order.step < 0 else -1
        for i in order:
            keep[i] |= may[i] and keep[i + step]
    return keep
