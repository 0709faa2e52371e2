"""The model of a spec: one, one that sees several streams, or several side by side.

Promises: the names of weights follow from the spec alone; where nothing but joints is asked for,
they are those of the plain model.
Leaves out: the models (model.py, adaptive_gcn.py), what streams show them (streams.py), weights.
"""

from typing import Any

import torch

from kineme.pose_classification.layouts import Layout, layout_of
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.streams import Stream, Streams, paired


def build_model(spec: Any) -> torch.nn.Module:
    """An untrained model of `spec.model`, with a head for `spec.dataset.num_classes`."""
    settings, layout = spec.model, layout_of(spec.model)
    persons, kinds = settings.persons, tuple(settings.streams)
    if kinds == ("joint",) and persons == "mean":
        return _single_model(spec, layout, num_kinds=1)
    if len(kinds) == 1 or settings.fusion == "early":
        return _stream(spec, kinds, layout)
    return Streams({kind: _stream(spec, (kind,), layout) for kind in kinds})


def _stream(spec: Any, kinds: tuple[str, ...], layout: Layout) -> Stream:
    persons = spec.model.persons
    body = paired(layout) if persons == "pair" else layout
    num_kinds = len(kinds) * (2 if persons == "partner" else 1)
    model = _single_model(spec, body, num_kinds=num_kinds)
    return Stream(model, kinds, layout, persons=persons)


def _single_model(spec: Any, layout: Layout, *, num_kinds: int) -> torch.nn.Module:
    """A model of `num_kinds` values for each joint of `layout` and channel of the data."""
    settings = spec.model
    options = {"num_flags": num_kinds} if settings.mask else {}
    return MODELS[settings.model_type](
        num_classes=spec.dataset.num_classes,
        in_channels=num_kinds * settings.input_channels,
        layout=layout,
        strategy=settings.graph_strategy,
        edge_importance_weighting=settings.edge_importance_weighting,
        dropout=settings.dropout,
        **options,
    )
