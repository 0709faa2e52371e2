"""Jobs are created once and whole, whoever asks again, is killed, or creates others meanwhile."""

import multiprocessing
import signal
import subprocess
import sys

import pytest
import yaml

import parked_jobs
from kineme import errors
from kineme.jobs import Client
from kineme.jobs.record import State
from parked_jobs import POSE, ended, problems_of, spec_file, train


def test_j04_the_same_idempotency_key_makes_one_job(client, data):
    first = train(client, data, idempotency_key="nightly", specs={"num_epochs": 3})
    again = train(client, data, idempotency_key="nightly", specs={"train": {"num_epochs": 3}})
    assert again.id == first.id
    assert [row.id for row in client.list_jobs()] == [first.id]
    assert parked_jobs.keys_handed_over == [None]  # started once
    ended(client, first)
    assert train(client, data, idempotency_key="nightly", specs={"num_epochs": 3}).status == (
        State.COMPLETE
    )


def test_j04_the_same_key_for_another_request_is_refused_with_the_job_it_made(client, data):
    first = train(client, data, idempotency_key="nightly")
    for other in (
        {"specs": {"num_epochs": 3}},
        {"automl_policy": "off"},
        {"checkpoint": "latest"},
        {"eval_dataset": str(data)},
        {"automl_settings": {"algorithm": "asha"}},
    ):
        (problem,) = problems_of(client, POSE, "train", train_datasets=str(data),
                                 idempotency_key="nightly", **other)  # fmt: skip
        assert f"the same request as that of job {first.id}, got another one" in problem
    assert len(client.list_jobs()) == 1


def test_j04_a_request_with_results_in_a_store_is_the_same_the_second_time(client, data):
    asked = {"idempotency_key": "nightly", "specs": {"results_dir": "s3://bucket/runs"}}
    first = train(client, data, **asked)
    assert train(client, data, **asked).id == first.id
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data),
                             **asked | {"specs": {"results_dir": "s3://bucket/other"}})  # fmt: skip
    assert "got another one" in problem


@pytest.mark.parametrize(
    ("change", "told"),
    [({"runner": "subprocess"}, "runner, platform"), ({"platform": {"seats": 3}}, "platform"),
     ({"upload_excludes": ["*.pth"]}, "upload_excludes")],
)  # fmt: skip
def test_j04_an_old_job_that_runs_in_another_way_is_given_with_a_warning(
    client, data, recwarn, change, told
):
    usual = {"idempotency_key": "nightly", "platform": {"seats": 2}}
    first = train(client, data, **usual)
    if "runner" in change:
        change = {**change, "platform": {}}
    assert train(client, data, **usual).id == first.id
    assert list(recwarn) == []
    with pytest.warns(UserWarning, match=f"job {first.id} is there already, with another {told};"):
        assert train(client, data, **usual | change).id == first.id


def test_a_spec_file_is_read_once(client, data, tmp_path, monkeypatch):
    from kineme.spec import read

    opened = []
    monkeypatch.setattr(read, "_text_of", lambda path: opened.append(path) or path.read_text())
    path = tmp_path / "spec.yaml"
    path.write_text("automl: {algorithm: asha}\ntrain: {num_epochs: 3}\n")
    job = train(client, data, specs=path, idempotency_key="nightly")
    assert spec_file(client, job)["train"] == {"num_epochs": 3}
    assert opened == [path]
    path.write_text("automl: {algorithm: asha}\ntrain:\n  num_epochs: none\n")
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data), specs=path)
    assert problem.startswith(f"{path}:3: train.num_epochs")  # with a block automl, too


def test_j04_a_client_that_was_killed_before_it_started_its_job_starts_it_when_it_asks_again(
    client, data, monkeypatch
):
    def killed(self, record, key):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Client, "_launch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(client, data, idempotency_key="nightly")
    assert parked_jobs.keys_handed_over == []
    job = train(client, data, idempotency_key="nightly")
    assert job.record.backend_job_id == "parked"
    assert spec_file(client, job)["results_dir"] == job.record.results_dir
    assert len(client.list_jobs()) == 1


def _create_some(root: str, data: str, number: int, results) -> None:
    client = Client(root, runner="parked")
    ids = [client.create_job(POSE, "train", train_datasets=data).id for _ in range(number)]
    shared = client.create_job(POSE, "train", train_datasets=data, idempotency_key="shared").id
    results.put((ids, shared))


def test_j05_eight_processes_that_create_50_jobs_at_once_lose_none(client, data):
    """Eight processes cost their start; the jobs are not run."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    root = str(client.store.root)
    shares = [7, 7, 6, 6, 6, 6, 6, 6]
    processes = [
        context.Process(target=_create_some, args=(root, str(data), share, results))
        for share in shares
    ]
    for process in processes:
        process.start()
    answers = [results.get() for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    ids = {job_id for found, _ in answers for job_id in found}
    assert len(ids) == 50
    assert len({shared for _, shared in answers}) == 1
    ids.add(answers[0][1])
    assert set(client.store.ids()) == ids
    assert {row.id for row in client.list_jobs()} == ids
    for job_id in ids:
        record = client.store.load(job_id)
        assert record.backend_job_id == "parked"
        text = (client.store.folder(job_id) / "spec.yaml").read_text()
        assert yaml.safe_load(text) == record.spec


def test_j03_a_job_whose_client_is_killed_right_after_create_job_exists_once_and_runs(
    tmp_path, data
):
    """With the real runner: an agent and a command, a few seconds."""
    code = (
        "import os, signal, sys\n"
        "from kineme.jobs import Client\n"
        f"job = Client({str(tmp_path / 'jobs')!r}).create_job({POSE!r}, 'train',"
        f" train_datasets={str(data)!r}, automl_policy='off', specs={{'device': 'cpu'}})\n"
        "print(job.id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    client = Client(tmp_path / "jobs")
    job = client.get_job(done.stdout.strip()).wait(120)
    assert [row.id for row in client.list_jobs()] == [job.id]
    assert [step.state for step in job.record.transitions] == [State.RUNNING, State.ERROR]
    assert job.record.failure.kind == "data"  # the empty .pkl: it did run
    with pytest.raises(errors.DataError, match=r"train_label\.pkl"):
        job.result()
    analysis = client.get_failure_analysis(job.id)
    assert (analysis["kind"], analysis["exit_code"]) == ("data", 3)
    assert any("train_label.pkl" in line for line in analysis["log_tail"])


def test_a_job_that_nobody_takes_has_failed_and_says_why(client, data, monkeypatch):
    def start(store, record, *, key=None):
        raise errors.ServiceError("sbatch", "a cluster", "none")

    monkeypatch.setattr(parked_jobs, "PARKED", parked_jobs.Runner(
        start, parked_jobs.PARKED.cancel, parked_jobs.PARKED.is_gone, {}))  # fmt: skip
    with pytest.raises(errors.ServiceError, match="sbatch"):
        train(client, data)
    (row,) = client.list_jobs()
    record = client.get_job(row.id).record
    assert (record.state, record.failure.kind, record.failure.exit_code) == ("Error", "service", 6)
