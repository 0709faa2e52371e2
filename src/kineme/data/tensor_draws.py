"""The draws of randomness.py as tensors, made where they are needed.

Promises: uniform draws are those of `randomness` to the last bit, on every device; normal ones
up to rounding.
Leaves out: what they are used for.

A GPU makes in a moment what a CPU would take longer to make than the GPU to learn from.
R samples, S draws of each.
"""

import math

import torch
from torch import Tensor

from kineme.data.randomness import GOLDEN, HIGHEST32, LAST_SHIFT, ROUNDS, key_of


def uniform(seed: int, epoch: int, indices: Tensor, *, name: str, size: int) -> Tensor:
    """(R, S) float64 in [0, 1) for indices (R,) int64, where these lie."""
    rows = _mix(indices * _signed(GOLDEN) + _signed(key_of(seed, epoch, name)))
    counters = torch.arange(1, size + 1, device=indices.device) * _signed(GOLDEN)
    bits = _mix(rows[:, None] + counters)
    return _shifted(bits, 11).to(torch.float64) * 2.0**-53


def uniform32(seed: int, epoch: int, indices: Tensor, *, name: str, size: int) -> Tensor:
    """As `uniform`, in float32 that stays below 1."""
    draws = uniform(seed, epoch, indices, name=name, size=size)
    return draws.to(torch.float32).clamp(max=HIGHEST32)


def normal32(seed: int, epoch: int, indices: Tensor, *, name: str, size: int) -> Tensor:
    """Standard normal draws (R, S) in float32, by the method of Box and Muller (1958)."""
    pairs = uniform(seed, epoch, indices, name=name, size=2 * size)
    radius = (-2 * torch.log1p(-pairs[:, size:])).sqrt()
    return (radius * (2 * math.pi * pairs[:, :size]).cos()).to(torch.float32)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64 in integers with a sign, whose products wrap around as those without one do."""
    for shift, factor in ROUNDS:
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, LAST_SHIFT)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits
