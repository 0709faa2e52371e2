"""Jobs from Python: where they are, cancelled, waited for, with results, listed."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict

import pytest

from kineme import errors
from kineme.errors import SpecError
from kineme.jobs import Client, command
from kineme.jobs import client as client_module
from kineme.jobs.record import JobRecord, State
from kineme.jobs.store import JobStore
from parked_jobs import (
    POSE,
    VIDEO,
    checkpoint,
    ended,
    parked_client,
    train,
    training_results,
)

# Importing


def test_importing_the_client_needs_no_heavy_package():
    code = (
        "import sys; from kineme.jobs import Client; import kineme.jobs.command; Client('/tmp/x');"
        "print([m for m in ('torch', 'numpy', 'cv2', 'optuna', 'boto3', 'ray', 'submitit', 'rich',"
        " 'kineme.automl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Where jobs are


def test_the_root_is_the_argument_else_the_variable_else_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KINEME_JOBS", raising=False)
    assert Client().store.root == tmp_path / ".kineme/jobs"
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "other"))
    assert Client().store.root == tmp_path / "other"
    assert Client(tmp_path / "own").store.root == tmp_path / "own"
    assert list(tmp_path.iterdir()) == []


def test_a_root_in_a_store_has_records_here_and_results_there(monkeypatch, tmp_path, data):
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "jobs"))
    parked_client(monkeypatch, tmp_path)
    client = Client("s3://bucket/some/runs/", runner="parked")
    job = train(client, data)
    assert client.store.root.parent == tmp_path / "jobs"
    assert client.store.root.name.startswith("s3-bucket-some-runs-")
    assert job.record.uploads_to == f"s3://bucket/some/runs/{job.id}"
    assert Client("s3://bucket/some/runs", runner="parked").get_job(job.id).id == job.id
    assert Client("s3://bucket/some-runs", runner="parked").list_jobs() == []
    with pytest.raises(SpecError, match="results_root"):
        Client("s3://bucket/../x")


# Cancelling


def test_j06_cancelling_is_idempotent_and_changes_nothing_that_has_ended(client, data):
    pending = train(client, data)
    assert [client.cancel_job(pending.id) for _ in range(2)] == [True, True]
    assert pending.refresh().status == State.CANCELED
    assert len(pending.record.transitions) == 1
    for state in (State.COMPLETE, State.ERROR):
        job = ended(client, train(client, data), state)
        before = client.store.load(job.id)
        assert [client.cancel_job(job.id), job.cancel()] == [False, False]
        assert client.store.load(job.id) == before


def test_j06_a_running_job_is_asked_to_end(client, data):
    job = train(client, data)
    client.store.move(job.id, State.RUNNING, reason="test", source="test")
    assert client.cancel_job(job.id, reason="too slow")
    assert client.cancel_job(job.id)
    wish = json.loads((client.store.folder(job.id) / "cancel.json").read_text())
    assert wish["reason"] == "too slow"  # the first word counts
    assert not job.refresh().record.is_terminal  # its agent ends it


# Waiting and results


def test_waiting_ends_with_the_job_or_with_the_time(client, data):
    job = train(client, data)
    with pytest.raises(TimeoutError, match=f"job {job.id} is Pending after 0.1 s"):
        job.wait(0.1)
    timer = threading.Timer(0.2, lambda: ended(client, client.get_job(job.id)))
    timer.start()
    assert job.wait(10).status == State.COMPLETE
    timer.join()


def test_waiting_starts_a_job_that_its_client_never_could(client, data, monkeypatch):
    monkeypatch.setattr(Client, "_launch", lambda self, record, key: record)
    job = train(client, data)
    monkeypatch.undo()
    client = parked_client(monkeypatch, client.store.root)
    monkeypatch.setattr(client_module, "is_forgotten", lambda store, record: (
        record.backend_job_id is None))  # fmt: skip
    with pytest.raises(TimeoutError):
        client.get_job(job.id).wait(0.01)
    assert client.get_job(job.id).record.backend_job_id == "parked"


def test_a_result_has_the_figures_the_best_model_and_the_files(client, data):
    job = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    folder = training_results(job.record, {0: 0.5})
    lines = [{"status": "RUNNING", "kpi": {"val_acc": 0.1}},
             {"status": "SUCCESS", "kpi": {"val_acc": 0.5}}, {"status": "SUCCESS"}]  # fmt: skip
    (folder / "status.json").write_text("\n".join(map(json.dumps, lines)) + "\nhalf a li")
    result = ended(client, job).result()
    assert result["kpi"] == {"val_acc": 0.5}
    assert result["checkpoint"] == str(folder / "best.pth")
    assert result["files"] == client.list_results(job.id) == [
        f"train/{name}" for name in ("best.pth", "experiment.yaml", "metrics.csv",
                                     "model_epoch_000_step_00010.pth", "status.json")
    ]  # fmt: skip


def test_j09_the_model_of_a_result_is_whole(client, data):
    job = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    folder = training_results(job.record, {0: 0.75, 1: 0.5})
    best, first, second = sorted(folder.glob("*.pth"))
    content = bytearray(best.read_bytes())
    content[60] ^= 1  # opens, and is not what was written
    best.write_bytes(content)
    ended(client, job)
    assert job.result()["checkpoint"] == str(first)
    checkpoint(first, is_whole=False)
    assert job.result()["checkpoint"] == str(second)
    second.unlink()
    assert job.result()["checkpoint"] is None


def test_the_result_of_a_job_that_did_not_succeed_is_an_error_of_its_class(client, data):
    job = ended(client, train(client, data), State.ERROR, "x.npy: no samples\ny.npy: no labels")
    with pytest.raises(errors.DataError) as caught:
        job.result()
    assert str(caught.value) == (
        f"job {job.id}: expected success, got x.npy: no samples, y.npy: no labels. "
        f"`kineme jobs logs {job.id}` shows more."
    )
    canceled = ended(client, train(client, data), State.CANCELED)
    with pytest.raises(errors.ServiceError, match="got Canceled"):
        canceled.result()
    assert client.get_failure_analysis(canceled.id) is None


def test_status_and_dict_are_as_taos_sdk_has_them(client, data):
    job = train(client, data, automl_policy="off")
    status = client.get_job_status(job.id)
    assert asdict(status) == {
        "job_id": job.id, "status": "Pending", "message": "waits to be started",
        "updated_at": client.store.load(job.id).updated_at,
    }  # fmt: skip
    told = json.loads(json.dumps(job.to_dict()))
    assert told["job_id"] == job.id
    assert "id" not in told
    assert {"network_arch", "action", "status", "created_at", "backend_job_id", "parent_job_id",
            "results_dir", "backend_type"} <= told.keys()  # fmt: skip
    ended(client, job, State.ERROR, "no samples")
    assert client.get_job_status(job.id).message == "no samples"


def test_logs_are_the_last_lines_and_follow_until_the_end(client, data):
    job = train(client, data)
    path = client.store.folder(job.id) / "job.log"
    path.write_text("".join(f"line {i}\n" for i in range(200)))
    assert list(job.logs(2)) == ["line 198", "line 199"]
    assert len(list(client.get_job_logs(job.id))) == 100
    ended(client, job)
    assert list(client.get_job_logs(job.id, 1, follow=True)) == ["line 199"]


# Listing


def test_jobs_are_listed_the_newest_first_and_by_what_is_asked(client, data, tmp_path):
    (tmp_path / "v/train").mkdir(parents=True)
    first = ended(client, train(client, data, automl_policy="off"), State.ERROR)
    second = client.create_job(VIDEO, "train", train_datasets=str(tmp_path / "v"))
    third = train(client, data)
    assert [row.id for row in client.list_jobs()] == [third.id, second.id, first.id]
    assert [row.id for row in client.list_jobs(limit=1)] == [third.id]
    assert [row.id for row in client.list_jobs(states=["error"])] == [first.id]
    assert [row.id for row in client.list_jobs(states=[State.PENDING], network_arch=POSE)] == [
        third.id
    ]
    assert client.list_jobs(action="export") == []
    with pytest.raises(SpecError, match=r"Did you mean Pending\?"):
        client.list_jobs(states=["pendin"])


def test_a_list_tells_of_a_running_job_whose_agent_is_gone_that_it_has_crashed(client, data):
    from kineme.processes import identity

    job = train(client, data)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    agent = identity(process.pid)
    client.store.move(job.id, State.RUNNING, reason="test", source="agent", agent=agent)
    assert [row.state for row in client.list_jobs()] == [State.RUNNING]
    process.kill()
    process.communicate()
    assert client.list_jobs(states=["Running"]) == []
    assert [row.state for row in client.list_jobs(states=["Error"])] == [State.ERROR]


def test_j23_ten_thousand_pending_jobs_are_listed_without_reading_one_again(client, monkeypatch):
    """How long that takes: benchmarks/jobs_list.py."""
    from kineme.jobs.record import to_json

    plain = to_json(JobRecord("", POSE, "train", "2026-01-01T00:00:00.000+00:00"))
    for number in range(10_000):
        job_id = f"00000000-0000-4000-8000-{number:012x}"
        os.makedirs(client.store.root / job_id)
        path = client.store.root / job_id / "job.json"
        with open(path, "w") as file:
            json.dump({**plain, "id": job_id}, file)
    assert len(client.list_jobs()) == 10_000  # reads each once
    read, table = [], io.StringIO()
    monkeypatch.setattr(JobStore, "read", lambda store, folder: read.append(folder))
    with contextlib.redirect_stdout(table):
        command.main(["list", "--root", str(client.store.root)])
    assert table.getvalue().count("Pending") == 10_000
    assert read == []


def test_j23_listing_needs_neither_what_makes_specs_nor_what_draws_tables(client, data):
    train(client, data)
    code = (
        "import sys; from kineme.jobs.command import main;"
        f"main(['list', '-n', '3', '--root', {str(client.store.root)!r}]);"
        "print([m for m in ('pydantic', 'yaml', 'rich', 'kineme.spec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, row, modules = done.stdout.splitlines()
    assert row.split()[1:4] == [POSE, "train", "Pending"]
    assert modules == "[]"
