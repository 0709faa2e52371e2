"""What every reader of a data set of videos hands over, and what is counted on the way.

Promises: whatever the data set, a video has an id, a class and a split; whatever a conversion
leaves out or changes is counted, with the names.
Leaves out: reading (one file per format), writing (frames.py, lists.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Tally:
    """How often something was left out or changed, and in which videos."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """Count `what` ("videos that no list names") for `name`."""
        self.names.setdefault(what, []).append(name)

    def lines(self) -> list[str]:
        """One line for each thing counted, with the first name."""
        return [f"{len(names):,} {what}; first: {names[0]}" for what, names in self.names.items()]

    def facts(self) -> list[dict[str, object]]:
        """The same as plain values, with every name."""
        return [{"what": w, "count": len(n), "in": n} for w, n in self.names.items()]
