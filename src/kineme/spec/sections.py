"""What every network's spec has: the top level, wandb, and the common part of actions.

Promises: names, defaults and bounds are TAO's; our own fields default to its behaviour.
One file serves all actions: each action's spec has the blocks of the others too.
Leaves out: what one network adds (<network>/settings.py).
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import field_validator

from kineme.errors import SpecError
from kineme.spec.fields import MUST_BE_SET, Section, block, setting
from kineme.spec.key_file import read_key
from kineme.spec.legacy import Legacy
from kineme.spec.outside_blocks import Cudnn, Wandb

SEED_MAX = 2**32 - 1
CHECKPOINT_SUFFIXES = (".pth", ".tlt")
CHECKPOINT_EXAMPLE = "results/train/best.pth"

# Settings of the learning rate, and the schedulers that read them.
SCHEDULER_OF = {
    "lr_steps": ("MultiStep",),
    "lr_decay": ("MultiStep", "AutoReduce"),
    "lr_monitor": ("AutoReduce",),
    "patience": ("AutoReduce",),
    "min_lr": ("AutoReduce",),
}


@dataclass(frozen=True)
class Finding:
    """Settings that contradict each other. `keys[0]` is where the user is sent."""

    keys: tuple[str, ...]
    expected: str
    received: str
    fix: str = ""


@dataclass(frozen=True)
class Derived:
    """A value that follows from others, with a note where the user should know."""

    key: str
    value: Any
    note: str = ""


class Compute(Section):
    """What an action runs on."""

    num_gpus: int = setting(1, "GPUs (processes) per node", ge=1, le=1024, popular=True)
    gpu_ids: list[int] = setting([0], "GPU indices, as many as num_gpus", ge=0, popular=True)
    num_nodes: int = setting(1, "machines", ge=1, popular=True)


class Optim(Section):
    """Optimizer and learning rate. Every network declares its own numbers where none are here."""

    optimizer_type: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    lr_scheduler: str = setting(
        "MultiStep",
        "how the rate falls: at lr_steps, when lr_monitor stalls, along a cosine",
        choices=("MultiStep", "AutoReduce", "cosine"),
    )
    lr_monitor: str = setting(
        "val_loss", "what AutoReduce watches", choices=("val_loss", "train_loss")
    )
    patience: int
    min_lr: float = setting(1e-4, "lowest rate of AutoReduce", ge=0)
    lr_steps: list[int]
    lr_decay: float
    warmup_epochs: int = setting(0, "epochs of linear rise to lr", ge=0, ours=True)
    lr_scaling: str = setting(
        "none",
        "how lr follows the samples of a step, of all processes; linear: lr is for "
        "lr_reference_batch of them, and twice as many take twice the rate",
        choices=("none", "linear"),
        ours=True,
    )
    lr_reference_batch: int
    backbone_lr_factor: float = setting(
        1.0, "learning rate of all but the classifier, as a share of lr", ge=0, ours=True
    )


class Train(Compute):
    """The part of `train` that all networks share."""

    seed: int = setting(1234, "seed of every draw; -1: a fresh one each run", ge=-1, le=SEED_MAX)
    cudnn: Cudnn = block(Cudnn, "cuDNN")
    num_epochs: int = setting(10, "passes over the data", ge=1, popular=True)
    checkpoint_interval: int = setting(1, "units between checkpoints", ge=1, popular=True)
    checkpoint_interval_unit: str = setting(
        "epoch", "unit of checkpoint_interval", choices=("epoch", "step")
    )
    validation_interval: int = setting(1, "epochs between validations", ge=1, popular=True)
    resume_training_checkpoint_path: str | None = setting(
        None, "checkpoint (.pth, .tlt) to continue from", example="model_epoch_009_step_00100.pth"
    )
    results_dir: str | None = setting(None, "folder of this action; null: <results_dir>/train")
    precision: str = setting(
        "32-true",
        "number format of training",
        choices=("32-true", "bf16-mixed", "16-mixed"),
        ours=True,
    )
    stop_epoch: int = setting(
        0,
        "epoch after which this run ends, to be continued with train.resume; the schedule stays "
        "that of num_epochs; 0: off",
        ge=0,
        ours=True,
    )
    early_stopping_patience: int = setting(
        0, "validations without improvement before training ends; 0: off", ge=0, ours=True
    )
    ema_decay: float = setting(
        0.0,
        "decay of averaged weights, which validation and checkpoints use; 0: off",
        ge=0,
        lt=1,
        ours=True,
    )
    label_smoothing: float = setting(
        0.0, "share of the loss spread over classes", ge=0, lt=1, ours=True
    )
    class_weights: str | list[float] = setting(
        "none",
        "weight of each class in the loss; balanced: inverse frequency",
        ge=0,
        choices=("none", "balanced"),
        ours=True,
    )
    resume: bool = setting(False, "continue the newest checkpoint of results_dir", ours=True)
    tensorboard: bool = setting(True, "write TensorBoard events", ours=True)
    stall_timeout: float = setting(
        300.0,
        "seconds that any action waits for a batch of its data workers until it ends; 0: for ever",
        ge=0,
        ours=True,
    )
    on_nan: str = setting(
        "stop",
        "when the loss is not finite; rollback: on from the newest checkpoint, without that step "
        "and at half the rate, up to 3 times",
        choices=("stop", "rollback"),
        ours=True,
    )


class Predict(Compute):
    """The common part of `evaluate` and `inference`."""

    checkpoint: str | None = setting(
        None, "trained model", example=CHECKPOINT_EXAMPLE, tao_default=MUST_BE_SET
    )
    trt_engine: str | None = setting(None, "accepted for TAO's sake; has no effect")
    results_dir: str | None = setting(None, "folder of this action; null: <results_dir>/<action>")
    batch_size: int = setting(-1, "samples per step; -1: dataset.batch_size", ge=-1)
    calibrate: bool = setting(
        True,
        "tell probabilities at the temperature that training fitted on validation data, so that "
        "they are right as often as they say; no label changes",
        ours=True,
    )


class Evaluate(Predict):
    """The part of `evaluate` that all networks share."""

    baseline: str | None = setting(
        None,
        "another checkpoint, whose figures on the same data stand beside",
        example="results/other/train/best.pth",
        ours=True,
    )
    k_fold: int = setting(
        0,
        "models to train, each without a share of the subjects of the training data, on which it "
        "is judged; the spec's train block says how; 0: judge a checkpoint",
        ge=0,
        ours=True,
    )
    subject_pattern: str | None = setting(
        None,
        "regular expression that finds the subject in a sample's id, for k_fold; null: guessed "
        "from usual names (s01, P003), else every sample is its own",
        example="(person\\d+)",
        ours=True,
    )


class Output(Section):
    """Of a block that may name a file to write: `inference.output_file`, `export.onnx_file`."""

    overwrite: bool = setting(
        False, "replace the file that this block names, if there is one already", ours=True
    )


class Inference(Predict, Output):
    """The part of `inference` that all networks share."""

    resume: bool = setting(
        False, "go on where an inference into the same folder was cut off", ours=True
    )
    max_bad: float = setting(
        0.0,
        "share of samples that may fail; where more do, the exit code is 8",
        ge=0,
        le=1,
        ours=True,
    )
    unknown: bool = setting(
        False,
        "answer unknown where a sample looks less like the classes than 95 % of the validation "
        "data did",
        ours=True,
    )


class Export(Output):
    """Export to ONNX, or to what other runtimes read."""

    checkpoint: str | None = setting(None, "trained model", example=CHECKPOINT_EXAMPLE)
    onnx_file: str | None = setting(
        None,
        "file to write; null: model.onnx (openvino: model.xml, model.bin) in the folder of this "
        "action",
    )
    format: str = setting(
        "onnx",
        "what reads the file: any ONNX runtime, or OpenVINO (pip install 'kineme[openvino]')",
        choices=("onnx", "openvino"),
        ours=True,
    )
    precision: str = setting(
        "fp32",
        "numbers that the file computes with; bf16 and int8 are judged on the validation data, "
        "and int8 is calibrated on the training data, those of the checkpoint where none are set",
        choices=("fp32", "bf16", "int8"),
        ours=True,
    )
    calibration_samples: int = setting(
        256, "training samples, drawn by train.seed, that int8 fits its ranges to", ge=1, ours=True
    )
    max_accuracy_drop: float = setting(
        0.5,
        "points of accuracy on the validation data that bf16 or int8 may cost; where it is more, "
        "nothing is written and the exit code is 7",
        ge=0,
        le=100,
        ours=True,
    )
    gpu_id: int = setting(0, "GPU index", ge=0)
    results_dir: str | None = setting(None, "folder of this action; null: <results_dir>/export")


class Spec(Section):
    """The top level. A network's spec adds its blocks, an action's what it must have."""

    network: ClassVar[str] = ""
    action: ClassVar[str] = ""
    mandatory: ClassVar[tuple[str, ...]] = ()
    mandatory_of_folds: ClassVar[tuple[str, ...]] = ()  # with evaluate.k_fold
    aliases: ClassVar[Mapping[str, str]] = {}
    legacy: ClassVar[Legacy] = Legacy()
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    model_name: str | None = setting(None, "name of the model; null: the network's")
    encryption_key: str | None = setting(
        None, "key of encrypted checkpoints; never printed or written", secret=True
    )
    encryption_key_file: str | None = setting(
        None, "file that holds encryption_key, one line, so that the spec need not", ours=True
    )
    results_dir: str | None = setting(None, "root of everything a run leaves", example="results")
    wandb: Wandb = block(Wandb, "Weights & Biases")
    device: str = setting("auto", "what to run on", choices=("auto", "cpu", "gpu"), ours=True)
    automl_policy: str = setting(
        "auto",
        "read by job runners; a direct command never searches",
        choices=("auto", "on", "off"),
        ours=True,
    )

    @field_validator("automl_policy", mode="before")
    @classmethod
    def _yaml_1_1(cls, value: Any) -> Any:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @property
    def has_folds(self) -> bool:
        """Whether an evaluation trains its own models (evaluate.k_fold)."""
        part = getattr(self, self.action, None) if self.mandatory_of_folds else None
        return bool(part and part.k_fold)

    @property
    def has_training(self) -> bool:
        """Whether the settings say what a model is and sees; otherwise its checkpoint does."""
        return self.action == "train" or self.has_folds

    @property
    def needs(self) -> tuple[str, ...]:
        """What must be set: `mandatory`, or what folds take."""
        return self.mandatory_of_folds if self.has_folds else self.mandatory

    def derived(self, user: frozenset[str]) -> Iterator[Derived]:
        """`derive`, and what follows in every network. Raises SpecError."""
        yield from self.derive(user)
        if self.encryption_key is not None and not self.encryption_key.strip():
            raise SpecError("encryption_key", "a key", "white space alone")
        if self.encryption_key_file and self.encryption_key is not None:
            fix = "Set one of them to null."
            raise SpecError("encryption_key_file", "no encryption_key beside it", "both", fix)
        if self.encryption_key_file:
            yield Derived("encryption_key", read_key(self.encryption_key_file))

    def derive(self, user: frozenset[str]) -> Iterator[Derived]:
        """Values that follow from what the user set (dotted keys)."""
        del user
        yield from ()

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Keys that have no effect here, and why."""
        yield from ()

    def findings(self, user: frozenset[str]) -> Iterator[Finding]:
        """What contradicts, given what the user set (dotted keys)."""
        del user
        yield from ()


