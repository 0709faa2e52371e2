"""What is searched, and where: the schemas of both networks, wishes, and faults of either."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.automl.parameters import Kind
from kineme.automl.schedule import scaled_schedule
from kineme.automl.settings import read_settings
from kineme.automl.space import build_space
from kineme.automl.trial_specs import read_plan
from kineme.data.shards import ShardWriter
from kineme.errors import SpecError
from kineme.network import load_specs
from kineme.skills import load_schema
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec

POSE = load_schema("pose_classification", "train")
VIDEO = load_schema("action_recognition", "train")
LR = "train.optim.lr"


def space_of(schema=POSE, values=None, *, num_epochs=70, idle=None, data_length=None, **asked):
    """The space and notes; values: dotted settings over the schema's defaults."""
    settings = read_settings({"max_epochs": num_epochs, **asked})[0]
    known = {**dict(_flat(schema["default"])), "train.num_epochs": num_epochs, **(values or {})}
    return build_space(schema, known, settings, idle=idle, data_length=data_length)


def _flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def problems_of(**asked):
    with pytest.raises(SpecError) as error:
        space_of(**asked)
    assert error.value.exit_code == 2
    return [str(problem) for problem in error.value.problems]


def parameters_of(*args, **more):
    return {one.key: one for one in space_of(*args, **more)[0].parameters}


def test_the_default_space_of_poses_is_that_of_the_schema_without_what_has_no_effect():
    space, notes = space_of()
    assert {one.key: (one.low, one.high, one.is_log, one.off) for one in space.parameters} == {
        "model.dropout": (0.0, 0.7, False, None),
        "train.grad_clip": (0.5, 10.0, True, 0.0),
        LR: (0.00333333, 0.3, True, None),
        "train.optim.lr_decay": (0.05, 0.5, True, None),
        "train.optim.momentum": (0.8, 0.99, False, None),
        "train.optim.weight_decay": (1e-6, 1e-2, True, None),
    }
    assert notes == (
        "dataset.window_size is not searched: it has no effect, as dataset.random_choose is False.",
        "train.optim.patience is not searched: it has no effect, as train.optim.lr_scheduler is "
        "MultiStep.",
    )


def test_the_default_space_of_videos():
    space, notes = space_of(VIDEO)
    assert [(one.key, one.low, one.high) for one in space.parameters] == [
        ("model.dropout_ratio", 0.0, 0.7), (LR, 1.66667e-05, 0.0015),
    ]  # fmt: skip
    assert notes == ()


@pytest.mark.parametrize("schema", [POSE, VIDEO], ids=["pose", "video"])
def test_the_spec_s_own_values_are_a_point_of_its_space(schema):
    own = space_of(schema)[0].own()
    known = dict(_flat(schema["default"]))
    assert own == {key: known[key] for key in own}


def test_defect_59_a_bound_that_is_missing_is_not_replaced_by_the_default():
    """Defect 59: a rate could only fall, windows were always -1, patience always 1."""
    told = {"train.optim.lr_scheduler": "AutoReduce", "dataset.random_choose": True}
    found = parameters_of(values={**told, "dataset.window_size": 100}, data_length=300)
    assert found[LR].high == pytest.approx(0.3)
    assert found["train.optim.momentum"].high == 0.99
    assert found["train.optim.weight_decay"].high == 1e-2
    assert found["train.optim.lr_decay"].high == 0.5
    window, patience = found["dataset.window_size"], found["train.optim.patience"]
    assert (window.low, window.high, window.off) == (75, 300, None)
    assert (patience.low, patience.high) == (1, 10)


def test_defect_60_a_clipped_gradient_is_never_clipped_to_nothing():
    """Defect 60: TAO clips to a norm of 1e-7, and nothing trains."""
    clip = parameters_of()["train.grad_clip"]
    values = {clip.value_of(i / 1000) for i in range(1000)}
    assert 0.0 in values
    assert min(values - {0.0}) >= 0.5
    assert sum(clip.value_of(i / 1000) == 0.0 for i in range(1000)) == 200
    assert clip.value_of(1.0) == 10.0


