"""ST-GCN: spatial temporal graph convolutions over a skeleton.

Yan, Xiong, Lin: Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
Recognition, AAAI 2018. Promises: parameter names, shapes and results are the published
ones, so that public and TAO weights load as they are; any number of frames and persons.
Legend: N samples, C channels, T frames, V joints, M persons, K partitions. Inside,
activations are (N M, C, V, T) stored channels last, that is as (N M, V, T, C).
Leaves out: losses, normalisation of the data and loading of weights.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from kineme.pose_classification.graph import Layout, adjacency
from kineme.pose_classification.stgcn_ops import graph_conv


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
        self.st_gcn_networks = nn.ModuleList(
            _Block(shape, partitions=len(graph), dropout=dropout if index else 0.0)
            for index, shape in enumerate(_shapes(in_channels))
        )
        self.edge_importance = nn.ParameterList(
            torch.ones_like(graph) for _ in self.st_gcn_networks if edge_importance_weighting
        )
        self.fcn = nn.Conv2d(self.st_gcn_networks[-1].channels_out, num_classes, 1)

    def forward(self, skeleton: torch.Tensor) -> torch.Tensor:
        """(N, C, T, V, M) -> logits (N, classes)."""
        n, c, t, v, m = skeleton.shape
        x = skeleton.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        x = self.data_bn(x)
        x = x.view(n * m, v, c, t).permute(0, 1, 3, 2).contiguous().permute(0, 3, 1, 2)
        for index, block in enumerate(self.st_gcn_networks):
            graph = self.A * self.edge_importance[index] if self.edge_importance else self.A
            x = block(x, graph)  # (N M, C, V, T)
        x = x.mean(dim=(2, 3)).view(n, m, -1).mean(dim=1)
        return F.linear(x, self.fcn.weight.flatten(1), self.fcn.bias)


MODELS: Mapping[str, type[nn.Module]] = {"ST-GCN": STGCN}


class _GraphConvWeights(nn.Module):
    """The place of the graph convolution's parameters: `gcn.conv.*`."""

    def __init__(self, shape: _Shape, *, partitions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape.channels_in, shape.channels_out * partitions, 1)


class _Block(nn.Module):
    """Graph convolution, BN, ReLU, 9 x 1 convolution over time, BN, dropout; plus residual."""

    def __init__(self, shape: _Shape, *, partitions: int, dropout: float) -> None:
        super().__init__()
        self.partitions, self.channels_out = partitions, shape.channels_out
        self.gcn = _GraphConvWeights(shape, partitions=partitions)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(shape.channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(shape.channels_out, shape.channels_out, (9, 1), (shape.stride, 1), (4, 0)),
            nn.BatchNorm2d(shape.channels_out),
            nn.Dropout(dropout),
        )
        self.residual: nn.Module | None = None
        if shape.residual == "identity":
            self.residual = nn.Identity()
        elif shape.residual == "conv":
            self.residual = nn.Sequential(
                nn.Conv2d(shape.channels_in, shape.channels_out, 1, (shape.stride, 1)),
                nn.BatchNorm2d(shape.channels_out),
            )

    def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        """x: (N, C, V, T), graph: (K, V, V) -> (N, channels_out, V, T / stride)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        conv = self.gcn.conv
        y = graph_conv(
            x.permute(0, 2, 3, 1),
            conv.weight.view(self.partitions, self.channels_out, -1),
            conv.bias.view(self.partitions, self.channels_out),
            graph,
        ).permute(0, 3, 1, 2)
        norm, relu, temporal, norm_after, dropout = self.tcn
        y = relu(norm(y))
        y = dropout(norm_after(_over_time(y, temporal)))
        if isinstance(self.residual, nn.Identity):
            y = y.add_(x) if self.training else y + x
        elif self.residual is not None:
            y = y + self.residual[1](_over_time(x, self.residual[0]))
        return relu(y)


def _over_time(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """`conv`, whose kernel is (frames, 1), on x (N, C, V, T)."""
    if not torch.compiler.is_exporting() and 1 < conv.stride[0] >= x.shape[3]:
        # oneDNN's bfloat16 kernel reads foreign memory where a stride leaves one column
        rows = x.transpose(2, 3).contiguous(memory_format=torch.channels_last)
        return conv(rows).transpose(2, 3)
    weight = conv.weight.transpose(2, 3)
    stride, padding = conv.stride[::-1], conv.padding[::-1]
    return F.conv2d(x, weight, conv.bias, stride, padding)
