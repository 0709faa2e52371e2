"""The alarm of a training that does not learn: what guessing is, when it is told, and why."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from kineme.engine.chance import Chance, chance_of, class_weights, read_chance
from kineme.engine.health import Watch, is_guessing, learning_alarm
from kineme.engine.names import read_metrics
from kineme.report.findings import Training, find_next_steps
from kineme.report.scores import compute_scores
from tiny_training import one_thread, statuses, train_tiny

EVEN = Chance(0.1, math.log(10), 1000)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def settings(**changes):
    optim = SimpleNamespace(lr=0.1, warmup_epochs=changes.pop("warmup_epochs", 0))
    values = {"class_weights": "none", "label_smoothing": 0.0, "optim": optim}
    return SimpleNamespace(**{**values, **changes})


def test_chance_is_the_largest_class_and_the_entropy_of_the_classes():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 1)
    found = chance_of(labels, settings(), num_classes=4)
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert found == Chance(0.6, pytest.approx(entropy), 10)
    assert chance_of(labels, settings(class_weights="balanced"), num_classes=3).loss == (
        pytest.approx(math.log(3))
    )
    assert chance_of(labels, settings(), num_classes=3, is_distilled=True).loss is None


@pytest.mark.parametrize("weights", ["none", "balanced", [1.0, 3.0, 0.5, 2.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_constant_answer_has_a_lower_loss_than_chance(weights, smoothing):
    """By search: the best logits that know nothing of the sample, in torch's own loss."""
    labels = np.array([0] * 12 + [1] * 5 + [2] * 2 + [3])
    asked = settings(class_weights=weights, label_smoothing=smoothing)
    counted = class_weights(weights, labels, 4)
    weight = None if counted is None else torch.tensor(counted, dtype=torch.float64)
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def loss():
        return functional.cross_entropy(
            logits.expand(20, 4), torch.from_numpy(labels), weight, label_smoothing=smoothing
        )

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    assert chance_of(labels, asked, num_classes=4).loss == pytest.approx(loss().item(), abs=1e-6)


def told(
    curve, chance=EVEN, steps_per_epoch=64, rate=0.1, norm=1.0, word="not learning", **changes
):
    """Epochs (from 1) and texts of alarms with a word over a curve of (train_loss, train_acc)."""
    watch = Watch(chance, settings(**changes), rate, steps_per_epoch, 16)
    before, found = {}, []
    for epoch, (loss, accuracy) in enumerate(curve):
        figures = {"train_loss": loss, "train_acc": accuracy}
        texts = watch.warnings(figures, before, epoch=epoch, norm=norm)
        found += [(epoch + 1, text) for text in texts if word in text]
        before = figures
    return found


def curve(num_epochs, pace, floor=0.2, start=2.6):
    """Loss that falls towards `floor`, accuracy that rises with it."""
    at = np.arange(num_epochs)
    loss = floor + (start - floor) * np.exp(-at / pace)
    return [(float(x), float(np.clip(1 - x / 2.303, 0.1, 1))) for x in loss]


@pytest.mark.parametrize("pace", [1, 2, 5, 8])
@pytest.mark.parametrize("steps_per_epoch", [4, 20, 64, 2000])
def test_a_training_that_learns_is_no_alarm_however_its_first_epochs_look(pace, steps_per_epoch):
    assert told(curve(30, pace), steps_per_epoch=steps_per_epoch) == []


def test_a_loss_far_above_guessing_is_told_once_where_it_does_not_fall_from_there():
    few = Chance(1 / 3, 1.1, 500)
    assert told([(21.5, 0.3), (14.0, 0.4), (1.0, 0.6)], few, word="far above") == []
    found = told([(21.5, 0.3), (22.0, 0.3), (30.0, 0.3)], few, word="far above", rate=0.0125)
    assert found == [
        (2, "train_loss 22 of epoch 2 is far above guessing (1.1): is the learning rate, 0.0125, "
            "too high?"),
    ]  # fmt: skip
    assert [epoch for epoch, _ in told([(2e3, 0.3)], few, word="far above")] == [1]


def test_an_unbalanced_training_that_learns_is_no_alarm():
    """The majority share for a while, while the loss is already below the entropy of classes."""
    rare = Chance(0.9, 0.325, 500)
    assert told([(0.5, 0.88), (0.33, 0.9), (0.31, 0.9), (0.3, 0.9), (0.28, 0.9)], rare) == []
    assert told([(0.325, 0.9)] * 8, rare)[0][1].endswith("set train.class_weights: balanced.")


