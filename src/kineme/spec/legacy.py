"""Specs of older TAO releases in today's words: the rules, and the rows that networks share.

Promises: an older key is read as today's key where there is one; what became of each key is
told in one note; what has no counterpart is refused with what to do instead.
Leaves out: the rows of one network (<room>/legacy.py), and checking values (load.py).

TAO before 5.0 had blocks named <x>_config and, at the top level, keys that mean something in
one action only (`model`: the checkpoint). TAO 5.0 to 5.3 had `gpu_id` where lists are now.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Keys = str | tuple[str, ...]

BLOCKS: Mapping[str, str] = {
    "model_config": "model",
    "train_config": "train",
    "training_config": "train",
    "dataset_config": "dataset",
    "eval_config": "evaluate",
    "evaluation_config": "evaluate",
    "inference_config": "inference",
    "export_config": "export",
    "dataset_convert_config": "dataset_convert",
}
KEYS: Mapping[str, Keys] = {
    "output_dir": "results_dir",
    "key": "encryption_key",
    "resume_training_checkpoint_path": "train.resume_training_checkpoint_path",
    "train.resume_checkpoint_path": "train.resume_training_checkpoint_path",
    "train_config.epochs": "train.num_epochs",
    "evaluate.gpu_id": "evaluate.gpu_ids",
    "inference.gpu_id": "inference.gpu_ids",
}
BY_ACTION: Mapping[str, Mapping[str, str]] = {
    "train": {"gpu_ids": "train.gpu_ids", "gpus": "train.num_gpus"},
    "evaluate": {
        "model": "evaluate.checkpoint",
        "batch_size": "evaluate.batch_size",
        "gpu_id": "evaluate.gpu_ids",
        "gpu_ids": "evaluate.gpu_ids",
        "gpus": "evaluate.num_gpus",
    },
    "inference": {
        "model": "inference.checkpoint",
        "batch_size": "inference.batch_size",
        "output_file": "inference.output_file",
        "gpu_id": "inference.gpu_ids",
        "gpu_ids": "inference.gpu_ids",
        "gpus": "inference.num_gpus",
    },
    "export": {
        "model": "export.checkpoint",
        "output_file": "export.onnx_file",
        "gpu_id": "export.gpu_id",
    },
    "dataset_convert": {},
}
IDLE: Mapping[str, str] = {
    "version": "the number that TAO's service gives its own schema",
    "ngc_key": "a credential; nothing is downloaded here",
    "ngc_api_key": "a credential; nothing is downloaded here",
}


def listed(value: Any) -> Any:
    """The one GPU of old as a list of GPUs."""
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def as_onnx(value: Any) -> Any:
    """The name of an encrypted export (.etlt) as that of a plain one."""
    return re.sub(r"\.etlt$", ".onnx", value) if isinstance(value, str) else value


VALUES: Mapping[str, Callable[[Any], Any]] = {
    "evaluate.gpu_ids": listed,
    "inference.gpu_ids": listed,
    "export.onnx_file": as_onnx,
}


@dataclass(frozen=True)
class Moved:
    """An older key, today's, and how the value changed, if it did: `resnet18 -> resnet_18`.

    with_block: `model_config -> model` where the key only went along with its block.
    """

    old: str
    new: tuple[str, ...]
    with_block: str = ""
    change: str = ""

    def __str__(self) -> str:
        change = f" ({self.change})" if self.change else ""
        return f"{self.old} -> {' and '.join(self.new)}{change}"


@dataclass(frozen=True)
class Legacy:
    """How older releases said what a network's spec says. Keys are dotted.

    blocks: block -> today's; a key that kept its name within needs no row.
    keys: key -> today's, or as many as the list that is its value.
    by_action: action -> key of the top level -> today's.
    values: today's key -> today's value of an older one; None where nothing is left to say.
    idle: key -> why it means nothing here. refused: key -> what to do instead.
    defaults: today's key -> its default before, where that is another today.
    """

    blocks: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, Keys] = field(default_factory=dict)
    by_action: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    idle: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def today(self, key: str, action: str) -> Moved | None:
        """Where an older key went; None where it is no older key."""
        told = self.by_action.get(action, {}).get(key) or self.keys.get(key)
        if told is not None:
            return Moved(key, (told,) if isinstance(told, str) else told)
        block, dot, rest = key.partition(".")
        if block not in self.blocks:
            return None
        name = self.blocks[block]
        return Moved(key, (f"{name}{dot}{rest}",), f"{block} -> {name}")

    def is_older(self, names: Iterable[str]) -> bool:
        """Whether a file with these names at its top level is of TAO before 5.0."""
        return not set(self.blocks).isdisjoint(names)


def note(name: str, moved: Sequence[Moved], idle: Mapping[str, str], changed: Sequence[str]) -> str:
    """What became of older keys in `name`, in one line; "" where there is nothing to tell.

    changed: settings that it leaves out and whose default is another today.
    """
    parts = []
    if moved:
        blocks = dict.fromkeys(m.with_block for m in moved if m.with_block)
        rows = dict.fromkeys(str(m) for m in moved if m.change or not m.with_block)
        parts.append(f"older keys, read as today's: {', '.join([*blocks, *rows])}")
    if idle:
        reasons = ", ".join(f"{key} ({reason})" for key, reason in idle.items())
        parts.append(f"keys without a meaning here: {reasons}")
    if changed:
        parts.append(f"left out, with another default today: {', '.join(changed)}")
    return f"{name}: {'; '.join(parts)}." if parts else ""
