"""Label files of every form, and what is wrong with them (faults D16, D17, D19, D21, D22)."""

import errno
import json
import os
import pickle

import numpy as np
import pytest

from kineme.data.labels import (
    Labels,
    label_problems,
    label_warnings,
    read_labels,
    renumbered,
    write_labels,
)
from kineme.errors import DataError, ResourceError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        if name.endswith(".pkl"):
            path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def refusal(path, **options):
    with pytest.raises(DataError) as caught:
        read_labels(path, **options)
    assert caught.value.exit_code == 3
    line = str(caught.value)
    assert line.startswith(str(path))
    return line.removeprefix(str(path))


def of(values, ids=None):
    ids = tuple(ids or (f"s{i}" for i in range(len(values))))
    return Labels(ids, np.array(values, np.int64))


NAMES = ["a", "b", "c"]
PICKLED = {
    "list": [NAMES, [2, 0, 1]],
    "tuple": (NAMES, [2, 0, 1]),
    "tuples": (tuple(NAMES), (2, 0, 1)),
    "numpy integers": [NAMES, [np.int64(2), np.int32(0), np.uint8(1)]],
    "numpy arrays": (np.array(NAMES), np.array([2, 0, 1])),
    "bytes names": [[b"a", b"b", b"c"], [2, 0, 1]],
    "protocol 0": pickle.dumps([NAMES, [2, 0, 1]], 0),
    "protocol 5 array": pickle.dumps([NAMES, np.array([2, 0, 1])], 5),
    "python 2": b"((lp0\nS'a'\np1\naS'b'\naS'c'\na(lp2\nI2\naI0\naI1\natp3\n.",
    "python 2, protocol 2": b"\x80\x02]q\x00(U\x01aU\x01bU\x01ce](K\x02K\x00K\x01e\x86q\x03.",
}


@pytest.mark.parametrize("form", PICKLED)
def test_d19_the_known_pickle_layouts_load(write, form):
    labels = read_labels(write("label.pkl", PICKLED[form]))
    assert labels.ids == ("a", "b", "c")
    assert labels.labels.tolist() == [2, 0, 1]
    assert labels.labels.dtype == np.int64
    assert (labels.class_names, labels.layout) == (None, None)


@pytest.mark.parametrize(
    ("value", "described"),
    [
        ({"a": 1, "b": 2}, "a dict with keys 'a', 'b'"),
        ([1, 2, 3], "a list of 3 (int, int, int)"),
        ([["a"], {"a": 1}], "a list of 2 (list, dict)"),
        ([[["a"]], [1]], "a list of 2 (list, list)"),
        (np.arange(6).reshape(2, 3), "an array of shape (2, 3)"),
        ("text", "'text'"),
        (None, "None"),
    ],
)
def test_d19_another_layout_prints_the_expected_one(write, value, described):
    assert refusal(write("label.pkl", value)) == (
        ": expected [names, labels]: a list of N names and a list of N integers, "
        f"got {described}. For PySKL annotations run dataset_convert first."
    )


def test_d18_a_gadget_in_a_label_file_is_named(write):
    assert "pickle opcode GLOBAL os.system is not allowed" in refusal(
        write("label.pkl", b"cos\nsystem\n(Vtrue\ntR.")
    )


def test_a_label_file_of_a_hundred_thousand_samples_is_read(write):
    names = [f"S{i:03d}C001P001R001A{i % 60:03d}.skeleton" for i in range(100_000)]
    labels = read_labels(write("label.pkl", (names, [i % 60 for i in range(100_000)])))
    assert (len(labels), labels.ids[-1], labels.labels[61]) == (100_000, names[-1], 1)


DESCRIBED = {
    "classes": ["walk", "run"],
    "layout": "coco",
    "samples": [{"id": "a", "label": "run"}, {"id": "b", "label": 0}, {"id": "c", "label": None}],
}


def test_json_with_classes_and_layout(write):
    labels = read_labels(write("labels.json", DESCRIBED))
    assert labels.ids == ("a", "b", "c")
    assert labels.labels.tolist() == [1, 0, -1]
    assert (labels.class_names, labels.layout) == (("walk", "run"), "coco")


@pytest.mark.parametrize("value", [[["a", "b"], [1, 0]], {"a": 1, "b": 0}])
def test_json_in_short(write, value):
    labels = read_labels(write("labels.json", value))
    assert (labels.ids, labels.labels.tolist()) == (("a", "b"), [1, 0])


@pytest.mark.parametrize(
    "text",
    ["id,label\na,1\nb,0\n", "\ufefflabel,x,id\r\n1,?,a\r\n\r\n0,,b", 'id,label\n"a","1"\nb, 0'],
)
def test_csv(write, text):
    labels = read_labels(write("labels.csv", text))
    assert (labels.ids, labels.labels.tolist()) == (("a", "b"), [1, 0])


