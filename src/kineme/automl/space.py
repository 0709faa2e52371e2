"""From a train schema, the effective spec and the user's wishes to the space of a search.

Promises: bounds are the user's, else those of ranges.py within the schema's, else the schema's;
one that is missing is never replaced by the default. What has no effect beside the spec's other
values is left out with a note, or searched only where it has one if those are searched, too.
Faults (an unknown or disabled setting, lowest above highest, an option that is none, nothing to
search) are told all at once, as those of specs are.
Leaves out: drawing from the space (algorithms), whether the data fit (train).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kineme.automl.bounds import (
    LISTED,
    RANGES,
    Draft,
    build_parameter,
    is_number,
    said_of,
)
from kineme.automl.parameters import Condition, Kind, Parameter, Relation, Space, strict_gap
from kineme.automl.ranges import MANAGED, NEEDS
from kineme.automl.schedule import flat, scaled_schedule
from kineme.automl.setting_rows import RANGE_WORDS
from kineme.automl.settings import Settings
from kineme.errors import Problem, SpecError, listed
from kineme.spec.suggest import closest, did_you_mean


def build_space(
    schema: Mapping[str, Any],
    values: Mapping[str, Any],
    settings: Settings,
    *,
    idle: Mapping[str, str] | None = None,
    data_length: int | None = None,
) -> tuple[Space, tuple[str, ...]]:
    """The space of a search, with notes the user should see.

    schema: of train, in TAO's form. values: of the effective train spec, nested or dotted.
    idle: settings without effect there, and why, as `Spec.ignored` tells them.
    data_length: frames of the data. Raises SpecError with all problems.
    """
    draft = Draft(
        dict(_leaves(schema.get("properties", {}))), dict(flat(values)), settings,
        dict(idle or {}), data_length, frozenset(schema.get("automl_disabled_parameters", ())),
    )  # fmt: skip
    _choose(draft, schema)
    found = {key: it for key in draft.keys if (it := _parameter(draft, key)) is not None}
    for key in found:
        found[key] = _with_relations(draft, found, key)
    ordered = _ordered(draft, found)
    capped = _capped(draft, ordered)
    if not capped and not draft.problems:
        left_out = f"none ({listed(draft.notes)})" if draft.notes else "none"
        fix = "List settings in automl.hyperparameters."
        draft.problems.append(Problem(LISTED, "at least one setting to search", left_out, fix))
    if draft.problems:
        raise SpecError.of(draft.problems)
    return Space(capped), tuple(draft.notes)


def _leaves(properties: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf) of a schema; entries that are no mappings are passed over."""
    for name, entry in properties.items():
        if not isinstance(entry, Mapping):
            continue
        if isinstance(entry.get("properties"), Mapping):
            yield from _leaves(entry["properties"], f"{prefix}{name}.")
        else:
            yield prefix + name, entry


def _choose(draft: Draft, schema: Mapping[str, Any]) -> None:
    """Which settings are searched: the schema's, the user's, or the schema's with changes.

    A list replaces those of the schema; `+key` adds to them, `-key` takes one away. A setting
    that has a range of the user's is searched, too.
    """
    usual = list(schema.get("automl_default_parameters", ())) or [
        key for key, leaf in draft.leaves.items() if leaf.get("automl_enabled") is True
    ]
    asked = draft.settings.hyperparameters
    keys = list(usual)
    if asked is not None:
        changes = [key for key in asked if key[:1] in "+-~"]
        named = [key for key in asked if key[:1] not in "+-~"]
        keys = named if named or not changes else keys
        gone = {key[1:] for key in changes if key[0] != "+"}
        keys += [key[1:] for key in changes if key[0] == "+"]
        for key in sorted(gone - set(keys)):
            expected = f"one of those that are searched ({listed(keys, 10)})"
            draft.problems.append(Problem(f"{LISTED}: -{key}", expected, "another"))
        for key in sorted(gone & set(draft.settings.ranges)):
            expected = f"no range, as {LISTED} takes it away"
            draft.problems.append(Problem(f"{RANGES}: {key}", expected, "one", "Leave one out."))
        keys = [key for key in keys if key not in gone]
    keys += draft.settings.ranges
    draft.keys = tuple(dict.fromkeys(keys))
    draft.listed = frozenset([*(key.lstrip("+") for key in asked or ()), *draft.settings.ranges])


def _parameter(draft: Draft, key: str) -> Parameter | None:
    """The parameter of a setting; None where it is refused or left out."""
    where = f"{RANGES}: {key}" if key in draft.settings.ranges else f"{LISTED}: {key}"
    leaf = draft.leaves.get(key)
    if leaf is None:
        meant = closest(key, draft.leaves) or next(
            (k for k in draft.leaves if k.rpartition(".")[2] == key.rpartition(".")[2]), key
        )
        fix = did_you_mean(
            meant, draft.leaves, otherwise="Settings are dotted keys of the train spec."
        )
        problem = Problem(where, "a setting of the train schema", "an unknown one", fix)
        draft.problems.append(problem)
        return None
    if reason := _refused(draft, key, leaf):
        draft.problems.append(Problem(where, "a setting that can be searched", repr(key), reason))
        return None
    condition = _condition(draft, key)
    if isinstance(condition, str):
        draft.notes.append(f"{key} is not searched: {condition}.")
        return None
    said = said_of(draft, key, where)
    if said is None:
        return None
    bounds = build_parameter(draft, key, leaf, said, where)
    return replace(bounds, condition=condition) if bounds else None


