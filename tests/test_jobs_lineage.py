"""Values that jobs find for themselves: TAO's inference functions, and parents."""

import json
from pathlib import Path

import pytest

from kineme.engine import encryption
from kineme.errors import SpecError
from kineme.jobs import lineage
from kineme.jobs.lineage import FUNCTIONS, Asked, params_of, resolve
from kineme.jobs.record import JobRecord, State
from kineme.jobs.store import new_id
from kineme.network import NETWORKS, load_specs
from kineme.skills import load_skill_info
from parked_jobs import (
    POSE,
    VIDEO,
    checkpoint,
    choice,
    ended,
    pose_data,
    problems_of,
    rewrite,
    spec_file,
    trained,
    training_results,
)


def videos(folder: Path) -> Path:
    for name in ("train", "test"):
        (folder / name).mkdir(parents=True)
    return folder


def asked(client, network=POSE, action="train", given=None, **fields) -> Asked:
    job_id = new_id()
    results = str(client.store.root / job_id / "results")
    record = JobRecord(job_id, network, action, "2026-01-01", results_dir=results, **fields)
    return Asked(client.store, record, given or {})


# The table


@pytest.mark.parametrize("network", NETWORKS)
def test_every_function_that_skill_info_names_is_there_and_says_what_it_does(network):
    info = load_skill_info(network)
    named = {text for params in info["spec_params"].values() for text in params.values()}
    named |= set(info["automl_spec_params"].values())
    assert {text.partition(",")[0] for text in named} <= FUNCTIONS.keys()
    assert all(function.__doc__ for function in FUNCTIONS.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_key_of_ours_is_one_of_the_spec(network):
    for (name, action), params in lineage._OURS.items():
        known = {one.key for one in lineage.settings_by_key(load_specs(name)[action]).values()}
        assert params.keys() <= known
        assert not params.keys() & load_skill_info(name)["spec_params"][action].keys()


def test_all_functions_of_the_contract_are_there():
    assert set(FUNCTIONS) == {
        "key", "output_dir", "automl_output_dir", "create_onnx_file",
        "create_inference_result_file_pose", "parent_model", "parent_model_folder",
        "resume_model", "resume_model_bool", "ptm_if_no_resume_model", "automl_assign_ptm",
        "automl_resume_model", "assign_const_value",
    }  # fmt: skip


# The parent's model


def test_defect_70_parent_job_id_alone_finds_the_model_for_every_action(client, data):
    parent = trained(client, data, {0: 0.5})
    best = f"{parent.record.results_dir}/train/best.pth"
    for action in ("evaluate", "export", "inference"):
        named = {} if action == "export" else {"train_datasets": str(data)}
        job = client.create_job(POSE, action, parent_job_id=parent.id, **named)
        assert job.record.spec[action]["checkpoint"] == best
        assert spec_file(client, job)[action]["checkpoint"] == best
        assert choice(job, f"{action}.checkpoint") == (
            best, f"of job {parent.id}: the best by val_acc 0.5 at epoch 0"
        )  # fmt: skip
        assert job.record.parent_job_id == parent.id


def test_a_rule_may_be_given_in_three_ways(client, data):
    parent = trained(client, data, {0: 0.5, 1: 0.25})
    epoch_0 = f"{parent.record.results_dir}/train/model_epoch_000_step_00010.pth"
    tao = {"checkpoint_choose_method": "from_epoch_number", "checkpoint_epoch_number": 0}
    words = [f"{key}={value}" for key, value in tao.items()]
    for how in ({"checkpoint": 0}, {"specs": tao}, {"overrides": words}):
        job = client.create_job(POSE, "export", parent_job_id=parent.id, **how)
        assert job.record.spec["export"]["checkpoint"] == epoch_0
    latest = client.create_job(POSE, "export", parent_job_id=parent.id, checkpoint="latest")
    assert latest.record.spec["export"]["checkpoint"].endswith("model_epoch_001_step_00020.pth")


def test_a_checkpoint_that_the_user_names_wins_and_that_is_said(client, data, tmp_path):
    parent = trained(client, data, {0: 0.5})
    own = checkpoint(tmp_path / "own.pth")
    job = client.create_job(
        POSE, "export", parent_job_id=parent.id, specs={"export": {"checkpoint": str(own)}}
    )
    assert job.record.spec["export"]["checkpoint"] == str(own)
    assert "export.checkpoint" not in {one.key for one in job.record.choices}
    assert "export.checkpoint is as given: nothing of parent_job_id takes its place." in (
        job.record.notes
    )


def test_a_chain_may_be_followed_through_jobs_that_leave_no_checkpoint(client, data):
    parent = trained(client, data, {0: 0.5})
    evaluation = ended(client, client.create_job(
        POSE, "evaluate", parent_job_id=parent.id, train_datasets=str(data)))  # fmt: skip
    export = ended(client, client.create_job(POSE, "export", parent_job_id=evaluation.id))
    last = client.create_job(POSE, "inference", parent_job_id=export.id, train_datasets=str(data))
    assert last.record.spec["inference"]["checkpoint"].startswith(parent.record.results_dir)
    assert f"job {export.id} (export) leaves no checkpoint: its parent is asked." in (
        last.record.notes
    )


def test_nothing_is_added_that_could_contradict_the_checkpoint(client, data):
    parent = trained(client, data, {0: 0.5})
    job = client.create_job(POSE, "evaluate", parent_job_id=parent.id, train_datasets=str(data))
    assert spec_file(client, job).keys() == {"results_dir", "evaluate"}
    assert job.record.spec["evaluate"].keys() == {"checkpoint", "test_dataset"}


def test_without_parent_and_checkpoint_both_ways_out_are_named(client, data):
    assert problems_of(client, POSE, "evaluate", train_datasets=str(data)) == [
        "parent_job_id: expected a job whose model to use, or evaluate.checkpoint, got neither. "
        "Name the job that trained it, or set evaluate.checkpoint."
    ]


def test_parent_model_folder_is_the_folder_of_that_file(client, data):
    parent = trained(client, data, {0: 0.5})
    question = asked(client, action="export", parent_job_id=parent.id)
    found = resolve(question, {"export.results_dir": "parent_model_folder"})
    assert found.values == {"export.results_dir": f"{parent.record.results_dir}/train"}


# J08: what cannot be a parent


def j08(client, job_id, action="export") -> str:
    (problem,) = problems_of(client, POSE, action, parent_job_id=job_id)
    assert problem.startswith("parent_job_id: ")
    return problem.removeprefix("parent_job_id: ")


def test_j08_a_parent_that_does_not_exist(client):
    gone = new_id()
    assert j08(client, gone) == (
        f"expected a job of {client.store.root}, got '{gone}'. `kineme jobs list` shows them."
    )


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.CANCELING])
def test_j08_a_parent_that_has_not_ended_is_named_with_its_state(client, data, state):
    parent = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    for step in {State.PENDING: (), State.RUNNING: (state,),
                 State.CANCELING: (State.RUNNING, state)}[state]:  # fmt: skip
        client.store.move(parent.id, step, reason="test", source="test")
    text = j08(client, parent.id)
    assert text.startswith(f"expected a parent that has ended, got job {parent.id}: {state} since")
    assert text.endswith(f"`kineme jobs wait {parent.id}` waits for it.")


