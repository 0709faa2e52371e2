"""How far a model's probabilities can be trusted, and whether it knows what it does not know.

Promises: figures before and after the temperature of the checkpoint come from the same
answers; samples without an answer have no part in them. Shares are in [0, 1].
Leaves out: fitting (engine/calibration.py), drawing the curves (plots.py).

N samples, C classes; scores are log probabilities (N, C), as the model gives them.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kineme.engine import metrics
from kineme.engine.calibration import (
    Calibration,
    auroc,
    calibrated,
    expected_calibration_error,
    familiarity,
    reliability,
)
from kineme.engine.metrics import Labels, Scores
from kineme.report.plots import Curve


@dataclass(frozen=True)
class Unknowns:
    """How samples of no class are told from the labelled ones by their familiarity.

    samples: of no class. auroc: how often one is less familiar than a labelled one, of random
    pairs. found: share of them called unknown; kept: share of the labelled ones that are not.
    Both are NaN where the checkpoint has no threshold.
    """

    samples: int
    auroc: float
    found: float
    kept: float


@dataclass(frozen=True)
class Trust:
    """Figures on test data, before and after calibration, which are equal where there is none.

    ece: expected calibration error; nll: mean -log of the probability of the true class.
    curves: (mean confidence, share right) by bin of confidence.
    """

    samples: int
    ece: tuple[float, float]
    nll: tuple[float, float]
    curves: Mapping[str, Curve]
    is_applied: bool = False
    calibration: Calibration | None = None
    unknowns: Unknowns | None = None

    def facts(self) -> dict[str, Any]:
        """For metrics.json; what cannot be said is None."""
        known = self.calibration
        fitted = {"temperature": known.temperature, "data": known.data} if known else None
        told: dict[str, Any] = {"is_applied": self.is_applied, "samples": self.samples}
        for name, (before, after) in {"ece": self.ece, "nll": self.nll}.items():
            told |= {f"{name}_before": _told(before), f"{name}_after": _told(after)}
        unknowns = asdict(self.unknowns) if self.unknowns else {}
        return {
            "calibration": {**(fitted or {"temperature": None, "data": None}), **told},
            "unknown": {name: _told(value) for name, value in unknowns.items()} or None,
        }


def measure_trust(
    scores: Scores,
    labels: Labels,
    *,
    calibration: Calibration | None = None,
    is_applied: bool = False,
    unknown: Scores | None = None,
) -> Trust:
    """Figures of labelled samples, and of `unknown` ones (any number, C) beside them."""
    is_told = (scores > -np.inf).any(axis=1)
    scores, labels = scores[is_told], labels[is_told]
    after = calibrated(scores, calibration.temperature) if calibration else scores
    is_right = metrics.predictions(scores) == labels
    sure, calm = (np.exp(x.max(axis=1, initial=-np.inf)) for x in (scores, after))
    curves = {"as the model says": reliability(sure, is_right)}
    if calibration:
        curves["calibrated"] = reliability(calm, is_right)
    return Trust(
        samples=len(labels),
        ece=(
            expected_calibration_error(sure, is_right),
            expected_calibration_error(calm, is_right),
        ),
        nll=(metrics.cross_entropy(scores, labels), metrics.cross_entropy(after, labels)),
        curves={name: [(x, y) for x, y, _ in bins] for name, bins in curves.items()},
        is_applied=is_applied,
        calibration=calibration,
        unknowns=None if unknown is None else _measure_unknowns(scores, unknown, calibration),
    )


def _measure_unknowns(scores: Scores, unknown: Scores, calibration: Calibration | None) -> Unknowns:
    known, strange = familiarity(scores), familiarity(unknown)
    threshold = calibration.threshold if calibration else math.nan
    return Unknowns(
        samples=len(strange),
        auroc=auroc(known, strange),
        found=_share(strange < threshold) if calibration else math.nan,
        kept=_share(known >= threshold) if calibration else math.nan,
    )


def _share(values: Any) -> float:
    return float(values.mean()) if len(values) else math.nan


def _told(value: float) -> float | None:
    return value if math.isfinite(value) else None
