"""The graph convolution of ST-GCN, arranged for the memory of a CPU.

Promises: `graph_conv` gives what the published einsum gives, in value and in gradients.
Legend: N windows of one person each, V joints, T frames, C channels in, O channels out,
K partitions; activations lie in memory as (N, V, T, C).

Why it is fast: with joints before frames, summing over neighbours is one (K V, V) x
(V, T C) product per window. It is done on the side of the input channels, which are never
more than the output channels, and window by window into one small buffer, so that the
K-fold larger intermediate never travels to memory and backward computes it again.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

_BUFFER_NUMBERS = 1 << 21  # of the intermediate at a time: fits the cache of one core


def graph_conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, graph: torch.Tensor
) -> torch.Tensor:
    """(N, V, T, C) -> (N, V, T, O): a linear map per partition, summed over the neighbours.

    weight: (K, O, C), bias: (K, O), graph: (K, V, V) where [k, v, w] carries v to w.
    """
    if torch.compiler.is_exporting():
        mapped = torch.einsum("nvtc,koc->nkvto", x, weight) + bias[:, None, None]
        return torch.einsum("nkvto,kvw->nwto", mapped, graph)
    return _GraphConv.apply(x, weight, bias, graph)  # type: ignore[no-any-return]


class _GraphConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, graph: Any) -> torch.Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight, bias, graph)
        weight, gather = weight.to(x.dtype), _gather(graph).to(x.dtype)
        shift = torch.einsum("ko,kvw->wo", bias, graph).to(x.dtype)
        (n, v, t, _), o = x.shape, weight.shape[1]
        y = x.new_empty(n, v, t, o)
        for rows, buffer in _pieces(x, partitions=len(weight)):
            sums = torch.bmm(gather.expand(len(buffer), -1, -1), x[rows].flatten(2), out=buffer)
            part = y[rows].copy_(shift[:, None]).view(-1, v * t, o)
            for partition, by_partition in zip(weight, _partitions(sums, x, weight), strict=True):
                part.baddbmm_(by_partition, partition.t().expand(len(part), -1, -1))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight32, bias, graph = ctx.saved_tensors
        grad = grad.contiguous()
        weight, gather = weight32.to(x.dtype), _gather(graph).to(x.dtype)
        (n, v, t, c), (k, o, _) = x.shape, weight.shape
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight32)
        grad_gather = torch.zeros_like(graph).view(k * v, v)
        for rows, buffer in _pieces(x, partitions=k):
            part, g = x[rows].flatten(2), grad[rows].view(-1, v * t, o)
            for partition, by_partition in zip(weight, _partitions(buffer, x, weight), strict=True):
                torch.bmm(g, partition.expand(len(g), -1, -1), out=by_partition)
            if grad_x is not None:
                spread = gather.t().expand(len(g), -1, -1)
                torch.bmm(spread, buffer, out=grad_x[rows].view(-1, v, t * c))
            grad_gather += torch.bmm(buffer, part.transpose(1, 2)).sum(0)
            torch.bmm(gather.expand(len(g), -1, -1), part, out=buffer)
            for partition, by_partition in zip(
                grad_weight, _partitions(buffer, x, weight), strict=True
            ):
                partition += torch.bmm(g.transpose(1, 2), by_partition).sum(0)
        per_joint = grad.sum((0, 2), dtype=bias.dtype)
        grad_graph = grad_gather.view(k, v, v).transpose(1, 2) + (bias @ per_joint.t())[:, None]
        grad_bias = graph.sum(1) @ per_joint
        return grad_x, grad_weight, grad_bias, grad_graph


def _gather(graph: torch.Tensor) -> torch.Tensor:
    """(K, V, V) as the matrix (K V, V) that sums over neighbours; rows are (k, w)."""
    return graph.transpose(1, 2).reshape(-1, graph.shape[1])


def _pieces(x: torch.Tensor, *, partitions: int) -> Any:
    """Slices of windows, each with a buffer (n, K V, T C) that fits the cache."""
    n, v, t, c = x.shape
    size = max(1, min(n, _BUFFER_NUMBERS // max(1, partitions * v * t * c)))
    buffer = x.new_empty(size, partitions * v, t * c)
    for start in range(0, n, size):
        stop = min(n, start + size)
        yield slice(start, stop), buffer[: stop - start]


def _partitions(buffer: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> Any:
    """Views (n, V T, C) of a buffer (n, K V, T C), one for each partition."""
    _, v, t, c = x.shape
    return buffer.view(len(buffer), len(weight), v * t, c).unbind(1)
