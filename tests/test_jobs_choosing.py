"""Which checkpoint of a job is taken, and which are passed over."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from kineme.engine import checkpoint as engine_checkpoint
from kineme.engine import encryption
from kineme.errors import CheckpointError
from kineme.jobs import choosing
from kineme.jobs.choosing import NoCheckpointError, choose, damage_of, list_checkpoints, rule_of
from parked_jobs import POSE, checkpoint, ended, trained, training_results

VALUES = {0: 0.25, 1: 0.75, 2: 0.5}


def chosen(client, job, rule="best"):
    return choose(client.store, job.record, rule)


def name_of(found) -> str:
    return Path(found.checkpoint.path).name


def test_the_best_is_what_training_called_the_best_with_its_metric_and_epoch(client, data):
    found = chosen(client, trained(client, data, VALUES))
    assert name_of(found) == "best.pth"
    assert found.reason == "the best by val_acc 0.75 at epoch 1"
    assert (found.checkpoint.metric_name, found.checkpoint.metric_value) == ("val_acc", 0.75)


def test_of_equal_epochs_the_first_is_the_best_as_in_training(client, data):
    assert chosen(client, trained(client, data, {0: 0.5, 1: 0.5})).checkpoint.epoch == 0


def test_without_a_file_of_the_best_the_checkpoint_of_the_best_epoch_is_taken(client, data):
    found = chosen(client, trained(client, data, VALUES, best=False))
    assert name_of(found) == "model_epoch_001_step_00020.pth"
    assert found.reason == "the best of the checkpoints by val_acc 0.75 at epoch 1"


def test_without_validation_data_the_latest_is_the_best(client, data):
    found = chosen(client, trained(client, data, {0: None, 1: None}, best=False))
    assert name_of(found) == "model_epoch_001_step_00020.pth"
    assert found.reason == "the latest, epoch 1, as no val_acc is recorded"


def test_the_latest_is_by_step_and_clocks_are_not_asked(client, data):
    job = trained(client, data, VALUES)
    os.utime(Path(job.record.results_dir) / "train/model_epoch_000_step_00010.pth", (2e9, 2e9))
    assert name_of(chosen(client, job, "latest")) == "model_epoch_002_step_00030.pth"


def test_defect_71_from_epoch_number_takes_that_epoch(client, data):
    job = trained(client, data, VALUES)
    rule = rule_of("from_epoch_number", 0)
    assert name_of(chosen(client, job, rule)) == "model_epoch_000_step_00010.pth"
    with pytest.raises(
        NoCheckpointError, match=r"one of epoch 7, got .* epochs 0, 1, 2 \(from 0\)"
    ):
        chosen(client, job, 7)


def test_of_an_epoch_with_several_checkpoints_the_last_is_taken(client, data):
    job = trained(client, data, VALUES)
    checkpoint(Path(job.record.results_dir) / "train/model_epoch_000_step_00005.pth")
    assert name_of(chosen(client, job, 0)) == "model_epoch_000_step_00010.pth"


@pytest.mark.parametrize(
    ("text", "epoch", "rule"),
    [
        (None, None, "best"), ("best_model", None, "best"), ("latest_model", None, "latest"),
        ("latest", None, "latest"), ("from_epoch_number", 3, 3), (None, 3, 3), (0, None, 0),
        ("12", None, 12), ("from_epoch_number", {"from_epoch_number_ab": 4}, 4),
    ],
)  # fmt: skip
def test_tao_names_of_rules_are_read(text, epoch, rule):
    assert rule_of(text, epoch) == rule


@pytest.mark.parametrize(
    ("text", "epoch"),
    [("newest", None), (-1, None), (True, None), (1.5, None), ("best", 3),
     ("from_epoch_number", None), ("from_epoch_number", "three")],
)  # fmt: skip
def test_rules_that_mean_nothing_are_refused(text, epoch):
    with pytest.raises(choosing.SpecError):
        rule_of(text, epoch)


def test_j09_a_partial_checkpoint_is_skipped_the_next_best_used_and_that_is_said(client, data):
    job = trained(client, data, VALUES)
    folder = Path(job.record.results_dir) / "train"
    checkpoint(folder / "best.pth", is_whole=False)
    found = chosen(client, job)
    assert name_of(found) == "model_epoch_001_step_00020.pth"
    assert found.reason.endswith("; 1 passed over that cannot be read")
    assert [text.partition(": ")[0] for text in found.skipped] == [str(folder / "best.pth")]
    evaluation = client.create_job(POSE, "evaluate", parent_job_id=job.id, train_datasets=str(data))
    assert evaluation.record.spec["evaluate"]["checkpoint"] == found.checkpoint.path
    assert any(note.startswith(f"passed over: {folder}/best.pth: a truncated")
               for note in evaluation.record.notes)  # fmt: skip


def test_j09_a_flipped_bit_is_found_although_the_file_opens(client, data):
    job = trained(client, data, VALUES)
    best = Path(job.record.results_dir) / "train/best.pth"
    content = bytearray(best.read_bytes())
    content[100] ^= 1
    best.write_bytes(content)
    assert name_of(chosen(client, job)) == "model_epoch_001_step_00020.pth"
    assert damage_of(best) == "a damaged one (wrong checksum of 'archive/data.pkl')"


def test_j09_with_damaged_checkpoints_alone_nothing_is_chosen(client, data):
    job = trained(client, data, {0: 0.5})
    for path in (Path(job.record.results_dir) / "train").glob("*.pth"):
        checkpoint(path, is_whole=False)
    with pytest.raises(NoCheckpointError, match=r"damaged ones alone: .*best\.pth: a trunc"):
        chosen(client, job)


def test_files_of_the_engine_are_whole_and_their_halves_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr(encryption, "COST", encryption.Cost(4))
    content = {"state_dict": {"model.weight": torch.zeros(1000)}}
    for key in (None, "a key of twenty letters"):
        path = tmp_path / f"{key is None}.pth"
        engine_checkpoint.save(path, content, key)
        assert damage_of(path) == ""
        assert choosing.is_encrypted(path) is (key is not None)
    whole = (tmp_path / "True.pth").read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "half.pth").write_bytes(whole[:size])
        assert damage_of(tmp_path / "half.pth") != ""
    (tmp_path / "half.pth").write_bytes((tmp_path / "False.pth").read_bytes()[:100])
    assert damage_of(tmp_path / "half.pth") == "cut off within its header"
    assert damage_of(tmp_path / "missing.pth") != ""


def packed(path, name="archive/data.pkl", compression=zipfile.ZIP_STORED, *, is_locked=False):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, b"0123456789" * 20)
    content = bytearray(path.read_bytes())
    if is_locked:  # by zip's own means: bit 0 of the flags of its record, there and in the list
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed records, which torch never writes"),
        ({"name": "word/document.xml"}, "a zip archive that torch did not write"),
        ({"is_locked": True}, "a truncated or damaged one ("),
    ],
)
def test_what_loading_would_refuse_is_not_chosen(client, data, options, received):
    job = trained(client, data, VALUES)
    best = Path(job.record.results_dir) / "train/best.pth"
    packed(best, **options)
    found = chosen(client, job)
    assert name_of(found) == "model_epoch_001_step_00020.pth"
    assert found.skipped[0].startswith(f"{best}: {received}")
    with pytest.raises(CheckpointError) as refused:
        engine_checkpoint.load_checkpoint(best)
    assert refused.value.problems[0].received == damage_of(best)


def test_a_search_hands_over_its_best_trial(client, data):
    search = ended(client, client.create_job(POSE, "train", train_datasets=str(data)))
    folder = Path(search.record.results_dir) / "automl"
    trials = type(client)(folder / "trials", runner="parked")
    good = trained(trials, data, VALUES, details={"trial": 3})
    (folder / "best_trial.json").write_text(json.dumps({"job_id": good.id}))
    found = chosen(client, search)
    assert found.checkpoint.path == f"{good.record.results_dir}/train/best.pth"
    assert found.reason == f"of the best trial, {good.id}: the best by val_acc 0.75 at epoch 1"
    evaluation = client.create_job(
        POSE, "evaluate", parent_job_id=good.id, train_datasets=str(data)
    )  # a trial's own id works as well
    assert evaluation.record.spec["evaluate"]["checkpoint"] == found.checkpoint.path


@pytest.mark.parametrize("text", [None, "", "[]", '{"job_id": "../../x"}', '{"job_id": 3}'])
def test_a_search_without_a_best_trial_says_so(client, data, text):
    search = ended(client, client.create_job(POSE, "train", train_datasets=str(data)))
    path = Path(search.record.results_dir) / "automl/best_trial.json"
    path.parent.mkdir(parents=True)
    if text is not None:
        path.write_text(text)
    with pytest.raises(NoCheckpointError, match="no best trial in"):
        chosen(client, search)


def test_checkpoints_are_listed_the_best_first_and_damage_is_marked(client, data):
    job = trained(client, data, VALUES)
    checkpoint(
        Path(job.record.results_dir) / "train/model_epoch_001_step_00020.pth", is_whole=False
    )
    found = list_checkpoints(client.store, job.record)
    shown = [(Path(one.path).name, one.epoch, one.metric_value, bool(one.damage)) for one in found]
    assert shown == [
        ("best.pth", 1, 0.75, False),
        ("model_epoch_002_step_00030.pth", 2, 0.5, False),
        ("model_epoch_001_step_00020.pth", 1, 0.75, True),
        ("model_epoch_000_step_00010.pth", 0, 0.25, False),
    ]


def test_results_that_the_spec_puts_elsewhere_are_found(client, data, tmp_path):
    job = client.create_job(
        POSE, "train", train_datasets=str(data), automl_policy="off",
        specs={"train.results_dir": str(tmp_path / "elsewhere")},
    )  # fmt: skip
    checkpoint(tmp_path / "elsewhere" / "best.pth")
    found = chosen(client, ended(client, job))
    assert found.checkpoint.path == str(tmp_path / "elsewhere" / "best.pth")


def test_a_second_try_that_made_no_better_model_hands_over_the_first_ones(client, data):
    first = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    training_results(first.record, {0: 0.75, 1: 0.5})
    from kineme.jobs.record import State

    ended(client, first, State.ERROR, "disk full")
    second = client.retry_job(first.id)
    training_results(second.record, {2: 0.25}, best=False)
    found = chosen(client, ended(client, second))
    assert found.checkpoint.path == f"{first.record.results_dir}/train/best.pth"
    assert name_of(chosen(client, second, "latest")) == "model_epoch_002_step_00030.pth"
    models = list_checkpoints(client.store, second.record)
    owners = [Path(one.path).parents[2].name for one in models]
    assert owners == [first.id, second.id, first.id, first.id]
    assert second.result()["checkpoint"] == found.checkpoint.path
