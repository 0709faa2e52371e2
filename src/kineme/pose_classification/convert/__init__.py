"""Other programs' skeleton files to the data and label files that training reads.

Public: `READERS`, a reader function for each value of `dataset_convert.format`, and
`convert`. A new format is a file with a reader and a line in the table.
"""

from __future__ import annotations

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
from kineme.pose_classification.convert.tracks import read_tracks
from kineme.pose_classification.convert.writing import write_source

__all__ = ["READERS", "convert"]

READERS: Mapping[str, Callable[[Any, Tally], Source]] = {
    "deepstream": read_deepstream,
    "nw_ucla": read_nw_ucla,
    "sbu": read_sbu,
    "ntu": read_ntu,
    "openpose": read_openpose,
    "coco": read_coco,
    "mediapipe": read_mediapipe,
    "pyskl": read_pyskl,
    "tracks": read_tracks,
}

_UNREAD = {  # settings that say nothing to a format
    "labels": ("nw_ucla", "sbu", "ntu", "pyskl"),
    "protocol": ("deepstream", "openpose", "coco", "mediapipe", "tracks"),
    "num_persons": ("deepstream",),
    "merge": ("nw_ucla", "sbu", "ntu", "openpose", "coco", "mediapipe", "pyskl", "tracks"),
}


def convert(spec: Any, folder: Path) -> dict[str, Any]:
    """Convert `spec.dataset_convert.data` into `folder`.

    Returns {"kpi": counts, "files": names, "warnings": lines, "failed": ()}, each line a count
    of what was left out or changed; one bad file fails all. Raises DataError naming the file
    and place that is wrong.
    """
    settings, tally = spec.dataset_convert, Tally()
    source = READERS[settings.format](settings, tally)
    result = write_source(source, folder, tally, as_shards=settings.write == "shards")
    result["warnings"] += [
        f"dataset_convert.{key} says nothing to format {settings.format} and was not used"
        for key, formats in _UNREAD.items()
        if getattr(settings, key) and settings.format in formats
    ]
    return {**result, "failed": ()}
