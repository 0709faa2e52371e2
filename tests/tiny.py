"""A network small enough to test the house with: 4 numbers in, 3 classes out.

It has what makes training hard to repeat (dropout, batch statistics, augmentation), and
faults that a test can ask for through its spec.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from kineme.data.randomness import uniform
from kineme.errors import DataError
from kineme.network import TRAIN, Batch, Common, ExportForm, Network
from kineme.pose_classification.settings import Optim
from kineme.spec import sections
from kineme.spec.fields import Section, block, setting
from kineme.spec.load import load_spec

NUM_FEATURES, CLASS_NAMES = 4, ("left", "right", "up")


class Model(Section):
    pretrained_model_path: str | None = setting(None, "weights")
    width: int = setting(8, "hidden units")
    dropout: float = setting(0.3, "dropout")
    batch_norm: bool = setting(True, "batch statistics")


class Files(Section):
    data_path: str | None = setting("there", "any text: the data are made up")


class Dataset(Section):
    val_dataset: Files = block(Files, "validation")
    num_classes: int = setting(3, "classes")
    num_samples: int = setting(26, "training samples")
    num_val_samples: int = setting(11, "validation samples")
    batch_size: int = setting(4, "batch", ge=1)
    num_workers: int = setting(0, "workers")
    noise: float = setting(0.1, "augmentation")
    shuffled_labels: bool = setting(False, "nothing to learn")
    bad_sample: int = setting(-1, "its value is infinite")
    raising_sample: int = setting(-1, "reading it raises")
    error: str = setting("ValueError", "what it raises")
    killed_worker: bool = setting(False, "reading anything in a worker kills it")
    raising_rank: int = setting(-1, "this process fails")
    seconds: float = setting(0.0, "sleep per batch")


class Train(sections.Train):
    optim: Optim = block(Optim, "optimizer")
    grad_clip: float = setting(0.0, "clip")


class TinySpec(sections.Spec):
    network: ClassVar[str] = "tiny"
    action: ClassVar[str] = "train"
    model: Model = block(Model, "model")
    dataset: Dataset = block(Dataset, "data")
    train: Train = block(Train, "training")


def tiny_spec(results_dir: Path | str, **changes: Any) -> TinySpec:
    """A spec; changes are dotted keys with "__" for the dot."""
    base = {
        "results_dir": str(results_dir),
        "device": "cpu",
        "train.num_epochs": 2,
        "train.tensorboard": False,
        "train.optim.lr": 0.05,
    }
    spec, _ = load_spec(
        TinySpec, None, {**base, **{k.replace("__", "."): v for k, v in changes.items()}}
    )
    return spec


class TinyData:
    """Three clouds of points, one per class."""

    notes: tuple[str, ...] = ()

    def __init__(self, spec: Any, split: str) -> None:
        self.settings, self.seed, self.split = spec.dataset, spec.train.seed, split
        count = spec.dataset.num_samples if split == TRAIN else spec.dataset.num_val_samples
        self.ids = [f"{split}-{i}" for i in range(count)]
        self.labels = np.arange(count) % 3
        draw = np.random.default_rng(7 if split == TRAIN else 8)
        centres = np.eye(3, NUM_FEATURES) * 2
        self.x = (centres[self.labels] + draw.normal(0, 0.5, (count, NUM_FEATURES))).astype("f4")
        if spec.dataset.shuffled_labels:
            self.x = draw.normal(0, 1, self.x.shape).astype("f4")
        if split == TRAIN and spec.dataset.bad_sample >= 0:
            self.x[spec.dataset.bad_sample] = np.inf

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: np.ndarray, epoch: int) -> Batch:
        self._fail(indices)
        time.sleep(self.settings.seconds)
        return Batch(
            {"x": torch.from_numpy(self.x[indices])},
            torch.from_numpy(self.labels[indices]),
            torch.from_numpy(np.asarray(indices)),
            torch.arange(len(indices)),
        )

    def transform(self, batch: Batch, epoch: int) -> Batch:
        if self.split != TRAIN:
            return batch
        if str(self.settings.raising_rank) == os.environ.get("LOCAL_RANK"):
            raise DataError("shelf 3", "a book", "a brick")
        draws = uniform(self.seed, epoch, batch.indices.numpy(), name="noise", size=NUM_FEATURES)
        noise = torch.from_numpy(draws.astype("f4")).to(batch.inputs["x"].device) - 0.5
        x = batch.inputs["x"] + self.settings.noise * noise
        return Batch({"x": x}, batch.labels, batch.indices, batch.sample_of_row)

    def _fail(self, indices: np.ndarray) -> None:
        if self.settings.raising_sample in indices:
            if self.settings.error == "DataError":
                raise DataError("a.npy", "numbers", "letters")
            raise {"ValueError": ValueError, "OSError": OSError}[self.settings.error]("torn page")
        if self.settings.killed_worker and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), 9)


def build_model(spec: Any) -> nn.Module:
    settings = spec.model
    norm = nn.BatchNorm1d(settings.width) if settings.batch_norm else nn.Identity()
    return _Tiny(settings, norm, spec.dataset.num_classes)


class _Tiny(nn.Module):
    def __init__(self, settings: Any, norm: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(NUM_FEATURES, settings.width)
        self.norm = norm
        self.dropout = nn.Dropout(settings.dropout)
        self.fcn = nn.Linear(settings.width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fcn(self.dropout(torch.relu(self.norm(self.body(x)))))


def class_names(spec: Any) -> tuple[str, ...]:
    return tuple([*CLASS_NAMES, "down", "in", "out"][: spec.dataset.num_classes])


def complete(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    return spec, ()


def common(spec: Any) -> Common:
    pretrained = spec.model.pretrained_model_path
    return Common(
        model_title="tiny",
        num_workers=spec.dataset.num_workers,
        num_workers_key="dataset.num_workers",
        grad_clip=spec.train.grad_clip,
        grad_clip_key="train.grad_clip",
        has_validation=bool(spec.dataset.val_dataset.data_path),
        pretrained={"": pretrained} if pretrained else {},
    )


def adapt_weights(state: Mapping[str, Any], spec: Any, part: str) -> Mapping[str, Any]:
    return state


def describe(spec: Any) -> Mapping[str, Any]:
    return {"features": NUM_FEATURES, "scale": (1.0, 2.0)}


def _absent(*_: Any) -> ExportForm:
    raise NotImplementedError


TINY = Network(
    name="tiny",
    prefix="ty",
    common=common,
    class_names=class_names,
    complete=complete,
    build_dataset=TinyData,
    build_model=build_model,
    export_form=_absent,
    adapt_weights=adapt_weights,
    score_text=str,
    answer_text=_absent,  # type: ignore[arg-type]
    convert=_absent,  # type: ignore[arg-type]
    describe=describe,
    drawing=_absent,
    identity=("model.width", "model.batch_norm", "dataset.num_classes"),
    head=("fcn.weight", "fcn.bias"),
)


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of nested dicts, lists, tensors and numbers."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def content_of(path: Path) -> dict[str, Any]:
    """A checkpoint without what may differ between equal runs: paths and the resume flag."""
    content = torch.load(path, weights_only=True)
    for key in ("results_dir", "train"):
        content["kineme"]["spec"].pop(key)
    return content
