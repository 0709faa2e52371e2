"""The labels of a split, held against the classes and the joints that the spec knows.

Promises: classes are matched by name wherever there are names; test data with classes that the
checkpoint lacks are refused with them; where labels do not matter, none is an error. Data whose
labels name a layout are never read as of another one.
Leaves out: the formats of label files (data/labels.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kineme.data import shards
from kineme.data.labels import Labels, UnknownClasses, read_labels, renumbered
from kineme.errors import CheckpointError, Problem, SpecError, listed, shortened
from kineme.network import PREDICT, TEST
from kineme.pose_classification.graph import Layout
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.paths import SECTIONS


def class_names(spec: Any) -> tuple[str, ...]:
    """Label names by id; without a label map, the ids themselves."""
    if spec.dataset.label_map is None:
        return tuple(str(label) for label in range(spec.dataset.num_classes))
    return tuple(sorted(spec.dataset.label_map, key=spec.dataset.label_map.__getitem__))


def labels_of(
    spec: Any, split: str, data_path: Path, label_path: Path | None, *, count: int = 0
) -> Labels:
    """The labels of `split`; without a file, those of the store, or `count` unknown ones."""
    label_map = spec.dataset.label_map
    try:
        labels = _known(spec, split, data_path, label_path)
    except UnknownClasses as error:
        if split != TEST or label_map is None:
            raise
        raise _strangers(str(label_path or data_path), error.names, label_map) from error
    if labels is None:
        return Labels(tuple(map(str, range(count))), np.full(count, -1, np.int64))
    if split == PREDICT:  # they are the truth where they are of its classes, and may be of others
        known = np.where(labels.labels < spec.dataset.num_classes, labels.labels, -1)
        labels = replace(labels, labels=known)
    return labels


def _known(spec: Any, split: str, data_path: Path, label_path: Path | None) -> Labels | None:
    label_map: Mapping[str, int] | None = spec.dataset.label_map
    if label_path is not None:
        return read_labels(
            label_path,
            label_map=label_map,
            by_name=split in (TEST, PREDICT),
            takes_others=split == PREDICT,
            num_classes=spec.dataset.num_classes,
        )
    if shards.is_store(data_path):
        labels = shards.open_shards(data_path).labels
        if label_map is None:
            return labels
        takes_others = split == PREDICT
        return renumbered(labels, label_map, where=str(data_path), takes_others=takes_others)
    if split in (TEST, PREDICT):
        return None
    raise SpecError(
        f"{SECTIONS[split]}.label_path",
        "a label file (.json, .csv or .pkl)",
        "none",
        "Set it, or give a folder that holds data and labels as data_path.",
    )


def layout_problems(
    where: str, named: str | None, *, num_joints: int, own: Layout | None, whose: str, fix: str = ""
) -> list[Problem]:
    """What keeps data of V joints whose labels (where) name a layout from being read as `own`.

    whose: that layout is; None is any of V joints. The same joints in the same order are the same.
    """
    if named is None:
        return []
    theirs = own if own and named == own.name else LAYOUTS.get(named)
    if theirs and theirs.num_joints != num_joints:
        received = f"{named!r}, which has {theirs.num_joints}"
        return [Problem(f"{where}: layout", f"one of {num_joints} joints, as the data", received)]
    if own is None or own.num_joints != num_joints or (theirs and theirs.joints == own.joints):
        return []  # data of other joints than the model's are told of without their labels
    return [Problem(f"{where}: layout", f"{own.name!r}, {whose}", repr(named), fix)]


def _strangers(where: str, names: Sequence[str], label_map: Mapping[str, int]) -> CheckpointError:
    """Test data with classes that the checkpoint does not have."""
    return CheckpointError(
        where,
        f"the {len(label_map)} classes of the checkpoint, {shortened(sorted(label_map), 120)}",
        f"{len(names)} others besides: {listed(map(repr, names), 5)}",
        "Relabel or remove these samples, or train with them.",
    )
