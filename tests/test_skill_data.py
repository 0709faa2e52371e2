"""Templates, the schema for editors and skill_info: true of what runs here, and TAO's words."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from contract_fields import DATA_SOURCES, MINIMAL, SHORT_KEYS, SPEC_PARAMS
from kineme import skills
from kineme.engine.checkpoint import Checkpoint, restore_spec
from kineme.errors import SpecError
from kineme.network import NETWORKS, load_network, load_specs
from kineme.skills.generate import EDITOR_SCHEMA, FROM_CHECKPOINT
from kineme.spec.fields import blocks, settings, settings_by_key
from kineme.spec.load import load_spec, user_set, value_at
from kineme.spec.read import nested
from kineme.spec.schema import ACTIONS, resolved

ROOT = Path(__file__).resolve().parents[1]
ALL = [(network, action) for network in NETWORKS for action in load_specs(network)]


def must_be_set(network, action):
    """Examples of what an action must be given, as overrides."""
    model = load_specs(network)[action]
    known = settings_by_key(model)
    return {key: known[key].rule.example for key in model.mandatory}


# Templates


@pytest.mark.parametrize(("network", "action"), ALL)
def test_a_template_loads_once_what_must_be_set_is_set(network, action):
    model = load_specs(network)[action]
    path = skills.folder(network) / "references" / f"spec_template_{action}.yaml"
    with pytest.raises(SpecError) as caught:
        load_spec(model, path)
    (problem,) = caught.value.problems
    assert all(key in problem.expected for key in model.mandatory)

    spec, notes = load_spec(model, path, must_be_set(network, action))
    assert notes == ()
    fixed = {"wandb.tags", "wandb.name", "wandb.enable", "dataset.label_map", *model.mandatory}
    for declared in settings(model):
        if declared.key not in fixed:
            assert value_at(spec, declared.key) == declared.default, declared.key


@pytest.mark.parametrize(("network", "action"), ALL)
def test_a_template_is_the_default_of_its_schema_but_for_what_others_tell(network, action):
    tree, default = (
        skills.load_template(network, action),
        copy.deepcopy(skills.load_schema(network, action)["default"]),
    )
    loaded = load_network(network)
    told = (*loaded.identity, *loaded.inherited) if action in FROM_CHECKPOINT else ()
    for declared in settings(load_specs(network)[action]):
        key = declared.key
        *parents, name = key.split(".")
        if parents and parents[0] in ACTIONS - {"train", action}:
            continue
        known, shown = _at(default, parents), _at(tree, parents)
        if key in told or name in ("gpu_ids", "num_classes"):
            assert name not in shown, key
            known.pop(name, None)
    assert tree.pop("wandb") == {**default.pop("wandb"), **WANDB.get((network, action), {})}
    assert tree["dataset"].pop("label_map", None) == LABEL_MAPS[network].get(action)
    assert tree == default


def _at(tree, names):
    for name in names:
        tree = tree[name]
    return tree


_CONVERT = {"enable": False, "name": "TAO Toolkit Dataset Convert"}
WANDB = {
    ("action_recognition", "dataset_convert"): _CONVERT,
    ("pose_classification", "dataset_convert"): _CONVERT,
    ("pose_classification", "train"): {"enable": False},
}
LABEL_MAPS = {  # in other actions the checkpoint knows
    "action_recognition": {"train": {"catch": 0, "smile": 1}},
    "pose_classification": {"train": {f"class_{i}": i for i in range(6)}},
}


@pytest.mark.parametrize(("network", "action"), ALL)
def test_what_a_template_has_as_a_comment_is_a_setting_without_its_mark(network, action, tmp_path):
    path = skills.folder(network) / "references" / f"spec_template_{action}.yaml"
    bare = re.sub(r"^( *)#(?! )", r"\1", path.read_text("utf-8"), flags=re.M)
    (tmp_path / "spec.yaml").write_text(bare)
    model = load_specs(network)[action]
    spec, notes = load_spec(model, tmp_path / "spec.yaml", must_be_set(network, action))
    assert notes == ()
    if action in FROM_CHECKPOINT:
        assert spec.dataset.label_map
    header, editor_schema = path.read_text("utf-8").splitlines()[0].split("$schema=")
    assert header == "# yaml-language-server: "
    assert (path.parent / editor_schema).resolve() == skills.folder(network) / EDITOR_SCHEMA


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("action", sorted(FROM_CHECKPOINT))
def test_a_template_fits_a_checkpoint_that_was_trained_otherwise(network, action):
    other = {
        "action_recognition": {
            "model.model_type": "joint", "model.backbone": "resnet_34", "model.rgb_seq_length": 8,
            "dataset.label_map": {"walk": 0, "run": 1, "sit": 2},
            "dataset.augmentation_config.rgb_input_mean": [0.5],
        },
        "pose_classification": {
            "model.graph_layout": "coco", "dataset.label_map": {"sit": 0, "stand": 1},
            "dataset.sampling": "uniform",
        },
    }[network]  # fmt: skip
    specs = load_specs(network)
    trained, _ = load_spec(specs["train"], {**must_be_set(network, "train"), **other})
    spec, _ = load_spec(
        specs[action], skills.load_template(network, action), must_be_set(network, action)
    )
    facts = {"network": network, "spec": resolved(trained)}
    checkpoint = Checkpoint(path=Path("m.pth"), content={}, weights={}, facts=facts)
    restored = restore_spec(spec, checkpoint, load_network(network).identity)
    assert {key: value_at(restored, key) for key in other} == other


@pytest.mark.parametrize("network", NETWORKS)
def test_one_of_two_settings_that_follow_from_each_other_can_be_changed_in_a_template(network):
    tree = skills.load_template(network, "train")
    changes = {"train.num_gpus": 2, "dataset.label_map": {"a": 0, "b": 1, "c": 2}}
    spec, _ = load_spec(
        load_specs(network)["train"], tree, {**must_be_set(network, "train"), **changes}
    )
    assert spec.train.gpu_ids == [0, 1]
    assert getattr(spec.dataset, "num_classes", 3) == 3


@pytest.mark.parametrize(
    ("network", "action"), [(n, a) for n, actions in MINIMAL.items() for a in actions]
)
def test_the_smallest_specs_of_tao_load(network, action):
    source = MINIMAL[network][action]
    spec, notes = load_spec(load_specs(network)[action], source)
    assert notes == ()
    assert user_set(spec) == set(source)


def test_tao_s_word_for_what_must_be_set_is_no_value():
    model = load_specs("action_recognition")["evaluate"]
    with pytest.raises(SpecError, match=r"values for evaluate\.checkpoint and evaluate\.test_data"):
        load_spec(model, {"results_dir": "out", "evaluate": {"checkpoint": "???"}})


# The JSON schema that editors read


def editor_schema(network):
    return json.loads((skills.folder(network) / EDITOR_SCHEMA).read_text("utf-8"))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_editors_schema_accepts_templates_and_resolved_specs(network):
    schema = editor_schema(network)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    for action, model in load_specs(network).items():
        check.validate(skills.load_template(network, action))
        spec, _ = load_spec(model, must_be_set(network, action))
        check.validate(json.loads(json.dumps(resolved(spec))))
        minimal = MINIMAL[network].get(action, {})
        check.validate(nested(minimal))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_editors_schema_refuses_typos_wrong_types_and_values_out_of_bounds(network):
    is_valid = jsonschema.Draft202012Validator(editor_schema(network)).is_valid
    model = load_specs(network)["train"]
    num_checked = 0
    for declared in settings(model):
        rule, key = declared.rule, declared.key
        wrong = [[{}], 1 if str in declared.kinds else "word"]
        numeric = {int, float} & set(declared.kinds)
        wrong += [rule.ge - 1] if numeric and rule.ge is not None else []
        wrong += [rule.gt] if numeric and rule.gt is not None else []
        wrong += [rule.le + 1] if numeric and rule.le is not None else []
        wrong += [rule.lt] if numeric and rule.lt is not None else []
        wrong += ["no such choice"] if rule.choices else []
        for value in wrong:
            assert not is_valid(nested({key: value})), (key, value)
            num_checked += 1
        if declared.default is not None:
            assert is_valid(nested({key: declared.default})), key
    assert num_checked > 200
    for block in ["", *_block_names(model, "")]:
        assert not is_valid(nested({f"{block}no_such_key": 1})), block


def _block_names(section, prefix):
    for name, inner in blocks(section).items():
        yield f"{prefix}{name}."
        yield from _block_names(inner, f"{prefix}{name}.")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_editors_schema_knows_short_keys_as_deprecated(network):
    properties = editor_schema(network)["properties"]
    for short, key in SHORT_KEYS[network].items():
        assert properties[short]["deprecated"] is True
        assert properties[short]["description"] == f"read as {key}"
    validator = jsonschema.Draft202012Validator(editor_schema(network))
    assert validator.is_valid({"learning_rate": 0.1})
    assert not validator.is_valid({"learning_rate": -0.1})


# What jobs read


@pytest.mark.parametrize("network", NETWORKS)
def test_skill_info_has_the_keys_of_tao(network):
    info = skills.load_skill_info(network)
    assert set(info) == {
        "name", "network_arch", "description", "automl_enabled", "container_image", "data_format",
        "gpu_spec_key", "actions", "data_sources", "spec_params", "automl_spec_params",
        "key_defaults", "spec_shorthand_keys", "spec_templates", "x_kineme",
    }  # fmt: skip
    assert info["name"] == skills.folder(network).name
    assert (info["network_arch"], info["data_format"]) == (network, "default")
    assert (info["automl_enabled"], info["gpu_spec_key"]) == (True, "train.num_gpus")
    references = skills.folder(network) / "references"
    assert list(info["spec_templates"]) == list(load_specs(network))
    assert all((references / path).is_file() for path in info["spec_templates"].values())


@pytest.mark.parametrize(("network", "action"), ALL)
def test_an_action_of_skill_info_says_how_it_is_run(network, action):
    known = settings_by_key(load_specs(network)[action])
    entry = skills.load_skill_info(network)["actions"][action]
    assert entry["command"] == f"{network} {action} -e {{config_path}}"
    assert (entry["config_format"], entry["mode"]) == ("yaml", "config")
    assert entry["upload_excludes"] == ["inputs/"]
    assert entry["outputs"]["results_dir"] == {"type": "folder"}
    assert ("export.onnx_file" in entry["outputs"]) == (action == "export")
    assert ("x_kineme" in entry) == ((network, action) == ALL[0])  # dataset_convert of videos
    assert ALL[0] == ("action_recognition", "dataset_convert")
    mandatory = set(load_specs(network)[action].mandatory) - {"results_dir"}
    required = {key for key, how in entry["inputs"].items() if "optional" not in how}
    assert required == mandatory
    for key, how in entry["inputs"].items():
        assert how["type"] in ("file", "folder")
        assert how.get("x_kineme", False) == known[key].rule.ours


def test_the_commands_of_skill_info_are_installed():
    scripts = (ROOT / "pyproject.toml").read_text()
    for network in NETWORKS:
        assert f'{network} = "kineme.cli:{network}"' in scripts


@pytest.mark.parametrize("network", NETWORKS)
def test_values_that_jobs_find_are_mapped_as_tao_maps_them(network):
    info = skills.load_skill_info(network)
    params = info["spec_params"]
    assert {action: params[action] for action in SPEC_PARAMS[network]} == SPEC_PARAMS[network]
    known = settings_by_key(load_specs(network)["train"])
    assert set().union(*params.values(), info["automl_spec_params"]) <= set(known)
    assert info["automl_spec_params"]["results_dir"] == "automl_output_dir"
    assert info["automl_spec_params"]["train.resume_training_checkpoint_path"] == (
        "automl_resume_model"
    )
    pretrained = [key for key in params["train"] if key.startswith("model.")]
    assert {info["automl_spec_params"][key] for key in pretrained} == {"automl_assign_ptm"}


@pytest.mark.parametrize("network", NETWORKS)
def test_data_sources_are_those_of_tao_first(network):
    sources = skills.load_skill_info(network)["data_sources"]
    known = settings_by_key(load_specs(network)["train"])
    found = {
        action: {key: (it["source"], it.get("path")) for key, it in keys.items()}
        for action, keys in sources.items()
        if action in DATA_SOURCES[network]
    }
    assert found == DATA_SOURCES[network]
    for keys in sources.values():
        assert set(keys) <= set(known)
        assert all(it["x_kineme_paths"][0] == it["path"] for it in keys.values() if "path" in it)


@pytest.mark.parametrize("network", NETWORKS)
def test_short_keys_are_those_of_tao_and_work_in_files_and_as_overrides(network, tmp_path):
    short_keys = skills.load_skill_info(network)["spec_shorthand_keys"]
    assert short_keys == SHORT_KEYS[network]
    values = {"learning_rate": 0.25, "num_epochs": 7, "batch_size": 3}
    model = load_specs(network)["train"]
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(values))
    as_file = load_spec(model, tmp_path / "spec.yaml", must_be_set(network, "train"))
    as_words = [f"{key}={value}" for key, value in values.items()]
    as_override = load_spec(model, must_be_set(network, "train"), as_words)
    for spec, notes in (as_file, as_override):
        assert (spec.train.optim.lr, spec.train.num_epochs, spec.dataset.batch_size) == (0.25, 7, 3)
        assert len(notes) == 3
