"""Specs of pose models for tests, every field that matters said by name."""

from typing import Any

from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

BASE = {
    "train": {"dataset.train_dataset.data_path": "here"},
    "evaluate": {"evaluate.checkpoint": "a.pth", "evaluate.test_dataset.data_path": "here"},
}


def pose_spec(
    layout: str = "nvidia", strategy: str = "spatial", *, action: str = "train", **changes: Any
) -> Any:
    """changes: keys of the model block."""
    values = {
        "results_dir": "there",
        **BASE[action],
        "dataset.num_classes": 6,
        "model.graph_layout": layout,
        "model.graph_strategy": strategy,
        **{f"model.{key}": value for key, value in changes.items()},
    }
    return load_spec(SPECS[action], None, values)[0]
