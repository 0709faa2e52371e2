"""Classify data without labels.

Promises: one row per sample in the order of the data, with label, probability and the
top k, as CSV and JSON lines; beside it upstream's form, one class name per line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from kineme import files
from kineme.actions import answers
from kineme.engine import results
from kineme.engine.results import Run
from kineme.network import PREDICT, Network


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Classify `spec.inference.test_dataset`; returns the number of samples and the paths."""
    return answers.ask(network, spec, action="inference", split=PREDICT, body=_body)


def _body(fabric: Fabric, subject: answers.Subject, a_run: Run) -> Mapping[str, Any]:
    with a_run.joined(is_writer=fabric.is_global_zero):
        network, spec = subject.network(), subject.spec
        dataset = network.build_dataset(spec, PREDICT)
        scores = answers.classify(fabric, network, subject, dataset, a_run)
        if not fabric.is_global_zero:
            return {}
        names = network.class_names(spec)
        answers.write_predictions(
            a_run.folder, dataset, scores, class_names=names, top_k=spec.inference.top_k
        )
        target = Path(spec.inference.output_file or a_run.folder / results.LABELS_FILE)
        lines = [names[best] for best in scores.argmax(axis=1)]
        files.write_text(target, "".join(f"{line}\n" for line in lines))
        a_run.say(f"{len(lines)} predictions in {a_run.folder} and {target}")
    kpi = {"samples": len(lines)}
    return {"kpi": kpi, **kpi, "output_file": str(target)}
