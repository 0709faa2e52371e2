"""Judge a checkpoint on labelled data.

Promises: every sample counts once, whatever the batch size and number of processes; the
figures in metrics.json, the tables, the plots and report.html all come from the same
predictions, which are kept in predictions.csv.
Leaves out: what a prediction is (engine/predict.py), how it is drawn (report).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from kineme import files
from kineme.actions import answers, k_fold
from kineme.actions.comparison import find_baseline, judge_baseline
from kineme.engine import keeping, metrics
from kineme.engine.names import CONFUSION_FILE, EVALUATION_FILE, PER_CLASS_FILE
from kineme.engine.results import Run
from kineme.network import TEST, TRAIN, Answers, Dataset, Network
from kineme.report.html import Baseline
from kineme.report.plots import Curves
from kineme.report.trust import Trust, measure_trust


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Evaluate `spec.evaluate.checkpoint`; returns accuracy and avg_accuracy in percent.

    With `evaluate.k_fold`, models that are trained for it (k_fold.py).
    """
    if spec.evaluate.k_fold:
        return k_fold.run(network, spec, judge=judge, record=record)
    facts = answers.ask(network, spec, action="evaluate", split=TEST, body=judge)
    return dict(facts["kpi"])


def judge(fabric: Fabric, subject: answers.Subject, a_run: Run) -> Mapping[str, Any]:
    """The share of one process: {"kpi": figures, "answers": Answers of all samples}."""
    with a_run.joined(is_writer=fabric.is_global_zero):
        network, spec = subject.network, subject.spec
        dataset = network.build_dataset(spec, TEST)
        other = find_baseline(network, spec, subject.asked)  # now, and not after minutes
        strangers = answers.unknown_data(network, spec)
        model = subject.load_model()
        found = answers.classify(fabric, subject, model, dataset, a_run)
        seen_in = _seen_in(subject, dataset, a_run)
        parts = _judge_parts(fabric, subject, model, dataset, a_run)
        curves = _stress(fabric, subject, model, dataset, a_run)
        baseline = judge_baseline(subject, other, _judge_of(fabric, a_run))
        unknown = _judge_unknown(fabric, subject, model, strangers, a_run)
        if not fabric.is_global_zero:
            return {}
        trust = _trust(subject, dataset, found, unknown)
        figures = answers.Figures(curves, parts, trust, baseline, seen_in=seen_in)
        facts = record(a_run, subject, dataset, found, figures)
        answers.refuse_failures(a_run, dataset, found)
    shown = {name: facts[name] for name in ("accuracy", network.mean_accuracy)}
    return {"kpi": shown, "answers": found}


