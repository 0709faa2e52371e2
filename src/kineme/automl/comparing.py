"""Which trials of a search may be held against each other, and how far each one came.

Promises: a step that went on under the same settings stands for those before it. Trials are
ranked as the search itself ranks them: those that were trained longer first, then by value; so
no figure after one epoch stands above one after twenty.
Leaves out: drawing (charts.py), advice (findings.py).
"""

import math
from collections.abc import Sequence

from kineme.automl.trials import MAXIMIZE
from kineme.automl.view import SearchView, TrialView

NUM_SHADES = 5  # classes q0 (the best fifth) to q4 of the page
UNKNOWN_SHADE = "qx"


def scored(view: SearchView) -> list[TrialView]:
    """The trials with a score, by number."""
    return [one for one in view.trials if one.trial.score is not None]


def score_of(trial: TrialView) -> float:
    """The score of a trial that has one."""
    value = trial.trial.score
    if value is None:
        raise ValueError(f"trial {trial.number} has no score")
    return value


def longest_budget(view: SearchView) -> int:
    """Epochs of the trials that the best one is chosen among; 0 while none has a score."""
    return max((one.trial.budget for one in scored(view)), default=0)


def finalists(view: SearchView) -> list[TrialView]:
    """The trials that the best one is chosen among, by number."""
    budget = longest_budget(view)
    return [one for one in scored(view) if one.trial.budget == budget]


def configurations(view: SearchView) -> list[TrialView]:
    """One trial for each configuration: the step that came furthest, by number."""
    by_number = {one.number: one for one in view.trials}
    passed = set()
    for one in view.trials:
        parent = by_number.get(one.trial.parent if one.trial.parent is not None else -1)
        is_same = parent is not None and dict(parent.params) == dict(one.params)
        if parent is not None and is_same and (one.trial.is_active or one.trial.score is not None):
            passed.add(parent.number)
    return [one for one in view.trials if one.number not in passed]


def chain(view: SearchView, trial: TrialView) -> list[TrialView]:
    """The steps that led to `trial`, the first one first, itself last."""
    by_number = {one.number: one for one in view.trials}
    steps = [trial]
    while steps[0].trial.parent in by_number and len(steps) <= len(by_number):
        steps.insert(0, by_number[steps[0].trial.parent])
    return steps


def curve_of(view: SearchView, trial: TrialView) -> list[tuple[int, float]]:
    """(epochs, value) of a configuration over all steps that led to `trial`, in order."""
    points: dict[int, float] = {}
    for step in chain(view, trial):
        points |= {epoch: value for epoch, value in step.trial.curve if math.isfinite(value)}
        if step.trial.score is not None:
            points.setdefault(step.trial.budget, step.trial.score)
    return sorted(points.items())


def ranked(trials: Sequence[TrialView], direction: str) -> list[TrialView]:
    """Those with a score, best first: trained longer, then better, then earlier."""
    sign = -1.0 if direction == MAXIMIZE else 1.0
    known = [one for one in trials if one.trial.score is not None]
    return sorted(known, key=lambda one: (-one.trial.budget, sign * score_of(one), one.number))


def shades(trials: Sequence[TrialView], direction: str) -> dict[int, str]:
    """Class of the page for each trial, by number: q0 for the best fifth, qx without a score."""
    order = ranked(trials, direction)
    found = {one.number: UNKNOWN_SHADE for one in trials}
    for place, one in enumerate(order):
        found[one.number] = f"q{place * NUM_SHADES // len(order)}"
    return found


def best_so_far(view: SearchView) -> list[tuple[int, float]]:
    """(number, value) wherever a finalist is better than all before it."""
    steps: list[tuple[int, float]] = []
    for one in finalists(view):
        value = score_of(one)
        is_up = view.direction == MAXIMIZE
        if not steps or (value > steps[-1][1] if is_up else value < steps[-1][1]):
            steps.append((one.number, value))
    return steps
