"""Where a video goes on in another scene, so that nobody is followed across the cut.

Promises: a frame is compared with the one before it alone, at the cost of looking at two small
pictures; people, cars and slow pans are no cuts.
Method: a cut changes both what colours there are and where they are; one of the two alone is
movement or light.
Leaves out: fades, which have no first frame.

Shapes: frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _BINS = 32, 24, 8
_SAMPLES = 8  # pixels of the frame in each direction, at least, that a small pixel is the mean of
_MIN_CHANGE = 0.12  # mean difference of pixels, as a share of white
_MIN_OTHER_COLOURS = 0.4  # share of pixels


class CutDetector:
    """Tells of frame after frame whether it begins another scene; the first one does not."""

    def __init__(self) -> None:
        self._last: tuple[NDArray[np.float32], NDArray[np.float64]] | None = None

    def is_cut(self, frame: NDArray[np.uint8]) -> bool:
        """Whether `frame` is of another scene than the frame given before."""
        step = max(min(frame.shape[:2]) // (_HEIGHT * _SAMPLES), 1)
        some = np.ascontiguousarray(frame[::step, ::step])
        small = cv2.resize(some, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
        cells = (small // (256 // _BINS)).reshape(-1, 3).astype(np.int64)
        colours = np.bincount(cells @ [_BINS * _BINS, _BINS, 1], minlength=_BINS**3)
        now = (np.divide(small, 255, dtype=np.float32), colours / len(cells))
        last, self._last = self._last, now
        if last is None:
            return False
        change = float(np.abs(now[0] - last[0]).mean())
        others = 1 - float(np.minimum(now[1], last[1]).sum())
        return change > _MIN_CHANGE and others > _MIN_OTHER_COLOURS
