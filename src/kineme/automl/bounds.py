"""The bounds, scale and options of one setting: the user's, else the table's, else the schema's.

Promises: the user's bounds lie within the schema's or are refused; what nothing bounds is left
out, or refused if the user asked for it; faults are problems of the draft, all of them.
Leaves out: which settings are searched, and how they depend on one another (space.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kineme.automl.parameters import Kind, Parameter, is_same, powers_between
from kineme.automl.ranges import Range, suggested_range
from kineme.automl.setting_rows import RANGE_WORDS
from kineme.automl.settings import BLOCK, Settings
from kineme.errors import Problem, shortened
from kineme.spec.suggest import did_you_mean

LISTED, RANGES = f"{BLOCK}.hyperparameters", f"{BLOCK}.ranges"
_MANY = 10_000  # integers that the schema alone may bound


@dataclass
class Draft:
    """A space in the making."""

    leaves: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Any]
    settings: Settings
    idle: Mapping[str, str]
    data_length: int | None
    disabled: frozenset[str]
    keys: tuple[str, ...] = ()
    listed: frozenset[str] = frozenset()  # asked for by the user
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def value(self, key: str) -> Any:
        value = self.values.get(key)
        return self.leaves.get(key, {}).get("default") if value is None else value


def build_parameter(
    draft: Draft, key: str, leaf: Mapping[str, Any], said: Mapping[str, Any], where: str
) -> Parameter | None:
    kind, default = leaf.get("type"), draft.value(key)
    if kind == "bool" or leaf.get("enum") or "options" in said:
        return _choice(draft, key, leaf, said, where)
    is_int = kind in ("int", "ordered_int")
    default = default if is_number(default) else None
    table = suggested_range(key, default, draft.settings.num_epochs, draft.data_length)
    numbers = _numbers(draft, leaf, said, table, where)
    if numbers is None:
        return None
    low, high = numbers
    if low is None or high is None:
        _without_range(draft, key, where)
        return None
    is_log = said.get("log", bool(table and table.is_log and low > 0))
    if not isinstance(is_log, bool) or (is_log and low <= 0):
        expected = "log: true or false; true where the lowest value is above 0"
        received = f"log {shortened(is_log)}, lowest {low:g}"
        draft.problems.append(Problem(where, expected, received))
        return None
    found = Parameter(
        key, Kind.INT if is_int else Kind.FLOAT, default, low, high, is_log,
        off=_off(said, table, low, high), is_mutable=bool(table and table.is_mutable),
    )  # fmt: skip
    if is_int:
        bases = table.power_of if table and not ({"min", "max"} & set(said)) else 0
        return _integers(draft, replace(found, power_of=bases), leaf, said, where)
    return found


def _numbers(
    draft: Draft, leaf: Mapping[str, Any], said: Mapping[str, Any], table: Range | None, where: str
) -> tuple[float | None, float | None] | None:
    """(lowest, highest), None for what nothing bounds; None altogether where they are refused."""
    least, most = _finite(leaf.get("minimum")), _finite(leaf.get("maximum"))
    before = len(draft.problems)
    for name in ("min", "max"):
        value = said.get(name)
        if value is not None and not is_number(value):
            draft.problems.append(Problem(f"{where}: {name}", "a number", shortened(value)))
        elif value is not None and least is not None and value < least:
            expected = f"at least {least:g}, as the schema says"
            draft.problems.append(Problem(f"{where}: {name}", expected, f"{value:g}"))
        elif value is not None and most is not None and value > most:
            expected = f"at most {most:g}, as the schema says"
            draft.problems.append(Problem(f"{where}: {name}", expected, f"{value:g}"))
    if len(draft.problems) > before:
        return None
    low = said.get("min", _inner(table.low if table else least, least, most))
    high = said.get("max", _inner(table.high if table else most, least, most))
    if low is not None and high is not None and low > high:
        other = {"min": "max", "max": "min"}
        given = [name for name in ("min", "max") if name in said]
        fix = f"Give {other[given[0]]}, too." if len(given) == 1 else ""
        expected = "a lowest value that is not above the highest"
        draft.problems.append(Problem(where, expected, f"{low:g} and {high:g}", fix))
        return None
    is_int = leaf.get("type") in ("int", "ordered_int")
    is_endless = table is None and not ({"min", "max"} & set(said))
    if is_endless and is_int and low is not None and high is not None and high - low > _MANY:
        return None, None
    return low, high


def _without_range(draft: Draft, key: str, where: str) -> None:
    """A setting that nothing bounds: refused if the user asked for it, else a note."""
    is_length = key.endswith("window_size")
    why = "the length of the data is not known" if is_length else "the schema has none"
    if key in draft.listed:
        fix = f"Set {RANGES} to {{{key}: {{min: ..., max: ...}}}}."
        draft.problems.append(Problem(where, "a range to search in", f"none ({why})", fix))
    else:
        draft.notes.append(f"{key} is not searched: it has no range ({why}).")


def _off(said: Mapping[str, Any], table: Range | None, low: float, high: float) -> float | None:
    """The value that turns a setting off. A range of the user's means these values alone."""
    if "off" in said:
        return float(said["off"]) if is_number(said["off"]) else None
    if table is None or table.off is None or {"min", "max"} & set(said):
        return None
    return None if low <= table.off <= high else table.off


