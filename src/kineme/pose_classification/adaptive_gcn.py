"""Graph networks that learn which joints look at which: ST-GCN++ and CTR-GCN.

Duan et al., PYSKL: Towards Good Practices for Skeleton Action Recognition, ACM MM 2022. Chen et
al., Channel-wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition,
ICCV 2021. Both have ST-GCN's ten blocks; the weights between joints are learned, starting from
the skeleton; CTR-GCN refines them for each channel by how the joints of the sample differ.
Promises: any number of frames and persons; persons of whom nothing was seen do not count.
Leaves out: convolutions over time (blocks/temporal_branches.py), losses, loading of weights.
Legend: N samples, C channels, T frames, V joints, M persons, K partitions; inside, activations
are (V, C, P, T) or (P, C, V, T) stored channels last, where P counts the persons of all
samples; blocks/adaptive_ops.py says why.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from kineme.pose_classification.blocks.adaptive_folding import Map, fold
from kineme.pose_classification.blocks.adaptive_ops import (
    channel_graph_conv,
    conv_of_one,
    learned_graph_conv,
    relu,
)
from kineme.pose_classification.blocks.averages import mean_of
from kineme.pose_classification.blocks.folding import Folded
from kineme.pose_classification.blocks.temporal_branches import TemporalBranches, initialise
from kineme.pose_classification.graph import Layout, adjacency

_GROUP_BYTES = 1 << 24  # of one activation: about half the last cache of a CPU
_STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
_WIDTHS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)


class AdaptiveGCN(nn.Module):
    """Ten blocks, averaged over joints, time and persons.

    edge_importance_weighting: learn the weights between joints; otherwise they stay those of
    the skeleton (CTR-GCN refines them all the same). dropout: of the features before the last
    layer. num_flags: where it is not 0, a missing joint becomes a learned token, and so many more
    channels tell, one for each part of the channels that can be missing by itself.
    """

    A: torch.Tensor
    kernel: int
    dilations: tuple[int, ...]
    has_tail: bool
    joints_first: bool  # in memory

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        layout: Layout,
        strategy: str = "spatial",
        edge_importance_weighting: bool = True,
        dropout: float = 0.0,
        num_flags: int = 0,
    ) -> None:
        super().__init__()
        graph = torch.from_numpy(adjacency(layout, strategy))
        self.register_buffer("A", graph)
        self.data_bn = nn.BatchNorm1d(in_channels * layout.num_joints)
        self.missing = (
            nn.Parameter(torch.zeros(layout.num_joints, in_channels)) if num_flags else None
        )
        self.blocks = nn.ModuleList()
        before = in_channels + num_flags
        for index, (width, stride) in enumerate(zip(_WIDTHS, _STRIDES, strict=True)):
            spatial = self._spatial(before, width, graph)
            if not edge_importance_weighting:
                spatial.graph.requires_grad_(False)
            temporal = TemporalBranches(
                width,
                dilations=self.dilations,
                kernel=self.kernel,
                stride=stride,
                has_tail=self.has_tail,
            )
            self.blocks.append(_Block(before, spatial, temporal, has_residual=index > 0))
            before = width
        self.dropout = nn.Dropout(dropout)
        self.fcn = nn.Linear(before, num_classes)
        nn.init.normal_(self.fcn.weight, 0, math.sqrt(2.0 / num_classes))
        nn.init.zeros_(self.fcn.bias)
        self._folded = Folded(_fold_blocks)

    def _spatial(self, channels_in: int, channels: int, graph: torch.Tensor) -> Any:
        raise NotImplementedError

    def forward(self, skeleton: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        """(N, C, T, V, M) -> logits (N, classes).

        present: (N, S, T, V, M), of which joints each of S equal parts of the channels is there;
        else one part, and the joints with a channel that is not zero.
        """
        n, c, t, v, m = skeleton.shape
        if present is None:
            present = (skeleton != 0).any(dim=1, keepdim=True)
        persons = skeleton.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        seen = present.permute(0, 4, 3, 1, 2).reshape(n * m, v, -1, t)
        is_there = seen.flatten(1).any(dim=1)  # (N M)
        may_wait = skeleton.device.type == "cpu" or (  # for the answer
            self.training and m > 1 and not torch.cuda.is_current_stream_capturing()
        )
        may_skip = may_wait and not torch.compiler.is_exporting()
        if may_skip and not bool(is_there.all()):
            features = self._scattered(persons, seen, is_there)
        else:
            features = self._features(persons, seen)
        counted = is_there.to(features.dtype)
        features = (features * counted[:, None]).view(n, m, -1).sum(dim=1)
        features = features / counted.view(n, m).sum(dim=1, keepdim=True).clamp(min=1)
        return self._logits(self.dropout(features))

    def varies_with(self, skeleton: torch.Tensor, present: torch.Tensor | None = None) -> bool:
        """Whether training passes over somebody who is absent from these, as of `forward`.

        On a GPU one person a sample is never passed over.
        """
        if skeleton.shape[4] == 1:
            return False
        there = skeleton if present is None else present
        return not bool((there != 0).flatten(1, 3).any(dim=1).all())

    def _scattered(
        self, persons: torch.Tensor, seen: torch.Tensor, is_there: torch.Tensor
    ) -> torch.Tensor:
        """The features (N M, C) of those who are there; zero for the others."""
        kept = is_there.nonzero()[:, 0]
        wide = persons.new_zeros(len(persons), self.fcn.in_features)
        if not len(kept):
            return wide.to(torch.promote_types(wide.dtype, torch.float32))
        features = self._features(persons[kept], seen[kept])
        return features.new_zeros(wide.shape).index_copy(0, kept, features)

    def _features(self, persons: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """(P, V C, T), (P, V, S, T) -> (P, C)."""
        p, v, parts, t = seen.shape
        x = self.data_bn(persons).view(p, v, -1, t)
        if self.missing is not None:
            flags = seen if parts == 1 else seen.repeat_interleave(x.shape[2] // parts, dim=2)
            x = torch.where(flags, x, self.missing[:, :, None].to(x.dtype))
            x = torch.cat([x, seen.to(x.dtype)], dim=2)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        is_exporting = torch.compiler.is_exporting()
        joints_first = self.joints_first and not is_exporting
        if is_exporting:  # runtimes want plain images
            x = x.permute(0, 2, 1, 3).contiguous()
        else:
            order = (1, 0, 3, 2) if joints_first else (0, 1, 3, 2)
            x = x.permute(order).contiguous().permute(0, 3, 1, 2)
        is_plain = self.training or torch.is_grad_enabled() or x.device.type != "cpu"
        if is_plain or is_exporting:
            for block in self.blocks:
                x = block(x)
            return _mean(x, joints_first)
        dim, bytes_per_person = (2 if joints_first else 0), 64 * v * t * x.element_size()
        blocks, features = self._folded.blocks(self, x.dtype), []
        for group in torch.split(x, max(1, _GROUP_BYTES // bytes_per_person), dim=dim):
            for folded in blocks:
                group = folded(group)
            features.append(_mean(group, joints_first))
        return torch.cat(features)

    def train(self, mode: bool = True) -> "AdaptiveGCN":
        self._folded.forget()
        return super().train(mode)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make ties here
            logits: torch.Tensor = self.fcn(x.to(self.fcn.weight.dtype))
        return logits


class STGCNPlus(AdaptiveGCN):
    """ST-GCN++: learned weights between joints, six branches along time."""

    kernel, dilations, has_tail = 3, (1, 2, 3, 4), True
    joints_first = True

    def _spatial(self, channels_in: int, channels: int, graph: torch.Tensor) -> Any:
        return _LearnedTopology(channels_in, channels, graph)


class CTRGCN(AdaptiveGCN):
    """CTR-GCN: weights between joints per channel and sample, four branches along time."""

    kernel, dilations, has_tail = 5, (1, 2), False
    joints_first = False

    def _spatial(self, channels_in: int, channels: int, graph: torch.Tensor) -> Any:
        return _ChannelTopology(channels_in, channels, graph)


class _LearnedTopology(nn.Module):
    """A linear map for each partition of the neighbours, whose weights are learned."""

    def __init__(self, channels_in: int, channels: int, graph: torch.Tensor) -> None:
        super().__init__()
        self.graph = nn.Parameter(graph.clone())  # [k, v, w] carries v to w
        self.conv = nn.Conv2d(channels_in, channels * len(graph), 1)
        self.norm = nn.BatchNorm2d(channels)
        self.down = _matched(channels_in, channels)
        initialise(self.conv, [channels * len(graph)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(V, C, P, T) -> (V, channels, P, T)."""
        bias = cast(torch.Tensor, self.conv.bias).view(len(self.graph), -1)
        weight = self.conv.weight.view(*bias.shape, -1)
        shift = torch.einsum("ko,kvw->wo", bias, self.graph)
        y = learned_graph_conv(x, weight, shift, self.graph)
        return relu(self.norm(y).add_(_narrowed(x, self.down)))


