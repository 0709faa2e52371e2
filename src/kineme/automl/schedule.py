"""How long a full training of a search is, and its schedule in proportion.

Promises: the learning rate falls at the same shares of a training, however long (TAO searches
with steps that lie behind the last epoch of its trials).
Leaves out: where a trial stops; its schedule is that of the full training.
"""

from collections.abc import Iterator, Mapping
from typing import Any


def scaled_schedule(values: Mapping[str, Any], num_epochs: int) -> tuple[dict[str, Any], list[str]]:
    """Settings of a training of `num_epochs` in which the rate falls at the same shares of it.

    Steps that all lie behind the last epoch stay where they are: they name epochs, not shares.
    values: of the effective spec, nested or dotted. Returns dotted settings and notes.
    """
    known = dict(flat(values))
    before = known.get("train.num_epochs") or num_epochs
    changes: dict[str, Any] = {"train.num_epochs": num_epochs}
    if before == num_epochs:
        return changes, []
    steps, warmup = known.get("train.optim.lr_steps"), known.get("train.optim.warmup_epochs")
    if isinstance(steps, list) and any(step < before for step in steps):
        moved = {max(1, round(step * num_epochs / before)) for step in steps if step > 0}
        zero = {0} if 0 in steps else set()
        changes["train.optim.lr_steps"] = sorted(moved | zero)
    if warmup:
        scaled = max(1, round(warmup * num_epochs / before))
        changes["train.optim.warmup_epochs"] = min(scaled, num_epochs - 1)
    told = [f"{key} {known[key]} -> {new}" for key, new in changes.items() if key in known]
    return changes, [f"A full training of the search: {', '.join(told)}."]


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a spec's values, be they nested or dotted already."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
