"""Batch norms inside the convolutions before them, for answers; and when to fold again.

Promises: in exact arithmetic, what convolution and norm give in eval mode; folded in float32 and
rounded once; what is remembered is never that of other weights.
Leaves out: which convolution has which norm (the models' own folds).
"""

from collections.abc import Callable
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Block = TypeVar("Block")


class Folded(Generic[Model, Block]):
    """The blocks of a model with BN folded in, by `fold`, which gets the model and a dtype."""

    def __init__(self, fold: Callable[[Model, torch.dtype], list[Block]]) -> None:
        self._fold = fold
        self._state: tuple[Any, ...] = ()
        self._blocks: list[Block] = []

    def blocks(self, model: Model, dtype: torch.dtype) -> list[Block]:
        """Those of before, or folded again when any parameter or buffer was written to."""
        tensors = chain(model.parameters(), model.buffers())
        state = (dtype, *((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors))
        if self._state != state:
            with torch.autocast("cpu", enabled=False):  # folded in float32, rounded once
                self._blocks = self._fold(model, dtype)
            self._state = state
        return self._blocks

    def forget(self) -> None:
        """To be called whenever the model goes to training or back."""
        self._state, self._blocks = (), []


def fold_conv(conv: Any, norm: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Weight (channels last) and bias of both in `dtype`, and the stride over time."""
    return *scaled(conv.weight, conv.bias, *affine(norm), dtype), conv.stride[0]


def scaled(
    weight: torch.Tensor,
    bias: torch.Tensor,
    gain: torch.Tensor,
    offset: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution, then x * gain + offset: its weight (channels last) and bias in `dtype`."""
    weight = (weight * gain[:, None, None, None]).to(dtype)
    last = weight.contiguous(memory_format=torch.channels_last)
    return last, (bias * gain + offset).to(dtype)


def affine(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """BN in eval mode as x * gain + offset."""
    gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return gain, norm.bias - norm.running_mean * gain
