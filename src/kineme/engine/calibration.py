"""Probabilities that mean what they say, and samples that are none of the classes.

Promises: pure numpy, a function of scores and labels alone; calibrated scores rank the
classes as before, and a temperature of 1 changes no bit; at least 95 % of the samples that
a threshold is fitted on are kept.
Leaves out: when it is fitted (actions/train.py), how it is drawn (report).

The temperature is that of Guo et al. 2017. N samples, C classes; scores are log probabilities
(N, C), of which softmax makes the same as of the logits.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.engine import metrics
from kineme.engine.metrics import Labels, Scores, Shares
from kineme.errors import CheckpointError

NUM_BINS = 10
SCORE = "negative_entropy"  # the name of `familiarity`
KEPT_SHARE = 0.95  # of the samples that a threshold is fitted on
UNKNOWN = "unknown"  # what is said of a sample in place of a class
LOWEST, HIGHEST = 0.01, 100.0  # temperatures
_FARTHEST = 100.0  # log probabilities are not told apart below the largest minus this


@dataclass(frozen=True)
class Calibration:
    """What a checkpoint says of the trust that its model deserves.

    temperature: what scores are divided by. threshold: a sample whose `familiarity` is below
    it is unknown. data, samples: what both were fitted on, and how many samples of it.
    ece, nll: expected calibration error, and mean -log of the probability of the true class,
    on these samples, before and after.
    """

    temperature: float
    threshold: float
    data: str
    samples: int
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float

    def facts(self) -> dict[str, Any]:
        """As a checkpoint keeps it, in plain values."""
        return {**asdict(self), "score": SCORE, "kept": KEPT_SHARE}

    def brief(self) -> dict[str, Any]:
        """What who runs an exported model needs of it."""
        facts = self.facts()
        return {name: facts[name] for name in ("temperature", "score", "threshold", "kept")}

    def unknown(self, scores: Scores) -> NDArray[np.bool_]:
        """(N,) whether samples look less like the classes than 95 % of what was fitted on."""
        return np.asarray(familiarity(scores) < self.threshold)


def fit_calibration(scores: Scores, labels: Labels, *, data: str = "") -> Calibration | None:
    """The calibration of a model by labelled samples that it has not learnt from.

    Samples without an answer (minus infinity throughout) or label (-1) have no part in it;
    None where no other is left.
    """
    is_told = (scores > -np.inf).any(axis=1) & (labels >= 0)
    if not is_told.any() or scores.shape[1] < 2:
        return None
    scores, labels = _bounded(scores[is_told]), labels[is_told]
    temperature = fit_temperature(scores, labels)
    after = calibrated(scores, temperature)
    return Calibration(
        temperature=temperature,
        threshold=fit_threshold(familiarity(scores)),
        data=data,
        samples=len(labels),
        ece_before=calibration_error(scores, labels),
        ece_after=calibration_error(after, labels),
        nll_before=metrics.cross_entropy(scores, labels),
        nll_after=metrics.cross_entropy(after, labels),
    )


def load_calibration(facts: Mapping[str, Any], *, where: str) -> Calibration | None:
    """The calibration in the facts of a checkpoint; None where there is none.

    Raises CheckpointError when it is not one that `fit_calibration` could have made.
    """
    found = facts.get("calibration")
    if found is None:
        return None
    try:
        numbers = {name: float(found[name]) for name in _NUMBERS}
        known = Calibration(data=str(found["data"]), samples=int(found["samples"]), **numbers)
        is_sound = LOWEST <= known.temperature <= HIGHEST and found["score"] == SCORE
    except (KeyError, TypeError, ValueError, OverflowError):
        is_sound = False
    if not is_sound or not all(map(math.isfinite, numbers.values())):
        raise CheckpointError(
            where, f"a calibration with a temperature of {LOWEST:g} to {HIGHEST:g}",
            repr(found)[:120], "Use another checkpoint, or train again.",
        )  # fmt: skip
    return known


_NUMBERS = ("temperature", "threshold", "ece_before", "ece_after", "nll_before", "nll_after")


def calibrated(scores: Scores, temperature: float) -> Scores:
    """Log probabilities (N, C) at a temperature; rows without an answer stay as they are."""
    if temperature == 1:
        return scores
    scaled = scores.astype(np.float64) / temperature
    return scaled - _log_sum_exp(scaled)


def fit_temperature(scores: Scores, labels: Labels) -> float:
    """The temperature that gives the labels the highest likelihood, in [0.01, 100].

    One more sample than there are is counted, whose label may be any class (Laplace's rule
    of succession): where all answers are right, likelihood alone would promise certainty.
    The loss is convex in the inverse of the temperature, so that halving finds it.
    """
    values = _bounded(scores)
    uncertain = 1 / (len(labels) + 1)
    own = values[np.arange(len(labels)), labels]
    target = float(((1 - uncertain) * own + uncertain * values.mean(axis=1)).mean())

    def slope(inverse: float) -> float:
        scaled = inverse * values
        shares = np.exp(scaled - _log_sum_exp(scaled))
        return float((shares * values).sum(axis=1).mean()) - target

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0:
        return HIGHEST
    if slope(high) <= 0:
        return LOWEST
    for _ in range(40):  # to a relative precision of 1e-11
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return round(1 / math.sqrt(low * high), 6)


def calibration_error(scores: Scores, labels: Labels) -> float:
    """Expected calibration error of log probabilities; NaN without samples."""
    confidence = np.exp(scores.max(axis=1, initial=-np.inf).astype(np.float64))
    return expected_calibration_error(confidence, metrics.predictions(scores) == labels)


def expected_calibration_error(confidence: Scores, is_right: NDArray[np.bool_]) -> float:
    """Mean distance of confidence (N,) from the share that is right, over ten bins."""
    if not len(confidence):
        return math.nan
    gaps = np.bincount(_bins(confidence), weights=confidence - is_right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def reliability(confidence: Scores, is_right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, samples) of each of ten bins that is not empty."""
    bins = _bins(confidence)
    return [
        (float(confidence[bins == i].mean()), float(is_right[bins == i].mean()), int(count))
        for i, count in enumerate(np.bincount(bins, minlength=NUM_BINS))
        if count
    ]


