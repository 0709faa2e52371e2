"""Specs of action recognition: rows S01-S05 of the fault catalogue, and TAO's own numbers."""

import json

import pytest
import yaml

from kineme.action_recognition.recipes import RECIPES
from kineme.action_recognition.settings import ALIASES, FORMATS, STREAMS
from kineme.action_recognition.spec import SPECS
from kineme.errors import SpecError
from kineme.pose_classification.spec import SPECS as POSE_SPECS
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set, value_at
from kineme.spec.schema import json_schema, markdown, resolved, template

TRAIN = SPECS["train"]
MINIMUM = {"results_dir": "out", "dataset.train_dataset_dir": "train"}
ALL_MINIMUM = {
    "dataset_convert": {"results_dir": "out", "dataset_convert.data": "videos"},
    "train": MINIMUM,
    "evaluate": {
        "results_dir": "out",
        "evaluate.checkpoint": "m.pth",
        "evaluate.test_dataset_dir": "test",
    },
    "inference": {
        "results_dir": "out",
        "inference.checkpoint": "m.pth",
        "inference.inference_dataset_dir": "test/smile",
    },
    "export": {"results_dir": "out", "export.checkpoint": "m.pth"},
}


def refused(source=None, action="train"):
    """The problems, one string each, of a spec that must not load."""
    with pytest.raises(SpecError) as caught:
        load_spec(SPECS[action], {**ALL_MINIMUM[action], **(source or {})})
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def loaded(source=None, action="train"):
    return load_spec(SPECS[action], {**ALL_MINIMUM[action], **(source or {})})


# TAO's own numbers: contract 1.1 to 1.4

TAO = yaml.safe_load("""
model: {model_type: rgb, backbone: resnet_18, input_type: 2d, rgb_seq_length: 3, of_seq_length: 10,
  rgb_pretrained_model_path: null, of_pretrained_model_path: null,
  joint_pretrained_model_path: null, rgb_pretrained_num_classes: 5, of_pretrained_num_classes: 5,
  num_fc: 64, sample_strategy: random_interval, sample_rate: 1, imagenet_pretrained: false,
  dropout_ratio: 0.5, input_width: 224, input_height: 224}
dataset: {train_dataset_dir: null, val_dataset_dir: null, label_map: null, batch_size: 2,
  workers: 8, clips_per_video: 1}
dataset.augmentation_config: {train_crop_type: random_crop, scales: [1.0],
  horizontal_flip_prob: 0.5, rgb_input_mean: [0.485, 0.456, 0.406],
  rgb_input_std: [0.229, 0.224, 0.225], of_input_mean: [0.5], of_input_std: [0.5],
  val_center_crop: false, crop_smaller_edge: 256}
train: {num_gpus: 1, gpu_ids: [0], num_nodes: 1, seed: 1234, num_epochs: 10,
  checkpoint_interval: 1, checkpoint_interval_unit: epoch, validation_interval: 1,
  resume_training_checkpoint_path: null, results_dir: null, clip_grad_norm: 0.0}
train.cudnn: {benchmark: false, deterministic: true}
train.optim: {lr: 0.0005, momentum: 0.9, weight_decay: 0.0005, lr_scheduler: MultiStep,
  lr_monitor: val_loss, patience: 1, min_lr: 0.0001, lr_steps: [15, 25], lr_decay: 0.1}
evaluate: {num_gpus: 1, gpu_ids: [0], num_nodes: 1, checkpoint: null, trt_engine: null,
  results_dir: null, test_dataset_dir: null, video_eval_mode: center, video_num_segments: 10}
inference: {num_gpus: 1, gpu_ids: [0], num_nodes: 1, checkpoint: null, trt_engine: null,
  results_dir: null, inference_dataset_dir: null, video_inf_mode: center, video_num_segments: 1}
export: {checkpoint: null, onnx_file: null, gpu_id: 0, batch_size: 1, results_dir: null}
wandb: {enable: true, project: TAO Toolkit, reinit: false}
""")
DEFAULTS = {f"{name}.{key}": value for name, keys in TAO.items() for key, value in keys.items()}


def test_every_field_of_tao_is_there_with_its_default_and_is_not_called_ours():
    known = settings_by_key(TRAIN)
    for key, default in DEFAULTS.items():
        assert known[key].default == default, key
        assert not known[key].rule.ours, key


