"""What is looked at: a video file, a folder of images, a camera, an address; as frames in time.

Promises: frames come in order with the seconds at which they are shown; one frame is in memory at
a time; a source that cannot be opened is told before anything else is done.
Leaves out: connections that break (streams.py), decoding (data/video).

Shapes: frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kineme.data import images, video
from kineme.data.frames import FrameReader, stamp_of
from kineme.errors import DataError
from kineme.people.streams import Stream, StreamSettings, is_stream, shown_address

DEFAULT_FPS = 25.0  # of images, and where nothing says it
VIDEO_ENDINGS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv",
    ".3gp", ".gif",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Moment:
    """A frame. index: from 0, of all that there were; seconds: when it is shown, from 0."""

    index: int
    seconds: float
    frame: NDArray[np.uint8]


class Source(Protocol):
    """name: for people. stamp: what tells one version from another, "" for what never comes
    again. num_frames: 0 where nothing says it. damage: in words, so far. again: the frames once
    more, as good as is needed to look at them; None where they do not come again."""

    name: str
    stamp: str
    fps: float
    num_frames: int
    width: int
    height: int

    @property
    def damage(self) -> str: ...

    @property
    def is_live(self) -> bool: ...

    def moments(self) -> Generator[Moment]: ...

    def again(self, *, short_side: int) -> Generator[Moment] | None: ...

    def close(self) -> None: ...


def open_source(word: str, settings: StreamSettings) -> Source:
    """The source that a user names. Raises DataError or ServiceError where it cannot be read."""
    if is_stream(word):
        return LiveSource(word, settings)
    check_path(word)
    return StoredSource(Path(word).expanduser())


def check_path(word: str) -> None:
    """Raise DataError where a path is none of a video or of a folder of images, unopened."""
    path = Path(word).expanduser()
    if not path.exists():
        fix = "Check the path. Cameras are numbers, streams are addresses (rtsp://...)."
        raise DataError(word, "a video, a folder, a camera or an address", "no such file", fix)
    if path.is_dir() and not images.list_frames(path).paths:
        fix = "Folders in it are not looked into: name one of them."
        raise DataError(word, "a folder of images or videos", "one without either", fix)
    if not path.is_dir() and path.suffix.lower() in images.IMAGE_ENDINGS:
        fix = "Name the folder that it lies in: all images of a folder are one video."
        raise DataError(word, "a video, or a folder of images", "one image", fix)


def videos_in(folder: Path) -> tuple[Path, ...]:
    """The video files of a folder, by name; none where it holds images."""
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_ENDINGS))


class StoredSource:
    """A video file, or a folder of images at `DEFAULT_FPS`."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.is_live = path, str(path), False
        self.stamp = stamp_of(path)
        self._damage = ""
        if path.is_dir():
            facts = FrameReader(path).facts
            self.fps, self.num_frames = DEFAULT_FPS, facts.num_frames
            self.width, self.height = facts.width, facts.height
        else:
            probed = video.probe(path)
            self.fps, self.num_frames = probed.fps or DEFAULT_FPS, probed.num_frames
            self.width, self.height = probed.width, probed.height
            self._damage = probed.damage

    @property
    def damage(self) -> str:
        return self._damage

    def moments(self) -> Generator[Moment]:
        return self._moments()

    def again(self, *, short_side: int) -> Generator[Moment]:
        return self._moments(short_side)

    def _moments(self, short_side: int | None = None) -> Generator[Moment]:
        if self.path.is_dir():
            for index, frame in enumerate(FrameReader(self.path, short_side=short_side or 0)):
                yield Moment(index, index / self.fps, frame)
            return
        is_quick = short_side is not None
        with video.iterate(self.path, short_side=short_side, is_quick=is_quick) as stream:
            last = -1.0
            for index, (seconds, frame) in enumerate(stream):
                last = max(seconds, last + 1e-4)  # time never goes back
                yield Moment(index, last, frame)
            self._damage = self._damage or stream.damage

    def close(self) -> None:
        """Nothing is open between iterations."""


class LiveSource:
    """A camera or an address; see streams.py."""

    def __init__(self, word: str, settings: StreamSettings) -> None:
        self.name, self.stamp, self.num_frames = shown_address(word), "", 0
        self.is_live = True
        self.stream = Stream(word, settings)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.stream.close)
            first = self.stream.first()
            on_error.pop_all()
        self.height, self.width = first.shape[:2]
        self.fps = self.stream.fps or DEFAULT_FPS

    @property
    def damage(self) -> str:
        return ""

    def moments(self) -> Generator[Moment]:
        for index, seconds, frame in self.stream.frames():
            yield Moment(index, seconds, frame)

    def again(self, *, short_side: int) -> None:
        return None

    def close(self) -> None:
        self.stream.close()
