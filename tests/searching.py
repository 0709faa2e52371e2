"""A search without trainings: spaces, settings, and a ledger that runs by itself."""

import math
import random
from dataclasses import replace

from kineme.automl.algorithms import propose
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.setting_rows import FAMILIES
from kineme.automl.settings import read_settings
from kineme.automl.trials import (
    Idle,
    Trial,
    TrialState,
    as_trial,
    next_number,
)

X = Parameter("x", Kind.FLOAT, 0.5, 0.0, 1.0, is_mutable=True)
RATE = Parameter("rate", Kind.FLOAT, 0.1, 1e-4, 1.0, is_log=True, is_mutable=True)
WORD = Parameter("word", Kind.CHOICE, "a", choices=("a", "b", "c"))
COUNT = Parameter("count", Kind.INT, 4, 1, 9)
SPACE = Space((X, RATE, WORD, COUNT))


SMALL = {"automl_max_epochs": 9, "automl_max_recommendations": 9}
DONE, FAILED = TrialState.COMPLETE, TrialState.FAILED


def small(algorithm, **more):
    """Settings of a search of some nine configurations and nine epochs."""
    known = {"automl_max_epochs": 9}
    if FAMILIES[algorithm] == "single":
        known = SMALL
    if algorithm == "pbt":
        known = {"automl_population_size": 5, "automl_max_generations": 4, "automl_max_epochs": 4}
    if algorithm == "asha":
        known = SMALL
    if algorithm == "bohb":
        known = {**SMALL, "automl_min_points_in_model": 5}
    return settings_of(algorithm, **known, **more)


def goodness(trial):
    """The more epochs the better; x and rate have an optimum."""
    x, rate = trial.params["x"], trial.params["rate"]
    return 1 - (x - 0.3) ** 2 - (math.log10(rate) + 2) ** 2 / 16 - 0.5 / trial.budget


def ended(number, value, *, budget=1, state=DONE, **more):
    return Trial(number, {"x": number / 100}, budget, state, value, member=number, **more)


def settings_of(algorithm, *, num_epochs=None, **more):
    return read_settings({"algorithm": algorithm, **more}, num_epochs=num_epochs)[0]


def run_search(
    space, settings, value_of, *, order=None, fails=lambda trial: False, asks_again=True
):
    """The whole ledger. order: a random.Random that ends trials and kills controllers at will."""
    trials = []
    for _ in range(2000):
        found = propose(space, settings, shuffled(trials, order))
        if found is Idle.DONE:
            assert not any(trial.is_active for trial in trials)
            return trials
        if found is not Idle.WAIT:
            if asks_again:  # whoever comes after a kill gets the same
                assert propose(space, settings, shuffled(trials, order)) == found
            kept = order.randint(1, len(found)) if order else len(found)  # killed while recording
            for proposal in found[:kept]:
                trial = as_trial(proposal, next_number(trials))
                trials.append(replace(trial, state=TrialState.RUNNING))
        running = [trial for trial in trials if trial.is_active]
        assert 0 < len(running) <= settings.max_concurrent
        ended = order.choice(running) if order else running[0]
        trials[ended.number] = (
            replace(ended, state=FAILED)
            if fails(ended)
            else replace(ended, state=DONE, value=value_of(ended))
        )
    raise AssertionError("the search does not end")


def shuffled(trials, order):
    copy = list(trials)
    (order or random.Random(0)).shuffle(copy)
    return copy
