"""Write video_models_golden.json: names, shapes and logits of the reference networks.

Run from the repository: python tests/parity/make_video_models_golden.py
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from parity.video_models_reference import (
    ReferenceEfficientNetLite0,
    ReferenceI3D,
    ReferenceResNet,
    clips,
    fill,
)

FILE = Path(__file__).with_name("video_models_golden.json")
CLASSES, STACKED = 5, 96  # of the published counts of parameters
SPELLED = ("resnet_18 stack", "resnet_50 3d", "i3d 3d", "efficientnet_lite0 shift")
LOGITS = {  # model -> shape of its input
    "resnet_18 stack": (2, 96, 40, 33),
    "resnet_18 shift": (2, 3, 4, 40, 33),
    "resnet_50 shift": (1, 3, 3, 40, 33),
    "resnet_101 shift": (1, 3, 2, 33, 32),
    "resnet_18 3d": (2, 3, 9, 40, 33),
    "resnet_50 3d": (1, 3, 5, 33, 32),
    "efficientnet_lite0 stack": (2, 96, 40, 33),
    "efficientnet_lite0 shift": (2, 3, 4, 40, 33),
}


def references() -> Mapping[str, Callable[[], nn.Module]]:
    """`<backbone> <form>` -> builder."""
    found: dict[str, Callable[[], nn.Module]] = {}
    for depth in (18, 34, 50, 101, 152):
        name, make = f"resnet_{depth}", ReferenceResNet
        found[f"{name} stack"] = lambda d=depth, m=make: m(CLASSES, STACKED, depth=d)
        found[f"{name} shift"] = lambda d=depth, m=make: m(CLASSES, 3, depth=d, is_shifting=True)
        found[f"{name} 3d"] = lambda d=depth, m=make: m(CLASSES, 3, depth=d, dims=3)
    found["i3d 3d"] = lambda: ReferenceI3D(CLASSES, 3)
    lite = ReferenceEfficientNetLite0
    found["efficientnet_lite0 stack"] = lambda: lite(CLASSES, STACKED)
    found["efficientnet_lite0 shift"] = lambda: lite(CLASSES, 3, is_shifting=True)
    return found


def describe(name: str, make: Callable[[], nn.Module]) -> dict[str, Any]:
    with torch.device("meta"):
        model = make()
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    facts: dict[str, Any] = {
        "entries": len(shapes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": digest(shapes),
    }
    if name in SPELLED:
        facts["shapes"] = shapes
    if name in LOGITS:
        torch.manual_seed(0)
        with torch.no_grad():
            logits = fill(make()).eval()(clips(*LOGITS[name]))
        facts["input"] = list(LOGITS[name])
        facts["logits"] = [[float(f"{x:.6g}") for x in row] for row in logits.tolist()]
    return facts


def digest(shapes: Mapping[str, list[int]]) -> str:
    """Of all names and shapes, in order."""
    lines = "".join(f"{name} {shape}\n" for name, shape in shapes.items())
    return hashlib.sha256(lines.encode()).hexdigest()


if __name__ == "__main__":
    rows = {name: describe(name, make) for name, make in references().items()}
    lines = [f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in rows.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
