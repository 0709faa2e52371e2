"""Video files looked at and read by processes that may crash or hang without harm.

Promises: a decoder that does not answer within the deadline is killed, one that crashes is
replaced, and only the file it was working on fails; answers come in the order of the questions;
no process outlives the pool or its parent.
Leaves out: what the answers are (video.py) and what runs in the processes (decode_worker.py).

Starting a worker takes a few tenths of a second and sending a clip about as long as copying it,
so training reads in its own workers and comes here for strangers' files.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.video import Clip, VideoFacts
from kineme.errors import DataError, Problem, ResourceError

DEADLINE_SECONDS = 60.0
_START_SECONDS = 120.0  # for a worker to import what it needs, on a busy machine
_AHEAD = 4  # answers per worker that may wait for an earlier one
_COMMAND = (sys.executable, "-m", "kineme.data.decode_worker")

Answer = VideoFacts | Clip | DataError


@dataclass(frozen=True, eq=False)
class ReadRequest:
    """The arguments of video.read_frames."""

    path: str | os.PathLike[str]
    indices: NDArray[np.int64]
    size: tuple[int, int] | None = None
    short_side: int | None = None


def probe_all(
    paths: Sequence[str | os.PathLike[str]],
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    num_workers: int = 2,
) -> list[VideoFacts | DataError]:
    """What each file is, or why it is no video, in the order of `paths`."""
    with DecodePool(
        num_workers=max(min(num_workers, len(paths)), 1), deadline_seconds=deadline_seconds
    ) as pool:
        return list(pool.probe(paths))


class DecodePool:
    """Up to `num_workers` processes; each file has `deadline_seconds`. Use it in a `with`."""

    def __init__(self, *, num_workers: int = 2, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self.num_workers, self.deadline_seconds = num_workers, deadline_seconds
        self._workers: list[_Worker] = []

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes now."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def probe(self, paths: Iterable[str | os.PathLike[str]]) -> Iterator[VideoFacts | DataError]:
        """video.probe of each path, in order."""
        questions = ({"path": os.fspath(path), "indices": None} for path in paths)
        yield from self._ask(questions)  # type: ignore[misc]

    def read(self, requests: Iterable[ReadRequest]) -> Iterator[Clip | DataError]:
        """video.read_frames of each request, in order; a few are read ahead."""
        questions = (
            {
                "path": os.fspath(request.path),
                "indices": np.asarray(request.indices).tolist(),
                "size": request.size,
                "short_side": request.short_side,
            }
            for request in requests
        )
        yield from self._ask(questions)  # type: ignore[misc]

    def _ask(self, questions: Iterator[dict[str, Any]]) -> Iterator[Answer]:
        """Answers in order. Interrupted, it leaves no worker with an answer nobody wants."""
        numbered = enumerate(questions)
        waiting: deque[int] = deque()  # numbers of questions without a delivered answer
        answers: dict[int, Answer] = {}
        is_over = False
        try:
            while True:
                while not is_over and len(waiting) < _AHEAD * self.num_workers:
                    worker = self._idle_worker()
                    if worker is None:
                        break
                    number, question = next(numbered, (-1, {}))
                    is_over = number < 0
                    if not is_over:
                        waiting.append(number)
                        worker.ask(number, question, self.deadline_seconds)
                while waiting and waiting[0] in answers:
                    yield answers.pop(waiting.popleft())
                if is_over and not waiting:
                    return
                if not waiting or waiting[0] not in answers:
                    answers.update(self._next_answers())
        finally:
            for worker in [w for w in self._workers if w.number is not None]:
                self._drop(worker)

    def _idle_worker(self) -> _Worker | None:
        for worker in [w for w in self._workers if w.number is None]:
            if worker.is_alive():
                return worker
            self._drop(worker)
        if len(self._workers) < self.num_workers:
            self._workers.append(_Worker())
            return self._workers[-1]
        return None

    def _next_answers(self) -> Iterator[tuple[int, Answer]]:
        """Wait for an answer, a death or a deadline; give the answers that came of it."""
        busy = [worker for worker in self._workers if worker.number is not None]
        soonest = min(worker.due for worker in busy) - time.monotonic()
        ready = wait([worker.connection for worker in busy], max(soonest, 0))
        for worker in busy:
            number, path = worker.number, worker.path
            if number is None:
                continue
            if worker.connection in ready:
                try:
                    answer = worker.answer()
                except (EOFError, ConnectionError) as error:
                    self._drop(worker)
                    words = f"a decoder that crashed ({worker.last_words()})"
                    if not worker.is_started:
                        raise _not_started(words) from error
                    answer = _failed(path, "a video that can be decoded", words)
                if answer is not None:
                    yield number, answer
            elif time.monotonic() >= worker.due:
                self._drop(worker)
                if not worker.is_started:
                    raise _not_started(f"nothing within {_START_SECONDS:g} s")
                words = "none: the decoder was stopped"
                yield number, _failed(path, f"an answer within {self.deadline_seconds:g} s", words)

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)


def _failed(path: str, expected: str, received: str) -> DataError:
    return DataError(path, expected, received, "Remove the file or re-encode it.")


def _not_started(received: str) -> ResourceError:
    return ResourceError("decoder process", "a process that starts", received)


class _Worker:
    """One process. `number`: of the question it works on, None when it is idle."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # closed with this process: the worker's sign to end
                stdout=subprocess.DEVNULL,
            )
            self.connection = Connection(ours.detach())
        self.number: int | None = None
        self.path = ""
        self.due = 0.0
        self._question: dict[str, Any] | None = None
        self._deadline_seconds = 0.0
        self.is_started = False

    def ask(self, number: int, question: dict[str, Any], deadline_seconds: float) -> None:
        """Send a question, or keep it until the process has started."""
        self.number, self.path = number, question["path"]
        self._question, self._deadline_seconds = question, deadline_seconds
        self.due = time.monotonic() + (deadline_seconds if self.is_started else _START_SECONDS)
        if self.is_started:
            with contextlib.suppress(ConnectionError):  # it died just now: answer() will say so
                self.connection.send_bytes(json.dumps(question).encode())

    def answer(self) -> Answer | None:
        """Read what has come: an answer, or None when it was the sign that the process started."""
        head = self.connection.recv_bytes()
        if not self.is_started:
            self.is_started = True
            self.ask(self.number or 0, self._question or {}, self._deadline_seconds)
            return None
        self.number = None
        said = json.loads(head)
        if "facts" in said:
            return VideoFacts(**said["facts"])
        if "problems" in said:
            return DataError.of([Problem(**p) for p in said["problems"]])  # type: ignore[return-value]
        if "no_such_frame" in said:
            raise IndexError(said["no_such_frame"])
        frames = np.empty(said["clip"].pop("shape"), np.uint8)
        if frames.size:
            self.connection.recv_bytes_into(frames.data.cast("B"))
        return Clip(frames, **said["clip"])

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process; it holds nothing that could be lost."""
        self.connection.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def last_words(self) -> str:
        """How the process ended."""
        code = self._process.returncode
        return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
