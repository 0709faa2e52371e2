"""A tiny data set and a spec of seconds for every network, and runs of them in own processes.

What a room is to the tests: how its data are made and which words make a spec of them.
`ROOMS` has every entry of NETWORKS, action recognition twice: frames in folders seen by one
stream, video files seen by two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import stick
from clips_made import make_video, picture
from images_made import save_image
from kineme.data.labels import Labels, write_labels
from kineme.network import Network, load_network, load_specs
from kineme.spec.load import load_spec
from tiny_process import CONTEXT, session

NUM_TRAIN, NUM_VAL, BATCH_SIZE = 8, 5, 4
STEPS = NUM_TRAIN // BATCH_SIZE  # of an epoch
HEIGHT, WIDTH = 36, 48  # of frames


@dataclass(frozen=True)
class Room:
    """words: of every training, {data} is the folder that `make` filled.

    validation, test, unlabelled: words that name these data. light: words that make the
    model small, for tests that save it often. contradiction: a word that no checkpoint of
    the room agrees with, and what is said of it. classes: names by id. ids: of the validation
    samples, which are also what is evaluated and classified. stops: steps at which a training
    is stopped and resumed, by the number of its workers.
    """

    network_name: str
    make: Callable[[Path], None]
    words: tuple[str, ...]
    validation: str
    test: str
    unlabelled: str
    no_workers: str
    workers: str
    contradiction: tuple[str, str]
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    stops: Mapping[int, tuple[int, ...]]
    light: tuple[str, ...] = ()

    @property
    def network(self) -> Network:
        return load_network(self.network_name)

    def train_spec(self, data: Path, results: Path, *words: str, validates: bool = True) -> Any:
        base = [
            f"results_dir={results}", "device=cpu", "train.num_epochs=2", "train.tensorboard=false",
            f"dataset.batch_size={BATCH_SIZE}", self.no_workers, *self.words,
            *((self.validation,) if validates else ()),
        ]  # fmt: skip
        return self._spec("train", data, [*base, *words])

    def spec(self, action: str, checkpoint: Path, results: Path, *words: str, data: Path) -> Any:
        """A spec of a later action, which knows the checkpoint and its data alone."""
        names = {"evaluate": [self.test], "inference": [self.unlabelled]}.get(action, [])
        base = [f"results_dir={results}", f"{action}.checkpoint={checkpoint}", "device=cpu"]
        return self._spec(action, data, [*base, self.no_workers, *names, *words])

    def _spec(self, action: str, data: Path, words: list[str]) -> Any:
        filled = [word.replace("{data}", str(data)) for word in words]
        return load_spec(load_specs(self.network_name)[action], None, filled)[0]


def _make_skeletons(folder: Path) -> None:
    for prefix, num, seed in (("train", NUM_TRAIN, 0), ("val", NUM_VAL, 1)):
        data, labels = stick.waves(num, seed)
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(num))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels, stick.CLASSES))
    (folder / "stick.yaml").write_text(yaml.safe_dump(stick.LAYOUT))


def frames_of(label: int, seed: int, num_frames: int = 9) -> Iterator[np.ndarray]:
    """(H, W, 3) pictures that move; class 1 is the darker one."""
    for k in range(num_frames):
        frame = picture(3 * k + seed, height=HEIGHT, width=WIDTH)
        yield frame // (1 + label)


VIDEO_CLASSES = ("catch", "smile")


def _videos() -> Iterator[tuple[str, str, int, int]]:
    """(split, name below the split, class, seed) of every sample."""
    for split, num in (("train", NUM_TRAIN), ("test", NUM_VAL)):
        for i in range(num):
            label = i % 2
            yield split, f"{VIDEO_CLASSES[label]}/v{i}", label, i + 50 * (split == "test")


def _make_frame_folders(folder: Path) -> None:
    for split, name, label, seed in _videos():
        for k, frame in enumerate(frames_of(label, seed), start=1):
            save_image(folder / split / name / "rgb" / f"{k:06d}.png", frame)


def _make_videos(folder: Path) -> None:
    for split, name, label, seed in _videos():
        path = folder / split / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(path, height=HEIGHT, width=WIDTH, frames=list(frames_of(label, seed)))


_VAL_VIDEOS = tuple(sorted(name for split, name, _, _ in _videos() if split == "test"))
_VIDEO_WORDS = (
    "model.input_width=32", "model.input_height=32", "train.optim.lr=0.001",
    "dataset.augmentation_config.crop_smaller_edge=34", "dataset.cache_dir={data}/cache",
    "dataset.train_dataset_dir={data}/train", "dataset.workers=0",
)  # fmt: skip
_VIDEO = {
    "network_name": "action_recognition",
    "validation": "dataset.val_dataset_dir={data}/test",
    "test": "evaluate.test_dataset_dir={data}/test",
    "unlabelled": "inference.inference_dataset_dir={data}/test",
    "no_workers": "dataset.workers=0",
    "workers": "dataset.workers=2",
    "classes": VIDEO_CLASSES,
}

ROOMS = {
    "pose_classification": Room(
        network_name="pose_classification",
        make=_make_skeletons,
        words=(
            "model.layout={data}/stick.yaml", "dataset.normalize=center", "train.optim.lr=0.01",
            "dataset.train_dataset.data_path={data}",
        ),
        validation="dataset.val_dataset.data_path={data}",
        test="evaluate.test_dataset.data_path={data}",
        unlabelled="inference.test_dataset.data_path={data}",
        no_workers="dataset.num_workers=0",
        workers="dataset.num_workers=2",
        contradiction=("model.graph_strategy=uniform", "'spatial' as in {name}, got 'uniform'"),
        classes=stick.CLASSES,
        stops={0: (1, STEPS, STEPS + 1), 2: (STEPS + 1,)},
        ids=tuple(f"val{i}" for i in range(NUM_VAL)),
    ),
    "action_recognition": Room(
        **_VIDEO,
        make=_make_frame_folders,
        words=_VIDEO_WORDS,
        stops={0: (1, STEPS), 2: (STEPS + 1,)},
        light=("model.backbone=efficientnet_lite0", "model.temporal=shift"),
        contradiction=("model.rgb_seq_length=4", "3 as in {name}, got 4"),
        ids=_VAL_VIDEOS,
    ),
    "action_recognition, two streams": Room(
        **_VIDEO,
        make=_make_videos,
        words=(
            *_VIDEO_WORDS, "model.model_type=joint", "model.of_seq_length=2", "model.num_fc=8",
            "model.backbone=efficientnet_lite0", "model.temporal=shift",
        ),
        stops={0: (STEPS + 1,), 2: (1,)},
        contradiction=("model.model_type=rgb", "'joint' as in {name}, got 'rgb'"),
        ids=tuple(f"{name}.mp4" for name in _VAL_VIDEOS),
    ),
}  # fmt: skip


def start(
    title: str,
    data: Path,
    results: Path,
    *words: str,
    action: str = "train",
    faults: dict[str, Any] | None = None,
) -> Any:
    """A process of its own that trains, or evaluates what {results}/train/best.pth is."""
    process = CONTEXT.Process(
        target=_act, args=(title, str(data), str(results), words, action, faults or {})
    )
    process.start()
    return process


def _act(
    title: str, data: str, results: str, words: tuple[str, ...], action: str, faults: dict[str, Any]
) -> None:
    from kineme.actions import evaluate, train

    room, folder = ROOMS[title], Path(results)
    with session(results, faults):
        if "record" in faults:
            _record(folder / "seen.txt")
        if action == "train":
            train.run(room.network, room.train_spec(Path(data), folder, *words))
        else:
            checkpoint = folder / "train" / "best.pth"
            spec = room.spec(action, checkpoint, folder, *words, data=Path(data))
            evaluate.run(room.network, spec)


def _record(path: Path) -> None:
    """Write a line for each training step: epoch, process, samples."""
    from kineme.actions import train

    real = train._step

    def step(job: Any, batch: Any) -> float:
        seen = [job.training.progress.epoch, os.getpid(), *batch.indices.tolist()]
        with open(path, "a") as file:
            file.write(" ".join(map(str, seen)) + "\n")
        return real(job, batch)

    train._step = step
