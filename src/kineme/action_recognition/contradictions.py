"""Settings of an action recognition spec that contradict or disarm each other.

Promises: both keys and both values are named. Each block is judged by its own action.
Leaves out: bounds of single fields (settings.py) and what the data say.
"""

from collections.abc import Iterator

from kineme.action_recognition.settings import VideoSettings
from kineme.action_recognition.stream_words import CHANNELS, TAO_WORDS
from kineme.spec import sections
from kineme.spec.load import value_at
from kineme.spec.sections import Finding

SHORTEST_I3D = 8  # frames; it halves time three times
_AUGMENTATION = "dataset.augmentation_config"


def pretrained_key(spec: VideoSettings) -> str:
    """The key that `model.pretrained_model_path` stands for."""
    return f"model.{spec.model.model_type}_pretrained_model_path"


def ignored(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    """Keys that have no effect beside the others, and why."""
    yield from sections.ignored(spec.train.optim, spec.export, has_folds=spec.has_folds)
    yield "export.batch_size", "an exported model takes any number of samples"
    for prefix in TAO_WORDS.values():
        key = f"model.{prefix}_pretrained_num_classes"
        yield key, "the file itself says how many classes it knows"
    yield from _ignored_of_clips(spec)
    if spec.has_training:
        yield from _ignored_of_model(spec)
        yield from _ignored_of_weights(spec)
        yield from _ignored_of_frames(spec)
        if spec.dataset.batch_size == 1:
            yield f"{_AUGMENTATION}.mixup_alpha", "dataset.batch_size is 1"
    elif spec.action == "dataset_convert":
        yield from _ignored_of_conversion(spec)


def _ignored_of_clips(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    strategy = spec.model.sample_strategy
    if spec.has_training and strategy != "consecutive":
        yield "model.sample_rate", f"model.sample_strategy is {strategy}"
    for name, key in (("evaluate", "video_eval_mode"), ("inference", "video_inf_mode")):
        mode = getattr(getattr(spec, name), key)
        if mode != "conv":
            yield f"{name}.video_num_segments", f"{name}.{key} is {mode}"
        elif spec.has_training and strategy != "consecutive":
            yield f"{name}.video_num_segments", f"model.sample_strategy is {strategy}"


def _ignored_of_model(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    model = spec.model
    kind = f"model.model_type is {model.model_type}"
    for stream, prefix in TAO_WORDS.items():
        if stream not in model.streams:
            yield f"model.{prefix}_seq_length", kind
            yield f"{_AUGMENTATION}.{prefix}_input_mean", kind
            yield f"{_AUGMENTATION}.{prefix}_input_std", kind
    if "rgb" not in model.streams:
        yield f"{_AUGMENTATION}.color_jitter", kind
    if "flow" not in model.streams:
        for name in ("method", "scaling", "bound", "short_side"):
            yield f"dataset.flow_{name}", kind
    elif spec.dataset.flow_scaling != "fixed":
        yield "dataset.flow_bound", f"dataset.flow_scaling is {spec.dataset.flow_scaling}"
    if model.model_type != "joint":
        for key in ("num_fc", "fusion_init"):
            yield f"model.{key}", kind
    if model.temporal != "shift":
        yield "model.shift_fraction", f"model.temporal is {model.temporal}"


def _ignored_of_weights(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    model = spec.model
    kind = f"model.model_type is {model.model_type}"
    is_joint = model.model_type == "joint"
    whole = model.joint_pretrained_model_path or (model.pretrained_model_path if is_joint else None)
    for stream, prefix in TAO_WORDS.items():
        key = f"model.{prefix}_pretrained_model_path"
        if stream not in model.streams:
            yield key, kind
        elif is_joint and whole:
            yield key, "model.joint_pretrained_model_path says where the whole model starts"
    if not is_joint:
        yield "model.joint_pretrained_model_path", kind
    if model.backbone == "i3d":
        yield "model.imagenet_pretrained", "there are no ImageNet weights of i3d"
    own = [f"model.{TAO_WORDS[stream]}_pretrained_model_path" for stream in model.streams]
    told = [key for key in ("model.pretrained_model_path", *own) if value_at(spec, key)]
    if told and not is_joint:
        for key in ("model.imagenet_pretrained", "model.imagenet_weights"):
            yield key, f"{told[0]} says where the model starts"
    elif not model.imagenet_pretrained:
        yield "model.imagenet_weights", "model.imagenet_pretrained is false"


def _ignored_of_frames(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    options = spec.dataset.augmentation_config
    crop = f"{_AUGMENTATION}.train_crop_type is {options.train_crop_type}"
    if options.train_crop_type != "multi_scale_crop":
        yield f"{_AUGMENTATION}.scales", crop
    if options.train_crop_type == "no_crop" and not options.val_center_crop:
        yield f"{_AUGMENTATION}.crop_smaller_edge", f"{crop}, and val_center_crop is false"


def _ignored_of_conversion(spec: VideoSettings) -> Iterator[tuple[str, str]]:
    asked = spec.dataset_convert
    if asked.format == "videos":
        for key in ("split", "split_dir"):
            yield f"dataset_convert.{key}", "dataset_convert.format is videos"
    yield "dataset.flow_short_side", "flow is made of frames as they are written"
    if asked.write == "manifest":
        for key in ("streams", "image_format", "image_quality", "fps", "short_side"):
            yield f"dataset_convert.{key}", "dataset_convert.write is manifest"
    if asked.format != "videos" and asked.split is None:
        yield "dataset_convert.split_dir", "dataset_convert.split is not set"


def model_findings(spec: VideoSettings) -> Iterator[Finding]:
    """Parts of a model that do not go together."""
    model = spec.model
    needed = {"i3d": "3d", "efficientnet_lite0": "2d"}.get(model.backbone, model.input_type)
    if model.input_type != needed:
        also = " (model.temporal=shift sees motion)" if needed == "2d" else ""
        yield Finding(
            ("model.backbone", "model.input_type"),
            f"{needed!r} in model.input_type",
            f"{model.backbone!r} with {model.input_type!r}",
            f"Set model.input_type={needed}{also}, or another backbone.",
        )
    if model.temporal == "shift" and model.input_type == "3d":
        yield Finding(
            ("model.temporal", "model.input_type"),
            "'stack' where model.input_type is 3d",
            "'shift'",
            "Shifting is for 2d models; a 3d one sees motion itself.",
        )
    for stream, length in model.lengths.items():
        if model.backbone == "i3d" and length < SHORTEST_I3D:
            yield Finding(
                (f"model.{TAO_WORDS[stream]}_seq_length", "model.backbone"),
                f"at least {SHORTEST_I3D}, as model.backbone is i3d",
                str(length),
                "Its public weights know clips of 64 frames.",
            )
    key, path = pretrained_key(spec), model.pretrained_model_path
    specific = getattr(model, key.removeprefix("model."))
    if path and specific != path:
        yield Finding(
            ("model.pretrained_model_path", key),
            f"what {key} says, {specific!r}",
            repr(path),
            f"Keep one of them: they mean the same, as model.model_type is {model.model_type}.",
        )


def frame_findings(spec: VideoSettings) -> Iterator[Finding]:
    """Sizes and numbers of frames that cannot be."""
    options, model = spec.dataset.augmentation_config, spec.model
    is_cropped = options.train_crop_type == "random_crop" or options.val_center_crop
    smallest = min(model.input_width, model.input_height)
    if is_cropped and options.crop_smaller_edge < smallest:
        yield Finding(
            (f"{_AUGMENTATION}.crop_smaller_edge", "model.input_width", "model.input_height"),
            f"at least {smallest}, as model.input_width x input_height is "
            f"{model.input_width} x {model.input_height}",
            str(options.crop_smaller_edge),
            "The crop would not fit into the frame.",
        )
    if options.train_crop_type == "multi_scale_crop" and not options.scales:
        key = f"{_AUGMENTATION}.scales"
        yield Finding((key,), "a scale, as train_crop_type is multi_scale_crop", "[]")
    for stream in model.streams:
        names = [f"{TAO_WORDS[stream]}_input_{name}" for name in ("mean", "std")]
        mean_key, std_key = (f"{_AUGMENTATION}.{name}" for name in names)
        mean, std = (getattr(options, name) for name in names)
        for key, values in ((mean_key, mean), (std_key, std)):
            if len(values) not in (0, 1, CHANNELS[stream]):
                count = f"1 or {CHANNELS[stream]} numbers, or none at all"
                yield Finding((key,), count, repr(values))
        if bool(mean) != bool(std):
            yield Finding(
                (mean_key, std_key),
                f"numbers in both it and {std_key}, or in neither",
                f"{mean!r} and {std!r}",
            )
