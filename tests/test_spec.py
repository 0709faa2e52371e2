"""From what users write to a frozen spec: rows S01-S05, S08, S09 and S14 of the fault catalogue."""

import random
import string
from itertools import pairwise

import pytest

from kineme.errors import SpecError
from kineme.pose_classification.spec import ALIASES, RECIPES, SPECS
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set, with_values
from kineme.spec.suggest import suggested_key

TRAIN = SPECS["train"]
MINIMUM = {"results_dir": "out", "dataset.train_dataset.data_path": "x.npy"}


def refused(source=None, overrides=(), model=TRAIN):
    """The problems, one string each, of a spec that must not load."""
    with pytest.raises(SpecError) as caught:
        load_spec(model, source, overrides)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def loaded(source=None, overrides=(), model=TRAIN):
    spec, _ = load_spec(model, {**MINIMUM, **(source or {})}, overrides)
    return spec


def write(tmp_path, text, name="spec.yaml"):
    path = tmp_path / name
    path.write_text("results_dir: out\ndataset: {train_dataset: {data_path: x.npy}}\n" + text)
    return path


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
            {"dataset.random_choose": True},
            "dataset.window_size: expected at least 1, as dataset.random_choose is true, got -1.",
        ),
        (
            {"train.resume_training_checkpoint_path": "a/b.ckpt"},
            "expected a path that ends in .pth or .tlt, got 'b.ckpt'.",
        ),
        ({"dataset.augmentation.scale": [1.2, 0.8]}, "expected [lowest, highest], got [1.2, 0.8]."),
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


# S09 and the words of overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.num_epochs=5", 5),
        ("+train.num_epochs=5", 5),
        ("train.optim.lr=1e-3", 1e-3),
        ("train.gpu_ids=[0, 1]", [0, 1]),
        ("train.gpu_ids=[0,1]", [0, 1]),
        ("dataset.label_map={a:0,b:1}", {"a": 0, "b": 1}),
        ("dataset.label_map={front raise: 0, 'a, b': 1}", {"front raise": 0, "a, b": 1}),
        ('results_dir="a b"', "a b"),
        ("results_dir=a b, c", "a b, c"),
        ("results_dir='it\\'s'", "it's"),
        ("results_dir=a=b", "a=b"),
        ("wandb.tags=[s3://b/x, 'a: b', [1]]", None),
        ("wandb.tags=[s3://b/x, 'a: b']", ["s3://b/x", "a: b"]),
        ("results_dir=__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("train.seed=-1", -1),
        ("dataset.random_move=true", True),
    ],
)
def test_overrides_are_typed_by_their_spelling(text, value):
    if value is None:
        assert "expected a list of texts" in refused(MINIMUM, [text])[0]
        return
    spec = loaded(overrides=[text])
    for name in text.lstrip("+").partition("=")[0].split("."):
        spec = getattr(spec, name)
    assert spec == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train.optim.lr=abc", "train.optim.lr: expected a number >= 0, got 'abc'."),
        ("+new=1", "new: expected a known key, got an unknown key."),
        ("train.optim.lr", "expected key=value, got 'train.optim.lr'."),
        ("=3", "expected key=value, got '=3'."),
        ("train.gpu_ids=[0", "train.gpu_ids: expected ',' or ']', got '[0'."),
        ("train.gpu_ids=[0]]", "train.gpu_ids: expected nothing after the value, got ']'."),
        ("dataset.label_map={a}", "expected key: value between braces, got '{a}'."),
        ("dataset.label_map={a:0,a:1}", "expected each key once, got 'a' twice."),
        ("wandb.tags=['a]", "expected a closing ', got \"['a]\"."),
        ("train.gpu_ids=[,]", "expected a value between separators, got '[,]'."),
        ("~train.sed", "train.sed: expected a known key, got an unknown key. Did you mean train.s"),
    ],
)
def test_overrides_that_cannot_be_read_are_problems(text, problem):
    (found,) = refused(MINIMUM, [text])
    assert found.startswith("command line")
    assert problem in found


def test_later_overrides_win_over_earlier_ones_and_over_the_file(tmp_path):
    path = write(tmp_path, "train: {num_epochs: 3, seed: 5}\n")
    spec, _ = load_spec(TRAIN, path, ["train.num_epochs=4", "train.num_epochs=6"])
    assert (spec.train.num_epochs, spec.train.seed) == (6, 5)


def test_a_tilde_forgets_a_key_or_a_block(tmp_path):
    path = write(tmp_path, "train: {num_epochs: 3, optim: {lr: 0.5, momentum: 0.1}}\n")
    spec, _ = load_spec(TRAIN, path, ["~train.num_epochs", "~train.optim"])
    assert (spec.train.num_epochs, spec.train.optim.lr, spec.train.optim.momentum) == (10, 0.1, 0.9)
    assert user_set(spec) == {"results_dir", "dataset.train_dataset.data_path"}


def test_a_block_given_as_an_override_changes_only_its_own_keys():
    spec = loaded({"train.seed": 5}, ["train={num_epochs: 4, optim: {lr: 0.2}}"])
    assert (spec.train.seed, spec.train.num_epochs, spec.train.optim.lr) == (5, 4, 0.2)


