"""I3D: Inception inflated to volumes, under the names of its public weights.

Carreira, Zisserman: Quo Vadis, Action Recognition?, CVPR 2017. Promises: names, shapes and
results of TAO's network and of the public Kinetics weights, padding as TensorFlow's SAME;
clips of any size, and of 8 frames or more.
Leaves out: weights (weights.py) and what the input is called (model.py).
Legend: N clips, C channels, T frames, H x W pixels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from kineme.action_recognition.contradictions import SHORTEST_I3D
from kineme.action_recognition.conv_norm import (
    conv_norm,
    exact,
    initialise,
    last_in_memory,
    pad_same,
)


class _Widths(NamedTuple):
    """Channels that leave each convolution of a mixed block."""

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def total(self) -> int:
        return self.b0 + self.b1b + self.b2b + self.b3b


_MIXED = {
    "3b": _Widths(64, 96, 128, 16, 32, 32),
    "3c": _Widths(128, 128, 192, 32, 96, 64),
    "4b": _Widths(192, 96, 208, 16, 48, 64),
    "4c": _Widths(160, 112, 224, 24, 64, 64),
    "4d": _Widths(128, 128, 256, 24, 64, 64),
    "4e": _Widths(112, 144, 288, 32, 64, 64),
    "4f": _Widths(256, 160, 320, 32, 128, 128),
    "5b": _Widths(256, 160, 320, 32, 128, 128),
    "5c": _Widths(384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """Three convolutions and nine mixed blocks; the logits of each moment are averaged."""

    def __init__(self, num_classes: int, in_channels: int, *, dropout: float = 0.5) -> None:
        super().__init__()
        self.logits = _Logits(_MIXED["5c"].total, num_classes)  # first, as in public weights
        self.Conv3d_1a_7x7 = _Unit(in_channels, 64, kernel=7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64)
        self.Conv3d_2c_3x3 = _Unit(64, 192, kernel=3)
        channels = 192
        for name, widths in _MIXED.items():
            self.add_module(f"Mixed_{name}", _Mixed(channels, widths))
            channels = widths.total
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> logits (N, classes). Raises ValueError where T < 8."""
        if clips.shape[2] < SHORTEST_I3D:
            raise ValueError(
                f"I3D needs clips of {SHORTEST_I3D} frames or more, got {clips.shape[2]}"
            )
        x = self.Conv3d_1a_7x7(last_in_memory(clips))
        x = _max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = _max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        for name in _MIXED:
            if name == "4b":
                x = _max_pool(x, kernel=(3, 3, 3), stride=(2, 2, 2))
            elif name == "5b":
                x = _max_pool(x, kernel=(2, 2, 2), stride=(2, 2, 2))
            x = self.get_submodule(f"Mixed_{name}")(x)
        return self._logits_of(x)

    def _logits_of(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1024, T / 8, H / 32, W / 32) -> (N, classes): the mean over all places, and over
        pairs of neighbouring moments, as published for 7 x 7 places; in float32 at least.
        """
        x = x.mean(dim=(3, 4), dtype=torch.promote_types(x.dtype, torch.float32))
        if x.shape[2] > 1:
            x = (x[:, :, 1:] + x[:, :, :-1]) / 2
        with exact(x):
            logits: torch.Tensor = self.logits(self.dropout(x))
            return logits.mean(dim=2)


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int = 1, stride: int = 1):
        super().__init__()
        is_padded_here = stride == 1  # then the zeros are the same on all sides
        padding = kernel // 2 if is_padded_here else 0
        self.conv3d = nn.Conv3d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(channels_out, eps=1e-3, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv3d.stride != (1, 1, 1):
            x = pad_same(x, kernel=self.conv3d.kernel_size, stride=self.conv3d.stride)
        return conv_norm(x, self.conv3d, self.bn, "relu")


class _Mixed(nn.Module):
    """Four branches side by side: 1, 1 and 3, 1 and 3, pooled and 1."""

    def __init__(self, channels_in: int, widths: _Widths) -> None:
        super().__init__()
        self.b0 = _Unit(channels_in, widths.b0)
        self.b1a = _Unit(channels_in, widths.b1a)
        self.b1b = _Unit(widths.b1a, widths.b1b, kernel=3)
        self.b2a = _Unit(channels_in, widths.b2a)
        self.b2b = _Unit(widths.b2a, widths.b2b, kernel=3)
        self.b3b = _Unit(channels_in, widths.b3b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = _max_pool(x, kernel=(3, 3, 3), stride=(1, 1, 1))
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
        return torch.cat(branches, dim=1)


class _Logits(nn.Module):
    """The place of the head's parameters: `logits.conv3d.*`."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, T) -> (N, classes, T)."""
        return F.conv1d(x, self.conv3d.weight.flatten(2), self.conv3d.bias)


def _max_pool(x: torch.Tensor, *, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """The largest of each window. Zeros around are no loss: what comes in is not negative."""
    padded = pad_same(x, kernel=kernel, stride=stride)
    return F.max_pool3d(padded, kernel, stride)
