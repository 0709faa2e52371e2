"""Jobs from Python: created once, whole and checked, listed, cancelled, retried, deleted."""

import contextlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

import parked_jobs
from kineme import errors, skills
from kineme.jobs import Client, command, requests
from kineme.jobs import client as client_module
from kineme.jobs.record import JobRecord, State
from kineme.jobs.said import policy_of
from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import settings_by_key
from parked_jobs import (
    POSE,
    VIDEO,
    checkpoint,
    ended,
    parked_client,
    pose_data,
    spec_file,
    trained,
    training_results,
)

KEY = "a key that nobody should see"
SpecError = errors.SpecError


@pytest.fixture
def client(monkeypatch, tmp_path):
    return parked_client(monkeypatch, tmp_path / "jobs")


@pytest.fixture
def data(tmp_path):
    return pose_data(tmp_path / "data")


def problems_of(client, *args, **keywords) -> list[str]:
    with pytest.raises(SpecError) as caught:
        client.create_job(*args, **keywords)
    return [str(problem) for problem in caught.value.problems]


def train(client, data, **keywords):
    return client.create_job(POSE, "train", train_datasets=str(data), **keywords)


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


# What is written


def test_a_record_and_the_spec_of_its_action_are_on_the_disk_before_the_job_starts(
    client, data, monkeypatch
):
    seen = []

    def start(store, record, *, key=None):
        folder = store.folder(record.id)
        seen.append((store.load(record.id).state, (folder / "spec.yaml").exists()))
        return record

    monkeypatch.setattr(parked_jobs, "PARKED", parked_jobs.Runner(
        start, parked_jobs.PARKED.cancel, parked_jobs.PARKED.is_gone, {}))  # fmt: skip
    train(client, data)
    assert seen == [(State.PENDING, True)]


