"""The contract between the rooms (networks) and the house (engine, actions).

A network is a frozen set of functions. An action is handed a `Network` and knows
nothing else of skeletons or video; a room knows nothing of training loops or files
that a run leaves. Importing this module imports neither torch nor a room.

Shapes: N samples of a dataset, B samples of a batch, R rows of a batch (R = B, or
B x clips where a sample is seen through several clips).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

TRAIN, VAL, TEST, PREDICT = "train", "val", "test", "predict"


@dataclass(frozen=True)
class Batch:
    """Some samples, ready for a model: `model(**batch.inputs)` gives logits (R, classes).

    inputs: named tensors whose first dimension is R.
    labels: (B,) int64, -1 where unknown.
    indices: (B,) int64, positions in the dataset.
    sample_of_row: (R,) int64 in [0, B), the sample each row belongs to.
    """

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    indices: torch.Tensor
    sample_of_row: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(
            {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()},
            self.labels.to(device, non_blocking=True),
            self.indices,
            self.sample_of_row.to(device, non_blocking=True),
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


@dataclass(frozen=True)
class ExportForm:
    """How a model leaves the house as ONNX.

    inputs: upstream name and example tensor of each model input, in call order,
        keyed by the model's own word for it.
    dynamic: input word -> {dimension: name}; `batch` is always dimension 0.
    outputs: names of the outputs. opset: ONNX operator set.
    metadata: strings stored in the file (labels, normalisation, layout, ...).
    """

    names: Mapping[str, str]
    examples: Mapping[str, torch.Tensor]
    dynamic: Mapping[str, Mapping[int, str]]
    output: str
    opset: int
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Drawing:
    """How a report draws a sample: its skeleton (C, T, V, M) by position, and its bones."""

    skeletons: Callable[[int], NDArray[np.float32]]
    bones: Sequence[tuple[int, int]]
    joint_names: Sequence[str]
    centre: int


@dataclass(frozen=True)
class Network:
    """One trainable network, as functions. `spec` is the resolved spec of the action.

    complete: fills what the spec leaves open from what the data of `split` says of itself
    (class names, layout); an action calls it before it builds anything.
    occluded: damaged copies of a test dataset as (curve, share hidden, dataset).
    """

    name: str
    prefix: str  # of its checkpoints: <prefix>_model_latest.pth
    class_names: Callable[[Any], tuple[str, ...]]  # (spec) -> names by id
    complete: Callable[[Any, str], tuple[Any, tuple[str, ...]]]  # (spec, split) -> spec, notes
    build_dataset: Callable[[Any, str], Dataset]  # (spec, split)
    build_model: Callable[[Any], torch.nn.Module]  # (spec)
    export_form: Callable[[Any], ExportForm]  # (spec)
    occluded: Callable[[Any], Iterable[tuple[str, float, Dataset]]]
    drawing: Callable[[Any, Any], Drawing]  # (spec, dataset)
    adapt_weights: Callable[[Mapping[str, Any], Any], Mapping[str, Any]]  # (foreign state, spec)
    convert: Callable[[Any, Path], Mapping[str, Any]]  # (spec, folder) -> kpi, files, warnings
    describe: Callable[[Any], Mapping[str, Any]]  # (spec) -> what a checkpoint says of itself
    identity: tuple[str, ...]  # dotted spec fields that a checkpoint fixes for later actions
    head: tuple[str, ...] = field(default=())  # state-dict names that change with the classes


@dataclass(frozen=True)
class Entry:
    """Where a network lives, as import paths, so that help needs no torch."""

    title: str
    specs: str  # module:attribute, a mapping action -> spec model
    network: str  # module:attribute, a Network


NETWORKS: Mapping[str, Entry] = {
    "pose_classification": Entry(
        title="skeleton sequences -> action labels (ST-GCN)",
        specs="kineme.pose_classification.spec:SPECS",
        network="kineme.pose_classification.network:NETWORK",
    ),
}


def load_specs(name: str) -> Mapping[str, Any]:
    """The spec models of network `name`, by action. Imports no torch."""
    return _resolve(NETWORKS[name].specs)  # type: ignore[no-any-return]


def load_network(name: str) -> Network:
    """The network `name`. Imports torch."""
    return _resolve(NETWORKS[name].network)  # type: ignore[no-any-return]


def _resolve(path: str) -> Any:
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)
