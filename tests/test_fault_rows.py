"""docs/faults.md names, for every row it has to have, tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "faults.md"
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def numbered(letter: str, *numbers: int) -> set[str]:
    return {f"{letter}{number:02d}" for number in numbers}


REQUIRED = (
    numbered("D", *range(1, 29))
    | numbered("V", *range(1, 33))
    | numbered("S", *range(1, 17))
    | numbered("T", *range(1, 11), 16, 17, 18, 20, 23, 24, 25, 26, 28, 31)
    | numbered("I", 1, 2, 4, 5, 6, 7, 8, 9, 15, 16, 17, 18)
    | numbered("X", *range(1, 7), 9)
    | numbered("J", *range(1, 25))
    | numbered("A", *range(1, 13))
)


def rows() -> list[list[str]]:
    """The cells of every row: number, fault, behaviour, exit codes, tests."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line.strip("|").split("|") for line in lines if re.match(r"\| [A-Z]\d\d ", line)]


@cache
def names_in(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there_once_and_in_order():
    numbers = [row[0].strip() for row in rows()]
    assert set(numbers) >= REQUIRED
    assert len(numbers) == len(set(numbers))
    order = "DVSTIXJA"
    assert numbers == sorted(numbers, key=lambda number: (order.index(number[0]), number))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip())
def test_a_row_says_what_happens_and_names_tests_that_exist(row):
    assert len(row) == 5
    _, fault, behaviour, codes, shown_by = (cell.strip() for cell in row)
    assert fault
    assert behaviour
    assert {int(code) for code in re.findall(r"\d+", codes)} <= {
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        130,
        137,
        143,
    }
    named = TEST.findall(shown_by)
    assert named
    assert TEST.sub("", shown_by).strip() == ""
    for file, name in named:
        assert name in names_in(file), f"{file}::{name}"
