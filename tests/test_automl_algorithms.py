"""What each algorithm asks for, on histories that are worked out by hand.

Searches run to their end without trainings: a function of the configuration and its epochs
stands for the metric, and a random order for workers that end and controllers that are killed.
"""

import math
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kineme.automl.algorithms import ALGORITHMS, load_algorithm, propose
from kineme.automl.algorithms.single import even_point, key_of, observations
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.setting_rows import FAMILIES
from kineme.automl.trials import (
    Idle,
    Proposal,
    Trial,
    TrialState,
    best,
    constant_metric,
    failures_in_a_row,
    from_json,
    ranked,
    stuck_metric,
    to_json,
)
from searching import (
    FAILED,
    RATE,
    SPACE,
    WORD,
    X,
    ended,
    goodness,
    run_search,
    settings_of,
    small,
)  # fmt: skip

FAST = sorted(set(ALGORITHMS) - {"bayesian"})  # bayesian needs torch, and a tenth of a second


# Contracts that hold for all algorithms.


def test_the_tables_name_the_same_algorithms():
    assert set(ALGORITHMS) == set(FAMILIES)
    for name in ALGORITHMS:
        assert callable(load_algorithm(name))


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_a11_the_same_seed_gives_the_same_search_and_another_seed_another(algorithm):
    """A11: one worker, identical suggestions and best."""
    space = Space((X, RATE))
    settings = small(algorithm, seed=1)
    if algorithm == "bayesian":  # two even points, and three of the model
        settings = replace(settings, max_recommendations=5)
    one, two = (run_search(space, settings, goodness) for _ in range(2))
    assert one == two
    assert best(one, "maximize") == best(two, "maximize")
    other = run_search(space, replace(settings, seed=2), goodness)
    assert [trial.params for trial in other] != [trial.params for trial in one]


def test_defect_63_draws_do_not_depend_on_the_process():
    """Defect 63: seeds from hash() differ from process to process."""
    script = (
        "from searching import *\n"
        "settings = replace(small('asha'), seed=5)\n"
        "print(run_search(SPACE, settings, lambda trial: trial.params['x'])[-1])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True,
            text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "../src"},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_defect_61_minimising_is_the_mirror_image_of_maximising(algorithm):
    """Defect 61: TAO's Bayesian search maximises the loss."""
    space = Space((X, RATE))
    less = replace(small(algorithm), direction="minimize")
    more = replace(small(algorithm), direction="maximize")
    if algorithm == "bayesian":
        less, more = (replace(one, max_recommendations=5) for one in (less, more))
    down = run_search(space, less, lambda trial: -goodness(trial), asks_again=False)
    up = run_search(space, more, goodness, asks_again=False)
    assert [(t.params, t.budget, t.parent) for t in down] == [
        (t.params, t.budget, t.parent) for t in up
    ]
    assert best(down, "minimize").number == best(up, "maximize").number


@pytest.mark.parametrize("algorithm", sorted(set(FAST) - {"bfbo"}))  # it goes as random does
@hypothesis_settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), workers=st.integers(1, 5), share=st.sampled_from([0, 0.3]))
def test_no_order_of_ends_and_kills_loses_or_repeats_a_step(algorithm, seed, workers, share):
    settings = small(algorithm, automl_max_concurrent=workers)

    def fails(trial):
        return random.Random(seed * 1000 + trial.number).random() < share

    trials = run_search(SPACE, settings, goodness, order=random.Random(seed), fails=fails)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    by_place = {(t.bracket, t.rung, t.member) for t in trials}
    assert len(by_place) == len(trials)
    for trial in trials:
        if trial.parent is not None:
            parent = trials[trial.parent]
            assert parent.score is not None
            assert parent.budget < trial.budget
            if algorithm != "pbt":
                assert trial.params == parent.params
        assert 1 <= trial.budget <= settings.num_epochs
    if not share and algorithm not in ("asha", "bohb", "dehb"):
        alone = run_search(SPACE, replace(settings, max_concurrent=1), goodness)
        assert len(alone) == len(trials)
    if not share:
        assert max(trial.budget for trial in trials) == settings.num_epochs


