"""Settings of a pose classification spec that contradict or disarm each other.

Promises: both keys and both values are named. Each block is judged by its own action.
Leaves out: bounds of single fields (settings.py) and what the data say.
"""

from collections.abc import Iterator

from kineme.pose_classification.settings import (
    Dataset,
    DatasetConvert,
    Distill,
    Model,
    PoseSettings,
)
from kineme.spec import sections
from kineme.spec.sections import Finding


def ignored(spec: PoseSettings) -> Iterator[tuple[str, str]]:
    """Keys that have no effect beside the others, and why."""
    yield from sections.ignored(spec.train.optim, spec.export, has_folds=spec.has_folds)
    is_free = spec.has_training
    if is_free and spec.model.layout:
        yield "model.graph_layout", "model.layout is set"
    if is_free and spec.dataset.sampling == "none":
        for key in (
            "dataset.num_frames",
            "dataset.augmentation.time_crop",
            "dataset.augmentation.time_warp",
            "evaluate.num_clips",
            "inference.num_clips",
        ):
            yield key, "dataset.sampling is none"
    elif is_free:
        for key in ("dataset.window_size", "dataset.random_choose"):
            yield key, f"dataset.sampling is {spec.dataset.sampling}"
    if is_free and spec.dataset.normalize.endswith("minmax"):
        yield "dataset.augmentation.scale", f"dataset.normalize is {spec.dataset.normalize}"
    if is_free and spec.dataset.batch_size == 1:
        yield "dataset.augmentation.mixup_alpha", "dataset.batch_size is 1"
    if is_free and len(spec.model.streams) == 1:
        yield "model.fusion", "model.streams has one stream"
    if is_free:
        yield from _ignored_of_teacher(spec.train.distill)


def _ignored_of_teacher(distill: Distill) -> Iterator[tuple[str, str]]:
    if not distill.teacher:
        for name in ("weight", "temperature"):
            yield f"train.distill.{name}", "train.distill.teacher is not set"
    elif distill.weight == 0:
        for name in ("teacher", "temperature"):
            yield f"train.distill.{name}", "train.distill.weight is 0"
    elif distill.weight == 1:
        for name in ("label_smoothing", "class_weights"):
            yield f"train.{name}", "train.distill.weight is 1: labels have no part"


def model_findings(model: Model, dataset: Dataset) -> Iterator[Finding]:
    streams = model.streams
    if not streams or len(set(streams)) < len(streams):
        yield Finding(("model.streams",), "one or more streams, each once", repr(streams))
    if model.mask and model.model_type == "ST-GCN":
        fix = "Choose another model_type, or mask: false: ST-GCN takes missing joints as zeros."
        yield Finding(
            ("model.mask", "model.model_type"), "a model that takes a mask", "ST-GCN", fix
        )
    if model.persons != "mean" and dataset.num_persons not in (None, 2):
        fix = "Set it to 2, or leave it out where the data have two people."
        received = str(dataset.num_persons)
        expected = f"2, as persons is {model.persons}"
        yield Finding(("dataset.num_persons", "model.persons"), expected, received, fix)


def dataset_findings(dataset: Dataset, user: frozenset[str]) -> Iterator[Finding]:
    label_map = dataset.label_map
    yield from sections.label_map_findings(label_map)
    is_told = "dataset.num_classes" in user
    if label_map and is_told and dataset.num_classes != len(label_map):
        yield Finding(
            ("dataset.num_classes", "dataset.label_map"),
            f"{len(label_map)}, the number of classes in dataset.label_map",
            str(dataset.num_classes),
            "Leave num_classes out; it follows from label_map.",
        )
    if dataset.window_size == 0:
        yield Finding(("dataset.window_size",), "-1 (all frames) or at least 1", "0")
    if dataset.random_choose and dataset.window_size < 0:
        yield Finding(
            ("dataset.window_size", "dataset.random_choose"),
            "at least 1, as dataset.random_choose is true",
            str(dataset.window_size),
            "Set the number of frames to choose, or random_choose: false.",
        )
    for name in ("scale", "time_crop"):
        received = getattr(dataset.augmentation, name)
        if received[0] > received[1]:
            key = f"dataset.augmentation.{name}"
            yield Finding((key,), "[lowest, highest]", repr(received))


def convert_findings(convert: DatasetConvert) -> Iterator[Finding]:
    length = convert.sequence_length
    if length > convert.sequence_length_max:
        yield Finding(
            ("dataset_convert.sequence_length", "dataset_convert.sequence_length_max"),
            f"at most sequence_length_max, which is {convert.sequence_length_max}",
            str(length),
        )
    if convert.sequence_length_min > length:
        yield Finding(
            ("dataset_convert.sequence_length_min", "dataset_convert.sequence_length"),
            f"at most sequence_length, which is {length}",
            str(convert.sequence_length_min),
            "Every window would be dropped.",
        )
    if int(length * convert.sequence_overlap) == 0:
        yield Finding(
            ("dataset_convert.sequence_overlap", "dataset_convert.sequence_length"),
            f"at least 1 / sequence_length = {1 / length:g}",
            str(convert.sequence_overlap),
            "It is the step between windows, as a share of sequence_length.",
        )
