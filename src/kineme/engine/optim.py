"""Optimizer, learning rate, averaged weights and loss, as the spec asks for them.

Promises: the learning rate of a step follows from the step alone (AutoReduce: from its
state too), and all state is plain numbers and tensors, so a resumed run is the same run. What
changes from step to step may lie in tensors, so that a step can be recorded (stepping.py).
Leaves out: clipping and when to step (stepping.py).
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from kineme.engine.chance import class_weights

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LR_FACTOR = "lr_factor"  # of a parameter group: its share of the learning rate
PLATEAU_THRESHOLD = 1e-4  # a smaller relative fall is no improvement (torch's default)


def build_optimizer(
    module: nn.Module, settings: Any, *, head: Collection[str] = (), can_be_recorded: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of `train.optim`; nesterov without momentum is plain SGD.

    head: parameters that learn at the full rate; all others at backbone_lr_factor of it.
    can_be_recorded: on a GPU, take the rate and count steps there (stepping.py).
    """
    name = settings.optimizer_type.removeprefix("torch.optim.")
    rate, decay = settings.lr, settings.weight_decay
    groups = _groups(module, settings.backbone_lr_factor, head)
    at_once = True if can_be_recorded else None  # one kernel for all parameters
    if name == "Adam":
        return torch.optim.Adam(
            groups, lr=rate, weight_decay=decay, fused=at_once, capturable=can_be_recorded
        )
    if name == "AdamW":
        return torch.optim.AdamW(
            groups, lr=rate, weight_decay=decay, fused=at_once, capturable=can_be_recorded
        )
    if name == "Adamax":
        return torch.optim.Adamax(groups, lr=rate, weight_decay=decay, capturable=can_be_recorded)
    momentum = settings.momentum
    return torch.optim.SGD(
        groups,
        lr=rate,
        momentum=momentum,
        nesterov=settings.nesterov and momentum > 0,
        weight_decay=decay,
        fused=at_once,
    )


def _groups(module: nn.Module, factor: float, head: Collection[str]) -> list[dict[str, Any]]:
    """One group of parameters, or two where the head learns at another rate."""
    named = list(module.named_parameters())
    if factor == 1:
        return [{"params": [parameter for _, parameter in named], LR_FACTOR: 1.0}]
    shares = (
        (factor, [parameter for name, parameter in named if name not in head]),
        (1.0, [parameter for name, parameter in named if name in head]),
    )
    return [{"params": group, LR_FACTOR: share} for share, group in shares if group]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every group learn at its share of `rate`."""
    for group in optimizer.param_groups:
        own = rate * group[LR_FACTOR]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)  # where a recorded step looks for it
        else:
            group["lr"] = own


def keep_rate_on(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let a recorded step find the rate of every group in a tensor."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state dict, with rates as plain numbers."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def align_gradients(module: nn.Module) -> None:
    """Give gradients the strides of their parameters, which fused optimizers want.

    Convolutions of images stored channels last give others; where that is in axes of size 1
    alone, nothing is copied.
    """
    for parameter in module.parameters():
        gradient, strides = parameter.grad, parameter.stride()
        if gradient is None or gradient.stride() == strides:
            continue
        axes = zip(parameter.shape, gradient.stride(), strides, strict=True)
        if all(ours == wanted for size, ours, wanted in axes if size > 1):
            parameter.grad = gradient.as_strided(parameter.shape, strides)
        else:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Momentum of zero for what has none yet: the first step is the same, and fused SGD wants all
    parameters to have theirs, or none."""
    for group in optimizer.param_groups:
        if not group.get("momentum"):  # Adam keeps its own
            continue
        for parameter in group["params"]:
            if parameter.requires_grad:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def scaled_rate(settings: Any, samples_per_step: int) -> float:
    """The highest learning rate of steps of so many samples, of all processes (Goyal et al.,
    Accurate, Large Minibatch SGD, 2017, for lr_scaling linear)."""
    if settings.lr_scaling == "none":
        return float(settings.lr)
    return float(settings.lr * samples_per_step / settings.lr_reference_batch)


def scaling_note(settings: Any, samples_per_step: int) -> str:
    """What a scaled rate comes to, in a line; "" where it is as written."""
    if settings.lr_scaling == "none":
        return ""
    return (
        f"Learning rate {scaled_rate(settings, samples_per_step):.4g}: train.optim.lr "
        f"{settings.lr:g} is for {settings.lr_reference_batch} samples, and a step has "
        f"{samples_per_step} (lr_scaling: {settings.lr_scaling})."
    )


