"""The training loop in one process: what it leaves, and that it continues exactly."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from kineme.actions import train
from kineme.engine import checkpoint as checkpoints
from kineme.engine import health
from kineme.engine.results import read_metrics
from kineme.engine.runtime import Interrupted
from kineme.errors import CheckpointError, DataError, QualityError, ResourceError, SpecError
from tiny import TINY, content_of, same, tiny_spec

LAST = "model_epoch_002_step_00018.pth"  # 26 samples, batch 4: 6 steps, 3 epochs


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train_tiny(folder, **changes):
    return train.run(TINY, tiny_spec(folder, **{"train__num_epochs": 3, **changes}))


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Let the process get a signal during the given step, counted from 1 over all runs."""
    real, count = train._step, 0

    def step_and_signal(job, batch):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        return real(job, batch)

    monkeypatch.setattr(train, "_step", step_and_signal)


def rows_without_seconds(folder):
    return [{**row, "seconds": ""} for row in read_metrics(folder / "train" / "metrics.csv")]


def statuses(folder):
    return [json.loads(line) for line in (folder / "train/status.json").read_text().splitlines()]


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


STATEFUL = {
    "train__ema_decay": 0.9,
    "train__optim__lr_scheduler": "AutoReduce",
    "train__optim__lr_monitor": "train_loss",
    "train__early_stopping_patience": 3,
    "train__grad_clip": 0.5,
}


def check_exact_resume(tmp_path, monkeypatch, steps, **changes):
    """T07, T08: stop at each of `steps`, resume, and compare everything bitwise."""
    train_tiny(tmp_path / "whole", **changes)
    whole = content_of(tmp_path / "whole/train" / LAST)
    for step in steps:
        folder = tmp_path / f"stopped-{step}"
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Interrupted) as stopped:
                train_tiny(folder, **changes)
        assert stopped.value.exit_code == 143
        assert checkpoints.find_checkpoints(folder / "train")[-1].name.endswith(f"{step:05d}.pth")
        train_tiny(folder, train__resume=True, **changes)
        assert same(content_of(folder / "train" / LAST), whole), step
        assert rows_without_seconds(folder) == rows_without_seconds(tmp_path / "whole")


def test_a_run_stopped_at_any_step_ends_bitwise_like_one_that_was_not(tmp_path, monkeypatch):
    check_exact_resume(tmp_path, monkeypatch, range(1, 19))


def test_exact_resume_with_two_workers_and_every_kind_of_state(tmp_path, monkeypatch):
    steps = (1, 6, 7, 11)
    check_exact_resume(tmp_path, monkeypatch, steps, dataset__num_workers=2, **STATEFUL)


def test_exact_resume_in_bf16_with_warmup_and_cosine(tmp_path, monkeypatch):
    changes = {
        "train__precision": "bf16-mixed",
        "train__optim__lr_scheduler": "cosine",
        "train__optim__warmup_epochs": 1,
        "train__optim__optimizer_type": "Adam",
        "train__ema_decay": 0.9,
    }
    check_exact_resume(tmp_path, monkeypatch, (2, 6, 13), **changes)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adamax"])
def test_exact_resume_at_every_step_long(tmp_path, monkeypatch, num_workers, precision, optimizer):
    changes = {
        **STATEFUL,
        "dataset__num_workers": num_workers,
        "train__precision": precision,
        "train__optim__optimizer_type": optimizer,
    }
    check_exact_resume(tmp_path, monkeypatch, range(1, 19), **changes)


def test_a_stop_during_validation_saves_and_resumes_exactly(tmp_path, monkeypatch, capfd):
    train_tiny(tmp_path / "whole")
    with monkeypatch.context() as patch:
        real = train.predict

        def predict_and_signal(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGTERM)
            return real(*args, **kwargs)

        patch.setattr(train, "predict", predict_and_signal)
        with pytest.raises(Interrupted):
            train_tiny(tmp_path / "stopped")
    assert rows_without_seconds(tmp_path / "stopped") == []
    capfd.readouterr()
    train_tiny(tmp_path / "stopped", train__resume=True)
    assert "gradients are zero" not in capfd.readouterr().err
    whole, resumed = (content_of(tmp_path / x / "train" / LAST) for x in ("whole", "stopped"))
    assert same(whole, resumed)


