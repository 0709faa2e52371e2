"""One run per folder: a lease that a dead process cannot keep.

Promises: a second run is told who holds the folder and since when. A lease ends with its
holder: at once on the same machine (process id, its start time and the boot id are
compared), after EXPIRY_SECONDS without a sign of life on another one.
Leaves out: what the run does meanwhile.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from kineme.errors import SpecError
from kineme.files import write_errors_named
from kineme.processes import ProcessIdentity, identity

EXPIRY_SECONDS = 300.0
SIGN_OF_LIFE_SECONDS = 60.0
MAX_BYTES = 4096

_OURS: dict[Path, int] = {}  # lease files that threads of this process hold


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lease file `path` while the block runs. Raises SpecError if another does.

    A thread that holds it may hold it again.
    """
    key = path.absolute()
    if _OURS.get(key) == threading.get_ident():
        yield
        return
    me = _holder()
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _take(path, me)
    done = threading.Event()
    threading.Thread(target=_show_life, args=(path, done), daemon=True, name="lease").start()
    _OURS[key] = threading.get_ident()
    try:
        yield
    finally:
        del _OURS[key]
        done.set()
        with contextlib.suppress(OSError):
            if _parsed(path.read_bytes()) == me:
                path.unlink()


def refuse_if_in_use(path: Path) -> None:
    """Raise SpecError if another run holds the lease file `path`; change nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # none that anybody could hold
        return
    try:
        _refuse_if_held(path, descriptor)
    finally:
        os.close(descriptor)


def _take(path: Path, me: dict[str, Any]) -> None:
    """Judge and write under a lock of the file, so that of two only one gets it."""
    taken = False
    while not taken:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
            # its holder may just have removed it: then what we opened is nobody's
            with contextlib.suppress(FileNotFoundError):
                taken = os.path.samestat(os.fstat(descriptor), path.stat())
            if taken:
                _refuse_if_held(path, descriptor)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(me).encode())
        finally:
            os.close(descriptor)


def _refuse_if_held(path: Path, descriptor: int) -> None:
    # all through the descriptor: closing another one of the same file drops the lock
    other = _parsed(os.pread(descriptor, MAX_BYTES, 0))
    if other is not None and _is_held(other, time.time() - os.fstat(descriptor).st_mtime):
        raise SpecError(
            str(path.parent),
            "a results folder that no run is using",
            f"one in use by pid {other['pid']} on {other['host']} since {other['since']}",
            "Wait for it, or set another results_dir.",
        )


def _holder() -> dict[str, Any]:
    return {
        **asdict(identity()),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _parsed(data: bytes) -> dict[str, Any] | None:
    """The holder that a lease file names; None if it names none."""
    try:
        holder = json.loads(data)
    except ValueError:
        return None
    keys = {"pid", "started", "boot", "host", "since"}
    return holder if isinstance(holder, dict) and keys <= holder.keys() else None


def _is_held(holder: dict[str, Any], age_seconds: float) -> bool:
    if holder["host"] != socket.gethostname():
        return age_seconds < EXPIRY_SECONDS
    named = (holder[key] for key in ("host", "pid", "started", "boot"))
    return ProcessIdentity(*named).is_alive


def _show_life(path: Path, done: threading.Event) -> None:
    while not done.wait(SIGN_OF_LIFE_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
