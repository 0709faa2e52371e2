"""Temperatures, calibration errors and unknown samples that can be worked out by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kineme.engine import calibration as trust
from kineme.errors import CheckpointError

NOTHING = [-np.inf, -np.inf]


def log_softmax(logits):
    """As a model's scores come: in float32."""
    values = np.asarray(logits, np.float64)
    return np.float32(values - np.log(np.exp(values).sum(axis=1, keepdims=True)))


def two_classes(gap, num_right, num_wrong):
    """Samples that all say class 0, by `gap` logits; that is right for some."""
    scores = log_softmax([[gap, 0.0]] * (num_right + num_wrong)).astype(np.float64)
    return scores, np.array([0] * num_right + [1] * num_wrong)


logits = arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(2, 5)),
                elements=st.floats(-20, 20, width=32))  # fmt: skip


# Temperature


def test_a_temperature_of_one_changes_no_bit():
    scores = log_softmax([[3.0, 1.0, 0.5]])
    assert trust.calibrated(scores, 1.0) is scores


def test_a_temperature_of_two_takes_the_root_of_every_probability():
    found = np.exp(trust.calibrated(np.log([[0.8, 0.2]]), 2.0))
    assert found == pytest.approx(np.array([[2 / 3, 1 / 3]]))  # sqrt(0.8) is twice sqrt(0.2)


def test_rows_without_an_answer_stay_as_they_are():
    scores = np.array([NOTHING, [np.log(0.5)] * 2, [np.nan] * 2], np.float32)
    found = trust.calibrated(scores, 3.0)
    assert found[0].tolist() == NOTHING
    assert np.exp(found[1]) == pytest.approx([0.5, 0.5])
    assert np.isnan(found[2]).all()


@given(logits, st.floats(trust.LOWEST, trust.HIGHEST))
def test_the_order_of_classes_never_changes_and_shares_sum_to_one(values, temperature):
    scores = log_softmax(values)
    found = trust.calibrated(scores, temperature)
    before, after = (np.argsort(-x, axis=1, kind="stable") for x in (scores, found))
    assert before.tolist() == after.tolist()
    assert np.exp(found).sum(axis=1) == pytest.approx(np.ones(len(found)))


def test_the_fitted_temperature_by_hand():
    # 9 samples and one of any class: (7 + 1/2) / 10 right is a gap of log 3 logits
    scores, labels = two_classes(2 * math.log(3), num_right=7, num_wrong=2)
    assert trust.fit_temperature(scores, labels) == pytest.approx(2.0, abs=1e-6)


def test_answers_that_are_all_right_do_not_promise_certainty():
    scores, labels = two_classes(0.1, num_right=19, num_wrong=0)
    temperature = trust.fit_temperature(scores, labels)
    shares = np.exp(trust.calibrated(scores, temperature))
    assert shares[0, 0] == pytest.approx(19.5 / 20, abs=1e-5)


@pytest.mark.parametrize("gap", [0.0, 2.0])
def test_answers_that_tell_nothing_get_the_highest_temperature(gap):
    assert trust.fit_temperature(*two_classes(gap, 2, 6)) == trust.HIGHEST


def test_answers_that_hardly_differ_get_the_lowest_temperature():
    scores, labels = two_classes(1e-4, num_right=50, num_wrong=0)
    assert trust.fit_temperature(scores, labels) == trust.LOWEST


@given(logits, st.integers(0, 2**31))
def test_no_temperature_of_a_grid_is_likelier_than_the_fitted_one(values, seed):
    scores = log_softmax(values)
    labels = np.random.default_rng(seed).integers(0, scores.shape[1], len(scores))

    def loss(temperature):  # of all samples, and of one whose label may be any
        total = 0.0
        for row, label in zip(scores.astype(float), labels, strict=True):
            shares = np.exp(row / temperature - max(row / temperature))
            logs = row / temperature - max(row / temperature) - math.log(shares.sum())
            total -= (len(labels) * logs[label] + logs.mean()) / (len(labels) + 1)
        return total

    fitted = loss(trust.fit_temperature(scores, labels))
    grid = np.geomspace(trust.LOWEST, trust.HIGHEST, 20)
    assert all(fitted <= loss(temperature) + 1e-6 * (1 + abs(fitted)) for temperature in grid)


# Calibration error


def test_the_calibration_error_by_hand():
    confidence = np.array([0.95, 0.91, 0.55, 0.51, 1.0])
    is_right = np.array([True, False, True, False, True])
    # bin 9: 2.86 sure, 2 right; bin 5: 1.06 sure, 1 right
    assert trust.expected_calibration_error(confidence, is_right) == pytest.approx(0.92 / 5)
    assert trust.reliability(confidence, is_right) == [
        (pytest.approx(0.53), 0.5, 2), (pytest.approx(2.86 / 3), pytest.approx(2 / 3), 3),
    ]  # fmt: skip


