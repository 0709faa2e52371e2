"""Figures of a confusion matrix that fits on a hand."""

import numpy as np
import pytest

from kineme.engine import metrics

LABELS = np.array([0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 0, 1, 1, 0, 3])
CONFUSION = metrics.confusion_matrix(LABELS, PREDICTIONS, 4)


def test_rows_are_true_and_columns_predicted():
    assert CONFUSION.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_accuracy_is_the_share_on_the_diagonal():
    assert metrics.accuracy(CONFUSION) == pytest.approx(4 / 6)
    assert np.isnan(metrics.accuracy(np.zeros((2, 2), dtype=np.int64)))


def test_an_absent_class_has_no_accuracy_and_does_not_lower_the_mean():
    assert metrics.recall(CONFUSION) == pytest.approx([2 / 3, 1 / 2, np.nan, 1.0], nan_ok=True)
    assert metrics.mean_class_accuracy(CONFUSION) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_precision_and_f1():
    assert metrics.precision(CONFUSION) == pytest.approx([2 / 3, 1 / 2, np.nan, 1.0], nan_ok=True)
    assert metrics.f1(CONFUSION) == pytest.approx([2 / 3, 1 / 2, np.nan, 1.0], nan_ok=True)


def test_a_class_that_is_never_found_has_f1_zero():
    never = metrics.confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)
    assert metrics.f1(never) == pytest.approx([2 / 3, 0.0])
    assert metrics.precision(never) == pytest.approx([0.5, np.nan], nan_ok=True)


def test_top_k_breaks_ties_by_the_lower_id():
    scores = np.array([[0.2, 0.5, 0.3], [1.0, 1.0, 1.0]])
    labels = np.array([2, 1])
    assert metrics.top_k_accuracy(scores, labels, 1) == 0.0
    assert metrics.top_k_accuracy(scores, labels, 2) == 1.0
    assert metrics.top_k_accuracy(scores, np.array([0, 2]), 2) == 0.0
    assert metrics.top_k_accuracy(scores, labels, 9) == 1.0


def test_cross_entropy_is_the_mean_of_minus_log():
    log_probabilities = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    got = metrics.cross_entropy(log_probabilities, np.array([0, 1]))
    assert got == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)


def test_a_loss_of_nothing_is_no_negative_zero():
    assert str(metrics.cross_entropy(np.zeros((2, 2), np.float32), np.array([0, 1]))) == "0.0"


def test_a_row_of_minus_infinity_answers_no_class_and_is_wrong():
    """Four samples of classes 0, 0, 1, 1; the first and last have no answer."""
    scores = np.log(np.array([[1, 1], [0.9, 0.1], [0.3, 0.7], [1, 1]]))
    scores[[0, 3]] = -np.inf
    labels = np.array([0, 0, 1, 1])
    predicted = metrics.predictions(scores)
    assert predicted.tolist() == [2, 0, 1, 2]
    confusion = metrics.confusion_matrix(labels, predicted, 2)
    assert confusion.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert metrics.accuracy(confusion) == 0.5
    assert metrics.recall(confusion).tolist() == [0.5, 0.5]
    assert metrics.precision(confusion).tolist() == [1, 1]
    assert metrics.f1(confusion).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert metrics.top_k_accuracy(scores, labels, 2) == 0.5
