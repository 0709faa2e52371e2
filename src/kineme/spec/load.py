"""From what the user wrote to a frozen spec.

Promises: every problem at once, each with its place (file:line or command line), what was
expected, what came, and a suggestion. Later overrides win over earlier ones and over the
file; a recipe lies beneath both, defaults beneath the recipe. '' and null mean "not set".
`${other.key}` means another key of the same spec; nothing else is ever resolved.
Leaves out: whether files exist and data fit (the actions), how values are written (read.py).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from kineme.errors import Problem, SpecError
from kineme.spec.fields import Section, Setting, blocks, describe, own_settings, settings_by_key
from kineme.spec.overrides import HIDDEN, Overrides, parse_overrides
from kineme.spec.read import Document, Source, plain, read_document
from kineme.spec.sections import Spec
from kineme.spec.suggest import unknown_key, value_fix

MAX_TEXT = 10_000
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_AnySpec = TypeVar("_AnySpec", bound=Spec)


def load_spec(
    model: type[_AnySpec],
    source: Source = None,
    overrides: Overrides = (),
    *,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[_AnySpec, tuple[str, ...]]:
    """Read, merge and check a spec; return it frozen, with notes the user should see.

    source: path of a YAML, JSON or TOML file, a mapping, a dataclass, a spec, or None.
    overrides: `key=value` texts or a mapping of dotted keys; applied in order.
    recipes: dotted values beneath the user's, by name (default: the model's own).
    Raises SpecError with all problems.
    """
    document = read_document(source)
    draft = _Draft(model, problems=list(document.problems))
    _add_document(draft, document)
    _add_overrides(draft, overrides)
    draft.base = _recipe(draft, model.recipes if recipes is None else recipes)
    _interpolate(draft)
    spec = _validated(draft)
    user = frozenset(draft.values.keys() - draft.refused)
    _note_ignored(draft, spec, user)
    spec = _with_derived(draft, spec, user)
    _check(draft, spec, user)
    if draft.problems:
        raise SpecError.of(draft.problems)
    _mark_user_set(spec, user)
    return spec, tuple(draft.notes)


def with_values(spec: _AnySpec, values: Mapping[str, Any]) -> _AnySpec:
    """`spec` with other values at dotted keys; what counts as set by the user stays.

    Raises SpecError when a value is outside what its field allows.
    """
    known = {key: value_at(spec, key) for key in settings_by_key(type(spec))}
    draft = _Draft(type(spec), values={**known, **plain(values)})
    changed = _validated(draft)
    if draft.problems:
        raise SpecError.of(draft.problems)
    _mark_user_set(changed, frozenset(user_set(spec)))
    return changed  # type: ignore[no-any-return]


def user_set(spec: Section, prefix: str = "") -> set[str]:
    """Dotted keys of the fields that the user set (not a recipe, not a default)."""
    keys: set[str] = set()
    inner = blocks(type(spec))
    for name in spec.model_fields_set:
        key = prefix + name
        keys |= user_set(getattr(spec, name), f"{key}.") if name in inner else {key}
    return keys


def value_at(spec: Section, key: str) -> Any:
    """The value of the dotted `key`."""
    value: Any = spec
    for name in key.split("."):
        value = getattr(value, name)
    return value


@dataclass
class _Draft:
    """A spec in the making: what was said of each real key, and where."""

    model: type[Spec]
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)  # of the recipe
    refused: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def declared(self, key: str) -> Setting:
        return settings_by_key(self.model)[key]

    def shown(self, key: str, value: Any) -> str:
        return HIDDEN if self.declared(key).rule.secret else _short(repr(value))

    def place(self, key: str) -> str:
        return self.places.get(key, key)


@dataclass(frozen=True)
class _Statement:
    """`written = value`, said at `place`, of a file's keys or of an override."""

    written: str
    value: Any
    place: str
    replaces: bool = False


def _add_document(draft: _Draft, document: Document) -> None:
    for path, value in _entries(draft.model, document.tree, ()):
        key = ".".join(path)
        line = document.lines.get(path)
        file = f"{document.name}:{line}" if line else document.name
        _say(draft, _Statement(key, value, f"{file}: {_short(key)}"))


