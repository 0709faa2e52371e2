"""What a checkpoint says of the data that it learned from, beyond what its spec says.

Promises: written by training, read by whoever shows a model other data; what a file says is
checked before it is believed, and what it does not say is not known.
Leaves out: sampling, normalisation and joints, which are the spec's.

Shapes: M persons of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kineme.data.origin import ORIGIN_FORM, UNKNOWN_ORIGIN, Origin, read_origin
from kineme.errors import CheckpointError
from kineme.pose_classification.dataset import SkeletonDataset

KEY = "training_data"  # in the facts of a checkpoint
_MAX_PERSONS = 10_000


@dataclass(frozen=True)
class TrainingData:
    """num_persons: M of its samples. max_persons: most in any of them, fewer where places are
    empty. Both 0 where the checkpoint does not say it."""

    num_persons: int = 0
    max_persons: int = 0
    origin: Origin = UNKNOWN_ORIGIN


def describe_data(dataset: SkeletonDataset) -> Mapping[str, Any]:
    """What a checkpoint keeps of its training data, in plain values."""
    sequences = dataset.sequences
    persons = sequences.shape[4]
    most = min(sequences.most_people, persons)
    return {"num_persons": persons, "max_persons": most, **sequences.origin.known()}


def training_data_of(facts: Mapping[str, Any], *, where: str) -> TrainingData:
    """What the facts of a checkpoint say. Raises CheckpointError where that cannot be."""
    found = facts.get(KEY)
    if found is None:
        return TrainingData()
    try:
        origin = read_origin(found)
        return TrainingData(_count(found, "num_persons"), _count(found, "max_persons"), origin)
    except ValueError as error:
        raise CheckpointError(
            where,
            f"{KEY} with num_persons and max_persons, whole numbers; {ORIGIN_FORM}",
            str(error),
            "Use another checkpoint, or train again.",
        ) from error


def _count(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if type(value) is not int or not 0 <= value <= _MAX_PERSONS:
        raise ValueError(f"{name} {repr(value)[:60]}")
    return value