def run_folder(spec: Spec, action: str = "") -> Path:
    """Where `action` (default: the spec's own) leaves its files."""
    action = action or spec.action
    own = getattr(getattr(spec, action, None), "results_dir", None)
    return Path(own) if own else Path(spec.results_dir or ".") / action


def derived(parts: Mapping[str, Compute], optim: Optim, user: frozenset[str]) -> Iterator[Derived]:
    """What follows in every network; parts: the blocks that name devices, by name."""
    for name, part in parts.items():
        yield from _derived_devices(part, name, user)
    is_own_rate = "train.optim.lr" in user and "train.optim.lr_scaling" not in user
    if is_own_rate and optim.lr_scaling != "none":  # of a recipe: a rate that is said is meant
        yield Derived("train.optim.lr_scaling", "none")
    if optim.momentum == 0 and optim.nesterov:
        note = "train.optim.nesterov is off, because train.optim.momentum is 0."
        yield Derived("train.optim.nesterov", False, note)


def _derived_devices(part: Compute, name: str, user: frozenset[str]) -> Iterator[Derived]:
    """num_gpus from gpu_ids or the other way round, when only one was set."""
    if f"{name}.num_gpus" in user and f"{name}.gpu_ids" not in user:
        yield Derived(f"{name}.gpu_ids", list(range(part.num_gpus)))
    elif f"{name}.gpu_ids" in user and f"{name}.num_gpus" not in user:
        yield Derived(f"{name}.num_gpus", max(1, len(part.gpu_ids)))