def test_j08_a_parent_that_failed_is_named_with_its_reason(client, data):
    parent = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    training_results(parent.record, {0: 0.5})
    ended(client, parent, State.ERROR, "train_data.npy: no samples")
    assert j08(client, parent.id) == (
        f"expected a parent that succeeded, got job {parent.id}: Error: train_data.npy: no "
        f"samples. `kineme jobs logs {parent.id}` shows why, `kineme jobs retry {parent.id}` "
        "retries."
    )


def test_j08_a_parent_that_was_cancelled(client, data):
    parent = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    client.cancel_job(parent.id)
    ended_at = client.get_job(parent.id).record
    if not ended_at.is_terminal:
        client.store.move(parent.id, State.CANCELED, reason="test", source="test")
    text = j08(client, parent.id)
    assert text.startswith(f"expected a parent that succeeded, got job {parent.id}: Canceled since")
    assert text.endswith(f"`kineme jobs retry {parent.id}` goes on with it.")


def test_j08_a_parent_without_a_checkpoint(client, data):
    parent = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    ended(client, parent)
    assert j08(client, parent.id) == (
        f"expected a job with a checkpoint, got {parent.id} ({POSE} train, Complete), with none "
        f"in its results. `kineme jobs checkpoints {parent.id}` lists what there is."
    )