def test_runs_of_some_epochs_each_end_bitwise_like_one_of_all(tmp_path):
    schedule = {
        "train__num_epochs": 3,
        "train__optim__lr_scheduler": "cosine",
        "train__ema_decay": 0.9,
    }
    train_tiny(tmp_path / "whole", **schedule)
    for stop_epoch in (1, 2, 0):
        train_tiny(tmp_path / "parts", train__stop_epoch=stop_epoch, train__resume=True, **schedule)
        num_epochs = len(rows_without_seconds(tmp_path / "parts"))
        assert num_epochs == (stop_epoch or 3)
    whole, parts = (content_of(tmp_path / x / "train" / LAST) for x in ("whole", "parts"))
    assert same(whole, parts)
    assert rows_without_seconds(tmp_path / "parts") == rows_without_seconds(tmp_path / "whole")


def test_a_run_validates_in_the_epoch_that_it_stops_after(tmp_path):
    figures = train_tiny(
        tmp_path, train__num_epochs=5, train__validation_interval=5, train__stop_epoch=2
    )
    assert "val_acc" in figures


def test_a_finished_run_says_so(tmp_path, capfd):
    first = train_tiny(tmp_path)
    assert train_tiny(tmp_path, train__resume=True) == first
    assert "Already finished: 3 epochs" in capfd.readouterr().err
    assert statuses(tmp_path)[-1]["status"] == "SUCCESS"


def test_more_epochs_continue_a_finished_run(tmp_path):
    train_tiny(tmp_path, train__num_epochs=2)
    train_tiny(tmp_path, train__num_epochs=3, train__resume=True)
    assert [row["epoch"] for row in rows_without_seconds(tmp_path)] == ["0", "1", "2"]


def test_old_results_are_not_mixed_in_without_asking(tmp_path):
    train_tiny(tmp_path, train__num_epochs=1)
    before = (tmp_path / "train/status.json").read_bytes()
    with pytest.raises(
        SpecError, match=r"holds model_epoch_000_step_00006\.pth\. Set train.resume"
    ):
        train_tiny(tmp_path)
    assert (tmp_path / "train/status.json").read_bytes() == before


def test_an_older_checkpoint_is_not_continued_over_newer_ones(tmp_path):
    train_tiny(tmp_path)
    older = tmp_path / "train/model_epoch_000_step_00006.pth"
    with pytest.raises(SpecError, match=r"holds model_epoch_002_step_00018\.pth"):
        train_tiny(tmp_path, train__resume_training_checkpoint_path=str(older))
    train_tiny(tmp_path / "other", train__resume_training_checkpoint_path=str(older))
    assert same(content_of(tmp_path / "other/train" / LAST), content_of(tmp_path / "train" / LAST))


def test_resume_in_an_empty_folder_starts_anew_and_says_so(tmp_path, capfd):
    train_tiny(tmp_path, train__resume=True)
    assert "holds no checkpoint; starting anew" in capfd.readouterr().err
    assert (tmp_path / "train" / LAST).exists()


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path, capfd):
    train_tiny(tmp_path)
    whole = content_of(tmp_path / "train" / LAST)
    damaged = tmp_path / "train" / LAST
    damaged.write_bytes(damaged.read_bytes()[:-500])
    train_tiny(tmp_path, train__resume=True)
    told = capfd.readouterr().err
    assert f"{LAST}: expected a whole checkpoint" in told
    assert "Continuing model_epoch_001_step_00012.pth" in told
    assert same(content_of(tmp_path / "train" / LAST), whole)


def test_a_damaged_checkpoint_that_was_named_ends_with_4(tmp_path):
    train_tiny(tmp_path / "a")
    damaged = tmp_path / "a/train" / LAST
    damaged.write_bytes(b"")
    with pytest.raises(CheckpointError, match="an empty file") as caught:
        train_tiny(tmp_path / "b", train__resume_training_checkpoint_path=str(damaged))
    assert caught.value.exit_code == 4


def test_a_checkpoint_of_another_model_is_refused_with_both_values(tmp_path):
    train_tiny(tmp_path / "a", model__width=8)
    path = str(tmp_path / "a/train" / LAST)
    with pytest.raises(CheckpointError) as caught:
        train_tiny(
            tmp_path / "b",
            train__resume_training_checkpoint_path=path,
            model__width=16,
            dataset__num_classes=5,
        )
    assert str(caught.value).splitlines() == [
        f"model.width: expected 8 as in {LAST}, got 16. "
        "Remove it from the spec, or use another checkpoint.",
        f"dataset.num_classes: expected 3 as in {LAST}, got 5. "
        "To learn other classes from it, make it model.pretrained_model_path instead.",
    ]