def _integers(
    draft: Draft, found: Parameter, leaf: Mapping[str, Any], said: Mapping[str, Any], where: str
) -> Parameter | None:
    """Integers, of which `^ 2` leaves the powers of two and `/ k` the multiples of k."""
    rule = str(said.get("math_cond", leaf.get("math_cond") or "")).strip()
    sign, _, number = rule.partition(" ")
    if sign in ("^", "/"):
        if not number.strip().isdigit() or int(number) < (2 if sign == "^" else 1):
            problem = Problem(where, "math_cond as '^ 2' or '/ 32'", repr(rule))
            draft.problems.append(problem)
            return None
        step = int(number)
        if sign == "^":
            found = replace(found, power_of=step)
        else:
            found = replace(found, multiple_of=step, power_of=0)
    if found.power_of:
        known = powers_between(found.low, found.high, found.power_of)
        low, high = (float(known[0]), float(known[-1])) if known else (1.0, 0.0)
    else:
        step = found.multiple_of
        low = float(math.ceil(found.low / step) * step)
        high = float(math.floor(found.high / step) * step)
    if low > high:
        expected = f"a range that holds {f'a number that fits {rule!r}' if rule else 'an integer'}"
        received = f"[{found.low:g}, {found.high:g}]"
        draft.problems.append(Problem(where, expected, received))
        return None
    return replace(found, low=low, high=high)


def _choice(
    draft: Draft, key: str, leaf: Mapping[str, Any], said: Mapping[str, Any], where: str
) -> Parameter | None:
    known = [False, True] if leaf.get("type") == "bool" else list(leaf.get("enum") or ())
    options = said.get("options", known)
    if not isinstance(options, list | tuple) or not options:
        draft.problems.append(Problem(f"{where}: options", "a list", shortened(options)))
        return None
    bad = [one for one in options if not _is_option(one, known, leaf)]
    for one in bad:
        expected = f"one of {', '.join(map(repr, known))}" if known else _bounds_of(leaf)
        fix = did_you_mean(one, known, shown=repr)
        draft.problems.append(Problem(f"{where}: options", expected, shortened(one), fix))
    for word in ("min", "max", "log", "off"):
        if word in said:
            problem = Problem(where, "options", word, "A setting with options has no bounds.")
            draft.problems.append(problem)
    weights = _weights(draft, options, said.get("weights", leaf.get("option_weights")), where)
    if bad or weights is None:
        return None
    unique = [one for i, one in enumerate(options)
              if not any(is_same(one, earlier) for earlier in options[:i])]  # fmt: skip
    if len(unique) < len(options):
        draft.problems.append(Problem(f"{where}: options", "each once", shortened(options)))
        return None
    is_mutable = suggested_range(key, None, draft.settings.num_epochs, draft.data_length)
    return Parameter(
        key, Kind.CHOICE, draft.value(key), choices=tuple(options), weights=weights,
        is_mutable=bool(is_mutable and is_mutable.is_mutable),
    )  # fmt: skip


def _is_option(value: Any, known: list[Any], leaf: Mapping[str, Any]) -> bool:
    if known:
        return any(is_same(value, one) for one in known)
    kind = leaf.get("type")
    if kind not in ("int", "float", "ordered_int"):
        return isinstance(value, str)
    least, most = _finite(leaf.get("minimum")), _finite(leaf.get("maximum"))
    is_kind = is_number(value) and (kind == "float" or isinstance(value, int))
    return is_kind and (least is None or value >= least) and (most is None or value <= most)


def _bounds_of(leaf: Mapping[str, Any]) -> str:
    least, most = _finite(leaf.get("minimum")), _finite(leaf.get("maximum"))
    lowest = "" if least is None else f" >= {least:g}"
    return f"values of type {leaf.get('type')}{lowest}{'' if most is None else f' <= {most:g}'}"


def _weights(
    draft: Draft, options: Any, given: Any, where: str
) -> tuple[float, ...] | None:  # fmt: skip
    """How often each option is drawn, of sum 1; () for equally often; None if refused."""
    if given is None:
        return ()
    is_list = isinstance(given, list | tuple) and len(given) == len(options)
    if is_list and all(is_number(w) and w >= 0 for w in given) and sum(given) > 0:
        return tuple(weight / sum(given) for weight in given)
    expected = f"{len(options)} numbers >= 0, one for each option"
    draft.problems.append(Problem(f"{where}: weights", expected, shortened(given)))
    return None


def said_of(draft: Draft, key: str, where: str) -> dict[str, Any] | None:
    """What the user says of a range, under one name each; None where it is not understood."""
    given = draft.settings.ranges.get(key, {})
    names = {other: name for name, others in RANGE_WORDS.items() for other in others}
    unknown = [word for word in given if word not in names]
    for word in unknown:
        expected = f"words of a range ({', '.join(RANGE_WORDS)})"
        problem = Problem(where, expected, repr(word), did_you_mean(word, names))
        draft.problems.append(problem)
    return None if unknown else {names[word]: value for word, value in given.items()}


def _inner(value: float | None, least: float | None, most: float | None) -> float | None:
    if value is None:
        return None
    value = value if least is None else max(value, least)
    return value if most is None else min(value, most)


def _finite(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
