"""Frames into a video file that any player opens.

Promises: the file is complete or absent; frames are written as they come, so memory stays flat.
Leaves out: sound, and sizes that change along the way.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from kineme.errors import DataError
from kineme.files import atomic_write

_CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".avi": "avi"}
_QUALITY = "18"  # x264's constant rate factor: no loss that is seen


def write_video(
    path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: float
) -> int:
    """Write frames (H, W, 3) uint8 RGB as H.264; return how many. The suffix says the container.

    An odd height or width is made even by repeating the last row or column: players want
    colours at half the resolution. Raises DataError for no frames, or for one of another size,
    ResourceError where the file cannot be written.
    """
    container = _CONTAINERS.get(Path(path).suffix.lower())
    if container is None:
        known = ", ".join(sorted(_CONTAINERS))
        raise DataError(str(path), f"a name that ends in one of {known}", repr(Path(path).suffix))
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise DataError(str(path), "frames to write", "none")
    count = 0
    with atomic_write(path) as file, av.open(file, "w", format=container) as output:
        stream = output.add_stream("libx264", rate=Fraction(fps).limit_denominator(1_000_000))
        stream.height, stream.width = (
            first.shape[0] + first.shape[0] % 2,
            first.shape[1] + first.shape[1] % 2,
        )
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _QUALITY, "preset": "veryfast"}
        for frame in itertools.chain([first], rest):
            if frame.shape != first.shape:
                raise DataError(
                    str(path), f"frames of {first.shape}", f"frame {count} of {frame.shape}"
                )
            count += 1
            output.mux(stream.encode(av.VideoFrame.from_ndarray(_even(frame), format="rgb24")))
        output.mux(stream.encode(None))
    return count


def _even(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
