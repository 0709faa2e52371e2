"""Algorithms whose trials are full trainings, one after another: random, bayesian, bfbo.

`asha` takes its configurations from here as well (new_configuration).

The first configuration is the spec's own, so that nothing found is worse than what was there.
The model-based ones fill the space evenly for a few trials before they trust their model.

Promises: no configuration twice while there are others; with all of a small space tried, the
search is done. Trials that failed count for a model as the worst score that was seen, so that
it turns away from them; running ones as well, so that no two look at the same place.
Leaves out: the models (gaussian.py, optuna_models.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kineme.automl.algorithms import draws
from kineme.automl.parameters import Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Idle, Proposal, Trial, next_number, ranked

NUM_EVEN = 4  # trials before a model; more in spaces of many dimensions
_NUM_TRIES = 200
Point = Mapping[str, float]
Model = Callable[[Space, Settings, Sequence["Observation"], int], Point]
Observation = tuple[Point, float]  # a point, and its score in the direction of more


def random_search(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """Configurations drawn from the space."""
    return _next(space, settings, history, None)


def bayesian(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """Expected improvement under a Gaussian process; TPE where there are many dimensions."""
    from kineme.automl.algorithms.optuna_models import expected_improvement

    return _next(space, settings, history, expected_improvement)


def bfbo(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """The upper confidence bound (kappa 2) of a Gaussian process with an RBF kernel."""
    from kineme.automl.algorithms.gaussian import upper_confidence_bound

    return _next(space, settings, history, upper_confidence_bound)


def observations(space: Space, settings: Settings, trials: Sequence[Trial]) -> list[Observation]:
    """What a model learns from: scores, more being better, and the worst for all else."""
    scored = ranked(trials, settings.direction)
    if not scored:
        return []
    sign = 1.0 if settings.direction == "maximize" else -1.0
    worst = sign * (scored[-1].score or 0.0)
    return [
        (space.units_of(trial.params), worst if trial.score is None else sign * trial.score)
        for trial in trials
    ]


def num_even(space: Space, settings: Settings) -> int:
    """Trials that fill the space evenly before a model is asked."""
    wanted = max(NUM_EVEN, min(len(space.parameters) + 1, 10))
    return min(wanted, max(2, settings.num_trials // 2))


def _next(
    space: Space, settings: Settings, history: Sequence[Trial], model: Model | None
) -> Proposal | Idle:
    if len(history) >= settings.num_trials:
        return Idle.DONE
    number = next_number(history)
    found = new_configuration(space, settings, history, model, number)
    if found is None:
        return Idle.DONE
    params, origin = found
    return Proposal(params, settings.num_epochs, member=number, origin=origin)


def new_configuration(
    space: Space, settings: Settings, trials: Sequence[Trial], model: Model | None, number: int
) -> tuple[Mapping[str, Any], str] | None:
    """The configuration `number`, and what it comes from; None where all of them are tried.

    trials: one of each configuration so far, trained equally long, for the model to learn from.
    """
    if len(trials) >= space.num_configurations:
        return None
    tried = {key_of(trial.params) for trial in trials}
    known = observations(space, settings, trials)
    is_early = len(trials) < num_even(space, settings) or len(known) < 2
    for attempt in range(_NUM_TRIES):
        if number == 0 and attempt == 0:
            point: Point = space.units_of({})
            origin = "spec"
        elif model and not is_early and attempt == 0:
            point, origin = model(space, settings, known, number), settings.algorithm
        elif model and is_early and attempt == 0:
            point, origin = even_point(space, settings.seed, number), "even"
        else:
            point, origin = draws.units(space, settings.seed, "trial", number, attempt), "random"
        params = space.params_at(point)
        if key_of(params) not in tried:
            return params, origin
    return None


def key_of(params: Mapping[str, object]) -> str:
    """The same text for the same configuration."""
    return repr(sorted((key, type(value).__name__, value) for key, value in params.items()))


def even_point(space: Space, seed: int, number: int) -> Point:
    """The point `number` of a sequence that fills the cube evenly.

    The additive recurrence of Roberts (2018), R_d, shifted by the seed.
    """
    size = len(space.parameters)
    ratio = 2.0
    for _ in range(64):  # the root of x^(d + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (size + 1))
    return {
        one.key: (draws.uniform(seed, "even", one.key) + number * ratio ** -(i + 1)) % 1.0
        for i, one in enumerate(space.parameters)
    }
