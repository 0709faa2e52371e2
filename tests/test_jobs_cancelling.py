"""Jobs that are asked to end: by wishes, by signals, by their time; in their grace, or killed.

Each test starts a few real processes, about a tenth of a second each.
"""

import threading
import time
from pathlib import Path

from job_ground import (
    IGNORES_SIGTERM,
    PYTHON,
    SAVES_ON_SIGTERM,
    SLEEPS,
    log_of,
    made,
    processes_of,
    run,
    running,
    states,
    wait_for_words,
    wait_until,
)
from kineme.automl.controller import stop_seconds
from kineme.jobs import record as record_module
from kineme.jobs.agent import run_agent
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.record import Failure, State


def test_j06_a_running_job_is_cancelled_within_a_second_and_asking_again_changes_nothing(store):
    record, process = running(store, SAVES_ON_SIGTERM)
    began = time.monotonic()
    ask_to_end(store, record, reason="no longer wanted")
    ask_to_end(store, record, reason="twice")
    wait_until(lambda: "saving" in log_of(store, record), 3)
    assert time.monotonic() - began < 1
    process.wait(10)
    seen = store.load(record.id)
    assert states(seen) == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert seen.exit_code == 143
    assert (store.folder(record.id) / "saved").exists()
    assert ask_to_end(store, seen) == seen == store.load(record.id)


def test_j06_a_job_that_waits_is_cancelled_and_never_starts(store):
    record = made(store, "print('never')")
    record = ask_to_end(store, record, reason="changed my mind")
    assert states(record) == [State.CANCELED]
    assert run_agent(store, record.id, program=PYTHON) == record
    assert log_of(store, record) == ""


def test_j06_an_agent_that_finds_a_wish_does_not_start(store):
    record = made(store, "print('never')")
    store.wish_to_cancel(record.id, "too late")
    record = run_agent(store, record.id, program=PYTHON)
    assert states(record) == [State.CANCELED]
    assert record.transitions[0].reason == "before it began: too late"
    assert log_of(store, record) == ""


def test_j06_a_job_that_finishes_while_it_is_cancelled_is_complete(store):
    finishes = SAVES_ON_SIGTERM.replace("143", "0")
    record, process = running(store, finishes)
    ask_to_end(store, record)
    process.wait(10)
    record = store.load(record.id)
    assert states(record) == [State.RUNNING, State.CANCELING, State.COMPLETE]


def test_j06_asking_a_finished_job_to_end_changes_no_file(store):
    record = run(store, "print('done')")
    folder = store.folder(record.id)

    def files():  # when they were read is no change
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    before = files()
    assert ask_to_end(store, record) == record
    assert files() == before


def test_j07_an_action_that_ignores_sigterm_is_killed_after_its_grace_and_canceled(store):
    record, process = running(store, IGNORES_SIGTERM, platform={"grace_seconds": 0.5})
    ask_to_end(store, record, reason="asked for")
    process.wait(10)
    seen = store.load(record.id)
    assert states(seen) == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert seen.exit_code == 137
    assert seen.failure is None
    reason = "stopped as asked; it did not stop in time and was killed"
    assert seen.transitions[-1].reason == reason
    assert processes_of(record) == []


def test_sigterm_to_the_agent_is_passed_on_and_recorded_as_an_interruption(store):
    record, process = running(store, SAVES_ON_SIGTERM)
    process.terminate()
    process.wait(10)
    seen = store.load(record.id)
    assert seen.failure == Failure("interrupted", "stopped by SIGTERM", 143)
    assert (store.folder(record.id) / "saved").exists()


def test_a_time_limit_ends_a_job(store):
    record = run(store, SLEEPS, platform={"time_limit_seconds": 0.3})
    assert record.failure == Failure("timeout", "stopped by its time limit", 143)


SEARCHES = """
import signal, sys, time
from pathlib import Path
from job_ground import agent, wait_for_words
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.store import JobStore
store = JobStore({root!r})
trial = store.load({trial!r})
process = agent(store, trial)
def stop(number, frame):
    ask_to_end(store, trial)
    process.wait()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
wait_for_words(store, trial, "on it")
print("on it", flush=True)
time.sleep(60)
"""


def test_a_search_that_is_cancelled_has_time_until_its_trials_have_saved(store, monkeypatch):
    monkeypatch.setattr(record_module, "GRACE_SECONDS", 0.1)  # less than the trial needs
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    trial = made(store, SAVES_ON_SIGTERM, platform={"grace_seconds": 20})
    code = SEARCHES.format(root=str(store.root), trial=trial.id)
    record = made(store, code, details={"automl": True})

    def cancel():
        wait_for_words(store, record, "on it")
        ask_to_end(store, record)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    record = run_agent(store, record.id, program=PYTHON)
    canceller.join()
    assert (record.state, record.exit_code) == (State.CANCELED, 143)
    assert record.transitions[-1].reason == "stopped as asked"
    assert (store.folder(trial.id) / "saved").exists()
    assert store.load(trial.id).state is State.CANCELED


def test_a_search_has_longer_to_stop_than_it_waits_for_its_trials(store):
    trial, search = made(store, "x"), made(store, "x", details={"automl": True})
    assert trial.grace_seconds < stop_seconds([trial]) < search.grace_seconds - 10
    asked = made(store, "x", details={"automl": True}, platform={"grace_seconds": 5})
    assert asked.grace_seconds == 5


def test_a_search_that_stops_waits_as_long_as_the_slowest_of_its_trials_may_take(store):
    trial, slow = (made(store, "x", platform=p) for p in ({}, {"grace_seconds": 120}))
    assert [stop_seconds(some) for some in ([trial], [slow, trial])] == [45.0, 135.0]
