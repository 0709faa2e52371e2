"""What a training makes small: the distance to the labels, and to a teacher's answers.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. Promises: models of
several streams learn as each would alone, because their losses are added; the teacher sees what
the pupil sees, and does not change.
Leaves out: the loss of labels itself (optim.py), steps (stepping.py).

B samples of a batch, R rows (model inputs) of them, S streams, C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional

from kineme.engine import checkpoint as checkpoints
from kineme.engine.optim import Loss
from kineme.errors import CheckpointError, Problem
from kineme.network import Batch, Distillation, Network
from kineme.spec.load import value_at


@dataclass(frozen=True)
class Teacher:
    """A trained model, and how much its answers count."""

    module: nn.Module
    weight: float
    temperature: float

    def answers(self, batch: Batch, fabric: Fabric) -> torch.Tensor:
        """(R, C) logits for a batch."""
        with torch.no_grad(), fabric.autocast():
            told: torch.Tensor = self.module(**batch.inputs)
        return told.float()

    def distance(self, logits: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """Of the pupil's `logits` (R, C) from the teacher's, `told`: the divergence of both at
        the temperature, times its square, so that gradients keep their size."""
        wanted = (told / self.temperature).log_softmax(dim=1)
        given = (logits / self.temperature).log_softmax(dim=1)
        loss = functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return loss * self.temperature**2


@dataclass(frozen=True)
class Objective:
    """The loss of a batch's rows: of both labels where samples were mixed, and of the teacher."""

    labels: Loss
    teacher: Teacher | None = None

    def __call__(self, logits: torch.Tensor, batch: Batch, fabric: Fabric) -> torch.Tensor:
        """The sum over streams, for logits (R, C) or (R, S, C)."""
        told = self.teacher.answers(batch, fabric) if self.teacher else None
        streams = logits.unbind(dim=1) if logits.dim() == 3 else (logits,)
        return torch.stack([self._of_one(stream, batch, told) for stream in streams]).sum()

    def _of_one(
        self, logits: torch.Tensor, batch: Batch, told: torch.Tensor | None
    ) -> torch.Tensor:
        loss = self.labels(logits, batch.labels[batch.sample_of_row])
        if batch.mixed_labels is not None:
            other = self.labels(logits, batch.mixed_labels[batch.sample_of_row])
            loss = torch.lerp(loss, other, batch.mixed_share)
        if self.teacher is None or told is None:
            return loss
        return torch.lerp(loss, self.teacher.distance(logits, told), self.teacher.weight)


def answers_of(logits: torch.Tensor) -> torch.Tensor:
    """(R, C) what a model says: of several streams (R, S, C), the mean of their log
    probabilities."""
    return logits.log_softmax(dim=2).mean(dim=1) if logits.dim() == 3 else logits


def load_teacher(network: Network, spec: Any, asked: Distillation, device: torch.device) -> Teacher:
    """The teacher of the training `spec`. Raises CheckpointError where it sees other inputs."""
    found = checkpoints.load_checkpoint(asked.teacher, spec.encryption_key)
    theirs = checkpoints.trained_spec(network, found)
    problems = [
        Problem(
            str(found.path), f"a teacher with {key} {value_at(spec, key)!r}",
            f"{value_at(theirs, key)!r}", "Train both with the same.",
        )
        for key in asked.inputs
        if value_at(theirs, key) != value_at(spec, key)
    ]  # fmt: skip
    if problems:
        raise CheckpointError.of(problems)
    module = checkpoints.build_trained(network, theirs, found).eval()
    module = module.requires_grad_(requires_grad=False).to(device)
    return Teacher(module, asked.weight, asked.temperature)
