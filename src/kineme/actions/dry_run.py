"""What an action would meet, without doing it: `--dry-run`.

Promises: spec, device, results folder, disk, data, checkpoint and one batch through the
model are checked with the action's own code, so that errors and notes are the same; nothing
is written. Leaves out: time and memory of the whole run.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kineme.actions import k_fold
from kineme.actions.answers import calibration_of, unknown_data
from kineme.actions.comparison import find_baseline
from kineme.actions.inference import deciding
from kineme.engine import answer_journal, lease, optim, runtime
from kineme.engine import checkpoint as checkpoints
from kineme.engine.calibration import load_calibration
from kineme.engine.feeding import steps_per_epoch
from kineme.engine.names import LEASE_FILE
from kineme.engine.objective import load_teacher
from kineme.engine.results import refuse_taken
from kineme.engine.start import (
    build_data,
    data_notes,
    find_start,
    left_out_note,
    start_from,
)
from kineme.engine.training import new_training
from kineme.errors import DataError, QualityError, ResourceError
from kineme.network import PREDICT, TEST, TRAIN, VAL, Network
from kineme.spec.sections import run_folder


def check(network: Network, spec: Any) -> Iterator[str]:
    """Yield a line for everything that is fine, and the notes of the action ("note: ...").

    Raises what the action would raise.
    """
    yield f"spec: valid for {network.name} {spec.action}"
    folder = run_folder(spec)
    lease.refuse_if_in_use(folder / LEASE_FILE)
    free_bytes = _free_bytes(folder)
    yield f"results: {folder} can be written, {free_bytes:,} bytes free"
    if spec.action == "dataset_convert":
        yield _source(Path(spec.dataset_convert.data))
        return
    devices, note = _devices(spec)
    yield f"device: {len(devices.ids)} x {devices.kind}"
    yield from _notes([note])
    if spec.action == "train":
        yield from _notes([runtime.cpu_precision_note(devices, spec.train.precision)])
        yield from _train(network, spec, folder, devices.world_size)
    elif spec.action == "export":
        yield from _export(network, spec)
    elif spec.action == "evaluate" and spec.evaluate.k_fold:
        yield from _folds(network, spec)
    else:
        yield from _predict(network, spec, TEST if spec.action == "evaluate" else PREDICT)


def _train(network: Network, spec: Any, folder: Path, world_size: int) -> Iterator[str]:
    start = find_start(network, spec, folder)
    spec = start.spec
    yield from _notes(start.notes)
    yield f"checkpoint: {f'continue {start.checkpoint}' if start.checkpoint else 'start anew'}"
    data, val_data = build_data(network, spec)
    yield from _notes(data_notes(spec, data, val_data))
    model = network.build_model(spec)
    if start.checkpoint is None:
        yield from _weights(network, spec, model)
    training = new_training(
        model,
        optim.build_optimizer(model, spec.train.optim, head=network.head),
        spec.train,
        steps_per_epoch=steps_per_epoch(len(data), spec.dataset.batch_size, world_size),
        samples_per_step=spec.dataset.batch_size * world_size,
    )
    if start.checkpoint:
        training.take_over(checkpoints.load_checkpoint(start.checkpoint, spec.encryption_key))
        done = f"{training.progress.epoch} of {spec.train.num_epochs} epochs are done"
        yield f"state: fits, {done}"
    yield from _notes([checkpoints.preflight(_existing(folder), training.size_bytes)])
    yield from _teacher(network, spec)
    num_classes = len(network.class_names(spec))
    cpu = torch.device("cpu")
    optim.build_loss(spec.train, data.labels, num_classes=num_classes, device=cpu)
    for split, dataset in zip((TRAIN, VAL), (data, val_data), strict=True):
        if dataset is None:
            continue
        yield f"{split} data: {len(dataset)} samples"
        if split == TRAIN:
            samples = spec.dataset.batch_size * world_size
            steps = steps_per_epoch(len(dataset), spec.dataset.batch_size, world_size)
            yield f"epoch: {steps} steps of {samples} samples"
            if text := optim.scaling_note(spec.train.optim, samples):
                yield text
            note = left_out_note(len(dataset), num_steps=steps, samples_per_step=samples)
            yield from _notes([note])
        yield _one_batch(network, spec, dataset, model)


def _weights(network: Network, spec: Any, model: nn.Module) -> Iterator[str]:
    """Give the model the weights that the spec begins with."""
    for part, path in network.common(spec).pretrained.items():
        source = checkpoints.load_checkpoint(path, spec.encryption_key)
        yield f"weights: {start_from(network, spec, model, source, part=part)}"
        yield from _notes([checkpoints.plain_note(source, spec.encryption_key)])


def _teacher(network: Network, spec: Any) -> Iterator[str]:
    asked = network.common(spec).distillation
    if asked:
        load_teacher(network, spec, asked, torch.device("cpu"))
        yield f"teacher: {asked.teacher} fits"


def _folds(network: Network, spec: Any) -> Iterator[str]:
    spec, notes = k_fold.prepared(network, spec)
    dataset = network.build_dataset(spec, TEST)
    plan, more = k_fold.planned(spec, dataset)
    yield from _notes((*notes, *dataset.notes, *more))
    k_fold.refuse_others(run_folder(spec), k_fold.record_of(network, spec, plan, dataset))
    num_classes = len(network.class_names(spec))
    for fold in range(plan.num_folds):
        held = plan.members(dataset.ids, fold)
        names = {plan.subjects.names[i] for i in held} - {""}
        told = f" of {len(names)} subjects" if names else ""
        yield f"fold {fold + 1}: {len(dataset) - len(held)} to train on, {len(held)}{told} left out"
    cpu = torch.device("cpu")
    optim.build_loss(spec.train, dataset.labels, num_classes=num_classes, device=cpu)
    model = network.build_model(spec)
    yield from _weights(network, spec, model)
    yield from _teacher(network, spec)
    yield _one_batch(network, spec, dataset, model)
    yield from _unknown(network, spec, model)


def _predict(network: Network, spec: Any, split: str) -> Iterator[str]:
    if split == PREDICT:
        refuse_taken(network, spec)
    path = getattr(spec, spec.action).checkpoint
    checkpoint = checkpoints.load_checkpoint(path, spec.encryption_key)
    asked = spec
    spec = checkpoints.restore_spec(spec, checkpoint, network.identity, network.inherited)
    spec, notes = network.complete(spec, split)
    note = calibration_of(checkpoint, spec, spec.action)[1]
    yield from _notes([*notes, checkpoints.plain_note(checkpoint, spec.encryption_key), note])
    model = checkpoints.build_trained(network, spec, checkpoint)
    yield f"checkpoint: {checkpoint.path} fits"
    dataset = network.build_dataset(spec, split)
    yield from _notes(dataset.notes)
    if network.compare_data:
        yield from _notes(network.compare_data(dataset, checkpoint.facts, str(checkpoint.path)))
    yield f"{split} data: {len(dataset)} samples"
    if split == PREDICT and spec.inference.resume:
        decides = deciding(network, spec, checkpoint.path, dataset)
        goes_on = answer_journal.refuse_others(run_folder(spec), dataset.ids, decides)
        yield f"resume: {'an unfinished run is gone on with' if goes_on else 'nothing unfinished'}"
    yield _one_batch(network, spec, dataset, model)
    if split == TEST:
        yield from _unknown(network, spec, model)
        other = find_baseline(network, spec, asked)
        if other:
            model = checkpoints.build_trained(network, other.spec, other.checkpoint)
            yield f"baseline: {other.checkpoint.path} fits"
            yield from _notes(other.dataset.notes)
            yield _one_batch(network, other.spec, other.dataset, model)


def _unknown(network: Network, spec: Any, model: nn.Module) -> Iterator[str]:
    dataset = unknown_data(network, spec)
    if dataset is not None:
        yield from _notes(dataset.notes)
        yield f"unknown data: {len(dataset)} samples"
        yield _one_batch(network, spec, dataset, model)


def _export(network: Network, spec: Any) -> Iterator[str]:
    from kineme.actions.export import load_packages  # which takes a while, and few need
    from kineme.actions.reduced import find_data

    refuse_taken(network, spec)
    load_packages(spec.export)
    checkpoint = checkpoints.load_checkpoint(spec.export.checkpoint, spec.encryption_key)
    spec = checkpoints.restore_spec(spec, checkpoint, network.identity, network.inherited)
    model = checkpoints.build_trained(network, spec, checkpoint)
    load_calibration(checkpoint.facts, where=str(checkpoint.path))
    yield f"checkpoint: {checkpoint.path} fits"
    yield _answers(network, spec, model, network.export_form(spec).examples)
    data = find_data(network, spec, checkpoint)
    if data:
        yield from _notes(data.notes)
        if data.calibrated_on is not None:
            yield f"data to calibrate on: {len(data.calibrated_on)} samples"
        yield f"data to judge the file by: {len(data.judged_by)} samples"
        yield _one_batch(network, data.spec, data.judged_by, model)


def _one_batch(network: Network, spec: Any, dataset: Any, model: nn.Module) -> str:
    rows = np.arange(min(len(dataset), spec.dataset.batch_size))
    batch = dataset.read(rows, 0)
    if not len(batch.sample_of_row):  # an inference passes over what cannot be read
        first, reason = min(batch.remarks.failed.items())
        raise DataError(f"sample {dataset.ids[first]!r}", "a readable sample", reason)
    batch = dataset.transform(batch, 0)
    return _answers(network, spec, model, batch.inputs)


def _answers(network: Network, spec: Any, model: nn.Module, inputs: Any) -> str:
    """Run the model on the CPU, where every machine can."""
    with torch.no_grad():
        logits = model.eval()(**inputs)
    expected = (next(iter(inputs.values())).shape[0], len(network.class_names(spec)))
    if tuple(logits.shape) != expected or not bool(logits.isfinite().all()):
        received = f"{tuple(logits.shape)}, {int((~logits.isfinite()).sum())} not finite"
        raise QualityError("model", f"finite logits of shape {expected}", received)
    return f"one batch: logits {expected}, all finite"


def _notes(texts: Iterable[str | None]) -> Iterator[str]:
    yield from (f"note: {text}" for text in texts if text)


def _devices(spec: Any) -> tuple[runtime.Devices, str | None]:
    if spec.action == "export":
        return runtime.Devices("cpu", (0,)), None
    return runtime.asked_devices(spec, spec.action)


def _free_bytes(folder: Path) -> int:
    """Bytes free where `folder` is or would be. Raises ResourceError if it cannot be."""
    parent = _existing(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        received = "no permission" if parent.is_dir() else "a file in its place"
        fix = "Set another results_dir."
        raise ResourceError(str(parent), "a folder that can be written", received, fix)
    free_bytes = shutil.disk_usage(parent).free
    if not free_bytes:  # full, or of a kind that never holds files, as /proc
        fix = "Free space, or set another results_dir."
        raise ResourceError(str(parent), "a disk with space", "0 bytes free", fix)
    return free_bytes


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _source(path: Path) -> str:
    if not path.exists():
        raise DataError(str(path), "a file or folder to convert", "nothing there")
    return f"data: {path} is there"
