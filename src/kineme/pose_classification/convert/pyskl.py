"""PySKL (and MMAction2) skeleton pickles, read without running what is in them.

{"split": {name: [frame_dir, ...]}, "annotations": [...]}, or the list alone. An annotation
has frame_dir, label, keypoint (M, T, V, C) and, in 2-D, keypoint_score (M, T, V) and
img_shape (height, width).

Written: 3-D as it is; 2-D as x / width - 0.5, y / height - 0.5, score. Splits come in pairs:
xsub_train and xsub_val are the protocol `xsub`, train and val are `split`, train1 and
test1 `split1`. Where there are several, `dataset_convert.protocol` has to name one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally, path_of
from kineme.data.pickles import read_plain_pickle
from kineme.errors import DataError, SpecError, listed
from kineme.pose_classification.convert.clips import (
    TRAIN_STEM,
    VAL_STEM,
    WHOLE,
    Clip,
    Source,
    mark_missing,
    read_each,
    refuse_shares,
)
from kineme.pose_classification.convert.reading import as_list, take

LAYOUTS = ("ntu-rgb+d", "coco", "openpose", "kinect-20", "halpe-26", "sbu-15")
_MAX_STEPS = 30_000_000  # 114,000 annotations take about 6 million
_ALIASES = {"cross_subject": "xsub", "cross_view": "xview", "cross_setup": "xset"}


def read_pyskl(settings: Any, tally: Tally) -> Source:
    """The annotations of the pickle `settings.data`, split as it says itself."""
    path = path_of(settings.data)
    content = read_plain_pickle(path, max_steps=_MAX_STEPS)
    if isinstance(content, dict):
        annotations = take(content, "annotations", str(path))
        splits = content.get("split") or {}
    else:
        annotations, splits = content, {}
    annotations = as_list(annotations, f"{path}: annotations")
    protocol, stems = _choose(settings, splits)
    labels = [_label(item, f"{path}: annotations[{i}]") for i, item in enumerate(annotations)]
    return Source(
        name="PySKL",
        layouts=LAYOUTS,
        classes=tuple(str(label) for label in range(max(labels, default=-1) + 1)),
        clips=_clips(path, annotations, labels, stems, tally),
        num_persons=settings.num_persons or 0,
        protocol=protocol,
    )


def _choose(settings: Any, splits: Any) -> tuple[str, dict[str, str]]:
    """The protocol, and frame_dir -> stem of what is in it (empty: everything, unsplit)."""
    pairs: dict[str, tuple[str, str]] = {}
    for train in splits if isinstance(splits, dict) else ():
        found = re.fullmatch(r"(.*?)_?train(\d*)", str(train))
        for held_out in ("val", "test") if found else ():
            val = str(train).replace("train", held_out)
            if found and val in splits:
                pairs.setdefault(found[1] or f"split{found[2]}", (train, val))
    only = next(iter(pairs)) if len(pairs) == 1 else ""
    chosen = str(settings.protocol or only)
    chosen = chosen if chosen in pairs else _ALIASES.get(chosen, chosen)
    if chosen == "none" or not (chosen or pairs):
        return "none", {}
    if chosen not in pairs:
        known = ", ".join([*sorted(pairs), "none"])
        received = "none" if settings.protocol is None else repr(settings.protocol)
        raise SpecError("dataset_convert.protocol", f"one of {known}", received)
    parts = [
        dict.fromkeys(map(str, as_list(splits[key], f"split {key!r}"))) for key in pairs[chosen]
    ]
    if both := parts[0].keys() & parts[1].keys():
        expected = f"names that are in {' or in '.join(pairs[chosen])}"
        received = f"{len(both):,} in both: {listed(sorted(both))}"
        raise DataError("split", expected, received, "Take each out of one of them.")
    return chosen, dict.fromkeys(parts[0], TRAIN_STEM) | dict.fromkeys(parts[1], VAL_STEM)


def _clips(
    path: Path,
    annotations: list[Any],
    labels: list[int],
    stems: Mapping[str, str],
    tally: Tally,
) -> Iterator[Clip]:
    names: dict[str, str] = {}

    def read(index: int) -> Clip | None:
        item, where = annotations[index], f"{path}: annotations[{index}]"
        name = str(take(item, "frame_dir", where))
        if names.setdefault(name, where) != where:
            raise DataError(f"{where}.frame_dir", "each once", f"{name!r} a second time")
        stem = stems.get(name, WHOLE)
        if stems and stem == WHOLE:
            tally.add("samples that are in neither part of the split, left out", name)
            return None
        return Clip(name, _skeleton(item, where, tally), labels[index], stem)

    yield from read_each(range(len(annotations)), read)
    for name in sorted(stems.keys() - names.keys()):
        tally.add("names of the split that no annotation has", name)


def _skeleton(item: Any, where: str, tally: Tally) -> NDArray[np.float32]:
    """(M, T, V, 3)."""
    points = _array(take(item, "keypoint", where), 4, "(M, T, V, C)", f"{where}.keypoint")
    if points.shape[-1] not in (2, 3):
        raise DataError(f"{where}.keypoint", "2 or 3 channels", str(points.shape))
    if points.shape[-1] == 3:
        return points
    key = "keypoint_score"
    score = _array(take(item, key, where), 3, "(M, T, V)", f"{where}.{key}")
    if score.shape != points.shape[:3]:
        expected = f"the shape of keypoint, {points.shape[:3]}"
        raise DataError(f"{where}.{key}", expected, str(score.shape))
    size = take(item, "img_shape", where)
    if not (isinstance(size, tuple | list) and len(size) == 2 and all(map(_is_size, size))):
        raise DataError(f"{where}.img_shape", "(height, width)", repr(size)[:60])
    points = np.concatenate([points, score[..., None]], axis=-1)
    broken = mark_missing(points, score)
    tally.add("joints with numbers that are not finite", str(item["frame_dir"]), broken)
    height, width = size
    fix = "If they are shares of the image, write img_shape: (1, 1)."
    refuse_shares(points[..., :2], f"{where}.keypoint", width=width, height=height, fix=fix)
    points[..., :2] = points[..., :2] / np.array(size[::-1], np.float32) - 0.5
    return points


def _is_size(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(value > 0)


def _array(value: Any, num_dims: int, axes: str, where: str) -> NDArray[np.float32]:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise DataError(where, f"an array {axes} of numbers", type(value).__name__)
    if value.ndim != num_dims:
        raise DataError(where, f"an array {axes}", f"shape {value.shape}")
    return value.astype(np.float32)


def _label(item: Any, where: str) -> int:
    label = take(item, "label", where)
    if type(label) is not int or not 0 <= label < 100_000:
        raise DataError(f"{where}.label", "a class number from 0", repr(label)[:60])
    return label
