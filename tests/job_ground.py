"""Jobs for tests of what runs them: made, waited for, and looked at from outside.

As a program, `python job_ground.py FOLDER [PROGRAM ...]`, it is the agent of a job whose command
is Python code (or words for PROGRAM): quick, and as long-lived or unruly as a test wants.
"""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kineme import concealment
from kineme.jobs.agent import run_agent
from kineme.jobs.liveness import reconcile, show_life
from kineme.jobs.record import JobRecord, State, now
from kineme.jobs.store import JobStore, new_id
from kineme.processes import identity

GROUND = str(Path(__file__))
PYTHON = (sys.executable, "-c")
# Code of actions.
SLEEPS = "import time; print('on it', flush=True); time.sleep(60)"
IGNORES_SIGTERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPS}"
SAVES_ON_SIGTERM = """
import signal, sys, time
def save(number, frame):
    print("saving", flush=True)
    time.sleep(0.3)
    open("saved", "w").close()
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("on it", flush=True)
time.sleep(60)
"""
SAVES_IN_SILENCE = SAVES_ON_SIGTERM.replace('print("saving", flush=True)', "pass").replace(
    'print("saved", flush=True)', "pass"
)
# Starts a process in a session of its own, which starts another one; both ignore SIGTERM.
LEAVES_CHILDREN = """
import subprocess, sys, time
child = '''
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print("child", flush=True)
time.sleep(60)
'''
subprocess.Popen([sys.executable, "-c", child, child], start_new_session=True)
print("on it", flush=True)
time.sleep(60)
"""


def made(store: JobStore, *command: str, **changes: Any) -> JobRecord:
    """A new job with that command."""
    about = {"network_arch": "pose_classification", "action": "train", "created_at": now()}
    record = JobRecord(**{"id": new_id(), "command": command, **about, **changes})
    return store.create(record)[0]


def agent(store: JobStore, record: JobRecord, **options: Any) -> subprocess.Popen:
    """An agent in a process of its own, whose job's command is Python code."""
    words = [sys.executable, GROUND, str(store.folder(record.id))]
    return subprocess.Popen(words, start_new_session=True, **options)


def run(store: JobStore, code: str, **changes: Any) -> JobRecord:
    """A job that has run to its end, under an agent in this process."""
    return run_agent(store, made(store, code, **changes).id, program=PYTHON)


def running(store: JobStore, code: str, **changes: Any) -> tuple[JobRecord, subprocess.Popen]:
    """A job that runs below an agent, whose action has said that it is on it."""
    record = made(store, code, **changes)
    process = agent(store, record)
    wait_for_words(store, record, "on it")
    wait_until(lambda: store.load(record.id).group)
    return store.load(record.id), process


def ended(store: JobStore, record: JobRecord, seconds: float = 60) -> JobRecord:
    """The job once it has ended, as readers see it."""

    def current() -> JobRecord:
        return reconcile(store, store.load(record.id))

    wait_until(lambda: current().is_terminal, seconds)
    return current()


def elsewhere(store: JobStore, record: JobRecord) -> JobRecord:
    """The job, running on another machine, as it says."""
    other = dataclasses.replace(identity(), host="other", pid=1)
    show_life(store.folder(record.id))
    return store.move(record.id, State.RUNNING, reason="on other", source="agent", agent=other)


def silence(store: JobStore, record: JobRecord, seconds: float) -> None:
    """Let the last sign of life of a job be so long ago."""
    moment = time.time() - seconds
    os.utime(store.folder(record.id) / "heartbeat", (moment, moment))


def silent(store: JobStore, record: JobRecord, state: State = State.UNKNOWN) -> JobRecord:
    """The job, running on another machine that has shown no sign of life for a minute."""
    record = elsewhere(store, record)
    silence(store, record, 60)
    if state is not State.RUNNING:
        record = store.move(record.id, state, reason="no sign of life", source="observer")
    return record


def states(record: JobRecord) -> list[State]:
    return [step.state for step in record.transitions]


def forget_keys(monkeypatch: Any) -> None:
    """As if nobody had given this process a key."""
    monkeypatch.delenv(concealment.VARIABLE, raising=False)
    monkeypatch.setattr(concealment, "_kept", {})


def wait_until(is_true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := is_true()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    return value


def log_of(store: JobStore, record: JobRecord) -> str:
    path = store.folder(record.id) / "job.log"
    return path.read_text("utf-8", "replace") if path.exists() else ""


def wait_for_words(store: JobStore, record: JobRecord, words: str) -> None:
    wait_until(lambda: words in log_of(store, record))


def processes_of(record: JobRecord) -> list[int]:
    """Living processes that carry the mark of a job: its leash, its action, and their children."""
    mark = f"KINEME_JOB_ID={record.id}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_until_nobody(record: JobRecord, seconds: float) -> None:
    wait_until(lambda: not processes_of(record), seconds)


if __name__ == "__main__":
    os.environ.pop("KINEME_JOB_ID", None)
    told = concealment.told()
    path, *program = told.words
    run_agent(JobStore(Path(path).parent), Path(path).name, key=told.key, program=program or PYTHON)
