"""Order of names, and what a conversion is given and counts."""

import numpy as np
import pytest

from kineme.data.conversion import Tally, folder_of, path_of
from kineme.data.names import is_utf8, natural_order
from kineme.errors import DataError
from kineme.pose_classification.convert.reading import (
    as_int,
    class_names,
    iter_json_list,
    read_json,
)


def test_numbers_in_names_count_however_long_they_are():
    nines, one = "9" * 5000, "1" + "0" * 5000
    assert natural_order([one, "a", nines, "10", "09", "9"]) == ["09", "9", "10", nines, one, "a"]


def test_names_that_no_text_file_can_hold_are_told():
    assert [is_utf8(name) for name in ("é", "bad\udcff")] == [True, False]


def test_a_tally_says_how_often_and_where_first():
    tally = Tally()
    tally.add("frames missing", "a", 3)
    tally.add("frames missing", "b", 0)
    tally.add("frames missing", "c", 1000)
    tally.add("files left out", "d")
    assert tally.lines() == ["1,003 frames missing; first: a", "1 files left out; first: d"]
    assert tally.facts()[0] == {"what": "frames missing", "count": 1003, "in": ["a", "c"]}


@pytest.mark.parametrize(
    ("name", "find", "said"),
    [
        ("gone", folder_of, "dataset_convert.data: expected a folder, got '{}', not there."),
        ("file", folder_of, "dataset_convert.data: expected a folder, got '{}', a file."),
        ("gone", path_of, "dataset_convert.data: expected a file or folder, got '{}', not there."),
    ],
)
def test_data_to_convert_that_is_not_there_is_named(tmp_path, name, find, said):
    (tmp_path / "file").write_text("x")
    where = str(tmp_path / name)
    with pytest.raises(DataError) as caught:
        find(where)
    assert str(caught.value) == said.format(where)
    with pytest.raises(DataError, match="got nothing"):
        find(None)


def test_numbers_of_thousands_of_digits_are_faults_of_the_file(tmp_path):
    huge = "9" * 5000
    with pytest.raises(DataError, match="x: expected a number of at most 18 digits, got '99"):
        as_int(huge, "x")
    with pytest.raises(DataError, match="at most 18 digits, got 1000000"):
        as_int(10**30, "x")
    assert (as_int(" -12 ", "x"), as_int(7, "x")) == (-12, 7)
    (tmp_path / "a.json").write_text(f"[{huge}]")
    with pytest.raises(DataError, match="expected JSON, got a number with too many digits"):
        read_json(tmp_path / "a.json")
    with pytest.raises(DataError, match="expected JSON, got a number with too many digits at "):
        list(iter_json_list(tmp_path / "a.json"))


def test_labels_that_are_no_class_numbers_are_names():
    """A date as label is one class, not twenty million."""
    assert class_names(["2", "0"]) == ("0", "1", "2")
    assert class_names(["20240101", "3"]) == ("3", "20240101")
    assert len(class_names([str(n) for n in np.arange(3)] + ["99999"])) == 100_000
