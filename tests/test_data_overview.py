"""`kineme check`: what a data set can teach and prove, in figures counted by hand."""

import json

import numpy as np
import pytest

from kineme import cli
from kineme.data.faults import Inspection, Samples
from kineme.data.labels import Labels, write_labels
from kineme.data.near_copies import form_of, near_pairs
from kineme.data.subjects import subjects_of
from kineme.errors import SpecError
from kineme.report.overview import needed_samples, overview, proof
from kineme.report.scores import wilson_interval
from video_folders import pack, save_tao

CLASSES = ("jump", "walk")


def moves(num, seed, num_frames=10):
    """(num, 3, T, 17, 1): everything goes somewhere else in each sample."""
    generator = np.random.default_rng(seed)
    steps = generator.normal(size=(num, 3, num_frames, 17, 1)).astype(np.float32)
    return np.cumsum(steps, axis=2) + generator.normal(size=(num, 3, 1, 17, 1)).astype(np.float32)


def save(folder, name, data, labels, ids):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}_data.npy", data)
    write_labels(
        folder / f"{name}_label.json", Labels(tuple(ids), np.asarray(labels), CLASSES, "coco")
    )


def planted(folder):
    """8 and 4 samples with a leak of every kind, and what is wrong with them, by eye."""
    train, val = moves(8, 0)[:, :2], moves(4, 1)[:, :2]
    train[:, :, 6:] *= np.arange(8)[:, None, None, None, None] >= 4  # four of them end early
    train[5] = train[4]  # the same
    val[1] = train[6] + np.float32(0.5)  # moved
    train[:4, :, :, 9] = 0  # a wrist is never seen in one class
    save(folder, "train", train, [0] * 4 + [1] * 4, [f"a_s0{i % 3}_{i}" for i in range(8)])
    save(folder, "val", val, [0, 1, 1, 1], ["b_s01_0", "b_s01_1", "b_s07_2", "b_s07_3"])


def test_a_check_of_skeletons_counts_what_is_there(tmp_path, capsys):
    planted(tmp_path / "data")
    words = ["check", str(tmp_path / "data"), f"results_dir={tmp_path / 'found'}", "window=8"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    facts = json.loads((tmp_path / "found" / "data_check.json").read_text())
    look = facts["overview"]
    train, val = look["splits"]["train_data"], look["splits"]["val_data"]
    assert train["lengths"] == {"min": 6, "median": 8.0, "max": 10, "shorter": 0.5}
    assert train["imbalance"] == 1
    assert val["classes"] == {"jump": 1, "walk": 3}
    assert (val["imbalance"], val["chance"]) == (3, {"largest_class": 0.75, "even": 0.5})
    assert look["held_out"].keys() == {"val_data"}
    assert look["subjects"] == {
        "are_guessed": True,
        "splits": {"train_data": {"s00": 3, "s01": 3, "s02": 2}, "val_data": {"s01": 2, "s07": 2}},
        "shared": {"val_data": ["s01"]},
    }
    assert look["copies"] == [
        {
            "kind": "same", "splits": ["train_data", "train_data"], "count": 1,
            "pairs": [["a_s01_4", "a_s02_5"]],
        },
        {
            "kind": "near", "splits": ["train_data", "val_data"], "count": 1,
            "pairs": [["a_s00_6", "b_s01_1"]],
        },
    ]  # fmt: skip
    wrist = look["joints"]["train_data"][9]
    assert wrist == {
        "joint": "left_wrist", "missing": 0.5, "worst": ["jump", 1.0], "best": ["walk", 0.0],
    }  # fmt: skip
    said = [f"{fault['where']}: {fault['what']}" for fault in facts["faults"]]
    assert said == [
        "val_data: 1 of 2 subjects (guessed from ids) are in the training data too: s01",
        "train_data: 1 samples are copies of others of it, the first 'a_s02_5' as 'a_s01_4'",
        "val_data: 1 samples are nearly the same as samples of train_data, the first 'b_s01_1' as "
        "'a_s00_6'",
        "train_data: 1 joints are missing in some classes and not in others, the first left_wrist: "
        "100.0 % of 'jump', 0.0 % of 'walk'",
    ]
    lines = out.splitlines()
    assert lines[5].split() == ["train_data", "8", "2", "1.0", "6", "/", "8", "/", "10", "50.0",
                                "%", "50.0", "%", "50.0", "%"]  # fmt: skip
    assert "subjects: 4 (guessed from ids); 3 in train_data, 2 in val_data" in lines
    assert "train_data: joints that are often missing: left_wrist 50.0 % of frames" in lines
    page = (tmp_path / "found" / "data_check.html").read_text()
    for text in ("left_wrist", "a_s00_6 = b_s01_1", "s01: 2, s07: 2", "(guessed from ids)"):
        assert text in page, text


def test_names_of_strangers_are_spelled_out_on_the_page(tmp_path, capsys):
    train = moves(4, 0)[:, :2]
    train[1], train[3] = train[0], train[2] + np.float32(0.5)  # ids and classes stand with copies
    train[:2, :, :, 9] = 0  # and with joints
    ids = [f"s0{i}_\u202egpj\x1b[2J{i}" for i in range(4)]
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "train_data.npy", train)
    labels = Labels(tuple(ids), np.array([0, 0, 1, 1]), ("ju\u2066mp\x07", "walk\x85"), "coco")
    write_labels(tmp_path / "data" / "train_label.json", labels)
    words = ["check", str(tmp_path / "data"), f"results_dir={tmp_path / 'found'}"]
    assert cli.main([*words, r"subject_pattern=s\d+_.."]) == 0
    page = (tmp_path / "found" / "data_check.html").read_text()
    copies, joints = page.split("<h2>Copies</h2>")[1].split("<h2>Joints")[:2]
    assert r"s00_\u202egpj\x1b[2J0 = s01_\u202egpj\x1b[2J1" in copies
    assert r"ju\u2066mp\x07" in page.split("<h2>Classes</h2>")[1].split("</table>")[0]
    assert r"<td>ju\u2066mp\x07: 100.0 %</td>" in joints.split("<h2>Faults")[0]
    assert r"s00_\u202eg: 1" in page.split("<h2>Subjects")[1].split("</table>")[0]
    assert not [mark for mark in page if not mark.isprintable() and mark != "\n"]