def test_settings_may_be_nested_dotted_short_or_in_a_file(client, data, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("train:\n  num_epochs: 3\n  optim: {lr: 0.01}\nnum_classes: 4\n")
    nested = {"train": {"num_epochs": 3, "optim": {"lr": 0.01}}, "dataset": {"num_classes": 4}}
    dotted = {"num_epochs": 3, "train.optim.lr": 0.01, "dataset.num_classes": 4}
    told = []
    for specs in (nested, dotted, str(path), path):
        spec = spec_file(client, train(client, data, specs=specs))
        told.append((spec["train"], spec["dataset"]["num_classes"]))
    assert told == [({"num_epochs": 3, "optim": {"lr": 0.01}}, 4)] * 4
    spec = spec_file(client, train(client, data, specs=path, overrides=["train.num_epochs=5"]))
    assert spec["train"] == {"num_epochs": 5, "optim": {"lr": 0.01}}


def test_the_written_spec_loads_and_says_what_was_asked_for_and_no_defaults(client, data):
    from kineme.spec.load import load_spec, user_set

    job = train(client, data, specs={"recipe": "modern", "train.num_epochs": 2},
                automl_policy="off")  # fmt: skip
    path = client.store.folder(job.id) / "spec.yaml"
    spec, _ = load_spec(load_specs(POSE)["train"], path)
    assert spec.recipe == "modern"
    assert user_set(spec) == {
        "recipe", "train.num_epochs", "results_dir",
        "dataset.train_dataset.data_path", "dataset.train_dataset.label_path",
        "dataset.val_dataset.data_path", "dataset.val_dataset.label_path",
    }  # fmt: skip


def test_paths_mean_the_same_in_the_folder_of_the_job(client, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = {"model.pretrained_model_path": "weights/x.pth", "model.layout": "./own.yaml"}
    (tmp_path / "own.yaml").write_text("")
    with pytest.raises(SpecError):
        train(client, data, specs=layout)  # the layout is read, and bad: at once
    job = train(client, data, specs={"model.pretrained_model_path": "weights/x.pth"})
    assert job.record.spec["model"]["pretrained_model_path"] == str(tmp_path / "weights/x.pth")
    odd = train(client, data, specs={"model.pretrained_model_path": "{x}.pth"})
    assert odd.record.spec["model"]["pretrained_model_path"] == str(tmp_path / "{x}.pth")


def test_everything_wrong_with_a_request_is_told_at_once(client, tmp_path):
    assert problems_of(
        client, POSE, "evaluate", parent_job_id="../x", train_datasets=str(tmp_path / "none"),
        specs={"evaluate.batch_size": 0, "train.num_epoch": 3}, runner="slrm",
        automl_policy="maybe", idempotency_key=" ", checkpoint="newest",
    ) == [
        "checkpoint: expected best, latest, the number of an epoch (from 0), or best_model, "
        "latest_model, from_epoch_number, got 'newest'.",
        "automl_policy: expected one of auto, on, off, got 'maybe'.",
        "idempotency_key: expected text of 1 to 256 characters, got ' '.",
        "runner: expected one of subprocess, in_process, slurm, ray, docker, parked, got 'slrm'. "
        "Did you mean slurm?",
        "parent_job_id: expected 32 hex digits in groups, as 0b6e57a2-..., got '../x'.",
        "train_datasets: expected a folder or an archive that is there, or an s3:// address, got "
        f"'{tmp_path / 'none'}'. Check the path.",
        "spec: train.num_epoch: expected a known key, got an unknown key. Did you mean "
        "train.num_epochs?",
        "spec: evaluate.batch_size: expected -1 (as in dataset) or at least 1, got 0.",
    ]  # fmt: skip
    assert client.list_jobs() == []
    assert not client.store.root.exists()


def test_a_problem_of_a_file_names_its_line(client, data, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("\ntrain:\n  num_epochs: none\n")
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data), specs=path)
    assert problem.startswith(f"{path}:3: train.num_epochs: expected an integer")


@pytest.mark.parametrize(
    ("network", "action", "text"),
    [
        ("pose_clasification", "train", "Did you mean pose_classification?"),
        ("pose_classification", "trian", "Did you mean train?"),
        ("pose_classification", "", "expected one of dataset_convert"),
        (None, "train", "expected one of action_recognition, pose_classification"),
    ],
)
def test_networks_and_actions_that_are_not_there_are_told(client, network, action, text):
    (problem,) = problems_of(client, network, action)
    assert text in problem


def test_settings_of_the_runner_are_checked(client, data):
    one, two = problems_of(
        client, POSE, "train", train_datasets=str(data), platform={"seat": 3, "gpu_ids": "0"}
    )
    assert one.startswith("platform.seat: expected a setting of the runner parked (environment,")
    assert one.endswith("Did you mean seats?")
    assert two == "platform.gpu_ids: expected list or tuple, got str '0'."
    assert train(client, data, platform={"seats": 2}).record.platform == {"seats": 2}


def test_uploads_leave_out_what_skill_info_says_unless_told_otherwise(client, data):
    assert train(client, data).record.upload_excludes == ("inputs/",)
    assert train(client, data, upload_excludes=["*.pth"]).record.upload_excludes == ("*.pth",)


# Secrets


def on_disk(folder: Path) -> str:
    return "\n".join(
        path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    "how",
    [{"specs": {"encryption_key": KEY}}, {"overrides": [f"encryption_key={KEY}"]},
     {"environment": KEY}],
)  # fmt: skip
def test_j16_a_key_is_handed_to_the_runner_and_is_nowhere_on_the_disk(
    client, data, monkeypatch, how
):
    how = dict(how)
    if environment := how.pop("environment", None):
        monkeypatch.setenv("KINEME_ENCRYPTION_KEY", environment)
    job = train(client, data, idempotency_key="once", **how)
    assert parked_jobs.keys_handed_over == [KEY]
    assert KEY not in on_disk(client.store.root)
    assert KEY not in repr(job.to_dict())
    with pytest.raises(SpecError) as caught:
        train(client, data, specs={"encryption_key": KEY, "train.num_epochs": "x"})
    assert KEY not in str(caught.value)


def test_a_job_with_a_key_is_never_started_without_it(client, data, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Client, "_launch", lambda self, record, key: record)
        job = train(client, data, idempotency_key="once", specs={"encryption_key": KEY})
    with pytest.raises(SpecError, match="encryption_key: expected the key of this job, got none"):
        train(client, data, idempotency_key="once")
    monkeypatch.setattr(client_module, "is_forgotten", lambda store, record: True)
    with pytest.raises(SpecError, match="encryption_key: expected the key of this job, got none"):
        job.wait()
    assert parked_jobs.keys_handed_over == []
    assert train(client, data, idempotency_key="once", specs={"encryption_key": KEY}).id == job.id
    assert parked_jobs.keys_handed_over == [KEY]


def test_secrets_of_automl_settings_are_refused(client, data):
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data),
                             automl_settings={"llm_api_key": KEY})  # fmt: skip
    assert problem.startswith("automl.llm_api_key: expected nothing secret")
    assert KEY not in problem


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("encryption_key", True), ("NGC_API_KEY", True), ("hf_token", True), ("DB_PASSWORD", True),
     ("ranges", False), ("keypoints", False), ("PATH", False)],
)  # fmt: skip
def test_what_is_secret_is_one_rule_for_settings_and_variables(client, data, name, is_secret):
    from kineme.concealment import SECRET_SETTINGS, is_secret_name

    assert is_secret_name(name) is is_secret
    assert all(map(is_secret_name, SECRET_SETTINGS))
    for network in NETWORKS:
        for model in load_specs(network).values():
            secret = {key for key, one in settings_by_key(model).items() if one.rule.secret}
            older = {old for old, new in model.legacy.keys.items() if new in secret}
            assert secret | older <= set(SECRET_SETTINGS)
    if is_secret:
        told = problems_of(client, POSE, "train", train_datasets=str(data),
                           platform={"environment": {name: KEY}},
                           automl_settings={"ranges": {name: KEY}})  # fmt: skip
        places = {problem.partition(":")[0] for problem in told}
        assert {f"platform.environment.{name}", f"automl.ranges.{name}"} <= places
        assert KEY not in str(told)


