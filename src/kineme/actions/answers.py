"""What evaluate and inference share: a checkpoint, its data, and what the model says.

Promises: the checkpoint decides everything the model depends on; a spec that says
otherwise was an error before any data was read. Works in one process or several.
Leaves out: what is made of the answers (evaluate.py, inference.py).

N samples, C classes; scores are log probabilities (N, C).
"""

import csv
import inspect
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from kineme import __version__, files
from kineme.engine import checkpoint as checkpoints
from kineme.engine import results, runtime
from kineme.engine.answer_journal import AnswerJournal
from kineme.engine.feeding import Feed
from kineme.engine.memory import keep_freed_memory
from kineme.engine.names import (
    BEST_FILE,
    CLIPS_FILE,
    FAILED_FILE,
    METRICS_FILE,
    PREDICTION_LINES_FILE,
    PREDICTIONS_FILE,
)
from kineme.engine.predict import predict
from kineme.engine.progress import track
from kineme.engine.results import Run
from kineme.errors import PartialError
from kineme.network import TEST, Answers, Dataset, Network
from kineme.report.filmstrip import drawer
from kineme.report.findings import Training
from kineme.report.html import ReportInput
from kineme.report.html import write_report as write_html
from kineme.report.plots import read_history


@dataclass(frozen=True)
class Subject:
    """What is asked: the network, the completed spec, the checkpoint and notes.

    validated_on: path of the data that chose the best checkpoint; "" where it is not told.
    """

    network: Network
    spec: Any
    checkpoint: Path
    notes: tuple[str, ...]
    validated_on: str = ""

    def load_model(self) -> nn.Module:
        """The trained model, in this process."""
        loaded = checkpoints.load_checkpoint(self.checkpoint, self.spec.encryption_key)
        return checkpoints.build_trained(self.network, self.spec, loaded)


def ask(
    network: Network, spec: Any, *, action: str, split: str, body: Callable[..., Any]
) -> Mapping[str, Any]:
    """Run `body(fabric, subject, a_run)` of an action on its devices, and return its facts.

    The checkpoint fixes the spec first, then the data fills in the rest. Raises
    CheckpointError when the file is bad or the spec contradicts it.
    """
    section = getattr(spec, action)
    loaded = checkpoints.load_checkpoint(section.checkpoint, spec.encryption_key)
    spec = checkpoints.restore_spec(spec, loaded, network.identity, network.inherited)
    spec, notes = network.complete(spec, split)
    notes += tuple(filter(None, [checkpoints.plain_note(loaded, spec.encryption_key)]))
    validated_on = str(loaded.facts.get("validated_on", ""))
    subject = Subject(network, spec, loaded.path, notes, validated_on)
    with results.open_run(network, action, spec) as a_run:
        devices, device_note = runtime.choose_devices(
            spec.device,
            num_gpus=section.num_gpus,
            gpu_ids=tuple(section.gpu_ids),
            num_nodes=section.num_nodes,
        )
        for text in filter(None, (*notes, device_note)):
            a_run.note(text)
        precision = spec.train.precision
        facts = runtime.launch(body, subject, a_run, devices=devices, precision=precision)
        facts = {"kpi": {}, **(facts or {})}  # a process that does not write has none
        a_run.kpi = facts["kpi"]
    return facts


def classify(
    fabric: Fabric,
    subject: Subject,
    model: nn.Module,
    dataset: Dataset,
    a_run: Run,
    *,
    title: str = "",
    part: str = "",
    journal: AnswerJournal | None = None,
) -> Answers:
    """What the model, or a part of it, says of all samples, in every process.

    journal: where answers are kept as they come, and found after an interruption.
    """
    spec = subject.spec
    for text in dataset.notes:
        a_run.note(text)
    section = getattr(spec, a_run.action)
    batch_size = section.batch_size if section.batch_size > 0 else spec.dataset.batch_size
    feed = Feed(
        dataset,
        num_workers=subject.network.common(spec).num_workers,
        stall_seconds=spec.train.stall_timeout,
    )
    if fabric.device.type == "cpu":
        keep_freed_memory()
    asked = _Part(model.get_submodule(part)) if part else model
    try:
        with track(a_run, title or a_run.action, total=len(dataset)) as advance_to:
            found = predict(
                fabric,
                asked.to(fabric.device),
                feed,
                batch_size=batch_size,
                poll=advance_to,
                journal=journal,
            )
    finally:
        feed.close()
    if found.remarks.damaged:
        first, what = min(found.remarks.damaged.items())
        a_run.note(
            f"{len(found.remarks.damaged)} of {len(dataset)} samples are damaged or change on the "
            f"way, and are used as far as they can be; the first, {dataset.ids[first]!r}: {what}."
        )
    return found


