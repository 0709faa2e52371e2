"""Runners: one contract for all that can run here, and what each of the others is told.

The contract trains a tiny network for real: a process that imports torch takes seconds.
"""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from job_ground import (
    LEAVES_CHILDREN,
    PYTHON,
    SAVES_ON_SIGTERM,
    agent,
    log_of,
    made,
    processes_of,
    wait_for_words,
    wait_until,
    wait_until_nobody,
)
from kineme import concealment
from kineme.data.labels import Labels, write_labels
from kineme.errors import ResourceError, ServiceError, SpecError
from kineme.jobs import follower, liveness
from kineme.jobs.agent import run_agent
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import RUNNERS, check_platform, docker, load_runner, local, ray, slurm
from kineme.jobs.store import JobStore
from kineme.processes import identity
from stick import CLASSES, LAYOUT, waves

GROUND = str(Path(__file__).with_name("job_ground.py"))


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(concealment.VARIABLE, raising=False)
    monkeypatch.setattr(concealment, "_kept", {})


@pytest.fixture
def quick_agents(monkeypatch):
    """Agents of the runner `subprocess` whose command is Python code."""
    monkeypatch.setattr(local, "WORDS", (sys.executable, GROUND))


def states(record):
    return [step.state for step in record.transitions]


# The contract

LOCAL_CLUSTER = {"cluster": "local"}
GROUNDS = {
    "in_process": {},
    "subprocess": {},
    "slurm": {"platform": LOCAL_CLUSTER},
}


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skeletons")
    for prefix, num, seed in (("train", 12, 0), ("val", 7, 1)):
        data, labels = waves(num, seed)
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(num))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels, CLASSES))
    (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
    return folder


def training(store, skeletons, runner, *words):
    record = made(
        store, "pose_classification", "train", f"model.layout={skeletons}/stick.yaml",
        "train.tensorboard=false", "dataset.batch_size=4", "dataset.num_workers=0",
        f"dataset.train_dataset.data_path={skeletons}",
        f"dataset.val_dataset.data_path={skeletons}", "results_dir=results", *words,
        runner=runner, **GROUNDS.get(runner, {}),
    )  # fmt: skip
    if runner != "in_process":
        return record
    # what is relative is so to where a process runs, which is the folder of the job
    results = f"results_dir={store.folder(record.id)}/results"
    return store.amend(record.id, command=(*record.command, results))


def ended(store, record, seconds=60):
    def current():
        return reconcile(store, store.load(record.id))

    wait_until(lambda: current().is_terminal, seconds)
    return current()


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_is_complete_with_results_and_log(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epochs=1")
    started = load_runner(runner).start(store, record)
    assert started.state is not State.PENDING or started.backend_job_id
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.COMPLETE]
    assert (record.exit_code, record.failure) == (0, None)
    assert record.agent is not None
    assert "epoch 1/1" in log_of(store, record)
    assert (store.folder(record.id) / "results" / "train" / "best.pth").is_file()
    assert load_runner(runner).start(store, record) == record  # it never runs twice
    assert load_runner(runner).cancel(store, record) == record


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_that_fails_says_why(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epoch=1")
    load_runner(runner).start(store, record)
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.ERROR]
    message = (
        "command line: train.num_epoch: expected a known key, got an unknown key. "
        "Did you mean train.num_epochs?"
    )
    assert record.failure == Failure("spec", message, 2)
    assert f"error: {message}" in log_of(store, record)


@pytest.mark.parametrize(
    "runner",
    ["in_process", "subprocess", pytest.param("slurm", marks=pytest.mark.slow)],  # 5 s each
)
def test_contract_a_job_that_is_cancelled_saves_and_stops(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epochs=100000")

    def cancel():
        wait_for_words(store, record, "epoch 2/")
        load_runner(runner).cancel(store, store.load(record.id), reason="enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    load_runner(runner).start(store, record)
    record = ended(store, record)
    canceller.join()
    assert states(record) == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert record.transitions[1].reason == "enough"
    assert (record.exit_code, record.failure) == (143, None)
    kept = {path.name for path in (store.folder(record.id) / "results" / "train").iterdir()}
    assert "pc_model_latest.pth" in kept
    wait_until_nobody(record, 10)


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_that_was_cancelled_before_never_starts(store, runner):
    record = made(store, "x", runner=runner, **GROUNDS[runner])
    record = load_runner(runner).cancel(store, record, reason="changed my mind")
    assert states(record) == [State.CANCELED]
    assert load_runner(runner).start(store, record) == record


@pytest.mark.parametrize("runner", RUNNERS)
def test_contract_every_runner_refuses_settings_that_it_does_not_have(store, runner):
    with pytest.raises(SpecError) as caught:
        check_platform(runner, {"upload_second": 3, "time_limit_seconds": "x", "environment": 1})
    problems = [str(problem) for problem in caught.value.problems]
    assert problems[0].endswith("Did you mean upload_seconds?")
    assert problems[1:3] == [
        "platform.time_limit_seconds: expected int or float, got str 'x'.",
        "platform.environment: expected dict, got int 1.",
    ]
    record = made(store, "x", runner=runner, platform={"no such": 1})
    with pytest.raises(SpecError, match="no such"):
        load_runner(runner).start(store, record)
    assert store.load(record.id).state is State.PENDING


def test_a_runner_that_is_not_there_is_refused_with_what_was_meant():
    with pytest.raises(SpecError, match=r"Did you mean slurm\?"):
        load_runner("slurn")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"API_TOKEN": "x"}, "platform.environment.API_TOKEN: expected nothing secret"),
        ({"A": 1}, "platform.environment.A: expected text, got 1"),
        ({"A B": "x"}, "platform.environment.A B: expected the name of a variable"),
    ],
)
def test_variables_of_a_platform_are_text_and_no_secrets(environment, said):
    with pytest.raises(SpecError, match=said):
        check_platform("subprocess", {"environment": environment})


