"""How often somebody does the same movement, whatever it is; how fast, how far, how surely.

Promises: a count is of whole repetitions, there and back, on one spot: standing, walking off and
movements done once count as none; left and right in turns count one by one; a live counter says
after any frame what the whole video up to that frame gives; memory is bounded.
Method: signals of the body at an even rate (body_signals.py), excursions from a pose that are
alike (excursions.py). A series ends where nothing moves or nobody is seen for six seconds.
Leaves out: which exercise it is, and how well it is done (form_rules.py).

Shapes: T frames, V joints, C axes (2: x right, y down, in any unit; 3: with depth).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kineme.people.repetitions.body_signals import RATE, BodySignals, body_signals
from kineme.people.repetitions.excursions import NONE, Excursions, find_excursions
from kineme.people.repetitions.joint_angles import (
    BENDS,
    bend,
    point_columns,
    points_of,
    refuse_others,
    trunk_lean,
)

Array = NDArray[np.float64]

IDLE_SECONDS = 6.0  # without movement, after which a series is over
LONGEST_SECONDS = 120.0  # of what is looked at in one go
_NUM_ENDS = 4  # of what is looked at, within its last repetition, that are tried
_KEPT_SECONDS = 1.0  # of what is over, so that a new series has a beginning
_IDLE = 0.35  # of the body's spread, within which its points stay while nothing moves
_SWAYING = 0.6  # likewise of somebody who stands, but may be doing something very slowly
_CHECK_ROWS = 15  # between two looks whether anything moves
_MARGIN_SECONDS = 0.3  # around a series, which belong to it
_MIN_SEEN_SHARE = 0.5
_BASE, _BY_LIKENESS, _BY_MARGIN = -5.99, 8.59, 4.48  # of confidence
_SURE_OF_NONE = 0.8  # where something moves and does not repeat
_MAX_STEP_TRUNKS = 0.3  # from one repetition to the next, on one spot
_MAX_GROWTH = 0.05  # of the logarithm of size, likewise
_MIN_REST_SECONDS = 5.0  # of a stretch beside a series that is looked at for another
_MAX_DEPTH = 3


@dataclass(frozen=True)
class Repetition:
    """One movement there and back, in seconds of the video: it begins at `start`, is farthest at
    `turn`, is back at `end`. ranges: degrees that each main angle went through, where seen."""

    start: float
    turn: float
    end: float
    likeness: float
    ranges: Mapping[str, float] = field(default_factory=dict)

    @property
    def duration_seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Series:
    """Repetitions of one movement in a row. confidence: in [0, 1], that their number is exact."""

    repetitions: tuple[Repetition, ...]
    confidence: float

    @property
    def count(self) -> int:
        return len(self.repetitions)

    @property
    def tempo(self) -> float:
        """Repetitions in a minute, by the usual time from one turn to the next."""
        turns = [repetition.turn for repetition in self.repetitions]
        return 60 / float(np.median(np.diff(turns)))

    @property
    def ranges(self) -> dict[str, float]:
        """Usual degrees that each main angle goes through, where it is seen."""
        names = dict.fromkeys(name for one in self.repetitions for name in one.ranges)
        return {
            name: float(np.median([r.ranges[name] for r in self.repetitions if name in r.ranges]))
            for name in names
        }


@dataclass(frozen=True)
class Repetitions:
    """What somebody repeated, by time. confidence: in [0, 1], that the count is exact."""

    series: tuple[Series, ...]
    confidence: float

    @property
    def count(self) -> int:
        return sum(one.count for one in self.series)


def count_repetitions(
    joints: NDArray[np.floating], seconds: NDArray[np.floating], layout: str | Sequence[str]
) -> Repetitions:
    """Repetitions of one person.

    joints: (T, V, C), NaN where not seen. seconds: (T,) rising, at any steps. layout: the name of
    a known layout, or the names of the joints. Raises ValueError where time goes back, and where
    the layout is not known or not that of the joints.
    """
    counter = RepetitionCounter(layout)
    for now, row in zip(np.asarray(seconds).tolist(), joints, strict=True):
        counter.update(now, row)
    return counter.result()


class RepetitionCounter:
    """Counts one person's repetitions frame by frame; memory does not grow with the video.

    `result()` after any frame is what `count_repetitions` gives for the frames so far. A
    repetition is counted when it is over, the first with the second.
    """

    def __init__(self, layout: str | Sequence[str]) -> None:
        self._layout, self._columns = layout, point_columns(layout)
        self._first = math.nan  # seconds of the first frame, where moment 0 is
        self._last = -math.inf
        self._offset = 0  # moment of the first row that is kept
        self._rows: list[Array] = []  # (P, C) a moment
        self._sum = self._number = np.zeros((0, 0))  # of the last row
        self._done: list[Series] = []
        self._sure_of_none = 1.0

    def update(self, seconds: float, joints: NDArray[np.floating]) -> None:
        """Take in the (V, C) joints of the next frame.

        Raises ValueError where time goes back, or the joints are not those of the layout.
        """
        if not self._last < seconds < math.inf:
            raise ValueError(f"{seconds} s does not come after {self._last} s")
        refuse_others(joints, self._layout)
        points = points_of(joints[None], self._columns)[0]
        if not self._rows:
            self._first = seconds
            self._begin_moment(points.shape)
        moment = int((seconds - self._first) * RATE + 0.5)
        if moment - self._offset - len(self._rows) > LONGEST_SECONDS * RATE:
            self._skip_to(moment)
        while self._offset + len(self._rows) <= moment:
            self._end_moment()
            self._begin_moment(points.shape)
        self._last = seconds
        is_seen = np.isfinite(points)
        self._sum[is_seen] += points[is_seen]
        self._number += is_seen

    def result(self) -> Repetitions:
        """Everything counted so far."""
        found, sure_of_none = self._found_now()
        series = (*self._done, *found)
        sure = math.prod(one.confidence for one in series)
        return Repetitions(series, sure * min(self._sure_of_none, sure_of_none))

    def _begin_moment(self, shape: tuple[int, ...]) -> None:
        self._sum, self._number = np.zeros(shape), np.zeros(shape)
        self._rows.append(np.full(shape, np.nan))

    def _end_moment(self) -> None:
        """The last row becomes the mean of its frames; a series may be over with it."""
        self._rows[-1] = self._mean()
        num_idle, num_rows = round(IDLE_SECONDS * RATE), len(self._rows)
        if num_rows >= LONGEST_SECONDS * RATE:
            self._close_part()
            return
        is_due = num_rows >= num_idle and num_rows % _CHECK_ROWS == 0
        if is_due and is_still(np.stack(self._rows[-num_idle:]), _IDLE):
            self._close(num_rows - round(_KEPT_SECONDS * RATE))

    def _skip_to(self, moment: int) -> None:
        """Nobody was seen for so long that the moments between need not be gone through."""
        self._end_moment()
        self._close(len(self._rows))
        self._offset = moment
        self._begin_moment(self._sum.shape)

    def _close_part(self) -> None:
        """What is looked at is over, though the movement goes on.

        Its end lies anywhere in a repetition, and one that breaks off there may be told from the
        wrong side: from bottom to bottom, which leaves half a one before the first. So some other
        ends are tried, and the one with which the last series begins earliest is taken.
        """
        found, sure_of_none = self._found_now()
        half = len(self._rows) // 2
        if not found:
            self._close(half)
            return
        points = np.stack(self._rows)
        period = round(float(np.median([r.duration_seconds for r in found[-1].repetitions])) * RATE)
        tried = [found]
        for part in range(1, _NUM_ENDS):
            end = len(points) - part * period // _NUM_ENDS
            tried.append(find_series(points[:end], self._first + self._offset / RATE)[0])
        alike = [one for one in tried if len(one) == len(found)]
        best = min(alike, key=lambda one: one[-1].repetitions[0].start)
        row = round((best[-1].repetitions[-1].end - self._first) * RATE) - self._offset + 1
        self._end_with(best, sure_of_none, keep_from=max(row, half))

    def _close(self, keep_from: int) -> None:
        self._end_with(*self._found_now(), keep_from=keep_from)

    def _end_with(self, found: Sequence[Series], sure_of_none: float, *, keep_from: int) -> None:
        self._done += found
        self._sure_of_none = min(self._sure_of_none, sure_of_none)
        self._offset += keep_from
        self._rows = self._rows[keep_from:]

    def _mean(self) -> Array:
        return np.where(self._number > 0, self._sum / np.maximum(self._number, 1), np.nan)

    def _found_now(self) -> tuple[tuple[Series, ...], float]:
        if not self._rows:
            return (), 0.0
        points = np.stack([*self._rows[:-1], self._mean()])
        return find_series(points, self._first + self._offset / RATE)


def find_series(points: Array, start: float) -> tuple[tuple[Series, ...], float]:
    """Series in (T, P, C) points at RATE from `start` seconds on; where there are none, how sure
    that is."""
    found = _search(points, 0, _MAX_DEPTH)
    if found:
        return tuple(_told(first, one, body, start) for first, one, body in found), 1.0
    seen = float(np.isfinite(points[..., 0]).any(axis=1).mean())
    return (), seen * (1.0 if is_still(points, _SWAYING) else _SURE_OF_NONE)


def is_still(points: Array, within: float) -> bool:
    """Whether no point of (T, P, C) goes farther than `within` spreads of the body, or nobody is
    seen."""
    points = points[: len(points) // 5 * 5, :, :2]
    groups = points.reshape(len(points) // 5, 5, *points.shape[1:])
    is_seen = np.isfinite(groups)
    number = is_seen.sum(axis=1)
    means = np.where(is_seen, groups, 0).sum(axis=1) / np.maximum(number, 1)
    is_known = number[..., 0] > 0
    if not is_known.any():
        return True
    middle = means[is_known].mean(axis=0)
    size = float(np.sqrt(((means[is_known] - middle) ** 2).sum(axis=-1).mean()))
    high = np.where(number > 0, means, -np.inf).max(axis=0)
    low = np.where(number > 0, means, np.inf).min(axis=0)
    is_point = is_known.any(axis=0)
    return bool((np.linalg.norm((high - low)[is_point], axis=-1) < within * size).all())


_Found = tuple[int, Excursions, BodySignals]


def _search(points: Array, first: int, depth: int) -> list[_Found]:
    """The main series of a stretch, and others before and after it."""
    body = body_signals(points)
    found = _on_the_spot(find_excursions(body.signals), body)
    if not len(found):
        return []
    series: list[_Found] = [(first, found, body)]
    if depth:
        margin = round(_MARGIN_SECONDS * RATE)
        begin, end = max(int(found.starts[0]) - margin, 0), int(found.ends[-1]) + margin
        for stretch, at in ((points[:begin], first), (points[end:], first + end)):
            if len(stretch) >= _MIN_REST_SECONDS * RATE:
                series += _search(stretch, at, depth - 1)
    return sorted(series, key=lambda one: one[0] + int(one[1].starts[0]))


def _on_the_spot(found: Excursions, body: BodySignals) -> Excursions:
    """`found`, unless somebody moves on with every repetition."""
    if len(found) < 2:
        return NONE
    first, last, steps = found.starts[0], found.starts[-1], len(found) - 1
    step = np.linalg.norm((body.place[last] - body.place[first])[:2]) / steps
    growth = abs(body.size[last] - body.size[first]) / steps
    return NONE if step > _MAX_STEP_TRUNKS or growth > _MAX_GROWTH else found


def confidence_of(found: Excursions) -> float:
    """In [0, 1], that the number of repetitions is exact.

    A logistic curve fitted to made-up exercises, easy and hard (docs/repetitions.md).
    """
    score = _BASE + _BY_LIKENESS * float(found.likeness.mean()) + _BY_MARGIN * found.margin
    return 1 / (1 + math.exp(-score))


def _told(first: int, found: Excursions, body: BodySignals, start: float) -> Series:
    begin = start + first / RATE
    repetitions = []
    for start_at, turn, end, alike in zip(
        found.starts.tolist(), found.turns.tolist(), found.ends.tolist(), found.likeness.tolist(),
        strict=True,
    ):  # fmt: skip
        one = Repetition(
            start=begin + start_at / RATE,
            turn=begin + turn / RATE,
            end=begin + end / RATE,
            likeness=alike,
            ranges=_ranges(body.points[start_at : end + 1]),
        )
        repetitions.append(one)
    return Series(tuple(repetitions), confidence_of(found))


def _ranges(points: Array) -> dict[str, float]:
    """Degrees that each main angle goes through, of those seen half of the time."""
    angles = {name: bend(points, name) for name in BENDS} | {"trunk_lean": trunk_lean(points)}
    return {
        name: float(np.nanmax(angle) - np.nanmin(angle))
        for name, angle in angles.items()
        if np.isfinite(angle).mean() >= _MIN_SEEN_SHARE
    }
