"""One declaration per spec field: type, default, doc, bounds, choices, flags.

Promises: what a field says of itself feeds validation, error messages, templates, the
JSON schema, the docs table and the AutoML search space; nothing is said twice.
Types are strict (true is not 1, "abc" is not a number), except where a spelling can mean
one thing only: 30.0 for an integer, "1e-3" for a number, yes/no for a flag, 7 for text, a
list of different names where names are numbered.
Leaves out: reading files and overrides (load.py), which fields there are (sections.py).
"""

import functools
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

MUST_BE_SET = "???"  # OmegaConf's word for a value that somebody has to give
LARGEST = 2**53  # of whole numbers: up to here JSON and floats keep each
NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "flags"),
}


@dataclass(frozen=True)
class Rule:
    """What a declaration adds to type, default and doc.

    Bounds and choices hold for each element of a list. length: exact, of a list.
    example: what a template shows where the default is "not set". popular: shown first.
    automl: searched by default. ours: not in TAO. secret: never printed, never written.
    tao_default: what TAO's schema and templates say, where that is not the default here.
    tao_type: TAO's name of the type, where it does not follow from the type here.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    length: int | None = None
    choices: tuple[str, ...] = ()
    example: Any = None
    popular: bool = False
    automl: bool = False
    ours: bool = False
    secret: bool = False
    tao_default: Any = ...
    tao_type: str = ""


@dataclass(frozen=True)
class Setting:
    """One field of a spec, as the rest of the house sees it. `key` is dotted."""

    key: str
    kinds: tuple[Any, ...]  # its types, None left out
    default: Any
    doc: str
    rule: Rule

    @property
    def is_mapping(self) -> bool:
        return any(typing.get_origin(kind) is dict for kind in self.kinds)

    @property
    def is_list(self) -> bool:
        return any(typing.get_origin(kind) is list for kind in self.kinds)


class Section(BaseModel):
    """A block of the spec. Its fields are made by `setting`, its blocks by `block`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _spelled(cls, value: Any, info: ValidationInfo) -> Any:
        declared = own_settings(cls).get(str(info.field_name))
        return _unambiguous(value, declared.kinds) if declared else value

    @field_validator("*", mode="after")
    @classmethod
    def _allowed(cls, value: Any, info: ValidationInfo) -> Any:
        declared = own_settings(cls).get(str(info.field_name))
        if declared and value is not None and not _is_allowed(value, declared.rule):
            raise PydanticCustomError("not_allowed", "outside its bounds or choices")
        return value


def setting(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    length: int | None = None,
    choices: Sequence[str] = (),
    example: Any = None,
    popular: bool = False,
    automl: bool = False,
    ours: bool = False,
    secret: bool = False,
    tao_default: Any = ...,
    tao_type: str = "",
) -> Any:
    """Declare a field; the keywords are those of `Rule`."""
    rule = Rule(
        ge, gt, le, lt, length, tuple(choices), example, popular, automl, ours, secret,
        tao_default, tao_type,
    )  # fmt: skip
    return Field(default, description=doc, json_schema_extra=asdict(rule), repr=not secret)


def block(section: type[Section], doc: str) -> Any:
    """Declare a block of fields."""
    return Field(default_factory=section, description=doc)


@functools.cache
def own_settings(section: type[Section]) -> Mapping[str, Setting]:
    """The fields of `section` itself, by name, blocks left out."""
    return {
        name: Setting(name, _kinds(field), field.default, field.description or "", _rule(field))
        for name, field in section.model_fields.items()
        if _section_of(field) is None
    }


def block_doc(section: type[Section], name: str) -> str:
    """What is said of the block `name` of `section`."""
    return section.model_fields[name].description or ""


@functools.cache
def blocks(section: type[Section]) -> Mapping[str, type[Section]]:
    """The blocks of `section`, by name."""
    pairs = ((name, _section_of(field)) for name, field in section.model_fields.items())
    return {name: inner for name, inner in pairs if inner is not None}


