"""How long pose estimators take for a frame, one thread, and how much of it the models are.

Each is held against a written-out alternative on the same frames, in interleaved rounds: BlazePose
that follows people from their joints against detection in every frame; MoveNet against its model
alone, on pictures that are ready.

    python benchmarks/people_speed.py VIDEO ... [--frames N] [--rounds N] [--json FILE]

The models are those of `kineme models`; what is not here is left out, with a line.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme.data.video import probe, read_frames
from kineme.errors import CheckpointError, SpecError
from kineme.people.estimators import build_estimator
from kineme.people.estimators.frames import fitted

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pose_speed import machine

Frames = NDArray[np.uint8]  # (F, H, W, 3)

WAYS: dict[str, tuple[str, dict[str, object]]] = {
    "blazepose, detects in every frame": ("blazepose", {}),
    "blazepose, follows people": ("blazepose", {"track": True}),
    "blazepose, detects in 4 x 3 tiles": ("blazepose", {"tiles": 4}),
    "blazepose, tiles, follows people": ("blazepose", {"tiles": 4, "track": True}),
    "movenet, longer side 256": ("movenet", {"long_side": 256}),
    "movenet, longer side 384": ("movenet", {"long_side": 384}),
    "movenet, longer side 512": ("movenet", {"long_side": 512}),
}
AGAINST = {
    "blazepose, follows people": "blazepose, detects in every frame",
    "blazepose, tiles, follows people": "blazepose, detects in 4 x 3 tiles",
    "movenet, longer side 384": "movenet's model alone, 384",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=30, help="of each video, one after another")
    parser.add_argument("--first", type=int, default=100, help="number of the first of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start; one thread")
    ways = dict(built())
    tables = {}
    for video in arguments.videos:
        last = min(arguments.first + arguments.frames, probe(video).num_frames)
        frames = read_frames(video, np.arange(last - arguments.frames, last)).frames
        tables[video.name] = compared(video.name, frames, ways, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **tables}, indent=2) + "\n")


def built() -> Iterator[tuple[str, Callable[[Frames], list[int]]]]:
    """Name and function from frames to the number of people in each."""
    for name, (estimator, settings) in WAYS.items():
        try:
            yield name, counting(build_estimator(estimator, settings))
        except (CheckpointError, SpecError) as error:
            print(f"left out: {name}: {error}")
            continue
        if name == "movenet, longer side 384":
            yield "movenet's model alone, 384", model_alone(build_estimator(estimator, settings))


def counting(estimator: Any) -> Callable[[Frames], list[int]]:
    def count(frames: Frames) -> list[int]:
        estimator.reset()
        return [len(estimator.detect(frame)) for frame in frames]

    return count


def model_alone(estimator: Any) -> Callable[[Frames], list[int]]:
    """MoveNet's model on a picture that is ready, as many times as there are frames."""
    pictures: dict[tuple[int, ...], NDArray[np.int32]] = {}

    def count(frames: Frames) -> list[int]:
        if frames.shape not in pictures:
            pictures[frames.shape] = fitted(frames[0], 384, 32)[0][None].astype(np.int32)
        for _ in frames:
            estimator._model(pictures[frames.shape])
        return []

    return count


def compared(
    video: str, frames: Frames, ways: dict[str, Callable[[Frames], list[int]]], rounds: int
) -> dict[str, Any]:
    """Milliseconds of CPU time a frame of every way, medians of rounds that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    people: dict[str, list[int]] = {}
    for turn in range(rounds + 1):
        for name, count in ways.items():
            start = time.process_time()
            people[name] = count(frames if turn else frames[:3])  # the first round warms up
            if turn:
                taken[name].append((time.process_time() - start) / len(frames) * 1000)
    print(f"\n{video}, {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]}")
    medians = {name: statistics.median(values) for name, values in taken.items()}
    table = {}
    for name, median in medians.items():
        seen = f"{np.mean(people[name]):.1f} people" if people[name] else ""
        other = AGAINST.get(name)
        ratio = median / medians[other] if other in medians else None
        against = f"{ratio:.2f} x {other}" if ratio else ""
        print(f"  {name:<36}{median:>8.1f} ms {seen:>11}  {against}")
        table[name] = {"milliseconds": taken[name], "people": people[name], "ratio": ratio}
    return table


if __name__ == "__main__":
    main()
