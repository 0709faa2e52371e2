"""Results of jobs on their way to an object store, which a stand-in plays here."""

import threading
import time
from pathlib import Path

import pytest

from job_ground import PYTHON, log_of, made
from kineme.data.remote import spool
from kineme.data.remote.spool import Drained, is_excluded
from kineme.errors import ResourceError, ServiceError
from kineme.jobs.agent import run_agent
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import load_runner

DONE = "import os; os.makedirs('results'); open('results/best.pth', 'w').close()"
TRIAL = "0b6e57a2-0000-4000-8000-000000000000"
SEARCH = f"""
import sys
from kineme.jobs.agent import run_agent
from kineme.jobs.record import JobRecord, now
from kineme.jobs.store import JobStore
store = JobStore("results/automl/trials")
store.create(JobRecord(id={TRIAL!r}, network_arch="pose_classification", action="train",
                       created_at=now(), command=({DONE!r},)))
run_agent(store, {TRIAL!r}, program=(sys.executable, "-c"))
store.wish_to_cancel({TRIAL!r}, "too late")
"""
REFUSED = ServiceError("s3://bucket/runs", "a bucket that takes files", "403 Forbidden")


class FakeUploader:
    """Takes results as `answer` says."""

    answer = Drained(1, (), None)
    seconds = 0.0
    made: list["FakeUploader"] = []  # noqa: RUF012 - emptied by each test
    seen_on_disk = None

    def __init__(self, folder, address, *, excludes=(), tell=None):
        self.folder, self.address, self.excludes, self.tell = folder, address, excludes, tell
        self.calls = []
        self.made.append(self)

    def start(self):
        self.calls.append("start")

    def drain(self, deadline_seconds):
        self.calls.append(("drain", deadline_seconds))
        if self.seen_on_disk is not None:
            self.seen_on_disk(self.folder.parent)
        time.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self):
        self.calls.append("close")


@pytest.fixture(autouse=True)
def uploader(monkeypatch):
    monkeypatch.setattr(FakeUploader, "made", [])
    monkeypatch.setattr(spool, "Uploader", FakeUploader)
    return FakeUploader


def sent(store, code=DONE, **changes):
    record = made(store, code, uploads_to="s3://bucket/runs", **changes)
    return run_agent(store, record.id, program=PYTHON)


def test_results_go_where_the_record_says(store):
    record = sent(store, upload_excludes=("*.tmp",), platform={"upload_seconds": 5})
    assert (record.state, record.failure) == (State.COMPLETE, None)
    (one,) = FakeUploader.made
    assert one.folder == Path(record.results_dir)
    assert str(one.address).rstrip("/") == "s3://bucket/runs"
    assert one.excludes == ("*.tmp", "heartbeat", "lock", "agent.lock", "cancel.json")
    assert one.calls == ["start", ("drain", 5.0), "close"]


def test_of_the_trials_of_a_search_all_is_sent_but_the_signs_of_the_moment(store):
    record = sent(store, SEARCH)
    assert record.state is State.COMPLETE
    (one,) = FakeUploader.made
    trials = one.folder / "automl" / "trials"
    names = {str(path.relative_to(trials / TRIAL)) for path in (trials / TRIAL).rglob("*")}
    left_out = {
        name for name in names if is_excluded(f"automl/trials/{TRIAL}/{name}", one.excludes)
    }
    assert left_out == {"heartbeat", "lock", "agent.lock", "cancel.json"}
    assert {"job.json", "job.log", "results/best.pth"} <= names - left_out


def test_what_cannot_be_sent_makes_an_error_whose_results_are_here(store, monkeypatch):
    monkeypatch.setattr(FakeUploader, "answer", Drained(0, ("best.pth", "log.txt"), REFUSED))
    ends = []

    def look(folder):  # the end of the action is on the disk before anything is waited for
        ends.append(store.load(folder.name))

    monkeypatch.setattr(FakeUploader, "seen_on_disk", staticmethod(look))
    record = sent(store)
    assert [(end.state, end.exit_code) for end in ends] == [(State.RUNNING, 0)]
    assert record.state is State.ERROR
    message = (
        "s3://bucket/runs: expected a bucket that takes files, got 403 Forbidden. "
        "Not sent: best.pth, log.txt. The action is done, and its results are here."
    )
    assert record.failure == Failure("service", message, 0)
    assert record.exit_code == 0
    assert (Path(record.results_dir) / "best.pth").exists()
    assert "note: s3://bucket/runs: expected a bucket" in log_of(store, record)


def test_an_error_of_the_action_stays_the_reason(store, monkeypatch):
    monkeypatch.setattr(FakeUploader, "answer", Drained(0, ("best.pth",), REFUSED))
    record = sent(store, "import sys; print('error: x'); sys.exit(3)")
    assert record.failure == Failure("data", "x", 3)
    assert "results were not all sent: s3://bucket/runs" in record.notes[0]


def test_a_store_that_is_silent_is_told_as_such(store, monkeypatch):
    monkeypatch.setattr(FakeUploader, "answer", Drained(0, ("a", "b", "c", "d"), None))
    record = sent(store, platform={"upload_seconds": 2})
    assert "expected an answer within 2 s, got none" in record.failure.message
    assert "Not sent: a, b, c and 1 more." in record.failure.message


def test_an_uploader_that_cannot_begin_does_not_keep_the_action_from_its_work(store, monkeypatch):
    def refuses(self, folder, address, **_):
        raise ResourceError(str(folder), "a folder that no other process sends", "one that is")

    monkeypatch.setattr(FakeUploader, "__init__", refuses)
    record = sent(store)
    assert (Path(record.results_dir) / "best.pth").exists()
    assert record.failure.kind == "service"
    assert "no other process sends" in record.failure.message


def test_a_full_disk_while_results_are_sent_is_an_error_that_says_so(store, monkeypatch):
    full = ResourceError("journal", "enough disk space to write it", "0 bytes free")
    monkeypatch.setattr(FakeUploader, "answer", full)
    assert "0 bytes free" in sent(store).failure.message


def test_a_job_can_be_cancelled_while_its_results_are_sent(store, monkeypatch):
    monkeypatch.setattr(FakeUploader, "seconds", 3.0)
    record = made(store, DONE, uploads_to="s3://bucket/runs")
    threading.Timer(0.7, lambda: store.wish_to_cancel(record.id, "enough")).start()
    began = time.monotonic()
    record = run_agent(store, record.id, program=PYTHON)
    assert time.monotonic() - began < 2
    states = [step.state for step in record.transitions]
    assert states == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert record.notes == ("results were not all sent: stopped before everything was sent",)


def test_results_of_a_job_in_this_process_are_sent_too(store, monkeypatch):
    monkeypatch.setattr(FakeUploader, "answer", Drained(0, ("best.pth",), REFUSED))
    record = made(store, "automl", runner="in_process", uploads_to="s3://bucket/runs")
    record = load_runner("in_process").start(store, record)
    assert record.failure.kind == "spec"  # its own
    assert FakeUploader.made[0].calls[0] == "start"
