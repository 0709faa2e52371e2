"""Trainings that stop and go on: bitwise as if they had not, from whole checkpoints alone."""

import os
import signal

import pytest
import torch

from kineme.actions import train
from kineme.engine import checkpoint as checkpoints
from kineme.errors import CheckpointError, SpecError
from kineme.signals import Interrupted
from tiny import content_of, same
from tiny_training import LAST, one_thread, rows_without_seconds, statuses, stop_at, train_tiny


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


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


def test_the_best_comes_along_into_another_folder_or_is_forgotten(tmp_path, capfd):
    train_tiny(tmp_path)  # its first epoch is the best
    older = tmp_path / "train/model_epoch_000_step_00006.pth"
    best, words = (
        tmp_path / "train/best.pth",
        {"train__resume_training_checkpoint_path": str(older)},
    )
    train_tiny(tmp_path / "with", **words)
    assert (tmp_path / "with/train/best.pth").read_bytes() == best.read_bytes()
    assert (tmp_path / "with/train/best.safetensors").exists()
    assert "best from now on" not in capfd.readouterr().err
    train_tiny(tmp_path / "locked", encryption_key="k", **words)
    assert not (tmp_path / "locked/train/best.pth").read_bytes().startswith(b"PK")
    best.unlink()
    train_tiny(tmp_path / "without", **words)
    told = "no best checkpoint of epoch 1 to take along, so the best from now on is kept."
    assert f"{tmp_path / 'train'}: {told}" in capfd.readouterr().err
    assert content_of(tmp_path / "without/train/best.pth")["epoch"] == 1


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
