"""How good predictions are: pure functions of true and predicted class ids.

Promises: a class without samples has no accuracy (NaN, written "n/a"), and means are taken
over the classes that have one. Shares are in [0, 1].
Leaves out: tables, files and plots (actions, report).

N samples, C classes; scores (N, C) rank the classes, labels (N,) int64. A row of minus
infinity answers no class, and is wrong.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Shares = NDArray[np.float64]

NO_ANSWER = "no answer"  # in the place of a class's name, where columns are named


def predictions(scores: Scores) -> Labels:
    """(N,) the class with the highest score; C where no score is above minus infinity."""
    best: Labels = scores.argmax(axis=1)
    is_answered = (scores > -np.inf).any(axis=1)
    return np.where(is_answered, best, scores.shape[1])


def confusion_matrix(labels: Labels, predictions: Labels, num_classes: int) -> Labels:
    """(C, C) counts; row = true class, column = predicted class.

    Where there are predictions of C, which mean no answer, they have a column C: (C, C + 1).
    """
    width = num_classes + int((predictions == num_classes).any())
    pairs = labels * width + predictions
    return np.bincount(pairs, minlength=num_classes * width).reshape(num_classes, width)


def accuracy(confusion: Labels) -> float:
    """Share of samples on the diagonal; NaN without samples."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else float("nan")


def recall(confusion: Labels) -> Shares:
    """(C,) share of each true class that was found, that is, its accuracy; NaN if absent."""
    return _ratio(np.diag(confusion), confusion.sum(axis=1))


def precision(confusion: Labels) -> Shares:
    """(C,) share of each predicted class that was right; NaN if never predicted."""
    return _ratio(np.diag(confusion), _times_predicted(confusion))


def f1(confusion: Labels) -> Shares:
    """(C,) harmonic mean of precision and recall; NaN if absent from the labels."""
    both = _times_predicted(confusion) + confusion.sum(axis=1)
    scores = _ratio(2 * np.diag(confusion), both)
    return np.where(confusion.sum(axis=1) > 0, scores, np.nan)


def mean_class_accuracy(confusion: Labels) -> float:
    """Mean of `recall` over the classes that have samples."""
    return mean_present(recall(confusion))


def mean_present(values: Shares) -> float:
    """Mean without NaN; NaN if nothing is left."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def top_k_accuracy(scores: Scores, labels: Labels, k: int) -> float:
    """Share of samples whose label is among the k highest scores (ties: lower id first)."""
    if not len(labels):
        return float("nan")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    is_answered = predictions(scores) < scores.shape[1]
    return float(((best == labels[:, None]).any(axis=1) & is_answered).mean())


def cross_entropy(log_probabilities: Scores, labels: Labels) -> float:
    """Mean -log of the probability that each sample's own class got."""
    if not len(labels):
        return float("nan")
    own = log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-own.mean()) + 0.0  # not -0.0


def _times_predicted(confusion: Labels) -> Labels:
    """(C,) how often each class was the answer."""
    times: Labels = confusion.sum(axis=0)[: len(confusion)]
    return times


def _ratio(part: Labels, whole: Labels) -> Shares:
    shares: Shares = np.full(len(part), np.nan)
    return np.divide(part, whole, out=shares, where=whole > 0)
