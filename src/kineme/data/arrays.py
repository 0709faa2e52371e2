"""Skeletons in one .npy file, read lazily and in batches.

Promises: the header is checked against the size of the file before anything is
allocated; no pickled object is ever loaded; samples come as float32 whatever number type
is stored, and a file that shrinks or changes while it is read is a DataError.
Leaves out: what the numbers look like (scan.py), labels (labels.py), layouts (the room).

Shapes: N samples, C channels, T frames, V joints, M persons; (N, C, T, V, M) on disk.
"""

from __future__ import annotations

import ast
import itertools
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from kineme.data.inputs import InputFile, Stamp
from kineme.data.sampling import take_frames
from kineme.errors import DataError, Problem, ResourceError, shortened

Shape = tuple[int, int, int, int, int]

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 10_000
_MAX_SIZE = 2**48  # of one axis
_ACCEPTED = re.compile(r"[<>|=]?(?:f[248]|[iu][1248])")
_REFUSED = {
    "O": "an object array (pickled Python objects)",
    "S": "byte strings",
    "a": "byte strings",
    "U": "text",
    "b": "booleans",
    "?": "booleans",
    "c": "complex numbers",
    "V": "a structured array",
    "M": "dates",
    "m": "time spans",
}
_AXES = "NCTVM"
_KEEP_NUMBERS = "Save it with numpy.save as float32 numbers."


