"""Real pose models on real video, held against MediaPipe itself and against each other.

Models are looked for in $KINEME_MODELS, the cache folder and shared/models beside the repository,
videos in shared/data; where they are not, these tests are skipped.
"""

from pathlib import Path

import numpy as np
import pytest

from kineme.data.video import read_frames
from kineme.errors import CheckpointError
from kineme.people.estimators import build_estimator
from kineme.people.models import card_of, model_files
from kineme.pose_classification.layouts import LAYOUTS

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def real(monkeypatch):
    """Builds a real estimator, or skips the test where its model or package is not here."""

    def build(name, **settings):
        if name == "blazepose":
            pytest.importorskip("ai_edge_litert")
        folder = SHARED / "models"
        if name == "movenet" and folder.is_dir():
            monkeypatch.setenv("KINEME_MODELS", str(folder))
        try:
            model_files(card_of(name))
        except CheckpointError as error:
            pytest.skip(f"needs the model: {error}"[:200])
        return build_estimator(name, settings)

    return build


def frame_of(video: str, index: int) -> np.ndarray:
    path = SHARED / "data" / video
    if not path.exists():
        pytest.skip(f"needs shared/data/{video} beside the repository")
    return read_frames(path, np.array([index])).frames[0]


GOLF = "jhmdb/videos/golf/Anna_Rawson_Driver_Practice_golf_f_nm_np1_ri_bad_0.mp4"
BY_MEDIAPIPE = {  # x, y in pixels: mediapipe 0.10.21 itself on frame 5 of this video
    "nose": (190.7, 71.4), "left_shoulder": (181.6, 85.2), "right_shoulder": (169.1, 81.8),
    "left_elbow": (179.4, 110.8), "right_elbow": (169.0, 108.5), "left_wrist": (180.6, 131.4),
    "right_wrist": (173.7, 132.3), "left_hip": (165.0, 130.8), "right_hip": (155.8, 128.8),
    "left_knee": (172.8, 168.9), "right_knee": (162.3, 170.5), "left_ankle": (160.8, 206.0),
    "right_ankle": (156.2, 215.4), "left_heel": (155.4, 213.8), "right_heel": (152.7, 219.5),
    "left_big_toe": (173.4, 215.0), "right_big_toe": (172.3, 221.5),
}  # fmt: skip


def test_blazepose_puts_joints_where_mediapipe_itself_puts_them(real):
    (pose,) = real("blazepose").detect(frame_of(GOLF, 5))
    names = LAYOUTS["mediapipe-33"].joints
    ours = pose.joints[[names.index(name) for name in BY_MEDIAPIPE], :2]
    gaps = np.linalg.norm(ours - np.array(list(BY_MEDIAPIPE.values())), axis=1)
    assert gaps.mean() < 1  # 0.4 measured, of a person 150 pixels high
    assert gaps.max() < 3
    assert pose.score > 0.99


def test_blazepose_and_movenet_agree_on_one_person(real):
    frame = frame_of("videos/one_by_one_persons.mp4", 100)
    found = {}
    for name in ("blazepose", "movenet"):
        estimator = real(name)
        (pose,) = estimator.detect(frame)
        found[name] = dict(zip(LAYOUTS[estimator.layout].joints, pose.joints[:, :2], strict=True))
    for joint in ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_knee"):
        gap = np.linalg.norm(found["blazepose"][joint] - found["movenet"][joint])
        assert gap < 25, joint  # of a person of 330 pixels


@pytest.mark.parametrize("name", ["blazepose", "movenet"])
def test_an_empty_picture_has_nobody_in_it_and_odd_sizes_are_taken(real, name):
    estimator = real(name)
    for shape in ((480, 640, 3), (1, 1, 3), (37, 901, 3)):
        assert estimator.detect(np.zeros(shape, np.uint8)) == ()


def test_small_people_are_found_in_tiles(real):
    frame = frame_of("videos/street_768x576.avi", 0)
    assert real("blazepose").detect(frame) == ()
    found = real("blazepose", tiles=4).detect(frame)
    feet = [pose.joints[27:29, 1].max() for pose in found]
    assert sum(200 < y < 330 for y in feet) == 3  # the three who walk


def test_movenet_sees_the_three_people_of_the_street(real):
    people = real("movenet").detect(frame_of("videos/street_768x576.avi", 0))
    middles = sorted((pose.box[0] + pose.box[2]) / 2 for pose in people)
    np.testing.assert_allclose(middles, [267, 515, 663], atol=12)


def test_tracked_regions_give_the_joints_of_fresh_detections(real):
    path = "videos/one_by_one_persons.mp4"
    tracked, fresh = real("blazepose", track=True, detect_every=100), real("blazepose")
    gaps = []
    for index in (100, 101, 102, 103):
        frame = frame_of(path, index)
        (one,), (other,) = tracked.detect(frame), fresh.detect(frame)
        gaps.append(np.nanmean(np.linalg.norm((one.joints - other.joints)[11:, :2], axis=1)))
    assert gaps[0] == 0
    assert max(gaps) < 12  # of a person of 330 pixels


def test_loading_a_model_prints_nothing_of_the_librarys_own(real, capfd):
    real("blazepose")
    assert capfd.readouterr().err == ""
