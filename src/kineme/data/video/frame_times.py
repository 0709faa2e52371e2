"""When frames are shown: an even rate where there is one, an even grid over time where not.

Promises: frame k of an uneven video is the picture shown at time k / fps, with fps its usual
spacing, so that an evenly spaced copy of the same film gives the same frames.
Leaves out: where time stamps come from (frame_index.py).

Shapes: S pictures, F frames.
"""

from __future__ import annotations

import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kineme.data.video.files import MAX_FPS, MAX_FRAMES, MAX_SECONDS
from kineme.errors import DataError

Seconds = NDArray[np.float64]

_USUAL_FPS = 25.0  # of a file that says nothing: one frame without a duration
_MAX_JITTER = 0.5  # of a frame: more than this off the even grid is a variable rate
_MAX_ROUNDED = 0.05  # the same of an even rate, whose two frames may be a few ticks apart
_ROUNDED = 5e-3  # how far a container's rate may be from the spacing found, of a variable rate
_MAX_PAUSE_SECONDS = 600.0  # between two frames; a longer one is a damaged time stamp
_QUARTER = 0.25  # of a frame: what begins this much after a grid time counts as shown at it


def usual_rate(stream: VideoStream, seconds: Seconds, tick: float) -> float:
    """Frames per second of pictures shown at `seconds` (S,), rising: their usual spacing.

    A container's own figure is taken where it agrees: time stamps are rounded to ticks.
    """
    if len(seconds) < 2 or np.diff(seconds).min() <= 0:  # time stamps beyond what floats hold
        return said_rate(stream)
    mean = float(seconds[-1]) / (len(seconds) - 1)
    if _is_even(seconds, mean):
        spacing, error = mean, min(tick / float(seconds[-1]) + 1e-6, _MAX_ROUNDED)
    else:
        gaps = np.diff(seconds)
        middle = np.sort(gaps)[(len(gaps) - 1) // 2]  # one of them, which a median need not be
        near = np.abs(gaps / middle - 1) <= _MAX_JITTER
        spacing, error = float(gaps[near].mean()), _ROUNDED
    rate = 1 / spacing
    agreeing = [r for r in _container_rates(stream) if abs(r / rate - 1) <= error]
    return agreeing[0] if agreeing else rate


def frame_grid(
    path: str, seconds: Seconds, rate: float, last: float
) -> tuple[NDArray[np.int64], float, bool]:
    """(F,) slots, duration in seconds, and whether the rate is variable.

    last: how long the last picture is shown, 0 where the file does not say. Time stamps that
    are not to be believed are passed over: then frames are the pictures as they come.
    Raises DataError for a rate, or a length in time or frames, that is beyond the limits.
    """
    count = len(seconds)
    if _is_even(seconds, 1 / rate) or has_broken_times(seconds):
        _check_limits(path, rate, count / rate)
        return np.arange(count), count / rate, False
    duration = float(seconds[-1]) + (last if 0 < last < _MAX_PAUSE_SECONDS else 1 / rate)
    _check_limits(path, rate, duration)
    times = (np.arange(max(round(duration * rate), 1)) + _QUARTER) / rate
    return np.searchsorted(seconds, times, side="right") - 1, duration, True


def _check_limits(path: str, rate: float, duration: float) -> None:
    for what, limit, found in (
        ("frames a second", MAX_FPS, rate),
        ("seconds", MAX_SECONDS, duration),
        ("frames", MAX_FRAMES, duration * rate),
    ):
        if found > limit * (1 + 1e-9):  # a rate is a quotient, and may be off in the last bit
            raise DataError(path, f"a video of at most {limit:,} {what}", f"{found:,.0f}")


def has_broken_times(seconds: Seconds) -> bool:
    """Whether pictures lie further apart than any pause."""
    return len(seconds) > 1 and float(np.diff(seconds).max()) > _MAX_PAUSE_SECONDS


def said_rate(stream: VideoStream) -> float:
    """Frames per second as the container says."""
    return _container_rates(stream)[0]


def _container_rates(stream: VideoStream) -> list[float]:
    """What the file says its frame rate is, the likeliest first; never empty."""
    said = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return [float(r) for r in said if r and 0 < r <= MAX_FPS] or [_USUAL_FPS]


def _is_even(seconds: Seconds, spacing: float) -> bool:
    off = np.abs(seconds - np.arange(len(seconds)) * spacing)
    return bool(off.max() <= _MAX_JITTER * spacing)
