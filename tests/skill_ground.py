"""The folders that the commands of the skills expect, small: a function for each network.

`GROUNDS[network](folder)` fills the folder in which the commands are run: skeletons of made-up
exercises, short videos of two classes, and the files of other programs that the pages name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kineme import synthetic
from kineme.data.labels import Labels, write_labels
from rooms import HEIGHT, VIDEO_CLASSES, WIDTH, frames_of, make_video

NUM_SAMPLES = {"train": 36, "val": 12, "test": 12}
NUM_FRAMES = 24


def make_skeletons(folder: Path) -> None:
    """data/, new.npy, clips/ of MediaPipe, bodypose.json with tracks.csv."""
    data = folder / "data"
    data.mkdir()
    for seed, (name, number) in enumerate(NUM_SAMPLES.items()):
        made = synthetic.make_exercises(number, seed, num_frames=NUM_FRAMES)
        np.save(data / f"{name}_data.npy", made.data)
        write_labels(
            data / f"{name}_label.json", Labels(made.ids, made.labels, made.class_names, "nvidia")
        )
    np.save(folder / "new.npy", np.load(data / "test_data.npy")[:5])
    for split in ("train", "val"):
        for i in range(4):
            path = folder / "clips" / split / ("squat", "lunge")[i % 2] / f"{i}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps([_landmarks(t, i + 10 * (split == "val"), 33) for t in range(12)])
            )
    tracks = {0: "walking", 1: "standing"}
    frames = [
        {
            "frame_num": t,
            "objects": [
                {"object_id": one, "pose3d": [x for point in _landmarks(t, one, 34) for x in point]}
                for one in tracks
            ],
        }
        for t in range(20)
    ]
    batches = [{"num_frames_in_batch": 1, "batches": [frame]} for frame in frames]
    (folder / "bodypose.json").write_text(json.dumps(batches))
    lines = ["object_id,label", *(f"{one},{label}" for one, label in tracks.items())]
    (folder / "tracks.csv").write_text("\n".join(lines) + "\n")


def _landmarks(t: int, who: int, number: int) -> list[list[float]]:
    """x, y, z and confidence of joints that swing."""
    return [[0.5 + 0.1 * np.sin(t / 3 + who + j), 0.02 * j, 0.01 * who, 1.0] for j in range(number)]


def make_videos(folder: Path) -> None:
    """data/{train,test}/<class>, its archive and list, clips/ without classes, videos/, frames."""
    num = {"train": 8, "test": 4}
    for split, number in num.items():
        for i in range(number):
            label = i % 2
            path = folder / "data" / split / VIDEO_CLASSES[label] / f"v{i}.mp4"
            _film(path, label, i + 50 * (split == "test"))
    for i in range(3):
        _film(folder / "clips" / f"unknown{i}.mp4", i % 2, 80 + i)
    shutil.copytree(folder / "data" / "test", folder / "videos")
    shutil.make_archive(str(folder / "train"), "gztar", folder / "data", "train")
    rows = [
        f"data/{split}/{VIDEO_CLASSES[i % 2]}/v{i}.mp4,{VIDEO_CLASSES[i % 2]},{name},,"
        for split, name in (("train", "train"), ("test", "val"))
        for i in range(num[split])
    ]
    (folder / "list.csv").write_text("\n".join(["path,label,split,start,end", *rows]) + "\n")


def _film(path: Path, label: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    make_video(path, height=HEIGHT, width=WIDTH, frames=list(frames_of(label, seed)))


GROUNDS: Mapping[str, Callable[[Path], None]] = {
    "pose_classification": make_skeletons,
    "action_recognition": make_videos,
}
