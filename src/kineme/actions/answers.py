"""What evaluate and inference share: a checkpoint, its data, and what the model says.

Promises: the checkpoint decides everything the model depends on; a spec that says
otherwise was an error before any data was read. Works in one process or several.
Leaves out: what is made of the answers (evaluate.py, inference.py).

N samples, C classes; scores are log probabilities (N, C).
"""

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from kineme import __version__, files
from kineme.engine import checkpoint as checkpoints
from kineme.engine import launching, results, runtime
from kineme.engine.answer_journal import AnswerJournal
from kineme.engine.calibration import UNKNOWN, Calibration, calibrated, load_calibration
from kineme.engine.chance import Chance, read_chance
from kineme.engine.feeding import build_feed
from kineme.engine.memory import keep_freed_memory
from kineme.engine.metrics import Scores
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
from kineme.engine.validation import damage_note
from kineme.errors import CheckpointError, PartialError
from kineme.network import PREDICT, TEST, TRAIN, VAL, Answers, Dataset, Network, Remarks
from kineme.report.filmstrip import drawer
from kineme.report.findings import Training
from kineme.report.html import Baseline, ReportInput
from kineme.report.html import write_report as write_html
from kineme.report.plots import Curves, read_history
from kineme.report.trust import Trust
from kineme.spec.load import user_set


@dataclass(frozen=True)
class Subject:
    """What is asked: the network, the completed spec, the checkpoint and notes.

    asked: the spec before a checkpoint and the data had their say.
    validated_on: path of the data that chose the best checkpoint; "" where it is not told.
    facts: what the checkpoint says of itself.
    calibration: of the model by validation data; None where there were none.
    chance: what guessing reaches on the training data; None where it is not told.
    """

    network: Network
    spec: Any
    checkpoint: Path
    notes: tuple[str, ...]
    asked: Any
    validated_on: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    chance: Chance | None = None

    @property
    def temperature(self) -> float:
        """At which probabilities are told."""
        is_asked = getattr(self.spec, self.spec.action).calibrate
        return self.calibration.temperature if self.calibration and is_asked else 1.0

    def load_model(self) -> nn.Module:
        """The trained model, in this process."""
        loaded = checkpoints.load_checkpoint(self.checkpoint, self.spec.encryption_key)
        return checkpoints.build_trained(self.network, self.spec, loaded)


@dataclass(frozen=True)
class Figures:
    """What is told of a model beside its answers.

    curves: accuracy with joints hidden. parts: accuracy in percent of parts of the model, by title.
    trust: of its probabilities. baseline: what another model got. facts: more of what was run.
    seen_in: the split of training that these very samples were, None where they were none.
    """

    curves: Curves
    parts: Mapping[str, float | None]
    trust: Trust
    baseline: Baseline | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    seen_in: str | None = None


def ask(
    network: Network, spec: Any, *, action: str, split: str, body: Callable[..., Any]
) -> Mapping[str, Any]:
    """Run `body(fabric, subject, a_run)` of an action on its devices, and return its facts.

    The checkpoint fixes the spec first, then the data fills in the rest. Raises
    CheckpointError when the file is bad or the spec contradicts it.
    """
    section, asked = getattr(spec, action), spec
    loaded = checkpoints.load_checkpoint(section.checkpoint, spec.encryption_key)
    spec = checkpoints.restore_spec(spec, loaded, network.identity, network.inherited)
    spec, notes = network.complete(spec, split)
    notes += tuple(filter(None, [checkpoints.plain_note(loaded, spec.encryption_key)]))
    validated_on = str(loaded.facts.get("validated_on", ""))
    calibration, note = calibration_of(loaded, spec, action)
    notes += (note,) if note else ()
    chance = read_chance(loaded.facts)
    subject = Subject(
        network, spec, loaded.path, notes, asked, validated_on, loaded.facts, calibration, chance
    )
    with results.open_run(network, action, spec) as a_run:
        devices, device_note = runtime.asked_devices(spec, action)
        for text in filter(None, (*notes, device_note)):
            a_run.note(text)
        precision = spec.train.precision
        facts = launching.launch(body, subject, a_run, devices=devices, precision=precision)
        facts = {"kpi": {}, **(facts or {})}  # a process that does not write has none
        a_run.kpi = facts["kpi"]
    return facts