def test_noise_around_guessing_is_an_alarm_once():
    generator = np.random.default_rng(0)
    noisy = [(2.31 + generator.normal(0, 0.01), 0.1 + generator.normal(0, 0.009))] * 20
    [(epoch, text)] = told(noisy)
    assert epoch == 5
    assert text.startswith("Epoch 5: It is not learning: train_acc 0.0")
    assert "no better than guessing (0.100 and 2.3)" in text
    assert text.endswith("try a tenth of it, then ten times.")


@pytest.mark.parametrize(
    ("steps_per_epoch", "warmup", "epoch"),
    [(64, 0, 5), (10, 0, 10), (600, 0, 2), (64, 3, 8), (2, 0, None)],
)
def test_the_alarm_waits_for_enough_steps_after_the_warm_up(steps_per_epoch, warmup, epoch):
    found = told([(2.31, 0.1)] * 12, steps_per_epoch=steps_per_epoch, warmup_epochs=warmup)
    assert [at for at, _ in found] == ([epoch] if epoch else [])


def test_the_likely_cause_is_told():
    at = {"rate": 0.1, "samples_per_step": 16}

    def cause(loss, accuracy, before=None, **changes):
        text = learning_alarm(
            {"train_loss": loss, "train_acc": accuracy}, {"train_loss": before or loss}, EVEN,
            **{**at, **changes},
        )  # fmt: skip
        return text.partition("). ")[2]

    assert cause(3.1, 0.12) == (
        "The rate, 0.1, is likely too high for steps of 16 samples: try a tenth of it."
    )
    assert cause(2.29, 0.11, before=2.34, rate=1e-5) == (
        "The loss still falls: the rate, 1e-05, is likely too low for steps of 16 samples."
    )
    assert cause(2.3, 0.1).startswith("Check that labels belong to their samples; if they do,")
    still = "The weights stand still: the rate is 0, or no gradient reaches them."
    assert cause(2.3, 0.1, rate=0.0) == cause(2.3, 0.1, is_frozen=True) == still
    assert cause(2.5, 0.3) != ""  # right more often, and yet worse than who tells the shares
    assert cause(1.9, 0.1) == cause(2.2, 0.2) == ""


def test_a_loss_of_more_than_labels_is_not_held_against_them():
    distilled = Chance(0.1, None, 1000)
    assert is_guessing({"train_loss": 9.0, "train_acc": 0.1}, distilled)
    assert not is_guessing({"train_loss": 9.0, "train_acc": 0.2}, distilled)


def test_a_training_of_shuffled_labels_says_so_in_log_status_and_report(tmp_path, capfd):
    train_tiny(
        tmp_path, dataset__shuffled_labels=True, train__num_epochs=6, train__optim__lr=1e-6,
        dataset__num_samples=120, dataset__noise=3.0,
    )  # fmt: skip
    line = next(x for x in statuses(tmp_path) if "not learning" in x.get("message", ""))
    assert line["status"] == "RUNNING"
    assert line["message"].startswith("Epoch 5: It is not learning: train_acc 0.")
    assert capfd.readouterr().err.count("It is not learning") == 1
    facts = json.loads((tmp_path / "train" / "last.json").read_text())
    chance = read_chance(facts)
    assert chance == Chance(pytest.approx(1 / 3), pytest.approx(math.log(3)), 120)
    history = [
        {name: float(value) for name, value in row.items() if value}
        for row in read_metrics(tmp_path / "train" / "metrics.csv")
    ]
    scores = compute_scores(np.arange(9) % 3, np.eye(3)[np.arange(9) % 3], class_names="abc")
    first = find_next_steps(scores, history=history, training=Training(chance=chance))[0]
    assert first.title == "It has not learned its training data"
    assert first.seen.endswith("guessing gives 33.3 % and 1.1.")
    assert find_next_steps(scores, history=history, training=Training())[0] != first


def test_a_training_that_learns_says_nothing(tmp_path, capfd):
    train_tiny(tmp_path, train__num_epochs=20)
    assert "not learning" not in capfd.readouterr().err


@pytest.mark.parametrize("facts", [{}, {"chance": 3}, {"chance": {"accuracy": "x"}}])
def test_a_checkpoint_that_does_not_tell_its_chance_is_read_all_the_same(facts):
    assert read_chance(facts) is None
