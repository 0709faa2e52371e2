"""Many tasks over several processes of ours, any of which may die or hang without harm.

Promises: a worker that dies or says nothing for too long costs its own task, which is named, and
is replaced; answers come as they are ready; workers end with whoever started them, however that one
ended. A worker starts as a program of its own: no threads, locks or GPU
contexts come with it, and it needs no `if __name__ == "__main__"` in the caller's script.
Leaves out: what the tasks are. A task is plain JSON values, and so is its answer.

A task function takes (task, beat) and calls `beat()` now and then to show that it is alive. It is
named by where it lies, "module:function", as in the tables NETWORKS and ACTIONS.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from kineme import errors
from kineme.errors import DataError, KinemeError, Problem, ResourceError

Beat = Callable[[], None]
Task = Mapping[str, Any]
Answer = tuple[Task, Any]  # the task, and its result or what was wrong with its data

SILENCE_SECONDS = 300.0
_BEAT_SECONDS = 1.0
_START_SECONDS = 120.0  # until a worker must have answered for the first time, on slow disks
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}


def run_tasks(
    function: str,
    tasks: deque[Task],
    *,
    num_workers: int,
    silence_seconds: float = SILENCE_SECONDS,
) -> Iterator[Answer]:
    """Run "module:function" on every task; yield (task, result or DataError) in any order.

    num_workers: processes; 0 runs the tasks in this one, where nothing can be killed. `tasks` is
    emptied, and the caller may append to it meanwhile. `task["name"]` names a task in errors.
    Raises whatever else goes wrong: ResourceError for a full disk or a worker that was killed.
    """
    if num_workers == 0:
        yield from _run_here(_resolve(function), tasks)
        return
    workers: list[_Worker] = []
    try:
        while tasks or any(worker.task is not None for worker in workers):
            for worker in workers:
                if worker.task is None and tasks:
                    worker.give(tasks.popleft())
            while tasks and len(workers) < num_workers:
                workers.append(_Worker(function))
                workers[-1].give(tasks.popleft())
            busy = [worker for worker in workers if worker.task is not None]
            wait([worker.outbox for worker in busy], timeout=1.0)
            for worker in busy:
                yield from worker.answers(silence_seconds)
            workers = [worker for worker in workers if worker.process.poll() is None]
    finally:
        for worker in workers:
            worker.end()


def _run_here(function: Callable[[Task, Beat], Any], tasks: deque[Task]) -> Iterator[Answer]:
    while tasks:
        task = tasks.popleft()
        try:
            yield task, function(task, lambda: None)
        except DataError as error:
            yield task, error


@dataclass
class _Worker:
    """One process, the task it has, and what it has said since."""

    function: str
    task: Task | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    heard_at: float = field(init=False)
    _said: bytes = b""
    _has_spoken: bool = False

    def __post_init__(self) -> None:
        source = str(Path(__file__).resolve().parents[2])
        paths = [source, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **_ONE_THREAD}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        # -P: a module of the same name in the current folder is not ours
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kineme.data.workers", self.function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.heard_at = time.monotonic()

    @property
    def outbox(self) -> int:
        return self.process.stdout.fileno() if self.process.stdout else -1

    def give(self, task: Task) -> None:
        """Start `task`. A worker that is gone is noticed when its answer is awaited."""
        self.task, self.heard_at = task, time.monotonic()
        if self.process.stdin:
            try:
                self.process.stdin.write(json.dumps(task).encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                self.process.wait()

    def answers(self, silence_seconds: float) -> Iterator[Answer]:
        """The answer to the task if it has come, or what became of the worker."""
        limit = silence_seconds if self._has_spoken else max(silence_seconds, _START_SECONDS)
        if not wait([self.outbox], timeout=0):
            if time.monotonic() - self.heard_at > limit:
                self.end()
                yield self._task(), DataError(*_silence(self._task(), limit))
                self.task = None
            return
        heard = os.read(self.outbox, 1 << 20)
        if not heard:
            yield self._task(), self._death()
            self.task = None
            return
        self.heard_at, self._has_spoken = time.monotonic(), True
        *lines, self._said = (self._said + heard).split(b"\n")
        for line in filter(None, lines):
            yield self._task(), _understood(json.loads(line))
            self.task = None

    def end(self) -> None:
        """End the process now; what it wrote under a temporary name stays for a sweep."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def _task(self) -> Task:
        return self.task or {"name": "a worker"}

    def _death(self) -> DataError:
        """What the end of the process says of its task. Raises where the task is not to blame."""
        code = self.process.wait()
        if code == -signal.SIGKILL:
            raise ResourceError(
                str(self._task()["name"]),
                "a worker that stays alive",
                "one killed by signal 9 (SIGKILL)",
                "Out of memory? Set fewer workers.",
            )
        if code >= 0:
            raise RuntimeError(f"a worker ended with exit code {code}; its own words are above")
        name = signal.Signals(-code).name
        return DataError(
            str(self._task()["name"]),
            "data that can be decoded",
            f"the death of the worker by signal {-code} ({name})",
            "Remove or re-encode it.",
        )


def _silence(task: Task, seconds: float) -> tuple[str, str, str, str]:
    expected = f"a sign of life every {seconds:g} s"
    return str(task["name"]), expected, "none: the worker was ended", "Remove or re-encode it."


def _understood(answer: Mapping[str, Any]) -> Any:
    if "result" in answer:
        return answer["result"]
    kind: type[KinemeError] = getattr(errors, answer["error"])
    error = kind.of([Problem(*values) for values in answer["problems"]])
    if isinstance(error, DataError):
        return error
    raise error


def _resolve(function: str) -> Callable[[Task, Beat], Any]:
    module, name = function.split(":")
    found: Callable[[Task, Beat], Any] = getattr(importlib.import_module(module), name)
    return found


def _serve(function: Callable[[Task, Beat], Any]) -> None:
    """The life of a worker: a task a line, an answer a line, until its starter is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C comes to the starter too
    outbox = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    last_beat = 0.0

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > _BEAT_SECONDS:
            last_beat = time.monotonic()
            os.write(outbox, b"\n")

    beat()  # ready
    while True:
        _say(outbox, _answer(function, json.loads(lines.get()), beat))


def _listen(lines: SimpleQueue[bytes]) -> None:
    """Pass tasks on; end the process with whoever gives them, even while a decoder hangs."""
    text = b""
    while heard := os.read(0, 1 << 16):  # sys.stdin would hold a lock that the end must take
        *whole, text = (text + heard).split(b"\n")
        for line in whole:
            lines.put(line)
    os._exit(1)


def _answer(function: Callable[[Task, Beat], Any], task: Task, beat: Beat) -> Mapping[str, Any]:
    try:
        return {"result": function(task, beat)}
    except KinemeError as error:
        problems = [(p.where, p.expected, p.received, p.fix) for p in error.problems]
        return {"error": type(error).__name__, "problems": problems}


def _say(outbox: int, answer: Mapping[str, Any]) -> None:
    line = memoryview(json.dumps(answer).encode() + b"\n")
    while line:
        line = line[os.write(outbox, line) :]


if __name__ == "__main__":
    _serve(_resolve(sys.argv[1]))
