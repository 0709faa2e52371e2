"""ST-GCN: spatial temporal graph convolutions over a skeleton.

Yan, Xiong, Lin: Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
Recognition, AAAI 2018. Promises: parameter names, shapes and results are the published
ones, so that public and TAO weights load as they are; any number of frames and persons.
Legend: N samples, C channels, T frames, V joints, M persons, K partitions. Inside,
activations are (V, C, N M, T) stored channels last; blocks/stgcn_ops.py says why.
Leaves out: losses, normalisation of the data and loading of weights.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from kineme.pose_classification.adaptive_gcn import CTRGCN, STGCNPlus
from kineme.pose_classification.blocks.averages import mean_of
from kineme.pose_classification.blocks.folding import Folded, affine, fold_conv
from kineme.pose_classification.blocks.stgcn_ops import Graph, conv_over_time, drop, graph_conv
from kineme.pose_classification.graph import Layout, adjacency

_GROUP_BYTES = 1 << 24  # of one activation: about half the last cache of a CPU


class _Shape(NamedTuple):
    channels_in: int
    channels_out: int
    stride: int = 1  # over time
    residual: str = "identity"  # none | identity | conv


def _shapes(in_channels: int) -> tuple[_Shape, ...]:
    return (
        _Shape(in_channels, 64, residual="none"),
        *[_Shape(64, 64)] * 3,
        _Shape(64, 128, stride=2, residual="conv"),
        *[_Shape(128, 128)] * 2,
        _Shape(128, 256, stride=2, residual="conv"),
        *[_Shape(256, 256)] * 2,
    )


class STGCN(nn.Module):
    """Ten blocks of graph and temporal convolution, averaged over joints, time and persons."""

    A: torch.Tensor

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        layout: Layout,
        strategy: str = "spatial",
        edge_importance_weighting: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        graph = torch.from_numpy(adjacency(layout, strategy))
        self.register_buffer("A", graph)
        self.data_bn = nn.BatchNorm1d(in_channels * layout.num_joints)
        shapes = _shapes(in_channels)
        self.st_gcn_networks = nn.ModuleList(
            _Block(shape, partitions=len(graph), dropout=dropout if index else 0.0)
            for index, shape in enumerate(shapes)
        )
        self.edge_importance = nn.ParameterList(
            torch.ones_like(graph) for _ in shapes if edge_importance_weighting
        )
        self.fcn = nn.Conv2d(shapes[-1].channels_out, num_classes, 1)
        self._folded = Folded(_fold_blocks)

    def forward(self, skeleton: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, T, V, M) -> logits (N, classes). Missing joints are zeros, whatever `present`."""
        del present
        n, c, t, v, m = skeleton.shape
        x = skeleton.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        x = self.data_bn(x).view(n * m, v, c, t)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if torch.compiler.is_exporting():  # runtimes want (N M, C, T, V)
            x = x.permute(0, 2, 3, 1)
            for block, graph in zip(self.st_gcn_networks, self._graphs(), strict=True):
                x = _fold(block, graph, x.dtype)(x)
            x = mean_of(x, dim=(2, 3))
        else:
            x = x.permute(1, 0, 3, 2).contiguous().permute(0, 3, 1, 2)
            is_plain = self.training or torch.is_grad_enabled() or x.device.type != "cpu"
            x = _pooled(self._features(x)) if is_plain else self._folding(x)
        return self._logits(x.reshape(n, m, -1).mean(dim=1))

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        """What the blocks as they are, one after the other, make of x."""
        for block, graph in zip(self.st_gcn_networks, self._graphs(), strict=True):
            x = block(x, graph)
        return x

    def _folding(self, x: torch.Tensor) -> torch.Tensor:
        """As `_features` and `_pooled` in eval mode, without gradients: a few windows through
        all blocks, so that they stay in the cache, and BN folded into the convolutions.
        """
        bytes_per_window = 64 * x.shape[0] * x.shape[3] * x.element_size()
        blocks, features = self._folded.blocks(self, x.dtype), []
        for group in torch.split(x, max(1, _GROUP_BYTES // bytes_per_window), dim=2):
            for block in blocks:
                group = block(group)
            features.append(_pooled(group))
        return torch.cat(features)

    def train(self, mode: bool = True) -> "STGCN":
        self._folded.forget()
        return super().train(mode)

    def _graphs(self) -> list[Graph]:
        on_cpu = self.A.device.type == "cpu" and not torch.compiler.is_exporting()
        links = [(k, v, w) for k, v, w in self.A.nonzero().tolist()] if on_cpu else []
        weights = self.edge_importance or [1.0] * len(self.st_gcn_networks)
        return [Graph(self.A * weight, links) for weight in weights]

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.fcn.weight.flatten(1)
        if not torch.is_autocast_enabled(x.device.type):
            return F.linear(x, weight, self.fcn.bias)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make ties here
            return F.linear(x.to(weight.dtype), weight, self.fcn.bias)


MODELS: Mapping[str, type[nn.Module]] = {"ST-GCN": STGCN, "ST-GCN++": STGCNPlus, "CTR-GCN": CTRGCN}


class _GraphConvWeights(nn.Module):
    """The place of the graph convolution's parameters: `gcn.conv.*`."""

    def __init__(self, shape: _Shape, *, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.conv = nn.Conv2d(shape.channels_in, shape.channels_out * partitions, 1)

    def maps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The linear maps (K, channels_out, channels_in) and their biases (K, channels_out)."""
        bias = cast(torch.Tensor, self.conv.bias).view(self.partitions, -1)
        return self.conv.weight.view(*bias.shape, -1), bias


class _Block(nn.Module):
    """Graph convolution, BN, ReLU, 9 x 1 convolution over time, BN, dropout; plus residual."""

    def __init__(self, shape: _Shape, *, partitions: int, dropout: float) -> None:
        super().__init__()
        channels = shape.channels_out
        self.gcn = _GraphConvWeights(shape, partitions=partitions)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (9, 1), (shape.stride, 1), (4, 0)),
            nn.BatchNorm2d(channels),
            nn.Dropout(dropout),
        )
        self.residual_kind = shape.residual
        if shape.residual == "conv":
            self.residual = nn.Sequential(
                nn.Conv2d(shape.channels_in, channels, 1, (shape.stride, 1)),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor, graph: Graph) -> torch.Tensor:
        """(V, C, N, T) -> (V, channels_out, N, T / stride)."""
        weight, bias = self.gcn.maps()
        norm, _, temporal, norm_after, dropout = cast(Any, self.tcn)
        y = graph_conv(x, weight, torch.einsum("ko,kvw->wo", bias, graph.values), graph)
        y = _relu(norm(y))
        y = conv_over_time(y, temporal.weight, temporal.bias, temporal.stride[0])
        y = _norm_and_drop(y, norm_after, dropout)
        if self.residual_kind == "identity":
            y = y + x
        elif self.residual_kind == "conv":
            conv, norm = cast(Any, self.residual)
            y = y + norm(conv_over_time(x, conv.weight, conv.bias, conv.stride[0]))
        return _relu(y)


def _norm_and_drop(x: torch.Tensor, norm: nn.Module, dropout: nn.Dropout) -> torch.Tensor:
    if not dropout.training or dropout.p in (0.0, 1.0) or x.device.type != "cpu":
        plain: torch.Tensor = dropout(norm(x))
        return plain
    scale = 1 / (1 - dropout.p)  # of what is kept; BN applies it on its way
    scaled = {name: parameter * scale for name, parameter in norm.named_parameters()}
    return drop(functional_call(norm, scaled, x), dropout.p)


class _FoldedBlock(NamedTuple):
    """A block in eval mode with each BN folded into the convolution before it."""

    graph: Graph
    weight: torch.Tensor
    shift: torch.Tensor
    temporal: tuple[torch.Tensor, torch.Tensor, int]  # weight, bias, stride
    residual_kind: str
    residual: tuple[torch.Tensor, torch.Tensor, int] | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = _relu(graph_conv(x, self.weight, self.shift, self.graph))
        y = conv_over_time(y, *self.temporal)
        if self.residual_kind == "identity":
            y = y + x
        elif self.residual is not None:
            y = y + conv_over_time(x, *self.residual)
        return _relu(y)


def _fold_blocks(model: STGCN, dtype: torch.dtype) -> list[_FoldedBlock]:
    blocks = zip(model.st_gcn_networks, model._graphs(), strict=True)
    return [_fold(block, graph, dtype) for block, graph in blocks]


def _fold(block: Any, graph: Graph, dtype: torch.dtype) -> _FoldedBlock:
    norm, _, temporal, norm_after, _ = block.tcn
    gain, offset = affine(norm)
    weight, bias = block.gcn.maps()
    return _FoldedBlock(
        graph,
        (weight * gain[:, None]).to(dtype),
        (torch.einsum("ko,kvw->wo", bias * gain, graph.values) + offset).to(dtype),
        fold_conv(temporal, norm_after, dtype),
        block.residual_kind,
        fold_conv(block.residual[0], block.residual[1], dtype)
        if block.residual_kind == "conv"
        else None,
    )


def _relu(x: torch.Tensor) -> torch.Tensor:
    # In place saves memory traffic in float32; bfloat16 kernels are slower in place.
    return F.relu(x, inplace=x.dtype == torch.float32)


def _pooled(x: torch.Tensor) -> torch.Tensor:
    """(V, C, N, T) -> (N, C)."""
    return mean_of(x, dim=(0, 3)).t()
