"""Blocks of ST-GCN++ and CTR-GCN for answers only: each normalisation inside a convolution.

Promises: in exact arithmetic, what the blocks give in eval mode. Leaves out: gradients,
training, export, and when to fold again (folding.py).
Legend: as in adaptive_gcn.py; a convolution is a (weight, bias) pair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kineme.pose_classification.blocks.adaptive_ops import (
    channel_graph_conv,
    conv_of_one,
    learned_graph_conv,
)
from kineme.pose_classification.blocks.folding import affine, fold_conv, scaled
from kineme.pose_classification.blocks.temporal_branches import conv_with_gaps, largest_of_three

Map = Callable[[torch.Tensor], torch.Tensor]


def fold(block: Any, dtype: torch.dtype) -> Map:
    """What `block` does in eval mode, with weights in `dtype`."""
    is_learned = hasattr(block.spatial, "conv")
    spatial = (_fold_learned if is_learned else _fold_channels)(block.spatial, dtype)
    temporal = _fold_branches(block.temporal, dtype)
    residual = _fold_residual(block.residual, dtype) if block.has_residual else None
    return _Folded(spatial, temporal, residual)


@dataclass(frozen=True)
class _Conv:
    """1 x 1, with a stride over time."""

    weight: torch.Tensor
    bias: torch.Tensor
    stride: int = 1

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return conv_of_one(x, self.weight, self.bias, self.stride)


@dataclass(frozen=True)
class _Folded:
    spatial: Map
    temporal: Map
    residual: Map | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.temporal(self.spatial(x))
        if self.residual is not None:
            y = y.add_(self.residual(x))
        return y.relu_()


@dataclass(frozen=True)
class _Learned:
    weight: torch.Tensor
    shift: torch.Tensor
    graph: torch.Tensor
    down: Map

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = learned_graph_conv(x, self.weight, self.shift, self.graph)
        return y.add_(self.down(x)).relu_()


@dataclass(frozen=True)
class _Channels:
    weight: torch.Tensor
    bias: torch.Tensor
    offset: torch.Tensor
    topologies: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    down: Map

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = channel_graph_conv(x, self.weight, self.bias, self.topologies(x))
        return y.add_(self.offset).add_(self.down(x)).relu_()


@dataclass(frozen=True)
class _Branches:
    narrow: _Conv
    taps: list[tuple[torch.Tensor, torch.Tensor, int, int]]  # weight, bias, stride, dilation
    gain: torch.Tensor  # of the branch of maxima
    offset: torch.Tensor
    passed: _Conv
    mix: _Conv | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        widths = [len(weight) for weight, *_ in self.taps]
        narrow = self.narrow(x).relu_()
        *looked, pooled = torch.split(narrow, [*widths, len(self.gain)], dim=1)
        found = [conv_with_gaps(part, *one) for part, one in zip(looked, self.taps, strict=True)]
        largest = largest_of_three(pooled, self.passed.stride)
        found += [torch.addcmul(self.offset, largest, self.gain), self.passed(x)]
        y = torch.cat(found, dim=1)
        return y if self.mix is None else self.mix(y.relu_())


def _fold_learned(spatial: Any, dtype: torch.dtype) -> _Learned:
    gain, offset = affine(spatial.norm)
    bias = spatial.conv.bias.view(len(spatial.graph), -1) * gain
    weight = spatial.conv.weight.view(*bias.shape, -1) * gain[:, None]
    shift = torch.einsum("ko,kvw->wo", bias, spatial.graph) + offset
    down = _fold_residual(spatial.down, dtype)
    return _Learned(weight.to(dtype), shift.to(dtype), spatial.graph.to(dtype), down)


def _fold_channels(spatial: Any, dtype: torch.dtype) -> _Channels:
    gain, offset = affine(spatial.norm)
    bias = spatial.values.bias.view(len(spatial.graph), -1) * gain
    weight = spatial.values.weight.view(*bias.shape, -1) * gain[:, None]
    down = _fold_residual(spatial.down, dtype)
    offset = offset[:, None, None].to(dtype)
    return _Channels(weight.to(dtype), bias.to(dtype), offset, spatial.topologies, down)


def _fold_branches(temporal: Any, dtype: torch.dtype) -> _Branches:
    num_seen = sum(temporal.widths[:-1])
    gain, offset = affine(temporal.narrow_norm)
    weight, bias = temporal.narrow.weight, temporal.narrow.bias
    narrow = scaled(weight[:num_seen], bias[:num_seen], gain, offset, dtype)
    gains, offsets = (torch.split(part, list(temporal.widths)) for part in affine(temporal.norm))
    taps = [
        (*scaled(conv.weight, conv.bias, gain, offset, dtype), temporal.stride, dilation)
        for conv, gain, offset, dilation in zip(
            temporal.taps, gains, offsets, temporal.dilations, strict=False
        )
    ]
    passed = scaled(weight[num_seen:], bias[num_seen:], gains[-1], offsets[-1], dtype)
    return _Branches(
        _Conv(*narrow),
        taps,
        gains[-2][:, None, None].to(dtype),
        offsets[-2][:, None, None].to(dtype),
        _Conv(*passed, temporal.stride),
        _Conv(*fold_conv(temporal.mix, temporal.mix_norm, dtype)) if temporal.has_tail else None,
    )


def _fold_residual(residual: nn.Module, dtype: torch.dtype) -> Map:
    if isinstance(residual, nn.Identity):
        return residual
    conv, norm = residual.children()
    return _Conv(*fold_conv(conv, norm, dtype))
