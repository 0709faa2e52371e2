"""Which estimator looks where the user names none.

Promises: who is named is never replaced; where somebody else stands in, that can be told. The
same rule for analyses and for training sets made of videos.
Leaves out: building them (the package itself), and how their files come here (people/models.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kineme.people.models import CARDS, is_here

DEFAULT, STAND_IN = "movenet", "blazepose"


@dataclass(frozen=True)
class Chosen:
    """name: of an estimator. reason: why it stands in for the default, "" where it does not."""

    name: str
    reason: str = ""

    @property
    def note(self) -> str:
        """What to tell of it, "" for nothing."""
        return f"{self.name} finds people: {self.reason}" if self.reason else ""


def maker_of(name: str) -> str:
    """What an estimator's people are said to be found by; "" where files say only that somebody
    found them."""
    return "" if name == "files" else name


def choose_estimator(named: str | None, settings: Mapping[str, object]) -> Chosen:
    """Who is named; else the default, whose settings are meant where there are any; else, where
    its file is not here and those of the stand-in are, the stand-in.

    Where neither is here, the default: what it lacks is told when it is built.
    """
    if named is not None:
        return Chosen(named)
    if settings or is_here(CARDS[DEFAULT]) or not is_here(CARDS[STAND_IN]):
        return Chosen(DEFAULT)
    return Chosen(STAND_IN, f"no estimator is named, and the file of {DEFAULT} is not here")
