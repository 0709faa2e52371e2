"""Jobs in this very process: what of a platform can be kept, and the last uploads.

The action is a stand-in; `start` returns when the job has ended.
"""

import os
import signal
import threading
import time

import pytest

from job_ground import made, states, wait_until
from kineme.data.remote import spool
from kineme.data.remote.spool import Drained
from kineme.errors import SpecError
from kineme.jobs import course
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import check_platform, in_process


def job(store, monkeypatch, act, **changes):
    """A job whose action is `act`."""
    monkeypatch.setattr(in_process, "_act", lambda *what: act())
    return made(store, "x", runner="in_process", **changes)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("grace_seconds", 5, "an action in this process cannot be killed"),
        ("gpu_ids", [1], "which GPUs a process sees is settled when it begins"),
    ],
)
def test_what_this_process_cannot_keep_is_refused_by_name(store, setting, value, why):
    record = made(store, "x", runner="in_process", platform={setting: value})
    expected = (
        f"platform.{setting}: expected a setting that the runner in_process can keep, "
        f"got one that it cannot: {why}. Use the runner subprocess."
    )
    with pytest.raises(SpecError) as caught:
        in_process.start(store, record)
    assert str(caught.value) == expected
    with pytest.raises(SpecError) as caught:
        check_platform("in_process", {setting: value, "no_such": 1})
    assert setting not in str(caught.value.problems[1])  # among those that there are


def test_its_variables_are_there_while_the_action_runs(store, monkeypatch):
    monkeypatch.setenv("OLD", "before")
    monkeypatch.delenv("NEW", raising=False)
    seen = []
    platform = {"environment": {"OLD": "of the job", "NEW": "too"}}

    def act():
        seen.append((os.environ["OLD"], os.environ["NEW"]))

    record = job(store, monkeypatch, act, platform=platform)
    assert in_process.start(store, record).state is State.COMPLETE
    assert seen == [("of the job", "too")]
    assert (os.environ["OLD"], os.environ.get("NEW")) == ("before", None)


def test_a_time_limit_ends_a_job_in_this_process(store, monkeypatch):
    platform = {"time_limit_seconds": 0.3}
    record = job(store, monkeypatch, lambda: time.sleep(20), platform=platform)
    record = in_process.start(store, record)  # which raises nothing: the limit was the job's
    assert record.failure == Failure("timeout", "stopped by its time limit", 143)
    assert record.state is State.ERROR


def test_a_time_limit_needs_the_main_thread(store, monkeypatch):
    platform = {"time_limit_seconds": 5}
    record = job(store, monkeypatch, lambda: None, platform=platform)
    raised = []

    def run():
        try:
            in_process.start(store, record)
        except SpecError as error:
            raised.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert raised[0].startswith("platform.time_limit_seconds: expected a job of the main thread")
    assert store.load(record.id).state is State.PENDING


class SlowUploader:
    """Takes 20 s for the last files, or as long as `during` does and then until it is stopped."""

    def __init__(self, folder, address, **_):
        self.folder = folder

    def start(self):
        pass

    def drain(self, deadline_seconds):
        self.during(self.folder.parent)
        time.sleep(20)
        return Drained(1, (), None)

    def close(self):
        pass


@pytest.fixture
def sends_slowly(monkeypatch):
    monkeypatch.setattr(spool, "Uploader", SlowUploader)
    monkeypatch.setattr(course, "HEARTBEAT_SECONDS", 0.05)
    return lambda during: monkeypatch.setattr(
        SlowUploader, "during", staticmethod(during), raising=False
    )


def sent(store, monkeypatch):
    record = job(store, monkeypatch, lambda: None, uploads_to="s3://bucket/runs")
    return store.amend(record.id, results_dir=str(store.folder(record.id) / "results"))


def test_last_uploads_give_signs_of_life_and_hear_a_wish_to_cancel(
    store, monkeypatch, sends_slowly
):
    seen = []

    def during(folder):
        seen.append(store.load(folder.name))
        before = (folder / "heartbeat").stat().st_mtime_ns
        wait_until(lambda: (folder / "heartbeat").stat().st_mtime_ns > before, 5)
        store.wish_to_cancel(folder.name, "enough")

    sends_slowly(during)
    began = time.monotonic()
    record = in_process.start(store, sent(store, monkeypatch))
    assert time.monotonic() - began < 10
    # how the action ended is on the disk before anything is waited for
    assert [(one.state, one.exit_code) for one in seen] == [(State.RUNNING, 0)]
    assert states(record) == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert record.notes == ("results were not all sent: stopped before everything was sent",)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_last_uploads_and_is_raised_again(
    store, monkeypatch, sends_slowly, number
):
    heard = []
    before = signal.signal(number, lambda number, frame: heard.append(number))
    sends_slowly(lambda folder: os.kill(os.getpid(), number))
    try:
        record = in_process.start(store, sent(store, monkeypatch))
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert record.failure.kind == "service"
    assert store.load(record.id) == record
    assert record.is_terminal
