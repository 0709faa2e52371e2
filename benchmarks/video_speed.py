"""From mp4 to label: this project beside two written-out alternatives, in the same run.

The alternatives: upstream's path (every frame to PNG, the clip's frames read back) and
OpenCV decoding everything. All three see the same 16 frames of 300 and run the same model.
Then: training clips per second, and where the time goes.

    python benchmarks/video_speed.py [--rounds N] [--videos N] [--json FILE]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from kineme.action_recognition.dataset import ClipDataset, View
from kineme.action_recognition.network import NETWORK
from kineme.action_recognition.spec import SPECS
from kineme.data.video import read_frames, write_video
from kineme.network import TRAIN
from kineme.spec.load import load_spec

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pose_speed import machine

NUM_FRAMES, SIZE, CLIP, INPUT = 300, (480, 640), 16, (224, 224)
INDICES = (np.arange(CLIP) * NUM_FRAMES + NUM_FRAMES // 2) // CLIP

Frames = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        videos = [make_video(Path(folder) / f"video{i}.mp4", i) for i in range(arguments.videos)]
        check_same_frames(videos[0])
        tables = {
            "mp4 to label": compare(videos, arguments.rounds),
            "training": training(videos, arguments.rounds),
        }
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **tables}, indent=2) + "\n")


def ours(path: Path) -> Frames:
    """The clip's frames, decoded from the key frames before them, scaled by the decoder."""
    return read_frames(path, INDICES, size=INPUT).frames


def opencv(path: Path) -> Frames:
    """Every frame decoded; those of the clip scaled."""
    capture, chosen, wanted = cv2.VideoCapture(str(path)), [], set(INDICES.tolist())
    for index in range(NUM_FRAMES):
        is_read, frame = capture.read()
        if is_read and index in wanted:
            scaled = cv2.resize(frame, INPUT[::-1], interpolation=cv2.INTER_LINEAR)
            chosen.append(cv2.cvtColor(scaled, cv2.COLOR_BGR2RGB))
    return np.stack(chosen)


def upstream(path: Path) -> Frames:
    """Every frame to a PNG file, as upstream's recipe does; then the clip's files read."""
    with tempfile.TemporaryDirectory() as folder:
        capture = cv2.VideoCapture(str(path))
        for index in range(NUM_FRAMES):
            is_read, frame = capture.read()
            if is_read:
                cv2.imwrite(f"{folder}/{index + 1:06}.png", frame)
        names = sorted(Path(folder).iterdir())
        images = [Image.open(names[i]).convert("RGB") for i in INDICES]
        return np.stack(
            [np.asarray(i.resize(INPUT[::-1], Image.Resampling.BILINEAR)) for i in images]
        )


READERS: dict[str, Callable[[Path], Frames]] = {
    "upstream: every frame to PNG": upstream,
    "OpenCV: every frame decoded": opencv,
    "kineme": ours,
}


