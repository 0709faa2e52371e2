"""The drawings of a search as inline SVG in the page's colours: history, settings, curves.

Promises: positions follow from the values alone; what lies outside a chart is drawn at its edge
and says so; every point and line has a title with its figures; names are escaped.
Leaves out: the page around them (page.py), which trials compare (comparing.py).

Units: shares lie in [0, 1] and grow upwards; pixels grow downwards.
"""

import html
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from kineme.automl import comparing
from kineme.automl.parameters import Kind, Parameter, is_same, powers_between
from kineme.automl.trials import MAXIMIZE, TrialState
from kineme.automl.view import SearchView, TrialView
from kineme.automl.wording import epochs, short_names, shown
from kineme.errors import printable
from kineme.report.plots import round_ticks

WIDTH, HEIGHT = 960, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 940, 16, 240  # of the plotted area
AXIS_STEP, AXIS_LEFT, AXIS_TOP, AXIS_BOTTOM = 132, 66, 44, 264
OFF_HEIGHT = 0.12  # of an axis, below the range: where a setting is off
MOST_SPREADS = 3.0  # values worse than the median by this many distances to the best are cut off


@dataclass(frozen=True)
class Scale:
    """Numbers to shares; beyond the ends they stay at the end."""

    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        if self.low == self.high:
            return 0.5
        low, high, value = (
            (math.log(x) if x > 0 else -math.inf) if self.is_log else x
            for x in (self.low, self.high, value)
        )
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def draw_history(view: SearchView) -> str:
    """Value of every trial by its number, and the best so far among the finalists."""
    if not view.trials:
        return ""
    last = max(view.trials[-1].number, 1)
    across = Scale(0, last)
    up, ticks = _value_scale(view, [comparing.score_of(one) for one in comparing.scored(view)])
    parts = [*_frame(ticks, up, _whole_ticks(last), across, x="trial", y=view.metric)]
    steps = comparing.best_so_far(view)
    if steps:
        path = f"M{_x(across, steps[0][0])} {_y(up, steps[0][1])}"
        path += "".join(f"H{_x(across, number)}V{_y(up, value)}" for number, value in steps[1:])
        parts.append(f'<path class="line c0" d="{path}H{_x(across, view.trials[-1].number)}"/>')
    budget = comparing.longest_budget(view)
    parts += [_mark(one, view, across, up, budget) for one in view.trials]
    spoken = f"{view.metric} of {len(view.trials)} trials"
    if steps:
        spoken += f"; the best is {shown(steps[-1][1])}, trial {steps[-1][0]}"
    return _svg(WIDTH, HEIGHT, spoken, parts)


def draw_parallel(view: SearchView) -> str:
    """A line for every configuration over one axis per setting and one for the value."""
    trials = comparing.configurations(view)
    known = comparing.ranked(trials, view.direction)
    if not known or not view.space.parameters:
        return ""
    axes = [_axis_of(one, trials) for one in view.space.parameters]
    up, ticks = _value_scale(view, [comparing.score_of(one) for one in known])
    names = short_names([axis.parameter.key for axis in axes])
    shades = comparing.shades(trials, view.direction)
    parts: list[str] = []
    for one in reversed(known):  # the best on top
        points = [axis.share_of(one) for axis in axes]
        points.append(up.share(comparing.score_of(one)))
        parts.append(_titled(shades[one.number], one, view, _runs(points)))
    for number, axis in enumerate(axes):
        title = axis.parameter.key
        parts += _axis(AXIS_LEFT + AXIS_STEP * number, names[title], title, axis.ticks())
    end = AXIS_LEFT + AXIS_STEP * len(axes)
    parts += _axis(end, view.metric, "", [(up.share(tick), shown(tick)) for tick in ticks])
    width = end + AXIS_LEFT
    spoken = f"{len(known)} configurations over {len(axes)} settings; the table has the figures"
    return _svg(width, AXIS_BOTTOM + 20, spoken, parts, name="parallel")


def draw_learning_curves(view: SearchView) -> str:
    """Value over epochs of every configuration; "" where none has more than one point."""
    trials = comparing.configurations(view)
    found = {one.number: comparing.curve_of(view, one) for one in trials}
    curves = {number: points for number, points in found.items() if points}
    if all(len(points) < 2 for points in curves.values()):
        return ""
    values = [value for points in curves.values() for _, value in points]
    last = max(points[-1][0] for points in curves.values())
    across, (up, ticks) = Scale(0, last), _value_scale(view, values)
    shades = comparing.shades(trials, view.direction)
    by_number = {one.number: one for one in trials}
    parts = [*_frame(ticks, up, _whole_ticks(last), across, x="epoch", y=view.metric)]
    order = comparing.ranked(trials, view.direction)
    worst_first = [one for one in trials if one.trial.score is None] + order[::-1]
    for one in worst_first:
        if points := curves.get(one.number):
            placed = [(_x(across, epoch), _y(up, value)) for epoch, value in points]
            path = "L".join(map(" ".join, placed))
            mark = f'<path class="line" d="M{path}"/>'
            mark += f'<circle cx="{placed[-1][0]}" cy="{placed[-1][1]}" r="3"/>'
            parts.append(_titled(shades[one.number], by_number[one.number], view, mark))
    return _svg(WIDTH, HEIGHT, f"{view.metric} over epochs of {len(curves)} configurations", parts)


