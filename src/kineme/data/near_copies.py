"""Samples that are nearly the same: moved, rounded, or with a little noise.

Promises: two real takes of one movement by one person are no copies (of 1,484 takes of NW-UCLA
and 282 of SBU, the closest two differ by twice the bound); memory stays bounded.
Leaves out: copies that are shifted in time or cut otherwise, and exact ones (scan.py).

Shapes: N samples, D numbers; skeletons (C, T, V, M).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BOUND = 0.06  # distance over size, below which two samples are nearly the same
NUM_FRAMES = 8
MAX_SAMPLES = 20_000  # beyond, the search takes too long and is left out
_ROWS = 512


def form_of(skeleton: NDArray[np.float32], *, num_axes: int = 3) -> NDArray[np.float32]:
    """(D,) frames spread over a skeleton (C, T, V, M) without padding, about their centre."""
    frames = np.round(np.linspace(0, skeleton.shape[1] - 1, NUM_FRAMES)).astype(np.int64)
    x = np.nan_to_num(skeleton[:num_axes, frames], posinf=0.0, neginf=0.0)
    is_there = (x != 0).any(axis=0)
    centre = x.sum(axis=(1, 2, 3)) / max(int(is_there.sum()), 1)
    form: NDArray[np.float32] = ((x - centre[:, None, None, None]) * is_there).astype(np.float32)
    return form.ravel()


def near_pairs(
    first: NDArray[np.float32], second: NDArray[np.float32] | None = None
) -> Iterator[tuple[int, int]]:
    """Rows of (N, D) and of another (or the same, each pair once) that are nearly the same."""
    other = first if second is None else second
    if first.shape[1] != other.shape[1] or max(len(first), len(other)) > MAX_SAMPLES:
        return
    sizes = np.einsum("nd,nd->n", other, other)
    for start in range(0, len(first), _ROWS):
        rows = first[start : start + _ROWS]
        own = np.einsum("nd,nd->n", rows, rows)
        total = own[:, None] + sizes
        distance = total - 2 * rows @ other.T  # squared, as the bound is then
        is_near = (distance <= BOUND**2 * total / 2) & (own[:, None] > 0) & (sizes > 0)
        for row, column in zip(*np.nonzero(is_near), strict=True):
            if second is not None or column > start + row:
                yield int(start + row), int(column)
