"""Every frame of one video in order, to be looked at: a file, a stretch of one, or images.

Promises: memory for a few frames, however long the video. Where there are no colours, flow is
shown as one: u in red, v in green.
Leaves out: what a model sees (dataset.py).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kineme.action_recognition.sources import Video
from kineme.data import images
from kineme.data.frames import FrameReader
from kineme.network import Footage


def footage_of(source: Video) -> Footage:
    """The frames of `source` (H, W, 3). Reading them raises DataError where they are damaged."""
    return Footage(_frames(source), source.fps)


def _frames(source: Video) -> Iterator[NDArray[np.uint8]]:
    if source.is_file:
        stretch = np.arange(source.first, source.first + source.num_frames)
        yield from FrameReader(source.path).at(stretch)
    elif source.rgb:
        for path in source.rgb:
            yield images.read_images([path], size=source.size)[0]
    else:
        for u, v in zip(source.u, source.v, strict=True):
            flow = images.read_flow_images([u], [v], size=source.size)[0]
            yield np.concatenate([flow, np.full_like(flow[..., :1], 128)], axis=2)