@dataclass(frozen=True)
class _Axis:
    """Where the values of a setting lie."""

    parameter: Parameter
    scale: Scale

    @property
    def _bottom(self) -> float:
        return 0.0 if self.parameter.off is None else OFF_HEIGHT

    def share_of(self, trial: TrialView) -> float | None:
        """None where the setting has no effect in the trial."""
        if self.parameter.key not in trial.params:
            return None
        return self.share(trial.params[self.parameter.key])

    def share(self, value: Any) -> float:
        choices = self.parameter.choices
        if self.parameter.kind == Kind.CHOICE:
            place = next((i for i, choice in enumerate(choices) if is_same(choice, value)), 0)
            return (place + 0.5) / len(choices)
        if self.parameter.off is not None and value == self.parameter.off:
            return 0.0
        return self._bottom + (1 - self._bottom) * self.scale.share(float(value))

    def ticks(self) -> list[tuple[float, str]]:
        if self.parameter.kind == Kind.CHOICE:
            return [(self.share(choice), shown(choice)) for choice in self.parameter.choices]
        low, high = self.scale.low, self.scale.high
        values: Sequence[float] = round_ticks(np.array([low, high]), 4)
        if self.scale.is_log:
            base = self.parameter.power_of
            values = powers_between(low, high, base) if base else _powers_of_ten(low, high)
        values = [value for value in values if low < value < high]
        ends = list(dict.fromkeys((low, *values, high)))
        told = [(self.share(value), f"{value:.4g}") for value in ends]
        if self.parameter.off is not None:
            told.insert(0, (0.0, f"{shown(self.parameter.off)} (off)"))
        return _apart(told)


def _axis_of(parameter: Parameter, trials: Sequence[TrialView]) -> _Axis:
    """Over the range of the setting, and values of trials that lie beyond it."""
    if parameter.kind == Kind.CHOICE:
        return _Axis(parameter, Scale(0, 1))
    seen = [
        float(one.params[parameter.key])
        for one in trials
        if parameter.key in one.params and one.params[parameter.key] != parameter.off
    ]
    is_log = parameter.is_log or parameter.power_of > 0
    seen = [value for value in seen if value > 0 or not is_log]
    return _Axis(
        parameter, Scale(min([parameter.low, *seen]), max([parameter.high, *seen]), is_log)
    )


def _apart(ticks: Sequence[tuple[float, str]], least: float = 0.07) -> list[tuple[float, str]]:
    """The ticks at the ends, and of the others those that leave room for their words."""
    kept: list[tuple[float, str]] = []
    for place, tick in enumerate(ticks):
        is_end = place in (0, len(ticks) - 1)
        room_below = not kept or tick[0] - kept[-1][0] >= least
        if is_end and not room_below and len(kept) > 1:
            kept.pop()
        if is_end or (room_below and ticks[-1][0] - tick[0] >= least):
            kept.append(tick)
    return kept


