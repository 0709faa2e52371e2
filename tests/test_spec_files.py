"""Spec files of every kind, good and hostile: rows S06, S07, S10-S13 and S15."""

import contextlib
import dataclasses
import json
import os
import time
import tomllib
import typing
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kineme.errors import SpecError
from kineme.network import NETWORKS, load_specs
from kineme.pose_classification.settings import FORMATS
from kineme.pose_classification.spec import SPECS
from kineme.spec.fields import describe
from kineme.spec.fields import settings as fields_of
from kineme.spec.load import load_spec, value_at
from kineme.spec.read import read_document, scalar
from kineme.spec.schema import json_schema, markdown, resolved, secrets_of, template

TRAIN = SPECS["train"]
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
MINIMUM = "results_dir: out\ndataset: {train_dataset: {data_path: x.npy}}\n"


def refusal(path):
    with pytest.raises(SpecError) as caught:
        load_spec(TRAIN, path)
    return str(caught.value)


def write(tmp_path, content, name="spec.yaml"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# S06


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: [1, 2\nb: 3\n", ":2", "expected YAML"),
        ("train:\n\tseed: 1\n", ":2", "cannot start any token"),
        ("results_dir: a\nresults_dir: b\n", ":2: results_dir", "it again, first on line 1"),
        ("train:\n  seed: 1\n  seed: 1\n", ":3: train.seed", "each key once"),
        ("a: &x 1\nb: *x\n", ":1", "a YAML anchor or alias"),
        ("train: *x\n", ":1", "a YAML anchor or alias"),
        ("a: !!python/object/apply:os.system ['true']\n", ":1", "the YAML tag"),
        ("!!python/name:os.system a: 1\n", ":1", "the YAML tag"),
        ("? [a]\n: 1\n", ":1", "a word as key"),
        ("a: 1\n---\nb: 2\n", ":2", "one YAML document"),
        ("- a\n- b\n", "", "a mapping of keys to values, got a list"),
        ("just words\n", "", "a mapping of keys to values, got 'just words'"),
        ("a: " + "[" * 200, ":1", "at most 32 levels"),
        ("a: " + "{b: " * 200, ":1", "at most 32 levels"),
        ("_target_: os.system\nargs: [true]\n", ":1: _target_", "an unknown key"),
        ("a: \x07\n", "", "a spec in YAML"),
    ],
)
def test_a_broken_or_hostile_yaml_file_is_refused_at_its_line(tmp_path, text, where, words):
    path = write(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}{where}")
    assert words in message