def test_j08_a_parent_of_another_network(client, tmp_path):
    parent = client.create_job(
        VIDEO, "train", train_datasets=str(videos(tmp_path / "v")), automl_policy="off"
    )
    assert j08(client, ended(client, parent).id) == (
        f"expected a job of {POSE}, got job {parent.id} of {VIDEO}. "
        "Models of one are none of the other."
    )


def test_j08_parents_in_a_circle_are_told_and_not_followed_for_ever(client, data):
    parent = trained(client, data, {0: 0.5})
    one, two = (
        ended(client, client.create_job(POSE, "export", parent_job_id=parent.id)) for _ in range(2)
    )
    rewrite(client, one.id, parent_job_id=two.id)
    rewrite(client, two.id, parent_job_id=one.id)
    assert f"got a circle: {one.id} -> {two.id} -> {one.id}." in j08(client, one.id)
    rewrite(client, one.id, parent_job_id=one.id)
    assert f"got a circle: {one.id} -> {one.id}." in j08(client, one.id)


def test_j08_a_parent_that_never_had_a_model(client, data):
    parent = trained(client, data, {0: 0.5})
    orphan = client.create_job(
        POSE, "export", specs={"export.checkpoint": f"{parent.record.results_dir}/train/best.pth"}
    )
    assert "leaves no checkpoint, and no parent of its own" in j08(client, ended(client, orphan).id)
    conversion = client.create_job(POSE, "dataset_convert", train_datasets=str(data))
    assert j08(client, ended(client, conversion).id).startswith("expected a job of train, got job")


def test_j08_the_best_is_taken_before_the_latest_and_that_is_said(client, data):
    parent = trained(client, data, {0: 0.75, 1: 0.25})
    job = client.create_job(POSE, "export", parent_job_id=parent.id)
    path, reason = choice(job, "export.checkpoint")
    assert path.endswith("best.pth")
    assert reason.endswith("the best by val_acc 0.75 at epoch 0")


@pytest.mark.parametrize(
    "job_id", ["../../x", "/etc/passwd", "a\0b", "é" * 36, "", "0b6e57a2", "..", "x" * 10_000]
)
def test_j10_ids_that_are_paths_or_worse_are_refused_by_their_grammar(client, data, job_id):
    (problem,) = problems_of(client, POSE, "export", parent_job_id=job_id)
    assert problem.startswith("parent_job_id: expected 32 hex digits in groups")
    assert len(problem) < 400
    for call in (client.get_job, client.cancel_job, client.delete_job, client.retry_job,
                 client.list_results, client.get_job_logs):  # fmt: skip
        with pytest.raises(SpecError, match="32 hex digits"):
            call(job_id)


# Where results go


def test_outputs_are_below_the_results_of_the_job(client, data, tmp_path):
    parent = trained(client, data, {0: 0.5})
    export = client.create_job(POSE, "export", parent_job_id=parent.id).record
    assert export.spec["results_dir"] == export.results_dir
    assert export.spec["export"]["onnx_file"] == f"{export.results_dir}/export/model.onnx"
    inference = client.create_job(
        POSE, "inference", parent_job_id=parent.id, train_datasets=str(data)
    ).record
    assert inference.spec["inference"]["output_file"] == (
        f"{inference.results_dir}/inference/results.txt"
    )
    conversion = client.create_job(POSE, "dataset_convert", train_datasets=str(data)).record
    assert conversion.spec["dataset_convert"]["results_dir"] == (
        f"{conversion.results_dir}/dataset_convert"
    )


