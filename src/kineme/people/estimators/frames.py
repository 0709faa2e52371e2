"""Frames as models want them: squares cut out at any angle, sides of certain multiples.

Promises: where a pixel of the model's picture lies in the frame is exact and given back.
Leaves out: what models do with them.

Pixels: x to the right, y down; the corner of the frame is (0, 0), as MediaPipe has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme.errors import DataError

Frame = NDArray[np.uint8]

_SHARED = 0.25  # of two squares side by side


@dataclass(frozen=True)
class Region:
    """A square of a frame. centre and size in pixels; angle: its turn in radians, clockwise."""

    centre_x: float
    centre_y: float
    size: float
    angle: float = 0.0

    def to_frame(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 2) places in the square, 0 to 1, as pixels of the frame."""
        moved = (points - 0.5) @ self._axes().T * self.size + (self.centre_x, self.centre_y)
        return moved.astype(np.float32)

    def cut(self, frame: Frame, num_pixels: int, *, is_edge_repeated: bool = False) -> Frame:
        """The square as a picture of `num_pixels` each way; black beyond the frame, or its edge."""
        scale = self.size / num_pixels
        axes = self._axes() * scale
        corner = np.array([self.centre_x, self.centre_y]) - axes @ np.full(2, num_pixels / 2)
        border = cv2.BORDER_REPLICATE if is_edge_repeated else cv2.BORDER_CONSTANT
        cut: Frame = cv2.warpAffine(  # type: ignore[assignment]
            frame,
            np.column_stack([axes, corner]),
            (num_pixels, num_pixels),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=border,
        )
        return cut

    def _axes(self) -> NDArray[np.float64]:
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cosine, -sine], [sine, cosine]])


def squares(frame: Frame, num_along: int) -> tuple[Region, ...]:
    """The smallest square around a frame; and if `num_along` is not 1, smaller ones that cover it.

    So many lie along the longer side, as long as it takes for each to share a quarter of itself
    with the next.
    """
    height, width = frame.shape[:2]
    around = Region(width / 2, height / 2, float(max(height, width)))
    if num_along == 1:
        return (around,)
    size = square_side(max(height, width), num_along)
    columns, rows = (_middles(side, size) for side in (width, height))
    return (around, *(Region(x, y, size) for y in rows for x in columns))


def square_side(long_side: int, num_along: int) -> float:
    """Pixels of the side of each of so many squares along the longer side of a frame."""
    return long_side / (1 + (num_along - 1) * (1 - _SHARED))


def _middles(side: int, size: float) -> list[float]:
    """Of stretches of `size` that cover `side`, at least a quarter of each shared with the next."""
    if size >= side:
        return [side / 2]
    num_more = int(np.ceil((side - size) / (size * (1 - _SHARED)) - 1e-9))
    return [float(x) for x in np.linspace(size / 2, side - size / 2, num_more + 1)]


def fitted(frame: Frame, long_side: int, multiple: int) -> tuple[Frame, float]:
    """(picture, pixels of it to one of the frame): the longer side `long_side`, aspect kept.

    The sides are filled up with black at the right and below to a multiple of `multiple`.
    """
    height, width = frame.shape[:2]
    scale = long_side / max(height, width)
    inner = (max(round(width * scale), 1), max(round(height * scale), 1))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    sides = [-(-side // multiple) * multiple for side in inner]
    picture = np.zeros((sides[1], sides[0], 3), np.uint8)
    picture[: inner[1], : inner[0]] = cv2.resize(frame, inner, interpolation=shrinks)
    return picture, scale


def checked(frame: NDArray[np.uint8]) -> Frame:
    """`frame`, an RGB picture. Raises DataError."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        received = f"{frame.dtype} {frame.shape}"
        raise DataError("frame", "an RGB picture, (H, W, 3) uint8", received)
    return frame
