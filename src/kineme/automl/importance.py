"""How much of the differences between trials each setting explains, held against chance.

For each setting alone: the rank of a trial's value is foretold from the other trials near it
(a Gaussian kernel over the setting's scale, the mean of the same choice for choices), and the
share of the variance of ranks that this foretells is its importance. The same with values that
are dealt out anew at random, 200 times, says what chance alone would give.
Promises: a trial is never foretold from itself, so that noise gives nothing; the draws depend on
nothing but the number of trials; fewer than MIN_TRIALS give none, because then all would be noise.
Leaves out: settings that matter only together, and what the algorithm did not try: shares of a
search that narrows down tell of the part that it looked at. They need not sum to 1.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.automl import comparing
from kineme.automl.parameters import Kind, Parameter
from kineme.automl.view import SearchView, TrialView

MIN_TRIALS = 8
RELIABLE_TRIALS = 20
BANDWIDTH = 0.12  # of a setting's scale
NUM_SHUFFLES, CHANCE_LEVEL = 200, 0.95
_MIN_VALUES = 2


@dataclass(frozen=True)
class Importance:
    """A setting's share of the differences, in [0, 1]. chance: 19 of 20 shuffles stay below."""

    key: str
    share: float
    chance: float

    @property
    def is_clear(self) -> bool:
        return self.share > self.chance


@dataclass(frozen=True)
class Importances:
    """Of all settings, the most important first. num_trials that ended after `budget` epochs."""

    rows: tuple[Importance, ...]
    num_trials: int
    budget: int


def find_importances(view: SearchView) -> Importances | None:
    """Of the trials of the most common length; None where they are too few or all the same."""
    trials = _comparable(view)
    values = np.array([comparing.score_of(one) for one in trials], dtype=float)
    if len(trials) < MIN_TRIALS or len(set(values.tolist())) < _MIN_VALUES:
        return None
    ranks = _ranks(values)
    dealt = np.random.default_rng(len(trials)).permuted(
        np.tile(ranks, (NUM_SHUFFLES, 1)), axis=1
    )  # (shuffles, trials)
    rows = []
    for parameter in view.space.parameters:
        weights = _weights(view, parameter, trials)
        if weights is None:
            continue
        share = float(_explained(weights, ranks[None])[0])
        chance = float(np.quantile(_explained(weights, dealt), CHANCE_LEVEL))
        rows.append(Importance(parameter.key, max(share, 0.0), max(chance, 0.0)))
    if not rows:
        return None
    rows.sort(key=lambda row: -row.share)
    return Importances(tuple(rows), len(trials), trials[0].trial.budget)


def _comparable(view: SearchView) -> list[TrialView]:
    """The scored trials of the budget that most of them have, the longest of equals."""
    known = comparing.scored(view)
    counts = Counter(one.trial.budget for one in known)
    if not counts:
        return []
    budget = max(counts, key=lambda one: (counts[one], one))
    return [one for one in known if one.trial.budget == budget]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share the mean of theirs."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    same = (values[:, None] == values[None, :]).sum(axis=1)
    return np.asarray(below + (same - 1) / 2, dtype=float)


def _weights(
    view: SearchView, parameter: Parameter, trials: list[TrialView]
) -> NDArray[np.float64] | None:
    """(trials, trials): how much each trial says of another; rows sum to 1, none of itself.

    None where the setting has one value in all trials.
    """
    key = parameter.key
    written = [repr(one.params.get(key)) for one in trials]
    if len(set(written)) < _MIN_VALUES:
        return None
    if parameter.kind == Kind.CHOICE:
        near = np.array([[a == b for b in written] for a in written], dtype=float)
    else:
        is_on = np.array([_is_on(parameter, one) for one in trials])
        place = np.array([view.space.units_of(one.params)[key] for one in trials])
        near = np.exp(-0.5 * ((place[:, None] - place[None, :]) / BANDWIDTH) ** 2)
        near = near * (is_on[:, None] == is_on[None, :])
    np.fill_diagonal(near, 0.0)
    total = near.sum(axis=1, keepdims=True)
    others = (1 - np.eye(len(trials))) / (len(trials) - 1)
    return np.where(total > 1e-12, near / np.maximum(total, 1e-12), others)


def _is_on(parameter: Parameter, trial: TrialView) -> bool:
    return parameter.key in trial.params and trial.params[parameter.key] != parameter.off


def _explained(weights: NDArray[np.float64], ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the variance that is foretold, of each row of `ranks` (rows, trials)."""
    count = ranks.shape[1]
    foretold = ranks @ weights.T
    means = (ranks.sum(axis=1, keepdims=True) - ranks) / (count - 1)  # of the others
    error = ((ranks - foretold) ** 2).sum(axis=1)
    return np.asarray(1 - error / np.maximum(((ranks - means) ** 2).sum(axis=1), 1e-12))
