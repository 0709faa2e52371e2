"""What a trial reached, epoch by epoch, as its training wrote it into status.json.

Figures go by their exact names there (val_acc, val_loss, ...); no log is searched for words.
Promises: a figure that is missing or not finite is said to be so, and is never 0. The value of a
trial is the best of its epochs, as the checkpoint `best.pth` is that of the best epoch. What a
resumed training wrote again counts as it was written last.
Leaves out: how trials compare (trials.py).
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.automl.trials import MAXIMIZE
from kineme.engine.names import STATUS_FILE
from kineme.errors import listed


@dataclass(frozen=True)
class Curve:
    """points: (epochs trained, value), finite ones alone. names: all figures that were told."""

    points: tuple[tuple[int, float], ...] = ()
    names: tuple[str, ...] = ()
    num_not_finite: int = 0
    num_epochs: int = 0  # that were trained

    def best(self, direction: str) -> float | None:
        """The best value, None if there is none."""
        values = [value for _, value in self.points]
        if not values:
            return None
        return max(values) if direction == MAXIMIZE else min(values)

    def best_epoch(self, direction: str) -> int | None:
        """The epoch, from 1, that has it; the earliest of equals."""
        value = self.best(direction)
        return next((epoch for epoch, one in self.points if one == value), None)

    def missing(self, metric: str) -> str:
        """Why there is no value of `metric`."""
        if self.num_not_finite:
            return f"{metric} is not a finite number in any of {self.num_not_finite} epochs"
        told = f"it tells {listed(self.names, 10)}" if self.names else "it tells no figures"
        return f"no {metric} in {STATUS_FILE}: {told}"


def read_curve(folder: Path, metric: str, budget: int | None = None) -> Curve:
    """The curve of the training in `folder`, up to the end of epoch `budget`."""
    by_epoch: dict[int, float | None] = {}
    names: dict[str, None] = {}
    last = 0
    epoch: int | None = None
    for line in _lines(folder / STATUS_FILE):
        if line.get("status") == "STARTED":
            epoch = None  # of another run
        if isinstance(line.get("epoch"), int):
            epoch = line["epoch"] + 1
            if budget is None or epoch <= budget:
                last = epoch
        kpi = line.get("kpi")
        if epoch is None or not isinstance(kpi, Mapping) or (budget and epoch > budget):
            continue
        names |= dict.fromkeys(map(str, kpi))
        if metric in kpi:
            by_epoch[epoch] = _number(kpi[metric])
    points = [(e, v) for e, v in sorted(by_epoch.items()) if v is not None]
    return Curve(tuple(points), tuple(names), len(by_epoch) - len(points), last)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are whole."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:  # cut off in the middle of a write
            continue
        if isinstance(value, dict):
            yield value


def _number(value: Any) -> float | None:
    """A finite number, or None; status.json has null for what is not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
