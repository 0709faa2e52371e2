"""The skills for assistants, held against the code: their form, and every fact in them."""

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

import test_docs as docs
from kineme import errors, skills
from kineme.action_recognition.convert import READERS as VIDEO_READERS
from kineme.automl.settings import read_settings, split_document
from kineme.data.labels import read_labels
from kineme.engine import names
from kineme.network import NETWORKS, load_network, load_specs
from kineme.pose_classification.convert import READERS as SKELETON_READERS
from kineme.pose_classification.layouts import LAYOUTS
from kineme.skills.copying import SKILL_FILE, front_matter, list_skills
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec
from skill_pages import blocks_of, body_of, code, commands_in, pages_of, rows_of

ROOT = Path(__file__).resolve().parents[1]
SKILLS = {skill.folder.name: skill for skill in list_skills()}
FRONT_MATTER = {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
MOST_LINES, MOST_CHARACTERS = 500, 20_000  # of a body; the specification asks for < 5000 tokens


PAGES = [page for skill in SKILLS.values() for page in pages_of(skill.folder)]
of_pages = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(skills.ROOT))
)
of_skills = pytest.mark.parametrize("name", SKILLS)
of_networks = pytest.mark.parametrize("network", NETWORKS)


def test_every_network_has_a_skill_and_the_repository_shows_them_at_its_top():
    assert {skills.folder_name(network) for network in NETWORKS} <= set(SKILLS)
    assert (ROOT / "skills").is_symlink()
    assert (ROOT / "skills").resolve() == skills.ROOT
    assert not (ROOT / "skills").readlink().is_absolute()


# The form: https://agentskills.io/specification


@of_skills
def test_the_front_matter_is_as_the_specification_asks(name):
    text = (skills.ROOT / name / SKILL_FILE).read_text()
    facts = front_matter(text)
    assert set(facts) <= FRONT_MATTER
    assert facts["name"] == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert len(name) <= 64
    assert 1 <= len(facts["description"]) <= 1024
    assert "Use when" in facts["description"]
    assert 1 <= len(facts["compatibility"]) <= 500
    assert facts["license"] == "Apache-2.0"
    assert all(type(x) is str for pair in facts["metadata"].items() for x in pair)
    body = text.partition("\n---\n")[2]
    assert len(body.splitlines()) < MOST_LINES
    assert len(body) < MOST_CHARACTERS


@of_pages
def test_links_lead_somewhere_inside_the_skill(page):
    folder = skills.ROOT / page.relative_to(skills.ROOT).parts[0]
    for target in re.findall(r"\]\(([^)\s]+)\)", docs.prose_of(page)):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.is_file(), target
        assert other.is_relative_to(folder), f"{target}: a copy of the skill lacks it"
        assert not anchor or anchor in docs.anchors_of(other), target


@of_skills
def test_every_page_is_reached_from_the_first_in_one_step(name):
    folder = skills.ROOT / name
    linked = re.findall(r"\]\(([^)#\s]+)", (folder / SKILL_FILE).read_text())
    for page in pages_of(folder)[1:]:
        assert str(page.relative_to(folder)) in linked
    assert all(target.count("/") <= 1 for target in linked)


# What the pages say of settings


def pages_with_network() -> list:
    return [
        pytest.param(page, network, id=f"{network}:{page.name}")
        for network in NETWORKS
        for page in pages_of(skills.folder(network))
    ]


@pytest.mark.parametrize(("page", "network"), pages_with_network())
def test_every_setting_named_in_the_text_exists_and_takes_the_value(page, network):
    model = load_specs(network)["train"]
    known = settings_by_key(model)
    tops = {key for key in known if "." not in key}
    for span in re.findall(r"`([^`\n]+)`", docs.prose_of(page)):
        said = []
        for word in [span] if "=[" in span else span.split():
            key, equals, value = word.partition("=")
            is_key = re.fullmatch(rf"({docs.BLOCKS})(\.\w+)+", key) or (equals and key in tops)
            if not is_key or docs.FILES.search(key) or key.endswith(".tar.gz"):
                continue
            is_block = any(one.startswith(f"{key}.") for one in known)
            assert key in known or (is_block and not equals), word
            said += [word] if value and value != "PATH" else []
        if said:
            load_spec(model, dict.fromkeys(model.mandatory, "x"), said)  # raises for what it bars


