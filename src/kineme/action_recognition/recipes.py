"""Recipes: named sets of values that lie beneath the user's own.

Promises: each is a spec that loads; `none` changes nothing, so that TAO's values hold.
Leaves out: the settings themselves, and their defaults (settings.py).
"""

from collections.abc import Mapping
from typing import Any

# modern: how small sets of videos are learnt well today.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "modern": {
        "model.backbone": "efficientnet_lite0",
        "model.temporal": "shift",
        "model.imagenet_pretrained": True,
        "model.rgb_seq_length": 8,
        "model.of_seq_length": 8,
        "dataset.batch_size": 8,
        "dataset.augmentation_config.train_crop_type": "multi_scale_crop",
        "dataset.augmentation_config.scales": [1.0, 0.875, 0.75, 0.66],
        "dataset.augmentation_config.val_center_crop": True,
        "dataset.augmentation_config.color_jitter": 0.2,
        "dataset.augmentation_config.rgb_input_mean": [0.498],
        "dataset.augmentation_config.rgb_input_std": [0.502],
        "train.optim.optimizer_type": "AdamW",
        "train.optim.weight_decay": 0.05,
        "train.optim.backbone_lr_factor": 0.5,
        "train.optim.lr_scheduler": "cosine",
        "train.label_smoothing": 0.1,
    },
}