def test_defect_62_rates_are_searched_by_their_ratio():
    """Defect 62: between 1e-6 and 1e-2, half of the draws lie below 1e-4."""
    decay = parameters_of()["train.optim.weight_decay"]
    assert [decay.value_of(unit) for unit in (0, 0.25, 0.5, 0.75, 1)] == [
        1e-6, 1e-5, 1e-4, 1e-3, 1e-2,
    ]  # fmt: skip


def test_defect_65_what_has_no_effect_is_not_searched():
    """Defect 65: patience under MultiStep; a fall of the rate behind the last epoch."""
    found, notes = space_of(num_epochs=8)
    keys = [one.key for one in found.parameters]
    assert "train.optim.patience" not in keys
    assert "train.optim.lr_decay" not in keys
    assert (
        "train.optim.lr_decay is not searched: it has no effect, as no step of lr_steps [10, 60] "
        "lies within 8 epochs."
    ) in notes
    cosine = parameters_of(values={"train.optim.lr_scheduler": "cosine"})
    assert not {"train.optim.patience", "train.optim.lr_decay"} & set(cosine)
    reduced = parameters_of(values={"train.optim.lr_scheduler": "AutoReduce"}, num_epochs=8)
    assert {"train.optim.patience", "train.optim.lr_decay"} <= set(reduced)
    adam = parameters_of(values={"train.optim.optimizer_type": "Adam"})
    assert "train.optim.momentum" not in adam


def test_defect_65_the_schedule_of_a_shorter_training_falls_at_the_same_shares():
    """Defect 65: lr_steps stay at [10, 60] upstream, while trials run a few epochs."""
    values = {"train": {"num_epochs": 70, "optim": {"lr_steps": [10, 60], "warmup_epochs": 7}}}
    assert scaled_schedule(values, 70) == ({"train.num_epochs": 70}, [])
    changes, notes = scaled_schedule(values, 28)
    assert changes == {
        "train.num_epochs": 28,
        "train.optim.lr_steps": [4, 24],
        "train.optim.warmup_epochs": 3,
    }
    assert notes == [
        "A full training of the search: train.num_epochs 70 -> 28, train.optim.lr_steps [10, 60] "
        "-> [4, 24], train.optim.warmup_epochs 7 -> 3."
    ]
    behind = {"train.num_epochs": 10, "train.optim.lr_steps": [10, 60]}  # as TAO's defaults are
    assert scaled_schedule(behind, 27)[0] == {"train.num_epochs": 27}


def test_what_the_spec_ignores_is_not_searched():
    ignored = {"model.dropout": "the model has none"}
    space, notes = space_of(idle=ignored)
    assert "model.dropout" not in [one.key for one in space.parameters]
    assert "model.dropout is not searched: it has no effect, as the model has none." in notes


def test_a_list_replaces_the_schema_s_and_signs_change_it():
    usual = set(parameters_of())
    assert set(parameters_of(hyperparameters=[LR])) == {LR}
    assert set(parameters_of(hyperparameters=["-model.dropout", "+dataset.batch_size"])) == (
        usual - {"model.dropout"} | {"dataset.batch_size"}
    )
    assert set(parameters_of(hyperparameters=[LR], ranges={"train.label_smoothing": [0, 0.1]})) == {
        LR, "train.label_smoothing",
    }  # fmt: skip
    assert "expected one of those that are searched" in problems_of(hyperparameters=["-a.b"])[0]
    both = problems_of(hyperparameters=[f"-{LR}"], ranges={LR: [0.1, 0.2]})
    assert both == [
        f"automl.ranges: {LR}: expected no range, as automl.hyperparameters takes it away, "
        "got one. Leave one out."
    ]


def test_settings_that_tao_has_not_may_be_searched():
    asked = ["train.label_smoothing", "dataset.augmentation.flip_prob", "train.ema_decay"]
    found = parameters_of(hyperparameters=asked)
    assert found["train.label_smoothing"].high == 0.2
    assert found["train.ema_decay"].off == 0.0


