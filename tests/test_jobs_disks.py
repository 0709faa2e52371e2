"""Disks that are full, or do not answer, while a job runs on them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from job_ground import PYTHON, SLEEPS, made, running, states, wait_until_nobody
from kineme import files
from kineme.jobs import course
from kineme.jobs.agent import run_agent
from kineme.jobs.record import State


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


def test_when_the_folder_of_a_job_is_removed_its_action_ends(store, monkeypatch, tmp_path):
    record, process = running(store, SLEEPS)
    os.rename(store.folder(record.id), tmp_path / "gone")
    process.wait(15)
    wait_until_nobody(record, 5)


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
