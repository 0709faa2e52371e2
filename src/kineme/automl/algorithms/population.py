"""Population based training: bad members go on from good ones' checkpoints, slightly changed.

Promises: a generation starts when the one before it has ended, so members compare after equally
many epochs; members of a generation run side by side. Only settings with which a training may
go on are changed. Who failed is replaced, and nobody copies them.
Method: Jaderberg et al. 2017: the worst fifth copies a member of the best fifth; each of its
settings is drawn anew once in five times, else multiplied or divided by the factor.
Leaves out: members that are compared at different ages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kineme.automl.algorithms import draws
from kineme.automl.algorithms.halving import drawn
from kineme.automl.parameters import Parameter, Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Idle, Proposal, Trial, ranked

FIFTH = 0.2
RESAMPLE_PROB = 0.2


def pbt(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """The next member of the youngest generation that may start."""
    for generation in range(settings.max_generations):
        here = {trial.member: trial for trial in history if trial.rung == generation}
        missing = [m for m in range(settings.population_size) if m not in here]
        before = [trial for trial in history if trial.rung == generation - 1]
        if missing and generation == 0:
            return _first(space, settings, missing[0])
        if missing and not ranked(before, settings.direction):
            return Idle.DONE  # nobody is left to go on from
        if missing:
            return _heir(space, settings, before, generation, missing[0])
        if any(trial.is_active for trial in here.values()):
            return Idle.WAIT
        if budget_of(settings, generation) >= settings.num_epochs:
            return Idle.DONE
    return Idle.DONE


def budget_of(settings: Settings, generation: int) -> int:
    """The epoch at whose end a generation stops; generations count from 0."""
    return min((generation + 1) * settings.eval_interval, settings.num_epochs)


def _first(space: Space, settings: Settings, member: int) -> Proposal:
    point, origin = drawn(space, settings, (), 0, member)
    budget = budget_of(settings, 0)
    return Proposal(space.params_at(point), budget, member=member, origin=origin)


def _heir(
    space: Space, settings: Settings, before: Sequence[Trial], generation: int, member: int
) -> Proposal:
    """A member goes on by itself, or from one of the best."""
    order = ranked(before, settings.direction)
    num_moved = max(1, int(settings.population_size * FIFTH))
    best = order[: min(num_moved, max(1, len(order) // 2))]
    num_failed = settings.population_size - len(order)
    num_worst = max(0, num_moved - num_failed)
    worst = {trial.member for trial in order[len(order) - num_worst :]} if num_worst else set()
    worst -= {trial.member for trial in best}
    own = next((trial for trial in order if trial.member == member), None)
    budget = budget_of(settings, generation)
    if own and member not in worst:
        return Proposal(own.params, budget, own.number, generation, 0, member, "continued")
    names = (generation, member)
    donor = best[int(draws.uniform(settings.seed, "donor", *names) * len(best))]
    params = _explored(space, settings, donor.params, names)
    return Proposal(params, budget, donor.number, generation, 0, member, "copied")


def _explored(
    space: Space, settings: Settings, params: Mapping[str, Any], names: tuple[int, int]
) -> dict[str, Any]:
    """The donor's configuration with its mutable settings changed."""
    changed = {
        one.key: _changed(one, settings, params[one.key], names)
        for one in space.parameters
        if one.is_mutable and one.key in params
    }
    return space.completed({**params, **changed})


def _changed(one: Parameter, settings: Settings, value: Any, names: tuple[int, int]) -> Any:
    is_anew = draws.uniform(settings.seed, "anew", *names, one.key) < RESAMPLE_PROB
    if is_anew:
        return one.value_of(draws.uniform(settings.seed, "resampled", *names, one.key))
    is_up = draws.uniform(settings.seed, "up", *names, one.key) < 0.5
    factor = settings.perturbation_factor
    return one.changed(value, factor if is_up else 1 / factor)
