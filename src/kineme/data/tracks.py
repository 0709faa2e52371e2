"""People of one video over time, and the file that holds them.

Promises: what was saved is loaded, bit for bit, and equal tracks make equal files; a joint that
is not seen is NaN in every axis and has confidence 0, in memory and in the file; a file of
strangers is held against its own index before anything is believed, and runs nothing.
Leaves out: how people are followed (people/tracking/tracker.py), joint names of known layouts
(the room of skeletons), training files (pose_classification/convert/tracks.py).

The file is an .npz that numpy.load opens too: `tracks.json`, the first member, and columns that
hold the rows of all tracks one after the other.

Shapes: T rows of a track, R rows of all tracks, V joints, D axes (2, or 3 with depth).
"""

from __future__ import annotations

import json
import math
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.archives.unpacking import Member
from kineme.data.archives.zip import is_zip, zip_members
from kineme.data.arrays import as_bytes
from kineme.data.inputs import InputFile
from kineme.errors import DataError, listed, shortened
from kineme.files import atomic_write

FORMAT = "kineme-tracks-1"
INDEX_NAME = "tracks.json"

_COLUMNS = {  # name: number type, shape of a row
    "frames": ("<i8", ""),
    "seconds": ("<f8", ""),
    "joints": ("<f4", "VD"),
    "confidence": ("<f4", "V"),
    "boxes": ("<f4", "4"),
    "scores": ("<f4", ""),
}
_HEADER = re.compile(  # as numpy writes it
    rb"\{'descr': '(<[if][48])', 'fortran_order': False, "
    rb"'shape': \((\d{1,15}(?:, ?\d{0,15})*)\), \}"
)
_FACTS = (
    "layout", "joint_names", "width", "height", "fps", "source", "num_frames", "num_axes", "cuts",
)  # fmt: skip
_MAX_HEADER_BYTES = 1024
_MAX_INDEX_BYTES = 16 << 20
_MAX_RATIO = 100  # bytes of numbers out of one of the file
_MAX_TEXT = 4096
_MAX_JOINTS = 10_000
_MAX_NUMBER = 2**48
_MAX_TRACKS = 1_000_000
_AGAIN = "Write the tracks again."


@dataclass(frozen=True, eq=False)
class Track:
    """One person over time; frames without a row are those in which nobody saw them.

    id: from 1, of no other track of the video. frames: (T,) int64, rising. seconds: (T,)
    float64, when these frames are shown. joints: (T, V, D) float32 in pixels, NaN where not seen.
    confidence: (T, V) float32 in [0, 1], 0 where not seen. boxes: (T, 4) float32 x0, y0, x1, y1.
    scores: (T,) float32 in [0, 1].
    """

    id: int
    frames: NDArray[np.int64]
    seconds: NDArray[np.float64]
    joints: NDArray[np.float32]
    confidence: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, eq=False)
