"""OpenPose, COCO and MediaPipe: key points of detectors, from tiny files made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from format_files import landmarks, message_of, openpose_frame, points, run, write
from kineme.data.labels import read_labels
from kineme.errors import SpecError

# OpenPose


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


def test_two_files_of_a_frame_are_refused(tmp_path: Path) -> None:
    for camera in ("left", "right"):
        one = openpose_frame(points(9.0, 9.0, 18))
        write(tmp_path / "clip" / f"{camera}_007_keypoints.json", one)
    received = message_of(tmp_path / "clip", tmp_path / "out", format="openpose")
    assert "expected one file of frame 7, got left_007_keypoints.json and right_007" in received


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


def test_all_bad_frames_of_a_clip_are_told(tmp_path: Path) -> None:
    for number, text in enumerate(("{", '{"people": []}', "[")):
        write(tmp_path / "in" / f"x_{number}_keypoints.json", text)
    received = message_of(tmp_path / "in", tmp_path / "out", format="openpose").splitlines()
    assert [Path(line.split(":")[0]).name[2] for line in received] == ["0", "2"]


def test_a_file_that_cannot_be_read_decides_no_units(tmp_path: Path) -> None:
    bad = [{"pose_world_landmarks": landmarks(0.1)[:5]}]
    write(tmp_path / "in" / "a.json", bad)
    write(tmp_path / "in" / "b.json", [landmarks(0.1)])
    received = message_of(tmp_path / "in", tmp_path / "out", format="mediapipe").splitlines()
    assert len(received) == 1
    assert "a.json" in received[0]


def test_a_blank_label_of_a_list_is_a_missing_one(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.json", [coco(1, 9)])
    labels = write(tmp_path / "labels.json", [{"id": "a", "label": " "}])
    received = message_of(tmp_path / "in", tmp_path / "out", format="coco", labels=str(labels))
    assert "expected the key 'label', got 'id'" in received


def test_bad_files_are_told_together_and_none_of_the_rest_is_written(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.json", "{" if name != "b" else [coco(1, 9)])
    received = message_of(tmp_path / "in", tmp_path / "out", format="coco").splitlines()
    assert [Path(line.split(":")[0]).stem for line in received] == ["a", "c"]


def test_folders_without_clips_are_neither_classes_nor_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "in" / split / "walk" / "a.json", [coco(1, 9)])
    (tmp_path / "in" / "__MACOSX").mkdir()
    result = run(tmp_path / "in", tmp_path / "out", format="coco")
    assert result["files"][0] == "train_data.npy"
    write(tmp_path / "in" / "validation" / "walk" / "a.json", [coco(1, 9)])
    received = message_of(tmp_path / "in", tmp_path / "other", format="coco")
    assert "expected classes, or train, val and test alone, got train, val, validation" in received


def test_labels_of_other_clips_are_refused_as_are_older_ones(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.json", [coco(1, 9)])
    labels = write(tmp_path / "labels.csv", "id,label\nb,run\n")
    received = message_of(tmp_path / "in", tmp_path / "out", format="coco", labels=str(labels))
    assert "expected labels of clips that are there, got none of 1 clips, the first 'a'" in received
    labels.write_text("id,label\na,run\n")
    run(tmp_path / "in", tmp_path / "out", format="coco", labels=str(labels))
    before = (tmp_path / "out" / "data.npy").stat().st_mtime_ns
    with pytest.raises(SpecError, match=r"without labels of other data.*with label\.json"):
        run(tmp_path / "in", tmp_path / "out", format="coco")
    assert (tmp_path / "out" / "data.npy").stat().st_mtime_ns == before


def test_class_folders_with_leading_zeros_keep_their_names(tmp_path: Path) -> None:
    for name in ("01", "02"):
        write(tmp_path / "in" / name / f"{name}.json", [coco(1, 9)])
    run(tmp_path / "in", tmp_path / "out", format="coco")
    labels = read_labels(tmp_path / "out" / "label.json")
    assert (labels.class_names, labels.labels.tolist()) == (("01", "02"), [0, 1])


# MediaPipe


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
        (
            [{"pose_landmarks": landmarks(0.1)}, {"pose_world_landmarks": landmarks(0.1)}],
            "frame 1: pose_world_landmarks: expected image landmarks, as elsewhere, got world",
        ),
    ],
)
def test_faults_of_mediapipe_files_name_frame_and_key(
    tmp_path: Path, frames: Any, message: str
) -> None:
    path = write(tmp_path / "a.json", frames)
    assert message in message_of(path, tmp_path / "out", format="mediapipe")
