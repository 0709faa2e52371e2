"""Both networks ready for inference in a second: data, an untrained checkpoint, processes.

A process runs inference with every read of samples written down, slowed if asked, so that a
test can kill it in the middle and count what was computed.
"""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clips_made import make_video, picture
from kineme.engine import checkpoint as checkpoints
from kineme.network import load_network, load_specs
from kineme.spec.load import load_spec
from kineme.spec.schema import resolved
from stick import LAYOUT, waves
from tiny_process import CONTEXT

VIDEOS, SKELETONS = "action_recognition", "pose_classification"
NETWORKS = (VIDEOS, SKELETONS)
LABELS = ("jump", "walk", "wave, 'hello'")
LABEL_MAP = "{jump: 0, walk: 1, \"wave, 'hello'\": 2}"
TRAINED = {
    VIDEOS: [
        "model.backbone=efficientnet_lite0", "model.temporal=shift", "model.input_width=32",
        "model.input_height=32", "dataset.train_dataset_dir=x",
        "dataset.augmentation_config.crop_smaller_edge=32",
    ],
    SKELETONS: ["dataset.train_dataset.data_path=x", "dataset.num_classes=3"],
}  # fmt: skip
WORKERS = {VIDEOS: "dataset.workers", SKELETONS: "dataset.num_workers"}
DATA = {VIDEOS: "inference.inference_dataset_dir", SKELETONS: "inference.test_dataset.data_path"}
# one server for all tests, so it loads what both modules need
CONTEXT.set_forkserver_preload(
    [
        "tiny_process", "tiny", "kineme.actions.train", "kineme.engine.ranks", "inferred",
        "kineme.actions.inference", "kineme.action_recognition.network",
    ]
)  # fmt: skip


def untrained(name: str, folder: Path, *more: str, seed: int = 3) -> Path:
    """A checkpoint of a small model with three classes, as it is before training."""
    import yaml

    network = load_network(name)
    words = [*TRAINED[name], f"dataset.label_map={LABEL_MAP}", *more]
    if name == SKELETONS:
        (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
        words.append(f"model.layout={folder / 'stick.yaml'}")
    spec, _ = load_spec(load_specs(name)["train"], None, [f"results_dir={folder}", *words])
    torch.manual_seed(seed)
    model = network.build_model(spec)
    facts = {
        "format": checkpoints.FORMAT,
        "network": name,
        "spec": resolved(spec),
        "class_names": list(LABELS),
    }
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = folder / f"{name}.pth"
    checkpoints.save(path, {"state_dict": weights, "kineme": facts})
    return path


def make_data(name: str, folder: Path, count: int) -> Path:
    """`count` unlabelled samples: four small videos again and again, or skeletons."""
    if name == SKELETONS:
        np.save(folder / "data.npy", waves(count, 5)[0])
        return folder / "data.npy"
    (folder / "videos").mkdir()
    for k in range(count):
        path = folder / "videos" / f"{k:03d}.mp4"
        if k < 4:
            frames = [picture(40 * k + i, height=32, width=48) for i in range(5)]
            make_video(path, frames=frames, height=32, width=48, codec="mpeg4", b_frames=0)
        else:
            shutil.copyfile(folder / "videos" / f"{k % 4:03d}.mp4", path)
    return folder / "videos"


def words_of(name: str, checkpoint: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        f"results_dir={out}", f"inference.checkpoint={checkpoint}", f"{DATA[name]}={data}",
        f"{WORKERS[name]}=0", "inference.batch_size=1", "device=cpu", *more,
    ]  # fmt: skip


def spec_of(name: str, words: list[str]) -> Any:
    return load_spec(load_specs(name)["inference"], None, words)[0]


def start(name: str, words: list[str], log: Path, *, seconds: float = 0.0) -> Any:
    """A process, leader of its own session, that infers; the samples that it reads go to `log`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    process = CONTEXT.Process(target=_infer, args=(name, words, str(log), seconds))
    process.start()
    return process


def reads_in(log: Path) -> list[int]:
    """Samples that were read, in order, by all processes that wrote to `log`."""
    return [int(word) for word in log.read_text().split()] if log.exists() else []


def _infer(name: str, words: list[str], log: str, seconds: float) -> None:
    os.setsid()
    from kineme.actions import inference
    from kineme.engine import ranks
    from kineme.errors import KinemeError

    torch.set_num_threads(1)
    ranks.START_METHOD = "fork"
    descriptor = os.open(f"{log}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    write_reads_down(name, Path(log), seconds)
    try:
        inference.run(load_network(name), spec_of(name, words))
    except KinemeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)


def write_reads_down(name: str, log: Path, seconds: float) -> None:
    """From now on, in this process: each read is a line in `log`, and takes so long."""
    from kineme.action_recognition.dataset import ClipDataset
    from kineme.pose_classification.dataset import SkeletonDataset

    dataset: Any = ClipDataset if name == VIDEOS else SkeletonDataset
    read = dataset.read

    def watched(self: Any, indices: Any, epoch: int) -> Any:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, (" ".join(map(str, indices)) + "\n").encode())
        os.close(descriptor)
        time.sleep(seconds)
        return read(self, indices, epoch)

    dataset.read = watched
