"""Whether an exported file is as good as the model it came from, on data that neither learned.

Promises: model and file are asked for the same samples, each once; where labels are known, the
share of right answers counts, where none is, the share of equal ones. What is too bad is a
QualityError that says how bad. Times are the shortest of turns that alternate, so that whatever
else the machine does falls on neither.
Leaves out: which data these are (actions/reduced.py), publishing (actions/export.py).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.engine import metrics
from kineme.errors import QualityError
from kineme.network import Answers

TURNS = 6  # of timing, at least
SECONDS = 2.0  # of timing, at least, unless it takes MOST_TURNS
MOST_TURNS = 50
_ROUNDING = 1e-9  # of percentages


def judge(
    before: Answers, after: Answers, labels: NDArray[np.int64], *, max_accuracy_drop: float
) -> dict[str, Any]:
    """How the answers of a file compare with those of its model; shares in percent.

    labels: (N,), -1 where unknown. max_accuracy_drop: points that may be lost.
    Raises QualityError where more are.
    """
    answered = [i for i in after.answered if i not in before.remarks.failed]
    labels, ours, theirs = labels[answered], before.judged[answered], after.judged[answered]
    told, said = metrics.predictions(ours), metrics.predictions(theirs)
    is_known = labels >= 0
    agreement = _percent(told == said)
    if is_known.any():
        measure = "accuracy"
        right = [_percent(found[is_known] == labels[is_known]) for found in (told, said)]
    else:
        measure, right = "agreement", [100.0, agreement]
    drop = right[0] - right[1]
    seen = [i for i in answered if i not in before.remarks.blank]
    difference = np.abs(np.exp(before.scores[seen]) - np.exp(after.scores[seen]))
    if not answered or not drop <= max_accuracy_drop + _ROUNDING:
        raise QualityError(
            "export.max_accuracy_drop",
            f"at most {max_accuracy_drop:g} points of {measure} lost on {len(answered)} samples",
            f"{right[0]:.2f} % before, {right[1]:.2f} % after" if answered else "no sample",
            "No file was written. Raise it, give more or other data to calibrate on"
            " (export.calibration_samples), or export another precision.",
        )
    return {
        "measure": measure,
        "samples": len(answered),
        "accuracy": round(right[0], 4) if measure == "accuracy" else None,
        "exported_accuracy": round(right[1], 4) if measure == "accuracy" else None,
        "drop": round(drop, 4),
        "max_drop": max_accuracy_drop,
        "agreement": round(agreement, 4),
        "max_probability_difference": float(difference.max(initial=0.0)),
    }


def _percent(is_right: NDArray[np.bool_]) -> float:
    return 100 * float(is_right.mean()) if is_right.size else 0.0


@torch.no_grad()
def time_against(
    before: Callable[..., Any], after: Callable[..., Any], inputs: Mapping[str, torch.Tensor]
) -> dict[str, Any]:
    """Milliseconds that each takes for `inputs`, and how many times faster the second is."""
    taken: tuple[list[float], list[float]] = ([], [])
    for ask in (before, after):
        ask(**inputs)  # the first takes longer
    while len(taken[0]) < TURNS or (sum(map(sum, taken)) < SECONDS and len(taken[0]) < MOST_TURNS):
        pairs = list(zip((before, after), taken, strict=True))
        for ask, times in pairs if len(taken[0]) % 2 else reversed(pairs):  # nobody is always last
            start = time.perf_counter()
            ask(**inputs)
            times.append(time.perf_counter() - start)
    first, second = map(min, taken)
    return {
        "shape": {word: list(x.shape) for word, x in inputs.items()},
        "threads": torch.get_num_threads(),
        "fp32_milliseconds": round(1000 * first, 3),
        "milliseconds": round(1000 * second, 3),
        "times_as_fast": round(first / second, 3),
    }