def test_csv_with_names(write):
    path = write("labels.csv", "id,label\na,run\nb,walk\n")
    assert read_labels(path, label_map={"walk": 0, "run": 1}).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("l.json", "{", ": expected JSON, got Expecting property name"),
        ("l.json", "[" * 100_000, ": expected JSON, got nested too deep"),
        ("l.json", '{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("l.json", "7", "or {id: label}, got 7."),
        ("l.json", {"samples": [{"label": 1}]}, ': samples[0]: expected {"id": ..., "label": ...}'),
        (
            "l.json",
            {"classes": ["a", "a"], "samples": []},
            ": classes: expected a list of different",
        ),
        ("l.json", {"layout": 3, "samples": []}, ": layout: expected a name, got 3."),
        ("l.csv", "", ": expected a header with id and label, got []."),
        ("l.csv", "name,label\n", ": expected a header with id and label, got ['name', 'label']."),
        ("l.csv", "id,label\na\n", ": row 2: expected 2 cells, got 1: ['a']."),
        (
            "l.csv",
            f"id,label\na,1\nb,{'9' * 5000}\n",
            ": row 3: expected a label of at most 20 digits, got one of 5,000.",
        ),
        ("l.csv", 'id,label\n"a,1\n', ": expected CSV in UTF-8, got unexpected end of data."),
        ("l.txt", "a 1", ": expected a label file .pkl, .json or .csv, got '.txt'."),
    ],
)
def test_other_content_says_what_is_expected(write, name, content, expected):
    assert expected in refusal(write(name, content))


def test_d20_names_that_a_small_file_makes_huge_are_refused(write):
    content = b"](B" + (10**6).to_bytes(4, "little") + bytes(10**6) + b"q\x00"
    content += b"h\x00" * 1000 + b"e](" + b"K\x00" * 1001 + b"e\x86."
    line = refusal(write("label.pkl", content))
    assert line.startswith(": expected [names, labels]: a list of N names")
    line = refusal(write("label.json", {"x" * 5000: 1}))
    assert line.startswith(": names[0]: expected a name of at most 4,096 characters, got 'xxxxx")


def test_d16_names_and_labels_of_different_number(write):
    line = refusal(write("label.pkl", [NAMES, [1, 0]]))
    assert line == ": expected as many names as labels, got 3 names, 2 labels."


@pytest.mark.parametrize("count", [7, 12])
def test_d16_labels_shorter_or_longer_than_the_data(count):
    (problem,) = label_problems("l.pkl", of([0] * count), num_samples=10, num_classes=6)
    assert str(problem) == (
        f"l.pkl: expected 10 labels for 10 samples, got {count} labels. "
        "Check that both files are of the same set."
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 5, 6, 1, 8], "l.pkl: labels[2]: expected an integer in [0, 6), got 6 (and 1 more). "
         "Set dataset.num_classes: 9, or relabel."),
        ([0, -1], "l.pkl: labels[1]: expected an integer in [0, 6), got -1. "
         "Relabel or remove the samples."),
    ],
)  # fmt: skip
def test_d17_labels_out_of_range(values, line):
    labels = of(values)
    problems = label_problems("l.pkl", labels, num_samples=len(values), num_classes=6)
    assert [str(problem) for problem in problems] == [line]
    assert label_problems(
        "l.pkl", labels, num_samples=len(values), num_classes=6, is_labelled=False
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "at", "received"),
    [
        ([0, 2.7], 1, "2.7"),
        ([0, 1.0], 1, "1.0"),
        ([True, 0], 0, "True"),
        ([0, None, "x"], 1, "None (and 1 more)"),
        ([0, [1]], 1, "a list of 1 (int)"),
        ([0, 2**40], 1, "1099511627776"),
        ([np.float32(2.5), 0], 0, "2.5"),
    ],
)
def test_d17_what_is_no_label_is_named_with_index_value_and_range(write, labels, at, received):
    names = [f"s{i}" for i in range(len(labels))]
    path = write("label.pkl", [names, labels])
    line = refusal(path, num_classes=6)
    assert line.startswith(f": labels[{at}]: expected an integer in [0, 6), got {received}.")
    assert refusal(path).startswith(f": labels[{at}]: expected an integer, got {received}.")


def test_d17_text_is_a_label_only_through_a_map(write):
    path = write("label.pkl", [NAMES, ["walk", 0, "run"]])
    line = refusal(path, num_classes=6)
    assert line == (
        ": labels[0]: expected an integer in [0, 6), got 'walk' (and 1 more). "
        "Number the names in dataset.label_map: {run: 0, walk: 1}."
    )
    assert read_labels(path, label_map={"walk": 3, "run": 1}).labels.tolist() == [3, 0, 1]
    assert refusal(path, label_map={"walk": 3}) == (
        ": labels[2]: expected one of walk, got 'run'. Correct it, or add it to dataset.label_map "
        "or the training labels' classes."
    )


def test_d17_a_misspelled_class_is_named_with_the_one_that_it_may_stand_for(write):
    samples = [{"id": "a", "label": "squat"}, {"id": "b", "label": "sqat"}]
    classes = ["lunge", "other", "squat"]
    path = write("labels.json", {"classes": classes, "samples": samples})
    assert refusal(path) == (
        ": labels[1]: expected one of lunge, other, squat, got 'sqat'. Did you mean 'squat'?"
    )


