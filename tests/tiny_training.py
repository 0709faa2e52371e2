"""Trainings of `tiny` in this process, stopped when a test wants it, and what they leave."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kineme.actions import train
from kineme.engine.results import read_metrics
from tiny import TINY, tiny_spec

LAST = "model_epoch_002_step_00018.pth"  # 26 samples, batch 4: 6 steps, 3 epochs


def train_tiny(folder: Path, **changes: Any) -> dict[str, Any]:
    """Three epochs, unless `changes` (as those of tiny_spec) say otherwise."""
    return train.run(TINY, tiny_spec(folder, **{"train__num_epochs": 3, **changes}))


def stop_at(monkeypatch: Any, step: int, number: int = signal.SIGTERM) -> None:
    """Let the process get a signal during the given step, counted from 1 over all runs."""
    real, count = train._step, 0

    def step_and_signal(job: Any, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        return real(job, batch)

    monkeypatch.setattr(train, "_step", step_and_signal)


def rows_without_seconds(folder: Path) -> list[dict[str, str]]:
    return [{**row, "seconds": ""} for row in read_metrics(folder / "train" / "metrics.csv")]


def statuses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train/status.json").read_text().splitlines()]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread, so that equal runs are equal to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
