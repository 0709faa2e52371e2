"""Another model on the same test data, so that figures of an evaluation stand beside its own.

Promises: it is judged as its own checkpoint says (sampling, normalisation), on the same samples,
with the same parts of them hidden, and by the same settings of the evaluation.
Leaves out: what is made of the figures (evaluate.py, report).
"""

from collections.abc import Callable
from dataclasses import replace

from kineme.actions import answers
from kineme.engine import checkpoint as checkpoints
from kineme.errors import CheckpointError
from kineme.network import TEST, Dataset
from kineme.report.html import Baseline
from kineme.report.plots import Curves
from kineme.spec.load import with_values


def judge_baseline(
    subject: answers.Subject, judge: Callable[[answers.Subject, Dataset], tuple[float, Curves]]
) -> Baseline | None:
    """What `evaluate.baseline` gets by `judge`, which is handed it and its test data.

    None where the spec names no other model. Raises CheckpointError for one of other classes.
    """
    spec, network = subject.spec, subject.network
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
    theirs = with_values(subject.asked, {"evaluate.checkpoint": str(path)})
    theirs = checkpoints.restore_spec(
        theirs, loaded, network.identity, network.inherited, is_other=True
    )
    theirs, _ = network.complete(theirs, TEST)
    other = replace(subject, spec=theirs, checkpoint=loaded.path, notes=(), calibration=None)
    accuracy, curves = judge(other, network.build_dataset(theirs, TEST))
    return Baseline(str(path), accuracy, curves)