@pytest.mark.parametrize("algorithm", FAST)
def test_values_are_those_that_a_spec_may_have(algorithm):
    trials = run_search(SPACE, small(algorithm), goodness)
    for trial in trials:
        assert type(trial.params["count"]) is int
        assert 1 <= trial.params["count"] <= 9
        assert trial.params["word"] in "abc"
        assert 1e-4 <= trial.params["rate"] <= 1
        assert float(f"{trial.params['rate']:.6g}") == trial.params["rate"]
        assert from_json(to_json(trial)) == trial


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_spec_s_own_values_come_first(algorithm):
    (first,) = propose(SPACE, small(algorithm), [])
    assert first.params == {"x": 0.5, "rate": 0.1, "word": "a", "count": 4}
    assert (first.origin, first.resume_from) == ("spec", None)


@pytest.mark.parametrize("algorithm", FAST)
def test_a09_a_metric_that_is_constant_or_missing_ends_no_search_in_an_error(algorithm):
    """A09: it is counted and named; who runs the search decides to stop it."""
    settings = small(algorithm)
    trials = run_search(SPACE, settings, lambda trial: 0.25)
    assert constant_metric(trials) == 0.25
    assert constant_metric(trials[:2]) is None
    trials = run_search(SPACE, settings, lambda trial: math.nan)
    assert all(trial.score is None for trial in trials)
    assert failures_in_a_row(trials) == len(trials)
    assert best(trials, "maximize") is None


def test_a09_a_metric_is_stuck_when_no_epoch_of_enough_full_trainings_changes_it():
    """A09: after an epoch each it may well be the same, so a short training says nothing."""

    def history(num, *values):
        curve = tuple(enumerate(values, start=1))
        return [ended(i, values[-1], budget=len(values), curve=curve) for i in range(num)]

    assert stuck_metric(history(5, 0.5, 0.5), 2) == 0.5
    assert stuck_metric(history(4, 0.5, 0.5), 2) is None
    assert stuck_metric(history(9, 0.5, 0.5), 3) is None  # none of them was a full training
    assert stuck_metric(history(9, 0.5), 1) is None
    assert stuck_metric(history(10, 0.5), 1) == 0.5
    assert stuck_metric(history(5, 0.4, 0.5), 2) is None  # it moved, if to the same end
    assert stuck_metric([*history(5, 0.5, 0.5), ended(5, 0.6, curve=((1, 0.6),))], 2) is None
    failed = Trial(5, {}, 2, FAILED, curve=((1, 0.9),))
    assert stuck_metric([*history(5, 0.5, 0.5), failed], 2) == 0.5


def test_a09_failures_count_back_to_the_last_score():
    """A09: three in a row are enough to stop."""
    history = [ended(0, 0.5), ended(1, None), ended(2, math.inf), ended(3, None, state=FAILED)]
    assert failures_in_a_row(history) == 3
    assert failures_in_a_row([*history, ended(4, 0.1)]) == 0
    running = Trial(4, {}, 1, TrialState.RUNNING)
    pruned = Trial(5, {}, 1, TrialState.PRUNED, 0.2)
    assert failures_in_a_row([*history, running, pruned]) == 3


def test_defect_68_a_failed_trial_is_not_the_best_when_less_is_better():
    """Defect 68: TAO scores failures 0.0, the best of all losses."""
    history = [ended(0, 0.5), ended(1, 0.4), ended(2, 0.0, state=FAILED), ended(3, None)]
    assert [trial.number for trial in ranked(history, "minimize")] == [1, 0]
    assert best(history, "minimize").number == 1
    (asked,) = propose(
        Space((X,)), settings_of("hyperband", max_epochs=3, metric="val_loss"),
        [ended(0, 0.5), ended(1, 0.4), ended(2, 0.0, state=FAILED)],
    )  # fmt: skip
    assert asked == Proposal({"x": 0.01}, 3, 1, 1, 0, 1, "promoted")


def test_the_best_is_one_of_those_that_trained_the_longest():
    history = [ended(0, 0.9, budget=1), ended(1, 0.6, budget=9), ended(2, 0.7, budget=9)]
    assert best(history, "maximize").number == 2