def test_own_ranges_win_within_the_schema_s():
    found = parameters_of(ranges={LR: {"valid_min": 0.01, "valid_max": 0.02, "log": False}})[LR]
    assert (found.low, found.high, found.is_log, found.off) == (0.01, 0.02, False, None)
    clip = parameters_of(ranges={"train.grad_clip": [1, 2]})["train.grad_clip"]
    assert (clip.low, clip.high, clip.off) == (1, 2, None)
    one_sided = parameters_of(ranges={LR: {"max": 0.2}})[LR]
    assert (one_sided.low, one_sided.high) == (0.00333333, 0.2)


def test_the_spec_s_own_value_widens_a_range():
    found = parameters_of(values={"model.dropout": 0.9, "train.optim.weight_decay": 0.0})
    assert found["model.dropout"].high == 0.9
    assert found["train.optim.weight_decay"].off == 0.0


def test_a08_every_fault_of_a_space_is_told_at_once():
    """A08: min > max, bad enum, unknown, disabled; as faults of specs are."""
    ranges = {
        LR: {"min": 1, "max": 0.1},
        "train.optim.momentun": [0, 1],
        "train.optim.lr_scheduler": {"options": ["cosin"]},
        "dataset.label_map": [1, 2],
        "dataset.batch_size": [0, 3],
        "train.num_epochs": [1, 2],
        "model.dropout": {"maximun": 0.3},
        "train.grad_clip": {"min": "low"},
        "train.optim.weight_decay": {"min": 0, "max": 1, "log": True},
        "model.graph_strategy": {"weights": [1, 2]},
    }
    assert problems_of(ranges=ranges, hyperparameters=["model.layout"]) == [
        "automl.hyperparameters: model.layout: expected a setting that can be searched, got "
        "'model.layout'. It is text: give its options in automl.ranges.",
        f"automl.ranges: {LR}: expected a lowest value that is not above the highest, got 1 and "
        "0.1.",
        "automl.ranges: train.optim.momentun: expected a setting of the train schema, got an "
        "unknown one. Did you mean train.optim.momentum?",
        "automl.ranges: train.optim.lr_scheduler: options: expected one of 'MultiStep', "
        "'AutoReduce', 'cosine', got 'cosin'. Did you mean 'cosine'?",
        "automl.ranges: dataset.label_map: expected a setting that can be searched, got "
        "'dataset.label_map'. The schema disables it (automl_disabled_parameters): set it in the "
        "spec.",
        "automl.ranges: dataset.batch_size: min: expected at least 1, as the schema says, got 0.",
        "automl.ranges: train.num_epochs: expected a setting that can be searched, got "
        "'train.num_epochs'. The search itself decides how long a trial trains.",
        "automl.ranges: model.dropout: expected words of a range (min, max, options, weights, "
        "math_cond, depends_on, log, off), got 'maximun'. Did you mean maximum?",
        "automl.ranges: train.grad_clip: min: expected a number, got 'low'.",
        "automl.ranges: train.optim.weight_decay: expected log: true or false; true where the "
        "lowest value is above 0, got log True, lowest 0.",
        "automl.ranges: model.graph_strategy: weights: expected 3 numbers >= 0, one for each "
        "option, got [1, 2].",
    ]


def test_a08_a_space_without_settings_is_refused():
    """A08: nothing to search is said before anything trains."""
    (problem,) = problems_of(hyperparameters=[])
    assert problem.startswith("automl.hyperparameters: expected at least one setting to search")
    (problem,) = problems_of(hyperparameters=["train.optim.patience"])
    assert "no effect, as train.optim.lr_scheduler is MultiStep" in problem


def test_a08_a_listed_setting_without_any_range_asks_for_one():
    """A08: the user asked for it, so it is not left out in silence."""
    values = {"dataset.random_choose": True, "dataset.window_size": 60}
    (problem,) = problems_of(hyperparameters=["dataset.window_size"], values=values)
    assert problem == (
        "automl.hyperparameters: dataset.window_size: expected a range to search in, got none "
        "(the length of the data is not known). Set automl.ranges to {dataset.window_size: "
        "{min: ..., max: ...}}."
    )
    found = parameters_of(ranges={"dataset.window_size": [50, 100]})["dataset.window_size"]
    assert (found.kind, found.low, found.high, found.off) == (Kind.INT, 50, 100, None)