def calibration_of(
    loaded: checkpoints.Checkpoint, spec: Any, action: str
) -> tuple[Calibration | None, str]:
    """The calibration that a checkpoint holds, and what to tell a user who asks for more.

    Raises CheckpointError where unknown samples are to be told, and it does not say how.
    """
    calibration = load_calibration(loaded.facts, where=str(loaded.path))
    if calibration:
        return calibration, ""
    if action == "inference" and spec.inference.unknown:
        raise CheckpointError(
            str(loaded.path),
            "a checkpoint that was validated, as inference.unknown is true",
            "one without a threshold for unknown samples",
            "Train with validation data; of such a run, take best.pth or the last checkpoint.",
        )
    is_asked = f"{action}.calibrate" in user_set(spec) and getattr(spec, action).calibrate
    note = f"{action}.calibrate has no effect: {loaded.path} holds no temperature."
    return None, note if is_asked else ""


def unknown_data(network: Network, spec: Any) -> Dataset | None:
    """The samples of no class, where the spec names some. Raises DataError."""
    own = network.of_unknown(spec) if network.of_unknown else None
    return None if own is None else network.build_dataset(own, PREDICT)


def with_unknowns(answers: Answers, calibration: Calibration) -> Answers:
    """The answers, where samples that are of no class are remarked upon as unknown."""
    is_unknown = calibration.unknown(answers.scores).tolist()
    seen = [i for i in answers.answered if i not in answers.remarks.blank]
    blank = {i: UNKNOWN for i in seen if is_unknown[i]}
    return replace(answers, remarks=answers.remarks | Remarks(blank=blank))


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
    spec, compare = subject.spec, subject.network.compare_data
    for text in dataset.notes:
        a_run.note(text)
    if compare and not title:  # others with a title are made of these, or of no class
        for text in compare(dataset, subject.facts, str(subject.checkpoint)):
            a_run.note(text)
    section = getattr(spec, a_run.action)
    batch_size = section.batch_size if section.batch_size > 0 else spec.dataset.batch_size
    feed = build_feed(subject.network, spec, dataset)
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
                may_lose=a_run.action == "inference",
            )
    finally:
        feed.close()
    if text := damage_note(found.remarks.damaged, dataset):
        a_run.note(text)
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
    temperature: float = 1.0,
) -> None:
    """predictions.csv and .jsonl: id, label, probability, top k, and the truth if known.

    status is `ok`, or what was said of a sample in place of a class. Samples that failed
    are in failed.jsonl instead, with the reason. Of unknown ones, .jsonl keeps the top k.
    """
    probabilities = probabilities_at(answers.scores, temperature)
    order = np.argsort(-answers.scores, axis=1, kind="stable")[:, :top_k]
    rows, lines = [], []
    for i in answers.answered:
        truth = class_names[dataset.labels[i]] if dataset.labels[i] >= 0 else None
        top = [(class_names[c], round(float(probabilities[i, c]), 6)) for c in order[i]]
        status = answers.remarks.blank.get(i, "ok")
        likely = top if status in ("ok", UNKNOWN) else []
        top = top if status == "ok" else []
        label, probability = top[0] if top else (None, None)
        first = [dataset.ids[i], _cell(label), _cell(probability), _cell(truth)]
        others = [x for pair in top[1:] for x in pair] or [""] * (2 * order.shape[1] - 2)
        rows.append([*first, *others, status])
        line = {"id": dataset.ids[i], "label": label, "probability": probability, "truth": truth}
        top_list = [{"label": name, "probability": share} for name, share in likely]
        lines.append(json.dumps({**line, "status": status, "top": top_list}, ensure_ascii=False))
    places = range(2, order.shape[1] + 1)
    header = ["id", "label", "probability", "truth"]
    header += [f"{name}_{place}" for place in places for name in ("label", "probability")]
    header.append("status")
    files.write_csv(folder / PREDICTIONS_FILE, header, rows)
    files.write_text(folder / PREDICTION_LINES_FILE, "".join(f"{x}\n" for x in lines))
    for name in (CLIPS_FILE, FAILED_FILE):  # of an earlier run
        (folder / name).unlink(missing_ok=True)
    if len(answers.rows) > len(answers.answered):
        _write_clips(folder, dataset, answers, class_names, temperature)
    if answers.remarks.failed:
        failed = [
            {"id": dataset.ids[i], "reason": why}
            for i, why in sorted(answers.remarks.failed.items())
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in failed)
        files.write_text(folder / FAILED_FILE, text)


