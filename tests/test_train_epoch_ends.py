"""How an epoch ends: validation that cannot say, and a kill before all is kept."""

from dataclasses import replace

import pytest

from kineme.actions import train
from kineme.network import Remarks
from tiny import TINY, content_of, same, tiny_spec


def _answering(monkeypatch, **remarks):
    """Let validation have these remarks on its samples, whatever the model says."""
    real = train.predict

    def predict(fabric, model, feed, **settings):
        answers = real(fabric, model, feed, **settings)
        told = {name: dict.fromkeys(chosen, "so") for name, chosen in remarks.items()}
        return replace(answers, remarks=Remarks(**told))

    monkeypatch.setattr(train, "predict", predict)


def test_a_validation_that_can_read_nothing_judges_nothing(tmp_path, monkeypatch):
    _answering(monkeypatch, failed=range(11))
    kpi = train.run(TINY, tiny_spec(tmp_path, train__num_epochs=2))
    assert set(kpi) == {"train_loss", "train_acc"}
    assert not (tmp_path / "train" / "best.pth").exists()
    assert "11 of 11 validation samples cannot be read" in (tmp_path / "train/log.txt").read_text()


def test_samples_without_anything_to_classify_are_wrong_as_in_an_evaluation(tmp_path, monkeypatch):
    kpi = train.run(TINY, tiny_spec(tmp_path / "a", train__num_epochs=1))
    _answering(monkeypatch, blank=range(11))
    assert train.run(TINY, tiny_spec(tmp_path / "b", train__num_epochs=1))["val_acc"] == 0
    assert kpi["val_acc"] > 0


def test_a_run_killed_between_its_last_step_and_the_epochs_end_ends_alike(tmp_path, monkeypatch):
    settings = {
        "train__checkpoint_interval_unit": "step",
        "train__optim__lr_steps": [1, 2],
        "train__num_epochs": 3,
    }
    real = train._end_epoch

    def killed(job, seconds):
        if job.training.progress.epoch == 2:
            raise RuntimeError("killed")
        real(job, seconds)

    train.run(TINY, tiny_spec(tmp_path / "whole", **settings))
    with monkeypatch.context() as patch:
        patch.setattr(train, "_end_epoch", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train.run(TINY, tiny_spec(tmp_path / "killed", **settings))
    train.run(TINY, tiny_spec(tmp_path / "killed", **settings, train__resume=True))
    last = "train/model_epoch_002_step_00018.pth"
    assert same(*(content_of(tmp_path / name / last) for name in ("whole", "killed")))
