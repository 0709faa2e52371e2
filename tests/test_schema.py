"""The generated package data, held against the declarations and against TAO's own fields."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from contract_fields import (
    AS_SCHEMA,
    BLOCKS,
    FIELDS,
    NEVER,
    POPULAR,
    SEARCHED,
)
from kineme import skills
from kineme.cli import main
from kineme.errors import SpecError
from kineme.network import NETWORKS, load_specs
from kineme.skills.generate import differences, generated
from kineme.skills.tao_schema import title
from kineme.spec.fields import settings, settings_by_key
from kineme.spec.schema import ACTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
ALL = [(network, action) for network in NETWORKS for action in load_specs(network)]
JSON_FILES = sorted(skills.ROOT.rglob("*.json"))


def leaves(schema, prefix=""):
    """(dotted key, leaf) of every field of a schema, blocks walked through."""
    for name, node in schema["properties"].items():
        if "properties" in node:
            yield from leaves(node, f"{prefix}{name}.")
        else:
            yield prefix + name, node


def nodes(schema, prefix=""):
    """(dotted key, block) of every block of a schema."""
    for name, node in schema["properties"].items():
        if "properties" in node:
            yield prefix + name, node
            yield from nodes(node, f"{prefix}{name}.")


# The files and the command


def test_the_package_data_is_what_the_declarations_say():
    assert differences(skills.ROOT, generated()) == []


def test_the_commands_write_the_same_bytes_and_name_what_differs(tmp_path, capsys):
    assert main(["schema", "generate", str(tmp_path)]) == 0
    here = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    texts = {Path(name): text.encode() for name, text in generated().items()}
    assert here == texts
    assert all((skills.ROOT / name).read_bytes() == data for name, data in here.items())
    assert main(["schema", "check", str(tmp_path)]) == 0
    capsys.readouterr()

    folder = tmp_path / "kineme-train-action-recognition"
    (folder / "schemas" / "train.schema.json").write_text("{}\n")
    (folder / "references" / "skill_info.yaml").unlink()
    (folder / "schemas" / "prune.schema.json").write_text("{}\n")
    (folder / "SKILL.md").write_text("people write this\n")
    assert main(["schema", "check", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r".*\.?kineme-train-action-recognition/", "", line) for line in lines] == [
        "references/skill_info.yaml: expected what the declarations say, got no such file. "
        "Run `kineme schema generate`.",
        "schemas/train.schema.json: expected what the declarations say, got another text. "
        "Run `kineme schema generate`.",
        "schemas/prune.schema.json: expected generated files only, got another file. Remove it.",
    ]


@pytest.mark.parametrize("words", [[], ["make"], ["generate", "a", "b"], ["check", "--fix"]])
def test_the_command_is_met_with_its_usage(words, capsys):
    assert main(["schema", *words]) == 2
    assert "kineme schema generate|check [FOLDER]" in capsys.readouterr().err


@pytest.mark.parametrize("path", JSON_FILES, ids=lambda p: str(p.relative_to(skills.ROOT)))
def test_json_files_are_strict_and_sorted(path):
    def refuse(word):
        raise AssertionError(word)

    text = path.read_text("utf-8")
    tree = json.loads(text, parse_constant=refuse)
    again = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    assert text == again + "\n"


def test_reading_needs_neither_torch_nor_numpy():
    code = (
        "import sys\n"
        "from kineme import skills\n"
        "assert skills.load_skill_info('pose_classification')['automl_enabled']\n"
        "assert skills.load_schema('action_recognition', 'train')['properties']\n"
        "assert skills.load_template('pose_classification', 'train')\n"
        "print([name for name in ('torch', 'numpy') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_unknown_networks_and_actions_are_refused_by_name():
    known = "expected one of action_recognition, pose_classification, got 'pose'"
    with pytest.raises(SpecError, match=known):
        skills.folder("pose")
    with pytest.raises(SpecError, match="one of dataset_convert, evaluate, export, inference, tra"):
        skills.load_schema("pose_classification", "../../../etc/passwd")
    with pytest.raises(SpecError, match="got 'prune'"):
        skills.load_template("action_recognition", "prune")


# TAO's fields, one by one


def found_differences(network):
    """(network, key, what, TAO's, ours) wherever a schema says another thing than TAO's."""
    found = set()
    for action in load_specs(network):
        schema = dict(leaves(skills.load_schema(network, action)))
        for key, field in FIELDS[network].items():
            block = key.partition(".")[0]
            if block in ACTIONS - {"train", action}:
                assert key not in schema
            else:
                found |= {(network, key, *it) for it in _differences(field, schema[key])}
    return found


def _differences(field, leaf):
    flags = {SEARCHED: True, NEVER: False}
    yield from _unless_same("type", field.type, leaf["type"])
    yield from _unless_same("default", field.default, leaf.get("default"))
    yield from _unless_same("minimum", field.low, leaf.get("minimum"))
    yield from _unless_same("maximum", field.high, leaf.get("maximum"))
    yield from _unless_same("popular", field.popular, leaf.get("popular", False))
    yield from _unless_same("AutoML", flags.get(field.automl), leaf.get("automl_enabled"))
    options = leaf.get("enum", [])
    if set(options) != set(field.options):
        missing = [name for name in field.options if name not in options]
        more = [name for name in options if name not in field.options]
        yield "options", " ".join(missing) or "-", "also " + " ".join(more)


def _unless_same(what, tao, ours):
    if tao != ours or isinstance(tao, bool) != isinstance(ours, bool):
        yield what, _shown(tao), _shown(ours)


def _shown(value):
    return "-" if value is None else json.dumps(value)


def told_differences():
    """The rows of the page, in the same form; its keys and values are in backticks."""
    section = PAGE.read_text("utf-8").split("## Fields that differ\n")[1].split("\n## ")[0]
    for row in re.findall(r"^\| `(\w+)` \|(.+)\|$", section, flags=re.M):
        key, what, tao, ours, reason = (cell.strip().strip("`") for cell in row[1].split("|"))
        assert len(reason.split()) >= 3, (key, reason)
        yield row[0], key, what, tao, ours


def test_every_field_of_tao_is_in_the_schemas_as_tao_has_it_or_the_page_says_why_not():
    told = list(told_differences())
    found = set().union(*(found_differences(network) for network in NETWORKS))
    assert sorted(found) == sorted(told)


def test_the_walk_itself_sees_differences():
    field = FIELDS["pose_classification"]["model.dropout"]
    leaf = dict(leaves(skills.load_schema("pose_classification", "train")))["model.dropout"]
    assert list(_differences(field, leaf)) == []
    for name, value in {"default": 0.4, "maximum": 2.0, "automl_enabled": False, "type": "int",
                        "popular": True, "enum": ["a"]}.items():  # fmt: skip
        assert len(list(_differences(field, {**leaf, name: value}))) == 1, name


@pytest.mark.parametrize("network", NETWORKS)
def test_what_tao_does_not_have_is_marked_and_nothing_else(network):
    ours = set()
    for action in load_specs(network):
        schema = skills.load_schema(network, action)
        for key, leaf in leaves(schema):
            assert leaf.get("x_kineme", False) == (key not in FIELDS[network]), key
            ours |= {key} if "x_kineme" in leaf else set()
        for key, block in nodes(schema):
            assert block.get("x_kineme", False) == (key not in BLOCKS[network]), key
    assert {"device", "train.label_smoothing", "inference.top_k"} <= ours


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_without_a_spec_has_the_defaults_of_tao_s_runtime(network):
    known = settings_by_key(load_specs(network)["train"])
    told = {
        key for name, key, what, *_ in told_differences() if (name, what) == (network, "default")
    }
    for key, field in FIELDS[network].items():
        expected = field.default if field.runtime is AS_SCHEMA else field.runtime
        if key not in told:
            assert known[key].default == (None if expected in ("", "???") else expected), key


@pytest.mark.parametrize(("network", "action"), ALL)
def test_the_lists_of_a_schema_are_those_of_tao(network, action):
    schema, fields = skills.load_schema(network, action), FIELDS[network]
    searched = [key for key, field in fields.items() if field.automl == SEARCHED]
    never = [key for key, field in fields.items() if field.automl == NEVER]
    assert schema["automl_default_parameters"] == sorted(searched)
    listed = schema["automl_disabled_parameters"]
    of_tao = [key for key in listed if key in fields or key in BLOCKS[network]]
    assert of_tao == sorted([*never, *BLOCKS[network]])
    assert set(listed) - set(of_tao) <= _ours(load_specs(network)[action])
    assert schema["popular"] == POPULAR


def _ours(model):
    """Keys of our own fields, and of blocks that hold nothing else."""
    known = {one.key: one.rule.ours for one in settings(model)}
    names = {key.rpartition(".")[0] for key in known}
    return {key for key, is_ours in known.items() if is_ours} | {
        name
        for name in names
        if all(is_ours for key, is_ours in known.items() if key.startswith(f"{name}."))
    }


@pytest.mark.parametrize(("network", "action"), ALL)
def test_a_schema_has_the_form_of_tao(network, action):
    schema = skills.load_schema(network, action)
    assert set(schema) == {
        "type", "properties", "default", "popular", "automl_default_parameters",
        "automl_disabled_parameters", "x_tao_schema",
    }  # fmt: skip
    assert schema["type"] == "object"
    assert schema["x_tao_schema"] == {
        "action": action,
        "core_module": network,
        "model": f"kineme-train-{network.replace('_', '-')}",
        "network_arch": network,
        "schema_action": action,
        "schema_version": 1,
        "source": "kineme spec declarations",
    }
    hidden = ACTIONS - {"train", action}
    assert set(schema["properties"]) == set(load_specs(network)[action].model_fields) - hidden
    assert _defaults(schema) == schema["default"]
    for key, leaf in leaves(schema):
        assert leaf["title"], key
        assert leaf["description"], key
        assert leaf["type"] in {"int", "float", "bool", "string", "categorical", "list", "list_2",
                                "collection", "union"}, key  # fmt: skip
    for key, block in nodes(schema):
        assert (block["type"], block["automl_enabled"]) == ("collection", False)
        assert all(isinstance(node, dict) for node in block["properties"].values())
        assert _defaults(block) == block["default"]
        flags = {f"{key}.{n}": it.get("automl_enabled") for n, it in block["properties"].items()}
        assert block["automl_default_parameters"] == sorted(k for k, v in flags.items() if v)
        assert block["automl_disabled_parameters"] == sorted(
            k for k, v in flags.items() if v is False
        )


def _defaults(node):
    """The defaults of a block's fields as a tree."""
    return {
        name: _defaults(it) if "properties" in it else it["default"]
        for name, it in node["properties"].items()
        if "properties" in it or "default" in it
    }


def test_numbers_have_the_type_of_their_field():
    for network, action in ALL:
        for key, leaf in leaves(skills.load_schema(network, action)):
            kind = {"int": int, "float": float}.get(leaf["type"])
            for name in ("default", "minimum", "maximum"):
                if kind and name in leaf:
                    assert type(leaf[name]) is kind, (key, name)
                    assert math.isfinite(leaf[name])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("num_gpus", "Number of GPUs"),
        ("gpu_ids", "GPU IDs"),
        ("lr_scheduler", "Learning rate scheduler"),
        ("onnx_file", "ONNX file"),
        ("of_seq_length", "Optical flow sequence length"),
        ("min_lr", "Minimum learning rate"),
        ("model", "Model"),
    ],
)
def test_titles_are_names_in_words(name, words):
    assert title(name) == words


