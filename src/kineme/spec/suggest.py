"""Did you mean: the likeliest repair of an unknown key or a value outside its choices.

Promises: a suggestion only when it is close; never the value of an unknown key (it may be
a secret that was put in the wrong place).
"""

from collections.abc import Callable, Iterable
from typing import Any

from kineme.errors import Problem
from kineme.spec.fields import LARGEST, Section, Setting, blocks, settings_by_key

_LONGEST = 64  # a longer word is no misspelling
_SHORTEST = 3  # a shorter word is the beginning of none


def unknown_key(model: type[Section], written: str, place: str) -> Problem:
    """The problem of a key that the spec does not have."""
    meant = suggested_key(model, written)
    return Problem(place, "a known key", "an unknown key", _question(meant) if meant else "")


def suggested_key(model: type[Section], written: str) -> str | None:
    """The known key that `written` most likely stands for."""
    leaf = written.rsplit(".", 1)[-1]
    elsewhere = [key for key in settings_by_key(model) if key.rsplit(".", 1)[-1] == leaf]
    if elsewhere:
        return elsewhere[0]
    repaired: list[str] = []
    section = model
    for part in written.split("."):
        name = closest(part, list(section.model_fields))
        if name is None:
            break
        repaired.append(name)
        if name not in blocks(section):
            return ".".join(repaired)
        section = blocks(section)[name]
    if len(repaired) == written.count(".") + 1:
        return ".".join(repaired)
    by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(list(settings_by_key(model)))}
    name = closest(leaf, list(by_leaf))
    return by_leaf[name] if name else None


def value_fix(declared: Setting, value: Any) -> str:
    """What to do about a value that was refused, where that can be guessed."""
    is_open = declared.rule.le is None and declared.rule.lt is None
    if is_open and isinstance(value, int) and abs(value) > LARGEST:
        return f"The largest number that is taken is {LARGEST:,}."
    if declared.is_mapping and isinstance(value, list):
        return "A list of names will do, each of them once."
    known = declared.rule.choices
    items = value if isinstance(value, list) else [value]
    fixes = [did_you_mean(item, known, shown=repr) for item in items if item not in known]
    return next(filter(None, fixes), "")


def did_you_mean(
    word: Any,
    known: Iterable[Any],
    *,
    otherwise: str = "",
    shown: Callable[[str], str] = str,
) -> str:
    """What to do about `word`: the member of `known` that was likely meant, else `otherwise`.

    What is no text is never meant. shown: how that member is written where the user wrote `word`.
    """
    names = [name for name in known if isinstance(name, str)]
    name = closest(word, names) if isinstance(word, str) else None
    return otherwise if name is None else _question(shown(name))


def _question(meant: str) -> str:
    return f"Did you mean {meant}?"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `word` most likely is a misspelling or the beginning of."""
    if len(word) > _LONGEST:
        return None
    known = list(known)
    most = max(1, len(word) // 3)
    likely = [name for name in known if abs(len(name) - len(word)) <= most]
    scored = min(
        ((_distance(word.lower(), name.lower(), most), name) for name in likely), default=None
    )
    if scored and scored[0] <= most:
        return scored[1]
    begun = [name for name in known if name.lower().startswith(word.lower())]
    return begun[0] if len(begun) == 1 and len(word) >= _SHORTEST else None


def _distance(a: str, b: str, most: int) -> int:
    """Edits from `a` to `b`, if at most `most`; swapping two neighbours is one edit."""
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most and min(last) > most:
            return most + 1
        before, last = last, row
    return last[-1]
