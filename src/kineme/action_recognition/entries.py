"""What a folder or a list says of one video: where it is, its class, which stretch of it.

Leaves out: finding them (listing.py, manifests.py), opening them (sources.py).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kineme.errors import Problem

CLIP_FILE = "clip.json"  # in a folder of frames: what dataset_convert made it from
VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp",
    ".gif",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A video by name. label: its class, None where unknown. start, end: seconds, or None.

    id: printable, so that it can go into any file and onto any terminal. is_file: rather than
    a folder of frames. root: what links among its frames may not lead out of.
    """

    id: str
    path: Path
    is_file: bool
    root: Path
    label: str | None = None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Listing:
    """Everything that was found, good and bad."""

    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def case_notes(entries: Iterable[Entry]) -> Iterator[str]:
    """Names that only differ in case, which other file systems take for one."""
    entries = list(entries)
    labels = {entry.label for entry in entries if entry.label is not None}
    for what, names in (("classes", labels), ("videos", {entry.id for entry in entries})):
        same: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            same[name.casefold()].append(name)
        pairs = [group for group in same.values() if len(group) > 1]
        if pairs:
            first, second = pairs[0][:2]
            yield (
                f"{len(pairs)} names of {what} differ in upper and lower case only, the first "
                f"{first!r} and {second!r}."
            )
