"""Runs one job: `python -m kineme.jobs.agent FOLDER`, on whatever machine sees the folder.

Promises: of several agents of a job one runs it, the others end quietly. The record says Running
with who runs it, and in the end what became of it: by the action's exit code, and why. A wish
to cancel is seen within a second; the action gets SIGTERM, its grace, then SIGKILL, and the job is
Canceled in either case. A full disk keeps no job from its end. If the agent itself is killed,
its leash ends the action. Imports no torch.
Leaves out: processes and the log (leash.py), who starts agents (runners/).
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kineme import concealment
from kineme.errors import KinemeError, ResourceError, SpecError
from kineme.jobs.ending import MARK, end_all, marked
from kineme.jobs.leash import Ended, Leash, Order
from kineme.jobs.liveness import (
    HEARTBEAT_SECONDS,
    agent_lock,
    back_from_unknown,
    record_crash,
    show_life,
    wish_to_end,
)
from kineme.jobs.log import MAX_BYTES
from kineme.jobs.record import CRASHED, FAILURE_KINDS, Failure, JobRecord, State
from kineme.jobs.sending import Sending, with_problem
from kineme.jobs.store import LOG_FILE, SPEC_FILE, JobStore
from kineme.processes import identity

PROGRAM = (sys.executable, "-P", "-m", "kineme")
GRACE_SECONDS = 30.0
SOURCE = "agent"
LOCK_SECONDS = 0.5  # of patience with readers who look at the lock
_POLL_SECONDS = 0.25
_SPARE_FILE = ".spare"
_SPARE_BYTES = 128 << 10
_PATIENCE_SECONDS = 30.0  # with a disk that is full
_PARTIAL = 8
_STOPPED = (130, 143)


def run_agent(
    store: JobStore,
    job_id: str,
    *,
    key: str | None = None,
    program: Sequence[str] = PROGRAM,
    max_log_bytes: int = MAX_BYTES,
) -> JobRecord | None:
    """Run a job to its end; returns its record, or None if another agent runs it.

    program: what the words of the record's command are given to. key: of encrypted checkpoints.
    """
    folder = store.folder(job_id)
    with agent_lock(folder, patience_seconds=LOCK_SECONDS) as is_ours:
        if not is_ours:
            return None
        record = store.load(job_id)
        if record.state is State.PENDING:
            return _Agent(store, folder, job_id).run(record, (*program,), key, max_log_bytes)
        if record.agent is not None and record.agent.is_here and not record.is_terminal:
            return record_crash(store, record)  # whose lock it was is no more
        return record


def words_of(record: JobRecord) -> tuple[str, ...]:
    """The words after `kineme` that do what a job is for."""
    if record.command:
        return record.command
    action = (record.network_arch, record.action)
    return (*action, "-e", SPEC_FILE, f"results_dir={record.results_dir}")


def environment_of(record: JobRecord) -> dict[str, str]:
    """Variables of the action, beside those that its agent has."""
    asked = dict(record.platform.get("environment", {}))
    if "gpu_ids" in record.platform:
        asked["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, record.platform["gpu_ids"]))
    return {**asked, MARK: record.id}


def grace_seconds_of(record: JobRecord) -> float:
    """How long the action may take to stop."""
    return float(record.platform.get("grace_seconds", GRACE_SECONDS))


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
    killed = f"killed by {_signal_name(-code)}" if code is not None and code < 0 else ""
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
        reason = f"stopped by {stopped_by or _signal_name((code or 0) - 128)}{forced}"
        return Verdict(State.ERROR, reason, exit_code, Failure(kind, reason, exit_code))
    kind = CRASHED if code is None else FAILURE_KINDS.get(code, CRASHED)
    if code == -signal.SIGKILL:
        killed += "; out of memory?"
    message = ended.error or killed or f"exit code {code}, without a word why"
    reason = killed or (ended.error if code is None else f"exit code {code}")
    if killed and ended.error:
        message = f"{killed}; before that: {ended.error}"
    return Verdict(State.ERROR, reason, exit_code, Failure(kind, message, exit_code))


TIME_LIMIT = "its time limit"


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


class _Agent:
    """One job from Pending to its end."""

    def __init__(self, store: JobStore, folder: Path, job_id: str) -> None:
        self._store = store
        self._folder = folder
        self._id = job_id
        self._stopped_by = ""
        self._is_canceled = False
        self._last_sign = 0.0
        self._is_fenced = False  # somebody else has recorded the end

    def run(
        self, record: JobRecord, program: tuple[str, ...], key: str | None, max_log_bytes: int
    ) -> JobRecord:
        if (wish := wish_to_end(self._folder)) is not None:
            return self._moved(State.CANCELED, f"before it began: {wish}")
        show_life(self._folder)
        take_spare_room(self._folder)
        with self._signals():
            me = identity()
            record = self._moved(State.RUNNING, f"on {me.host}", agent=me)
            if record.state is not State.RUNNING or record.agent != me:
                return record  # cancelled meanwhile, or another machine was quicker
            order = Order(
                words=(*program, *words_of(record)),
                folder=str(self._folder),
                log=str(self._folder / LOG_FILE),
                environment=environment_of(record),
                grace_seconds=grace_seconds_of(record),
                max_log_bytes=max_log_bytes,
                key=key,
            )
            sending = Sending(record, self._folder)
            ended = self._watched(record, Leash(order))
            try:
                return self._finish(record, ended, sending)
            finally:
                give_spare_room(self._folder)

    def _watched(self, record: JobRecord, leash: Leash) -> Ended:
        """How the action ended; meanwhile, wishes are heard and signs of life given."""
        self._amend(group=identity(leash.process.pid))
        limit = float(record.platform.get("time_limit_seconds", 0))
        began = self._last_sign = time.monotonic()
        is_asked = False
        while (ended := leash.hear(_POLL_SECONDS)) is None:
            if limit and time.monotonic() - began > limit and not self._stopped_by:
                self._stopped_by = TIME_LIMIT
            self._attend()
            if not is_asked and (self._is_canceled or self._stopped_by or self._is_fenced):
                is_asked = True
                leash.end()
        if ended.code is None:  # the leash may have been killed, and an action may save now
            end_all(lambda: marked(self._id), grace_seconds=grace_seconds_of(record))
        return ended

    def _live(self) -> None:
        """A sign of life; and a look whether the job is still ours."""
        try:
            os.stat(self._folder)
            show_life(self._folder)
            record = self._store.load(self._id)
        except FileNotFoundError:  # deleted
            self._is_fenced = True
            return
        except (OSError, KinemeError):  # a disk on the network that does not answer just now
            return
        back_from_unknown(self._store, record, source=SOURCE)
        self._is_fenced = record.is_terminal

    def _finish(self, record: JobRecord, ended: Ended, sending: Sending) -> JobRecord:
        """Record the end, unless somebody else has; send what there is to send before."""
        if self._is_fenced:
            return record
        result = verdict(ended, is_canceled=self._is_canceled, stopped_by=self._stopped_by)
        notes = list(record.notes)
        if ended.num_stuck:
            notes.append(f"{ended.num_stuck} of its processes cannot be ended")
        if ended.lost_log_bytes:
            notes.append(f"{ended.lost_log_bytes:,} bytes of the log found no room on the disk")
        if record.uploads_to is not None:
            self._amend(exit_code=result.exit_code, failure=result.failure, notes=tuple(notes))
        problem = sending.finish(self._goes_on_sending(record))
        if problem:
            notes.append(f"results were not all sent: {problem}")
        state, failure = with_problem(result.state, result.failure, problem)
        if self._is_canceled and state is not result.state:
            state, failure = State.CANCELED, None
        return self._moved(
            state, problem if state is not result.state else result.reason,
            exit_code=result.exit_code, failure=failure, notes=tuple(notes),
        )  # fmt: skip

    def _goes_on_sending(self, record: JobRecord) -> Callable[[], bool]:
        """Whether nobody wants the end before everything is sent; signs of life are given.

        A job that was stopped has its grace for that once more.
        """
        before = (self._is_canceled, self._stopped_by)
        ends = time.monotonic() + grace_seconds_of(record) if any(before) else float("inf")

        def goes_on() -> bool:
            self._attend()
            is_asked = (self._is_canceled, self._stopped_by) != before
            return not (is_asked or self._is_fenced) and time.monotonic() < ends

        return goes_on

    def _attend(self) -> None:
        """Give a sign of life when it is time; hear wishes."""
        if time.monotonic() - self._last_sign >= HEARTBEAT_SECONDS:
            self._last_sign = time.monotonic()
            self._live()
        wish = wish_to_end(self._folder)
        if wish is not None and not self._is_canceled:
            self._is_canceled = True
            self._moved(State.CANCELING, wish)

    def _amend(self, **changes: Any) -> None:
        recorded(lambda: self._store.amend(self._id, **changes), self._store, self._id)

    def _moved(self, state: State, reason: str, **changes: Any) -> JobRecord:
        return recorded(
            lambda: self._store.move(self._id, state, reason=reason, source=SOURCE, **changes),
            self._store, self._id,
        )  # fmt: skip

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """A request to stop is passed on to the action. SIGUSR2: of SLURM, time is up soon."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._stopped_by = self._stopped_by or _signal_name(number)

        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2) if is_main else ()
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


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


def main() -> int:
    """`python -m kineme.jobs.agent FOLDER`; the exit code tells nothing of the job."""
    told = concealment.told()
    if len(told.words) != 1:
        print("usage: python -m kineme.jobs.agent FOLDER", file=sys.stderr)
        return 2
    folder = Path(told.words[0]).absolute()
    try:
        run_agent(JobStore(folder.parent), folder.name, key=told.key)
    except KinemeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