def test_what_the_user_left_open_comes_from_the_checkpoint(tmp_path):
    train_tiny(tmp_path / "a", model__width=16, train__num_epochs=1)
    path = str(tmp_path / "a/train/model_epoch_000_step_00006.pth")
    train_tiny(tmp_path / "b", train__resume_training_checkpoint_path=path, train__num_epochs=2)
    weights = checkpoints.load_checkpoint(tmp_path / "b/train/ty_model_latest.pth").weights
    assert weights["body.weight"].shape == (16, 4)


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


def test_training_at_chance_asks_about_labels_and_rate():
    labels = np.array([0, 0, 1, 2])  # guessing the first class is right half the time
    figures = {"train_acc": 0.52, "train_loss": 1.0}
    assert health.epoch_warnings(figures, labels, epoch=3, lr=0.1) == []
    assert health.epoch_warnings(figures, labels, epoch=4, lr=0.1) == [
        "After 5 epochs train_acc is 0.520, no better than guessing (0.500): is the label mapping"
        " right, or train.optim.lr 0.1 too high?"
    ]
    figures["train_acc"] = 0.6
    assert health.epoch_warnings(figures, labels, epoch=4, lr=0.1) == []


def test_a_loss_that_explodes_is_a_warning(tmp_path, capfd):
    train_tiny(tmp_path, train__num_epochs=1, train__optim__lr=1000.0, model__batch_norm=False)
    assert "is far above guessing (1.1): is train.optim.lr 1000 too high?" in capfd.readouterr().err


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


def test_a_seed_below_zero_is_drawn_told_and_kept_on_resume(tmp_path, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(Interrupted):
            train_tiny(tmp_path, train__seed=-1)
    first = capfd.readouterr().err.split("train.seed is -1: using ")[1].split(".")[0]
    train_tiny(tmp_path, train__seed=-1, train__resume=True)
    assert f"train.seed is -1: using {first}." in capfd.readouterr().err


def test_a_second_sigint_does_not_wait(tmp_path, monkeypatch):
    real = train._step

    def interrupted_twice(job, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return real(job, batch)

    monkeypatch.setattr(train, "_step", interrupted_twice)
    with pytest.raises(Interrupted) as caught:
        train_tiny(tmp_path)
    assert caught.value.exit_code == 130
    assert checkpoints.find_checkpoints(tmp_path / "train") == []
    assert statuses(tmp_path)[-1]["message"].startswith("User/System interruption: SIGINT")


def test_one_sigint_saves_first(tmp_path, monkeypatch):
    stop_at(monkeypatch, 8, signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        train_tiny(tmp_path)
    assert caught.value.exit_code == 130
    assert str(caught.value) == (
        "SIGINT: expected to run to the end, got a request to stop in epoch 2 of 3, step 8. "
        f"A checkpoint is in {tmp_path}/train; set train.resume=true to continue."
    )
    assert (tmp_path / "train/model_epoch_001_step_00008.pth").exists()


def test_a_lighter_checkpoint_is_not_one_to_resume(tmp_path):
    train_tiny(tmp_path / "a")
    weights = checkpoints.load_checkpoint(tmp_path / "a/train" / LAST).weights
    bare = tmp_path / "bare.pth"
    torch.save(dict(weights), bare)
    with pytest.raises(CheckpointError, match="that kineme's training wrote, got weights only"):
        train_tiny(tmp_path / "b", train__resume_training_checkpoint_path=str(bare))


def test_another_batch_size_continues_the_same_order(tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Interrupted):
            train_tiny(tmp_path, train__num_epochs=1)  # 3 steps of 4: 12 samples
    seen = []
    real = train._step
    monkeypatch.setattr(
        train, "_step", lambda job, b: (seen.extend(b.indices.tolist()), real(job, b))[1]
    )
    train_tiny(tmp_path, train__num_epochs=1, train__resume=True, dataset__batch_size=6)
    from kineme.data.randomness import permutation

    assert seen == permutation(1234, 0, 26)[12:24].tolist()