def test_an_alias_bomb_and_a_huge_file_are_refused_at_once(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = write(tmp_path, "\n".join(levels))
    huge = tmp_path / "huge.yaml"
    with open(huge, "wb") as file:
        file.truncate(100 << 20)
    before = time.process_time()
    assert "a YAML anchor or alias" in refusal(bomb)
    assert "at most 1,048,576 bytes, got 104,857,600 bytes" in refusal(huge)
    assert time.process_time() - before < 1


@pytest.mark.parametrize("encode", [
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.encode() + b"# caf\xc3\xa9\n",
])  # fmt: skip
def test_byte_order_marks_windows_lines_and_utf_8_are_read(tmp_path, encode):
    spec, _ = load_spec(TRAIN, write(tmp_path, encode(MINIMUM + "train: {seed: 7}\n")))
    assert spec.train.seed == 7


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("1_000", 1000), ("1e-3", 1e-3), ("1.5E+2", 150.0), (".5", 0.5),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("yes", "yes"), ("off", "off"), ("007", "007"), ("1:30", "1:30"), ("0x1f", "0x1f"),
        ("2026-01-02", "2026-01-02"), ("a b", "a b"), ("nan", "nan"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_words_are_typed_as_in_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_labels_that_yaml_1_1_would_change_stay_as_written(tmp_path):
    text = "dataset:\n  train_dataset: {data_path: x}\n  label_map: {no: 0, on: 1, 1: 2, 1.50: 3}\n"
    spec, _ = load_spec(TRAIN, write(tmp_path, "results_dir: out\n" + text))
    assert list(spec.dataset.label_map) == ["no", "on", "1", "1.50"]


# S07


@dataclasses.dataclass
class _Optim:
    lr: float = 0.5


@dataclasses.dataclass
class _Train:
    num_epochs: int = 3
    optim: _Optim = dataclasses.field(default_factory=_Optim)


@dataclasses.dataclass
class _Experiment:
    train: _Train
    results_dir: str = "out"


def test_yaml_json_toml_mappings_and_dataclasses_give_the_same_spec(tmp_path):
    tree = {"results_dir": "out", "train": {"num_epochs": 3, "optim": {"lr": 0.5}}}
    toml = 'results_dir = "out"\n[train]\nnum_epochs = 3\n[train.optim]\nlr = 0.5\n'
    assert tomllib.loads(toml) == tree
    sources = [
        write(tmp_path, yaml.safe_dump(tree)),
        write(tmp_path, json.dumps(tree), "spec.json"),
        write(tmp_path, toml, "spec.toml"),
        tree,
        {"results_dir": "out", "train.num_epochs": 3, "train.optim.lr": 0.5},
        _Experiment(_Train()),
        load_spec(TRAIN, tree, ["dataset.train_dataset.data_path=x"])[0],
    ]
    specs = [
        load_spec(TRAIN, source, ["dataset.train_dataset.data_path=x"])[0] for source in sources
    ]
    assert all(spec == specs[0] for spec in specs)
    assert (specs[0].train.num_epochs, specs[0].train.optim.lr) == (3, 0.5)


@pytest.mark.parametrize("name", ["spec.yaml", "spec.json"])
def test_flat_dotted_keys_are_read_in_files(tmp_path, name):
    text = json.dumps({"results_dir": "o", "dataset.train_dataset.data_path": "x", "train.seed": 4})
    spec, _ = load_spec(TRAIN, write(tmp_path, text, name))
    assert spec.train.seed == 4


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"results_dir": 1,\n}', "a.json:2: expected JSON"),
        (
            "a.json",
            '{"results_dir": "a", "results_dir": "b"}',
            "results_dir: expected each key once",
        ),
        ("a.json", "[" * 5000, "a.json: expected a spec in YAML, JSON or TOML"),
        ("a.json", '{"results_dir": ' + "9" * 5000 + "}", "a.json: expected a spec"),
        (
            "a.json",
            '{"results_dir": "o", "train": {"optim": {"lr": NaN}}}',
            "train.optim.lr: expected",
        ),
        ("a.json", "[1]", "a mapping of keys to values, got a list"),
        ("a.toml", "a = \n", "a.toml: expected a spec in YAML, JSON or TOML"),
        (
            "a.toml",
            'results_dir = "o"\n[train]\nsed = 1\n',
            "a.toml: train.sed: expected a known key",
        ),
    ],
)
def test_json_and_toml_give_the_same_messages(tmp_path, name, text, words):
    assert words in refusal(write(tmp_path, text, name))


# S10


@pytest.mark.parametrize("action", SPECS)
def test_a_template_reads_back_as_the_defaults(tmp_path, action):
    spec, notes = load_spec(SPECS[action], write(tmp_path, template(SPECS[action])))
    assert notes == ()
    for declared in fields_of(SPECS[action]):
        if declared.key not in spec.mandatory:
            assert value_at(spec, declared.key) == declared.default


@pytest.mark.parametrize("action", SPECS)
def test_a_template_with_every_key_uncommented_is_valid(tmp_path, action):
    lines = template(SPECS[action]).splitlines()
    bare = [line.replace("#", "", 1) if line.lstrip()[1:2] != " " else "" for line in lines]
    spec, _ = load_spec(SPECS[action], write(tmp_path, "\n".join(bare)))
    assert spec.train.optim.lr == 0.1
    assert sum(":" in line for line in bare) > 40


