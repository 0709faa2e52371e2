"""A decoded picture as an RGB array: its size, and turned the way the file says it is shown.

Promises: without a size, pixels are those of FFmpeg's plain conversion to RGB; quarter turns and
mirrorings of a display matrix are applied exactly; a picture of another size than the first of
its video comes out in the size of the first.
Leaves out: other angles (the nearest quarter turn is taken), pixels that are not square,
interlacing (both fields are in the picture) and tone mapping of HDR.

Shapes: pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from kineme.data.images import scaled_size

Picture = NDArray[np.uint8]


class Turn(NamedTuple):
    """First swap rows and columns, then mirror. `degrees`: the clockwise part of it."""

    is_transposed: bool = False
    flips_columns: bool = False
    flips_rows: bool = False
    degrees: int = 0


def turn_of(picture: VideoFrame) -> Turn:
    """How `picture` must be turned to be shown.

    The display matrix maps a stored pixel (x, y) to (a x + c y, b x + d y), ISO/IEC 14496-12.
    """
    side_data: Any = picture.side_data  # PyAV's types say it were a dict
    matrix = next((d for d in side_data if d.type is Type.DISPLAYMATRIX), None)
    if matrix is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, a < 0, d < 0, 180 if a < 0 and d < 0 else 0)
    return Turn(True, c < 0, b < 0, 90 if b > 0 else 270)


def apply_turn(picture: Picture, turn: Turn) -> Picture:
    """(H, W, 3) as stored -> as shown. A view."""
    if turn.is_transposed:
        picture = picture.swapaxes(0, 1)
    if turn.flips_rows:
        picture = picture[::-1]
    return picture[:, ::-1] if turn.flips_columns else picture


class Shaper:
    """Pictures of one video as arrays of one size: `height`, `width` as shown.

    is_quick: resized before they are made RGB, a third of the work where they shrink; colours lose
    some of their resolution, pixels are 1 of 255 off on average.
    """

    def __init__(
        self,
        stored_height: int,
        stored_width: int,
        turn: Turn,
        *,
        size: tuple[int, int] | None = None,
        short_side: int | None = None,
        is_quick: bool = False,
    ) -> None:
        height, width = stored_height, stored_width
        if turn.is_transposed:
            height, width = width, height
        self.height, self.width = _shown_size(height, width, size, short_side)
        self._stored, self._turn = (stored_height, stored_width), turn
        self.num_resized = 0  # pictures that were stored in another size than the first
        self._reformatter = VideoReformatter()
        self._resizer = VideoReformatter() if is_quick else None

    @classmethod
    def of(
        cls,
        picture: VideoFrame,
        *,
        size: tuple[int, int] | None,
        short_side: int | None,
        is_quick: bool = False,
    ) -> Shaper:
        """For the video whose first picture this is."""
        height, width, turn = picture.height, picture.width, turn_of(picture)
        return cls(height, width, turn, size=size, short_side=short_side, is_quick=is_quick)

    def to_rgb(self, picture: VideoFrame) -> Picture:
        """The array of `picture`. Its memory may be the picture's own: copy it to keep it."""
        self.num_resized += (picture.height, picture.width) != self._stored
        is_swapped = self._turn.is_transposed
        width = self.height if is_swapped else self.width
        height = self.width if is_swapped else self.height
        how: Any = {"interpolation": Interpolation.BILINEAR, "threads": 1}
        if self._resizer is not None and picture.format.name.startswith("yuv"):
            picture = self._resizer.reformat(picture, width=width, height=height, **how)
        rgb = self._reformatter.reformat(picture, width=width, height=height, format="rgb24", **how)
        array: Any = rgb.to_ndarray()
        return apply_turn(array, self._turn)


def _shown_size(
    height: int, width: int, size: tuple[int, int] | None, short_side: int | None
) -> tuple[int, int]:
    """(height, width) asked for, of pictures that are `height` x `width` as shown."""
    if size is not None and short_side is not None:
        raise ValueError("size and short_side exclude each other")
    if size is not None:
        return size
    if short_side is None:
        return height, width
    return scaled_size(height, width, short_side=short_side)
