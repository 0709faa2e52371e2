"""PySKL: annotations and splits out of a pickle, of which nothing is run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from format_files import message_of, run
from kineme.data.labels import read_labels
from kineme.errors import SpecError


def annotation(name: str, label: int, **more: Any) -> dict[str, Any]:
    keypoint = np.full((1, 2, 17, 2), 30.0, np.float16)
    score = np.full((1, 2, 17), 0.5, np.float16)
    score[0, 1, 3] = 0
    return {
        "frame_dir": name,
        "label": label,
        "img_shape": (120, 40),
        "total_frames": 2,
        "keypoint": keypoint,
        "keypoint_score": score,
        **more,
    }


def dump(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def test_pyskl_splits_and_two_dimensional_points(tmp_path: Path) -> None:
    content = {
        "split": {
            "xsub_train": ["a", "b"],
            "xsub_val": ["c", "e"],
            "xview_train": [],
            "xview_val": [],
        },
        "annotations": [annotation(name, i) for i, name in enumerate("abcd")],
    }
    path = dump(tmp_path / "a.pkl", content)
    result = run(path, tmp_path / "out", format="pyskl", protocol="cross_subject")
    data = np.load(tmp_path / "out" / "val_data.npy")
    assert data.shape == (1, 3, 2, 17, 1)
    np.testing.assert_allclose(data[0, :, 0, 3, 0], [0.25, -0.25, 0.5], atol=1e-6)
    assert not data[0, :, 1, 3].any()
    labels = read_labels(tmp_path / "out" / "train_label.json")
    assert (labels.ids, labels.labels.tolist()) == (("a", "b"), [0, 1])
    assert (labels.class_names, labels.layout) == (("0", "1", "2", "3"), "coco")
    assert result["warnings"] == [
        "1 samples that are in neither part of the split, left out; first: d",
        "1 names of the split that no annotation has; first: e",
    ]
    with pytest.raises(SpecError, match="protocol: expected one of xsub, xview, none, got none"):
        run(path, tmp_path / "out", format="pyskl")


@pytest.mark.parametrize(
    ("splits", "protocol"),
    [({"train": ["a"], "val": ["b"]}, None), ({"train1": ["a"], "test1": ["b"]}, "split1")],
)
def test_pyskl_names_of_splits(tmp_path: Path, splits: Any, protocol: str | None) -> None:
    content = {"split": splits, "annotations": [annotation("a", 0), annotation("b", 1)]}
    path = dump(tmp_path / "a.pkl", content)
    run(path, tmp_path / "out", format="pyskl", protocol=protocol)
    assert read_labels(tmp_path / "out" / "val_label.json").ids == ("b",)


def test_pyskl_in_three_dimensions_stays_as_it_is(tmp_path: Path) -> None:
    keypoint = np.zeros((2, 3, 25, 3), np.float32)
    keypoint[1, :, :, 2] = [[1.0], [2.0], [4.0]]
    one = {"frame_dir": "a", "label": 0, "keypoint": keypoint, "total_frames": 3}
    run(dump(tmp_path / "a.pkl", [one]), tmp_path / "out", format="pyskl")
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 3, 25, 2)
    assert data[0, 2, :, 0, 0].tolist() == [1, 2, 4]
    assert not data[..., 1].any()
    assert read_labels(tmp_path / "out" / "label.json").layout == "ntu-rgb+d"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"split": {}}, "expected the key 'annotations', got 'split'"),
        ([annotation("a", -1)], "annotations[0].label: expected a class number from 0, got -1"),
        ([annotation("a", 0, keypoint=[1])], "annotations[0].keypoint: expected an array (M, T, V"),
        (
            [annotation("a", 0, keypoint_score=np.zeros((1, 3, 17)))],
            "annotations[0].keypoint_score: expected the shape of keypoint, (1, 2, 17)",
        ),
        ([annotation("a", 0, img_shape=3)], "img_shape: expected (height, width), got 3"),
        ([annotation("a", 0, img_shape=("a", 3))], "img_shape: expected (height, width), got ('a"),
        (
            [annotation("a", 0, keypoint=np.full((1, 2, 17, 2), 0.5))],
            "annotations[0].keypoint: expected coordinates in pixels, got none beyond 1",
        ),
        (
            [annotation("a", 0), annotation("a", 1)],
            "annotations[1].frame_dir: expected each once, got 'a' a second time",
        ),
        (
            {"split": {"train": ["a"], "val": ["a"]}, "annotations": [annotation("a", 0)]},
            "split: expected names that are in train or in val, got 1 in both: a",
        ),
        ([{"label": 0, "frame_dir": "a"}], "expected the key 'keypoint', got 'frame_dir', 'label'"),
    ],
)
def test_faults_of_pyskl_files_name_annotation_and_key(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = dump(tmp_path / "a.pkl", content)
    assert message in message_of(path, tmp_path / "out", format="pyskl")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"cos\nsystem\n(S'touch {canary}'\ntR."
    path = tmp_path / "a.pkl"
    path.write_bytes(code.encode())
    assert "os.system" in message_of(path, tmp_path / "out", format="pyskl")
    assert not canary.exists()