def test_a_results_dir_that_the_user_names_wins(client, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parent = trained(client, data, {0: 0.5})
    job = client.create_job(POSE, "export", parent_job_id=parent.id, specs={"results_dir": "out"})
    assert job.record.results_dir == str(tmp_path / "out")
    assert job.record.spec["results_dir"] == str(tmp_path / "out")
    assert job.record.spec["export"]["onnx_file"] == str(tmp_path / "out/export/model.onnx")


def test_a_results_dir_in_a_store_is_where_results_are_copied_to(client, data):
    job = client.create_job(
        POSE, "train", train_datasets=str(data), specs={"results_dir": "s3://bucket/runs"}
    )
    assert job.record.uploads_to == "s3://bucket/runs"
    assert job.record.results_dir == str(client.store.folder(job.id) / "results")
    assert job.record.spec["results_dir"] == job.record.results_dir


# Going on


def test_defect_72_resume_model_is_of_the_current_job_and_never_of_the_parent(client, data):
    parent = trained(client, data, {0: 0.5, 1: 0.75})
    job = client.create_job(
        POSE, "train", parent_job_id=parent.id, train_datasets=str(data), automl_policy="off"
    )
    assert "train" not in job.record.spec  # nothing to resume
    assert job.record.spec["model"]["pretrained_model_path"] == (
        f"{parent.record.results_dir}/train/best.pth"
    )
    training_results(job.record, {0: 0.25})
    ended(client, job, State.ERROR, "killed")
    again = client.retry_job(job.id).record
    assert again.spec["train"]["resume_training_checkpoint_path"] == (
        f"{job.record.results_dir}/train/model_epoch_000_step_00010.pth"
    )
    assert "model" not in again.spec  # whoever resumes starts from nothing else
    assert again.parent_job_id == parent.id


def test_a_retry_of_a_retry_goes_on_from_the_newest_whole_checkpoint_of_them_all(client, data):
    first = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    training_results(first.record, {0: 0.5, 1: 0.5})
    checkpoint(
        Path(first.record.results_dir) / "train/model_epoch_001_step_00020.pth", is_whole=False
    )
    ended(client, first, State.ERROR, "killed")
    second = client.retry_job(first.id)  # leaves nothing
    ended(client, second, State.CANCELED)
    third = client.retry_job(second.id).record
    assert third.retry_of == second.id
    path = third.spec["train"]["resume_training_checkpoint_path"]
    assert path == f"{first.record.results_dir}/train/model_epoch_000_step_00010.pth"
    assert any("passed over" in note for note in third.notes)


def test_a_new_job_never_goes_on_with_what_lies_in_a_folder_that_it_was_given(
    client, data, tmp_path
):
    """Training refuses that folder, as without jobs; another try of the job goes on there."""
    specs = {"results_dir": str(tmp_path / "own")}
    one, other = (
        client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off", specs=specs)
        for _ in range(2)
    )
    training_results(one.record, {0: 0.5})
    third = client.create_job(
        POSE, "train", train_datasets=str(data), automl_policy="off", specs=specs
    )
    for job in (one, other, third):
        assert "resume_training_checkpoint_path" not in job.record.spec.get("train", {})
    ended(client, one, State.ERROR, "killed")
    again = client.retry_job(one.id).record
    assert again.spec["train"]["resume_training_checkpoint_path"] == (
        f"{tmp_path}/own/train/model_epoch_000_step_00010.pth"
    )


def test_folds_take_no_model_and_the_data_of_a_training(client, data):
    folds = {"evaluate.k_fold": 2}
    job = client.create_job(POSE, "evaluate", train_datasets=str(data), specs=folds).record
    assert job.spec["dataset"]["train_dataset"]["data_path"].startswith(str(data))
    assert "checkpoint" not in job.spec["evaluate"]
    assert "test_dataset" not in job.spec["evaluate"]
    parent = trained(client, data, {0: 0.5})
    job = client.create_job(
        POSE, "evaluate", train_datasets=str(data), specs=folds, parent_job_id=parent.id
    ).record
    assert "checkpoint" not in job.spec["evaluate"]
    assert f"The model of job {parent.id} is not used: folds train their own." in job.notes


def test_resume_model_bool_says_whether_there_is_one(client):
    question = asked(client)
    params = {"train.resume": "resume_model_bool"}
    assert resolve(question, params).values == {"train.resume": False}
    training_results(question.record, {0: None})
    assert resolve(question, params).values == {"train.resume": True}


def video_parent(client, folder, model_type):
    job = client.create_job(
        VIDEO, "train", train_datasets=str(folder), automl_policy="off",
        specs={"model.model_type": model_type},
    )  # fmt: skip
    training_results(job.record, {0: 0.5})
    return ended(client, job)


@pytest.mark.parametrize(
    ("trained_as", "asked_as", "key"),
    [
        ("rgb", "rgb", "rgb_pretrained_model_path"), ("of", "of", "of_pretrained_model_path"),
        ("rgb", "joint", "rgb_pretrained_model_path"),
        ("of", "joint", "of_pretrained_model_path"),
        ("joint", "joint", "joint_pretrained_model_path"),
        ("rgb", "of", None), ("of", "rgb", None), ("joint", "rgb", None),
    ],
)  # fmt: skip
def test_a_training_starts_from_its_parents_model_in_the_stream_that_it_is_of(
    client, tmp_path, trained_as, asked_as, key
):
    folder = videos(tmp_path / "videos")
    parent = video_parent(client, folder, trained_as)
    job = client.create_job(
        VIDEO, "train", parent_job_id=parent.id, train_datasets=str(folder), automl_policy="off",
        specs={"model.model_type": asked_as},
    )  # fmt: skip
    best = f"{parent.record.results_dir}/train/best.pth"
    expected = {"model_type": asked_as} | ({key: best} if key else {})
    assert job.record.spec["model"] == expected
    unused = f"The model of job {parent.id} sees other streams: it is not started from."
    assert (unused in job.record.notes) is (key is None)


def test_a_training_may_go_on_with_what_its_parent_converted(client, tmp_path, data):
    conversion = client.create_job(POSE, "dataset_convert", train_datasets=str(data))
    converted = pose_data(Path(conversion.record.results_dir) / "dataset_convert")
    ended(client, conversion)
    job = client.create_job(POSE, "train", parent_job_id=conversion.id, automl_policy="off")
    assert job.record.spec["dataset"]["train_dataset"]["data_path"] == (
        str(converted / "train_data.npy")
    )


# Keys


def test_an_encrypted_model_needs_its_key_and_the_key_is_in_no_record(client, data, monkeypatch):
    parent = trained(client, data, {0: 0.5})
    best = Path(parent.record.results_dir) / "train/best.pth"
    best.write_bytes(encryption.MAGIC + bytes(200))
    assert problems_of(client, POSE, "export", parent_job_id=parent.id) == [
        f"encryption_key: expected the key of {best}, which is encrypted, got none. "
        "Set encryption_key_file, encryption_key or KINEME_ENCRYPTION_KEY."
    ]
    monkeypatch.setenv("KINEME_ENCRYPTION_KEY", "of the environment")
    job = client.create_job(POSE, "export", parent_job_id=parent.id)
    assert choice(job, "encryption_key") == ("***", "handed to the job apart from its spec")


# Trials


def trial_params(client, **details) -> dict:
    record = asked(client, details=details).record
    return params_of(record)


def test_a_trial_is_resolved_by_the_functions_of_automl(client):
    params = trial_params(client, trial=0)
    assert params["results_dir"] == "automl_output_dir"
    assert params["train.checkpoint_interval"] == "assign_const_value,train.num_epochs"
    assert trial_params(client)["results_dir"] == "output_dir"


def test_a_trial_goes_on_with_the_trial_that_it_names_and_saves_at_its_end_alone(client, data):
    first = trained(client, data, {0: 0.5, 1: 0.5}, details={"trial": 0})
    job = client.create_job(
        POSE, "train", train_datasets=str(data), specs={"num_epochs": 7},
        details={"trial": 1, "resumes": first.id},
    )  # fmt: skip
    assert job.record.spec["train"] == {
        "num_epochs": 7, "checkpoint_interval": 7, "validation_interval": 7,
        "resume_training_checkpoint_path":
            f"{first.record.results_dir}/train/model_epoch_001_step_00020.pth",
    }  # fmt: skip
    assert job.record.command == ()  # a plain training
    assert job.record.spec["results_dir"] == job.record.results_dir


def test_a_constant_is_the_default_where_nothing_is_said(client):
    question = asked(client, details={"trial": 0})
    found = resolve(question, {"train.checkpoint_interval": "assign_const_value,train.num_epochs"})
    assert found.values == {"train.checkpoint_interval": 10}
    assert json.loads(json.dumps([c.reason for c in found.choices])) == ["as train.num_epochs"]
