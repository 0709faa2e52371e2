"""What every reader of a skeleton format hands over.

Promises: whatever the source, a skeleton is (M, T, V, C) float32 with NaN where a joint is
missing.
Leaves out: reading (one file per format), writing (writing.py).

Shapes: M persons, T frames, V joints, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally
from kineme.errors import DataError, Problem
from kineme.pose_classification.people import by_motion, motion_energy

T = TypeVar("T")
R = TypeVar("R")

# Of the files written.
TRAIN_STEM, VAL_STEM, TEST_STEM = "train_data", "val_data", "test_data"
WHOLE = "data"  # where there is no split
UNKNOWN = -1  # the label of a clip nobody labelled


@dataclass(frozen=True)
class Clip:
    """One sequence. skeleton: (M, T, V, C), NaN where a joint is missing. fps: frames a second,
    0.0 where nothing says it. estimator: what found the people, "" where nothing says it."""

    id: str
    skeleton: NDArray[np.float32]
    label: int = UNKNOWN
    stem: str = WHOLE  # of the file it is written to
    fps: float = 0.0
    estimator: str = ""


@dataclass(frozen=True)
class Source:
    """A data set about to be read. name: as users know it.

    layouts: names of the layouts its joints may have, the likeliest first. clips: read
    lazily, in the order they are written. num_persons: how many are kept, 0 = all.
    num_frames: T of what is written, 0 = that of the longest clip. protocol: the split used.
    kpi: counts for the run's status, in place of the number of samples.
    failed: what is wrong with clips that could not be read, where that does not fail all.
    estimator_settings: of what found the people, where they are known.
    """

    name: str
    layouts: tuple[str, ...]
    classes: tuple[str, ...]
    clips: Iterator[Clip]
    num_persons: int = 0
    num_frames: int = 0
    protocol: str = "none"
    kpi: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[Problem, ...] = ()
    estimator_settings: Mapping[str, str] = field(default_factory=dict)


def read_each(items: Iterable[T], read: Callable[[T], R | None]) -> Iterator[R]:
    """What is read of every item, None left out. Raises DataError after the last, for all
    together."""
    problems: list[Problem] = []
    for item in items:
        try:
            found = read(item)
        except DataError as error:
            problems += error.problems
        else:
            if found is not None:
                yield found
    if problems:
        raise DataError.of(problems)


def mark_missing(
    skeleton: NDArray[np.float32], confidence: NDArray[np.float32] | None = None
) -> int:
    """Make a joint NaN in every channel where one is not finite or `confidence` is 0.

    All zeros is how most formats write a joint that was not seen, so that counts as well.
    skeleton: (..., V, C), changed in place; confidence: (..., V). Returns how many joints
    had numbers that were not finite (without the ones already NaN in every channel).
    """
    broken = ~np.isfinite(skeleton).all(axis=-1)
    num_broken = int(np.count_nonzero(broken & ~np.isnan(skeleton).all(axis=-1)))
    broken |= (skeleton == 0).all(axis=-1)
    if confidence is not None:
        broken |= ~(confidence > 0)  # NaN is no confidence either
    skeleton[broken] = np.nan
    return num_broken


def refuse_shares(
    points: NDArray[np.float32], where: str, *, width: float, height: float, fix: str
) -> None:
    """Raise DataError where `points`, (..., 2) in pixels, are shares of the image. NaN: missing."""
    found = points[np.isfinite(points).all(axis=-1)]
    if found.any() and np.abs(found).max() <= 1 < min(width, height):
        raise DataError(where, "coordinates in pixels", "none beyond 1", fix)


def most_moving(skeleton: NDArray[np.float32], num_persons: int) -> NDArray[np.float32]:
    """The persons ordered by how much they move, at most `num_persons` of them (0 = all)."""
    x = np.nan_to_num(skeleton).transpose(3, 1, 2, 0)[None]  # (1, C, T, V, M)
    is_number = np.isfinite(skeleton).transpose(3, 1, 2, 0)[None]
    present: NDArray[np.bool_] = np.asarray(is_number.all(axis=1))
    order: NDArray[np.int64] = by_motion(motion_energy(x, present))[0]
    kept: NDArray[np.float32] = skeleton[order[: num_persons or None]]
    return kept


def in_time(numbers: list[int], max_gap_frames: int, name: str, tally: Tally) -> NDArray[np.int64]:
    """(F,) the frame each of rising frame numbers takes in a clip, which cannot be split.

    Gaps of up to `max_gap_frames` are left open, longer ones are closed and counted.
    """
    steps = np.diff(np.array(numbers, np.int64))
    is_long = steps - 1 > max_gap_frames
    tally.add(f"gaps longer than {max_gap_frames} frames, closed", name, int(is_long.sum()))
    steps[is_long] = 1
    tally.add("frames missing, filled as missing", name, int((steps - 1).sum()))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)])


def link(people: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(M, T, V, C) from what was seen in each frame, (P, V, C) with P changing over time.

    For detectors without track numbers. Each frame's people take the places of those
    they are nearest to (mean over the joints both have), nearest pair first; so someone
    alone is one person throughout. Places are as many as people in the fullest frame.
    """
    num_places = max((len(seen) for seen in people), default=0)
    shape = next((seen.shape[1:] for seen in people if len(seen)), (0, 0))
    linked = np.full((num_places, len(people), *shape), np.nan, np.float32)
    last = np.full((num_places, *shape), np.nan, np.float32)
    for frame, seen in enumerate(people):
        for person, place in _nearest_pairs(_distances(seen, last)) if len(seen) else ():
            linked[place, frame] = seen[person]
            last[place] = seen[person]
    return linked


def _distances(seen: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float64]:
    """(P, places) mean distance of x and y; a place never taken is farther than any."""
    gaps = np.linalg.norm((seen[:, None] - last[None])[..., :2], axis=-1)
    both = np.isfinite(gaps)
    means = np.where(both, gaps, 0).sum(axis=-1) / np.maximum(both.sum(axis=-1), 1)
    return np.where(both.any(axis=-1), means, np.inf)


def _nearest_pairs(distances: NDArray[np.float64]) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for flat in np.argsort(distances, axis=None, kind="stable"):
        row, column = divmod(int(flat), distances.shape[1])
        if row not in rows and column not in columns:
            pairs.append((row, column))
            rows.add(row)
            columns.add(column)
    return pairs