def test_an_untouched_spec_has_these_values_and_no_notes():
    spec, notes = loaded()
    assert notes == ()
    for key, default in {**DEFAULTS, "dataset.train_dataset_dir": "train"}.items():
        assert value_at(spec, key) == default, key


def test_automl_searches_what_tao_searches():
    searched = json_schema(TRAIN)["automl_default_parameters"]
    assert searched == ["model.dropout_ratio", "train.optim.lr"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.dropout_ratio", 1.5, "a number in [0, 1], got 1.5"),
        ("model.sample_rate", 0, "an integer >= 1, got 0"),
        ("model.rgb_seq_length", 0, "an integer >= 1, got 0"),
        ("model.model_type", "flow", "one of 'joint', 'of', 'rgb', got 'flow'"),
        ("model.backbone", "resnet18", "got 'resnet18'. Did you mean 'resnet_18'?"),
        ("train.optim.momentum", 1.5, "a number in [0, 1], got 1.5"),
        ("train.optim.lr_decay", 2, "a number in [0, 1], got 2"),
        ("train.optim.lr", -1, "a number >= 0, got -1"),
        ("train.clip_grad_norm", -1, "a number >= 0, got -1"),
        ("train.optim.optimizer_type", "Adamax", "one of 'Adam', 'AdamW', 'SGD', got 'Adamax'"),
        ("dataset.augmentation_config.horizontal_flip_prob", 2, "a number in [0, 1], got 2"),
        ("dataset.augmentation_config.scales", [0.5, 1.5], "a list of numbers in (0, 1], got"),
        ("dataset.augmentation_config.rgb_input_std", [0], "a list of numbers > 0, got [0]"),
        ("dataset.short_clip", "cut", "one of 'drop', 'error', 'loop', 'pad', got 'cut'"),
        ("evaluate.video_eval_mode", "centre", "got 'centre'. Did you mean 'center'?"),
        ("dataset_convert.image_quality", 0, "an integer in [1, 100], got 0"),
    ],
)
def test_bounds_and_choices_are_told(key, value, expected):
    (problem,) = refused({key: value})
    assert problem.startswith(f"spec: {key}: expected ")
    assert expected in problem


# S01, S04


def test_a_key_of_the_other_network_is_unknown_here():
    (problem,) = refused({"dataset.train_dataset": {"data_path": "x"}})
    assert problem == (
        "spec: dataset.train_dataset: expected a known key, got an unknown key. "
        "Did you mean dataset.train_dataset_dir?"
    )
    assert "an unknown key" in refused({"model.graph_layout": "nvidia"})[0]


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("dataset_convert", "results_dir and dataset_convert.data"),
        ("train", "results_dir and dataset.train_dataset_dir"),
        ("evaluate", "results_dir and evaluate.checkpoint and evaluate.test_dataset_dir"),
        ("inference", "results_dir and inference.checkpoint and inference.inference_dataset_dir"),
        ("export", "results_dir and export.checkpoint"),
    ],
)
def test_all_missing_keys_of_an_action_are_in_one_message_whose_example_works(action, missing):
    with pytest.raises(SpecError) as caught:
        load_spec(SPECS[action])
    (problem,) = (str(problem) for problem in caught.value.problems)
    assert problem.startswith(f"action_recognition {action}: expected values for {missing}, got")
    overrides = problem.split("Set for example ")[1].split(" ")
    assert load_spec(SPECS[action], None, overrides)[1] == ()


@pytest.mark.parametrize("action", SPECS)
def test_no_action_needs_a_label_map(action):
    assert loaded(action=action)[0].dataset.label_map is None


# S05 and the crashes of contract 8.1


def test_c12_i3d_with_2d_is_refused_naming_both_keys_and_values():
    problems = refused({"model.backbone": "i3d", "model.rgb_seq_length": 64})
    assert problems == [
        "spec: model.backbone: expected '3d' in model.input_type, got 'i3d' with '2d'. "
        "Set model.input_type=3d, or another backbone."
    ]


