"""Two labels acted out by bodies of coco's 17 joints, in videos whose key points lie beside them.

A scene is a list of frames, each a list of (V, 3) x, y, confidence in pixels of SIZE. With the
estimator `files`, analysis needs no pose model.
"""

import json
from pathlib import Path

import numpy as np

from kineme.actions import train
from kineme.data.labels import Labels, write_labels
from kineme.data.video import write_video
from kineme.network import load_network
from kineme.people import command
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

LAYOUT = LAYOUTS["coco"]
CLASSES = ("still", "wave")
FPS, WIDTH, HEIGHT = 10, 160, 120
FILES = "files.format=coco"  # of the key points that `write_scene` writes
_AT = {name: place for place, name in enumerate(LAYOUT.joints)}
_STANDING = {
    "nose": (0, -42), "eye": (2, -44), "ear": (4, -43), "shoulder": (9, -32), "elbow": (12, -18),
    "wrist": (13, -5), "hip": (6, 0), "knee": (7, 20), "ankle": (7, 40),
}  # fmt: skip


def act(label, num_frames, *, x=80.0, seed=0):
    """(T, 17, 3) of somebody at `x` who stands still or waves both arms twice a second."""
    rng = np.random.default_rng(seed)
    body = np.zeros((len(LAYOUT.joints), 2))
    for name, place in _AT.items():
        side, _, joint = name.partition("_")
        dx, dy = _STANDING[joint or side]
        body[place] = (-dx if side == "right" else dx, dy)
    frames = np.tile(body, (num_frames, 1, 1))
    if label == "wave":
        lift = 25 * (1 + np.sin(2 * np.pi * 2 * np.arange(num_frames) / FPS + seed))
        for side in ("left", "right"):
            frames[:, _AT[f"{side}_wrist"], 1] -= lift
            frames[:, _AT[f"{side}_elbow"], 1] -= lift / 2
    frames += rng.normal(0, 0.3, frames.shape) + np.array([x, 70])
    return np.concatenate([frames, np.full((*frames.shape[:2], 1), 0.9)], axis=2)


def scene_of(*people):
    """Frames of people who all begin with the first; a person is (T, 17, 3), None for no frame."""
    length = max(map(len, people))
    return [
        [person[t] for person in people if t < len(person) and np.isfinite(person[t]).all()]
        for t in range(length)
    ]


def absent(num_frames):
    """(T, 17, 3) of nobody."""
    return np.full((num_frames, 17, 3), np.nan)


def write_scene(folder: Path, scene, *, name="clip"):
    """The video and its key points as COCO results; returns both paths."""
    entries = [
        {"image_id": number, "keypoints": np.round(person, 3).ravel().tolist()}
        for number, people in enumerate(scene)
        for person in people
    ]
    points = folder / f"{name}.json"
    points.write_text(json.dumps(entries))
    video = folder / f"{name}.mp4"
    write_video(video, (_painted(people, t) for t, people in enumerate(scene)), FPS)
    return video, points


def _painted(people, number):
    frame = np.full((HEIGHT, WIDTH, 3), 60 + number % 3, np.uint8)
    for person in people:
        for x, y, _ in person:
            frame[max(int(y) - 2, 0) : int(y) + 2, max(int(x) - 2, 0) : int(x) + 2] = 220
    return frame


def train_actor(folder: Path, *words):
    """A checkpoint that tells the two labels apart, from windows of 16 frames."""
    generator = np.random.default_rng(5)
    for prefix, num in (("train", 32), ("val", 8)):
        labels = np.arange(num) % 2
        data = np.zeros((num, 3, 20, 17, 1), np.float32)
        for row, label in enumerate(labels):
            person = act(CLASSES[label], 20, x=generator.uniform(40, 120), seed=100 * num + row)
            data[row, :2, :, :, 0] = (person[..., :2] / (WIDTH, HEIGHT) - 0.5).transpose(2, 0, 1)
            data[row, 2, :, :, 0] = person[..., 2]
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(num))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels.astype(np.int64), CLASSES))
    base = [
        f"results_dir={folder}", "model.graph_layout=coco", "train.num_epochs=12",
        "dataset.batch_size=8", "dataset.num_workers=0", "train.tensorboard=false", "device=cpu",
        "dataset.sampling=uniform", "dataset.num_frames=16", "dataset.normalize=center_minmax",
        "train.optim.lr=0.02", "model.dropout=0.0",
        f"dataset.train_dataset.data_path={folder}", f"dataset.val_dataset.data_path={folder}",
    ]  # fmt: skip
    spec, _ = load_spec(SPECS["train"], None, [*base, *words])
    train.run(load_network("pose_classification"), spec)
    return folder / "train" / "best.pth"


def run(video, points, out, *words):
    """`kineme analyze` with key points in place of an estimator."""
    asked = ["--estimator", "files", f"files.path={points}", FILES, f"--out={out}"]
    return command.main([str(video), *asked, *words])