# In this process


def test_a_bug_of_an_action_is_an_error_of_its_job_alone(store, monkeypatch, skeletons):
    from kineme.actions import train

    def broken(network, spec):
        print("so far, so good")
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(train, "run", broken)
    record = training(store, skeletons, "in_process")
    record = load_runner("in_process").start(store, record)
    expected = "ZeroDivisionError: by zero (a bug of kineme)"
    assert record.failure == Failure("bug", expected, 1)
    log = log_of(store, record)
    assert "so far, so good\nTraceback" in log
    assert log.endswith(f"error: {expected}\n")


def test_a_signal_for_this_process_is_raised_again_after_the_end_of_its_job(
    store, monkeypatch, skeletons
):
    from kineme.actions import train

    def signalled(network, spec):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(train, "run", signalled)
    before = signal.getsignal(signal.SIGTERM)
    record = training(store, skeletons, "in_process")
    with pytest.raises(Exception, match="SIGTERM: expected to run to the end"):
        load_runner("in_process").start(store, record)
    assert store.load(record.id).failure == Failure("interrupted", "stopped by SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_commands_than_actions_do_not_run_in_this_process(store):
    record = made(store, "automl", "-e", "spec.yaml", runner="in_process")
    record = load_runner("in_process").start(store, record)
    expected = (
        "runner in_process: expected the words of an action, as `pose_classification train`, "
        "got 'automl -e'. Use the runner subprocess."
    )
    assert record.failure == Failure("spec", expected, 2)


# Processes


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


# SLURM


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


def silent(store, record, state=State.UNKNOWN):
    """The job, running on another machine that has shown no sign of life for a minute."""
    other = dataclasses.replace(identity(), host="other", pid=1)
    record = store.move(record.id, State.RUNNING, reason="on it", source="agent", agent=other)
    liveness.show_life(store.folder(record.id))
    long_ago = time.time() - 60
    os.utime(store.folder(record.id) / "heartbeat", (long_ago, long_ago))
    if state is not State.RUNNING:
        record = store.move(record.id, state, reason="no sign of life", source="observer")
    return record


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


@pytest.mark.parametrize("runner", ["slurm", "ray"])
def test_j16_schedulers_that_show_what_they_run_get_no_key(store, runner, monkeypatch):
    record = made(store, "x", runner=runner)
    with pytest.raises(SpecError, match="encryption_key_file"):
        load_runner(runner).start(store, record, key="secret")
    monkeypatch.setenv(concealment.VARIABLE, "secret")
    with pytest.raises(SpecError, match="unset KINEME_ENCRYPTION_KEY"):
        load_runner(runner).start(store, record)


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


# Ray


class FakeRay:
    """Of Ray's job API, what is used."""

    def __init__(self):
        self.jobs, self.stopped, self.status, self.error_type = {}, [], "PENDING", None

    def submit_job(self, **submission):
        if submission["submission_id"] in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission['submission_id']} "
                               "already exists.")  # fmt: skip
        self.jobs[submission["submission_id"]] = submission

    def get_job_info(self, job_id):
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        is_last = job_id == list(self.jobs)[-1]
        return SimpleNamespace(
            status=SimpleNamespace(value=self.status if is_last else "FAILED"),
            error_type=self.error_type,
        )

    def stop_job(self, job_id):
        self.stopped.append(job_id)


