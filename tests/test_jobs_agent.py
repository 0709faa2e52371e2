"""The agent, its leash, and what readers find when either is killed.

Each test starts a few real processes, about a tenth of a second each.
"""

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from job_ground import (
    IGNORES_SIGTERM,
    LEAVES_CHILDREN,
    PYTHON,
    SAVES_IN_SILENCE,
    SAVES_ON_SIGTERM,
    SLEEPS,
    agent,
    log_of,
    made,
    processes_of,
    wait_for_words,
    wait_until,
    wait_until_nobody,
)
from kineme import files
from kineme.automl.controller import STOP_SECONDS
from kineme.jobs import course, ending, liveness
from kineme.jobs import record as record_module
from kineme.jobs.agent import run_agent
from kineme.jobs.course import verdict
from kineme.jobs.leash import Ended
from kineme.jobs.liveness import ask_to_end, is_forgotten, reconcile
from kineme.jobs.record import TERMINAL, TRANSITIONS, Failure, State
from kineme.jobs.store import JobStore
from kineme.processes import identity


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "jobs")


def states(record):
    return [step.state for step in record.transitions]


def run(store, code, **changes):
    return run_agent(store, made(store, code, **changes).id, program=PYTHON)


def running(store, code, **changes):
    """A job that runs below an agent, whose action has said that it is on it."""
    record = made(store, code, **changes)
    process = agent(store, record)
    wait_for_words(store, record, "on it")
    wait_until(lambda: store.load(record.id).group)
    return store.load(record.id), process


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
        "import sys; print('error: old', file=sys.stderr); print('well'); "
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
    before = {path: path.stat() for path in store.folder(record.id).iterdir()}
    assert ask_to_end(store, record) == record
    assert {path: path.stat() for path in store.folder(record.id).iterdir()} == before


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
    assert trial.grace_seconds < STOP_SECONDS < search.grace_seconds - 10
    asked = made(store, "x", details={"automl": True}, platform={"grace_seconds": 5})
    assert asked.grace_seconds == 5


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


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT"])
def test_j11_a_disk_that_is_full_for_a_moment_keeps_no_job_from_its_end(store, monkeypatch, code):
    real, refused = files.os.fsync, []
    record = made(store, "import sys; sys.exit(5)")
    spare = store.folder(record.id) / ".spare"

    def fsync(descriptor):  # full until the room that was kept is given
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if ".job.json.tmp" in target and b'"Error"' in Path(target).read_bytes() and spare.exists():
            assert spare.stat().st_size == 128 << 10
            refused.append(code)
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files, "_PAUSES_SECONDS", (0.0,))  # a quota is tried again by itself
    record = run_agent(store, record.id, program=PYTHON)
    assert len(refused) == {"ENOSPC": 1, "EDQUOT": 2}[code]
    assert states(record) == [State.RUNNING, State.ERROR]
    assert record.failure.kind == "resource"
    assert store.load(record.id) == record
    assert not spare.exists()


FULL_DISK = """
import os, sys
from job_ground import PYTHON, made
from kineme.jobs.agent import run_agent
from kineme.jobs.store import JobStore
code = '''
import sys, time
print("before", flush=True)
time.sleep(0.3)
try:
    with open("results.bin", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
except OSError as error:
    for i in range(4000):
        print("complaint", i)
    print(f"error: results.bin: expected enough disk space, got {error.strerror}.", flush=True)
    sys.exit(5)
'''
store = JobStore("jobs")
record = made(store, code)
run_agent(store, record.id, program=PYTHON)
folder = store.folder(record.id)
print((folder / "job.json").read_text())
print("=====")
print((folder / "job.log").read_text())
"""


def test_j11_on_a_full_disk_the_job_fails_as_such_and_keeps_record_and_last_words(tmp_path):
    # a file system of 1 MiB, in a namespace of its own, which needs no rights
    mounted = f"mount -t tmpfs -o size=1m none {tmp_path} && cd {tmp_path} && exec "
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*words, mounted + "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces here")
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(FULL_DISK)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [*words, f"{mounted}{sys.executable} {script}"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record_text, _, log = done.stdout.partition("=====")
    record = json.loads(record_text)
    assert record["state"] == "Error"
    message = "results.bin: expected enough disk space, got No space left on device."
    assert record["failure"] == {"kind": "resource", "message": message, "exit_code": 5}
    assert any("of the log found no room on the disk" in note for note in record["notes"])
    assert log.startswith("\nbefore\n")
    assert log.rstrip().endswith(f"complaint 3999\nerror: {message}")


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


def elsewhere(store, **changes):
    """A job that runs on another machine, as it says."""
    record = made(store, "x")
    other = dataclasses.replace(identity(), host="other", pid=1, **changes)
    liveness.show_life(store.folder(record.id))
    return store.move(record.id, State.RUNNING, reason="on other", source="agent", agent=other)


def silence(store, record, seconds):
    path = store.folder(record.id) / "heartbeat"
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def test_a_machine_that_is_silent_for_15_s_makes_a_job_unknown_until_it_is_heard_again(store):
    record = elsewhere(store)
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
    record = elsewhere(store)
    record = store.move(record.id, State.CANCELING, reason="asked for", source="agent")
    silence(store, record, 60)
    record = reconcile(store, record)
    assert record.state is State.UNKNOWN
    liveness.show_life(store.folder(record.id))
    assert reconcile(store, record).state is State.CANCELING


def test_a_job_of_a_silent_machine_can_be_cancelled_and_its_agent_hears_of_it(store, monkeypatch):
    record = elsewhere(store)
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


def test_when_the_folder_of_a_job_is_removed_its_action_ends(store, monkeypatch, tmp_path):
    record, process = running(store, SLEEPS)
    os.rename(store.folder(record.id), tmp_path / "gone")
    process.wait(15)
    wait_until_nobody(record, 5)


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


def test_agents_and_readers_of_jobs_import_no_torch():
    code = (
        "import sys; import kineme.jobs.agent, kineme.jobs.leash, kineme.jobs.runners, "
        "kineme.jobs.runners.local, kineme.jobs.liveness; "
        "heavy = {'torch', 'numpy', 'cv2', 'boto3', 'ray', 'submitit', 'optuna', 'pydantic'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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


def test_a_disk_that_does_not_answer_for_a_moment_ends_no_action(store, monkeypatch):
    monkeypatch.setattr(course, "HEARTBEAT_SECONDS", 0.1)

    def stale(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    record = made(store, "import time; time.sleep(1)")
    monkeypatch.setattr(course, "show_life", stale)
    with pytest.raises(OSError, match="Stale"):  # at the start it is no moment
        run_agent(store, record.id, program=PYTHON)
    monkeypatch.undo()
    monkeypatch.setattr(course, "HEARTBEAT_SECONDS", 0.1)
    calls = []

    def stale_later(folder):
        calls.append(1)
        if len(calls) > 1:
            stale()

    monkeypatch.setattr(course, "show_life", stale_later)
    record = run_agent(store, record.id, program=PYTHON)
    assert record.state is State.COMPLETE
    assert len(calls) > 2
