"""A spec in the form of TAO's schemas, as skill banks and their AutoML read it.

Promises: TAO's value types and keys; every default, bound and flag comes from the field's own
declaration; strict JSON: what is unbounded has no bound, and `properties` hold nothing but
fields and blocks. What TAO does not have is marked `x_kineme`.
Leaves out: bounds of the elements of lists, and whether a bound is open: the form has no words
for them, the JSON schema (spec/schema.py) has.

The keys of the form are listed in docs/formats.md.
"""

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from kineme.spec.fields import (
    Section,
    Setting,
    block_doc,
    blocks,
    own_settings,
    settings,
    settings_by_key,
)
from kineme.spec.read import nested
from kineme.spec.schema import ACTIONS, kind_schema
from kineme.spec.sections import Spec

SCHEMA_VERSION = 1
_TYPES = {int: "int", float: "float", bool: "bool", str: "string"}
_WORDS = {  # of a field's name, as its title says them
    "dir": "directory", "fc": "fully connected units", "fps": "frames per second",
    "grad": "gradient", "gpu": "GPU", "gpus": "GPUs", "id": "ID", "ids": "IDs",
    "lr": "learning rate", "max": "maximum", "min": "minimum", "num": "number of",
    "of": "optical flow", "onnx": "ONNX", "prob": "probability", "rgb": "RGB",
    "seq": "sequence", "std": "standard deviation", "trt": "TensorRT", "val": "validation",
}  # fmt: skip


def tao_schema(model: type[Spec], skill: str) -> dict[str, Any]:
    """The schema of an action in the folder `skill`.

    Blocks of other actions are left out, training excepted. The lists of parameters and the
    popular ones are those of the whole spec, as TAO's are.
    """
    whole = _block(model, "")
    shown = {name for name in model.model_fields if name not in other_actions(model)}
    return {
        "type": "object",
        "properties": {key: it for key, it in whole["properties"].items() if key in shown},
        "default": {key: value for key, value in whole["default"].items() if key in shown},
        "popular": defaults(_with_flag(model, "popular")),
        **parameters(model),
        "x_tao_schema": {
            "action": model.action,
            "core_module": model.network,
            "model": skill,
            "network_arch": model.network,
            "schema_action": model.action,
            "schema_version": SCHEMA_VERSION,
            "source": "kineme spec declarations",
        },
    }


def other_actions(model: type[Spec]) -> frozenset[str]:
    """The blocks that the schema and the template of an action leave out."""
    return ACTIONS - {"train", model.action}


def parameters(model: type[Spec]) -> dict[str, list[str]]:
    """The dotted keys that AutoML searches by default, and those that it never may."""
    disabled = [one.key for one in settings(model) if is_never_searched(one)]
    return {
        "automl_default_parameters": sorted(one.key for one in _with_flag(model, "automl")),
        "automl_disabled_parameters": sorted([*disabled, *_block_keys(model, "")]),
    }


def tao_default(declared: Setting) -> Any:
    """A field's default in TAO's words: '' where text is not set; None where there is none."""
    if declared.rule.tao_default is not ...:
        return declared.rule.tao_default
    is_text = declared.kinds == (str,) and not declared.rule.choices
    return "" if declared.default is None and is_text else declared.default


def is_never_searched(declared: Setting) -> bool:
    """Lists and mappings: there is no telling how many elements to draw."""
    return declared.is_list or declared.is_mapping


def is_ours(section: type[Section]) -> bool:
    """Whether TAO has no field of a block."""
    return all(declared.rule.ours for declared in settings(section))


def defaults(declared: typing.Iterable[Setting]) -> dict[str, Any]:
    """The defaults of some settings as a tree; what has none is left out, its block is not."""
    return _without_none(nested({one.key: tao_default(one) for one in declared}))


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value is not None
    }


def title(name: str) -> str:
    """A field's name in words: `num_gpus` is `Number of GPUs`."""
    words = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def _block(section: type[Section], prefix: str) -> dict[str, Any]:
    inner, own = blocks(section), own_settings(section)
    properties = {
        name: {**_block(inner[name], f"{prefix}{name}."), **_of_block(section, name)}
        if name in inner
        else _leaf(own[name])
        for name in section.model_fields
    }
    keys = {
        "automl_default_parameters": [n for n, one in own.items() if one.rule.automl],
        "automl_disabled_parameters": [
            name for name in section.model_fields if name in inner or is_never_searched(own[name])
        ],
    }
    popular = sorted(name for name, one in own.items() if one.rule.popular)
    return {
        "type": "collection",
        "default": defaults(settings(section)),
        "properties": properties,
        **{list_name: sorted(prefix + n for n in names) for list_name, names in keys.items()},
        **({"popular": popular} if popular else {}),
    }


def _of_block(section: type[Section], name: str) -> dict[str, Any]:
    mark = {"x_kineme": True} if is_ours(blocks(section)[name]) else {}
    facts = {"title": title(name), "description": block_doc(section, name)}
    return {**facts, "automl_enabled": False, **mark}


def _leaf(declared: Setting) -> dict[str, Any]:
    rule, default = declared.rule, tao_default(declared)
    leaf = {
        "type": _type(declared),
        "title": title(declared.key),
        "description": declared.doc,
        **_limits(declared),
    }
    if default is not None:
        leaf["default"] = default
    if rule.example is not None:
        leaf["examples"] = [rule.example]
    if rule.popular:
        leaf["popular"] = True
    if rule.automl or is_never_searched(declared):
        leaf["automl_enabled"] = rule.automl
    if rule.ours:
        leaf["x_kineme"] = True
    return leaf


def _type(declared: Setting) -> str:
    if declared.rule.tao_type:
        return declared.rule.tao_type
    if len(declared.kinds) > 1:
        return "union"
    if declared.is_list:
        return "list"
    if declared.is_mapping:
        return "collection"
    return "categorical" if declared.rule.choices else _TYPES[declared.kinds[0]]


def _limits(declared: Setting) -> Mapping[str, Any]:
    rule, kind = declared.rule, declared.kinds[0]
    if len(declared.kinds) > 1:
        return {"anyOf": [kind_schema(one, declared) for one in declared.kinds]}
    if kind is str and rule.choices:
        return {"enum": list(rule.choices)}
    if kind not in (int, float):
        return {}
    low = rule.ge if rule.ge is not None else rule.gt
    high = rule.le if rule.le is not None else rule.lt
    bounds = {"minimum": low, "maximum": high}
    return {name: kind(bound) for name, bound in bounds.items() if bound is not None}


def _with_flag(model: type[Spec], flag: str) -> Iterator[Setting]:
    return (one for one in settings_by_key(model).values() if getattr(one.rule, flag))


def _block_keys(section: type[Section], prefix: str) -> Iterator[str]:
    for name, inner in blocks(section).items():
        yield prefix + name
        yield from _block_keys(inner, f"{prefix}{name}.")
