"""A folder of skeletons that need not fit in memory, nor in one file, nor have one length.

    index.json               shapes, ids, labels, lengths, classes, layout, files and sha256;
                             origin, where it is known
    skeletons-00000.npy ...  float32 (frames, C, V, M): samples one after the other in time

A sample is one contiguous stretch of one file, stored without its trailing zero frames.
Promises: the writer holds one shard in memory and writes the index last, so a folder
without `index.json` is no store and one with it is whole; the reader keeps a bounded
number of files open and notices files that changed.
Leaves out: changing a store. Write another.

Shapes: B samples, C channels, T frames, V joints, M persons.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.arrays import Shape, as_bytes, check_indices, read_header
from kineme.data.inputs import InputFile, Stamp, read_bytes
from kineme.data.labels import Labels
from kineme.data.origin import UNKNOWN_ORIGIN, Origin, read_origin
from kineme.errors import DataError, Problem
from kineme.files import atomic_write, sweep_temporaries, write_text

INDEX_NAME = "index.json"

_FORMAT = "kineme-skeletons-1"
_MAX_INDEX_BYTES = 4 << 30
_MAX_OPEN_FILES = 128
_MAX_NUMBER = 2**48
_SHARD_NAME = re.compile(r"skeletons-\d{5,}\.npy")
_WRITE_AGAIN = "Write the store again."


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    file: str
    samples: int
    frames: int
    sha256: str


@dataclass(frozen=True, eq=False)
class SkeletonShards:
    """An open store. Reads like a `SkeletonArray`. Pickled copies open the folder again."""

    path: Path
    shape: Shape  # (N, C, T, V, M), T the longest sample as it was given to the writer
    lengths: NDArray[np.int64]  # (N,) frames stored
    labels: Labels
    shards: tuple[Shard, ...]
    _shard_of: NDArray[np.int64]  # (N,)
    _offsets: NDArray[np.int64]  # (N,) bytes into the shard
    _stamps: tuple[Stamp, ...]  # of the index, then of the shards
    _open: dict[int, InputFile] = field(default_factory=dict)

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        return self._stamps

    def __len__(self) -> int:
        return self.shape[0]

    def read(
        self, indices: NDArray[np.int64], *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Samples (B, C, T, V, M), zero after their last frame."""
        _, channels, length, joints, persons = self.shape
        if out is None:
            out = np.empty((len(indices), channels, length, joints, persons), np.float32)
        for row, sample in zip(out, self._samples(indices), strict=True):
            row[:, : len(sample)] = sample.transpose(1, 0, 2, 3)
            row[:, len(sample) :] = 0
        return out

    def read_frames(
        self, indices: NDArray[np.int64], frames: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, C, F, V, M): the frames (B, F) of each sample; -1 and frames past its end are 0."""
        _, channels, _, joints, persons = self.shape
        frames = np.broadcast_to(frames, (len(indices), frames.shape[1]))
        out = np.zeros((len(indices), channels, frames.shape[1], joints, persons), np.float32)
        for row, sample, wanted in zip(out, self._samples(indices), frames, strict=True):
            stored = (wanted >= 0) & (wanted < len(sample))
            if stored.all():
                row[...] = sample[wanted].transpose(1, 0, 2, 3)
            else:
                row[:, stored] = sample[wanted[stored]].transpose(1, 0, 2, 3)
        return out

    def verify(self) -> None:
        """Read everything and compare it with the index. Raises DataError naming the shards."""
        problems = []
        for number, shard in enumerate(self.shards):
            file = self._file(number)
            found = file.sha256()
            if found != shard.sha256:
                expected, received = f"sha256 {shard.sha256[:16]}...", f"{found[:16]}..."
                problems.append(Problem(str(file.path), expected, received, _WRITE_AGAIN))
        if problems:
            raise DataError.of(problems)

    def _samples(self, indices: NDArray[np.int64]) -> Any:
        """Each sample as stored, (frames, C, V, M)."""
        check_indices(indices, len(self))
        _, channels, _, joints, persons = self.shape
        for index, shard, offset in zip(
            self.lengths[indices].tolist(),
            self._shard_of[indices].tolist(),
            self._offsets[indices].tolist(),
            strict=True,
        ):
            sample = np.empty((index, channels, joints, persons), np.float32)
            self._file(shard).read_into(as_bytes(sample), offset)
            yield sample

    def _file(self, number: int) -> InputFile:
        # Files that are once kept are kept for good, so that threads never race on a close.
        file = self._open.get(number)
        if file is None:
            file = InputFile(self.path / self.shards[number].file)
            _check_stamp(file, self._stamps[1 + number])
            if len(self._open) < _MAX_OPEN_FILES:
                self._open[number] = file
        file.check_descriptor()
        return file

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self._stamps))


def open_shards(folder: str | os.PathLike[str]) -> SkeletonShards:
    """Open a store; every shard's header and size are checked, nothing else is read.

    Raises DataError when the folder holds no whole store.
    """
    folder = Path(folder)
    index_file = InputFile(folder / INDEX_NAME)
    index = _read_index(index_file)
    stamps, bytes_before = [index_file.stamp], []
    for shard in index.shards:
        file = InputFile(folder / shard.file)
        shape, dtype, fortran, offset = read_header(file)
        expected = (shard.frames, index.channels, index.joints, index.persons)
        size = offset + math.prod(expected) * 4
        if shape != expected or dtype != np.float32 or fortran or size != file.stamp.size:
            raise DataError(
                str(file.path),
                f"float32 of shape {expected} in {size:,} bytes",
                f"{dtype.name} of shape {shape} in {file.stamp.size:,} bytes",
                _WRITE_AGAIN,
            )
        stamps.append(file.stamp)
        bytes_before.append(offset)
        file.close()
    lengths = np.asarray(index.lengths, np.int64)
    shard_of = np.repeat(np.arange(len(index.shards)), [s.samples for s in index.shards])
    first_frame = np.cumsum([0] + [s.frames for s in index.shards])[shard_of]
    frame = np.cumsum(lengths) - lengths - first_frame
    frame_bytes = 4 * index.channels * index.joints * index.persons
    offsets = np.asarray(bytes_before, np.int64)[shard_of] + frame * frame_bytes
    shape = (len(lengths), index.channels, index.num_frames, index.joints, index.persons)
    return SkeletonShards(
        folder, shape, lengths, index.as_labels(), index.shards, shard_of, offsets, tuple(stamps)
    )


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder with an index."""
    return (Path(path) / INDEX_NAME).is_file()


