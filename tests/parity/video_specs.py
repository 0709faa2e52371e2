"""Specs of video models for tests, every field that matters said by name."""

from typing import Any

from kineme.action_recognition.backbones import SHIFT, STACK, VOLUME
from kineme.action_recognition.spec import SPECS
from kineme.spec.load import load_spec

FORM_SETTINGS = {
    STACK: {"model.temporal": "stack", "model.input_type": "2d"},
    SHIFT: {"model.temporal": "shift", "model.input_type": "2d"},
    VOLUME: {"model.input_type": "3d"},
}
BASE = {
    "train": {"dataset.train_dataset_dir": "here"},
    "evaluate": {"evaluate.checkpoint": "a.pth", "evaluate.test_dataset_dir": "here"},
}


def video_spec(
    backbone: str = "resnet_18",
    form: str = SHIFT,
    *,
    num_classes: int = 5,
    action: str = "train",
    **changes: Any,
) -> Any:
    """changes: keys of the model block. Without them: 8 frames, 32 where they are stacked."""
    values = {
        "results_dir": "there",
        **BASE[action],
        "dataset.label_map": {f"class {i}": i for i in range(num_classes)},
        "model.backbone": backbone,
        **FORM_SETTINGS[form],
        "model.rgb_seq_length": 32 if form == STACK else 8,
        "model.dropout_ratio": 0.0,
        **{f"model.{key}": value for key, value in changes.items()},
    }
    return load_spec(SPECS[action], None, values)[0]
