"""Searches beside random search on the demo's people: the same space, spec and seeds, in one run.

20 short trials each of `random` and `bayesian`; `asha` gets half of their epochs, spent on as many
configurations as that allows with a third of a training before the first choice, and what it finds
later does not count. It begins the first of the configurations that `random` draws with the same
seed, so that the two differ in how long each is trained. The figure is the lowest validation loss
of a trial that ran to the last epoch. Printed: each search, the medians over seeds, and after how
many epochs asha was as good as the medians of the others.

    python benchmarks/automl_search.py [--seeds N] [--trials N] [--epochs N] [--json FILE]
        [--folder FOLDER] [--algorithms NAME ...]

Batches are small, so that a third of a training is long enough for batch norm to settle: before, a
validation loss says nothing of what becomes of a trial. With --folder, what was searched is kept,
and the same command goes on after an interruption.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kineme import synthetic
from kineme.automl.controller import search
from kineme.automl.trial_specs import read_plan
from kineme.automl.trials import epochs_spent
from kineme.automl.view import SearchView
from kineme.data.labels import Labels, write_labels
from kineme.demo.steps import KNOWN, NEW

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pose_speed import machine

NETWORK = "pose_classification"
NUM_TRAIN, NUM_VAL, NUM_FRAMES, NUM_EPOCHS = 72, 60, 8, 24
FACTOR = 3
ALGORITHMS = ("random", "asha", "bayesian")
SPEC = {  # the searched settings stay at TAO's defaults, where the model-based search begins
    "dataset.sampling": "uniform",
    "dataset.num_frames": NUM_FRAMES,
    "dataset.normalize": "center",
    "dataset.batch_size": 4,
    "dataset.num_workers": 0,
    "train.precision": "bf16-mixed",
    # TAO's step at epoch 10 would hide lr_decay, and what the rate does, from the choice before it
    "train.optim.lr_scheduler": "cosine",
    "train.checkpoint_interval": NUM_EPOCHS // FACTOR,
    "train.validation_interval": NUM_EPOCHS // FACTOR,
    "train.tensorboard": False,
    "device": "cpu",
}


@dataclass(frozen=True)
class Found:
    """One search. curve: (epochs trained so far, lowest loss so far) after each whole trial."""

    algorithm: str
    seed: int
    loss: float
    epochs: int
    seconds: float
    curve: tuple[tuple[int, float], ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--epochs", type=int, default=NUM_EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(), flush=True)
    found: list[Found] = []
    with contextlib.ExitStack() as stack:
        root = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.mkdir(parents=True, exist_ok=True)
        data = make_data(root)
        for seed in range(options.seeds):
            for algorithm in options.algorithms:
                one = run(root / f"{algorithm}-{seed}", data, algorithm, seed, options)
                found.append(one)
                print(f"seed {seed}  {algorithm:9} loss {one.loss:.4f}  {one.epochs:4} epochs  "
                      f"{one.seconds:6.1f} s", flush=True)  # fmt: skip
    tell(found)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))


def run(folder: Path, data: dict[str, str], algorithm: str, seed: int, options: Any) -> Found:
    """One search in a folder of its own."""
    asked = {
        "algorithm": algorithm,
        "metric": "val_loss",
        "seed": seed,
        "max_recommendations": options.trials,
        **(
            {
                "max_recommendations": asha_trials(options),
                "min_epochs": options.epochs // FACTOR,
                "reduction_factor": FACTOR,
            }
            if algorithm == "asha"
            else {}
        ),
        "max_epochs": options.epochs,
        "run_final_evaluation": False,
        "keep_best": 1,
    }
    document = {
        **SPEC,
        **data,
        "results_dir": str(folder),
        "train.num_epochs": options.epochs,
        **{f"automl.{name}": value for name, value in asked.items()},
    }
    started = time.perf_counter()
    view = search(read_plan(NETWORK, document), runner="in_process", poll_seconds=0.01)
    seconds = time.perf_counter() - started
    curve = curve_of(view, options.epochs)
    spent = epochs_spent([one.trial for one in view.trials])
    if algorithm == "asha":  # it promotes as it goes, so what it spends is not known before
        spent = min(spent, options.trials * options.epochs // 2)
        curve = tuple(point for point in curve if point[0] <= spent)
    return Found(algorithm, seed, curve[-1][1], spent, seconds, curve)


def asha_trials(options: Any) -> int:
    """Configurations whose rungs, 1 / FACTOR of a training and all of it, take half the epochs."""
    first = options.epochs // FACTOR
    number = options.trials
    while number * first + number // FACTOR * (options.epochs - first) > (
        options.trials * options.epochs // 2
    ):
        number -= 1
    return number


def curve_of(view: SearchView, num_epochs: int) -> tuple[tuple[int, float], ...]:
    """The lowest loss of whole trials against the epochs that all trials had trained by then."""
    points, best = [], float("inf")
    for index, one in enumerate(view.trials):
        if one.trial.score is not None and one.trial.budget == num_epochs:
            best = min(best, one.trial.score)
            points.append((epochs_spent([other.trial for other in view.trials[: index + 1]]), best))
    return tuple(points)


def tell(found: list[Found]) -> None:
    """Medians, and what asha needed for the same."""
    by_name: dict[str, list[Found]] = {}
    for one in found:
        by_name.setdefault(one.algorithm, []).append(one)
    loss = {name: statistics.median(one.loss for one in ones) for name, ones in by_name.items()}
    epochs = {name: statistics.median(one.epochs for one in ones) for name, ones in by_name.items()}
    for name in by_name:
        print(f"median  {name:9} loss {loss[name]:.4f}  {epochs[name]:g} epochs")
    for other in sorted(by_name.keys() - {"asha"}) if "asha" in by_name else ():
        needed = [
            next((spent for spent, best in one.curve if best <= loss[other]), None)
            for one in by_name["asha"]
        ]
        reached = sorted(spent for spent in needed if spent is not None)
        share = statistics.median(reached) / epochs[other] if reached else float("nan")
        print(f"asha reaches the median of {other} in {len(reached)} of {len(needed)} searches, "
              f"after {share:.2f} of its epochs (median of those)")  # fmt: skip


def make_data(folder: Path) -> dict[str, str]:
    """Training and validation sets of the demo's people; returns their settings."""
    settings = {}
    for name, number, people, seed in (("train", NUM_TRAIN, KNOWN, 0), ("val", NUM_VAL, NEW, 1)):
        made = synthetic.make_exercises(
            number, seed, bodies=people.bodies, views=people.views, num_frames=32
        )
        np.save(folder / f"{name}_data.npy", made.data)
        labels = Labels(made.ids, made.labels, made.class_names, "nvidia")
        write_labels(folder / f"{name}_label.json", labels)
        settings[f"dataset.{name}_dataset.data_path"] = str(folder / f"{name}_data.npy")
        settings[f"dataset.{name}_dataset.label_path"] = str(folder / f"{name}_label.json")
    return settings


if __name__ == "__main__":
    main()
