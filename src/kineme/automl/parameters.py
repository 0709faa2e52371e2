"""The space that is searched: parameters, each a map from [0, 1) to the values of a setting.

Promises: every value is one that the setting may have: whole numbers are int, other numbers
have 6 significant digits and stay within their bounds. `unit_of` leads back into the cell of
a value, so what is known of a trial's values can be put into a model. A parameter that has no
effect beside the others' values is left out of a configuration. Values that must be larger or
smaller than another's are, for any draw.
Leaves out: where bounds come from (ranges.py, space.py), who draws (algorithms).
"""

import bisect
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

SIGNIFICANT_DIGITS = 6
OFF_SHARE = 0.2  # of the draws of a setting that may also be off
STRICT_SHARE = 1e-3  # of a range: how much larger "larger" is, where numbers are no integers


class Kind(StrEnum):
    FLOAT = "float"
    INT = "int"
    CHOICE = "choice"


@dataclass(frozen=True)
class Relation:
    """The value lies above or below that of `other`; strictly, unless `is_equal_allowed`."""

    other: str
    is_above: bool
    is_equal_allowed: bool = False


@dataclass(frozen=True)
class Condition:
    """The parameter has an effect only where `other` has one of `values`."""

    other: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Parameter:
    """A searched setting.

    default: the spec's own value, None if it has none. is_log: equal ratios are equally likely.
    off: a value outside the range that turns the setting off, None if there is none.
    multiple_of, power_of: of integers. weights: of choices, sum 1.
    is_mutable: a training may go on with another value.
    """

    key: str
    kind: Kind
    default: Any = None
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    off: float | None = None
    multiple_of: int = 1
    power_of: int = 0
    choices: tuple[Any, ...] = ()
    weights: tuple[float, ...] = ()
    relations: tuple[Relation, ...] = ()
    condition: Condition | None = None
    is_mutable: bool = False

    @property
    def num_values(self) -> float:
        """How many values there are; inf for numbers that are no integers."""
        if self.kind == Kind.CHOICE:
            return len(self.choices)
        extra = self.off is not None
        if self.kind == Kind.FLOAT:
            return 1 + extra if self.low == self.high else math.inf
        return self._num_integers() + extra

    def value_of(self, unit: float) -> Any:
        """The value at `unit` in [0, 1]."""
        unit = min(max(unit, 0.0), math.nextafter(1.0, 0.0))
        if self.kind == Kind.CHOICE:
            place = bisect.bisect_right(self._weights_up_to(), unit)
            return self.choices[min(place, len(self.choices) - 1)]
        if self.off is not None:
            if unit < OFF_SHARE:
                return self._typed(self.off)
            unit = (unit - OFF_SHARE) / (1 - OFF_SHARE)
        if self.kind == Kind.INT:
            return self._integer(self._index(unit))
        if self.is_log:
            value = math.exp(_between(math.log(self.low), math.log(self.high), unit))
        else:
            value = _between(self.low, self.high, unit)
        return min(max(rounded(value), self.low), self.high)

    def unit_of(self, value: Any) -> float:
        """A place in [0, 1] whose value is `value`, or the nearest that there is."""
        if self.kind == Kind.CHOICE:
            place = next((i for i, c in enumerate(self.choices) if is_same(c, value)), 0)
            ends = [0.0, *self._weights_up_to()]
            return (ends[place] + ends[place + 1]) / 2
        if self.off is not None and value == self.off:
            return OFF_SHARE / 2
        within = self._unit_within(float(value))
        return within if self.off is None else OFF_SHARE + within * (1 - OFF_SHARE)

    def changed(self, value: Any, factor: float) -> Any:
        """`value` times `factor`, within the range; integers change by at least one."""
        if self.kind == Kind.CHOICE or (self.off is not None and value == self.off):
            return value
        target = float(value) * factor
        if self.kind == Kind.FLOAT:
            return min(max(rounded(target), self.low), self.high)
        there = self.value_of(self.unit_of(target))
        if there == value:
            step = 1 if factor > 1 else -1
            last = self._num_integers() - 1
            there = self._integer(min(max(self._index_of(float(value)) + step, 0), last))
        return there

    def within(self, low: float, high: float) -> "Parameter":
        """The parameter with narrower bounds; empty ones become the nearest single value."""
        low, high = max(low, self.low), min(high, self.high)
        if self.kind == Kind.INT and not self.power_of:
            low, high = _up(low, self.multiple_of), _down(high, self.multiple_of)
        if low > high:
            low = high = min(max(low, self.low), self.high)
        return replace(self, low=low, high=high)

    def _weights_up_to(self) -> list[float]:
        weights = self.weights or (1 / len(self.choices),) * len(self.choices)
        return [*itertools.accumulate(weights[:-1]), 1.0]

    def _typed(self, value: float) -> Any:
        return int(value) if self.kind == Kind.INT else float(value)

    def _num_integers(self) -> int:
        if self.power_of:
            return len(powers_between(self.low, self.high, self.power_of))
        return (int(self.high) - int(self.low)) // self.multiple_of + 1

    def _integer(self, index: int) -> int:
        if self.power_of:
            return powers_between(self.low, self.high, self.power_of)[index]
        return int(self.low) + index * self.multiple_of

    def _index(self, unit: float) -> int:
        """Which integer lies at `unit`: each has its cell, of equal width or, where is_log, of
        equal width in the logarithm."""
        count = self._num_integers()
        if self.power_of or not self.is_log:
            return min(count - 1, int(unit * count))
        edges = [math.log(edge) for edge in self._log_edges()]
        value = math.exp(_between(edges[0], edges[1], unit))
        return min(count - 1, max(0, round((value - self.low) / self.multiple_of)))

    def _log_edges(self) -> tuple[float, float]:
        half = self.multiple_of / 2
        return max(self.low - half, self.low / 2), self.high + half

    def _index_of(self, value: float) -> int:
        count = self._num_integers()
        if self.power_of:
            known = powers_between(self.low, self.high, self.power_of)
            return min(range(count), key=lambda i: abs(math.log(known[i] / max(value, 0.5))))
        return min(count - 1, max(0, round((value - self.low) / self.multiple_of)))

    def _unit_within(self, value: float) -> float:
        if self.low == self.high:
            return 0.5
        value = min(max(value, self.low), self.high)
        if self.kind == Kind.INT:
            index, count = self._index_of(value), self._num_integers()
            if self.power_of or not self.is_log:
                return (index + 0.5) / count
            low, high = self._log_edges()
            return math.log(self._integer(index) / low) / math.log(high / low)
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Space:
    """Parameters, those first that others depend on."""

    parameters: tuple[Parameter, ...] = field(default=())

    @property
    def num_configurations(self) -> float:
        """At most so many different configurations there are."""
        return math.prod(parameter.num_values for parameter in self.parameters)

    def params_at(self, units: Mapping[str, float]) -> dict[str, Any]:
        """The configuration at a point of the unit cube, without what has no effect."""
        params: dict[str, Any] = {}
        for parameter in self.parameters:
            if is_active(parameter, params):
                narrowed = self.narrowed(parameter, params)
                params[parameter.key] = narrowed.value_of(units[parameter.key])
        return params

    def units_of(self, params: Mapping[str, Any]) -> dict[str, float]:
        """The point of a configuration; what it leaves out is where the spec's own value is."""
        units = {}
        for parameter in self.parameters:
            value = params.get(parameter.key, parameter.default)
            narrowed = self.narrowed(parameter, params)
            units[parameter.key] = 0.5 if value is None else narrowed.unit_of(value)
        return units

    def own(self) -> dict[str, Any]:
        """The configuration of the spec's own values, or the nearest that is in the space."""
        return self.params_at(self.units_of({}))

    def completed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` after a change of some: what is out of bounds or has no effect is mended."""
        done: dict[str, Any] = {}
        for parameter in self.parameters:
            if not is_active(parameter, done):
                continue
            value = params.get(parameter.key, parameter.default)
            narrowed = self.narrowed(parameter, done)
            done[parameter.key] = narrowed.value_of(
                0.5 if value is None else narrowed.unit_of(value)
            )
        return done

    def narrowed(self, parameter: Parameter, params: Mapping[str, Any]) -> Parameter:
        """The parameter beside the values of those that it is compared with."""
        low, high = parameter.low, parameter.high
        for relation in parameter.relations:
            other = params.get(relation.other)
            if other is None:
                continue
            gap = 0.0 if relation.is_equal_allowed else strict_gap(parameter)
            if relation.is_above:
                low = max(low, other + gap)
            else:
                high = min(high, other - gap)
        if (low, high) == (parameter.low, parameter.high):
            return parameter
        return parameter.within(low, high)


def is_active(parameter: Parameter, params: Mapping[str, Any]) -> bool:
    """Whether the parameter has an effect beside the values of those before it."""
    condition = parameter.condition
    if condition is None:
        return True
    value = params.get(condition.other)
    return any(is_same(value, one) for one in condition.values)


def is_same(one: Any, other: Any) -> bool:
    """Equality that does not take true for 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def strict_gap(parameter: Parameter) -> float:
    if parameter.kind == Kind.INT:
        return 1.0
    return (parameter.high - parameter.low) * STRICT_SHARE


def rounded(value: float) -> float:
    """Six significant digits: a spec that people read, and read back the same."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def powers_between(low: float, high: float, base: int) -> list[int]:
    """The powers of `base` in [low, high]."""
    return list(_powers(max(1, math.ceil(low)), high, base))


def _powers(low: int, high: float, base: int) -> Iterator[int]:
    value = 1
    while value <= high:
        if value >= low:
            yield value
        value *= base


def _between(low: float, high: float, unit: float) -> float:
    return low + unit * (high - low)


def _up(value: float, step: int) -> float:
    return float(math.ceil(value / step) * step)


def _down(value: float, step: int) -> float:
    return float(math.floor(value / step) * step)
