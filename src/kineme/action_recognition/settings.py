"""Every setting of action recognition: default, bounds, what it is.

Promises: TAO's names, defaults and bounds; our own settings default to TAO's behaviour.
Leaves out: what several settings mean together (contradictions.py, spec.py).

Streams are rgb and flow, by the words of the models' inputs; the spec's own word for flow
is `of`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kineme.action_recognition.legacy import LEGACY
from kineme.action_recognition.recipes import RECIPES
from kineme.spec import sections
from kineme.spec.fields import MUST_BE_SET, Section, block, setting
from kineme.spec.legacy import Legacy
from kineme.spec.sections import Spec

STREAMS: Mapping[str, tuple[str, ...]] = {  # by model.model_type
    "rgb": ("rgb",),
    "of": ("flow",),
    "joint": ("rgb", "flow"),
}
RESNETS = tuple(f"resnet_{depth}" for depth in (18, 34, 50, 101, 152))
CLIP_MODES = ("center", "conv", "all")
FORMATS = ("videos", "hmdb", "jhmdb")
_CLIPS = (
    "clips whose probabilities are averaged for a video; center: the middle one; conv: "
    "video_num_segments, evenly spread; all: as many as cover the video"
)

ALIASES: Mapping[str, str] = {
    "num_epochs": "train.num_epochs",
    "batch_size": "dataset.batch_size",
    "learning_rate": "train.optim.lr",
}


class Model(Section):
    """The network and the clips it sees."""

    model_type: str = setting(
        "rgb", "what the model sees: colour, optical flow, or both", choices=tuple(STREAMS)
    )
    backbone: str = setting(
        "resnet_18",
        "feature extractor; i3d needs input_type 3d, efficientnet_lite0 needs 2d",
        choices=(*RESNETS, "i3d", "efficientnet_lite0"),
    )
    input_type: str = setting(
        "2d", "convolution over space, or space and time", choices=("2d", "3d")
    )
    temporal: str = setting(
        "stack",
        "how a 2d model sees time. stack: the frames of a clip are its channels; shift: every "
        "frame is seen alone, channels are exchanged between neighbours, opinions averaged",
        choices=("stack", "shift"),
        ours=True,
    )
    shift_fraction: float = setting(
        0.125, "share of channels exchanged in each direction (shift)", gt=0, le=0.5, ours=True
    )
    rgb_seq_length: int = setting(3, "frames per clip, colour", ge=1)
    of_seq_length: int = setting(10, "frames per clip, flow", ge=1)
    pretrained_model_path: str | None = setting(
        None,
        "weights to start from (TAO, public, ours), for what model_type says; the same as "
        "rgb_, of_ or joint_pretrained_model_path",
        ours=True,
    )
    rgb_pretrained_model_path: str | None = setting(None, "weights of the colour stream")
    of_pretrained_model_path: str | None = setting(None, "weights of the flow stream")
    joint_pretrained_model_path: str | None = setting(None, "weights of the whole joint model")
    rgb_pretrained_num_classes: int = setting(
        5, "accepted for TAO's sake; the file itself says how many classes it knows", ge=0
    )
    of_pretrained_num_classes: int = setting(
        5, "accepted for TAO's sake; the file itself says how many classes it knows", ge=0
    )
    num_fc: int = setting(64, "hidden units where the streams of a joint model meet", ge=1)
    fusion_init: str = setting(
        "sum",
        "what a joint model starts as: the sum of its streams' opinions, or random",
        choices=("sum", "random"),
        ours=True,
    )
    sample_strategy: str = setting(
        "random_interval",
        "frames of a clip: one from each of equal parts of the video, or every sample_rate-th",
        choices=("random_interval", "consecutive"),
    )
    sample_rate: int = setting(1, "step between the frames of a clip (consecutive)", ge=1)
    imagenet_pretrained: bool = setting(False, "start from ImageNet weights")
    imagenet_weights: str | None = setting(
        None, "file with ImageNet weights; null: those that are installed", ours=True
    )
    dropout_ratio: float = setting(
        0.5, "share of features dropped before the classifier", ge=0, le=1, automl=True
    )
    input_width: int = setting(224, "width of a frame in pixels", ge=1)
    input_height: int = setting(224, "height of a frame in pixels", ge=1)

    @property
    def streams(self) -> tuple[str, ...]:
        """What the model sees, in the order of its inputs: rgb, flow."""
        return STREAMS[self.model_type]

    @property
    def lengths(self) -> dict[str, int]:
        """Frames T of a clip, by stream."""
        lengths = {"rgb": self.rgb_seq_length, "flow": self.of_seq_length}
        return {stream: lengths[stream] for stream in self.streams}


class Augmentation(Section):
    """Size, crop and numbers of a frame, and the random changes of training clips."""

    train_crop_type: str = setting(
        "random_crop",
        "random_crop: a random window of the resized frame; multi_scale_crop: one of 13 places, "
        "one of `scales`; no_crop: the whole frame, its proportions lost",
        choices=("random_crop", "multi_scale_crop", "no_crop"),
    )
    scales: list[float] = setting(
        [1.0], "sizes of multi_scale_crop, as shares of the shorter side", gt=0, le=1
    )
    horizontal_flip_prob: float = setting(0.5, "chance to mirror a clip", ge=0, le=1)
    rgb_input_mean: list[float] = setting(
        [0.485, 0.456, 0.406], "mean of the colours in [0, 1], one or three"
    )
    rgb_input_std: list[float] = setting(
        [0.229, 0.224, 0.225], "standard deviation of the colours, one or three", gt=0
    )
    of_input_mean: list[float] = setting([0.5], "mean of the flow in [0, 1], one or two")
    of_input_std: list[float] = setting([0.5], "standard deviation of the flow, one or two", gt=0)
    val_center_crop: bool = setting(
        False, "outside training: the middle of the resized frame; false: the whole frame"
    )
    crop_smaller_edge: int = setting(256, "shorter side of a frame before it is cropped", ge=1)
    color_jitter: float = setting(
        0.0, "largest change of brightness, contrast and saturation", ge=0, le=1, ours=True
    )
    mixup_alpha: float = setting(
        0.0, "alpha of mixup, the blending of two samples; 0: off", ge=0, le=2, ours=True
    )


class Dataset(Section):
    """The data and how it is fed."""

    train_dataset_dir: str | None = setting(
        None,
        "training data: a folder <class>/<video>, an archive of one, or a .csv or .jsonl list",
        example="data/train",
    )
    val_dataset_dir: str | None = setting(None, "validation data, in the same forms")
    label_map: dict[str, int] | None = setting(
        None, "class name to id, ids 0 to n - 1; null: as the folders or the checkpoint say", ge=0
    )
    batch_size: int = setting(2, "samples per step, in every action", ge=1)
    workers: int = setting(8, "processes that read data; 0: none", ge=0, le=1024)
    clips_per_video: int = setting(1, "times that an epoch sees the training data", ge=1)
    augmentation_config: Augmentation = block(Augmentation, "size, crop and augmentation")
    cache_dir: str | None = setting(
        None,
        "folder for unpacked archives and computed flow; null: KINEME_CACHE or the user's cache",
        ours=True,
    )
    short_clip: str = setting(
        "pad",
        "videos shorter than a clip: repeat the last frame, start over, drop them, or refuse them",
        choices=("pad", "loop", "drop", "error"),
        ours=True,
    )
    fail_on_leakage: bool = setting(
        False, "refuse videos that are in both training and validation data", ours=True
    )
    bad_sample: str = setting(
        "auto",
        "videos that cannot be read: refuse, or pass over and count; auto: inference passes over",
        choices=("auto", "error", "skip"),
        ours=True,
    )
    flow_method: str = setting(
        "dis",
        "how flow is computed where there is none",
        choices=("dis", "farneback", "tvl1"),
        ours=True,
    )
    flow_scaling: str = setting(
        "fixed",
        "flow in 0 to 255. fixed: flow_bound pixels are the ends; per_frame: the largest motion "
        "of each frame is (as TAO's recipe does, which loses speed)",
        choices=("fixed", "per_frame"),
        ours=True,
    )
    flow_bound: float = setting(20.0, "largest motion in pixels (fixed)", gt=0, ours=True)
    flow_short_side: int = setting(
        256, "shorter side of the frames that flow is computed on; 0: as the video", ge=0, ours=True
    )


class Optim(sections.Optim):
    """Optimizer and learning rate."""

    optimizer_type: str = setting("SGD", "optimizer", choices=("SGD", "Adam", "AdamW"), ours=True)
    lr: float = setting(5e-4, "learning rate", ge=0, automl=True)
    momentum: float = setting(0.9, "momentum of SGD", ge=0, le=1)
    nesterov: bool = setting(False, "Nesterov momentum", ours=True)
    weight_decay: float = setting(5e-4, "weight decay", ge=0)
    patience: int = setting(1, "stalled epochs that AutoReduce bears", ge=1)
    lr_steps: list[int] = setting(
        [15, 25], "epochs at which MultiStep lowers the rate", ge=0, tao_type="list_2"
    )
    lr_decay: float = setting(0.1, "factor of each fall", ge=0, le=1)
    lr_reference_batch: int = setting(
        8, "samples of a step that lr is for (lr_scaling: linear)", ge=1, ours=True
    )


class Train(sections.Train):
    """Training."""

    optim: Optim = block(Optim, "optimizer and learning rate")
    clip_grad_norm: float = setting(0.0, "largest norm of the gradient; 0: off", ge=0)


class Evaluate(sections.Evaluate):
    """Evaluation."""

    test_dataset_dir: str | None = setting(
        None,
        "test data, in the forms of train_dataset_dir",
        example="data/test",
        tao_default=MUST_BE_SET,
    )
    unknown_dataset_dir: str | None = setting(
        None,
        "videos, none of which is of the model's classes, in the forms of inference_dataset_dir: "
        "evaluation tells how well they are told from the test data",
        ours=True,
    )
    video_eval_mode: str = setting("center", _CLIPS, choices=CLIP_MODES)
    video_num_segments: int = setting(10, "clips of conv (consecutive models)", ge=1)


class Inference(sections.Inference):
    """Prediction."""

    inference_dataset_dir: str | None = setting(
        None,
        "videos to classify: a folder of videos or of their frame folders, one video, an archive, "
        "or a list",
        example="data/test/smile",
        tao_default=MUST_BE_SET,
    )
    video_inf_mode: str = setting("center", _CLIPS, choices=CLIP_MODES)
    video_num_segments: int = setting(1, "clips of conv (consecutive models)", ge=1)
    output_file: str | None = setting(
        None, "a line per video, as TAO prints them; null: in the folder of this action", ours=True
    )
    top_k: int = setting(5, "classes reported per sample", ge=1, ours=True)
    annotate: bool = setting(False, "also write each video with its label on it", ours=True)


class Export(sections.Export):
    """Export to ONNX."""

    checkpoint: str | None = setting(
        None, "trained model", example=sections.CHECKPOINT_EXAMPLE, tao_default=MUST_BE_SET
    )
    batch_size: int = setting(1, "accepted for TAO's sake; an exported model takes any", ge=1)


class DatasetConvert(Section):
    """Videos to folders of frames and flow, in TAO's layout."""

    results_dir: str | None = setting(
        None, "folder of this action; null: <results_dir>/dataset_convert", ours=True
    )
    data: str | None = setting(None, "folder to convert", example="data/videos", ours=True)
    format: str = setting("videos", "what `data` is", choices=FORMATS, ours=True)
    write: str = setting(
        "frames",
        "frames: images in TAO's layout; manifest: lists of the videos where they are",
        choices=("frames", "manifest"),
        ours=True,
    )
    split: int | None = setting(
        None, "official split that makes train and test; null: none", ge=1, le=3, ours=True
    )
    split_dir: str | None = setting(
        None, "folder of <class>_test_split<n>.txt; null: found in `data`", ours=True
    )
    streams: str | None = setting(
        None,
        "what is written; null: what model.model_type sees",
        choices=("rgb", "flow", "both"),
        ours=True,
    )
    image_format: str = setting("png", "of colour frames", choices=("png", "jpg"), ours=True)
    image_quality: int = setting(95, "quality of JPEG files (flow is one)", ge=1, le=100, ours=True)
    fps: float | None = setting(None, "frames per second; null: every frame", gt=0, ours=True)
    short_side: int = setting(
        0, "shorter side of the written frames; 0: as the video", ge=0, ours=True
    )
    workers: int = setting(1, "videos converted at once", ge=1, le=1024, ours=True)


class VideoSettings(Spec):
    """One experiment file serves every action."""

    network: ClassVar[str] = "action_recognition"
    aliases: ClassVar[Mapping[str, str]] = ALIASES
    legacy: ClassVar[Legacy] = LEGACY
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES

    model_name: str = setting("action_recognition", "name of the model", tao_default="")
    recipe: str = setting(
        "none",
        "a set of values beneath yours; modern: how small sets of videos are learnt well today",
        choices=tuple(RECIPES),
        ours=True,
    )
    model: Model = block(Model, "model")
    dataset: Dataset = block(Dataset, "data")
    train: Train = block(Train, "training")
    evaluate: Evaluate = block(Evaluate, "evaluation")
    inference: Inference = block(Inference, "prediction")
    export: Export = block(Export, "ONNX export")
    dataset_convert: DatasetConvert = block(DatasetConvert, "conversion of videos")
