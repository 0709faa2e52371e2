"""Jobs on a SLURM cluster, which stand-ins of its commands play; followers on further nodes."""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from job_ground import (
    PYTHON,
    SAVES_ON_SIGTERM,
    agent,
    made,
    silent,
    states,
    wait_until,
)
from kineme.errors import ServiceError
from kineme.jobs import follower, liveness
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import load_runner, local, slurm

pytestmark = pytest.mark.usefixtures("no_key")


def test_slurm_is_told_what_the_platform_says(store):
    platform = {
        "partition": "gpus", "account": "lab", "qos": "high", "num_nodes": 2, "num_gpus": 4,
        "num_cpus": 16, "memory_gb": 64, "time_minutes": 90, "setup": ["module load cuda"],
    }  # fmt: skip
    record = made(store, "x", runner="slurm", platform=platform)
    assert slurm.parameters_of(record) == {
        "name": "kineme-train", "nodes": 2, "tasks_per_node": 1, "gpus_per_node": 4,
        "cpus_per_task": 16, "timeout_min": 90, "mem_gb": 64, "slurm_partition": "gpus",
        "slurm_account": "lab", "slurm_qos": "high", "slurm_setup": ["module load cuda"],
    }  # fmt: skip


SLURM_COMMANDS = {
    "sbatch": 'cp "$1" "$SLURM_STANDIN/batch.sh"; echo "Submitted batch job 4711"',
    "srun": "exit 0",
    "scancel": 'echo "$@" >> "$SLURM_STANDIN/cancelled"',
    "sacct": 'echo "JobID|State|NodeList"; echo "4711|$(cat "$SLURM_STANDIN/state")|n1"',
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Stand-ins for SLURM's commands, which write down what they are told."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, line in SLURM_COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STANDIN", str(folder))
    import submitit

    submitit.SlurmJob.watcher.clear()
    return folder


def test_slurm_gets_a_batch_file_and_is_asked_what_became_of_it(store, cluster):
    platform = {"partition": "gpus", "account": "lab", "num_gpus": 2, "time_minutes": 90}
    record = made(store, "x", runner="slurm", platform=platform)
    record = slurm.start(store, record)
    assert (record.state, record.backend_job_id) == (State.PENDING, "4711")
    assert slurm.start(store, record) == record
    batch = (cluster / "batch.sh").read_text()
    for line in ("partition=gpus", "account=lab", "gpus-per-node=2", "time=90", "signal=USR2@90"):
        assert f"#SBATCH --{line}\n" in batch
    import submitit

    for state, gone in (("RUNNING", False), ("UNKNOWN", None), ("CANCELLED by 7", True)):
        (cluster / "state").write_text(state)
        submitit.SlurmJob.watcher.clear()
        assert slurm.is_gone(store, record) is gone
    assert reconcile(store, record).state is State.PENDING  # readers of lists do not ask
    seen = reconcile(store, record, asks_runner=True)
    assert seen.failure == Failure("crashed", "slurm has it no more")


def test_a_job_that_waits_in_slurm_is_cancelled_there_too(store, cluster):
    record = slurm.start(store, made(store, "x", runner="slurm"))
    record = load_runner("slurm").cancel(store, record)
    assert record.state is State.CANCELED
    assert wait_until((cluster / "cancelled").exists)
    assert (cluster / "cancelled").read_text() == "4711\n"


def cancelled_in(cluster):
    path = cluster / "cancelled"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("state", [State.UNKNOWN, State.PAUSED])
def test_slurm_ends_a_job_that_cannot_hear(store, cluster, state):
    record = silent(store, slurm.start(store, made(store, "x", runner="slurm")), state)
    with liveness.agent_lock(store.folder(record.id)):  # which a file server may keep for long
        assert load_runner("slurm").cancel(store, record).state is state
        assert cancelled_in(cluster) == "4711\n"
        (cluster / "state").write_text("CANCELLED by 7")
        record = reconcile(store, store.load(record.id), asks_runner=True)
    assert record.state is State.CANCELED


def test_slurm_ends_a_job_that_does_not_end_in_its_grace(store, cluster):
    (cluster / "state").write_text("RUNNING")
    asked = made(store, "x", runner="slurm", platform={"grace_seconds": 4})
    record = silent(store, slurm.start(store, asked), State.RUNNING)
    folder = store.folder(record.id)
    liveness.show_life(folder)  # its agent is there, and its action does not end
    with liveness.agent_lock(folder):
        load_runner("slurm").cancel(store, record)
        record = store.move(record.id, State.CANCELING, reason="asked for", source="agent")
        for seconds, ended in ((20, ""), (25, "4711\n")):  # twice its grace, and 15 s
            moment = time.time() - seconds
            os.utime(folder / "cancel.json", (moment, moment))
            os.utime(folder / "heartbeat")
            reconcile(store, record)
            assert reconcile(store, record, asks_runner=True) == record
            assert cancelled_in(cluster) == ended
        assert load_runner("slurm").cancel(store, record) == record  # asked once more
        assert cancelled_in(cluster) == "4711\n4711\n"


def test_a_job_that_slurm_has_suspended_is_paused_until_it_goes_on(store, cluster):
    record = silent(store, slurm.start(store, made(store, "x", runner="slurm")))
    (cluster / "state").write_text("SUSPENDED")
    record = reconcile(store, record, asks_runner=True)
    assert record.state is State.PAUSED
    assert record.transitions[-1].reason == "slurm has set it aside"
    assert reconcile(store, record) == record
    assert reconcile(store, record, asks_runner=True) == record
    (cluster / "state").write_text("RUNNING")  # and its agent says nothing yet
    assert reconcile(store, record, asks_runner=True).state is State.UNKNOWN
    liveness.show_life(store.folder(record.id))
    record = reconcile(store, store.load(record.id))
    assert states(record) == [
        State.RUNNING, State.UNKNOWN, State.PAUSED, State.UNKNOWN, State.RUNNING
    ]  # fmt: skip


def test_a_paused_job_runs_again_with_its_next_sign_of_life(store, cluster):
    record = silent(store, slurm.start(store, made(store, "x", runner="slurm")), State.PAUSED)
    liveness.show_life(store.folder(record.id))
    assert reconcile(store, record).state is State.RUNNING


def test_without_slurm_the_error_says_so(store, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    record = made(store, "x", runner="slurm")
    with pytest.raises(ServiceError, match="srun"):
        slurm.start(store, record)
    assert store.load(record.id).backend_job_id is None


def test_of_several_nodes_the_first_has_the_agent_and_the_others_follow(monkeypatch):
    node = {
        "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[07-08]",
        "SUBMITIT_EXECUTOR": "slurm", "KINEME_JOB_ID": "of the job that submitted it",
    }  # fmt: skip
    for name, value in node.items():
        monkeypatch.setenv(name, value)
    for number, module in (("0", "kineme.jobs.agent"), ("1", "kineme.jobs.follower")):
        monkeypatch.setenv("SLURM_NODEID", number)
        words, environment = slurm.entry(os.environ, "/jobs/1")
        assert words == [sys.executable, "-P", "-m", module, "/jobs/1"]
        run = {name: environment[name] for name in ("NODE_RANK", "WORLD_SIZE", "MASTER_ADDR")}
        assert run == {"NODE_RANK": number, "WORLD_SIZE": "2", "MASTER_ADDR": "n07"}
        assert environment["MASTER_PORT"] == "24711"
        assert "KINEME_JOB_ID" not in environment
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    words, environment = slurm.entry(os.environ, "/jobs/1")
    assert words == [*local.WORDS, "/jobs/1"]
    assert "MASTER_ADDR" not in environment


def test_a_follower_runs_beside_the_agent_and_ends_when_the_job_is_cancelled(store, monkeypatch):
    monkeypatch.setenv("NODE_RANK", "1")
    record = made(store, SAVES_ON_SIGTERM)
    process = agent(store, record)
    log = store.folder(record.id) / "job.node1.log"

    def cancel():
        wait_until(lambda: log.exists() and "on it" in log.read_text())
        load_runner("subprocess").cancel(store, record)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    handlers = {number: signal.getsignal(number) for number in (15, 2, signal.SIGUSR2)}
    try:
        ended_as = follower.follow_job(store, record.id, program=PYTHON)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    canceller.join()
    process.wait(20)
    assert ended_as.code == 143
    assert log.read_text() == "on it\nsaving\nsaved\n"
    assert store.load(record.id).state is State.CANCELED


def test_a_follower_minds_no_disk_that_does_not_answer_for_a_while(store, monkeypatch):
    record = made(store, "x")
    folder = store.folder(record.id)
    store.move(record.id, State.RUNNING, reason="on it", source="agent")
    assert follower._runs(store, folder)
    real = Path.read_bytes

    def raising(error):
        def read(path):
            if path.name == "job.json":
                raise error
            return real(path)

        return read

    for error in (OSError(errno.ESTALE, "stale"), FileNotFoundError(errno.ENOENT, "not there")):
        monkeypatch.setattr(Path, "read_bytes", raising(error))
        assert follower._runs(store, folder)
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"{")
    assert follower._runs(store, folder)
    monkeypatch.setattr(Path, "read_bytes", real)
    store.move(record.id, State.COMPLETE, reason="done", source="agent")
    assert not follower._runs(store, folder)
    store.delete(record.id)
    assert not follower._runs(store, folder)