def ignored(optim: Optim, export: Export, *, has_folds: bool) -> Iterator[tuple[str, str]]:
    """Keys of every network that have no effect beside the others, and why."""
    if not has_folds:
        yield "evaluate.subject_pattern", "evaluate.k_fold is 0"
    for name in ("evaluate", "inference"):
        yield f"{name}.trt_engine", "there is no TensorRT here; checkpoints are what it runs"
    yield "export.gpu_id", "export computes on the CPU"
    yield from _ignored_of_export(export)
    for key, schedulers in SCHEDULER_OF.items():
        if optim.lr_scheduler not in schedulers:
            yield f"train.optim.{key}", f"train.optim.lr_scheduler is {optim.lr_scheduler}"
    if optim.lr_scaling == "none":
        yield "train.optim.lr_reference_batch", "train.optim.lr_scaling is none"
    if not optim.optimizer_type.endswith("SGD"):
        for key in ("momentum", "nesterov"):
            yield f"train.optim.{key}", f"train.optim.optimizer_type is {optim.optimizer_type}"


def _ignored_of_export(export: Export) -> Iterator[tuple[str, str]]:
    if export.precision != "int8":
        yield "export.calibration_samples", f"export.precision is {export.precision}"
    if export.precision == "fp32":
        yield "export.max_accuracy_drop", "a file in fp32 is held to the checkpoint's own numbers"