class _Part(nn.Module):
    """A submodule that takes its own of the whole model's inputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(inspect.signature(module.forward).parameters)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(**{name: inputs[name] for name in self.names})
        return logits


def write_predictions(
    folder: Path,
    dataset: Dataset,
    answers: Answers,
    *,
    class_names: Sequence[str],
    top_k: int,
) -> None:
    """predictions.csv and .jsonl: id, label, probability, top k, and the truth if known.

    status is `ok`, or what was said of a sample in place of a class. Samples that failed
    are in failed.jsonl instead, with the reason.
    """
    probabilities = np.exp(answers.scores.astype(np.float64))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    rows, lines = [], []
    for i in answers.answered:
        truth = class_names[dataset.labels[i]] if dataset.labels[i] >= 0 else None
        top = [(class_names[c], round(float(probabilities[i, c]), 6)) for c in order[i]]
        top = [] if i in answers.remarks.blank else top
        label, probability = top[0] if top else (None, None)
        status = answers.remarks.blank.get(i, "ok")
        first = [dataset.ids[i], _cell(label), _cell(probability), _cell(truth)]
        others = [x for pair in top[1:] for x in pair] or [""] * (2 * order.shape[1] - 2)
        rows.append([*first, *others, status])
        line = {"id": dataset.ids[i], "label": label, "probability": probability, "truth": truth}
        top_list = [{"label": name, "probability": share} for name, share in top]
        lines.append(json.dumps({**line, "status": status, "top": top_list}, ensure_ascii=False))
    places = range(2, order.shape[1] + 1)
    header = ["id", "label", "probability", "truth"]
    header += [f"{name}_{place}" for place in places for name in ("label", "probability")]
    header.append("status")
    write_csv(folder / PREDICTIONS_FILE, header, rows)
    files.write_text(folder / PREDICTION_LINES_FILE, "".join(f"{x}\n" for x in lines))
    for name in (CLIPS_FILE, FAILED_FILE):  # of an earlier run
        (folder / name).unlink(missing_ok=True)
    if len(answers.rows) > len(answers.answered):
        _write_clips(folder, dataset, answers, class_names)
    if answers.remarks.failed:
        failed = [
            {"id": dataset.ids[i], "reason": why}
            for i, why in sorted(answers.remarks.failed.items())
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in failed)
        files.write_text(folder / FAILED_FILE, text)


def _write_clips(
    folder: Path, dataset: Dataset, answers: Answers, class_names: Sequence[str]
) -> None:
    """clips.csv: what was said of each clip of a sample, before it was averaged."""
    rows, number = [], Counter[int]()
    for index, scores in zip(answers.sample_of_row.tolist(), answers.rows, strict=True):
        best = int(scores.argmax())
        share = round(float(np.exp(scores[best])), 6)
        rows.append([dataset.ids[index], number[index], class_names[best], share])
        number[index] += 1
    write_csv(folder / CLIPS_FILE, ["id", "clip", "label", "probability"], rows)


def refuse_failures(
    a_run: Run, dataset: Dataset, answers: Answers, *, max_bad: float = 0.0
) -> None:
    """Raise PartialError when a share of samples above `max_bad` failed, else say how many did.

    Everything else has been written by then.
    """
    failed = answers.remarks.failed
    if not failed:
        return
    first, where = min(failed), str(a_run.folder / FAILED_FILE)
    received = f"{len(failed)} that failed, the first {dataset.ids[first]!r}: {failed[first]}"
    if len(failed) / len(dataset) <= max_bad:
        a_run.note(f"{where}: of {len(dataset)} samples, {received}.")
        return
    expected = f"all {len(dataset)} samples to be read"
    if max_bad:
        expected = f"at most {100 * max_bad:g} % of {len(dataset)} samples to fail"
    raise PartialError(where, expected, received, "The others are done.")


def _cell(value: Any) -> Any:
    return "" if value is None else value


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file, all or nothing."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    files.write_text(path, text.getvalue())


def write_report(
    a_run: Run,
    subject: Subject,
    dataset: Dataset,
    answers: Answers,
    curves: Mapping[str, list[tuple[float, float]]],
    parts: Mapping[str, float | None],
) -> Path:
    """report.html and the confusion matrix as a picture. parts: accuracy (percent) by title."""
    network, spec = subject.network, subject.spec
    common = network.common(spec)
    history = subject.checkpoint.resolve().parent / METRICS_FILE
    answered = answers.answered
    draw = drawer(network.drawing(spec, dataset))
    facts = {
        "checkpoint": subject.checkpoint,
        **_data_facts(subject),
        "samples": len(answered),
        "clips per sample": f"{len(answers.rows) / max(len(answered), 1):.3g}",
        "model": common.model_title,
        "date": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "kineme": __version__,
    }
    return write_html(
        a_run.folder,
        ReportInput(
            title=f"{network.name.replace('_', ' ').capitalize()}: evaluation",
            class_names=network.class_names(spec),
            labels=dataset.labels[answered],
            probabilities=np.exp(answers.judged[answered]),
            ids=[dataset.ids[i] for i in answered],
            draw=lambda row: draw(answered[row]),
            history=read_history(history),
            facts=facts,
            occlusion=curves or None,
            parts=parts,
            warnings=tuple(dict.fromkeys((*subject.notes, *dataset.notes))),
            training=Training(common.augmentation, spec.train.optim.lr),
        ),
    )


def _data_facts(subject: Subject) -> dict[str, str]:
    """Which data were judged, and whether they had chosen the checkpoint."""
    network, chosen_on = subject.network, subject.validated_on
    data = network.data_path(subject.spec, TEST) if network.data_path else ""
    facts = {"data": data} if data else {}
    if subject.checkpoint.name == BEST_FILE and data and chosen_on:
        is_same = Path(data).resolve() == Path(chosen_on).resolve()
        facts["chosen on"] = (
            "these very data, out of all epochs: expect less on others" if is_same else chosen_on
        )
    return facts
