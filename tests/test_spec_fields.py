"""TAO's fields, defaults and bounds, written out by hand; ours must not change its behaviour."""

import pytest

from kineme.pose_classification.spec import SPECS
from kineme.spec.fields import Section, block, describe, setting, settings, settings_by_key

COMPUTE = {"num_gpus": 1, "gpu_ids": [0], "num_nodes": 1}
PREDICT = {**COMPUTE, "checkpoint": None, "trt_engine": None, "results_dir": None, "batch_size": -1,
           "test_dataset.data_path": None, "test_dataset.label_path": None}  # fmt: skip
TAO_DEFAULTS = {
    "": {"model_name": "pose_classification", "encryption_key": None, "results_dir": None},
    "wandb.": {"enable": True, "project": "TAO Toolkit", "entity": None, "group": None,
               "tags": ["training", "tao-toolkit"], "reinit": False, "sync_tensorboard": False,
               "save_code": False, "name": "TAO Toolkit training experiment", "run_id": None},
    "model.": {"model_type": "ST-GCN", "pretrained_model_path": None, "input_channels": 3,
               "dropout": 0.5, "graph_layout": "nvidia", "graph_strategy": "spatial",
               "edge_importance_weighting": True},
    "dataset.": {"train_dataset.data_path": None, "train_dataset.label_path": None,
                 "val_dataset.data_path": None, "val_dataset.label_path": None, "num_classes": 6,
                 "label_map": None, "random_choose": False, "random_move": False,
                 "window_size": -1, "batch_size": 16, "num_workers": 1},
    "train.": {**COMPUTE, "seed": 1234, "cudnn.benchmark": False, "cudnn.deterministic": True,
               "num_epochs": 10, "checkpoint_interval": 1, "checkpoint_interval_unit": "epoch",
               "validation_interval": 1, "resume_training_checkpoint_path": None,
               "results_dir": None, "grad_clip": 0.0},
    "train.optim.": {"optimizer_type": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9,
                     "nesterov": True, "weight_decay": 1e-4, "lr_scheduler": "MultiStep",
                     "lr_monitor": "val_loss", "patience": 1, "min_lr": 1e-4,
                     "lr_steps": [10, 60], "lr_decay": 0.1},
    "evaluate.": PREDICT,
    "inference.": {**PREDICT, "output_file": None},
    "export.": {"checkpoint": None, "onnx_file": None, "gpu_id": 0, "results_dir": None},
    "dataset_convert.": {"results_dir": None, "data": None, "pose_type": "3dbp", "num_joints": 34,
                         "input_width": 1920, "input_height": 1080, "focal_length": 1200.0,
                         "sequence_length_max": 300, "sequence_length_min": 10,
                         "sequence_length": 100, "sequence_overlap": 0.5},
}  # fmt: skip
BOUNDS = {
    "train.num_epochs": "an integer >= 1",
    "train.seed": "an integer in [-1, 4294967295]",
    "train.optim.lr": "a number >= 0",
    "train.optim.patience": "an integer >= 1",
    "train.checkpoint_interval_unit": "one of 'epoch', 'step'",
    "train.label_smoothing": "a number in [0, 1)",
    "train.class_weights": "one of 'balanced', 'none' or a list of numbers >= 0",
    "train.gpu_ids": "a list of integers >= 0",
    "model.dropout": "a number in [0, 1]",
    "model.graph_strategy": "one of 'distance', 'spatial', 'uniform'",
    "dataset.label_map": "a mapping of names to integers >= 0",
    "dataset.random_move": "true or false",
    "dataset.augmentation.scale": "a list of 2 numbers > 0",
    "evaluate.batch_size": "an integer >= -1",
    "dataset_convert.focal_length": "a number > 0",
    "results_dir": "text",
}


@pytest.mark.parametrize("action", SPECS)
def test_every_field_of_tao_is_there_with_its_default_and_the_rest_is_marked_as_ours(action):
    expected = {
        prefix + key: value for prefix, keys in TAO_DEFAULTS.items() for key, value in keys.items()
    }
    found = {one.key: one.default for one in settings(SPECS[action]) if not one.rule.ours}
    assert found == expected


@pytest.mark.parametrize(("key", "words"), BOUNDS.items())
def test_a_field_says_what_it_expects(key, words):
    assert describe(settings_by_key(SPECS["train"])[key]) == words


class _Inner(Section):
    share: float = setting(0.5, "a share", gt=0, lt=1)


class _Outer(Section):
    inner: _Inner = block(_Inner, "a block")
    names: list[str] = setting(["a"], "names", choices=("a", "b"))


@pytest.mark.parametrize(
    ("tree", "is_valid"),
    [
        ({}, True),
        ({"inner": {"share": 0.001}}, True),
        ({"inner": {"share": 0}}, False),
        ({"inner": {"share": 1}}, False),
        ({"names": ["b", "a"]}, True),
        ({"names": ["c"]}, False),
        ({"other": 1}, False),
    ],
)
def test_open_bounds_choices_and_unknown_keys_are_checked(tree, is_valid):
    if is_valid:
        _Outer.model_validate(tree)
    else:
        with pytest.raises(ValueError, match="validation error"):
            _Outer.model_validate(tree)
