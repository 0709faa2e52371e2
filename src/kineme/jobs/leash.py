"""A process of its own that runs one program and ends all that came of it.

Started by the agent as `python -m kineme.jobs.leash DESCRIPTOR`, where DESCRIPTOR is a socket that
says what to run, then `end` to end it; the end of the socket is the end of the agent and means the
same. It answers with an `Ended` when nothing is left. It adopts every orphan among the program's
descendants (Linux: child subreaper), so that no new session or group leads out of its sight.
Promises: soon after the program has ended, or the agent has, no process of it is left; the
program gets SIGTERM and its grace first. All that it prints is in the job's log, its last words
after the death of the agent too. Should the leash itself be killed, the program gets SIGTERM.
Leaves out: what the end means for the job (agent.py). No key is in its words or environment.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from kineme import concealment
from kineme.jobs.ending import Processes, descendants, end_all, send
from kineme.jobs.log import MAX_BYTES, LogWriter, last_error
from kineme.processes import start_ticks
from kineme.signals import STOPPING, is_ignored

LEFTOVER_SECONDS = 2.0  # for what outlives the program
END = b"end\n"
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_BLOCK_BYTES = 64 << 10
_MOST_BLOCKS = 64  # more than a pipe holds
_POLL_SECONDS = 1.0  # signals wake it at once
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True)
class Order:
    """What to run. log: path that takes all it prints."""

    words: tuple[str, ...]
    folder: str
    log: str
    environment: Mapping[str, str]  # beside that of the leash
    grace_seconds: float
    max_log_bytes: int = MAX_BYTES
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ended:
    """What became of the program. code: as of Popen, -9 for SIGKILL; None if it never ran.

    error: its last words `error: ...`. is_forced: whether it had to be killed after its grace.
    num_stuck: how many of its processes cannot be ended.
    """

    code: int | None
    error: str = ""
    is_forced: bool = False
    num_stuck: int = 0
    lost_log_bytes: int = 0


class Leash:
    """The agent's end: start one, hear of it, end it."""

    def __init__(self, order: Order) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, concealment.handed_on(None) as (environment, _):
            words = [sys.executable, "-P", "-m", "kineme.jobs.leash", str(theirs.fileno())]
            self.process = subprocess.Popen(
                words, cwd=order.folder, env={**environment, **order.environment},
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._socket = ours.dup()
        self._heard = b""
        self._tell(json.dumps(asdict(order)).encode() + b"\n")

    def end(self) -> None:
        """Ask for the end of the program; `hear` will tell."""
        self._tell(END)

    def hear(self, seconds: float) -> Ended | None:
        """Wait that long for the end of all; None if there is more to wait for."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return None
        block = _received(self._socket)
        self._heard += block
        if block and not self._heard.endswith(b"\n"):
            return None
        self._socket.close()
        self.process.wait()
        try:
            return Ended(**json.loads(self._heard))
        except ValueError:  # it was killed
            return Ended(None, "the process that watches over the action was killed")

    def _tell(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:  # it has ended, which `hear` tells
            return


def main() -> int:
    """The life of a leash."""
    agent = socket.socket(fileno=int(sys.argv[1]))
    text = b""
    while b"\n" not in text:
        block = _received(agent)
        if not block:
            return 0
        text += block
    line, _, more = text.partition(b"\n")
    value: dict[str, Any] = json.loads(line)
    order = Order(**{**value, "words": tuple(value["words"])})
    log = LogWriter(
        Path(order.log), secrets=[order.key] if order.key else [], max_bytes=order.max_log_bytes
    )
    ended = _Watch(order, log, agent, is_ending=bool(more)).run()
    log.close()
    try:
        agent.sendall(json.dumps(asdict(ended)).encode() + b"\n")
    except OSError:
        return 0
    return 0


class _Watch:
    """The leash's end: a program, its descendants, its output and the agent."""

    def __init__(
        self, order: Order, log: LogWriter, agent: socket.socket, *, is_ending: bool
    ) -> None:
        self._order = order
        self._log = log
        self._agent = agent
        self._has_agent = True
        self._is_ending = is_ending
        self._program: subprocess.Popen[bytes] | None = None
        self._output: int | None = None

    def run(self) -> Ended:
        """Until nothing is left."""
        wake = _wake_on_signals(self._on_signal)
        _prctl(_SUBREAPER, 1)
        try:
            self._program = program = self._started()
        except OSError as error:
            reason = f"{self._order.words[0]} cannot be started: {error.strerror}"
            self._log.note(reason)
            return Ended(None, reason)
        kill_at = None
        is_forced = False
        while program.returncode is None:
            if self._is_ending and kill_at is None:
                kill_at = time.monotonic() + self._order.grace_seconds
                self._ask(program)
            seconds = _POLL_SECONDS
            if kill_at is not None:
                seconds = kill_at - time.monotonic()
                if seconds <= 0:
                    send(signal.SIGKILL, descendants(os.getpid()))
                    is_forced, seconds = True, 0.05
            self._listen(wake, seconds)
            self._reap()
        num_stuck = end_all(self._still_there, grace_seconds=LEFTOVER_SECONDS, reap=self._reap)
        self._read_rest()
        last_words = last_error(self._log.recent)
        return Ended(program.returncode, last_words, is_forced, num_stuck, self._log.lost_bytes)

    def _started(self) -> subprocess.Popen[bytes]:
        self._output, theirs = os.pipe()
        leash = os.getpid()
        try:
            with concealment.handed_on(self._order.key) as (environment, descriptors):
                return subprocess.Popen(
                    self._order.words, cwd=self._order.folder, env=environment,
                    stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                    pass_fds=descriptors, preexec_fn=lambda: _end_with(leash),
                )  # fmt: skip
        finally:
            os.close(theirs)

    def _ask(self, program: subprocess.Popen[bytes]) -> None:
        """SIGTERM to the program, which may tell those that it started, in its own order."""
        start = start_ticks(program.pid)
        if start is not None:
            send(signal.SIGTERM, {program.pid: start})
            send(signal.SIGCONT, {program.pid: start})

    def _listen(self, wake: int, seconds: float) -> None:
        """Copy what was printed, hear what the agent says."""
        sources: list[Any] = [wake]
        sources += [self._output] if self._output is not None else []
        sources += [self._agent] if self._has_agent else []
        readable = select.select(sources, [], [], seconds)[0]
        if wake in readable:
            os.read(wake, _BLOCK_BYTES)
        if self._output in readable:
            self._copy()
        if self._agent in readable:
            if not _received(self._agent):
                self._has_agent = False
                self._log.note("the agent of this job has ended; so does what it runs")
            self._is_ending = True

    def _copy(self) -> None:
        """Some of what was printed to the log."""
        if self._output is None:
            return
        block = os.read(self._output, _BLOCK_BYTES)
        if block:
            self._log.write(block)
        else:
            os.close(self._output)
            self._output = None

    def _read_rest(self) -> None:
        """What was printed by now; of one who prints without end, a part."""
        for _ in range(_MOST_BLOCKS):
            if self._output is None or not select.select([self._output], [], [], 0)[0]:
                return
            self._copy()

    def _reap(self) -> None:
        """Take leave of the dead: the program, and adopted orphans."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitid(os.P_ALL, 0, flags)) is not None:
                if self._program is not None and dead.si_pid == self._program.pid:
                    self._program.poll()  # which keeps how it ended
                else:
                    os.waitpid(dead.si_pid, 0)

    def _still_there(self) -> Processes:
        self._read_rest()  # so that none waits for room to print
        return descendants(os.getpid())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._is_ending = True


def _received(agent: socket.socket) -> bytes:
    """Of the agent; nothing once it has ended."""
    try:
        return agent.recv(_BLOCK_BYTES)
    except OSError:  # it left something unread
        return b""


def _wake_on_signals(on_signal: Callable[[int, FrameType | None], None]) -> int:
    """A descriptor that can be read when a signal came; what is ignored stays so."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    asked = (n for n in (*STOPPING, signal.SIGHUP) if not is_ignored(n))
    for number in (signal.SIGCHLD, *asked):
        signal.signal(number, on_signal)
    return reading


def _end_with(leash: int) -> None:
    """In the program, before it begins: SIGTERM when the leash is killed."""
    _prctl(_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != leash:
        os.kill(os.getpid(), signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    _LIBC.prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
