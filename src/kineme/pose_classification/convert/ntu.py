"""NTU RGB+D 60 and 120: `.skeleton` text files of the Kinect v2.

SsssCcccPpppRrrrAaaa.skeleton: setup, camera, person, repetition, action. In a file: the
number of frames; per frame the number of bodies; per body a line that begins with its
number, the number of joints (25), and a line of twelve numbers per joint, x, y, z in metres
first and the tracking state last (0: not tracked, so missing). Shahroudy et al., CVPR
2016; Liu et al., TPAMI 2020.

Bodies are followed by their numbers and the two that move most are kept. A file without a
body is left out, and so is what a list named *missing_skeletons*.txt in the folder names.
Left out: repairing bodies that the sensor split or made up.

Protocols (the authors' lists; those of 120 contain those of 60): `cross_subject`,
`cross_view` (camera 1 held out), `cross_setup` (odd setups held out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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

PROTOCOLS = ("cross_subject", "cross_view", "cross_setup")
NUM_JOINTS = 25
TRAINING_SUBJECTS = frozenset({  # the first line is all of NTU RGB+D 60
    1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38,
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89,
    91, 92, 93, 94, 95, 97, 98, 100, 103,
})  # fmt: skip
_CLASSES = """
drink water, eat, brush teeth, brush hair, drop, pick up, throw, sit down, stand up, clap,
read, write, tear up paper, put on jacket, take off jacket, put on a shoe, take off a shoe,
put on glasses, take off glasses, put on a hat, take off a hat, cheer up, wave, kick something,
reach into pocket, hop, jump up, phone call, play with phone, type on a keyboard,
point to something, take a selfie, check time, rub hands, nod or bow, shake head, wipe face,
salute, put palms together, cross hands in front, sneeze or cough, stagger, fall down, headache,
chest pain, back pain, neck pain, nausea, fan self, punch or slap, kick other, push other,
pat on back, point at other, hug, give something, touch pocket of other, shake hands,
walk towards, walk apart,
put on headphone, take off headphone, shoot at basket, bounce ball, tennis swing,
juggle table tennis ball, hush, flick hair, thumb up, thumb down, OK sign, victory sign,
staple book, count money, cut nails, cut paper, snap fingers, open bottle, sniff, squat down,
toss a coin, fold paper, ball up paper, play magic cube, cream on face, cream on hand back,
put on bag, take off bag, put into bag, take out of bag, open a box, move heavy objects,
shake fist, throw up cap, hands up, cross arms, arm circles, arm swings, run on the spot,
butt kicks, cross toe touch, side kick, yawn, stretch, blow nose,
hit with something, wield knife, knock over, grab stuff, shoot with gun, step on foot,
high-five, cheers and drink, carry together, take a photo, follow, whisper in ear,
exchange things, support somebody, rock paper scissors
"""
CLASSES = tuple(name.strip() for name in _CLASSES.split(","))  # A001 to A120
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R\d{3}A(\d{3})")


def read_ntu(settings: Any, tally: Tally) -> Source:
    """The `.skeleton` files of the folder `settings.data`, split by `settings.protocol`."""
    folder, protocol = folder_of(settings.data), choose_protocol(settings, PROTOCOLS)
    paths = _paths(folder, tally)
    largest = max((_codes(path)[3] for path in paths), default=0)
    return Source(
        name="NTU RGB+D",
        layouts=("ntu-rgb+d",),
        classes=CLASSES[:60] if largest <= 60 else CLASSES,
        clips=_clips(paths, protocol),
        num_persons=settings.num_persons or 2,
        protocol=protocol,
    )


def read_skeleton_file(path: Path) -> NDArray[np.float32]:
    """(M, T, 25, 3) in metres, NaN where a body or joint is not there."""
    lines = _Lines(path)
    num_frames = lines.count("the number of frames")
    bodies: dict[str, NDArray[np.float32]] = {}
    for frame in range(num_frames):
        seen: set[str] = set()
        for _ in range(lines.count("the number of bodies")):
            name = lines.take("a body: its number and 9 more values").split()
            if len(name) != 10:
                raise lines.error("a body: its number and 9 more values")
            if lines.count("the number of joints") != NUM_JOINTS:
                raise lines.error(f"{NUM_JOINTS} joints")
            joints = lines.numbers(NUM_JOINTS, 12)
            joints[joints[:, 11] == 0] = np.nan
            if name[0] in seen:
                raise lines.error("each body once in a frame")
            seen.add(name[0])
            if name[0] not in bodies:
                bodies[name[0]] = np.full((num_frames, NUM_JOINTS, 3), np.nan, np.float32)
            bodies[name[0]][frame] = joints[:, :3]
    lines.end(f"the end after {num_frames} frames, as line 1 says")
    if not bodies:
        return np.full((1, num_frames, NUM_JOINTS, 3), np.nan, np.float32)
    return np.stack(list(bodies.values()))


def _paths(folder: Path, tally: Tally) -> list[Path]:
    listed_missing: set[str] = set()
    for path in folder.glob("*missing_skeletons*.txt"):
        listed_missing |= set(re.findall(_NAME.pattern.replace("(", "(?:"), read_text(path)))
    paths = []
    for path in children_of(folder):
        if path.suffix != ".skeleton":
            if "missing_skeletons" not in path.name:
                tally.add("files that are no .skeleton, left out", path.name)
        elif path.stem in listed_missing:
            tally.add("samples on the list of missing skeletons, left out", path.stem)
        else:
            paths.append(path)
    return paths


def _clips(paths: Sequence[Path], protocol: str) -> Iterator[Clip]:
    def read(path: Path) -> Clip:
        setup, camera, subject, action = _codes(path)
        is_train = {
            "cross_subject": subject in TRAINING_SUBJECTS,
            "cross_view": camera != 1,
            "cross_setup": setup % 2 == 0,
        }.get(protocol)
        return Clip(
            id=path.stem,
            skeleton=read_skeleton_file(path),
            label=action - 1,
            stem=WHOLE if is_train is None else TRAIN_STEM if is_train else VAL_STEM,
        )

    return read_each(paths, read)


def _codes(path: Path) -> tuple[int, int, int, int]:
    """Setup, camera, subject, action (1 to 120)."""
    name = _NAME.fullmatch(path.stem)
    if name is None or not 1 <= int(name[4]) <= len(CLASSES):
        raise DataError(str(path), "SsssCcccPpppRrrrAaaa.skeleton, A001 to A120", path.name)
    setup, camera, subject, action = map(int, name.groups())
    return setup, camera, subject, action


class _Lines:
    """The lines of a file, taken in order; faults are named by line."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines, self._next = path, read_text(path).splitlines(), 0

    def take(self, what: str) -> str:
        self._next += 1
        if self._next > len(self._lines):
            raise self.error(what)
        return self._lines[self._next - 1]

    def count(self, what: str) -> int:
        text = self.take(what).strip()
        if not text.isdecimal() or len(text) > 6:
            raise self.error(what)
        return int(text)

    def numbers(self, rows: int, columns: int) -> NDArray[np.float32]:
        first, what = self._next, f"{columns} numbers of a joint"
        block = [self.take(what).split() for _ in range(rows)]
        try:
            return np.array(block, np.float64).reshape(rows, columns).astype(np.float32)
        except ValueError:
            for row, values in enumerate(block):
                if len(values) != columns or not all(map(_is_number, values)):
                    self._next = first + row + 1
                    break
            raise self.error(what) from None

    def end(self, what: str) -> None:
        """Raise DataError where anything is left but empty lines."""
        while self._next < len(self._lines):
            if self.take(what).strip():
                raise self.error(what)

    def error(self, what: str) -> DataError:
        is_end = self._next > len(self._lines)
        received = "the end of the file" if is_end else repr(self._lines[self._next - 1][:60])
        return DataError(f"{self._path}:{self._next}", what, received)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