def test_a_retry_of_a_job_with_a_key_asks_for_it(client, data):
    job = ended(client, train(client, data, specs={"encryption_key": KEY}), State.CANCELED)
    with pytest.raises(SpecError, match="encryption_key: expected the key of the first try, got"):
        client.retry_job(job.id)
    client.retry_job(job.id, encryption_key=KEY)
    assert parked_jobs.keys_handed_over == [KEY, KEY]
    assert KEY not in on_disk(client.store.root)


# AutoML


@pytest.mark.parametrize("policy", ["auto", "on", True, "AUTO", " on "])
def test_a_training_is_a_search_unless_told_otherwise(client, data, policy):
    settings = {"algorithm": "random", "automl_max_recommendations": 4}
    job = train(client, data, automl_policy=policy, automl_settings=settings)
    assert job.record.command == ("automl", POSE, "-e", "spec.yaml")
    assert job.record.details["automl"] is True
    assert spec_file(client, job)["automl"] == settings
    assert job.record.action == "train"


@pytest.mark.parametrize(
    "policy",
    ["off", False, "turn off AutoML", "disable AutoML", "no HPO", "plain training",
     "Turn off  AutoML."],
)  # fmt: skip
def test_the_phrases_of_the_texts_mean_plain_training(client, data, policy):
    job = train(client, data, automl_policy=policy)
    assert (job.record.command, job.record.automl_policy) == ((), "off")
    assert "automl" not in job.record.details
    assert "automl" not in spec_file(client, job)


@pytest.mark.parametrize("policy", ["maybe", "", None, "automl", 3, "do not turn off AutoML"])
def test_other_policies_are_refused(policy):
    with pytest.raises(SpecError, match="automl_policy: expected one of auto, on, off"):
        policy_of(policy)


def test_the_spec_may_say_the_policy_and_the_call_wins(client, data):
    off = {"automl_policy": "off"}
    assert train(client, data, specs=off).record.command == ()
    assert train(client, data, specs=off, automl_policy="on").record.command != ()


