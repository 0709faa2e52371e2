"""One sample of videos: where its frames are, and its label.

Leaves out: how samples are found and opened (sources.py), clips of them (clips.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.data import images
from kineme.errors import Problem


@dataclass(frozen=True)
class Video:
    """One sample and where its frames are.

    first, num_frames: the stretch in frames of the file. flow: a flow store, set later.
    rgb, u, v: files of a frame folder, in order; empty where it has none.
    """

    id: str
    path: Path
    label: int
    num_frames: int
    fps: float = 0.0
    size: tuple[int, int] = (0, 0)  # (height, width)
    first: int = 0
    rgb: tuple[Path, ...] = ()
    u: tuple[Path, ...] = ()
    v: tuple[Path, ...] = ()
    flow: Path | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is decoded, rather than read frame by frame."""
        return not self.rgb and not self.u

    @property
    def num_flow(self) -> int:
        """Pairs of frames that have flow."""
        return len(self.u) if self.u else max(self.num_frames - 1, 0)


@dataclass(frozen=True)
class Videos:
    """N labelled videos (-1: unknown). failed: position -> why it cannot be read."""

    items: tuple[Video, ...]
    failed: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.asarray([video.label for video in self.items], np.int64)


def with_way_out(problem: Problem) -> Problem:
    """What is wrong with a video; of an image, also the setting that passes over such videos."""
    if problem.fix != images.MEND:
        return problem
    return replace(problem, fix="Write or copy it again, or set dataset.bad_sample: skip.")