def test_d17_a_blank_label_is_an_unknown_one(write):
    numbers = read_labels(write("a.csv", "id,label\na,3\nb,\nc, 1\n"))
    assert numbers.labels.tolist() == [3, -1, 1]
    names = read_labels(write("b.csv", "id,label\na,run\nb, \n"), label_map={"run": 0})
    assert names.labels.tolist() == [0, -1]
    pairs = read_labels(write("c.json", {"a": "run", "b": ""}), label_map={"run": 0})
    assert pairs.labels.tolist() == [0, -1]
    told = refusal(write("d.json", {"classes": ["", "run"], "samples": []}))
    assert told.startswith(": classes: expected a list of different names, none of them empty")


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        ({"layuot": "coco", "samples": []}, "Did you mean layout?"),
        ({"samples": [{"id": "a", "lable": "run"}]}, "Did you mean label?"),
    ],
)
def test_a_misspelled_key_of_a_label_file_is_an_error(write, content, fix):
    assert refusal(write("a.json", content)).endswith(fix)
    content = {"version": 2, "samples": [{"id": "a", "label": 0, "camera": 1}]}
    assert read_labels(write("b.json", content)).labels.tolist() == [0]


def test_d17_a_map_that_contradicts_the_classes_of_the_file_is_refused(write):
    path = write("labels.json", DESCRIBED)
    assert read_labels(path, label_map={"walk": 0, "run": 1}).labels.tolist() == [1, 0, -1]
    line = refusal(path, label_map={"walk": 1, "run": 0})
    assert line.startswith(
        ": classes: expected 'walk' as number 1, as in dataset.label_map, got number 0."
    )


def test_d21_names_that_occur_twice_are_counted_and_three_are_shown():
    labels = of([0, 1] * 5, ids="aabbccddef")
    (line,) = label_warnings("l.pkl", labels, ["x", "y"])
    assert line == "l.pkl: 4 sample names occur twice or more: 'a', 'b', 'c' and 1 more."


def test_d22_a_class_without_samples_is_named():
    (line,) = label_warnings("l.pkl", of([0, 2, 2]), ["walk", "run", "sit", "jump"])
    assert line == "l.pkl: 2 of 4 classes have no sample: 'run', 'jump'."
    assert label_warnings("l.pkl", of([0, 1]), ["walk", "run"]) == []
    (line,) = label_warnings("l.pkl", of([0, 1]), ["no person", "run"])
    assert line.startswith("l.pkl: 'no person' in results may be this class, or nobody's")


def test_d22_one_class_is_an_error_only_where_one_learns():
    labels = of([2, 2])
    (problem,) = label_problems("l", labels, num_samples=2, num_classes=6, is_training=True)
    assert str(problem) == "l: expected samples of at least 2 classes, got only class 2."
    assert label_problems("l", labels, num_samples=2, num_classes=6) == []


@pytest.mark.parametrize("names", [None, ("walk", "ren\u00e9\n")])
def test_written_labels_come_back(tmp_path, names):
    path = tmp_path / "labels.json"
    labels = Labels(("a", 'b"\u4e2d', "c"), np.array([1, 0, -1]), names, "coco")
    write_labels(path, labels)
    found = read_labels(path)
    assert (found.ids, found.labels.tolist()) == (labels.ids, [1, 0, -1])
    assert (found.class_names, found.layout) == (names, "coco")
    expected = [1, 0, -1] if names is None else [names[1], names[0], -1]
    assert [s["label"] for s in json.loads(path.read_text())["samples"]] == expected


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE"])
def test_t12_a_failing_disk_leaves_the_old_labels(tmp_path, monkeypatch, code):
    path = tmp_path / "labels.json"
    write_labels(path, of([0, 1]))
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("kineme.files.os.fsync", fail)
    with pytest.raises(ResourceError) as caught:
        write_labels(path, of([1, 0]))
    assert caught.value.exit_code == 5
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["labels.json"]


def test_names_mean_what_the_label_map_says_whatever_the_file_numbers(tmp_path):
    path = tmp_path / "label.json"
    samples = [{"id": "x", "label": "b"}, {"id": "y", "label": "a"}]
    path.write_text(json.dumps({"classes": ["a", "b"], "samples": samples}))
    read = read_labels(path, label_map={"b": 0, "a": 1})
    assert read.labels.tolist() == [0, 1]
    samples.append({"id": "z", "label": "z"})
    path.write_text(json.dumps({"classes": ["a", "b", "z"], "samples": samples}))
    with pytest.raises(DataError, match="got 'z'"):
        read_labels(path, label_map={"a": 0, "b": 1, "c": 2})


def test_a_stores_labels_are_renumbered_by_name():
    stored = Labels(("x", "y"), np.array([0, 2]), ("a", "b", "z"))
    numbered = renumbered(stored, {"z": 0, "a": 1, "b": 2}, where="store")
    assert numbered.labels.tolist() == [1, 0]