def _powers_of_ten(low: float, high: float) -> list[float]:
    """Powers of ten between the ends."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    return [10.0**power for power in range(first, last + 1) if low < 10.0**power < high]


def _value_scale(view: SearchView, values: Sequence[float]) -> tuple[Scale, list[float]]:
    """From the best value to the worst that is worth room: one that is far off is cut."""
    if not values:
        return Scale(0, 1), [0.0, 1.0]
    is_up = view.direction == MAXIMIZE
    best, worst = (max(values), min(values)) if is_up else (min(values), max(values))
    middle = median(values)
    reach = MOST_SPREADS * abs(best - middle)
    if reach:
        worst = max(worst, middle - reach) if is_up else min(worst, middle + reach)
    ticks = round_ticks(np.array([best, worst]), 5)
    return Scale(ticks[0], ticks[-1]), ticks


def _whole_ticks(last: int) -> list[float]:
    return [tick for tick in round_ticks(np.array([0.0, last]), 10, least=1) if tick <= last]


def _x(across: Scale, value: float) -> str:
    return f"{LEFT + (RIGHT - LEFT) * across.share(value):.1f}"


def _y(up: Scale, value: float) -> str:
    return f"{BOTTOM - (BOTTOM - TOP) * up.share(value):.1f}"


def _frame(
    y_ticks: Sequence[float], up: Scale, x_ticks: Sequence[float], across: Scale, *, x: str, y: str
) -> Iterator[str]:
    for tick in y_ticks:
        place = _y(up, tick)
        yield f'<path class="grid" d="M{LEFT} {place}H{RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{place}" dy="4" text-anchor="end">{tick:g}</text>'
    for tick in x_ticks:
        place = _x(across, tick)
        yield f'<text x="{place}" y="{BOTTOM + 20}" text-anchor="middle">{tick:g}</text>'
    yield f'<text x="{RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{x}</text>'
    yield f'<text x="{LEFT - 8}" y="{HEIGHT - 4}" text-anchor="start">{_text(y)} upwards</text>'


def _mark(trial: TrialView, view: SearchView, across: Scale, up: Scale, budget: int) -> str:
    """A dot; hollow after fewer epochs, a triangle beyond the chart, a cross without a value."""
    x, score = _x(across, trial.number), trial.trial.score
    if score is None:
        if trial.state == TrialState.FAILED:
            mark = f'<path class="cross" d="M{x} {BOTTOM}m-4 -4l8 8m0 -8l-8 8"/>'
            return _titled("", trial, view, mark)
        return ""
    y = _y(up, score)
    if not up.holds(score):
        turn = 1 if score < up.low else -1
        mark = f'<path class="c0" d="M{x} {y}m-5 {-4 * turn}h10l-5 {8 * turn}z"/>'
    elif trial.trial.budget < budget:
        mark = f'<circle class="hollow" cx="{x}" cy="{y}" r="3.5"/>'
    else:
        mark = f'<circle class="c0" cx="{x}" cy="{y}" r="4"/>'
    return _titled("", trial, view, mark)


def _axis(x: int, name: str, title: str, ticks: Sequence[tuple[float, str]]) -> Iterator[str]:
    told = f"<title>{_text(title)}</title>" if title else ""
    yield f'<path class="grid" d="M{x} {AXIS_TOP}V{AXIS_BOTTOM}"/>'
    cut = name if len(name) <= 18 else f"{name[:17]}…"
    head = f'<text class="axis" x="{x}" y="{AXIS_TOP - 22}" text-anchor="middle">'
    yield f"{head}{told}{_text(cut)}</text>"
    for share, words in ticks:
        words = words if len(words) <= 14 else f"{words[:13]}…"
        place = f'x="{x - 6}" y="{_on_axis(share)}" dy="4"'
        yield f'<text {place} text-anchor="end">{_text(words)}</text>'


def _on_axis(share: float) -> str:
    return f"{AXIS_BOTTOM - (AXIS_BOTTOM - AXIS_TOP) * share:.1f}"


def _runs(shares: Sequence[float | None]) -> str:
    """Lines between neighbouring axes, dashed over those of settings without effect."""
    points = {
        number: f"{AXIS_LEFT + AXIS_STEP * number} {_on_axis(share)}"
        for number, share in enumerate(shares)
        if share is not None
    }
    path, bridges = "", ""
    for before, number in itertools.pairwise([-1, *points]):
        is_next = before == number - 1 and before >= 0
        path += f"{'L' if is_next else 'M'}{points[number]}"
        bridges += "" if is_next or before < 0 else f"M{points[before]}L{points[number]}"
    line = f'<path class="line" d="{path}"/>'
    return f'{line}<path class="line bridge" d="{bridges}"/>' if bridges else line


def _titled(name: str, trial: TrialView, view: SearchView, mark: str) -> str:
    """A group of class `name` whose title says what the trial is."""
    words = describe(trial, view.metric)
    kind = f' class="{name}"' if name else ""
    return f"<g{kind}><title>{_text(words)}</title>{mark}</g>"


def describe(trial: TrialView, metric: str) -> str:
    """A trial in one line."""
    score = trial.trial.score
    told = f"{metric} {shown(score)} after {epochs(trial.trial.budget)}" if (
        score is not None
    ) else str(trial.state)  # fmt: skip
    reason = f" ({trial.reason})" if trial.reason else ""
    names = short_names(list(trial.params))
    params = ", ".join(f"{names[key]} {shown(value)}" for key, value in trial.params.items())
    return f"trial {trial.number}: {told}{reason}" + (f"; {params}" if params else "")


def _svg(width: int, height: int, spoken: str, parts: Sequence[str], *, name: str = "wide") -> str:
    return (
        f'<svg class="chart {name}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{_text(spoken)}" style="min-width:{min(width, 560)}px">{"".join(parts)}</svg>'
    )


def _text(words: str) -> str:
    return html.escape(printable(words))
