"""Overrides in Hydra's words: `a.b=1`, `+new.key=x`, `~key`, quotes, [lists], {dicts}.

Promises: values are typed by their spelling and never evaluated; spaces inside a value
survive; a mapping of dotted keys to values works as well.
Leaves out: whether a key exists and what its value may be (load.py).

Grammar of a value: a quoted string; `[value, ...]`; `{key: value, ...}` where the space
after the colon is optional; else the whole rest of the argument, as a YAML word.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kineme.errors import Problem
from kineme.spec.read import MAX_DEPTH, plain, scalar

Overrides = Iterable[str] | Mapping[str, Any]
HIDDEN = "a hidden value"
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_WORD = re.compile(r"(?:\$\{[^{}]*\}|[^,\[\]{}])*")
_WORD_AS_KEY = re.compile(r"[^,:\[\]{}]+")


@dataclass(frozen=True)
class Override:
    """Set `key` to `value`; None forgets what was said of it."""

    key: str
    value: Any = None


def parse_overrides(
    overrides: Overrides, secret_keys: Collection[str] = ()
) -> tuple[list[Override], list[Problem]]:
    """Read overrides in order; what cannot be read is a problem, not an exception."""
    if isinstance(overrides, Mapping):
        pairs = overrides.items()
        return [Override(str(key), plain(value, str(key))) for key, value in pairs], []
    parsed: list[Override] = []
    problems: list[Problem] = []
    for text in overrides:
        try:
            override = parse_override(text)
            if override.key in secret_keys and isinstance(override.value, int | float):
                override = Override(override.key, text.partition("=")[2].strip())  # 1_0 is not 10
            parsed.append(override)
        except ValueError as error:
            expected, received = error.args
            key = text.partition("=")[0].strip().lstrip("+")
            where = f"command line: {key[:80]}" if "=" in text else "command line"
            received = HIDDEN if key in secret_keys else received[:80]
            problems.append(Problem(where, expected, received))
    return parsed, problems


def parse_override(text: str) -> Override:
    """Read one override. Raises ValueError(expected, received)."""
    name, equals, rest = text.partition("=")
    key = name.strip().lstrip("+")
    if key.startswith("~"):
        return Override(key[1:])
    if not equals or not key:
        raise ValueError("key=value", repr(text))
    return Override(key, parse_value(rest))


def parse_value(text: str) -> Any:
    """The typed value of the right-hand side. Raises ValueError(expected, received)."""
    text = text.strip()
    if text[:1] not in ("[", "{", "'", '"'):
        return scalar(text)
    value, end = _value(text, 0, 0)
    if text[end:].strip():
        if text[0] in "'\"":  # a word that merely begins with a quote
            return text
        raise ValueError("nothing after the value", repr(text[end:].strip()))
    return value


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value that starts at `at`, and where it ends."""
    at = _after_spaces(text, at)
    if depth > MAX_DEPTH:
        raise ValueError(f"at most {MAX_DEPTH} levels of brackets", "more")
    if text[at : at + 1] == "[":
        return _list(text, at + 1, depth)
    if text[at : at + 1] == "{":
        return _dict(text, at + 1, depth)
    if quoted := _QUOTED.match(text, at):
        return _unquoted(quoted), quoted.end()
    if text[at : at + 1] in ("'", '"'):
        raise ValueError(f"a closing {text[at]}", repr(text))
    word = _WORD.match(text, at)
    if not word or not word.group().strip():
        raise ValueError("a value between separators", repr(text))
    return scalar(word.group()), word.end()


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _after_spaces(text, at)
    while text[at : at + 1] != "]":
        item, at = _value(text, at, depth + 1)
        items.append(item)
        at = _after_comma(text, at, "]")
    return items, at + 1


def _dict(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    tree: dict[str, Any] = {}
    at = _after_spaces(text, at)
    while text[at : at + 1] != "}":
        key, at = _key(text, at)
        if key in tree:
            raise ValueError("each key once", f"{key!r} twice")
        tree[key], at = _value(text, at, depth + 1)
        at = _after_comma(text, at, "}")
    return tree, at + 1


def _key(text: str, at: int) -> tuple[str, int]:
    quoted = _QUOTED.match(text, at)
    word = quoted or _WORD_AS_KEY.match(text, at)
    colon = _after_spaces(text, word.end()) if word else at
    if not word or text[colon : colon + 1] != ":":
        raise ValueError("key: value between braces", repr(text))
    return _unquoted(quoted) if quoted else word.group().strip(), colon + 1


def _after_comma(text: str, at: int, closing: str) -> int:
    at = _after_spaces(text, at)
    if text[at : at + 1] == ",":
        return _after_spaces(text, at + 1)
    if text[at : at + 1] != closing:
        raise ValueError(f"',' or {closing!r}", repr(text))
    return at


def _after_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _unquoted(quoted: re.Match[str]) -> str:
    inner = quoted.group(1) if quoted.group(1) is not None else quoted.group(2)
    return re.sub(r"\\(['\"\\])", r"\1", inner)
