"""NTU, OpenPose, COCO, MediaPipe and PySKL files, each from a tiny one made by hand."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kineme.data.labels import read_labels
from kineme.errors import DataError, SpecError
from kineme.pose_classification.convert import READERS, convert
from kineme.pose_classification.convert.clips import in_time, link, most_moving
from kineme.pose_classification.convert.ntu import CLASSES, TRAINING_SUBJECTS
from kineme.pose_classification.convert.reading import natural_key
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.spec import FORMATS, DatasetConvert


def run(data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    spec = SimpleNamespace(dataset_convert=DatasetConvert(data=str(data), **settings))
    return convert(spec, out)


def message_of(data: Path, out: Path, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(data, out, **settings)
    assert not list(out.glob("*.npy"))
    return str(caught.value)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_every_format_of_the_spec_has_a_reader() -> None:
    assert set(READERS) == set(FORMATS)


# People


def test_someone_alone_stays_one_person_and_two_are_followed_by_distance() -> None:
    def seen(*xs: float) -> np.ndarray:
        return np.array([[[x, 0.0, 1.0]] for x in xs], np.float32).reshape(-1, 1, 3)

    alone = link([seen(0), seen(), seen(500)])
    assert alone.shape == (1, 3, 1, 3)
    assert alone[0, :, 0, 0].tolist()[::2] == [0, 500]
    assert np.isnan(alone[0, 1]).all()
    two = link([seen(0, 100), seen(99, 1), seen(2), seen(98, 3)])
    np.testing.assert_array_equal(two[:, :, 0, 0], [[0, 1, 2, 3], [100, 99, np.nan, 98]])
    assert link([]).shape == (0, 0, 0, 0)


def test_those_who_move_most_come_first_and_ties_keep_their_order() -> None:
    skeleton = np.zeros((4, 3, 1, 3), np.float32)
    skeleton[1, :, 0, 0] = [0, 1, 2]
    skeleton[2, :, 0, 0] = [0, 5, np.nan]
    order = most_moving(skeleton + np.arange(4, dtype=np.float32)[:, None, None, None], 3)
    assert order[:, 0, 0, 1].tolist() == [2, 1, 0]


def test_short_gaps_stay_open_and_long_ones_are_closed() -> None:
    tally = SimpleNamespace(seen=[], add=lambda what, name, n: tally.seen.append((what, n)))
    assert in_time([3, 4, 7, 20, 21], 2, "x", tally).tolist() == [0, 1, 4, 5, 6]  # type: ignore[arg-type]
    assert tally.seen == [
        ("gaps longer than 2 frames, closed", 1),
        ("frames missing, filled as missing", 2),
    ]


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["a10", "a9", "1b", "a"], key=natural_key) == ["1b", "a", "a9", "a10"]


# NTU RGB+D


def ntu_file(frames: list[list[tuple[str, float]]], state: int = 2) -> str:
    """A .skeleton: in each frame (body number, x); joint j at (x, j, 1)."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for number, x in bodies:
            lines += [f"{number} 0 1 1 1 1 0 0.02 -0.2 2", "25"]
            lines += [f"{x} {j} 1.0 1 2 3 4 0 0 0 0 {state}" for j in range(25)]
    return "\n".join(lines) + "\n"


NAMES = ("S001C001P001R001A001", "S001C002P003R001A060", "S002C003P008R002A002")


def test_ntu_keeps_the_two_bodies_that_move_most(tmp_path: Path) -> None:
    big = 72057594037931101  # next to its neighbours in float64
    bodies = [[(str(big), 1.0), (str(big + 1), 2.0), (str(big + 2), 5.0)] for _ in range(3)]
    bodies[1] = [(str(big), 1.5), (str(big + 2), 9.0)]
    write(tmp_path / "in" / f"{NAMES[0]}.skeleton", ntu_file(bodies))
    result = run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 3, 25, 2)
    assert data[0, 0, :, 7, 0].tolist() == [5.0, 9.0, 5.0]
    assert data[0, 0, :, 7, 1].tolist() == [1.0, 1.5, 1.0]
    assert data[0, 1, 0, :, 1].tolist() == list(range(25))
    assert result["warnings"] == [f"1 persons beyond the 2 that move most; first: {NAMES[0]}"]


