"""The values of the ledger: what a trial is, what may be proposed, how trials compare.

A trial is one step: a configuration trained up to the end of epoch `budget`. A promoted trial
is a new step of the same configuration, which resumes from its parent's checkpoint.

Promises: a trial that failed, or whose metric is missing or not finite, has no score; it is
never compared as if it were zero. Trials compare in the direction that is asked for; ties go
to the earlier one. Everything is plain values that JSON holds.
Leaves out: where trials are kept, and running them (the controller).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

MAXIMIZE, MINIMIZE = "maximize", "minimize"


class TrialState(StrEnum):
    """waiting: proposed, and no job yet. pruned: ended early because it trailed the others."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    PRUNED = "pruned"


ACTIVE = frozenset({TrialState.WAITING, TrialState.RUNNING})


@dataclass(frozen=True)
class Proposal:
    """A step that may start now.

    params: dotted setting to value. budget: the epoch at whose end it stops, counted from the
    beginning of the configuration's training. resume_from: number of the trial whose checkpoint
    it starts from. origin: in one word, how the configuration came about.
    """

    params: Mapping[str, Any]
    budget: int
    resume_from: int | None = None
    rung: int = 0
    bracket: int = 0
    member: int = 0
    origin: str = ""


@dataclass(frozen=True)
class Trial:
    """A step of the ledger; numbers count from 0 in the order of the proposals.

    curve: (epochs trained, metric) pairs, as far as they are known.
    """

    number: int
    params: Mapping[str, Any]
    budget: int
    state: TrialState = TrialState.WAITING
    value: float | None = None
    parent: int | None = None
    rung: int = 0
    bracket: int = 0
    member: int = 0
    origin: str = ""
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE

    @property
    def score(self) -> float | None:
        """The metric of a trial that ran to its end; None where there is none to compare."""
        is_done = self.state == TrialState.COMPLETE and self.value is not None
        return self.value if is_done and math.isfinite(self.value or 0.0) else None


class Idle(Enum):
    """Nothing may start: WAIT until a running trial ends, or DONE for good."""

    WAIT = "wait"
    DONE = "done"


def as_trial(proposal: Proposal, number: int) -> Trial:
    """The waiting trial that a proposal becomes."""
    return Trial(
        number, dict(proposal.params), proposal.budget, parent=proposal.resume_from,
        rung=proposal.rung, bracket=proposal.bracket, member=proposal.member,
        origin=proposal.origin,
    )  # fmt: skip


def to_json(trial: Trial) -> dict[str, Any]:
    """A trial in plain values."""
    facts = {name: getattr(trial, name) for name in Trial.__dataclass_fields__}
    return {
        **facts,
        "params": dict(trial.params),
        "state": str(trial.state),
        "curve": [list(point) for point in trial.curve],
    }


def from_json(facts: Mapping[str, Any]) -> Trial:
    """The trial that `to_json` wrote. Raises KeyError, TypeError or ValueError for another."""
    curve = tuple((int(epoch), float(value)) for epoch, value in facts["curve"])
    return Trial(**{**facts, "state": TrialState(facts["state"]), "curve": curve})


def next_number(history: Iterable[Trial]) -> int:
    return 1 + max((trial.number for trial in history), default=-1)


def is_better(one: float, other: float, direction: str) -> bool:
    """Whether `one` is strictly better."""
    return one > other if direction == MAXIMIZE else one < other


def ranked(trials: Iterable[Trial], direction: str) -> list[Trial]:
    """The trials that have a score, best first."""
    sign = -1.0 if direction == MAXIMIZE else 1.0
    scored = [trial for trial in trials if trial.score is not None]
    return sorted(scored, key=lambda trial: (sign * (trial.score or 0.0), trial.number))


def best(history: Iterable[Trial], direction: str) -> Trial | None:
    """The best trial of those that were trained the longest, None if none has a score.

    Scores after few epochs do not compare with those of a whole training.
    """
    scored = [trial for trial in history if trial.score is not None]
    longest = max((trial.budget for trial in scored), default=0)
    top = ranked((trial for trial in scored if trial.budget == longest), direction)
    return top[0] if top else None


def epochs_spent(history: Iterable[Trial]) -> int:
    """Epochs that the complete trials trained; a resumed one starts where its parent stopped."""
    by_number = {trial.number: trial for trial in history}
    return sum(
        trial.budget - (by_number[trial.parent].budget if trial.parent in by_number else 0)
        for trial in by_number.values()
        if trial.state == TrialState.COMPLETE
    )


def failures_in_a_row(history: Sequence[Trial]) -> int:
    """How many of the trials that ended last, by number, have no score; pruned ones count not."""
    count = 0
    for trial in sorted(history, key=lambda trial: trial.number, reverse=True):
        if trial.is_active or trial.state == TrialState.PRUNED:
            continue
        if trial.score is not None:
            break
        count += 1
    return count


def constant_metric(history: Iterable[Trial], num_trials: int = 5) -> float | None:
    """The value that all scores have, if there are enough; nothing can be learned from them."""
    scores = {trial.number: trial.score for trial in history if trial.score is not None}
    values = set(scores.values())
    return values.pop() if len(values) == 1 and len(scores) >= num_trials else None


def stuck_metric(history: Iterable[Trial], num_epochs: int, num_trials: int = 5) -> float | None:
    """The value of the metric after each epoch of each trial, if it is the same throughout.

    Enough are `num_trials` full trainings, of `num_epochs`, and twice as many epochs: models that
    take everything for the same class are nothing unusual after one, whatever the settings.
    """
    scored = [trial for trial in history if trial.score is not None]
    full = [trial for trial in scored if trial.budget >= num_epochs]
    seen = {value for trial in scored for _, value in trial.curve}
    value = constant_metric(scored, num_trials)
    is_enough = len(full) >= num_trials and epochs_spent(scored) >= 2 * num_trials
    return value if is_enough and seen <= {value} else None
