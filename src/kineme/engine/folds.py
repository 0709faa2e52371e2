"""Which samples are left out together in a cross-validation over K folds.

Promises: samples of one group (a subject) are in one fold; the same names, labels and seed give
the same folds, in any order of samples; every fold has a group; classes are spread as evenly as
groups allow (where each sample is a group of its own, to within one sample).
Leaves out: training and judging (actions/k_fold.py).

Method: groups by falling size, ties by the SHA-256 of seed and name, each into the fold where its
classes are rarest.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kineme.errors import SpecError


def assign_folds(
    groups: Sequence[str], labels: NDArray[np.int64], *, num_folds: int, seed: int, fix: str = ""
) -> Mapping[str, int]:
    """The fold (from 0) of each group, from the group and the label (N,) of each sample.

    Raises SpecError where there are fewer groups than folds, with `fix` as what to do.
    """
    names = sorted(set(groups))
    if len(names) < num_folds:
        raise SpecError(
            "evaluate.k_fold",
            f"at most {len(names)}, as many as there are subjects in the data",
            str(num_folds),
            fix,
        )
    rows = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), int(labels.max(initial=0)) + 1))
    for name, label in zip(groups, labels.tolist(), strict=True):
        counts[rows[name], max(label, 0)] += 1
    totals = np.maximum(counts.sum(axis=0), 1)
    filled = np.zeros((num_folds, counts.shape[1]))
    folds: dict[str, int] = {}
    for name in sorted(names, key=lambda name: (-counts[rows[name]].sum(), _rank(seed, name))):
        own = counts[rows[name]]
        crowding = (own * (2 * filled + own) / totals**2).sum(axis=1)
        best = min(range(num_folds), key=lambda fold: (crowding[fold], filled[fold].sum(), fold))
        filled[best] += own
        folds[name] = best
    return folds


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
