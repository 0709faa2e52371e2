"""What one step costs against one window, and what is remembered of each person.

Each new frame costs one step (pose_classification/steps/stepped_model.py) or, where every window
is looked at anew, one window. Interleaved rounds on one thread; times are those of the processor,
so that what else the machine does does not count. A step's cost goes by turns, since deep layers
work every second or fourth frame: the mean is over whole turns, the dearest is told too.

    python benchmarks/streaming.py [--rounds N] [--model NAME ...] [--json FILE]
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from kineme.engine.memory import keep_freed_memory
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.steps.stepped_model import SteppedModel
from pose_speed import machine

LAYOUT_NAMES, WINDOWS = ("coco", "nvidia"), (64, 100)
NUM_TURNS = 10  # of `stride` steps each, in a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", nargs="+", default=["ST-GCN", "ST-GCN++"])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(f"{machine()}, one thread; load {os.getloadavg()[0]:.1f} at the start")
    rows = [
        row
        for name in arguments.model
        for layout in LAYOUT_NAMES
        for row in compared(name, layout, arguments.rounds)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n")


@torch.inference_mode()
def compared(name: str, layout: str, rounds: int) -> list[Mapping[str, Any]]:
    torch.manual_seed(0)
    model = MODELS[name](10, 3, layout=LAYOUTS[layout]).eval()
    stepped = SteppedModel(model, window=max(WINDOWS))
    steps, joints = stepped.begin(), LAYOUTS[layout].num_joints
    frames = torch.randn(64, 1, 3, joints, 1)
    windows = {length: torch.randn(1, 3, length, joints, 1) for length in WINDOWS}
    for number in range(2 * stepped.delay):  # warms up, and fills what is remembered
        stepped.step(steps, frames[number % 64])
        stepped.answer(steps)

    def step() -> None:
        stepped.step(steps, frames[steps.num_frames % 64])
        stepped.answer(steps)

    taken: dict[Any, list[float]] = {"step": [], "dearest": [], **{n: [] for n in WINDOWS}}
    for turn in range(rounds + 1):
        single = [seconds(step) for _ in range(NUM_TURNS * stepped.stride)]
        places = [statistics.median(single[i :: stepped.stride]) for i in range(stepped.stride)]
        found = {"step": statistics.mean(places), "dearest": max(places)}
        for length, window in windows.items():
            whole = functools.partial(model, skeleton=window)
            found[length] = min(seconds(whole) for _ in range(3))
        for key, value in found.items() if turn else ():
            taken[key].append(value)
    medians = {key: statistics.median(values) for key, values in taken.items()}
    mib = steps.num_bytes / 2**20
    print(
        f"\n{name}, {layout} ({joints} joints): a step {1e3 * medians['step']:.2f} ms, the dearest "
        f"{1e3 * medians['dearest']:.2f} ms; {mib:.2f} MiB a person; "
        f"delay {stepped.delay} frames, a feature every {stepped.stride}"
    )
    for length in WINDOWS:
        ratio = medians["step"] / medians[length]
        print(
            f"  window of {length:>3} frames {1e3 * medians[length]:>8.2f} ms; "
            f"a step is {ratio:.3f} of it, 1 / {1 / ratio:.0f}"
        )
    return [
        {
            "model": name,
            "layout": layout,
            "window": length,
            "step_seconds": medians["step"],
            "dearest_step_seconds": medians["dearest"],
            "window_seconds": medians[length],
            "mib_a_person": mib,
        }
        for length in WINDOWS
    ]


def seconds(timed: Callable[[], object]) -> float:
    start = time.process_time()
    timed()
    return time.process_time() - start


if __name__ == "__main__":
    main()
