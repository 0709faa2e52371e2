"""Parts of skeleton data, for models that are each judged on what they left out.

Leaves out: which part (engine/folds.py), training and judging (actions/k_fold.py).
"""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from kineme.data.scan import content_digests, scan_skeletons
from kineme.network import TRAIN
from kineme.pose_classification.dataset import SkeletonDataset
from kineme.pose_classification.paths import resolve_paths, section_of
from kineme.spec.load import with_values


def of_folds(spec: Any) -> Any:
    """The spec whose test data are those of training, with no validation data."""
    data, labels = resolve_paths(section_of(spec, TRAIN), TRAIN)
    values = {"data_path": str(data), "label_path": str(labels) if labels else None}
    told = {
        f"{section}.{name}": value
        for section in ("dataset.train_dataset", "evaluate.test_dataset")
        for name, value in values.items()
    }
    nothing = {f"dataset.val_dataset.{name}": None for name in values}
    return with_values(spec, {**told, **nothing})


def subset(dataset: SkeletonDataset, ids: Collection[str]) -> SkeletonDataset:
    """The sequences whose ids are among `ids`, in their order."""
    whole, wanted = dataset.sequences, set(ids)
    kept = np.array([i for i, name in enumerate(whole.ids) if name in wanted], np.int64)
    part = replace(
        whole,
        ids=tuple(whole.ids[i] for i in kept),
        labels=whole.labels[kept],
        lengths=whole.lengths[kept],
        is_empty=whole.is_empty[kept],
        rows=whole.rows[kept],
        people=None if whole.people is None else whole.people[kept],
    )
    return SkeletonDataset(part, dataset.view)


def fingerprint(dataset: SkeletonDataset) -> str:
    """Other where the frames of a sample are."""
    found, store = hashlib.sha256(), dataset.sequences.store
    digests = content_digests(store, scan_skeletons(store).lengths)
    for row in dataset.sequences.rows:
        found.update(digests[row].ljust(16, b"-"))
    return found.hexdigest()