def test_one_class_can_be_set_within_the_label_map():
    spec = loaded({"dataset.label_map": {"a": 0}}, ["dataset.label_map.v1.5=1"])
    assert spec.dataset.label_map == {"a": 0, "v1.5": 1}


@pytest.mark.parametrize("nothing", ["", None, {}])
def test_empty_means_not_set(nothing):
    spec = loaded(
        {"model.pretrained_model_path": nothing, "train": {"seed": nothing, "optim": None}}
    )
    assert spec.model.pretrained_model_path is None
    assert spec.train.seed == 1234
    assert user_set(spec) == {"results_dir", "dataset.train_dataset.data_path"}


def test_an_empty_override_takes_back_what_the_file_says():
    assert loaded({"train.seed": 3}, ["train.seed="]).train.seed == 1234
    assert loaded({"train.seed": 3}, ["train.seed=null"]).train.seed == 1234


def test_a_mapping_of_overrides_works_like_texts():
    spec = loaded(overrides={"train.num_epochs": 7, "train.gpu_ids": (2, 3)})
    assert (spec.train.num_epochs, spec.train.gpu_ids) == (7, [2, 3])


# References


def test_a_reference_is_the_value_of_another_key():
    spec = loaded(
        {
            "results_dir": "runs/${model.graph_layout}",
            "train.results_dir": "${results_dir}/seed ${train.seed}",
            "train.num_epochs": "${dataset.window_size_}".replace("window_size_", "batch_size"),
        }
    )
    assert spec.train.results_dir == "runs/nvidia/seed 1234"
    assert spec.train.num_epochs == 16


@pytest.mark.parametrize(
    "text",
    ["${eval:1+1}", "${oc.env:HOME}", "${oc.env:AWS_SECRET_ACCESS_KEY}", "${nothing}", "${train}",
     "${results_dir}", "${train.results_dir}", "${encryption_key}", "${a", "${${model}}", "${}"],
)  # fmt: skip
def test_nothing_but_a_reference_to_a_key_is_resolved(text):
    source = {**MINIMUM, "encryption_key": "hunter2", "train.results_dir": "${results_dir}"}
    problems = refused({**source, "results_dir": text})
    assert "hunter2" not in " ".join(problems)
    assert any("spec: results_dir: expected" in problem for problem in problems)


def test_references_cannot_grow_without_bound():
    names = ["wandb.project", "wandb.entity", "wandb.group", "wandb.name", "wandb.run_id"]
    source = {name: ("${" + after + "}") * 20 for name, after in pairwise(names)}
    problems = refused({**MINIMUM, **source, "wandb.run_id": "x" * 100})
    assert any("at most 10,000 characters" in problem for problem in problems)


# Recipes and what the user set


def test_a_recipe_lies_beneath_the_users_values_and_above_the_defaults():
    spec = loaded({"recipe": "modern", "dataset.num_frames": 20})
    assert (spec.dataset.num_frames, spec.dataset.sampling) == (20, "uniform")
    assert user_set(spec) == {*MINIMUM, "recipe", "dataset.num_frames"}


def test_every_recipe_is_a_valid_spec_of_every_action():
    for model in SPECS.values():
        for name in RECIPES:
            examples = {k: settings_by_key(model)[k].rule.example for k in model.mandatory}
            load_spec(model, {**examples, "recipe": name})


def test_a_recipe_can_be_handed_in():
    spec, _ = load_spec(
        TRAIN, {**MINIMUM, "recipe": "modern"}, recipes={"modern": {"train.seed": 7}}
    )
    assert (spec.train.seed, spec.dataset.sampling) == (7, "none")


def test_changed_values_are_checked_and_do_not_count_as_the_users():
    spec = loaded({"train.seed": 3})
    changed = with_values(spec, {"dataset.num_classes": 4})
    assert (changed.dataset.num_classes, changed.train.seed) == (4, 3)
    assert user_set(changed) == user_set(spec)
    with pytest.raises(SpecError, match="dataset.num_classes: expected an integer >= 1, got 0"):
        with_values(spec, {"dataset.num_classes": 0})


def test_a_spec_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        loaded().train.seed = 3


# S14


@pytest.mark.parametrize("block", ["model_config", "train_config", "dataset_config"])
def test_a_spec_of_the_old_toolkit_is_refused_with_its_version(block):
    (problem,) = refused({**MINIMUM, block: {"num_epochs": 3}})
    assert f"got '{block}', a block of TAO 4.0 and earlier." in problem


@pytest.mark.parametrize(("value", "policy"), [("off", "off"), (False, "off"), (True, "on")])
def test_the_automl_policy_is_accepted_however_yaml_read_it(value, policy):
    assert loaded({"automl_policy": value}).automl_policy == policy


def test_every_line_stays_within_400_characters():
    long = "x" * 5000
    problems = refused({**MINIMUM, long: 1, "model": {"graph_layout": long, "dropout": long}})
    assert len(problems) == 3
    assert max(map(len, problems)) <= 400
