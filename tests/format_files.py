"""Tiny files of other programs, and conversions of them: what tests of formats share."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kineme.errors import DataError
from kineme.pose_classification.convert import convert
from kineme.pose_classification.settings import DatasetConvert


def run(data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    spec = SimpleNamespace(dataset_convert=DatasetConvert(data=str(data), **settings))
    return convert(spec, out)


def message_of(data: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(data, out, **settings)
    assert not list(out.glob("*.npy"))
    return str(caught.value)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def openpose_frame(*people: list[float]) -> dict[str, Any]:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": points} for points in people]}


def points(x: float, y: float, num_joints: int, confidence: float = 0.5) -> list[float]:
    return [value for j in range(num_joints) for value in (x + j, y, confidence)]


def landmarks(x: float, visibility: float = 1.0) -> list[dict[str, float]]:
    return [{"x": x, "y": 0.75, "z": j / 10, "visibility": visibility} for j in range(33)]
