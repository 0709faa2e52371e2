"""docs/compatibility.md answers every fault of TAO's, and what it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import blocks, settings_by_key

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
TEST = re.compile(r"`(tests/test_\w+\.py)::(test_\w+)`")
FAULTS = [*map(str, range(1, 58)), "57b", *map(str, range(58, 75))]
LATER = ["75"]
SECTIONS = (
    "What is the same", "Features of both networks", "Features of action recognition",
    "Features of pose classification", "Changed on purpose", "Faults of TAO", "Not built yet",
    "Fields that differ",
)  # fmt: skip


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def section(title: str) -> str:
    """What lies below a heading of the second level, up to the next."""
    return text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows_of(part: str) -> list[list[str]]:
    """The cells of every row of its tables, without headers and rules."""
    lines = [line for line in part.splitlines() if line.startswith("|")]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("|-")]
    skipped = {*rules, *(i - 1 for i in rules)}
    rows = [line.strip("|").split("|") for i, line in enumerate(lines) if i not in skipped]
    return [[cell.strip() for cell in row] for row in rows]


FAULT_ROWS = rows_of(section("Faults of TAO"))
FEATURE_ROWS = [row for title in SECTIONS[:4] for row in rows_of(section(title))]


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def check_tests(cell: str) -> int:
    """How many tests a cell names. All must exist, and there must be nothing else in it."""
    named = TEST.findall(cell)
    assert TEST.sub("", cell).strip() == ""
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert name in names_in(path), f"{path}::{name}"
    assert len(set(named)) == len(named)
    return len(named)


def test_the_sections_are_there_in_their_order():
    assert re.findall(r"^## (.+)$", text(), flags=re.M) == list(SECTIONS)
    assert len(text().splitlines()) < 500


def test_every_fault_of_tao_is_there_once_and_in_order():
    assert [row[0] for row in FAULT_ROWS] == FAULTS
    assert [row[0] for row in rows_of(section("Not built yet"))] == LATER


@pytest.mark.parametrize("row", FAULT_ROWS, ids=lambda row: row[0])
def test_a_fault_is_answered_and_shown_by_tests_that_exist(row):
    number, theirs, ours, shown_by = row
    assert len(theirs) > 10, number
    assert len(ours) > 4, number
    assert check_tests(shown_by) > 0


@pytest.mark.parametrize("row", FEATURE_ROWS, ids=lambda row: row[0][:40])
def test_a_feature_is_answered_and_what_is_here_is_shown_by_a_test(row):
    theirs, ours, shown_by = row
    assert theirs
    assert ours
    is_absent = re.match(r"(not|neither) ", ours) is not None
    assert (check_tests(shown_by) > 0) is not is_absent, ours


def test_what_is_not_built_says_so():
    for number, theirs, ours in rows_of(section("Not built yet")):
        assert theirs
        assert int(number) > 72 or ours.startswith("not built yet")


def test_a_change_says_how_to_have_the_old_behaviour():
    for theirs, ours, switch in rows_of(section("Changed on purpose")):
        assert theirs
        assert ours
        assert switch.startswith("no switch") or re.fullmatch(r"`[\w.]+=\S+`", switch), switch


@cache
def known_keys() -> set[str]:
    """Dotted keys of all settings and blocks of both networks."""
    keys: set[str] = set()
    for name in NETWORKS:
        model = load_specs(name)["train"]
        keys |= set(settings_by_key(model)) | set(model.model_fields)
    return keys | {key.rpartition(".")[0] for key in keys}


def test_every_spec_key_and_file_that_is_named_exists():
    tops = {top for name in NETWORKS for top in blocks(load_specs(name)["train"])}
    found_keys, found_files = 0, 0
    for span in re.findall(r"`([^`\n]+)`", text()):
        path = span.partition("::")[0]
        if re.match(r"(tests|docs|src|examples)/", path) and "*" not in path:
            assert (ROOT / path).exists(), span
            found_files += 1
        elif path.startswith("kineme/") and "*" not in path:
            assert (ROOT / "src" / path).exists(), span
        key = span.partition("=")[0]
        if re.fullmatch(r"\w+(\.\w+)+", key) and key.split(".")[0] in tops:
            is_file = key.endswith((".json", ".pth", ".onnx"))
            assert is_file or key in known_keys(), span
            found_keys += not is_file
    assert found_keys > 60
    assert found_files > 150
