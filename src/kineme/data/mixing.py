"""Mixup (Zhang et al. 2018): samples of a batch blended with each other, labels and all.

Promises: the share and the partners depend on (seed, epoch, first sample of the batch) alone.
Leaves out: how two samples are blended, which each kind of data does for itself.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.data.randomness import uniform

_NUM_DRAWS = 64


def mixup_of(indices: NDArray[np.int64], *, alpha: float, seed: int, epoch: int) -> float:
    """The share, in [0, 1/2], that the partners of a batch of samples (B,) get of it."""
    draws = uniform(seed, epoch, indices[:1], name="mixup", size=2 * _NUM_DRAWS)
    return mixup_share(alpha, draws.reshape(_NUM_DRAWS, 2))


def mixup_share(alpha: float, draws: NDArray[np.float64]) -> float:
    """The smaller share of a Beta(alpha, alpha) split, in [0, 1/2]. draws: (n, 2) in [0, 1).

    Jöhnk's method (1964) takes the first pair that is accepted; with alpha up to 2, 64
    pairs all fail in one of 100,000 cases, which gives 1/2.
    """
    for first, second in draws:
        a, b = math.pow(first, 1 / alpha), math.pow(second, 1 / alpha)
        if 0 < a + b <= 1:
            return min(a, b) / (a + b)
    return 0.5


def partners(labels: torch.Tensor) -> torch.Tensor:
    """(B,) int64: of each sample, the one before it in the batch."""
    return torch.arange(len(labels), device=labels.device).roll(1)
