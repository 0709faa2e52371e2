"""ST-GCN++ and CTR-GCN written slowly and plainly from the papers, to hold the fast ones against.

Duan et al., PYSKL: Towards Good Practices for Skeleton Action Recognition, ACM MM 2022. Chen et
al., Channel-wise Topology Refinement Graph Convolution for Skeleton-Based Action Recognition,
ICCV 2021. Promises: nothing is fused, reordered or folded; parameters have our names, where maps
with the same input lie side by side in one weight.
Legend: N samples, C channels, T frames, V joints, M persons, K partitions.
"""

import torch
import torch.nn.functional as F
from torch import nn

from kineme.pose_classification.layouts import Layout, adjacency

WIDTHS = (64, 64, 64, 64, 128, 128, 128, 256, 256, 256)
STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)


class ReferenceBranches(nn.Module):
    """(N, C, T, V) -> (N, C, ceil(T / stride), V)."""

    def __init__(
        self, channels: int, kernel: int, dilations: tuple[int, ...], stride: int, has_tail: bool
    ) -> None:
        super().__init__()
        num_branches = len(dilations) + 2
        width = channels // num_branches
        self.widths = [channels - (num_branches - 1) * width] + [width] * (num_branches - 1)
        self.stride, self.has_tail = stride, has_tail
        self.narrow = nn.Conv2d(channels, channels, 1)
        self.narrow_norm = nn.BatchNorm2d(channels - width)
        self.taps = nn.ModuleList(
            nn.Conv2d(c, c, (kernel, 1), (stride, 1), (d * (kernel - 1) // 2, 0), (d, 1))
            for c, d in zip(self.widths, dilations, strict=False)
        )
        self.norm = nn.BatchNorm2d(channels)
        if has_tail:
            self.mix, self.mix_norm = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        narrow = self.narrow(x)
        passed = narrow[:, -self.widths[-1] :, :: self.stride]
        active = F.relu(self.narrow_norm(narrow[:, : -self.widths[-1]]))
        *looked, pooled = active.split(self.widths[:-1], dim=1)
        found = [conv(part) for conv, part in zip(self.taps, looked, strict=True)]
        found.append(F.max_pool2d(pooled, (3, 1), (self.stride, 1), (1, 0)))
        y = self.norm(torch.cat([*found, passed], dim=1))
        return self.mix_norm(self.mix(F.relu(y))) if self.has_tail else y


class ReferenceLearned(nn.Module):
    """A linear map per partition of the neighbours; the weights between joints are learned."""

    def __init__(self, channels_in: int, channels: int, graph: torch.Tensor) -> None:
        super().__init__()
        self.graph = nn.Parameter(graph.clone())
        self.conv = nn.Conv2d(channels_in, channels * len(graph), 1)
        self.norm, self.down = nn.BatchNorm2d(channels), matched(channels_in, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, t, v = x.shape
        mapped = self.conv(x).view(n, len(self.graph), -1, t, v)
        y = torch.einsum("nkctv,kvw->nctw", mapped, self.graph.to(mapped.dtype))
        return F.relu(self.norm(y) + self.down(x))


class ReferenceChannelTopology(nn.Module):
    """Besides, each channel has its own weights, from how the sample's joints differ."""

    def __init__(self, channels_in: int, channels: int, graph: torch.Tensor) -> None:
        super().__init__()
        k, self.channels = len(graph), channels
        self.reduced = 8 if channels_in in (3, 4) else channels_in // 8
        self.graph, self.share = nn.Parameter(graph.clone()), nn.Parameter(torch.zeros(1))
        self.seen = nn.Conv2d(channels_in, 2 * self.reduced * k, 1)
        self.refined = nn.Conv2d(self.reduced * k, channels * k, 1, groups=k)
        self.values = nn.Conv2d(channels_in, channels * k, 1)
        self.norm, self.down = nn.BatchNorm2d(channels), matched(channels_in, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = 0
        for k, graph in enumerate(self.graph):
            seen = slice(2 * k * self.reduced, 2 * (k + 1) * self.reduced)
            outputs = slice(k * self.channels, (k + 1) * self.channels)
            both = F.conv2d(x, self.seen.weight[seen], self.seen.bias[seen]).mean(dim=2)
            ours, theirs = both.chunk(2, dim=1)  # (N, reduced, V)
            differences = torch.tanh(theirs[:, :, :, None] - ours[:, :, None, :])
            refined = F.conv2d(
                differences, self.refined.weight[outputs], self.refined.bias[outputs]
            )
            topology = graph + self.share * refined  # (N, O, V, V)
            values = F.conv2d(x, self.values.weight[outputs], self.values.bias[outputs])
            total = total + torch.einsum("notv,novw->notw", values, topology.to(values.dtype))
        return F.relu(self.norm(total) + self.down(x))


class ReferenceAdaptive(nn.Module):
    """Ten blocks; a mean over joints and frames, then over the persons who are there."""

    spatial, kernel, dilations, has_tail = ReferenceLearned, 3, (1, 2, 3, 4), True

    def __init__(
        self, num_classes: int, in_channels: int, *, layout: Layout, strategy: str = "spatial",
        uses_mask: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("A", torch.from_numpy(adjacency(layout, strategy)))
        self.data_bn = nn.BatchNorm1d(in_channels * layout.num_joints)
        self.missing = (
            nn.Parameter(torch.zeros(layout.num_joints, in_channels)) if uses_mask else None
        )
        self.blocks = nn.ModuleList()
        channels_in = in_channels + uses_mask
        for index, (channels, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            block = nn.Module()
            block.spatial = self.spatial(channels_in, channels, self.A)
            block.temporal = ReferenceBranches(
                channels, self.kernel, self.dilations, stride, self.has_tail
            )
            block.residual = matched(channels_in, channels, stride) if index else None
            self.blocks.append(block)
            channels_in = channels
        self.fcn = nn.Linear(channels_in, num_classes)

    def forward(self, skeleton: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
        n, c, t, v, m = skeleton.shape
        if present is None:
            present = (skeleton != 0).any(dim=1, keepdim=True)
        seen = present.permute(0, 4, 3, 1, 2).reshape(n * m, v, 1, t)
        is_there = seen.flatten(1).any(dim=1)
        x = skeleton.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)[is_there]
        x = self.data_bn(x).view(-1, v, c, t)
        if self.missing is not None:
            seen = seen[is_there]
            x = torch.where(seen, x, self.missing[:, :, None])
            x = torch.cat([x, seen.to(x.dtype)], dim=2)
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            y = block.temporal(block.spatial(x))
            x = F.relu(y + block.residual(x) if block.residual else y)
        features = x.new_zeros(n * m, x.shape[1])
        features[is_there] = x.mean(dim=(2, 3))
        counts = is_there.view(n, m).sum(dim=1, keepdim=True)
        return self.fcn(features.view(n, m, -1).sum(dim=1) / counts.clamp(min=1))


class ReferenceCTRGCN(ReferenceAdaptive):
    spatial, kernel, dilations, has_tail = ReferenceChannelTopology, 5, (1, 2), False


def matched(channels_in: int, channels: int, stride: int = 1) -> nn.Module:
    if channels_in == channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, (stride, 1)), nn.BatchNorm2d(channels))
