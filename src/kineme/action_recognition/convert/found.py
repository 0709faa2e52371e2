"""What every reader of a data set of videos hands over.

Promises: whatever the data set, a video has an id, a class and a split.
Leaves out: reading (one file per format), writing (frames.py, lists.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WHOLE = ""  # the split of a video of a data set that is not split


@dataclass(frozen=True)
class Found:
    """One video. name: of its clip folder. path: a file, a folder of frames, or TAO's clip."""

    path: Path
    name: str
    label: str
    split: str = WHOLE

    @property
    def frames(self) -> Path:
        """The file or folder that its colour frames are in."""
        return self.path / "rgb" if (self.path / "rgb").is_dir() else self.path

    @property
    def id(self) -> str:
        """Where it goes below the folder of the conversion."""
        return "/".join(part for part in (self.split, self.label, self.name) if part)


@dataclass(frozen=True)
class Source:
    """A data set that is about to be converted. name: as users know it."""

    name: str
    videos: tuple[Found, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return tuple(sorted({video.label for video in self.videos}))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits in the order they were found."""
        return tuple(dict.fromkeys(video.split for video in self.videos))
