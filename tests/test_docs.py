"""What the pages say, held against the code: commands, settings, code blocks, links."""

import ast
import itertools
import json
import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from kineme import cli, migrate
from kineme.action_recognition.settings import FORMATS as VIDEO_FORMATS
from kineme.actions import ACTIONS, export, inference
from kineme.automl import command as automl_command
from kineme.automl import trial_specs
from kineme.automl.settings import read_settings, split_document
from kineme.errors import SpecError
from kineme.jobs import command as jobs_command
from kineme.jobs.runners import check_platform
from kineme.network import NETWORKS, load_network, load_specs
from kineme.people import command as analyze_command
from kineme.people.estimators import _class_of, settings_of
from kineme.people.repetitions.form_rules import load_form_rules
from kineme.pose_classification.layouts import LAYOUTS, load_layout
from kineme.pose_classification.settings import FORMATS as POSE_FORMATS
from kineme.pose_classification.spec import SPECS, TrainSpec
from kineme.spec.fields import blocks, settings_by_key
from kineme.spec.load import load_spec
from kineme.spec.schema import template
from stick import rows_of, spec_of, train_stick

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OPERATORS = {"&&", "||", ";", "|", "&"}


def found_in_pages(*languages: str) -> list:
    """(page, text) of every fenced block in one of `languages`, as test parameters."""
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        for number, (language, text) in enumerate(FENCE.findall(page.read_text()))
        if language in languages
    ]


