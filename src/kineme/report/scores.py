"""What predictions are worth: the figures a report shows, from labels and probabilities.

Promises: samples without a label (-1) count nowhere; a class without samples has no
recall (NaN) and does not enter the means; hand-computable definitions.
Leaves out: drawing, and metrics during training (engine/metrics.py).

Shapes: N labelled samples, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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

    confusion (K, K): rows are true classes, columns predicted ones.
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
    num_classes, num_samples = len(class_names), len(labels)
    predicted = probabilities.argmax(axis=1) if num_samples else labels
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    classes = tuple(_class_score(confusion, i, class_names) for i in range(num_classes))
    num_correct = int(confusion.trace())
    confidence = probabilities.max(axis=1) if num_samples else np.zeros(0)
    present = [score for score in classes if score.num_samples]
    return Scores(
        num_samples=num_samples,
        num_correct=num_correct,
        accuracy=_ratio(num_correct, num_samples),
        interval=wilson_interval(num_correct, num_samples),
        mean_class_accuracy=_mean([score.recall for score in present]),
        macro_f1=_mean([score.f1 for score in present]),
        mean_confidence=_mean(confidence.tolist()),
        calibration_error=_calibration_error(confidence, predicted == labels),
        confusion=confusion,
        classes=classes,
    )


def wilson_interval(num_correct: int, num_samples: int) -> tuple[float, float]:
    """95 % confidence limits of a share (Wilson 1927); (0, 1) when nothing was counted."""
    if not num_samples:
        return 0.0, 1.0
    z, share = 1.96, num_correct / num_samples
    scale = 1 + z * z / num_samples
    middle = (share + z * z / (2 * num_samples)) / scale
    half = (
        z
        / scale
        * math.sqrt(share * (1 - share) / num_samples + z * z / (4 * num_samples * num_samples))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def _class_score(confusion: NDArray[np.int64], i: int, names: Sequence[str]) -> ClassScore:
    num_samples, num_called = int(confusion[i].sum()), int(confusion[:, i].sum())
    hits = int(confusion[i, i])
    wrong = confusion[i].copy()
    wrong[i] = 0
    num_confused = int(wrong.max())
    return ClassScore(
        name=names[i],
        num_samples=num_samples,
        precision=_ratio(hits, num_called),
        recall=_ratio(hits, num_samples),
        f1=_ratio(2 * hits, num_samples + num_called),
        confused_with=names[int(wrong.argmax())] if num_confused else "",
        num_confused=num_confused,
    )


def _calibration_error(confidence: NDArray[np.floating], is_right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * 10).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    gaps = np.bincount(bins, weights=confidence - is_right, minlength=10)
    return _ratio(float(np.abs(gaps).sum()), int(counts.sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