def _entries(
    section: type[Section] | None, tree: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The (path, value) pairs of a file, as deep as there are blocks."""
    inner = blocks(section) if section else {}
    for name, value in tree.items():
        if isinstance(value, dict) and name in inner:
            yield from _entries(inner[name], value, (*path, name))
        else:
            yield (*path, name), value


def _add_overrides(draft: _Draft, overrides: Overrides) -> None:
    secret = {key for key, one in settings_by_key(draft.model).items() if one.rule.secret}
    parsed, problems = parse_overrides(overrides, secret)
    draft.problems += problems
    for override in parsed:
        place = f"command line: {_short(override.key)}"
        _say(draft, _Statement(override.key, override.value, place, replaces=True))


def _say(draft: _Draft, said: _Statement) -> None:
    """Record a statement under its real key, or say why there is none."""
    real = draft.model.aliases.get(said.written)
    if real:
        draft.notes.append(f"{said.place} is read as {real}.")
    key, rest, section = _locate(draft.model, real or said.written)
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


def _locate(model: type[Section], written: str) -> tuple[str | None, str, type[Section] | None]:
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


def _say_block(draft: _Draft, said: _Statement, key: str, section: type[Section]) -> None:
    if _is_unset(said.value):
        for known in [k for k in draft.values if said.replaces and k.startswith(f"{key}.")]:
            del draft.values[known], draft.places[known]
    elif isinstance(said.value, dict):
        for name, value in said.value.items():
            place = f"{said.place}.{_short(name)}"
            _say(draft, _Statement(f"{key}.{name}", value, place, said.replaces))
    else:
        names = ", ".join(sorted(section.model_fields))
        expected = f"a block with keys ({_short(names)})"
        draft.problems.append(Problem(said.place, expected, _short(repr(said.value))))


def _record(draft: _Draft, key: str, value: Any, said: _Statement, *, replaces: bool) -> None:
    if key in draft.values and not replaces and draft.values[key] != value:
        expected = f"what {draft.places[key]} says, {draft.shown(key, draft.values[key])}"
        received = draft.shown(key, value)
        draft.problems.append(Problem(said.place, expected, received, "Keep one of them."))
    elif _is_unset(value):
        draft.values.pop(key, None)
        draft.places.pop(key, None)
    else:
        draft.values[key] = value
        draft.places[key] = said.place


def _is_unset(value: Any) -> bool:
    return value is None or value in ("", {})


def _interpolate(draft: _Draft) -> None:
    done: dict[str, Any] = {}
    for key in list(draft.values):
        try:
            draft.values[key] = _resolved(draft, key, done, ())
        except ValueError as error:
            expected, received = error.args
            if draft.declared(key).rule.secret:
                received = HIDDEN
            draft.problems.append(Problem(draft.place(key), expected, _short(received)))
            draft.refused.add(key)
    for key in [key for key, value in draft.values.items() if _is_unset(value)]:
        del draft.values[key]


def _resolved(draft: _Draft, key: str, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
    """The value of `key` with its references replaced. Raises ValueError(expected, received)."""
    if key in asking:
        raise ValueError("references that end somewhere", " -> ".join((*asking, key)))
    if key not in done:
        value = draft.values.get(key, draft.base.get(key, draft.declared(key).default))
        done[key] = _replaced(draft, value, done, (*asking, key))
    return done[key]


def _replaced(draft: _Draft, value: Any, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_replaced(draft, item, done, asking) for item in value]
    if isinstance(value, dict):
        return {name: _replaced(draft, item, done, asking) for name, item in value.items()}
    if not isinstance(value, str) or "${" not in value:
        return value
    pieces = _REFERENCE.split(value)  # text, key, text, key, ..., text
    if any("${" in text for text in pieces[::2]):
        raise ValueError("${other.key}", repr(value))
    if pieces[0] == pieces[2] == "" and len(pieces) == 3:
        return _referred(draft, pieces[1], done, asking)
    length = 0
    for i, piece in enumerate(pieces):
        pieces[i] = str(_referred(draft, piece, done, asking)) if i % 2 else piece
        length += len(pieces[i])
        if length > MAX_TEXT:
            raise ValueError(f"at most {MAX_TEXT:,} characters", "more after its references")
    return "".join(pieces)


def _referred(draft: _Draft, inner: str, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
    name = inner.strip()
    if not _KEY.fullmatch(name):
        raise ValueError("${other.key} (nothing else is resolved)", repr("${" + inner + "}"))
    key, rest, section = _locate(draft.model, draft.model.aliases.get(name, name))
    if key is None or rest or section is not None:
        raise ValueError("a reference to a key of the spec", repr("${" + inner + "}"))
    if draft.declared(key).rule.secret:
        raise ValueError("a reference to a key that is not secret", repr("${" + inner + "}"))
    return _resolved(draft, key, done, asking)


def _recipe(draft: _Draft, recipes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The values that lie beneath the user's."""
    name = draft.values.get("recipe")
    if isinstance(name, str) and "${" in name:
        text = "the name of a recipe, spelled out"
        draft.problems.append(Problem(draft.place("recipe"), text, repr(name)))
    return recipes.get(name, {}) if isinstance(name, str) else {}


def _validated(draft: _Draft) -> Any:
    """The spec without the values that are refused."""
    values = {**draft.base, **draft.values}
    while True:
        good = {key: value for key, value in values.items() if key not in draft.refused}
        try:
            return draft.model.model_validate(_nested(good))
        except ValidationError as error:
            wrong = {_field_key(draft.model, entry["loc"]) for entry in error.errors()}
        if not wrong <= good.keys():
            raise RuntimeError(f"defaults outside their own bounds: {sorted(wrong - good.keys())}")
        for key in sorted(wrong):
            declared = draft.declared(key)
            received, fix = draft.shown(key, values[key]), value_fix(declared, values[key])
            draft.problems.append(Problem(draft.place(key), describe(declared), received, fix))
        draft.refused |= wrong


def _note_ignored(draft: _Draft, spec: Any, user: frozenset[str]) -> None:
    for key, reason in spec.ignored():
        if key in user and value_at(spec, key) != draft.declared(key).default:
            draft.notes.append(f"{key} has no effect: {reason}.")


def _with_derived(draft: _Draft, spec: Any, user: frozenset[str]) -> Any:
    """The spec with the values that follow from others."""
    updates = {}
    try:
        for derived in spec.derive(user):
            updates[derived.key] = derived.value
            if derived.note:
                draft.notes.append(derived.note)
    except SpecError as error:  # of a file that the spec names
        draft.problems += error.problems
    return with_values(spec, updates) if updates else spec


def _check(draft: _Draft, spec: Any, user: frozenset[str]) -> None:
    """Add what contradicts and what is missing, as far as it does not follow from the rest."""
    for finding in spec.findings(user):
        if not draft.refused.intersection(finding.keys):
            place = draft.place(finding.keys[0])
            draft.problems.append(Problem(place, finding.expected, finding.received, finding.fix))
    own_folder = f"{spec.action}.results_dir"
    missing = [
        key for key in spec.mandatory if value_at(spec, key) is None and key not in draft.refused
    ]
    if own_folder in user and "results_dir" in missing:
        missing.remove("results_dir")
    if missing:
        draft.problems.append(_missing(draft, spec.action, missing))


def _missing(draft: _Draft, action: str, missing: list[str]) -> Problem:
    examples = " ".join(f"{key}={draft.declared(key).rule.example}" for key in missing)
    is_one = len(missing) == 1
    return Problem(
        f"{draft.model.network} {action}",
        f"{'a value' if is_one else 'values'} for {' and '.join(missing)}",
        "nothing" if is_one else "neither" if len(missing) == 2 else "none",
        f"Set for example {examples}",
    )


def _mark_user_set(spec: Section, user: frozenset[str], prefix: str = "") -> None:
    inner = blocks(type(spec))
    said = {key[len(prefix) :].split(".")[0] for key in user if key.startswith(prefix)}
    spec.model_fields_set.intersection_update(said)
    for name in inner:
        _mark_user_set(getattr(spec, name), user, f"{prefix}{name}.")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        at = tree
        for name in parents:
            at = at.setdefault(name, {})
        at[leaf] = value
    return tree


def _field_key(model: type[Section], location: tuple[int | str, ...]) -> str:
    """The dotted field of a validation error, without list indices and union members."""
    names: list[str] = []
    section: type[Section] | None = model
    for part in location:
        if section is None:
            break
        names.append(str(part))
        section = blocks(section).get(str(part))
    return ".".join(names)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
