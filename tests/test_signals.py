"""Requests to stop: noted or raised, and not heard where they are ignored."""

import os
import signal
import threading
import time

import pytest

from job_ground import made
from kineme.errors import SpecError
from kineme.jobs.record import State
from kineme.jobs.runners import in_process
from kineme.jobs.store import JobStore
from kineme.signals import Interrupted, impatient_signals, patient_signals


def test_patience_notes_signals_and_a_second_sigint_is_not_awaited():
    with patient_signals() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert request.number == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_signals_are_left_alone():
    done = []

    def work():
        with patient_signals() as request:
            done.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [0]


@pytest.mark.parametrize("handled", [patient_signals, impatient_signals])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(number, handled):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with handled() as request:
            os.kill(os.getpid(), number)
            assert request is None or request.number == 0
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_job_of_this_process_passes_over_what_is_ignored(tmp_path, monkeypatch):
    def act(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

    monkeypatch.setattr(in_process, "_act", act)
    store = JobStore(tmp_path / "jobs")
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        record = in_process.start(store, made(store, "x", runner="in_process"))
        assert (record.state, record.exit_code) == (State.COMPLETE, 0)
        limited = made(store, "y", runner="in_process", platform={"time_limit_seconds": 5})
        with pytest.raises(SpecError, match="got a process that ignores SIGTERM"):
            in_process.start(store, limited)
    finally:
        signal.signal(signal.SIGTERM, before)