@pytest.mark.parametrize(
    ("protocol", "val"),
    [
        ("cross_subject", [NAMES[1]]),
        ("cross_view", [NAMES[0]]),
        ("cross_setup", [NAMES[0], NAMES[1]]),
    ],
)
def test_ntu_protocols(tmp_path: Path, protocol: str, val: list[str]) -> None:
    for name in NAMES:
        write(tmp_path / "in" / f"{name}.skeleton", ntu_file([[("1", 1.0)], []]))
    run(tmp_path / "in", tmp_path / "out", format="ntu", protocol=protocol)
    labels = read_labels(tmp_path / "out" / "val_label.json")
    assert list(labels.ids) == val
    assert labels.labels.tolist() == [int(name[-3:]) - 1 for name in val]
    assert labels.class_names == CLASSES[:60]
    assert labels.layout == "ntu-rgb+d"
    data = np.load(tmp_path / "out" / "val_data.npy")
    assert data.shape == (len(val), 3, 2, 25, 2)
    assert not data[:, :, 1].any()
    assert not data[..., 1].any()


def test_the_lists_of_ntu_are_whole() -> None:
    assert len(set(CLASSES)) == 120
    assert len(TRAINING_SUBJECTS) == 53
    assert sum(subject <= 40 for subject in TRAINING_SUBJECTS) == 20
    assert (CLASSES[0], CLASSES[59], CLASSES[119]) == (
        "drink water",
        "walk apart",
        "rock paper scissors",
    )


def test_ntu_samples_without_skeletons_are_left_out_by_name(tmp_path: Path) -> None:
    for name in NAMES:
        frames = [[], []] if name == NAMES[1] else [[("1", 1.0)]]
        write(tmp_path / "in" / f"{name}.skeleton", ntu_file(frames))
    listed = "Samples with missing skeletons:\n" + NAMES[2] + "\n"
    write(tmp_path / "in" / "NTU_RGBD_samples_with_missing_skeletons.txt", listed)
    result = run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    assert result["kpi"] == {"Number of samples in data": 1}
    assert result["warnings"] == [
        f"1 samples on the list of missing skeletons, left out; first: {NAMES[2]}",
        f"1 samples with nobody in any frame, left out; first: {NAMES[1]}",
    ]


def test_joints_that_ntu_did_not_track_are_missing(tmp_path: Path) -> None:
    text = ntu_file([[("1", 1.0)]]).replace("1.0 5 1.0 1 2 3 4 0 0 0 0 2", "1.0 5 1.0 " + "0 " * 9)
    write(tmp_path / "in" / f"{NAMES[0]}.skeleton", text)
    run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    data = np.load(tmp_path / "out" / "data.npy")
    assert data[0, :, 0, 5, 0].tolist() == [0, 0, 0]
    assert data[0, :, 0, 6, 0].tolist() == [1, 6, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "two\n" + text[2:], ":1: expected the number of frames, got 'two'"),
        (lambda text: text.replace("\n25\n", "\n20\n", 1), ":4: expected 25 joints, got '20'"),
        (lambda text: text[: len(text) // 2], ":18: expected 12 numbers of a joint"),
        (lambda text: text.replace("1.0 7 1.0", "1.0 x 1.0"), ":12: expected 12 numbers of a j"),
        (lambda text: text.replace("1.0 7 1.0", "1.0 7"), ":12: expected 12 numbers of a joint"),
        (lambda text: text.replace(" 0.02 -0.2 2", ""), ":3: expected a body: its number and 9"),
        (lambda text: "2" + text[1:], ":30: expected the number of bodies, got the end of the f"),
    ],
)
def test_faults_of_ntu_files_name_the_line(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "in" / f"{NAMES[0]}.skeleton", change(ntu_file([[("1", 1.0)]])))
    received = message_of(tmp_path / "in", tmp_path / "out", format="ntu")
    assert received.startswith(str(path))
    assert message in received


