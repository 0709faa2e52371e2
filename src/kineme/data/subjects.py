"""Who is in a sample, as far as its name says.

Promises: a pattern that the user gives is used as it is, its first group or all of it; without
one, only names that all follow one of the usual forms name subjects, and that they were guessed
is told. People who are named together (s01s03) are each a person of their own.
Leaves out: splits of videos into training and held-out sets (people/training_sets/splits.py).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kineme.errors import SpecError

_PERSON = r"(?:subject|subj|person|actor|user|s|p)[_-]?\d+"
_USUAL = (  # of NTU RGB+D, then what people use: s01, p3, subject_12, s01s03 (a pair)
    r"P(\d{3})R\d{3}A\d{3}",
    rf"(?i)(?:^|[/_.\- ])((?:{_PERSON})+)(?=[/_.\- ]|$)",
)


@dataclass(frozen=True)
class Subjects:
    """names: of each sample, "" where nobody knows. is_guessed: from the usual forms of names."""

    names: tuple[str, ...]
    is_guessed: bool = False

    @property
    def are_known(self) -> bool:
        """Whether names tell more than one subject."""
        return len(set(self.names) - {""}) > 1

    @property
    def people(self) -> tuple[tuple[str, ...], ...]:
        """Of each sample, those whom its name holds: s01 and s03 of a guessed s01s03."""
        if not self.is_guessed:
            return tuple((name,) for name in self.names)
        found = {name: tuple(re.findall(f"(?i){_PERSON}", name)) or (name,) for name in self.names}
        return tuple(found[name] for name in self.names)

    def groups(self, at_least: int) -> tuple[str, ...]:
        """Of each sample, a name that it shares with all who have a person in common with it.

        Where that leaves fewer than `at_least` groups, those of one subject's name.
        """
        leader: dict[str, str] = {}

        def lead(name: str) -> str:
            while leader.setdefault(name, name) != name:
                name = leader[name]
            return name

        for people in self.people:
            for one in people[1:]:
                leader[lead(one)] = lead(people[0])
        joined = tuple(lead(people[0]) for people in self.people)
        return joined if len(set(joined) - {""}) >= at_least else self.names


def subjects_of(
    ids: Sequence[str], pattern: str | None = None, *, key: str = "subject_pattern"
) -> Subjects:
    """The subject of each sample. key: where the pattern was written.

    Raises SpecError where the pattern is none, or finds nothing in any id.
    """
    if pattern is None:
        for usual in _USUAL:
            names = _found(ids, re.compile(usual))
            if "" not in names and 2 <= len(set(names)) <= len(ids) // 2:
                return Subjects(names, is_guessed=True)
        return Subjects(("",) * len(ids))
    try:
        names = _found(ids, re.compile(pattern))
    except re.error as error:
        raise SpecError(key, "a regular expression", f"{pattern!r}: {error}") from error
    if ids and not any(names):
        received = f"{pattern!r}, which is in none of {len(ids)} ids"
        fix = f"The first is {ids[0]!r}."
        raise SpecError(key, "a pattern that finds the subject in ids", received, fix)
    return Subjects(names)


def _found(ids: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    matches = [pattern.search(text) for text in ids]
    return tuple((m[1] or "" if pattern.groups else m[0]) if m else "" for m in matches)
