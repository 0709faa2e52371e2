"""What a checkpoint says of the data that it learned from, beyond what its spec says.

Promises: written by training, read by whoever shows a model other data; what a file says is
checked before it is believed, and what it does not say is not known.
Leaves out: sampling, normalisation and joints, which are the spec's.

Shapes: T frames and M persons of a sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kineme.data.origin import ORIGIN_FORM, UNKNOWN_ORIGIN, Origin, read_origin
from kineme.errors import CheckpointError, shortened
from kineme.pose_classification.dataset import SkeletonDataset

KEY = "training_data"  # in the facts of a checkpoint
_LIMITS = {  # highest that is believed of each count
    "num_persons": 10_000, "max_persons": 10_000, "num_frames": 1_000_000, "min_frames": 1_000_000,
}  # fmt: skip

_MAX_SAMPLES = 64  # that are looked at for where up is
_HIGH, _LOW = ("shoulder", "neck", "head", "nose"), ("hip", "pelvis", "knee", "ankle", "foot")
_MOSTLY = 0.5  # mean sign from which it is one direction


@dataclass(frozen=True)
class TrainingData:
    """num_persons: M of its samples. max_persons: most in any of them, fewer where places are
    empty. num_frames: T of its samples, as training sees them. min_frames: of the shortest, fewer
    where zeros follow it. Each 0 where the checkpoint does not say it. y_up: 1 where the second
    axis grows upwards in them, -1 where it grows downwards, as in pictures; 0 where it does not
    say it, or they do not. has_depth: whether joints have a third axis that is not 0."""

    num_persons: int = 0
    max_persons: int = 0
    num_frames: int = 0
    min_frames: int = 0
    y_up: int = 0
    has_depth: bool = False
    origin: Origin = UNKNOWN_ORIGIN

    @property
    def padded_frames(self) -> int:
        """To how many frames zeros fill the shorter samples; 0 where there are none to fill."""
        return self.num_frames if self.min_frames < self.num_frames else 0


def describe_data(dataset: SkeletonDataset) -> Mapping[str, Any]:
    """What a checkpoint keeps of its training data, in plain values."""
    sequences = dataset.sequences
    persons = sequences.shape[4]
    most = min(sequences.most_people, persons)
    return {
        "num_persons": persons,
        "max_persons": most,
        "num_frames": _frames_seen(dataset),
        "min_frames": int(sequences.lengths.min()),
        **_axes(dataset),
        **sequences.origin.known(),
    }


def _axes(dataset: SkeletonDataset) -> dict[str, Any]:
    """`y_up` and `has_depth` of some of the samples: where shoulders are, seen from the legs."""
    sequences, layout = dataset.sequences, dataset.view.layout
    total = len(sequences.ids)
    some = np.unique(np.linspace(0, total - 1, min(total, _MAX_SAMPLES)).astype(np.int64))
    x = sequences.gather(some, None).astype(np.float64)
    second = x[:, 1] if x.shape[1] > 1 else x[:, 0] * np.nan
    height = np.where((x != 0).any(axis=1), second, np.nan)  # (R, T, V, M)
    places = [
        [i for i, name in enumerate(layout.joints) if name.endswith(ends)] for ends in (_HIGH, _LOW)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # frames that show none of them
        high, low = (np.nanmean(height[:, :, one], axis=2) for one in places)
    steps = (high - low)[np.isfinite(high - low)]
    is_upright = len(steps) > 0 and abs(np.sign(steps).mean()) >= _MOSTLY
    return {
        "y_up": int(np.sign(np.median(steps))) if is_upright else 0,
        "has_depth": bool(layout.num_axes == 3 and x[:, 2:3].any()),
    }


def compare_data(dataset: SkeletonDataset, facts: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """What to tell of samples that zeros do not fill up as they did those of training.

    facts: of the checkpoint at `where`. Raises CheckpointError where they cannot be.
    """
    learned, seen = training_data_of(facts, where=where), _frames_seen(dataset)
    notes = []
    if dataset.view.settings.sampling == "none" and learned.padded_frames not in (0, seen):
        notes.append(
            f"{where}: it learned from samples that zeros fill up to {learned.padded_frames} "
            f"frames, and these have {seen}: answers may be worse than they were there. Fill these "
            "up, too, or train with dataset.sampling=uniform."
        )
    persons = dataset.sequences.shape[4]
    if _averages_all(facts) and learned.num_persons not in (0, persons):
        notes.append(
            f"{where}: it learned from samples with places for {learned.num_persons} people, and "
            f"these have {persons}; ST-GCN averages over empty places, too, so answers may be "
            "others than they were there. Give these as many, or train with dataset.num_persons."
        )
    return tuple(notes)


def _averages_all(facts: Mapping[str, Any]) -> bool:
    """Whether the model sees those who are absent as well, as ST-GCN does."""
    spec = facts.get("spec")
    model = spec.get("model") if isinstance(spec, Mapping) else None
    if not isinstance(model, Mapping):
        return False
    return model.get("model_type") == "ST-GCN" and model.get("persons", "mean") == "mean"


def _frames_seen(dataset: SkeletonDataset) -> int:
    """Frames that training sees of a sample: T, or what `dataset.window_size` cuts or fills up."""
    settings, num_frames = dataset.view.settings, dataset.sequences.shape[2]
    if settings.sampling != "none" or settings.window_size <= 0:
        return int(num_frames)
    window = settings.window_size
    return int(window if settings.random_choose else max(window, num_frames))


def training_data_of(facts: Mapping[str, Any], *, where: str) -> TrainingData:
    """What the facts of a checkpoint say. Raises CheckpointError where that cannot be."""
    found = facts.get(KEY)
    if found is None:
        return TrainingData()
    try:
        origin = read_origin(found)
        counts = {name: _count(found, name) for name in _LIMITS}
        y_up, has_depth = found.get("y_up", 0), found.get("has_depth", False)
        if type(y_up) is not int or y_up not in (-1, 0, 1) or type(has_depth) is not bool:
            raise ValueError(f"y_up {shortened(y_up)}, has_depth {shortened(has_depth)}")
        return TrainingData(**counts, y_up=y_up, has_depth=has_depth, origin=origin)
    except ValueError as error:
        raise CheckpointError(
            where,
            f"{KEY} with {', '.join(_LIMITS)}, whole numbers; y_up, -1, 0 or 1; has_depth, true "
            f"or false; {ORIGIN_FORM}",
            str(error),
            "Use another checkpoint, or train again.",
        ) from error


def _count(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if type(value) is not int or not 0 <= value <= _LIMITS[name]:
        raise ValueError(f"{name} {repr(value)[:60]}")
    return value