def prose_of(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def commands_in(text: str) -> list[list[str]]:
    """The words of every kineme command in a shell block."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        commands.append([])
        for word in lexer:
            if word in OPERATORS:
                commands.append([])
            else:
                commands[-1].append(word)
    return [words for words in map(_without_redirect, commands) if words[:1] in _NAMES]


_NAMES = [["kineme"], *([name] for name in NETWORKS)]


def _without_redirect(words: list[str]) -> list[str]:
    words = words[words[:1] == ["do"] :]
    return words[: words.index(">")] if ">" in words else words


def check(words: list[str]) -> tuple[str, ...]:
    """Read a command as the command line does, up to the spec; returns its notes."""
    words = words[words[0] == "kineme" :]
    if words[0] == "jobs":
        return check_jobs(*words[1:])
    if words[0] == "automl":
        return check_automl(*words[1:])
    if words[0] == "analyze":
        return check_analysis(*words[1:])
    if words[0] == "models":
        assert words[1] in ("list", "get", "path")
        return ()
    if words[0] not in NETWORKS:
        known = ("demo", "spec", "migrate")
        assert words[0] in known or "check" in words[:2], words
        if words[0] == "migrate":
            assert migrate._parsed(words[1:])["FILE"]
        if words[0] == "spec" and "--docs" not in words:
            assert words[1] in NETWORKS
            assert words[2] in ACTIONS
        return ()
    network, action, *rest = words
    request = cli._parse(rest, action)
    if action == "default_specs" or request.wants_help:
        assert action in (*ACTIONS, "default_specs")
        return ()
    model = load_specs(network)[action]
    # A spec file stands for one that says what has to be said.
    source = yaml.safe_load(template(model)) if request.spec_path else None
    return load_spec(model, source, request.overrides)[1]


def check_jobs(verb: str, *rest: str) -> tuple[str, ...]:
    """`kineme jobs ...`; of `create`, the settings of its action too."""
    asked = jobs_command._parsed(verb, rest)
    if verb != "create":
        assert verb == "list" or len(asked.words) == 1
        return ()
    network, action, *overrides = asked.words
    check_platform(asked.one("--runner") or "subprocess", jobs_command._platform(
        asked.options.get("--platform", ())))  # fmt: skip
    own, others = trial_specs._split_words(overrides, [])
    model = load_specs(network)[action]
    found = dict.fromkeys(model.mandatory, "x")  # in data sets and parents
    return (*load_spec(model, found, others)[1], *(read_settings(own)[1] if own else ()))


def check_automl(*rest: str) -> tuple[str, ...]:
    """`kineme automl ...`: its options, settings of the search and of the training."""
    request = automl_command._parse(rest)
    check_platform(request.runner, request.platform)
    own, others = trial_specs._split_words(request.overrides, [])
    model = load_specs(request.network)["train"]
    found = dict.fromkeys(model.mandatory, "x") if request.spec_path else {}
    return (*load_spec(model, found, others)[1], *read_settings(own)[1])


def check_analysis(*rest: str) -> tuple[str, ...]:
    """`kineme analyze ...`: its options, and settings of the estimator that is named."""
    request = analyze_command._parsed(rest)
    assert not request.problems
    request.words.pop("--rules", None)  # checked where the file stands on a page
    settings = analyze_command._settings(request)
    kind = _class_of(settings.estimator)
    settings_of(kind.settings_type, settings.estimator_settings, settings.estimator)
    return ()


def test_every_option_of_an_analysis_is_described():
    named = set(re.findall(r"--[a-z-]+", (ROOT / "docs" / "analyze.md").read_text()))
    options = {*analyze_command._FLAGS, *analyze_command._NUMBERS, *analyze_command._WORDS}
    assert options <= named
    assert options <= set(re.findall(r"--[a-z-]+", analyze_command.USAGE))


@pytest.mark.parametrize("text", found_in_pages("bash", "sh", "shell", "console", ""))
def test_commands_are_understood_and_every_setting_has_an_effect(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in commands_in(text):
        assert check(words) == (), shlex.join(words)


def test_the_reading_of_commands_sees_what_is_there():
    text = (
        "kineme demo && kineme pose_classification train \\\n a.b='[1, 2]' # why\n  ls > kineme\n"
    )
    assert commands_in(text) == [
        ["kineme", "demo"],
        ["kineme", "pose_classification", "train", "a.b=[1, 2]"],
    ]
    everything = [p.values[0] for p in found_in_pages("bash", "")]
    assert sum(len(commands_in(text)) for text in everything) > 20
    with pytest.raises(SpecError, match=r"train\.epochs"):
        check(["kineme", "pose_classification", "train", "-e", "spec.yaml", "train.epochs=3"])


@pytest.mark.parametrize("text", found_in_pages("yaml"))
def test_yaml_blocks_are_layouts_rules_or_specs(text, tmp_path):
    if "joints:" in text:
        (tmp_path / "layout.yaml").write_text(text)
        assert load_layout(tmp_path / "layout.yaml").num_joints > 1
    elif text.startswith("rules:"):
        assert load_form_rules(yaml.safe_load(text), "coco")
    else:
        (tmp_path / "spec.yaml").write_text(text)
        searched, tree = split_document(yaml.safe_load(text))
        assert not searched or read_settings(searched)[1] == ()
        assert load_spec(TrainSpec, tree if searched else tmp_path / "spec.yaml")[1] == ()


@pytest.mark.parametrize("text", found_in_pages("json"))
def test_json_blocks_are_json(text):
    json.loads(text)


@pytest.mark.parametrize("text", found_in_pages("python"))
def test_python_blocks_compile_and_import_what_exists(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kineme"):
            for alias in node.names:
                is_module = source_of(f"{node.module}.{alias.name}").is_file()
                assert is_module or alias.name in defined_in(node.module), alias.name


def source_of(module: str) -> Path:
    """The file of a module, found without importing it (torch takes seconds)."""
    path = ROOT.joinpath("src", *module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def defined_in(module: str) -> set[str]:
    """The names at the top of a module."""
    names: set[str] = set()
    body = ast.parse(source_of(module).read_text()).body
    lazy = [one for node in body if isinstance(node, ast.If) for one in node.body]  # TYPE_CHECKING
    for node in [*body, *lazy]:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names.add(getattr(node, "name", ""))
    return names


def first_python_block(page: Path, holding: str) -> str:
    blocks = (text for language, text in FENCE.findall(page.read_text()) if language == "python")
    return next(text for text in blocks if holding in text)


@pytest.mark.parametrize(
    "words",
    [
        ("dataset.normalize=center_minmax", "dataset.sampling=uniform", "dataset.num_frames=6"),
        (),
    ],
    ids=["as the recipe", "centred, all frames"],
)
def test_the_app_of_the_guide_answers_as_inference_does(words, tmp_path, monkeypatch):
    lengths = np.array([7, 9, 10, 4, 6, 11, 8])
    data = hard_skeletons(lengths)
    np.save(tmp_path / "data.npy", data)
    train_stick(tmp_path, words=words)
    network = load_network("pose_classification")
    export.run(network, spec_of("export", tmp_path, tmp_path / "results"))
    named = f"inference.test_dataset.data_path={tmp_path / 'data.npy'}"
    asked = spec_of("inference", tmp_path, tmp_path / "results", named)
    inference.run(network, asked)
    said = rows_of(tmp_path / "results" / "inference" / "predictions.csv")

    monkeypatch.chdir(tmp_path)
    app: dict = {}
    exec(first_python_block(ROOT / "docs" / "guide.md", "InferenceSession"), app)
    for sample, length, row in zip(data, lengths, said, strict=True):
        label, shares = app["classify"](sample[:, :length] if words else sample)
        assert label == row["label"]
        assert shares.max() == pytest.approx(float(row["probability"]), abs=2e-4)
    crowd = np.repeat(data[:1], 2, axis=4)[0]
    app["facts"]["num_persons"] = 2
    with pytest.raises(NotImplementedError, match="more than 2 people"):
        app["classify"](crowd)
    if not words:  # the centre comes to lie at zero, and is told from a joint that is missing
        moved = app["normalized"](data[5])
        assert moved[:, 0, app["at"], 1] == pytest.approx([1e-6, 0, 0], rel=1e-6)
        assert not moved[:, 0, 2, 1].any()


def hard_skeletons(lengths):
    """(N, 3, T, 4, 2): hidden joints, people who come late, hidden centres, one flat axis."""
    data = np.random.default_rng(5).normal(0.3, 1.0, (len(lengths), 3, lengths.max(), 4, 2))
    data[:, :, ::3, 2] = 0
    data[1, :, :2, :, 0] = 0  # the first person comes in the third frame
    data[2, :, :, 0] = 0  # the centre joint is never seen
    data[3, 2] = 0.5  # no depth
    data[4, :, 0, 1:3] = 0
    data[::2, ..., 1] = 0
    data[5, ..., 0] = 0  # there is nobody in the first place
    for sample, length in zip(data, lengths, strict=True):
        sample[:, length:] = 0
    return data.astype(np.float32)


def test_the_app_of_the_guide_refuses_what_it_does_not_do():
    text = first_python_block(ROOT / "docs" / "guide.md", "InferenceSession")
    known = re.search(r"not in \(([^)]*)\)", text)[1].replace('"', "").split(", ")
    assert known == ["none", "center", "center_minmax"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors_of(other), target


@cache
def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


BLOCKS = "|".join(blocks(TrainSpec))  # the same in all networks
FILES = re.compile(r"\.(npy|json|jsonl|csv|pkl|yaml|html|onnx|xml|bin|pth|py|md|txt|png)$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_named_in_the_text_exist(page):
    models = [load_specs(name)["train"] for name in NETWORKS]
    known = [settings_by_key(model) for model in models]
    for span in re.findall(r"`([^`\n]+)`", prose_of(page)):
        for word in [span] if "=[" in span else span.split():
            key, equals, value = word.partition("=")
            if not re.fullmatch(rf"({BLOCKS})(\.\w+)+", key) or FILES.search(key):
                continue
            is_block = any(name.startswith(f"{key}.") for name in itertools.chain(*known))
            having = [model for model, keys in zip(models, known, strict=True) if key in keys]
            assert having or (is_block and not equals), word
            if value and key != "model.layout":
                assert any(is_accepted(word, model) for model in having), word


def is_accepted(word: str, model: type) -> bool:
    try:
        load_spec(model, yaml.safe_load(template(model)), [word])
    except SpecError:
        return False
    return True


def test_every_layout_format_and_action_is_described():
    text = (ROOT / "docs" / "formats.md").read_text()
    named = set(re.findall(r"`([^`\n]+)`", text))
    assert set(LAYOUTS) <= named
    assert {*POSE_FORMATS, *VIDEO_FORMATS} <= named
    assert all(f"| {action} |" in text or f"{action} leaves" in text for action in SPECS)


def test_joint_counts_of_layouts_are_those_of_the_table():
    text = (ROOT / "docs" / "formats.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d, ]+) \|", text, flags=re.M)
    told = {
        name.strip("` "): int(count)
        for names, counts in rows
        for name, count in zip(names.split(","), counts.split(","), strict=True)
    }
    assert told == {name: layout.num_joints for name, layout in LAYOUTS.items()}