def settings(section: type[Section], prefix: str = "") -> Iterator[Setting]:
    """Every field of `section` and of its blocks, under its dotted key, in order."""
    inner, own = blocks(section), own_settings(section)
    for name in section.model_fields:
        if name in inner:
            yield from settings(inner[name], f"{prefix}{name}.")
        else:
            field = own[name]
            yield Setting(prefix + name, field.kinds, field.default, field.doc, field.rule)


@functools.cache
def settings_by_key(section: type[Section]) -> Mapping[str, Setting]:
    """`settings` by dotted key."""
    return {declared.key: declared for declared in settings(section)}


def describe(declared: Setting) -> str:
    """What a field expects, in words: `a number in [0, 1]`."""
    rule = declared.rule
    choices = "one of " + ", ".join(repr(choice) for choice in sorted(rule.choices))
    parts = []
    for kind in declared.kinds:
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is list:
            count = f"{rule.length} " if rule.length else ""
            is_chosen = bool(rule.choices) and inner[0] is str
            each = f", each {choices}" if is_chosen else _bounds(rule)
            parts.append(f"a list of {count}{_KINDS[inner[0]][1]}{each}")
        elif origin is dict:
            parts.append(f"a mapping of names to {_KINDS[inner[1]][1]}{_bounds(rule)}")
        elif rule.choices:
            parts.append(choices)
        else:
            parts.append(_KINDS[kind][0] + _bounds(rule))
    return " or ".join(parts)


def _bounds(rule: Rule) -> str:
    low = rule.ge if rule.ge is not None else rule.gt
    high = rule.le if rule.le is not None else rule.lt
    if low is not None and high is not None:
        left, right = "(["[rule.ge is not None], ")]"[rule.le is not None]
        return f" in {left}{low:.12g}, {high:.12g}{right}"
    if low is not None:
        return f" {'>=' if rule.ge is not None else '>'} {low:.12g}"
    if high is not None:
        return f" {'<=' if rule.le is not None else '<'} {high:.12g}"
    return ""


def _is_allowed(value: Any, rule: Rule) -> bool:
    if isinstance(value, dict):
        return all(_is_allowed(item, rule) for item in value.values())
    if isinstance(value, list):
        is_long_enough = rule.length is None or len(value) == rule.length
        return is_long_enough and all(_is_allowed(item, rule) for item in value)
    if isinstance(value, str):
        return not rule.choices or value in rule.choices
    if isinstance(value, int) and abs(value) > LARGEST:
        return False
    return (
        (rule.ge is None or value >= rule.ge)
        and (rule.gt is None or value > rule.gt)
        and (rule.le is None or value <= rule.le)
        and (rule.lt is None or value < rule.lt)
    )


def _unambiguous(value: Any, kinds: Sequence[Any]) -> Any:
    """`value` in the field's own type where its spelling can mean nothing else."""
    for kind in kinds:
        if typing.get_origin(kind) is list and isinstance(value, list):
            return [_unambiguous(item, typing.get_args(kind)) for item in value]
        if kind == dict[str, int] and _are_names(value):
            return {name: number for number, name in enumerate(value)}
    if int in kinds and isinstance(value, float) and value.is_integer():
        return int(value)
    if float in kinds and isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    if bool in kinds and isinstance(value, str):
        return _FLAGS.get(value.lower(), value)
    if str in kinds and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _are_names(value: Any) -> bool:
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return is_list and len(set(value)) == len(value)


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    if isinstance(field.annotation, types.UnionType):
        return tuple(k for k in typing.get_args(field.annotation) if k is not types.NoneType)
    return (field.annotation,)


def _section_of(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _rule(field: FieldInfo) -> Rule:
    extra = field.json_schema_extra
    if not isinstance(extra, dict):
        raise TypeError("fields of a section are declared with setting(...)")
    return Rule(**extra)  # type: ignore[arg-type]