def test_two_trials_of_one_number_are_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="the same number"):
        propose(SPACE, small("random"), [ended(0, 0.1), ended(0, 0.2)])


def test_no_more_than_the_free_workers_get_something_to_do():
    settings = small("random", automl_max_concurrent=3)
    first = propose(SPACE, settings, [])
    assert len(first) == 3
    running = [Trial(i, p.params, 9, TrialState.RUNNING) for i, p in enumerate(first)]
    assert propose(SPACE, settings, running) is Idle.WAIT
    assert len(propose(SPACE, settings, running[:1])) == 2
    all_ended = [ended(i, 0.1) for i in range(9)]
    assert propose(SPACE, settings, all_ended) is Idle.DONE
    last = replace(all_ended[-1], state=TrialState.RUNNING)
    assert propose(SPACE, settings, [*all_ended[:-1], last]) is Idle.WAIT


# random, bayesian, bfbo


@pytest.mark.parametrize("algorithm", ["random", "bfbo", "bayesian"])
def test_a_small_space_is_searched_once_and_then_done(algorithm):
    space = Space((WORD, Parameter("two", Kind.INT, 1, 1, 2)))
    settings = settings_of(algorithm, num_epochs=3)
    trials = run_search(space, settings, lambda trial: float(trial.params["two"]))
    assert len({key_of(trial.params) for trial in trials}) == len(trials) == 6


def test_the_even_points_are_spread_better_than_chance():
    space = Space((X, RATE))
    points = [even_point(space, 0, number) for number in range(16)]
    cells = {(int(p["x"] * 4), int(p["rate"] * 4)) for p in points}
    assert len(cells) >= 13  # at random, 10.3 of 16 cells are met


def test_a_model_takes_what_failed_or_runs_for_the_worst():
    history = [
        ended(0, 0.5), ended(1, 0.2), ended(2, None, state=FAILED),
        Trial(3, {"x": 0.9}, 1, TrialState.RUNNING),
    ]  # fmt: skip
    space = Space((X,))
    up = observations(space, settings_of("bfbo"), history)
    assert [score for _, score in up] == [0.5, 0.2, 0.2, 0.2]
    down = observations(space, settings_of("bfbo", metric="val_loss"), history)
    assert [score for _, score in down] == [-0.5, -0.2, -0.5, -0.5]
    assert observations(space, settings_of("bfbo"), history[2:]) == []


def hill(trial):
    """A smooth hill in two dimensions; 0 is its top."""
    x, rate = trial.params["x"], trial.params["rate"]
    return -((x - 0.72) ** 2) - ((math.log10(rate) + 2.9) / 4) ** 2


def regrets(algorithm, num_trials, seeds):
    space = Space((X, RATE))
    settings = settings_of(algorithm, num_epochs=1, num_recommendations=num_trials)
    return [
        -best(
            run_search(space, replace(settings, seed=seed), hill, asks_again=False), "maximize"
        ).value
        for seed in seeds
    ]


def test_bfbo_beats_random_on_a_smooth_hill():
    ours = statistics.median(regrets("bfbo", 12, range(5)))
    chance = statistics.median(regrets("random", 12, range(5)))
    assert ours * 10 < chance


def test_bayesian_beats_random_on_a_smooth_hill():
    ours = statistics.median(regrets("bayesian", 10, range(3)))
    chance = statistics.median(regrets("random", 10, range(3)))
    assert ours * 10 < chance


def test_many_dimensions_are_searched_by_tpe():
    many = [Parameter(f"p{i:02}", Kind.FLOAT, 0.5) for i in range(24)]
    settings = settings_of("bayesian", num_epochs=1, num_recommendations=14)
    trials = run_search(Space(tuple(many)), settings, lambda t: sum(t.params.values()))
    assert trials[-1].origin == "bayesian"


def test_a_setting_with_one_value_is_kept_out_of_the_model():
    fixed = Parameter("fixed", Kind.FLOAT, 0.4, 0.4, 0.4)
    settings = settings_of("bayesian", num_epochs=1, num_recommendations=6)
    trials = run_search(Space((X, fixed)), settings, lambda t: t.params["x"])
    assert {trial.params["fixed"] for trial in trials} == {0.4}
