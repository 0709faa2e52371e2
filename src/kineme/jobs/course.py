"""The course of one job in the hands of who runs it: begun, watched and ended, on its record.

Promises: of several who begin a job one is told that it is theirs. Signs of life are given, and a
wish to end it is heard, while its action runs and while its last results are sent. How the action
ended is recorded before anything is sent; a full disk keeps no job from its end.
Leaves out: running the action (agent.py with leash.py, runners/in_process.py).
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.errors import KinemeError, ResourceError, SpecError
from kineme.jobs.leash import Ended
from kineme.jobs.liveness import HEARTBEAT_SECONDS, back_from_unknown, show_life, wish_to_end
from kineme.jobs.record import CRASHED, FAILURE_KINDS, Failure, JobRecord, State
from kineme.jobs.sending import Sending, with_problem
from kineme.jobs.store import JobStore
from kineme.processes import identity

TIME_LIMIT = "its time limit"
SOURCE = "agent"
_SPARE_FILE = ".spare"
_SPARE_BYTES = 128 << 10
_PATIENCE_SECONDS = 30.0  # with a disk that is full
_PARTIAL = 8
_STOPPED = (130, 143)


class Course:
    """One job, from Pending to its end.

    stopped_by: a signal, or a limit, that ends it. is_canceled: somebody wants its end. is_fenced:
    somebody else has recorded its end, or deleted it.
    """

    def __init__(self, store: JobStore, job_id: str) -> None:
        self.folder = store.folder(job_id)
        self.stopped_by = ""
        self.is_canceled = False
        self.is_fenced = False
        self._store = store
        self._id = job_id

    def begin(self) -> tuple[JobRecord, bool]:
        """Say that the job runs, and who runs it; and whether that is this process.

        It is not where somebody wanted its end before, or another machine was quicker.
        """
        if (wish := wish_to_end(self.folder)) is not None:
            return self._moved(State.CANCELED, f"before it began: {wish}"), False
        show_life(self.folder)
        take_spare_room(self.folder)
        me = identity()
        self._record = record = self._moved(State.RUNNING, f"on {me.host}", agent=me)
        if record.state is not State.RUNNING or record.agent != me:
            return record, False
        self._sending = Sending(record, self.folder)
        self._began = self._last_sign = time.monotonic()
        return record, True

    def leads(self, pid: int) -> None:
        """Record who leads the processes of the action."""
        self._amend(group=identity(pid))

    def is_to_end(self) -> bool:
        """Look after the job while its action runs; whether the action is to end."""
        limit = float(self._record.platform.get("time_limit_seconds", 0))
        if limit and time.monotonic() - self._began > limit and not self.stopped_by:
            self.stopped_by = TIME_LIMIT
        self._attend()
        return self.is_canceled or self.is_fenced or bool(self.stopped_by)

    def finish(self, ended: Ended) -> JobRecord:
        """Record the end, unless somebody else has; send what there is to send before."""
        try:
            return self._finished(ended)
        finally:
            give_spare_room(self.folder)

    def _finished(self, ended: Ended) -> JobRecord:
        record = self._record
        if self.is_fenced:
            with contextlib.suppress(KinemeError, OSError):
                record = self._store.load(self._id)
            return record
        result = verdict(ended, is_canceled=self.is_canceled, stopped_by=self.stopped_by)
        notes = list(record.notes)
        if ended.num_stuck:
            notes.append(f"{ended.num_stuck} of its processes cannot be ended")
        if ended.lost_log_bytes:
            notes.append(f"{ended.lost_log_bytes:,} bytes of the log found no room on the disk")
        if record.uploads_to is not None:
            self._amend(exit_code=result.exit_code, failure=result.failure, notes=tuple(notes))
        problem = self._sending.finish(self._goes_on_sending(ended))
        if problem:
            notes.append(f"results were not all sent: {problem}")
        state, failure = with_problem(result.state, result.failure, problem)
        if self.is_canceled and state is not result.state:
            state, failure = State.CANCELED, None
        return self._moved(
            state, problem if state is not result.state else result.reason,
            exit_code=result.exit_code, failure=failure, notes=tuple(notes),
        )  # fmt: skip

    def _goes_on_sending(self, ended: Ended) -> Callable[[], bool]:
        """Whether nobody wants the end before everything is sent; signs of life are given.

        A job that was stopped has its grace for that once more.
        """
        before = (self.is_canceled, self.stopped_by)
        is_stopped = any(before) or ended.code in _STOPPED
        seconds = self._record.grace_seconds if is_stopped else float("inf")
        ends = time.monotonic() + seconds

        def goes_on() -> bool:
            self._attend()
            is_asked = (self.is_canceled, self.stopped_by) != before
            return not (is_asked or self.is_fenced) and time.monotonic() < ends

        return goes_on

    def _attend(self) -> None:
        """Give a sign of life when it is time; hear wishes."""
        if time.monotonic() - self._last_sign >= HEARTBEAT_SECONDS:
            self._last_sign = time.monotonic()
            self._live()
        wish = wish_to_end(self.folder)
        if wish is not None and not self.is_canceled:
            self.is_canceled = True
            self._moved(State.CANCELING, wish)

    def _live(self) -> None:
        """A sign of life; and a look whether the job is still ours."""
        try:
            os.stat(self.folder)
            show_life(self.folder)
            record = self._store.load(self._id)
        except FileNotFoundError:  # deleted
            self.is_fenced = True
            return
        except (OSError, KinemeError):  # a disk on the network that does not answer just now
            return
        back_from_unknown(self._store, record, source=SOURCE)
        self.is_fenced = record.is_terminal

    def _amend(self, **changes: Any) -> None:
        recorded(lambda: self._store.amend(self._id, **changes), self._store, self._id)

    def _moved(self, state: State, reason: str, **changes: Any) -> JobRecord:
        return recorded(
            lambda: self._store.move(self._id, state, reason=reason, source=SOURCE, **changes),
            self._store, self._id,
        )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What became of a job. exit_code: as a shell has it, 137 for SIGKILL."""

    state: State
    reason: str
    exit_code: int | None = None
    failure: Failure | None = None


