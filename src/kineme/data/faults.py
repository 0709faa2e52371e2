"""What is wrong with a data set, as a list: what `kineme data check` finds, whatever the data.

Leaves out: finding it (each network's `inspect`), showing it (report/fault_page.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kineme.errors import Problem, printable


def is_learned_from(split: str) -> bool:
    """Whether data of this name are to learn from: all but those for validation and tests."""
    return not split.lower().startswith(("val", "test"))


@dataclass(frozen=True)
class Fault:
    """where: a path or a sample. is_error: training refuses it, otherwise it tells and goes on.

    fix: what to do, in a sentence; "" where that is plain.
    """

    where: str
    what: str
    is_error: bool
    fix: str = ""

    @classmethod
    def of(cls, problem: Problem) -> "Fault":
        """A problem that training would end with."""
        what = f"expected {problem.expected}, got {problem.received}"
        return cls(printable(problem.where), printable(what), True, printable(problem.fix))


@dataclass(frozen=True, eq=False)
class Samples:
    """N samples of a split that could be read, as far as a look at all of them needs.

    labels: names of classes, "" where unknown. lengths: (N,) frames. digests: of the content, b""
    where there is none; forms: (N, D) to be held against others (near_copies.py); both may be
    left out. missing: (N, V) share of frames in which a person is there and a joint is not.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    lengths: NDArray[np.int64]
    digests: tuple[bytes, ...] = ()
    forms: NDArray[np.float32] | None = None
    missing: NDArray[np.float32] | None = None
    joints: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Inspection:
    """classes: samples by class, by split ("" where the data are not split).

    samples: those that could be read, by split. window: frames that a model usually sees.
    """

    classes: Mapping[str, Mapping[str, int]]
    num_frames: int
    faults: tuple[Fault, ...]
    samples: Mapping[str, Samples] = field(default_factory=dict)
    window: int = 0

    @property
    def num_samples(self) -> int:
        """Samples that were looked at, good and bad."""
        return sum(sum(counts.values()) for counts in self.classes.values())

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that training refuses."""
        return tuple(fault for fault in self.faults if fault.is_error)
