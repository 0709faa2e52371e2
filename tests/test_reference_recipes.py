"""The reference recipes of TAO and the smallest specs that its documentation allows.

The spec of a recipe is what was published, number for number; only the places of data, weights
and results are the tests' own. Each is read as it stands and then trained on data made here,
with the cuts that its entry in RECIPES names, so that it takes seconds. The smallest specs
run as command lines with nothing but the keys that must be set.
"""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from clips_made import make_video
from kineme import cli
from kineme.action_recognition.model import build_model
from kineme.engine.results import read_metrics
from kineme.network import load_network, load_specs
from kineme.pose_classification.layouts import LAYOUTS
from kineme.spec.load import load_spec, value_at, with_values
from test_convert_action import poses
from video_folders import save_classes

SHAD = ("walk", "sits", "squat", "fall", "bend")
POSES = ("sitting_down", "getting_up", "sitting", "standing", "walking", "jumping")
KINETICS = (
    "front_raises", "pull_ups", "clean_and_jerk", "presenting_weather_forecast", "deadlifting",
)  # fmt: skip
HMDB51 = (
    "throw", "push", "dribble", "shoot_gun", "hug", "smile", "fall_floor", "chew", "turn",
    "cartwheel", "stand", "draw_sword", "drink", "eat", "talk", "climb", "smoke", "pick",
    "shake_hands", "pushup", "swing_baseball", "somersault", "walk", "flic_flac", "run",
    "ride_horse", "sit", "kiss", "situp", "hit", "handstand", "climb_stairs", "pour", "shoot_bow",
    "kick_ball", "brush_hair", "sword_exercise", "dive", "fencing", "golf", "sword", "shoot_ball",
    "clap", "punch", "catch", "jump", "kick", "ride_bike", "wave", "laugh", "pullup",
)  # fmt: skip


def numbered(names) -> dict[str, int]:
    return {name: i for i, name in enumerate(names)}


# Data


def save_pairs(folder: Path, layout: str, names: tuple[str, ...], num_frames: int, num=16) -> None:
    """{train,val}_data.npy and _label.pkl as TAO has them: [sample names, numbers]."""
    draw = np.random.default_rng(0)
    for prefix, count in (("train", num), ("val", 3)):
        shape = (count, 3, num_frames, LAYOUTS[layout].num_joints, 1)
        np.save(folder / f"{prefix}_data.npy", draw.normal(0, 0.3, shape).astype(np.float32))
        labels = [i % len(names) for i in range(count)]
        with open(folder / f"{prefix}_label.pkl", "wb") as file:
            pickle.dump([[f"{prefix}_{i}" for i in range(count)], labels], file)


