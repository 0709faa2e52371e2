"""Where settings are worth searching, and when they have no effect.

TAO's schemas give few bounds, and those that are missing must not become the default (lr could
then only fall, a gradient would be clipped to nothing). This table says where each kind of
setting is worth a trial, and on which scale.

Promises: rows go by the last word of a setting, so both networks share them; a range holds the
spec's own value, unless it is one that turns the setting off.
Leaves out: what the schema and the user say of bounds (space.py), which win.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kineme.automl.parameters import rounded
from kineme.spec.sections import SCHEDULER_OF


@dataclass(frozen=True)
class Range:
    """Bounds of a setting. off: a value outside them that turns it off.

    unset: what the spec has where the setting has no effect; it is never tried.
    """

    low: float
    high: float
    is_log: bool = False
    off: float | None = None
    unset: float | None = None
    power_of: int = 0
    is_mutable: bool = False


@dataclass(frozen=True)
class Facts:
    """What a range may depend on."""

    default: float
    num_epochs: int
    data_length: int | None


def suggested_range(key: str, default: Any, num_epochs: int, length: int | None) -> Range | None:
    """The range of the dotted `key` whose value in the spec is `default`, if there is a row.

    length: frames of the data, None if it is not known.
    """
    row = RANGES.get(key.rpartition(".")[2])
    is_number = isinstance(default, int | float) and not isinstance(default, bool)
    if row is None or (default is not None and not is_number):
        return None
    if isinstance(row, Range):
        return _holding(row, default)
    found = row(Facts(float(default or 0), num_epochs, length))
    return _holding(found, default) if found else None


def _holding(row: Range, default: Any) -> Range:
    """The row, wide enough for the spec's own value."""
    if default is None or default in (row.off, row.unset):
        return row
    if row.is_log and default <= 0:
        return replace(row, off=float(default))
    return replace(row, low=min(row.low, default), high=max(row.high, default))


def _around(low: float, high: float, cap: tuple[float, float]) -> Callable[[Facts], Range]:
    """Log-scale, from `low` to `high` times the spec's value, within the cap."""

    def found(facts: Facts) -> Range:
        if facts.default <= 0:
            return Range(*cap, is_log=True, is_mutable=True)
        bottom, top = max(facts.default * low, cap[0]), min(facts.default * high, cap[1])
        ends = min(bottom, facts.default), max(top, facts.default)
        return Range(rounded(ends[0]), rounded(ends[1]), is_log=True, is_mutable=True)

    return found


def _powers_around(facts: Facts) -> Range:
    return Range(max(1.0, facts.default / 4), max(1.0, facts.default * 4), power_of=2)


def _lengths_around(facts: Facts) -> Range:
    return Range(max(1.0, facts.default // 2), max(1.0, facts.default * 2))


def _window(facts: Facts) -> Range | None:
    """From a quarter of the data to all of it. Nothing is known of windows without their data."""
    if facts.data_length is None:
        return None
    return Range(float(max(1, facts.data_length // 4)), float(facts.data_length), unset=-1.0)


def _share_of_epochs(facts: Facts) -> Range:
    return Range(0.0, float(max(0, min(facts.num_epochs - 1, facts.num_epochs // 5))))


_SHARE = Range(0.0, 0.5, is_mutable=True)
_NOISE = Range(1e-3, 0.1, is_log=True, off=0.0, is_mutable=True)
RANGES: Mapping[str, Range | Callable[[Facts], Range | None]] = {
    "lr": _around(1 / 30, 3, (1e-6, 1.0)),
    "min_lr": _around(1 / 30, 3, (1e-8, 0.1)),
    "weight_decay": Range(1e-6, 1e-2, is_log=True, is_mutable=True),
    "momentum": Range(0.8, 0.99, is_mutable=True),
    "lr_decay": Range(0.05, 0.5, is_log=True, is_mutable=True),
    "backbone_lr_factor": Range(0.01, 1.0, is_log=True, is_mutable=True),
    "dropout": Range(0.0, 0.7, is_mutable=True),
    "dropout_ratio": Range(0.0, 0.7, is_mutable=True),
    "grad_clip": Range(0.5, 10.0, is_log=True, off=0.0, is_mutable=True),
    "clip_grad_norm": Range(0.5, 10.0, is_log=True, off=0.0, is_mutable=True),
    "patience": Range(1.0, 10.0),
    "warmup_epochs": _share_of_epochs,
    "label_smoothing": Range(0.0, 0.2, is_mutable=True),
    "ema_decay": Range(0.9, 0.999, off=0.0),
    "window_size": _window,
    "num_frames": Range(16.0, 128.0),
    "batch_size": _powers_around,
    "num_fc": _powers_around,
    "rgb_seq_length": _lengths_around,
    "of_seq_length": _lengths_around,
    "sample_rate": Range(1.0, 4.0),
    "repeats": Range(1.0, 4.0),
    "clips_per_video": Range(1.0, 4.0),
    "shift_fraction": Range(0.0625, 0.25),
    "view_rotation_degrees": Range(0.0, 90.0, is_mutable=True),
    "jitter_std": _NOISE,
    "joint_offset_std": _NOISE,
    "color_jitter": _SHARE,
    "time_warp": Range(0.0, 1.0, is_mutable=True),
    "mixup_alpha": Range(0.0, 1.0, is_mutable=True),
    **dict.fromkeys(
        ("flip_prob", "horizontal_flip_prob", "joint_dropout_prob", "limb_dropout_prob",
         "time_dropout_prob", "shear"), _SHARE),
}  # fmt: skip

# What a search sets itself, or must leave alone, and why.
MANAGED: Mapping[str, str] = {
    **dict.fromkeys(
        ("train.num_epochs", "train.checkpoint_interval", "train.checkpoint_interval_unit",
         "train.validation_interval", "train.early_stopping_patience"),
        "The search itself decides how long a trial trains."),
    **dict.fromkeys(
        ("train.resume", "train.resume_training_checkpoint_path", "results_dir",
         "train.results_dir"), "The search itself decides where a trial starts and writes."),
    **dict.fromkeys(
        ("train.num_gpus", "train.num_nodes", "device", "dataset.num_workers", "dataset.workers",
         "train.stall_timeout"), "It decides how fast a trial is, not how good."),
    "dataset.num_classes": "The data decide it.",
    "automl_policy": "It decides whether there is a search.",
}  # fmt: skip

# Settings that have an effect only beside certain values of another.
_SGD = ("SGD", "torch.optim.SGD")
NEEDS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    **{
        f"train.optim.{name}": ("train.optim.lr_scheduler", schedulers)
        for name, schedulers in SCHEDULER_OF.items()
    },
    "train.optim.momentum": ("train.optim.optimizer_type", _SGD),
    "train.optim.nesterov": ("train.optim.optimizer_type", _SGD),
    "dataset.num_frames": ("dataset.sampling", ("uniform",)),
    "dataset.augmentation.time_warp": ("dataset.sampling", ("uniform",)),
    "dataset.window_size": ("dataset.random_choose", (True,)),  # else it only adds zeros
    "dataset.random_choose": ("dataset.sampling", ("none",)),
    "model.sample_rate": ("model.sample_strategy", ("consecutive",)),
    "model.shift_fraction": ("model.temporal", ("shift",)),
    "model.num_fc": ("model.model_type", ("joint",)),
    "model.rgb_seq_length": ("model.model_type", ("rgb", "joint")),
    "model.of_seq_length": ("model.model_type", ("of", "joint")),
}