def test_a_name_that_says_no_action_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "S001C001P001R001A121.skeleton", ntu_file([[("1", 1.0)]]))
    assert "expected SsssCcccPpppRrrrAaaa.skeleton, A001 to A120" in message_of(
        tmp_path / "in", tmp_path / "out", format="ntu"
    )


# OpenPose


def openpose_frame(*people: list[float]) -> dict[str, Any]:
    return {"version": 1.3, "people": [{"pose_keypoints_2d": points} for points in people]}


def points(x: float, y: float, num_joints: int, confidence: float = 0.5) -> list[float]:
    return [value for j in range(num_joints) for value in (x + j, y, confidence)]


def test_openpose_class_folders_become_a_labelled_set(tmp_path: Path) -> None:
    for split, class_, clip in [("train", "wave", "a"), ("train", "sit", "b"), ("val", "sit", "c")]:
        folder = tmp_path / "in" / split / class_ / clip
        for t in (8, 9, 10):  # 10 comes after 9
            one = openpose_frame(points(100.0 * t, 200.0, 25))
            write(folder / f"{clip}_{t:03d}_keypoints.json", one)
    run(tmp_path / "in", tmp_path / "out", format="openpose", input_width=1000, input_height=400)
    train, val = (np.load(tmp_path / "out" / f"{name}_data.npy") for name in ("train", "val"))
    assert (train.shape, val.shape) == ((2, 3, 3, 25, 1), (1, 3, 3, 25, 1))
    np.testing.assert_allclose(val[0, 0, :, 2, 0], [0.302, 0.402, 0.502], atol=1e-6)
    assert not val[0, 1].any()
    assert (val[0, 2] == 0.5).all()
    labels = read_labels(tmp_path / "out" / "train_label.json")
    assert labels.ids == ("train/sit/b", "train/wave/a")
    assert labels.class_names == ("sit", "wave")
    assert labels.layout == "body-25"


def test_one_openpose_clip_without_a_class_has_no_label_file(tmp_path: Path) -> None:
    frames = {0: [100.0], 1: [], 2: [101.0, 500.0], 15: [102.0]}
    for t, people in frames.items():
        one = openpose_frame(*[points(x, 50.0, 18, confidence=x / 1000) for x in people])
        write(tmp_path / "clip" / f"v_{t:012d}_keypoints.json", one)
    result = run(tmp_path / "clip", tmp_path / "out", format="openpose", max_gap_frames=10)
    assert result["files"] == ["data.npy", "dataset.json"]
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 4, 18, 2)
    np.testing.assert_allclose(data[0, 2, :, 0, 0], [0.1, 0.0, 0.101, 0.102], atol=1e-6)
    np.testing.assert_allclose(data[0, 2, :, 0, 1], [0.0, 0.0, 0.5, 0.0], atol=1e-6)
    assert result["warnings"] == ["1 gaps longer than 10 frames, closed; first: clip"]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["layout"] == "openpose"


def test_a_list_of_labels_overrules_folders_and_what_it_misses_is_counted(tmp_path: Path) -> None:
    for clip in ("a", "b"):
        write(tmp_path / "in" / clip / "x_0_keypoints.json", openpose_frame(points(99.0, 9.0, 18)))
    labels = write(tmp_path / "labels.csv", "id,label\na,wave\nz,sit\n")
    result = run(tmp_path / "in", tmp_path / "out", format="openpose", labels=str(labels))
    assert read_labels(tmp_path / "out" / "label.json").ids == ("a",)
    assert result["warnings"] == [
        "1 labels of clips that are not there; first: z",
        "1 clips without a class, left out; first: b",
    ]


