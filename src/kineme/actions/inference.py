"""Classify data without labels.

Promises: one row per sample in the order of the data, with label, probability and the
top k, as CSV and JSON lines; beside it upstream's form, one class name per line. What was
answered before an interruption is not computed again when the run is resumed.
Leaves out: what is drawn on a video (report/annotate.py).
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from kineme import files
from kineme.actions import answers
from kineme.engine import answer_journal, results
from kineme.engine import checkpoint as checkpoints
from kineme.engine.answer_journal import AnswerJournal
from kineme.engine.calibration import UNKNOWN
from kineme.engine.keeping import fingerprint
from kineme.engine.names import (
    ANNOTATED_FOLDER,
    FAILED_FILE,
    LABELS_FILE,
    PREDICTION_LINES_FILE,
    PREDICTIONS_FILE,
)
from kineme.engine.progress import track
from kineme.engine.results import Run
from kineme.errors import DataError
from kineme.network import PREDICT, Answers, Dataset, FrameDrawing, Network
from kineme.signals import Interrupted
from kineme.spec.fields import settings
from kineme.spec.load import value_at

# Settings with which a run may go on although they have changed: where and how it computes,
# and what is made of the answers.
FREE = {
    "checkpoint", "trt_engine", "results_dir", "num_gpus", "gpu_ids", "num_nodes", "batch_size",
    "workers", "num_workers", "cache_dir", "resume", "max_bad", "annotate", "top_k",
    "output_file", "overwrite",
}  # fmt: skip


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Classify the data of the `inference` block; returns the number of samples and the path.

    Raises SpecError when the output file that the spec names exists, PartialError when more
    samples failed than `inference.max_bad` allows.
    """
    results.refuse_taken(network, spec)
    return answers.ask(network, spec, action="inference", split=PREDICT, body=_body)


def _body(fabric: Fabric, subject: answers.Subject, a_run: Run) -> Mapping[str, Any]:
    with a_run.joined(is_writer=fabric.is_global_zero):
        network, spec = subject.network, subject.spec
        dataset = network.build_dataset(spec, PREDICT)
        journal = _open_journal(fabric, subject, dataset, a_run)
        with _interruptions_explained():
            model = subject.load_model()
            found = answers.classify(fabric, subject, model, dataset, a_run, journal=journal)
        if not fabric.is_global_zero:
            return {}
        if spec.inference.unknown and subject.calibration:
            found = answers.with_unknowns(found, subject.calibration)
        names = network.class_names(spec)
        _remove_videos_of_before(a_run.folder, dataset, journal)
        answers.write_predictions(
            a_run.folder,
            dataset,
            found,
            class_names=names,
            top_k=spec.inference.top_k,
            temperature=subject.temperature,
        )
        target = Path(spec.inference.output_file or a_run.folder / LABELS_FILE)
        text = network.answer_text(dataset, found, names)
        files.write_text(target, text)
        if network.prints_answers:
            print(text, end="")
        num_answered = len(found.answered)
        a_run.say(f"{num_answered} predictions in {a_run.folder} and {target}")
        if network.common(spec).annotates:
            with _interruptions_explained():
                _annotate(subject, dataset, found, a_run, journal)
        journal.remove()
        answers.refuse_failures(a_run, dataset, found, max_bad=spec.inference.max_bad)
    kpi = {"samples": num_answered}
    if spec.inference.unknown:
        kpi["unknown"] = list(found.remarks.blank.values()).count(UNKNOWN)
    return {"kpi": kpi, **kpi, "output_file": str(target)}


def _open_journal(
    fabric: Fabric, subject: answers.Subject, dataset: Dataset, a_run: Run
) -> AnswerJournal:
    """The journal of this run, with what an interrupted one before it knew."""
    resumes = subject.spec.inference.resume
    is_unfinished = bool(answer_journal.find_journals(a_run.folder))
    journal = answer_journal.open_journal(
        fabric,
        a_run.folder,
        dataset.ids,
        deciding(subject.network, subject.spec, subject.checkpoint, dataset),
        resumes=resumes,
    )
    if is_unfinished and not resumes:
        a_run.note(
            f"{a_run.folder}: the answers of an unfinished run are dropped; "
            "inference.resume=true goes on with them."
        )
    if is_unfinished and resumes:
        a_run.say(f"Going on: {len(journal.done)} of {len(dataset)} samples are answered.")
    elif resumes:
        is_finished = (a_run.folder / PREDICTIONS_FILE).is_file()
        found = "the run before was finished" if is_finished else "there was no run before"
        a_run.note(
            f"{a_run.folder}: nothing to go on with, as {found}; all {len(dataset)} samples are "
            "classified anew."
        )
    return journal


