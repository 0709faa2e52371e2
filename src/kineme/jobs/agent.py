"""Runs one job: `python -m kineme.jobs.agent FOLDER`, on whatever machine sees the folder.

Promises: of several agents of a job one runs it, the others end quietly. The record says Running
with who runs it, and in the end what became of it: by the action's exit code, and why. A wish
to cancel is seen within a second; the action gets SIGTERM, its grace, then SIGKILL, and the job is
Canceled in either case. If the agent itself is killed, its leash ends the action. Imports no torch.
Leaves out: processes and the log (leash.py), the record (course.py), who starts agents (runners/).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from kineme import concealment
from kineme.errors import KinemeError
from kineme.jobs.course import Course, signal_name
from kineme.jobs.ending import MARK, end_all, marked
from kineme.jobs.leash import Ended, Leash, Order
from kineme.jobs.liveness import agent_lock, record_crash
from kineme.jobs.log import MAX_BYTES
from kineme.jobs.record import JobRecord, State
from kineme.jobs.store import LOG_FILE, SPEC_FILE, JobStore
from kineme.signals import STOPPING_JOBS, signal_handlers

PROGRAM = (sys.executable, "-P", "-m", "kineme")
LOCK_SECONDS = 0.5  # of patience with readers who look at the lock
_POLL_SECONDS = 0.25


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
            return _Agent(store, job_id).run((*program,), key, max_log_bytes)
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
    # a container has those alone, and numbers them anew
    if "gpu_ids" in record.platform and record.runner != "docker":
        asked["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, record.platform["gpu_ids"]))
    return {**asked, MARK: record.id}


class _Agent:
    """One job, its leash, and the signals that this process gets."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._course = Course(store, job_id)
        self._id = job_id

    def run(self, program: tuple[str, ...], key: str | None, max_log_bytes: int) -> JobRecord:
        with signal_handlers(self._on_signal, STOPPING_JOBS):
            record, is_ours = self._course.begin()
            if not is_ours:
                return record
            folder = self._course.folder
            order = Order(
                words=(*program, *words_of(record)),
                folder=str(folder),
                log=str(folder / LOG_FILE),
                environment=environment_of(record),
                grace_seconds=record.grace_seconds,
                max_log_bytes=max_log_bytes,
                key=key,
            )
            return self._course.finish(self._watched(Leash(order), order.grace_seconds))

    def _watched(self, leash: Leash, grace_seconds: float) -> Ended:
        """How the action ended; meanwhile, wishes are heard and signs of life given."""
        self._course.leads(leash.process.pid)
        is_asked = False
        while (ended := leash.hear(_POLL_SECONDS)) is None:
            if self._course.is_to_end() and not is_asked:
                is_asked = True
                leash.end()
        if ended.code is None:  # the leash may have been killed, and an action may save now
            end_all(lambda: marked(self._id), grace_seconds=grace_seconds)
        return ended

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """A request to stop is passed on to the action."""
        self._course.stopped_by = self._course.stopped_by or signal_name(number)


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
