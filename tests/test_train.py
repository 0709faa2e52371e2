"""The training loop in one process: what it leaves, says, refuses and warns of."""

import os
from dataclasses import replace

import pytest
import torch

from kineme.actions import train
from kineme.engine import checkpoint as checkpoints
from kineme.errors import DataError, QualityError, ResourceError, SpecError
from kineme.network import Remarks
from tiny import TINY, TinyData, content_of, same, tiny_spec
from tiny_training import LAST, one_thread, rows_without_seconds, statuses, train_tiny


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def test_a_run_leaves_every_file_and_nothing_half_written(tmp_path):
    kpi = train_tiny(tmp_path, train__tensorboard=True)
    names = sorted(p.name for p in (tmp_path / "train").iterdir())
    assert names == [
        "best.json", "best.pth", "best.safetensors", "experiment.yaml", "last.json",
        "last.safetensors", "log.txt", "metrics.csv", "model_epoch_000_step_00006.pth",
        "model_epoch_001_step_00012.pth", LAST, "status.json", "tensorboard",
        "ty_model_latest.pth",
    ]  # fmt: skip
    assert os.readlink(tmp_path / "train/ty_model_latest.pth") == LAST
    assert kpi["val_acc"] > 0.8
    assert kpi["best_val_acc"] >= kpi["val_acc"]


def test_the_same_spec_gives_the_same_weights(tmp_path):
    train_tiny(tmp_path / "a")
    train_tiny(tmp_path / "b")
    assert same(content_of(tmp_path / "a/train" / LAST), content_of(tmp_path / "b/train" / LAST))
    train_tiny(tmp_path / "c", train__seed=5)
    a, c = content_of(tmp_path / "a/train" / LAST), content_of(tmp_path / "c/train" / LAST)
    assert not same(a["state_dict"], c["state_dict"])


def test_workers_do_not_change_the_weights(tmp_path):
    train_tiny(tmp_path / "a", dataset__num_workers=0)
    train_tiny(tmp_path / "b", dataset__num_workers=2)
    a, b = (content_of(tmp_path / x / "train" / LAST) for x in "ab")
    assert same(a["state_dict"], b["state_dict"])


def test_a_run_validates_in_the_epoch_that_it_stops_after(tmp_path):
    figures = train_tiny(
        tmp_path, train__num_epochs=5, train__validation_interval=5, train__stop_epoch=2
    )
    assert "val_acc" in figures


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(QualityError) as caught:
        train_tiny(
            tmp_path,
            dataset__bad_sample=25,
            train__seed=1234,
            train__checkpoint_interval_unit="step",
        )
    assert caught.value.exit_code == 7
    assert (
        "expected a finite loss and gradient, got loss nan (lr 0.05, gradient norm nan, samples "
        in str(caught.value)
    )
    assert "train-25" in str(caught.value)
    step = int(str(caught.value).split("step ")[1].split(":")[0])
    newest = checkpoints.load_newest(tmp_path / "train")[0]
    assert newest is not None
    assert newest.content["global_step"] == step - 1
    assert all(tensor.isfinite().all() for tensor in newest.weights.values())
    assert statuses(tmp_path)[-1]["status"] == "FAILURE"


def test_a_loss_that_explodes_is_a_warning(tmp_path, capfd):
    train_tiny(tmp_path, train__num_epochs=1, train__optim__lr=1000.0, model__batch_norm=False)
    assert (
        "is far above guessing (1.1): is the learning rate, 1000, too high?"
        in capfd.readouterr().err
    )


def test_zero_gradients_are_a_warning(tmp_path, capfd, monkeypatch):
    real = TINY.build_model

    def with_dead_end(spec):
        model = real(spec)
        model.forward = lambda x: (
            model.fcn(model.body(x).detach() * 0).detach()
            + 0 * sum(p.sum() for p in model.parameters())
        )
        return model

    network = __import__("dataclasses").replace(TINY, build_model=with_dead_end)
    train.run(network, tiny_spec(tmp_path, train__num_epochs=1))
    assert "All gradients are zero at the end of epoch 1" in capfd.readouterr().err


def test_a_dataset_smaller_than_a_batch_is_an_error(tmp_path):
    with pytest.raises(SpecError) as caught:
        train_tiny(tmp_path, dataset__num_samples=5, dataset__batch_size=8)
    assert str(caught.value) == (
        "dataset.batch_size: expected at least one step per epoch, got 0 steps per epoch: "
        "5 samples, batch_size 8. Set dataset.batch_size to 5 or less."
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named(tmp_path, num_workers):
    with pytest.raises(DataError) as caught:
        train_tiny(tmp_path, dataset__raising_sample=17, dataset__num_workers=num_workers)
    assert str(caught.value) == (
        "sample 'train-17': expected a readable sample, got ValueError: torn page. "
        "Repair or remove it."
    )
    assert caught.value.exit_code == 3


def test_a_data_error_keeps_its_file_and_names_the_sample(tmp_path):
    with pytest.raises(DataError) as caught:
        train_tiny(
            tmp_path, dataset__raising_sample=3, dataset__error="DataError", dataset__num_workers=1
        )
    assert str(caught.value) == "sample 'train-3': a.npy: expected numbers, got letters."


def test_a_worker_that_is_killed_is_a_resource_error(tmp_path):
    with pytest.raises(ResourceError, match="2 data workers to live, got DataLoader worker") as e:
        train_tiny(tmp_path, dataset__killed_worker=True, dataset__num_workers=2)
    assert e.value.exit_code == 5
    told = e.value.problems[0]
    assert told.where == "dataset.num_workers"
    assert "fewer dataset.num_workers" in told.fix


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path):
    kpi = train_tiny(
        tmp_path, train__num_epochs=50, train__early_stopping_patience=2, train__optim__lr=0.0
    )
    assert kpi["best_epoch"] == 0
    assert len(rows_without_seconds(tmp_path)) == 3
    assert (tmp_path / "train/model_epoch_002_step_00018.pth").exists()


