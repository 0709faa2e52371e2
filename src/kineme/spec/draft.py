"""What was said of each setting, and where: by a file, by overrides, in today's words.

Promises: a statement is under its real key or a problem with its place; two that contradict
each other in one file are a problem; keys of older TAO releases are read as today's.
Leaves out: values that refer to others, defaults and checks (load.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kineme.errors import Problem
from kineme.spec import legacy
from kineme.spec.fields import (
    MUST_BE_SET,
    Section,
    Setting,
    blocks,
    own_settings,
    settings_by_key,
)
from kineme.spec.legacy import Moved
from kineme.spec.overrides import HIDDEN, Overrides, parse_overrides
from kineme.spec.read import Document
from kineme.spec.sections import Spec
from kineme.spec.suggest import unknown_key


@dataclass
class Draft:
    """A spec in the making: what was said of each real key, and where."""

    model: type[Spec]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)  # of the recipe
    refused: set[str] = field(default_factory=set)
    is_older: bool = False  # the file is of TAO before 5.0
    moved: list[Moved] = field(default_factory=list)
    idle: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def declared(self, key: str) -> Setting:
        return settings_by_key(self.model)[key]

    def shown(self, key: str, value: Any) -> str:
        return HIDDEN if self.declared(key).rule.secret else short(repr(value))

    def place(self, key: str) -> str:
        return self.places.get(key, key)


@dataclass(frozen=True)
class _Statement:
    """`written = value`, said at `place`, of a file's keys or of an override."""

    written: str
    value: Any
    place: str
    replaces: bool = False


def add_document(draft: Draft, document: Document) -> None:
    """Take in what a file or mapping says."""
    draft.is_older = draft.model.legacy.is_older(document.tree)
    older = _older_blocks(draft.model)
    for path, value in _entries(draft.model, document.tree, (), older):
        key = ".".join(path)
        line = document.lines.get(path)
        file = f"{document.name}:{line}" if line else document.name
        _say(draft, _Statement(key, value, f"{file}: {short(key)}"))


def add_overrides(draft: Draft, overrides: Overrides) -> None:
    """Take in what is said beside it, which wins."""
    secret = {key for key, one in settings_by_key(draft.model).items() if one.rule.secret}
    secret |= {old for old, new in draft.model.legacy.keys.items() if new in secret}
    parsed, problems = parse_overrides(overrides, secret)
    draft.problems += problems
    for override in parsed:
        place = f"command line: {short(override.key)}"
        _say(draft, _Statement(override.key, override.value, place, replaces=True))


def note_older(draft: Draft, name: str) -> None:
    """Tell what became of keys of older releases."""
    changed = list(changed_defaults(draft))
    if text := legacy.note(name, draft.moved, draft.idle, changed):
        draft.notes.append(text)


def changed_defaults(draft: Draft) -> Iterator[str]:
    """Settings of a training that an older file leaves to a default of its time."""
    for key, then in draft.model.legacy.defaults.items():
        if draft.is_older and draft.model.action == "train" and key not in draft.values:
            yield f"{key} {draft.declared(key).default} (then {then})"


def locate(model: type[Section], written: str) -> tuple[str | None, str, type[Section] | None]:
    """(real key or None, entry of a mapping field, block if the key is one)."""
    parts = written.split(".")
    section = model
    for i, part in enumerate(parts):
        if part in blocks(section):
            section = blocks(section)[part]
            continue
        declared = own_settings(section).get(part)
        rest = ".".join(parts[i + 1 :])
        if declared is None or (rest and not declared.is_mapping):
            return None, "", None
        return ".".join(parts[: i + 1]), rest, None
    return written, "", section


def is_unset(value: Any) -> bool:
    """Nothing is said, in one of the ways that TAO's files have for it."""
    return value is None or value in ("", {}, MUST_BE_SET, "??")


def short(text: str, limit: int = 80) -> str:
    """`text`, or its beginning."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _older_blocks(model: type[Spec]) -> dict[str, type[Section]]:
    """The blocks of older releases, by their names of then, as today's."""
    found: dict[str, type[Section]] = {}
    for old, new in model.legacy.blocks.items():
        section: type[Section] | None = model
        for name in new.split("."):
            section = blocks(section).get(name) if section else None
        if section:
            found[old] = section
    return found


