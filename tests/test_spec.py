"""From what users write to a frozen spec: rows S01-S05 and S08 of the fault catalogue."""

import json
import random
import string

import pytest

from kineme.pose_classification.layouts import LAYOUTS, layout_facts
from kineme.pose_classification.settings import ALIASES
from kineme.pose_classification.spec import SPECS
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set
from kineme.spec.suggest import did_you_mean, suggested_key
from specs_read import MINIMUM, TRAIN, loaded, refused, write

# S01


def test_an_unknown_key_is_named_with_its_line_and_the_likely_meaning(tmp_path):
    path = write(tmp_path, "train:\n  seed: 1\n  num_epoch: 3\n")
    expected = "expected a known key, got an unknown key. Did you mean train.num_epochs?"
    assert refused(path) == [f"{path}:5: train.num_epoch: {expected}"]


def test_the_value_of_an_unknown_key_is_never_shown():
    (problem,) = refused({**MINIMUM, "wandb": {"api_key": "hunter2"}})
    assert "hunter2" not in problem


def test_a_key_in_the_wrong_block_is_sent_to_the_right_one():
    (problem,) = refused({**MINIMUM, "dataset": {"graph_layout": "coco"}})
    assert problem.endswith("Did you mean model.graph_layout?")


def test_of_200_random_typos_at_least_95_percent_get_the_right_suggestion():
    draw = random.Random(20)
    keys = sorted(settings_by_key(TRAIN))
    right = 0
    for _ in range(200):
        key = draw.choice(keys)
        parents, _, leaf = key.rpartition(".")
        typo = _with_one_edit(leaf, draw)
        written = f"{parents}.{typo}" if parents else typo
        right += written in keys or suggested_key(TRAIN, written) == key
    assert right >= 190


def _with_one_edit(word, draw):
    at = draw.randrange(len(word))
    letter = draw.choice(string.ascii_lowercase)
    edits = [word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
    if len(word) > 2:
        edits.append(word[:at] + word[at + 1 :])
    if at + 1 < len(word):
        edits.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    return draw.choice(edits)


def test_a_word_like_nothing_gets_no_suggestion():
    (problem,) = refused({**MINIMUM, "xyzzyplugh": 1})
    assert problem.endswith("got an unknown key.")


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("trian", ["train", "evaluate"], "Did you mean train?"),
        ("max", ["maximize", "minimize"], "Did you mean maximize?"),
        ("m", ["maximize", "minimize"], "look"),  # too short to be the beginning of one
        ("pre", ["present", "precise"], "look"),  # the beginning of two
        (7, ["train"], "look"),
        ("7", [7, None], "look"),
        ("x" * 65, ["x" * 64], "look"),
    ],
)
def test_a_word_is_repaired_by_what_is_close_to_it_or_begins_with_it(word, known, said):
    assert did_you_mean(word, known, otherwise="look") == said


def test_a_repair_is_written_as_it_is_to_be_typed():
    assert did_you_mean("sede", ["seed"], shown=lambda name: f"automl.{name}") == (
        "Did you mean automl.seed?"
    )
    assert did_you_mean("xyzzy", ["seed"]) == ""


# S02


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.optim.lr", "abc", "a number >= 0, got 'abc'"),
        ("train.optim.lr", True, "a number >= 0, got True"),
        ("train.num_epochs", True, "an integer >= 1, got True"),
        ("train.num_epochs", 1.5, "an integer >= 1, got 1.5"),
        ("train.num_epochs", "ten", "an integer >= 1, got 'ten'"),
        ("dataset.batch_size", [4], "an integer >= 1, got [4]"),
        ("train.gpu_ids", 0, "a list of integers >= 0, got 0"),
        ("train.optim.lr_steps", ["a"], "a list of integers >= 0, got ['a']"),
        ("dataset.random_move", "maybe", "true or false, got 'maybe'"),
        ("dataset.random_move", 1, "true or false, got 1"),
        ("results_dir", ["a"], "text, got ['a']"),
        ("dataset.label_map", {"a": "b"}, "a mapping of names to integers >= 0, got {'a': 'b'}"),
        ("dataset.train_dataset", 5, "a block with keys (data_path, label_path), got 5"),
        ("model.graph_layout", "nvida", "'sbu-15', got 'nvida'. Did you mean 'nvidia'?"),
        (
            "model.streams",
            ["joint", "bones"],
            "a list of texts, each one of 'bone', 'bone_motion', 'joint', 'joint_motion', "
            "got ['joint', 'bones']. Did you mean 'bone'?",
        ),
        ("train.class_weights", "even", "'none' or a list of numbers >= 0, got 'even'"),
        ("dataset.augmentation.scale", [1.0], "a list of 2 numbers > 0, got [1.0]"),
        ("train.optim.lr", float("inf"), "a number >= 0, got inf"),
        ("train.optim.lr", float("nan"), "a number >= 0, got nan"),
    ],
)
def test_a_value_of_the_wrong_type_is_met_with_what_was_expected(key, value, expected):
    (problem,) = refused({**MINIMUM, key: value})
    assert problem.startswith(f"spec: {key}: expected ")
    assert expected in problem