def deciding(network: Network, spec: Any, checkpoint: Path, dataset: Dataset) -> dict[str, Any]:
    """All that decides the answers, by name, in plain values."""
    decides = {
        "sha256 of the checkpoint": checkpoints.sha256_of(checkpoint),
        "fingerprint of the data": fingerprint(network, dataset),
    }
    for setting in settings(type(spec)):
        block, _, name = setting.key.partition(".")
        is_of_answers = block in ("model", "dataset", "inference")
        if (is_of_answers and name not in FREE) or setting.key in ("train.precision", "train.seed"):
            decides[setting.key] = checkpoints.plain(value_at(spec, setting.key))
    return decides


def _remove_videos_of_before(folder: Path, dataset: Dataset, journal: AnswerJournal) -> None:
    """Remove the videos that an earlier run labelled, but for those of the run that goes on.

    Whose they are is read from its predictions, while these are still there.
    """
    videos = folder / ANNOTATED_FOLDER
    if not videos.is_dir():
        return
    from kineme.report import annotate

    kept = annotate.file_names(dataset.ids)
    stale = set(annotate.file_names(_ids_of_before(folder))) - {kept[i] for i in journal.drawn}
    for path in (videos / name for name in stale):
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder of it that holds other files
            for parent in path.parents[: len(path.relative_to(folder).parents) - 1]:
                parent.rmdir()


def _ids_of_before(folder: Path) -> list[str]:
    """The samples that the files of an earlier run tell of."""
    ids = []
    for path in (folder / PREDICTION_LINES_FILE, folder / FAILED_FILE):
        for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError, LookupError, TypeError):  # not a line of ours
                ids.append(str(json.loads(line)["id"]))
    return ids


def _annotate(
    subject: answers.Subject,
    dataset: Dataset,
    found: Answers,
    a_run: Run,
    journal: AnswerJournal,
) -> None:
    """Write each video that was answered with its label on it, but for those that are there."""
    from kineme.report import annotate  # loads PyAV, and few runs draw

    network, names = subject.network, subject.network.class_names(subject.spec)
    drawing = network.drawing(subject.spec, dataset)
    shares = answers.probabilities_at(found.scores, subject.temperature)
    if not isinstance(drawing, FrameDrawing) or drawing.footage is None:
        raise TypeError(f"{network.name} annotates, but has no footage")
    folder, paths = a_run.folder / ANNOTATED_FOLDER, annotate.file_names(dataset.ids)
    bad: dict[int, DataError] = {}
    for one in {(folder / path).parent for path in paths}:
        files.sweep_temporaries(one)
    if encoder_note := annotate.encoder_note():
        a_run.note(encoder_note)
    with track(a_run, "annotate", total=len(found.answered)) as advance:
        for number, i in enumerate(found.answered, start=1):
            path = folder / paths[i]
            if i not in journal.drawn or not path.is_file():
                best = int(found.scores[i].argmax())
                label = f"{100 * float(shares[i, best]):.1f} %  {names[best]}"
                try:
                    text = found.remarks.blank.get(i, label)
                    annotate.write_annotated(path, drawing.footage(i), text)
                    journal.write_drawn(i)
                except DataError as error:
                    bad[i] = error
            advance(number)
    a_run.say(f"{len(found.answered) - len(bad)} annotated videos in {folder}")
    if bad:
        a_run.note(
            f"{len(bad)} of {len(found.answered)} videos have a label but could not be annotated, "
            f"the first {dataset.ids[min(bad)]!r}: {bad[min(bad)]}"
        )


@contextlib.contextmanager
def _interruptions_explained() -> Iterator[None]:
    """Tell whoever stops the run how it goes on."""
    try:
        yield
    except Interrupted as error:
        problem = error.problems[0]
        fix = "The answers so far are kept; set inference.resume=true to go on with them."
        raise Interrupted(problem.where, problem.expected, problem.received, fix) from error
