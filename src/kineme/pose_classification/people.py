"""Which people of a sample are kept: those that move most.

Promises: who stands still comes before a place with nobody in it; of equals, who lies first.
Leaves out: following people over time (convert/clips.py).

Shapes: B samples, C channels, T frames, V joints, M persons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kineme.data.arrays import Skeletons

_CHUNK_SAMPLES = 64


def motion_energy(x: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(B, M) how much each person moves, -1 where nobody is in any frame.

    Squared steps of the joints of x (B, C, T, V, M) that are `present` (B, T, V, M) twice running.
    """
    both = present[:, 1:] & present[:, :-1]
    steps = (np.diff(x.astype(np.float64), axis=2) ** 2).sum(axis=1)
    energy = np.where(both, steps, 0).sum(axis=(1, 2))
    return np.asarray(np.where(present.any(axis=(1, 2)), energy, -1), np.float64)


def by_motion(energy: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B, M) the persons by falling `motion_energy`."""
    return np.argsort(-energy, axis=1, kind="stable")


def who_moves_most(
    store: Skeletons, num_persons: int | None
) -> tuple[NDArray[np.int64] | None, str | None]:
    """The persons (N, num_persons) to keep in each sample, and what to tell of it.

    None where all are kept. A joint that is zero in every channel, NaN or infinite is not there.
    """
    total, persons = store.shape[0], store.shape[4]
    if num_persons is None or num_persons >= persons:
        return None, None
    parts = []
    for start in range(0, total, _CHUNK_SAMPLES):
        x = store.read(np.arange(start, min(start + _CHUNK_SAMPLES, total)))
        np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        parts.append(motion_energy(x, (x != 0).any(axis=1)))
    energy = np.concatenate(parts)
    num_crowded = int(((energy >= 0).sum(axis=1) > num_persons).sum())
    note = f"kept the {num_persons} of {persons} persons who move most; {num_crowded} of {total} "
    note += "samples had more (dataset.num_persons)."
    return by_motion(energy)[:, :num_persons], note
