"""Whom of several people a sample keeps, when training as when converting."""

import numpy as np

from kineme.pose_classification.convert.clips import most_moving
from kineme.pose_classification.people import by_motion, motion_energy


def test_motion_is_counted_in_steps_between_frames_that_have_the_joint():
    x = np.zeros((1, 2, 4, 1, 2), np.float32)  # (B, C, T, V, M)
    x[0, :, :, 0, 0] = [[1, 4, 9, 9], [1, 5, 9, 9]]  # 3-4-5, then a frame without the joint
    x[0, :, :, 0, 1] = [[7, 7, 7, 7], [7, 7, 7, 7]]
    present = np.ones((1, 4, 1, 2), np.bool_)
    present[0, 2, 0, 0] = False
    np.testing.assert_array_equal(motion_energy(x, present), [[25, 0]])
    np.testing.assert_array_equal(motion_energy(x, present & [True, False]), [[25, -1]])
    assert by_motion(np.array([[0.0, -1, 3, 0, 3]])).tolist() == [[2, 4, 0, 3, 1]]


def test_d24_a_conversion_keeps_who_stands_still_rather_than_a_place_with_nobody():
    skeleton = np.full((3, 4, 2, 3), np.nan, np.float32)  # (M, T, V, C)
    skeleton[1] = 0.5  # stands still; nobody is before her, nor after
    np.testing.assert_array_equal(most_moving(skeleton, 1), skeleton[1:2])
    skeleton[2, :, 0] = np.arange(4)[:, None]
    np.testing.assert_array_equal(most_moving(skeleton, 2), skeleton[[2, 1]])
    assert len(most_moving(skeleton, 0)) == 3