def test_coordinates_that_are_no_pixels_are_refused_with_the_fix(tmp_path: Path) -> None:
    shares = [value for _ in range(18) for value in (0.25, 0.75, 0.9)]
    write(tmp_path / "clip" / "v_0_keypoints.json", openpose_frame(shares))
    received = message_of(tmp_path / "clip", tmp_path / "out", format="openpose")
    assert "expected coordinates in pixels, got none beyond 1" in received
    assert "input_width: 1" in received
    run(tmp_path / "clip", tmp_path / "out", format="openpose", input_width=1, input_height=1)
    data = np.load(tmp_path / "out" / "data.npy")
    np.testing.assert_allclose(data[0, :, 0, 0, 0], [-0.25, 0.25, 0.9], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 1.3}, "expected the key 'people', got 'version'"),
        ({"people": [{"face": []}]}, "people[0]: expected the key 'pose_keypoints_2d', got 'face'"),
        (openpose_frame([1.0, 2.0]), "expected x, y, confidence for every joint, got 2 numbers"),
        (openpose_frame([1.0, 2.0, 1.0], [1.0] * 6), "expected as many joints for every person"),
        ("{", "v_1_keypoints.json:1: expected JSON"),
    ],
)
def test_faults_of_openpose_files_name_file_and_key(
    tmp_path: Path, content: Any, message: str
) -> None:
    write(tmp_path / "clip" / "v_0_keypoints.json", openpose_frame(points(99.0, 9.0, 18)))
    write(tmp_path / "clip" / "v_1_keypoints.json", content)
    received = message_of(tmp_path / "clip", tmp_path / "out", format="openpose")
    assert message in received
    assert "v_1_keypoints.json" in received


# COCO


def coco(image: Any, x: float, **more: Any) -> dict[str, Any]:
    keypoints = points(x, 50.0, 17, 1.0)
    return {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": 0.9, **more}


def test_coco_results_follow_track_numbers(tmp_path: Path) -> None:
    entries = [coco(2, 900, track_id=7), coco(2, 100, track_id=3), coco(1, 200, track_id=7)]
    write(tmp_path / "in" / "wave" / "a.json", entries)
    run(tmp_path / "in", tmp_path / "out", format="coco", input_width=1000, input_height=100)
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 2, 17, 2)
    np.testing.assert_allclose(data[0, 0, :, 0, 0], [-0.3, 0.4], atol=1e-6)
    np.testing.assert_allclose(data[0, 0, :, 0, 1], [0.0, -0.4], atol=1e-6)
    labels = read_labels(tmp_path / "out" / "label.json")
    assert (labels.ids, labels.layout) == (("wave/a",), "coco")


def test_coco_file_names_are_ordered_by_their_number(tmp_path: Path) -> None:
    entries = [coco(f"clip/{t}.jpg", 100.0 + t) for t in (10, 9, 12)]
    path = write(tmp_path / "a.json", entries)
    result = run(path, tmp_path / "out", format="coco", input_width=1000)
    data = np.load(tmp_path / "out" / "data.npy")
    np.testing.assert_allclose(data[0, 0, :, 0, 0], [-0.391, -0.39, 0.0, -0.388], atol=1e-6)
    assert result["warnings"] == ["1 frames missing, filled as missing; first: a"]
    result = run(path, tmp_path / "closed", format="coco", input_width=1000, max_gap_frames=0)
    assert np.load(tmp_path / "closed" / "data.npy").shape[2] == 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"keypoints": []}], "[0]: expected the key 'image_id', got 'keypoints'"),
        (
            [{"image_id": 1, "bbox": []}],
            "[0]: expected the key 'keypoints', got 'bbox', 'image_id'",
        ),
        ({"annotations": []}, "expected a JSON list, got a file that starts with"),
        ([coco("a/1.jpg", 9), coco("b/1.jpg", 9)], "expected images of one clip, got images of 2"),
        ([coco("first.jpg", 9)], "image_id: expected a number, or a file name with one"),
        ([coco(1, 9, track_id=1), coco(1, 9)], "[1]: expected the key 'track_id'"),
        ([coco(1, 9, track_id=1), coco(1, 9, track_id=1)], "expected every track once in an image"),
        (
            [coco(1, 9) | {"keypoints": [1, 2, "3"]}],
            "[0]: keypoints: expected numbers of shape any",
        ),
    ],
)
def test_faults_of_coco_files_name_place_and_key(
    tmp_path: Path, entries: Any, message: str
) -> None:
    path = write(tmp_path / "a.json", entries)
    received = message_of(path, tmp_path / "out", format="coco")
    assert message in received
    assert "a.json" in received


