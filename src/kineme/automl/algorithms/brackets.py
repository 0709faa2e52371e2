"""Which rungs Hyperband has: how many configurations are trained how long.

Promises: whole numbers throughout, so no logarithm that is a hair too small loses a bracket;
the bracket without any halving (s = 0) is there; every bracket ends at the full training.
Method: Li et al. 2018, with the numbers that TAO's searches have:
n = floor((smax + 1) / (s + 1)) eta^s configurations in bracket s, n / eta^i of them on rung i.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rung:
    """`size` configurations trained up to the end of epoch `budget`."""

    size: int
    budget: int


def num_halvings(most: int, eta: int, least: int = 1) -> int:
    """The largest s with most // eta^s >= least."""
    s = 0
    while most // eta ** (s + 1) >= max(1, least):
        s += 1
    return s


def budgets(most: int, eta: int, least: int = 1) -> tuple[int, ...]:
    """The budgets of all rungs, the lowest first, the last one `most`."""
    s = num_halvings(most, eta, least)
    return tuple(most // eta ** (s - i) for i in range(s + 1))


def brackets(
    most: int, eta: int, least: int = 1, *, multiplier: int = 1
) -> tuple[tuple[Rung, ...], ...]:
    """The brackets, that with the most configurations first.

    most, least: units of the longest and the shortest training; a unit is `multiplier` epochs.
    """
    smax = num_halvings(most, eta, least)
    levels = budgets(most, eta, least)
    return tuple(
        tuple(
            Rung((smax + 1) // (s + 1) * eta**s // eta**i, levels[smax - s + i] * multiplier)
            for i in range(s + 1)
        )
        for s in range(smax, -1, -1)
    )
