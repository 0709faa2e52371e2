"""What training says of each epoch, in every place where someone may look.

Promises: status.json has TAO's lines and names, metrics.csv one row per epoch, the curves
TAO's names, stderr and the log one line.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from kineme.engine.results import Run
from kineme.engine.scalars import Scalars


@dataclass(frozen=True)
class Pace:
    """How long the epoch (from 0) took, of how many."""

    epoch: int
    num_epochs: int
    steps_per_epoch: int
    seconds: float

    def status(self, step: int) -> dict[str, int | str]:
        """The fields of TAO's line of progress."""
        remaining = self.seconds * (self.num_epochs - 1 - self.epoch)
        return {
            "epoch": self.epoch,
            "step": step,
            "max_epoch": self.num_epochs - 1,
            "max_step": self.num_epochs * self.steps_per_epoch,
            "time_per_epoch": str(timedelta(seconds=round(self.seconds))),
            "time_per_step": str(timedelta(seconds=round(self.seconds / self.steps_per_epoch, 3))),
            "eta": str(timedelta(seconds=round(remaining))),
        }


def report_epoch(
    run: Run,
    scalars: Scalars,
    figures: Mapping[str, float],
    *,
    pace: Pace,
    step: int,
    lr: float,
) -> None:
    """Record the figures train_loss, train_acc and, if validated, val_loss, val_acc."""
    train = {name: value for name, value in figures.items() if name.startswith("train_")}
    val = {name: value for name, value in figures.items() if name.startswith("val_")}
    run.status("Training loop in progress", progress=pace.status(step))
    run.status("Train metrics generated.", kpi=train)
    if val:
        run.status("Eval metrics generated.", kpi=val)
    row = {"epoch": pace.epoch, "step": step, "lr": lr, "seconds": round(pace.seconds, 3)}
    run.log_epoch({**row, **figures})
    curves = {f"{name.replace('acc', 'acc_1')}_epoch": value for name, value in train.items()}
    if val:
        curves |= {**val, "val_acc_1": val["val_acc"]}
    scalars.log(curves, step)
    shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
    run.say(f"epoch {pace.epoch + 1}/{pace.num_epochs}  lr {lr:.4g}  {shown}  {pace.seconds:.1f} s")
