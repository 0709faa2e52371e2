"""The agent and its leash: who runs a job, how it ended, and what is left when either is killed.

Each test starts a few real processes, about a tenth of a second each.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from job_ground import (
    LEAVES_CHILDREN,
    PYTHON,
    SAVES_IN_SILENCE,
    SAVES_ON_SIGTERM,
    agent,
    log_of,
    made,
    processes_of,
    run,
    running,
    states,
    wait_until,
    wait_until_nobody,
)
from kineme.jobs import ending
from kineme.jobs.agent import run_agent
from kineme.jobs.course import verdict
from kineme.jobs.leash import Ended
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import TERMINAL, TRANSITIONS, Failure, State
from kineme.processes import identity


def test_a_job_runs_to_its_end_and_says_who_ran_it(store):
    record = run(store, "print('words'); import os; print(os.getcwd())")
    assert states(record) == [State.RUNNING, State.COMPLETE]
    assert record.exit_code == 0
    assert record.failure is None
    assert record.agent == identity()
    assert record.group.host == record.agent.host
    folder = store.folder(record.id)
    assert log_of(store, record) == f"words\n{folder}\n"
    assert store.load(record.id) == record
    left = {path.name for path in folder.iterdir()}
    assert left == {"job.json", "job.log", "lock", "agent.lock", "heartbeat"}


def test_the_errors_of_the_action_are_those_of_the_job(store):
    code = (
        "import sys; print('error: old', file=sys.stderr); print('well', file=sys.stderr); "
        "print('error: a: expected b, got c.\\nerror: d: expected e, got f.', file=sys.stderr); "
        "print('Execution status: FAIL'); sys.exit(3)"
    )
    record = run(store, code)
    assert record.state is State.ERROR
    assert record.failure == Failure("data", "a: expected b, got c.\nd: expected e, got f.", 3)
    assert record.transitions[-1].reason == "exit code 3"


@pytest.mark.parametrize(
    ("ended", "asked", "state", "exit_code", "kind", "message"),
    [
        (Ended(0), {}, "Complete", 0, None, None),
        (Ended(8, "3 inputs"), {}, "Complete", 8, "partial", "3 inputs"),
        (Ended(1, "E (a bug)"), {}, "Error", 1, "bug", "E (a bug)"),
        (Ended(2, "x"), {}, "Error", 2, "spec", "x"),
        (Ended(4, "x"), {}, "Error", 4, "checkpoint", "x"),
        (Ended(5, "x"), {}, "Error", 5, "resource", "x"),
        (Ended(6, "x"), {}, "Error", 6, "service", "x"),
        (Ended(7, "x"), {}, "Error", 7, "quality", "x"),
        (Ended(77), {}, "Error", 77, "crashed", "exit code 77, without a word why"),
        (Ended(-9), {}, "Error", 137, "crashed", "killed by SIGKILL; out of memory?"),
        (Ended(-11, "x"), {}, "Error", 139, "crashed", "killed by SIGSEGV; before that: x"),
        (Ended(143), {}, "Error", 143, "interrupted", "stopped by SIGTERM"),
        (Ended(130), {}, "Error", 130, "interrupted", "stopped by SIGINT"),
        (Ended(-15), {"stopped_by": "SIGTERM"}, "Error", 143, "interrupted", "stopped by SIGTERM"),
        (Ended(143), {"is_canceled": True}, "Canceled", 143, None, None),
        (Ended(-9, is_forced=True), {"is_canceled": True}, "Canceled", 137, None, None),
        (Ended(1, "a worker died"), {"is_canceled": True}, "Canceled", 1, None, None),
        (Ended(0), {"is_canceled": True}, "Complete", 0, None, None),
        (Ended(None, "no such program"), {}, "Error", None, "crashed", "no such program"),
        (Ended(143), {"stopped_by": "its time limit"}, "Error", 143, "timeout",
         "stopped by its time limit"),
    ],
)  # fmt: skip
def test_every_end_of_an_action_means_something(ended, asked, state, exit_code, kind, message):
    result = verdict(ended, **asked)
    assert (result.state, result.exit_code) == (state, exit_code)
    if kind is None:
        assert result.failure is None
    else:
        assert result.failure == Failure(kind, message, exit_code)
    assert result.reason


def test_a_program_that_is_not_there_is_an_error(store):
    record = made(store, "x")
    record = run_agent(store, record.id, program=("/no/such/program",))
    expected = "/no/such/program cannot be started: No such file or directory"
    assert record.failure == Failure("crashed", expected)
    assert log_of(store, record) == f"note: {expected}\n"


def test_of_two_agents_one_runs_the_job(store):
    record, first = running(store, SAVES_ON_SIGTERM)
    second = agent(store, record)
    assert second.wait(10) == 0
    assert store.load(record.id).agent.pid == first.pid
    assert run_agent(store, record.id, program=PYTHON) is None
    first.terminate()
    first.wait(10)
    assert log_of(store, record).count("on it") == 1


def test_a_job_that_has_ended_never_runs_again(store):
    record = run(store, "print('once')")
    assert run_agent(store, record.id, program=PYTHON) == record
    assert log_of(store, record) == "once\n"


def test_j01_when_the_agent_is_killed_its_action_saves_and_ends_and_readers_see_it(store):
    record, process = running(store, SAVES_ON_SIGTERM)
    process.kill()
    process.wait()
    seen = reconcile(store, store.load(record.id))  # at once
    assert seen.state is State.ERROR
    assert seen.failure.kind == "crashed"
    assert seen.failure.message == f"its agent (pid {process.pid} on {identity().host}) was killed"
    wait_until_nobody(record, 5)
    assert (store.folder(record.id) / "saved").exists()
    assert "saved\n" in log_of(store, record)  # its last words, after the agent's death
    assert "note: the agent of this job has ended; so does what it runs" in log_of(store, record)
    assert reconcile(store, seen) == seen


def test_j01_when_agent_and_leash_are_killed_at_once_nothing_is_left_either(store):
    record, process = running(store, LEAVES_CHILDREN)
    wait_until(lambda: log_of(store, record).count("child") == 2)
    assert len(processes_of(record)) == 4
    for pid in (record.group.pid, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not record.group.is_alive)
    seen = reconcile(store, store.load(record.id))
    assert seen.state is State.ERROR
    assert processes_of(record) == []


def test_when_the_leash_is_killed_the_action_ends_and_the_job_with_it(store):
    record, process = running(store, SAVES_IN_SILENCE)
    os.kill(record.group.pid, signal.SIGKILL)
    assert process.wait(10) == 0
    assert (store.folder(record.id) / "saved").exists()
    seen = store.load(record.id)
    assert seen.failure == Failure("crashed", "the process that watches over the action was killed")
    assert processes_of(record) == []


def test_j02_when_the_main_process_is_killed_its_children_go_too(store):
    record, process = running(store, LEAVES_CHILDREN)
    wait_until(lambda: log_of(store, record).count("child") == 2)
    (main,) = ending.descendants(record.group.pid).keys() & {
        int(line.split()[0])
        for line in subprocess.run(
            ["ps", "-o", "pid=,ppid=", "--ppid", str(record.group.pid)],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()
    }  # fmt: skip
    began = time.monotonic()
    os.kill(main, signal.SIGKILL)
    process.wait(10)
    assert time.monotonic() - began < 5
    assert processes_of(record) == []
    seen = store.load(record.id)
    assert seen.state is State.ERROR
    assert seen.exit_code == 137
    assert "SIGKILL" in seen.failure.message
    assert "SIGKILL" in seen.transitions[-1].reason


def test_in_a_container_the_gpus_are_those_that_docker_shows(store, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    record = run(store, code, runner="docker", platform={"gpu_ids": [2, 3]})
    assert log_of(store, record) == "None\n"  # inside, they are 0 and 1


def test_the_action_sees_the_variables_and_gpus_of_its_platform(store):
    code = "import os; print(os.environ['COLOUR'], os.environ['CUDA_VISIBLE_DEVICES'])"
    platform = {"environment": {"COLOUR": "blue"}, "gpu_ids": [1, 3]}
    record = run(store, code, platform=platform)
    assert log_of(store, record) == "blue 1,3\n"


def test_j12_killed_at_any_moment_an_agent_leaves_a_record_that_is_whole_and_in_order(store):
    generator = random.Random(7)
    # an agent takes 0.2 s; several at once, so that the moments are not all alike
    for _ in range(10):
        jobs = [made(store, "import time; time.sleep(0.02)") for _ in range(5)]
        agents = [agent(store, record, stderr=subprocess.DEVNULL) for record in jobs]
        for process in generator.sample(agents, len(agents)):
            time.sleep(generator.uniform(0, 0.12))
            process.kill()
        for process, record in zip(agents, jobs, strict=True):
            process.wait()
            seen = reconcile(store, store.load(record.id))
            path = [State.PENDING, *states(seen)]
            for state, following in itertools.pairwise(path):
                assert following in TRANSITIONS[state]
            assert seen.state in (State.PENDING, *TERMINAL)
            wait_until_nobody(record, 10)


def test_agents_and_readers_of_jobs_import_no_torch():
    code = (
        "import sys; import kineme.jobs.agent, kineme.jobs.leash, kineme.jobs.runners, "
        "kineme.jobs.runners.local, kineme.jobs.liveness; "
        "heavy = {'torch', 'numpy', 'cv2', 'boto3', 'ray', 'submitit', 'optuna', 'pydantic'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
