"""Pose classification as the house sees it: the `Network` of skeleton sequences."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kineme.errors import printable
from kineme.network import (
    PREDICT,
    TEST,
    TRAIN,
    Answers,
    Common,
    Dataset,
    Distillation,
    ExportForm,
    Network,
    SkeletonDrawing,
)
from kineme.pose_classification import convert
from kineme.pose_classification.building import build_model
from kineme.pose_classification.dataset import SkeletonDataset, View
from kineme.pose_classification.folds import fingerprint, of_folds, subset
from kineme.pose_classification.inspection import inspect
from kineme.pose_classification.labels import class_names
from kineme.pose_classification.layouts import layout_facts, layout_of
from kineme.pose_classification.occlusion import occluded
from kineme.pose_classification.paths import SECTIONS, data_path
from kineme.pose_classification.resident import keep_on
from kineme.pose_classification.sources import complete, load_sequences
from kineme.pose_classification.streams import STREAMS
from kineme.pose_classification.training_data import compare_data, describe_data
from kineme.pose_classification.weights import adapt_weights, transfer
from kineme.spec.load import with_values

OPSET = 18  # the lowest that torch's current exporter writes
NUM_LIFELIKE = 16  # samples that an exported file is checked on


def build_dataset(spec: Any, split: str) -> SkeletonDataset:
    """The sequences of `split`, checked against the spec. Raises DataError."""
    return _dataset(spec, split, is_random=split == TRAIN)


def unaugmented(spec: Any) -> SkeletonDataset:
    """The sequences of training, as validation would see them."""
    return _dataset(spec, TRAIN, is_random=False)


def _dataset(spec: Any, split: str, *, is_random: bool) -> SkeletonDataset:
    layout = layout_of(spec.model)
    action = {TEST: spec.evaluate, PREDICT: spec.inference}.get(split)
    sequences = load_sequences(spec, split)
    view = View(
        settings=spec.dataset,
        layout=layout,
        seed=max(spec.train.seed, 0),
        is_random=is_random,
        num_clips=action.num_clips if action else 1,
        turn_degrees=action.view_rotation_degrees if action else 0.0,
        repeats=spec.dataset.repeats if is_random else 1,
        is_centred=sequences.is_centred,
    )
    return SkeletonDataset(sequences, view)


def _title(settings: Any) -> str:
    """The model in words."""
    kinds = ["" if settings.streams == ["joint"] else " + ".join(settings.streams)]
    kinds += ["in one model"] if len(settings.streams) > 1 and settings.fusion == "early" else []
    kinds += [_PERSONS[settings.persons]]
    told = ", ".join(filter(None, kinds)).replace("_", " ")
    return f"{settings.model_type} ({told})" if told else str(settings.model_type)


def common(spec: Any) -> Common:
    """TAO's names of this network, by the house's."""
    pretrained = spec.model.pretrained_model_path
    return Common(
        model_title=_title(spec.model),
        num_workers=spec.dataset.num_workers,
        num_workers_key="dataset.num_workers",
        grad_clip=spec.train.grad_clip,
        grad_clip_key="train.grad_clip",
        has_validation=bool(spec.dataset.val_dataset.data_path),
        pretrained={"": pretrained} if pretrained else {},
        parts=_parts(spec.model),
        distillation=_distillation(spec),
        has_occlusion=spec.evaluate.occlusion,
        augmentation="dataset.augmentation",
        is_recorded=spec.train.cuda_graph,
    )


def _parts(settings: Any) -> Mapping[str, str]:
    """The streams that can answer alone."""
    if len(settings.streams) == 1 or settings.fusion == "early":
        return {}
    return {kind.replace("_", " "): f"streams.{kind}" for kind in settings.streams}


def _distillation(spec: Any) -> Distillation | None:
    asked = spec.train.distill
    if not asked.teacher:
        return None
    is_sampled = spec.dataset.sampling != "none"
    inputs = tuple(key for key in _INPUTS if is_sampled or key != "dataset.num_frames")
    return Distillation(asked.teacher, asked.weight, asked.temperature, inputs)


def export_form(spec: Any) -> ExportForm:
    """`input` (N, C, T, V, M) -> `fc_pred` (N, classes); N, T and M are free."""
    layout = layout_of(spec.model)
    num_frames = layout.num_frames
    if spec.dataset.sampling == "uniform":
        num_frames = spec.dataset.num_frames
    num_persons = spec.dataset.num_persons or layout.num_persons
    shape = (spec.model.input_channels, num_frames, layout.num_joints, max(2, num_persons))
    brief = (shape[0], min(num_frames, 64), *shape[2:])  # T is free, and time is not
    example = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    metadata = {key: json.dumps(value) for key, value in describe(spec).items()}
    return ExportForm(
        names={"skeleton": "input"},
        examples={"skeleton": example},
        dynamic={"skeleton": {0: "batch", 2: "frames", 4: "persons"}},
        output="fc_pred",
        opset=OPSET,
        metadata=metadata,
        lifelike={"skeleton": lifelike_skeletons(brief, num_axes=layout.num_axes)},
    )


def lifelike_skeletons(shape: tuple[int, int, int, int], *, num_axes: int) -> torch.Tensor:
    """(16, C, T, V, M): joints that swing about a place of their own, as data have them.

    Samples end at different frames and are zero afterwards; more and more joints are
    missing; every other sample has one person only; the last shows nobody.
    """
    channels, num_frames, num_joints, num_persons = shape
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(3, NUM_LIFELIKE, channels, 1, num_joints, num_persons, generator=generator)
    time = torch.arange(num_frames)[:, None, None]
    x = draws[0] - 0.5 + 0.2 * torch.sin(time * (0.05 + 0.2 * draws[1]) + 6 * draws[2])
    x[:, num_axes:] = draws[0][:, num_axes:].expand_as(x[:, num_axes:])  # confidence in [0, 1)
    hidden = torch.rand(NUM_LIFELIKE, 1, num_frames, num_joints, num_persons, generator=generator)
    shares = torch.linspace(0, 0.6, NUM_LIFELIKE)
    x = x.masked_fill(hidden < shares[:, None, None, None, None], 0)
    for row in range(NUM_LIFELIKE):
        x[row, :, max(1, num_frames * (NUM_LIFELIKE - row) // NUM_LIFELIKE) :] = 0
    x[::2, ..., 1:] = 0
    x[-1] = 0
    return x


def drawing(spec: Any, dataset: SkeletonDataset) -> SkeletonDrawing:
    """Samples as they lie in the file, cut to the frames they have."""
    layout, sequences = layout_of(spec.model), dataset.sequences

    def skeleton(index: int) -> NDArray[np.float32]:
        frames = np.arange(sequences.lengths[index])[None]
        drawn: NDArray[np.float32] = sequences.gather(np.asarray([index]), frames)[0]
        return drawn

    return SkeletonDrawing(skeleton, layout.edges, layout.joints, layout.centre_index)


def of_unknown(spec: Any) -> Any:
    """The spec that has the samples of no class as its data to classify; or None."""
    path = spec.evaluate.unknown_dataset.data_path
    if not path:
        return None
    values = {"test_dataset.data_path": path, "test_dataset.label_path": None}
    values |= {
        name: getattr(spec.evaluate, name) for name in ("num_clips", "view_rotation_degrees")
    }
    return with_values(spec, {f"inference.{name}": value for name, value in values.items()})


def score_text(facts: Mapping[str, Any]) -> str:
    """The table that upstream prints."""
    table = Table("Name", "Score")
    for row in facts["classes"]:
        table.add_row(f"Class accuracy: {row['label']}", _shown(row["accuracy"]))
    table.add_row("Total accuracy", _shown(facts["accuracy"]))
    table.add_row("Average class accuracy", _shown(facts["avg_accuracy"]))
    console = Console(markup=False, file=io.StringIO(), width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def answer_text(dataset: Dataset, answers: Answers, class_names: Sequence[str]) -> str:
    """Upstream's result file: one class name per line, in the order of the data.

    `no_person` where nobody is in the sample, `unknown` where it is of no class; line breaks
    in names are spelled out.
    """
    del dataset
    names = [name if len(name.splitlines()) == 1 else printable(name) for name in class_names]
    best = answers.scores.argmax(axis=1)
    blank = {i: text.replace(" ", "_") for i, text in answers.remarks.blank.items()}
    lines = (blank.get(i, names[c]) for i, c in enumerate(best))
    return "".join(f"{line}\n" for line in lines)


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
        "centre_is_zero": spec.dataset.centred,
        "fill_gaps": spec.dataset.fill_gaps,
        "sampling": spec.dataset.sampling,
        "num_frames": spec.dataset.num_frames if spec.dataset.sampling == "uniform" else None,
        "num_persons": spec.dataset.num_persons if spec.model.persons == "mean" else 2,
    }


NAME = "pose_classification"
_PERSONS = {"mean": "", "pair": "pairs of people", "partner": "each person with the other"}
_INPUTS = (  # what the numbers mean that a model is given, and gives
    "model.input_channels",
    "model.graph_layout",
    "model.layout",
    "dataset.num_classes",
    "dataset.label_map",
    "dataset.sampling",
    "dataset.num_frames",
    "dataset.normalize",
    "dataset.fill_gaps",
    "dataset.num_persons",
)
_HEAD = ("fcn.weight", "fcn.bias")
_STREAM_PREFIXES = ("", "model.", *(f"streams.{kind}.model." for kind in STREAMS))
NETWORK = Network(
    name=NAME,
    prefix="pc",
    common=common,
    class_names=class_names,
    complete=complete,
    build_dataset=build_dataset,
    build_model=build_model,
    export_form=export_form,
    occluded=occluded,
    drawing=drawing,
    adapt_weights=adapt_weights,
    transfer=transfer,
    score_text=score_text,
    answer_text=answer_text,
    convert=convert.convert,
    describe=describe,
    describe_data=describe_data,
    compare_data=compare_data,
    identity=(
        "model.model_type",
        "model.input_channels",
        "model.graph_layout",
        "model.layout",
        "model.graph_strategy",
        "model.edge_importance_weighting",
        "model.streams",
        "model.fusion",
        "model.mask",
        "model.persons",
        "dataset.num_classes",
        "dataset.label_map",
        "dataset.sampling",
        "dataset.num_frames",
        "dataset.normalize",
        "dataset.centred",
        "dataset.fill_gaps",
        "dataset.num_persons",
    ),
    head=tuple(f"{prefix}{name}" for prefix in _STREAM_PREFIXES for name in _HEAD),
    inspect=inspect,
    data_path=data_path,
    of_unknown=of_unknown,
    of_folds=of_folds,
    subset=subset,
    fingerprint=fingerprint,
    data_keys={
        split: (f"{section}.data_path", f"{section}.label_path")
        for split, section in SECTIONS.items()
    },
    unaugmented=unaugmented,
    keep_on=keep_on,
)
