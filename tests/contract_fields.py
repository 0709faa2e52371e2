"""TAO's spec fields, written out by hand from its documentation and dataclasses.

What a schema must say of each field: type, default, bounds, options, popular, AutoML. The
defaults are those of TAO's schemas; `runtime` is TAO's own where it differs ("" and "???" mean
None). Bounds that TAO gives as infinite are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AS_SCHEMA = object()
SEARCHED, NEVER = "searched by default", "never searched"


@dataclass(frozen=True)
class Field:
    type: str
    default: Any  # None: there is none
    low: float | None = None
    high: float | None = None
    options: tuple[str, ...] = ()
    popular: bool = False
    automl: str = ""
    runtime: Any = AS_SCHEMA


def text(default: str = "", **more: Any) -> Field:
    return Field("string", default, **more)


def flag(default: bool) -> Field:
    return Field("bool", default)


def integer(default: int, low: int | None = None, high: int | None = None, **more: Any) -> Field:
    return Field("int", default, low, high, **more)


def number(default: float, low: float | None = None, high: float | None = None, **more) -> Field:
    return Field("float", default, low, high, **more)


def one_of(*options: str, default: str = "") -> Field:
    return Field("categorical", default or options[0], options=options)


def values(default: list, type: str = "list", **more: Any) -> Field:
    return Field(type, default, automl=NEVER, **more)


def under(block: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    return {f"{block}.{name}": field for name, field in fields.items()}


LABEL_MAP = Field("collection", None, automl=NEVER)
COMPUTE = {
    "num_gpus": integer(1, 1, popular=True),
    "gpu_ids": values([0], popular=True),
    "num_nodes": integer(1, 1, popular=True),
}
PREDICT = {
    **COMPUTE,
    "checkpoint": text("???"),
    "trt_engine": text(),
    "results_dir": text(),
    "batch_size": integer(-1, -1),
}
TOP = {
    "encryption_key": text(),
    "results_dir": text(),
    **under("wandb", {
        "enable": flag(True),
        "project": text("TAO Toolkit"),
        "entity": text(),
        "group": text(),
        "tags": values(["tao-toolkit"], runtime=["training", "tao-toolkit"]),
        "reinit": flag(False),
        "sync_tensorboard": flag(False),
        "save_code": flag(False),
        "name": text("TAO Toolkit Training", runtime="TAO Toolkit training experiment"),
        "run_id": text(),
    }),
}  # fmt: skip
TRAIN = under("train", {
    **COMPUTE,
    "seed": integer(1234, -1),
    "cudnn.benchmark": flag(False),
    "cudnn.deterministic": flag(True),
    "num_epochs": integer(10, 1, popular=True),
    "checkpoint_interval": integer(1, 1, popular=True),
    "checkpoint_interval_unit": one_of("epoch", "step"),
    "validation_interval": integer(1, 1, popular=True),
    "resume_training_checkpoint_path": text(),
    "results_dir": text(),
})  # fmt: skip

ACTION_RECOGNITION = {
    "model_name": text("", runtime="action_recognition"),
    **TOP,
    **TRAIN,
    **under("model", {
        "model_type": one_of("rgb", "of", "joint"),
        "backbone": one_of("resnet_18", "resnet_34", "resnet_50", "resnet_101", "resnet_152",
                           "i3d"),
        "input_type": one_of("2d", "3d"),
        "rgb_seq_length": integer(3, 1),
        "of_seq_length": integer(10, 1),
        "rgb_pretrained_model_path": text(),
        "of_pretrained_model_path": text(),
        "rgb_pretrained_num_classes": integer(5, 0),
        "of_pretrained_num_classes": integer(5, 0),
        "joint_pretrained_model_path": text(),
        "num_fc": integer(64, 1),
        "sample_strategy": one_of("random_interval", "consecutive"),
        "sample_rate": integer(1),
        "imagenet_pretrained": flag(False),
        "dropout_ratio": number(0.5, 0, 1, automl=SEARCHED),
        "input_width": integer(224, 1),
        "input_height": integer(224, 1),
    }),
    **under("dataset", {
        "train_dataset_dir": text(),
        "val_dataset_dir": text(),
        "label_map": LABEL_MAP,
        "batch_size": integer(2, 1),
        "workers": integer(8, 0),
        "clips_per_video": integer(1, 1),
    }),
    **under("dataset.augmentation_config", {
        "train_crop_type": one_of("random_crop", "multi_scale_crop", "no_crop"),
        "scales": values([1]),
        "horizontal_flip_prob": number(0.5, 0, 1),
        "rgb_input_mean": values([0.485, 0.456, 0.406]),
        "rgb_input_std": values([0.229, 0.224, 0.225]),
        "of_input_mean": values([0.5]),
        "of_input_std": values([0.5]),
        "val_center_crop": flag(False),
        "crop_smaller_edge": integer(256, 1),
    }),
    **under("train", {
        "optim.lr": number(5e-4, 0, automl=SEARCHED),
        "optim.momentum": number(0.9, 0, 1),
        "optim.weight_decay": number(5e-4, 0),
        "optim.lr_scheduler": one_of("MultiStep", "AutoReduce"),
        "optim.lr_monitor": one_of("val_loss", "train_loss"),
        "optim.patience": integer(1),
        "optim.min_lr": number(1e-4, 0),
        "optim.lr_steps": values([15, 25], "list_2"),
        "optim.lr_decay": number(0.1, 0, 1),
        "clip_grad_norm": number(0.0, 0),
    }),
    **under("evaluate", {
        **PREDICT,
        "batch_size": integer(1, 1),
        "test_dataset_dir": text("???"),
        "video_eval_mode": one_of("center", "conv", "all"),
        "video_num_segments": integer(10),
    }),
    **under("inference", {
        **PREDICT,
        "batch_size": integer(1, 1),
        "inference_dataset_dir": text("???"),
        "video_inf_mode": one_of("center", "conv", "all"),
        "video_num_segments": integer(1),
    }),
    **under("export", {
        "checkpoint": text("???"),
        "onnx_file": text(),
        "gpu_id": integer(0),
        "batch_size": integer(1, 1),
        "results_dir": text(),
    }),
}  # fmt: skip

FILES = {"data_path": text(), "label_path": text()}
POSE_CLASSIFICATION = {
    "model_name": text("", runtime="pose_classification"),
    **TOP,
    **TRAIN,
    **under("model", {
        "model_type": one_of("ST-GCN"),
        "pretrained_model_path": text(),
        "input_channels": integer(3, 1),
        "dropout": number(0.5, 0, 1, automl=SEARCHED),
        "graph_layout": one_of("nvidia", "openpose", "human3.6m", "ntu-rgb+d", "ntu_edge", "coco"),
        "graph_strategy": one_of("uniform", "distance", "spatial", default="spatial"),
        "edge_importance_weighting": flag(True),
    }),
    **under("dataset.train_dataset", FILES),
    **under("dataset.val_dataset", FILES),
    **under("dataset", {
        "num_classes": integer(6, 1),
        "label_map": LABEL_MAP,
        "random_choose": flag(False),
        "random_move": flag(False),
        "window_size": integer(-1, -1, automl=SEARCHED),
        "batch_size": integer(16, 1),
        "num_workers": integer(1, 1),
    }),
    **under("train", {
        "optim.optimizer_type": one_of("torch.optim.SGD", "torch.optim.Adam",
                                       "torch.optim.Adamax"),
        "optim.lr": number(0.1, 0, automl=SEARCHED),
        "optim.momentum": number(0.9, 0, automl=SEARCHED),
        "optim.nesterov": flag(True),
        "optim.weight_decay": number(1e-4, 0, automl=SEARCHED),
        "optim.lr_scheduler": one_of("AutoReduce", "MultiStep", default="MultiStep"),
        "optim.lr_monitor": one_of("val_loss", "train_loss"),
        "optim.patience": integer(1, 1, automl=SEARCHED),
        "optim.min_lr": number(1e-4, 0),
        "optim.lr_steps": values([10, 60], "list_2"),
        "optim.lr_decay": number(0.1, 0, automl=SEARCHED),
        "grad_clip": number(0.0, 0, automl=SEARCHED),
    }),
    **under("evaluate", {**PREDICT, **under("test_dataset", FILES)}),
    **under("inference", {**PREDICT, **under("test_dataset", FILES), "output_file": text()}),
    **under("export", {
        "checkpoint": text(),
        "onnx_file": text(),
        "gpu_id": integer(0, 0),
        "results_dir": text(),
    }),
    **under("dataset_convert", {
        "results_dir": text(),
        "data": text(),
        "pose_type": one_of("3dbp", "25dbp", "2dbp"),
        "num_joints": integer(34, 1),
        "input_width": integer(1920, 1),
        "input_height": integer(1080, 1),
        "focal_length": number(1200.0, 0),
        "sequence_length_max": integer(300, 1),
        "sequence_length_min": integer(10, 1),
        "sequence_length": integer(100, 1),
        "sequence_overlap": number(0.5, 0, 1),
    }),
}  # fmt: skip

FIELDS = {
    "action_recognition": ACTION_RECOGNITION,
    "pose_classification": POSE_CLASSIFICATION,
}
# Blocks, which AutoML never searches as a whole.
_BLOCKS = ("wandb", "model", "dataset", "train", "train.cudnn", "train.optim", "evaluate",
           "inference", "export")  # fmt: skip
BLOCKS = {
    "action_recognition": {*_BLOCKS, "dataset.augmentation_config"},
    "pose_classification": {
        *_BLOCKS, "dataset_convert", "dataset.train_dataset", "dataset.val_dataset",
        "evaluate.test_dataset", "inference.test_dataset",
    },
}  # fmt: skip
_POPULAR = {"num_gpus": 1, "gpu_ids": [0], "num_nodes": 1}
POPULAR = {
    "train": {**_POPULAR, "num_epochs": 10, "checkpoint_interval": 1, "validation_interval": 1},
    "evaluate": _POPULAR,
    "inference": _POPULAR,
}

# What must be set, by network and action (the smallest specs that TAO runs).
_PATHS = {"results_dir": "out"}
_CLIPS = {"dataset.label_map": {"catch": 0, "smile": 1}, "model.backbone": "resnet_18"}
_POSES = {
    "dataset.num_classes": 2,
    "dataset.label_map": {"sit": 0, "stand": 1},
    "model.graph_layout": "nvidia",
}
MINIMAL = {
    "action_recognition": {
        "train": {**_PATHS, "dataset.train_dataset_dir": "train", **_CLIPS},
        "evaluate": {**_PATHS, **_CLIPS, "evaluate.checkpoint": "m.pth",
                     "evaluate.test_dataset_dir": "test"},
        "inference": {**_PATHS, **_CLIPS, "inference.checkpoint": "m.pth",
                      "inference.inference_dataset_dir": "test/smile"},
        "export": {**_PATHS, **_CLIPS, "export.checkpoint": "m.pth", "export.onnx_file": "m.onnx"},
    },
    "pose_classification": {
        "dataset_convert": {**_PATHS, "dataset_convert.data": "poses.json",
                            "dataset_convert.pose_type": "3dbp", "dataset_convert.num_joints": 34},
        "train": {
            **_PATHS,
            **_POSES,
            "dataset.train_dataset.data_path": "train_data.npy",
            "dataset.train_dataset.label_path": "train_label.pkl",
            "dataset.val_dataset.data_path": "val_data.npy",
            "dataset.val_dataset.label_path": "val_label.pkl",
        },
        "evaluate": {**_PATHS, **_POSES, "evaluate.checkpoint": "m.pth",
                     "evaluate.test_dataset.data_path": "val_data.npy",
                     "evaluate.test_dataset.label_path": "val_label.pkl"},
        "inference": {**_PATHS, **_POSES, "inference.checkpoint": "m.pth",
                      "inference.test_dataset.data_path": "test_data.npy",
                      "inference.output_file": "results.txt"},
        "export": {**_PATHS, **_POSES, "export.checkpoint": "m.pth",
                   "export.onnx_file": "m.onnx"},
    },
}  # fmt: skip

# How a job finds a value, by network and action; the first entry of each is of all actions.
_ALL = {"encryption_key": "key", "results_dir": "output_dir"}
_RESUME = {"train.resume_training_checkpoint_path": "resume_model"}
_EXPORT = {"export.checkpoint": "parent_model", "export.onnx_file": "create_onnx_file"}
SPEC_PARAMS = {
    "action_recognition": {
        "train": {
            **_ALL,
            **_RESUME,
            "model.of_pretrained_model_path": "ptm_if_no_resume_model",
            "model.rgb_pretrained_model_path": "ptm_if_no_resume_model",
        },
        "evaluate": {**_ALL, "evaluate.checkpoint": "parent_model"},
        "inference": {**_ALL, "inference.checkpoint": "parent_model"},
        "export": {**_ALL, **_EXPORT},
    },
    "pose_classification": {
        "dataset_convert": {**_ALL, "dataset_convert.results_dir": "output_dir"},
        "train": {**_ALL, **_RESUME, "model.pretrained_model_path": "ptm_if_no_resume_model"},
        "evaluate": {**_ALL, "evaluate.checkpoint": "parent_model"},
        "inference": {
            **_ALL,
            "inference.checkpoint": "parent_model",
            "inference.output_file": "create_inference_result_file_pose",
        },
        "export": {**_ALL, **_EXPORT},
    },
}

# Where a job's data sets hold an input: (TAO's data set, file).
_TRAIN_SETS = "train_datasets"
DATA_SOURCES = {
    "action_recognition": {
        "train": {
            "dataset.train_dataset_dir": (_TRAIN_SETS, "train.tar.gz"),
            "dataset.val_dataset_dir": (_TRAIN_SETS, "test.tar.gz"),
        },
        "evaluate": {"evaluate.test_dataset_dir": (_TRAIN_SETS, "test.tar.gz")},
        "inference": {"inference.inference_dataset_dir": (_TRAIN_SETS, "test/smile.tar.gz")},
    },
    "pose_classification": {
        "dataset_convert": {"dataset_convert.data": ("id", None)},
        "train": {
            "dataset.train_dataset.data_path": (_TRAIN_SETS, "train_data.npy"),
            "dataset.train_dataset.label_path": (_TRAIN_SETS, "train_label.pkl"),
            "dataset.val_dataset.data_path": (_TRAIN_SETS, "val_data.npy"),
            "dataset.val_dataset.label_path": (_TRAIN_SETS, "val_label.pkl"),
        },
        "evaluate": {
            "evaluate.test_dataset.data_path": (_TRAIN_SETS, "val_data.npy"),
            "evaluate.test_dataset.label_path": (_TRAIN_SETS, "val_label.pkl"),
        },
        "inference": {
            "inference.test_dataset.data_path": (_TRAIN_SETS, "test_data.npy"),
            "inference.test_dataset.label_path": (_TRAIN_SETS, "test_label.pkl"),
        },
    },
}
SHORT_KEYS = {
    "action_recognition": {
        "num_epochs": "train.num_epochs",
        "batch_size": "dataset.batch_size",
        "learning_rate": "train.optim.lr",
    },
    "pose_classification": {
        "num_epochs": "train.num_epochs",
        "batch_size": "dataset.batch_size",
        "learning_rate": "train.optim.lr",
        "evaluate_batch_size": "evaluate.batch_size",
        "inference_batch_size": "inference.batch_size",
        "num_gpus": "train.num_gpus",
        "num_workers": "dataset.num_workers",
        "num_classes": "dataset.num_classes",
        "graph_layout": "model.graph_layout",
        "resume_checkpoint": "train.resume_training_checkpoint_path",
        "pretrained_model": "model.pretrained_model_path",
        "export_onnx": "export.onnx_file",
        "inference_output_file": "inference.output_file",
    },
}
