"""The optical flow of one video in one file, of which any pairs are read at once.

A zip of stored JPEGs, `u/000001.jpg` and `v/000001.jpg` for the first pair of frames and so on
(TAO's names, any zip program opens it); `index`, where their bytes lie; `manifest.json`, what it
is the flow of and how it was made. The zip's comment says where the manifest lies, so that
opening costs the same for a clip and for an hour.
Promises: a store is complete or absent; every byte read is held against its checksum; a store can
be read from any process and thread, forked or not.
Leaves out: which stores there are and making them for a data set (cache.py).

Shapes: F pairs of frames asked for, (F, H, W, 2) uint8, the last axis (u, v).
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme import __version__
from kineme.data.flow import DEFAULT_BOUND, encode_flow, iterate_flow
from kineme.data.frames import FrameReader
from kineme.data.inputs import InputFile
from kineme.errors import DataError, SpecError
from kineme.files import atomic_write

FORMAT = "kineme-flow-1"
# Over 16 clips of J-HMDB (320 x 240, dis, fixed) a pair is 5.0 kB and the mean error 0.054 pixels,
# of which 0.050 are the 8 bits; quality 95 is 7.4 kB and 0.052, 85 is 4.0 kB and 0.058.
DEFAULT_QUALITY = 90

_INDEX_ROW = np.dtype([("offset", "<u8"), ("size", "<u4"), ("crc", "<u4")])
_COMMENT = f"{FORMAT} {{:016x}} {{:08x}} {{:08x}}"
_COMMENT_BYTES = len(_COMMENT.format(0, 0, 0))
_END_BYTES = 22  # of a zip's last record before its comment
_MAX_MANIFEST_BYTES = 1 << 20
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # the same flow makes the same bytes
_BUILD_AGAIN = "Delete it; it is computed again when it is needed."

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class FlowSettings:
    """How flow is made; see data/flow.

    short_side: of the frames it is computed on, in whose pixels it is measured; 0: as the video.
    """

    method: str = "dis"
    scaling: str = "fixed"
    bound: float = DEFAULT_BOUND
    short_side: int = 256
    quality: int = DEFAULT_QUALITY

    def facts(self) -> dict[str, Any]:
        """What tells one flow from another."""
        facts = asdict(self)
        return facts if self.scaling == "fixed" else {**facts, "bound": None}


@dataclass(frozen=True)
class StoreFacts:
    """What a store says of itself.

    height, width: of the flow. scale: width of the flow / width of the video. fps: 0.0 where
    nobody knows. damage: of the video it was made from, in words, "" for none.
    """

    num_pairs: int
    height: int
    width: int
    scale: float
    fps: float
    settings: FlowSettings
    sha256: str
    damage: str


class FlowStore:
    """An open store. Raises DataError where the file is no store, cut or changed."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file = InputFile(self.path)
        try:
            manifest = self._manifest()
            self.facts = _facts_of(manifest)
            offset, size, crc = manifest["index"]
            if size != 2 * self.facts.num_pairs * _INDEX_ROW.itemsize:
                raise self._damaged("an index as long as the flow")
            rows = np.frombuffer(self._checked("index", offset, size, crc), _INDEX_ROW)
            self._index = rows.reshape(self.facts.num_pairs, 2)
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise self._damaged("a whole manifest") from error

    def __len__(self) -> int:
        return self.facts.num_pairs

    def read(self, indices: NDArray[np.int64]) -> Bytes:
        """Pairs `indices` (F,), in any order, repeats allowed -> (F, H, W, 2) uint8.

        Pair k is the flow from frame k to k + 1. Raises DataError where bytes are damaged,
        IndexError for a pair that is none.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(
                f"{self.path}: pairs {indices.min()} to {indices.max()} of {len(self)}"
            )
        pairs, which = np.unique(indices, return_inverse=True)
        flow = np.empty((len(pairs), self.facts.height, self.facts.width, 2), np.uint8)
        for row, pair in zip(flow, pairs.tolist(), strict=True):
            for axis, name in enumerate("uv"):
                row[..., axis] = self._image(pair, axis, name)
        return (
            flow if len(pairs) == len(indices) and (which[1:] > which[:-1]).all() else flow[which]
        )

    def verify(self, beat: Callable[[], None] = lambda: None) -> None:
        """Hold every byte of the flow against its checksum. Raises DataError."""
        for pair in range(len(self)):
            for axis, name in enumerate("uv"):
                self._bytes(pair, axis, name)
            beat()

    def close(self) -> None:
        """Give the descriptor back now; otherwise it goes with the object."""
        self._file.close()

    def _image(self, pair: int, axis: int, name: str) -> Bytes:
        data = np.frombuffer(self._bytes(pair, axis, name), np.uint8)
        image: Any = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        if image is None or image.shape != (self.facts.height, self.facts.width):
            raise self._damaged(f"a JPEG as {_member(name, pair)}")
        return np.asarray(image, np.uint8)

    def _bytes(self, pair: int, axis: int, name: str) -> bytes:
        offset, size, crc = self._index[pair, axis].tolist()
        return self._checked(_member(name, pair), offset, size, crc)

    def _checked(self, name: str, offset: int, size: int, crc: int) -> bytes:
        if not 0 <= offset <= offset + size <= self._file.stamp.size:
            raise self._damaged(f"all of {name}")
        data = self._file.read(offset, size)
        if zlib.crc32(data) != crc:
            raise self._damaged(f"{name} with its checksum")
        return data

    def _manifest(self) -> Mapping[str, Any]:
        tail_bytes = _END_BYTES + _COMMENT_BYTES
        size = self._file.stamp.size
        tail = self._file.read(size - tail_bytes, tail_bytes) if size > tail_bytes else b""
        if tail[:4] != b"PK\x05\x06" or not tail[_END_BYTES:].startswith(FORMAT.encode()):
            raise self._damaged(f"a whole store of format {FORMAT}")
        offset, length, crc = (int(word, 16) for word in tail[_END_BYTES:].split()[1:])
        if length > _MAX_MANIFEST_BYTES:
            raise self._damaged("a short manifest")
        manifest = json.loads(self._checked("manifest.json", offset, length, crc))
        if not isinstance(manifest, dict):
            raise TypeError(manifest)
        return manifest

    def _damaged(self, expected: str) -> DataError:
        return DataError(str(self.path), expected, "a damaged optical flow store", _BUILD_AGAIN)


def read_flow(
    path: Path, indices: NDArray[np.int64], *, size: tuple[int, int] | None = None
) -> Bytes:
    """Pairs `indices` (F,) of the store at `path` -> (F, H, W, 2) uint8, at `size` (height, width).

    Motion keeps its units when frames are resized, as it does in folders of flow images.
    """
    store = FlowStore(path)
    try:
        flow = store.read(indices)
    finally:
        store.close()
    return flow if size is None else resize_flow(flow, size)


def resize_flow(flow: Bytes, size: tuple[int, int]) -> Bytes:
    """(F, H, W, 2) at `size` (height, width); areas are averaged where it shrinks.

    A tenth of the time of Pillow, which images are read with, and within a few of its levels.
    """
    if flow.shape[1:3] == size:
        return flow
    resized = np.empty((len(flow), *size, 2), np.uint8)
    shrinks = size[0] < flow.shape[1] or size[1] < flow.shape[2]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    for row, pair in zip(resized, flow, strict=True):
        row[...] = cv2.resize(pair, (size[1], size[0]), interpolation=how)
    return resized


def build_store(
    video: Path,
    path: Path,
    settings: FlowSettings,
    *,
    sha256: str = "",
    beat: Callable[[], None] = lambda: None,
) -> StoreFacts:
    """Compute the flow of the file or folder of frames `video` into a store at `path`.

    sha256: of the video, kept in the manifest. beat: called after every pair.
    Raises DataError for a video without two frames or one that cannot be decoded.
    """
    frames = FrameReader(video, short_side=settings.short_side)
    if frames.facts.num_frames < 2:
        raise DataError(
            str(video), "at least 2 frames for optical flow", str(frames.facts.num_frames)
        )
    encoded = (
        encode_flow(pair, scaling=settings.scaling, bound=settings.bound)
        for pair in iterate_flow(frames, method=settings.method)
    )
    with atomic_write(path) as file:
        return _write(file, encoded, settings, frames, sha256, beat)


def _write(
    file: IO[bytes],
    encoded: Iterable[Bytes],
    settings: FlowSettings,
    frames: FrameReader,
    sha256: str,
    beat: Callable[[], None],
) -> StoreFacts:
    rows: list[tuple[int, int, int]] = []
    shape: tuple[int, ...] = ()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for pair, flow in enumerate(encoded):
            shape = flow.shape
            for axis, name in enumerate("uv"):
                image = encode_jpeg(flow[..., axis], settings.quality)
                rows.append(_add(archive, file, _member(name, pair), image))
            beat()
        index = _add(archive, file, "index", np.array(rows, _INDEX_ROW).tobytes())
        source = frames.facts
        manifest = {
            "format": FORMAT,
            **settings.facts(),
            "num_pairs": len(rows) // 2,
            "height": shape[0],
            "width": shape[1],
            "scale": shape[1] / source.width,
            "fps": source.fps,
            "source": {"name": frames.path.name, "sha256": sha256, **asdict(source)},
            "damage": frames.damage,
            "frames_missing": frames.num_missing,
            "index": index,
            "versions": {"kineme": __version__, "opencv": cv2.__version__},
        }
        text = json.dumps(manifest, indent=2).encode()
        archive.comment = _COMMENT.format(*_add(archive, file, "manifest.json", text)).encode()
    return _facts_of(manifest)


def encode_jpeg(image: Bytes, quality: int) -> bytes:
    """A gray image (H, W) as the bytes of a JPEG."""
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise SpecError(
            "OpenCV", "a build that writes JPEG", f"OpenCV {cv2.__version__}, which fails"
        )
    return data.tobytes()


def _add(archive: zipfile.ZipFile, file: IO[bytes], name: str, data: bytes) -> tuple[int, int, int]:
    """Append a member; where its bytes lie, how many, and their checksum."""
    archive.writestr(zipfile.ZipInfo(name, _BEGINNING), data)
    return file.tell() - len(data), len(data), zlib.crc32(data)


def _member(name: str, pair: int) -> str:
    return f"{name}/{pair + 1:06d}.jpg"


def _facts_of(manifest: Mapping[str, Any]) -> StoreFacts:
    num_pairs, height, width = (int(manifest[key]) for key in ("num_pairs", "height", "width"))
    if min(num_pairs, height, width) < 1:
        raise ValueError(manifest)
    return StoreFacts(
        num_pairs=num_pairs,
        height=height,
        width=width,
        scale=float(manifest["scale"]),
        fps=float(manifest["fps"]),
        settings=FlowSettings(
            method=str(manifest["method"]),
            scaling=str(manifest["scaling"]),
            bound=float(manifest["bound"] or DEFAULT_BOUND),
            short_side=int(manifest["short_side"]),
            quality=int(manifest["quality"]),
        ),
        sha256=str(manifest["source"]["sha256"]),
        damage=str(manifest["damage"]),
    )
