"""What the converters of all networks share: the data they are given, and what they count.

Promises: whatever a conversion leaves out or changes is counted, with the names.
Leaves out: the formats (`<room>/convert`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kineme.errors import DataError, Problem

DATASET_FILE = "dataset.json"  # what a conversion says of itself
DATA_KEY = "dataset_convert.data"
MAX_SHOWN = 20  # problems that an error spells out


@dataclass
class Tally:
    """How often a conversion left out or changed something, and in which samples."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str, count: int = 1) -> None:
        """Count `what` ("frames without a root, marked missing") in the sample `name`."""
        if count:
            self.counts[what] = self.counts.get(what, 0) + count
            self.names.setdefault(what, []).append(name)

    def lines(self) -> list[str]:
        """One line for each thing counted, with the first name."""
        return [f"{self.counts[w]:,} {w}; first: {self.names[w][0]}" for w in self.counts]

    def facts(self) -> list[dict[str, object]]:
        """The same as plain values, with every name."""
        return [{"what": w, "count": self.counts[w], "in": self.names[w]} for w in self.counts]


def folder_of(path: str | None, *, key: str = DATA_KEY) -> Path:
    """The folder that `key` of the spec names. Raises DataError."""
    folder = path_of(path, key=key, expected="a folder")
    if not folder.is_dir():
        raise DataError(key, "a folder", f"{path!r}, a file")
    return folder


def path_of(path: str | None, *, key: str = DATA_KEY, expected: str = "a file or folder") -> Path:
    """What `key` of the spec names, which has to exist. Raises DataError."""
    if not path or not Path(path).exists():
        raise DataError(key, expected, f"{path!r}, not there" if path else "nothing")
    return Path(path)


def failed_problems(
    problems: Sequence[Problem], total: int, *, where: str, max_bad: float = 0.0
) -> list[Problem]:
    """What is wrong with the first of `total` videos, and how many failed.

    Nothing where a share of at most `max_bad` did.
    """
    if not problems or len(problems) / total <= max_bad:
        return []
    expected = f"all {total} videos to be converted"
    if max_bad:
        expected = f"at most {100 * max_bad:g} % of {total} videos to fail"
    rest = len(problems) - MAX_SHOWN
    received = f"{len(problems)} that failed" + (f", {rest} more than shown" if rest > 0 else "")
    last = Problem(where, expected, received, "The others are done.")
    return [*problems[:MAX_SHOWN], last]