class Tracks:
    """The people of one video, by rising id.

    layout: the name of the joints' layout. joint_names: (V,). width, height: of the video in
    pixels. fps: 0.0 where nothing says it. source: what the video was called. num_frames: how
    many frames were looked at, people or none. num_axes: D. cuts: frames that begin a new scene.
    estimator: what found the people, "" where nothing says it.
    """

    layout: str
    joint_names: tuple[str, ...]
    width: int
    height: int
    fps: float
    source: str
    num_frames: int
    num_axes: int = 2
    cuts: tuple[int, ...] = ()
    tracks: tuple[Track, ...] = ()
    estimator: str = ""

    def __post_init__(self) -> None:
        wrong = [*_wrong_facts(self)] or [*_wrong_tracks(self)]
        if wrong:  # a bug of the caller's; of a file's it becomes a DataError
            raise ValueError(listed(wrong))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, all or nothing."""
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_member(INDEX_NAME), _index_text(self).encode("utf-8"))
            for name, (kind, _) in _COLUMNS.items():
                with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                    member.write(_header(kind, _column_shape(name, self.num_rows, self)))
                    for track in self.tracks:
                        rows = np.ascontiguousarray(getattr(track, name), kind)
                        member.write(as_bytes(rows))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tracks:
        """Read what `save` wrote. Raises DataError where it is not whole or not what it says."""
        file = InputFile(path)
        try:
            return _read(file)
        finally:
            file.close()

    @property
    def num_rows(self) -> int:
        """How often somebody was seen in a frame."""
        return sum(map(len, self.tracks))


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # equal tracks make equal files


def _index_text(tracks: Tracks) -> str:
    index: dict[str, Any] = {"format": FORMAT}
    index |= {name: getattr(tracks, name) for name in _FACTS}
    index |= {"estimator": tracks.estimator} if tracks.estimator else {}
    index["tracks"] = [{"id": track.id, "rows": len(track)} for track in tracks.tracks]
    return json.dumps(index, ensure_ascii=False, allow_nan=False) + "\n"


def _header(kind: str, shape: tuple[int, ...]) -> bytes:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def _column_shape(name: str, num_rows: int, tracks: Tracks) -> tuple[int, ...]:
    sizes = {"V": len(tracks.joint_names), "D": tracks.num_axes, "4": 4}
    return (num_rows, *(sizes[axis] for axis in _COLUMNS[name][1]))


# Reading -----------------------------------------------------------------------------------


def _read(file: InputFile) -> Tracks:
    where = str(file.path)
    head = file.read(0, min(4, file.stamp.size))
    if not is_zip(head):
        raise DataError(where, "tracks (.npz)", f"a file that starts with {head!r}")
    members = zip_members(file)
    first = next(members, None)
    if first is None or first.name != INDEX_NAME:
        received = f"{shortened(first.name)}" if first else "no members"
        raise DataError(where, f"{INDEX_NAME} as the first member", received, "Is it of kineme?")
    empty, rows = _parse_index(where, _bytes_of(where, first, _MAX_INDEX_BYTES))
    num_rows = sum(n for _, n in rows)
    _check_size(where, file, empty, num_rows)
    columns: dict[str, NDArray[Any]] = {}
    for member in members:
        name = member.name.removesuffix(".npy")
        if name not in _COLUMNS or name in columns or not member.name.endswith(".npy"):
            expected = f"the members {listed(_COLUMNS, 9)}, each once"
            raise DataError(where, expected, shortened(member.name), _AGAIN)
        columns[name] = _read_column(where, member, name, empty, num_rows)
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise DataError(where, "all columns of tracks", f"none of {listed(missing, 9)}", _AGAIN)
    file.check_unchanged()
    ends = np.cumsum([n for _, n in rows], dtype=np.int64).tolist()
    tracks = tuple(
        Track(id_, **{name: column[end - n : end] for name, column in columns.items()})
        for (id_, n), end in zip(rows, ends, strict=True)
    )
    try:
        return replace(empty, tracks=tracks)
    except ValueError as error:
        raise DataError(where, "tracks that hold together", str(error), _AGAIN) from error


def _parse_index(where: str, text: bytes) -> tuple[Tracks, list[tuple[int, int]]]:
    """The facts as tracks without anybody, and (id, rows) of each track."""
    where = f"{where}: {INDEX_NAME}"
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else content
            raise DataError(
                where, f"format {FORMAT!r}", shortened(found), "Use the kineme that wrote it."
            )
        facts = {name: content[name] for name in _FACTS}
        for name in ("joint_names", "cuts"):
            facts[name] = tuple(facts[name]) if isinstance(facts[name], list) else None
        rows = [(track["id"], track["rows"]) for track in content["tracks"]]
        empty = Tracks(**facts, estimator=content.get("estimator", ""))
    except KeyError as error:
        raise DataError(where, f"the key {error.args[0]!r}", "none", _AGAIN) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(where, "an index of tracks", shortened(str(error), 300), _AGAIN) from error
    is_whole = all(type(n) is int and 0 <= n < _MAX_NUMBER for pair in rows for n in pair)
    if len(rows) > _MAX_TRACKS or not is_whole:
        raise DataError(where, "an id and a number of rows for each track", "others", _AGAIN)
    return empty, rows


def _check_size(where: str, file: InputFile, empty: Tracks, num_rows: int) -> None:
    """Hold what the index promises against the size of the file, before memory is set aside."""
    promised = sum(
        math.prod(_column_shape(name, num_rows, empty)) * np.dtype(kind).itemsize
        for name, (kind, _) in _COLUMNS.items()
    )
    if promised > _MAX_RATIO * file.stamp.size:
        received = f"{num_rows:,} rows, {promised:,} bytes of numbers"
        expected = f"rows that a file of {file.stamp.size:,} bytes can hold"
        raise DataError(where, expected, received, _AGAIN)


def _read_column(
    where: str, member: Member, name: str, empty: Tracks, num_rows: int
) -> NDArray[Any]:
    """One column, which has to be as large as the index says."""
    where = f"{where}: {member.name}"
    kind, shape = _COLUMNS[name][0], _column_shape(name, num_rows, empty)
    size = math.prod(shape) * np.dtype(kind).itemsize
    content = _bytes_of(where, member, size + _MAX_HEADER_BYTES)
    is_npy = content[:8] == b"\x93NUMPY\x01\x00" and len(content) >= 10
    start = 10 + int.from_bytes(content[8:10], "little") if is_npy else 0
    found = _HEADER.fullmatch(content[10:start].strip()) if start <= _MAX_HEADER_BYTES else None
    if found is None:
        raise DataError(where, f"numbers of type {kind}", "another header", _AGAIN)
    received = tuple(int(n) for n in re.findall(rb"\d+", found[2]))
    if (found[1].decode(), received) != (kind, shape) or len(content) - start != size:
        saying = f"{found[1].decode()} of shape {received} in {len(content) - start:,} bytes"
        raise DataError(where, f"{kind} of shape {shape} in {size:,} bytes", saying, _AGAIN)
    return np.frombuffer(content[start:], kind).reshape(shape).astype(kind[1:], copy=False)


def _bytes_of(where: str, member: Member, max_bytes: int) -> bytes:
    if member.refusal:
        raise DataError(where, f"{member.name!r} as a plain file", member.refusal, _AGAIN)
    content = bytearray()
    for chunk in member.chunks:
        content += chunk
        if len(content) > max_bytes:
            raise DataError(where, f"at most {max_bytes:,} bytes in {member.name}", "more", _AGAIN)
    return bytes(content)


# What holds for all tracks, in memory and in files ---------------------------------------------


def _wrong_facts(tracks: Tracks) -> Iterator[str]:
    """What is wrong with everything but the people."""
    texts = (tracks.layout, tracks.source, tracks.estimator)
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
        yield f"layout, source or estimator that is no text of at most {_MAX_TEXT:,} characters"
    names = tracks.joint_names
    is_list = isinstance(names, tuple) and 0 < len(names) <= _MAX_JOINTS
    if not is_list or not all(isinstance(n, str) and len(n) <= _MAX_TEXT for n in names):
        yield f"joint_names that are not 1 to {_MAX_JOINTS:,} texts"
    elif len(set(names)) < len(names):
        yield "joint_names that are not all different"
    for name, lowest in (("width", 1), ("height", 1), ("num_frames", 0)):
        number = getattr(tracks, name)
        if type(number) is not int or not lowest <= number < _MAX_NUMBER:
            yield f"{name} {shortened(number)}"
    is_number = type(tracks.fps) in (int, float)
    if not is_number or not 0 <= tracks.fps < _MAX_NUMBER:
        yield f"fps {shortened(tracks.fps)}"
    if type(tracks.num_axes) is not int or tracks.num_axes not in (2, 3):
        yield f"num_axes {shortened(tracks.num_axes)}, neither 2 nor 3"
    cuts = tracks.cuts
    is_list = isinstance(cuts, tuple) and all(type(cut) is int for cut in cuts)
    if not is_list or not all(a < b for a, b in pairwise((-1, *cuts, _MAX_NUMBER))):
        yield "cuts that are no rising frame numbers"


def _wrong_tracks(tracks: Tracks) -> Iterator[str]:
    """What is wrong with the people."""
    ids = [track.id for track in tracks.tracks]
    if not all(type(id_) is int for id_ in ids) or not all(a < b for a, b in pairwise((0, *ids))):
        yield "track ids that do not rise from 1"
    for track in tracks.tracks:
        for wrong in (*_wrong_shapes(track, tracks),) or _wrong_values(track, tracks.num_frames):
            yield f"track {shortened(track.id)}: {wrong}"


def _wrong_shapes(track: Track, tracks: Tracks) -> Iterator[str]:
    for name, (kind, _) in _COLUMNS.items():
        column, shape = getattr(track, name), _column_shape(name, len(track.frames), tracks)
        if column.dtype != np.dtype(kind) or column.shape != shape:
            yield f"{name} of {column.dtype} {column.shape}, not {np.dtype(kind)} {shape}"


def _wrong_values(track: Track, num_frames: int) -> Iterator[str]:
    frames, joints, confidence = track.frames, track.joints, track.confidence
    if not len(frames):
        yield "no rows"
        return
    if (np.diff(frames) <= 0).any() or frames[0] < 0 or frames[-1] >= num_frames:
        yield f"frames that do not rise within the {num_frames:,} of the video"
    if not np.isfinite(track.seconds).all() or (np.diff(track.seconds) < 0).any():
        yield "seconds that go back or are no numbers"
    is_missing = np.isnan(joints).all(axis=-1)
    if not (np.isfinite(joints).all(axis=-1) | is_missing).all():
        yield "joints that are neither numbers nor NaN in every axis"
    if not ((confidence >= 0) & (confidence <= 1)).all():
        yield "confidence outside [0, 1]"
    elif ((confidence > 0) == is_missing).any():
        yield "joints that are seen without confidence, or missing with it"
    is_box = np.isfinite(track.boxes).all(axis=-1) | np.isnan(track.boxes).all(axis=-1)
    if not is_box.all():
        yield "boxes that are neither numbers nor all NaN"
    if not ((track.scores >= 0) & (track.scores <= 1)).all():
        yield "scores outside [0, 1]"