@of_networks
def test_every_default_is_the_declared_one_and_that_of_the_recipe(network):
    model = load_specs(network)["train"]
    known, recipe = settings_by_key(model), model.recipes["modern"]
    text = body_of(network)
    rows = rows_of(text, "Key", "Default", "modern")
    assert len(rows) > 30
    for key, default, modern, *_ in rows:
        assert value_of(default) == known[code(key)].default, key
        assert not modern or value_of(modern) == recipe[code(key)], key
        assert modern or code(key) not in recipe, key
    for key, default, _ in rows_of(text, "Key", "Default", "Meaning"):
        assert value_of(default) == known[code(key)].default, key


def value_of(cell: str) -> object:
    return None if cell == "not set" else yaml.safe_load(code(cell))


@of_networks
def test_the_data_of_each_action_are_those_of_the_declarations(network):
    rows = rows_of(body_of(network), "Action", "Spec key", "Must")
    info = skills.load_skill_info(network)
    for action, model in load_specs(network).items():
        said = {code(key): (must, code(path)) for one, key, must, path, _ in rows if one == action}
        common = {"results_dir", f"{action}.checkpoint"}
        assert {key for key, (must, _) in said.items() if must} == set(model.mandatory) - common
        sources = info["data_sources"].get(action, {})
        assert set(sources) <= set(said)
        for key, (_, path) in said.items():
            assert path == sources.get(key, {}).get("path", ""), key


@of_networks
def test_the_mappings_are_those_that_runners_read(network):
    said: dict[str, dict[str, str]] = {}
    for action, key, function, by_hand in rows_of(body_of(network), "Action", "Spec field"):
        said.setdefault(action, {})[code(key)] = code(function)
        assert by_hand
    assert said == skills.load_skill_info(network)["spec_params"]


@pytest.mark.parametrize(
    ("network", "readers"),
    [("action_recognition", VIDEO_READERS), ("pose_classification", SKELETON_READERS)],
)
def test_every_format_is_named(network, readers):
    text = (skills.folder(network) / "references" / "data_formats.md").read_text()
    assert {code(row[0]) for row in rows_of(text, "`dataset_convert.format`")} == set(readers)


def test_every_layout_is_named_with_its_joints():
    text = (skills.folder("pose_classification") / "references" / "data_formats.md").read_text()
    rows = rows_of(text, "`model.graph_layout`", "V")
    assert {code(name): int(joints) for name, joints, _ in rows} == {
        name: layout.num_joints for name, layout in LAYOUTS.items()
    }


# What the pages say of results


@of_networks
def test_exit_codes_are_those_of_the_errors(network):
    told = [int(row[0]) for row in rows_of(body_of(network), "Exit code", "Meaning")]
    classes = [x for x in vars(errors).values() if isinstance(x, type)]
    declared = {x.exit_code for x in classes if issubclass(x, errors.KinemeError)}
    assert told == sorted({errors.EXIT_OK, errors.EXIT_SIGINT, errors.EXIT_SIGTERM} | declared)


@of_networks
def test_result_files_go_by_the_names_that_runs_give_them(network):
    spelled = {value for name, value in vars(names).items() if re.fullmatch(r"\w+_F\w+", name)}
    prefix = load_network(network).prefix
    spelled |= {names.LATEST_FILE.format(prefix=prefix)}
    text = body_of(network)
    named = {code(row[1]) for row in rows_of(text, "Action", "File")}
    assert named <= spelled
    section = text.partition("## Reading the results")[2].partition("\n## ")[0]
    for name in re.findall(
        r"`([a-z_]+\.(?:jsonl?|csv|txt|yaml|html|pth|onnx|safetensors))`", section
    ):
        assert name in spelled, name
    assert "`model_epoch_EEE_step_SSSSS.pth`" in text
    assert re.fullmatch(names.CHECKPOINT_PATTERN, "model_epoch_000_step_00001.pth")


