"""Joints of one layout from those of another."""

import numpy as np
import pytest

from kineme.errors import DataError
from kineme.pose_classification.layout_mapping import in_picture, map_layout
from kineme.pose_classification.layouts import LAYOUTS, Layout


def places(layout, seed=0):
    generator = np.random.default_rng(seed)
    joints = generator.uniform(0, 100, (3, layout.num_joints, 2)).astype(np.float32)
    return joints, generator.uniform(0.1, 1, joints.shape[:2]).astype(np.float32)


REFUSED: set[tuple[str, str]] = set()


def test_a_layout_onto_itself_changes_nothing():
    coco = LAYOUTS["coco"]
    joints, confidence = places(coco)
    mapped, trust = map_layout(coco, coco).apply(joints, confidence)
    np.testing.assert_array_equal(mapped, joints)
    np.testing.assert_array_equal(trust, confidence)
    assert map_layout(coco, coco).told() == "joints of coco as they are"


def test_coco_from_mediapipe_is_every_joint_by_name():
    source, target = LAYOUTS["mediapipe-33"], LAYOUTS["coco"]
    mapping = map_layout(source, target)
    joints, confidence = places(source)
    mapped, trust = mapping.apply(joints, confidence)
    for to, name in enumerate(target.joints):
        np.testing.assert_array_equal(mapped[:, to], joints[:, source.joints.index(name)])
        np.testing.assert_array_equal(trust[:, to], confidence[:, source.joints.index(name)])
    assert mapping.told() == "joints of coco from mediapipe-33: 17 of 17 by name"


def test_what_lies_between_joints_is_their_middle_as_sure_as_the_least_of_them():
    source, target = LAYOUTS["coco"], LAYOUTS["body-25"]
    mapping = map_layout(source, target)
    joints, confidence = places(source)
    confidence[1, source.joints.index("left_hip")] = 0
    joints[1, source.joints.index("left_hip")] = np.nan
    mapped, trust = mapping.apply(joints, confidence)
    hips = [source.joints.index(f"{side}_hip") for side in ("left", "right")]
    at = target.joints.index("pelvis")
    np.testing.assert_allclose(mapped[0, at], joints[0, hips].mean(axis=0), rtol=1e-6)
    assert trust[0, at] == confidence[0, hips].min()
    assert np.isnan(mapped[1, at]).all()
    assert trust[1, at] == 0
    assert {"left_heel", "right_heel", "left_small_toe"} <= set(mapping.missing)
    told = mapping.told()
    assert "neck from left_shoulder and right_shoulder" in told
    assert "pelvis from left_hip and right_hip" in told
    assert "missing: " in told


def test_a_joint_for_which_nothing_stands_is_missing():
    source, target = LAYOUTS["coco"], LAYOUTS["body-25"]
    joints, confidence = places(source)
    mapped, trust = map_layout(source, target).apply(joints, confidence)
    at = target.joints.index("left_heel")
    assert np.isnan(mapped[:, at]).all()
    assert trust[:, at].tolist() == [0, 0, 0]


@pytest.mark.parametrize("target", LAYOUTS, ids=str)
@pytest.mark.parametrize("source", ["coco", "mediapipe-33", "halpe-26", "body-25"])
def test_every_layout_of_an_estimator_serves_every_model_or_is_refused_by_name(source, target):
    if (source, target) in REFUSED:
        with pytest.raises(DataError, match="at least half"):
            map_layout(LAYOUTS[source], LAYOUTS[target])
        return
    mapping = map_layout(LAYOUTS[source], LAYOUTS[target])
    assert len(mapping.origins) == LAYOUTS[target].num_joints
    assert 2 * len(mapping.missing) <= LAYOUTS[target].num_joints


def test_layouts_that_share_too_little_are_refused():
    other = Layout("hand", ("a", "b", "left_wrist"), (("a", "b"), ("b", "left_wrist")), "a", "")
    with pytest.raises(DataError, match="2 of 3 missing: a, b"):
        map_layout(LAYOUTS["coco"], other)


def test_pixels_become_shares_of_the_picture_as_in_converted_tracks():
    joints = np.array([[[100, 50, 20], [np.nan] * 3]], np.float32)
    confidence = np.array([[0.5, 0]], np.float32)
    size = {"width": 200, "height": 100}
    flat = in_picture(joints[..., :2], confidence, num_channels=3, num_axes=2, **size)
    assert flat.tolist() == [[[0, 0, 0.5], [0, 0, 0]]]
    deep = in_picture(joints, confidence, num_channels=3, num_axes=3, **size)
    np.testing.assert_allclose(deep, [[[0, 0, 0.1], [0, 0, 0]]])
    bare = in_picture(joints[..., :2], confidence, num_channels=3, num_axes=3, **size)
    assert bare.tolist() == [[[0, 0, 0], [0, 0, 0]]]
