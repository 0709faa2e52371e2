"""Parts of video data, for models that are each judged on what they left out.

Leaves out: which part (engine/folds.py), training and judging (actions/k_fold.py).
"""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from kineme.action_recognition.dataset import ClipDataset
from kineme.spec.load import with_values


def of_folds(spec: Any) -> Any:
    """The spec whose test data are those of training, with no validation data."""
    values = {
        "evaluate.test_dataset_dir": spec.dataset.train_dataset_dir,
        "dataset.val_dataset_dir": None,
    }
    return with_values(spec, values)


def subset(dataset: ClipDataset, ids: Collection[str]) -> ClipDataset:
    """The videos whose ids are among `ids`, in their order."""
    whole, wanted = dataset.videos, set(ids)
    kept = [i for i, video in enumerate(whole.items) if video.id in wanted]
    part = replace(
        whole,
        items=tuple(whole.items[i] for i in kept),
        failed={place: whole.failed[i] for place, i in enumerate(kept) if i in whole.failed},
    )
    return ClipDataset(part, dataset.view)


def fingerprint(dataset: ClipDataset) -> str:
    """Other where a video has another size, length or number of frames; pixels are not read."""
    found = hashlib.sha256()
    for video in dataset.videos.items:
        size = video.path.stat().st_size if video.path.is_file() else 0
        counts = (video.first, video.num_frames, *video.size, len(video.rgb), len(video.u))
        found.update(repr((size, *counts)).encode())
    return found.hexdigest()
