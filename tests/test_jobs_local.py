"""Jobs in processes of this machine: started once, outliving their client, keys shown to nobody."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from job_ground import (
    GROUND,
    LEAVES_CHILDREN,
    agent,
    ended,
    log_of,
    made,
    processes_of,
    states,
    wait_for_words,
    wait_until,
    wait_until_nobody,
)
from kineme import concealment
from kineme.errors import ResourceError
from kineme.jobs.record import State
from kineme.jobs.runners import load_runner, local

pytestmark = pytest.mark.usefixtures("no_key")


@pytest.fixture
def quick_agents(monkeypatch):
    """Agents of the runner `subprocess` whose command is Python code."""
    monkeypatch.setattr(local, "WORDS", (sys.executable, GROUND))


def test_j03_a_job_whose_client_is_killed_right_after_the_start_runs_once(store, tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from kineme.jobs.runners import local; "
        "from kineme.jobs.store import JobStore; local.WORDS = (sys.executable, sys.argv[2]); "
        "store = JobStore(Path(sys.argv[1]).parent); "
        "local.start(store, store.load(Path(sys.argv[1]).name)); "
        "print('started', flush=True); time.sleep(60)"
    )
    record = made(store, "import time; print('on it', flush=True); time.sleep(0.5); print('done')")
    words = [sys.executable, "-c", script, str(store.folder(record.id)), GROUND]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as client:
        assert client.stdout.readline() == b"started\n"
        os.killpg(client.pid, signal.SIGKILL)  # with all of its session
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.COMPLETE]
    assert log_of(store, record) == "on it\ndone\n"
    assert store.ids() == [record.id]


def test_j03_starting_a_job_again_and_again_runs_it_once(store, quick_agents):
    record = made(store, "import time; print('on it', flush=True); time.sleep(0.3)")
    threads = [threading.Thread(target=local.start, args=(store, record)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.COMPLETE]
    assert log_of(store, record) == "on it\n"


def test_an_agent_that_takes_too_long_to_begin_is_an_error_that_promises_nothing(
    store, monkeypatch
):
    monkeypatch.setattr(local, "WORDS", (sys.executable, "-c", "import time; time.sleep(5)"))
    monkeypatch.setattr(local, "_START_SECONDS", 0.1)
    with pytest.raises(ResourceError) as caught:
        local.start(store, made(store, "x"))
    assert caught.value.problems[0].fix == (
        "The machine may be overloaded; try again when it has less to do."
    )
    local._agents[-1].kill()
    local._agents[-1].wait()


def test_an_agent_that_cannot_begin_is_an_error_that_says_why(store, monkeypatch):
    words = (sys.executable, "-c", "print('no room for agents'); raise SystemExit(3)")
    monkeypatch.setattr(local, "WORDS", words)
    record = made(store, "x")
    with pytest.raises(ResourceError, match="ended with code 3: no room for agents"):
        local.start(store, record)
    assert store.load(record.id).state is State.PENDING


def test_j16_no_process_record_or_log_shows_the_key(store, quick_agents, monkeypatch):
    key = "a key that nobody sees"
    code = (
        "import time; from kineme import concealment; key = concealment.told().key; "
        f"print('right' if len(key) == {len(key)} else 'wrong', key, flush=True); time.sleep(60)"
    )
    monkeypatch.setenv(concealment.VARIABLE, key)  # of the client, which cannot help showing it
    record = made(store, code)
    record = local.start(store, record)
    wait_for_words(store, record, "right")
    agent_pid = store.load(record.id).agent.pid
    numbers = [agent_pid, *processes_of(record)]
    assert len(numbers) == 3  # agent, leash, action
    for number in numbers:
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{number}/{name}").read_bytes()
            assert shown
            assert key.encode() not in shown
    load_runner("subprocess").cancel(store, record)
    record = ended(store, record)
    assert log_of(store, record).startswith("right ***\n")
    for path in store.folder(record.id).rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert key not in repr(record)


def test_a_job_that_starts_jobs_ends_them_with_itself(store, tmp_path):
    inner = made(store, LEAVES_CHILDREN)
    starts = (
        "import sys, time; from pathlib import Path; from kineme.jobs.runners import local; "
        f"from kineme.jobs.store import JobStore; local.WORDS = (sys.executable, {GROUND!r}); "
        f"store = JobStore({str(store.root)!r}); local.start(store, store.load({inner.id!r})); "
        "print('on it', flush=True); time.sleep(60)"
    )
    outer = made(store, starts)
    process = agent(store, outer)
    wait_for_words(store, outer, "on it")
    wait_until(lambda: len(processes_of(inner)) == 4)
    load_runner("subprocess").cancel(store, outer)
    process.wait(20)
    assert store.load(outer.id).state is State.CANCELED
    wait_until_nobody(inner, 5)
    assert ended(store, inner).state is State.ERROR
