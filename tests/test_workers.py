"""Worker processes: what dies or hangs costs its own task, what is wrong elsewhere ends all."""

import os
import signal
import subprocess
import sys
import time
from collections import deque

import pytest

from kineme.data.workers import run_tasks
from kineme.errors import ResourceError

HERE = os.path.dirname(__file__)


@pytest.fixture(autouse=True)
def _tasks_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE)


# A machine that does much else may hold a worker back for a second: limits leave room for that.
def ran(*names, num_workers=1, silence_seconds=60.0):
    tasks = deque({"name": name} for name in names)
    found = run_tasks(
        "tiny_tasks:act", tasks, num_workers=num_workers, silence_seconds=silence_seconds
    )
    return {task["name"]: str(result) for task, result in found}


def test_a_worker_that_hangs_or_crashes_costs_its_own_task_only():
    found = ran("a", "prints", "crashes", "b", "bad", "hangs", "c", silence_seconds=2.0)
    assert [found[name] for name in ("a", "b", "c", "prints")] == ["A", "B", "C", "PRINTS"]
    assert found["crashes"] == (
        "crashes: expected data that can be decoded, got the death of the worker by signal 11 "
        "(SIGSEGV). Remove or re-encode it."
    )
    assert found["bad"] == "bad: expected good data, got bad data. Mend it."
    assert found["hangs"] == (
        "hangs: expected a sign of life every 2 s, got none: the worker was ended. "
        "Remove or re-encode it."
    )


def test_a_slow_task_that_shows_life_is_left_alone():
    assert ran("is slow", silence_seconds=2.5) == {"is slow": "IS SLOW"}


def test_a_full_disk_ends_everything():
    with pytest.raises(ResourceError, match="expected disk space, got none"):
        ran("full", "a")


def test_a_worker_killed_for_memory_ends_everything():
    with pytest.raises(ResourceError, match=r"signal 9 \(SIGKILL\)\. Out of memory\?"):
        ran("is killed")


def test_a_bug_in_a_task_is_raised_and_its_traceback_shown(capfd):
    with pytest.raises(RuntimeError, match="exit code 1"):
        ran("breaks")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_tasks_in_this_process_answer_the_same():
    found = ran("a", "bad", num_workers=0)
    assert found == {"a": "A", "bad": "bad: expected good data, got bad data. Mend it."}


def test_no_more_workers_are_started_than_there_are_tasks(monkeypatch):
    started = []
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1]
    )
    assert ran("a", num_workers=8) == {"a": "A"}
    assert len(started) == 1
    assert started[0].poll() is not None


START = """
from collections import deque
import os, sys
from kineme.data.workers import run_tasks
print(os.getpid(), flush=True)
tasks = deque([{"name": "waits", "path": sys.argv[1]}])
list(run_tasks("tiny_tasks:act", tasks, num_workers=1))
"""


def test_a_worker_ends_when_whoever_started_it_is_killed(tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path / "sign")], stderr=subprocess.PIPE
    )
    while not (tmp_path / "sign").exists():
        time.sleep(0.02)
    program.send_signal(signal.SIGKILL)
    # The worker holds the other end of stderr: end of file means that it is gone.
    assert program.stderr.read() == b""
    program.wait()
