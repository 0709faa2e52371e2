"""How far an analysis is: a line now and then.

Promises: a line every 30 seconds at most, with the frames a second and, where it is known how many
there are, the time it takes yet; frames of an earlier run do not count as speed.
Leaves out: where the lines go.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PLAIN_SECONDS = 30.0  # between lines


class FrameProgress:
    """tell: gets the lines. total: frames there will be, 0 where nobody knows. num_known: found
    by an earlier run."""

    def __init__(self, tell: Callable[[str], None], *, total: int, num_known: int) -> None:
        self._tell, self._total, self._num_known = tell, total, num_known
        self._began = self._told = time.monotonic()

    def at(self, done: int) -> None:
        """So many frames are done."""
        now = time.monotonic()
        if now - self._told < PLAIN_SECONDS:
            return
        self._told = now
        rate = max(done - self._num_known, 1) / (now - self._began)
        if not self._total:
            self._tell(f"{done:,} frames, {rate:.1f} a second")
            return
        left = max(self._total - done, 0) / rate
        self._tell(f"{done:,} of {self._total:,} frames, {rate:.1f} a second, {_clock(left)} to go")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
