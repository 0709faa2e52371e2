"""What an estimator found in each frame, kept on the disk as it comes.

Promises: memory does not grow with the video; whoever was killed loses the last moment only; what
does not belong to this analysis is not taken for it; the tracks made of it hold every row.
Leaves out: following people (tracking/tracker.py), which replays the same frames to the same ids.

The file: a line of facts, then a line for each frame, each with a checksum.

Shapes: P people of a frame, V joints, D axes; R rows of all tracks.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.tracks import Track, Tracks
from kineme.files import append_line
from kineme.people.poses import FramePoses, PersonPose
from kineme.people.tracking.recording import Recording

_FLUSH_SECONDS = 0.5
_FORMAT = "kineme-frames-1"
_MAX_LINE_BYTES = 1 << 24


class Journal:
    """The frames of one analysis, in the file at `path`.

    facts: all that decides what an estimator finds, in plain values. cuts: frames that begin a
    new scene. num_rows, num_frames: of the lines so far.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, {"format": _FORMAT, **facts}
        self.cuts: list[int] = []
        self.num_frames = self.num_rows = 0
        self._lines: list[str] = []
        self._flushed_at = 0.0

    def begin(self) -> None:
        """Begin anew: what was there is gone."""
        self.path.unlink(missing_ok=True)
        self._lines = [_sealed(json.dumps(self.facts, sort_keys=True))]
        self.flush()

    def is_of_this(self) -> bool:
        """Whether there is a journal, and it is of the same analysis."""
        first = next(_lines(self.path), None)
        return first == json.dumps(self.facts, sort_keys=True)

    def read(self) -> Iterator[tuple[FramePoses, bool, tuple[int, ...]]]:
        """(frame, whether a cut, the id of each of its people) of every whole line."""
        for text in _frame_lines(self.path):
            yield _frame_of(json.loads(text))

    def mend(self) -> int:
        """Cut off a line that was not finished; returns how many frames there are."""
        num_bytes = num_lines = 0
        for text in _lines(self.path):
            num_bytes += len(_sealed(text).encode("utf-8")) + 1
            num_lines += 1
        os.truncate(self.path, num_bytes)
        return max(num_lines - 1, 0)

    def add(
        self, frame: FramePoses, ids: Mapping[int, int], *, is_cut: bool, is_new: bool = True
    ) -> None:
        """ids: of the people that are followed, by place in the frame. is_new: not in the file."""
        self.num_frames = frame.index + 1
        self.num_rows += len(ids)
        if is_cut:
            self.cuts.append(frame.index)
        if not is_new:
            return
        self._lines.append(_sealed(_text_of(frame, ids, is_cut=is_cut)))
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            append_line(self.path, "\n".join(self._lines))
        self._lines, self._flushed_at = [], time.monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def tracks(self, recording: Recording) -> Iterator[Tracks]:
        """All rows by person, in arrays that lie on the disk while the block runs."""
        self.flush()
        num_axes = next(
            (one.joints.shape[1] for frame, _, _ in self._added() for one in frame.people), 2
        )
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".tracks-") as folder:
            num_joints = recording.layout.num_joints
            columns = _Columns(Path(folder), self.num_rows, num_joints, num_axes)
            counts = self._counts()
            starts = dict(zip(counts, _starts(counts.values()), strict=True))
            filled = dict(starts)
            for frame, _, ids in self._added():
                for pose, id_ in zip(frame.people, ids, strict=True):
                    if id_:
                        columns.put(filled[id_], frame, pose)
                        filled[id_] += 1
            yield recording.tracks(
                [columns.track(i, starts[i], filled[i]) for i in counts],
                num_frames=self.num_frames,
                num_axes=num_axes,
                cuts=self.cuts,
            )

    def _added(self) -> Iterator[tuple[FramePoses, bool, tuple[int, ...]]]:
        """Of `read`, what this run has added: an interrupted one may have come farther."""
        return takewhile(lambda line: line[0].index < self.num_frames, self.read())

    def _counts(self) -> dict[int, int]:
        """Rows of each id, by rising id."""
        counts: dict[int, int] = {}
        for _, _, ids in self._added():
            for id_ in filter(None, ids):
                counts[id_] = counts.get(id_, 0) + 1
        return dict(sorted(counts.items()))


class _Columns:
    """The columns of tracks, in files without a name that are gone with the process."""

    def __init__(self, folder: Path, num_rows: int, num_joints: int, num_axes: int) -> None:
        shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
            "frames": (np.int64, ()),
            "seconds": (np.float64, ()),
            "joints": (np.float32, (num_joints, num_axes)),
            "confidence": (np.float32, (num_joints,)),
            "boxes": (np.float32, (4,)),
            "scores": (np.float32, ()),
        }
        self._columns: dict[str, NDArray[Any]] = {
            name: np.memmap(folder / name, kind, "w+", shape=(max(num_rows, 1), *shape))
            for name, (kind, shape) in shapes.items()
        }

    def put(self, row: int, frame: FramePoses, pose: PersonPose) -> None:
        values = (frame.index, frame.seconds, pose.joints, pose.confidence, pose.box, pose.score)
        for column, value in zip(self._columns.values(), values, strict=True):
            column[row] = value

    def track(self, id_: int, start: int, end: int) -> Track:
        return Track(id_, **{name: column[start:end] for name, column in self._columns.items()})


def _frame_lines(path: Path) -> Iterator[str]:
    """The lines of frames."""
    lines = _lines(path)
    next(lines, None)
    return lines


def _starts(counts: Sequence[int] | Any) -> list[int]:
    ends = np.cumsum([0, *counts])
    return [int(end) for end in ends[:-1]]


def _lines(path: Path) -> Iterator[str]:
    """Whole lines, up to the first that is not."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        while line := file.readline(_MAX_LINE_BYTES):
            checksum, _, text = line.removesuffix(b"\n").partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
                return
            yield text.decode("utf-8")


def _sealed(text: str) -> str:
    return f"{zlib.crc32(text.encode('utf-8')):08x} {text}"


def _text_of(frame: FramePoses, ids: Mapping[int, int], *, is_cut: bool) -> str:
    people = [
        [ids.get(place, 0), pose.score, *pose.joints.shape, _packed(pose)]
        for place, pose in enumerate(frame.people)
    ]
    return json.dumps([frame.index, frame.seconds, is_cut, people], separators=(",", ":"))


def _packed(pose: PersonPose) -> str:
    parts = (pose.joints, pose.confidence, pose.box)
    return base64.b64encode(b"".join(part.astype("<f4").tobytes() for part in parts)).decode()


def _frame_of(content: Any) -> tuple[FramePoses, bool, tuple[int, ...]]:
    index, seconds, is_cut, people = content
    poses = []
    for _, score, num_joints, num_axes, packed in people:
        values = np.frombuffer(base64.b64decode(packed), "<f4").astype(np.float32)
        joints, confidence, box = np.split(
            values, [num_joints * num_axes, num_joints * (num_axes + 1)]
        )
        poses.append(PersonPose(joints.reshape(num_joints, num_axes), confidence, box, score))
    ids = tuple(person[0] for person in people)
    return FramePoses(index, seconds, tuple(poses)), is_cut, ids
