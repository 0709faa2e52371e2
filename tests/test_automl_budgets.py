"""Trials that stop early and go on, worked out by hand: brackets, rungs, populations."""

import math
import random
import statistics
from dataclasses import replace

import pytest

from kineme.automl.algorithms import check, propose
from kineme.automl.algorithms.brackets import Rung, brackets, budgets, num_halvings
from kineme.automl.algorithms.early_stop import should_stop
from kineme.automl.algorithms.evolution import populations
from kineme.automl.algorithms.population import budget_of
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.trials import Idle, Proposal, Trial, TrialState, as_trial, epochs_spent
from kineme.errors import SpecError
from searching import (
    COUNT,
    DONE,
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

# Hyperband


def test_the_brackets_of_27_epochs_are_tao_s_and_the_one_without_halving():
    """Defect 64: the bracket s = 0 is there."""
    assert [[(rung.size, rung.budget) for rung in one] for one in brackets(27, 3)] == [
        [(27, 1), (9, 3), (3, 9), (1, 27)],
        [(9, 3), (3, 9), (1, 27)],
        [(6, 9), (2, 27)],
        [(4, 27)],
    ]


def test_defect_64_powers_lose_no_bracket_to_rounding():
    """Defect 64: int(log(243) / log(3)) is 4, as is that of many other powers."""
    assert int(math.log(243) / math.log(3)) == 4  # what upstream computes
    assert num_halvings(243, 3) == 5
    for eta in range(2, 12):
        for power in range(8):
            assert num_halvings(eta**power, eta) == power
            assert num_halvings(eta ** (power + 1) - 1, eta) == power


def test_budgets_end_at_the_full_training_and_a_multiplier_stretches_them():
    assert budgets(10, 3) == (1, 3, 10)
    assert budgets(27, 3, least=3) == (3, 9, 27)
    assert budgets(1, 3) == (1,)
    assert brackets(3, 3, multiplier=5) == ((Rung(3, 5), Rung(1, 15)), (Rung(2, 15),))


def test_the_epochs_of_hyperband_are_those_counted_by_hand():
    """Promoted trials go on: 27 + 9 x 2 + 3 x 6 + 18; 27 + 18 + 18; 54 + 36; 108."""
    settings = settings_of("hyperband")
    trials = run_search(Space((X, RATE)), settings, goodness)
    spent = [epochs_spent([t for t in trials if t.bracket == b]) for b in range(4)]
    assert spent == [81, 63, 90, 108]
    assert epochs_spent(trials) == 342
    assert len(trials) == 27 + 9 + 3 + 1 + 9 + 3 + 1 + 6 + 2 + 4


def test_hyperband_promotes_the_best_of_a_rung_by_hand():
    settings = settings_of("hyperband", max_epochs=9)
    scores = [0.1, 0.9, 0.2, 0.8, 0.3, 0.7, 0.4, 0.6, 0.5]
    history = [ended(i, score) for i, score in enumerate(scores)]
    space = Space((X,))
    asked = []
    while len(asked) < 3:
        (proposal,) = propose(space, settings, history)
        asked.append((proposal.resume_from, proposal.budget, proposal.rung))
        number = len(history)
        history.append(
            Trial(number, proposal.params, 3, DONE, 0.5 - number / 100, proposal.resume_from, 1,
                  member=proposal.member)
        )  # fmt: skip
    assert asked == [(1, 3, 1), (3, 3, 1), (5, 3, 1)]
    (proposal,) = propose(space, settings, history)
    assert (proposal.resume_from, proposal.budget, proposal.rung, proposal.member) == (9, 9, 2, 1)


def test_hyperband_waits_for_its_rung_but_not_with_free_workers():
    settings = settings_of("hyperband", max_epochs=3, automl_max_concurrent=2)
    running = Trial(2, {"x": 0.02}, 1, TrialState.RUNNING, member=2)
    history = [ended(0, 0.1), ended(1, 0.2), running]
    (other,) = propose(Space((X,)), settings, history)
    assert (other.bracket, other.rung, other.budget) == (1, 0, 3)


def test_hyperband_draws_the_same_whatever_ends_first():
    settings = small("hyperband", automl_max_concurrent=4)
    alone = run_search(SPACE, replace(settings, max_concurrent=1), goodness)
    together = run_search(SPACE, settings, goodness, order=random.Random(3))
    drawn = [
        {(t.bracket, t.member): t.params for t in trials if t.rung == 0}
        for trials in (alone, together)
    ]
    assert drawn[0] == drawn[1]


def test_fewer_are_promoted_where_fewer_are_left():
    settings = settings_of("hyperband", max_epochs=9)
    trials = run_search(
        Space((X,)), settings, lambda t: t.params["x"], fails=lambda t: t.rung == 0 and t.member > 1
    )
    first = [t for t in trials if t.bracket == 0]
    assert [len([t for t in first if t.rung == rung]) for rung in range(3)] == [9, 2, 1]


# hyperband_es


def test_defect_64_a_trial_that_trails_the_others_ends_early_from_the_third_epoch_on():
    """Defect 64: upstream's thresholds disagree, and nothing ever stops early."""
    settings = settings_of("hyperband_es")
    assert (settings.early_stop_threshold, settings.min_early_stop_epochs) == (0.1, 3)
    other = Trial(0, {}, 9, DONE, 0.9, curve=((1, 0.5), (2, 0.6), (3, 0.8), (9, 0.99)))

    def stops(*values, number=1):
        return should_stop(settings, [other], number, list(enumerate(values, start=1)))

    assert not stops(0.1, 0.1)  # too early
    assert stops(0.1, 0.1, 0.71)
    assert not stops(0.1, 0.1, 0.73)  # 0.8 less a tenth is 0.72
    assert not stops(0.75, 0.1, 0.1)  # its best counts
    assert not stops(0.1, 0.1, 0.1, number=0)  # nothing to compare with
    assert not stops()
    assert not should_stop(replace(settings, algorithm="hyperband"), [other], 1, [(3, 0.0)])
    down = replace(settings, direction="minimize")
    assert should_stop(down, [other], 1, [(3, 0.56)])  # 0.5 and a tenth is 0.55
    assert not should_stop(down, [other], 1, [(3, 0.54)])


def test_a_pruned_trial_is_not_promoted():
    settings = settings_of("hyperband_es", max_epochs=3)
    history = [ended(0, 0.9, state=TrialState.PRUNED), ended(1, 0.2), ended(2, 0.1)]
    (proposal,) = propose(Space((X,)), settings, history)
    assert proposal.resume_from == 1


# ASHA


def test_asha_begins_all_then_promotes_the_best_third_and_waits_for_nobody_by_hand():
    settings = settings_of("asha", max_epochs=9, num_recommendations=4, max_concurrent=2)
    space = Space((X,))
    history = [ended(0, 0.1), ended(1, 0.3), ended(2, 0.2)]
    proposal = propose(space, settings, history)[0]
    assert (proposal.rung, proposal.budget, proposal.member) == (0, 1, 3)
    running = Trial(3, {"x": 0.01}, 1, TrialState.RUNNING, None, 0, 0, member=3)
    (proposal,) = propose(space, settings, [*history, running])
    assert proposal == Proposal({"x": 0.01}, 3, 1, 1, 0, 1, "promoted")


def test_the_epochs_of_asha_are_those_counted_by_hand():
    """The better first: nine begin, three go on by 2 epochs, one by 6: 9 + 6 + 6."""
    settings = settings_of("asha", max_epochs=9, num_recommendations=9)
    trials = run_search(Space((X,)), settings, lambda t: 1.0 - t.member / 10 + t.rung)
    assert [sum(t.rung == rung for t in trials) for rung in range(3)] == [9, 3, 1]
    assert epochs_spent(trials) == 21
    full = run_search(Space((X,)), settings_of("random", num_epochs=9, num_trials=9), lambda t: 0.1)
    assert epochs_spent(full) == 81


def test_asha_begins_the_configurations_of_random_search():
    searches = [
        run_search(SPACE, settings_of(algorithm, max_epochs=9, num_recommendations=9), goodness)
        for algorithm in ("asha", "random")
    ]
    begun, whole = ([t.params for t in trials if t.rung == 0] for trials in searches)
    assert begun == whole
    assert len({repr(params) for params in whole}) == 9


@pytest.mark.parametrize("num_trials", range(1, 12))
def test_asha_trains_one_to_the_end_however_few_there_are(num_trials):
    settings = settings_of("asha", max_epochs=27, num_recommendations=num_trials)
    trials = run_search(Space((X, RATE)), settings, goodness)
    assert sum(t.rung == 0 for t in trials) == num_trials
    assert max(t.budget for t in trials) == 27


def test_asha_takes_the_next_best_where_the_last_promotion_fails():
    settings = settings_of("asha", max_epochs=3, num_recommendations=2)
    trials = run_search(
        Space((X,)), settings, lambda t: -float(t.member),
        fails=lambda t: t.rung == 1 and t.member == 0,
    )  # fmt: skip
    assert [(t.rung, t.member) for t in trials] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def side_by_side(settings, order):
    """(what runs at a time, all trials) of a search whose trials end in any order.

    Of each time also how many trials there were.
    """
    trials, together, counts = [], [], []
    while (found := propose(SPACE, settings, trials)) is not Idle.DONE:
        for proposal in [] if found is Idle.WAIT else found:
            trial = as_trial(proposal, len(trials))
            trials.append(replace(trial, state=TrialState.RUNNING))
        running = [trial for trial in trials if trial.is_active]
        together.append(running)
        counts.append(len(trials))
        one = order.choice(running)
        trials[one.number] = replace(one, state=DONE, value=goodness(one))
    return together, counts, trials


@pytest.mark.parametrize("seed", range(3))
def test_defect_64_asha_runs_all_rungs_side_by_side(seed):
    """Defect 64: upstream runs them one trial after another."""
    settings = settings_of("asha", max_epochs=9, max_recommendations=27, max_concurrent=4)
    together, counts, trials = side_by_side(settings, random.Random(seed))
    last = max(t.number for t in trials if t.rung == 0)
    # no worker is idle while there is a configuration left to begin with
    assert all(len(running) == 4 for running, count in zip(together, counts, strict=True)
               if count <= last)  # fmt: skip
    rungs = [{t.rung for t in running} for running in together]
    assert {0, 1} in rungs
    assert any(2 in some and len(some) > 1 for some in rungs)
    assert any(sum(t.rung == 1 for t in running) > 1 for running in together)
    assert {t.rung for t in trials} == {0, 1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_defect_64_pbt_runs_every_generation_side_by_side(seed):
    """Defect 64: upstream runs them one trial after another."""
    settings = small("pbt", automl_max_concurrent=4)  # 5 members, 4 generations
    together, _, trials = side_by_side(settings, random.Random(seed))
    for budget in range(1, 5):
        members = [t for t in trials if t.budget == budget]
        assert sorted(t.member for t in members) == list(range(5))
        assert max(sum(t.budget == budget for t in running) for running in together) == 4


# BOHB


def test_bohb_s_model_looks_at_the_longest_trainings_with_enough_points():
    settings = settings_of("bohb", max_epochs=9, automl_min_points_in_model=6)
    trials = run_search(Space((X, RATE)), settings, goodness)
    first, later = ([t for t in trials if t.bracket == b and t.rung == 0] for b in (0, 1))
    assert {t.origin for t in first} <= {"spec", "random", "bohb"}
    assert first[0].origin == "spec"
    assert any(t.origin == "bohb" for t in later)
    none = run_search(Space((X, RATE)), replace(settings, min_points_in_model=99), goodness)
    assert {t.origin for t in none} == {"spec", "random", "promoted"}


def test_draws_of_a_model_gather_where_results_are_good():
    settings = settings_of("bohb", automl_min_points_in_model=8)
    trials = run_search(Space((X,)), settings, lambda t: -abs(t.params["x"] - 0.8) - 1 / t.budget)
    modelled = [t.params["x"] for t in trials if t.origin == "bohb"]
    chance = [t.params["x"] for t in trials if t.origin == "random"]
    assert len(modelled) > 10
    distances = [statistics.median(abs(x - 0.8) for x in some) for some in (modelled, chance)]
    assert distances[0] * 2 < distances[1]


# DEHB


def test_dehb_promotes_in_the_first_bracket_and_breeds_in_the_others():
    trials = run_search(Space((X, RATE)), settings_of("dehb", max_epochs=9), goodness)
    by_bracket = [[t for t in trials if t.bracket == b] for b in range(3)]
    assert [(t.rung, t.budget) for t in by_bracket[0]] == [(0, 1)] * 9 + [(1, 3)] * 3 + [(2, 9)]
    assert {t.origin for t in by_bracket[0] if t.rung} == {"promoted"}
    assert {t.origin for b in (1, 2) for t in by_bracket[b]} == {"evolved"}
    assert all(t.parent is None for b in (1, 2) for t in by_bracket[b])
    assert epochs_spent(trials) == 9 + 3 * 2 + 6 + (3 * 3 + 9) + 3 * 9


def test_dehb_populations_follow_from_the_history_by_hand():
    settings = settings_of("dehb", max_epochs=3)  # 3 at 1 epoch, 1 at 3; 2 at 3
    space = Space((X,))
    history = [
        Trial(0, {"x": 0.5}, 1, DONE, 0.5, member=0),
        Trial(1, {"x": 0.1}, 1, DONE, 0.7, member=1),
        Trial(2, {"x": 0.2}, 1, FAILED, member=2),
        Trial(3, {"x": 0.1}, 3, DONE, 0.8, 1, 1, member=0),
    ]
    found = populations(space, settings, history)
    assert [member.score for member in found[1]] == [0.5, 0.7, None]
    assert [member.point["x"] for member in found[1]][:2] == [0.5, 0.1]
    assert [member.score for member in found[3]] == [0.8, None]
    # The second bracket's members stand for places 1 and 0 of the two at 3 epochs.
    history.append(Trial(4, {"x": 0.3}, 3, DONE, 0.6, bracket=1, member=0))
    history.append(Trial(5, {"x": 0.4}, 3, DONE, 0.75, bracket=1, member=1))
    scores = [member.score for member in populations(space, settings, history)[3]]
    assert scores == [0.8, 0.6]  # 0.75 is not as good as who was there
    history[-1] = Trial(5, {"x": 0.4}, 3, DONE, 0.85, bracket=1, member=1)
    scores = [member.score for member in populations(space, settings, history)[3]]
    assert scores == [0.85, 0.6]


def test_dehb_crosses_nothing_but_the_one_certain_setting_where_the_chance_is_0():
    space = Space((X, RATE, Parameter("z", Kind.FLOAT, 0.5)))
    settings = settings_of("dehb", max_epochs=9, automl_crossover_prob=0.0)
    trials = run_search(space, settings, lambda t: t.params["x"])
    before = populations(space, settings, [t for t in trials if t.bracket == 0])
    bred = next(t for t in trials if t.bracket == 1 and t.rung == 0)
    target = before[3][0].point  # three at 3 epochs in either bracket: place 0
    same = [key for key in target if space.units_of(bred.params)[key] == pytest.approx(
        target[key], abs=1e-5)]  # fmt: skip
    assert len(same) == 2


# PBT


def test_pbt_goes_on_from_the_best_by_hand():
    settings = settings_of(
        "pbt", automl_population_size=5, automl_max_generations=2, automl_eval_interval=3
    )
    space = Space((X, WORD))
    (first,) = propose(space, settings, [])
    assert (first.budget, first.resume_from) == (3, None)
    history = [
        Trial(i, {"x": 0.1 * (i + 1), "word": "abcab"[i]}, 3, DONE, score, member=i)
        for i, score in enumerate([0.5, 0.9, 0.1, 0.4, 0.3])
    ]
    heirs = propose(space, replace(settings, max_concurrent=5), history)
    assert [heir.resume_from for heir in heirs] == [0, 1, 1, 3, 4]  # 2 was the worst
    assert [heir.budget for heir in heirs] == [6] * 5
    assert [heir.origin for heir in heirs] == ["continued", "continued", "copied"] + [
        "continued"
    ] * 2
    assert heirs[2].params["word"] == "b"  # a training cannot go on with another
    assert heirs[2].params["x"] != 0.2
    assert heirs[0].params == history[0].params
    last = [replace(t, number=t.number + 5, rung=1, budget=6) for t in history]
    assert propose(space, settings, history + last) is Idle.DONE


def test_pbt_perturbs_by_the_factor_or_draws_anew():
    settings = settings_of("pbt", automl_population_size=2, automl_max_generations=2)
    ratios = []
    for seed in range(200):
        history = [Trial(i, {"x": 0.5}, 1, DONE, float(i), member=i) for i in range(2)]
        (heir, _) = propose(Space((X,)), replace(settings, seed=seed, max_concurrent=2), history)
        ratios.append(round(heir.params["x"] / 0.5, 4))
    assert ratios.count(1.2) + ratios.count(0.8333) == pytest.approx(160, abs=20)
    assert ratios.count(1.2) == pytest.approx(80, abs=20)


def test_pbt_replaces_who_failed_and_ends_when_all_have():
    settings = settings_of(
        "pbt", automl_population_size=5, automl_max_generations=2, automl_max_concurrent=5
    )
    history = [Trial(i, {"x": 0.1}, 1, FAILED, member=i) for i in range(4)]
    history.append(Trial(4, {"x": 0.3}, 1, DONE, 0.2, member=4))
    heirs = propose(Space((X,)), settings, history)
    assert [heir.resume_from for heir in heirs] == [4] * 5
    assert [heir.origin for heir in heirs] == ["copied"] * 4 + ["continued"]
    history[-1] = Trial(4, {"x": 0.3}, 1, FAILED, member=4)
    assert propose(Space((X,)), settings, history) is Idle.DONE


def test_the_last_generation_of_pbt_ends_with_the_training():
    settings = settings_of("pbt", max_epochs=7, automl_eval_interval=2)
    assert [budget_of(settings, generation) for generation in range(4)] == [2, 4, 6, 7]


def test_pbt_needs_a_setting_with_which_a_training_may_go_on():
    with pytest.raises(SpecError, match="a setting with which a training may go on"):
        check(Space((WORD, COUNT)), settings_of("pbt"))
    assert check(Space((X, WORD)), settings_of("pbt")) == (
        "pbt never changes word of a member: a training cannot go on so.",
    )


@pytest.mark.parametrize("algorithm", ["random", "bayesian", "asha"])
def test_a_space_smaller_than_the_search_is_told(algorithm):
    assert check(Space((WORD,)), settings_of(algorithm, num_trials=3)) == ()
    told = ("The space has 3 configurations; no more than these are tried.",)
    assert check(Space((WORD,)), settings_of(algorithm, num_trials=4)) == told