@pytest.fixture
def fake_ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(ray, "_client", lambda record: fake)
    return fake


def test_ray_is_told_what_the_platform_says_and_once(store, fake_ray):
    platform = {"num_gpus": 0.5, "num_cpus": 4, "memory_gb": 2, "resources": {"disk": 1}}
    record = made(store, "x", runner="ray", platform=platform)
    started = ray.start(store, record)
    assert started.backend_job_id == record.id
    store.amend(record.id, backend_job_id=None)  # as if the client had been killed in between
    assert ray.start(store, record).backend_job_id == record.id
    assert fake_ray.jobs == {
        record.id: {
            "entrypoint": f"{sys.executable} -P -m kineme.jobs.agent {store.folder(record.id)}",
            "submission_id": record.id,
            "metadata": {"network": "pose_classification", "action": "train"},
            "entrypoint_num_cpus": 4,
            "entrypoint_num_gpus": 0.5,
            "entrypoint_memory": 2 << 30,
            "entrypoint_resources": {"disk": 1},
        }
    }


def test_ray_is_asked_what_became_of_a_job_and_told_of_its_end(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    for status, gone in (("PENDING", False), ("RUNNING", False), ("FAILED", True)):
        fake_ray.status = status
        assert ray.is_gone(store, record) is gone
    assert load_runner("ray").cancel(store, record).state is State.CANCELED
    assert fake_ray.stopped == [record.id]


def test_a_job_that_ray_has_no_patience_to_let_wait_is_submitted_again(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    first = fake_ray.jobs[record.id]
    for number in (2, 3):
        fake_ray.status, fake_ray.error_type = "FAILED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
        waiting = store.load(record.id)
        for reader in range(2):  # who both have looked before either has asked
            assert reconcile(store, waiting, asks_runner=True).state is State.PENDING, reader
        record = store.load(record.id)
        assert record.backend_job_id == f"{record.id}-{number}"
        assert fake_ray.jobs[record.backend_job_id] == {
            **first,
            "submission_id": record.backend_job_id,
        }
        fake_ray.status, fake_ray.error_type = "PENDING", None
        assert ray.is_gone(store, record) is False
    assert len(fake_ray.jobs) == 3
    assert ray.start(store, record) == record
    assert len(fake_ray.jobs) == 3
    load_runner("ray").cancel(store, record)
    assert fake_ray.stopped == [f"{record.id}-3"]


def test_a_cluster_that_was_started_anew_has_no_job_of_before(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    assert reconcile(store, record, asks_runner=True) == record
    fake_ray.jobs.clear()
    record = reconcile(store, record, asks_runner=True)
    assert record.failure == Failure("crashed", "ray has it no more")


def on_a_node(store):
    """A job that Ray has put on another machine, where its agent runs."""
    record = ray.start(store, made(store, "x", runner="ray"))
    other = dataclasses.replace(identity(), host="other", pid=1)
    liveness.show_life(store.folder(record.id))
    return store.move(record.id, State.RUNNING, reason="on other", source="agent", agent=other)


def silence(store, record, seconds):
    moment = time.time() - seconds
    os.utime(store.folder(record.id) / "heartbeat", (moment, moment))


def test_j01_a_job_of_a_node_that_died_is_crashed_though_its_lock_is_still_held(store, fake_ray):
    record = on_a_node(store)
    fake_ray.status = "FAILED"
    # a cluster that has lost sight of a node is not believed while the agent shows life
    assert reconcile(store, record, asks_runner=True) == record
    silence(store, record, 16)
    with liveness.agent_lock(store.folder(record.id)):  # which a file server may keep for long
        silent = reconcile(store, record)
        assert silent.state is State.UNKNOWN
        fake_ray.status = "RUNNING"
        assert reconcile(store, silent, asks_runner=True) == silent
        fake_ray.status = "FAILED"
        record = reconcile(store, silent, asks_runner=True)
    assert states(record) == [State.RUNNING, State.UNKNOWN, State.ERROR]
    assert record.failure == Failure("crashed", "ray has it no more")


def test_an_agent_that_ray_starts_again_on_another_node_leaves_the_job_alone(store, fake_ray):
    record = on_a_node(store)
    silence(store, record, 60)
    record = reconcile(store, record)
    for _ in range(2):
        assert run_agent(store, record.id, program=("/no/such/program",)) == record
        record = reconcile(store, record)
    fake_ray.status = "SUCCEEDED"  # as Ray has it: the second agent ended well
    assert reconcile(store, record, asks_runner=True).state is State.ERROR


def test_a_waiting_job_is_cancelled_although_ray_cannot_be_reached(store, fake_ray, monkeypatch):
    record = ray.start(store, made(store, "x", runner="ray"))

    def unreachable(record):
        raise ServiceError("ray", "a cluster that takes the job", "none")

    monkeypatch.setattr(ray, "_client", unreachable)
    assert load_runner("ray").cancel(store, record).state is State.CANCELED


def test_a_cluster_that_wants_a_token_is_told_with_what_to_set(store, fake_ray, monkeypatch):
    class RayError(Exception):
        pass

    class AuthenticationError(RayError):  # of Ray's own, and no RuntimeError
        pass

    def refuse(**submission):
        raise AuthenticationError("Authentication required: no token")

    record = made(store, "x", runner="ray")
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=RayError))
    monkeypatch.setattr(fake_ray, "submit_job", refuse)
    with pytest.raises(ServiceError, match=r"Authentication required.*RAY_AUTH_MODE=token"):
        ray.start(store, record)
    monkeypatch.setattr(fake_ray, "get_job_info", lambda job_id: refuse())
    assert ray.is_gone(store, dataclasses.replace(record, backend_job_id="x")) is None


def test_without_a_ray_cluster_the_error_says_so(store):
    platform = {"address": "http://127.0.0.1:9"}
    record = made(store, "x", runner="ray", platform=platform)
    with pytest.raises(ServiceError, match="ray: expected a cluster that takes the job"):
        ray.start(store, record)
    assert ray.is_gone(store, dataclasses.replace(record, backend_job_id="x")) is None


@pytest.mark.slow  # Ray starts for 15 s
def test_contract_on_a_ray_cluster(store, skeletons):
    import ray as ray_itself

    context = ray_itself.init(num_cpus=2, include_dashboard=True, log_to_driver=False)
    try:
        GROUNDS["ray"] = {"platform": {"address": f"http://{context.dashboard_url}"}}
        test_contract_a_job_is_complete_with_results_and_log(store, skeletons, "ray")
        test_contract_a_job_that_fails_says_why(store, skeletons, "ray")
        test_contract_a_job_that_is_cancelled_saves_and_stops(store, skeletons, "ray")
        test_contract_a_job_that_was_cancelled_before_never_starts(store, "ray")
    finally:
        del GROUNDS["ray"]
        ray_itself.shutdown()


# Docker


def docker_job(store, tmp_path, **changes):
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    platform = {"image": "registry.example:5000/lab/kineme:0.1", **changes.pop("platform", {})}
    spec = {"dataset": {"train": [str(data)], "gone": "/no/such/path", "name": "data"}}
    return made(store, "x", runner="docker", platform=platform, spec=spec, **changes)


def test_the_command_line_of_docker_word_by_word(store, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    platform = {
        "mounts": [str(weights)], "gpu_ids": [0, 2], "shm_size": "2g", "network": "host",
        "user": "1000:100",
    }  # fmt: skip
    record = docker_job(store, tmp_path, platform=platform)
    folder, name = store.folder(record.id), f"kineme-{record.id}"
    assert docker.command_line(store, record, has_key=True) == [
        "docker", "run", "--rm", "--init", "--name", name, "--hostname", name,
        "--user", "1000:100", "--shm-size", "2g", "--env", "HOME=/tmp", "--network", "host",
        "--gpus", '"device=0,2"',
        "--interactive", "--env", "KINEME_KEY_DESCRIPTOR=0",
        "--mount", f"type=bind,src={tmp_path}/data,dst={tmp_path}/data,readonly",
        "--mount", f"type=bind,src={store.root},dst={store.root},readonly",
        "--mount", f"type=bind,src={folder},dst={folder}",
        "--mount", f"type=bind,src={weights},dst={weights},readonly",
        "--workdir", str(folder), "registry.example:5000/lab/kineme:0.1",
        "python", "-P", "-m", "kineme.jobs.agent", str(folder),
    ]  # fmt: skip


def test_what_docker_is_told_by_default(store, tmp_path):
    words = docker.command_line(store, docker_job(store, tmp_path, platform={"num_gpus": 1}))
    assert words[words.index("--user") + 1] == f"{os.getuid()}:{os.getgid()}"
    assert words[words.index("--shm-size") + 1] == "8g"
    assert words[words.index("--gpus") + 1] == "1"
    assert "--interactive" not in words
    words = docker.command_line(store, docker_job(store, tmp_path))
    assert "--gpus" not in words


@pytest.mark.parametrize(
    "image",
    ["--privileged", "a b", "Image", "a//b", "a:", "a@sha256:12", "a:b:c", "", "-v", "a;b", "a\n"],
)
def test_what_is_no_image_never_gets_into_the_command_line(store, tmp_path, image):
    with pytest.raises(SpecError, match="the name of an image"):
        docker.command_line(store, docker_job(store, tmp_path, platform={"image": image}))


@pytest.mark.parametrize(
    "image", ["kineme", "lab/kineme:1.0", "localhost:5000/k", f"a/b@sha256:{'0' * 64}"]
)
def test_images_are_named_in_every_usual_way(store, tmp_path, image):
    words = docker.command_line(store, docker_job(store, tmp_path, platform={"image": image}))
    assert image in words


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mounts", ["relative"]), ("mounts", ["/"]), ("mounts", ["/a,readonly=false"]),
        ("mounts", ['/a"b']), ("mounts", ["/a/../etc"]), ("mounts", ["/a\nb"]), ("mounts", [1]),
        ("shm_size", "8 g"), ("shm_size", "--privileged"), ("network", "-x"), ("user", "root"),
        ("python", "-c"), ("gpu_ids", ["all"]), ("gpu_ids", [-1]),
    ],
)  # fmt: skip
def test_no_word_of_a_platform_gets_into_the_command_line_unchecked(
    store, tmp_path, setting, value
):
    with pytest.raises(SpecError):
        docker.command_line(store, docker_job(store, tmp_path, platform={setting: value}))


