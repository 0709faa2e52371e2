"""Every setting of pose classification: default, bounds, what it is.

Promises: TAO's names, defaults and bounds; our own settings default to TAO's behaviour.
Leaves out: what several settings mean together (contradictions.py, spec.py).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.legacy import LEGACY
from kineme.pose_classification.recipes import RECIPES
from kineme.spec import sections
from kineme.spec.fields import Section, block, setting
from kineme.spec.legacy import Legacy
from kineme.spec.sections import Spec

FORMATS = (
    "deepstream", "nw_ucla", "sbu", "ntu", "openpose", "coco", "mediapipe", "pyskl", "tracks",
    "videos",
)  # fmt: skip
ESTIMATORS = ("movenet", "blazepose", "rtmpose")  # of people/estimators, those that see videos
OPTIMIZERS = ("SGD", "Adam", "Adamax")
MODEL_TYPES = ("ST-GCN", "ST-GCN++", "CTR-GCN")
STREAM_NAMES = ("joint", "bone", "joint_motion", "bone_motion")

ALIASES: Mapping[str, str] = {
    "num_classes": "dataset.num_classes",
    "graph_layout": "model.graph_layout",
    "num_epochs": "train.num_epochs",
    "batch_size": "dataset.batch_size",
    "learning_rate": "train.optim.lr",
    "evaluate_batch_size": "evaluate.batch_size",
    "inference_batch_size": "inference.batch_size",
    "num_gpus": "train.num_gpus",
    "num_workers": "dataset.num_workers",
    "resume_checkpoint": "train.resume_training_checkpoint_path",
    "pretrained_model": "model.pretrained_model_path",
    "export_onnx": "export.onnx_file",
    "inference_output_file": "inference.output_file",
}


class Model(Section):
    """The network and its skeleton."""

    model_type: str = setting("ST-GCN", "architecture", choices=MODEL_TYPES)
    pretrained_model_path: str | None = setting(None, "weights to start from (TAO, public, ours)")
    input_channels: int = setting(3, "values per joint: x, y, z or confidence", ge=1)
    dropout: float = setting(0.5, "share of activations dropped", ge=0, le=1, automl=True)
    graph_layout: str = setting("nvidia", "skeleton of the data", choices=tuple(LAYOUTS))
    graph_strategy: str = setting(
        "spatial", "how neighbours are partitioned", choices=("uniform", "distance", "spatial")
    )
    edge_importance_weighting: bool = setting(True, "learn a weight for every edge")
    layout: str | None = setting(
        None, "YAML file with a layout of your own, in place of graph_layout", ours=True
    )
    streams: list[str] = setting(
        ["joint"],
        "what is looked at: joints, bones towards the centre, and how both move",
        choices=STREAM_NAMES,
        ours=True,
    )
    fusion: str = setting(
        "late",
        "of several streams; late: a model for each, trained together, whose answers are averaged; "
        "early: one model that sees all",
        choices=("late", "early"),
        ours=True,
    )
    mask: bool = setting(
        False, "tell the model which joints are missing, in place of zeros (not ST-GCN)", ours=True
    )
    persons: str = setting(
        "mean",
        "of several people; mean: each alone, then averaged; pair: two people as one graph; "
        "partner: each with the other's joints beside it; these two see who acts on whom",
        choices=("mean", "pair", "partner"),
        ours=True,
    )


class Files(Section):
    """One data set."""

    data_path: str | None = setting(
        None,
        "skeletons: .npy (N, C, T, V, M), a shard store, or a folder or archive with *_data.npy",
        example="data",
    )
    label_path: str | None = setting(
        None,
        "labels: .pkl, .json or .csv; may be left out when data_path is a folder",
        example="data/train_label.pkl",
    )


class Unlabelled(Section):
    """A data set without labels."""

    data_path: str | None = setting(
        None,
        "skeletons, in the forms of other data, none of which is of the model's classes: "
        "evaluation tells how well they are told from the test data",
        ours=True,
    )


class Augmentation(Section):
    """Random changes of training samples; all off by default."""

    view_rotation_degrees: float = setting(
        0.0, "largest rotation about each axis", ge=0, le=180, ours=True
    )
    scale: list[float] = setting(
        [1.0, 1.0], "lowest and highest size factor", gt=0, length=2, ours=True
    )
    shear: float = setting(
        0.0, "largest share of one axis that is added to another", ge=0, le=1, ours=True
    )
    flip_prob: float = setting(
        0.0, "chance to mirror and swap left and right", ge=0, le=1, ours=True
    )
    joint_dropout_prob: float = setting(
        0.0, "chance that a joint goes missing", ge=0, le=1, ours=True
    )
    limb_dropout_prob: float = setting(
        0.0, "chance that an arm, leg, the trunk, head or hands go missing", ge=0, le=1, ours=True
    )
    side_dropout_prob: float = setting(
        0.0, "chance that the left or right side goes missing", ge=0, le=1, ours=True
    )
    time_dropout_prob: float = setting(
        0.0, "chance that a stretch of frames goes missing", ge=0, le=1, ours=True
    )
    jitter_std: float = setting(
        0.0, "standard deviation of noise on each coordinate", ge=0, ours=True
    )
    joint_offset_std: float = setting(
        0.0,
        "standard deviation of what each joint is moved by, the same in all frames of a sample",
        ge=0,
        ours=True,
    )
    time_crop: list[float] = setting(
        [1.0, 1.0],
        "shortest and longest share of a sequence that uniform sampling spreads its frames over",
        gt=0,
        le=1,
        length=2,
        ours=True,
    )
    time_warp: float = setting(
        0.0,
        "how uneven the frames of uniform sampling lie; 1: drawn anywhere, and put in order",
        ge=0,
        le=1,
        ours=True,
    )
    swap_persons_prob: float = setting(
        0.0, "chance that the first two people change places", ge=0, le=1, ours=True
    )
    mixup_alpha: float = setting(
        0.0, "alpha of mixup, the blending of two samples; 0: off", ge=0, le=2, ours=True
    )


class Dataset(Section):
    """The data and how it is fed."""

    train_dataset: Files = block(Files, "training data")
    val_dataset: Files = block(Files, "validation data")
    num_classes: int = setting(6, "number of classes; follows from label_map when left out", ge=1)
    label_map: dict[str, int] | None = setting(
        None, "class name to id, ids 0 to n - 1; null: as the data or the checkpoint says", ge=0
    )
    random_choose: bool = setting(False, "train on a random window of window_size frames")
    random_move: bool = setting(False, "drift of rotation, scale and place along a sample")
    window_size: int = setting(-1, "frames per sample; -1: all", ge=-1, automl=True)
    batch_size: int = setting(16, "samples per step, in every action", ge=1)
    num_workers: int = setting(1, "processes that read data; 0: none", ge=0, le=1024)
    sampling: str = setting(
        "none",
        "uniform: num_frames spread over the whole sequence, each drawn from its segment",
        choices=("none", "uniform"),
        ours=True,
    )
    num_frames: int = setting(
        64, "frames that uniform sampling takes", ge=1, le=1_000_000, ours=True
    )
    normalize: str = setting(
        "none",
        "center: the centre joint of the first frame is the origin; center_minmax: then each axis "
        "to [-1, 1]; center_align: turned about the vertical until the shoulders lie along x; "
        "center_align_minmax: both",
        choices=("none", "center", "center_minmax", "center_align", "center_align_minmax"),
        ours=True,
    )
    num_persons: int | None = setting(
        None, "people per sample, those that move most; null: as in the data", ge=1, ours=True
    )
    nan_policy: str = setting(
        "error",
        "samples with NaN or infinity: refuse, make them missing (zero), or drop them",
        choices=("error", "zero", "drop"),
        ours=True,
    )
    centred: bool | None = setting(
        None,
        "the layout's centre joint lies at zero in every frame: its place, and no sign that it is "
        "missing; null: whether it never moves in the training data",
        ours=True,
    )
    fill_gaps: bool = setting(
        False,
        "while somebody is there, a joint that is missing lies between its places before and after",
        ours=True,
    )
    fail_on_leakage: bool = setting(
        False, "refuse samples that are in both training and validation data", ours=True
    )
    repeats: int = setting(
        1, "times that an epoch sees the training data", ge=1, le=1_000_000, ours=True
    )
    augmentation: Augmentation = block(Augmentation, "augmentation")


class Optim(sections.Optim):
    """Optimizer and learning rate."""

    optimizer_type: str = setting(
        "torch.optim.SGD",
        "optimizer",
        choices=tuple(f"{prefix}{name}" for prefix in ("torch.optim.", "") for name in OPTIMIZERS),
    )
    lr: float = setting(0.1, "learning rate", ge=0, automl=True)
    momentum: float = setting(0.9, "momentum of SGD", ge=0, automl=True)
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(1e-4, "weight decay", ge=0, automl=True)
    patience: int = setting(1, "stalled epochs that AutoReduce bears", ge=1, automl=True)
    lr_steps: list[int] = setting(
        [10, 60], "epochs at which MultiStep lowers the rate", ge=0, tao_type="list_2"
    )
    lr_decay: float = setting(0.1, "factor of each fall", ge=0, automl=True)
    lr_reference_batch: int = setting(
        128, "samples of a step that lr is for (lr_scaling: linear)", ge=1, ours=True
    )


class Distill(Section):
    """Learning from another model beside the labels."""

    teacher: str | None = setting(
        None, "checkpoint of the model to learn from", example="ensemble/best.pth", ours=True
    )
    weight: float = setting(
        0.5, "share of the loss that is the distance to the teacher", ge=0, le=1, ours=True
    )
    temperature: float = setting(
        2.0, "divides both models' logits before they are compared", ge=0.1, le=100, ours=True
    )


class Train(sections.Train):
    """Training."""

    optim: Optim = block(Optim, "optimizer and learning rate")
    distill: Distill = block(Distill, "learning from another model")
    grad_clip: float = setting(0.0, "largest norm of the gradient; 0: off", ge=0, automl=True)
    cuda_graph: bool = setting(
        True, "on one GPU, record a step and replay it, unless precision is 16-mixed", ours=True
    )


_CLIPS = "samplings averaged per sample"
_TURNS = "num_clips samplings are turned about the vertical, evenly from minus to plus this"


class Evaluate(sections.Evaluate):
    """Evaluation."""

    test_dataset: Files = block(Files, "test data")
    unknown_dataset: Unlabelled = block(Unlabelled, "samples of no class")
    num_clips: int = setting(1, _CLIPS, ge=1, le=10_000, ours=True)
    view_rotation_degrees: float = setting(0.0, _TURNS, ge=0, le=180, ours=True)
    occlusion: bool = setting(False, "also measure accuracy with joints missing", ours=True)


class Inference(sections.Inference):
    """Prediction."""

    test_dataset: Files = block(Files, "data to classify")
    output_file: str | None = setting(
        None, "one class name per line; null: results.txt in the folder of this action"
    )
    num_clips: int = setting(1, _CLIPS, ge=1, le=10_000, ours=True)
    view_rotation_degrees: float = setting(0.0, _TURNS, ge=0, le=180, ours=True)
    top_k: int = setting(5, "classes reported per sample", ge=1, ours=True)


class DatasetConvert(Section):
    """Skeleton files of other programs to .npy."""

    results_dir: str | None = setting(
        None, "folder of this action; null: <results_dir>/dataset_convert"
    )
    data: str | None = setting(None, "file or folder to convert", example="bodypose.json")
    pose_type: str = setting(
        "3dbp", "what DeepStream wrote: 3-D, 2.5-D or 2-D poses", choices=("3dbp", "25dbp", "2dbp")
    )
    num_joints: int = setting(34, "joints per person", ge=1)
    input_width: int = setting(1920, "width of the video in pixels (25dbp, 2dbp)", ge=1)
    input_height: int = setting(1080, "height of the video in pixels (25dbp, 2dbp)", ge=1)
    focal_length: float = setting(1200.0, "focal length in pixels (3dbp)", gt=0)
    sequence_length_max: int = setting(300, "frames T of the written tensor", ge=1)
    sequence_length_min: int = setting(10, "shorter windows are dropped", ge=1)
    sequence_length: int = setting(100, "frames per window", ge=1)
    sequence_overlap: float = setting(
        0.5, "step from window to window, as a share of sequence_length", ge=0, le=1
    )
    format: str = setting("deepstream", "what `data` is", choices=FORMATS, ours=True)
    write: str = setting(
        "npy",
        "form of the written data; shards: folders that need not fit in memory, labels inside",
        choices=("npy", "shards"),
        ours=True,
    )
    labels: str | None = setting(None, "CSV or JSON that labels the converted sequences", ours=True)
    merge: bool = setting(False, "one data and label pair in place of a file per object", ours=True)
    max_gap_frames: int = setting(
        10, "shorter gaps in a track become missing frames, longer ones split it", ge=0, ours=True
    )
    protocol: str | None = setting(
        None, "split into train and val: cross_view, cross_subject, fold1 to fold5, ...", ours=True
    )
    num_persons: int | None = setting(
        None,
        "people per sample, those that move most; null: as in the data, of videos one",
        ge=1,
        ours=True,
    )
    classes: list[str] | None = setting(
        None, "class folders that are taken (videos); null: all", ours=True
    )
    split_file: str | None = setting(
        None, "CSV or JSON of id and split: train, val, test or none (videos)", ours=True
    )
    val_share: float = setting(
        0.2,
        "share of subjects, or of each class, held out where nothing else splits (videos)",
        ge=0,
        le=0.9,
        ours=True,
    )
    subject_pattern: str | None = setting(
        None,
        "regular expression that finds the subject in a clip's id (videos); null: its folder",
        example="(person\\d+)",
        ours=True,
    )
    estimator: str | None = setting(
        None,
        "what finds people and joints (videos); null: movenet where its file is here, or blazepose",
        choices=ESTIMATORS,
        ours=True,
    )
    estimator_settings: list[str] = setting(
        [], "settings of the estimator (videos): long_side=512, ...", ours=True
    )
    smoothing: bool = setting(
        True, "take the jitter out of joints and close short gaps (videos, tracks)", ours=True
    )
    workers: int = setting(
        1, "videos looked at at once; 0: one, in this process", ge=0, le=1024, ours=True
    )
    max_bad: float = setting(
        0.0,
        "share of videos that may be unreadable; where more are, the exit code is 8",
        ge=0,
        le=1,
        ours=True,
    )


class PoseSettings(Spec):
    """One experiment file serves every action."""

    network: ClassVar[str] = "pose_classification"
    aliases: ClassVar[Mapping[str, str]] = ALIASES
    legacy: ClassVar[Legacy] = LEGACY
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES

    model_name: str = setting("pose_classification", "name of the model", tao_default="")
    recipe: str = setting(
        "none",
        "a set of values beneath yours; modern: how ST-GCN is trained well today; accurate: a "
        "newer model, trained more carefully",
        choices=tuple(RECIPES),
        ours=True,
    )
    model: Model = block(Model, "model")
    dataset: Dataset = block(Dataset, "data")
    train: Train = block(Train, "training")
    evaluate: Evaluate = block(Evaluate, "evaluation")
    inference: Inference = block(Inference, "prediction")
    export: sections.Export = block(sections.Export, "ONNX export")
    dataset_convert: DatasetConvert = block(DatasetConvert, "conversion of skeleton files")
