"""Training that is killed, signalled, starved of disk, or spread over processes."""

import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from kineme.engine import checkpoint as checkpoints
from kineme.engine.results import read_metrics
from tiny import content_of, same
from tiny_process import finish, session_processes, start, wait_until

EVERY_STEP = {"train__checkpoint_interval_unit": "step", "train__num_epochs": 3}
LAST = "model_epoch_002_step_00018.pth"
TWO = {"train__num_gpus": 2, "train__num_epochs": 3}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The last checkpoint of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(start(folder, **EVERY_STEP)) == 0
    return content_of(folder / "train" / LAST)


@pytest.fixture(params=["tmp", "shm"])
def folder(request, tmp_path):
    """A folder for results on two filesystems."""
    if request.param == "tmp":
        yield tmp_path
        return
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("no /dev/shm here")
    other = shm / f"kineme-test-{os.getpid()}-{random.randrange(10**9)}"
    other.mkdir()
    yield other
    subprocess.run(["rm", "-rf", other], check=True)


def error_text(folder):
    path = folder / "err.txt"
    return path.read_text() if path.exists() else ""


def last_status(folder):
    lines = [json.loads(x) for x in (folder / "train/status.json").read_text().splitlines()]
    return lines[-1]


def newest(folder):
    return checkpoints.find_checkpoints(folder / "train")[-1:]


def check_intact(folder):
    """Every checkpoint under a final name can be read."""
    found = checkpoints.find_checkpoints(folder / "train")
    for path in found:
        checkpoints.load_checkpoint(path)
    return len(found)


def check_kills(folder, times):
    """T01, T02: kill at random instants; nothing is corrupt, at most a step is lost."""
    draw, settings = random.Random(4), {**EVERY_STEP, "train__num_epochs": 500}
    for _ in range(times):
        process = start(folder, train__resume=True, **settings)
        first = newest(folder)
        wait_until(lambda first=first: newest(folder) != first)
        time.sleep(draw.uniform(0.0, 0.1))
        seen = newest(folder)
        assert process.exitcode is None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        check_intact(folder)
        assert newest(folder) >= seen
    last_epoch = int(newest(folder)[0].name[12:15])
    settings["train__num_epochs"] = last_epoch + 1
    assert finish(start(folder, train__resume=True, **settings)) == 0
    assert not [p for p in (folder / "train").iterdir() if ".tmp-" in p.name]
    assert finish(start(folder / "whole", train__num_epochs=last_epoch + 1)) == 0
    killed, whole = (content_of(newest(f)[0]) for f in (folder, folder / "whole"))
    assert same(killed, whole)


def test_kill_at_random_instants_corrupts_nothing(folder):
    check_kills(folder, 5)


@pytest.mark.slow
def test_kill_at_forty_random_instants_corrupts_nothing(folder):
    check_kills(folder, 40)