def test_a_block_automl_in_the_spec_holds_settings_and_the_call_wins(client, data, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("train: {num_epochs: 2}\nautoml: {algorithm: asha, metric: val_acc}\n")
    job = train(client, data, specs=path, overrides=["automl.metric=val_loss"],
                automl_settings={"algorithm": "bohb"})  # fmt: skip
    spec = spec_file(client, job)
    assert spec["automl"] == {"algorithm": "bohb", "metric": "val_loss"}
    assert spec["train"] == {"num_epochs": 2}


def test_a08_settings_of_a_search_are_checked_before_there_is_a_job(client, data):
    told = problems_of(
        client, POSE, "train", train_datasets=str(data), specs={"num_epochs": "x"},
        automl_settings={"algorithm": "bayesn", "max_concurrent": 0, "metrc": "val_acc"},
    )  # fmt: skip
    places = [problem.partition(": expected")[0] for problem in told]
    assert sorted(places) == [
        "automl.algorithm", "automl.max_concurrent", "automl.metrc", "spec: num_epochs",
    ]  # fmt: skip
    assert any("Did you mean" in problem for problem in told)
    (unknown,) = problems_of(client, POSE, "train", train_datasets=str(data),
                             automl_settings={"hyperparameters": ["train.optim.lrr"]})  # fmt: skip
    assert "train.optim.lrr" in unknown
    assert not client.store.root.exists()


def test_what_a_search_leaves_out_is_a_note_of_its_job(client, data):
    settings = {"algorithm": "random", "reduction_factor": 4}
    notes = train(client, data, automl_settings=settings).record.notes
    assert any(note.startswith("automl.reduction_factor has no effect") for note in notes)


def test_a_runner_of_actions_alone_takes_no_search(client, data):
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data), runner="in_process")
    assert problem.startswith("runner: expected a runner that can search for settings")
    assert "Set automl_policy=off to train directly, or use the runner subprocess." in problem
    assert not client.store.root.exists()


def test_settings_of_a_search_that_is_off_have_no_effect_and_that_is_said(client, data):
    job = train(client, data, automl_policy="off", automl_settings={"algorithm": "random"})
    assert "automl settings have no effect: the job does not search." in job.record.notes


def test_other_actions_never_search(client, data):
    parent = trained(client, data, {0: 0.5})
    job = client.create_job(POSE, "export", parent_job_id=parent.id, automl_policy="on")
    assert (job.record.command, job.record.automl_policy) == ((), None)


def test_without_schema_or_template_it_is_trained_directly_and_that_is_said(
    client, data, monkeypatch
):
    def fails(network, action):
        raise FileNotFoundError(2, "no such file")

    for name in ("load_schema", "load_template"):
        with monkeypatch.context() as patched:
            patched.setattr(requests, name, fails)
            requests.is_packaged.cache_clear()
            job = train(client, data, automl_policy="on")
        assert job.record.command == ()
        assert any("enabled but not runnable" in note for note in job.record.notes)
    requests.is_packaged.cache_clear()
    assert train(client, data).record.command != ()
    assert skills.load_skill_info(POSE)["automl_enabled"] is True


# Once


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


def test_j23_ten_thousand_pending_jobs_are_listed_within_200_ms(client):
    from kineme.jobs.record import to_json

    plain = to_json(JobRecord("", POSE, "train", "2026-01-01T00:00:00.000+00:00"))
    for number in range(10_000):
        job_id = f"00000000-0000-4000-8000-{number:012x}"
        os.makedirs(client.store.root / job_id)
        path = client.store.root / job_id / "job.json"
        with open(path, "w") as file:
            json.dump({**plain, "id": job_id}, file)
    assert len(client.list_jobs()) == 10_000  # reads each once
    seconds, table = [], io.StringIO()
    for _ in range(5):
        began = time.process_time()  # other programs may keep this machine busy
        with contextlib.redirect_stdout(table):
            command.main(["list", "--root", str(client.store.root)])
        seconds.append(time.process_time() - began)
    assert table.getvalue().count("Pending") == 5 * 10_000
    assert min(seconds) < 0.2, seconds


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


# Asking schedulers


def scheduler(monkeypatch, *answers):
    """Let the runner of parked jobs give these, the last one for ever; returns who it was asked."""
    left, asked = list(answers), []

    def is_gone(store, record):
        asked.append(record.id)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    changed = replace(parked_jobs.PARKED, is_gone=is_gone)
    monkeypatch.setattr(parked_jobs, "PARKED", changed)
    return asked


def test_a_job_that_its_scheduler_dropped_ends_for_those_who_wait(client, data, monkeypatch):
    monkeypatch.setattr(client_module, "_ASK_SECONDS", 0.1)
    asked = scheduler(monkeypatch, None, False, True)
    job = train(client, data).wait(20)
    assert job.status is State.ERROR
    assert job.record.failure.message == "parked has it no more"
    assert asked == [job.id] * 3