def test_both_words_for_a_check_are_one_command(tmp_path, capsys):
    planted(tmp_path / "data")
    found = []
    for words in (["check"], ["data", "check"]):
        cli.main([*words, str(tmp_path / "data"), f"results_dir={tmp_path / 'found'}"])
        found.append((tmp_path / "found" / "data_check.json").read_text())
        capsys.readouterr()
        assert cli.main([*words[:1], "--help"]) == 0
        assert capsys.readouterr().out.startswith("usage: kineme check DATA [LABELS]")
    assert found[0] == found[1]


def test_the_labels_of_one_file_may_lie_anywhere(tmp_path, capsys):
    planted(tmp_path / "data")
    other = (tmp_path / "data" / "val_label.json").rename(tmp_path / "elsewhere.json")
    where = str(tmp_path / "data" / "val_data.npy")
    results = f"results_dir={tmp_path / 'found'}"
    assert cli.main(["check", where, str(other), results]) == 0
    facts = json.loads((tmp_path / "found" / "data_check.json").read_text())
    assert facts["classes"] == {"val_data": {"jump": 1, "walk": 3}}
    assert cli.main(["check", str(tmp_path / "data"), str(other), results]) == 3
    assert "expected one data file, as one label file is given, got 2" in capsys.readouterr().err


def test_skeletons_in_an_archive_are_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    planted(tmp_path / "data")
    where = pack(tmp_path / "a.tar.gz", tmp_path / "data", inside="skeletons")
    assert cli.main(["check", str(where), f"results_dir={tmp_path / 'found'}"]) == 0
    facts = json.loads((tmp_path / "found" / "data_check.json").read_text())
    assert (facts["samples"], sorted(facts["classes"])) == (12, ["train_data", "val_data"])
    assert facts["folder"] == str(where)


def test_the_people_of_pairs_are_counted_one_by_one(tmp_path, capsys):
    train, val = moves(4, 0)[:, :2], moves(2, 1)[:, :2]
    ids = ["s01s02_0", "s01s02_1", "s03s04_2", "s03s04_3"]
    save(tmp_path / "data", "train", train, [0, 1] * 2, ids)
    save(tmp_path / "data", "val", val, [0, 1], ["s02s05_0", "s02s05_1"])
    cli.main(["check", str(tmp_path / "data"), f"results_dir={tmp_path / 'found'}"])
    found = json.loads((tmp_path / "found" / "data_check.json").read_text())
    assert found["overview"]["subjects"] == {
        "are_guessed": True,
        "splits": {
            "train_data": {"s01": 2, "s02": 2, "s03": 2, "s04": 2},
            "val_data": {"s02": 2, "s05": 2},
        },
        "shared": {"val_data": ["s02"]},
    }
    told = "val_data: 1 of 2 subjects (guessed from ids) are in the training data too: s02"
    assert told in capsys.readouterr().out


def test_videos_are_counted_too(tmp_path, capsys):
    root = tmp_path / "data"
    for split, names in (("train", ("p1/a", "p2/b", "p2/c")), ("test", ("p2/d",))):
        for i, name in enumerate(names):
            save_tao(
                root / split / ("run" if i else "walk") / name.replace("/", "_"), 4 + i, seed=i
            )
    results = f"results_dir={tmp_path / 'found'}"
    words = ["check", str(root), results, r"subject_pattern=(p\d)_", "window=5"]
    assert cli.main(words) == 0
    look = json.loads((tmp_path / "found" / "data_check.json").read_text())["overview"]
    assert look["splits"]["train"]["lengths"] == {
        "min": 4, "median": 5.0, "max": 6, "shorter": pytest.approx(1 / 3),
    }  # fmt: skip
    assert look["subjects"]["are_guessed"] is False
    assert look["subjects"]["shared"] == {"test": ["p2"]}
    assert look["joints"] == {}


