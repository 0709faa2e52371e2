"""Everything that a training run must remember to continue as if it had never stopped.

Promises: what `content` writes and `restore` reads is all there is: model, optimizer,
learning rate, averaged weights, early stopping, and the running sums of an epoch.
Random draws need no state: they follow from (seed, epoch, step).
Leaves out: the loop (actions/train.py) and files (checkpoint.py).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from kineme.engine.checkpoint import STATE_PREFIX, Checkpoint, load_newest, load_weights
from kineme.engine.optim import AveragedWeights, Schedule, scaled_rate, state_of
from kineme.engine.weights import fit_weights
from kineme.errors import CheckpointError

MAX_ROLLBACKS = 3


@dataclass
class Progress:
    """Where a run is. Epochs and steps count from 0; `step` is within the epoch.

    loss_sum and num_correct are over the num_rows rows of this epoch so far, of all
    processes. samples_per_step tells a run with other devices where in the epoch it is.
    passed_over: steps (as global_step before them) whose loss was not finite, and which are
    left out; rate_share: what is left of the learning rate since.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    samples_per_step: int = 0
    loss_sum: float = 0.0
    num_correct: float = 0.0
    num_rows: float = 0.0
    best: float = -math.inf
    best_epoch: int = -1
    num_stale_validations: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the last epoch
    passed_over: list[int] = field(default_factory=list)
    rate_share: float = 1.0

    @property
    def last_epoch(self) -> int:
        """The epoch that the last step belongs to."""
        return max(0, self.epoch - 1) if self.step == 0 else self.epoch

    def pass_over(self) -> bool:
        """Go past the coming step, if it is one to leave out."""
        is_bad = self.global_step in self.passed_over
        self.step += is_bad
        self.global_step += is_bad
        return is_bad

    def forget_best(self) -> None:
        """Let the next validation be the best, as those before were on other data."""
        self.best, self.best_epoch, self.num_stale_validations = -math.inf, -1, 0

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Go to the first step of the next epoch."""
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum = self.num_correct = self.num_rows = 0.0
        self.metrics = dict(metrics)


@dataclass
class Training:
    """The state of a run. `module` is the model itself, not wrapped for processes."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    averaged: AveragedWeights | None
    progress: Progress

    @property
    def result(self) -> nn.Module:
        """The model that is validated and used later: the averaged one, if there is one."""
        return self.averaged.module if self.averaged else self.module

    @property
    def size_bytes(self) -> int:
        """About what a checkpoint takes: weights, and what SGD remembers of each."""
        copies = 3 if self.averaged else 2
        tensors = self.module.state_dict().values()
        return copies * sum(int(tensor.nbytes) for tensor in tensors)

    def content(self, fabric: Fabric, facts: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's content; `facts` say what the model is."""
        progress = self.progress
        training: dict[str, Any] = {
            "progress": asdict(progress),
            "schedule": self.schedule.state_dict(),
            "precision": dict(fabric.strategy.precision.state_dict()),
        }
        if self.averaged:
            training["raw_state_dict"] = _prefixed(self.module)
            training["num_updates"] = self.averaged.num_updates
        return {
            "epoch": progress.last_epoch,
            "global_step": progress.global_step,
            "pytorch-lightning_version": version("lightning-fabric"),
            "state_dict": _prefixed(self.result),
            "optimizer_states": [state_of(self.optimizer)],
            "lr_schedulers": [self.schedule.state_dict()],
            "kineme": {**facts, "training": training},
        }

    def restore(self, fabric: Fabric, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`. Raises CheckpointError if it is not of such a training."""
        self.take_over(checkpoint)
        fabric.strategy.precision.load_state_dict(checkpoint.facts["training"]["precision"])

    def take_over(self, checkpoint: Checkpoint) -> None:
        """`restore` all but what belongs to a device. Raises CheckpointError."""
        where = str(checkpoint.path)
        training = checkpoint.facts.get("training")
        if not isinstance(training, dict) or "optimizer_states" not in checkpoint.content:
            raise CheckpointError(
                where, "a checkpoint that kineme's training wrote", "weights only",
                "Start from weights with model.pretrained_model_path instead.",
            )  # fmt: skip
        load_weights(self.result, checkpoint)
        if self.averaged:
            raw = training.get("raw_state_dict")
            if raw is None:
                raise CheckpointError(
                    where, "averaged weights", "a run without them", "Set train.ema_decay=0."
                )
            self.averaged.num_updates = int(training["num_updates"])
            names = {name.removeprefix(STATE_PREFIX): tensor for name, tensor in raw.items()}
            fit_weights(self.module, names, where=where)
        elif "raw_state_dict" in training:
            raise CheckpointError(
                where, "a run without averaged weights", "a run with them",
                "Set train.ema_decay to what it was.",
            )  # fmt: skip
        asked = [_settings(group) for group in self.optimizer.param_groups]
        try:
            saved = checkpoint.content["optimizer_states"][0]
            if len(saved["param_groups"]) != len(asked):
                raise ValueError("another number of parameter groups")
            groups = zip(saved["param_groups"], asked, strict=True)
            here = [{**group, **_place(settings)} for group, settings in groups]
            self.optimizer.load_state_dict({**saved, "param_groups": here})
            if [set(group) for group in asked] != [
                set(_settings(group)) for group in self.optimizer.param_groups
            ]:
                raise ValueError("its settings have other names")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(
                where, "the state of this optimizer", f"another ({error})",
                "Set train.optim.optimizer_type and backbone_lr_factor to what they were.",
            ) from error  # fmt: skip
        for group, settings in zip(self.optimizer.param_groups, asked, strict=True):
            rate = float(group["lr"])  # each step sets it; a run without one left keeps the last
            group.update(settings | {"lr": rate})  # momentum, weight decay, ...: as asked now
        self.schedule.load_state_dict(training["schedule"])
        known = {f.name for f in fields(Progress)}
        told = {name: value for name, value in training["progress"].items() if name in known}
        self.progress = Progress(**told)


def new_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Any,
    *,
    steps_per_epoch: int,
    samples_per_step: int,
) -> Training:
    """The state of a training that has not begun. settings: `train`."""
    schedule = Schedule(
        settings.optim,
        steps_per_epoch=steps_per_epoch,
        num_epochs=settings.num_epochs,
        lr=scaled_rate(settings.optim, samples_per_step),
    )
    averaged = AveragedWeights(module, settings.ema_decay) if settings.ema_decay > 0 else None
    return Training(
        module, optimizer, schedule, averaged, Progress(samples_per_step=samples_per_step)
    )


def roll_back(training: Training, fabric: Fabric, folder: Path, key: str | None = None) -> str:
    """After a step that failed: go back to the newest checkpoint, at half the learning rate.

    key: with which the checkpoints were encrypted. The step that failed will be passed over.
    Returns the checkpoint's name, or "" where there is none or too much was passed over
    already; then nothing has changed.
    """
    failed = training.progress
    newest = load_newest(folder, key)[0]
    if newest is None or len(failed.passed_over) >= MAX_ROLLBACKS:
        return ""
    training.restore(fabric, newest)
    training.progress.passed_over = [*failed.passed_over, failed.global_step - 1]
    training.progress.rate_share = failed.rate_share / 2
    return newest.path.name


def _place(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a parameter group says of where its state lies, which another device has elsewhere."""
    return {key: settings[key] for key in ("fused", "capturable") if key in settings}


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a parameter group says beside its parameters."""
    return {key: value for key, value in group.items() if key != "params"}


def _prefixed(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict on the CPU, under the names that Lightning gives it."""
    return {
        f"{STATE_PREFIX}{name}": tensor.detach().cpu()
        for name, tensor in module.state_dict().items()
    }
