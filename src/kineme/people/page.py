"""report.html of an analysis: a timeline of every person, with a small picture of each.

Promises: a single file that makes no request of any kind (a content policy forbids it) and runs no
script; every string of others is escaped; what is left out, as there are too many, is counted.
Leaves out: computing (timeline.py) and the pictures (drawing.py).
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from kineme import __version__
from kineme.people.found import Found
from kineme.people.repetitions.counting import PersonCount
from kineme.people.repetitions.form_rules import VERDICTS
from kineme.people.segments import NO_PERSON, PERSON, UNKNOWN, Segment
from kineme.report.environment import environment

NUM_PEOPLE, NUM_SEGMENTS = 60, 400
NUM_COLOURS = 10
_NUM_TICKS = 8
_NUM_ANGLES = 4  # that are named with a series
_NUM_NAMED = 12  # repetitions


@dataclass(frozen=True)
class _Person:
    """id: 0 for nobody. picture: JPEG in base64."""

    id: int
    start: float
    end: float
    segments: tuple[Segment, ...]
    picture: str
    parts: tuple[tuple[str, float], ...]  # label, seconds


@dataclass(frozen=True)
class _Series:
    """A row of the table: of a person who repeated nothing, count 0 and the rest empty."""

    person: int
    count: int
    confidence: float
    span: tuple[float, float] | None = None
    tempo: float = 0.0
    ranges: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class _RuleRow:
    """How often each verdict was given. missed: which repetitions did not meet the rule."""

    person: int
    rule: str
    verdicts: tuple[int, ...]
    missed: str
    message: str


def render_page(found: Found, picture: Callable[[int], bytes]) -> str:
    """The page as text. picture: of a person, as JPEG; b"" where there is none."""
    pages = environment()
    pages.filters |= {"clock": clock, "percent": _percent}
    people = [
        _person(id_, tuple(segments), picture)
        for id_, segments in groupby(found.segments, key=lambda one: one.person)
    ]
    nobody = [one for one in people if one.id == 0]
    people = [one for one in people if one.id]
    longest = sorted(people, key=lambda one: one.start - one.end)[:NUM_PEOPLE]
    shown = sorted(longest, key=lambda one: one.id)
    totals = _totals(people)
    length = max(found.facts.seconds, 1e-9)
    return pages.get_template("analysis.html").render(
        facts=found.facts,
        title=found.facts.source.rstrip("/").rpartition("/")[2] or found.facts.source,
        is_labelled=bool(found.facts.checkpoint),
        num_people=len(people),
        people=shown,
        nobody=nobody,
        num_hidden=len(people) - len(shown),
        totals=totals,
        all_seconds=sum(seconds for _, seconds, _ in totals),
        colours=_colours(totals),
        length=length,
        ticks=_ticks(length),
        segments=[one for person in shown for one in person.segments][:NUM_SEGMENTS],
        num_segments=sum(len(person.segments) for person in people),
        events=found.events,
        is_counted=found.counts is not None,
        num_repetitions=sum(one.found.count for one in found.counts or ()),
        series=_series(found.counts or (), [one.id for one in shown]),
        rule_rows=_rule_rows(found, [one.id for one in shown]),
        verdicts=VERDICTS,
        no_person=NO_PERSON,
        unknown=UNKNOWN,
        speed=found.facts.num_frames / max(found.facts.wall_seconds, 1e-9),
        rows=_facts(found),
    )


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some: 1:02:03.4."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    text = f"{minutes:02d}" if hours else str(minutes)
    return (f"{hours}:" if hours else "") + f"{text}:{rest // 10:02d}.{rest % 10}"


def _person(id_: int, segments: tuple[Segment, ...], picture: Callable[[int], bytes]) -> _Person:
    parts: dict[str, float] = {}
    for one in segments:
        if one.label != NO_PERSON:
            parts[one.label] = parts.get(one.label, 0.0) + one.end - one.start
    by_time = tuple(sorted(parts.items(), key=lambda part: -part[1]))
    encoded = base64.b64encode(picture(id_)).decode() if id_ else ""
    return _Person(id_, segments[0].start, segments[-1].end, segments, encoded, by_time)


def _totals(people: Sequence[_Person]) -> list[tuple[str, float, int]]:
    """(label, seconds of all people, people) by falling seconds."""
    seconds: dict[str, float] = {}
    who: dict[str, int] = {}
    for person in people:
        for label, part in person.parts:
            seconds[label] = seconds.get(label, 0.0) + part
            who[label] = who.get(label, 0) + 1
    return [
        (label, seconds[label], who[label]) for label in sorted(seconds, key=lambda x: -seconds[x])
    ]


def _colours(totals: Sequence[tuple[str, float, int]]) -> dict[str, str]:
    """A class of style for each label."""
    named = [label for label, _, _ in totals if label not in (UNKNOWN, NO_PERSON)]
    colours = {label: f"k{place % NUM_COLOURS}" for place, label in enumerate(named)}
    return {**colours, UNKNOWN: "ku", NO_PERSON: "kn", PERSON: colours.get(PERSON, "k0")}


def _series(counts: Sequence[PersonCount], shown: Sequence[int]) -> list[_Series]:
    rows = []
    for one in counts:
        if one.person not in shown:
            continue
        if not one.found.series:
            rows.append(_Series(one.person, 0, one.found.confidence))
        for series in one.found.series:
            span = (series.repetitions[0].start, series.repetitions[-1].end)
            farthest = sorted(series.ranges.items(), key=lambda pair: -pair[1])[:_NUM_ANGLES]
            ranges = tuple((name.replace("_", " "), degrees) for name, degrees in farthest)
            rows.append(
                _Series(
                    one.person, series.count, series.confidence, span, series.tempo, ranges
                )
            )  # fmt: skip
    return rows


def _rule_rows(found: Found, shown: Sequence[int]) -> list[_RuleRow]:
    rows = []
    for one in found.counts or ():
        if one.person not in shown or not one.judgements:
            continue
        for rule, judged in zip(found.rules, zip(*one.judgements, strict=True), strict=True):
            given = [judgement.verdict for judgement in judged]
            missed = [str(j.repetition) for j in judged if j.verdict == "not met"]
            more = len(missed) - _NUM_NAMED
            named = ", ".join(missed[:_NUM_NAMED]) + (f" and {more} more" if more > 0 else "")
            verdicts = tuple(given.count(verdict) for verdict in VERDICTS)
            message = rule.message if missed else ""
            rows.append(_RuleRow(one.person, rule.name, verdicts, named, message))
    return rows


def _ticks(length: float) -> list[float]:
    """Round seconds along the axis."""
    steps = (
        0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400,
    )  # fmt: skip
    step = next((one for one in steps if length / one <= _NUM_TICKS), 86_400)
    return [place * step for place in range(int(length / step) + 1)]


def _facts(found: Found) -> Mapping[str, Any]:
    facts = found.facts
    rows: dict[str, Any] = {
        "source": facts.source,
        "picture": f"{facts.width} x {facts.height}, {facts.fps:.4g} frames a second",
        "frames": f"{facts.num_frames:,}",
        "people by": f"{facts.estimator} ({facts.layout})",
    }
    if facts.checkpoint:
        rows["labels by"] = facts.checkpoint
        rows["classes"] = ", ".join(facts.class_names)
        rows["windows"] = f"{facts.window_seconds:.2f} s, every {facts.stride_seconds:.2f} s"
        if facts.num_persons > 1:
            rows["people in a window"] = f"{facts.num_persons}, those nearest to each other"
        rows["unknown"] = f"no class of probability {facts.min_probability:g} or more"
        if facts.threshold is not None:
            rows["unknown"] += f", or familiarity below {facts.threshold:.3f}"
    if facts.num_dropped:
        rows["frames left out"] = f"{facts.num_dropped:,}, as they came faster than looked at"
    if facts.num_ignored:
        rows["sights left out"] = f"{facts.num_ignored:,}, too unsure to be followed"
    if facts.damage:
        rows["damage"] = facts.damage
    share = facts.estimate_seconds / max(facts.wall_seconds, 1e-9)
    rows["time"] = f"{clock(facts.wall_seconds)}, {100 * share:.0f} % of it finding people"
    rows["kineme"] = __version__
    return rows


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"
