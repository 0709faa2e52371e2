"""From probabilities over time to segments of one label each.

Promises: a label is entered above one threshold and left below another, lower one, so that it does
not flicker; what lasts shorter than `min_seconds` belongs to its neighbour; segments follow each
other without a gap; what is none of the classes is `unknown`, if it lasts: where one label follows
another, windows see both and are sure of neither, which is no third thing.
Leaves out: where probabilities come from (timeline.py).

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from kineme.people.tracking.smoothing import SLACK_SECONDS

UNKNOWN = "unknown"
NO_PERSON = "no person"
PERSON = "person"  # seen, where there is no model to say what they do


@dataclass(frozen=True)
class SegmentSettings:
    """min_probability: from which a label is entered; below it nothing is known. keep_probability:
    down to which it is kept. min_seconds: how long a label has to last. min_unknown_seconds: the
    same of `unknown` between two labels; a timeline takes its window where that is longer."""

    min_probability: float = 0.5
    keep_probability: float = 0.35
    min_seconds: float = 0.5
    min_unknown_seconds: float = 0.5


@dataclass(frozen=True)
class Segment:
    """What somebody does from `start` to `end`, in seconds. person: the id, 0 for nobody.
    probability: the mean over the time; None where there is none to tell."""

    person: int
    label: str
    probability: float | None
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Cell:
    """A stretch of time; probabilities (K,), None where nothing was said; is_seen: the person."""

    start: float
    end: float
    probabilities: NDArray[np.float64] | None
    is_seen: bool


@dataclass
class _Run:
    """Cells of one label. total: (K,) probabilities times seconds, of `seconds` in all. doubtful:
    the cells of an unknown run that may yet belong to its neighbours."""

    label: str
    start: float
    end: float
    total: NDArray[np.float64]
    seconds: float = 0.0
    doubtful: list[Cell] = field(default_factory=list)

    def add(self, cell: Cell) -> None:
        self.end = cell.end
        if cell.probabilities is not None:
            self.total = self.total + cell.probabilities * (cell.end - cell.start)
            self.seconds += cell.end - cell.start

    def absorb(self, later: _Run) -> None:
        self.end, self.total = later.end, self.total + later.total
        self.seconds += later.seconds


class Decider:
    """The segments of one person, as cells come."""

    def __init__(self, person: int, names: tuple[str, ...], settings: SegmentSettings) -> None:
        self.person, self.names, self.settings = person, names, settings
        self._held: _Run | None = None  # lasted long enough
        self._early: _Run | None = None  # before the first that did
        self._next: _Run | None = None  # may last long enough

    def add(self, cell: Cell) -> Iterator[Segment]:
        """The segment that is over with this cell, if one is."""
        label = self._label(cell)
        if self._held is not None and self._next is None and label == self._held.label:
            self._held.add(cell)
            return
        later: list[Cell] = []
        if self._next is not None and label != self._next.label:
            later = self._part_doubtful(label)
            self._give_up_next()
            if self._held is not None and label == self._held.label:
                self._held.add(cell)
                return
        if self._next is None:
            self._next = self._new_run(label, later[0].start if later else cell.start)
        for one in (*later, cell):
            self._next.add(one)
        if self._is_between_labels:
            self._next.doubtful.append(cell)
        if self._next.end - self._next.start >= self._min_seconds - SLACK_SECONDS:
            yield from self._enter_next()

    def finish(self, end: float) -> Iterator[Segment]:
        """The segments that are left, none beyond `end`."""
        if self._held is None and self._next is not None:
            yield from self._enter_next(is_brief=True)
        elif self._next is not None:
            self._give_up_next()
        if self._held is not None:
            segment = self._segment(self._held)
            yield replace(segment, end=min(segment.end, end))
        self._held = self._next = None

    @property
    def pending_since(self) -> float | None:
        """From when on it is not decided yet; None where all that came is."""
        early = self._early or self._next
        return early.start if early else None

    @property
    def current(self) -> tuple[str, float | None]:
        """Label and probability of the last that is decided."""
        run = self._held
        return (run.label, self._probability(run)) if run else ("", None)

    @property
    def latest(self) -> tuple[str, float | None]:
        """Label and probability of the last that came, whether it lasts or not."""
        run = self._next or self._held
        return (run.label, self._probability(run)) if run else ("", None)

    def _label(self, cell: Cell) -> str:
        if not cell.is_seen:
            return NO_PERSON
        if cell.probabilities is None:
            return UNKNOWN
        best = int(cell.probabilities.argmax())
        run = self._next or self._held
        if run is not None and run.label in self.names:
            held = self.names.index(run.label)
            is_beaten = best != held and cell.probabilities[best] >= self.settings.min_probability
            if cell.probabilities[held] >= self.settings.keep_probability and not is_beaten:
                return run.label
        if cell.probabilities[best] >= self.settings.min_probability:
            return self.names[best]
        return UNKNOWN

    @property
    def _is_between_labels(self) -> bool:
        """Whether what may last is unknown, after something that was known."""
        held = self._held is not None and self._held.label in self.names
        return held and self._next is not None and self._next.label == UNKNOWN

    @property
    def _min_seconds(self) -> float:
        settings = self.settings
        longer = settings.min_unknown_seconds if self._is_between_labels else 0.0
        return max(settings.min_seconds, longer)

    def _part_doubtful(self, label: str) -> list[Cell]:
        """The last cells of an unknown run that go with `label`, which comes now: from the first
        in which it is likelier than what was held before. The others stay in the run."""
        if self._held is None or self._next is None or not self._is_between_labels:
            return []
        cells = self._next.doubtful
        if label not in self.names or label == self._held.label:
            return []
        new, old = self.names.index(label), self.names.index(self._held.label)
        is_later = [
            cell.probabilities is not None
            and bool(cell.probabilities[new] > cell.probabilities[old])
            for cell in cells
        ]
        first = is_later.index(True) if any(is_later) else len(cells)
        self._next = self._new_run(UNKNOWN, cells[0].start)
        for cell in cells[:first]:
            self._next.add(cell)
        if not first:
            self._next = None
        return cells[first:]

    def _new_run(self, label: str, start: float) -> _Run:
        return _Run(label, start, start, np.zeros(len(self.names)))

    def _give_up_next(self) -> None:
        """What did not last belongs to what is held, or to what is held first."""
        if self._next is None:
            return
        if self._held is not None:
            self._held.absorb(self._next)
        elif self._early is not None:
            self._early.absorb(self._next)
        else:
            self._early = self._next
        self._next = None

    def _enter_next(self, *, is_brief: bool = False) -> Iterator[Segment]:
        run = self._next
        if run is None:
            return
        if self._held is not None:
            yield self._segment(self._held)
        if self._early is not None:
            label = run.label
            self._early.absorb(run)
            run, self._early = self._early, None
            run.label = label
            if is_brief and run.seconds:  # nothing lasted: the mean decides
                self._next = None
                mean = Cell(run.start, run.end, run.total / run.seconds, is_seen=True)
                run.label = self._label(mean)
        self._held, self._next = run, None

    def _probability(self, run: _Run) -> float | None:
        if run.label == NO_PERSON:
            return None
        if not run.seconds:
            return 0.0
        mean = run.total / run.seconds
        at = self.names.index(run.label) if run.label in self.names else int(mean.argmax())
        return float(mean[at])

    def _segment(self, run: _Run) -> Segment:
        return Segment(self.person, run.label, self._probability(run), run.start, run.end)
