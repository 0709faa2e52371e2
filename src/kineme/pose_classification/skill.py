"""What a job runner must know of pose classification; plain data, read by `skills`.

Promises: TAO's files, keys and functions; where ours accept more, that comes after TAO's.
Leaves out: the settings themselves (settings.py), what all networks share (skills/skill_info.py).
"""

from kineme.network import DataSource, Skill

_LABELS = {"dataset.label_map": {f"class_{i}": i for i in range(6)}}  # TAO's example
_NO_WANDB = {"wandb.enable": False}


def _data(stem: str) -> DataSource:
    return DataSource("train_datasets", (f"{stem}_data.npy", f"{stem}_data"))


def _labels(stem: str) -> DataSource:
    return DataSource(
        "train_datasets", tuple(f"{stem}_label.{ending}" for ending in ("pkl", "json", "csv"))
    )


SKILL = Skill(
    description=(
        "Tells what people do from their skeletons over time, with a spatial temporal graph "
        "convolutional network (ST-GCN): trains, evaluates, runs and exports a classifier."
    ),
    inputs={
        "dataset_convert": {"dataset_convert.data": "file", "dataset_convert.labels": "file"},
        "train": {
            "dataset.train_dataset.data_path": "file",
            "dataset.train_dataset.label_path": "file",
            "dataset.val_dataset.data_path": "file",
            "dataset.val_dataset.label_path": "file",
            "model.pretrained_model_path": "file",
        },
        "evaluate": {
            "evaluate.test_dataset.data_path": "file",
            "evaluate.test_dataset.label_path": "file",
            "evaluate.unknown_dataset.data_path": "file",
        },
        "inference": {"inference.test_dataset.data_path": "file"},
    },
    sources={
        "dataset_convert": {"dataset_convert.data": DataSource("id")},
        "train": {
            "dataset.train_dataset.data_path": _data("train"),
            "dataset.train_dataset.label_path": _labels("train"),
            "dataset.val_dataset.data_path": _data("val"),
            "dataset.val_dataset.label_path": _labels("val"),
        },
        "evaluate": {
            "evaluate.test_dataset.data_path": _data("val"),
            "evaluate.test_dataset.label_path": _labels("val"),
        },
        "inference": {
            "inference.test_dataset.data_path": _data("test"),
            "inference.test_dataset.label_path": _labels("test"),
        },
    },
    spec_params={
        "train": {"model.pretrained_model_path": "ptm_if_no_resume_model"},
        "inference": {"inference.output_file": "create_inference_result_file_pose"},
    },
    template_values={
        "dataset_convert": {**_NO_WANDB, "wandb.name": "TAO Toolkit Dataset Convert"},
        "train": {**_LABELS, **_NO_WANDB},
        "evaluate": _LABELS,
        "inference": _LABELS,
        "export": _LABELS,
    },
)
