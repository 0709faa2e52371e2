"""What is told while an analysis runs: events as plain values, in the order in which they happen.

Promises: a label that is another than before is told with the frame that shows it, a segment when
it is over, repetitions and verdicts within half a second of when they are known.
Leaves out: where events go, and their final form (results.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kineme.people.follower import Step
from kineme.people.repetitions.counting import LiveCounts
from kineme.people.results import plain_segment
from kineme.people.segments import Segment
from kineme.people.streams import StreamEvent
from kineme.people.timeline import Timeline

Tell = Callable[[Mapping[str, Any]], None]


class LiveEvents:
    """tell: gets the events. counts: of repetitions, None where nobody counts."""

    def __init__(self, tell: Tell, timeline: Timeline, counts: LiveCounts | None) -> None:
        self._tell, self._timeline, self._counts = tell, timeline, counts
        self._labels: dict[int, str] = {}

    def frame(self, step: Step) -> None:
        """A frame was looked at."""
        for id_, _ in step.found:
            label, probability = self._timeline.latest(id_)
            if label and self._labels.get(id_) != label:
                self._labels[id_] = label
                self._tell(
                    {
                        "event": "label", "person": id_, "label": label,
                        "probability": probability, "seconds": step.poses.seconds,
                    }
                )  # fmt: skip
        here = self._timeline.people
        for gone in self._labels.keys() - here:
            del self._labels[gone]
        if self._counts is not None:
            self._counts.update(step.poses.seconds, step.found, here)

    def over(self, segments: Sequence[Segment]) -> None:
        """These segments will not change any more."""
        for segment in segments:
            self._tell({"event": "segment", **plain_segment(segment)})

    def happened(self, event: StreamEvent) -> None:
        """Something happened to the stream."""
        values = dataclasses.asdict(event)
        self._tell({"event": values.pop("kind"), **values})

    def finish(self) -> None:
        """No frame comes any more."""
        if self._counts is not None:
            self._counts.finish()
