"""Optical flow: how many pixels each point moves from one frame to the next, and as two bytes.

Promises: x grows to the right and y downwards, in pixels of the frames given, per frame; the same
frames give the same flow on any number of cores; a stream of frames needs memory for two of them.
Leaves out: keeping flow (store.py), resizing frames before (they come as they are to be used).

Shapes: T frames (T, H, W, 3) uint8 RGB; flow (T - 1, H, W, 2) float32 or, encoded, uint8; the last
axis is (u, v) = (x, y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme.errors import DataError, SpecError

METHODS = ("dis", "farneback", "tvl1")
DEFAULT_BOUND = 20.0  # pixels; what I3D's flow was cut off at (Carreira & Zisserman 2017)
MIN_SIDE = 12  # pixels; below it DIS has no patch to match

Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def iterate_flow(frames: Iterable[Bytes], *, method: str = "dis") -> Iterator[Float32]:
    """Flow (H, W, 2) of each frame and the next, one at a time, from frames (H, W, 3).

    In pixels per frame: where a point of frame t is in t + 1. method: one of METHODS.
    Raises DataError for frames with a side below MIN_SIDE, SpecError where OpenCV was built
    without the method.
    """
    estimate = _ESTIMATORS[method]()
    before: Bytes | None = None
    for frame in frames:
        now = _gray(frame)
        if before is not None:
            if now.shape != before.shape:
                sizes = " and ".join(f"{h} x {w}" for h, w in (before.shape, now.shape))
                raise DataError("frames", "frames of one size", f"{sizes} (height x width)")
            with _one_thread():
                pair = estimate(before, now)
            yield pair
        before = now


def encode_flow(flow: Float32, *, scaling: str, bound: float = DEFAULT_BOUND) -> Bytes:
    """Flow (..., H, W, 2) in pixels as bytes of the same shape.

    fixed: -bound..bound becomes 0..255, and what lies beyond is cut off. A byte b stands for the
        motion around (b - 127.5) / 127.5 * bound, so that 255 - b is the opposite motion; exactly
        no motion lies between two bytes and is 128. Ties go away from zero.
    per_frame: trunc(f / r * 127.999 + 128), with r the longest motion in the frame but at least
        1 pixel: how TAO's data were made. Speed is lost; `frame_ranges` gives r.
    Raises DataError for motion that is not finite.
    """
    if not np.isfinite(flow).all():
        raise DataError("flow", "finite numbers", "NaN or infinity")
    if scaling == "per_frame":
        shares = flow / frame_ranges(flow)[..., None, None, None]
        return (shares * np.float32(127.999) + np.float32(128)).astype(np.uint8)
    levels = np.floor(np.abs(flow) * np.float32(127.5 / bound))
    levels = np.minimum(levels, 127).astype(np.uint8)
    return np.where(flow < 0, 127 - levels, 128 + levels).astype(np.uint8)


def frame_ranges(flow: Float32) -> Float32:
    """(...,) the longest motion in each frame of (..., H, W, 2), in pixels, at least 1."""
    squares = np.einsum("...c,...c->...", flow, flow)
    longest = np.sqrt(squares.max(axis=(-2, -1)))
    return np.asarray(np.maximum(longest, np.float32(1)), np.float32)


def _gray(frame: Bytes) -> Bytes:
    height, width = frame.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise DataError(
            "frames",
            f"at least {MIN_SIDE} x {MIN_SIDE} pixels for optical flow",
            f"{height} x {width} (height x width)",
        )
    gray: Any = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    return np.asarray(gray, np.uint8)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV on one thread: pairs are many, and one core each is the best use of several."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


Estimator = Callable[[Bytes, Bytes], Float32]


def _build_dis() -> Estimator:
    """Dense inverse search (Kroeger et al. 2016). Faster presets overestimate by 10 %."""
    module: Any = cv2  # its stubs lack this
    search = module.DISOpticalFlow_create(module.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return lambda before, now: search.calc(before, now, None)


def _build_farneback() -> Estimator:
    """Polynomial expansion (Farneback 2003), with the usual parameters of OpenCV's examples."""

    def estimate(before: Bytes, now: Bytes) -> Float32:
        return cv2.calcOpticalFlowFarneback(  # type: ignore[call-overload,no-any-return]
            before, now, None, 0.5, 3, 15, 3, 5, 1.2, 0
        )

    return estimate


def _build_tvl1() -> Estimator:
    """Total variation and L1 (Zach et al. 2007): what most papers on two streams computed."""
    module: Any = getattr(cv2, "optflow", None)
    create = getattr(module, "DualTVL1OpticalFlow_create", None)
    if create is None:
        raise SpecError(
            "dataset.flow_method",
            "an OpenCV with its contrib modules for 'tvl1'",
            f"OpenCV {cv2.__version__} without cv2.optflow",
            "pip uninstall opencv-python opencv-python-headless, then "
            "pip install opencv-contrib-python-headless; or use dis.",
        )
    search = create()
    return lambda before, now: search.calc(before, now, None)


_ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "dis": _build_dis,
    "farneback": _build_farneback,
    "tvl1": _build_tvl1,
}
