"""Random draws that depend on nothing but (seed, epoch, sample index, name).

Promises: the same key gives the same draw in any process, order, batch or worker, so
a stopped run resumes bitwise and one sample's augmentation never moves another's.
Method: SplitMix64 (Steele, Lea, Flood 2014) as a counter-based hash, vectorised.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # shift, then multiply
LAST_SHIFT = 31
HIGHEST32 = 1 - 2**-24  # of the float32 below 1
_MASK = (1 << 64) - 1


def uniform(
    seed: int, epoch: int, indices: NDArray[np.int64], *, name: str, size: int = 1
) -> NDArray[np.float64]:
    """Draws in [0, 1) of shape (len(indices), size), one row per sample index.

    `name` separates independent uses ("rotation", "flip", ...).
    """
    key = key_of(seed, epoch, name)
    rows = _mix(np.asarray(indices).astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key))
    with np.errstate(over="ignore"):
        counters = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        bits = _mix(rows[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform32(
    seed: int, epoch: int, indices: NDArray[np.int64], *, name: str, size: int = 1
) -> NDArray[np.float32]:
    """As `uniform`, in float32 that stays below 1."""
    values = uniform(seed, epoch, indices, name=name, size=size).astype(np.float32)
    return np.minimum(values, np.float32(HIGHEST32))


def normal(
    seed: int, epoch: int, indices: NDArray[np.int64], *, name: str, size: int = 1
) -> NDArray[np.float64]:
    """Standard normal draws (len(indices), size), by the method of Box and Muller (1958)."""
    pairs = uniform(seed, epoch, indices, name=name, size=2 * size)
    radius = np.sqrt(-2 * np.log1p(-pairs[:, size:]))
    return np.asarray(radius * np.cos(2 * np.pi * pairs[:, :size]))


def permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    """The order in which an epoch visits `length` samples."""
    key = [seed & _MASK, epoch & _MASK]
    return np.random.Generator(np.random.Philox(key=key)).permutation(length)


def derived_seed(seed: int, *parts: int) -> int:
    """A 63-bit seed for another generator (torch), from `seed` and integers."""
    value = _hash_scalar(seed)
    for part in parts:
        value = _hash_scalar(value ^ (part & _MASK))
    return value >> 1


def key_of(seed: int, epoch: int, name: str) -> int:
    """What all draws of a name share, 64 bits."""
    return _hash_scalar(_hash_scalar(_hash_scalar(seed) ^ epoch) ^ zlib.crc32(name.encode()))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        for shift, factor in ROUNDS:
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        return x ^ (x >> np.uint64(LAST_SHIFT))


def _hash_scalar(x: int) -> int:
    x = (x + GOLDEN) & _MASK
    for shift, factor in ROUNDS:
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> LAST_SHIFT)