def test_windows_are_searched_where_they_are_chosen_and_as_long_as_the_data():
    asked = {"hyperparameters": [LR, "dataset.random_choose", "dataset.window_size"]}
    space, notes = space_of(**asked, data_length=60)
    assert notes == ()
    units = dict.fromkeys(asked["hyperparameters"], 0.0)
    assert space.params_at(units) == {LR: 0.00333333, "dataset.random_choose": False}
    chosen = {**units, "dataset.random_choose": 0.9}
    assert space.params_at(chosen)["dataset.window_size"] == 15
    assert space.params_at({**chosen, "dataset.window_size": 1.0})["dataset.window_size"] == 60
    for most, is_searched in ((60, False), (61, True)):  # longer ones are filled up with zeros
        ranges = {"dataset.window_size": {"low": 30, "high": most}}
        found = parameters_of(hyperparameters=[LR], ranges=ranges, data_length=60)
        assert ("dataset.window_size" in found) is is_searched


@pytest.mark.parametrize("form", ["file", "folder", "store"])
def test_the_length_of_the_data_is_read_from_their_headers(tmp_path, form):
    data = np.ones((2, 3, 48, 34, 1), np.float32)
    path = tmp_path / ("train_data" if form == "store" else "train_data.npy")
    if form == "store":
        with ShardWriter(path) as writer:
            for name, sample in zip("ab", data, strict=True):
                writer.add(sample, id=name)
    else:
        np.save(path, data)
    named = path.parent if form == "folder" else path
    found = searched(tmp_path, named)
    assert (found.low, found.high) == (12, 48)


def test_data_of_an_unknown_length_leave_windows_to_the_user(tmp_path):
    (tmp_path / "data.npy").write_bytes(b"no header at all")
    np.save(tmp_path / "flat.npy", np.ones((2, 3), np.float32))
    for named in ("data.npy", "flat.npy", "none.npy", "s3://bucket/data.npy"):
        at = named if "://" in named else tmp_path / named
        with pytest.raises(SpecError, match="the length of the data is not known"):
            searched(tmp_path, at)


def searched(folder, data):
    """The parameter of windows in a search on `data`."""
    plan = read_plan("pose_classification", None, [
        f"results_dir={folder / 'out'}", f"dataset.train_dataset.data_path={data}",
        "dataset.val_dataset.data_path=/data/val", "dataset.random_choose=true",
        "dataset.window_size=20", "automl.hyperparameters=[dataset.window_size]",
    ])  # fmt: skip
    return plan.space.parameters[0]


def test_a_searched_scheduler_makes_its_settings_conditional():
    asked = ["train.optim.lr_scheduler", "train.optim.patience", "train.optim.lr_decay"]
    space, notes = space_of(hyperparameters=asked)
    assert notes == ()
    units = dict.fromkeys(asked, 0.5)
    by_scheduler = {
        params["train.optim.lr_scheduler"]: set(params) - {"train.optim.lr_scheduler"}
        for i in range(3)
        if (params := space.params_at({**units, "train.optim.lr_scheduler": i / 3 + 0.1}))
    }
    assert by_scheduler == {
        "MultiStep": {"train.optim.lr_decay"},
        "AutoReduce": {"train.optim.lr_decay", "train.optim.patience"},
        "cosine": set(),
    }


# Schemas of others: what TAO's have and ours have not.


def schema_of(**leaves):
    properties = {name: {"type": "int", **leaf} for name, leaf in leaves.items()}
    properties["automl_disabled_parameters"] = ["not a field"]  # as TAO's schemas have it
    return {
        "properties": {"block": {"properties": properties}},
        "automl_default_parameters": [f"block.{name}" for name in leaves],
        "default": {"block": {n: leaf["default"] for n, leaf in leaves.items()
                              if "default" in leaf}},
    }  # fmt: skip


