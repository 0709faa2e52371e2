"""Runs the action of a job on a further node: `python -m kineme.jobs.follower FOLDER`.

Promises: it begins when the job runs, and ends when the job has ended or is being cancelled; what
it prints is in `job.node<NODE_RANK>.log`. No process of it is left behind. A disk on the network
that does not answer for a while, or shows less than there is, ends nothing.
Leaves out: states, which are the agent's business on the first node.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from kineme.errors import KinemeError
from kineme.jobs.agent import PROGRAM, environment_of, words_of
from kineme.jobs.leash import Ended, Leash, Order
from kineme.jobs.record import JobRecord, State
from kineme.jobs.store import JobStore
from kineme.signals import STOPPING_JOBS, signal_handlers

_POLL_SECONDS = 1.0
_WAITS = (State.PENDING,)
_RUNS = (State.RUNNING, State.UNKNOWN)


def follow_job(store: JobStore, job_id: str, *, program: Sequence[str] = PROGRAM) -> Ended | None:
    """Run the action of a job as long as the job runs; None if it ended before."""
    stops: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stops.append(number)

    with signal_handlers(on_signal, STOPPING_JOBS):
        return _follow(store, job_id, program, stops)


def _follow(
    store: JobStore, job_id: str, program: Sequence[str], stops: Sequence[int]
) -> Ended | None:
    """stops: signals that came, which grows meanwhile."""
    folder = store.folder(job_id)
    record = store.read(folder)
    while record.state in _WAITS and not stops:
        time.sleep(_POLL_SECONDS)
        record = _seen(store, folder) or record
        if not _is_there(folder):
            return None
    if record.state not in _RUNS or stops:
        return None
    leash = Leash(_order(folder, record, program))
    is_asked = False
    while (ended := leash.hear(_POLL_SECONDS)) is None:
        if not is_asked and (stops or not _runs(store, folder)):
            is_asked = True
            leash.end()
    return ended


def _order(folder: Path, record: JobRecord, program: Sequence[str]) -> Order:
    return Order(
        words=(*program, *words_of(record)),
        folder=str(folder),
        log=str(folder / f"job.node{os.environ.get('NODE_RANK', '1')}.log"),
        environment=environment_of(record),
        grace_seconds=record.grace_seconds,
    )


def _runs(store: JobStore, folder: Path) -> bool:
    record = _seen(store, folder)
    return _is_there(folder) and (record is None or record.state in _RUNS)


def _seen(store: JobStore, folder: Path) -> JobRecord | None:
    """The record; None from a disk on the network that does not answer just now."""
    try:
        return store.read(folder)
    except (OSError, KinemeError):
        return None


def _is_there(folder: Path) -> bool:
    """Whether the job was not deleted, as far as can be seen."""
    try:
        os.stat(folder)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def main() -> int:
    """The exit code tells nothing of the job."""
    folder = Path(sys.argv[1]).absolute()
    follow_job(JobStore(folder.parent), folder.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