@pytest.mark.parametrize(
    "kill_in",
    [
        ("fsync", 5, "before"),  # bytes written, not synced
        ("replace", 4, "before"),  # complete, under its temporary name
        ("replace", 4, "after"),  # named, folder not synced
        ("symlink", 2, "before"),  # checkpoint there, `latest` still at the old one
        ("symlink", 2, "after"),  # the new link under its temporary name
        ("link", 1, "before"),  # best.pth not yet there
        ("link", 1, "after"),  # best.pth under its temporary name
    ],
)
def test_kill_between_the_steps_of_saving_recovers(tmp_path, whole, kill_in):
    unit = "epoch" if kill_in[0] == "link" else "step"
    settings = {**EVERY_STEP, "train__checkpoint_interval_unit": unit}
    killed = start(tmp_path, faults={"kill_in": kill_in}, **settings)
    assert finish(killed) == -signal.SIGKILL
    check_intact(tmp_path)
    assert finish(start(tmp_path, train__resume=True, **settings)) == 0
    assert not [p for p in (tmp_path / "train").iterdir() if ".tmp-" in p.name]
    assert same(content_of(tmp_path / "train" / LAST), whole)
    assert len(read_metrics(tmp_path / "train/metrics.csv")) == 3
    checkpoints.load_checkpoint(tmp_path / "train/best.pth")
    assert os.readlink(tmp_path / "train/ty_model_latest.pth") == LAST


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_group_saves_and_ends(tmp_path, whole, num_workers, number, code):
    slow = {"dataset__seconds": 0.02, "dataset__num_workers": num_workers, **EVERY_STEP}
    process = start(tmp_path, **slow)
    wait_until(lambda: newest(tmp_path))
    os.killpg(process.pid, number)
    assert finish(process) == code
    wait_until(lambda: not session_processes(process.pid), 10)
    assert last_status(tmp_path)["status"] == "FAILURE"
    assert "set train.resume=true to continue" in error_text(tmp_path)
    assert finish(start(tmp_path, train__resume=True, **EVERY_STEP)) == 0
    assert same(content_of(tmp_path / "train" / LAST)["state_dict"], whole["state_dict"])
    assert last_status(tmp_path)["status"] == "SUCCESS"
    assert [row["epoch"] for row in read_metrics(tmp_path / "train/metrics.csv")] == ["0", "1", "2"]


def test_two_signals_end_at_once(tmp_path):
    process = start(tmp_path, dataset__seconds=30.0, **EVERY_STEP)
    wait_until(lambda: "left out" in error_text(tmp_path))
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, 10) == 130


def test_workers_end_when_their_trainer_is_killed(tmp_path):
    process = start(tmp_path, dataset__num_workers=2, dataset__seconds=0.05, **EVERY_STEP)
    wait_until(lambda: newest(tmp_path))
    assert len(session_processes(process.pid)) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: not session_processes(process.pid), 5)


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """T10 without root: a file may not grow beyond a limit."""
    assert finish(start(tmp_path, train__num_epochs=1)) == 0
    before = newest(tmp_path)[0].read_bytes()
    limited = {"file_size": len(before) // 2}
    process = start(tmp_path, faults=limited, train__resume=True, train__num_epochs=2)
    assert finish(process) == 5
    assert newest(tmp_path)[0].read_bytes() == before
    assert "expected enough disk space to write it (" in error_text(tmp_path)
    assert "bytes free. Free space or set another results_dir" in error_text(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_really_full_disk_keeps_the_last_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        process = start(disk, model__width=2000, train__num_epochs=20)  # 80 kB a checkpoint
        assert finish(process) == 5
        check_intact(disk)
        assert newest(disk)
        assert not [p for p in (disk / "train").iterdir() if ".tmp-" in p.name]
        assert "bytes free" in error_text(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    first = start(tmp_path, dataset__seconds=0.05, **EVERY_STEP)
    wait_until(lambda: newest(tmp_path))
    second = start(tmp_path, train__resume=True, **EVERY_STEP)
    assert finish(second) == 2
    assert f"got one in use by pid {first.pid} on " in error_text(tmp_path)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert finish(start(tmp_path, train__resume=True, **EVERY_STEP)) == 0


# Two processes


def test_two_processes_train_validate_and_resume_exactly(tmp_path):
    fork = {"fork": True}
    assert finish(start(tmp_path / "whole", faults=fork, **TWO)) == 0
    process = start(tmp_path / "stopped", faults=fork, dataset__seconds=0.05, **TWO)
    wait_until(lambda: newest(tmp_path / "stopped"))
    child = next(p for p in session_processes(process.pid) if p != process.pid)
    os.kill(child, signal.SIGTERM)  # one rank alone is told
    assert finish(process, 30) == 143
    wait_until(lambda: not session_processes(process.pid), 5)
    assert finish(start(tmp_path / "stopped", faults=fork, train__resume=True, **TWO)) == 0
    name = newest(tmp_path / "whole")[0].name
    a, b = (content_of(tmp_path / x / "train" / name) for x in ("whole", "stopped"))
    assert same(a, b)


def test_one_process_continues_what_two_began(tmp_path):
    """The same samples in the same order; sums differ in their last bits only."""
    fork, still = {"fork": True}, {"model__batch_norm": False, "model__dropout": 0.0}
    assert finish(start(tmp_path / "whole", faults=fork, **TWO, **still)) == 0
    stopped = tmp_path / "stopped"
    process = start(stopped, faults=fork, dataset__seconds=0.05, **TWO, **still)
    wait_until(lambda: newest(stopped))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process, 30) == 143
    alone = {"dataset__batch_size": 8, "train__num_epochs": 3, **still}
    assert finish(start(stopped, train__resume=True, **alone)) == 0
    rows = [read_metrics(f / "train/metrics.csv") for f in (stopped, tmp_path / "whole")]
    for ours, theirs in zip(*rows, strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-5)
        assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), rel=1e-5)