@pytest.mark.parametrize("network", NETWORKS)
def test_the_manifest_lists_every_action_with_its_files(network):
    manifest = skills.load_manifest(network)
    assert set(manifest) == {
        "actions", "automl_enabled", "failures", "model", "network_arch", "schema_version",
    }  # fmt: skip
    assert set(manifest["actions"]) == set(load_specs(network))
    for action, entry in manifest["actions"].items():
        schema = skills.load_schema(network, action)
        assert (skills.folder(network) / entry["spec_template"]).is_file()
        assert (skills.folder(network) / entry["path"]).name == f"{action}.schema.json"
        for name in ("automl_default_parameters", "automl_disabled_parameters", "popular"):
            assert entry[name] == schema[name]


def test_the_lists_of_all_skills_name_every_network():
    summary = json.loads((skills.ROOT / "schemas.manifest.json").read_text())
    support = json.loads((skills.ROOT / "automl_support.json").read_text())
    assert [it["network_arch"] for it in summary["models"].values()] == list(NETWORKS)
    assert [it["network_arch"] for it in support["supported"]] == list(NETWORKS)
    for entry in support["supported"]:
        folder = skills.folder(entry["network_arch"])
        assert (folder / entry["train_schema"]).is_file()
        assert (folder / entry["train_spec_template"]).is_file()
