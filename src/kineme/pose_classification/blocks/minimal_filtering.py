"""Convolution over time with 9 taps in five ninths of the multiplications.

Winograd: Arithmetic Complexity of Computations, 1980; Lavin, Gray: Fast Algorithms for
Convolutional Neural Networks, CVPR 2016. Promises: in exact arithmetic, values and
gradients are those of the plain convolution; in float32, rounding errors stay within a few
times those of the plain one. Leaves out: strides and other kernels.

F(3, 3) yields three outputs of a 3-tap filter from five frames with five products instead
of nine: both frames and taps are seen as polynomials and multiplied at 0, 1, -1, 2 and
infinity. Nine taps are three such filters, three frames apart. So with frames in tiles of
five, each three frames after the one before, a convolution with 9 taps over frames becomes
one with 3 taps over tiles at each of the five points, which oneDNN runs as five groups.
Legend: R rows (joints of windows), T frames, C channels in, O channels out, S = T / 3 tiles
of outputs, for which S + 2 tiles of inputs are needed.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

_NUM_POINTS = 5
_TAPS_TO_POINTS = [
    [1 / 2, 0, 0],
    [-1 / 2, -1 / 2, -1 / 2],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 6, 1 / 3, 2 / 3],
    [0, 0, 1],
]
_BIAS_TO_POINTS = [1, 1 / 2, -1 / 2, 0, 1]  # comes out as 1 at each frame
_BLOCK_BYTES = 1 << 23  # of the inputs at all points at a time: stays in the cache
_LEAST_CHANNELS, _LEAST_FRAMES = 128, 32  # with fewer, passes over memory cost what is saved


def pays_off(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether this suits (and is faster for) an image x (., C, ., T), weight (O, C, 9, 1)."""
    return (
        x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")  # bfloat16 has no bits to spare
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[2:] == (9, 1)
        and min(weight.shape[:2]) >= _LEAST_CHANNELS
        and x.shape[3] >= _LEAST_FRAMES
    )