def test_a_scheduler_is_asked_about_a_job_every_15_s_and_not_once_it_runs(
    client, data, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(client_module.time, "monotonic", lambda: clock[0])
    asked = scheduler(monkeypatch, False)
    one, two = train(client, data), train(client, data)
    for job in (one, two, one, two):
        assert client.get_job_status(job.id).status is State.PENDING
    assert asked == [one.id, two.id]
    for seconds, number in ((14.9, 2), (0.2, 3), (14.9, 3), (15, 4)):
        clock[0] += seconds
        client.get_job(one.id)
        assert len(asked) == number
    client.store.move(one.id, State.RUNNING, reason="test", source="test")
    clock[0] += 20
    assert client.get_job_status(one.id).status is State.RUNNING
    assert len(asked) == 4


def test_a_job_of_a_silent_machine_ends_when_its_scheduler_has_it_no_more(
    client, data, monkeypatch
):
    from kineme.processes import identity

    scheduler(monkeypatch, True)
    job = train(client, data)
    elsewhere = replace(identity(), host="node7", boot="another")
    client.store.move(job.id, State.RUNNING, reason="test", source="agent", agent=elsewhere)
    status = client.get_job_status(job.id)
    assert (status.status, status.message) == (State.ERROR, "parked has it no more")


@pytest.mark.parametrize("answer", [
    SpecError("runner slurm", "the package submitit", "none"),
    errors.ServiceError("ray", "a cluster that takes the job", "refused"),
    None,
])  # fmt: skip
def test_where_nobody_can_be_asked_a_job_waits_on(client, data, monkeypatch, answer):
    asked = scheduler(monkeypatch, answer)
    job = train(client, data)
    assert client.get_job_status(job.id).status is State.PENDING
    assert asked == [job.id]


# Trying again


def test_a_retry_is_a_new_job_that_asks_for_the_same(client, data):
    first = train(client, data, specs={"num_epochs": 3, "dataset.label_map": {"a.b": 0, "c": 1}},
                  automl_policy="off", platform={"seats": 1})  # fmt: skip
    ended(client, first, State.ERROR, "killed")
    again = client.retry_job(first.id).record
    assert again.id != first.id
    assert again.retry_of == first.id
    assert (again.state, again.failure, again.exit_code) == (State.PENDING, None, None)
    assert again.spec["train"] == {"num_epochs": 3}
    assert again.spec["dataset"] == first.record.spec["dataset"]
    assert again.results_dir == again.spec["results_dir"] != first.record.results_dir
    assert (again.platform, again.automl_policy) == ({"seats": 1}, "off")
    assert client.store.load(first.id).state == State.ERROR


def test_a_retry_of_a_search_goes_on_with_its_trials(client, data):
    settings = {"algorithm": "asha", "automl_range_override": {"train.optim.lr": [0.1, 1.0]}}
    first = train(client, data, automl_settings=settings)
    ended(client, first, State.ERROR, "killed")
    again = client.retry_job(first.id).record
    assert again.command == first.record.command
    assert again.results_dir == first.record.results_dir
    assert again.spec == first.record.spec
    assert again.spec["automl"] == settings


@pytest.mark.parametrize("policy", ["off", "auto"])
def test_a_retry_copies_its_results_to_the_same_address(client, data, policy):
    first = train(client, data, specs={"results_dir": "s3://bucket/runs"}, automl_policy=policy)
    ended(client, first, State.ERROR, "killed")
    second = client.retry_job(first.id)
    ended(client, second, State.ERROR, "killed")
    third = client.retry_job(second.id).record
    assert [second.record.uploads_to, third.uploads_to] == ["s3://bucket/runs"] * 2
    assert third.spec["results_dir"] == third.results_dir


def test_a_retry_below_a_root_in_a_store_has_a_folder_of_its_own_there(monkeypatch, tmp_path, data):
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "jobs"))
    parked_client(monkeypatch, tmp_path)
    client = Client("s3://bucket/runs", runner="parked")
    first = train(client, data, automl_policy="off")
    ended(client, first, State.ERROR, "killed")
    for other in (client, Client(client.store.root, runner="parked")):
        again = other.retry_job(first.id)
        assert again.record.uploads_to == f"s3://bucket/runs/{again.id}"
    search = train(client, data)
    ended(client, search, State.ERROR, "killed")
    again = client.retry_job(search.id)  # goes on in the folder of the first
    assert again.record.uploads_to == search.record.uploads_to