def familiarity(scores: Scores) -> Shares:
    """(N,) how much a sample looks like those of the classes: minus the entropy of its answer.

    From - log C, all classes alike, to 0, certain. Taken before calibration. Of classes held out
    of training, a threshold on it found more than one on energy (Liu et al. 2020), the largest
    logit or the largest probability, though energy ranked those of NW-UCLA better.
    """
    values = _bounded(scores)
    return np.asarray((np.exp(values) * values).sum(axis=1))


def fit_threshold(known: Shares) -> float:
    """The highest threshold that keeps at least 95 % of samples of the classes (N >= 1)."""
    num_lost = int((1 - KEPT_SHARE) * len(known) + 1e-9)
    return float(np.sort(known)[num_lost])


def auroc(known: Shares, unknown: Shares) -> float:
    """How often a known sample has the higher familiarity of a random pair; ties count half.

    NaN where either kind is absent.
    """
    if not len(known) or not len(unknown):
        return math.nan
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left")
    not_above = np.searchsorted(ordered, known, side="right")
    return float((below + not_above).sum() / (2 * len(known) * len(unknown)))


def _bounded(scores: Scores) -> Shares:
    """Scores in double precision, none of them so low that its mean would be infinite."""
    values = scores.astype(np.float64)
    return np.asarray(np.maximum(values, values.max(axis=1, keepdims=True) - _FARTHEST))


def _log_sum_exp(values: Shares) -> Shares:
    """(N, 1); 0 for rows of minus infinity, which stay what they are."""
    highest = values.max(axis=1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0)
    total = np.exp(values - highest).sum(axis=1, keepdims=True)
    logs: Shares = np.log(total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(highest + logs)


def _bins(confidence: Scores) -> Labels:
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