class Schedule:
    """The learning rate of every step. lr: the highest, where it is not that of the settings.

    MultiStep falls by lr_decay at each epoch of lr_steps; cosine falls to zero at the end
    of the last epoch; AutoReduce falls by lr_decay, not below min_lr, after more than
    `patience` epochs without a lower `lr_monitor`. Each may rise linearly from zero over
    warmup_epochs first.
    """

    def __init__(
        self, settings: Any, *, steps_per_epoch: int, num_epochs: int, lr: float | None = None
    ) -> None:
        self.settings, self.steps_per_epoch = settings, steps_per_epoch
        self.highest = float(settings.lr if lr is None else lr)
        self.num_warmup_steps = settings.warmup_epochs * steps_per_epoch
        self.num_steps = num_epochs * steps_per_epoch
        self.reduced_lr = self.highest
        self.best = math.inf
        self.num_bad_epochs = 0

    def lr(self, epoch: int, step: int) -> float:
        """The rate of `step` of `epoch`, both from 0."""
        at = epoch * self.steps_per_epoch + step
        if at < self.num_warmup_steps:
            return float(self.highest * (at + 1) / self.num_warmup_steps)
        kind = self.settings.lr_scheduler
        if kind == "cosine":
            share = (at - self.num_warmup_steps) / max(1, self.num_steps - self.num_warmup_steps)
            return float(self.highest * 0.5 * (1 + math.cos(math.pi * share)))
        if kind == "AutoReduce":
            return self.reduced_lr
        falls = sum(epoch >= milestone for milestone in self.settings.lr_steps)
        return float(self.highest * self.settings.lr_decay**falls)

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Let AutoReduce see what the epoch gave; without its metric nothing changes."""
        value = metrics.get(self.settings.lr_monitor)
        if self.settings.lr_scheduler != "AutoReduce" or value is None:
            return
        if value < self.best * (1 - PLATEAU_THRESHOLD):
            self.best, self.num_bad_epochs = value, 0
            return
        self.num_bad_epochs += 1
        if self.num_bad_epochs > self.settings.patience:
            lowered = max(self.reduced_lr * self.settings.lr_decay, self.settings.min_lr)
            self.reduced_lr, self.num_bad_epochs = min(self.reduced_lr, lowered), 0

    def state_dict(self) -> dict[str, float]:
        return {
            "reduced_lr": self.reduced_lr,
            "best": self.best,
            "num_bad_epochs": self.num_bad_epochs,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.reduced_lr, self.best = float(state["reduced_lr"]), float(state["best"])
        self.num_bad_epochs = int(state["num_bad_epochs"])


class AveragedWeights:
    """A copy of a model that follows it slowly: exponential moving average.

    The decay starts low, min(decay, (1 + n) / (10 + n)) after n updates, so that the first
    random weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay = decay
        self.num_updates = 0

    def update(self, model: nn.Module) -> None:
        """Move towards `model`; counters (integers) are copied."""
        self.move(model, self.next_share())

    def next_share(self) -> float:
        """How far the next update goes towards the model, which is then taken as made."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        return 1 - decay

    @torch.no_grad()
    def move(self, model: nn.Module, share: float | torch.Tensor) -> None:
        """`share` of the way towards `model`; a tensor, (), where the step is recorded."""
        ours, theirs = self.module.state_dict(), model.state_dict()
        moving = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        own, goals = [ours[name] for name in moving], [theirs[name] for name in moving]
        if isinstance(share, torch.Tensor):
            ways = torch._foreach_sub(goals, own)
            torch._foreach_mul_(ways, share)
            torch._foreach_add_(own, ways)
        else:
            torch._foreach_lerp_(own, goals, share)
        for name, tensor in ours.items():
            if not tensor.is_floating_point():
                tensor.copy_(theirs[name])


def build_loss(
    settings: Any, labels: NDArray[np.int64], *, num_classes: int, device: torch.device
) -> Loss:
    """Cross entropy with `train.label_smoothing` and `train.class_weights`."""
    weights = class_weights(settings.class_weights, labels, num_classes)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    smoothing = settings.label_smoothing

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, targets, weight=tensor, label_smoothing=smoothing)

    return loss


def gradient_norm(module: nn.Module) -> torch.Tensor:
    """Norm of all gradients together, (); NaN without any."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.tensor(math.nan)