def test_only_what_failed_or_was_cancelled_is_retried(client, data):
    job = train(client, data)
    with pytest.raises(SpecError, match="that failed or was cancelled, got one that is Pending"):
        client.retry_job(job.id)
    ended(client, job)
    with pytest.raises(SpecError, match="got one that is Complete"):
        client.retry_job(job.id)


# Deleting


def test_j24_a_job_that_others_go_on_with_is_deleted_with_them_or_not_at_all(client, data):
    parent = trained(client, data, {0: 0.5})
    child = client.create_job(POSE, "export", parent_job_id=parent.id)
    with pytest.raises(SpecError) as caught:
        client.delete_job(parent.id)
    assert f"that no other goes on with, got {child.id} (export, Pending)" in str(caught.value)
    with pytest.raises(SpecError, match=f"job {child.id}: expected a job that has ended"):
        client.delete_job(parent.id, cascade=True)
    assert len(client.list_jobs()) == 2
    ended(client, child)
    grandchild = ended(client, client.create_job(POSE, "export", parent_job_id=child.id))
    client.delete_job(parent.id, cascade=True)
    assert client.list_jobs() == []
    assert list(client.store.root.glob("[!i]*")) == []
    with pytest.raises(SpecError):
        client.get_job(grandchild.id)


def test_j24_a_second_try_is_a_dependent_as_its_checkpoints_lie_in_the_first(client, data):
    first = train(client, data, automl_policy="off")
    training_results(first.record, {0: 0.5})
    ended(client, first, State.ERROR, "killed")
    second = ended(client, client.retry_job(first.id), State.CANCELED)
    with pytest.raises(SpecError, match=second.id):
        client.delete_job(first.id)
    client.delete_job(second.id)
    client.delete_job(first.id)
    assert client.list_jobs() == []


def test_j24_what_goes_on_with_a_trial_depends_on_its_search(client, data):
    search = train(client, data)
    trials = Client(Path(search.record.results_dir) / "automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    ended(client, search)
    child = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError, match=child.id):
        client.delete_job(search.id)
    for call in (client.delete_job, client.retry_job):
        with pytest.raises(SpecError):
            call(trial.id)


def test_j24_trials_of_a_search_with_results_of_its_own_place_are_guarded_too(
    client, data, tmp_path
):
    search = train(client, data, specs={"results_dir": str(tmp_path / "runs")})
    trials = Client(tmp_path / "runs/automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    (tmp_path / "runs/automl/best_trial.json").write_text(json.dumps({"job_id": trial.id}))
    ended(client, search)
    assert client.get_job(trial.id).record == trial.record
    assert search.result()["checkpoint"] == str(tmp_path / trial.record.results_dir) + (
        "/train/best.pth"
    )
    child = client.create_job(POSE, "export", parent_job_id=search.id)
    other = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError) as caught:
        client.delete_job(search.id)
    assert child.id in str(caught.value)
    assert other.id in str(caught.value)


def test_j24_trials_belong_to_the_first_try_of_their_search(client, data):
    first = train(client, data)
    trials = Client(Path(first.record.results_dir) / "automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    ended(client, first, State.ERROR, "killed")
    second = ended(client, client.retry_job(first.id))
    child = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError, match=child.id):
        client.delete_job(first.id)
    client.delete_job(second.id)
    assert client.get_job(trial.id).id == trial.id


def test_j24_links_in_a_job_are_removed_and_what_they_show_stays(client, data, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    checkpoint(kept / "model.pth")
    job = ended(client, train(client, data))
    results = Path(job.record.results_dir)
    results.mkdir(parents=True)
    (results / "folder").symlink_to(kept)
    (results / "file.pth").symlink_to(kept / "model.pth")
    assert client.list_results(job.id) == ["file.pth"]  # nothing below a link
    client.delete_job(job.id)
    assert (kept / "model.pth").is_file()
    assert client.list_jobs() == []


def test_results_outside_of_the_job_are_not_deleted(client, data, tmp_path):
    job = train(client, data, specs={"results_dir": str(tmp_path / "elsewhere")})
    checkpoint(tmp_path / "elsewhere/train/best.pth")
    client.delete_job(ended(client, job).id)
    assert (tmp_path / "elsewhere/train/best.pth").is_file()