def verdict(ended: Ended, *, is_canceled: bool = False, stopped_by: str = "") -> Verdict:
    """What the end of an action means for its job.

    is_canceled: it was asked to end because somebody wanted that; stopped_by: by a signal to its
    agent, or a limit. What was done when the wish came is Complete.
    """
    code = ended.code
    exit_code = code if code is None or code >= 0 else 128 - code
    killed = f"killed by {signal_name(-code)}" if code is not None and code < 0 else ""
    forced = "; it did not stop in time and was killed" if ended.is_forced else ""
    if code == 0:
        return Verdict(State.COMPLETE, "done", 0)
    if code == _PARTIAL:
        message = ended.error or "some inputs failed"
        failure = Failure(FAILURE_KINDS[code], message, code)
        return Verdict(State.COMPLETE, "done; some inputs failed", code, failure)
    if is_canceled:
        return Verdict(State.CANCELED, f"stopped as asked{forced}", exit_code)
    if stopped_by or code in _STOPPED:
        kind = "timeout" if stopped_by == TIME_LIMIT else "interrupted"
        reason = f"stopped by {stopped_by or signal_name((code or 0) - 128)}{forced}"
        return Verdict(State.ERROR, reason, exit_code, Failure(kind, reason, exit_code))
    kind = CRASHED if code is None else FAILURE_KINDS.get(code, CRASHED)
    if code == -signal.SIGKILL:
        killed += "; out of memory?"
    message = ended.error or killed or f"exit code {code}, without a word why"
    reason = killed or (ended.error if code is None else f"exit code {code}")
    if killed and ended.error:
        message = f"{killed}; before that: {ended.error}"
    return Verdict(State.ERROR, reason, exit_code, Failure(kind, message, exit_code))


def signal_name(number: int) -> str:
    """As SIGTERM; of an unknown one, its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def recorded(change: Callable[[], JobRecord], store: JobStore, job_id: str) -> JobRecord:
    """The record after a change, on a full disk too: with the room that was kept for it, or as
    soon as there is some. As somebody else left it, where the change is not possible any more.

    Raises ResourceError when there is no room for long.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return change()
        except SpecError:
            return store.load(job_id)
        except ResourceError:
            if not give_spare_room(store.folder(job_id)) and time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def take_spare_room(folder: Path) -> None:
    """Room for the record of the end, should the disk be full by then."""
    descriptor = os.open(folder / _SPARE_FILE, os.O_WRONLY | os.O_CREAT, 0o644)
    with contextlib.suppress(OSError):
        os.write(descriptor, bytes(_SPARE_BYTES))
    os.close(descriptor)


def give_spare_room(folder: Path) -> bool:
    """Whether there was room to give."""
    try:
        (folder / _SPARE_FILE).unlink()
    except OSError:
        return False
    return True