@pytest.mark.parametrize(
    ("ids", "pattern", "names"),
    [
        (["S001C001P003R001A001", "S001C002P003R001A002", "S1C1P004R001A001", "P004R001A9x"], None,
         ("", "", "", "")),
        (["S001C001P003R001A001", "S001C002P003R001A002", "S001C001P004R001A001",
          "S001C002P004R001A003"], None, ("003", "003", "004", "004")),
        (["a01_s01_e00_v01", "a01_s02_e00_v01", "a02_s01_e00_v01", "a02_s02_e00_v01"], None,
         ("s01", "s02", "s01", "s02")),
        (["s01s03/01/1", "s01s03/02/1", "s02s01/01/1", "s02s01/02/1"], None,
         ("s01s03", "s01s03", "s02s01", "s02s01")),
        (["s0", "s1", "s2", "s3"], None, ("", "", "", "")),  # numbers of samples
        (["ann_1", "ann_2", "bob_1"], "^[a-z]+", ("ann", "ann", "bob")),
        (["ann_1", "2"], "^([a-z]+)_", ("ann", "")),
    ],
)  # fmt: skip
def test_subjects_are_those_of_the_pattern_or_of_the_usual_names(ids, pattern, names):
    found = subjects_of(ids, pattern)
    assert found.names == names
    assert found.is_guessed == (pattern is None and any(names))


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(SpecError, match=r"x: expected a regular expression, got '\('"):
        subjects_of(["a"], "(", key="x")
    with pytest.raises(SpecError, match=r"x: .* got 'ann', which is in none of 2 ids\. The first"):
        subjects_of(["a", "b"], "ann", key="x")


def test_the_samples_that_an_accuracy_needs_are_the_fewest():
    for half in (0.02, 0.05, 0.1):
        count = needed_samples(half)
        assert proof(count)["half_width"] <= half < proof(count - 1)["half_width"]
    low, high = wilson_interval(90, 100)
    assert proof(100)["half_width"] == pytest.approx((high - low) / 2)


def test_near_pairs_are_those_of_the_slow_way():
    generator = np.random.default_rng(3)
    first = generator.normal(size=(40, 12)).astype(np.float32)
    second = generator.normal(size=(700, 12)).astype(np.float32)
    second[[5, 600]] = first[[7, 20]] * np.float32(1.01)
    first[3] = 0

    def slow(a, b):
        size = (np.square(a).sum() + np.square(b).sum()) / 2
        return a.any() and b.any() and np.square(a - b).sum() <= 0.06**2 * size

    expected = [(i, j) for i in range(40) for j in range(700) if slow(first[i], second[j])]
    assert list(near_pairs(first, second)) == expected == [(7, 5), (20, 600)]
    twice = np.concatenate([second[:600], second[5:6] + np.float32(1e-3)])
    assert list(near_pairs(twice)) == [(5, 600)]


def test_a_form_knows_neither_place_nor_padding():
    sample = moves(1, 5)[0]
    np.testing.assert_allclose(form_of(sample + np.float32(3)), form_of(sample), atol=1e-5)
    sample[:, :, 2] = 0  # a joint that is missing counts for nothing
    assert (form_of(sample).reshape(3, 8, 17)[:, :, 2] == 0).all()


def test_samples_without_labels_or_without_people_are_counted_all_the_same():
    bare = Samples(("a", "b"), ("", ""), np.array([0, 3]), (b"", b"x"), None,
                   np.array([[np.nan] * 2, [0.0, 0.5]], np.float32), ("x", "y"))  # fmt: skip
    found = overview(Inspection({"": {"": 2}}, 3, (), {"": bare}, window=4))
    split = found.facts["splits"][""]
    assert (split["imbalance"], split["chance"]["even"]) == (None, None)
    assert [row["missing"] for row in found.facts["joints"][""]] == [0.0, 0.5]
    assert found.notes == ()
    assert found.lines[1].split()[:4] == ["all", "2", "0", "-"]


def test_a_pattern_that_finds_one_subject_finds_it_in_training_too(tmp_path, capsys):
    root = tmp_path / "data"
    for split, names in (("train", ("s1_a", "s2_b")), ("val", ("s3_c",))):
        for i, name in enumerate(names):
            save_tao(root / split / ("run" if i else "walk") / name, 4, seed=len(split) + i)
    results = f"results_dir={tmp_path / 'found'}"
    assert cli.main(["check", str(root), results, "subject_pattern=s"]) == 0
    assert "val: 1 of 1 subjects are in the training data too: s" in capsys.readouterr().out
