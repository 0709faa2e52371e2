"""Signs that training goes wrong although it runs: said, not acted on.

Leaves out: a loss that is not finite, which ends a run (actions/train.py).
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

CHANCE_EPOCHS = 5  # after so many, a model that only guesses is worth a warning
EXPLODED = 10.0  # times the loss of guessing


def epoch_warnings(
    figures: Mapping[str, float], labels: NDArray[np.int64], *, epoch: int, lr: float
) -> list[str]:
    """What the figures of `epoch` (from 0) say against label mapping or learning rate."""
    texts = []
    counts = np.bincount(labels)
    chance = float(counts.max() / counts.sum())
    num_classes = int((counts > 0).sum())
    if epoch + 1 == CHANCE_EPOCHS and num_classes > 1 and figures["train_acc"] <= 1.1 * chance:
        texts.append(
            f"After {CHANCE_EPOCHS} epochs train_acc is {figures['train_acc']:.3f}, no better than"
            f" guessing ({chance:.3f}): is the label mapping right, or train.optim.lr {lr:g} too"
            " high?"
        )
    guessing = math.log(max(2, num_classes))
    if figures["train_loss"] > EXPLODED * guessing:
        texts.append(
            f"train_loss {figures['train_loss']:.3g} of epoch {epoch + 1} is far above guessing"
            f" ({guessing:.3g}): is train.optim.lr {lr:g} too high?"
        )
    return texts


def gradient_norm(module: nn.Module) -> float:
    """Norm of all gradients together; NaN without any."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else math.nan