@pytest.fixture
def docker_command(tmp_path, monkeypatch):
    """A stand-in for docker, which runs the agent of a job here, or does what a test says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    words = tmp_path / "words"
    path = folder / "docker"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump(sys.argv, open({str(words)!r}, 'w'))\n"
        "os.environ['KINEME_KEY_DESCRIPTOR'] = '0'\n"
        f"os.execv(sys.executable, [sys.executable, {GROUND!r}, sys.argv[-1]])\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return path


def test_j16_the_agent_in_a_container_gets_its_key_through_a_pipe(store, tmp_path, docker_command):
    code = "from kineme import concealment; print(concealment.told().key == 'a ' + 'secret')"
    record = docker_job(store, tmp_path, command=(code,))
    assert record.command == (code,)
    started = docker.start(store, record, key="a secret")
    assert started.backend_job_id == f"kineme-{record.id}"
    record = ended(store, record)
    assert record.state is State.COMPLETE
    assert log_of(store, record) == "True\n"
    told = json.loads((tmp_path / "words").read_text())
    assert "secret" not in " ".join(told)


def test_what_docker_refuses_is_an_error_that_says_so(store, tmp_path, docker_command):
    docker_command.write_text("#!/bin/sh\necho 'no such image' >&2\nexit 125\n")
    record = docker_job(store, tmp_path)
    with pytest.raises(ServiceError, match="docker: expected a container, got 'no such image'"):
        docker.start(store, record)
    assert store.load(record.id).backend_job_id is None


def test_without_docker_the_error_says_what_else_there_is(store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="use the runner subprocess"):
        docker.start(store, docker_job(store, tmp_path))


def started_by(store, record, process):
    """As if that process of this machine had asked docker for the job's container."""
    path = store.folder(record.id) / "docker.json"
    path.write_text(json.dumps(dataclasses.asdict(process)))
    return store.amend(record.id, backend_job_id=f"kineme-{record.id}")


