"""The folder of a run, and how a run tells what it is doing.

Promises: `status.json` is complete JSON lines, and its last line agrees with the exit code.
Secrets are never written. A log that cannot be written costs one warning, never the run.
Leaves out: how its files are called (names.py), checkpoints (checkpoint.py), plots and reports
(report), progress (progress.py).
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from kineme.engine import lease
from kineme.engine.names import (
    LEASE_FILE,
    LOG_FILE,
    METRICS_COLUMNS,
    METRICS_FILE,
    OWN_FILES,
    SPEC_FILE,
    STATUS_FILE,
    read_metrics,
)
from kineme.engine.runtime import leads_the_run, memory_errors_named
from kineme.errors import KinemeError, ResourceError, SpecError, printable, without_secrets
from kineme.files import append_line, sweep_temporaries, write_text
from kineme.network import Network
from kineme.signals import Interrupted, impatient_signals
from kineme.spec.load import value_at
from kineme.spec.schema import resolved, secrets_of
from kineme.spec.sections import run_folder

TITLES = {"train": "train", "dataset_convert": "dataset conversion"}

_LOGGER = logging.getLogger("kineme")


def note(text: str) -> None:
    """Tell the user something they should know, once, on stderr and in the log."""
    if text not in _NOTED:
        _NOTED.add(text)
        _LOGGER.warning("%s", text)


_NOTED: set[str] = set()


@dataclass
class Run:
    """One action's folder. Travels to other processes by its fields; only one writes."""

    folder: Path
    network: str
    action: str
    is_writer: bool = True
    kpi: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to be left out of what is logged

    def note(self, text: str) -> None:
        """`note`, from the process that writes."""
        if self.is_writer:
            note(text)

    def say(self, text: str) -> None:
        """A line of progress, on stderr and in the log."""
        if self.is_writer:
            _LOGGER.info("%s", text)

    def status(
        self,
        message: str,
        *,
        status: str = "RUNNING",
        kpi: Mapping[str, Any] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        """Append a line to status.json; `kpi` belongs to this line alone."""
        if not self.is_writer:
            return
        now = datetime.now()
        line: dict[str, Any] = {
            "date": now.strftime("%m/%d/%Y"),
            "time": now.strftime("%H:%M:%S"),
            "status": status,
            "verbosity": "ERROR" if status == "FAILURE" else "INFO",
            **(progress or {}),
        }
        if message:
            line["message"] = without_secrets(message, self.secrets)
        if kpi:
            line["kpi"] = {name: _finite(value) for name, value in kpi.items()}
        with log_errors_tolerated(STATUS_FILE):
            append_line(self.folder / STATUS_FILE, json.dumps(line, allow_nan=False))

    def save_spec(self, spec: Any) -> None:
        """Write the resolved spec, without secrets."""
        text = yaml.safe_dump(resolved(spec), sort_keys=False, allow_unicode=True)
        write_text(self.folder / SPEC_FILE, text)

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.csv in place of rows of the same or a later epoch."""
        if not self.is_writer:
            return
        path = self.folder / METRICS_FILE
        with log_errors_tolerated(METRICS_FILE):
            rows = [r for r in read_metrics(path) if int(r["epoch"]) < int(row["epoch"])]
            text = io.StringIO()
            table = csv.DictWriter(text, METRICS_COLUMNS, restval="", lineterminator="\n")
            table.writeheader()
            table.writerows([*rows, row])
            write_text(path, text.getvalue())

    @contextlib.contextmanager
    def joined(self, *, is_writer: bool) -> Iterator["Run"]:
        """This run in a process of its own: the writer there logs to the same file."""
        self.is_writer = is_writer
        if _LOGGER.handlers or not is_writer:  # the run was opened in this very process
            yield self
            return
        with _logging_to(self.folder, self.secrets):
            yield self


def refuse_taken(network: Network, spec: Any) -> None:
    """Raise SpecError when the file that the user named for results is there, and must stay.

    A file that the spec names to be read is never replaced, nor do results go into one that the
    run writes itself; others are with overwrite=true. Weights that go beside a graph (.bin beside
    .xml) are asked for as well.
    """
    asked, key = getattr(spec, spec.action), _OUTPUTS[spec.action]
    path = value_at(spec, key)
    if path is None:
        return
    inputs = [
        asked.checkpoint,
        *(value_at(spec, k) for ks in network.data_keys.values() for k in ks),
    ]
    folder = run_folder(spec)
    if Path(path).parent.resolve() == folder.resolve() and Path(path).name in OWN_FILES:
        fix = "Set another path."
        raise SpecError(key, f"a file that {spec.action} does not write itself", repr(path), fix)
    beside = [str(Path(path).with_suffix(".bin"))] if path.endswith(".xml") else []
    for one in filter(os.path.lexists, [path, *beside]):
        if os.path.isdir(one):
            raise SpecError(key, "the path of a file", f"{one!r}, which is a folder")
        if any(_is_same_file(one, other) for other in inputs if other):
            fix = "Set another path."
            raise SpecError(key, "a file that is not read", f"{one!r}, which is", fix)
        if not asked.overwrite:
            fix = f"Set another path, or {spec.action}.overwrite=true to replace it."
            raise SpecError(key, "a path that is free", f"{one!r}, which exists", fix)


_OUTPUTS = {"inference": "inference.output_file", "export": "export.onnx_file"}


def _is_same_file(one: str, other: str) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


@contextlib.contextmanager
def claim(spec: Any, action: str) -> Iterator[Path]:
    """Hold the action's folder, free of what killed runs left half written; yield it.

    Raises SpecError when another run uses it, ResourceError when it cannot be written.
    """
    folder = run_folder(spec, action)
    if not leads_the_run():
        yield folder
        return
    with lease.held(folder / LEASE_FILE):
        sweep_temporaries(folder, is_ours_alone=True)
        yield folder


@contextlib.contextmanager
def open_run(network: Network, action: str, spec: Any) -> Iterator[Run]:
    """Claim the action's folder, record the spec, and say at the end how it went."""
    if not leads_the_run():
        yield Run(run_folder(spec, action), network.name, action, is_writer=False)
        return
    _NOTED.clear()
    secrets = secrets_of(spec)
    with claim(spec, action) as folder, _logging_to(folder, secrets):
        run = Run(folder, network.name, action, secrets=secrets)
        run.save_spec(spec)
        title = f"{network.name.replace('_', ' ').title()} {TITLES.get(action, action)}"
        run.status(f"Starting {title}.", status="STARTED")
        try:
            with impatient_signals(), memory_errors_named():
                yield run
        except BaseException as error:
            run.status(_failure(error), status="FAILURE")
            _LOGGER.debug("%s", "".join(traceback.format_exception(error)))
            raise
        name = action.replace("_", " ").capitalize()
        run.status(f"{name} finished successfully.", status="SUCCESS", kpi=run.kpi)


@contextlib.contextmanager
def log_errors_tolerated(name: str) -> Iterator[None]:
    """A log that cannot be written is one warning; the run goes on."""
    try:
        yield
    except (OSError, ResourceError) as error:
        note(f"{name} cannot be written any more: {error}")


def _failure(error: BaseException) -> str:
    """What went wrong, under the prefix that readers of TAO's status lines know."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        prefix = "User/System interruption"
    elif isinstance(error, SpecError):
        prefix = "Configuration error"
    elif isinstance(error, (OSError, ResourceError)):
        prefix = "File system error" if isinstance(error, OSError) else "Resource error"
    elif isinstance(error, NotImplementedError):
        prefix = "Feature not implemented"
    else:
        prefix = type(error).__name__
    text = "; ".join(map(str, error.problems)) if isinstance(error, KinemeError) else str(error)
    return f"{prefix}: {printable(text)}"


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not available is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _logging_to(folder: Path, secrets: Sequence[str]) -> Iterator[None]:
    """Send the logger `kineme` to stderr and to the folder's log, secrets left out."""
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [_LogFile(folder / LOG_FILE, secrets)]
    if not any(isinstance(handler, _Stderr) for handler in _LOGGER.handlers):
        handlers.append(_Stderr(secrets))  # of a run within a run, the outer one tells
    level, propagates = _LOGGER.level, _LOGGER.propagate
    _LOGGER.setLevel(logging.DEBUG)
    for handler in handlers:
        _LOGGER.addHandler(handler)
    try:
        yield
    finally:
        _LOGGER.setLevel(level)
        _LOGGER.propagate = propagates
        for handler in handlers:
            _LOGGER.removeHandler(handler)


class _Stderr(logging.Handler):
    """Notes and lines of progress on whatever stderr is at the moment."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__(logging.INFO)
        self.secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "note: " if record.levelno >= logging.WARNING else ""
        text = without_secrets(record.getMessage(), self.secrets)
        with contextlib.suppress(OSError, ValueError):  # a closed pipe does not end a run
            print(prefix + text, file=sys.stderr, flush=True)


class _LogFile(logging.Handler):
    """Dated lines in log.txt, tracebacks included."""

    def __init__(self, path: Path, secrets: Sequence[str]) -> None:
        super().__init__(logging.DEBUG)
        self.path, self.secrets = path, secrets

    def emit(self, record: logging.LogRecord) -> None:
        text = without_secrets(self.format(record), self.secrets)
        line = f"{datetime.now().isoformat(sep=' ', timespec='seconds')} {record.levelname} {text}"
        try:
            append_line(self.path, line)
        except (OSError, ResourceError):
            if self.path.name not in _NOTED:
                _NOTED.add(self.path.name)
                with contextlib.suppress(OSError, ValueError):
                    print(f"note: {self.path} cannot be written any more.", file=sys.stderr)