def test_c11_i3d_needs_eight_frames_of_every_stream_it_sees():
    i3d = {"model.backbone": "i3d", "model.input_type": "3d"}
    assert refused(i3d) == [
        "model.rgb_seq_length: expected at least 8, as model.backbone is i3d, got 3. "
        "Its public weights know clips of 64 frames."
    ]
    loaded({**i3d, "model.rgb_seq_length": 8})
    loaded({**i3d, "model.model_type": "of"})  # ten frames of flow
    short = {**i3d, "model.model_type": "joint", "model.of_seq_length": 7}
    assert [problem.split(": expected")[0] for problem in refused(short)] == [
        "model.rgb_seq_length",
        "spec: model.of_seq_length",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"model.backbone": "efficientnet_lite0", "model.input_type": "3d"},
            "model.backbone: expected '2d' in model.input_type, got 'efficientnet_lite0' with "
            "'3d'. Set model.input_type=2d (model.temporal=shift sees motion), or another",
        ),
        (
            {"model.temporal": "shift", "model.input_type": "3d"},
            "model.temporal: expected 'stack' where model.input_type is 3d, got 'shift'.",
        ),
        ({"dataset.label_map": {"a": 0, "b": 0}}, "ids 0 to 1, each once, got ids [0, 0] (repeat"),
        ({"dataset.label_map": {"a": 0, "b": 2}}, "ids 0 to 1, each once, got ids [0, 2] (with g"),
        (
            {"train.checkpoint_interval": 11},
            "train.checkpoint_interval: expected at most train.num_epochs, which is 10, got 11.",
        ),
        ({"train.optim.warmup_epochs": 10}, "expected less than train.num_epochs, which is 10"),
        (
            {"train.class_weights": [1.0], "dataset.label_map": {"a": 0, "b": 1}},
            "expected 2 weights, one per class of dataset.label_map, got 1.",
        ),
        ({"train.num_gpus": 3, "train.gpu_ids": [0]}, "expected 3 ids, as train.num_gpus is 3"),
        (
            {"dataset.augmentation_config.crop_smaller_edge": 200},
            "crop_smaller_edge: expected at least 224, as model.input_width x input_height is "
            "224 x 224, got 200. The crop would not fit into the frame.",
        ),
        (
            {
                "dataset.augmentation_config.train_crop_type": "multi_scale_crop",
                "dataset.augmentation_config.scales": [],
            },
            "scales: expected a scale, as train_crop_type is multi_scale_crop, got [].",
        ),
        (
            {"dataset.augmentation_config.rgb_input_mean": [0.5, 0.5]},
            "rgb_input_mean: expected 1 or 3 numbers, or none at all, got [0.5, 0.5].",
        ),
        (
            {"model.model_type": "of", "dataset.augmentation_config.of_input_std": []},
            "expected numbers in both it and dataset.augmentation_config.of_input_std, "
            "or in neither, got [0.5] and [].",
        ),
        (
            {"model.pretrained_model_path": "a.pth", "model.rgb_pretrained_model_path": "b.pth"},
            "model.pretrained_model_path: expected what model.rgb_pretrained_model_path says, "
            "'b.pth', got 'a.pth'. Keep one of them",
        ),
    ],
)
def test_settings_that_contradict_are_named_with_both_values(source, expected):
    (problem,) = refused(source)
    assert expected in problem


def test_the_crop_may_be_larger_than_the_shorter_edge_where_nothing_is_cropped_to_it():
    edge = {"dataset.augmentation_config.crop_smaller_edge": 200}
    crop = "dataset.augmentation_config.train_crop_type"
    loaded({**edge, crop: "multi_scale_crop"})
    loaded({**edge, crop: "no_crop"})
    wide = {"model.input_width": 320, "model.input_height": 200}  # fits frames of 4:3
    loaded({**edge, **wide})


def test_two_empty_lists_mean_that_nothing_is_normalised():
    empty = {f"dataset.augmentation_config.rgb_input_{name}": [] for name in ("mean", "std")}
    assert loaded(empty)[0].dataset.augmentation_config.rgb_input_mean == []


def test_what_a_model_is_contradicts_only_when_it_is_trained():
    for action in ("evaluate", "inference", "export", "dataset_convert"):
        assert loaded({"model.backbone": "i3d"}, action)[1] == ()


def test_batch_size_zero_is_refused_and_minus_one_means_that_of_the_data():
    assert loaded(action="evaluate")[0].evaluate.batch_size == -1
    (problem,) = refused({"evaluate.batch_size": 0}, "evaluate")
    assert "expected -1 (as in dataset) or at least 1, got 0." in problem


# What follows, and what has no effect


@pytest.mark.parametrize(("kind", "prefix"), [("rgb", "rgb"), ("of", "of"), ("joint", "joint")])
def test_the_pretrained_key_of_the_product_text_means_the_active_stream(kind, prefix):
    source = {"model.model_type": kind, "model.pretrained_model_path": "w.pth"}
    spec, notes = loaded(source)
    key = f"model.{prefix}_pretrained_model_path"
    assert value_at(spec, key) == "w.pth"
    assert notes == (f"model.pretrained_model_path is read as {key}: model.model_type is {kind}.",)
    others = {"rgb", "of", "joint"} - {prefix}
    assert all(value_at(spec, f"model.{name}_pretrained_model_path") is None for name in others)


