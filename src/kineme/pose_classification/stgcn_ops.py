"""The arithmetic of ST-GCN, arranged for the memory of a CPU; plain torch on any device.

Promises: `graph_conv` gives what the published einsum gives, in value and in gradients;
`drop` repeats under the same torch seed. Leaves out: parameters and their names (model.py).
Legend: N windows of one person each, C channels in, O channels out, V joints, T frames,
K partitions. Activations are (N, C, V, T) stored channels last: in memory (N, V, T, C).

Why this is fast:
- Channels last lets oneDNN run convolutions on its best kernels, bfloat16 ones on AMX.
- With joints before frames, the sum over neighbours is a (V, V) x (V, T C) product. It is
  done before the linear maps, where channels are fewer, and a few windows at a time in one
  small buffer, so that the K times larger intermediate stays in the cache; backward
  computes it again instead of keeping it.
- Dropout draws 64 bits for two or four numbers, not one number at a time.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

_BUFFER_BYTES = 1 << 24  # of the intermediate at a time: a good part of a CPU's cache


def graph_conv(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, graph: torch.Tensor
) -> torch.Tensor:
    """(N, C, V, T) -> (N, O, V, T): a linear map per partition, summed over the neighbours.

    weight: (K, O, C); shift: (V, O), added to each joint; graph: (K, V, V), where
    [k, v, w] carries v to w.
    """
    if torch.compiler.is_exporting():
        neighbours = torch.cat([partition.t() @ x for partition in graph], dim=1)
        weight = weight.transpose(0, 1).flatten(1)[:, :, None, None]
        return F.conv2d(neighbours, weight) + shift.t()[:, :, None]
    apply = cast(Any, _GraphConv.apply)
    y: torch.Tensor = apply(x.permute(0, 2, 3, 1).contiguous(), weight, shift, graph)
    return y.permute(0, 3, 1, 2)


def conv_over_time(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """(N, C, V, T) -> (N, O, V, T / stride), for a weight (O, C, odd number of frames, 1)."""
    padding = weight.shape[2] // 2
    if not torch.compiler.is_exporting() and 1 < stride >= x.shape[3]:
        # oneDNN's bfloat16 kernel reads foreign memory where a stride leaves one column
        rows = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        return F.conv2d(rows, weight, bias, (stride, 1), (padding, 0)).transpose(2, 3)
    return F.conv2d(x, weight.transpose(2, 3), bias, (1, stride), (0, padding))


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """x on the CPU with each number zeroed with probability p; the others stay as they are."""
    dropped: torch.Tensor = cast(Any, _Drop.apply)(x, p)
    return dropped


class _GraphConv(torch.autograd.Function):
    """As `graph_conv`, for x (N, V, T, C) -> (N, V, T, O)."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, shift: Any, graph: Any) -> Any:
        ctx.save_for_backward(x, weight, graph)
        weight, gather = weight.to(x.dtype), graph.transpose(1, 2).to(x.dtype)
        (n, v, t, c), (k, o, _) = x.shape, weight.shape
        y = x.new_empty(n, v, t, o)
        y.copy_(shift[:, None])
        for rows, buffer in _pieces(x, partitions=k):
            _gather(x[rows], gather, out=buffer)
            for neighbours, linear in zip(buffer.view(k, -1, c), weight, strict=True):
                y[rows].view(-1, o).addmm_(neighbours, linear.t())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight_kept, graph = ctx.saved_tensors
        grad = grad.contiguous()
        weight, gather = weight_kept.to(x.dtype), graph.transpose(1, 2).to(x.dtype)
        (n, v, t, c), (k, o, _) = x.shape, weight.shape
        grad_x = torch.empty_like(x)
        grad_weight, grad_gather = torch.zeros_like(weight_kept), torch.zeros_like(graph)
        for rows, buffer in _pieces(x, partitions=k):
            flat, by_partition = grad[rows].view(-1, o), buffer.view(k, -1, c)
            for neighbours, linear in zip(by_partition, weight, strict=True):
                torch.mm(flat, linear, out=neighbours)
            _scatter(buffer, gather, out=grad_x[rows])
            columns = x[rows].flatten(2).transpose(1, 2)
            for numbers, total in zip(buffer, grad_gather, strict=True):
                total += torch.bmm(numbers, columns).sum(0)
            _gather(x[rows], gather, out=buffer)
            for neighbours, total in zip(by_partition, grad_weight, strict=True):
                total += flat.t() @ neighbours
        ones = grad.new_ones(1, 1, t).expand(n * v, 1, t)  # a product sums faster than .sum
        per_joint = torch.bmm(ones, grad.view(n * v, t, o)).view(n, v, o)
        grad_shift = per_joint.sum(0, dtype=weight_kept.dtype)
        return grad_x, grad_weight, grad_shift, grad_gather.transpose(1, 2)


def _pieces(x: torch.Tensor, *, partitions: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of about equally many windows, each with a buffer (K, n, V, T C) to work in."""
    n, v, t, c = x.shape
    bytes_per_window = partitions * v * t * c * x.element_size()
    fitting = max(1, _BUFFER_BYTES // bytes_per_window) if x.device.type == "cpu" else n
    size = -(-n // -(-n // fitting))
    numbers = x.new_empty(partitions * size * v * t * c)
    for start in range(0, n, size):
        count = min(size, n - start)
        buffer = numbers[: partitions * count * v * t * c].view(partitions, count, v, t * c)
        yield slice(start, start + count), buffer


def _gather(x: torch.Tensor, gather: torch.Tensor, *, out: torch.Tensor) -> None:
    """out[k, n] = gather[k] @ x[n], for x (n, V, T, C), gather (K, V, V), out (K, n, V, T C)."""
    for matrix, result in zip(gather, out, strict=True):
        torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2), out=result)


def _scatter(by_partition: torch.Tensor, gather: torch.Tensor, *, out: torch.Tensor) -> None:
    """out[n] = sum over k of gather[k].T @ by_partition[k, n]: the transpose of `_gather`."""
    out = out.flatten(2)
    for index, (matrix, numbers) in enumerate(zip(gather, by_partition, strict=True)):
        spread = matrix.t().expand(len(out), -1, -1)
        torch.baddbmm(out, spread, numbers, beta=int(index > 0), out=out)


class _Drop(torch.autograd.Function):
    """Zeroes numbers as integers of their size, exactly those whose random bits are low.

    Backward draws the bits again from the seed, which costs less than keeping them.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, p: float) -> Any:
        ctx.p, ctx.seed = p, int(torch.randint(2**63 - 1, ()))
        return _zero_some(x, p, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return _zero_some(grad, ctx.p, ctx.seed), None


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def _zero_some(x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    x = x.contiguous(memory_format=torch.channels_last)  # both ways in the same order
    integer = _INTEGERS[x.element_size()]
    num_words = -(-x.numel() * x.element_size() // 8)
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, num_words, np.uint64)
    bits = torch.from_numpy(words.view(np.int64)).view(integer)[: x.numel()]
    bits = bits.as_strided(x.shape, x.stride())
    low, high = torch.iinfo(integer).min, torch.iinfo(integer).max
    highest_dropped = min(high, low - 1 + round(p * (high - low + 1)))
    torch.ops.aten.threshold_backward.grad_input(  # x where bits > highest_dropped, else 0
        x.view(integer), bits, highest_dropped, grad_input=bits
    )
    return bits.view(x.dtype)