@pytest.mark.parametrize("network", NETWORKS)
def test_every_field_says_what_it_is_and_what_it_expects(network):
    for spec in load_specs(network).values():
        wrong = {}
        for field in fields_of(spec):
            *parts, name = field.key.split(".")
            place = wrong
            for part in parts:
                place = place.setdefault(part, {})
            takes_tables = any(typing.get_origin(kind) is dict for kind in field.kinds)
            place[name] = [[None]] if takes_tables else {"x": None}
        with pytest.raises(SpecError) as caught:
            load_spec(spec, wrong)
        told = {p.where.removeprefix("spec: "): p.expected for p in caught.value.problems}
        assert [f.key for f in fields_of(spec) if not f.doc or describe(f) != told.get(f.key)] == []


@pytest.mark.parametrize("action", SPECS)
def test_the_json_schema_is_strict_and_agrees_with_the_spec(action):
    schema = json.loads(json.dumps(json_schema(SPECS[action]), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema).is_valid
    assert check({})
    assert check({"train": {"optim": {"lr": 0.5}}, "dataset": {"label_map": {"a": 0}}})
    assert check({"train": {"class_weights": [1.0]}})
    assert not check({"train": {"optim": {"lr": -1}}})
    assert not check({"train": {"num_epoch": 1}})
    assert not check({"model": {"graph_layout": "nvida"}})
    assert not check({"dataset": {"augmentation": {"scale": [1.0]}}})


def test_searched_and_popular_fields_are_those_of_tao():
    schema = json_schema(TRAIN)
    assert sorted(schema["automl_default_parameters"]) == [
        "dataset.window_size", "model.dropout", "train.grad_clip", "train.optim.lr",
        "train.optim.lr_decay", "train.optim.momentum", "train.optim.patience",
        "train.optim.weight_decay",
    ]  # fmt: skip
    popular = [one.key for one in fields_of(TRAIN) if one.rule.popular and "train." in one.key]
    assert popular == ["train.num_gpus", "train.gpu_ids", "train.num_nodes", "train.num_epochs",
                       "train.checkpoint_interval", "train.validation_interval"]  # fmt: skip


def test_the_reference_in_the_docs_is_up_to_date():
    parts = [markdown(load_specs(name)) for name in NETWORKS]
    assert (ROOT / "docs" / "spec.md").read_text(encoding="utf-8") == "\n".join(parts)


# S11


def test_a_resolved_spec_reads_back_as_itself(tmp_path):
    source = {
        "results_dir": "out", "dataset.train_dataset.data_path": "x", "recipe": "modern",
        "dataset.label_map": {"yes": 0, "007": 1, "1": 2, "caf\u00e9, \u2603": 3},
        "train.optim.lr": 1e-5, "train.num_gpus": 2,
        "train.optim.momentum": 0, "automl_policy": "off",
    }  # fmt: skip
    first, _ = load_spec(TRAIN, source)
    path = write(tmp_path, yaml.safe_dump(resolved(first), allow_unicode=True))
    again, notes = load_spec(TRAIN, path)
    assert again == first
    assert notes == ()
    assert resolved(again) == resolved(first)


# S12


_VALID = resolved(load_spec(TRAIN, {"results_dir": "o", "dataset.train_dataset.data_path": "x"})[0])
_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from(["${a}", "${results_dir}", "${eval:1}", "!!x", "1e999", "\x00", 10**400, -1]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)  # fmt: skip
_PATHS = st.sampled_from([one.key for one in fields_of(TRAIN)] + list(SPECS) + ["model", "a.b"])


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(_PATHS, _ODD), min_size=1, max_size=4), st.booleans())
def test_any_mutation_of_a_valid_spec_loads_or_is_refused(mutations, as_overrides):
    tree = json.loads(json.dumps(_VALID))
    overrides = dict(mutations) if as_overrides else {}
    for path, value in () if as_overrides else mutations:
        *parents, leaf = path.split(".")
        at = tree
        for name in parents:
            at = at.setdefault(name, {}) if isinstance(at, dict) else {}
        if isinstance(at, dict):
            at[leaf] = value
    with contextlib.suppress(SpecError):  # anything else is a bug
        load_spec(TRAIN, tree, overrides)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60), st.sampled_from(["yaml", "json", "toml"]))