def test_two_nodes_share_one_run(tmp_path):
    """Two machines, one process each, the same folder; the seed is drawn and shared."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    nodes = []
    for node in ("0", "1"):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": node}
        faults = {"fork": True, "environment": environment}
        settings = {"train__num_nodes": 2, "train__num_epochs": 2, "train__seed": -1}
        nodes.append(start(tmp_path, faults=faults, **settings))
    assert [finish(node) for node in nodes] == [0, 0]
    steps = [row["step"] for row in read_metrics(tmp_path / "train/metrics.csv")]
    assert steps == ["3", "6"]  # 26 samples in steps of 2 x 4
    lines = (tmp_path / "train/status.json").read_text().splitlines()
    assert sum("STARTED" in line for line in lines) == 2  # the run, its loop: one node's
    assert last_status(tmp_path)["status"] == "SUCCESS"


def test_an_error_in_one_process_ends_all_with_its_own_message(tmp_path):
    process = start(tmp_path, dataset__raising_rank=1, **TWO)
    assert finish(process, 60) == 3
    wait_until(lambda: not session_processes(process.pid), 5)
    errors = [line for line in error_text(tmp_path).splitlines() if "error" in line.lower()]
    assert errors[0] == "error: shelf 3: expected a book, got a brick."
    assert last_status(tmp_path)["message"].startswith("DataError: shelf 3")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["rank 0", "rank 1", "group", "parent"])
def test_sigterm_to_any_process_never_hangs(tmp_path, who):
    for round_ in range(5):
        folder = tmp_path / str(round_)
        process = start(folder, dataset__seconds=0.02, **{**TWO, "train__num_epochs": 30})
        wait_until(lambda folder=folder: newest(folder))
        ranks = sorted(p for p in session_processes(process.pid) if p != process.pid)
        time.sleep(random.uniform(0, 0.3))
        if who == "group":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            pids = {"rank 0": ranks[-2], "rank 1": ranks[-1], "parent": process.pid}
            os.kill(pids[who], signal.SIGTERM)
        assert finish(process, 30) == 143
        wait_until(lambda process=process: not session_processes(process.pid), 5)
        check_intact(folder)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_its_cause(tmp_path):
    process = start(tmp_path, dataset__seconds=0.02, **{**TWO, "train__num_epochs": 30})
    wait_until(lambda: newest(tmp_path))
    ranks = sorted(p for p in session_processes(process.pid) if p != process.pid)
    os.kill(ranks[-1], signal.SIGKILL)
    assert finish(process, 30) == 5
    assert "its death by signal 9 (SIGKILL)" in error_text(tmp_path)
    check_intact(tmp_path)


@pytest.mark.slow
def test_a_killed_parent_takes_its_processes_along(tmp_path):
    process = start(tmp_path, dataset__seconds=0.02, **{**TWO, "train__num_epochs": 300})
    wait_until(lambda: newest(tmp_path))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until(lambda: not session_processes(process.pid), 10)
