"""What predictions are worth: the figures a report shows, from labels and probabilities.

Promises: samples without a label (-1) count nowhere; a sample for which no class was
answered (probabilities of zero) counts as wrong; a class without samples has no recall
(NaN) and does not enter the means; hand-computable definitions.
Leaves out: drawing, and the arithmetic of confusion matrices (engine/metrics.py).

Shapes: N labelled samples, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.engine import metrics
from kineme.engine.calibration import expected_calibration_error


@dataclass(frozen=True)
class ClassScore:
    """One class among the others. `confused_with` is the wrong answer its samples get most."""

    name: str
    num_samples: int
    precision: float
    recall: float
    f1: float
    confused_with: str
    num_confused: int


@dataclass(frozen=True)
class Scores:
    """All figures of one evaluation.

    confusion (K, K): rows are true classes, columns predicted ones; (K, K + 1) where there
    are samples without an answer, which the last column counts.
    interval: 95 % confidence limits of accuracy (Wilson).
    calibration_error: mean distance of confidence and accuracy over ten bins.
    """

    num_samples: int
    num_correct: int
    accuracy: float
    interval: tuple[float, float]
    mean_class_accuracy: float
    macro_f1: float
    mean_confidence: float
    calibration_error: float
    confusion: NDArray[np.int64]
    classes: tuple[ClassScore, ...]


def compute_scores(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], *, class_names: Sequence[str]
) -> Scores:
    """Scores of probabilities (N, K) against labels (N,)."""
    is_known = labels >= 0
    labels, probabilities = labels[is_known], probabilities[is_known]
    predicted, confidence = predicted_classes(probabilities), probabilities.max(axis=1, initial=0)
    confusion = metrics.confusion_matrix(labels, predicted, len(class_names))
    num_samples, num_correct = len(labels), int(confusion.trace())
    return Scores(
        num_samples=num_samples,
        num_correct=num_correct,
        accuracy=metrics.accuracy(confusion),
        interval=wilson_interval(num_correct, num_samples),
        mean_class_accuracy=metrics.mean_class_accuracy(confusion),
        macro_f1=metrics.mean_present(metrics.f1(confusion)),
        mean_confidence=metrics.mean_present(confidence.astype(np.float64)),
        calibration_error=expected_calibration_error(confidence, predicted == labels),
        confusion=confusion,
        classes=_class_scores(confusion, class_names),
    )


def predicted_classes(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """(N,) the likeliest class; K where every probability is zero, which is no answer."""
    best: NDArray[np.int64] = probabilities.argmax(axis=1)
    return np.where((probabilities > 0).any(axis=1), best, probabilities.shape[1])


def wilson_interval(num_correct: float, num_samples: int) -> tuple[float, float]:
    """95 % confidence limits of a share (Wilson 1927); (0, 1) when nothing was counted."""
    if not num_samples:
        return 0.0, 1.0
    z, share = 1.96, num_correct / num_samples
    scale = 1 + z * z / num_samples
    middle = (share + z * z / (2 * num_samples)) / scale
    spread = share * (1 - share) / num_samples + (z / (2 * num_samples)) ** 2
    half = z / scale * math.sqrt(spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _class_scores(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    wrong = confusion[:, : len(confusion)] - np.diag(np.diag(confusion))
    columns = zip(
        names, confusion.sum(axis=1).tolist(), metrics.precision(confusion).tolist(),
        metrics.recall(confusion).tolist(), metrics.f1(confusion).tolist(),
        wrong.argmax(axis=1).tolist(), wrong.max(axis=1).tolist(), strict=True,
    )  # fmt: skip
    return tuple(
        ClassScore(name, count, precision, recall, f1, names[worst] if missed else "", missed)
        for name, count, precision, recall, f1, worst, missed in columns
    )
