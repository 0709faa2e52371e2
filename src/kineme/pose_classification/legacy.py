"""What older TAO releases called the settings of pose classification.

Promises: the names of TAO 3.22 to 4.0 (before blocks were renamed) and of 5.0 to 5.3; each
row is data, read by spec/legacy.py.
"""

from kineme.spec import legacy
from kineme.spec.legacy import Legacy

_CONVERSION = (
    "pose_type",
    "num_joints",
    "input_width",
    "input_height",
    "focal_length",
    "sequence_length_max",
    "sequence_length_min",
    "sequence_length",
    "sequence_overlap",
)
_LABEL_MAP = "Name the one that belongs to model.graph_layout dataset.label_map, without the rest."

LEGACY = Legacy(
    blocks=legacy.BLOCKS,
    keys={
        **legacy.KEYS,
        "model_config.in_channels": "model.input_channels",
        "model_config.num_class": "dataset.num_classes",
        "model_config.num_classes": "dataset.num_classes",
        "train_config.clip_grad_norm": "train.grad_clip",
        "dataset_config.train_data_path": "dataset.train_dataset.data_path",
        "dataset_config.train_label_path": "dataset.train_dataset.label_path",
        "dataset_config.val_data_path": "dataset.val_dataset.data_path",
        "dataset_config.val_label_path": "dataset.val_dataset.label_path",
        "dataset_config.workers": "dataset.num_workers",
    },
    by_action={
        **legacy.BY_ACTION,
        "evaluate": {
            **legacy.BY_ACTION["evaluate"],
            "data": "evaluate.test_dataset.data_path",
            "label": "evaluate.test_dataset.label_path",
        },
        "inference": {
            **legacy.BY_ACTION["inference"],
            "data": "inference.test_dataset.data_path",
        },
        "dataset_convert": {
            "data": "dataset_convert.data",
            **{name: f"dataset_convert.{name}" for name in _CONVERSION},
        },
    },
    values=legacy.VALUES,
    idle=legacy.IDLE,
    refused={"dataset.label_map_nvidia": _LABEL_MAP, "dataset.label_map_kinetics": _LABEL_MAP},
    defaults={"dataset.batch_size": 64, "train.num_epochs": 70, "train.checkpoint_interval": 5},
)
