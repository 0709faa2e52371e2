"""Values of a search in words: figures, times, settings as a command takes them.

Promises: nothing is rounded that is to be typed; what is for reading has four digits. A word for
a command is quoted where a shell or the grammar of overrides would take it for something else.
Leaves out: whole sentences (findings.py), layout (page.py, table.py).
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kineme.automl.parameters import is_same

NOT_SET = "not set"
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_TEXT = frozenset({"true", "false", "yes", "no", "on", "off", "null", "none", "nan", "inf"})


@dataclass(frozen=True)
class Change:
    """A setting of the best trial beside what the spec says of it."""

    key: str
    given: Any
    found: Any

    @property
    def is_new(self) -> bool:
        return not is_same(self.given, self.found)


def changes(params: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Change, ...]:
    """Every searched setting, in the order of `params`."""
    return tuple(Change(key, own.get(key), value) for key, value in params.items())


def as_words(found: Sequence[Change]) -> str:
    """What is new, as words of a command line: `train.optim.lr=0.02 model.dropout=0.3`."""
    return " ".join(shlex.quote(f"{one.key}={typed(one.found)}") for one in found if one.is_new)


def typed(value: Any) -> str:
    """A value as an override spells it."""
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value)
    if is_plain and value.lower() not in _NOT_TEXT:
        return str(value)
    return json.dumps(value)


def shown(value: Any) -> str:
    """A value for reading; the same word for every kind of nothing."""
    if value is None:
        return NOT_SET
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def epochs(count: int) -> str:
    """`1 epoch`, `20 epochs`."""
    return f"{count:,} epoch" if count == 1 else f"{count:,} epochs"


def duration(seconds: float | None) -> str:
    """`8.2 s`, `3 min 05 s`, `2 h 07 min`; a dash where there is none."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key by the fewest last words that no other key ends with."""
    return {key: _short_name(key, keys) for key in keys}


def _short_name(key: str, keys: Sequence[str]) -> str:
    words = key.split(".")
    for count in range(1, len(words)):
        name = ".".join(words[-count:])
        if not any(other != key and f".{other}".endswith(f".{name}") for other in keys):
            return name
    return key
