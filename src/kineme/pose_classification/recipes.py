"""Recipes: named sets of values that lie beneath the user's own.

Promises: each is a spec that loads; `none` changes nothing, so that TAO's values hold.
Leaves out: the settings themselves, and their defaults (settings.py).
"""

from collections.abc import Mapping
from typing import Any

# modern: how ST-GCN is trained well today. accurate: a newer model, whose choice and learning
# rate come from NW-UCLA's training views alone (docs/benchmarks.md).
_MODERN: Mapping[str, Any] = {
    "dataset.sampling": "uniform",
    "dataset.num_frames": 64,
    "dataset.normalize": "center_minmax",
    "dataset.augmentation.view_rotation_degrees": 60.0,
    "train.optim.lr_scheduler": "cosine",
    "train.optim.lr_scaling": "linear",
    "train.optim.weight_decay": 5e-4,
    "evaluate.num_clips": 10,
    "inference.num_clips": 10,
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "modern": _MODERN,
    "accurate": {
        **_MODERN,
        "model.model_type": "CTR-GCN",
        "dataset.num_frames": 32,
        "train.optim.lr_reference_batch": 16,
        "train.optim.warmup_epochs": 1,
        "train.label_smoothing": 0.1,
        "train.ema_decay": 0.998,
    },
}
