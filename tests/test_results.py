"""What a run leaves and says, and who may write it."""

import contextlib
import errno
import json
import multiprocessing
import os
import socket
import time
from datetime import datetime

import pytest
import yaml

from kineme.engine import lease, results
from kineme.engine.results import Run, open_run, read_metrics
from kineme.errors import DataError, ResourceError, SpecError
from kineme.processes import start_ticks
from kineme.signals import Interrupted
from tiny import TINY, tiny_spec


def lines_of(folder):
    return [json.loads(x) for x in (folder / "status.json").read_text().splitlines()]


def test_the_folder_is_results_dir_and_action_unless_named(tmp_path):
    with open_run(TINY, "train", tiny_spec(tmp_path)) as run:
        assert run.folder == tmp_path / "train"
    named = tiny_spec(tmp_path, train__results_dir=str(tmp_path / "here"))
    with open_run(TINY, "train", named) as run:
        assert run.folder == tmp_path / "here"


def test_the_spec_is_kept_without_secrets(tmp_path):
    spec = tiny_spec(tmp_path, encryption_key="hunter2", train__num_epochs=7)
    with open_run(TINY, "train", spec) as run:
        text = (run.folder / "experiment.yaml").read_text()
    assert "hunter2" not in text
    kept = yaml.safe_load(text)
    assert kept["train"]["num_epochs"] == 7
    assert "encryption_key" not in kept
    assert not any("hunter2" in p.read_text() for p in run.folder.iterdir())


def test_success_is_the_last_line_with_the_figures(tmp_path):
    with open_run(TINY, "evaluate", tiny_spec(tmp_path)) as run:
        run.status("half way", kpi={"accuracy": 50.0, "odd": float("nan")})
        run.status("no figures here")
        run.kpi = {"accuracy": 75.0}
    first, half, plain, last = lines_of(tmp_path / "evaluate")
    assert (first["status"], first["message"]) == ("STARTED", "Starting Tiny evaluate.")
    assert half["kpi"] == {"accuracy": 50.0, "odd": None}
    assert "kpi" not in plain
    assert (last["status"], last["message"]) == ("SUCCESS", "Evaluate finished successfully.")
    assert last["kpi"] == {"accuracy": 75.0}


def test_dates_and_times_are_padded(tmp_path, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 3, 4, 5, 6, 7)

    monkeypatch.setattr(results, "datetime", Clock)
    Run(tmp_path, "tiny", "train").status("now")
    assert lines_of(tmp_path)[0] == {
        "date": "03/04/2026", "time": "05:06:07", "status": "RUNNING", "verbosity": "INFO",
        "message": "now",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SpecError("a", "b", "c"), "Configuration error: a: expected b, got c."),
        (DataError("a", "b", "c"), "DataError: a: expected b, got c."),
        (ResourceError("a", "b", "c"), "Resource error: a: expected b, got c."),
        (OSError(errno.EIO, "broken"), "File system error: [Errno 5] broken"),
        (NotImplementedError("later"), "Feature not implemented: later"),
        (RuntimeError("a\nb"), "RuntimeError: a\\nb"),
        (KeyError("k"), "KeyError: 'k'"),
        (KeyboardInterrupt(), "User/System interruption: "),
        (
            Interrupted.by(15),
            "User/System interruption: SIGTERM: expected to run to the end, got a request to stop.",
        ),
    ],
)
def test_any_error_is_recorded_as_failure(tmp_path, error, message):
    with pytest.raises(type(error)), open_run(TINY, "train", tiny_spec(tmp_path)):
        raise error
    last = lines_of(tmp_path / "train")[-1]
    assert (last["status"], last["message"]) == ("FAILURE", message)
    assert "Traceback" in (tmp_path / "train/log.txt").read_text()


def test_notes_are_told_once_on_stderr_and_in_the_log(tmp_path, capfd):
    with open_run(TINY, "train", tiny_spec(tmp_path)) as run:
        run.note("3 samples dropped")
        run.note("3 samples dropped")
        run.say("half way")
    assert capfd.readouterr().err == "note: 3 samples dropped\nhalf way\n"
    log = (tmp_path / "train/log.txt").read_text()
    assert log.count("WARNING 3 samples dropped") == 1
    assert "INFO half way" in log