def test_a_wrong_type_in_a_file_is_told_with_its_line(tmp_path):
    path = write(tmp_path, "train:\n  optim:\n    lr: abc\n")
    assert refused(path) == [f"{path}:5: train.optim.lr: expected a number >= 0, got 'abc'."]


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("train.num_epochs", 30.0, 30),
        ("train.optim.lr", "1e-3", 0.001),
        ("train.optim.lr", 1, 1.0),
        ("dataset.random_move", "yes", True),
        ("dataset.random_move", "Off", False),
        ("encryption_key", 1234, "1234"),
        ("train.gpu_ids", [0.0], [0]),
        ("train.class_weights", [1, "2.5"], [1.0, 2.5]),
    ],
)
def test_a_spelling_that_can_mean_one_thing_only_is_accepted(key, value, meant):
    spec = loaded({key: value})
    for name in key.split("."):
        spec = getattr(spec, name)
    assert spec == meant
    assert type(spec) is type(meant)


# S03


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.optim.lr", -1, "a number >= 0, got -1"),
        ("model.dropout", 1.5, "a number in [0, 1], got 1.5"),
        ("train.num_gpus", 0, "an integer in [1, 1024], got 0"),
        ("train.label_smoothing", 1, "a number in [0, 1), got 1"),
        ("train.seed", -2, "an integer in [-1, 4294967295], got -2"),
        ("dataset_convert.focal_length", 0, "a number > 0, got 0"),
        ("dataset.window_size", 0, "-1 (all frames) or at least 1, got 0"),
        ("train.gpu_ids", [0, -1], "a list of integers >= 0, got [0, -1]"),
    ],
)
def test_a_value_out_of_range_is_met_with_the_range(key, value, expected):
    (problem,) = refused({**MINIMUM, key: value})
    assert problem == f"spec: {key}: expected {expected}."


def test_gpu_ids_and_num_gpus_must_agree_when_both_are_set():
    (problem,) = refused({**MINIMUM, "train.num_gpus": 3, "train.gpu_ids": [0, 1]})
    assert "expected 3 ids, as train.num_gpus is 3, got [0, 1]." in problem


def test_one_of_gpu_ids_and_num_gpus_gives_the_other():
    assert loaded({"train.num_gpus": 3}).train.gpu_ids == [0, 1, 2]
    assert loaded({"train.gpu_ids": [4, 7]}).train.num_gpus == 2
    assert loaded().train.gpu_ids == [0]


def test_a_gpu_named_twice_is_refused():
    (problem,) = refused({**MINIMUM, "train.gpu_ids": [1, 1]})
    assert "each GPU once" in problem


# S04


@pytest.mark.parametrize(
    ("action", "missing"),
    [
        ("dataset_convert", "results_dir and dataset_convert.data"),
        ("train", "results_dir and dataset.train_dataset.data_path"),
        ("evaluate", "results_dir and evaluate.checkpoint and evaluate.test_dataset.data_path"),
        ("inference", "results_dir and inference.checkpoint and inference.test_dataset.data_path"),
        ("export", "results_dir and export.checkpoint"),
    ],
)
def test_all_missing_keys_of_an_action_are_in_one_message(action, missing):
    (problem,) = refused(model=SPECS[action])
    assert problem.startswith(f"pose_classification {action}: expected values for {missing}, got")
    assert "Set for example results_dir=results" in problem


def test_the_example_in_the_message_of_missing_keys_works():
    for model in SPECS.values():
        (problem,) = refused(model=model)
        overrides = problem.split("Set for example ")[1].split(" ")
        load_spec(model, None, overrides)


def test_an_actions_own_results_dir_is_enough():
    source = {"train": {"results_dir": "here"}, "dataset.train_dataset.data_path": "x"}
    spec, _ = load_spec(TRAIN, source)
    assert spec.results_dir is None


