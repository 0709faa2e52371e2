"""Judge a checkpoint on labelled data.

Promises: every sample counts once, whatever the batch size and number of processes; the
figures in metrics.json, the tables, the plots and report.html all come from the same
predictions, which are kept in predictions.csv.
Leaves out: what a prediction is (engine/predict.py), how it is drawn (report).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kineme import files
from kineme.actions import answers
from kineme.engine import metrics, results
from kineme.engine.results import Run
from kineme.network import TEST, Dataset, Network


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Evaluate `spec.evaluate.checkpoint`; returns accuracy and avg_accuracy in percent."""
    facts = answers.ask(network, spec, action="evaluate", split=TEST, body=_body)
    return dict(facts["kpi"])


def _body(fabric: Fabric, subject: answers.Subject, a_run: Run) -> Mapping[str, Any]:
    with a_run.joined(is_writer=fabric.is_global_zero):
        network, spec = subject.network(), subject.spec
        dataset = network.build_dataset(spec, TEST)
        scores = answers.classify(fabric, network, subject, dataset, a_run)
        curves = _stress(fabric, network, subject, dataset, a_run)
        if not fabric.is_global_zero:
            return {}
        names = network.class_names(spec)
        facts = measure(scores, dataset.labels, class_names=names)
        facts |= {"checkpoint": str(spec.evaluate.checkpoint), "occlusion": curves or None}
        _save(a_run, dataset, scores, facts, class_names=names)
        answers.write_report(a_run, subject, dataset, scores, curves)
        print_scores(facts)
    return {"kpi": {name: facts[name] for name in ("accuracy", "avg_accuracy")}}


def measure(
    scores: NDArray[np.float32], labels: NDArray[np.int64], *, class_names: tuple[str, ...]
) -> dict[str, Any]:
    """Figures of log probabilities (N, C): shares in percent, as upstream's; n/a is None."""
    predicted = scores.argmax(axis=1)
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
        "avg_accuracy": _percent(metrics.mean_class_accuracy(confusion)),
        "top5_accuracy": _percent(metrics.top_k_accuracy(scores, labels, 5)),
        "loss": metrics.cross_entropy(scores, labels),
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


def print_scores(facts: Mapping[str, Any]) -> None:
    """The table that upstream prints, on stdout."""
    table = Table("Name", "Score")
    for row in facts["classes"]:
        table.add_row(f"Class accuracy: {row['label']}", _shown(row["accuracy"]))
    table.add_row("Total accuracy", _shown(facts["accuracy"]))
    table.add_row("Average class accuracy", _shown(facts["avg_accuracy"]))
    Console(markup=False).print(table)


def _stress(
    fabric: Fabric,
    network: Network,
    subject: answers.Subject,
    dataset: Dataset,
    a_run: Run,
) -> dict[str, list[tuple[float, float]]]:
    """Accuracy (share in [0, 1]) on damaged copies of the test data, where asked for."""
    if not subject.spec.evaluate.occlusion:
        return {}
    curves: dict[str, list[tuple[float, float]]] = {}
    for curve, share, damaged in network.occluded(dataset):
        scores = answers.classify(fabric, network, subject, damaged, a_run, title=curve)
        correct = float((scores.argmax(axis=1) == dataset.labels).mean())
        curves.setdefault(curve, []).append((share, correct))
    return curves


def _save(
    a_run: Run,
    dataset: Dataset,
    scores: NDArray[np.float32],
    facts: Mapping[str, Any],
    *,
    class_names: tuple[str, ...],
) -> None:
    folder = a_run.folder
    files.write_json(folder / results.EVALUATION_FILE, facts)
    rows = [[name, *counts] for name, counts in zip(class_names, facts["confusion"], strict=True)]
    answers.write_csv(folder / results.CONFUSION_FILE, ["true \\ predicted", *class_names], rows)
    header = ["label", "samples", "accuracy", "precision", "f1"]
    table = [[_cell(row[name]) for name in header] for row in facts["classes"]]
    answers.write_csv(folder / results.PER_CLASS_FILE, header, table)
    answers.write_predictions(folder, dataset, scores, class_names=class_names, top_k=5)


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 4)


def _cell(value: Any) -> Any:
    return "n/a" if value is None else value


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
