"""NW-UCLA and SBU to data and label files; what every conversion promises."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kineme.data.labels import read_labels
from kineme.errors import DataError, SpecError
from kineme.pose_classification.convert import convert
from kineme.pose_classification.convert.sbu import FOLDS
from kineme.pose_classification.settings import DatasetConvert

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of the shared data sets; the test is skipped where it is not there."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs shared/data/{name} beside the repository")
    return folder


def run(folder: Path, **settings: Any) -> dict[str, Any]:
    return convert(SimpleNamespace(dataset_convert=DatasetConvert(**settings)), folder)


def write_nw_ucla(folder: Path, name: str, frames: list[Any], label: Any = 1) -> None:
    folder.mkdir(exist_ok=True)
    content = {"file_name": name, "skeletons": frames, "label": label}
    (folder / f"{name}.json").write_text(json.dumps(content))


def frame(value: float) -> list[list[float]]:
    """20 joints at (value, joint, 1)."""
    return [[value, joint, 1.0] for joint in range(20)]


def write_sbu(folder: Path, take: str, rows: list[list[float]]) -> Path:
    path = folder / take / "skeleton_pos.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes("".join(",".join(map(str, row)) + "\r\n" for row in rows).encode())
    return path


def test_nw_ucla_is_split_by_view_and_padded_to_the_longest(tmp_path: Path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    write_nw_ucla(data, "a01_s01_e00_v01", [frame(0.5)], label=1)
    write_nw_ucla(data, "a12_s02_e00_v02", [frame(1.0), frame(2.0), frame(3.0)], label=10)
    write_nw_ucla(data, "a02_s01_e00_v03", [frame(4.0), frame(5.0)], label=2)
    result = run(out, format="nw_ucla", data=str(data))

    train, val = np.load(out / "train_data.npy"), np.load(out / "val_data.npy")
    assert train.shape == (2, 3, 3, 20, 1)
    assert train.dtype == np.float32
    assert train[0, :, 0, 7, 0].tolist() == [0.5, 7.0, 1.0]
    assert not train[0, :, 1:].any()
    assert train[1, 0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]
    assert val[0, 0, :, 0, 0].tolist() == [4.0, 5.0, 0.0]
    labels = read_labels(out / "train_label.json")
    assert labels.ids == ("a01_s01_e00_v01", "a12_s02_e00_v02")
    assert labels.labels.tolist() == [0, 9]
    assert labels.layout == "kinect-20"
    assert labels.class_names is not None
    assert labels.class_names[9] == "carry"
    assert result["kpi"] == {
        "Number of samples in train_data": 2,
        "Number of samples in val_data": 1,
    }
    assert sorted(path.name for path in out.iterdir()) == sorted(result["files"])


def test_nw_ucla_can_hold_one_subject_out_or_not_split(tmp_path: Path) -> None:
    data = tmp_path / "in"
    for subject in (1, 2):
        write_nw_ucla(data, f"a01_s0{subject}_e00_v01", [frame(float(subject))])
    run(tmp_path / "a", format="nw_ucla", data=str(data), protocol="cross_subject_2")
    assert read_labels(tmp_path / "a" / "val_label.json").ids == ("a01_s02_e00_v01",)
    result = run(tmp_path / "b", format="nw_ucla", data=str(data), protocol="none")
    assert result["files"] == ["data.npy", "label.json", "dataset.json"]


def test_samples_without_frames_and_strange_files_are_counted_and_named(tmp_path: Path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    write_nw_ucla(data, "a01_s01_e00_v01", [frame(1.0)])
    write_nw_ucla(data, "a01_s01_e01_v01", [])
    write_nw_ucla(data, "a01_s01_e02_v01", [[[0.0, float("nan"), 1.0]] * 20])
    (data / "notes.txt").write_text("")
    result = run(out, format="nw_ucla", data=str(data))
    assert result["warnings"] == [
        "1 samples with no frames, left out; first: a01_s01_e01_v01",
        "20 joints with numbers that are not finite; first: a01_s01_e02_v01",
        "1 samples with nobody in any frame, left out; first: a01_s01_e02_v01",
        "1 files not named aAA_sSS_eEE_vVV.json, left out; first: notes.txt",
    ]
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["left_out_or_changed"][0]["in"] == ["a01_s01_e01_v01"]
    assert facts["files"]["train_data"]["samples_per_class"]["pick up with one hand"] == 1


@pytest.mark.parametrize(("train", "val"), [(1, 2), (2, 1)])
def test_views_for_choices_leave_the_test_view_out(tmp_path: Path, train: int, val: int) -> None:
    for view in (1, 2, 3):
        write_nw_ucla(tmp_path / "in", f"a01_s01_e00_v0{view}", [frame(float(view))])
    protocol = f"view_{train}_{val}"
    result = run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"), protocol=protocol)
    for name, view in (("train", train), ("val", val)):
        labels = json.loads((tmp_path / "out" / f"{name}_label.json").read_text())
        assert [one["id"] for one in labels["samples"]] == [f"a01_s01_e00_v0{view}"]
    assert result["warnings"] == [
        f"1 sequences of views that {protocol} has no part in, left out; first: "
        "a01_s01_e00_v03.json"
    ]


def test_a_joint_that_is_not_finite_is_zero_in_every_channel(tmp_path: Path) -> None:
    frames = [frame(1.0)]
    frames[0][3][1] = float("nan")
    write_nw_ucla(tmp_path / "in", "a01_s01_e00_v01", frames)
    run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"))
    data = np.load(tmp_path / "out" / "train_data.npy")
    assert data[0, :, 0, 3, 0].tolist() == [0.0, 0.0, 0.0]
    assert data[0, :, 0, 4, 0].tolist() == [1.0, 4.0, 1.0]


@pytest.mark.parametrize(
    ("frames", "label", "message"),
    [
        ([frame(1.0)[:19]], 1, "numbers of shape any x 20 x 3, got 1 x 19 x 3"),
        ([["x"]], 1, "numbers of shape any x 20 x 3, got something else"),
        ([frame(1.0)], 11, "label: expected a class from 1 to 10, got 11"),
        ([frame(1.0)], "1", "label: expected a class from 1 to 10, got '1'"),
    ],
)
def test_nw_ucla_faults_name_the_file(
    tmp_path: Path, frames: list[Any], label: Any, message: str
) -> None:
    write_nw_ucla(tmp_path / "in", "a01_s01_e00_v01", frames, label)
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"))
    assert message in str(caught.value)
    assert "a01_s01_e00_v01.json" in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_key_and_broken_json_are_named(tmp_path: Path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    (data / "a01_s01_e00_v01.json").write_text('{"skeletons": []}')
    with pytest.raises(DataError, match=r"the key 'label', got 'skeletons'\.$"):
        run(tmp_path / "out", format="nw_ucla", data=str(data))
    (data / "a01_s01_e00_v01.json").write_text('{\n"skeletons": [1,]}')
    with pytest.raises(DataError, match=r"a01_s01_e00_v01\.json:2: expected JSON, got .* column"):
        run(tmp_path / "out", format="nw_ucla", data=str(data))


def test_nothing_to_convert_says_what_was_left_out(tmp_path: Path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    (data / "x.bin").write_text("")
    with pytest.raises(DataError, match=r"expected NW-UCLA sequences, got 1 files not named"):
        run(tmp_path / "out", format="nw_ucla", data=str(data))
    with pytest.raises(DataError, match="not there") as caught:
        run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "no"))
    assert caught.value.exit_code == 3
    with pytest.raises(SpecError, match=r"protocol: expected one of cross_view, .*none for"):
        run(tmp_path / "out", format="nw_ucla", data=str(data), protocol="fold1")


def test_settings_a_format_does_not_use_are_told(tmp_path: Path) -> None:
    write_nw_ucla(tmp_path / "in", "a01_s01_e00_v01", [frame(1.0)])
    unread = {"sequence_length": 50, "merge": True, "max_gap_frames": 3, "labels": "x.csv"}
    result = run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"), **unread)
    assert result["warnings"] == [
        f"dataset_convert.{key} says nothing to format nw_ucla and was not used" for key in unread
    ]


def test_data_of_an_earlier_conversion_are_told(tmp_path: Path) -> None:
    write_nw_ucla(tmp_path / "in", "a01_s01_e00_v01", [frame(1.0)])
    write_nw_ucla(tmp_path / "in", "a01_s01_e00_v03", [frame(1.0)])
    run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"))
    again = run(tmp_path / "out", format="nw_ucla", data=str(tmp_path / "in"), protocol="none")
    assert again["warnings"] == [
        "2 data of an earlier conversion, still in the folder; first: train_data.npy"
    ]


def test_sbu_is_in_metres_and_who_moves_more_comes_first(tmp_path: Path) -> None:
    still, moving = [0.5, 0.5, 1.0] * 15, [0.25, 0.25, 2.0] * 15
    moved = [0.5, 0.25, 2.0] * 15
    write_sbu(tmp_path / "in", "s01s02/03/001", [[7, *still, *moving], [8, *still, *moved]])
    write_sbu(tmp_path / "in", "s02s01/08/002", [[1, *moving, *still], [2, *moved, *still]])
    run(tmp_path / "out", format="sbu", data=str(tmp_path / "in"))
    val, train = (np.load(tmp_path / "out" / f"{name}_data.npy") for name in ("val", "train"))
    assert val.shape == (1, 3, 2, 15, 2)
    np.testing.assert_allclose(val[0, :, 0, 4, 0], [0.64, 0.48, 2.56], atol=1e-6)
    np.testing.assert_allclose(val[0, :, 1, 4, 0], [0.0, 0.48, 2.56], atol=1e-6)
    np.testing.assert_allclose(val[0, :, 1, 4, 1], [0.0, 0.0, 1.28], atol=1e-6)
    np.testing.assert_array_equal(val, train)
    labels = read_labels(tmp_path / "out" / "val_label.json")
    assert (labels.ids, labels.labels.tolist()) == (("s01s02/03/001",), [2])


def test_a_short_line_of_sbu_is_named(tmp_path: Path) -> None:
    path = write_sbu(tmp_path / "in", "s01s02/03/001", [[1.0] * 91, [2.0] * 90])
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", format="sbu", data=str(tmp_path / "in"))
    assert str(caught.value).startswith(f"{path}:2: expected a frame number and 2 x 15 x 3")


def test_the_five_folds_of_sbu_are_a_partition_of_the_sorted_pairs() -> None:
    pairs = sorted(pair for fold in FOLDS for pair in fold)
    assert len(pairs) == len(set(pairs)) == 21
    numbered = [[1 + pairs.index(pair) for pair in fold] for fold in FOLDS]
    assert numbered == [
        [1, 9, 15, 19],
        [5, 7, 10, 16],
        [2, 3, 20, 21],
        [4, 6, 8, 11],
        [12, 13, 14, 17, 18],
    ]


def test_all_of_nw_ucla(tmp_path: Path) -> None:
    result = run(tmp_path, format="nw_ucla", data=str(shared("nw_ucla/skeletons")))
    assert list(result["kpi"].values()) == [1020, 464]
    assert result["warnings"] == []
    val = np.load(tmp_path / "val_data.npy", mmap_mode="r")
    assert val.shape == (464, 3, 201, 20, 1)
    assert len(set(read_labels(tmp_path / "val_label.json").labels.tolist())) == 10


def test_all_of_sbu(tmp_path: Path) -> None:
    folder = shared("sbu/pairs")
    held_out: list[str] = []
    for fold in range(1, 6):
        out = tmp_path / str(fold)
        result = run(out, format="sbu", data=str(folder), protocol=f"fold{fold}")
        assert sum(result["kpi"].values()) == 282
        held_out += read_labels(out / "val_label.json").ids
    assert len(held_out) == len(set(held_out)) == 282