class ShardWriter:
    """Writes a store sample by sample: `with ShardWriter(folder) as writer: writer.add(...)`.

    The index is written when the block ends without an exception. A folder that already
    holds a store is refused, so that what is there stays.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        layout: str | None = None,
        class_names: Sequence[str] | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        shard_bytes: int = 64 << 20,
    ) -> None:
        self.folder = Path(folder)
        if (self.folder / INDEX_NAME).exists():
            raise DataError(
                str(self.folder), "a folder without a store", f"one with {INDEX_NAME}",
                "Name another folder, or delete this one.",
            )  # fmt: skip
        sweep_temporaries(self.folder)
        self._layout, self._origin = layout, origin
        self._class_names = None if class_names is None else tuple(class_names)
        self._shard_bytes = shard_bytes
        self._frame_shape: tuple[int, int, int] | None = None  # (C, V, M)
        self._num_frames = 1
        self._pending: list[NDArray[np.float32]] = []  # of the next shard, (frames, C, V, M)
        self._pending_bytes = 0
        self._shards: list[Shard] = []
        self._ids: list[str] = []
        self._labels: list[int] = []
        self._lengths: list[int] = []

    def add(self, skeletons: NDArray[Any], *, id: str, label: int = -1) -> None:
        """Append one sample (C, T, V, M). Raises DataError where C, V or M differ."""
        channels, num_frames, joints, persons = skeletons.shape
        frame_shape = (channels, joints, persons)
        self._frame_shape = self._frame_shape or frame_shape
        if frame_shape != self._frame_shape:
            raise DataError(
                f"{self.folder}: sample {id!r}",
                f"(C, V, M) = {self._frame_shape} as in the samples before",
                str(frame_shape),
            )
        length = _valid_length(skeletons)
        # a copy in any case: the caller may use its array again
        frames = np.array(skeletons[:, :length].transpose(1, 0, 2, 3), np.float32, order="C")
        self._pending.append(frames)
        self._ids.append(id)
        self._labels.append(label)
        self._lengths.append(length)
        self._num_frames = max(self._num_frames, num_frames)
        self._pending_bytes += frames.nbytes
        if self._pending_bytes >= self._shard_bytes:
            self._flush()

    def close(self) -> None:
        """Write what is left, then the index. Raises DataError where nothing was added."""
        if self._frame_shape is None:
            raise DataError(str(self.folder), "at least 1 sample", "0 samples")
        channels, joints, persons = self._frame_shape
        if self._pending:
            self._flush()
        index = _Index(
            _FORMAT, channels, joints, persons, self._num_frames, self._layout, self._class_names,
            tuple(self._shards), self._ids, self._labels, self._lengths, self._origin.known(),
        )  # fmt: skip
        content = asdict(index)
        if not index.origin:
            del content["origin"]
        write_text(self.folder / INDEX_NAME, json.dumps(content, ensure_ascii=False) + "\n")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def _flush(self) -> None:
        frames = sum(map(len, self._pending))
        shape = (frames, *self._pending[0].shape[1:])
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": shape}
        )
        name = f"skeletons-{len(self._shards):05d}.npy"
        digest = hashlib.sha256()
        with atomic_write(self.folder / name) as file:
            for part in (memoryview(header.getvalue()), *map(as_bytes, self._pending)):
                file.write(part)
                digest.update(part)
        self._shards.append(Shard(name, len(self._pending), frames, digest.hexdigest()))
        self._pending.clear()
        self._pending_bytes = 0


@dataclass(frozen=True)
class _Index:
    """The content of index.json."""

    format: str
    channels: int
    joints: int
    persons: int
    num_frames: int
    layout: str | None
    classes: tuple[str, ...] | None
    shards: tuple[Shard, ...]
    ids: list[str]
    labels: list[int]
    lengths: list[int]
    origin: dict[str, Any] | None = None

    def as_labels(self) -> Labels:
        labels = np.asarray(self.labels, np.int64)
        origin = read_origin(self.origin)
        return Labels(tuple(self.ids), labels, self.classes, self.layout, origin)


def _read_index(file: InputFile) -> _Index:
    where = str(file.path)
    try:
        content = json.loads(read_bytes(file.path, max_bytes=_MAX_INDEX_BYTES))
        shards = tuple(Shard(**shard) for shard in content.pop("shards"))
        classes = content.pop("classes")
        index = _Index(
            shards=shards, classes=None if classes is None else tuple(classes), **content
        )
        wrong = _what_is_wrong(index)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(where, f"an index of format {_FORMAT}", str(error)[:120]) from error
    if wrong:
        raise DataError(where, f"a whole index of format {_FORMAT}", wrong, _WRITE_AGAIN)
    return index


def _what_is_wrong(index: _Index) -> str | None:
    """Why the index cannot be trusted, or None."""
    sizes = [index.channels, index.joints, index.persons, index.num_frames]
    counts = [n for shard in index.shards for n in (shard.samples, shard.frames)]
    numbers = [*index.labels, *index.lengths, *counts, *sizes]
    texts = [*index.ids, *(index.classes or ()), *(shard.sha256 for shard in index.shards)]
    if index.format != _FORMAT:
        return f"format {str(index.format)[:60]!r}"
    if any(type(n) is not int or abs(n) > _MAX_NUMBER for n in numbers) or min(sizes) < 1:
        return "a size, label or length that is no number, or out of range"
    if any(type(text) is not str for text in texts):
        return "an id, class or sha256 that is not text"
    if not all(_SHARD_NAME.fullmatch(str(shard.file)) for shard in index.shards):
        return "a shard file outside the folder, or of another name"
    if not len(index.ids) == len(index.labels) == len(index.lengths) > 0:
        return f"{len(index.ids)} ids, {len(index.labels)} labels, {len(index.lengths)} lengths"
    if not all(0 <= length <= index.num_frames for length in index.lengths) or min(counts) < 0:
        return f"a length outside [0, {index.num_frames}]"
    try:
        read_origin(index.origin)
    except ValueError as error:
        return f"origin: {error}"
    start = 0
    for shard in index.shards:
        if sum(index.lengths[start : start + shard.samples]) != shard.frames:
            return f"{shard.file} of {shard.frames} frames that its samples do not add up to"
        start += shard.samples
    return None if start == len(index.ids) else f"{start} samples in shards, {len(index.ids)} ids"


def _valid_length(skeletons: NDArray[Any]) -> int:
    """Frames of (C, T, V, M) up to the last one with a value other than zero."""
    seen = np.flatnonzero((skeletons != 0).any(axis=(0, 2, 3)))
    return int(seen[-1]) + 1 if len(seen) else 0


def _reopen(folder: Path, stamps: tuple[Stamp, ...]) -> SkeletonShards:
    store = open_shards(folder)
    if store.stamps != stamps:
        raise DataError(str(folder), "no change while it is read", "a store that was rewritten")
    return store


def _check_stamp(file: InputFile, stamp: Stamp) -> None:
    if file.stamp != stamp:
        raise DataError(
            str(file.path), "no change while it is read", "a file written to or replaced since",
            "Wait until whatever writes it has finished, then start again.",
        )  # fmt: skip