def save_frames_of(names, *, per_class: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        save_classes(folder / "train", 6, classes=names, per_class=per_class)
        save_classes(folder / "test", 6, classes=names[:2], per_class=1)

    return make


def save_hmdb51(folder: Path) -> None:
    """A video of 66 frames of each of 51 classes."""
    frames = np.random.default_rng(0).integers(0, 256, (66, 16, 16, 3), np.uint8)
    for split, names in (("train", HMDB51), ("test", HMDB51[:1])):
        for i, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            path = folder / split / name / "a.mp4"
            shifted = list(np.roll(frames, i, axis=0))
            make_video(path, frames=shifted, height=16, width=16, group=66, b_frames=0)


# Weights


def save_weights(path: Path, spec: Any, num_classes: int, *, in_lightnings_form: bool) -> None:
    """Weights of the model of `spec` for other classes, as TAO or as a public file has them."""
    other = with_values(spec, {"dataset.label_map": numbered(map(str, range(num_classes)))})
    state = build_model(other).state_dict()
    if in_lightnings_form:
        prefixed = {f"model.{name}": tensor for name, tensor in state.items()}
        torch.save({"epoch": 119, "global_step": 1, "state_dict": prefixed}, path)
    else:
        torch.save(state, path)


# Recipes


@dataclass(frozen=True)
class Recipe:
    """spec: as published, in flow style; {here} is the folder that `make` fills.

    cuts: what a training in seconds changes. pretrained: classes and form of the file that
    the spec starts from. told: of the notes on reading the spec. steps: of the cut training.
    later: what evaluation is told beside the same file.
    """

    network: str
    spec: str
    make: Callable[[Path], None]
    cuts: tuple[str, ...]
    steps: int
    epochs: int = 1
    pretrained: tuple[int, bool] | None = None
    told: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    later: tuple[str, ...] = ()


SMALL = ("model.input_width=32", "model.input_height=32", "dataset.workers=0")

RECIPES = {
    # cut: 20 epochs to 1, 224 pixels to 32, 8 workers to none; evaluated with the same file
    "tutorial, 3D RGB": Recipe(
        network="action_recognition",
        spec="""
results_dir: "{here}/results"
encryption_key: nvidia_tao
model: {{model_type: rgb, backbone: resnet_18, input_type: 3d, rgb_seq_length: 3,
  input_height: 224, input_width: 224, sample_strategy: consecutive, dropout_ratio: 0.0,
  rgb_pretrained_model_path: "{here}/resnet18_3d_rgb_hmdb5_32.tlt",
  rgb_pretrained_num_classes: 5}}
dataset:
  train_dataset_dir: "{here}/train"
  val_dataset_dir: "{here}/test"
  label_map: {{fall_floor: 0, ride_bike: 1}}
  batch_size: 32
  workers: 8
  clips_per_video: 5
  augmentation_config: {{train_crop_type: no_crop, horizontal_flip_prob: 0.5,
    rgb_input_mean: [0.5], rgb_input_std: [0.5], val_center_crop: False}}
train:
  optim: {{lr: 0.001, momentum: 0.9, weight_decay: 0.0001, lr_scheduler: MultiStep,
    lr_steps: [5, 15, 20], lr_decay: 0.1}}
  num_epochs: 20
  checkpoint_interval: 1
  num_gpus: 1
evaluate: {{checkpoint: "??", test_dataset_dir: "??"}}
inference: {{checkpoint: "??", inference_dataset_dir: "??"}}
export: {{checkpoint: "??"}}
""",
        make=save_frames_of(("fall_floor", "ride_bike"), per_class=4),
        cuts=(*SMALL, "train.num_epochs=1"),
        steps=1,  # 8 videos, 5 clips of each, 32 at once
        pretrained=(5, True),
        later=("evaluate.test_dataset_dir={here}/test",),
    ),
    # cut: 30 epochs to 1, 224 pixels to 32, no workers
    "documentation, 3D RGB": Recipe(
        network="action_recognition",
        spec="""
results_dir: "{here}/results"
model: {{model_type: rgb, backbone: resnet_18, input_type: 3d, rgb_seq_length: 3}}
dataset:
  train_dataset_dir: "{here}/train"
  val_dataset_dir: "{here}/test"
  label_map: {{walk: 0, sits: 1, squat: 2, fall: 3, bend: 4}}
train:
  optim: {{lr: 0.01, lr_scheduler: MultiStep, lr_steps: [5, 15, 25], lr_decay: 0.1}}
  num_epochs: 30
""",
        make=save_frames_of(SHAD, per_class=1),
        cuts=(*SMALL, "train.num_epochs=1"),
        steps=2,  # 5 videos, 2 at once
    ),
    # cut: 35 epochs to 1, 224 pixels to 16, 8 GPUs to one CPU, no workers; all 64 frames stay
    "I3D on HMDB51": Recipe(
        network="action_recognition",
        spec="""
results_dir: "{here}/results"
model: {{model_type: rgb, backbone: i3d, input_type: "3d", rgb_seq_length: 64,
  sample_strategy: consecutive, sample_rate: 1, dropout_ratio: 0.5,
  rgb_pretrained_model_path: "{here}/rgb_imagenet_kinetics.pt", rgb_pretrained_num_classes: 400}}
dataset:
  train_dataset_dir: "{here}/train"
  val_dataset_dir: "{here}/test"
  batch_size: 8
  workers: 8
  augmentation_config: {{train_crop_type: random_crop, horizontal_flip_prob: 0.5,
    val_center_crop: True, rgb_input_mean: [0.485, 0.456, 0.406],
    rgb_input_std: [0.229, 0.224, 0.225]}}
train:
  optim: {{lr: 0.01, momentum: 0.9, weight_decay: 0.0000001, lr_scheduler: MultiStep,
    lr_steps: [12, 25], lr_decay: 0.1}}
  num_epochs: 35
  num_gpus: 8
""",
        make=save_hmdb51,
        cuts=(
            "model.input_width=16",
            "model.input_height=16",
            "dataset.workers=0",
            "dataset.augmentation_config.crop_smaller_edge=18",
            "train.num_gpus=1",
            "train.num_epochs=1",
        ),
        steps=6,  # 51 videos, 8 at once
        pretrained=(400, False),
        told=("model.rgb_pretrained_num_classes has no effect",),
        more={"dataset.label_map": numbered(HMDB51)},
    ),
    # cut: 70 epochs to 5, 300 frames to 6; evaluated with the same file
    "pose, nvidia": Recipe(
        network="pose_classification",
        spec="""
results_dir: "{here}/results"
encryption_key: nvidia_tao
model: {{model_type: ST-GCN, pretrained_model_path: "", input_channels: 3, dropout: 0.5,
  graph_layout: "nvidia", graph_strategy: "spatial", edge_importance_weighting: True}}
dataset:
  train_dataset: {{data_path: "{here}/train_data.npy", label_path: "{here}/train_label.pkl"}}
  val_dataset: {{data_path: "{here}/val_data.npy", label_path: "{here}/val_label.pkl"}}
  num_classes: 6
  label_map: {{sitting_down: 0, getting_up: 1, sitting: 2, standing: 3, walking: 4, jumping: 5}}
  batch_size: 16
  num_workers: 1
train:
  optim: {{lr: 0.1, momentum: 0.9, nesterov: True, weight_decay: 0.0001,
    lr_scheduler: "MultiStep", lr_steps: [10, 60], lr_decay: 0.1}}
  num_epochs: 70
  num_gpus: 1
  checkpoint_interval: 5
dataset_convert: {{pose_type: "3dbp", num_joints: 34, input_width: 1920, input_height: 1080,
  focal_length: 1200.0, sequence_length_max: 300, sequence_length_min: 10, sequence_length: 100,
  sequence_overlap: 0.5}}
""",
        make=lambda folder: save_pairs(folder, "nvidia", POSES, 6),
        cuts=("train.num_epochs=5",),
        steps=1,
        epochs=5,
        later=(
            "evaluate.test_dataset.data_path={here}/val_data.npy",
            "evaluate.test_dataset.label_path={here}/val_label.pkl",
        ),
    ),
    # cut: 50 epochs to 5 (TAO's packaged spec has 5), 300 frames to 160, of which 150 are seen
    "pose, kinetics": Recipe(
        network="pose_classification",
        spec="""
results_dir: "{here}/results"
encryption_key: nvidia_tao
model: {{model_type: ST-GCN, pretrained_model_path: "", input_channels: 3, dropout: 0.5,
  graph_layout: "openpose", graph_strategy: "spatial", edge_importance_weighting: True}}
dataset:
  train_dataset: {{data_path: "{here}/train_data.npy", label_path: "{here}/train_label.pkl"}}
  val_dataset: {{data_path: "{here}/val_data.npy", label_path: "{here}/val_label.pkl"}}
  num_classes: 5
  label_map: {{front_raises: 0, pull_ups: 1, clean_and_jerk: 2, presenting_weather_forecast: 3,
    deadlifting: 4}}
  random_choose: True
  random_move: True
  window_size: 150
  batch_size: 16
  num_workers: 1
train:
  optim: {{lr: 0.1, momentum: 0.9, nesterov: True, weight_decay: 0.0001,
    lr_scheduler: "MultiStep", lr_steps: [20, 30, 40], lr_decay: 0.1}}
  num_epochs: 50
  checkpoint_interval: 5
""",
        make=lambda folder: save_pairs(folder, "openpose", KINETICS, 160),
        cuts=("train.num_epochs=1", "train.checkpoint_interval=1"),
        steps=1,
    ),
}


def written(recipe: Recipe, here: Path) -> Path:
    """The spec file of a recipe."""
    tree = yaml.safe_load(recipe.spec.format(here=here))
    for key, value in recipe.more.items():
        block, name = key.split(".")
        tree[block][name] = value
    (here / "spec.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return here / "spec.yaml"


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that a spec says."""
    for name, value in tree.items():
        if isinstance(value, dict) and name != "label_map":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read(recipe: Recipe, path: Path) -> tuple[Any, tuple[str, ...]]:
    return load_spec(load_specs(recipe.network)["train"], path)


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_is_accepted_as_it_was_published(title, tmp_path):
    recipe = RECIPES[title]
    path = written(recipe, tmp_path)
    spec, notes = read(recipe, path)
    said = dict(leaves(yaml.safe_load(path.read_text())))
    assert len(said) > 8
    for key, value in said.items():
        assert value_at(spec, key) == (None if value in ("", "??") else value), key
    assert [note[: len(told)] for note, told in zip(notes, recipe.told, strict=True)] == list(
        recipe.told
    )


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_trains(title, tmp_path, capsys):
    recipe = RECIPES[title]
    recipe.make(tmp_path)
    path = written(recipe, tmp_path)
    spec, _ = read(recipe, path)
    if recipe.pretrained:
        num_classes, in_lightnings_form = recipe.pretrained
        save_weights(Path(spec.model.rgb_pretrained_model_path), spec, num_classes,
                     in_lightnings_form=in_lightnings_form)  # fmt: skip
    words = [recipe.network, "train", "-e", str(path), "device=cpu", *recipe.cuts]
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out.endswith("Execution status: PASS\n")
    folder = tmp_path / "results" / "train"
    rows = read_metrics(folder / "metrics.csv")
    steps = recipe.steps * recipe.epochs
    assert [int(row["step"]) for row in rows] == list(range(recipe.steps, steps + 1, recipe.steps))
    assert all(float(row["lr"]) == spec.train.optim.lr for row in rows)
    assert all(float(row["train_loss"]) > 0 and row["val_acc"] for row in rows)
    (checkpoint,) = folder.glob("model_epoch_*")
    assert checkpoint.name == f"model_epoch_{recipe.epochs - 1:03d}_step_{steps:05d}.pth"
    prefix = load_network(recipe.network).prefix
    assert (folder / f"{prefix}_model_latest.pth").resolve() == checkpoint.resolve()
    if recipe.pretrained:
        assert "new head, other number of classes: " in err
        assert "left as initialised" not in err
    if recipe.later:
        asked = [word.format(here=tmp_path) for word in recipe.later]
        words = [recipe.network, "evaluate", "-e", str(path), "device=cpu", *recipe.cuts, *asked]
        latest = folder / f"{prefix}_model_latest.pth"
        assert cli.main([*words, f"evaluate.checkpoint={latest}"]) == 0
        measured = json.loads((tmp_path / "results/evaluate/metrics.json").read_text())
        assert measured["accuracy"] == pytest.approx(100 * float(rows[-1]["val_acc"]), abs=1e-3)


# The smallest specs


LABELS = "dataset.label_map={catch: 0, smile: 1}"
FAST = (*SMALL, "train.num_epochs=1")  # beside the keys, where no test may take minutes


def run(*words: Any) -> None:
    assert cli.main([str(word) for word in words]) == 0


def last_status(folder: Path) -> str:
    return json.loads((folder / "status.json").read_text().splitlines()[-1])["status"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    save_classes(folder / "train", 5, per_class=1)
    save_classes(folder / "test", 5, per_class=1)
    return folder


def train_smallest_video(videos: Path, results: Path, *words: str) -> Path:
    """The row of action recognition, train; returns the checkpoint."""
    run("action_recognition", "train", f"results_dir={results}",
        f"dataset.train_dataset_dir={videos / 'train'}", LABELS,
        f"dataset.val_dataset_dir={videos / 'test'}", *words)  # fmt: skip
    return results / "train" / "ar_model_latest.pth"


def later_smallest_video(
    action: str, checkpoint: Path, videos: Path, results: Path, *model: str
) -> Path:
    """The rows of evaluate, inference and export; `model` is the model block of training."""
    own = {
        "evaluate": f"evaluate.test_dataset_dir={videos / 'test'}",
        "inference": f"inference.inference_dataset_dir={videos / 'test' / 'smile'}",
        "export": f"export.onnx_file={results / 'ours.onnx'}",
    }
    run("action_recognition", action, f"results_dir={results}", f"{action}.checkpoint={checkpoint}",
        own[action], LABELS, *model)  # fmt: skip
    assert last_status(results / action) == "SUCCESS"
    return results


@pytest.fixture(scope="module")
def video_checkpoint(videos, tmp_path_factory):
    return train_smallest_video(videos, tmp_path_factory.mktemp("trained"), *FAST)


def test_the_smallest_video_training_leaves_what_later_actions_need(video_checkpoint):
    assert last_status(video_checkpoint.parent) == "SUCCESS"
    assert video_checkpoint.resolve().name == "model_epoch_000_step_00001.pth"


def test_the_smallest_video_evaluation_and_inference_run(
    video_checkpoint, videos, tmp_path, capsys
):
    model = [*SMALL[:2], "dataset.workers=0"]
    later_smallest_video("evaluate", video_checkpoint, videos, tmp_path, *model)
    assert "Average class accuracy: " in capsys.readouterr().out
    later_smallest_video("inference", video_checkpoint, videos, tmp_path, *model)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] in ("v0 : ['catch']", "v0 : ['smile']")
    assert printed[1:] == ["Execution status: PASS"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_smallest_video_specs_run_with_nothing_added(videos, tmp_path):
    """224 pixels, ten epochs, eight workers: what the keys leave to the defaults."""
    checkpoint = train_smallest_video(videos, tmp_path)
    assert checkpoint.resolve().name == "model_epoch_009_step_00010.pth"
    for action in ("evaluate", "inference", "export"):
        later_smallest_video(action, checkpoint, videos, tmp_path)
    assert (tmp_path / "ours.onnx").stat().st_size > 10_000_000


POSE_MODEL = (
    "dataset.num_classes=6", "model.graph_layout=nvidia",
    f"dataset.label_map={{{', '.join(f'{name}: {i}' for i, name in enumerate(POSES))}}}",
)  # fmt: skip


@pytest.fixture(scope="module")
def pose_run(tmp_path_factory):
    """The row of pose classification, train: the keys and nothing else, ten epochs."""
    folder = tmp_path_factory.mktemp("pose")
    save_pairs(folder, "nvidia", POSES, 6)
    paths = [
        f"dataset.{split}_dataset.{kind}_path={folder / f'{split}_{kind}.{ending}'}"
        for split in ("train", "val")
        for kind, ending in (("data", "npy"), ("label", "pkl"))
    ]
    run("pose_classification", "train", f"results_dir={folder}", *paths, *POSE_MODEL)
    return folder


def test_the_smallest_pose_training_runs_with_nothing_added(pose_run):
    assert last_status(pose_run / "train") == "SUCCESS"
    names = sorted(path.name for path in (pose_run / "train").glob("model_epoch_*"))
    assert names == [f"model_epoch_{e:03d}_step_{e + 1:05d}.pth" for e in range(10)]


def test_the_smallest_pose_evaluation_and_inference_run_with_nothing_added(
    pose_run, tmp_path, capsys
):
    test = [f"evaluate.test_dataset.data_path={pose_run / 'val_data.npy'}",
            f"evaluate.test_dataset.label_path={pose_run / 'val_label.pkl'}"]  # fmt: skip
    checkpoint = pose_run / "train" / "pc_model_latest.pth"
    results = f"results_dir={tmp_path}"
    run("pose_classification", "evaluate", results, f"evaluate.checkpoint={checkpoint}", *test,
        *POSE_MODEL)  # fmt: skip
    assert "Total accuracy" in capsys.readouterr().out
    run("pose_classification", "inference", results, f"inference.checkpoint={checkpoint}",
        f"inference.test_dataset.data_path={pose_run / 'val_data.npy'}",
        f"inference.output_file={tmp_path / 'classes.txt'}", *POSE_MODEL)  # fmt: skip
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    assert len(lines) == 3
    assert set(lines) <= set(POSES)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_smallest_pose_export_runs_with_nothing_added(pose_run, tmp_path):
    run("pose_classification", "export", f"results_dir={tmp_path}",
        f"export.checkpoint={pose_run / 'train' / 'pc_model_latest.pth'}",
        f"export.onnx_file={tmp_path / 'ours.onnx'}", *POSE_MODEL)  # fmt: skip
    assert (tmp_path / "ours.onnx").stat().st_size > 10_000_000


def test_the_smallest_conversion_runs_with_nothing_added(tmp_path):
    run("pose_classification", "dataset_convert", f"results_dir={tmp_path}",
        f"dataset_convert.data={poses(tmp_path)}", "dataset_convert.pose_type=3dbp",
        "dataset_convert.num_joints=34")  # fmt: skip
    assert np.load(tmp_path / "dataset_convert" / "object_0.npy").shape == (1, 3, 300, 34, 1)
