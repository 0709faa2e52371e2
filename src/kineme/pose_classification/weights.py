"""Weights of other models in ours: of the same skeleton as they are, of another by joint name.

Promises: what belongs to a joint or a pair of joints goes to the joint of the same name, or is the
mean of those that stand in for it (layout_mapping.py); what belongs to none is as a fresh model
has it; all else is copied. What was mapped and what is new is told.
Leaves out: reading files and fitting tensors (engine/).

Shapes: V joints of the source, W of the target, C channels, K partitions; P people in one graph.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kineme.errors import CheckpointError, SpecError
from kineme.pose_classification.layout_mapping import LayoutMapping, join_by_name
from kineme.pose_classification.layouts import (
    LAYOUTS,
    STRATEGIES,
    Layout,
    adjacency,
    layout_of,
    load_layout,
)

# Tensors that depend on joints, by the end of their names. Every skeleton model keeps to these.
_GRAPH = re.compile(r"(^|\.)A$")  # follows from the layout
_PAIRS = re.compile(r"(^|\.)(edge_importance\.\d+|graph)$")  # (K, V, V)
_JOINTS = re.compile(r"(^|\.)(data_bn\.(weight|bias|running_mean|running_var)|missing)$")
# Of every kind of model: what is under these names says nothing of whose weights they are.
_COMMON = re.compile(r"(^|\.)(A|missing|(data_bn|fcn)\.\w+)$")
# What makes a model another kind, of spec.model: told by the names of its tensors, or not.
_NAMED = ("streams", "fusion")
_UNNAMED = ("model_type", "persons", "mask", "graph_strategy")


def adapt_weights(weights: Mapping[str, Any], spec: Any, part: str) -> Mapping[str, Any]:
    """Foreign weights by our names: TAO's and public ST-GCN weights carry them already.

    The model has one part. Raises CheckpointError when the file's graph (`A`) is that of
    another skeleton with as many joints.
    """
    del part
    graph, layout = weights.get("A"), layout_of(spec.model)
    expected = torch.from_numpy(adjacency(layout, spec.model.graph_strategy))
    if graph is not None and graph.shape == expected.shape and not _is_graph(graph, expected):
        raise CheckpointError(
            "model.graph_layout",
            f"weights for {layout.name!r}, strategy {spec.model.graph_strategy!r}",
            "a file whose graph `A` has other edges",
            "Set the layout and strategy that the weights were trained with.",
        )
    return weights


def transfer(
    weights: Mapping[str, Any], facts: Mapping[str, Any], spec: Any, module: nn.Module
) -> tuple[Mapping[str, Any], str]:
    """Weights for `module`, the model of `spec`, from a file of perhaps another skeleton.

    facts: what the file says of itself; where it says no layout, its graph (`A`) is looked up
    among the known ones. Returns what to tell as well, "" where the skeleton is the same.
    Raises CheckpointError where no joint of one is a joint of the other, and for weights of
    another kind of model.
    """
    _check_kind(weights, facts, spec, module)
    target, source = layout_of(spec.model), _layout_in(facts) or _layout_by_graph(weights)
    if source is None or (source.joints, source.bones, source.centre) == (
        target.joints, target.bones, target.centre,
    ):  # fmt: skip
        return weights, ""
    mapping = join_by_name(source, target)
    if len(mapping.missing) == len(target.joints):
        raise CheckpointError(
            "model.pretrained_model_path",
            f"weights of a skeleton that shares joints with {target.name!r}",
            f"weights for {source.name!r}, none of whose joints has such a name",
            "Name the joints of model.layout as the known layouts do.",
        )
    people = 2 if spec.model.persons == "pair" else 1
    share = _shares(mapping, people=people)
    fresh = module.state_dict()
    mapped = {
        name: _mapped(name, tensor, fresh.get(name), share) for name, tensor in weights.items()
    }
    return mapped, mapping.told(missing="new")


def _check_kind(
    weights: Mapping[str, Any], facts: Mapping[str, Any], spec: Any, module: nn.Module
) -> None:
    """Raises CheckpointError for weights that are not of the kind of model that `module` is."""
    own = [name for name in module.state_dict() if not _COMMON.search(name)]
    written = facts.get("spec")
    settings = written.get("model") if isinstance(written, Mapping) else None
    told = settings if isinstance(settings, Mapping) else {}
    is_named = any(name in weights for name in own)
    ours = {key: getattr(spec.model, key) for key in (*_UNNAMED, *_NAMED)}
    keys = _UNNAMED if is_named and _channels(told) == _channels(ours) else ours
    differs = [key for key in keys if key in told and told[key] != ours[key]]
    if differs:
        raise CheckpointError(
            ", ".join(f"model.{key}" for key in differs),
            ", ".join(repr(told[key]) for key in differs) + ", as of the weights to start from",
            ", ".join(repr(ours[key]) for key in differs),
            "Set what they were trained with, or start from others.",
        )
    if is_named:
        return
    raise CheckpointError(
        "model.pretrained_model_path",
        f"weights of the model that the spec asks for, like {own[0]}",
        f"a file that holds {', '.join(list(weights)[:3]) or 'none'}",
        "TAO's and public weights are of ST-GCN with the joints alone; set model.model_type, "
        "streams and persons as they were trained.",
    )


def _channels(model: Mapping[str, Any]) -> list[Any]:
    """The streams, in order, that lie in the channels of one input; none without early fusion."""
    streams = model.get("streams")
    if not isinstance(streams, list) or len(streams) == 1 or model.get("fusion") != "early":
        return []
    return streams


def _layout_in(facts: Mapping[str, Any]) -> Layout | None:
    """The layout that a checkpoint of ours describes."""
    described = facts.get("describe")
    told = described.get("layout") if isinstance(described, Mapping) else None
    if not isinstance(told, Mapping):
        return None
    try:
        return load_layout(json.dumps(dict(told)))
    except (SpecError, TypeError, ValueError):  # a stranger's: as if it said nothing
        return None


def _layout_by_graph(weights: Mapping[str, Any]) -> Layout | None:
    """The known layout whose graph the weights hold."""
    graph = next((tensor for name, tensor in weights.items() if _GRAPH.search(name)), None)
    for layout in LAYOUTS.values():
        for strategy in STRATEGIES:
            known = torch.from_numpy(adjacency(layout, strategy))
            if graph is not None and graph.shape == known.shape and _is_graph(graph, known):
                return layout
    return None


def _is_graph(found: torch.Tensor, known: torch.Tensor) -> bool:
    """Whether `found` is `known`, in as many digits as its numbers have."""
    if not found.is_floating_point():
        return False
    close = max(torch.finfo(found.dtype).eps, 1e-5)
    return torch.allclose(found.double(), known.double(), rtol=close, atol=1e-8)


def _shares(mapping: LayoutMapping, *, people: int) -> torch.Tensor:
    """(P W, P V): the share of each joint of the source in each of the target; new ones have 0."""
    share = torch.zeros(len(mapping.target.joints), len(mapping.source.joints))
    for to, origins in enumerate(mapping.origins):
        for origin in origins:
            share[to, origin] = 1 / len(origins)
    return torch.kron(torch.eye(people), share)


def _mapped(name: str, tensor: Any, fresh: torch.Tensor | None, share: torch.Tensor) -> Any:
    """A tensor for the target's joints; as it is where it knows no joints, or does not fit."""
    num_to, num_from = share.shape
    if fresh is None:
        return tensor
    if _GRAPH.search(name):
        return fresh
    is_known = share.any(dim=1)
    if _PAIRS.search(name) and tuple(tensor.shape[1:]) == (num_from, num_from):
        if fresh.shape != (len(tensor), num_to, num_to):
            return tensor
        both = is_known[:, None] & is_known
        return torch.where(both, share @ tensor.float() @ share.T, fresh)
    if _JOINTS.search(name) and tensor.dim() and len(tensor) % num_from == 0:
        rows = tensor.float().reshape(num_from, -1)  # (P V, C): channels vary fastest
        own = fresh.reshape(num_to, -1) if len(fresh) % num_to == 0 else fresh[None]
        if own.shape != (num_to, rows.shape[1]):
            return tensor
        return torch.where(is_known[:, None], share @ rows, own).reshape(fresh.shape)
    return tensor