def export_findings(export: Export) -> Iterator[Finding]:
    """Contradictions in the common part of `export`."""
    if export.precision == "bf16" and export.format == "onnx":
        yield Finding(
            ("export.precision", "export.format"),
            "fp32 or int8, as export.format is onnx",
            "bf16",
            "onnxruntime has no bf16 for CPUs; OpenVINO does: export.format=openvino.",
        )
    is_xml = (export.onnx_file or "").endswith(".xml")
    if export.onnx_file and is_xml != (export.format == "openvino"):
        yield Finding(
            ("export.onnx_file", "export.format"),
            f"a path that {'ends' if not is_xml else 'does not end'} in .xml, "
            f"as export.format is {export.format}",
            repr(export.onnx_file),
        )


def label_map_findings(label_map: Mapping[str, int] | None) -> Iterator[Finding]:
    """Class ids that repeat or leave gaps."""
    ids = sorted((label_map or {}).values())
    if ids != list(range(len(ids))):
        problem = "repeated" if len(set(ids)) < len(ids) else "with gaps"
        yield Finding(
            ("dataset.label_map",),
            f"ids 0 to {len(ids) - 1}, each once",
            f"ids {str(ids)[:80]} ({problem})",
            "Number the classes from 0.",
        )


def train_findings(
    train: Train, optim: Optim, label_map: Mapping[str, int] | None
) -> Iterator[Finding]:
    """Contradictions in the common part of `train`."""
    yield from _device_findings(train, "train")
    intervals = {"validation_interval": train.validation_interval}
    if train.checkpoint_interval_unit == "epoch":
        intervals["checkpoint_interval"] = train.checkpoint_interval
    for name, interval in intervals.items():
        if interval > train.num_epochs:
            expected = f"at most train.num_epochs, which is {train.num_epochs}"
            fix = "Its first turn would never come."
            yield Finding((f"train.{name}", "train.num_epochs"), expected, str(interval), fix)
    if train.stop_epoch > train.num_epochs:
        yield Finding(
            ("train.stop_epoch", "train.num_epochs"),
            f"at most train.num_epochs, which is {train.num_epochs}",
            str(train.stop_epoch),
        )
    if 0 < train.num_epochs <= optim.warmup_epochs:
        yield Finding(
            ("train.optim.warmup_epochs", "train.num_epochs"),
            f"less than train.num_epochs, which is {train.num_epochs}",
            str(optim.warmup_epochs),
        )
    resume = train.resume_training_checkpoint_path
    if resume and not resume.endswith(CHECKPOINT_SUFFIXES):
        key = "train.resume_training_checkpoint_path"
        yield Finding((key,), "a path that ends in .pth or .tlt", repr(os.path.basename(resume)))
    yield from _class_weight_findings(train.class_weights, label_map)


def _class_weight_findings(
    weights: str | list[float], label_map: Mapping[str, int] | None
) -> Iterator[Finding]:
    if isinstance(weights, list) and not any(weights):
        yield Finding(("train.class_weights",), "a weight above 0", repr(weights))
    if isinstance(weights, list) and label_map and len(weights) != len(label_map):
        yield Finding(
            ("train.class_weights", "dataset.label_map"),
            f"{len(label_map)} weights, one per class of dataset.label_map",
            f"{len(weights)}",
        )


def predict_findings(part: Predict, name: str) -> Iterator[Finding]:
    """Contradictions in the common part of `evaluate` and `inference`."""
    yield from _device_findings(part, name)
    if isinstance(part, Evaluate) and part.k_fold == 1:
        yield Finding((f"{name}.k_fold",), "0 (off) or at least 2", "1")
    if part.batch_size == 0:
        yield Finding((f"{name}.batch_size",), "-1 (as in dataset) or at least 1", "0")


def _device_findings(part: Compute, name: str) -> Iterator[Finding]:
    """Contradictions between num_gpus and gpu_ids."""
    keys = (f"{name}.gpu_ids", f"{name}.num_gpus")
    if len(set(part.gpu_ids)) != len(part.gpu_ids):
        yield Finding(keys[:1], "each GPU once", repr(part.gpu_ids))
    elif len(part.gpu_ids) != part.num_gpus:
        yield Finding(
            keys,
            f"{part.num_gpus} ids, as {name}.num_gpus is {part.num_gpus}",
            repr(part.gpu_ids),
            "Set one of the two; the other follows.",
        )