def probabilities_at(scores: Scores, temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, C) of log probabilities at a temperature."""
    return np.exp(calibrated(scores, temperature).astype(np.float64))


def _write_clips(
    folder: Path,
    dataset: Dataset,
    answers: Answers,
    class_names: Sequence[str],
    temperature: float,
) -> None:
    """clips.csv: what was said of each clip of a sample, before it was averaged."""
    rows, number = [], Counter[int]()
    shares = probabilities_at(answers.rows, temperature)
    for row, index in enumerate(answers.sample_of_row.tolist()):
        best = int(answers.rows[row].argmax())
        share = round(float(shares[row, best]), 6)
        rows.append([dataset.ids[index], number[index], class_names[best], share])
        number[index] += 1
    files.write_csv(folder / CLIPS_FILE, ["id", "clip", "label", "probability"], rows)


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
    why = failed[first].removesuffix(".")
    received = f"{len(failed)} that failed, the first {dataset.ids[first]!r}: {why}"
    if len(failed) / len(dataset) <= max_bad:
        a_run.note(f"{where}: of {len(dataset)} samples, {received}.")
        return
    expected = f"all {len(dataset)} samples to be answered"
    if max_bad:
        expected = f"at most {100 * max_bad:g} % of {len(dataset)} samples to fail"
    raise PartialError(where, expected, received, "The others are done.")


def _cell(value: Any) -> Any:
    return "" if value is None else value


def write_report(
    a_run: Run,
    subject: Subject,
    dataset: Dataset,
    answers: Answers,
    figures: Figures,
) -> Path:
    """report.html and the confusion matrix as a picture."""
    network, spec = subject.network, subject.spec
    common = network.common(spec)
    history = subject.checkpoint.resolve().parent / METRICS_FILE
    answered = answers.answered
    draw = drawer(network.drawing(spec, dataset))
    facts = {
        "checkpoint": subject.checkpoint,
        **_data_facts(subject, figures.seen_in),
        "samples": len(answered),
        "clips per sample": f"{len(answers.rows) / max(len(answered), 1):.3g}",
        "model": common.model_title,
        "date": datetime.now().isoformat(sep=" ", timespec="minutes"),
        "kineme": __version__,
    }
    facts |= figures.facts
    if other := figures.baseline:
        facts["baseline"] = f"{other.checkpoint}, accuracy {100 * other.accuracy:.1f} %"
    return write_html(
        a_run.folder,
        ReportInput(
            title=f"{network.name.replace('_', ' ').capitalize()}: evaluation",
            class_names=network.class_names(spec),
            labels=dataset.labels[answered],
            probabilities=probabilities_at(answers.judged[answered], subject.temperature),
            ids=[dataset.ids[i] for i in answered],
            draw=lambda row: draw(answered[row]),
            history=read_history(history),
            facts=facts,
            occlusion=figures.curves or None,
            baseline=figures.baseline,
            parts=figures.parts,
            warnings=tuple(
                dict.fromkeys((*_failures(dataset, answers), *subject.notes, *dataset.notes))
            ),
            training=Training(common.augmentation, spec.train.optim.lr, subject.chance),
            trust=figures.trust,
        ),
    )


def _failures(dataset: Dataset, answers: Answers) -> Iterator[str]:
    """Of what the figures of a report do not know."""
    failed = answers.remarks.failed
    if failed:
        yield (
            f"{len(failed)} of {len(dataset)} samples failed and are in none of these figures "
            f"({FAILED_FILE}), the first {dataset.ids[min(failed)]!r}: {failed[min(failed)]}"
        )


def _data_facts(subject: Subject, seen_in: str | None) -> dict[str, str]:
    """Which data were judged; whether the checkpoint learned from them, or was chosen on them."""
    network, chosen_on = subject.network, subject.validated_on
    data = network.data_path(subject.spec, TEST) if network.data_path else ""
    facts = {"data": data} if data else {}
    if seen_in == TRAIN:
        facts["learned from"] = "these very samples: expect less on others"
    if subject.checkpoint.name == BEST_FILE and data and chosen_on:
        is_same = seen_in == VAL or Path(data).resolve() == Path(chosen_on).resolve()
        facts["chosen on"] = (
            "these very data, out of all epochs: expect less on others" if is_same else chosen_on
        )
    return facts
