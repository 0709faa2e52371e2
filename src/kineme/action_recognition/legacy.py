"""What older TAO releases called the settings of action recognition.

Promises: the names of TAO 3.21 to 4.0 (before blocks were renamed) and of 5.0 to 5.3; each
row is data, read by spec/legacy.py.
"""

import re
from typing import Any

from kineme.spec import legacy
from kineme.spec.legacy import Legacy

_LABEL_MAP = "Name the one that belongs to model.input_type dataset.label_map, without the other."
_CROP = "dataset.augmentation_config.train_crop_type"


def _backbone(value: Any) -> Any:
    """`resnet18` is `resnet_18` since 5.0."""
    return re.sub(r"^resnet(?=\d)", "resnet_", value) if isinstance(value, str) else value


def _crop(value: Any) -> Any:
    """The first release had a flag where a choice is now; false left the default."""
    return {True: "multi_scale_crop", False: None}[value] if isinstance(value, bool) else value


LEGACY = Legacy(
    blocks={**legacy.BLOCKS, "augmentation_config": "dataset.augmentation_config"},
    keys={
        **legacy.KEYS,
        "train_config.grad_clip": "train.clip_grad_norm",
        "dataset_config.num_workers": "dataset.workers",
        "dataset_config.output_shape": ("model.input_height", "model.input_width"),
        "dataset_config.augmentation_config.multi_scale_crop": _CROP,
        "test_dataset_dir": "evaluate.test_dataset_dir",
        "video_eval_mode": "evaluate.video_eval_mode",
        "inference_dataset_dir": "inference.inference_dataset_dir",
        "video_inf_mode": "inference.video_inf_mode",
    },
    by_action={
        **legacy.BY_ACTION,
        "evaluate": {
            **legacy.BY_ACTION["evaluate"],
            "video_num_segments": "evaluate.video_num_segments",
        },
        "inference": {
            **legacy.BY_ACTION["inference"],
            "video_num_segments": "inference.video_num_segments",
        },
        "export": {**legacy.BY_ACTION["export"], "batch_size": "export.batch_size"},
    },
    values={**legacy.VALUES, "model.backbone": _backbone, _CROP: _crop},
    idle=legacy.IDLE,
    refused={"dataset.label_map_2d": _LABEL_MAP, "dataset.label_map_3d": _LABEL_MAP},
    defaults={
        "model.model_type": "joint",
        "dataset.batch_size": 32,
        "train.checkpoint_interval": 5,
    },
)
