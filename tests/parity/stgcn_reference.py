"""ST-GCN written slowly and plainly from the paper, to hold the fast one against.

Yan, Xiong, Lin: Spatial Temporal Graph Convolutional Networks for Skeleton-Based Action
Recognition, AAAI 2018. Promises: nothing is fused, reordered or folded; parameter names
are the published ones, so that weights move between the two models.
Legend: N samples, C channels, T frames, V joints, M persons, K partitions.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from kineme.pose_classification.layouts import Layout

# channels in, channels out, stride over time, residual
BLOCKS = (
    (None, 64, 1, "none"),
    (64, 64, 1, "identity"),
    (64, 64, 1, "identity"),
    (64, 64, 1, "identity"),
    (64, 128, 2, "conv"),
    (128, 128, 1, "identity"),
    (128, 128, 1, "identity"),
    (128, 256, 2, "conv"),
    (256, 256, 1, "identity"),
    (256, 256, 1, "identity"),
)


def reference_graph(
    num_joints: int, bones: Iterable[tuple[int, int]], centre: int, strategy: str
) -> torch.Tensor:
    """(K, V, V) as public weights hold it: [k, v, w] carries v to w; columns add up to 1.

    Joints that are not next to the centre all count as equally far from it.
    """
    neighbours = {(a, b) for a, b in bones} | {(b, a) for a, b in bones}
    num_parts = {"uniform": 1, "distance": 2, "spatial": 3}[strategy]
    parts = torch.zeros(num_parts, num_joints, num_joints)

    def steps_to_centre(joint: int) -> float:
        return 0 if joint == centre else 1 if (joint, centre) in neighbours else float("inf")

    for w in range(num_joints):
        sources = [v for v in range(num_joints) if v == w or (v, w) in neighbours]
        for v in sources:
            part = 0 if v == w or strategy == "uniform" else 1
            if part == 1 and strategy == "spatial" and steps_to_centre(v) < steps_to_centre(w):
                part = 2
            parts[part, v, w] = 1 / len(sources)
    return parts


class ReferenceGraphConv(nn.Module):
    """Equation 10: a 1 x 1 convolution per partition, then the sum over the neighbours."""

    def __init__(self, channels_in: int, channels_out: int, partitions: int) -> None:
        super().__init__()
        self.partitions = partitions
        self.conv = nn.Conv2d(channels_in, channels_out * partitions, 1)

    def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        n, kc, t, v = x.shape
        x = x.view(n, self.partitions, kc // self.partitions, t, v)
        return torch.einsum("nkctv,kvw->nctw", x, graph).contiguous()


class ReferenceBlock(nn.Module):
    def __init__(
        self, channels_in: int, channels_out: int, stride: int, residual: str,
        *, partitions: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.gcn = ReferenceGraphConv(channels_in, channels_out, partitions)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(channels_out),
            nn.Dropout(dropout),
        )
        self.residual_kind = residual
        if residual == "conv":
            self.residual = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, (stride, 1)), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        y = self.tcn(self.gcn(x, graph))
        if self.residual_kind == "identity":
            y = y + x
        elif self.residual_kind == "conv":
            y = y + self.residual(x)
        return F.relu(y)


class ReferenceSTGCN(nn.Module):
    A: torch.Tensor

    def __init__(
        self, num_classes: int, in_channels: int, *, layout: Layout, strategy: str = "spatial",
        edge_importance_weighting: bool = True, dropout: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        graph = reference_graph(layout.num_joints, layout.edges, layout.centre_index, strategy)
        self.register_buffer("A", graph)
        self.data_bn = nn.BatchNorm1d(in_channels * layout.num_joints)
        self.st_gcn_networks = nn.ModuleList(
            ReferenceBlock(
                channels_in or in_channels, channels_out, stride, residual,
                partitions=len(graph), dropout=dropout if channels_in else 0,
            )
            for channels_in, channels_out, stride, residual in BLOCKS
        )  # fmt: skip
        if edge_importance_weighting:
            self.edge_importance = nn.ParameterList(torch.ones_like(graph) for _ in BLOCKS)
        else:
            self.edge_importance = [1.0] * len(BLOCKS)
        self.fcn = nn.Conv2d(256, num_classes, 1)

    def forward(self, skeleton: torch.Tensor) -> torch.Tensor:
        n, c, t, v, m = skeleton.shape
        x = skeleton.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t)
        x = self.data_bn(x)
        x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous()
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.A * importance)
        x = x.mean(dim=(2, 3)).view(n, m, -1).mean(dim=1)
        return self.fcn(x[:, :, None, None]).flatten(1)
