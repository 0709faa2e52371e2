"""Rules of form, written down by users, held against every repetition.

Promises: a file of rules is read as specs are (nothing in it runs) and refused with all its
problems at once; a rule whose joints were not seen is "not seen", never met.
Leaves out: which rules are good ones, and any word on health: a rule compares an angle with a
number, as the author of the file asked for, and says the author's words.
Angles of joints in a picture are those of the picture (joint_angles.py).

Shapes: T frames, V joints, C axes (2: x right, y down; 3: with depth).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.errors import Problem, SpecError, listed, shortened
from kineme.people.repetitions.body_signals import RATE, even_rows, steadied
from kineme.people.repetitions.joint_angles import (
    angle_between,
    joints_of,
    points_of,
    refuse_others,
)
from kineme.people.repetitions.search import Repetition
from kineme.pose_classification.layouts import LAYOUTS
from kineme.spec.read import Document, read_document
from kineme.spec.suggest import did_you_mean

Array = NDArray[np.float64]

PHASES = ("lowest", "highest", "turn", "whole")
VERDICTS = ("met", "not met", "not seen")
MARGIN_SECONDS = 2.0  # beyond a repetition, in which nothing can change an angle within it

_MAX_RULES = 100
_MAX_CHARS = 200
_MIN_SEEN = 0.8  # share of a repetition in which an angle has to be known
_KEYS = ("name", "angle", "at", "below", "above", "message")


@dataclass(frozen=True)
class FormRule:
    """The angle at the second of three joints has to be `below` and `above` some degrees.

    at: `lowest` and `highest`: where the angle itself is smallest and greatest; `turn`: where
    the repetition is farthest from where it began; `whole`: all the time.
    message: what to say where it is not.
    """

    name: str
    angle: tuple[str, str, str]
    at: str
    message: str
    below: float | None = None
    above: float | None = None

    def is_met_by(self, degrees: float) -> bool:
        is_below = self.below is None or degrees < self.below
        return is_below and (self.above is None or degrees > self.above)


@dataclass(frozen=True)
class Judgement:
    """What a rule says of one repetition, which are numbered from 1. verdict: one of VERDICTS.
    degrees: what was measured, NaN where it was not seen. message: empty unless it is not met."""

    repetition: int
    rule: str
    verdict: str
    degrees: float
    message: str


def load_form_rules(
    source: str | Path | Mapping[str, Any], layout: str | Sequence[str] | None = None
) -> tuple[FormRule, ...]:
    """The rules of a YAML file (or JSON, TOML, a mapping), for joints of a layout: the name of a
    known one, or names of joints; where it is None, of any known one.

    All problems are in one SpecError.
    """
    where = "form rules" if isinstance(source, Mapping) else str(source)
    document = _document(source, where)
    problems = document.problems + list(_problems(document, where, _known_joints(layout)))
    if problems:
        raise SpecError.of(problems)
    return tuple(
        FormRule(
            name=rule["name"],
            angle=tuple(rule["angle"]),
            at=rule["at"],
            message=rule["message"],
            below=_number(rule, "below"),
            above=_number(rule, "above"),
        )
        for rule in document.tree["rules"]
    )


def judge(
    rules: Sequence[FormRule],
    repetitions: Sequence[Repetition],
    joints: NDArray[np.floating],
    seconds: NDArray[np.floating],
    *,
    layout: str | Sequence[str],
    since: float | None = None,
) -> tuple[Judgement, ...]:
    """What each rule says of each repetition: all rules of the first one, then of the next.

    joints: (T, V, C) of the person, NaN where not seen. seconds: (T,) rising. The repetitions are
    those counted in them. since: the seconds of the person's first frame, where these are only
    the frames from MARGIN_SECONDS before the repetitions to as long after them; the answers are
    those that all frames give. Raises ValueError where the layout is not that of the joints.
    """
    refuse_others(joints, layout)
    if not repetitions or not len(joints):
        return ()
    start = float(seconds[0])
    if since is not None:  # the moments are those that are counted from there
        start = since + int((start - since) * RATE + 0.5) / RATE
    angles = [_angle(rule, joints, seconds, names=joints_of(layout), start=start) for rule in rules]
    moments = start + np.arange(len(angles[0]) if angles else 0) / RATE
    return tuple(
        _judgement(rule, i, repetition, angle, moments)
        for i, repetition in enumerate(repetitions, 1)
        for rule, angle in zip(rules, angles, strict=True)
    )


def _angle(
    rule: FormRule,
    joints: NDArray[np.floating],
    seconds: NDArray[np.floating],
    *,
    names: Sequence[str],
    start: float,
) -> Array:
    """(T',) degrees at RATE from `start` on, NaN where not seen or the layout lacks a joint."""
    columns = np.array([names.index(name) if name in names else -1 for name in rule.angle])
    points = points_of(joints, columns)
    rows = steadied(even_rows(points, np.asarray(seconds, np.float64), start=start))
    return angle_between(rows[:, 0], rows[:, 1], rows[:, 2])


def _judgement(
    rule: FormRule, number: int, repetition: Repetition, angle: Array, moments: Array
) -> Judgement:
    half = 0.5 / RATE
    is_inside = (moments >= repetition.start - half) & (moments <= repetition.end + half)
    inside = angle[is_inside]
    seen = inside[np.isfinite(inside)]
    degrees = math.nan
    if len(seen) and len(seen) >= _MIN_SEEN * len(inside):
        if rule.at == "turn":
            degrees = float(angle[np.abs(moments - repetition.turn).argmin()])
        else:
            degrees = _measured(rule, seen)
    if not math.isfinite(degrees):
        return Judgement(number, rule.name, "not seen", math.nan, "")
    is_met = rule.is_met_by(degrees)
    return Judgement(
        number, rule.name, "met" if is_met else "not met", degrees, "" if is_met else rule.message
    )


def _measured(rule: FormRule, degrees: Array) -> float:
    """The degrees that decide: of a whole repetition, those nearest to what is not wanted."""
    low, high = float(degrees.min()), float(degrees.max())
    if rule.at != "whole":
        return low if rule.at == "lowest" else high
    too_high = -math.inf if rule.below is None else high - rule.below
    too_low = -math.inf if rule.above is None else rule.above - low
    return high if too_high >= too_low else low


# Reading -----------------------------------------------------------------------------------


def _document(source: str | Path | Mapping[str, Any], where: str) -> Document:
    """What the source says, read as specs are."""
    try:
        return read_document(source if isinstance(source, Mapping) else Path(source))
    except SpecError as error:
        first = error.problems[0]
        what = "" if "spec" in first.expected else f" ({first.expected})"
        place = where if first.where == "spec" else first.where
        raise SpecError(place, f"a readable YAML file with form rules{what}", first.received) from (
            error
        )


def _known_joints(layout: str | Sequence[str] | None) -> tuple[str, ...]:
    if layout is not None:
        return joints_of(layout)
    return tuple(dict.fromkeys(name for known in LAYOUTS.values() for name in known.joints))


def _problems(document: Document, where: str, joints: Sequence[str]) -> Iterator[Problem]:
    tree = document.tree
    if unknown := [shortened(key) for key in tree if key != "rules"]:
        yield Problem(where, "only the key rules", listed(unknown))
    rules = tree.get("rules")
    if not isinstance(rules, list) or not 1 <= len(rules) <= _MAX_RULES:
        received = f"{len(rules):,}" if isinstance(rules, list) else _given(tree, "rules")
        yield Problem(f"{where}: rules", f"a list of 1 to {_MAX_RULES} rules", received)
        return
    for i, rule in enumerate(rules):
        place = _Place(document, where, i)
        if not isinstance(rule, dict):
            yield Problem(place(), "a mapping with the keys of a rule", shortened(rule))
            continue
        yield from _problems_of_rule(rule, place, joints)
    names = [rule["name"] for rule in rules if isinstance(rule, dict) and _is_text(rule, "name")]
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(f"{where}: rules", "every name once", f"{name!r} {count} times")


@dataclass(frozen=True)
class _Place:
    """Where a key of a rule stands: the line, where the file has lines, and the path."""

    document: Document
    where: str
    rule: int

    def __call__(self, key: str = "", *, line_of: str = "") -> str:
        lines, path = self.document.lines, ("rules", str(self.rule))
        line = lines.get((*path, key or line_of)) or min(
            (number for at, number in lines.items() if at[:2] == path), default=None
        )
        name = f"{self.where}:{line}" if line else self.where
        return f"{name}: rules[{self.rule}]" + (f".{key}" if key else "")


def _problems_of_rule(
    rule: Mapping[str, Any], place: _Place, joints: Sequence[str]
) -> Iterator[Problem]:
    for key in rule:
        if key not in _KEYS:
            fix = did_you_mean(key, _KEYS)
            place_of_key = place(line_of=key)
            expected = f"only the keys {', '.join(_KEYS)}"
            yield Problem(place_of_key, expected, shortened(key), fix)
    for key in ("name", "message"):
        if not _is_text(rule, key):
            expected = f"a text of 1 to {_MAX_CHARS} characters"
            yield Problem(place(key), expected, _given(rule, key))
    if rule.get("at") not in PHASES:
        fix = did_you_mean(rule.get("at"), PHASES, shown=repr)
        yield Problem(place("at"), f"one of {', '.join(PHASES)}", _given(rule, "at"), fix)
    yield from _problems_of_angle(rule, place, joints)
    yield from _problems_of_bounds(rule, place)


def _problems_of_angle(
    rule: Mapping[str, Any], place: _Place, joints: Sequence[str]
) -> Iterator[Problem]:
    names = rule.get("angle")
    names = names if isinstance(names, list) else []
    if len(names) != 3 or len({shortened(name) for name in names}) < 3:
        expected = "three joints, the angle being at the second"
        yield Problem(place("angle"), expected, _given(rule, "angle"))
        return
    for name in names:
        if name not in joints:
            fix = did_you_mean(name, joints, shown=repr)
            yield Problem(place("angle"), "joints of the layout", shortened(name), fix)


def _problems_of_bounds(rule: Mapping[str, Any], place: _Place) -> Iterator[Problem]:
    given = [key for key in ("below", "above") if rule.get(key) is not None]
    if not given:
        yield Problem(place(), "below or above, in degrees", "neither")
    wrong = [key for key in given if not _is_degrees(rule[key])]
    for key in wrong:
        yield Problem(place(key), "degrees from 0 to 180", shortened(rule[key]))
    if len(given) == 2 and not wrong and rule["above"] >= rule["below"]:
        received = f"above {rule['above']} and below {rule['below']}"
        yield Problem(place("above"), "less than below", received)


def _given(rule: Mapping[str, Any], key: str) -> str:
    return shortened(rule[key]) if key in rule else "nothing"


def _is_text(rule: Mapping[str, Any], key: str) -> bool:
    text = rule.get(key)
    return isinstance(text, str) and bool(text.strip()) and len(text) <= _MAX_CHARS


def _is_degrees(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 180


def _number(rule: Mapping[str, Any], key: str) -> float | None:
    return None if rule.get(key) is None else float(rule[key])
