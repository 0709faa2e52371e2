"""Curves for TensorBoard and, where asked for and possible, Weights & Biases.

Promises: names are those that TAO's users watch; curves continue where a resumed run
continues; a logger that fails costs one note, never the run.
Leaves out: metrics.csv and status.json (results.py).
"""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kineme.engine.results import TENSORBOARD_FOLDER, Run, log_errors_tolerated

Values = Mapping[str, float]


class Scalars:
    """Writes values by step to every logger that is there."""

    def __init__(self, tensorboard: Any = None, wandb: Any = None) -> None:
        self._tensorboard, self._wandb = tensorboard, wandb

    def log(self, values: Values, step: int) -> None:
        """`values` at optimiser step `step`."""
        if self._tensorboard is not None:
            with log_errors_tolerated("TensorBoard"):
                for name, value in values.items():
                    self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            with log_errors_tolerated("wandb"):
                self._wandb.log(dict(values), step=step)


@contextlib.contextmanager
def open_scalars(spec: Any, run: Run, *, first_step: int) -> Iterator[Scalars]:
    """The loggers that the spec asks for, in the process that writes."""
    if not run.is_writer:
        yield Scalars()
        return
    tensorboard = _open_tensorboard(run.folder, first_step) if spec.train.tensorboard else None
    wandb = _open_wandb(spec.wandb, run)
    try:
        yield Scalars(tensorboard, wandb)
    finally:
        with log_errors_tolerated("TensorBoard"):
            if tensorboard is not None:
                tensorboard.close()
        if wandb is not None:
            wandb.finish()


def _open_tensorboard(folder: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter  # takes a second to import

    with log_errors_tolerated("TensorBoard"):
        return SummaryWriter(
            str(folder / TENSORBOARD_FOLDER), purge_step=first_step if first_step else None
        )
    return None


def _open_wandb(settings: Any, run: Run) -> Any:
    """A wandb run; None, with a note where the user asked for it, if that cannot be."""
    is_asked = "enable" in settings.model_fields_set
    if not settings.enable or not (is_asked or _has_account()):
        return None
    if importlib.util.find_spec("wandb") is None:
        run.note("wandb.enable: wandb is not installed (pip install kineme[wandb]); going without.")
        return None
    if not _has_account():
        run.note("wandb.enable: neither WANDB_API_KEY nor ~/.netrc names an account; without it.")
        return None
    wandb = importlib.import_module("wandb")
    try:
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            tags=settings.tags,
            name=settings.name,
            id=settings.run_id,
            resume="allow" if settings.run_id else None,
            reinit=settings.reinit,
            sync_tensorboard=settings.sync_tensorboard,
            save_code=settings.save_code,
            dir=str(run.folder),
        )
    except (wandb.Error, OSError) as error:
        run.note(f"wandb.enable: {str(error).splitlines()[0]}; going without.")
        return None


def _has_account() -> bool:
    """Whether wandb could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "wandb" in (Path.home() / ".netrc").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError):
        return False
