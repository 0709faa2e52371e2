"""What is asked for, and the record and spec it becomes: all problems at once, searches or not."""

import pytest

import parked_jobs
from kineme import skills
from kineme.errors import SpecError
from kineme.jobs import requests
from kineme.jobs.record import State
from kineme.jobs.said import policy_of
from kineme.network import load_specs
from parked_jobs import POSE, problems_of, spec_file, train, trained

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
