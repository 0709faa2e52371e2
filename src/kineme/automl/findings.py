"""What to do after a search: the few things that its trials say loudest.

Promises: a finding names what was seen in figures and one next step, most useful first; nothing
is said that the trials do not show. Thresholds stand in this file alone.
Leaves out: drawing them (page.py).
"""

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kineme.automl import comparing
from kineme.automl.parameters import Kind, Parameter
from kineme.automl.setting_rows import FAMILIES
from kineme.automl.trials import TrialState, constant_metric, is_better
from kineme.automl.view import SearchView, TrialView
from kineme.automl.wording import epochs, short_names, shown
from kineme.errors import printable
from kineme.jobs.store import TRIALS_FOLDER
from kineme.network import NETWORKS, load_specs
from kineme.report.findings import Finding
from kineme.spec.fields import Setting, settings_by_key

NUM_SHOWN = 6
EDGE_SHARE = 0.08  # of a setting's scale: where its best value counts as lying at the edge
EDGE_COMPANY = 0.25  # and where the median of the best quarter must lie
MIN_FINALISTS = 4  # before anything is said of where the good values lie
STALE_TRIALS = 10  # finalists after the best one before it counts as old
YOUNG_SHARE = 0.15  # of the finalists: a best one among the last of them is news
MIN_YOUNG = 8
RISE_SHARE = 0.2  # of a curve's whole rise, in its last fifth
WIDER, WIDER_LOG = 0.5, 10.0  # of the range's width, and times its end
SELECTION_TRIALS = 3
LOST_SHARE = 0.05  # of the chosen figure: how much less the measured one may be


def find_next_steps(view: SearchView) -> tuple[Finding, ...]:
    """The most useful findings first, at most NUM_SHOWN."""
    found = [
        *_about_failures(view),
        *_about_metric(view),
        *_about_edges(view),
        *_about_progress(view),
        *_about_length(view),
        *_about_selection(view),
        *_about_own_values(view),
    ]
    return tuple(sorted(found, key=lambda finding: -finding.weight)[:NUM_SHOWN])


def _about_failures(view: SearchView) -> Iterator[Finding]:
    failed = [one for one in view.trials if one.state == TrialState.FAILED]
    ended = sum(not one.trial.is_active for one in view.trials)
    if not failed:
        return
    reasons = Counter(_kind_of(one.reason) for one in failed)
    kind, count = reasons.most_common(1)[0]
    same = [one for one in failed if _kind_of(one.reason) == kind]
    why = printable(same[0].reason.strip()) or "no reason on record"
    title = f"{count} of {ended} trials failed with the same cause"
    if count < len(failed):
        title = f"{len(failed)} of {ended} trials failed, {count} of them with the same cause"
    elif count == 1:
        title = f"1 of {ended} trials failed"
    first = f"Trial {same[0].number}: {why}"
    weight = 1.0 if len(failed) == ended else 0.4 + 0.4 * len(failed) / ended
    told = _line_between(view, same)
    if told:
        yield Finding(title, f"{first} {told[0]}", told[1], weight)
    else:
        root = shlex.quote(str(Path(view.folder) / TRIALS_FOLDER))
        fix = f"Read its log: kineme jobs logs {same[0].job_id} --root {root}"
        yield Finding(title, first, printable(fix), weight)


def _kind_of(reason: str) -> str:
    """A reason without figures and paths, so that the same cause counts as one."""
    return re.sub(r"\d[\d.e+-]*|/\S+", "#", reason.strip().lower())


def _line_between(view: SearchView, failed: list[TrialView]) -> tuple[str, str] | None:
    """(what was seen, what to do) if one number tells these failures from all that went well."""
    well = [one for one in view.trials if one.trial.score is not None]
    if len(failed) < 2 or len(well) < 2:
        return None
    names = short_names([one.key for one in view.space.parameters])
    for parameter in view.space.parameters:
        key = parameter.key
        bad = [one.params[key] for one in failed if key in one.params]
        good = [one.params[key] for one in well if key in one.params]
        if parameter.kind == Kind.CHOICE or len(bad) < len(failed) or not good:
            continue
        if min(bad) > max(good):
            what = f"All of them have {names[key]} {shown(min(bad))} or more, all others less."
            return what, _range_words(key, parameter.low, max(good))
        if max(bad) < min(good):
            what = f"All of them have {names[key]} {shown(max(bad))} or less, all others more."
            return what, _range_words(key, min(good), parameter.high)
    return None


