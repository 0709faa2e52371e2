"""What an estimator says of a person: which joints count as seen, and what follows from that."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kineme.people.poses import FramePoses, PersonPose, box_around, build_pose

JOINTS = [[10.0, 20.0], [30.0, 5.0], [7.0, 9.0], [1.0, 1.0]]


def test_a_joint_of_no_or_too_little_confidence_is_nan_and_zero():
    pose = build_pose(JOINTS, [0.9, 0.2, 0.0, 0.5], min_confidence=0.2)
    np.testing.assert_array_equal(pose.joints, [[10, 20], [np.nan] * 2, [np.nan] * 2, [1, 1]])
    np.testing.assert_array_equal(pose.confidence, np.float32([0.9, 0, 0, 0.5]))
    assert pose.is_seen.tolist() == [True, False, False, True]
    assert pose.num_seen == 2


def test_a_joint_with_one_number_that_is_not_finite_is_not_seen_in_any_axis():
    joints = [[1.0, 2.0, np.nan], [np.inf, 2.0, 3.0], [4.0, 5.0, 6.0]]
    pose = build_pose(joints, [1.0, 1.0, np.nan])
    assert np.isnan(pose.joints).all()
    assert pose.confidence.tolist() == [0, 0, 0]
    assert pose.score == 0
    assert np.isnan(pose.box).all()


def test_box_and_score_come_from_the_seen_joints_unless_they_are_given():
    pose = build_pose(JOINTS, [0.5, 1.5, 0.0, 0.0])
    assert pose.box.tolist() == [10, 5, 30, 20]
    assert pose.score == 0.75  # confidence beyond 1 is 1
    given_ = build_pose(JOINTS, [1, 1, 1, 1], box=[0, 0, 50, 60], score=1.7)
    assert given_.box.tolist() == [0, 0, 50, 60]
    assert given_.score == 1


def test_a_pose_is_a_copy_that_does_not_change():
    joints = np.float32(JOINTS)
    pose = build_pose(joints, np.ones(4))
    joints[:] = 0
    assert pose.joints[0].tolist() == [10, 20]
    with pytest.raises(ValueError, match="read-only"):
        pose.joints[0, 0] = 1


@pytest.mark.parametrize(
    ("joints", "confidence", "box", "words"),
    [
        ((4, 4), (4,), (4,), "V, 2 or 3"),
        ((4, 2), (3,), (4,), r"\(4, 2\) and \(3,\)"),
        ((4, 2), (4,), (2,), r"a box \(4,\), not \(2,\)"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_no_pose(joints, confidence, box, words):
    arrays = [np.zeros(shape, np.float32) for shape in (joints, confidence, box)]
    with pytest.raises(ValueError, match=words):
        PersonPose(*arrays, score=0.5)


def test_the_box_of_nobody_is_nan_and_depth_does_not_matter():
    assert np.isnan(box_around(np.full((3, 2), np.nan, np.float32))).all()
    deep = np.float32([[1, 2, np.nan], [3, -4, 5]])
    assert box_around(deep).tolist() == [1, -4, 3, 2]


def test_a_frame_without_people_is_an_empty_tuple():
    assert FramePoses(index=3, seconds=0.1, people=()).people == ()


@given(
    hnp.arrays(np.float32, (5, 3), elements=st.floats(width=32)),
    hnp.arrays(np.float32, 5, elements=st.floats(width=32)),
)
def test_nan_and_confidence_zero_are_always_the_same_joints(joints, confidence):
    pose = build_pose(joints, confidence)
    assert (np.isnan(pose.joints).all(axis=1) == (pose.confidence == 0)).all()
    assert (np.isfinite(pose.joints).all(axis=1) == pose.is_seen).all()
    assert ((pose.confidence >= 0) & (pose.confidence <= 1)).all()
    assert 0 <= pose.score <= 1
