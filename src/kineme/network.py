"""The contract between the rooms (networks) and the house (engine, actions).

A network is a frozen set of functions. An action is handed a `Network` and knows
nothing else of skeletons or video; a room knows nothing of training loops or files
that a run leaves. Importing this module imports neither torch nor a room.

Shapes: N samples of a dataset, B samples of a batch, R rows of a batch (R = B, or
B x clips where a sample is seen through several clips).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from kineme.data.faults import Inspection

TRAIN, VAL, TEST, PREDICT = "train", "val", "test", "predict"
Request = tuple[int, "NDArray[np.int64]"]  # (epoch, indices (B,)) of a batch


@dataclass(frozen=True)
class Batch:
    """Some samples, ready for a model: `model(**batch.inputs)` gives logits (R, classes).

    A model of S streams that learn at once gives (R, S, classes) in training.

    inputs: named tensors whose first dimension is R.
    labels: (B,) int64, -1 where unknown.
    indices: (B,) int64, positions in the dataset.
    sample_of_row: (R,) int64 in [0, B), the sample each row belongs to.
    remarks: on some of the samples; those that failed have no rows.
    mixed_labels: (B,) int64, of the sample that each was mixed with, `mixed_share` of it
        (mixup, Zhang et al. 2018); None where nothing was mixed. The share is a tensor, (), in
        a step that is recorded.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    indices: torch.Tensor
    sample_of_row: torch.Tensor
    remarks: Remarks = field(default_factory=lambda: Remarks())
    mixed_labels: torch.Tensor | None = None
    mixed_share: float | torch.Tensor = 0.0

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return replace(
            self,
            inputs={name: x.to(device, non_blocking=True) for name, x in self.inputs.items()},
            labels=self.labels.to(device, non_blocking=True),
            sample_of_row=self.sample_of_row.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Remarks:
    """What is to be said of single samples, by position in the dataset.

    failed: why it could not be read, where the spec passes over such samples. blank: it shows
    nothing to classify; what to say in place of a class ("no person"). damaged: it was read
    in part; what was wrong.
    """

    failed: Mapping[int, str] = field(default_factory=dict)
    blank: Mapping[int, str] = field(default_factory=dict)
    damaged: Mapping[int, str] = field(default_factory=dict)

    def __or__(self, other: Remarks) -> Remarks:
        return Remarks(
            {**self.failed, **other.failed},
            {**self.blank, **other.blank},
            {**self.damaged, **other.damaged},
        )


class Dataset(Protocol):
    """N labelled samples that are read in whole batches, in any process."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    @property
    def notes(self) -> Sequence[str]:
        """What the user should hear once: drops, odd ranges, leakage."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        """Gather samples on the CPU. Draws depend on (seed, epoch, index) alone."""
        ...

    def transform(self, batch: Batch, epoch: int) -> Batch:
        """Normalise and augment where the batch lies (CPU or GPU), for all rows at once."""
        ...


class PreparedBatches(Protocol):
    """Batches of an epoch of training that are ready for a model, where it lies."""

    def __call__(self, requests: Sequence[Request], first_step: int = 0) -> Iterator[Batch]:
        """Those of all requests of the epoch, from `first_step` on."""
        ...


@dataclass(frozen=True)
class ExportForm:
    """How a model leaves the house as ONNX.

    names: upstream name of each model input, in call order, by the model's own word for it.
    examples: an example tensor of each, by the same word.
    dynamic: input word -> {dimension: name}; `batch` is always dimension 0.
    output: name of the output. opset: ONNX operator set.
    metadata: strings stored in the file (labels, normalisation, layout, ...).
    lifelike: samples made to look like real ones, shaped like `examples` but for dynamic
        dimensions; parity is checked on them beside random numbers.
    """

    names: Mapping[str, str]
    examples: Mapping[str, torch.Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    output: str
    opset: int
    metadata: Mapping[str, str]
    lifelike: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SkeletonDrawing:
    """How a report draws a sample: its skeleton (C, T, V, M) by position, and its bones.

    joint_names: left_ and right_ give colours. centre: the joint that may be zero without
    being missing, because the data was centred on it.
    """

    skeletons: Callable[[int], NDArray[np.floating]]
    bones: Sequence[tuple[int, int]]
    joint_names: Sequence[str] = ()
    centre: int | None = None


@dataclass(frozen=True)
class Footage:
    """All frames of a sample in order, (H, W, 3) uint8 RGB, one at a time.

    fps: 0.0 where nothing says it.
    """

    frames: Iterator[NDArray[np.uint8]]
    fps: float


@dataclass(frozen=True)
class FrameDrawing:
    """How a report draws a sample: a few of its frames (T, H, W, 3) uint8 RGB, by position.

    footage: all of its frames, for a network whose inference can write videos.
    """

    frames: Callable[[int], NDArray[np.uint8]]
    footage: Callable[[int], Footage] | None = None


Drawing = SkeletonDrawing | FrameDrawing


@dataclass(frozen=True)
class Distillation:
    """Learning from the answers of a teacher, a checkpoint of the same network.

    weight: of the distance to the teacher, against that to the labels, in [0, 1]. temperature:
    divides both logits. inputs: dotted spec fields in which both must agree.
    """

    teacher: str
    weight: float
    temperature: float
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Common:
    """What the house asks of a spec where the networks keep TAO's own, differing names.

    model_title: the model in words. num_workers: processes that read data. grad_clip:
    largest norm of the gradient, 0 for none; both with their setting, as messages name it.
    has_validation: whether training validates.
    pretrained: weights to start from, submodule ("" is the whole model) -> path.
    parts: submodules that evaluation judges beside the whole, title -> submodule.
    is_recorded: whether training on one GPU records a step and replays it.
    has_occlusion: whether evaluation also hides parts of the data.
    annotates: whether inference also writes each video with its label on it.
    augmentation: the block that changes samples of training, as the report advises it.
    distillation: the teacher that training learns from beside the labels.
    """

    model_title: str
    num_workers: int
    num_workers_key: str
    grad_clip: float
    grad_clip_key: str
    has_validation: bool
    pretrained: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    has_occlusion: bool = False
    annotates: bool = False
    augmentation: str = ""
    is_recorded: bool = False
    distillation: Distillation | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of N samples: log probabilities over C classes, in float32.

    scores: (N, C), mean over the rows of each sample; NaN where the sample failed.
    rows: (R, C), the single rows (clips), by sample. sample_of_row: (R,) int64, rising.
    remarks: on some of the samples; scores of blank ones mean nothing.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.float32]
    sample_of_row: NDArray[np.int64]
    remarks: Remarks = field(default_factory=Remarks)

    @property
    def answered(self) -> list[int]:
        """Positions of the samples that did not fail, in order."""
        return [i for i in range(len(self.scores)) if i not in self.remarks.failed]

    def labelled(self, dataset: Dataset) -> list[int]:
        """Positions of the samples that count: their label is known, and they did not fail."""
        return [i for i in self.answered if dataset.labels[i] >= 0]

    @property
    def judged(self) -> NDArray[np.float32]:
        """(N, C) scores as they are judged: minus infinity throughout for blank samples."""
        scores = self.scores.copy()
        scores[list(self.remarks.blank)] = float("-inf")
        return scores


@dataclass(frozen=True)
class Network:
    """One trainable network, as functions. `spec` is the resolved spec of the action.

    complete: fills what the spec leaves open from what the data of `split` says of itself
    (class names, layout); an action calls it before it builds anything.
    adapt_weights: foreign weights by our names, for the spec and a submodule ("": all).
    of_folds: the spec whose test data are those of training, with no validation data.
    subset: the samples of a dataset whose ids are among those given, in their order.
    fingerprint: a text that is another one where the data of the same ids are others.
    transfer: weights of another kind of data for a model to start from, and what to tell of them.
    occluded: damaged copies of a test dataset as (curve, share hidden, dataset); None where the
    network has none.
    score_text: what evaluate prints, in upstream's form, from the facts of metrics.json.
    answer_text: what inference prints or writes, in upstream's form.
    of_unknown: the spec with the samples that are of no class, which an evaluation names, as the
    data of PREDICT; None where it names none.
    data_path: where the data of `split` are, as a file where it is one; "" where nothing is named.
    data_keys: the settings that name the data of a split, first where they lie.
    unaugmented: training data as validation sees its own, nothing random, each sample once.
    describe_data: what a checkpoint says of the data that it learned from, in plain values.
    compare_data: what to tell of a dataset that is unlike what the facts of a checkpoint describe.
    keep_on: keep training data on a GPU as a whole and make its batches there; None where they do
    not fit.
    """

    name: str
    prefix: str  # of its checkpoints: <prefix>_model_latest.pth
    common: Callable[[Any], Common]  # (spec)
    class_names: Callable[[Any], tuple[str, ...]]  # (spec) -> names by id
    complete: Callable[[Any, str], tuple[Any, tuple[str, ...]]]  # (spec, split) -> spec, notes
    build_dataset: Callable[[Any, str], Dataset]  # (spec, split)
    build_model: Callable[[Any], torch.nn.Module]  # (spec)
    export_form: Callable[[Any], ExportForm]  # (spec)
    drawing: Callable[[Any, Any], Drawing]  # (spec, dataset)
    adapt_weights: Callable[[Mapping[str, Any], Any, str], Mapping[str, Any]]
    score_text: Callable[[Mapping[str, Any]], str]
    answer_text: Callable[[Dataset, Answers, Sequence[str]], str]  # (dataset, answers, names)
    convert: Callable[[Any, Path], Mapping[str, Any]]  # (spec, folder) -> kpi, files, warnings
    describe: Callable[[Any], Mapping[str, Any]]  # (spec) -> what a checkpoint says of itself
    identity: tuple[str, ...]  # dotted spec fields that a checkpoint fixes for later actions
    inherited: tuple[str, ...] = ()  # fields that follow it unless the user says otherwise
    head: tuple[str, ...] = field(default=())  # state-dict names that change with the classes
    mean_accuracy: str = "avg_accuracy"  # upstream's name of the mean over classes
    prints_answers: bool = False  # whether inference also prints its answers, as upstream
    # (data, cache, labels or None) -> None where there is no data of this network
    inspect: Callable[[Path, Path, Path | None], Inspection | None] | None = None
    data_path: Callable[[Any, str], str] | None = None  # (spec, split)
    occluded: Callable[[Any], Iterable[tuple[str, float, Dataset]]] | None = None  # (dataset)
    of_unknown: Callable[[Any], Any] | None = None  # (spec) -> spec or None
    of_folds: Callable[[Any], Any] | None = None  # (spec) -> spec
    subset: Callable[[Any, Collection[str]], Dataset] | None = None  # (dataset, ids)
    fingerprint: Callable[[Any], str] | None = None  # (dataset)
    data_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by split
    unaugmented: Callable[[Any], Dataset] | None = None  # (spec)
    describe_data: Callable[[Any], Mapping[str, Any]] | None = None  # (dataset)
    # (dataset, facts, path of the checkpoint)
    compare_data: Callable[[Any, Mapping[str, Any], str], Sequence[str]] | None = None
    keep_on: Callable[[Any, torch.device], PreparedBatches | None] | None = None  # (dataset, GPU)
    # (weights, what their file says of itself, spec, untrained model) -> weights, what to tell
    transfer: (
        Callable[
            [Mapping[str, Any], Mapping[str, Any], Any, torch.nn.Module],
            tuple[Mapping[str, Any], str],
        ]
        | None
    ) = None


@dataclass(frozen=True)
class DataSource:
    """Where in the data sets that a job is given an input lies.

    data: TAO's word for which of them. paths: within it, the first that is there counts; TAO's
    own comes first. Without paths, the data set itself.
    """

    data: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skill:
    """What who runs a network for others must know, and its spec does not say.

    Mappings are from action to dotted spec key to ...
    inputs: file or folder, of keys that name data or weights.
    sources: where such data lie. spec_params: TAO's name for how a job finds the value.
    template_values: what a template shows in place of the default.
    What holds for all networks is in skills/skill_info.py.
    """

    description: str
    inputs: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, Mapping[str, DataSource]]
    spec_params: Mapping[str, Mapping[str, str]]
    template_values: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Entry:
    """Where a network lives, as import paths, so that help needs no torch."""

    title: str
    specs: str  # module:attribute, a mapping action -> spec model
    skill: str  # module:attribute, a Skill
    network: str  # module:attribute, a Network
    data_length: str = ""  # module:attribute, a function of the train spec; see `data_length`


NETWORKS: Mapping[str, Entry] = {
    "action_recognition": Entry(
        title="videos -> action labels (RGB, optical flow, or both)",
        specs="kineme.action_recognition.spec:SPECS",
        skill="kineme.action_recognition.skill:SKILL",
        network="kineme.action_recognition.network:NETWORK",
    ),
    "pose_classification": Entry(
        title="skeleton sequences -> action labels (ST-GCN)",
        specs="kineme.pose_classification.spec:SPECS",
        skill="kineme.pose_classification.skill:SKILL",
        network="kineme.pose_classification.network:NETWORK",
        data_length="kineme.pose_classification.paths:data_length",
    ),
}


def load_specs(name: str) -> Mapping[str, Any]:
    """The spec models of network `name`, by action. Imports no torch."""
    return _resolve(NETWORKS[name].specs)  # type: ignore[no-any-return]


def load_skill(name: str) -> Skill:
    """What a runner must know of network `name`. Imports no torch."""
    return _resolve(NETWORKS[name].skill)  # type: ignore[no-any-return]


def data_length(name: str, spec: Any) -> int | None:
    """Frames of the longest sample of training, None where telling takes more than a look at
    headers. Imports no torch."""
    path = NETWORKS[name].data_length
    return _resolve(path)(spec) if path else None


def load_network(name: str) -> Network:
    """The network `name`. Imports torch."""
    return _resolve(NETWORKS[name].network)  # type: ignore[no-any-return]


def _resolve(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
