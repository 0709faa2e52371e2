"""ResNets over stacked frames, shifted frames or volumes, under torchvision's names.

He et al.: Deep Residual Learning for Image Recognition, CVPR 2016. Promises: names, shapes
and results of TAO's networks (head `fc_cls`), so that its weights and torchvision's load.
Leaves out: weights (weights.py) and what the input is called (model.py).
Legend: N clips, C channels, T frames, H x W pixels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from kineme.action_recognition.conv_norm import (
    activate,
    classify,
    conv_norm,
    initialise,
    last_in_memory,
)
from kineme.action_recognition.shift import consensus, frames_of, shift_time


class _Plan(NamedTuple):
    blocks: tuple[int, int, int, int]  # of layer1 to layer4
    has_bottleneck: bool

    @property
    def channels_out(self) -> int:
        return 2048 if self.has_bottleneck else 512


PLANS = {
    18: _Plan((2, 2, 2, 2), has_bottleneck=False),
    34: _Plan((3, 4, 6, 3), has_bottleneck=False),
    50: _Plan((3, 4, 6, 3), has_bottleneck=True),
    101: _Plan((3, 4, 23, 3), has_bottleneck=True),
    152: _Plan((3, 8, 36, 3), has_bottleneck=True),
}
_WIDTHS = (64, 128, 256, 512)
_DEEP = 23  # blocks in a layer, from which on TSM shifts in every second block only


class ResNet2d(nn.Module):
    """A ResNet of images, whose channels are the frames of a clip, or which are its frames.

    shift_fraction: share of channels shifted each way in every residual branch; None where
    the frames are stacked as channels.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        depth: int,
        dropout: float = 0.5,
        shift_fraction: float | None = None,
    ) -> None:
        super().__init__()
        plan = PLANS[depth]
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = _layers(plan, _IMAGES)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(plan.channels_out, num_classes)
        initialise(self)
        self.shift_fraction = shift_fraction
        self.shift_every = 2 if PLANS[depth].blocks[2] >= _DEEP else 1

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(N, C T, H, W), or (N, C, T, H, W) where frames are shifted -> logits (N, classes)."""
        if self.shift_fraction is None:
            return classify(self.fc_cls, self.dropout, self._features(clips, 0))
        frames, num_frames = frames_of(clips)
        logits = classify(self.fc_cls, self.dropout, self._features(frames, num_frames))
        return consensus(logits, num_frames)

    def _features(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        """(N, C, H, W) -> (N, channels, H / 32, W / 32). num_frames: 0 where nothing shifts."""
        x = conv_norm(last_in_memory(x), self.conv1, self.bn1, "relu")
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for index, block in enumerate(layer):
                branch = x
                if num_frames and index % self.shift_every == 0:
                    branch = shift_time(x, num_frames, self.shift_fraction or 0.0)
                x = block(x, branch)
        return x


class ResNet3d(nn.Module):
    """A ResNet of volumes: kernels over time, but strides over time in the stem alone."""

    def __init__(
        self, num_classes: int, in_channels: int, *, depth: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        plan = PLANS[depth]
        self.conv1 = nn.Conv3d(in_channels, 64, (5, 7, 7), stride=2, padding=(2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.layer1, self.layer2, self.layer3, self.layer4 = _layers(plan, _VOLUMES)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(plan.channels_out, num_classes)
        initialise(self)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(N, C, T, H, W) -> logits (N, classes)."""
        # On CPUs, volumes with channels outermost train a fifth faster.
        x = clips if clips.device.type == "cpu" else last_in_memory(clips)
        x = conv_norm(x, self.conv1, self.bn1, "relu")
        x = F.max_pool3d(x, (1, 3, 3), stride=2, padding=(0, 1, 1))  # time is T / 4 by here
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = block(x, x)
        return classify(self.fc_cls, self.dropout, x)


class _Kinds(NamedTuple):
    """The modules of two or three dimensions."""

    conv: Any
    norm: Any

    def conv_of(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> Any:
        """A convolution that keeps the size, but for `stride` in space."""
        strides = stride if self.conv is nn.Conv2d else (1, stride, stride)
        padding = kernel // 2
        return self.conv(channels_in, channels_out, kernel, strides, padding, bias=False)


_IMAGES = _Kinds(nn.Conv2d, nn.BatchNorm2d)
_VOLUMES = _Kinds(nn.Conv3d, nn.BatchNorm3d)


def _layers(plan: _Plan, kinds: _Kinds) -> list[nn.Sequential]:
    """layer1 to layer4; from the second on, the first block halves the size."""
    layers: list[nn.Sequential] = []
    channels = 64
    for width, num_blocks in zip(_WIDTHS, plan.blocks, strict=True):
        blocks = []
        for place in range(num_blocks):
            stride = 2 if layers and place == 0 else 1
            blocks.append(_Block(kinds, channels, width, stride, plan.has_bottleneck))
            channels = blocks[-1].channels_out
        layers.append(nn.Sequential(*blocks))
    return layers


class _Block(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1, beside a shortcut."""

    def __init__(
        self, kinds: _Kinds, channels_in: int, width: int, stride: int, has_bottleneck: bool
    ) -> None:
        super().__init__()
        self.channels_out = width * 4 if has_bottleneck else width
        kernels = ((1, 1), (3, stride), (1, 1)) if has_bottleneck else ((3, stride), (3, 1))
        self.num_convs = len(kernels)
        channels = channels_in
        for index, (kernel, step) in enumerate(kernels, start=1):
            after = self.channels_out if index == self.num_convs else width
            setattr(self, f"conv{index}", kinds.conv_of(channels, after, kernel, step))
            setattr(self, f"bn{index}", kinds.norm(after))
            channels = after
        self.downsample: Any = None
        if stride != 1 or channels_in != self.channels_out:
            self.downsample = nn.Sequential(
                kinds.conv_of(channels_in, self.channels_out, 1, stride),
                kinds.norm(self.channels_out),
            )

    def forward(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """x takes the shortcut; `branch`, which is x or x shifted in time, the convolutions."""
        parts: Any = self
        for index in range(1, self.num_convs + 1):
            conv, norm = getattr(parts, f"conv{index}"), getattr(parts, f"bn{index}")
            is_last = index == self.num_convs
            branch = conv_norm(branch, conv, norm, "none" if is_last else "relu")
        if self.downsample is not None:
            x = conv_norm(x, self.downsample[0], self.downsample[1])
        return activate(branch.add_(x), "relu")
