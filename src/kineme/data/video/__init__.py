"""Reading video files: what they are, some frames by number, or all of them in order.

Promises: frames by number are those of a full decode, turned as the file says, and only the
groups that hold them are decoded; a video whose frames are not evenly spaced is read by time, so
that its even copy gives the same frames; damage is found and said; a missing frame is replaced by
the one shown before it and counted; memory stays flat however long the video is.
Leaves out: frame folders (images.py), deadlines for a decoder that hangs (probing.py),
sound, colour management beyond FFmpeg's conversion to RGB, and damage that no decoder can see:
flipped bits inside the pictures of HEVC, VP8, VP9 and MJPEG pass in a tenth to 4 of 10 files.

Shapes: F frames asked for; frames are (F, H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from kineme.data.inputs import InputFile, Stamp
from kineme.data.video.decoding import Decoded, decode_slots
from kineme.data.video.files import OpenVideo, ffmpeg_errors_named, open_video
from kineme.data.video.frame_index import FrameIndex, build_index
from kineme.data.video.frame_times import said_rate
from kineme.data.video.packets import decode_packet, demux, no_pictures
from kineme.data.video.pictures import Picture, Shaper
from kineme.data.video.writing import write_video
from kineme.errors import DataError

__all__ = ["Clip", "FrameStream", "VideoFacts", "iterate", "probe", "read_frames", "write_video"]

_MAX_CACHED_FRAMES = 2_000_000  # of all indexes together: about 130 MB


@dataclass(frozen=True)
class VideoFacts:
    """What a video file is.

    num_frames: frames that can be asked for. fps: of them; num_frames = duration * fps.
    width, height: as shown. rotation: degrees clockwise from stored to shown.
    expected_frames: pictures the container says there are, or as many as were found.
    damage: what is wrong with the file as a whole, in words; "" for nothing.
    """

    path: str
    num_frames: int
    fps: float
    duration_seconds: float
    width: int
    height: int
    rotation: int
    is_variable_rate: bool
    expected_frames: int = 0
    damage: str = ""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (F, H, W, 3) uint8 RGB, and what is wrong with them.

    damage: in words, "" for nothing. num_missing: of the F frames, replaced by the one shown
    before.
    """

    frames: NDArray[np.uint8]
    damage: str = ""
    num_missing: int = 0


def probe(path: str | os.PathLike[str]) -> VideoFacts:
    """What the video at `path` is. Reads all of it once, decodes its first frame.

    Raises DataError that says in plain words why it is no video that can be used.
    """
    file = InputFile(path)
    try:
        facts = _facts(file, _index_of(file))
        file.check_descriptor()
        return facts
    finally:
        file.close()


def read_frames(
    path: str | os.PathLike[str],
    indices: NDArray[np.int64],
    *,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    threads: int = 1,
) -> Clip:
    """Frames `indices` (F,) in [0, num_frames), in any order, repeats allowed.

    size: (height, width) of the frames; short_side: of their shorter side, the other keeps the
    aspect; neither: as stored. threads: of the decoder (workers are better parallel to each other).
    Raises DataError where none of the frames can be decoded, IndexError for a frame that is none.
    """
    file = InputFile(path)
    try:
        with open_video(file, threads=threads) as video:
            index = _index_of(file, video)
            clip = _read(video, index, np.asarray(indices, np.int64), size, short_side)
        file.check_descriptor()
        return clip
    finally:
        file.close()


def iterate(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    threads: int = 1,
    is_quick: bool = False,
) -> FrameStream:
    """Every picture of the video in order, with the seconds at which it is shown, from 0.

    For whoever follows people through a video as it comes, long or not; clips of a known length
    are read by number (`read_frames`). is_quick: for pictures that are looked at and not learned
    from (`Shaper`).
    """
    shape = functools.partial(Shaper.of, size=size, short_side=short_side, is_quick=is_quick)
    return FrameStream(path, shape, threads=threads)


