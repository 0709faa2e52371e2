"""The algorithms of a search, each a pure function of what has happened so far.

Promises: the same space, settings and history give the same proposals, in any process, after any
interruption: nothing is remembered but the ledger, and every draw follows from (seed, place).
At most `max_concurrent` trials are under way. WAIT means that a running trial has to end first,
DONE that nothing will ever start again.
Leaves out: running trials (the controller).
"""

import importlib
from collections.abc import Callable, Mapping, Sequence

from kineme.automl.parameters import Space
from kineme.automl.setting_rows import DRAWING
from kineme.automl.settings import BLOCK, Settings
from kineme.automl.trials import Idle, Proposal, Trial, as_trial, next_number
from kineme.errors import SpecError

Algorithm = Callable[[Space, Settings, Sequence[Trial]], Proposal | Idle]
_HERE = "kineme.automl.algorithms"
ALGORITHMS: Mapping[str, str] = {  # name: module:function
    "bayesian": f"{_HERE}.single:bayesian",
    "bfbo": f"{_HERE}.single:bfbo",
    "random": f"{_HERE}.single:random_search",
    "hyperband": f"{_HERE}.halving:hyperband",
    "hyperband_es": f"{_HERE}.halving:hyperband",
    "asha": f"{_HERE}.halving:asha",
    "bohb": f"{_HERE}.halving:bohb",
    "dehb": f"{_HERE}.evolution:dehb",
    "pbt": f"{_HERE}.population:pbt",
}


def propose(space: Space, settings: Settings, history: Sequence[Trial]) -> list[Proposal] | Idle:
    """The steps that may start now, numbered on from the history; or WAIT, or DONE.

    history: every trial so far, in any order. Raises ValueError where two have one number.
    """
    known = sorted(history, key=lambda trial: trial.number)
    if len({trial.number for trial in known}) < len(known):
        raise ValueError("two trials have the same number")
    algorithm = load_algorithm(settings.algorithm)
    proposals: list[Proposal] = []
    while sum(trial.is_active for trial in known) < settings.max_concurrent:
        found = algorithm(space, settings, known)
        if isinstance(found, Idle):
            is_active = any(trial.is_active for trial in known)
            return proposals or (Idle.WAIT if is_active else found)
        proposals.append(found)
        known.append(as_trial(found, next_number(known)))
    return proposals or Idle.WAIT


def check(space: Space, settings: Settings) -> tuple[str, ...]:
    """Notes on an algorithm and a space that do not go together. Raises SpecError."""
    mutable = [one.key for one in space.parameters if one.is_mutable]
    if settings.algorithm in DRAWING and space.num_configurations < settings.num_trials:
        number = f"{space.num_configurations} configurations"
        return (f"The space has {number}; no more than these are tried.",)
    if settings.algorithm != "pbt":
        return ()
    if not mutable:
        names = ", ".join(one.key for one in space.parameters)
        raise SpecError(
            f"{BLOCK}.hyperparameters", "a setting with which a training may go on",
            f"none of them ({names})", "Search train.optim.lr as well, or by another algorithm.",
        )  # fmt: skip
    fixed = [one.key for one in space.parameters if not one.is_mutable]
    if fixed:
        return (f"pbt never changes {', '.join(fixed)} of a member: a training cannot go on so.",)
    return ()


def load_algorithm(name: str) -> Algorithm:
    """The function of an algorithm; only those that need Optuna or NumPy load them."""
    module, _, function = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
