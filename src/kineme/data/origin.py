"""How the samples of a data set came about, as far as anything says it: what travels with labels.

Promises: what nobody says stays unknown; what a file says is checked before it is believed.
Leaves out: how samples are made (the converters), what a checkpoint makes of it (the rooms).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kineme.errors import shortened

_MAX_TEXT, _MAX_NUMBER = 4096, 1e9
_MAX_RATIO = 1.25  # of two frame rates that are much alike


@dataclass(frozen=True)
class Origin:
    """estimator: what found the people, "" where nothing says it. clip_seconds: half of the
    samples last no longer. fps: frames a second of half of them or fewer. Both 0.0 where nothing
    says it."""

    estimator: str = ""
    clip_seconds: float = 0.0
    fps: float = 0.0

    def known(self) -> dict[str, Any]:
        """What is known, in plain values."""
        return {name: value for name, value in asdict(self).items() if value}


UNKNOWN_ORIGIN = Origin()
ORIGIN_FORM = "estimator, a name; clip_seconds and fps, numbers"  # for messages


def origin_of(clips: Sequence[tuple[int, float]], estimators: Collection[str]) -> Origin:
    """clips: (frames, frames a second, 0.0 where nothing says it) of each sample. estimators: of
    them all; where they differ, none is told."""
    estimator = next(iter(estimators)) if len(set(estimators)) == 1 else ""
    rated = [(num_frames / fps, fps) for num_frames, fps in clips if fps > 0]
    if not rated:
        return Origin(estimator)
    seconds, rate = np.quantile(rated, 0.5, axis=0, method="lower").tolist()
    return Origin(estimator, round(seconds, 3), round(rate, 3))


def is_alike(fps: float, other: float) -> bool:
    """Whether movement is about as fast at two frame rates; 0.0, an unknown one, is like any."""
    return fps <= 0 or other <= 0 or 1 / _MAX_RATIO < other / fps < _MAX_RATIO


def read_origin(value: object) -> Origin:
    """What `Origin.known` gave; None is nothing known. Raises ValueError with what is wrong."""
    if value is None:
        return UNKNOWN_ORIGIN
    if not isinstance(value, Mapping):
        raise ValueError(f"a {type(value).__name__}")
    estimator = value.get("estimator") or ""
    if not isinstance(estimator, str) or len(estimator) > _MAX_TEXT:
        raise ValueError(f"estimator {shortened(estimator)}")
    return Origin(estimator, *(_number(value, name) for name in ("clip_seconds", "fps")))


def _number(value: Mapping[str, Any], name: str) -> float:
    found = value.get(name) or 0.0
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if not is_number or not 0 <= found <= _MAX_NUMBER:
        raise ValueError(f"{name} {shortened(found)}")
    return float(found)
