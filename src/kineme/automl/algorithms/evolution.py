"""DEHB: Hyperband's brackets, whose later members are bred instead of drawn.

Each budget has a population. The first bracket fills them by successive halving; in the others,
a member is crossed with a mutant and takes its place if it is at least as good. Mutants come
from the members of the same budget on the lowest rung of a bracket, and from the best of the
budget below on the others.

Promises: populations follow from the history alone; a member that failed never takes a place.
Method: Awad, Mallik and Hutter 2021 (DE/rand/1/bin); a coordinate outside the cube is drawn anew.
Leaves out: more than one round of the brackets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kineme.automl.algorithms import draws
from kineme.automl.algorithms.brackets import Rung
from kineme.automl.algorithms.halving import drawn, table
from kineme.automl.parameters import Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Idle, Proposal, Trial, is_better, ranked

Point = Mapping[str, float]


@dataclass(frozen=True)
class Member:
    """A place in a population: where it lies, and its score, None before it has one."""

    point: Point
    score: float | None = None


def dehb(space: Space, settings: Settings, history: Sequence[Trial]) -> Proposal | Idle:
    """The first step that is missing and may start. A rung waits for the one before it."""
    brackets = table(settings)
    for bracket, rungs in enumerate(brackets):
        own = [trial for trial in history if trial.bracket == bracket]
        for rung, level in enumerate(rungs):
            here = {trial.member: trial for trial in own if trial.rung == rung}
            below = [trial for trial in own if trial.rung == rung - 1]
            if bracket == 0 and rung > 0:
                found = _promotion(settings, below, here, rung, level)
            else:
                found = _bred(space, settings, history, (bracket, rung), here)
            if found:
                return found
            if any(trial.is_active for trial in here.values()):
                return Idle.WAIT  # what comes next is bred from it
    return Idle.DONE


def populations(
    space: Space, settings: Settings, history: Sequence[Trial]
) -> dict[int, list[Member]]:
    """The population of each budget, after the trials that have ended."""
    found = {
        budget: [
            Member(draws.units(space, settings.seed, "member", budget, place))
            for place in range(size)
        ]
        for budget, size in _sizes(table(settings)).items()
    }
    for trial in sorted(history, key=lambda trial: trial.number):
        members = found.get(trial.budget)
        if trial.score is None or not members:
            continue
        place = _place(table(settings), trial.bracket, trial.rung, trial.member)
        holder = members[place].score
        if holder is None or not is_better(holder, trial.score, settings.direction):
            members[place] = Member(space.units_of(trial.params), trial.score)
    return found


def _promotion(
    settings: Settings, below: Sequence[Trial], here: Mapping[int, Trial], rung: int, level: Rung
) -> Proposal | None:
    """Of the first bracket: the best of the rung below go on from their checkpoints."""
    for member, parent in enumerate(ranked(below, settings.direction)[: level.size]):
        if member not in here:
            return Proposal(parent.params, level.budget, parent.number, rung, 0, member, "promoted")
    return None


def _bred(
    space: Space, settings: Settings, history: Sequence[Trial], at: tuple[int, int],
    here: Mapping[int, Trial],
) -> Proposal | None:  # fmt: skip
    bracket, rung = at
    level = table(settings)[bracket][rung]
    member = next((m for m in range(level.size) if m not in here), None)
    if member is None:
        return None
    if bracket == 0:
        point, origin = drawn(space, settings, history, 0, member)
    else:
        point, origin = _offspring(space, settings, history, at, member), "evolved"
    params = space.params_at(point)
    return Proposal(params, level.budget, None, rung, bracket, member, origin)


def _offspring(
    space: Space, settings: Settings, history: Sequence[Trial], at: tuple[int, int], member: int
) -> Point:
    """A member of the population crossed with a mutant."""
    bracket, rung = at
    rungs = table(settings)[bracket]
    known = populations(space, settings, history)
    own = known[rungs[rung].budget]
    target = own[_place(table(settings), bracket, rung, member)].point
    parents = own
    if rung > 0:
        scored = [one for one in known[rungs[rung - 1].budget] if one.score is not None]
        sign = -1.0 if settings.direction == "maximize" else 1.0
        scored.sort(key=lambda one: sign * (one.score or 0.0))
        parents = scored[: rungs[rung].size]
    names = (bracket, rung, member)
    mutant = _mutant(space, settings, parents, [m for some in known.values() for m in some], names)
    keys = [one.key for one in space.parameters]
    certain = keys[int(draws.uniform(settings.seed, "certain", *names) * len(keys))]
    return {
        key: mutant[key]
        if key == certain
        or draws.uniform(settings.seed, "cross", *names, key) < settings.crossover_prob
        else target[key]
        for key in keys
    }


def _mutant(
    space: Space, settings: Settings, parents: Sequence[Member], everyone: Sequence[Member],
    names: tuple[int, int, int],
) -> Point:  # fmt: skip
    """x + F (y - z) of three parents; where there are fewer, of the whole population."""
    pool = list(parents) if len(parents) >= 3 else [*parents, *everyone]
    x, y, z = (
        pool[i].point for i in draws.chosen(range(len(pool)), 3, settings.seed, "parents", *names)
    )
    mutant = {}
    for one in space.parameters:
        key = one.key
        value = x[key] + settings.mutation_factor * (y[key] - z[key])
        is_inside = 0 <= value <= 1
        mutant[key] = value if is_inside else draws.uniform(settings.seed, "anew", *names, key)
    return mutant


def _sizes(brackets: Sequence[Sequence[Rung]]) -> dict[int, int]:
    """The size of each budget's population: that of its largest rung."""
    sizes: dict[int, int] = {}
    for rungs in brackets:
        for rung in rungs:
            sizes[rung.budget] = max(sizes.get(rung.budget, 0), rung.size)
    return sizes


def _place(brackets: Sequence[Sequence[Rung]], bracket: int, rung: int, member: int) -> int:
    """Which place of its budget's population a step stands for: they take turns."""
    budget = brackets[bracket][rung].budget
    before = sum(one.size for rungs in brackets[:bracket] for one in rungs if one.budget == budget)
    return (before + member) % _sizes(brackets)[budget]
