"""Repetitions and verdicts as tables: repetitions.csv, and their part of timeline.json.

Promises: a row for each repetition, by person and time; a column for each main angle and two for
each rule, also where nothing was seen.
Leaves out: the page (page.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kineme import files
from kineme.errors import printable
from kineme.people.repetitions.counting import PersonCount, plain_verdict
from kineme.people.repetitions.form_rules import FormRule
from kineme.people.repetitions.joint_angles import BENDS
from kineme.people.repetitions.search import Repetition, Series

ANGLES = (*BENDS, "trunk_lean")
COLUMNS = (
    "person", "series", "repetition", "start_seconds", "turn_seconds", "end_seconds",
    "series_tempo", "series_confidence", *(f"{name}_range" for name in ANGLES),
)  # fmt: skip


def write_repetitions(path: Path, counts: Sequence[PersonCount], rules: Sequence[FormRule]) -> None:
    """The table of all repetitions; of each rule the verdict, and the degrees it is about."""
    names = [printable(rule.name) for rule in rules]
    of_rules = [f"{kind}: {name}" for name in names for kind in ("rule", "degrees")]
    rows = [row for count in counts for row in _rows(count)]
    files.write_csv(path, [*COLUMNS, *of_rules], rows)


def _rows(count: PersonCount) -> Iterator[list[str]]:
    number = 0
    for place, series in enumerate(count.found.series, 1):
        for one in series.repetitions:
            number += 1
            row = [str(count.person), str(place), str(number)]
            row += [f"{at:.3f}" for at in (one.start, one.turn, one.end)]
            row += [f"{series.tempo:.2f}", f"{series.confidence:.4f}"]
            row += [f"{one.ranges[name]:.1f}" if name in one.ranges else "" for name in ANGLES]
            for judged in count.judged(number):
                is_seen = judged.verdict != "not seen"
                row += [judged.verdict, f"{judged.degrees:.1f}" if is_seen else ""]
            yield row


def plain_count(count: PersonCount) -> dict[str, Any]:
    """One person's repetitions in plain values."""
    parts, number = [], 1
    for series in count.found.series:
        parts.append(_plain_series(series, count, number))
        number += series.count
    return {
        "count": count.found.count,
        "confidence": round(count.found.confidence, 4),
        "series": parts,
    }


def _plain_series(series: Series, count: PersonCount, first: int) -> dict[str, Any]:
    return {
        "count": series.count,
        "confidence": round(series.confidence, 4),
        "tempo": round(series.tempo, 2),
        "ranges": _rounded(series.ranges),
        "repetitions": [
            _plain_repetition(number, one, count)
            for number, one in enumerate(series.repetitions, first)
        ],
    }


def _plain_repetition(number: int, one: Repetition, count: PersonCount) -> dict[str, Any]:
    return {
        "repetition": number,
        "start_seconds": round(one.start, 3),
        "turn_seconds": round(one.turn, 3),
        "end_seconds": round(one.end, 3),
        "ranges": _rounded(one.ranges),
        "rules": [plain_verdict(judged) for judged in count.judged(number)],
    }


def _rounded(ranges: Mapping[str, float]) -> dict[str, float]:
    return {name: round(degrees, 1) for name, degrees in ranges.items()}
