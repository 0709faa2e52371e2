"""SBU Kinect Interaction v2.0: two people, eight interactions, five folds.

<pair>/<class 01..08>/<take>/skeleton_pos.txt; a line is the frame number and 2 persons x
15 joints x (x, y, z). Yun et al., CVPRW 2012; the folds are the authors' own.

The stored numbers were scaled so that x and y lie near [0, 1]; the data set's own formula
undoes it: x = 1280 - 2560 x, y = 960 - 1920 y, z = 1280 z, in millimetres. Metres are
written here: turning a view needs the same unit on every axis (measured over all takes,
a limb's length then varies by 1.0 %, by 3.6 % as stored).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    read_text,
)

CLASSES = (  # folders 01 to 08
    "approaching",
    "departing",
    "kicking",
    "pushing",
    "shaking hands",
    "hugging",
    "exchanging objects",
    "punching",
)
FOLDS = (  # pairs held out
    ("s01s02", "s03s04", "s05s02", "s06s04"),
    ("s02s03", "s02s07", "s03s05", "s05s03"),
    ("s01s03", "s01s07", "s07s01", "s07s03"),
    ("s02s01", "s02s06", "s03s02", "s03s06"),
    ("s04s02", "s04s03", "s04s06", "s06s02", "s06s03"),
)
PROTOCOLS = tuple(f"fold{number}" for number in range(1, 6))
_METRES = np.array([-2.56, -1.92, 1.28], np.float32)
_ORIGIN = np.array([1.28, 0.96, 0.0], np.float32)


def read_sbu(settings: Any, tally: Tally) -> Source:
    """The takes under `settings.data`; the pairs of `settings.protocol` are for validation."""
    folder, protocol = folder_of(settings.data), choose_protocol(settings, PROTOCOLS)
    return Source(
        name="SBU Kinect Interaction",
        layouts=("sbu-15",),
        classes=CLASSES,
        clips=read_each(_takes(folder, tally), partial(_read_clip, protocol)),
        num_persons=settings.num_persons or 2,
        protocol=protocol,
    )


def _takes(folder: Path, tally: Tally) -> Iterator[Path]:
    known = {pair for fold in FOLDS for pair in fold}
    for pair in children_of(folder):
        if pair.name not in known:
            tally.add("folders that are none of the 21 pairs, left out", pair.name)
            continue
        yield from sorted(pair.glob("*/*/skeleton_pos.txt"))


def _read_clip(protocol: str, path: Path) -> Clip:
    pair, code, take = path.parts[-4:-1]
    if not (code.isdecimal() and 1 <= int(code) <= len(CLASSES)):
        raise DataError(str(path), "a class folder from 01 to 08", repr(code))
    return Clip(
        id=f"{pair}/{code}/{take}",
        skeleton=read_take(path),
        label=int(code) - 1,
        stem=_stem(protocol, pair),
    )


def read_take(path: Path) -> NDArray[np.float32]:
    """(2, T, 15, 3) in metres, y up, z away from the camera."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            values = line.strip().rstrip(",").split(",")
            try:
                row = [float(value) for value in values]
            except ValueError:
                row = []
            if len(row) != 91:
                expected = "a frame number and 2 x 15 x 3 numbers, split by commas"
                raise DataError(f"{path}:{number}", expected, f"{len(values)} values: {line[:40]}")
            rows.append(row[1:])
    skeleton = np.array(rows, np.float32).reshape(-1, 2, 15, 3)
    return (_ORIGIN + _METRES * skeleton).transpose(1, 0, 2, 3)


def _stem(protocol: str, pair: str) -> str:
    if protocol == "none":
        return WHOLE
    return VAL_STEM if pair in FOLDS[PROTOCOLS.index(protocol)] else TRAIN_STEM
