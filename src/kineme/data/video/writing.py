"""Frames into a video file that any player opens.

Promises: the file is complete or absent; frames are written as they come, so memory stays flat;
where FFmpeg was built without H.264, MPEG-4 is written, and `encoder_note` says so.
Leaves out: sound, and sizes that change along the way.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.codec.codec import Codec, UnknownCodecError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kineme.errors import DataError, ResourceError
from kineme.files import atomic_write

_CONTAINERS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov", ".avi": "avi"}
# by preference; quality so that no loss is seen: x264's constant rate factor, MPEG-4's quantizer
_ENCODERS = {
    "libx264": {"crf": "18", "preset": "veryfast"},
    "mpeg4": {"flags": "+qscale", "global_quality": str(3 * 118)},  # in units of 1 / 118
}
_QUICK = {"libx264": {"crf": "23", "preset": "ultrafast"}}  # as near to the frames, files 1.6 times


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[NDArray[np.uint8]],
    fps: float,
    *,
    is_quick: bool = False,
) -> int:
    """Write frames (H, W, 3) uint8 RGB; return how many. The suffix says the container.

    is_quick: a third of the work, for videos that are looked at and not learned from; the file is
    larger. An odd height or width is made even by repeating the last row or column: players want
    colours at half the resolution. Raises DataError for no frames, or for one of another size,
    ResourceError where the file cannot be written or there is no encoder.
    """
    encoder = _encoder()
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
        rate = Fraction(fps).limit_denominator(1_000_000)
        stream = cast(VideoStream, output.add_stream(encoder, rate=rate))
        stream.height, stream.width = (
            first.shape[0] + first.shape[0] % 2,
            first.shape[1] + first.shape[1] % 2,
        )
        stream.pix_fmt = "yuv420p"
        stream.options = dict((_QUICK if is_quick else _ENCODERS).get(encoder, _ENCODERS[encoder]))
        for frame in itertools.chain([first], rest):
            if frame.shape != first.shape:
                raise DataError(
                    str(path), f"frames of {first.shape}", f"frame {count} of {frame.shape}"
                )
            count += 1
            output.mux(stream.encode(_picture(_even(frame), is_quick=is_quick)))
        output.mux(stream.encode(None))
    return count


def encoder_note() -> str:
    """What to tell a user whose videos will not be H.264, else ""."""
    if _encoder() == "libx264":
        return ""
    return (
        "This build of FFmpeg has no H.264 encoder: videos are MPEG-4, which some browsers refuse."
    )


def _encoder() -> str:
    for name in _ENCODERS:
        try:
            Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    wanted = " or ".join(_ENCODERS)
    raise ResourceError("PyAV", f"an encoder {wanted}", "none", "Install PyAV's own wheel.")


def _picture(frame: NDArray[np.uint8], *, is_quick: bool) -> av.VideoFrame:
    """What the encoder takes. OpenCV converts colours ten times as fast as FFmpeg; their values
    differ by up to 19 of 255 where colours change from pixel to pixel, 0.05 on average."""
    if is_quick:
        halved = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), np.uint8)
        return av.VideoFrame.from_ndarray(halved, format="yuv420p")
    return av.VideoFrame.from_ndarray(frame, format="rgb24")


def _even(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
