"""Searches as whoever shows them gets them: small ones to compute by hand, and a realistic one."""

from __future__ import annotations

import math
import random
from typing import Any

from kineme.automl.parameters import Condition, Kind, Parameter, Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Trial, TrialState, best
from kineme.automl.view import SearchView, TrialView

LR = Parameter("train.optim.lr", Kind.FLOAT, 0.1, 0.001, 1.0, True)
MOMENTUM = Parameter("train.optim.momentum", Kind.FLOAT, 0.9, 0.5, 0.9)
CLIP = Parameter("train.grad_clip", Kind.FLOAT, 0.0, 0.1, 10.0, True, off=0.0)
BATCH = Parameter("dataset.batch_size", Kind.INT, 16, 4, 64, power_of=2)
SCHEDULER = Parameter(
    "train.optim.lr_scheduler",
    Kind.CHOICE,
    "MultiStep",
    choices=("MultiStep", "cosine", "AutoReduce"),
)
PATIENCE = Parameter(
    "train.optim.patience", Kind.INT, 1, 1, 5,
    condition=Condition(SCHEDULER.key, ("AutoReduce",)),
)  # fmt: skip
SPACE = Space((LR, MOMENTUM, CLIP, BATCH, SCHEDULER, PATIENCE))
NAN = "expected a finite loss and gradient, got nan at step {}"


def ended(number: int, value: float | None, budget: int = 10, **more: Any) -> TrialView:
    """A complete trial, or a failed one where there is no value."""
    about = {
        key: more.pop(key) for key in ("reason", "seconds", "folder", "retries") if key in more
    }
    state = more.pop("state", TrialState.COMPLETE if value is not None else TrialState.FAILED)
    params = more.pop("params", {LR.key: 0.01})
    return TrialView(Trial(number, params, budget, state, value, **more), f"job{number}", **about)


def search_of(*trials: TrialView, **more: Any) -> SearchView:
    """A search with these trials whose best one is found as the search finds it."""
    settings = Settings(**{"num_epochs": 10, **more.pop("settings", {})})
    top = best([one.trial for one in trials], settings.direction)
    facts = {
        "network": "pose_classification", "folder": "results", "settings": settings,
        "space": more.pop("space", Space((LR,))), "trials": trials,
        "best": next((one for one in trials if top and one.number == top.number), None),
        "own": {LR.key: 0.1}, "is_over": True,
    }  # fmt: skip
    return SearchView(**{**facts, **more})


def realistic(num_trials: int = 20, seed: int = 0, *, num_epochs: int = 20) -> SearchView:
    """A search by draws: the learning rate decides, one above 0.25 fails; two trials still run."""
    draws, trials = random.Random(seed), []
    for number in range(num_trials):
        params = SPACE.params_at({one.key: draws.random() for one in SPACE.parameters})
        lr = params[LR.key]
        value = 0.93 - 0.12 * abs(math.log10(lr / 0.02)) + draws.gauss(0, 0.01)
        curve = tuple((e, value * (1 - math.exp(-e / 4))) for e in range(1, num_epochs + 1))
        if number >= num_trials - 2 and num_trials > 5:
            running = Trial(number, params, num_epochs, TrialState.RUNNING, curve=curve[:7])
            trials.append(TrialView(running, f"job{number}", 7, 20.0))
        elif lr > 0.25:
            trials.append(ended(number, None, num_epochs, params=params, seconds=3.0,
                                reason=NAN.format(7 * number)))  # fmt: skip
        else:
            trials.append(
                ended(number, value, num_epochs, params=params, seconds=60.0, curve=curve)
            )
    own = {one.key: one.default for one in SPACE.parameters}
    return search_of(*trials, space=SPACE, own=own, num_planned=num_trials, is_over=False,
                     selected_on="the validation data", seconds=1834.0)  # fmt: skip


def halving(num_first: int = 9) -> SearchView:
    """Rungs of 1, 3 and 9 epochs; the higher the number of a configuration, the better it is."""
    trials: list[TrialView] = []
    rung = [(i, None) for i in range(num_first)]
    for level, budget in enumerate((1, 3, 9)):
        steps = []
        for quality, parent in rung:
            lr = 0.001 * 2**quality
            value = (quality + 1) / 10 * (1 - 2.0**-budget)
            about = {"parent": parent, "rung": level, "curve": ((budget, value),)}
            known = ended(len(trials), value, budget, params={LR.key: lr}, **about)
            steps.append((quality, known.number))
            trials.append(known)
        rung = steps[-max(1, len(steps) // 3) :]
    return search_of(*trials, settings={"algorithm": "hyperband", "num_epochs": 9})
