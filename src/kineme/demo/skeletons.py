"""The demo's first half: pose classification, every action of it.

Promises: bodies and views of validation and test are none of training's.
Leaves out: how sequences are made up (synthetic.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kineme import synthetic
from kineme.data.labels import Labels, write_labels
from kineme.demo.steps import CHANCE, KNOWN, LABEL_MAP, NEW, Log, call, machine
from kineme.files import atomic_write

NETWORK = "pose_classification"
NUM_TRAIN, NUM_VAL, NUM_TEST, NUM_FRAMES = 480, 60, 120, 64
SPEC: Mapping[str, Any] = {  # small enough for two cores and a minute
    "model.graph_layout": "nvidia",
    "model.dropout": 0.0,
    "dataset.sampling": "uniform",
    "dataset.num_frames": 16,
    "dataset.batch_size": 12,
    "dataset.num_workers": 0,
    "train.num_epochs": 6,
    "train.optim.optimizer_type": "Adam",
    "train.optim.lr": 1.5e-3,
    "train.optim.weight_decay": 5e-4,
    "train.optim.lr_scheduler": "cosine",
    "train.optim.warmup_epochs": 1,
    "train.checkpoint_interval": 6,
    "train.tensorboard": False,
    "evaluate.occlusion": True,
}


def run(folder: Path, seed: int, log: Log) -> Path:
    """All steps, into `folder`; returns the path of the report."""
    with log.step("people") as tell:
        tell(make_data(folder / "data", seed))
    base = {
        **SPEC,
        **machine(),
        "results_dir": str(folder),
        "dataset.label_map": LABEL_MAP,
        "train.seed": seed,
    }
    checkpoint = str(folder / "train" / "pc_model_latest.pth")

    with log.step("train") as tell:
        sets = _files("dataset.train_dataset", folder, "train")
        sets |= _files("dataset.val_dataset", folder, "val")
        facts = call(NETWORK, "train", {**base, **sets})
        right = 100 * facts["train_acc"]
        tell(f"{SPEC['train.num_epochs']} epochs, {right:.1f} % right in the last")
    with log.step("evaluate") as tell:
        sets = _files("evaluate.test_dataset", folder, "test")
        facts = call(NETWORK, "evaluate", {**base, **sets, "evaluate.checkpoint": checkpoint})
        tell(f"{facts['accuracy']:.1f} % right on new people and views; {CHANCE}")
    with log.step("inference") as tell:
        sets = _files("inference.test_dataset", folder, "test")
        facts = call(NETWORK, "inference", {**base, **sets, "inference.checkpoint": checkpoint})
        tell(f"{facts['samples']} labels in inference/predictions.csv")
    with log.step("export") as tell:
        facts = call(NETWORK, "export", {**base, "export.checkpoint": checkpoint})
        tell(f"export/model.onnx, within {facts['parity']['max_abs_difference']:.0e} of the model")
    return folder / "evaluate" / "report.html"


def make_data(folder: Path, seed: int) -> str:
    """Write training, validation and test sets; bodies and views of the last two are new."""
    sets = (("train", NUM_TRAIN, KNOWN), ("val", NUM_VAL, NEW), ("test", NUM_TEST, NEW))
    for i, (name, number, people) in enumerate(sets):
        made = synthetic.make_exercises(
            number,
            3 * seed + i,
            bodies=people.bodies,
            views=people.views,
            num_frames=NUM_FRAMES,
        )
        with atomic_write(folder / f"{name}_data.npy") as file:
            np.save(file, made.data)
        labels = Labels(made.ids, made.labels, made.class_names, "nvidia")
        write_labels(folder / f"{name}_label.json", labels)
    return f"{NUM_TRAIN} sequences of {len(KNOWN.bodies)} bodies, {NUM_TEST} of new ones"


def _files(section: str, folder: Path, name: str) -> dict[str, str]:
    return {
        f"{section}.data_path": str(folder / "data" / f"{name}_data.npy"),
        f"{section}.label_path": str(folder / "data" / f"{name}_label.json"),
    }