def _about_metric(view: SearchView) -> Iterator[Finding]:
    value = constant_metric(one.trial for one in view.trials)
    if value is not None:
        seen = f"{view.metric} is {shown(value)} in all {len(comparing.scored(view))} trials."
        fix = (
            "Nothing can be learned from that: look at the data (`kineme data check`), train "
            "longer, or choose another automl.metric."
        )
        yield Finding("Every trial has the same value", seen, fix, 0.95)
    best, base = view.best, view.baseline
    score = best.trial.score if best else None
    if best is None or score is None or base is None or base.value is None:
        return
    if _has_own_values(view, best):  # the baseline is this very trial
        return
    if not is_better(score, base.value, view.direction):
        seen = f"{view.metric} is {shown(base.value)} ({base.where}) and {shown(score)} at best."
        fix = "Keep the weights as they are, or search smaller learning rates."
        yield Finding("The search did not beat where it started", seen, fix, 0.85)


def _about_edges(view: SearchView) -> Iterator[Finding]:
    """A best value at the end of its range, in the company of other good ones."""
    finalists = comparing.ranked(comparing.finalists(view), view.direction)
    if len(finalists) < MIN_FINALISTS:
        return
    top = finalists[: max(2, len(finalists) // 4)]
    names = short_names([one.key for one in view.space.parameters])
    bounds = _bounds(view)
    for parameter in view.space.parameters:
        key = parameter.key
        placed = [_place(parameter, one.params[key]) for one in top if key in one.params]
        places = [place for place in placed if place is not None]
        if len(places) < len(top):
            continue
        middle = sorted(places)[len(places) // 2]
        if places[0] <= EDGE_SHARE and middle <= EDGE_COMPANY:
            end, wider = "lower", _wider(parameter, bounds.get(key), is_up=False)
        elif places[0] >= 1 - EDGE_SHARE and middle >= 1 - EDGE_COMPANY:
            end, wider = "upper", _wider(parameter, bounds.get(key), is_up=True)
        else:
            continue
        if wider is None:  # the setting itself has no more room: nothing to widen
            continue
        value = finalists[0].params[key]
        seen = (
            f"The best trial has {shown(value)}, and the {len(top)} best lie there; "
            f"searched was {shown(parameter.low)} to {shown(parameter.high)}."
        )
        title = f"{names[key]} is best at the {end} end of its range"
        yield Finding(title, seen, f"Widen it: {_range_words(key, *wider)}", 0.7)


def _place(parameter: Parameter, value: Any) -> float | None:
    """Where a number lies in its range, in [0, 1] of its scale; None for others."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if parameter.kind == Kind.CHOICE or not is_number or value == parameter.off:
        return None
    if parameter.low == parameter.high:
        return None
    return replace(parameter, off=None).unit_of(value)


def _wider(parameter: Parameter, rule: Setting | None, *, is_up: bool) -> tuple[Any, Any] | None:
    """The range with more room at one end, as far as the setting allows; None where it has none."""
    low, high = parameter.low, parameter.high
    is_ratio = parameter.is_log or parameter.power_of > 0
    step = (high - low) * WIDER
    if is_up:
        high = high * (parameter.power_of or WIDER_LOG) if is_ratio else high + step
    else:
        low = low / (parameter.power_of or WIDER_LOG) if is_ratio else low - step
    if rule is not None:
        floor = [bound for bound in (rule.rule.ge, rule.rule.gt) if bound is not None]
        roof = [bound for bound in (rule.rule.le, rule.rule.lt) if bound is not None]
        low, high = max([low, *floor]), min([high, *roof])
    if parameter.kind == Kind.INT:
        low, high = math.floor(low), math.ceil(high)
    grows = high > parameter.high if is_up else low < parameter.low
    return (low, high) if grows else None


def _bounds(view: SearchView) -> Mapping[str, Setting]:
    """What the settings of the network may be."""
    if view.network not in NETWORKS:
        return {}
    return settings_by_key(load_specs(view.network)["train"])


def _range_words(key: str, low: Any, high: Any) -> str:
    return f"automl.ranges='{{{key}: [{shown(low)}, {shown(high)}]}}'"


def _about_progress(view: SearchView) -> Iterator[Finding]:
    """Whether more trials are worth their time."""
    finalists = comparing.finalists(view)
    steps = comparing.best_so_far(view)
    if len(finalists) < MIN_FINALISTS or not steps:
        return
    best = steps[-1][0]
    since = sum(one.number > best for one in finalists)
    if since >= max(STALE_TRIALS, len(finalists) // 3):
        seen = f"The best is trial {best}; the {since} trials after it brought nothing."
        fix = (
            "More trials of this search will hardly help. Search other settings, or get more data."
        )
        yield Finding(f"The last {since} trials brought nothing", seen, fix, 0.35)
    is_young = since <= YOUNG_SHARE * len(finalists) and len(steps) > 1
    if is_young and len(finalists) >= MIN_YOUNG and view.is_over:
        before, after = steps[-2][1], steps[-1][1]
        seen = f"Trial {best} of {len(view.trials)} raised the best from {shown(before)} to "
        seen = (
            seen.replace("raised", "lowered" if after < before else "raised") + f"{shown(after)}."
        )
        fix = "Run the same command with a larger automl.max_recommendations: it goes on."
        if FAMILIES[view.settings.algorithm] != "single":
            fix = "Search again with more epochs: automl.max_epochs."
        yield Finding("The best came last", seen, fix, 0.45)


def _about_length(view: SearchView) -> Iterator[Finding]:
    """A best curve that was still going the right way when it ended."""
    if view.best is None or view.best.trial.score is None:
        return
    points = comparing.curve_of(view, view.best)
    if len(points) < 5:
        return
    values = [value for _, value in points]
    sign = 1 if is_better(1.0, 0.0, view.direction) else -1
    whole = sign * (values[-1] - values[0])
    late = sign * (values[-1] - values[-1 - max(1, len(values) // 5)])
    if (
        whole > 0
        and late >= RISE_SHARE * whole
        and values[-1] * sign == max(v * sign for v in values)
    ):
        way = "rising" if sign > 0 else "falling"
        seen = f"{view.metric} of the best trial was still {way} after {epochs(points[-1][0])}."
        fix = "Train the best spec longer: a larger train.num_epochs with best_spec.yaml."
        yield Finding("The best trial ended too early", seen, fix, 0.5)


def _about_selection(view: SearchView) -> Iterator[Finding]:
    """A figure that was chosen is not a figure that was measured."""
    count = len(comparing.scored(view))
    if view.best is None or count < SELECTION_TRIALS or not view.selected_on:
        return
    if view.final is None or view.final.value is None or view.final.is_seen:
        seen = f"The best of {count} figures on {view.selected_on} is better than the truth."
        fix = "Evaluate its checkpoint on data that neither training nor the search has seen."
        yield Finding("Nobody has measured the best on held-out data", seen, fix, 0.6)
    elif view.best.trial.score is not None and not view.settings.final_evaluation_metric:
        chosen, measured = view.best.trial.score, view.final.value
        lost = chosen - measured if is_better(1.0, 0.0, view.direction) else measured - chosen
        if lost > LOST_SHARE * max(abs(chosen), 1e-9):
            seen = f"{view.metric} {shown(chosen)} on {view.selected_on}, {shown(measured)} after."
            fix = "Tell people the second figure. Choose on more validation data, of other people."
            yield Finding("The best is worse on data that nothing was chosen on", seen, fix, 0.65)


def _about_own_values(view: SearchView) -> Iterator[Finding]:
    """Whether the search found anything better than the spec."""
    best = view.best
    if best is None or len(comparing.finalists(view)) < MIN_YOUNG:
        return
    if _has_own_values(view, best):
        others = len(comparing.finalists(view)) - 1
        seen = f"None of {others} others is better than trial {best.number}, which has its values."
        fix = "Keep them: differences to the others may come from data and model."
        yield Finding("The given spec is the best", seen, fix, 0.3)


def _has_own_values(view: SearchView, trial: TrialView) -> bool:
    return bool(view.own) and all(view.own.get(key) == one for key, one in trial.params.items())