@of_networks
def test_every_measured_figure_is_in_the_benchmarks(network):
    told = body_of(network).partition("\nMeasured")[2].partition("\n\n")[0]
    figures = re.findall(r"\d[\d.]* ?(?:%|s\b|min|videos/s)|\d+(?= sequences| new|\))", told)
    assert len(figures) >= 4
    page = " ".join((ROOT / "docs" / "benchmarks.md").read_text().replace("|", " ").split())
    for figure in figures:
        assert figure.rstrip("%s ") in page, figure


# Code


@of_pages
def test_what_is_fenced_is_known_and_every_setting_in_a_command_has_an_effect(page):
    assert {language for language, _ in docs.FENCE.findall(page.read_text())} <= {
        "bash", "yaml", "python", "text", "json",
    }  # fmt: skip
    for _, text in blocks_of(page, "bash"):
        for words in commands_in(text):
            assert words[0] in ("kineme", "pip"), words
            if words[1] in (*NETWORKS, "automl", "jobs"):
                assert docs.check(words) == (), shlex.join(words)


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@of_networks
def test_installing_is_what_ci_does_and_extras_exist(network):
    (_, text), *_ = blocks_of(skills.folder(network) / SKILL_FILE, "bash")
    pips = [words for words in commands_in(text) if words[0] == "pip"]
    assert (
        shlex.join(pips[0]).replace("install", "install --quiet", 1)
        in (ROOT / ".ci" / "run").read_text()
    )
    for words in pips:
        assert words[:5] == ["pip", "install", "-c", "constraints.txt", "-e"]
        (extra,) = re.fullmatch(r"\.(?:\[(\w+)\])?", words[5]).groups()
        assert extra is None or extra in project()["optional-dependencies"]
    assert f"Python {project()['requires-python'].removeprefix('>=')} or later" in body_of(network)


def test_the_python_code_writes_data_that_are_read(tmp_path):
    page = skills.folder("pose_classification") / "references" / "data_formats.md"
    (_, text), *others = blocks_of(page, "python")
    assert not others
    names: dict = {}
    exec(compile(ast.parse(text), str(page), "exec"), names)  # a block of ours
    points = np.full((4, 17, 3), (0.25, 0.75, 0.9))
    points[1, 3, 2] = 0.05
    names["save"](tmp_path, "train", [("a", "lunge", points), ("b", "squat", points[:2])])
    data = np.load(tmp_path / "train_data.npy")
    assert data.shape == (2, 3, 4, 17, 1)
    np.testing.assert_allclose(data[0, :, 0, 5, 0], (-0.25, 0.25, 0.9), rtol=1e-6)
    assert not data[0, :, 1, 3].any()
    assert not data[1, :, 2:].any()
    labels = read_labels(tmp_path / "train_label.json")
    assert (labels.ids, labels.labels.tolist(), labels.layout) == (("a", "b"), [1, 0], "coco")
    assert labels.class_names == ("squat", "lunge", "other")


@of_pages
def test_yaml_blocks_are_specs_of_every_action_or_layouts(page, tmp_path):
    for _, text in blocks_of(page, "yaml"):
        path = tmp_path / "block.yaml"
        path.write_text(text)
        if "joints:" in text:
            assert docs.load_layout(path).num_joints == 7
            continue
        assert text.startswith("# spec.yaml\n")
        facts = front_matter(page.read_text())["metadata"]
        for action, model in load_specs(facts.get("network", "pose_classification")).items():
            said = ("dataset.", "evaluate.test_dataset")
            rest = {key: "x" for key in model.mandatory if not key.startswith(said)}
            searched, tree = split_document(yaml.safe_load(text))
            assert not searched or read_settings(searched)[1] == ()
            _, notes = load_spec(model, tree if searched else path, rest)
            assert notes == (), (action, notes)