def test_powers_and_multiples():
    schema = schema_of(
        size={"minimum": 3, "maximum": 70, "default": 16, "math_cond": "^ 2"},
        width={"minimum": 10, "maximum": 100, "default": 64, "math_cond": "/ 32"},
    )
    found = parameters_of(schema)
    size, width = found["block.size"], found["block.width"]
    assert [size.value_of(i / 5) for i in range(5)] == [4, 8, 16, 32, 64]
    assert [width.value_of(i / 3 + 0.01) for i in range(3)] == [32, 64, 96]
    empty = schema_of(size={"minimum": 5, "maximum": 7, "default": 6, "math_cond": "^ 2"})
    with pytest.raises(SpecError, match=r"a range that holds a number that fits '\^ 2'"):
        space_of(empty)
    bad = schema_of(size={"minimum": 5, "maximum": 7, "default": 6, "math_cond": "/ x"})
    with pytest.raises(SpecError, match="math_cond as"):
        space_of(bad)


def test_options_have_weights_and_sorts():
    schema = schema_of(
        kind={"type": "string", "enum": ["a", "b"], "default": "a", "option_weights": [3, 1]},
        order={"type": "ordered_int", "enum": [1, 2, 4], "default": 2},
        flag={"type": "bool", "default": True},
    )
    found = parameters_of(schema)
    kind = found["block.kind"]
    assert kind.weights == (0.75, 0.25)
    assert [kind.value_of(unit) for unit in (0, 0.74, 0.76, 1.0)] == ["a", "a", "b", "b"]
    assert found["block.order"].choices == (1, 2, 4)
    assert found["block.flag"].choices == (False, True)
    assert found["block.flag"].value_of(0.9) is True


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([">", ">=", "<", "<="]))
def test_relations_hold_for_any_draw(one, other, sign):
    schema = schema_of(
        low={"minimum": 1, "maximum": 9, "default": 2},
        high={"minimum": 1, "maximum": 9, "default": 5, "math_cond": f"{sign} low",
              "depends_on": "low"},
    )  # fmt: skip
    params = space_of(schema)[0].params_at({"block.low": one, "block.high": other})
    low, high = params["block.low"], params["block.high"]
    assert {">": high > low, ">=": high >= low, "<": high < low, "<=": high <= low}[sign]
    assert 1 <= low <= 9
    assert 1 <= high <= 9


def test_a_relation_to_what_is_not_searched_narrows_the_range():
    schema = schema_of(high={"minimum": 1, "maximum": 9, "default": 8, "math_cond": "> low"},
                       low={"minimum": 1, "maximum": 9, "default": 6})  # fmt: skip
    found = parameters_of(schema, hyperparameters=["block.high"])["block.high"]
    assert (found.low, found.high) == (7, 9)
    with pytest.raises(SpecError, match=r"a range with values > block\.low"):
        space_of(schema, {"block.low": 9}, hyperparameters=["block.high"])
    leaf = {"minimum": 1, "maximum": 9, "default": 8}
    circle = schema_of(a={**leaf, "math_cond": "> b"}, b={**leaf, "math_cond": "> a"})
    with pytest.raises(SpecError, match="depend on one another"):
        space_of(circle)


# Every parameter, any draw.


@pytest.mark.parametrize("network", ["pose_classification", "action_recognition"])
def test_values_from_any_corner_of_the_space_are_valid_in_the_spec(network):
    schema = load_schema(network, "train")
    model = load_specs(network)["train"]
    asked = [key for key in sorted(settings_by_key(model)) if _may_be_listed(schema, key)]
    space, _ = space_of(schema, hyperparameters=asked, data_length=100)
    assert len(space.parameters) > 15
    mandatory = {
        "pose_classification": {"dataset.train_dataset.data_path": "x.npy"},
        "action_recognition": {"dataset.train_dataset_dir": "x"},
    }[network]
    for unit in (0.0, 0.2, 0.5, 0.8, 1.0):
        params = space.params_at({one.key: unit for one in space.parameters})
        load_spec(model, {}, {"results_dir": "r", "train.num_epochs": 70, **mandatory, **params})


def _may_be_listed(schema, key):
    """Numbers with a row of their own in the table of ranges, as users would list them."""
    from kineme.automl.ranges import MANAGED, RANGES

    is_train = key.startswith(("dataset.", "train.", "model."))
    return is_train and key.rpartition(".")[2] in RANGES and key not in MANAGED
