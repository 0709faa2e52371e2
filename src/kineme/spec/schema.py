"""Specs written out: YAML templates, JSON schema, docs tables, the resolved spec of a run.

Promises: a template and a resolved spec read back as valid specs; the JSON schema is
strict JSON; secrets are in none of them.
Leaves out: reading (load.py), where the files go (cli.py, engine/names.py).
"""

import textwrap
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from kineme.spec.fields import (
    Section,
    Setting,
    block_doc,
    blocks,
    describe,
    own_settings,
    settings,
    settings_by_key,
)
from kineme.spec.load import value_at
from kineme.spec.sections import Spec

_JSON_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
ACTIONS = frozenset({"dataset_convert", "train", "evaluate", "inference", "export"})
_WIDTH = 96


def resolved(spec: Spec) -> dict[str, Any]:
    """The whole spec as plain values, secrets left out; reads back as the same spec."""
    tree = spec.model_dump(mode="json")
    for declared in settings(type(spec)):
        if declared.rule.secret:
            *parents, leaf = declared.key.split(".")
            at = tree
            for name in parents:
                at = at[name]
            del at[leaf]
    return tree


def secrets_of(spec: Spec) -> tuple[str, ...]:
    """The secret values of a spec, for taking them out of texts."""
    keys = (declared.key for declared in settings(type(spec)) if declared.rule.secret)
    return tuple(str(value) for key in keys if (value := value_at(spec, key)))


def template(model: type[Spec]) -> str:
    """A commented YAML spec of the model's action.

    What must be set is set, to an example. All else is a comment, `#key: default`; without
    its # it is a setting. The blocks of other actions are left out.
    """
    skipped = ACTIONS - {model.action}
    lines = [
        f"# {model.network} {model.action}. Take the # from a key to set it; '# ' explains.",
        *_block_lines(model, "", model.mandatory, skipped),
    ]
    return "\n".join(lines) + "\n"


def json_schema(model: type[Spec]) -> dict[str, Any]:
    """A JSON schema (draft 2020-12), with defaults and the AutoML and popular flags.

    It holds for what a file may say: nothing must be there, short keys are deprecated.
    """
    searched = [declared.key for declared in settings(model) if declared.rule.automl]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{model.network} {model.action}",
        **_section_schema(model),
        "automl_default_parameters": searched,
    }
    for short, key in model.aliases.items():
        declared = settings_by_key(model)[key]
        meaning = {"description": f"read as {key}", "deprecated": True}
        schema["properties"][short] = _typed(declared) | meaning
    return schema


def markdown(specs: Mapping[str, type[Spec]]) -> str:
    """A reference of every field, block by block; fields that are ours carry a +."""
    model = next(iter(specs.values()))
    lines = [f"# Spec of {model.network}", "", *_preface(specs), *_table("Top level", model)]
    for name, section in _all_blocks(model, ""):
        lines += _table(name, section)
    return "\n".join(lines) + "\n"


def kind_schema(kind: Any, declared: Setting) -> dict[str, Any]:
    """One of a field's types, `kind`, in the words of JSON schemas."""
    rule = declared.rule
    if typing.get_origin(kind) is list:
        length = {"minItems": rule.length, "maxItems": rule.length} if rule.length else {}
        items = kind_schema(typing.get_args(kind)[0], declared)
        return {"type": "array", "items": items, **length}
    if typing.get_origin(kind) is dict:
        values = kind_schema(typing.get_args(kind)[1], declared)
        return {"type": "object", "additionalProperties": values}
    schema: dict[str, Any] = {"type": _JSON_TYPES[kind]}
    if kind is str and rule.choices:
        schema["enum"] = list(rule.choices)
    if kind in (int, float):
        bounds = {
            "minimum": rule.ge,
            "exclusiveMinimum": rule.gt,
            "maximum": rule.le,
            "exclusiveMaximum": rule.lt,
        }
        schema |= {name: bound for name, bound in bounds.items() if bound is not None}
    return schema


def flow_yaml(value: Any) -> str:
    """`value` as one line of YAML."""
    if isinstance(value, float):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _block_lines(
    section: type[Section], prefix: str, mandatory: Collection[str], skipped: Collection[str]
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, declared in own_settings(section).items():
        if not declared.rule.secret:
            yield from _field_lines(declared, indent, is_mandatory=prefix + name in mandatory)
    for name, inner in blocks(section).items():
        if prefix + name not in skipped:
            yield f"{indent}{name}:" if prefix else f"\n{name}:"
            yield from _block_lines(inner, f"{prefix}{name}.", mandatory, skipped)


def _field_lines(declared: Setting, indent: str, *, is_mandatory: bool) -> Iterator[str]:
    expected = describe(declared)
    note = declared.doc if expected == "text" else f"{declared.doc}; {expected}"
    first, more = f"{indent}# ", f"{indent}#   "
    yield from textwrap.wrap(note, _WIDTH, initial_indent=first, subsequent_indent=more)
    if is_mandatory:
        yield f"{indent}{declared.key}: {flow_yaml(declared.rule.example)}"
    else:
        yield f"{indent}#{declared.key}: {flow_yaml(declared.default)}"


def _section_schema(section: type[Section]) -> dict[str, Any]:
    inner, own = blocks(section), own_settings(section)
    properties = {
        name: {"description": block_doc(section, name), **_section_schema(inner[name])}
        if name in inner
        else _field_schema(own[name])
        for name in section.model_fields
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _typed(declared: Setting) -> dict[str, Any]:
    kinds = [kind_schema(kind, declared) for kind in declared.kinds]
    if declared.default is None:
        kinds.append({"type": "null"})
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _field_schema(declared: Setting) -> dict[str, Any]:
    flags = {"popular": declared.rule.popular, "automl_enabled": declared.rule.automl}
    return {
        **_typed(declared),
        "description": declared.doc,
        "default": declared.default,
        **{name: True for name, is_set in flags.items() if is_set},
    }


def _preface(specs: Mapping[str, type[Spec]]) -> Iterator[str]:
    model = next(iter(specs.values()))
    yield "Written by `kineme spec --docs`; do not edit. Fields marked + are not in TAO."
    yield ""
    yield "| Action | Must be set |"
    yield "|---|---|"
    for action, spec in specs.items():
        yield f"| {action} | {', '.join(f'`{key}`' for key in spec.mandatory)} |"
    yield ""
    yield "Short keys that are read as long ones: "
    yield ", ".join(f"`{short}` = `{key}`" for short, key in model.aliases.items()) + "."
    for name, values in model.recipes.items():
        if values:
            yield ""
            yield f"`recipe: {name}` lays these beneath your values: "
            yield ", ".join(f"`{key}={flow_yaml(value)}`" for key, value in values.items()) + "."


def _all_blocks(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section]]]:
    for name, inner in blocks(section).items():
        yield prefix + name, inner
        yield from _all_blocks(inner, f"{prefix}{name}.")


def _table(title: str, section: type[Section]) -> Iterator[str]:
    if own_settings(section):
        yield from ("", f"## {title}", "")
        yield from ("| Field | Default | Expected | What it is |", "|---|---|---|---|")
        yield from (_row(declared) for declared in own_settings(section).values())


def _row(declared: Setting) -> str:
    ours = " +" if declared.rule.ours else ""
    cells = (
        f"`{declared.key}`{ours}",
        f"`{flow_yaml(declared.default)}`",
        describe(declared),
        declared.doc,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
