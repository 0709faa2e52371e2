"""What the validation data say of a model: how good it is, and how far to trust it.

Promises: as in an evaluation, a sample without anything to classify is wrong, and not in
the loss; samples that could not be read count nowhere.
Leaves out: asking the model (predict.py), when to validate (actions/train.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kineme.engine import metrics
from kineme.engine.calibration import Calibration, fit_calibration
from kineme.engine.names import METRIC
from kineme.network import Answers, Dataset


@dataclass(frozen=True)
class Validation:
    """figures: val_loss and val_acc; none where no sample was read, and no calibration then."""

    figures: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None


def judge(answers: Answers, dataset: Dataset, *, data: str) -> Validation:
    """What `answers` to a labelled dataset say; data: where it lies."""
    answered = answers.answered
    if not answered:
        return Validation()
    scores, labels = answers.judged[answered], dataset.labels[answered]
    predicted = metrics.predictions(scores)
    is_told = predicted < scores.shape[1]
    confusion = metrics.confusion_matrix(labels, predicted, scores.shape[1])
    loss = metrics.cross_entropy(scores[is_told], labels[is_told])
    figures = {"val_loss": loss, METRIC: metrics.accuracy(confusion)}
    return Validation(figures, fit_calibration(scores, labels, data=data))


def failure_note(answers: Answers, dataset: Dataset) -> str:
    """That samples could not be read, else ""."""
    failed = answers.remarks.failed
    if not failed:
        return ""
    first = min(failed)
    return (
        f"{len(failed)} of {len(dataset)} validation samples cannot be read and are left "
        f"out, the first {dataset.ids[first]!r}: {failed[first]}."
    )


def damage_note(damaged: Mapping[int, str], dataset: Dataset, *, what: str = "samples") -> str:
    """That samples could be read in part alone, else "". damaged: by position, what was wrong."""
    if not damaged:
        return ""
    first = min(damaged)
    return (
        f"{len(damaged)} of {len(dataset)} {what} are damaged or change on the way, and are used "
        f"as far as they can be; the first, {dataset.ids[first]!r}: {damaged[first]}."
    )
