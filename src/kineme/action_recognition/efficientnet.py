"""EfficientNet-Lite0 over stacked or shifted frames, under the names of its public weights.

Tan, Le: EfficientNet, ICML 2019; the Lite variant has no squeeze-and-excitation, ReLU6 in
place of swish, and suits CPUs. Promises: results of the network that the public ImageNet
weights were trained with (padding as TensorFlow's SAME, batch norm epsilon 0.001).
Leaves out: weights (weights.py) and what the input is called (model.py).
Legend: N clips, C channels, T frames, H x W pixels.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from kineme.action_recognition.conv_norm import (
    classify,
    conv_norm,
    initialise,
    last_in_memory,
    pad_same,
)
from kineme.action_recognition.shift import consensus, frames_of, shift_time

_EPSILON = 1e-3  # of batch norm


class _Stage(NamedTuple):
    expansion: int
    channels: int
    repeats: int
    stride: int  # of its first block
    kernel: int


_STAGES = (
    _Stage(1, 16, 1, 1, 3),
    _Stage(6, 24, 2, 2, 3),
    _Stage(6, 40, 2, 2, 5),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 3, 1, 5),
    _Stage(6, 192, 4, 2, 5),
    _Stage(6, 320, 1, 1, 3),
)


class EfficientNetLite0(nn.Module):
    """An image network whose input channels are the frames of a clip, or which sees each.

    shift_fraction: share of channels shifted each way in every residual branch; None where
    the frames are stacked as channels.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        dropout: float = 0.2,
        shift_fraction: float | None = None,
    ) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(in_channels, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        blocks, channels = [], 32
        for stage in _STAGES:
            for place in range(stage.repeats):
                blocks.append(_Block(stage, channels, stage.stride if place == 0 else 1))
                channels = stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=_EPSILON)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(1280, num_classes)
        self.shift_fraction = shift_fraction
        initialise(self)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """(N, C T, H, W), or (N, C, T, H, W) where frames are shifted -> logits (N, classes)."""
        if self.shift_fraction is None:
            return classify(self._fc, self._dropout, self._features(clips, 0))
        frames, num_frames = frames_of(clips)
        logits = classify(self._fc, self._dropout, self._features(frames, num_frames))
        return consensus(logits, num_frames)

    def _features(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        """(N, C, H, W) -> (N, 1280, H / 32, W / 32). num_frames: 0 where nothing shifts."""
        x = _padded(last_in_memory(x), self._conv_stem)
        x = conv_norm(x, self._conv_stem, self._bn0, "relu6")
        for block in self._blocks:
            branch = x
            if num_frames and block.has_shortcut:
                branch = shift_time(x, num_frames, self.shift_fraction or 0.0)
            x = block(x, branch)
        return conv_norm(x, self._conv_head, self._bn1, "relu6")


class _Block(nn.Module):
    """1 x 1 to more channels, a convolution of each channel, 1 x 1 to fewer; plus shortcut."""

    def __init__(self, stage: _Stage, channels_in: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * stage.expansion
        self.has_shortcut = stride == 1 and channels_in == stage.channels
        self.is_expanding = stage.expansion != 1
        if self.is_expanding:
            self._expand_conv = nn.Conv2d(channels_in, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        padding = stage.kernel // 2 if stride == 1 else 0  # else by pad_same
        self._depthwise_conv = DepthwiseConv(
            inner, inner, stage.kernel, stride, padding, groups=inner, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = nn.Conv2d(inner, stage.channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(stage.channels, eps=_EPSILON)

    def forward(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """x goes past, `branch` (x, or x shifted in time) through the convolutions."""
        if self.is_expanding:
            branch = conv_norm(branch, self._expand_conv, self._bn0, "relu6")
        branch = _padded(branch, self._depthwise_conv)
        branch = conv_norm(branch, self._depthwise_conv, self._bn1, "relu6")
        branch = conv_norm(branch, self._project_conv, self._bn2)
        return branch.add_(x) if self.has_shortcut else branch


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel alone, with fast gradients in bfloat16 on CPUs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_mixed = x.device.type == "cpu" and x.dtype == torch.bfloat16
        if is_mixed and torch.is_grad_enabled():
            apply: Any = _DepthwiseGradients.apply
            y: torch.Tensor = apply(x, self.weight, self.stride, self.padding)
            return y
        return super().forward(x)


class _DepthwiseGradients(torch.autograd.Function):
    """The same convolution, whose gradients are computed in float32 where the bfloat16
    kernels of oneDNN take five times as long: of the input where there is a stride, of the
    weights where they are larger than 3 x 3.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, stride: Any, padding: Any) -> Any:
        """x (N, C, H, W) bfloat16, weight (C, 1, k, k) float32."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        slow = (ctx.stride != (1, 1), weight.shape[-1] > 3)
        found = []
        for index, is_slow in enumerate(slow):
            dtype = torch.float32 if is_slow else x.dtype
            found.append(
                torch.ops.aten.convolution_backward(
                    grad.to(dtype), x.to(dtype), weight.to(dtype), None, ctx.stride, ctx.padding,
                    (1, 1), False, (0, 0), x.shape[1], [index == 0, index == 1, False],
                )[index]
            )  # fmt: skip
        return found[0].to(x.dtype), found[1].to(weight.dtype), None, None


def _padded(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """x with zeros around it where the convolution has a stride; others pad themselves."""
    is_strided = conv.stride != (1, 1)
    return pad_same(x, kernel=conv.kernel_size, stride=conv.stride) if is_strided else x
