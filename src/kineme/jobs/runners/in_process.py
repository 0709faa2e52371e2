"""Jobs in this very process: `start` returns when the job has ended.

For tests, and for many short jobs that share one start of Python and torch. Only an action of a
network runs here, not other commands. A wish to cancel and a time limit reach the action where
Python runs in its main thread, as SIGTERM does: it saves and stops; one that does not listen
cannot be killed, and one in another thread, or where SIGTERM is ignored, runs to its end.
Promises: record, states, log and exit codes are those of any runner; an error of the action, a bug
too, is the job's. A signal that was meant for this process is raised again after the job's end.
Leaves out: what libraries in C print.
"""

import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from kineme import concealment
from kineme.errors import EXIT_BUG, EXIT_SIGINT, EXIT_SIGTERM, KinemeError, SpecError, printable
from kineme.jobs.agent import LOCK_SECONDS, words_of
from kineme.jobs.course import Course, signal_name
from kineme.jobs.leash import Ended
from kineme.jobs.liveness import agent_lock, ask_to_end
from kineme.jobs.log import LogWriter
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import Runner, check_platform
from kineme.jobs.store import LOG_FILE, JobStore
from kineme.signals import Interrupted, is_ignored, signal_handlers

_POLL_SECONDS = 0.25
_UNABLE = {
    "grace_seconds": "an action in this process cannot be killed",
    "gpu_ids": "which GPUs a process sees is settled when it begins",
}
_SPEC_OPTIONS = ("-e", "--experiment_spec_file", "--experiment-spec-file")


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Run a job to its end. See runners.Start."""
    check_platform("in_process", record.platform)
    if record.platform.get("time_limit_seconds") and (hindrance := _hindrance()):
        raise SpecError(
            "platform.time_limit_seconds", "a job of the main thread, where it can be stopped",
            hindrance, "Use the runner subprocess.",
        )  # fmt: skip
    folder = store.folder(record.id)
    key = concealment.environment_key() if key is None else key
    with agent_lock(folder, patience_seconds=LOCK_SECONDS) as is_ours:
        record = store.load(record.id)
        if not is_ours or record.state is not State.PENDING:
            return record
        course, is_acting = Course(store, record.id), threading.Event()
        with _signals(course, is_acting) as late:
            record, is_ours = course.begin()
            if not is_ours:
                return record
            log = LogWriter(folder / LOG_FILE, secrets=[key] if key else [])
            variables = record.platform.get("environment", {})
            with _watched(course), _variables(variables), _printing_to(log):
                error = _run(record, folder, key, log, is_acting)
            log.close()
            is_ours_to_end = course.is_canceled or bool(course.stopped_by)
            ended = _ended(error)
            record = course.finish(ended)
        if error is not None and ended.code in (EXIT_SIGINT, EXIT_SIGTERM) and not is_ours_to_end:
            raise error
        for number in late:
            signal.raise_signal(number)
        return record


def _hindrance() -> str:
    """Why a job that runs here could not be stopped, else ""."""
    if threading.current_thread() is not threading.main_thread():
        return "another thread"
    return "a process that ignores SIGTERM" if is_ignored(signal.SIGTERM) else ""


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    if record.agent is None:
        return None
    return not record.agent.is_alive if record.agent.is_here else None


def _run(
    record: JobRecord, folder: Path, key: str | None, log: LogWriter, is_acting: threading.Event
) -> BaseException | None:
    """Do what the job is for; returns what was raised, which is said in the log."""
    try:
        is_acting.set()
        try:
            _act(words_of(record), folder, key, log)
        finally:
            is_acting.clear()
    except KinemeError as error:
        for problem in error.problems:
            print(f"error: {printable(str(problem))}", file=sys.stderr)
        return error
    except KeyboardInterrupt as error:
        print("error: interrupted", file=sys.stderr)
        return error
    except Exception as error:  # noqa: BLE001 - as of a process, a bug ends the job that has it
        traceback.print_exc()
        print(f"error: {_one_line(error)} (a bug of kineme)", file=sys.stderr)
        return error
    return None


def _act(words: tuple[str, ...], folder: Path, key: str | None, log: LogWriter) -> None:
    from kineme.actions import ACTIONS
    from kineme.data.remote.staging import localized
    from kineme.network import NETWORKS, load_network, load_specs
    from kineme.spec.load import load_spec, with_values
    from kineme.spec.schema import secrets_of

    if len(words) < 2 or words[0] not in NETWORKS or words[1] not in ACTIONS:
        expected = "the words of an action, as `pose_classification train`"
        fix = "Use the runner subprocess."
        raise SpecError("runner in_process", expected, repr(" ".join(words[:2]))[:80], fix)
    name, action, *rest = words
    path, overrides = _source_and_overrides(rest, folder)
    spec, notes = load_spec(load_specs(name)[action], path, overrides)
    if key is not None and spec.encryption_key is None:
        spec = with_values(spec, {"encryption_key": key})
    log.hide(secrets_of(spec))
    spec, fetched = localized(spec, tell=lambda text: print(f"note: {text}"))
    for note in (*notes, *fetched):
        print(f"note: {printable(note)}")
    module, function = ACTIONS[action].split(":")
    getattr(importlib.import_module(module), function)(load_network(name), spec)


def _source_and_overrides(words: list[str], folder: Path) -> tuple[str | None, list[str]]:
    """The spec's file, relative to the job's folder, and `key=value` words."""
    path, overrides = None, []
    rest = iter(words)
    for word in rest:
        option, equals, attached = word.partition("=")
        if option in _SPEC_OPTIONS:
            path = str(folder / (attached if equals else next(rest, "")))
        elif word.startswith("-"):
            raise SpecError("runner in_process", "-e FILE and key=value words", repr(word)[:80])
        else:
            overrides.append(word)
    return path, overrides


def _ended(error: BaseException | None) -> Ended:
    """The end of the action in the words of a process."""
    if error is None:
        return Ended(0)
    if isinstance(error, KinemeError):
        return Ended(error.exit_code, "\n".join(str(problem) for problem in error.problems))
    if isinstance(error, KeyboardInterrupt):
        return Ended(EXIT_SIGINT, "interrupted")
    return Ended(EXIT_BUG, f"{_one_line(error)} (a bug of kineme)")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def _signals(course: Course, is_acting: threading.Event) -> Iterator[list[int]]:
    """A request to stop raises while the job `is_acting`, where the action does not handle it;
    one that comes when its results are sent ends that, and is yielded."""
    late: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if is_acting.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Interrupted.by(number)
        if not course.is_canceled and not course.stopped_by:  # then it is our own, too late
            course.stopped_by = signal_name(number)
            late.append(number)

    with signal_handlers(on_signal):
        yield late


@contextlib.contextmanager
def _watched(course: Course) -> Iterator[None]:
    """Give signs of life, hear wishes and keep the time limit while the block runs: they are
    told to it as SIGTERM, if it runs in the main thread."""
    is_over = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    ours = threading.get_ident()

    def watch() -> None:
        is_asked = not is_main
        while not is_over.wait(_POLL_SECONDS):
            if course.is_to_end() and not is_asked and not is_over.is_set():
                is_asked = True
                signal.pthread_kill(ours, signal.SIGTERM)

    watcher = threading.Thread(target=watch, daemon=True, name="job")
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


@contextlib.contextmanager
def _variables(asked: Mapping[str, str]) -> Iterator[None]:
    """Those of the job, as long as the block runs."""
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Text(io.TextIOBase):
    """A stream of text into a log."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            self._log.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def _printing_to(log: LogWriter) -> Iterator[None]:
    text = _Text(log)
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield


RUNNER = Runner(start=start, cancel=ask_to_end, is_gone=is_gone, settings={}, unable=_UNABLE)
