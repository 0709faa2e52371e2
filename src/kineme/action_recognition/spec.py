"""The specs of action recognition, one for each action: what must be set, what follows from what.

Promises: quirks of upstream that hurt are errors or notes here (each has a test).
Leaves out: single settings (settings.py); what videos hold, and the class names (they follow from
the folders in training and from the checkpoint later).
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from kineme.action_recognition import contradictions
from kineme.action_recognition.settings import VideoSettings
from kineme.spec import sections
from kineme.spec.sections import Derived, Finding


class VideoSpec(VideoSettings):
    """What the settings of an experiment imply, whatever the action."""

    def derive(self, user: frozenset[str]) -> Iterator[Derived]:
        """Device lists, and where `model.pretrained_model_path` belongs."""
        parts = {"train": self.train, "evaluate": self.evaluate, "inference": self.inference}
        yield from sections.derived(parts, self.train.optim, user)
        path, key = self.model.pretrained_model_path, contradictions.pretrained_key(self)
        if self.action == "train" and path and key not in user:
            reason = f"model.model_type is {self.model.model_type}"
            yield Derived(key, path, f"model.pretrained_model_path is read as {key}: {reason}.")

    def ignored(self) -> Iterator[tuple[str, str]]:
        """Keys that have no effect here, and why."""
        yield from contradictions.ignored(self)

    def findings(self, user: frozenset[str]) -> Iterator[Finding]:
        """What contradicts. A train block is judged when training, and so on."""
        del user
        yield from sections.label_map_findings(self.dataset.label_map)
        if self.action == "train":
            train = self.train
            yield from sections.train_findings(train, train.optim, self.dataset.label_map)
            yield from contradictions.model_findings(self)
            yield from contradictions.frame_findings(self)
        elif self.action == "evaluate":
            yield from sections.predict_findings(self.evaluate, "evaluate")
        elif self.action == "inference":
            yield from sections.predict_findings(self.inference, "inference")
        elif self.action == "export":
            yield from sections.export_findings(self.export)


class ConvertSpec(VideoSpec):
    """Spec of dataset_convert."""

    action: ClassVar[str] = "dataset_convert"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "dataset_convert.data")


class TrainSpec(VideoSpec):
    """Spec of train."""

    action: ClassVar[str] = "train"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "dataset.train_dataset_dir")


class EvaluateSpec(VideoSpec):
    """Spec of evaluate."""

    action: ClassVar[str] = "evaluate"
    mandatory: ClassVar[tuple[str, ...]] = (
        "results_dir",
        "evaluate.checkpoint",
        "evaluate.test_dataset_dir",
    )
    mandatory_of_folds: ClassVar[tuple[str, ...]] = ("results_dir", "dataset.train_dataset_dir")


class InferenceSpec(VideoSpec):
    """Spec of inference."""

    action: ClassVar[str] = "inference"
    mandatory: ClassVar[tuple[str, ...]] = (
        "results_dir",
        "inference.checkpoint",
        "inference.inference_dataset_dir",
    )


class ExportSpec(VideoSpec):
    """Spec of export."""

    action: ClassVar[str] = "export"
    mandatory: ClassVar[tuple[str, ...]] = ("results_dir", "export.checkpoint")


SPECS: Mapping[str, type[VideoSpec]] = {
    "dataset_convert": ConvertSpec,
    "train": TrainSpec,
    "evaluate": EvaluateSpec,
    "inference": InferenceSpec,
    "export": ExportSpec,
}