def test_the_streams_and_lengths_of_a_model_follow_its_type():
    assert {kind: loaded({"model.model_type": kind})[0].model.lengths for kind in STREAMS} == {
        "rgb": {"rgb": 3},
        "of": {"flow": 10},
        "joint": {"rgb": 3, "flow": 10},
    }
    assert loaded({"model.model_type": "joint"})[0].model.streams == ("rgb", "flow")


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        ({"model.sample_rate": 2}, ["model.sample_rate has no effect: model.sample_strategy is r"]),
        ({"model.sample_rate": 2, "model.sample_strategy": "consecutive"}, []),
        (
            {"model.of_seq_length": 5},
            ["model.of_seq_length has no effect: model.model_type is rgb."],
        ),
        (
            {"model.model_type": "of", "model.rgb_seq_length": 5},
            ["model.rgb_seq_length has no effect: model.model_type is of."],
        ),
        ({"model.model_type": "joint", "model.rgb_seq_length": 5, "model.of_seq_length": 5}, []),
        ({"model.num_fc": 32}, ["model.num_fc has no effect: model.model_type is rgb."]),
        (
            {"model.shift_fraction": 0.25},
            ["model.shift_fraction has no effect: model.temporal is stack."],
        ),
        (
            {"model.rgb_pretrained_num_classes": 0},
            ["model.rgb_pretrained_num_classes has no effect: the file itself says how many"],
        ),
        (
            {"model.of_pretrained_model_path": "w.pth"},
            ["model.of_pretrained_model_path has no effect: model.model_type is rgb."],
        ),
        (
            {
                "model.model_type": "joint",
                "model.joint_pretrained_model_path": "j.pth",
                "model.rgb_pretrained_model_path": "r.pth",
            },
            ["model.rgb_pretrained_model_path has no effect: model.joint_pretrained_model_path"],
        ),
        (
            {
                "model.backbone": "i3d",
                "model.input_type": "3d",
                "model.rgb_seq_length": 64,
                "model.imagenet_pretrained": True,
            },
            ["model.imagenet_pretrained has no effect: there are no ImageNet weights of i3d."],
        ),
        (
            {"model.imagenet_weights": "i.pth"},
            ["model.imagenet_weights has no effect: model.imagenet_pretrained is false."],
        ),
        (
            {"dataset.flow_method": "tvl1"},
            ["dataset.flow_method has no effect: model.model_type is rgb."],
        ),
        (
            {
                "model.model_type": "of",
                "dataset.flow_scaling": "per_frame",
                "dataset.flow_bound": 9.0,
            },
            ["dataset.flow_bound has no effect: dataset.flow_scaling is per_frame."],
        ),
        (
            {"dataset.augmentation_config.scales": [1.0, 0.5]},
            ["dataset.augmentation_config.scales has no effect: dataset.augmentation_config.train"],
        ),
        (
            {
                "dataset.augmentation_config.train_crop_type": "no_crop",
                "dataset.augmentation_config.crop_smaller_edge": 300,
            },
            ["dataset.augmentation_config.crop_smaller_edge has no effect: dataset.augmentation"],
        ),
        (
            {"evaluate.video_num_segments": 5, "evaluate.video_eval_mode": "all"},
            ["evaluate.video_num_segments has no effect: evaluate.video_eval_mode is all."],
        ),
        (
            {"evaluate.video_num_segments": 5, "evaluate.video_eval_mode": "conv"},
            ["evaluate.video_num_segments has no effect: model.sample_strategy is random_interval"],
        ),
        (
            {"train.optim": {"optimizer_type": "AdamW", "momentum": 0.5, "lr_steps": [15, 25]}},
            ["train.optim.momentum has no effect: train.optim.optimizer_type is AdamW."],
        ),
        (
            {"train.optim": {"lr_scheduler": "cosine", "patience": 2}},
            ["train.optim.patience has no effect: train.optim.lr_scheduler is cosine."],
        ),
        (
            {"dataset.augmentation_config.mixup_alpha": 0.2, "dataset.batch_size": 1},
            ["dataset.augmentation_config.mixup_alpha has no effect: dataset.batch_size is 1."],
        ),
        ({"export.batch_size": 4}, ["export.batch_size has no effect: an exported model takes"]),
        ({"evaluate.trt_engine": "x"}, ["evaluate.trt_engine has no effect: there is no TensorRT"]),
    ],
)
def test_a_setting_without_effect_is_noted(source, notes):
    _, found = loaded(source)
    assert len(found) == len(notes), found
    assert all(text.startswith(note) for text, note in zip(found, notes, strict=True)), found