# MediaPipe


def landmarks(x: float, visibility: float = 1.0) -> list[dict[str, float]]:
    return [{"x": x, "y": 0.75, "z": j / 10, "visibility": visibility} for j in range(33)]


def test_every_form_of_mediapipe_means_the_same(tmp_path: Path) -> None:
    plain = [[m["x"], m["y"], m["z"], m["visibility"]] for m in landmarks(0.25)]
    forms: list[Any] = [
        [landmarks(0.25), None, landmarks(0.5)],
        {"frames": [[landmarks(0.25)], [], [landmarks(0.5)]]},
        [
            {"pose_landmarks": landmarks(0.25)},
            {"pose_landmarks": []},
            {"landmarks": landmarks(0.5)},
        ],
        [plain, None, [landmarks(0.5)]],
    ]
    for number, form in enumerate(forms):
        path = write(tmp_path / f"{number}.json", form)
        run(path, tmp_path / "out", format="mediapipe")
        data = np.load(tmp_path / "out" / "data.npy")
        assert data.shape == (1, 3, 3, 33, 1)
        np.testing.assert_allclose(data[0, :, 0, 5, 0], [-0.25, 0.25, 0.5], atol=1e-6)
        assert not data[0, :, 1].any()
        np.testing.assert_allclose(data[0, :, 2, 5, 0], [0.0, 0.25, 0.5], atol=1e-6)


def test_world_landmarks_stay_as_they_are_and_unseen_ones_are_missing(tmp_path: Path) -> None:
    seen = landmarks(0.25)
    seen[4]["visibility"] = 0.0
    path = write(tmp_path / "a.json", [{"pose_world_landmarks": seen}])
    run(path, tmp_path / "out", format="mediapipe")
    data = np.load(tmp_path / "out" / "data.npy")
    np.testing.assert_allclose(data[0, :, 0, 5, 0], [0.25, 0.75, 0.5], atol=1e-6)
    assert not data[0, :, 0, 4].any()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([landmarks(0.1)[:32]], "frame 0: expected 33 landmarks, got 32"),
        ([[{"x": 1, "y": 2}] * 33], "frame 0[0]: expected the key 'z', got 'x', 'y'"),
        ([{"hands": []}], "frame 0: expected the key 'pose_landmarks', got 'hands'"),
        ([[[1.0, 2.0]] * 33], "frame 0[0]: expected x, y, z and perhaps visibility, got 2 numbers"),
        ({"video": []}, "expected the key 'frames', got 'video'"),
    ],
)
def test_faults_of_mediapipe_files_name_frame_and_key(
    tmp_path: Path, frames: Any, message: str
) -> None:
    path = write(tmp_path / "a.json", frames)
    assert message in message_of(path, tmp_path / "out", format="mediapipe")


# PySKL


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
        "split": {"xsub_train": ["a", "b"], "xsub_val": ["c"], "xview_train": [], "xview_val": []},
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
        "1 samples that are in neither part of the split, left out; first: d"
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


# What all share


def test_clips_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    for name, num_joints in (("a", 18), ("b", 25)):
        one = openpose_frame(points(99.0, 9.0, num_joints))
        write(tmp_path / "in" / name / "x_0_keypoints.json", one)
    received = message_of(tmp_path / "in", tmp_path / "out", format="openpose")
    assert received.startswith("b: expected 3 channels and 18 joints as in a, got 3 and 25.")


def test_layouts_named_by_readers_exist() -> None:
    from kineme.pose_classification.convert.pyskl import LAYOUTS as NAMES_OF_PYSKL

    assert set(NAMES_OF_PYSKL) <= set(LAYOUTS)


def test_an_existing_data_set_survives_a_conversion_that_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [landmarks(0.25)])
    run(path, tmp_path / "out", format="mediapipe")
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()}
    write(path, [landmarks(0.25), landmarks(0.5)[:5]])
    with pytest.raises(DataError):
        run(path, tmp_path / "out", format="mediapipe")
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()} == before