class Skeletons(Protocol):
    """N samples of skeletons, wherever they are stored (SkeletonArray, SkeletonShards)."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        """What changes when the stored data changes."""
        ...

    def read(
        self, indices: NDArray[np.int64], *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Samples (B, C, T, V, M), zero after their last frame."""
        ...

    def read_frames(
        self, indices: NDArray[np.int64], frames: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, C, F, V, M): the frames (B, F) of each sample; frame -1 is zeros."""
        ...


@dataclass(frozen=True, eq=False)
class SkeletonArray:
    """An open .npy of skeletons. Pickled copies open the file again."""

    shape: Shape
    dtype: np.dtype[Any]  # as stored
    notes: tuple[str, ...]  # what the user should be told once
    _file: InputFile
    _offset: int
    _resident: NDArray[np.float32] | None  # set where the file cannot be read sample by sample

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        return (self._file.stamp,)

    def __len__(self) -> int:
        return self.shape[0]

    def read(
        self, indices: NDArray[np.int64], *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Samples (B, C, T, V, M) as float32, in `out` if given."""
        check_indices(indices, len(self))
        self._file.check_descriptor()
        if out is None:
            out = np.empty((len(indices), *self.shape[1:]), np.float32)
        if self._resident is not None:
            return np.take(self._resident, indices, axis=0, out=out, mode="clip")
        stored = out if self.dtype == np.float32 else np.empty(out.shape, self.dtype)
        sample_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        view = as_bytes(stored)
        for row, first, count in runs(indices):
            part = view[row * sample_bytes : (row + count) * sample_bytes]
            self._file.read_into(part, self._offset + first * sample_bytes)
        if stored is not out:
            with np.errstate(over="ignore"):  # float64 beyond float32 is inf, which the scan finds
                out[...] = stored
        return out

    def read_frames(
        self, indices: NDArray[np.int64], frames: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(B, C, F, V, M): the frames (B, F) of each sample; frame -1 is zeros."""
        return take_frames(self.read(indices), frames)

    def __reduce__(self) -> tuple[object, ...]:
        return (_from_file, (self._file,))


def open_skeletons(path: str | os.PathLike[str]) -> SkeletonArray:
    """Open a (N, C, T, V, M) .npy of numbers.

    Raises DataError when it cannot be read, is no such array or is not whole.
    """
    return _from_file(InputFile(path))


def check_shape(
    where: str,
    shape: Sequence[int],
    *,
    num_channels: int,
    num_joints: int,
    layout: str,
    layouts_with: Callable[[int], Sequence[str]],
    is_fixed: bool = False,
) -> list[Problem]:
    """What keeps data of `shape` from a model of `num_channels` and a `layout` of `num_joints`.

    layouts_with: names of the known layouts that have a number of joints.
    is_fixed: the model is trained, so that only the data can change.
    """
    problems = _shape_problems(where, shape)
    if problems:
        return problems
    is_shape = f"shape {tuple(shape)} is (N, C, T, V, M)"
    channels, joints = shape[1], shape[3]
    order = _fitting_order(shape, num_channels, num_joints)
    is_known = joints == num_joints or bool(layouts_with(joints))
    is_odd = channels not in (num_channels, 2, 3) or not is_known
    if order and (is_odd or (channels != num_channels == shape[4])):  # (N, M, T, V, C), M=2
        return [_swapped(where, shape, order, num_channels, num_joints)]
    if channels != num_channels:
        expected = f"{num_channels} channels for model.input_channels"
        fix = f"No axis order fits C={num_channels}."
        if channels in (2, 3):
            fix = f"Set model.input_channels: {channels}, or convert the data."
        if is_fixed:
            fix = "The checkpoint was trained with these: convert the data."
        problems.append(Problem(where, expected, f"{channels} ({is_shape})", fix))
    if joints != num_joints:
        expected = f"{num_joints} joints for model.graph_layout {layout!r}"
        fix = _layout_hint(joints, sorted(layouts_with(joints)), is_fixed=is_fixed)
        problems.append(Problem(where, expected, f"{joints} ({is_shape})", fix))
    return problems


def _layout_hint(joints: int, names: Sequence[str], *, is_fixed: bool) -> str:
    fit = f"{joints} joints fit {' and '.join(map(repr, names))}. " if names else ""
    if is_fixed:
        return f"{fit}The checkpoint was trained with that layout: convert the data to it."
    if not names:
        return f"No known layout has {joints} joints; describe yours in a layout file."
    return f"{fit}Set model.graph_layout: {names[0]}."


def check_indices(indices: NDArray[np.int64], length: int) -> None:
    """Raise IndexError for an index outside [0, length): a bug of the caller's."""
    if len(indices) and (indices.min() < 0 or indices.max() >= length):
        raise IndexError(f"sample index outside [0, {length})")


def runs(indices: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(row, first index, count) for every stretch of consecutive indices: one read each."""
    if not len(indices):
        return []
    starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 2) != 1)
    counts = np.diff(starts, append=len(indices))
    return list(zip(starts.tolist(), indices[starts].tolist(), counts.tolist(), strict=True))


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The memory of a C-ordered array."""
    return array.reshape(-1).view(np.uint8).data


def read_header(file: InputFile) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, number type, Fortran order and data offset of a .npy of numbers (version 1-3).

    The only thing evaluated is a literal of at most 10,000 characters.
    """
    where = str(file.path)
    start = file.read(0, min(12, file.stamp.size))
    if len(start) < 12 or not start.startswith(_MAGIC) or start[6] not in (1, 2, 3):
        raise DataError(where, "a .npy file", f"a file that starts with {start[:8]!r}", _save())
    offset = 10 if start[6] == 1 else 12
    length = int.from_bytes(start[8:offset], "little")
    if length > _MAX_HEADER_BYTES or offset + length > file.stamp.size:
        raise DataError(
            where,
            f"a .npy header of at most {_MAX_HEADER_BYTES:,} bytes",
            f"one of {length:,} bytes in a file of {file.stamp.size:,}",
            _save(),
        )
    header = _literal(where, file.read(offset, length))
    shape, fortran = header["shape"], header["fortran_order"]
    is_shape = isinstance(shape, tuple) and all(
        type(n) is int and 0 <= n < _MAX_SIZE for n in shape
    )
    if not is_shape or not isinstance(fortran, bool):
        received = f"shape {shortened(shape)}, fortran_order {shortened(fortran)}"
        raise DataError(where, "a .npy header with plausible sizes", received, _save())
    return shape, _number_type(where, header["descr"]), fortran, offset + length


def _from_file(file: InputFile) -> SkeletonArray:
    shape, dtype, fortran, offset = read_header(file)
    where = str(file.path)
    problems = _shape_problems(where, shape)
    if problems:
        raise DataError.of(problems)
    expected, received = offset + math.prod(shape) * dtype.itemsize, file.stamp.size
    if expected != received:
        raise DataError(
            where,
            f"{expected:,} bytes for shape {shape} of {dtype.name}",
            f"{received:,} bytes",
            "The file is incomplete or damaged: write or copy it again.",
        )
    notes = []
    if dtype != np.float32:
        notes.append(f"{where}: stored as {dtype.name}, read as float32.")
    resident = None
    if fortran:
        resident = _read_fortran(file, shape, dtype, offset)
        notes.append(
            f"{where}: stored in Fortran order, so all of it ({resident.nbytes / 2**20:,.0f} MiB) "
            "is held in memory; save numpy.ascontiguousarray(data) to have it read lazily."
        )
    return SkeletonArray(cast(Shape, shape), dtype, tuple(notes), file, offset, resident)


def _read_fortran(
    file: InputFile, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int
) -> NDArray[np.float32]:
    """All of a Fortran-ordered file: each sample of it is strewn over the whole file."""
    needed = math.prod(shape) * (dtype.itemsize + 4)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory // 2:
        raise ResourceError(
            str(file.path),
            f"{needed:,} bytes of memory to turn Fortran order around",
            f"a machine with {memory:,}",
            "Save numpy.ascontiguousarray(data).",
        )
    stored = np.empty(shape, dtype, order="F")
    file.read_into(as_bytes(stored.T), offset)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(stored, np.float32)


def _literal(where: str, text: bytes) -> dict[str, Any]:
    # Python 2 wrote sizes as 10L.
    plain = re.sub(r"(?<=\d)L\b", "", text.decode("latin-1").strip())
    try:
        value = ast.literal_eval(plain) if re.fullmatch(r"\{[^\\#]*\}", plain, re.S) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        raise DataError(
            where,
            "a .npy header with descr, fortran_order and shape",
            shortened(text[:60]),
            _save(),
        )
    return value


def _number_type(where: str, descr: object) -> np.dtype[Any]:
    if isinstance(descr, str) and _ACCEPTED.fullmatch(descr):
        return np.dtype(descr)
    if isinstance(descr, list | tuple):
        received = "a structured array"
    else:
        received = _REFUSED.get(str(descr).lstrip("<>|=")[:1], "an unknown type")
    raise DataError(
        where,
        "numbers (float16, float32, float64 or integers)",
        f"{received}, dtype {shortened(descr)}",
        _KEEP_NUMBERS,
    )


def _shape_problems(where: str, shape: Sequence[int]) -> list[Problem]:
    shape = tuple(shape)
    if len(shape) != 5:
        fix = ""
        if len(shape) == 4:
            fix = f"If it has no person axis, save data[..., None]: shape {(*shape, 1)}."
        received = f"{len(shape)} {shortened(shape)}"
        return [Problem(where, "5 dimensions (N, C, T, V, M)", received, fix)]
    if shape[0] == 0:
        return [Problem(where, "at least 1 sample", f"0 samples (shape {shape})")]
    if 0 in shape:
        axis = _AXES[shape.index(0)]
        return [Problem(where, "no empty axis in (N, C, T, V, M)", f"{axis}=0 (shape {shape})")]
    return []


def _fitting_order(
    shape: Sequence[int], num_channels: int, num_joints: int
) -> tuple[int, ...] | None:
    """The transposition that makes `shape` fit, N first and the shorter of T and M last."""
    for c_axis, v_axis in itertools.permutations(range(5), 2):
        if (shape[c_axis], shape[v_axis]) == (num_channels, num_joints):
            n_axis, *rest = (axis for axis in range(5) if axis not in (c_axis, v_axis))
            t_axis, m_axis = sorted(rest, key=lambda axis: -shape[axis])
            return n_axis, c_axis, t_axis, v_axis, m_axis
    return None


def _swapped(
    where: str, shape: Sequence[int], order: tuple[int, ...], num_channels: int, num_joints: int
) -> Problem:
    looks = ", ".join(_AXES[order.index(axis)] for axis in range(5))
    return Problem(
        where,
        f"axes (N, C, T, V, M) with C={num_channels} and V={num_joints}",
        f"C={shape[1]} and V={shape[3]} (shape {tuple(shape)})",
        f"It looks like ({looks}): save data.transpose({', '.join(map(str, order))}).",
    )


def _save() -> str:
    return "Save it again with numpy.save."
