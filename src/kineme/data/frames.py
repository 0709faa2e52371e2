"""Every frame of one video in order, be it a file or a folder of images.

Promises: frame k is the one that `video.read_frames` gives for k, or the k-th image by natural
order; memory for a bounded stretch of frames, however long the video; damage is said.
Leaves out: single frames (video/, images.py).

Shapes: frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.data import images, video
from kineme.data.inputs import InputFile
from kineme.errors import DataError

_STRETCH_BYTES = 64 << 20  # of frames that are decoded at a time


@dataclass(frozen=True)
class FramesFacts:
    """fps: 0.0 where nothing says it (images). height, width: as the video is shown."""

    num_frames: int
    fps: float
    height: int
    width: int


class FrameReader:
    """The frames of the video at `path` as they are iterated over.

    short_side: of the frames given, the other side keeps the aspect; 0: as the video.
    damage: what was wrong with the frames given so far, in words, "" for nothing.
    """

    def __init__(self, path: Path, *, short_side: int = 0) -> None:
        self.path, self.damage, self.num_missing = path, "", 0
        self._short_side = short_side or None
        self._images: tuple[Path, ...] = ()
        if path.is_dir():
            self._images = frame_paths(path)
            height, width = images.image_size(self._images[0])
            self.facts = FramesFacts(len(self._images), 0.0, height, width)
        else:
            probed = video.probe(path)
            self.facts = FramesFacts(probed.num_frames, probed.fps, probed.height, probed.width)
            self.damage = probed.damage

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self.at(np.arange(self.facts.num_frames))

    def at(self, indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """The frames `indices` (F,), rising, repeats allowed. Raises DataError."""
        height, width = self.facts.height, self.facts.width
        scale = (self._short_side or min(height, width)) / min(height, width)
        per_stretch = max(int(_STRETCH_BYTES / (3 * height * width * scale**2)), 4)
        for first in range(0, len(indices), per_stretch):
            yield from self._stretch(indices[first : first + per_stretch])

    def _stretch(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._images:
            paths = [self._images[i] for i in indices]
            return images.read_images(paths, short_side=self._short_side)
        clip = video.read_frames(self.path, indices, short_side=self._short_side)
        self.damage = self.damage or clip.damage
        self.num_missing += clip.num_missing
        return clip.frames


def frame_paths(folder: Path) -> tuple[Path, ...]:
    """The images in `folder` in order. Raises DataError where there are none."""
    paths = images.list_frames(folder).paths
    if not paths:
        raise DataError(str(folder), "a folder of frames", "one without images")
    return paths


def stamp_of(path: Path) -> str:
    """What tells one version of a video from another without reading it."""
    if not path.is_dir():
        return ":".join(map(str, _stamp(path)))
    digest = hashlib.sha256()
    for image in frame_paths(path):
        digest.update(f"{image.name}:{_stamp(image)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def content_hash(path: Path, beat: Callable[[], None] = lambda: None) -> str:
    """sha256 of the bytes of a file, or of the names and bytes of the images in a folder."""
    digest = hashlib.sha256()
    for part in frame_paths(path) if path.is_dir() else (path,):
        file = InputFile(part)
        try:
            if path.is_dir():
                digest.update(f"{part.name}:{file.stamp.size}:".encode(errors="surrogateescape"))
            file.feed(digest, beat)
        finally:
            file.close()
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino
