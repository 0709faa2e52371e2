"""Where training begins: with which data, anew or where an earlier run stopped.

Promises: results of two runs are never mixed: a folder with checkpoints is continued when
the spec asks for it, from its newest good one, and refused otherwise.
Leaves out: restoring state (training.py).
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kineme.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_newest,
    plain_note,
    restore_spec,
)
from kineme.engine.names import find_checkpoints
from kineme.engine.weights import fit_weights
from kineme.errors import DataError, Problem, SpecError
from kineme.network import TRAIN, VAL, Dataset, Network
from kineme.spec.load import with_values

SAFE_KEY_LENGTH = 12  # even of random characters


@dataclass(frozen=True)
class Start:
    """The completed spec, the checkpoint to continue, if any, and what to tell the user."""

    spec: Any
    checkpoint: Path | None
    notes: tuple[str, ...]


def find_start(network: Network, spec: Any, folder: Path) -> Start:
    """Complete the spec from checkpoint and data.

    Raises SpecError where old results would be mixed in, CheckpointError where the
    checkpoint is damaged or of another model.
    """
    found, notes = _find_checkpoint(spec, folder)
    if found:
        notes += filter(None, [plain_note(found, spec.encryption_key)])
        spec = restore_spec(spec, found, network.identity, network.inherited)
    spec, more = _completed(network, spec)
    notes += more
    if spec.train.seed < 0:
        seed = _seed_of(found) if found else secrets.randbits(32)
        spec = with_values(spec, {"train.seed": seed})
        notes.append(f"train.seed is -1: using {seed}.")
    key = spec.encryption_key
    if key is not None and len(key.strip()) < SAFE_KEY_LENGTH:
        notes.append(
            f"encryption_key is shorter than {SAFE_KEY_LENGTH} characters: who has a checkpoint "
            "may find it by trying."
        )
    return Start(spec, found.path if found else None, tuple(notes))


def build_data(network: Network, spec: Any) -> tuple[Dataset, Dataset | None]:
    """Training and, if the spec names any, validation data.

    Raises DataError with what is wrong with both of them.
    """
    found: list[Dataset] = []
    problems: list[Problem] = []
    for split in (TRAIN, VAL) if network.common(spec).has_validation else (TRAIN,):
        try:
            found.append(network.build_dataset(spec, split))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError.of(problems)
    return found[0], found[1] if len(found) > 1 else None


def data_notes(spec: Any, data: Dataset, val_data: Dataset | None) -> list[str]:
    """What the user should hear of the data of a training."""
    notes = [*data.notes, *(val_data.notes if val_data else ())]
    if val_data is None:
        notes.append("No validation data: no best.pth, and lr_monitor val_loss has no effect.")
    if val_data is None and spec.train.early_stopping_patience:
        notes.append("train.early_stopping_patience has no effect: there is no validation data.")
    return notes


def left_out_note(num_samples: int, *, num_steps: int, samples_per_step: int) -> str:
    """That the last samples do not fill a step, else ""."""
    rest = num_samples - num_steps * samples_per_step
    if not rest:
        return ""
    return f"{rest} of {num_samples} samples are left out of each epoch, others each time."


def _completed(network: Network, spec: Any) -> tuple[Any, tuple[str, ...]]:
    """What `complete` makes of the spec; where that fails, what is wrong with both splits."""
    try:
        return network.complete(spec, TRAIN)
    except DataError as error:
        problems = list(error.problems)
    if network.common(spec).has_validation:
        try:
            network.build_dataset(network.complete(spec, VAL)[0], VAL)
        except (DataError, SpecError) as error:
            problems += [problem for problem in error.problems if problem not in problems]
    raise DataError.of(problems)


def start_from(
    network: Network, spec: Any, module: nn.Module, checkpoint: Checkpoint, *, part: str = ""
) -> str:
    """Give a part of `module` the weights of another run, of TAO, or of others.

    Its head may differ, and what `network.transfer` can map. Returns what became of them.
    Raises CheckpointError.
    """
    prefix = f"{part}." if part else ""
    target, weights, told = module.get_submodule(part), checkpoint.weights, ""
    if network.transfer:
        weights, told = network.transfer(weights, checkpoint.facts, spec, target)
    report = fit_weights(
        target,
        network.adapt_weights(weights, spec, part),
        where=str(checkpoint.path),
        head=[name.removeprefix(prefix) for name in network.head],
        is_partial=True,
    )
    told = f"; {told}" if told else ""
    return f"{f'{part} from ' if part else ''}{checkpoint.path}: {report}{told}"


def _find_checkpoint(spec: Any, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    asked = spec.train.resume_training_checkpoint_path
    existing = find_checkpoints(folder)
    if asked:
        found = load_checkpoint(asked, spec.encryption_key)
        if existing and existing[-1].resolve() != found.path.resolve():
            raise SpecError(
                "train.resume_training_checkpoint_path",
                "the newest checkpoint of the folder, or a folder without any",
                f"{asked!r}, and {folder} holds {existing[-1].name}",
                "Set another results_dir, or train.resume=true to continue the newest.",
            )
        return found, []
    if spec.train.resume:
        newest, damaged = load_newest(folder, spec.encryption_key)
        notes = [f"{text} Falling back to an earlier one." for text in damaged]
        if newest is None:
            notes.append(f"train.resume: {folder} holds no checkpoint; starting anew.")
        return newest, notes
    if existing:
        raise SpecError(
            "results_dir",
            "a folder without checkpoints",
            f"{folder}, which holds {existing[-1].name}",
            "Set train.resume=true to continue it, or another results_dir.",
        )
    return None, []


def _seed_of(checkpoint: Checkpoint) -> int:
    seed = checkpoint.facts.get("spec", {}).get("train", {}).get("seed")
    return seed if isinstance(seed, int) and seed >= 0 else secrets.randbits(32)
