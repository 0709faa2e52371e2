"""NW-UCLA Multiview Action3D as the published graph networks package it.

A folder of aAA_sSS_eEE_vVV.json: action, subject, take, view; in each file `skeletons`,
T x 20 joints x (x, y, z) in metres (Kinect v1), and `label`, 1 to 10. Action codes skip
7 and 10, so the label inside the file counts. Wang et al., CVPR 2014.

Protocols: `cross_view` trains on views 1 and 2 (the usual one); `cross_subject_S` holds
subject S (1 to 10) out, as the paper does ten times; `view_1_2` trains on view 1 and validates
on view 2, `view_2_1` the other way round, both without view 3: for choices that the test view
of `cross_view` must not make.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kineme.data.conversion import Tally, folder_of
from kineme.errors import DataError
from kineme.pose_classification.convert.clips import (
    TRAIN_STEM,
    VAL_STEM,
    WHOLE,
    Clip,
    Source,
    read_each,
)
from kineme.pose_classification.convert.reading import (
    children_of,
    choose_protocol,
    numbers,
    read_json,
    take,
)

CLASSES = (
    "pick up with one hand",
    "pick up with two hands",
    "drop trash",
    "walk around",
    "sit down",
    "stand up",
    "donning",
    "doffing",
    "throw",
    "carry",
)
_INNER = {"view_1_2": {1: TRAIN_STEM, 2: VAL_STEM}, "view_2_1": {2: TRAIN_STEM, 1: VAL_STEM}}
PROTOCOLS = ("cross_view", *(f"cross_subject_{subject}" for subject in range(1, 11)), *_INNER)
_NAME = re.compile(r"a\d+_s(?P<subject>\d+)_e\d+_v(?P<view>\d+)\.json")


def read_nw_ucla(settings: Any, tally: Tally) -> Source:
    """The sequences of the folder `settings.data`, split by `settings.protocol`."""
    folder, protocol = folder_of(settings.data), choose_protocol(settings, PROTOCOLS)
    return Source(
        name="NW-UCLA",
        layouts=("kinect-20",),
        classes=CLASSES,
        clips=_clips(folder, protocol, tally),
        num_persons=settings.num_persons or 1,
        protocol=protocol,
    )


def _clips(folder: Path, protocol: str, tally: Tally) -> Iterator[Clip]:
    def read(path: Path) -> Clip | None:
        name = _NAME.fullmatch(path.name)
        if name is None:
            tally.add("files not named aAA_sSS_eEE_vVV.json, left out", path.name)
            return None
        stem = _stem(protocol, subject=int(name["subject"]), view=int(name["view"]))
        if stem is None:
            tally.add(f"sequences of views that {protocol} has no part in, left out", path.name)
            return None
        content = read_json(path)
        frames = take(content, "skeletons", str(path))
        label = take(content, "label", str(path))
        if type(label) is not int or not 1 <= label <= len(CLASSES):
            raise DataError(f"{path}: label", "a class from 1 to 10", repr(label))
        return Clip(
            id=path.stem,
            skeleton=numbers(frames, (-1, 20, 3), f"{path}: skeletons")[None],
            label=label - 1,
            stem=stem,
        )

    return read_each(children_of(folder), read)


def _stem(protocol: str, *, subject: int, view: int) -> str | None:
    """Where a sequence belongs; None for nowhere."""
    if protocol == "none":
        return WHOLE
    if protocol in _INNER:
        return _INNER[protocol].get(view)
    if protocol == "cross_view":
        return VAL_STEM if view == 3 else TRAIN_STEM
    return VAL_STEM if protocol == f"cross_subject_{subject}" else TRAIN_STEM
