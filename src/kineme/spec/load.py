"""From what the user wrote to a frozen spec.

Promises: every problem at once, each with its place (file:line or command line), what was
expected, what came, and a suggestion. Later overrides win over earlier ones and over the
file; a recipe lies beneath both, defaults beneath the recipe. '', null and TAO's ??? mean
"not set". `${other.key}` means another key of the same spec, a leading `~/` in free text (which
is a path, then) the home of the user; nothing else is ever resolved.
Leaves out: which setting a key means (draft.py), how values are written (read.py), whether
files exist and data fit (the actions).
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from kineme.errors import Problem, SpecError
from kineme.spec.draft import (
    Draft,
    add_document,
    add_overrides,
    changed_defaults,
    is_unset,
    locate,
    note_older,
    short,
)
from kineme.spec.fields import Section, Setting, blocks, describe, settings_by_key
from kineme.spec.legacy import Moved
from kineme.spec.overrides import HIDDEN, Overrides
from kineme.spec.read import Source, nested, plain, read_document
from kineme.spec.sections import Spec
from kineme.spec.suggest import value_fix

MAX_TEXT = 10_000
FETCHED_SCHEMES = ("s3",)  # of addresses that data/remote reads
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
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
    draft = Draft(model, problems=list(document.problems))
    add_document(draft, document)
    add_overrides(draft, overrides)
    note_older(draft, document.name)
    draft.base = _recipe(draft, model.recipes if recipes is None else recipes)
    _interpolate(draft)
    _expand_homes(draft)
    spec = _validated(draft)
    user = frozenset(draft.values.keys() - draft.refused)
    _note_ignored(draft, spec, user)
    spec = _with_derived(draft, spec, user)
    _check(draft, spec, user)
    if draft.problems:
        raise SpecError.of(draft.problems)
    _mark_user_set(spec, user)
    return spec, tuple(draft.notes)


@dataclass(frozen=True)
class Account:
    """What a source says, in today's keys, before anything is checked or filled in.

    values: by dotted key, as written. is_older: of TAO before 5.0. moved, idle: what became
    of older keys. changed: what it leaves out and has another default today.
    """

    values: Mapping[str, Any] = field(repr=False)
    is_older: bool
    moved: tuple[Moved, ...]
    idle: Mapping[str, str]
    changed: tuple[str, ...]
    problems: tuple[Problem, ...]


def account(model: type[Spec], source: Source) -> Account:
    """What `source` says of a spec of `model`. Raises SpecError when it cannot be read."""
    document = read_document(source)
    draft = Draft(model, problems=list(document.problems))
    add_document(draft, document)
    changed = tuple(changed_defaults(draft))
    problems = tuple(draft.problems)
    return Account(draft.values, draft.is_older, tuple(draft.moved), draft.idle, changed, problems)


def with_values(
    spec: _AnySpec, values: Mapping[str, Any], *, fixed: Iterable[str] = ()
) -> _AnySpec:
    """`spec` with other values at dotted keys; what counts as set by the user stays.

    fixed: keys that count as set by the user as well, as nothing may change them afterwards.
    Raises SpecError when a value is outside what its field allows.
    """
    known = {key: value_at(spec, key) for key in settings_by_key(type(spec))}
    draft = Draft(type(spec), values={**known, **plain(values)})
    changed = _validated(draft)
    if draft.problems:
        raise SpecError.of(draft.problems)
    _mark_user_set(changed, frozenset(user_set(spec)).union(fixed))
    return changed  # type: ignore[no-any-return]


def for_action(spec: Spec, model: type[_AnySpec]) -> _AnySpec:
    """The values of `spec` as a spec of another action of its network, checked as such.

    Raises SpecError with all problems.
    """
    known = {key: value_at(spec, key) for key in settings_by_key(type(spec))}
    draft, user = Draft(model, values=plain(known)), frozenset(user_set(spec))
    changed = _validated(draft)
    _mark_user_set(changed, user)
    updates = {derived.key: derived.value for derived in changed.derive(user)}
    changed = with_values(changed, updates) if updates else changed
    _check(draft, changed, user)
    if draft.problems:
        raise SpecError.of(draft.problems)
    return changed  # type: ignore[no-any-return]


def addresses_in(spec: Spec) -> dict[str, str]:
    """The settings that name a place on the network, by key, in the order of the spec.

    load_spec lets them pass: who runs jobs loads a spec first and puts the data on the disk later.
    """
    values = {
        key: value_at(spec, key)
        for key, declared in settings_by_key(type(spec)).items()
        if _is_free(declared)
    }
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, str) and _ADDRESS.match(value)
    }


def refused_addresses(spec: Spec) -> tuple[Problem, ...]:
    """A problem for each setting with an address of a kind that nothing here reads."""
    schemes = {key: text.partition("://")[0] for key, text in addresses_in(spec).items()}
    return tuple(
        Problem(key, "a path on this machine, or an s3:// address", f"an address ({scheme}://...)",
                "Put the data on this machine, and set its path.")
        for key, scheme in schemes.items()  # the rest may hold a password
        if scheme.lower() not in FETCHED_SCHEMES
    )  # fmt: skip


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


def _interpolate(draft: Draft) -> None:
    done: dict[str, Any] = {}
    for key in list(draft.values):
        try:
            draft.values[key] = _resolved(draft, key, done, ())
        except ValueError as error:
            expected, received = error.args
            if draft.declared(key).rule.secret:
                received = HIDDEN
            draft.problems.append(Problem(draft.place(key), expected, short(received)))
            draft.refused.add(key)
    for key in [key for key, value in draft.values.items() if is_unset(value)]:
        del draft.values[key]


def _resolved(draft: Draft, key: str, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
    """The value of `key` with its references replaced. Raises ValueError(expected, received)."""
    if key in asking:
        raise ValueError("references that end somewhere", " -> ".join((*asking, key)))
    if key not in done:
        value = draft.values.get(key, draft.base.get(key, draft.declared(key).default))
        done[key] = _replaced(draft, value, done, (*asking, key))
    return done[key]


def _replaced(draft: Draft, value: Any, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
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
        if i % 2:
            found = _referred(draft, piece, done, asking)
            if found is None:
                raise ValueError("a reference to a setting that is set", repr("${" + piece + "}"))
            pieces[i] = str(found)
        length += len(pieces[i])
        if length > MAX_TEXT:
            raise ValueError(f"at most {MAX_TEXT:,} characters", "more after its references")
    return "".join(pieces)


def _referred(draft: Draft, inner: str, done: dict[str, Any], asking: tuple[str, ...]) -> Any:
    name = inner.strip()
    if not _KEY.fullmatch(name):
        raise ValueError("${other.key} (nothing else is resolved)", repr("${" + inner + "}"))
    moved = draft.model.legacy.today(name, draft.model.action)
    if moved and len(moved.new) == 1:
        name = moved.new[0]
    key, rest, section = locate(draft.model, draft.model.aliases.get(name, name))
    if key is None or rest or section is not None:
        raise ValueError("a reference to a key of the spec", repr("${" + inner + "}"))
    if draft.declared(key).rule.secret:
        raise ValueError("a reference to a key that is not secret", repr("${" + inner + "}"))
    return _resolved(draft, key, done, asking)


def _expand_homes(draft: Draft) -> None:
    """Put the user's home for `~/`. Which texts are paths need not be said: no other begins so."""
    for key, value in draft.values.items():
        if isinstance(value, str) and value.startswith("~/") and _is_free(draft.declared(key)):
            draft.values[key] = os.path.expanduser(value)