# S05


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            {"dataset.label_map": {"a": 0, "b": 1}, "dataset.num_classes": 6},
            "dataset.num_classes: expected 2, the number of classes in dataset.label_map, got 6.",
        ),
        ({"dataset.label_map": {"a": 0, "b": 0}}, "ids 0 to 1, each once, got ids [0, 0] (repeat"),
        ({"dataset.label_map": {"a": 0, "b": 2}}, "ids 0 to 1, each once, got ids [0, 2] (with g"),
        (
            {"train.checkpoint_interval": 11},
            "train.checkpoint_interval: expected at most train.num_epochs, which is 10, got 11.",
        ),
        (
            {"train.validation_interval": 7, "train.num_epochs": 5},
            "train.validation_interval: expected at most train.num_epochs, which is 5, got 7.",
        ),
        (
            {"train.stop_epoch": 7, "train.num_epochs": 5},
            "train.stop_epoch: expected at most train.num_epochs, which is 5, got 7.",
        ),
        (
            {"dataset.random_choose": True},
            "dataset.window_size: expected at least 1, as dataset.random_choose is true, got -1.",
        ),
        (
            {"train.resume_training_checkpoint_path": "a/b.ckpt"},
            "expected a path that ends in .pth or .tlt, got 'b.ckpt'.",
        ),
        ({"dataset.augmentation.scale": [1.2, 0.8]}, "expected [lowest, highest], got [1.2, 0.8]."),
        (
            {"dataset.augmentation.time_crop": [1, 0.5]},
            "expected [lowest, highest], got [1.0, 0.5].",
        ),
        ({"train.optim.warmup_epochs": 10}, "expected less than train.num_epochs, which is 10"),
        (
            {"train.class_weights": [1.0], "dataset.label_map": {"a": 0, "b": 1}},
            "expected 2 weights, one per class of dataset.label_map, got 1.",
        ),
        ({"train.class_weights": [0.0, 0.0]}, "expected a weight above 0, got [0.0, 0.0]."),
    ],
)
def test_settings_that_contradict_are_named_with_both_values(source, expected):
    (problem,) = refused({**MINIMUM, **source})
    assert expected in problem


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"sequence_length": 301}, "at most sequence_length_max, which is 300, got 301."),
        ({"sequence_overlap": 0.005}, "at least 1 / sequence_length = 0.01, got 0.005."),
        ({"sequence_length_min": 101}, "at most sequence_length, which is 100, got 101."),
    ],
)
def test_windows_that_cannot_be_are_refused_before_converting(source, expected):
    source = {"results_dir": "out", "dataset_convert": {"data": "x.json", **source}}
    (problem,) = refused(source, model=SPECS["dataset_convert"])
    assert expected in problem


def test_a_block_is_judged_by_its_own_action_only():
    source = {"results_dir": "out", "export.checkpoint": "m.pth", "train.checkpoint_interval": 99}
    spec, _ = load_spec(SPECS["export"], source)
    assert spec.train.checkpoint_interval == 99


def test_a_checkpoint_interval_in_steps_may_exceed_the_epochs():
    spec = loaded({"train.checkpoint_interval": 500, "train.checkpoint_interval_unit": "step"})
    assert spec.train.checkpoint_interval == 500


def test_batch_size_zero_is_refused_and_minus_one_means_that_of_the_data():
    source = {
        "results_dir": "o",
        "evaluate.checkpoint": "c",
        "evaluate.test_dataset.data_path": "d",
    }
    (problem,) = refused({**source, "evaluate.batch_size": 0}, model=SPECS["evaluate"])
    assert "expected -1 (as in dataset) or at least 1, got 0." in problem


@pytest.mark.parametrize(("short", "key"), ALIASES.items())
def test_short_keys_are_read_as_long_ones_with_a_note(short, key):
    value = {"dataset.num_classes": 3, "model.graph_layout": "coco", "train.optim.lr": 0.5}.get(key)
    value = value or ("x.pth" if "path" in key or "file" in key else 2)
    spec, notes = load_spec(TRAIN, {**MINIMUM, short: value})
    assert notes[0] == f"spec: {short} is read as {key}."
    assert key in user_set(spec)


def test_a_short_key_that_contradicts_the_long_one_is_refused(tmp_path):
    path = write(tmp_path, "num_classes: 5\nmodel: {graph_layout: coco}\ngraph_layout: coco\n")
    spec, _ = load_spec(TRAIN, path)
    assert (spec.dataset.num_classes, spec.model.graph_layout) == (5, "coco")
    path = write(tmp_path, "model: {graph_layout: coco}\ngraph_layout: nvidia\n")
    assert refused(path) == [
        f"{path}:4: graph_layout: expected what {path}:3: model.graph_layout says, 'coco', "
        "got 'nvidia'. Keep one of them."
    ]


def test_momentum_zero_turns_nesterov_off_with_a_note():
    spec, notes = load_spec(TRAIN, {**MINIMUM, "train.optim.momentum": 0})
    assert spec.train.optim.nesterov is False
    assert notes == ("train.optim.nesterov is off, because train.optim.momentum is 0.",)


