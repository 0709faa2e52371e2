"""Overrides, references, recipes and what counts as the user's: row S09."""

from itertools import pairwise

import pytest

from kineme.errors import SpecError
from kineme.pose_classification.recipes import RECIPES
from kineme.pose_classification.spec import SPECS
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set, with_values
from specs_read import MINIMUM, TRAIN, loaded, refused, write


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


def test_one_class_can_be_taken_out_of_the_label_map():
    spec = loaded({"dataset.label_map": {"a": 0, "b": 1}}, ["~dataset.label_map.b"])
    assert spec.dataset.label_map == {"a": 0}
    (problem,) = refused({**MINIMUM, "dataset.label_map": "a"}, ["dataset.label_map.b=x"])
    assert "got {'b': 'x'}" in problem


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


def test_a_reference_to_nothing_is_no_word():
    problems = refused({**MINIMUM, "results_dir": "${train.results_dir}/x"})
    expected = "expected a reference to a setting that is set, got '${train.results_dir}'"
    assert any(expected in problem for problem in problems)


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
    with pytest.raises(SpecError, match=r"dataset\.num_classes: expected an integer >= 1, got 0"):
        with_values(spec, {"dataset.num_classes": 0})


def test_a_spec_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        loaded().train.seed = 3
