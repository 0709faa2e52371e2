"""Trains the tiny network in a process of its own, which tests signal, kill and starve.

Processes are forked from a server that has imported torch once, so each costs
milliseconds. Faults are planted here, by replacing functions: the source has no hooks.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tiny_process", "tiny", "kineme.actions.train", "kineme.engine.ranks"]
)


def start(folder: Path, *, faults: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A process, leader of its own session, that trains into `folder`; stderr in err.txt."""
    os.environ["OMP_NUM_THREADS"] = "1"
    process = CONTEXT.Process(target=_train, args=(str(folder), changes, faults or {}))
    process.start()
    return process


def finish(process: Any, seconds: float = 60) -> int:
    """Its exit code; a process that does not end is killed and fails the test."""
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"still running after {seconds} s")
    return int(process.exitcode)


def wait_until(is_true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def session_processes(session: int) -> list[int]:
    """Living processes of a session (zombies are dead)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def _train(folder: str, changes: dict[str, Any], faults: dict[str, Any]) -> None:
    from kineme.actions import train
    from tiny import TINY, tiny_spec

    with session(folder, faults):
        train.run(TINY, tiny_spec(folder, **changes))


@contextlib.contextmanager
def session(folder: str, faults: dict[str, Any]) -> Iterator[None]:
    """Make this process leader of its own session, stderr in err.txt, faults planted.

    It ends with the exit code of what is raised.
    """
    os.setsid()
    import torch

    from kineme.errors import KinemeError

    torch.set_num_threads(1)
    Path(folder).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(f"{folder}/err.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    plant(faults)
    try:
        yield
    except KinemeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - as the command line does
        print(f"bug: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def plant(faults: dict[str, Any]) -> None:
    """kill_in: (os function, n-th call, "before" or "after") at which the process is killed.
    file_size: the largest file that may be written.
    fork: start the processes of a run in milliseconds. environment: variables to set.
    cheap_keys: stretch keys of encrypted checkpoints as little as can be."""
    os.environ.update(faults.get("environment", {}))
    if "cheap_keys" in faults:
        from kineme.engine import encryption

        encryption.COST = encryption.Cost(log2_n=2, r=1, p=1)
    if "fork" in faults:
        from kineme.engine import ranks

        ranks.START_METHOD = "fork"
    if "kill_in" in faults:
        name, nth, when = faults["kill_in"]
        real, count = getattr(os, name), 0

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **kwargs)
            if count == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(os, name, deadly)
    if "file_size" in faults:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["file_size"], faults["file_size"]))
