"""Other programs' skeleton files to the data and label files that training reads.

Public: `READERS`, a reader function for each value of `dataset_convert.format`, and
`convert`. A new format is a file with a reader, a line in the table, a name in
`settings.FORMATS`, and that name in `_READ_BY` at each setting that it reads.

A line may be an import path, as in the tables NETWORKS and ACTIONS: whoever reads videos needs
pose estimators and trackers, which lie above this room (people/), so that no room imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kineme.data.conversion import Tally
from kineme.pose_classification.convert.clips import Source
from kineme.pose_classification.convert.deepstream import read_deepstream
from kineme.pose_classification.convert.image_keypoints import read_coco, read_openpose
from kineme.pose_classification.convert.mediapipe import read_mediapipe
from kineme.pose_classification.convert.ntu import read_ntu
from kineme.pose_classification.convert.nw_ucla import read_nw_ucla
from kineme.pose_classification.convert.pyskl import read_pyskl
from kineme.pose_classification.convert.sbu import read_sbu
from kineme.pose_classification.convert.writing import write_source

__all__ = ["READERS", "convert"]

Reader = Callable[[Any, Tally], Source]

READERS: Mapping[str, Reader | str] = {
    "deepstream": read_deepstream,
    "nw_ucla": read_nw_ucla,
    "sbu": read_sbu,
    "ntu": read_ntu,
    "openpose": read_openpose,
    "coco": read_coco,
    "mediapipe": read_mediapipe,
    "pyskl": read_pyskl,
    "tracks": "kineme.people.training_sets.stored_tracks:read_tracks",
    "videos": "kineme.people.training_sets.clips:read_videos",
}

_READ_BY: Mapping[str, tuple[str, ...]] = {  # settings that only some formats read
    **dict.fromkeys(
        ("pose_type", "num_joints", "focal_length", "sequence_length", "sequence_length_min",
         "sequence_length_max", "sequence_overlap", "merge"),
        ("deepstream",),
    ),
    **dict.fromkeys(("input_width", "input_height"), ("deepstream", "openpose", "coco")),
    "max_gap_frames": ("deepstream", "openpose", "coco", "tracks", "videos"),
    "labels": ("deepstream", "openpose", "coco", "mediapipe", "tracks", "videos"),
    "protocol": ("nw_ucla", "sbu", "ntu", "pyskl", "videos"),
    "num_persons": tuple(name for name in READERS if name != "deepstream"),
    **dict.fromkeys(
        ("classes", "split_file", "val_share", "subject_pattern", "estimator",
         "estimator_settings", "workers", "max_bad"),
        ("videos",),
    ),
    "smoothing": ("tracks", "videos"),
}  # fmt: skip


def convert(spec: Any, folder: Path) -> dict[str, Any]:
    """Convert `spec.dataset_convert.data` into `folder`.

    Returns {"kpi": counts, "files": names, "warnings": lines, "failed": problems}, each line a
    count of what was left out or changed. failed: of videos that cannot be read, when everything
    else was written; of other formats, one bad file fails all. Raises DataError naming the file
    and place that is wrong.
    """
    settings, tally = spec.dataset_convert, Tally()
    source = _reader_of(settings.format)(settings, tally)
    result = write_source(source, folder, tally, as_shards=settings.write == "shards")
    result["warnings"] += [
        f"dataset_convert.{key} says nothing to format {settings.format} and was not used"
        for key in _unread(settings)
    ]
    return {**result, "failed": source.failed}


def _reader_of(name: str) -> Reader:
    found = READERS[name]
    if not isinstance(found, str):
        return found
    module, _, function = found.partition(":")
    reader: Reader = getattr(importlib.import_module(module), function)
    return reader


def _unread(settings: Any) -> list[str]:
    """Settings that are not as they would be anyway, and that the format does not read."""
    fields = type(settings).model_fields
    unread = [key for key, formats in _READ_BY.items() if settings.format not in formats]
    if settings.format == "deepstream":
        is_3d = settings.pose_type == "3dbp"
        unread += ["input_width", "input_height"] if is_3d else ["focal_length"]
    return [key for key in unread if getattr(settings, key) != fields[key].default]
