"""What guessing reaches on labels: the level that a training has to leave behind.

Promises: the loss of guessing is that of the loss which training uses, with its class weights and
label smoothing.
Leaves out: what is told of a training that guesses (health.py).

K classes; shares of classes and weights are (K,); N samples.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.errors import SpecError


@dataclass(frozen=True)
class Chance:
    """What guessing reaches on training data.

    accuracy: of who always names the largest class. loss: of who always tells the shares of
    classes, the entropy of labels as they count; None where the loss is of more than labels.
    """

    accuracy: float
    loss: float | None
    num_samples: int

    def facts(self) -> dict[str, float | int | None]:
        """As a checkpoint holds it."""
        return asdict(self)


def chance_of(
    labels: NDArray[np.int64], settings: Any, *, num_classes: int, is_distilled: bool = False
) -> Chance:
    """The chance level of labels (N,) under `train.class_weights` and `label_smoothing`."""
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    weights = class_weights(settings.class_weights, labels, num_classes)
    counted = np.ones(num_classes) if weights is None else np.asarray(weights)
    smoothing = settings.label_smoothing
    total = (counted * shares).sum()
    if is_distilled or not total:
        return Chance(float(shares.max()), None, len(labels))
    # what torch's cross entropy gives each class on average, per weight of the labels
    parts = (1 - smoothing) * counted * shares + smoothing / num_classes * counted
    parts = parts[parts > 0] / total
    loss = float((parts * np.log(parts.sum() / parts)).sum())
    return Chance(float(shares.max()), loss, len(labels))


def class_weights(
    asked: str | list[float], labels: NDArray[np.int64], num_classes: int
) -> list[float] | None:
    """`balanced` weights a class by 1 / its share of the labels; absent classes get 0.

    Raises SpecError for a list of another length.
    """
    if isinstance(asked, list):
        if len(asked) != num_classes:
            raise SpecError(
                "train.class_weights",
                f"{num_classes} weights, one for each class",
                f"{len(asked)}",
                "Give them in the order of the class numbers, or set balanced.",
            )
        return asked
    if asked == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes)
    num_present = max(1, int((counts > 0).sum()))
    balanced = np.divide(
        len(labels), num_present * counts, out=np.zeros(num_classes), where=counts > 0
    )
    return [float(weight) for weight in balanced]


def read_chance(facts: Mapping[str, Any]) -> Chance | None:
    """The chance level that a checkpoint tells of its training, if it does."""
    told = facts.get("chance")
    if not isinstance(told, Mapping):
        return None
    accuracy, loss, count = (told.get(name) for name in ("accuracy", "loss", "num_samples"))
    if not isinstance(accuracy, float) or not isinstance(count, int) or count < 1:
        return None
    return Chance(accuracy, loss if isinstance(loss, float) else None, count)
