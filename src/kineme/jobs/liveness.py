"""Whether a job that is said to run does, by signs that a reboot or a reused number cannot fake.

Promises: a record that says Running with nobody there is put right by whoever reads it: on this
machine at once, for another one SILENT_SECONDS after its last sign of life (Unknown, and Running
again with the next one). What a dead agent left is ended; a stranger's process never is.
Leaves out: running a job (agent.py), starting one again (retry is a new job).

Signs: a lock that the agent's process holds and its identity in the record for readers on its
machine, and the file `heartbeat` that it touches for readers elsewhere. Times are compared by the
clock of the file system alone.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from kineme.errors import ResourceError, ServiceError, SpecError
from kineme.files import temporary_beside, write_errors_named
from kineme.jobs.ending import end_all, marked
from kineme.jobs.record import CRASHED, Failure, JobRecord, State, moved
from kineme.jobs.store import AGENT_LOCK_FILE, CANCEL_FILE, JobStore
from kineme.processes import boot_id

HEARTBEAT_FILE = "heartbeat"
HEARTBEAT_SECONDS = 3.0
SILENT_SECONDS = 15.0
FORGOTTEN_SECONDS = 10.0
_LEFTOVER_SECONDS = 2.0
_OVERDUE_SECONDS = 15.0  # beyond the grace of an action, and that of its results
_ABSENT = (State.UNKNOWN, State.PAUSED)


def reconcile(store: JobStore, record: JobRecord, *, asks_runner: bool = False) -> JobRecord:
    """`record`, put right on the disk if it says that somebody runs the job and nobody does.

    asks_runner: ask a scheduler too about jobs that wait or are silent, which takes its time; and
    have it end one that somebody wanted to end and that does not hear.
    """
    if record.is_terminal:
        return record
    if asks_runner and _is_unheard(store, record):
        _end(store, record)
    if record.agent is None:
        if asks_runner and record.backend_job_id is not None and _is_dropped(store, record):
            return record_crash(store, record, reason=f"{record.runner} has it no more")
        return record
    folder = store.folder(record.id)
    if record.agent.is_here:
        is_held = _is_held(folder)
        if is_held or (is_held is None and record.agent.is_alive):
            is_paused = record.state is State.PAUSED  # its agent says when it goes on
            return record if is_paused else back_from_unknown(store, record, source="observer")
        return record_crash(store, record)
    # a file server may keep the lock of a machine that has died, so a held one says nothing
    silent = silent_seconds(folder)
    if silent < SILENT_SECONDS:
        return back_from_unknown(store, record, source="observer")
    if asks_runner and _is_dropped(store, record):
        return record_crash(store, record, reason=f"{record.runner} has it no more")
    if asks_runner and _is_paused(store, record):
        if record.state is State.PAUSED:
            return record
        reason = f"{record.runner} has set it aside"
        return _moved_if_possible(store, record, State.PAUSED, reason=reason)
    is_known = record.state is State.PAUSED and not asks_runner
    if is_known or record.state is State.UNKNOWN or State.UNKNOWN not in _next_states(record):
        return record
    reason = f"no sign of life from {record.agent.host} for {silent:.0f} s"
    return _moved_if_possible(store, record, State.UNKNOWN, reason=reason)


def is_forgotten(store: JobStore, record: JobRecord) -> bool:
    """Whether a job waits and nobody is going to run it, as its client was killed before anybody
    was asked. Starting it again is safe then: of several agents only one runs a job."""
    if record.state is not State.PENDING or record.backend_job_id is not None:
        return False
    age = datetime.now(UTC) - datetime.fromisoformat(record.updated_at or record.created_at)
    if age.total_seconds() < FORGOTTEN_SECONDS:
        return False
    return not is_agent_there(store.folder(record.id))


def ask_to_end(
    store: JobStore, record: JobRecord, *, reason: str = "asked for", source: str = "client"
) -> JobRecord:
    """Have the agent end a job; a job that nobody runs is Canceled at once. A scheduler is told
    of that, and ends a job that does not hear.

    Asking again, or for one that has ended, changes nothing.
    """
    record = reconcile(store, store.load(record.id))
    if record.is_terminal:
        return record
    store.wish_to_cancel(record.id, reason)
    with agent_lock(store.folder(record.id)) as is_free:
        record = store.load(record.id)
        # the agent of a silent machine, should it come back, finds the record and ends its action
        if is_free and record.state in (State.PENDING, State.PAUSED, State.UNKNOWN):
            record = _moved_if_possible(store, record, State.CANCELED, reason=reason, source=source)
    if record.state is State.CANCELED or _is_unheard(store, record):
        _end(store, record)
    return record


def wish_to_end(folder: Path) -> str | None:
    """Why somebody wants the job of this folder to end; None if nobody does."""
    try:
        value = json.loads((folder / CANCEL_FILE).read_bytes())
    except OSError:  # there is none, or the disk does not answer just now
        return None
    except ValueError:
        return "asked for"
    return str(value.get("reason", "asked for")) if isinstance(value, dict) else "asked for"


@contextlib.contextmanager
def agent_lock(folder: Path, *, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Be the only one who runs the job of this folder; yields False if somebody is already.

    The lock goes with this process, however it ends. patience_seconds: for a reader who looks
    at the lock just now.
    """
    with write_errors_named(folder):
        descriptor = os.open(folder / AGENT_LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + patience_seconds
        while not (is_ours := _takes(descriptor, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield is_ours
    finally:
        os.close(descriptor)


def is_agent_there(folder: Path) -> bool:
    """Whether somebody holds the lock of an agent."""
    return _is_held(folder) is True


def show_life(folder: Path) -> None:
    """A sign of life for readers on other machines. Raises FileNotFoundError without a folder."""
    path = folder / HEARTBEAT_FILE
    try:
        os.utime(path)  # needs no room on the disk
    except FileNotFoundError:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))


def silent_seconds(folder: Path) -> float:
    """Since the last sign of life, as the clock of the file system has it."""
    try:
        return _seconds_since_change(folder / HEARTBEAT_FILE)
    except FileNotFoundError:
        return float("inf")


def _seconds_since_change(path: Path) -> float:
    last = path.stat().st_mtime
    probe = temporary_beside(path)
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:  # full, or read-only: then our own clock
        return time.time() - last
    try:
        return os.fstat(descriptor).st_mtime - last
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def back_from_unknown(store: JobStore, record: JobRecord, *, source: str) -> JobRecord:
    """`record`, if it is Unknown or Paused, in the state before: there is a sign of life."""
    if record.state not in _ABSENT:
        return record
    before = [step.state for step in record.transitions if step.state not in _ABSENT]
    state = before[-1] if before and before[-1] in _next_states(record) else State.RUNNING
    return _moved_if_possible(store, record, state, reason="a sign of life", source=source)


def record_crash(store: JobStore, record: JobRecord, *, reason: str = "") -> JobRecord:
    """End what a dead agent left on this machine, and record the job as crashed.

    One that somebody wanted to end is Canceled.
    """
    agent, group = record.agent, record.group
    if agent is not None and agent.is_here and not (group is not None and group.is_alive):
        # otherwise its leash is ending them, and they may save their work
        end_all(lambda: marked(record.id), grace_seconds=_LEFTOVER_SECONDS)
    if not reason and agent is not None:
        reason = f"its agent (pid {agent.pid} on {agent.host}) was killed"
        if agent.is_here and agent.boot != boot_id():
            reason = f"{agent.host} was restarted while it ran"
    if wish_to_end(store.folder(record.id)) is not None:
        return _moved_if_possible(store, record, State.CANCELED, reason=reason)
    failure = Failure(CRASHED, reason)
    return _moved_if_possible(store, record, State.ERROR, reason=reason, failure=failure)


def _moved_if_possible(
    store: JobStore,
    record: JobRecord,
    state: State,
    *,
    reason: str,
    source: str = "observer",
    failure: Failure | None = None,
) -> JobRecord:
    """The record after a step that somebody else may have made impossible meanwhile.

    On a full disk, the record as it should be.
    """
    changes = {"failure": failure} if failure else {}
    try:
        return store.move(record.id, state, reason=reason, source=source, **changes)
    except SpecError:
        return store.load(record.id)
    except ResourceError:
        return moved(record, state, reason=reason, source=source, **changes)


def _is_dropped(store: JobStore, record: JobRecord) -> bool:
    from kineme.jobs.runners import load_runner

    try:
        return load_runner(record.runner).is_gone(store, record) is True
    except (SpecError, ServiceError):  # nobody here who could be asked
        return False


def _is_paused(store: JobStore, record: JobRecord) -> bool:
    from kineme.jobs.runners import load_runner

    is_paused = load_runner(record.runner).is_paused
    can_be = record.state is State.PAUSED or State.PAUSED in _next_states(record)
    try:
        return is_paused is not None and can_be and is_paused(store, record)
    except (SpecError, ServiceError):  # nobody here who could be asked
        return False


def _is_unheard(store: JobStore, record: JobRecord) -> bool:
    """Whether somebody wants the end of a job that cannot hear, or should have ended by now."""
    if record.is_terminal or record.backend_job_id is None:
        return False
    try:
        seconds = _seconds_since_change(store.folder(record.id) / CANCEL_FILE)
    except FileNotFoundError:  # nobody wants it
        return False
    return record.state in _ABSENT or seconds > 2 * record.grace_seconds + _OVERDUE_SECONDS


def _end(store: JobStore, record: JobRecord) -> None:
    """Have the scheduler of a job end it, if it has one."""
    from kineme.jobs.runners import load_runner

    end = load_runner(record.runner).end
    if end is not None and record.backend_job_id is not None:
        with contextlib.suppress(SpecError, ServiceError):  # nobody here who could be asked
            end(store, record)


def _next_states(record: JobRecord) -> frozenset[State]:
    from kineme.jobs.record import TRANSITIONS

    return TRANSITIONS[record.state]


def _is_held(folder: Path) -> bool | None:
    """Whether somebody holds the lock of an agent; None where there is no such file."""
    try:
        descriptor = os.open(folder / AGENT_LOCK_FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        return not _takes(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _takes(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
