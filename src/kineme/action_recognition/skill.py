"""What a job runner must know of action recognition; plain data, read by `skills`.

Promises: TAO's files, keys and functions; where ours accept more, that comes after TAO's.
Leaves out: the settings themselves (settings.py), what all networks share (skills/skill_info.py).
"""

from kineme.network import DataSource, Skill

_LABELS = {"dataset.label_map": {"catch": 0, "smile": 1}}  # TAO's example

SKILL = Skill(
    description=(
        "Tells what people do in videos, from colour, from optical flow, or from both together: "
        "trains, evaluates, runs and exports a classifier."
    ),
    inputs={
        "dataset_convert": {
            "dataset_convert.data": "folder",
            "dataset_convert.split_dir": "folder",
        },
        "train": {
            "dataset.train_dataset_dir": "folder",
            "dataset.val_dataset_dir": "folder",
            "model.of_pretrained_model_path": "file",
            "model.rgb_pretrained_model_path": "file",
            "model.joint_pretrained_model_path": "file",
            "model.pretrained_model_path": "file",
            "model.imagenet_weights": "file",
        },
        "evaluate": {
            "evaluate.test_dataset_dir": "folder",
            "evaluate.unknown_dataset_dir": "folder",
        },
        "inference": {"inference.inference_dataset_dir": "folder"},
    },
    sources={
        "dataset_convert": {"dataset_convert.data": DataSource("id")},
        "train": {
            "dataset.train_dataset_dir": DataSource("train_datasets", ("train.tar.gz", "train")),
            "dataset.val_dataset_dir": DataSource("train_datasets", ("test.tar.gz", "test")),
        },
        "evaluate": {
            "evaluate.test_dataset_dir": DataSource("train_datasets", ("test.tar.gz", "test")),
        },
        "inference": {
            "inference.inference_dataset_dir": DataSource(
                "train_datasets",
                ("test/smile.tar.gz", "test/smile", "smile", "test.tar.gz", "test"),
            ),
        },
    },
    spec_params={
        "train": {
            "model.of_pretrained_model_path": "ptm_if_no_resume_model",
            "model.rgb_pretrained_model_path": "ptm_if_no_resume_model",
        },
    },
    template_values={
        "dataset_convert": {"wandb.enable": False, "wandb.name": "TAO Toolkit Dataset Convert"},
        "train": _LABELS,
        "evaluate": _LABELS,
        "inference": _LABELS,
        "export": _LABELS,
    },
)
