"""Four joints, three classes and a model trained in a second: for tests of pose actions."""

import csv

import numpy as np
import yaml

from kineme.actions import train
from kineme.data.labels import Labels, write_labels
from kineme.network import load_network
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

NETWORK = load_network("pose_classification")
CLASSES = ("still", "wave, 'hello'", "jump")
LAYOUT = {
    "name": "stick",
    "joints": ["pelvis", "neck", "left_hand", "right_hand"],
    "bones": [["pelvis", "neck"], ["neck", "left_hand"], ["neck", "right_hand"]],
    "centre": "pelvis",
    "num_frames": 16,
}
NUM_FRAMES = 8


def waves(num, seed):
    """(num, 3, T, 4, 1): class 0 stands still, 1 moves a hand, 2 moves everything."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num) % len(CLASSES)
    rest = np.array([[0.1, 0, 2], [0.1, 0.5, 2], [0.4, 0.3, 2], [-0.3, 0.3, 2]], np.float32)
    data = np.tile(rest.T[None, :, None, :, None], (num, 1, NUM_FRAMES, 1, 1))
    swing = np.sin(np.arange(NUM_FRAMES))[None, :]
    phase = generator.random((num, 1)) * 0.2
    data[labels == 1, 1, :, 2, 0] += (swing + phase[labels == 1]).astype(np.float32)
    data[labels == 2, 1, :, :, 0] += (swing + phase[labels == 2])[..., None].astype(np.float32)
    data += generator.normal(scale=0.01, size=data.shape).astype(np.float32)
    return data.astype(np.float32), labels.astype(np.int64)


def train_stick(folder, *, classes=CLASSES, words=()):
    """Data and a training run of two epochs in `folder`; everything else starts here."""
    for prefix, num, seed in (("train", 12, 0), ("val", 7, 1)):
        data, labels = waves(num, seed)
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(num))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels, classes))
    (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
    base = [
        f"results_dir={folder}", f"model.layout={folder / 'stick.yaml'}", "train.num_epochs=2",
        "dataset.batch_size=4", "dataset.num_workers=0", "train.tensorboard=false",
        "dataset.normalize=center", "train.optim.lr=0.01",
        f"dataset.train_dataset.data_path={folder}", f"dataset.val_dataset.data_path={folder}",
    ]  # fmt: skip
    spec, _ = load_spec(SPECS["train"], None, [*base, *words])
    facts = train.run(NETWORK, spec)
    assert facts["train_loss"] > 0
    (folder / "stick.yaml").unlink()  # what follows needs nothing but the checkpoint
    return folder


def spec_of(action, folder, tmp_path, *words):
    section = {"evaluate": "test_dataset.data_path", "inference": "test_dataset.data_path"}
    base = [f"results_dir={tmp_path}", f"{action}.checkpoint={folder / 'train' / 'best.pth'}"]
    if action in section:
        base.append(f"{action}.{section[action]}={folder}")
    return load_spec(SPECS[action], None, [*base, "dataset.num_workers=0", *words])[0]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
