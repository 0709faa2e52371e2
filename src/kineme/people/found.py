"""What an analysis has found, and in what.

Leaves out: the files it becomes (results.py, page.py).
"""

from dataclasses import dataclass

from kineme.people.repetitions.counting import PersonCount
from kineme.people.repetitions.form_rules import FormRule
from kineme.people.segments import Segment
from kineme.people.streams import StreamEvent


@dataclass(frozen=True)
class Facts:
    """What was looked at, and how. num_frames: looked at; num_dropped: of a stream, left out;
    num_ignored: sights too unsure to be followed. num_persons: that a window holds. threshold: of
    familiarity, below which a window is unknown. estimate_seconds: spent in the estimator.
    cautions: what to know before all this is relied on."""

    source: str
    width: int
    height: int
    fps: float
    num_frames: int
    seconds: float
    num_dropped: int
    num_ignored: int
    damage: str
    estimator: str
    layout: str
    checkpoint: str
    class_names: tuple[str, ...]
    window_seconds: float
    stride_seconds: float
    num_persons: int
    min_probability: float
    threshold: float | None
    wall_seconds: float
    estimate_seconds: float
    has_video: bool
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """segments: by person and time, nobody (person 0) last. counts: of everybody by rising id,
    None where nobody counted. rules: what repetitions were held against."""

    facts: Facts
    segments: tuple[Segment, ...]
    events: tuple[StreamEvent, ...]
    counts: tuple[PersonCount, ...] | None = None
    rules: tuple[FormRule, ...] = ()

    @property
    def people(self) -> tuple[int, ...]:
        return tuple(sorted({one.person for one in self.segments} - {0}))
