"""Key points of other programs in place of an estimator: the right people in the right frame."""

import json

import numpy as np
import pytest

from format_files import landmarks, openpose_frame, points, write
from kineme.errors import DataError, SpecError
from kineme.people.estimators import build_estimator
from kineme.people.estimators.files import FORMATS

BLACK = np.zeros((480, 640, 3), np.uint8)


def test_an_openpose_folder_gives_each_frame_its_people(tmp_path):
    for number, people in {3: [points(100.0, 50.0, 25)], 5: []}.items():
        write(tmp_path / f"v_{number:012d}_keypoints.json", openpose_frame(*people))
    write(tmp_path / "readme.txt", "")
    words = {"path": str(tmp_path), "first_frame": "2"}
    estimator = build_estimator("files", words)
    assert estimator.layout == "body-25"
    assert estimator.notes == (
        "1 files that are no <name>_<frame>_keypoints.json, left out; first: readme.txt",
    )
    seen = [estimator.detect(BLACK) for _ in range(4)]
    assert [len(people) for people in seen] == [0, 1, 0, 0]
    assert seen[1][0].joints[0].tolist() == [100, 50]
    assert seen[1][0].joints.shape == (25, 2)
    estimator.reset()
    assert [len(estimator.detect(BLACK)) for _ in range(2)] == [0, 1]


def test_coco_results_are_read_by_image_id_and_ordered_by_score(tmp_path):
    poses = [[float(x), 2.0, confidence] * 17 for x, confidence in ((1, 0.25), (300, 0.75))]
    entries = [{"image_id": 7, "keypoints": pose} for pose in poses]
    entries.append({"image_id": 6, "keypoints": poses[0]})
    path = write(tmp_path / "results.json", json.dumps(entries))
    words = {"path": str(path), "format": "coco", "first_frame": 7}
    estimator = build_estimator("files", words)
    assert estimator.layout == "coco"
    assert estimator.notes == (f"1 frames before first_frame, left out; first: {path}",)
    people = estimator.detect(BLACK)
    assert [pose.joints[5].tolist() for pose in people] == [[300, 2], [1, 2]]
    assert [pose.score for pose in people] == [0.75, 0.25]


def test_mediapipe_landmarks_are_shares_of_the_frame(tmp_path):
    path = write(tmp_path / "m.json", json.dumps([None, {"pose_landmarks": landmarks(0.25, 0.5)}]))
    estimator = build_estimator("files", {"path": str(path), "format": "mediapipe"})
    assert estimator.layout == "mediapipe-33"
    assert estimator.detect(BLACK) == ()
    (pose,) = estimator.detect(BLACK)
    np.testing.assert_allclose(pose.joints[0, :2], [160, 360], rtol=1e-6)
    world = write(tmp_path / "w.json", json.dumps([{"pose_world_landmarks": landmarks(0.2, 0.5)}]))
    with pytest.raises(DataError, match=r"expected image landmarks, got world landmarks\.$"):
        build_estimator("files", {"path": str(world), "format": "mediapipe"})


def test_deepstream_gives_the_people_of_one_camera_with_depth(tmp_path):
    def frame(number, source, *people):
        objects = [{"object_id": i, "pose25d": [float(x), 9.0, 3.0, 0.5] * 34} for i, x in people]
        return {"frame_num": number, "source_id": source, "objects": objects}

    frames = [frame(0, 0, (1, 10), (2, 20)), frame(0, 1, (1, 70)), frame(1, 0, (2, 21))]
    batch = [{"num_frames_in_batch": 3, "batches": frames}]
    path = write(tmp_path / "d.json", json.dumps(batch))
    estimator = build_estimator("files", {"path": str(path), "format": "deepstream"})
    assert estimator.layout == "nvidia"
    assert [pose.joints[3].tolist() for pose in estimator.detect(BLACK)] == [
        [10, 9, 3], [20, 9, 3],
    ]  # fmt: skip
    assert [pose.joints[3, 0] for pose in estimator.detect(BLACK)] == [21]
    assert estimator.notes == ("1 tracks of other sources, left out; first: object 1 of source 1",)
    with pytest.raises(SpecError, match=r"a source of the file \(0, 1\), got 2"):
        build_estimator("files", {"path": str(path), "format": "deepstream", "source": 2})


@pytest.mark.parametrize("name", FORMATS)
def test_no_path_no_file_and_joints_of_no_layout_are_told(name, tmp_path):
    with pytest.raises(SpecError, match=r"files\.path"):
        build_estimator("files", {"format": name})
    with pytest.raises(DataError, match="not there"):
        build_estimator("files", {"format": name, "path": str(tmp_path / "absent")})
    write(tmp_path / "v_0_keypoints.json", openpose_frame(points(1.0, 2.0, 7)))
    with pytest.raises(DataError):
        build_estimator("files", {"format": name, "path": str(tmp_path)})