def test_any_text_is_read_or_refused(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with contextlib.suppress(SpecError):
        read_document(path)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(alphabet="trainlrd_.=[]{},:'\"$~+ 01e-\\", max_size=30), max_size=4))
def test_any_overrides_are_read_or_refused(overrides):
    with contextlib.suppress(SpecError):
        load_spec(TRAIN, _VALID, overrides)


# S13


def test_a_path_that_is_no_spec_is_one_line(tmp_path):
    assert refusal(tmp_path / "none.yaml").endswith(
        "expected a spec file, got no such file. Check -e."
    )
    assert "expected a spec file, got a folder." in refusal(tmp_path)
    binary = write(tmp_path, bytes(range(256)))
    assert refusal(binary) == (
        f"{binary}: expected a text file (UTF-8), got byte 128 is not UTF-8. Is this a spec?"
    )
    assert "expected a spec in YAML" in refusal(write(tmp_path, b"a: \x00\n"))
    os.mkfifo(tmp_path / "fifo")
    assert "expected a regular file, got a pipe or device." in refusal(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "loop: expected" in refusal(tmp_path / "loop")
    assert "expected a spec file, got no such file" in refusal("a\x00b")


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def forbid(self):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, MINIMUM)
    monkeypatch.setattr(Path, "read_bytes", forbid)
    assert refusal(path) == f"{path}: expected a readable spec file, got Permission denied."


# S15


def test_secrets_are_not_in_anything_that_is_written_or_shown():
    source = {
        "results_dir": "o",
        "dataset.train_dataset.data_path": "x",
        "encryption_key": "hunter2",
    }
    spec, notes = load_spec(TRAIN, source)
    assert spec.encryption_key == "hunter2"
    assert secrets_of(spec) == ("hunter2",)
    shown = [repr(spec), str(spec), json.dumps(resolved(spec)), template(TRAIN), *notes]
    assert "hunter2" not in " ".join(shown)
    with pytest.raises(SpecError) as caught:
        load_spec(TRAIN, {**source, "encryption_key": ["hunter2"]})
    assert "expected text, got a hidden value" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    for override in ("encryption_key=[hunter2", "encryption_key=${eval:hunter2}"):
        with pytest.raises(SpecError) as caught:
            load_spec(TRAIN, source, [override])
        assert "got a hidden value" in str(caught.value)
        assert "hunter2" not in str(caught.value)


# What the spec promises about the rest of the house


def test_the_formats_are_those_that_have_a_reader():
    convert = pytest.importorskip("kineme.pose_classification.convert")
    assert set(FORMATS) == set(convert.READERS)


def _override_blocks():
    """The override blocks of the product text, by action, with its f-strings filled in."""
    text = (SHARED / "product_texts" / "pose_classification.txt").read_text(encoding="utf-8")
    lines = text.replace('f"{S3_TRAIN}"', '"s3://bucket/data/train"').splitlines()
    blocks = {}
    for at, line in enumerate(lines):
        if line.startswith("**") and line.endswith("(mandatory data sources):**"):
            start = lines.index("{", at)
            body = "\n".join(lines[start : lines.index("}", start) + 1])
            blocks[line.strip("*").split(" ")[0]] = json.loads(body.replace(",\n}", "\n}"))
    return blocks


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder 'shared' beside the repository")
def test_the_override_blocks_of_the_product_text_work_as_written():
    blocks = _override_blocks()
    assert sorted(blocks) == ["evaluate", "inference", "train"]
    for action, overrides in blocks.items():
        more = {"results_dir": "out"}
        if action != "train":
            more[f"{action}.checkpoint"] = "model.pth"
        for source, given_as in ((more, overrides), ({**more, **overrides}, {})):
            load_spec(SPECS[action], source, given_as)
    spec, notes = load_spec(TRAIN, {"results_dir": "out"}, blocks["train"])
    assert (spec.dataset.num_classes, spec.model.graph_layout) == (6, "nvidia")
    assert (spec.train.num_epochs, spec.train.checkpoint_interval) == (30, 10)
    assert len(notes) == 2
