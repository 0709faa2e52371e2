"""The frames of one video, whatever it is: a file, frame folders, a flow store.

Promises: only the frames asked for are decoded; what is damaged is said, never filled;
frames of one clip that differ in size are an error; all frames in a row need memory for a few.
Leaves out: which frames (data/clip_sampling.py), crops and augmentation (transforms.py).

F frames asked for: rgb (F, H, W, 3), flow (F, H, W, 2) uint8 with 127.5 for no motion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.action_recognition.samples import Video
from kineme.data import images, video
from kineme.data.flow import store
from kineme.data.frames import FrameReader
from kineme.errors import DataError
from kineme.network import Footage


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames as they were asked for. damage: what the decoder had to make up for, or ""."""

    frames: NDArray[np.uint8]
    damage: str = ""


def read_rgb(source: Video, indices: NDArray[np.int64], *, size: tuple[int, int]) -> Clip:
    """Frames of `source` (0 is its first) at `size` (height, width). Raises DataError."""
    _check(source, indices, source.num_frames)
    if source.rgb:
        paths = [source.rgb[i] for i in indices]
        _check_sizes(source, paths)
        return Clip(images.read_images(paths, size=size))
    found = video.read_frames(source.path, indices + source.first, size=size)
    return Clip(found.frames, found.damage)


def read_flow(source: Video, indices: NDArray[np.int64], *, size: tuple[int, int]) -> Clip:
    """Flow from frame i to i + 1 of `source` at `size`. Raises DataError."""
    _check(source, indices, source.num_flow)
    if source.u:
        u_paths, v_paths = ([names[i] for i in indices] for names in (source.u, source.v))
        _check_sizes(source, [*u_paths, *v_paths])
        return Clip(images.read_flow_images(u_paths, v_paths, size=size))
    if source.flow is None:
        raise DataError(source.id, "optical flow that was computed", "none")
    return Clip(store.read_flow(source.flow, indices + source.first, size=size))


def footage_of(source: Video) -> Footage:
    """Every frame of `source` (H, W, 3) in order, for people to look at.

    Reading them raises DataError where they are damaged.
    """
    return Footage(_all_frames(source), source.fps)


def as_colours(flow: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Flow (..., 2) to look at (..., 3): u in red, v in green."""
    return np.concatenate([flow, np.full_like(flow[..., :1], 128)], axis=-1)


def _all_frames(source: Video) -> Iterator[NDArray[np.uint8]]:
    if source.is_file:
        stretch = np.arange(source.first, source.first + source.num_frames)
        yield from FrameReader(source.path).at(stretch)
    elif source.rgb:
        for path in source.rgb:
            yield images.read_images([path], size=source.size)[0]
    else:
        for u, v in zip(source.u, source.v, strict=True):
            yield as_colours(images.read_flow_images([u], [v], size=source.size)[0])


def _check(source: Video, indices: NDArray[np.int64], available: int) -> None:
    if len(indices) and not 0 <= indices.min() <= indices.max() < available:
        received = f"{available}, and frame {indices.max()} was asked for"
        raise DataError(source.id, "more frames", received)


def _check_sizes(source: Video, paths: Sequence[Path]) -> None:
    """Frames of one video have one size: another says that two were mixed up.

    Read as headers, because reading at a fixed size would stretch each to fit.
    """
    first = None
    for path in dict.fromkeys(paths):
        height, width = images.image_size(path)
        first = first or (path.name, height, width)
        if (height, width) != first[1:]:
            raise DataError(
                str(path),
                f"{first[2]} x {first[1]} pixels, as {first[0]!r} of {source.id!r} has",
                f"{width} x {height}",
                "Extract the frames of this video again.",
            )