def compare(videos: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Videos per second of each way, in one process and in two, interleaved."""
    taken: dict[str, dict[int, list[float]]] = {name: {1: [], 2: []} for name in READERS}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=prepare) as pool:
        prepare()
        list(pool.map(answer, ["kineme"] * 4, [videos[0]] * 4))  # both processes are warm
        for turn in range(rounds + 1):
            for name in READERS:
                alone = seconds(lambda name=name: [answer(name, video) for video in videos])
                both = seconds(
                    lambda name=name: list(pool.map(answer, [name] * len(videos), videos))
                )
                if turn:
                    taken[name][1].append(alone / len(videos))
                    taken[name][2].append(both / len(videos))
    shape = f"{CLIP} of {NUM_FRAMES} frames of {SIZE[1]} x {SIZE[0]}"
    print(f"\nmp4 to label, {shape}, median of {rounds}")
    print(f"  {'':<30}{'1 process':>14}{'':>8}{'2 processes':>14}")
    reference = {n: statistics.median(taken["kineme"][n]) for n in (1, 2)}
    table = {}
    for name, by_processes in taken.items():
        medians = {n: statistics.median(values) for n, values in by_processes.items()}
        cells = "".join(
            f"{1 / medians[n]:>9.1f} /s {medians[n] / reference[n]:>6.1f} x" for n in (1, 2)
        )
        print(f"  {name:<30}{cells}")
        table[name] = {"seconds": by_processes, "times ours": medians[1] / reference[1]}
    print("  (x: how many times as long as kineme takes)")
    return table


_MODEL: list[torch.nn.Module] = []


def prepare() -> None:
    """A model in this process, one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if not _MODEL:
        _MODEL.append(NETWORK.build_model(spec("resnet_18", "stack")).eval())


def answer(name: str, path: Path) -> int:
    """The label of a video, its frames read one of three ways."""
    frames = READERS[name](path)
    x = torch.from_numpy(frames).float().div_(255).sub_(0.5).div_(0.5)
    packed = x.permute(3, 0, 1, 2).reshape(1, -1, *INPUT)  # (1, C T, H, W)
    with torch.inference_mode():
        return int(_MODEL[0](rgb=packed).argmax())


def training(videos: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Clips per second of a training step on one thread, and the share of each part."""
    from kineme.action_recognition.sources import Video, Videos

    asked = spec("efficientnet_lite0", "shift")
    items = tuple(Video(f"v{i}", v, i % 2, NUM_FRAMES, 30.0, SIZE) for i, v in enumerate(videos))
    dataset = ClipDataset(Videos(items * 2), View(asked, seed=0, is_random=True))
    model = NETWORK.build_model(asked).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    parts: dict[str, list[float]] = {"decode and crop": [], "transform": [], "model": []}
    for turn in range(rounds + 1):
        indices = np.arange(len(dataset))
        start = time.perf_counter()
        batch = dataset.read(indices, turn)
        middle = time.perf_counter()
        batch = dataset.transform(batch, turn)
        ready = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(**batch.inputs), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if turn:
            moments = (middle - start, ready - middle, time.perf_counter() - ready)
            for name, value in zip(parts, moments, strict=True):
                parts[name].append(value)
    medians = {name: statistics.median(values) for name, values in parts.items()}
    total = sum(medians.values())
    title = "Training, efficientnet_lite0 with shift, 8 frames"
    print(f"\n{title}, {len(dataset)} clips a step, 1 thread")
    print(f"  {len(dataset) / total:.2f} clips/s")
    for name, value in medians.items():
        milliseconds, share = value / len(dataset) * 1000, 100 * value / total
        print(f"  {name:<18}{milliseconds:>8.1f} ms per clip {share:>5.1f} %")
    return {"clips_per_second": len(dataset) / total, "seconds": parts}


def spec(backbone: str, temporal: str) -> Any:
    length = CLIP if temporal == "stack" else 8
    asked = {
        "model.backbone": backbone,
        "model.temporal": temporal,
        "model.rgb_seq_length": length,
        "dataset.label_map": {"a": 0, "b": 1},
        "dataset.train_dataset_dir": "unused",
        "results_dir": "unused",
    }
    return load_spec(SPECS[TRAIN], None, asked)[0]


def make_video(path: Path, seed: int) -> Path:
    """Moving texture, H.264 with B frames, a key frame every 48."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (80, 120, 3), np.uint8)
    picture = cv2.resize(small, (960, 640), interpolation=cv2.INTER_CUBIC)
    height, width = SIZE

    def frames() -> Any:
        for i in range(NUM_FRAMES):
            left, top = int(150 + 150 * np.sin(i / 40)), int(75 + 75 * np.cos(i / 30))
            yield picture[top : top + height, left : left + width]

    write_video(path, frames(), fps=30)
    return path


def check_same_frames(path: Path) -> None:
    """Frames by index are those of decoding everything, bit for bit."""
    whole = read_frames(path, np.arange(NUM_FRAMES)).frames
    if not np.array_equal(read_frames(path, INDICES).frames, whole[INDICES]):
        sys.exit("a frame by index is not the frame of a full decode")
    print("frames by index are those of a full decode, bit for bit")


def seconds(timed: Callable[[], object]) -> float:
    start = time.perf_counter()
    timed()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
