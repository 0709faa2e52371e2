"""The specs of pose classification, one for each action: what must be set, what follows from what.

Promises: quirks of upstream that hurt are errors or notes here (each has a test).
Leaves out: single settings (settings.py); what the files hold: a folder where a file is meant is
resolved with the data.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from kineme.pose_classification import contradictions
from kineme.pose_classification.layouts import layout_facts, load_layout
from kineme.pose_classification.settings import PoseSettings
from kineme.spec import sections
from kineme.spec.sections import Derived, Finding


class PoseSpec(PoseSettings):
    """What the settings of an experiment imply, whatever the action."""

    def derive(self, user: frozenset[str]) -> Iterator[Derived]:
        """Device lists, num_classes, and what TAO would crash on."""
        parts = {"train": self.train, "evaluate": self.evaluate, "inference": self.inference}
        yield from sections.derived(parts, self.train.optim, user)
        if self.model.layout:  # the text travels in checkpoints, a path would not
            text = json.dumps(layout_facts(load_layout(self.model.layout)), ensure_ascii=False)
            yield Derived("model.layout", text)
        convert = self.dataset_convert
        is_free = self.action == "dataset_convert" and "dataset_convert.format" not in user
        if is_free and convert.data and Path(convert.data).is_dir():  # DeepStream's is a file
            note = "dataset_convert.data is a folder, so dataset_convert.format is videos"
            yield Derived("dataset_convert.format", "videos", note)
        if self.dataset.label_map and "dataset.num_classes" not in user:
            yield Derived("dataset.num_classes", len(self.dataset.label_map))

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Keys that have no effect here, and why."""
        yield from contradictions.ignored(self)

    def findings(self, user: frozenset[str]) -> Iterator[Finding]:
        """What contradicts. A train block is judged when training, and so on."""
        yield from contradictions.dataset_findings(self.dataset, user)
        if self.action == "train":
            yield from contradictions.model_findings(self.model, self.dataset)
            train = self.train
            yield from sections.train_findings(train, train.optim, self.dataset.label_map)
        elif self.action == "evaluate":
            yield from sections.predict_findings(self.evaluate, "evaluate")
        elif self.action == "inference":
            yield from sections.predict_findings(self.inference, "inference")
        elif self.action == "export":
            yield from sections.export_findings(self.export)
        elif self.action == "dataset_convert":
            yield from contradictions.convert_findings(self.dataset_convert)


class ConvertSpec(PoseSpec):
    """Spec of dataset_convert."""

    action: ClassVar[str] = "dataset_convert"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "dataset_convert.data")


class TrainSpec(PoseSpec):
    """Spec of train."""

    action: ClassVar[str] = "train"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "dataset.train_dataset.data_path")


class EvaluateSpec(PoseSpec):
    """Spec of evaluate."""

    action: ClassVar[str] = "evaluate"
    mandatory: ClassVar[tuple[str, ...]] = (
        "results_dir",
        "evaluate.checkpoint",
        "evaluate.test_dataset.data_path",
    )
    mandatory_of_folds: ClassVar[tuple[str, ...]] = (
        "results_dir",
        "dataset.train_dataset.data_path",
    )


class InferenceSpec(PoseSpec):
    """Spec of inference."""

    action: ClassVar[str] = "inference"
    mandatory: ClassVar[tuple[str, ...]] = (
        "results_dir",
        "inference.checkpoint",
        "inference.test_dataset.data_path",
    )


class ExportSpec(PoseSpec):
    """Spec of export."""

    action: ClassVar[str] = "export"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "export.checkpoint")


SPECS: Mapping[str, type[PoseSpec]] = {
    "dataset_convert": ConvertSpec,
    "train": TrainSpec,
    "evaluate": EvaluateSpec,
    "inference": InferenceSpec,
    "export": ExportSpec,
}
