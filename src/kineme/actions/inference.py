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
    """Classify `spec.inference.test_dataset`; returns the number of samples and the path.

    Raises SpecError when the output file that the spec names exists.
    """
    asked = spec.inference
    results.refuse_taken("inference.output_file", asked.output_file, overwrite=asked.overwrite)
    return answers.ask(network, spec, action="inference", split=PREDICT, body=_body)


def _body(fabric: Fabric, subject: answers.Subject, a_run: Run) -> Mapping[str, Any]:
    with a_run.joined(is_writer=fabric.is_global_zero):
        network, spec = subject.network(), subject.spec
        dataset = network.build_dataset(spec, PREDICT)
        found = answers.classify(fabric, network, subject, dataset, a_run)
        if not fabric.is_global_zero:
            return {}
        names = network.class_names(spec)
        answers.write_predictions(
            a_run.folder, dataset, found, class_names=names, top_k=spec.inference.top_k
        )
        target = Path(spec.inference.output_file or a_run.folder / results.LABELS_FILE)
        text = network.answer_text(dataset, found, names)
        files.write_text(target, text)
        if network.prints_answers:
            print(text, end="")
        num_answered = len(found.answered)
        a_run.say(f"{num_answered} predictions in {a_run.folder} and {target}")
        answers.refuse_failures(a_run, dataset, found)
    kpi = {"samples": num_answered}
    return {"kpi": kpi, **kpi, "output_file": str(target)}
