"""Another model on the same test data, so that figures of an evaluation stand beside its own.

Promises: it is judged as its own checkpoint says (sampling, normalisation), on the same samples,
with the same parts of them hidden, and by the same settings of the evaluation.
Leaves out: what is made of the figures (evaluate.py, report).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kineme.actions import answers
from kineme.engine import checkpoint as checkpoints
from kineme.engine.checkpoint import Checkpoint
from kineme.errors import CheckpointError
from kineme.network import TEST, Dataset, Network
from kineme.report.html import Baseline
from kineme.report.plots import Curves
from kineme.spec.load import with_values


@dataclass(frozen=True)
class Other:
    """Another model, as it is to be judged: its spec, its checkpoint and its test data."""

    spec: Any
    checkpoint: Checkpoint
    dataset: Dataset


def find_baseline(network: Network, spec: Any, asked: Any) -> Other | None:
    """The model of `evaluate.baseline` and its data; None where the spec names none.

    spec: of the model that it stands beside; asked: before that one's checkpoint had its say.
    Raises CheckpointError for one of other classes, DataError where it cannot see the data.
    """
    path = spec.evaluate.baseline
    if not path:
        return None
    loaded = checkpoints.load_checkpoint(path, spec.encryption_key)
    names = network.class_names(spec)
    if loaded.class_names != names:
        raise CheckpointError(
            str(loaded.path), f"a model of the classes {', '.join(names)}",
            f"one of {', '.join(loaded.class_names) or 'classes that it does not name'}",
            "Name another evaluate.baseline.",
        )  # fmt: skip
    theirs = with_values(asked, {"evaluate.checkpoint": str(path)})
    theirs = checkpoints.restore_spec(
        theirs, loaded, network.identity, network.inherited, is_other=True
    )
    theirs, _ = network.complete(theirs, TEST)
    return Other(theirs, loaded, network.build_dataset(theirs, TEST))


def judge_baseline(
    subject: answers.Subject,
    other: Other | None,
    judge: Callable[[answers.Subject, Dataset], tuple[float, Curves]],
) -> Baseline | None:
    """What another model gets by `judge`, which is handed it and its test data."""
    if other is None:
        return None
    theirs = replace(
        subject, spec=other.spec, checkpoint=other.checkpoint.path, notes=(), calibration=None
    )
    accuracy, curves = judge(theirs, other.dataset)
    return Baseline(str(subject.spec.evaluate.baseline), accuracy, curves)
