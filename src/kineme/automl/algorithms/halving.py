"""Hyperband, BOHB and ASHA: many configurations for a few epochs, the best of them for longer.

A promoted configuration goes on from its own checkpoint, under the schedule of the full
training; only where it stops moves. So a rung is a prefix of a full training.

Promises: what failed is never promoted, and fewer are promoted where fewer are left. What a
bracket draws depends on (seed, bracket, member), not on the order in which trials end; the model
of BOHB reads what is known when it is asked. ASHA trains at least one configuration to the end.
Leaves out: ending trials within a rung (early_stop.py), evolution (evolution.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from kineme.automl.algorithms import draws
from kineme.automl.algorithms.brackets import Rung, brackets, budgets
from kineme.automl.algorithms.single import new_configuration, observations
from kineme.automl.parameters import Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Idle, Proposal, Trial, next_number, ranked

RANDOM_SHARE = 1 / 3  # of modelled configurations, whatever the model says (Falkner et al. 2018)
Point = Mapping[str, float]
Draw = Callable[[Space, Settings, Sequence[Trial], int, int], tuple[Point, str]]


def hyperband(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """Successive halving in brackets of fewer and longer beginnings, drawn at random."""
    return _next_of_brackets(space, settings, history, drawn)


def bohb(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """Hyperband whose configurations come from a model of the longest trainings there are."""
    return _next_of_brackets(space, settings, history, _modelled)


def asha(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """Begin all configurations; then promote whatever is among the best 1 / eta of its rung.

    Li et al. 2020, algorithm 2, but what is new comes first: the number of configurations is
    given, so no worker waits, and few are promoted for being the best of the first three.
    The configurations are those that `random` draws with the same seed: what differs is how long
    each is trained. Failed trials count for the size of a rung.
    """
    levels = [level * settings.epoch_multiplier for level in budgets(*_units(settings))]
    begun = [trial for trial in history if trial.rung == 0]
    if len(begun) < settings.num_trials:
        member = max((trial.member for trial in begun), default=-1) + 1
        found = new_configuration(space, settings, begun, None, member)
        if found:
            params, origin = found
            return Proposal(params, levels[0], member=member, origin=origin)
    if promoted := _promotable(settings, history, levels):
        return promoted
    if any(trial.is_active for trial in history):
        return Idle.WAIT
    return _last_promotion(settings, history, levels) or Idle.DONE


def table(settings: Settings) -> tuple[tuple[Rung, ...], ...]:
    """The brackets of a search, in epochs."""
    return brackets(*_units(settings), multiplier=settings.epoch_multiplier)


def drawn(
    space: Space, settings: Settings, history: Sequence[Trial], bracket: int, member: int
) -> tuple[Point, str]:
    """A point at random; the first of all is the spec's own."""
    del history
    if bracket == member == 0:
        return space.units_of({}), "spec"
    return draws.units(space, settings.seed, "bracket", bracket, member), "random"


def _units(settings: Settings) -> tuple[int, int, int]:
    most = settings.num_epochs // settings.epoch_multiplier
    return most, settings.reduction_factor, min(settings.min_epochs, most)


def _next_of_brackets(
    space: Space, settings: Settings, history: Sequence[Trial], draw: Draw
) -> Proposal | Idle:
    """The first step that is missing and may start; brackets overlap where workers are free."""
    for bracket, rungs in enumerate(table(settings)):
        own = [trial for trial in history if trial.bracket == bracket]
        for rung, level in enumerate(rungs):
            here = {trial.member: trial for trial in own if trial.rung == rung}
            if rung == 0:
                missing = [m for m in range(level.size) if m not in here]
                if missing:
                    point, origin = draw(space, settings, history, bracket, missing[0])
                    params = space.params_at(point)
                    return Proposal(params, level.budget, bracket=bracket,
                                    member=missing[0], origin=origin)  # fmt: skip
            else:
                below = [trial for trial in own if trial.rung == rung - 1]
                chosen = ranked(below, settings.direction)[: level.size]
                for parent in chosen:
                    if parent.member not in here:
                        return _promotion(parent, level.budget)
                if not chosen:
                    break  # nothing of the rung below has a score
            if any(trial.is_active for trial in here.values()):
                break  # the rung is not complete; another bracket may go on
    return Idle.WAIT if any(trial.is_active for trial in history) else Idle.DONE


def _promotion(parent: Trial, budget: int) -> Proposal:
    return Proposal(
        parent.params, budget, parent.number, parent.rung + 1, parent.bracket, parent.member,
        "promoted",
    )  # fmt: skip


def _modelled(
    space: Space, settings: Settings, history: Sequence[Trial], bracket: int, member: int
) -> tuple[Point, str]:
    """A point by the model of the highest budget with enough scores; some stay random."""
    from kineme.automl.algorithms.optuna_models import parzen

    by_budget: dict[int, list[Trial]] = {}
    for trial in history:
        by_budget.setdefault(trial.budget, []).append(trial)
    least = max(settings.min_points_in_model, len(space.parameters) + 1)
    enough = [
        budget
        for budget, trials in by_budget.items()
        if sum(trial.score is not None for trial in trials) >= least
    ]
    is_random = draws.uniform(settings.seed, "share", bracket, member) < RANDOM_SHARE
    if not enough or is_random:
        return drawn(space, settings, history, bracket, member)
    known = observations(space, settings, _compared_at(max(enough), history))
    return parzen(space, settings, known, next_number(history)), settings.algorithm


def _compared_at(budget: int, history: Sequence[Trial]) -> list[Trial]:
    """The trials of that budget, and those that never came so far, which count as the worst.

    Without them the model would see but the good ones, and look elsewhere.
    """
    there = [trial for trial in history if trial.budget == budget]
    farther = {(t.bracket, t.member) for t in history if t.budget >= budget}
    behind = {
        (trial.bracket, trial.member): replace(trial, value=None)
        for trial in history
        if (trial.bracket, trial.member) not in farther
    }
    return sorted([*there, *behind.values()], key=lambda trial: trial.number)


def _promotable(
    settings: Settings, history: Sequence[Trial], levels: Sequence[int]
) -> Proposal | None:
    """The best one that may go up, from the highest rung that has one."""
    for rung in range(len(levels) - 2, -1, -1):
        ended = [t for t in history if t.rung == rung and not t.is_active]
        above = {trial.member for trial in history if trial.rung == rung + 1}
        num_good = len(ended) // settings.reduction_factor
        for trial in ranked(ended, settings.direction)[:num_good]:
            if trial.member not in above:
                return _promotion(trial, levels[rung + 1])
    return None


def _last_promotion(
    settings: Settings, history: Sequence[Trial], levels: Sequence[int]
) -> Proposal | None:
    """Where rungs were too small for any promotion to the top: the best of the highest goes on."""
    scored = [trial for trial in history if trial.score is not None]
    highest = max((trial.rung for trial in scored), default=len(levels) - 1)
    if highest == len(levels) - 1:
        return None
    tried = {trial.member for trial in history if trial.rung == highest + 1}
    rest = [t for t in scored if t.rung == highest and t.member not in tried]
    top = ranked(rest, settings.direction)
    return _promotion(top[0], levels[highest + 1]) if top else None
