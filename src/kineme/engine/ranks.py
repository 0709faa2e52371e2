"""Several processes that work as one: start them, hear them, end them.

Promises: the first failure is the one that is raised, with its own exit code; after it the
other processes have GRACE_SECONDS to notice, then they are killed. A signal to any one of
them, or to this one, stops all. No process outlives the one that started it.
Leaves out: what they compute. Fabric connects them; its own launcher is not used because
it gives the others 30 s more and leaves signals to chance.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch.distributed

from kineme.engine.runtime import (
    Devices,
    join_processes,
    memory_errors_named,
    node_rank,
)
from kineme.errors import KinemeError, ResourceError
from kineme.signals import Interrupted, impatient_signals, patient_signals, signal_handlers

GRACE_SECONDS = 8.0
START_METHOD = "spawn"  # a fork would inherit threads and, on GPUs, a context


class RankError(RuntimeError):
    """A bug showed in one process; its traceback is the error's note."""


@dataclass(frozen=True)
class _Message:
    """What a process says when it ends: its result, or what it raised, and when."""

    seconds: float  # of the clock that all processes share
    result: Any = None
    error: BaseException | None = None


@dataclass
class _Rank:
    """One process as its supervisor sees it."""

    process: BaseProcess
    inbox: Connection
    message: _Message | None = None

    def listen(self) -> None:
        """Take what it said; end of file means that it said nothing."""
        with contextlib.suppress(EOFError, OSError):
            if self.message is None and self.inbox.poll():
                self.message = self.inbox.recv()


def supervise(
    body: Callable[..., Any], args: Sequence[Any], devices: Devices, precision: str
) -> Any:
    """Run `body(fabric, *args)` in one process per device of this node."""
    received: list[int] = []
    ranks: list[_Rank] = []
    with _forwarding(ranks, received):
        try:
            _start(ranks, body, args, devices, precision)
            if received:  # before all were there to hear it
                _pass_on(ranks, received)
            _wait_for(ranks)
        finally:
            for rank in ranks:
                if rank.process.is_alive():
                    rank.process.kill()
                rank.process.join()
                rank.listen()
    return _verdict(ranks, received)


def _start(
    ranks: list[_Rank],
    body: Callable[..., Any],
    args: Sequence[Any],
    devices: Devices,
    precision: str,
) -> None:
    context: Any = multiprocessing.get_context(START_METHOD)  # its type knows no processes
    environment = {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", "127.0.0.1"),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(_free_port()),
        "NODE_RANK": node_rank(),
    }
    for local_rank in range(len(devices.ids)):
        inbox, outbox = context.Pipe(duplex=False)
        process = context.Process(
            target=_run_rank,
            args=(
                outbox,
                {**environment, "LOCAL_RANK": str(local_rank)},
                devices,
                precision,
                body,
                args,
            ),
            name=f"rank {local_rank}",
        )
        with _ignoring_sigint():  # a terminal's Ctrl-C comes to us; we tell them
            process.start()
        outbox.close()
        ranks.append(_Rank(process, inbox))


def _run_rank(
    outbox: Connection,
    environment: dict[str, str],
    devices: Devices,
    precision: str,
    body: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    """The whole life of one process."""
    end_with_parent()
    os.environ.update(environment)
    with patient_signals():  # nothing interrupts the last words
        try:
            with impatient_signals(), memory_errors_named():
                fabric = join_processes(devices, precision)
                result = body(fabric, *args)
                message = _Message(time.monotonic(), result if fabric.is_global_zero else None)
                torch.distributed.destroy_process_group()
        except KinemeError as error:
            message = _Message(time.monotonic(), error=error)
        except Exception as error:  # noqa: BLE001 - it is raised again in the parent
            bug = RankError(f"rank {environment['LOCAL_RANK']}: {type(error).__name__}: {error}")
            bug.add_note(traceback.format_exc())
            message = _Message(time.monotonic(), error=bug)
        outbox.send(message)
        outbox.close()
    if message.error is not None:
        raise SystemExit(getattr(message.error, "exit_code", 1))


def _wait_for(ranks: Sequence[_Rank]) -> None:
    """Return when all have ended, or soon after one has failed."""
    deadline = None
    while running := [rank for rank in ranks if rank.process.is_alive()]:
        seconds = 1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        inboxes = [rank.inbox for rank in running if rank.message is None]
        wait([*inboxes, *(rank.process.sentinel for rank in running)], timeout=min(seconds, 1.0))
        for rank in ranks:
            rank.listen()
        if deadline is None and any(map(_has_failed, ranks)):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() >= deadline:
            return


def _has_failed(rank: _Rank) -> bool:
    if rank.message is not None:
        return rank.message.error is not None
    return rank.process.exitcode not in (None, 0)


def _verdict(ranks: Sequence[_Rank], received: list[int]) -> Any:
    """The result of rank 0, or the error that came first."""
    said = [rank.message for rank in ranks if rank.message and rank.message.error]
    errors = [m.error for m in sorted(said, key=lambda m: m.seconds) if m.error]
    failures = [error for error in errors if not isinstance(error, Interrupted)]
    if received and (not failures or received.count(signal.SIGINT) > 1):
        raise _by(received[0], errors)
    if errors and isinstance(errors[0], KinemeError):
        raise errors[0]
    for i, rank in enumerate(ranks):
        code = rank.process.exitcode
        if rank.message is None and code == -signal.SIGTERM:
            raise Interrupted.by(signal.SIGTERM)
        if rank.message is None and code != 0:  # what the others say of it is only an echo
            raise ResourceError(
                f"rank {i}",
                "to run to the end",
                f"its death by {_cause(code)}",
                "Out of memory? Try a smaller batch_size or fewer data workers.",
            )
    if errors:
        raise errors[0]
    return ranks[0].message.result if ranks[0].message else None


def _by(number: int, errors: Sequence[BaseException]) -> BaseException:
    """What the processes said when they stopped, under the signal that the user sent."""
    told = [error for error in errors if isinstance(error, Interrupted)]
    if not told:
        return Interrupted.by(number)
    problem = told[0].problems[0]
    name = signal.Signals(number).name
    return Interrupted(name, problem.expected, problem.received, problem.fix)


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"


@contextlib.contextmanager
def _forwarding(ranks: Sequence[_Rank], received: list[int]) -> Iterator[None]:
    """Pass signals on as SIGTERM, which makes a process save and stop."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        _pass_on(ranks, received)

    with signal_handlers(on_signal):
        yield


def _pass_on(ranks: Sequence[_Rank], received: Sequence[int]) -> None:
    number = signal.SIGKILL if received.count(signal.SIGINT) > 1 else signal.SIGTERM
    for rank in ranks:
        if rank.process.pid and rank.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank.process.pid, number)


@contextlib.contextmanager
def _ignoring_sigint() -> Iterator[None]:
    """What is started in the block ignores SIGINT from its first instruction."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(128 + signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
