"""Curves for TensorBoard and, where asked for and possible, Weights & Biases.

Promises: names are those that TAO's users watch; curves continue where a resumed run
continues; a logger that fails costs one note, never the run.
Leaves out: metrics.csv and status.json (results.py).
"""

import contextlib
import importlib
import importlib.util
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kineme.engine.names import TENSORBOARD_FOLDER
from kineme.engine.results import Run, note

Values = Mapping[str, float]


class Scalars:
    """Writes values by step to every logger that is there; one that fails is let go."""

    def __init__(self, events: "_EventFile | None" = None, wandb: "_Wandb | None" = None) -> None:
        self._events, self._wandb = events, wandb

    def log(self, values: Values, step: int) -> None:
        """`values` at optimiser step `step`."""
        if self._events is not None:
            try:
                self._events.write(values, step)
            except OSError as error:
                note(f"TensorBoard events cannot be written any more: {error}")
                self._events = None
        if self._wandb is not None:
            try:
                self._wandb.run.log(dict(values), step=step)
            except self._wandb.errors as error:
                note(f"wandb cannot be reached any more: {error}")
                self._wandb = None


@contextlib.contextmanager
def open_scalars(spec: Any, run: Run, *, first_step: int) -> Iterator[Scalars]:
    """The loggers that the spec asks for, in the process that writes."""
    if not run.is_writer:
        yield Scalars()
        return
    events = _open_events(run.folder, first_step) if spec.train.tensorboard else None
    wandb = _open_wandb(spec.wandb, run)
    try:
        yield Scalars(events, wandb)
    finally:
        if events is not None:
            events.close()
        if wandb is not None:
            try:
                wandb.run.finish()
            except wandb.errors as error:
                note(f"wandb may lack the end of this run: {error}")


class _Wandb(NamedTuple):
    """A wandb run, and what wandb raises."""

    run: Any
    errors: tuple[type[Exception], ...]


class _EventFile:
    """A TensorBoard event file, written at once: SummaryWriter's thread would die unseen."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._file = os.fdopen(descriptor, "ab", buffering=0)  # a log: it grows, record by record
        self._records = RecordWriter(self._file)
        self._add(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step:  # curves beyond it are of a run that did not get to save them
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(
                event_pb2.Event(wall_time=time.time(), step=first_step + 1, session_log=start)
            )

    def write(self, values: Values, step: int) -> None:
        scalars = [
            self._summary.Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
        ]
        summary = self._summary.Summary(value=scalars)
        self._add(self._event.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


def _open_events(folder: Path, first_step: int) -> _EventFile | None:
    try:
        return _EventFile(folder / TENSORBOARD_FOLDER, first_step=first_step)
    except OSError as error:
        note(f"TensorBoard events cannot be written: {error}")
        return None


def _open_wandb(settings: Any, run: Run) -> _Wandb | None:
    """A wandb run; None, with a note where the user asked for it, if that cannot be."""
    is_asked = "enable" in settings.model_fields_set
    if not settings.enable or not (is_asked or _has_account()):
        return None
    if importlib.util.find_spec("wandb") is None:
        run.note(
            "wandb.enable: wandb is not installed (in kineme's folder: "
            "pip install -c constraints.txt -e '.[wandb]'); going without."
        )
        return None
    if not _has_account():
        run.note("wandb.enable: neither WANDB_API_KEY nor ~/.netrc names an account; without it.")
        return None
    wandb = importlib.import_module("wandb")
    errors = (wandb.Error, OSError)
    try:
        wandb_run = wandb.init(
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
    except errors as error:
        run.note(f"wandb.enable: {str(error).splitlines()[0]}; going without.")
        return None
    return _Wandb(wandb_run, errors)


def _has_account() -> bool:
    """Whether wandb could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "wandb" in (Path.home() / ".netrc").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, RuntimeError):
        return False
