"""RTMPose through the package rtmlib, where that is installed: people, and 17 joints of each.

Promises: a frame in which the detector finds nobody has nobody in it (rtmlib itself would take the
whole frame for a person).
Leaves out: the weights. rtmlib fetches them when it first runs, unless `detector` and `pose` name
ONNX files; kineme does not check them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kineme.errors import CheckpointError, SpecError
from kineme.people.estimators.duplicates import without_duplicates
from kineme.people.estimators.frames import checked
from kineme.people.poses import PersonPose, build_pose

INSTALL = (
    "pip install --no-deps rtmlib (its two OpenCV packages would overwrite the one kineme uses)"
)
_MODES = ("lightweight", "balanced", "performance")
_SIZES = {  # of pictures, width and height: detector, pose model
    "lightweight": ((416, 416), (192, 256)),
    "balanced": ((640, 640), (192, 256)),
    "performance": ((640, 640), (288, 384)),
}


@dataclass(frozen=True)
class RtmPoseSettings:
    """What can be set.

    mode: which of rtmlib's models, or whose picture sizes the files have. detector, pose: ONNX
    files instead of what rtmlib fetches, both or none. device: cpu or cuda. min_confidence: of a
    joint that counts as seen. max_distance: of poses that are one person found twice, as a share of
    their size.
    """

    mode: str = field(default="balanced", metadata={"choices": _MODES})
    detector: str = ""
    pose: str = ""
    device: str = field(default="cpu", metadata={"choices": ("cpu", "cuda")})
    min_confidence: float = field(default=0.2, metadata={"bounds": (0.0, 1.0)})
    max_distance: float = field(default=0.3, metadata={"bounds": (0.0, 10.0)})


class RtmPose:
    """People by RTMPose, layout coco. Raises SpecError where rtmlib is not installed."""

    layout: str = "coco"
    settings_type: ClassVar[type[RtmPoseSettings]] = RtmPoseSettings

    def __init__(self, settings: RtmPoseSettings | None = None) -> None:
        self.settings = settings or RtmPoseSettings()
        files = _own_files(self.settings)
        try:
            rtmlib = importlib.import_module("rtmlib")
        except ImportError as error:
            raise SpecError("rtmpose", "the package rtmlib", "none", f"{INSTALL}.") from error
        self._models = rtmlib.Body(
            mode=self.settings.mode,
            to_openpose=False,
            backend="onnxruntime",
            device=self.settings.device,
            **files,
        )

    def reset(self) -> None:
        """Nothing is remembered."""

    def detect(self, frame: NDArray[np.uint8]) -> tuple[PersonPose, ...]:
        """Everybody in an RGB frame, the surest first."""
        picture = np.ascontiguousarray(checked(frame)[..., ::-1])  # OpenCV's order of colours
        boxes = np.asarray(self._models.det_model(picture), np.float32).reshape(-1, 4)
        if not len(boxes):
            return ()
        joints, scores = self._models.pose_model(picture, bboxes=boxes)
        found = [
            build_pose(places, confidence, box=box, min_confidence=self.settings.min_confidence)
            for places, confidence, box in zip(joints, scores, boxes, strict=True)
        ]
        seen = [pose for pose in found if pose.num_seen]
        return without_duplicates(seen, self.settings.max_distance)


def _own_files(settings: RtmPoseSettings) -> dict[str, Any]:
    """The user's models as rtmlib wants to be told of them."""
    named = {"detector": settings.detector, "pose": settings.pose}
    if not any(named.values()):
        return {}
    for name, path in named.items():
        if not path:
            raise SpecError(f"rtmpose.{name}", "a file, as the other one is set", "nothing")
        if not Path(path).is_file():
            raise CheckpointError(f"rtmpose.{name}", "an ONNX file", f"{path!r}, not there")
    detector_size, pose_size = _SIZES[settings.mode]
    return {
        "det": settings.detector,
        "det_input_size": detector_size,
        "pose": settings.pose,
        "pose_input_size": pose_size,
    }