GONE = dataclasses.replace(identity(), started=1)


def test_docker_is_asked_whether_a_container_is_there(store, tmp_path, docker_command):
    record = started_by(store, docker_job(store, tmp_path), GONE)
    for line, gone in (
        ("echo running", False), ("echo created", False), ("echo paused", False),
        ("echo exited", True), ("echo removing", True),
        ("echo 'Error: No such container: x' >&2; exit 1", True),
        ("echo 'Cannot connect to the daemon' >&2; exit 1", None),
    ):  # fmt: skip
        docker_command.write_text(f"#!/bin/sh\n{line}\n")
        assert docker.is_gone(store, record) is gone


PULLS = """#!/bin/sh
case "$1" in
  run) echo run >> "$DOCKER_STANDIN"; exec sleep 20 ;;
  stop) echo "$@" >> "$DOCKER_STANDIN" ;;
  *) echo "Error: No such container: $5" >&2; exit 1 ;;
esac
"""


def test_a_job_whose_image_is_still_fetched_is_not_gone(
    store, tmp_path, docker_command, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("DOCKER_STANDIN", str(told))
    monkeypatch.setattr(docker, "_FAILS_WITHIN_SECONDS", 0.0)
    docker_command.write_text(PULLS)
    record = docker.start(store, docker_job(store, tmp_path))
    wait_until(told.exists)
    puller = json.loads((store.folder(record.id) / "docker.json").read_text())["pid"]
    assert puller != os.getpid()
    assert docker.is_gone(store, record) is False
    assert reconcile(store, record, asks_runner=True) == record
    os.kill(puller, signal.SIGKILL)
    wait_until(lambda: docker.is_gone(store, record))
    record = reconcile(store, record, asks_runner=True)
    assert record.failure == Failure("crashed", "docker has it no more")


def test_docker_of_another_machine_cannot_say_what_became_of_a_container(
    store, tmp_path, docker_command
):
    docker_command.write_text(PULLS)
    elsewhere = dataclasses.replace(GONE, host="other")
    record = started_by(store, docker_job(store, tmp_path), elsewhere)
    assert docker.is_gone(store, record) is None
    with pytest.raises(ServiceError, match="the machine that started the container"):
        docker.end(store, record)


def test_a_container_that_does_not_hear_is_stopped(store, tmp_path, docker_command, monkeypatch):
    told = tmp_path / "told"
    monkeypatch.setenv("DOCKER_STANDIN", str(told))
    docker_command.write_text(PULLS)
    record = started_by(store, docker_job(store, tmp_path), GONE)
    record = silent(store, record)
    assert load_runner("docker").cancel(store, record).state is State.CANCELED
    assert told.read_text() == f"stop -t 10 {record.backend_job_id}\n"


def test_a_container_has_the_variables_of_an_object_store_where_it_needs_them(
    store, tmp_path, monkeypatch
):
    from kineme.data.remote.client import Access

    for name in docker._STORE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "never seen",
             "S3_ENDPOINT_URL": "http://store:9000"}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert "S3_ENDPOINT_URL" not in docker.command_line(store, docker_job(store, tmp_path))
    for changes in ({"uploads_to": "s3://bucket/runs"}, {"train_datasets": ("s3://bucket/data",)}):
        words = docker.command_line(store, docker_job(store, tmp_path, **changes))
        passed = [words[i + 1] for i, word in enumerate(words) if word == "--env"]
        assert passed == ["HOME=/tmp", *given]
        assert "never seen" not in " ".join(words)

    asked = set()

    class Asking(dict):
        def get(self, name, default=None):
            asked.add(name)
            return default

    Access.from_environment(Asking())
    Access.from_environment({**dict.fromkeys(docker._STORE_VARIABLES[:2], "x")})
    assert asked <= {*docker._STORE_VARIABLES}  # what a store is found by, it gets