def test_a_silent_process_writes_nothing(tmp_path, capfd):
    run = Run(tmp_path, "tiny", "train")
    with run.joined(is_writer=False):
        run.note("a")
        run.say("b")
        run.status("c")
        run.log_epoch({"epoch": 0})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_metrics_have_one_row_per_epoch_whatever_was_resumed(tmp_path):
    run = Run(tmp_path, "tiny", "train")
    for epoch in (0, 1, 2):
        run.log_epoch({"epoch": epoch, "train_loss": epoch / 2})
    run.log_epoch({"epoch": 1, "train_loss": 9.0, "val_acc": 0.5})
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(r["epoch"], r["train_loss"], r["val_acc"]) for r in rows] == [
        ("0", "0.0", ""), ("1", "9.0", "0.5"),
    ]  # fmt: skip
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == "epoch,step,lr,train_loss,train_acc,val_loss,val_acc,seconds"


def test_a_damaged_metrics_file_is_started_over(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"\xff\x00nonsense")
    Run(tmp_path, "tiny", "train").log_epoch({"epoch": 3})
    assert [r["epoch"] for r in read_metrics(tmp_path / "metrics.csv")] == ["3"]


def test_logs_on_a_full_disk_cost_one_warning_each(tmp_path, capfd, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_run(TINY, "train", tiny_spec(tmp_path)) as run:
        monkeypatch.setattr(results, "append_line", full)
        monkeypatch.setattr(results, "write_text", full)
        for epoch in range(3):
            run.status("going on")
            run.log_epoch({"epoch": epoch})
    told = capfd.readouterr().err
    assert told.count("status.json cannot be written any more") == 1
    assert told.count("metrics.csv cannot be written any more") == 1
    assert told.count("log.txt cannot be written any more") == 1


def test_what_killed_runs_left_half_written_is_swept(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / ".best.pth.tmp-999999999-0123abcd").write_bytes(b"x")
    with open_run(TINY, "train", tiny_spec(tmp_path)):
        pass
    assert not [p for p in folder.iterdir() if ".tmp-" in p.name]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "train").write_text("a file, not a folder")
    run = open_run(TINY, "train", tiny_spec(tmp_path))
    with pytest.raises(ResourceError, match="a path that can be written, got File exists"), run:
        pass


# The lease


def other_holder(**changes):
    """The lease of a living process that is not this one."""
    pid = os.getppid()
    holder = {**lease._holder(), "pid": pid, "started": start_ticks(pid)}
    return json.dumps(holder | changes)


def test_a_folder_in_use_is_refused_with_who_and_since_when(tmp_path):
    path = tmp_path / ".lease.json"
    path.write_text(other_holder(since="2026-01-02 03:04:05"))
    with pytest.raises(SpecError) as caught, lease.held(path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: expected a results folder that no run is using, got one in use by pid "
        f"{os.getppid()} on {socket.gethostname()} since 2026-01-02 03:04:05. "
        "Wait for it, or set another results_dir."
    )
    assert caught.value.exit_code == 2
    assert path.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 999_999_999},  # gone
        {"started": 1},  # another process has the number now
        {"boot": "an earlier one"},
        {"pid": "rm -rf"},
    ],
)
def test_a_lease_of_the_dead_is_taken_over(tmp_path, changes):
    path = tmp_path / ".lease.json"
    path.write_text(other_holder(**changes))
    with lease.held(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lease_that_is_no_lease_is_taken_over(tmp_path):
    path = tmp_path / ".lease.json"
    for text in ("", "[]", '{"pid": 1}', "nonsense"):
        path.write_text(text)
        with lease.held(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lease_of_another_machine_expires_without_a_sign_of_life(tmp_path):
    path = tmp_path / ".lease.json"
    path.write_text(other_holder(host="elsewhere"))
    with pytest.raises(SpecError, match="on elsewhere"), lease.held(path):
        pass
    long_ago = time.time() - lease.EXPIRY_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    with lease.held(path):
        pass


def test_a_thread_may_hold_its_lease_twice(tmp_path):
    path = tmp_path / ".lease.json"
    with lease.held(path):
        with lease.held(path):
            pass
        assert path.exists()
    assert not path.exists()


def compete(path, mark, answers):
    """Take the lease whenever it is free; tell if another had it at the same time."""
    until = time.monotonic() + 0.7
    num_taken = 0
    while time.monotonic() < until:
        with contextlib.suppress(SpecError), lease.held(path):
            try:
                mark.mkdir()
            except FileExistsError:
                answers.put("two at once")
                return
            mark.rmdir()
            num_taken += 1
        time.sleep(0.0005)
    answers.put(num_taken)


def test_of_many_that_want_a_folder_only_one_has_it(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (tmp_path / "lease", tmp_path / "mark", answers)
    processes = [context.Process(target=compete, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    told = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert "two at once" not in told
    assert sum(told) > 20
