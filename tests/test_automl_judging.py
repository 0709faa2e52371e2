"""What trials are held against: the baseline, and the best measured on held-out data."""

import shlex

import pytest

import whole_searches
from whole_searches import RANDOM, run


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return whole_searches.install(monkeypatch)


def test_the_best_is_measured_on_held_out_data_where_there_are_any(tmp_path, fake):
    view = run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert view.final.value == pytest.approx(0.71)
    assert view.final.where == "accuracy on /data/test, held out"
    (spec,) = fake.evaluated
    assert spec["evaluate"]["checkpoint"].endswith("best.pth")
    assert spec["model"]["dropout"] == view.best.params["model.dropout"]
    run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert len(fake.evaluated) == 1  # once for all
    run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/other")
    assert len(fake.evaluated) == 2


@pytest.mark.parametrize(
    ("seen_in", "told"),
    [("train", "the very data it was trained on"), ("val", "the very data it was chosen on"),
     (None, "held out")],
)  # fmt: skip
def test_data_that_training_has_seen_are_not_called_held_out(tmp_path, fake, seen_in, told):
    fake.evaluation = {**fake.evaluation, "seen_in": seen_in}
    view = run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert view.final.where == f"accuracy on /data/test, {told}"
    assert view.final.is_seen == (seen_in is not None)


def test_labels_of_held_out_data_are_named_wherever_the_data_are(tmp_path, fake):
    held_out = {"data_path": "/data/it's a test.npy", "label_path": "/other/label.json"}
    words = [f"evaluate.test_dataset.{key}={value}" for key, value in held_out.items()]
    view = run(tmp_path, RANDOM, *words)
    (spec,) = fake.evaluated
    assert spec["evaluate"]["test_dataset"] == held_out
    _, evaluate = view.next_steps
    said = dict(word.split("=", 1) for word in shlex.split(evaluate)[3:])
    assert {f"evaluate.test_dataset.{key}": value for key, value in held_out.items()}.items() <= (
        said.items()
    )
    view = run(tmp_path / "other", RANDOM, "evaluate.test_dataset.label_path=/other/label.json")
    assert view.final is None  # labels alone are no data
    assert view.next_steps[1].endswith("evaluate.test_dataset.data_path=TEST_DATA")


def test_without_held_out_data_the_user_is_told_where_the_best_was_chosen(tmp_path, fake):
    told = []
    view = run(tmp_path, RANDOM, tell=told.append)
    assert view.final is None
    assert view.selected_on == "the validation data /data/val"
    assert not fake.evaluated
    assert any("Set evaluate.test_dataset.data_path to data held out" in text for text in told)


def test_an_evaluation_that_fails_ends_nothing(tmp_path, fake):
    fake.faults = {"evaluate": 3}
    view = run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert view.final.value is None
    assert view.final.where == "not measured: no such data"
    assert view.best is not None


def test_the_baseline_is_the_spec_itself_or_the_weights_it_starts_from(tmp_path, fake):
    view = run(tmp_path / "scratch", RANDOM)
    assert view.baseline.value == view.trials[0].value
    assert view.baseline.where == "trial 0, the values of the spec"
    words = (RANDOM, "automl.run_baseline=true", "model.pretrained_model_path=/data/start.pth")
    view = run(tmp_path / "tuned", *words)
    assert fake.evaluated[0]["evaluate"]["checkpoint"] == "/data/start.pth"
    assert fake.evaluated[0]["evaluate"]["test_dataset"]["data_path"] == "/data/val"
    assert view.baseline.value == pytest.approx(0.71)
