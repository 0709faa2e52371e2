"""Repetitions of everybody in a video, and what rules of form say of each of them.

Promises: at the end everybody is counted from their whole track, a file and a stream alike; live,
what was told last is what the end says of the same frames; memory is that of a few minutes of each
person in sight, however long the video. Angles are those of the picture: the depth that estimators
guess from one camera bends straight knees by half.
Method: live, everybody is asked about every `ASK_SECONDS` of the video, which takes tens of
milliseconds each. What a repetition begins with may be known later only (search.py), so a
count that was told may be taken back, and a verdict is of what was seen by then.
Leaves out: how repetitions are found (search.py) and judged (form_rules.py).

Shapes: T frames, V joints, C axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.tracks import Track, Tracks
from kineme.people.poses import PersonPose
from kineme.people.repetitions.form_rules import MARGIN_SECONDS, FormRule, Judgement, judge
from kineme.people.repetitions.search import Repetition, RepetitionCounter, Repetitions

ASK_SECONDS = 0.5
_KEPT_SECONDS = 45.0  # the longest repetition, a pause, the next one: then both are told


@dataclass(frozen=True)
class PersonCount:
    """What somebody repeated. judgements: what the rules say of each repetition, which are
    numbered from 1 through all series; empty without rules."""

    person: int
    found: Repetitions
    judgements: tuple[tuple[Judgement, ...], ...]

    def judged(self, repetition: int) -> tuple[Judgement, ...]:
        """What the rules say of one."""
        return self.judgements[repetition - 1] if self.judgements else ()


def count_people(tracks: Tracks, rules: Sequence[FormRule] = ()) -> tuple[PersonCount, ...]:
    """Everybody's repetitions, by rising id."""
    return tuple(count_track(track, tracks.joint_names, rules) for track in tracks.tracks)


def count_track(track: Track, layout: Sequence[str], rules: Sequence[FormRule] = ()) -> PersonCount:
    """One person's repetitions; rows are read one by one, so that they may lie on the disk."""
    counter = RepetitionCounter(layout)
    for seconds, joints in zip(track.seconds, track.joints, strict=True):
        counter.update(float(seconds), _in_picture(joints))
    found, judgements = counter.result(), list[tuple[Judgement, ...]]()
    for series in found.series if rules else ():
        number = len(judgements)
        first, last = series.repetitions[0].start, series.repetitions[-1].end
        begin, end = np.searchsorted(track.seconds, [first - MARGIN_SECONDS, last + MARGIN_SECONDS])
        judged = judge(
            rules, series.repetitions, _in_picture(track.joints[begin:end]),
            track.seconds[begin:end], layout=layout, since=float(track.seconds[0]),
        )  # fmt: skip
        numbered = [replace(one, repetition=one.repetition + number) for one in judged]
        judgements += _by_repetition(numbered, len(rules))
    return PersonCount(track.id, found, tuple(judgements))


def _in_picture(joints: NDArray[np.float32]) -> NDArray[np.float32]:
    """(..., V, C) -> (..., V, 2): without depth."""
    return joints[..., :2]


def _by_repetition(judgements: Sequence[Judgement], size: int) -> Iterator[tuple[Judgement, ...]]:
    """Groups of `size`, one after the other."""
    for start in range(0, len(judgements), size):
        yield tuple(judgements[start : start + size])


def plain_verdict(one: Judgement) -> dict[str, Any]:
    """A judgement as files and streams tell it."""
    return {
        "rule": one.rule,
        "verdict": one.verdict,
        "degrees": round(one.degrees, 1) if one.verdict != "not seen" else None,
        "message": one.message,
    }


@dataclass
class _Person:
    """since: seconds of the first frame. recent: (seconds, joints that rules need). count: of the
    repetitions that are told and hold."""

    counter: RepetitionCounter
    since: float
    recent: deque[tuple[float, NDArray[np.float32]]] = field(default_factory=deque)
    count: int = 0


class LiveCounts:
    """Repetitions as they come. tell: gets events as plain values: `repetition` of each number
    that is reached, followed by a `verdict` of each rule; `count` where there are fewer than told.
    """

    def __init__(
        self,
        layout: Sequence[str],
        rules: Sequence[FormRule],
        tell: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._layout, self._rules, self._tell = layout, rules, tell
        asked = {name for rule in rules for name in rule.angle}
        self._columns = [place for place, name in enumerate(layout) if name in asked]
        self._names = tuple(layout[place] for place in self._columns)
        self._people: dict[int, _Person] = {}
        self._asked_at = float("-inf")

    def update(
        self, seconds: float, found: Sequence[tuple[int, PersonPose]], here: set[int]
    ) -> None:
        """found: who is seen at `seconds`. here: those who are not gone for good."""
        for id_, pose in found:
            person = self._people.get(id_)
            if person is None:
                person = self._people[id_] = _Person(RepetitionCounter(self._layout), seconds)
            joints = _in_picture(pose.joints)
            person.counter.update(seconds, joints)
            if self._rules:
                person.recent.append((seconds, joints[self._columns]))
                while person.recent[0][0] < seconds - _KEPT_SECONDS:
                    person.recent.popleft()
        gone = self._people.keys() - here
        if seconds - self._asked_at >= ASK_SECONDS:
            self._asked_at = seconds
            self._ask(self._people)
        else:
            self._ask(gone)
        for id_ in gone:
            del self._people[id_]

    def finish(self) -> None:
        """Nothing comes after: what is left is told."""
        self._ask(self._people)
        self._people.clear()

    def _ask(self, ids: Iterable[int]) -> None:
        for id_ in sorted(ids):
            self._ask_about(id_, self._people[id_])

    def _ask_about(self, id_: int, person: _Person) -> None:
        found = person.counter.result()
        every = [one for series in found.series for one in series.repetitions]
        if person.count > len(every):
            self._tell({"event": "count", "person": id_, "count": len(every)})
        for number in range(person.count + 1, len(every) + 1):
            self._tell_of(id_, person, number, every[number - 1], found.confidence)
        person.count = len(every)

    def _tell_of(
        self, id_: int, person: _Person, number: int, one: Repetition, confidence: float
    ) -> None:
        self._tell(
            {
                "event": "repetition", "person": id_, "repetition": number,
                "start_seconds": round(one.start, 3), "turn_seconds": round(one.turn, 3),
                "end_seconds": round(one.end, 3), "confidence": round(confidence, 4),
            }
        )  # fmt: skip
        if not self._rules or not person.recent:
            return
        seconds = np.array([at for at, _ in person.recent])
        joints = np.stack([row for _, row in person.recent])
        for judged in judge(
            self._rules, [one], joints, seconds, layout=self._names, since=person.since
        ):
            event = {"event": "verdict", "person": id_, "repetition": number}
            self._tell({**event, **plain_verdict(judged)})