def test_the_last_epoch_is_saved_whatever_the_interval(tmp_path):
    train_tiny(tmp_path, train__checkpoint_interval=2)
    found = [p.name for p in checkpoints.find_checkpoints(tmp_path / "train")]
    assert found == ["model_epoch_001_step_00012.pth", LAST]


def test_step_intervals_count_optimiser_steps(tmp_path):
    train_tiny(tmp_path, train__checkpoint_interval=5, train__checkpoint_interval_unit="step")
    steps = [int(p.stem[-5:]) for p in checkpoints.find_checkpoints(tmp_path / "train")]
    assert steps == [5, 10, 15, 18]


def test_validation_runs_at_its_interval_and_at_the_end(tmp_path):
    train_tiny(tmp_path, train__num_epochs=5, train__validation_interval=2)
    validated = [bool(row["val_acc"]) for row in rows_without_seconds(tmp_path)]
    assert validated == [False, True, False, True, True]


def test_without_validation_data_training_says_so(tmp_path, capfd):
    blind = replace(TINY, common=lambda spec: replace(TINY.common(spec), has_validation=False))
    kpi = train.run(blind, tiny_spec(tmp_path))
    assert sorted(kpi) == ["train_acc", "train_loss"]
    assert "No validation data: no best.pth" in capfd.readouterr().err
    assert not (tmp_path / "train/best.pth").exists()


def test_pretrained_weights_start_a_run_with_another_head(tmp_path, capfd):
    train_tiny(tmp_path / "a")
    source = tmp_path / "a/train/best.safetensors"
    train_tiny(
        tmp_path / "b",
        model__pretrained_model_path=str(source),
        dataset__num_classes=5,
        train__optim__lr=0.0,
        train__num_epochs=1,
    )
    told = capfd.readouterr().err
    assert "7 of 9 tensors loaded; new head, other number of classes: fcn.weight, fcn.bias" in told
    ours = checkpoints.load_checkpoint(tmp_path / "b/train/ty_model_latest.pth").weights
    assert torch.equal(
        ours["body.weight"], checkpoints.load_checkpoint(source).weights["body.weight"]
    )
    assert ours["fcn.weight"].shape == (5, 8)


def test_status_lines_tell_the_truth(tmp_path):
    kpi = train_tiny(tmp_path)
    lines = statuses(tmp_path)
    assert lines[0]["message"] == "Starting Tiny train."
    assert [line["status"] for line in lines[:2]] == ["STARTED", "STARTED"]
    assert lines[-1] | {"date": "", "time": ""} == {
        "date": "", "time": "", "status": "SUCCESS", "verbosity": "INFO",
        "message": "Train finished successfully.", "kpi": kpi,
    }  # fmt: skip
    epochs = [line for line in lines if line.get("message") == "Training loop in progress"]
    assert [(e["epoch"], e["step"], e["max_epoch"], e["max_step"]) for e in epochs] == [
        (0, 6, 2, 18), (1, 12, 2, 18), (2, 18, 2, 18),
    ]  # fmt: skip
    assert all("kpi" not in line for line in epochs)  # not sticky
    kinds = [line["message"] for line in lines if "kpi" in line]
    assert kinds == ["Train metrics generated.", "Eval metrics generated."] * 3 + [
        "Train finished successfully."
    ]


def test_curves_have_the_names_that_users_watch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_tiny(tmp_path, train__tensorboard=True)
    events = EventAccumulator(str(tmp_path / "train/tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "lr", "train_acc_1_epoch", "train_acc_1_step", "train_loss_epoch", "train_loss_step",
        "val_acc", "val_acc_1", "val_loss",
    ]  # fmt: skip
    assert [event.step for event in events.Scalars("val_acc")] == [6, 12, 18]


class Torn(TinyData):
    """Data of which sample 3 of each split is read in part."""

    def read(self, indices, epoch):
        damaged = {3: "cut off"} if 3 in indices else {}
        return replace(super().read(indices, epoch), remarks=Remarks(damaged=damaged))


def test_damaged_samples_are_told_of_both_sets_and_once(tmp_path, capsys):
    train.run(replace(TINY, build_dataset=Torn), tiny_spec(tmp_path, dataset__batch_size=13))
    said = capsys.readouterr().err
    for told in ("1 of 26 samples are damaged", "1 of 11 validation samples are damaged"):
        assert said.count(told) == 1
    assert "the first, 'val-3': cut off." in said
