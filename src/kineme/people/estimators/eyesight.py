"""How large people are in the picture that an estimator looks at, and what would show them larger.

Promises: where people are so small in it that others like them are missed, that can be told with
a setting and a value to try; ordinary close pictures, and settings that cannot help, say nothing.
Leaves out: the estimators, which say how they see (`eyesight(width, height)`); finding anybody.

Measured on a street of 768 x 576 and a shop of 1920 x 1080, people a frame by the longer side of
those found, in pixels of the picture: MoveNet 1 at 44, 3 at 71, 5 at 107 in the street, 2 at 103
and 4 at 182 in the shop; BlazePose none at 22, 1 at 38, 3 at 70 and 1 at 49, 3 at 124.

Shapes: T rows of a track.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kineme.data.tracks import Tracks

_AIM = 1.5  # times the pixels below which people are missed
_LEAST_SHRUNK = 2.0  # from which nobody may be somebody who is too small


@dataclass(frozen=True)
class Eyesight:
    """How an estimator sees frames of one size. scale: pixels of its picture to one of the frame.
    few_pixels: of the longer side of people in it, below which many are missed. setting: what
    makes the picture larger. value_for: of that setting, for a picture so many times as large as
    now and no finer than the frame; 0 where none is larger by enough to help."""

    scale: float
    few_pixels: float
    setting: str
    value_for: Callable[[float], int]


def small_people_note(estimator: object, name: str, tracks: Tracks) -> str:
    """What to tell of an analysis whose people are `tracks`; "" for nothing."""
    eyesight_of = getattr(estimator, "eyesight", None)
    if eyesight_of is None or not tracks.num_frames:
        return ""
    eyes: Eyesight = eyesight_of(tracks.width, tracks.height)
    shrunk = 1 / eyes.scale
    pixels = _usual_pixels(tracks) * eyes.scale
    if np.isnan(pixels):
        factor = _LEAST_SHRUNK if shrunk >= _LEAST_SHRUNK else 0.0
        told = "nobody was found"
    else:
        factor = _AIM * eyes.few_pixels / pixels if pixels < eyes.few_pixels else 0.0
        told = f"people are small, half of them at most {pixels:.0f} pixels long"
    value = eyes.value_for(factor) if factor else 0
    if not value:
        return ""
    return (
        f"{told} in the picture that {name} looks at, {shrunk:.1f} times smaller than the video's, "
        f"and small people may be missed: try {name}.{eyes.setting}={value}, which is slower"
    )


def _usual_pixels(tracks: Tracks) -> float:
    """The median over all sights of the longer side of the box, in the frame; NaN without any."""
    sides = [(track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1) for track in tracks.tracks]
    known = [one[np.isfinite(one)] for one in sides]
    together = np.concatenate(known) if known else np.zeros(0, np.float32)
    return float(np.median(together)) if len(together) else float("nan")
