"""The arithmetic of ST-GCN, arranged for the memory of a CPU; plain torch on any device.

Promises: `graph_conv` gives what the published einsum gives, in value and in gradients;
`drop` repeats under the same torch seed. Leaves out: parameters and their names (model.py).
Legend: N windows of one person each, C channels in, O channels out, V joints, T frames,
K partitions. Activations are (V, C, N, T) stored channels last: in memory (V, N, T, C).

Why this is fast:
- Channels last lets oneDNN run convolutions on its best kernels, bfloat16 ones on AMX.
- With joints first, all windows of a joint are one large matrix, and a skeleton has about
  three links per joint. So a graph convolution is a matrix product per joint and partition,
  added up in place, with no product of graph and activations, forward or backward.
- Long convolutions over time with many channels take fewer products (minimal_filtering.py).
- Dropout draws 64 bits for two or four numbers, not one number at a time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from kineme.pose_classification.blocks.minimal_filtering import conv_nine_taps, pays_off

Links = Sequence[tuple[int, int, int]]  # (k, v, w)
_FEW_BYTES = 24 << 20  # of neighbours: below, a product per link does not pay


class Graph(NamedTuple):
    """values (K, V, V), where [k, v, w] carries joint v to joint w; zero but at the links."""

    values: torch.Tensor
    links: Links


def graph_conv(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, graph: Graph
) -> torch.Tensor:
    """(V, C, N, T) -> (V, O, N, T): a linear map per partition, summed over the neighbours.

    weight: (K, O, C); shift: (V, O), added to each joint. What has no link may have no
    gradient. While exporting: (N, C, T, V) -> (N, O, T, V).
    """
    if torch.compiler.is_exporting():
        return _exported_graph_conv(x, weight, graph.values) + shift.t()[:, None]
    (v, c, n, t), o = x.shape, weight.shape[1]
    rows = x.permute(0, 2, 3, 1).reshape(v, n * t, c)
    num_bytes = len(graph.values) * x.numel() * x.element_size()  # of all neighbours at once
    if x.device.type == "cpu" and num_bytes > _FEW_BYTES:
        y: torch.Tensor = cast(Any, _GraphConv.apply)(rows, weight, shift, *graph)
    else:
        y = dense_graph_conv(rows, weight, shift, graph.values)
    return y.view(v, n, t, o).permute(0, 3, 1, 2)


def _exported_graph_conv(
    x: torch.Tensor, weight: torch.Tensor, graph: torch.Tensor
) -> torch.Tensor:
    """(N, C, T, V) -> (N, O, T, V) as runtimes have it fastest: one product lays the K sums of a
    joint's neighbours side by side, and a convolution over each K of them maps and adds them.
    """
    k, v, _ = graph.shape
    neighbours = x @ graph.permute(1, 2, 0).reshape(v, v * k)
    return F.conv2d(neighbours, weight.permute(1, 2, 0)[:, :, None], stride=(1, k))


def dense_graph_conv(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, graph: torch.Tensor
) -> torch.Tensor:
    """`graph_conv` for (V, R, C) -> (V, R, O) in few products, as accelerators and small
    batches want: a product per link costs more to start than to compute there.
    """
    (v, r, c), k = x.shape, len(graph)
    gather = graph.transpose(1, 2).reshape(k * v, v).to(x.dtype)
    neighbours = (gather @ x.flatten(1)).view(k, v * r, c)
    y = torch.bmm(neighbours, weight.to(x.dtype).transpose(1, 2)).sum(0)
    return y.view(v, r, -1) + shift.to(x.dtype)[:, None]


def conv_over_time(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int
) -> torch.Tensor:
    """(V, C, N, T) -> (V, O, N, T / stride), for a weight (O, C, odd number of frames, 1).

    While exporting: (N, C, T, V) -> (N, O, T / stride, V).
    """
    padding = weight.shape[2] // 2
    if torch.compiler.is_exporting():
        return F.conv2d(x, weight, bias, (stride, 1), (padding, 0))
    if stride == 1 and pays_off(x, weight):
        v, _, n, t = x.shape
        y = conv_nine_taps(x.permute(0, 2, 3, 1).flatten(0, 1), weight[..., 0], bias)
        return y.view(v, n, t, -1).permute(0, 3, 1, 2)
    if 1 < stride >= x.shape[3]:
        # oneDNN's bfloat16 kernel reads foreign memory where a stride leaves one column
        rows = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        return F.conv2d(rows, weight, bias, (stride, 1), (padding, 0)).transpose(2, 3)
    return F.conv2d(x, weight.transpose(2, 3), bias, (1, stride), (0, padding))


def drop(x: torch.Tensor, p: float) -> torch.Tensor:
    """x on the CPU with each number zeroed with probability p; the others stay as they are."""
    dropped: torch.Tensor = cast(Any, _Drop.apply)(x, p)
    return dropped


class _GraphConv(torch.autograd.Function):
    """As `graph_conv`, for x (V, R, C) -> (V, R, O), where R = N T."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, shift: Any, graph: Any, links: Links) -> Any:
        ctx.save_for_backward(x, weight, graph)
        ctx.links = links
        y = x.new_empty(*x.shape[:2], weight.shape[1])
        y.copy_(shift[:, None])
        _add_neighbours(x, weight.to(x.dtype).transpose(1, 2), graph, links, out=y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight, graph = ctx.saved_tensors
        grad = grad.contiguous()
        turned = [(k, w, v) for k, v, w in ctx.links]
        grad_x = torch.zeros_like(x)
        _add_neighbours(grad, weight.to(x.dtype), graph.transpose(1, 2), turned, out=grad_x)
        grad_weight, grad_graph = torch.zeros_like(weight), torch.zeros_like(graph)
        values, product = graph.tolist(), x.new_empty(weight.shape[1:])
        for k, v, w in ctx.links:
            torch.mm(grad[w].t(), x[v], out=product)
            grad_weight[k].add_(product, alpha=values[k][v][w])
            grad_graph[k, v, w] = (product * weight[k]).sum()
        ones = grad.new_ones(1, 1, x.shape[1]).expand(len(x), 1, -1)
        grad_shift = torch.bmm(ones, grad)[:, 0].to(weight.dtype)  # faster than .sum
        return grad_x, grad_weight, grad_shift, grad_graph, None


def _add_neighbours(
    x: torch.Tensor, maps: torch.Tensor, graph: torch.Tensor, links: Links, *, out: torch.Tensor
) -> None:
    """out[w] += graph[k, v, w] * x[v] @ maps[k], summed over the links (k, v, w).

    Neighbours of one partition are summed before the product; the largest of their factors
    is taken out, so that the product applies it and a lone neighbour needs no copy.
    """
    values, buffer = graph.tolist(), torch.empty_like(x[0])
    sums: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for k, v, w in links:
        sums.setdefault((w, k), []).append((v, values[k][v][w]))
    for (w, k), terms in sorted(sums.items()):
        (first, factor), *others = sorted(terms, key=lambda term: -abs(term[1]))
        neighbours = x[first]
        for v, value in others:
            neighbours = torch.add(neighbours, x[v], alpha=value / (factor or 1), out=buffer)
        out[w].addmm_(neighbours, maps[k], alpha=factor)


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
