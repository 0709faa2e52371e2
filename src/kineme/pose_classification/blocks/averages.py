"""The mean of activations over two of their axes, in long runs of memory.

On a CPU torch adds up over two axes that lie apart number by number; one axis after the other is
several times as fast (docs/benchmarks/skeleton_speed_amx.txt). Promises: float32 at least, forward
and backward, whatever the activations are kept in. Leaves out: which axes those are (model.py,
adaptive_gcn.py).
"""

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable


def mean_of(x: torch.Tensor, *, dim: tuple[int, int]) -> torch.Tensor:
    """x (A, B, C, D), stored channels last, without the axes `dim`, of which the last is D."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if torch.compiler.is_exporting():
        return x.mean(dim=dim, dtype=dtype)
    mean: torch.Tensor = cast(Any, _Mean.apply)(x, dim, dtype)
    return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, dim: tuple[int, int], dtype: torch.dtype) -> Any:
        ctx.shape, ctx.dim, ctx.dtype = x.shape, dim, x.dtype
        first, last = dim
        count = x.shape[first] * x.shape[last]
        return x.sum(dim=last, dtype=dtype).sum(dim=first) / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        first, last = ctx.dim
        share = (grad / (ctx.shape[first] * ctx.shape[last])).to(ctx.dtype)
        share = share.unsqueeze(first).unsqueeze(last).expand(ctx.shape)
        return share.contiguous(memory_format=torch.channels_last), None, None
