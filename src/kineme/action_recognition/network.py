"""Action recognition as the house sees it: the `Network` of videos."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kineme.action_recognition import convert
from kineme.action_recognition.clips import footage_of
from kineme.action_recognition.dataset import ClipDataset, View, normalisation
from kineme.action_recognition.folds import fingerprint, of_folds, subset
from kineme.action_recognition.inspection import inspect
from kineme.action_recognition.model import build_model, fusion_note, is_stacked
from kineme.action_recognition.sources import (
    KEYS,
    class_names,
    complete,
    data_path,
    load_videos,
    skips_bad,
)
from kineme.action_recognition.stream_words import CHANNELS, PARTS, TAO_WORDS
from kineme.action_recognition.video_flow import with_flow
from kineme.action_recognition.weights import HEAD, adapt_weights, imagenet_weights_path
from kineme.network import (
    PREDICT,
    TEST,
    TRAIN,
    Answers,
    Common,
    Dataset,
    ExportForm,
    FrameDrawing,
    Network,
)
from kineme.spec.load import with_values

OPSET = 18  # the lowest that torch's current exporter writes


def common(spec: Any) -> Common:
    """TAO's names of this network, by the house's."""
    model = spec.model
    parts = {TAO_WORDS[stream]: part for stream, part in PARTS.items()}
    return Common(
        model_title=f"{model.backbone} {model.input_type} {model.model_type}",
        num_workers=spec.dataset.workers,
        num_workers_key="dataset.workers",
        grad_clip=spec.train.clip_grad_norm,
        grad_clip_key="train.clip_grad_norm",
        has_validation=bool(spec.dataset.val_dataset_dir),
        pretrained=pretrained(spec),
        parts=parts if model.model_type == "joint" else {},
        annotates=spec.inference.annotate,
        augmentation="dataset.augmentation_config",
    )


def pretrained(spec: Any) -> dict[str, str]:
    """Files to start from, by submodule: of the whole joint model, or of single streams."""
    model, imagenet = spec.model, imagenet_weights_path(spec)
    if model.model_type == "joint" and model.joint_pretrained_model_path:
        return {"": model.joint_pretrained_model_path}
    found = {}
    for stream in model.streams:
        own = getattr(model, f"{TAO_WORDS[stream]}_pretrained_model_path")
        found[PARTS[stream] if model.model_type == "joint" else ""] = own or imagenet
    return {part: path for part, path in found.items() if path}


def completed(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    """The spec with the classes of the data, and what the user should hear before training."""
    spec, notes = complete(spec, split)
    note = fusion_note(spec) if split == TRAIN and spec.dataset.label_map else ""
    return spec, (*notes, note) if note else notes


def build_dataset(spec: Any, split: str) -> ClipDataset:
    """The videos of `split`, checked against the spec, with their flow. Raises DataError."""
    return _dataset(spec, split, is_random=split == TRAIN)


def unaugmented(spec: Any) -> ClipDataset:
    """The videos of training, as validation would see them."""
    return _dataset(spec, TRAIN, is_random=False)


def _dataset(spec: Any, split: str, *, is_random: bool) -> ClipDataset:
    videos = load_videos(spec, split, is_taught=is_random)
    if "flow" in spec.model.streams:
        videos = with_flow(videos, spec, split)
    modes = {
        TEST: (spec.evaluate.video_eval_mode, spec.evaluate.video_num_segments),
        PREDICT: (spec.inference.video_inf_mode, spec.inference.video_num_segments),
    }
    mode, num_segments = modes.get(split, ("center", 1))
    view = View(
        spec=spec,
        seed=max(spec.train.seed, 0),
        is_random=is_random,
        mode=mode,
        num_segments=num_segments,
        repeats=spec.dataset.clips_per_video if is_random else 1,
        skips_bad=skips_bad(spec, split),
    )
    return ClipDataset(videos, view)


def export_form(spec: Any) -> ExportForm:
    """`input_rgb`, `input_of` -> `fc_pred` (N, classes); N is free."""
    model = spec.model
    generator = torch.Generator().manual_seed(0)
    examples = {}
    for stream, length in model.lengths.items():
        channels = CHANNELS[stream]
        shape = (channels * length,) if is_stacked(spec) else (channels, length)
        size = (3, *shape, model.input_height, model.input_width)
        examples[stream] = torch.randn(size, generator=generator)
    return ExportForm(
        names={stream: f"input_{TAO_WORDS[stream]}" for stream in examples},
        examples=examples,
        dynamic={stream: {0: "batch"} for stream in examples},
        output="fc_pred",
        opset=OPSET,
        metadata={key: json.dumps(value) for key, value in describe(spec).items()},
    )


def drawing(spec: Any, dataset: ClipDataset) -> FrameDrawing:
    """Samples as some or all of their frames."""
    del spec
    videos = dataset.videos.items
    return FrameDrawing(dataset.frames_of, lambda index: footage_of(videos[index % len(videos)]))


def of_unknown(spec: Any) -> Any:
    """The spec that has the videos of no class as its data to classify; or None."""
    asked = spec.evaluate
    if not asked.unknown_dataset_dir:
        return None
    values = {
        "inference_dataset_dir": asked.unknown_dataset_dir,
        "video_inf_mode": asked.video_eval_mode,
        "video_num_segments": asked.video_num_segments,
    }
    return with_values(spec, {f"inference.{name}": value for name, value in values.items()})


def score_text(facts: Mapping[str, Any]) -> str:
    """The lines that upstream prints."""
    stars = "*" * 31
    lines = [stars]
    lines += [f"{row['label']:<14}{_shown(row['accuracy'], '.4g')}" for row in facts["classes"]]
    lines += [
        stars,
        f"Total accuracy: {_shown(facts['accuracy'], '.3f')}",
        f"Average class accuracy: {_shown(facts['m_accuracy'], '.3f')}",
    ]
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def answer_text(dataset: Dataset, answers: Answers, class_names: Sequence[str]) -> str:
    """Upstream's line for every video: its name and a label for each clip, or what else is said."""
    labels: dict[int, list[str]] = {index: [] for index in answers.answered}
    for index, best in zip(answers.sample_of_row, answers.rows.argmax(axis=1), strict=True):
        labels[int(index)].append(class_names[best])
    labels |= {index: [text] for index, text in answers.remarks.blank.items()}
    return "".join(f"{dataset.ids[index]} : {names}\n" for index, names in labels.items())


