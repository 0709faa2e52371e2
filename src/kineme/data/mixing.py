"""Mixup (Zhang et al. 2018): samples of a batch blended with each other, labels and all.

Promises: the share depends on (seed, epoch, first sample of the batch) alone; the partner of a
sample is the one before it in the batch.
Leaves out: how two samples are blended, which each kind of data does for itself.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kineme.data.randomness import uniform

_NUM_DRAWS = 64
Blend = Callable[[Tensor, Tensor, float], Tensor]  # x (R, ...), partners (R,), their share


def mixed(batch: Any, blend: Blend, *, alpha: float, seed: int, epoch: int) -> Any:
    """A training `Batch`, of one row a sample, whose samples have a share of their partners.

    alpha: of Beta(alpha, alpha), from which the share comes, in (0, 2].
    """
    draws = uniform(seed, epoch, batch.indices.numpy()[:1], name="mixup", size=2 * _NUM_DRAWS)
    share = share_of(alpha, draws.reshape(_NUM_DRAWS, 2))
    partners = torch.arange(len(batch.labels), device=batch.labels.device).roll(1)
    inputs = {name: blend(x, partners.to(x.device), share) for name, x in batch.inputs.items()}
    return replace(batch, inputs=inputs, mixed_labels=batch.labels[partners], mixed_share=share)


def share_of(alpha: float, draws: NDArray[np.float64]) -> float:
    """The smaller share of a Beta(alpha, alpha) split, in [0, 1/2]. draws: (n, 2) in [0, 1).

    Jöhnk's method (1964) takes the first pair that is accepted; with alpha up to 2, 64
    pairs all fail in one of 100,000 cases, which gives 1/2.
    """
    for first, second in draws:
        a, b = math.pow(first, 1 / alpha), math.pow(second, 1 / alpha)
        if 0 < a + b <= 1:
            return min(a, b) / (a + b)
    return 0.5