def test_the_number_of_classes_follows_from_the_label_map():
    spec = loaded({"dataset.label_map": {"sit": 0, "stand": 1}})
    assert spec.dataset.num_classes == 2
    assert "dataset.num_classes" not in user_set(spec)


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        (
            {"evaluate.subject_pattern": "(s1)"},
            ["evaluate.subject_pattern has no effect: evaluate.k_fold is 0."],
        ),
        ({"evaluate.trt_engine": "x"}, ["evaluate.trt_engine has no effect: there is no TensorRT"]),
        ({"dataset.num_frames": 20}, ["dataset.num_frames has no effect: dataset.sampling is n"]),
        ({"dataset.num_frames": 64}, []),
        (
            {"dataset.augmentation": {"time_warp": 1, "time_crop": [0.5, 1], "mixup_alpha": 1},
             "dataset.batch_size": 1},
            ["dataset.augmentation.time_crop has no effect: dataset.sampling is none.",
             "dataset.augmentation.time_warp has no effect: dataset.sampling is none.",
             "dataset.augmentation.mixup_alpha has no effect: dataset.batch_size is 1."],
        ),
        ({"dataset.num_frames": 20, "recipe": "modern"}, []),
        (
            {"dataset.window_size": 20, "dataset.sampling": "uniform"},
            ["dataset.window_size has no effect: dataset.sampling is uniform."],
        ),
        (
            {"train.distill": {"teacher": "t.pth", "weight": 1}, "train.label_smoothing": 0.1,
             "train.class_weights": "balanced"},
            ["train.label_smoothing has no effect: train.distill.weight is 1: labels have no part.",
             "train.class_weights has no effect: train.distill.weight is 1: labels have no part."],
        ),
        (
            {"train.distill": {"teacher": "t.pth", "weight": 0, "temperature": 3}},
            ["train.distill.teacher has no effect: train.distill.weight is 0.",
             "train.distill.temperature has no effect: train.distill.weight is 0."],
        ),
        (
            {"model.layout": json.dumps(layout_facts(LAYOUTS["coco"])),
             "model.graph_layout": "coco"},
            ["model.graph_layout has no effect: model.layout is set."],
        ),
        (
            {"train.optim": {"lr_scheduler": "cosine", "lr_steps": [5], "patience": 2}},
            ["train.optim.lr_steps has no effect: train.optim.lr_scheduler is cosine.",
             "train.optim.patience has no effect: train.optim.lr_scheduler is cosine."],
        ),
        (
            {"train.optim": {"optimizer_type": "Adam", "momentum": 0.5}},
            ["train.optim.momentum has no effect: train.optim.optimizer_type is Adam."],
        ),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_noted(source, notes):
    _, found = load_spec(TRAIN, {**MINIMUM, **source})
    assert len(found) == len(notes)
    assert all(text.startswith(note) for text, note in zip(found, notes, strict=True))


# S08


def test_ten_planted_problems_are_reported_together(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "trian: {seed: 1}\n"
        "train:\n"
        "  num_epoch: 3\n"
        "  num_gpus: 0\n"
        "  checkpoint_interval: 11\n"
        "  optim: {lr: abc, momentum: -1}\n"
        "model: {dropout: 2, graph_layout: nvida}\n"
        "dataset:\n"
        "  label_map: {a: 0, b: 2}\n"
        "  random_move: 3\n"
    )
    problems = refused(path)
    places = ["trian", "train.num_epoch", "train.num_gpus", "train.checkpoint_interval",
              "train.optim.lr", "train.optim.momentum", "model.dropout", "model.graph_layout",
              "dataset.label_map", "dataset.random_move", "pose_classification train"]  # fmt: skip
    assert len(problems) == len(places)
    for place in places:
        assert sum(f"{place}: expected" in problem for problem in problems) == 1


# S14: test_spec_legacy.py


@pytest.mark.parametrize(("value", "policy"), [("off", "off"), (False, "off"), (True, "on")])
def test_the_automl_policy_is_accepted_however_yaml_read_it(value, policy):
    assert loaded({"automl_policy": value}).automl_policy == policy


def test_every_line_stays_within_400_characters():
    long = "x" * 5000
    problems = refused({**MINIMUM, long: 1, "model": {"graph_layout": long, "dropout": long}})
    assert len(problems) == 3
    assert max(map(len, problems)) <= 400


def test_a_number_beyond_all_others_is_refused_with_the_largest():
    problems = refused({**MINIMUM, "train.num_epochs": 10**26})
    assert problems[0].endswith("The largest number that is taken is 9,007,199,254,740,992.")
    problems = refused({**MINIMUM, "train.seed": 2**64})
    assert problems[0].endswith(f"[-1, 4294967295], got {2**64}.")


def test_a_list_of_classes_names_each_once():
    problems = refused({**MINIMUM, "dataset.label_map": ["a", "a"]})
    assert problems[0].endswith("A list of names will do, each of them once.")