def conv_nine_taps(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(R, T, C) -> (R, T, O) on the CPU, for a weight (O, C, 9), padded with 4 zeros."""
    y: torch.Tensor = cast(Any, _ConvNineTaps.apply)(x, weight, bias)
    return y


class _ConvNineTaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> Any:
        ctx.save_for_backward(x, weight)
        weight_at_points = _weight_at_points(weight)
        bias_at_points = torch.outer(bias.new_tensor(_BIAS_TO_POINTS), bias).flatten()
        y = x.new_empty(*x.shape[:2], len(weight))
        for rows in _blocks(x):
            products = F.conv2d(
                _as_image(_inputs_at_points(x[rows])),
                weight_at_points, bias_at_points, groups=_NUM_POINTS,
            )  # fmt: skip
            _write_outputs(_as_tiles(products), out=y[rows])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad = F.pad(grad, (0, 0, 0, -x.shape[1] % 3))
        at_points = _weight_at_points(weight)
        grad_x = torch.empty_like(x)
        totals = [torch.zeros_like(at_points), at_points.new_zeros(len(at_points))]
        for rows in _blocks(x):
            grad_inputs, *parts = torch.ops.aten.convolution_backward(
                _as_image(_grad_at_points(grad[rows])), _as_image(_inputs_at_points(x[rows])),
                at_points, [len(at_points)], [1, 1], [0, 0], [1, 1], False, [0, 0], _NUM_POINTS,
                [True, True, True],
            )  # fmt: skip
            _write_grad_inputs(_as_tiles(grad_inputs), out=grad_x[rows])
            for total, part in zip(totals, parts, strict=True):
                total += part
        grad_weight, grad_bias = (part.view(_NUM_POINTS, -1, *part.shape[1:]) for part in totals)
        to_points = weight.new_tensor(_TAPS_TO_POINTS)
        grad_weight = torch.einsum("pk,pocj->ocjk", to_points, grad_weight[:, :, :, 0])
        return grad_x, grad_weight.flatten(2), weight.new_tensor(_BIAS_TO_POINTS) @ grad_bias


def _weight_at_points(weight: torch.Tensor) -> torch.Tensor:
    """(O, C, 9) -> (5 O, C, 1, 3)."""
    taps = weight.reshape(*weight.shape[:2], 3, 3)
    at_points = torch.einsum("pk,ocjk->pocj", weight.new_tensor(_TAPS_TO_POINTS), taps)
    return at_points.flatten(0, 1)[:, :, None].contiguous(memory_format=torch.channels_last)


def _inputs_at_points(x: torch.Tensor) -> torch.Tensor:
    """(R, T, C) -> (R, S + 2, 5, C)."""
    r, t, c = x.shape
    num_tiles = -(-t // 3) + 2
    padded = F.pad(x, (0, 0, 4, 3 * num_tiles - 1 - t))  # frames of one tile more
    steps = (padded[:, 2:-1] - padded[:, :-3]).view(r, num_tiles, 3, c)
    step_0, step_1, step_2 = steps.unbind(2)
    _, x_1, x_2 = padded[:, :-3].view(r, num_tiles, 3, c).unbind(2)
    at_points = x.new_empty(r, num_tiles, _NUM_POINTS, c)
    at_0, at_1, at_minus_1, at_2, at_infinity = at_points.unbind(2)
    torch.sub(step_1, step_0, alpha=2, out=at_0)
    torch.add(x_1, x_2, out=at_1)
    torch.sub(step_1, at_1, out=at_1)
    torch.sub(x_2, x_1, out=at_minus_1)
    torch.sub(step_1, at_minus_1, alpha=3, out=at_minus_1)
    at_2.copy_(step_1)
    torch.sub(step_2, step_1, alpha=2, out=at_infinity)
    return at_points


def _write_grad_inputs(grad: torch.Tensor, *, out: torch.Tensor) -> None:
    """The transpose of `_inputs_at_points`: (R, S + 2, 5, C) -> out (R, T, C)."""
    at_0, at_1, at_minus_1, at_2, at_infinity = grad.unbind(2)
    steps = grad.new_empty(*grad.shape[:2], 3, grad.shape[3])
    step_0, step_1, step_2 = steps.unbind(2)
    torch.mul(at_0, -2, out=step_0)
    torch.add(at_0, at_2, out=step_1)
    step_1.add_(at_1).add_(at_minus_1).sub_(at_infinity, alpha=2)
    step_2.copy_(at_infinity)
    steps = steps.flatten(1, 2)
    num_frames = out.shape[1]
    torch.sub(steps[:, 2 : 2 + num_frames], steps[:, 4 : 4 + num_frames], out=out)
    x_1, x_2 = out[:, 0::3], out[:, 1::3]  # of the tiles from the second on: 4 frames of padding
    first, second = slice(1, 1 + x_1.shape[1]), slice(1, 1 + x_2.shape[1])
    x_1.sub_(at_1[:, first]).add_(at_minus_1[:, first], alpha=3)
    x_2.sub_(at_1[:, second]).sub_(at_minus_1[:, second], alpha=3)


def _write_outputs(products: torch.Tensor, *, out: torch.Tensor) -> None:
    """(R, S, 5, O) -> out (R, T, O); writes over products."""
    frames = [out[:, i::3] for i in range(3)]
    for i, (frame, scale) in enumerate(zip(frames, (1, 2, 4), strict=True)):
        at_0, at_1, at_minus_1, at_2, at_infinity = products[:, : frame.shape[1]].unbind(2)
        if i == 1:
            torch.sub(at_1, at_minus_1, out=frame)
        else:
            torch.add(at_1, at_minus_1, out=frame)
            frame += at_0 if i == 0 else at_infinity
        frame.add_(at_2, alpha=scale)


def _grad_at_points(grad: torch.Tensor) -> torch.Tensor:
    """The transpose of `_write_outputs`: (R, 3 S, O) -> (R, S, 5, O)."""
    y_0, y_1, y_2 = grad.reshape(len(grad), -1, 3, grad.shape[2]).unbind(2)
    at_points = grad.new_empty(*y_0.shape[:2], _NUM_POINTS, grad.shape[2])
    at_0, at_1, at_minus_1, at_2, at_infinity = at_points.unbind(2)
    at_0.copy_(y_0)
    at_infinity.copy_(y_2)
    torch.add(y_0, y_2, out=at_minus_1)
    torch.add(at_minus_1, y_1, out=at_1)
    at_minus_1.sub_(y_1)
    torch.add(y_0, y_1, alpha=2, out=at_2).add_(y_2, alpha=4)
    return at_points


def _blocks(x: torch.Tensor) -> Iterator[slice]:
    """Slices of about equally many rows."""
    r, t, c = x.shape
    fitting = max(1, _BLOCK_BYTES // (_NUM_POINTS * (t // 3 + 3) * c * x.element_size()))
    size = -(-r // -(-r // fitting))
    for start in range(0, r, size):
        yield slice(start, start + size)


def _as_image(tiles: torch.Tensor) -> torch.Tensor:
    """(R, S, 5, C) -> (R, 5 C, 1, S), stored channels last."""
    return tiles.flatten(2)[:, None].permute(0, 3, 1, 2)


def _as_tiles(image: torch.Tensor) -> torch.Tensor:
    """(R, 5 C, 1, S) -> (R, S, 5, C)."""
    r, c, _, s = image.shape
    return image.permute(0, 2, 3, 1).reshape(r, s, _NUM_POINTS, c // _NUM_POINTS)