def _is_free(declared: Setting) -> bool:
    """Whether any text will do, so that it may be a path."""
    return not declared.rule.secret and not declared.rule.choices


def _recipe(draft: Draft, recipes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The values that lie beneath the user's."""
    name = draft.values.get("recipe")
    if isinstance(name, str) and "${" in name:
        text = "the name of a recipe, spelled out"
        draft.problems.append(Problem(draft.place("recipe"), text, repr(name)))
    return recipes.get(name, {}) if isinstance(name, str) else {}


def _validated(draft: Draft) -> Any:
    """The spec without the values that are refused."""
    values = {**draft.base, **draft.values}
    while True:
        good = {key: value for key, value in values.items() if key not in draft.refused}
        try:
            return draft.model.model_validate(nested(good))
        except ValidationError as error:
            wrong = {_field_key(draft.model, entry["loc"]) for entry in error.errors()}
        if not wrong <= good.keys():
            raise RuntimeError(f"defaults outside their own bounds: {sorted(wrong - good.keys())}")
        for key in sorted(wrong):
            declared = draft.declared(key)
            received, fix = draft.shown(key, values[key]), value_fix(declared, values[key])
            draft.problems.append(Problem(draft.place(key), describe(declared), received, fix))
        draft.refused |= wrong


def _note_ignored(draft: Draft, spec: Any, user: frozenset[str]) -> None:
    for key, reason in spec.ignored():
        if key in user and value_at(spec, key) != draft.declared(key).default:
            draft.notes.append(f"{key} has no effect: {reason}.")


def _with_derived(draft: Draft, spec: Any, user: frozenset[str]) -> Any:
    """The spec with the values that follow from others."""
    updates = {}
    try:
        for derived in spec.derived(user):
            updates[derived.key] = derived.value
            if derived.note:
                draft.notes.append(derived.note)
    except SpecError as error:  # of a file that the spec names
        draft.problems += error.problems
    return with_values(spec, updates) if updates else spec


def _check(draft: Draft, spec: Any, user: frozenset[str]) -> None:
    """Add what contradicts and what is missing, as far as it does not follow from the rest."""
    for finding in spec.findings(user):
        if not draft.refused.intersection(finding.keys):
            place = draft.place(finding.keys[0])
            draft.problems.append(Problem(place, finding.expected, finding.received, finding.fix))
    own_folder = f"{spec.action}.results_dir"
    missing = [
        key for key in spec.needs if value_at(spec, key) is None and key not in draft.refused
    ]
    if own_folder in user and "results_dir" in missing:
        missing.remove("results_dir")
    if missing:
        draft.problems.append(_missing(draft, spec.action, missing))


def _missing(draft: Draft, action: str, missing: list[str]) -> Problem:
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
