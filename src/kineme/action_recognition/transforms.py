"""From decoded frames to what a model sees: scaled, cropped, mirrored, coloured, normalised.

Shapes: frames of one clip (T, H, W, C) uint8, C = 3 (RGB) or 2 (flow u, v: 0 to 255, no motion
in the middle); x (R, T, H, W, C), R clips of a batch; a model's input (R, C, T, H, W), or
(R, C * T, H, W) channel-major (R_0 .. R_T-1, G_0, ..) where time is stacked into channels.
Promises: the order of TAO's transforms (contract 2.3); one plan for all frames and both
streams of a clip; every random number arrives as an argument; nothing is changed in place.
Scaling and cropping happen where frames are decoded (numpy), the rest where `x` lies.
Leaves out: choosing frames (data/clip_sampling.py), the order of calls (dataset.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]  # height, width
Frames = NDArray[np.uint8]

SNAP = 3  # pixels: a multi-scale crop this near to the model's size is that size
# Places of a multi-scale crop (left, top), in quarters of the room it has.
PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4)),  # corners
    (2, 2),  # middle
    *((0, 2), (4, 2), (2, 4), (2, 0)),  # middles of the edges
    *((1, 1), (3, 1), (1, 3), (3, 3)),  # quarter points
)
GRAY = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class CropPlan:
    """Scale the whole frame to `decode_size`, then keep `size` from (top, left).

    One scaling does all: a decoder that is asked for `decode_size` leaves only slicing.
    """

    decode_size: Size
    top: int
    left: int
    size: Size


def crop_plan(
    frame_size: Size, size: Size, options: Any, draws: NDArray[np.float64] | None = None
) -> CropPlan:
    """What becomes of frames of `frame_size` for a model that takes `size`.

    options: `dataset.augmentation_config`. draws: (2,) in [0, 1) in training; None outside,
    where nothing is random. A frame too narrow for the crop at crop_smaller_edge (another
    shape than the model's) is scaled up until it fits.
    """
    edge = options.crop_smaller_edge
    if draws is None:
        if not options.val_center_crop:
            return CropPlan(size, 0, 0, size)
        scaled = _covering(_with_short_side(frame_size, edge), size)
        room = (scaled[0] - size[0], scaled[1] - size[1])
        return CropPlan(scaled, round(room[0] / 2), round(room[1] / 2), size)
    if options.train_crop_type == "no_crop":
        return CropPlan(size, 0, 0, size)
    if options.train_crop_type == "multi_scale_crop":
        return _multi_scale_plan(_with_short_side(frame_size, edge), size, options.scales, draws)
    scaled = _covering(_with_short_side(frame_size, edge), size)
    top, left = (
        int(draw * (whole - part + 1))
        for draw, whole, part in zip(draws, scaled, size, strict=True)
    )
    return CropPlan(scaled, top, left, size)


def _multi_scale_plan(
    scaled: Size, size: Size, scales: Sequence[float], draws: NDArray[np.float64]
) -> CropPlan:
    """A square of one of `scales` at one of 13 places, scaled to `size`; in one step.

    Scaling to `scaled`, cropping and scaling the crop is scaling the frame by both factors.
    """
    side = max(1, int(min(scaled) * scales[int(draws[0] * len(scales))]))
    crop = [part if abs(side - part) < SNAP and part <= whole else side
            for part, whole in zip(size, scaled, strict=True)]  # fmt: skip
    quarters = reversed(PLACES[int(draws[1] * len(PLACES))])  # top, left
    at = [q * ((whole - part) // 4) for q, whole, part in zip(quarters, scaled, crop, strict=True)]
    factors = [part / kept for part, kept in zip(size, crop, strict=True)]
    height, width = (round(whole * f) for whole, f in zip(scaled, factors, strict=True))
    top, left = (
        min(round(place * f), whole - part)
        for place, f, whole, part in zip(at, factors, (height, width), size, strict=True)
    )
    return CropPlan((height, width), top, left, size)


def _with_short_side(frame_size: Size, edge: int) -> Size:
    """`frame_size` scaled so that its shorter side is `edge`."""
    height, width = frame_size
    if height <= width:
        return edge, edge * width // height
    return edge * height // width, edge


def _covering(scaled: Size, size: Size) -> Size:
    """`scaled`, or as much larger as it takes to hold `size`."""
    factor = max(1.0, *(part / whole for part, whole in zip(size, scaled, strict=True)))
    height, width = (
        max(part, int(whole * factor)) for part, whole in zip(size, scaled, strict=True)
    )
    return height, width


def apply_plan(frames: Frames, plan: CropPlan) -> Frames:
    """(T, *plan.size, C): scale `frames` (T, H, W, C) unless decoded at that size, and crop.

    Where a side shrinks, pixels are averaged over the area they come from, so that fine
    texture does not flicker (Pillow's bilinear filter, TAO's, does nearly the same); where it
    grows, the scaling is bilinear. Values of flow are not scaled, as in TAO.
    """
    if frames.shape[1:3] != plan.decode_size:
        scaled = np.empty((len(frames), *plan.decode_size, frames.shape[3]), np.uint8)
        for k, frame in enumerate(frames):
            scaled[k] = _resized(frame, plan.decode_size)
        frames = scaled
    bottom, right = plan.top + plan.size[0], plan.left + plan.size[1]
    return np.ascontiguousarray(frames[:, plan.top : bottom, plan.left : right])


def _resized(frame: NDArray[Any], size: Size) -> NDArray[Any]:
    shrunk = (min(size[0], frame.shape[0]), min(size[1], frame.shape[1]))
    if shrunk != frame.shape[:2]:
        frame = cv2.resize(frame, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != size:
        frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR)
    return frame


def flip(x: Tensor, chosen: Tensor, stream: str) -> Tensor:
    """Mirror the rows of x (R, T, H, W, C) in `chosen` (R,) bool.

    Mirrored motion goes the other way: u of flow becomes 255 - u (TAO leaves it).
    """
    mirrored = x[chosen].flip(3)
    if stream == "flow":
        mirrored[..., 0] = 255 - mirrored[..., 0]
    return x.index_put((chosen.nonzero(as_tuple=True)[0],), mirrored)


def as_unit(x: Tensor) -> Tensor:
    """uint8 in 0 to 255 as float32 in [0, 1]."""
    return x.to(torch.float32).div_(255)


def color_jitter(x: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast, then saturation of every clip of x (R, T, H, W, 3) in [0, 1].

    draws: (R, 3) in [0, 1); each factor lies within `strength` of 1. All frames of a clip
    change alike: contrast turns about the mean grey of the clip, saturation about each
    pixel's grey. What leaves [0, 1] is cut off once, at the end.
    """
    factors = 1 + (2 * draws - 1) * strength
    brightness, contrast, saturation = factors.view(-1, 3, 1, 1, 1, 1).unbind(1)
    gray = x @ x.new_tensor(GRAY).unsqueeze(1)  # (R, T, H, W, 1)
    mean = gray.mean(dim=(1, 2, 3), keepdim=True)
    colour = gray + (x - gray) * saturation
    changed = colour * (brightness * contrast) + mean * (brightness * (1 - contrast))
    return changed.clamp_(0, 1)


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std by channel, of x (..., C); a shorter list is repeated, none leaves x."""
    if not mean and not std:
        return x
    channels = x.shape[-1]
    return (x - _repeated(mean, channels, x)) / _repeated(std, channels, x)


def _repeated(values: Sequence[float], channels: int, x: Tensor) -> Tensor:
    return x.new_tensor(list(values) * (channels // len(values)))


def pack(x: Tensor, *, is_stacked: bool) -> Tensor:
    """x (R, T, H, W, C) as (R, C, T, H, W), or stacked as (R, C * T, H, W), channel-major.

    Not stacked it is a view: its memory stays in the order that convolutions call
    channels_last_3d, which they are fast on.
    """
    by_channel = x.permute(0, 4, 1, 2, 3)
    return by_channel.flatten(1, 2) if is_stacked else by_channel


def mixup(x: Tensor, partners: Tensor, share: float) -> Tensor:
    """Every row of x (R, ...) with `share` of the row in `partners` (R,) (Zhang et al. 2018)."""
    return torch.lerp(x, x[partners], share)
