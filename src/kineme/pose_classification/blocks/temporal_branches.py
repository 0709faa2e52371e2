"""Convolutions over time in branches: several reaches at the cost of one short kernel.

Used by ST-GCN++ (Duan et al., PYSKL: Towards Good Practices for Skeleton Action Recognition,
ACM MM 2022) and CTR-GCN (Chen et al., Channel-wise Topology Refinement Graph Convolution for
Skeleton-Based Action Recognition, ICCV 2021). Each branch narrows the channels and then looks
along time with its own dilation, or takes the largest of three frames; the last only narrows.
Promises: what the branches have in common is one parameter, their channels side by side.
Leaves out: what happens between joints (adaptive_gcn.py).
Legend: C channels, T frames. Activations are (., C, ., T) stored channels last, with joints and
windows of one person at the two dots, in either order.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from kineme.pose_classification.blocks.adaptive_ops import conv_of_one, relu


class TemporalBranches(nn.Module):
    """(., C, ., T) -> (., C, ., ceil(T / stride)).

    dilations: one branch with taps for each; the first takes the channels that an equal split
    leaves over. Then come a branch of maxima and one that only narrows. has_tail: normalise
    what the branches found, ReLU, and mix it (ST-GCN++).
    """

    def __init__(
        self,
        channels: int,
        *,
        dilations: Sequence[int],
        kernel: int,
        stride: int = 1,
        has_tail: bool = False,
    ) -> None:
        super().__init__()
        width = channels // (len(dilations) + 2)
        first = channels - width * (len(dilations) + 1)
        self.widths = (first, *[width] * (len(dilations) + 1))
        self.stride, self.dilations = stride, tuple(dilations)
        self.narrow = nn.Conv2d(channels, channels, 1)
        self.narrow_norm = nn.BatchNorm2d(channels - width)
        self.taps = nn.ModuleList(
            nn.Conv2d(size, size, (kernel, 1)) for size in self.widths[: len(self.dilations)]
        )
        self.norm = nn.BatchNorm2d(channels)
        if has_tail:
            self.mix = nn.Conv2d(channels, channels, 1)
            self.mix_norm = nn.BatchNorm2d(channels)
        self.has_tail = has_tail
        initialise(self.narrow, self.widths)
        for conv in (*self.taps, *([self.mix] if has_tail else [])):
            initialise(conv, [conv.out_channels])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.widths[:-1]
        num_seen = sum(seen)
        weight, bias = self.narrow.weight, cast(torch.Tensor, self.narrow.bias)
        narrow = conv_of_one(x, weight[:num_seen], bias[:num_seen])
        narrow = relu(self.narrow_norm(narrow))
        *looked, pooled = torch.split(narrow, list(seen), dim=1)
        found = [
            conv_with_gaps(part, conv.weight, conv.bias, self.stride, dilation)
            for part, conv, dilation in zip(
                looked, cast(Any, self.taps), self.dilations, strict=True
            )
        ]
        found.append(largest_of_three(pooled, self.stride))
        found.append(conv_of_one(x, weight[num_seen:], bias[num_seen:], self.stride))
        y: torch.Tensor = self.norm(torch.cat(found, dim=1))
        if self.has_tail:
            y = self.mix_norm(self.mix(relu(y)))
        return y


def conv_with_gaps(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, dilation: int
) -> torch.Tensor:
    """(., C, ., T) -> (., O, ., ceil(T / stride)) for a weight (O, C, odd number of taps, 1)."""
    padding = dilation * (weight.shape[2] // 2)
    if torch.compiler.is_exporting():
        return F.conv2d(x, weight.transpose(2, 3), bias, (1, stride), (0, padding), (1, dilation))
    if 1 < stride >= x.shape[3]:  # as in stgcn_ops.conv_over_time
        rows = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        y = F.conv2d(rows, weight, bias, (stride, 1), (padding, 0), (dilation, 1))
        return y.transpose(2, 3)
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight.transpose(2, 3), bias, (1, stride), (0, padding), (1, dilation))


def largest_of_three(x: torch.Tensor, stride: int) -> torch.Tensor:
    """(., C, ., T) -> (., C, ., ceil(T / stride)): of each frame and those beside it."""
    if torch.compiler.is_exporting():
        return F.max_pool2d(x, (1, 3), (1, stride), (0, 1))
    a, c, b, t = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(a * b, t * c)
    y: torch.Tensor = cast(Any, _LargestOfThree.apply)(rows, c)
    return y.view(a, b, t, c)[:, :, ::stride].permute(0, 3, 1, 2)


class _LargestOfThree(torch.autograd.Function):
    """(R, T C) -> (R, T C), in long runs of memory; of equals, the first has the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, c: int) -> Any:
        y = x.clone()
        torch.maximum(y[:, c:], x[:, :-c], out=y[:, c:])
        torch.maximum(y[:, :-c], x[:, c:], out=y[:, :-c])
        ctx.save_for_backward(x, y)
        ctx.num_channels = c
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, y = ctx.saved_tensors
        c = ctx.num_channels
        is_before, is_itself = x[:, :-c] == y[:, c:], x == y
        is_itself[:, c:] &= ~is_before
        grad_x = grad * is_itself
        grad_x[:, :-c] += grad[:, c:] * is_before
        is_after = ~is_itself[:, :-c]
        is_after[:, c:] &= ~is_before[:, :-c]
        grad_x[:, c:] += grad[:, :-c] * is_after
        return grad_x, None


def initialise(conv: nn.Conv2d, parts: Sequence[int]) -> None:
    """He's normal for each part of the outputs as if it were a convolution of its own."""
    for part in torch.split(conv.weight, list(parts)):
        nn.init.kaiming_normal_(part, mode="fan_out")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
