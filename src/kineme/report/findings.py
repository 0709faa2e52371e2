"""What to fix next: the few things that predictions and curves say loudest.

Promises: a finding names what was seen in figures and one thing to try, most harmful
first; nothing is said that the figures do not show. Thresholds stand in this file alone.
Leaves out: looking into the data itself; what was said of them stands under what was run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kineme.engine.chance import Chance
from kineme.engine.health import is_guessing
from kineme.errors import listed
from kineme.report.plots import Curve, curves_of
from kineme.report.scores import Scores

NUM_SHOWN = 6
CONFUSED_SHARE = 0.08  # of a class's samples, before two classes count as confused
NUM_CONFUSIONS = 3
GAP_LEARNED_BY_HEART = 0.12  # train accuracy minus held-out accuracy
GAP_OVERCONFIDENT = 0.06  # mean confidence minus accuracy
WIDE_INTERVAL = 0.10
IMBALANCE = 5.0
OCCLUSION_DROP = 0.15
OCCLUDED_SHARE = 0.3


@dataclass(frozen=True)
class Training:
    """How the model was trained, as far as advice depends on it.

    augmentation_key: the section of the network's spec that changes training samples, "" for none.
    learning_rate: None where nobody knows. chance: what guessing reached on its data.
    """

    augmentation_key: str = ""
    learning_rate: float | None = None
    chance: Chance | None = None


@dataclass(frozen=True)
class Finding:
    """Something to fix. `weight` orders findings: about how much accuracy it may cost."""

    title: str
    seen: str
    fix: str
    weight: float


def find_next_steps(
    scores: Scores,
    *,
    history: Sequence[Mapping[str, float]] = (),
    occlusion: Mapping[str, Curve] | None = None,
    training: Training | None = None,
) -> tuple[Finding, ...]:
    """The most harmful findings first, at most NUM_SHOWN."""
    training = training or Training()
    found = [
        *_about_learning(scores, history, training),
        *_about_confusions(scores),
        *_about_classes(scores),
        *_about_trust(scores),
        *_about_occlusion(scores, occlusion or {}, training),
    ]
    return tuple(sorted(found, key=lambda finding: -finding.weight)[:NUM_SHOWN])


def _about_confusions(scores: Scores) -> Iterator[Finding]:
    names = [_quoted(score.name) for score in scores.classes]
    totals = np.maximum(scores.confusion.sum(axis=1), 1)
    confusion = scores.confusion[:, : len(names)]
    both = confusion + confusion.T
    pairs = [
        (int(both[i, j]), i, j)
        for i in range(len(names))
        for j in range(i)
        if max(confusion[i, j] / totals[i], confusion[j, i] / totals[j]) >= CONFUSED_SHARE
        and both[i, j] > 1
    ]
    for count, i, j in sorted(pairs, reverse=True)[:NUM_CONFUSIONS]:
        if confusion[j, i] > confusion[i, j]:
            i, j = j, i
        there, back = int(confusion[i, j]), int(confusion[j, i])
        seen = f"{there} of {totals[i]} {names[i]} samples are called {names[j]}"
        seen += f", and {back} of {totals[j]} the other way." if back else ", none the other way."
        fix = (
            f"Watch the samples below: if a person can tell them apart, add more varied "
            f"{names[i]} samples; if not, the two labels may be one."
            if back * 3 >= there
            else f"{names[j]} takes over: add {names[i]} samples like the ones below, and check "
            f"that none of {names[j]} is labelled wrongly."
        )
        title = f"{names[i]} is mistaken for {names[j]}"
        yield Finding(title, seen, fix, count / max(scores.num_samples, 1))


def _about_learning(
    scores: Scores, history: Sequence[Mapping[str, float]], training: Training
) -> Iterator[Finding]:
    last = history[-1] if history else {}
    is_told = training.chance is not None and {"train_acc", "train_loss"} <= last.keys()
    if training.chance and is_told and is_guessing(last, training.chance):
        yield _about_guessing(last, training.chance)
        return
    chance = 1 / max(len(scores.classes), 1)
    low, high = scores.interval
    if scores.num_samples and low <= chance:
        rate = "" if training.learning_rate is None else f", which is {training.learning_rate:g}"
        is_above = scores.accuracy > chance
        fix = f"heck that labels belong to their samples, then lower train.optim.lr{rate}."
        yield Finding(
            f"{scores.num_samples:,} samples do not show it to be better than chance",
            f"Accuracy {_percent(scores.accuracy)}, 95 % interval {_percent(low)} to "
            f"{_percent(high)}; guessing gives {_percent(chance)}.",
            f"Test on more samples; if it stays so, c{fix}" if is_above else f"C{fix}",
            1.0,
        )
        return
    train = _series(history, "train_acc")
    held_out = _series(history, "val_acc")
    if train and train[-1] - scores.accuracy > GAP_LEARNED_BY_HEART:
        yield Finding(
            "Training samples are learned by heart",
            f"{_percent(train[-1])} right in training, {_percent(scores.accuracy)} here.",
            f"More people, views and sessions help most; then {_augmentation(training)}"
            "recipe: modern or a larger train.optim.weight_decay.",
            train[-1] - scores.accuracy,
        )
    elif train and train[-1] < 0.9 and train[-1] == max(train) and len(train) > 1:
        yield Finding(
            "Training stopped too early",
            f"Training accuracy was still rising, at {_percent(train[-1])}, in the last epoch.",
            "Raise train.num_epochs.",
            0.9 - train[-1],
        )
    if held_out and max(held_out) - held_out[-1] > 0.02:
        best = int(np.argmax(held_out)) + 1
        yield Finding(
            "The last epoch is not the best one",
            f"Validation accuracy was {_percent(max(held_out))} after epoch {best} of "
            f"{len(held_out)} and is {_percent(held_out[-1])} at the end.",
            "Use train.optim.lr_scheduler: cosine or train.ema_decay, so that training settles.",
            max(held_out) - held_out[-1],
        )


def _about_guessing(last: Mapping[str, float], chance: Chance) -> Finding:
    """That the last epoch of training was no better than guessing."""
    loss = f", loss {last['train_loss']:.3g}; guessing gives {_percent(chance.accuracy)}"
    return Finding(
        "It has not learned its training data",
        f"The last epoch: {_percent(last['train_acc'])} right{loss}"
        + (f" and {chance.loss:.3g}." if chance.loss else "."),
        "Check that labels belong to their samples; if they do, a tenth of train.optim.lr, then "
        "ten times it. Nothing below says anything until it learns.",
        1.0,
    )


def _about_classes(scores: Scores) -> Iterator[Finding]:
    absent = [_quoted(score.name) for score in scores.classes if not score.num_samples]
    if absent:
        yield Finding(
            f"{len(absent)} of {len(scores.classes)} classes were not tested",
            f"There is no sample of {listed(absent, 5)}.",
            "Add some to the test set; until then nothing is known of them.",
            0.04,
        )
    counts = [score.num_samples for score in scores.classes if score.num_samples]
    gap = scores.accuracy - scores.mean_class_accuracy
    if counts and max(counts) > IMBALANCE * min(counts) and gap > 0.03:
        yield Finding(
            "Rare classes are worse off",
            f"Mean class accuracy {_percent(scores.mean_class_accuracy)} against "
            f"{_percent(scores.accuracy)} over samples; classes have {min(counts)} to "
            f"{max(counts)} samples.",
            "Set train.class_weights: balanced, or record more of the rare classes.",
            gap,
        )
    low, high = scores.interval
    if scores.num_samples and high - low > WIDE_INTERVAL:
        yield Finding(
            "The test set is small",
            f"With {scores.num_samples} samples, the true accuracy may be anywhere from "
            f"{_percent(low)} to {_percent(high)}.",
            "Do not choose between models by less than that; test on more samples.",
            0.03,
        )


def _about_trust(scores: Scores) -> Iterator[Finding]:
    gap = scores.mean_confidence - scores.accuracy
    if math.isnan(gap) or abs(gap) < GAP_OVERCONFIDENT:
        return
    seen = (
        f"It is {_percent(scores.mean_confidence)} sure on average and right in "
        f"{_percent(scores.accuracy)}."
    )
    if gap > 0:
        fix = "Set train.label_smoothing: 0.1, and choose thresholds on held-out data."
        yield Finding("Probabilities promise too much", seen, fix, 0.025)
    else:
        fix = "Train longer or smooth labels less; thresholds can be lower than they look."
        yield Finding("Probabilities promise too little", seen, fix, 0.015)


def _augmentation(training: Training) -> str:
    return f"{training.augmentation_key}, " if training.augmentation_key else ""


def _about_occlusion(
    scores: Scores, curves: Mapping[str, Curve], training: Training
) -> Iterator[Finding]:
    """The part of the body, and the kind of gap, whose loss costs most."""
    where = f" ({training.augmentation_key})" if training.augmentation_key else ""
    fix = f"Train with joint_dropout_prob, limb_dropout_prob, time_dropout_prob{where}."
    drops: dict[bool, list[tuple[float, str, float, float]]] = {True: [], False: []}
    for name, curve in curves.items():
        shares = np.array(sorted(curve), dtype=float).T
        hidden = OCCLUDED_SHARE if len(curve) > 1 else float(shares[0, 0])
        after = float(np.interp(hidden, shares[0], shares[1]))
        drops[len(curve) > 1].append((scores.accuracy - after, name, hidden, after))
    for worst in (max(found) for found in drops.values() if found):
        drop, name, hidden, after = worst
        if drop > OCCLUSION_DROP:
            seen = f"With {100 * hidden:.0f} % missing, accuracy is {_percent(after)}"
            seen += f" in place of {_percent(scores.accuracy)}."
            yield Finding(f"Hiding {name} breaks it", seen, fix, drop / 4)


def _series(history: Sequence[Mapping[str, float]], name: str) -> list[float]:
    curve = next(iter(curves_of(history, name).values()), ())
    return [value for _, value in curve]


def _quoted(name: str) -> str:
    return f"'{name}'"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
