"""Where to look next, by Optuna's samplers: a Gaussian process, and Parzen estimators (TPE).

A study is made anew in memory for each proposal, from the history and a seed of the proposal's
own, so nothing needs to be remembered between proposals or processes.

Promises: the same history and seed give the same point. Points are those of the unit cube of
the space, so scales, integers and conditions are the space's own affair; choices without order
are categories.
Leaves out: which trials are told (single.py, halving.py).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kineme.automl.algorithms import draws
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.settings import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

MAX_GP_DIMENSIONS = 20
MAX_GP_POINTS = 200  # a process of n points costs n to the third, for each proposal
Point = Mapping[str, float]
Observation = tuple[Point, float]


def expected_improvement(
    space: Space, settings: Settings, known: Sequence[Observation], number: int
) -> Point:
    """The point that promises the largest improvement under a Gaussian process; by TPE where
    there are many dimensions, or points.
    """
    from optuna.samplers import GPSampler, TPESampler

    seed = draws.derived_seed(settings.seed, "model", number)
    if len(space.parameters) <= MAX_GP_DIMENSIONS and len(known) <= MAX_GP_POINTS:
        return _suggested(space, known, GPSampler(seed=seed, n_startup_trials=1), seed)
    return _suggested(space, known, TPESampler(seed=seed, n_startup_trials=1), seed)


def parzen(space: Space, settings: Settings, known: Sequence[Observation], number: int) -> Point:
    """The point at which good results are the most likely against the others (BOHB's model).

    good: the best top_n_percent; the best of kde_samples candidates is taken.
    """
    from optuna.samplers import TPESampler

    def num_good(count: int) -> int:
        return max(1, math.ceil(count * settings.top_n_percent / 100))

    seed = draws.derived_seed(settings.seed, "model", number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # gamma may go in Optuna 6
        sampler = TPESampler(
            seed=seed, n_startup_trials=1, n_ei_candidates=settings.kde_samples,
            multivariate=True, gamma=num_good,
        )  # fmt: skip
    return _suggested(space, known, sampler, seed)


def _suggested(
    space: Space, known: Sequence[Observation], sampler: "BaseSampler", seed: int
) -> Point:
    """What `sampler` asks for after what is known."""
    import optuna

    searched = [one for one in space.parameters if one.num_values > 1]
    distributions: dict[str, Any] = {one.key: _distribution(one) for one in searched}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            for point, score in known:
                values = {one.key: _told(one, point[one.key]) for one in searched}
                trial = optuna.create_trial(params=values, distributions=distributions, value=score)
                study.add_trial(trial)
            asked = study.ask(distributions).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    fixed = draws.units(space, seed, "fixed")
    return {**fixed, **{one.key: _heard(one, asked[one.key]) for one in searched}}


def _distribution(parameter: Parameter) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if parameter.kind == Kind.CHOICE:
        return CategoricalDistribution(list(range(len(parameter.choices))))
    return FloatDistribution(0.0, 1.0)


def _told(parameter: Parameter, unit: float) -> Any:
    if parameter.kind != Kind.CHOICE:
        return unit
    value = parameter.value_of(unit)
    return next(i for i, one in enumerate(parameter.choices) if one is value or one == value)


def _heard(parameter: Parameter, value: Any) -> float:
    if parameter.kind != Kind.CHOICE:
        return float(value)
    return parameter.unit_of(parameter.choices[value])
