"""The arithmetic of learned topologies, arranged for the memory of a CPU; plain torch anywhere.

Promises: values and gradients are those of the plain formulas in the docstrings.
Leaves out: parameters and their names (adaptive_gcn.py).
Legend: P windows of one person each, C channels in, O channels out, V joints, T frames, K
partitions. Activations are stored channels last, so that all linear maps are matrix products
without copies. Where joints come first in memory, (V, P, T, C), one product carries all
windows from joints to joints. Where each channel of each window has its own topology, windows
come first, (P, V, T, C), and the maps turn the channels to the front on their way.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def learned_graph_conv(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, graph: torch.Tensor
) -> torch.Tensor:
    """(V, C, P, T) -> (V, O, P, T): y[w] = sum over k, v of graph[k, v, w] weight[k] x[v] + shift.

    weight: (K, O, C); shift: (V, O). While exporting: (P, C, V, T) -> (P, O, V, T).
    """
    if torch.compiler.is_exporting():
        neighbours = torch.cat([partition.t() @ x for partition in graph], dim=1)
        maps = weight.transpose(0, 1).flatten(1)[:, :, None, None]
        return F.conv2d(neighbours, maps) + shift.t()[:, :, None]
    v, c, p, t = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(v, p * t, c).contiguous()
    y: torch.Tensor = cast(Any, _LearnedGraphConv.apply)(rows, weight, shift, graph)
    return y.view(v, p, t, -1).permute(0, 3, 1, 2)


def channel_graph_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    parts: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """(P, C, V, T) -> (P, O, V, T): a linear map per partition, then from joints to joints.

    weight: (K, O, C); bias: (K, O). parts: `shares` (K, O, R) and `topologies` (P, K, R, V, V),
    whose products are the weights from joint v, last, to joint w for each channel and window:
    y[p, o, w] = sum over k, v, r of shares[k, o, r] topologies[p, k, r, w, v] mapped[p, k, o, v].
    """
    (p, _, v, t), k = x.shape, len(weight)
    if torch.compiler.is_exporting():
        mapped = F.conv2d(x, weight.flatten(0, 1)[:, :, None, None], bias.flatten())
        topology = (parts[0] @ parts[1].flatten(3)).view(p, k, -1, v, v)
        return (topology @ mapped.view(p, k, -1, v, t)).sum(dim=1)
    rows = x.permute(0, 2, 3, 1).contiguous()
    y: torch.Tensor = cast(Any, _ChannelGraphConv.apply)(rows, weight, bias, *parts)
    return y.permute(0, 3, 1, 2)


def conv_of_one(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int = 1
) -> torch.Tensor:
    """A 1 x 1 convolution: (., C, ., T) -> (., O, ., ceil(T / stride)).

    Frames are picked first, because torch's batch norm has wrong gradients where strides of a
    lone column are not those of an image stored channels last, as `conv_over_time` leaves them.
    """
    if stride > 1 and not torch.compiler.is_exporting():
        x, stride = x[..., ::stride].contiguous(memory_format=torch.channels_last), 1
    return F.conv2d(x, weight, bias, (1, stride))


def relu(x: torch.Tensor) -> torch.Tensor:
    # In place saves memory traffic in float32; bfloat16 kernels are slower in place.
    return F.relu(x, inplace=x.dtype == torch.float32)


class _LearnedGraphConv(torch.autograd.Function):
    """(V, R, C) -> (V, R, O), where R = P T: first to the neighbours, then the linear maps."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, shift: Any, graph: Any) -> Any:
        (v, r, c), (k, o, _) = x.shape, weight.shape
        to_joints = graph.transpose(1, 2).reshape(k * v, v).to(x.dtype)
        maps = weight.to(x.dtype)
        neighbours = (to_joints @ x.view(v, r * c)).view(k, v * r, c)
        y = torch.mm(neighbours[0], maps[0].t())
        for part, one in zip(neighbours[1:], maps[1:], strict=True):
            y.addmm_(part, one.t())
        y = y.view(v, r, o).add_(shift.to(x.dtype).contiguous()[:, None])
        ctx.save_for_backward(x, weight, graph, neighbours)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight, graph, neighbours = ctx.saved_tensors
        (v, r, c), (k, o, _) = x.shape, weight.shape
        needs_x, _, _, needs_graph = ctx.needs_input_grad
        rows = grad.contiguous().view(v * r, o)
        grad_weight = torch.stack([rows.t() @ part for part in neighbours]).to(weight.dtype)
        ones = rows.new_ones(1, 1, r).expand(v, 1, r)
        grad_shift = torch.bmm(ones, rows.view(v, r, o))[:, 0].to(weight.dtype)
        grad_x = grad_graph = None
        if needs_x or needs_graph:
            maps = weight.to(x.dtype)
            at_neighbours = x.new_empty(k, v * r, c)
            for part, one in zip(at_neighbours, maps, strict=True):
                torch.mm(rows, one, out=part)
            flat = at_neighbours.view(k * v, r * c)
        if needs_x:
            to_joints = graph.transpose(1, 2).reshape(k * v, v).to(x.dtype)
            grad_x = (to_joints.t() @ flat).view(v, r, c)
        if needs_graph:  # this way round, the longer side of the result is the fast one
            product = x.view(v, r * c) @ flat.t()
            grad_graph = product.view(v, k, v).transpose(0, 1).to(graph.dtype)
        return grad_x, grad_weight, grad_shift, grad_graph


