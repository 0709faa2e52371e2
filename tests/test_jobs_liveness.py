"""Whether a job that is said to run does: machines that are silent or restarted, and locks."""

import dataclasses
import fcntl
import signal
import subprocess
import sys
import threading
import time

from job_ground import PYTHON, SLEEPS, elsewhere, made, silence, states, wait_until_nobody
from kineme.jobs import course, ending, liveness
from kineme.jobs.agent import run_agent
from kineme.jobs.liveness import ask_to_end, is_forgotten, reconcile
from kineme.jobs.record import State
from kineme.processes import identity


def test_j14_after_a_reboot_the_number_of_the_agent_means_nobody(store):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        record = made(store, "x")
        for change in ({"boot": "another"}, {"started": 1}):
            record = made(store, "x")
            agent_of_old = dataclasses.replace(identity(stranger.pid), **change)
            store.move(
                record.id, State.RUNNING, reason="on it", source="agent",
                agent=agent_of_old, group=agent_of_old,
            )  # fmt: skip
            seen = reconcile(store, store.load(record.id))
            assert seen.state is State.ERROR
            assert seen.failure.kind == "crashed"
            was_restarted = "was restarted while it ran" in seen.failure.message
            assert was_restarted == ("boot" in change)
        assert stranger.poll() is None
        ending.send(signal.SIGKILL, {stranger.pid: 1})
        time.sleep(0.05)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_machine_that_is_silent_for_15_s_makes_a_job_unknown_until_it_is_heard_again(store):
    record = elsewhere(store, made(store, "x"))
    assert reconcile(store, record) == record
    silence(store, record, 14)
    assert reconcile(store, record) == record
    silence(store, record, 16)
    seen = reconcile(store, record)
    assert states(seen) == [State.RUNNING, State.UNKNOWN]
    assert seen.transitions[-1].reason == "no sign of life from other for 16 s"
    assert reconcile(store, seen) == seen
    liveness.show_life(store.folder(record.id))
    back = reconcile(store, seen)
    assert states(back) == [State.RUNNING, State.UNKNOWN, State.RUNNING]
    assert back.transitions[-1].reason == "a sign of life"


def test_a_job_that_was_being_cancelled_is_so_again_when_its_machine_is_back(store):
    record = elsewhere(store, made(store, "x"))
    record = store.move(record.id, State.CANCELING, reason="asked for", source="agent")
    silence(store, record, 60)
    record = reconcile(store, record)
    assert record.state is State.UNKNOWN
    liveness.show_life(store.folder(record.id))
    assert reconcile(store, record).state is State.CANCELING


def test_a_job_of_a_silent_machine_can_be_cancelled_and_its_agent_hears_of_it(store, monkeypatch):
    record = elsewhere(store, made(store, "x"))
    silence(store, record, 60)
    record = ask_to_end(store, reconcile(store, record), reason="gave up on it")
    assert states(record) == [State.RUNNING, State.UNKNOWN, State.CANCELED]

    monkeypatch.setattr(course, "HEARTBEAT_SECONDS", 0.3)
    record = made(store, SLEEPS)
    real = store.load

    def load(job_id):  # while the agent was away, the end was recorded
        if job_id == record.id and real(job_id).state is State.RUNNING:
            store.move(job_id, State.CANCELED, reason="gave up on it", source="client")
        return real(job_id)

    monkeypatch.setattr(store, "load", load)
    run_agent(store, record.id, program=PYTHON)
    assert states(real(record.id)) == [State.RUNNING, State.CANCELED]
    wait_until_nobody(record, 5)


def test_an_agent_that_was_away_says_itself_that_it_is_back(store, monkeypatch):
    monkeypatch.setattr(course, "HEARTBEAT_SECONDS", 0.2)
    record = made(store, "import time; print('on it', flush=True); time.sleep(1)")
    real = store.amend

    def amend(job_id, **changes):  # a reader elsewhere was quicker than the first sign of life
        store.move(job_id, State.UNKNOWN, reason="silent", source="observer")
        return real(job_id, **changes)

    monkeypatch.setattr(store, "amend", amend)
    record = run_agent(store, record.id, program=PYTHON)
    expected = [State.RUNNING, State.UNKNOWN, State.RUNNING, State.COMPLETE]
    assert states(record) == expected


def test_j03_a_job_that_nobody_was_asked_to_run_is_told_from_one_that_starts(store, monkeypatch):
    record = made(store, "x")
    assert not is_forgotten(store, record)
    monkeypatch.setattr(liveness, "FORGOTTEN_SECONDS", 0.0)
    assert is_forgotten(store, record)
    with liveness.agent_lock(store.folder(record.id)) as is_ours:
        assert is_ours
        assert not is_forgotten(store, record)
    assert not is_forgotten(store, dataclasses.replace(record, backend_job_id="7"))
    assert reconcile(store, record) == record


def test_a_reader_who_looks_at_the_lock_keeps_no_agent_from_its_job(store):
    record = made(store, "print('done')")
    path = store.folder(record.id) / "agent.lock"
    path.touch()
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.2, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        assert run_agent(store, record.id, program=PYTHON).state is State.COMPLETE


def test_a_job_whose_agent_lives_but_has_let_go_of_it_is_nobodys(store):
    record = made(store, "x")
    with liveness.agent_lock(store.folder(record.id)):
        record = store.move(
            record.id, State.RUNNING, reason="on it", source="agent", agent=identity()
        )
        assert reconcile(store, record) == record
    assert reconcile(store, record).state is State.ERROR
    assert identity().is_alive
