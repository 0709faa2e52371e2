"""Convolution and batch norm, as one where no gradient is asked for.

Promises: the same numbers as the two modules after one another, up to rounding; nothing
is remembered, so whatever changes a weight is seen by the next call.
Leaves out: initial values (`initialise` has those) and the shape of a network.
"""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def conv_norm(x: torch.Tensor, conv: Any, norm: Any, activation: str = "none") -> torch.Tensor:
    """activation(norm(conv(x))); x (N, C, H, W) or (N, C, T, H, W).

    activation: none, relu or relu6.
    """
    is_single = _leaves_one_column(x, conv)
    if is_single:
        x = F.pad(x, (0, conv.stride[-1]))
    if norm.training or torch.is_grad_enabled() or torch.compiler.is_exporting():
        y = conv(x)
        return activate(norm(y[..., :1] if is_single else y), activation)
    gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = conv.weight * gain.view(-1, *[1] * (conv.weight.dim() - 1))
    shift = norm.bias - norm.running_mean * gain
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    y = convolve(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)
    return activate(y[..., :1] if is_single else y, activation)


def _leaves_one_column(x: torch.Tensor, conv: Any) -> bool:
    """Whether oneDNN's bfloat16 kernels read foreign memory: a stride leaves a single column.

    Seen with AMX and torch 2.13; columns of zeros, whose answers are dropped, keep them from it.
    """
    if torch.compiler.is_exporting() or x.device.type != "cpu":
        return False
    if x.dtype != torch.bfloat16 and not torch.is_autocast_enabled("cpu"):
        return False
    kernel, stride = conv.kernel_size[-1], conv.stride[-1]
    room = x.shape[-1] + 2 * conv.padding[-1] - conv.dilation[-1] * (kernel - 1) - 1
    return bool(stride > 1 and 0 <= room < stride)


def activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    """ReLU or ReLU6 in place; x as it is for `none`."""
    if activation == "relu":
        return F.relu(x, inplace=True)
    if activation == "relu6":
        return F.relu6(x, inplace=True)
    return x


def pad_same(x: torch.Tensor, *, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """x with the zeros that TensorFlow puts around it, more of them at the end."""
    larger: Any = torch.sym_max  # of numbers, or of symbols while a model is exported
    sides: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = larger((-(-n // s) - 1) * s + k - n, 0)
        sides += [missing // 2, missing - missing // 2]
    return F.pad(x, sides) if any(sides) else x


def initialise(module: nn.Module) -> None:
    """He normal by what leaves it (fan out) for each convolution before a batch norm."""
    for part in module.modules():
        if isinstance(part, CONVOLUTIONS) and part.bias is None:
            fan_out = part.weight[0, 0].numel() * part.out_channels / part.groups
            nn.init.normal_(part.weight, 0.0, (2.0 / fan_out) ** 0.5)


def last_in_memory(x: torch.Tensor) -> torch.Tensor:
    """x with its channels innermost, which convolutions on CPUs and tensor cores like."""
    if torch.compiler.is_exporting():
        return x
    order = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=order)


def classify(head: nn.Linear, dropout: nn.Dropout, features: torch.Tensor) -> torch.Tensor:
    """Features (N, C, ...) -> logits (N, classes): mean over all places, dropout, linear.

    In float32 at least, whatever the precision of the rest: bfloat16 would make ties.
    """
    precise = torch.promote_types(features.dtype, torch.float32)
    pooled = features.mean(dim=tuple(range(2, features.dim())), dtype=precise)
    with exact(features):
        logits: torch.Tensor = head(dropout(pooled))
        return logits


def exact(x: torch.Tensor) -> contextlib.AbstractContextManager[Any]:
    """Where x lies, compute in the precision of the tensors."""
    if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)
