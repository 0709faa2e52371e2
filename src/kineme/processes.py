"""Which process is meant, in a way that neither a reboot nor a reused number can confuse.

Promises: a process is named by machine, number, start time and boot; another one that got the same
number later is not taken for it, and one that has ended and is not yet reaped is not alive.
Leaves out: starting and ending processes (engine/ranks.py, jobs/).
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ProcessIdentity:
    """One process of one boot of one machine. started: clock ticks since the boot."""

    host: str
    pid: int
    started: int | None
    boot: str

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether that very process still runs. Only this machine's own can be seen: `is_here`."""
        started = start_ticks(self.pid)
        return self.boot == boot_id() and started is not None and started == self.started


def identity(pid: int | None = None) -> ProcessIdentity:
    """Of a process of this machine, by default of this one."""
    pid = os.getpid() if pid is None else pid
    return ProcessIdentity(socket.gethostname(), pid, start_ticks(pid), boot_id())


def start_ticks(pid: Any) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks
    return None if fields[0] == "Z" else int(fields[19])


def boot_id() -> str:
    """Of this boot of this machine; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