class FrameStream(Iterator[tuple[float, Picture]]):
    """An iterator over (seconds, frame (H, W, 3)). Holds one frame at a time.

    damage: what was wrong so far, in words, "" for nothing. `close` it (or use it in a `with`)
    when you stop before its end.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: Callable[[VideoFrame], Shaper],
        *,
        threads: int,
    ) -> None:
        self._errors: list[str] = []
        self._resized = ""
        self._frames = self._generate(path, shape, threads)

    @property
    def damage(self) -> str:
        return "; ".join(filter(None, [_errors_in_words(self._errors), self._resized]))

    def __next__(self) -> tuple[float, Picture]:
        return next(self._frames)

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._frames.close()

    def _generate(
        self,
        path: str | os.PathLike[str],
        shape: Callable[[VideoFrame], Shaper],
        threads: int,
    ) -> Generator[tuple[float, Picture]]:
        file = InputFile(path)
        shaper: Shaper | None = None
        begins: int | None = None
        count = num_packets = 0
        with contextlib.closing(file), open_video(file, threads=threads) as video:
            fps = said_rate(video.stream)
            tick = float(video.stream.time_base or 0)
            for packet in demux(video):
                num_packets += packet is not None
                for picture in decode_packet(video, packet):
                    if shaper is None:
                        shaper = shape(picture)
                        begins = picture.pts
                    if begins is None or picture.pts is None:
                        seconds = count / fps
                    else:
                        seconds = (picture.pts - begins) * tick
                    count += 1
                    with ffmpeg_errors_named(file):
                        frame = np.ascontiguousarray(shaper.to_rgb(picture))
                    if shaper.num_resized:
                        self._resized = _resized_in_words(shaper.num_resized, count)
                    yield seconds, frame
                self._errors = [words for _, _, words in video.complaints]
            if shaper is None:
                raise no_pictures(video, num_packets=num_packets)


def _read(
    video: OpenVideo,
    index: FrameIndex,
    indices: NDArray[np.int64],
    size: tuple[int, int] | None,
    short_side: int | None,
) -> Clip:
    count = len(index.slot_of_frame)
    if indices.size and not 0 <= indices.min() <= indices.max() < count:
        raise IndexError(f"{video.path}: frames {indices.min()} to {indices.max()} of {count}")
    shaper = _shaper_of(index, size, short_side)
    slots, which = np.unique(index.slot_of_frame[indices], return_inverse=True)
    frames = np.empty((len(slots), shaper.height, shaper.width, 3), np.uint8)
    place = {slot: i for i, slot in enumerate(slots.tolist())}

    def keep(slot: int, picture: VideoFrame) -> None:
        with ffmpeg_errors_named(video.file):
            frames[place[slot]] = shaper.to_rgb(picture)

    key = _cache_key(video.file)
    decoded = decode_slots(video, index, slots.tolist(), keep, seeks=key not in _inexact)
    if not decoded.is_seek_exact:
        _inexact.add(key)
    missing = np.array([place[slot] for slot in decoded.missing], np.int64)
    if len(missing) == len(slots) > 0:
        words = _errors_in_words(decoded.errors) or "nothing comes out of the decoder"
        raise DataError(video.path, "frames that can be decoded", words, "Remove or re-encode it.")
    source = _stand_ins(len(slots), missing)[which]
    is_as_asked = np.array_equal(source, np.arange(len(slots)))
    return Clip(
        frames if is_as_asked else frames[source],
        damage=_damage_in_words(index, decoded, shaper, len(slots)),
        num_missing=int(np.isin(which, missing).sum()),
    )


def _stand_ins(count: int, missing: NDArray[np.int64]) -> NDArray[np.int64]:
    """(count,) for each picture itself, or for a missing one the nearest before, else after."""
    source = np.arange(count)
    there = np.setdiff1d(source, missing)
    at = np.searchsorted(there, source, side="right") - 1
    return there[np.maximum(at, 0)] if len(there) else source


def _damage_in_words(index: FrameIndex, decoded: Decoded, shaper: Shaper, asked: int) -> str:
    said = [index.damage, _errors_in_words(decoded.errors)]
    if decoded.missing:
        gone = len(decoded.missing)
        said.append(f"{gone} of {asked} frames cannot be decoded, the ones before stand in")
    if decoded.num_corrupt:
        said.append(f"{decoded.num_corrupt} of {asked} frames are marked corrupt")
    if shaper.num_resized:
        said.append(_resized_in_words(shaper.num_resized, asked))
    return "; ".join(words for words in said if words)


def _resized_in_words(count: int, total: int) -> str:
    return f"{count} of {total} frames have another size than the first, and were scaled to it"


def _errors_in_words(errors: Sequence[str]) -> str:
    if not errors:
        return ""
    first = " ".join(errors[0].split()).strip(" .")  # FFmpeg's lines end with a line break
    return f"decoding errors ({len(errors)}), the first: {first}"


def _facts(file: InputFile, index: FrameIndex) -> VideoFacts:
    shaper = _shaper_of(index, None, None)
    return VideoFacts(
        path=str(file.path),
        num_frames=len(index.slot_of_frame),
        fps=index.fps,
        duration_seconds=index.duration_seconds,
        width=shaper.width,
        height=shaper.height,
        rotation=index.turn.degrees,
        is_variable_rate=index.is_variable_rate,
        expected_frames=index.expected_frames,
        damage=index.damage,
    )


def _shaper_of(index: FrameIndex, size: tuple[int, int] | None, short_side: int | None) -> Shaper:
    return Shaper(index.height, index.width, index.turn, size=size, short_side=short_side)


_indexes: OrderedDict[tuple[str, Stamp], FrameIndex] = OrderedDict()
_inexact: set[tuple[str, Stamp]] = set()  # files where starting at a key frame is not exact
_cache_lock = threading.Lock()


def forget() -> None:
    """Drop what this process knows of files it has read."""
    with _cache_lock:
        _indexes.clear()
        _inexact.clear()


def _cache_key(file: InputFile) -> tuple[str, Stamp]:
    return str(file.path.absolute()), file.stamp


def _index_of(file: InputFile, video: OpenVideo | None = None) -> FrameIndex:
    """The index of the file, built once in this process for each version of it."""
    key = _cache_key(file)
    with _cache_lock:
        if key in _indexes:
            _indexes.move_to_end(key)
            return _indexes[key]
    if video is None:
        with open_video(file) as opened:
            index = build_index(opened)
    else:
        index = build_index(video)
    with _cache_lock:
        _indexes[key] = index
        total = sum(len(i.slot_of_frame) for i in _indexes.values())
        while total > _MAX_CACHED_FRAMES and len(_indexes) > 1:
            _, oldest = _indexes.popitem(last=False)
            total -= len(oldest.slot_of_frame)
    return index