def describe(spec: Any) -> Mapping[str, Any]:
    """What a checkpoint and an exported file say of themselves, in plain values."""
    model, options = spec.model, spec.dataset.augmentation_config
    form = "(N, C T, H, W), channel-major" if is_stacked(spec) else "(N, C, T, H, W)"
    numbers = {stream: normalisation(options, stream) for stream in model.lengths}
    facts: dict[str, Any] = {
        "network": NAME,
        "labels": list(class_names(spec)),
        "input": f"{form}, float32: (value / 255 - mean) / std",
        "frames": {TAO_WORDS[stream]: length for stream, length in model.lengths.items()},
        "size": [model.input_height, model.input_width],
        "mean": {TAO_WORDS[stream]: mean for stream, (mean, _) in numbers.items()},
        "std": {TAO_WORDS[stream]: std for stream, (_, std) in numbers.items()},
        "sampling": {
            "strategy": model.sample_strategy,
            "rate": model.sample_rate,
            "short_clip": "loop" if spec.dataset.short_clip == "loop" else "pad",
        },
        "crop": {"is_centred": options.val_center_crop, "short_side": options.crop_smaller_edge},
    }
    if "flow" in model.lengths:
        settings = spec.dataset
        facts["flow"] = {
            "method": settings.flow_method,
            "scaling": settings.flow_scaling,
            "bound": settings.flow_bound,
            "short_side": settings.flow_short_side,
        }
    return facts


NAME = "action_recognition"
_MODEL = (
    "model_type", "backbone", "input_type", "temporal", "shift_fraction", "rgb_seq_length",
    "of_seq_length", "num_fc", "sample_strategy", "sample_rate", "input_width", "input_height",
)  # fmt: skip
_FRAMES = (
    "rgb_input_mean", "rgb_input_std", "of_input_mean", "of_input_std", "val_center_crop",
    "crop_smaller_edge",
)  # fmt: skip
_DATASET = ("label_map", "flow_method", "flow_scaling", "flow_bound", "flow_short_side")
NETWORK = Network(
    name=NAME,
    prefix="ar",
    common=common,
    class_names=class_names,
    complete=completed,
    build_dataset=build_dataset,
    build_model=build_model,
    export_form=export_form,
    drawing=drawing,
    adapt_weights=adapt_weights,
    score_text=score_text,
    answer_text=answer_text,
    convert=convert.convert,
    describe=describe,
    identity=(
        *(f"model.{name}" for name in _MODEL),
        *(f"dataset.{name}" for name in _DATASET),
        *(f"dataset.augmentation_config.{name}" for name in _FRAMES),
    ),
    inherited=("dataset.short_clip",),
    head=HEAD,
    mean_accuracy="m_accuracy",
    prints_answers=True,
    inspect=inspect,
    data_path=data_path,
    of_unknown=of_unknown,
    of_folds=of_folds,
    subset=subset,
    fingerprint=fingerprint,
    data_keys={split: (key,) for split, key in KEYS.items()},
    unaugmented=unaugmented,
)
