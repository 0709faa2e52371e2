"""Weights of one model in another: what fits, what does not, said in one line.

Promises: nothing is loaded partly in silence. Only tensors of the head may differ in
shape (another number of classes); those keep their fresh values.
Leaves out: reading files (checkpoint.py) and translating foreign names (the rooms).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from kineme.errors import CheckpointError, Problem, listed

MAX_LISTED = 6
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class WeightsReport:
    """What became of each tensor. resized: head tensors of another number of classes."""

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.resized)
        parts = [f"{len(self.matched)} of {total} tensors loaded"]
        for what, names in (
            ("new head, other number of classes", self.resized),
            ("not in the file, left as initialised", self.missing),
            ("in the file, not in the model", self.unexpected),
        ):
            if names:
                parts.append(f"{what}: {listed(names, MAX_LISTED)}")
        return "; ".join(parts)


def fit_weights(
    module: nn.Module,
    weights: Mapping[str, torch.Tensor],
    *,
    where: str,
    head: Collection[str] = (),
    is_partial: bool = False,
) -> WeightsReport:
    """Load `weights` into `module`.

    head: names whose shape may differ. is_partial: tensors may be missing or left over.
    Raises CheckpointError listing what does not fit; then the module is as it was.
    """
    own = module.state_dict()  # detached views of the tensors themselves
    weights = {**weights, **_counters(weights, own)}
    shared = [name for name in own if name in weights]
    differs = [name for name in shared if own[name].shape != weights[name].shape]
    # one class count concerns the whole head: its bias alone would be meaningless
    resized = [name for name in shared if name in head] if set(differs) & set(head) else []
    problems = [
        Problem(f"{where}: {name}", _shape(own[name]), _shape(weights[name]))
        for name in differs
        if name not in resized
    ]
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    matched = [name for name in shared if name not in resized]
    if not is_partial:
        problems += [Problem(f"{where}: {name}", _shape(own[name]), "nothing") for name in missing]
        problems += [
            Problem(f"{where}: {name}", "nothing", _shape(weights[name])) for name in unexpected
        ]
    if not matched:
        names = listed(unexpected, MAX_LISTED) if unexpected else "none that fits"
        raise CheckpointError(where, f"tensors like {listed(own, MAX_LISTED)}", names)
    if problems:
        rest = len(problems) - MAX_LISTED
        shown = problems[:MAX_LISTED]
        if rest > 0:
            shown.append(Problem(where, "weights of this model", f"{rest} more differences"))
        raise CheckpointError.of(shown)
    for name in matched:
        own[name].copy_(weights[name])
    return WeightsReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(resized))


def _counters(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Batch norm's counts, which files from before PyTorch 0.4.1 lack and nothing here reads."""
    missing = [name for name in own if name.endswith(f".{_COUNTER}") and name not in weights]
    return {
        name: torch.zeros_like(own[name])
        for name in missing
        if name.replace(_COUNTER, "running_mean") in weights
    }


def _shape(tensor: torch.Tensor) -> str:
    return "shape " + str(tuple(tensor.shape))