def test_the_calibration_error_of_scores_is_of_their_best_class():
    scores, labels = np.log([[0.7, 0.3], [0.3, 0.7]]), np.array([0, 0])
    assert trust.calibration_error(scores, labels) == pytest.approx(0.2)
    assert math.isnan(trust.calibration_error(scores[:0], labels[:0]))


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_the_calibration_error_is_that_of_bins_filled_one_by_one(answers):
    bins = {}
    for confidence, is_right in answers:
        bins.setdefault(min(int(confidence * 10), 9), []).append((confidence, is_right))
    slow = sum(
        abs(np.mean([c for c, _ in one]) - np.mean([r for _, r in one])) * len(one) / len(answers)
        for one in bins.values()
    )
    confidence, is_right = (np.array(x) for x in zip(*answers, strict=True))
    assert trust.expected_calibration_error(confidence, is_right) == pytest.approx(slow, abs=1e-9)
    assert sum(count for _, _, count in trust.reliability(confidence, is_right)) == len(answers)


# Unknown samples


def test_familiarity_is_minus_the_entropy():
    scores = np.array([[np.log(0.25)] * 4, [0.0, *[-np.inf] * 3], np.log([0.5, 0.5, 1e-9, 1e-9])])
    expected = [-math.log(4), 0.0, -math.log(2)]
    assert trust.familiarity(scores) == pytest.approx(expected, abs=1e-6)


def test_a_threshold_loses_one_sample_in_twenty():
    assert trust.fit_threshold(np.arange(20.0)[::-1]) == 1.0
    assert trust.fit_threshold(np.arange(19.0)) == 0.0


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=90))
def test_a_threshold_keeps_at_least_95_percent_and_a_higher_one_does_not(values):
    known = np.array(values, float)
    threshold = trust.fit_threshold(known)
    assert (known >= threshold).mean() >= 0.95
    above = known[known > threshold]
    assert not len(above) or (known >= above.min()).mean() < 0.95


def test_auroc_by_hand():
    assert trust.auroc(np.array([2.0, 3.0]), np.array([1.0, 0.0])) == 1.0
    assert trust.auroc(np.array([1.0]), np.array([1.0])) == 0.5
    assert trust.auroc(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == 0.5
    assert math.isnan(trust.auroc(np.array([1.0]), np.array([])))


@given(*[st.lists(st.integers(0, 6), min_size=1, max_size=25)] * 2)
def test_auroc_counts_pairs(known, unknown):
    pairs = [(k > u) + (k == u) / 2 for k in known for u in unknown]
    found = trust.auroc(np.array(known, float), np.array(unknown, float))
    assert found == pytest.approx(sum(pairs) / len(pairs))


# What a checkpoint holds


def test_a_calibration_is_fitted_on_samples_with_label_and_answer_alone():
    scores, labels = two_classes(2 * math.log(3), num_right=7, num_wrong=2)
    scores = np.concatenate([scores, [NOTHING, [0.0, -50.0]]])
    found = trust.fit_calibration(scores, np.array([*labels, 0, -1]), data="val.npy")
    assert (found.samples, found.data) == (9, "val.npy")
    assert found.temperature == pytest.approx(2.0, abs=1e-6)
    assert found.ece_before == pytest.approx(0.9 - 7 / 9, abs=1e-6)
    assert found.ece_after == pytest.approx(7 / 9 - 0.75, abs=1e-6)
    assert found.nll_before == pytest.approx(-(7 * math.log(0.9) + 2 * math.log(0.1)) / 9)
    assert found.nll_after == pytest.approx(-(7 * math.log(0.75) + 2 * math.log(0.25)) / 9)
    assert found.unknown(np.log([[0.6, 0.4], [0.95, 0.05]])).tolist() == [True, False]


def test_without_samples_there_is_no_calibration():
    labels = np.array([0])
    assert trust.fit_calibration(np.array([NOTHING]), labels) is None
    assert trust.fit_calibration(np.zeros((1, 1)), labels) is None
    assert trust.load_calibration({}, where="a.pth") is None
    assert trust.load_calibration({"calibration": None}, where="a.pth") is None


def test_a_score_of_minus_infinity_leaves_finite_figures():
    found = trust.fit_calibration(np.array([[0.0, -np.inf]] * 3), np.array([0, 0, 1]))
    assert all(map(math.isfinite, (found.temperature, found.threshold, found.nll_before)))


def test_facts_come_back_from_json():
    scores, labels = two_classes(1.0, 5, 1)
    fitted = trust.fit_calibration(scores, labels, data="val")
    facts = json.loads(json.dumps({"calibration": fitted.facts()}, allow_nan=False))
    assert trust.load_calibration(facts, where="a.pth") == fitted
    assert fitted.brief() == {
        "temperature": fitted.temperature, "score": "negative_entropy",
        "threshold": fitted.threshold, "kept": 0.95,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0}, {"temperature": "hot"}, {"temperature": math.nan}, {"score": "guess"},
     {"threshold": math.inf}, {"samples": None}],
)  # fmt: skip
def test_facts_of_strangers_are_refused(change):
    fitted = trust.fit_calibration(*two_classes(1.0, 5, 1))
    with pytest.raises(CheckpointError, match=r"a\.pth: expected a calibration with a temperature"):
        trust.load_calibration({"calibration": {**fitted.facts(), **change}}, where="a.pth")
    with pytest.raises(CheckpointError):
        trust.load_calibration({"calibration": ["x"]}, where="a.pth")
