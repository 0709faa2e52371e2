"""Draws that follow from (seed, names) alone, in any process and after any interruption.

Promises: no state, and no `hash()`, which differs from process to process (TAO seeds with it).
Method: SHA-256 of the parts, spelled out, as a counter-based generator.
"""

import hashlib
from collections.abc import Iterable

from kineme.automl.parameters import Space


def uniform(seed: int, *parts: int | str) -> float:
    """A draw in [0, 1)."""
    return (_bits(seed, parts) >> 11) * 2.0**-53


def derived_seed(seed: int, *parts: int | str) -> int:
    """A seed in [0, 2**31) for a generator of another library."""
    return _bits(seed, parts) >> 33


def units(space: Space, seed: int, *parts: int | str) -> dict[str, float]:
    """A point of the unit cube."""
    return {one.key: uniform(seed, *parts, one.key) for one in space.parameters}


def chosen(options: Iterable[int], count: int, seed: int, *parts: int | str) -> list[int]:
    """`count` different ones of `options`, in an order of their own."""
    ordered = sorted(options, key=lambda one: (uniform(seed, *parts, one), one))
    return ordered[:count]


def _bits(seed: int, parts: Iterable[int | str]) -> int:
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