class _ChannelTopology(nn.Module):
    """As above; to the weights, differences of the sample's joints are added, channel-wise."""

    def __init__(self, channels_in: int, channels: int, graph: torch.Tensor) -> None:
        super().__init__()
        k = len(graph)
        self.reduced = 8 if channels_in < 16 else channels_in // 8
        self.graph = nn.Parameter(graph.clone())
        self.share = nn.Parameter(torch.zeros(1))  # of what is added; it starts at nothing
        self.seen = nn.Conv2d(channels_in, 2 * self.reduced * k, 1)
        self.refined = nn.Conv2d(self.reduced * k, channels * k, 1, groups=k)
        self.values = nn.Conv2d(channels_in, channels * k, 1)
        self.norm = nn.BatchNorm2d(channels)
        self.down = _matched(channels_in, channels)
        initialise(self.seen, [self.reduced] * 2 * k)
        initialise(self.refined, [channels] * k)
        initialise(self.values, [channels] * k)
        nn.init.constant_(self.norm.weight, 1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(P, C, V, T) -> (P, channels, V, T)."""
        k = len(self.graph)
        bias = cast(torch.Tensor, self.values.bias).view(k, -1)
        weight = self.values.weight.view(*bias.shape, -1)
        y = channel_graph_conv(x, weight, bias, self.topologies(x))
        return relu(self.norm(y).add_(_narrowed(x, self.down)))

    def topologies(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The factors of the weights, see `channel_graph_conv`: what joints of the sample differ
        in, a one for the bias, and the skeleton, which every channel has as it is.
        """
        (p, _, v, _), k = x.shape, len(self.graph)
        # the maps are linear: first the mean over time, as a sum, whose gradient needs no copy
        middle = (x.sum(dim=3) / x.shape[3]).transpose(1, 2)
        seen = F.linear(middle, self.seen.weight.flatten(1), self.seen.bias)
        ours, theirs = seen.transpose(1, 2).reshape(p, k, 2, self.reduced, v).unbind(2)
        differences = torch.tanh(theirs[..., None, :] - ours[..., :, None])  # [w, v]: from v to w
        topologies = torch.cat(
            [
                differences,
                torch.ones_like(differences[:, :, :1]),
                self.graph.transpose(1, 2)[:, None].to(x.dtype).expand(p, -1, -1, -1, -1),
            ],
            dim=2,
        )
        bias = cast(torch.Tensor, self.refined.bias).view(k, -1, 1)
        refined = torch.cat([self.refined.weight.view(k, -1, self.reduced), bias], dim=2)
        shares = torch.cat([refined * self.share, torch.ones_like(bias)], dim=2)
        return shares.to(x.dtype), topologies


class _Block(nn.Module):
    """Between joints, then along time, plus what came in."""

    def __init__(
        self, channels_in: int, spatial: nn.Module, temporal: TemporalBranches, *,
        has_residual: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        channels, stride = temporal.norm.num_features, temporal.stride
        self.spatial, self.temporal = spatial, temporal
        self.has_residual = has_residual
        self.residual: nn.Module = nn.Identity()
        if has_residual and (channels_in != channels or stride > 1):
            self.residual = _conv_and_norm(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.temporal(self.spatial(x))
        if self.has_residual:
            y = y.add_(_narrowed(x, self.residual))
        return relu(y)


def _fold_blocks(model: AdaptiveGCN, dtype: torch.dtype) -> list[Map]:
    return [fold(block, dtype) for block in model.blocks]


def _mean(x: torch.Tensor, joints_first: bool) -> torch.Tensor:
    """(P, C) over joints and frames."""
    return mean_of(x, dim=(0, 3)).t() if joints_first else mean_of(x, dim=(2, 3))


def _matched(channels_in: int, channels: int) -> nn.Module:
    return nn.Identity() if channels_in == channels else _conv_and_norm(channels_in, channels, 1)


def _narrowed(x: torch.Tensor, residual: nn.Module) -> torch.Tensor:
    if isinstance(residual, nn.Identity):
        return x
    conv, norm = cast(Any, residual)
    y: torch.Tensor = norm(conv_of_one(x, conv.weight, conv.bias, conv.stride[0]))
    return y


def _conv_and_norm(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, 1, (stride, 1))
    initialise(conv, [channels])
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
