"""When a trial of hyperband_es ends before its rung does.

Promises: a trial is held against what the others had after as many epochs, never against
longer trainings; in the direction that is asked for; never before min_early_stop_epochs.
Leaves out: ending it (the controller), whose state is then `pruned`: it is not promoted.
"""

import math
from collections.abc import Sequence

from kineme.automl.settings import Settings
from kineme.automl.trials import MAXIMIZE, Trial

Curve = Sequence[tuple[int, float]]


def should_stop(settings: Settings, history: Sequence[Trial], number: int, curve: Curve) -> bool:
    """Whether trial `number`, whose metric went along `curve`, trails the others too far.

    curve: (epochs trained, metric). Too far is worse than the best of the others by more than
    early_stop_threshold of that. Other trials are known by the curves in the history.
    """
    if settings.algorithm != "hyperband_es" or not curve:
        return False
    epochs = max(epoch for epoch, _ in curve)
    own = _best_by(curve, epochs, settings.direction)
    if epochs < settings.min_early_stop_epochs or own is None:
        return False
    others = [
        value
        for trial in history
        if trial.number != number
        and (value := _best_by(trial.curve, epochs, settings.direction)) is not None
    ]
    if not others:
        return False
    sign = 1.0 if settings.direction == MAXIMIZE else -1.0
    best = max(others, key=lambda value: sign * value)
    return sign * (best - own) > settings.early_stop_threshold * abs(best)


def _best_by(curve: Curve, epochs: int, direction: str) -> float | None:
    """The best value within the first `epochs`."""
    values = [value for epoch, value in curve if epoch <= epochs and math.isfinite(value)]
    if not values:
        return None
    return max(values) if direction == MAXIMIZE else min(values)
