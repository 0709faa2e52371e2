"""Names of files and labels: their order, and which of them any file can hold.

Promises: numbers in names count (frame2 before frame10), however many digits they have.
"""

import re
from collections.abc import Iterable

OF_FINDER = "__MACOSX"  # the folder that it puts beside the data in a zip file
_DIGITS = re.compile(r"([0-9]+)")


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted so that numbers in them count: frame2 before frame10."""
    return sorted(names, key=natural_key)


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """What to sort a name by: text and numbers by turns, text first; then as it is spelled."""
    parts = _DIGITS.split(name)
    return [_number(part) if i % 2 else part for i, part in enumerate(parts)], name


def _number(digits: str) -> tuple[int, str]:
    """Sorts as the number does, which may be too long for `int`."""
    significant = digits.lstrip("0")
    return len(significant), significant


def is_utf8(name: str) -> bool:
    """Whether the name of a file is UTF-8, so that text files can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