class _ChannelGraphConv(torch.autograd.Function):
    """(P, V, T, C) -> (P, V, T, O); in between, (P, O, K V, T)."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, shares: Any, topologies: Any) -> Any:
        (p, v, t, c), (k, o, _) = x.shape, weight.shape
        maps = weight.to(x.dtype).transpose(0, 1).reshape(o * k, c)  # so that joints of all k meet
        biases = bias.to(x.dtype).t().reshape(o * k, 1)
        mapped = torch.baddbmm(biases, maps.expand(p, -1, -1), x.view(p, v * t, c).transpose(1, 2))
        mapped = mapped.view(p * o, k * v, t)
        topology = shares.to(x.dtype) @ topologies.to(x.dtype).flatten(3)
        topology = topology.view(p, k, o, v, v).permute(0, 2, 3, 1, 4).reshape(p * o, v, k * v)
        y = torch.bmm(topology, mapped).view(p, o, v * t)
        ctx.save_for_backward(x, weight, shares, topologies, maps, mapped, topology)
        return y.transpose(1, 2).contiguous().view(p, v, t, o)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight, shares, topologies, maps, mapped, topology = ctx.saved_tensors
        (p, v, t, c), (k, o, _) = x.shape, weight.shape
        grad = grad.reshape(p, v * t, o).transpose(1, 2).contiguous().view(p * o, v, t)
        grad_mapped = torch.bmm(topology.transpose(1, 2), grad).view(p, o * k, v * t)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.bmm(grad_mapped.transpose(1, 2), maps.expand(p, -1, -1)).view_as(x)
        grad_weight = _sum(torch.bmm(grad_mapped, x.view(p, v * t, c)), 0)
        grad_weight = grad_weight.view(o, k, c).transpose(0, 1).to(weight.dtype)
        ones = grad.new_ones(1, v * t, 1).expand(p, -1, -1)
        grad_bias = _sum(torch.bmm(grad_mapped, ones), 0)  # faster than .sum
        grad_bias = grad_bias.view(o, k).t().to(weight.dtype)
        grad_topology = torch.bmm(grad, mapped.transpose(1, 2)).view(p, o, v, k, v)
        grad_topology = grad_topology.permute(0, 3, 1, 2, 4).reshape(p, k, o, v * v)
        flat = topologies.to(x.dtype).flatten(3)
        grad_shares = _sum(grad_topology @ flat.transpose(2, 3), 0).to(shares.dtype)
        grad_topologies = shares.to(x.dtype).transpose(1, 2) @ grad_topology
        grad_topologies = grad_topologies.view_as(topologies).to(topologies.dtype)
        return grad_x, grad_weight, grad_bias, grad_shares, grad_topologies


def _sum(x: torch.Tensor, dim: int) -> torch.Tensor:
    """In float32 at least."""
    return x.sum(dim, dtype=torch.promote_types(x.dtype, torch.float32))
