"""Pose classification as the house sees it: the `Network` of skeleton sequences."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.errors import CheckpointError
from kineme.network import PREDICT, TEST, TRAIN, Drawing, ExportForm, Network
from kineme.pose_classification import convert
from kineme.pose_classification.dataset import SkeletonDataset, View
from kineme.pose_classification.layouts import adjacency, layout_facts, layout_of
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.occlusion import occluded
from kineme.pose_classification.sources import class_names, complete, load_sequences

OPSET = 18  # the lowest that torch's current exporter writes


def build_dataset(spec: Any, split: str) -> SkeletonDataset:
    """The sequences of `split`, checked against the spec. Raises DataError."""
    layout = layout_of(spec.model)
    num_clips = {TEST: spec.evaluate.num_clips, PREDICT: spec.inference.num_clips}
    is_random = split == TRAIN
    sequences = load_sequences(spec, split)
    view = View(
        settings=spec.dataset,
        layout=layout,
        seed=max(spec.train.seed, 0),
        is_random=is_random,
        num_clips=num_clips.get(split, 1),
        repeats=spec.dataset.repeats if is_random else 1,
        is_centred=sequences.is_centred,
    )
    return SkeletonDataset(sequences, view)


def build_model(spec: Any) -> torch.nn.Module:
    """An untrained model of `spec.model`, with a head for `spec.dataset.num_classes`."""
    return MODELS[spec.model.model_type](
        num_classes=spec.dataset.num_classes,
        in_channels=spec.model.input_channels,
        layout=layout_of(spec.model),
        strategy=spec.model.graph_strategy,
        edge_importance_weighting=spec.model.edge_importance_weighting,
        dropout=spec.model.dropout,
    )


def adapt_weights(weights: Mapping[str, Any], spec: Any) -> Mapping[str, Any]:
    """Foreign weights by our names: TAO's and public ST-GCN weights carry them already.

    Raises CheckpointError when the file's graph (`A`) is that of another skeleton with as
    many joints.
    """
    graph, layout = weights.get("A"), layout_of(spec.model)
    expected = torch.from_numpy(adjacency(layout, spec.model.graph_strategy))
    if graph is not None and graph.shape == expected.shape and not torch.allclose(graph, expected):
        raise CheckpointError(
            "model.graph_layout",
            f"weights for {layout.name!r}, strategy {spec.model.graph_strategy!r}",
            "a file whose graph `A` has other edges",
            "Set the layout and strategy that the weights were trained with.",
        )
    return weights


def export_form(spec: Any) -> ExportForm:
    """`input` (N, C, T, V, M) -> `fc_pred` (N, classes); N, T and M are free."""
    layout = layout_of(spec.model)
    num_frames = layout.num_frames
    if spec.dataset.sampling == "uniform":
        num_frames = spec.dataset.num_frames
    num_persons = spec.dataset.num_persons or layout.num_persons
    example = torch.randn(
        2,
        spec.model.input_channels,
        num_frames,
        layout.num_joints,
        max(2, num_persons),
        generator=torch.Generator().manual_seed(0),
    )
    metadata = {key: json.dumps(value) for key, value in describe(spec).items()}
    return ExportForm(
        names={"skeleton": "input"},
        examples={"skeleton": example},
        dynamic={"skeleton": {0: "batch", 2: "frames", 4: "persons"}},
        output="fc_pred",
        opset=OPSET,
        metadata=metadata,
    )


def drawing(spec: Any, dataset: SkeletonDataset) -> Drawing:
    """Samples as they lie in the file, cut to the frames they have."""
    layout, sequences = layout_of(spec.model), dataset.sequences

    def skeleton(index: int) -> NDArray[np.float32]:
        frames = np.arange(sequences.lengths[index])[None]
        drawn: NDArray[np.float32] = sequences.gather(np.asarray([index]), frames)[0]
        return drawn

    return Drawing(skeleton, layout.edges, layout.joints, layout.centre_index)


def describe(spec: Any) -> Mapping[str, Any]:
    """What a checkpoint and an exported file say of themselves, in plain values."""
    layout = layout_of(spec.model)
    return {
        "network": NAME,
        "labels": list(class_names(spec)),
        "layout": layout_facts(layout),
        "input": "skeleton (N, C, T, V, M) float32; a missing joint is zero in every channel",
        "input_channels": spec.model.input_channels,
        "normalize": spec.dataset.normalize,
        "sampling": spec.dataset.sampling,
        "num_frames": spec.dataset.num_frames if spec.dataset.sampling == "uniform" else None,
    }


NAME = "pose_classification"
NETWORK = Network(
    name=NAME,
    prefix="pc",
    class_names=class_names,
    complete=complete,
    build_dataset=build_dataset,
    build_model=build_model,
    export_form=export_form,
    occluded=occluded,
    drawing=drawing,
    adapt_weights=adapt_weights,
    convert=convert.convert,
    describe=describe,
    identity=(
        "model.model_type",
        "model.input_channels",
        "model.graph_layout",
        "model.layout",
        "model.graph_strategy",
        "model.edge_importance_weighting",
        "dataset.num_classes",
        "dataset.label_map",
        "dataset.sampling",
        "dataset.num_frames",
        "dataset.normalize",
        "dataset.num_persons",
    ),
    head=("fcn.weight", "fcn.bias"),
)
