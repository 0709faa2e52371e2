"""Which processes belong to a job, and how they are ended.

Promises: a signal reaches the process that was meant or nobody, whatever numbers are used again
meanwhile. A process belongs to a job by descent, or because it carries the job's mark in its
environment; never because of a number alone.
Leaves out: when (leash.py, liveness.py).
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from kineme.processes import start_ticks

MARK = "KINEME_JOB_ID"  # variable of all processes of a job
_PAUSE_SECONDS = 0.02
_LONGEST_DEATH_SECONDS = 5.0  # after SIGKILL; only a process stuck in the kernel needs longer

Processes = dict[int, int]  # number -> start, in clock ticks since the boot


def descendants(root: int) -> Processes:
    """All living processes that `root` started, and those started by them, and so on."""
    parents: dict[int, tuple[int, int]] = {}
    for number in _numbers():
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[number] = (int(fields[1]), int(fields[19]))
    found: Processes = {}
    is_growing = True
    while is_growing:
        new = {
            number: start
            for number, (parent, start) in parents.items()
            if (parent == root or parent in found) and number not in found
        }
        found |= new
        is_growing = bool(new)
    return found


def marked(job_id: str) -> Processes:
    """All living processes of this user that carry the mark of a job, except this one."""
    words = f"{MARK}={job_id}".encode()
    found: Processes = {}
    for number in _numbers():
        with contextlib.suppress(OSError):
            start = start_ticks(number)
            environment = Path(f"/proc/{number}/environ").read_bytes()
            if start is not None and number != os.getpid() and words in environment.split(b"\0"):
                found[number] = start
    return found


def send(number: int, processes: Processes) -> None:
    """Send signal `number` to those of `processes` that are still the same."""
    for pid, start in processes.items():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            descriptor = os.pidfd_open(pid)
            try:
                if start_ticks(pid) == start:  # what the descriptor holds cannot change any more
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


def end_all(
    find: Callable[[], Processes], *, grace_seconds: float, reap: Callable[[], None] = lambda: None
) -> int:
    """End what `find` finds, and what it finds then, until nothing is left: SIGTERM to each,
    SIGKILL after `grace_seconds`. Returns how many cannot be ended (0 is usual)."""
    asked: set[tuple[int, int]] = set()
    kill_at = time.monotonic() + grace_seconds
    while True:
        reap()
        found = find()
        if not found:
            return 0
        now = time.monotonic()
        if now >= kill_at + _LONGEST_DEATH_SECONDS:
            return len(found)
        if now >= kill_at:
            send(signal.SIGKILL, found)
        else:
            new = {pid: start for pid, start in found.items() if (pid, start) not in asked}
            send(signal.SIGTERM, new)
            send(signal.SIGCONT, new)  # a stopped process hears nothing else
            asked |= new.items()
        time.sleep(_PAUSE_SECONDS)


def _numbers() -> Iterable[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())