def _refused(draft: Draft, key: str, leaf: Mapping[str, Any]) -> str:
    """Why a setting cannot be searched at all."""
    if key in MANAGED:
        return MANAGED[key]
    if key in draft.disabled or str(leaf.get("automl_enabled")).lower() == "disabled":
        return "The schema disables it (automl_disabled_parameters): set it in the spec."
    said = draft.settings.ranges.get(key, {})
    has_options = any(name in said for name in RANGE_WORDS["options"])
    kind = leaf.get("type")
    if kind in ("int", "float", "bool", "categorical", "ordered_int") or leaf.get("enum"):
        return ""
    if kind == "string" and has_options:
        return ""
    if kind == "string":
        return f"It is text: give its options in {RANGES}."
    return f"A setting of type {kind} has no range."


def _condition(draft: Draft, key: str) -> Condition | str | None:
    """What a setting needs to have an effect: a condition, a reason why it has none, or nothing."""
    need = NEEDS.get(key)
    if need and need[0] in draft.leaves:
        other, values = need
        if other in draft.keys:
            return Condition(other, values)
        if draft.value(other) not in values and not _adds_zeros(draft, key):
            return f"it has no effect, as {other} is {draft.value(other)}"
    if key in draft.idle and not (need and need[0] in draft.keys):
        return f"it has no effect, as {draft.idle[key]}"
    if key == "train.optim.lr_decay" and "train.optim.lr_scheduler" not in draft.keys:
        steps = scaled_schedule(draft.values, draft.settings.num_epochs)[0].get(
            "train.optim.lr_steps", draft.value("train.optim.lr_steps")
        )
        is_stepped = draft.value("train.optim.lr_scheduler") == "MultiStep"
        if is_stepped and not any(s < draft.settings.num_epochs for s in steps or ()):
            epochs = draft.settings.num_epochs
            return f"it has no effect, as no step of lr_steps {steps} lies within {epochs} epochs"
    return None


def _adds_zeros(draft: Draft, key: str) -> bool:
    """Whether the user asks for windows longer than the data, which are filled up if not chosen."""
    said = draft.settings.ranges.get(key, {}) if key.endswith("window_size") else {}
    most = [said[word] for word in RANGE_WORDS["max"] if is_number(said.get(word))]
    return bool(most) and most[0] > (draft.data_length or 0)


def _with_relations(draft: Draft, found: Mapping[str, Parameter], key: str) -> Parameter:
    """The parameter with what math_cond and depends_on say of others."""
    parameter, leaf = found[key], draft.leaves[key]
    said = {**leaf, **(said_of(draft, key, "") or {})}
    rule = str(said.get("math_cond") or "").strip()
    sign, _, other = rule.partition(" ")
    other = other.strip() or str(said.get("depends_on") or said.get("parent_param") or "")
    if sign not in (">", "<", ">=", "<=") or parameter.kind == Kind.CHOICE:
        return parameter
    other = _full_key(draft, key, other)
    relation = Relation(other, sign[0] == ">", len(sign) == 2)
    if other in found:
        return replace(parameter, relations=(relation,))
    fixed = draft.value(other)
    if not is_number(fixed):
        problem = Problem(f"{RANGES}: {key}", "math_cond with a setting of numbers", repr(rule))
        draft.problems.append(problem)
        return parameter
    beside = Space().narrowed(replace(parameter, relations=(relation,)), {other: fixed})
    gap = 0.0 if relation.is_equal_allowed else strict_gap(parameter)
    is_above = beside.high >= fixed + gap if relation.is_above else beside.low <= fixed - gap
    if not is_above:
        received = f"[{parameter.low:g}, {parameter.high:g}], and {other} is {fixed:g}"
        expected = f"a range with values {sign} {other}"
        draft.problems.append(Problem(f"{RANGES}: {key}", expected, received))
    return replace(beside, relations=())


def _full_key(draft: Draft, key: str, other: str) -> str:
    """A neighbour may be named by its last word."""
    beside = f"{key.rpartition('.')[0]}.{other}"
    return beside if other not in draft.leaves and beside in draft.leaves else other


def _ordered(draft: Draft, found: Mapping[str, Parameter]) -> list[Parameter]:
    """Those first that others depend on; else as they were listed."""
    graph = {
        key: {it.other for it in one.relations if it.other in found}
        | ({one.condition.other} & set(found) if one.condition else set())
        for key, one in found.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        names = " -> ".join(error.args[1])
        draft.problems.append(Problem(RANGES, "settings that depend on one another", names))
        return []
    done: list[str] = []
    while len(done) < len(graph):
        done.append(next(k for k in graph if k not in done and graph[k] <= set(done)))
    return [
        # a parent that was refused or left out stays as the spec has it
        replace(it, condition=None) if it.condition and it.condition.other not in found else it
        for it in (found[key] for key in done)
    ]


def _capped(draft: Draft, ordered: list[Parameter]) -> tuple[Parameter, ...]:
    """The parameters, so narrow that what lies above or below them always finds a place."""
    known = {parameter.key: parameter for parameter in ordered}
    for one in reversed(ordered):
        child = known[one.key]
        for relation in child.relations:
            parent = known[relation.other]
            gap = 0.0 if relation.is_equal_allowed else strict_gap(child)
            low, high = parent.low, parent.high
            if relation.is_above:
                high = min(high, child.high - gap)
            else:
                low = max(low, child.low + gap)
            if low > high:
                received = (
                    f"[{child.low:g}, {child.high:g}] beside [{parent.low:g}, {parent.high:g}]"
                )
                expected = f"a range with values on one side of {relation.other}"
                draft.problems.append(Problem(f"{RANGES}: {child.key}", expected, received))
                continue
            known[parent.key] = parent.within(low, high)
    return tuple(known[one.key] for one in ordered)
