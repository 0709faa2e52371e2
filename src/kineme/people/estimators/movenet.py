"""MoveNet MultiPose Lightning: up to six people in one pass, 17 joints each.

Promises: the frame keeps its aspect; joints, boxes and scores are the model's own, one person found
twice counts once.
Leaves out: frames of earlier times; every frame is looked at alone.

The model: (1, H, W, 3) int32 RGB, H and W multiples of 32 -> (1, 6, 56): y, x, score of 17 joints
in COCO's order, then y0, x0, y1, x1, score of the person, all as shares of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kineme.people.estimators.duplicates import without_duplicates
from kineme.people.estimators.eyesight import Eyesight
from kineme.people.estimators.frames import checked, fitted
from kineme.people.estimators.onnx import OnnxModel
from kineme.people.models import card_of, model_files
from kineme.people.poses import PersonPose, build_pose

_NUM_JOINTS, _MULTIPLE = 17, 32
_FEW_PIXELS = 112  # long in its picture: many smaller people are missed (eyesight.py)
_LONGEST_SIDE = 2048


@dataclass(frozen=True)
class MoveNetSettings:
    """What can be set.

    long_side: pixels of the frame's longer side as the model sees it; more of them show smaller
    people and take longer, by their square (512 to 768 for people who are small). min_score: of a
    person; small ones score low. min_confidence: of a joint that counts as seen. max_distance: of
    poses that are one person found twice, as a share of their size. num_threads: of the model.
    """

    long_side: int = field(default=384, metadata={"bounds": (64, _LONGEST_SIDE)})
    min_score: float = field(default=0.15, metadata={"bounds": (0.0, 1.0)})
    min_confidence: float = field(default=0.1, metadata={"bounds": (0.0, 1.0)})
    max_distance: float = field(default=0.3, metadata={"bounds": (0.0, 10.0)})
    num_threads: int = field(default=1, metadata={"bounds": (1, 256)})


class MoveNet:
    """People by MoveNet MultiPose, layout coco."""

    layout: str = "coco"
    settings_type: ClassVar[type[MoveNetSettings]] = MoveNetSettings

    def __init__(self, settings: MoveNetSettings | None = None) -> None:
        self.settings = settings or MoveNetSettings()
        (path,) = model_files(card_of("movenet")).values()
        self._model = OnnxModel(path, num_threads=self.settings.num_threads)

    def reset(self) -> None:
        """Nothing is remembered."""

    def eyesight(self, width: int, height: int) -> Eyesight:
        """How frames of that size are seen."""
        now, most = self.settings.long_side, min(max(width, height), _LONGEST_SIDE)

        def value_for(factor: float) -> int:
            value = min(2 * _MULTIPLE * math.ceil(now * factor / (2 * _MULTIPLE)), most)
            return value if value >= 1.25 * now else 0

        return Eyesight(now / max(width, height), _FEW_PIXELS, "long_side", value_for)

    def detect(self, frame: NDArray[np.uint8]) -> tuple[PersonPose, ...]:
        """Everybody in an RGB frame, the surest first."""
        picture, scale = fitted(checked(frame), self.settings.long_side, _MULTIPLE)
        rows = self._model(picture[None].astype(np.int32))[0]  # (6, 56)
        height, width = picture.shape[:2]
        return people_of(rows, width=width / scale, height=height / scale, settings=self.settings)


def people_of(
    rows: NDArray[np.float32], *, width: float, height: float, settings: MoveNetSettings
) -> tuple[PersonPose, ...]:
    """The people in a (P, 56) answer; width and height: of the model's picture in frame pixels."""
    joints = rows[:, : 3 * _NUM_JOINTS].reshape(-1, _NUM_JOINTS, 3)
    places = joints[..., 1::-1] * np.array([width, height], np.float32)
    boxes = rows[:, [52, 51, 54, 53]] * np.array([width, height, width, height], np.float32)
    found = [
        build_pose(
            places[i],
            joints[i, :, 2],
            box=boxes[i],
            score=float(rows[i, 55]),
            min_confidence=settings.min_confidence,
        )
        for i in np.flatnonzero(rows[:, 55] >= settings.min_score)
    ]
    return without_duplicates([pose for pose in found if pose.num_seen], settings.max_distance)