def _entries(
    section: type[Section],
    tree: Mapping[str, Any],
    path: tuple[str, ...],
    older: Mapping[str, type[Section]],
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The (path, value) pairs of a file, as deep as there are blocks."""
    inner = {**older, **blocks(section)}
    for name, value in tree.items():
        if isinstance(value, dict) and name in inner:
            yield from _entries(inner[name], value, (*path, name), {})
        else:
            yield (*path, name), value


def _say(draft: Draft, said: _Statement) -> None:
    """Record a statement of today or of an older release."""
    older = draft.model.legacy
    moved = older.today(said.written, draft.model.action)
    if said.written in older.idle or said.written in older.refused:
        _pass_over(draft, said)
    elif moved is None or (_is_todays(draft, said) and not draft.is_older):
        _say_known(draft, said)
    elif said.written in older.blocks and isinstance(said.value, dict):
        for name, value in said.value.items():
            key, place = f"{said.written}.{name}", f"{said.place}.{short(name)}"
            _say(draft, _Statement(key, value, place, said.replaces))
    else:
        _say_moved(draft, said, moved)


def _is_todays(draft: Draft, said: _Statement) -> bool:
    """Whether today's spec knows the key; a block that is text was a path once."""
    key, _, section = locate(draft.model, draft.model.aliases.get(said.written, said.written))
    return key is not None and not (section is not None and isinstance(said.value, str))


def _pass_over(draft: Draft, said: _Statement) -> None:
    """A key of an older release that has no counterpart."""
    if fix := draft.model.legacy.refused.get(said.written):
        problem = Problem(said.place, "a known key", "a key of an older TAO", fix)
        draft.problems.append(problem)
    else:
        draft.idle[said.written] = draft.model.legacy.idle[said.written]


def _say_moved(draft: Draft, said: _Statement, moved: Moved) -> None:
    """Record a statement of an older release under today's keys."""
    if is_unset(said.value):
        return
    parts = said.value if len(moved.new) > 1 else [said.value]
    if not isinstance(parts, list) or len(parts) != len(moved.new):
        expected = f"{len(moved.new)} values, for {' and '.join(moved.new)}"
        draft.problems.append(Problem(said.place, expected, short(repr(said.value))))
        return
    for key, value in zip(moved.new, parts, strict=True):
        changed = draft.model.legacy.values.get(key, lambda same: same)(value)
        if changed != value:
            moved = replace(moved, change=f"{short(str(value))} -> {short(str(changed))}")
        if changed is not None:
            _say_known(draft, replace(said, written=key, value=changed))
    draft.moved.append(moved)


def _say_known(draft: Draft, said: _Statement) -> None:
    """Record a statement under its real key, or say why there is none."""
    real = draft.model.aliases.get(said.written)
    if real:
        draft.notes.append(f"{said.place} is read as {real}.")
    key, rest, section = locate(draft.model, real or said.written)
    if key is None:
        draft.problems.append(unknown_key(draft.model, said.written, said.place))
    elif section is not None:
        _say_block(draft, said, key, section)
    elif rest:
        known = draft.values.get(key)
        entries = {**(known if isinstance(known, dict) else {}), rest: said.value}
        if said.value is None:
            del entries[rest]
        _record(draft, key, entries, said, replaces=True)
    else:
        _record(draft, key, said.value, said, replaces=said.replaces)


def _say_block(draft: Draft, said: _Statement, key: str, section: type[Section]) -> None:
    if is_unset(said.value):
        for known in [k for k in draft.values if said.replaces and k.startswith(f"{key}.")]:
            del draft.values[known], draft.places[known]
    elif isinstance(said.value, dict):
        for name, value in said.value.items():
            place = f"{said.place}.{short(name)}"
            _say(draft, _Statement(f"{key}.{name}", value, place, said.replaces))
    else:
        names = ", ".join(sorted(section.model_fields))
        expected = f"a block with keys ({short(names)})"
        draft.problems.append(Problem(said.place, expected, short(repr(said.value))))


def _record(draft: Draft, key: str, value: Any, said: _Statement, *, replaces: bool) -> None:
    if key in draft.values and not replaces and draft.values[key] != value:
        expected = f"what {draft.places[key]} says, {draft.shown(key, draft.values[key])}"
        received = draft.shown(key, value)
        draft.problems.append(Problem(said.place, expected, received, "Keep one of them."))
    elif is_unset(value):
        draft.values.pop(key, None)
        draft.places.pop(key, None)
    else:
        draft.values[key] = value
        draft.places[key] = said.place