def record(
    a_run: Run,
    subject: answers.Subject,
    dataset: Dataset,
    found: Answers,
    figures: answers.Figures,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files of an evaluation and print its score; returns what metrics.json holds.

    more: facts beside these.
    """
    network, spec = subject.network, subject.spec
    known = found.labelled(dataset)
    facts = measure(
        found.judged[known],
        dataset.labels[known],
        class_names=network.class_names(spec),
        mean_accuracy=network.mean_accuracy,
    )
    baseline = figures.baseline
    facts |= {"checkpoint": str(spec.evaluate.checkpoint), "seen_in": figures.seen_in}
    facts |= {"occlusion": figures.curves or None}
    facts |= {"parts": figures.parts or None, "failed": len(found.remarks.failed)}
    facts |= {"baseline": _baseline_facts(baseline) if baseline else None}
    facts |= {**figures.trust.facts(), **(more or {})}
    _save(a_run, subject, dataset, found, facts)
    answers.write_report(a_run, subject, dataset, found, figures)
    print(network.score_text(facts))
    a_run.say(f"{facts['samples']} samples judged; the report is in {a_run.folder}")
    return facts


def _seen_in(subject: answers.Subject, dataset: Dataset, a_run: Run) -> str | None:
    """The split of training that these very samples were; that a model learned them is told."""
    split = keeping.seen_in(subject.facts, subject.network, dataset)
    if split == TRAIN:
        a_run.note("These are the very samples that the model learned from: expect less on others.")
    return split


def _trust(
    subject: answers.Subject,
    dataset: Dataset,
    found: Answers,
    unknown: NDArray[np.float32] | None,
) -> Trust:
    known, calibration = found.labelled(dataset), subject.calibration
    return measure_trust(
        found.judged[known],
        dataset.labels[known],
        calibration=calibration,
        is_applied=bool(calibration) and subject.spec.evaluate.calibrate,
        unknown=unknown,
    )


def measure(
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    class_names: tuple[str, ...],
    mean_accuracy: str = "avg_accuracy",
) -> dict[str, Any]:
    """Figures of log probabilities (N, C): shares in percent, as upstream's; n/a is None.

    A row of minus infinity is a sample for which no class was answered: that is wrong, it
    stands in a last column of the confusion matrix, and it has no part in the loss.
    mean_accuracy: the name that the mean over classes goes by.
    """
    predicted = metrics.predictions(scores)
    is_answered = predicted < len(class_names)
    loss = metrics.cross_entropy(scores[is_answered], labels[is_answered])
    confusion = metrics.confusion_matrix(labels, predicted, len(class_names))
    per_class = zip(
        class_names,
        confusion.sum(axis=1),
        metrics.recall(confusion),
        metrics.precision(confusion),
        metrics.f1(confusion),
        strict=True,
    )
    return {
        "samples": len(labels),
        "accuracy": _percent(metrics.accuracy(confusion)),
        mean_accuracy: _percent(metrics.mean_class_accuracy(confusion)),
        "top5_accuracy": _percent(metrics.top_k_accuracy(scores, labels, 5)),
        "loss": loss if np.isfinite(loss) else None,
        "unanswered": int((~is_answered).sum()),
        "classes": [
            {
                "label": name,
                "samples": int(count),
                "accuracy": _percent(recall),
                "precision": _percent(precision),
                "f1": _percent(f1),
            }
            for name, count, recall, precision, f1 in per_class
        ],
        "confusion": confusion.tolist(),
    }


def _judge_of(
    fabric: Fabric, a_run: Run
) -> Callable[[answers.Subject, Dataset], tuple[float, Curves]]:
    """Accuracy of another model on a dataset, and on damaged copies of it."""

    def judge(subject: answers.Subject, dataset: Dataset) -> tuple[float, Curves]:
        model = subject.load_model()
        found = answers.classify(fabric, subject, model, dataset, a_run, title="baseline")
        return _share_right(found, dataset), _stress(fabric, subject, model, dataset, a_run)

    return judge


def _judge_parts(
    fabric: Fabric, subject: answers.Subject, model: nn.Module, dataset: Dataset, a_run: Run
) -> dict[str, float | None]:
    """Accuracy in percent of each part of the model that can answer alone."""
    found = {}
    for title, part in subject.network.common(subject.spec).parts.items():
        alone = answers.classify(
            fabric, subject, model, dataset, a_run, title=f"{title} alone", part=part
        )
        found[title] = _percent(_share_right(alone, dataset))
    return found


def _judge_unknown(
    fabric: Fabric,
    subject: answers.Subject,
    model: nn.Module,
    dataset: Dataset | None,
    a_run: Run,
) -> NDArray[np.float32] | None:
    """Scores of the samples of no class; blank ones are left out."""
    if dataset is None:
        return None
    found = answers.classify(fabric, subject, model, dataset, a_run, title="unknown")
    seen = [i for i in found.answered if i not in found.remarks.blank]
    return found.scores[seen]


def _baseline_facts(baseline: Baseline) -> dict[str, Any]:
    return {
        "checkpoint": baseline.checkpoint,
        "accuracy": _percent(baseline.accuracy),
        "occlusion": baseline.curves or None,
    }


def _share_right(found: Answers, dataset: Dataset) -> float:
    """Share of right answers; NaN where no label is known."""
    known = found.labelled(dataset)
    if not known:
        return float("nan")
    predicted = metrics.predictions(found.judged[known])
    return float((predicted == dataset.labels[known]).mean())


def _stress(
    fabric: Fabric, subject: answers.Subject, model: nn.Module, dataset: Dataset, a_run: Run
) -> Curves:
    """Accuracy (share in [0, 1]) on damaged copies of the test data, where asked for."""
    network = subject.network
    is_asked = network.common(subject.spec).has_occlusion and (dataset.labels >= 0).any()
    if network.occluded is None or not is_asked:
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for curve, share, damaged in network.occluded(dataset):
        found = answers.classify(fabric, subject, model, damaged, a_run, title=curve)
        curves.setdefault(curve, []).append((share, _share_right(found, damaged)))
    return curves


def _save(
    a_run: Run,
    subject: answers.Subject,
    dataset: Dataset,
    found: Answers,
    facts: Mapping[str, Any],
) -> None:
    folder, class_names = a_run.folder, subject.network.class_names(subject.spec)
    files.write_json(folder / EVALUATION_FILE, facts)
    rows = [[name, *counts] for name, counts in zip(class_names, facts["confusion"], strict=True)]
    columns = [*class_names, metrics.NO_ANSWER][: len(facts["confusion"][0])]
    files.write_csv(folder / CONFUSION_FILE, ["true \\ predicted", *columns], rows)
    header = ["label", "samples", "accuracy", "precision", "f1"]
    table = [[_cell(row[name]) for name in header] for row in facts["classes"]]
    files.write_csv(folder / PER_CLASS_FILE, header, table)
    answers.write_predictions(
        folder,
        dataset,
        found,
        class_names=class_names,
        top_k=5,
        temperature=subject.temperature,
    )


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 4)


def _cell(value: Any) -> Any:
    return "n/a" if value is None else value