def test_later_the_checkpoint_says_how_frames_are_sampled():
    conv = {"evaluate.video_eval_mode": "conv", "evaluate.video_num_segments": 5}
    assert loaded({**conv, "model.of_seq_length": 5}, "evaluate")[1] == ()


def test_splits_have_no_effect_on_a_plain_folder_of_videos():
    _, notes = loaded({"dataset_convert.split": 2}, "dataset_convert")
    assert notes == ("dataset_convert.split has no effect: dataset_convert.format is videos.",)
    assert loaded({"dataset_convert": {"format": "hmdb", "split": 2}}, "dataset_convert")[1] == ()


@pytest.mark.parametrize(("short", "key"), ALIASES.items())
def test_short_keys_are_read_as_long_ones_with_a_note(short, key):
    spec, notes = loaded({short: 3})
    assert notes[0] == f"spec: {short} is read as {key}."
    assert value_at(spec, key) == 3
    assert key in user_set(spec)


def test_the_spec_of_the_product_text_loads():
    source = {
        "train.num_epochs": 30,
        "train.checkpoint_interval": 10,
        "train.validation_interval": 10,
        "dataset.label_map": {"catch": 0, "smile": 1},
        "dataset.batch_size": 2,
        "dataset.train_dataset_dir": "train.tar.gz",
        "dataset.val_dataset_dir": "test.tar.gz",
        "results_dir": "out",
        "export.onnx_file": "",
    }
    spec, notes = load_spec(TRAIN, source)
    assert notes == ()
    assert spec.dataset.label_map == {"catch": 0, "smile": 1}
    assert spec.export.onnx_file is None


# Recipes, templates, both networks


def test_a_recipe_lies_beneath_the_users_values():
    spec, notes = loaded({"recipe": "modern", "model.rgb_seq_length": 16})
    assert notes == ()
    assert (spec.model.backbone, spec.model.temporal) == ("efficientnet_lite0", "shift")
    assert (spec.model.rgb_seq_length, spec.model.of_seq_length) == (16, 8)
    assert "model.backbone" not in user_set(spec)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("num_epochs", [1, 30])
def test_every_recipe_is_a_valid_spec(name, kind, num_epochs):
    source = {"recipe": name, "model.model_type": kind, "train.num_epochs": num_epochs}
    spec, notes = loaded(source)
    assert notes == ()
    assert all(value_at(spec, key) == value for key, value in RECIPES[name].items())


@pytest.mark.parametrize("action", SPECS)
def test_templates_and_resolved_specs_read_back_as_the_same_spec(action):
    spec, notes = load_spec(SPECS[action], yaml.safe_load(template(SPECS[action])))
    assert notes == ()
    again, notes = load_spec(SPECS[action], json.loads(json.dumps(resolved(spec))))
    assert notes == ()
    assert again == spec


def test_a_resolved_spec_with_pretrained_weights_reads_back_without_a_contradiction():
    spec, _ = loaded({"model.pretrained_model_path": "w.pth"})
    again, notes = load_spec(TRAIN, resolved(spec))
    assert (again, notes) == (spec, ())


def test_every_field_says_what_it_is_and_the_reference_has_them_all():
    text = markdown(SPECS)
    for key, declared in settings_by_key(TRAIN).items():
        assert declared.doc, key
        assert f"| `{key.rsplit('.', 1)[-1]}`" in text
    assert all(name in settings_by_key(TRAIN)["dataset_convert.format"].rule.choices
               for name in FORMATS)  # fmt: skip


def test_what_both_networks_have_in_common_is_declared_once():
    video, pose = settings_by_key(TRAIN), settings_by_key(POSE_SPECS["train"])
    for key in ("train.optim.lr_scheduler", "train.optim.min_lr", "export.onnx_file",
                "evaluate.batch_size", "train.ema_decay", "results_dir"):  # fmt: skip
        assert video[key] == pose[key]
    assert pose["train.optim.lr"].default == 0.1
    assert video["train.optim.lr"].default == 5e-4
