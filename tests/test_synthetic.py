"""The synthetic figures move like bodies do, and the sets made of them are what they promise."""

import numpy as np
import pytest

from kineme import synthetic
from kineme.figures import JOINTS, Body, Motion, make_bodies, pose, seen_from
from kineme.pose_classification.layouts import LAYOUTS

CLASSES = synthetic.CLASS_NAMES
# The sides of the trunk tie shoulders to hips across a bending spine; they are no bones.
TRUNK_SIDES = {("left_hip", "left_shoulder"), ("right_shoulder", "right_hip")}
BONES = [bone for bone in LAYOUTS["nvidia"].bones if bone not in TRUNK_SIDES]


@pytest.fixture(scope="module")
def figures():
    return synthetic.pose_exercises(48, 5, num_frames=60)


def joint(positions, name):
    return positions[:, :, JOINTS.index(name)]


def angle(positions, first, corner, last):
    """Degrees between two bones that meet at `corner`: 180 is a straight limb."""
    a = joint(positions, first) - joint(positions, corner)
    b = joint(positions, last) - joint(positions, corner)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def still(**changed):
    """One frame of a figure that stands upright with hanging arms, but for what is `changed`."""
    flat, sided = np.zeros((1, 1)), np.zeros((1, 1, 2))
    motion = Motion(
        pelvis=np.zeros((1, 1, 3)), tilt=flat, flex=flat, bend=flat, nod=flat,
        feet=np.zeros((1, 1, 2, 3)), heel=sided, toe_out=sided, arms=np.zeros((1, 1, 2, 4)),
    )  # fmt: skip
    return motion._replace(**changed)


def test_bones_keep_their_length_over_time(figures):
    assert len(BONES) == 33
    for a, b in BONES:
        length = np.linalg.norm(joint(figures.positions, a) - joint(figures.positions, b), axis=-1)
        assert length.min() > 0.01, (a, b)
        np.testing.assert_allclose(
            length, length[:, :1].repeat(60, 1), atol=1e-9, err_msg=f"{a, b}"
        )


def test_two_samples_of_one_body_have_the_same_bones():
    one = (Body("one", 1.7, legs=1.05),)
    positions = synthetic.pose_exercises(12, 3, bodies=one, num_frames=8).positions
    for a, b in BONES:
        length = np.linalg.norm(joint(positions, a) - joint(positions, b), axis=-1)
        np.testing.assert_allclose(length, length[0, 0], atol=1e-9)
    thigh = np.linalg.norm(joint(positions, "left_hip") - joint(positions, "left_knee"), axis=-1)
    np.testing.assert_allclose(thigh, 0.245 * 1.7 * 1.05)


def test_feet_stand_on_the_floor_and_only_jumping_leaves_it(figures):
    ground = [i for i, name in enumerate(JOINTS) if name.endswith(("toe", "heel"))]
    assert figures.positions[..., 1].min() > -1e-9
    lowest = figures.positions[:, :, ground, 1].min(-1)
    jumps = figures.labels == CLASSES.index("jumping_jack")
    assert lowest[~jumps].max() < 1e-9
    assert 0.02 < lowest[jumps].max() < 0.12


@pytest.mark.parametrize("name", ["squat", "overhead_press", "arm_curl", "side_bend"])
def test_planted_feet_do_not_slide_once_the_exercise_has_begun(figures, name):
    heel = joint(figures.positions[figures.labels == CLASSES.index(name)], "left_heel")
    moved = np.linalg.norm(np.diff(heel[:, 30:], axis=1), axis=-1)
    assert moved.max() < 1e-9


def test_elbows_and_knees_stay_within_their_limits_and_knees_bend_forward(figures):
    positions = figures.positions
    for side in ("left", "right"):
        elbow = angle(positions, f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
        knee = angle(positions, f"{side}_hip", f"{side}_knee", f"{side}_ankle")
        assert 25 < elbow.min() < 60  # curls do close the elbow
        assert 40 < knee.min() < 110  # squats and lunges do bend the knee
        middle = (joint(positions, f"{side}_hip") + joint(positions, f"{side}_ankle")) / 2
        facing = joint(positions, f"{side}_big_toe") - joint(positions, f"{side}_heel")
        facing[..., 1] = 0
        ahead = ((joint(positions, f"{side}_knee") - middle) * facing).sum(-1)
        assert ahead.min() > -1e-3


def test_no_joint_moves_faster_than_people_do(figures):
    speed = np.linalg.norm(np.diff(figures.positions, axis=1), axis=-1) * 15
    assert 1 < speed.max() < 9  # metres per second: a hand in a jumping jack


def test_standing_is_upright_with_arms_down_and_left_on_the_left():
    [[figure]] = pose([Body("b", 1.8)], still())
    at = dict(zip(JOINTS, figure, strict=True))
    assert at["left_hip"][0] == pytest.approx(0.088 * 1.8)
    assert at["right_hip"][0] == pytest.approx(-0.088 * 1.8)
    assert at["left_elbow"] - at["left_shoulder"] == pytest.approx([0, -0.186 * 1.8, 0])
    assert at["nose"][2] > 0 > at["left_heel"][2]
    assert 1.5 < at["left_eye"][1] < 1.75


def test_a_raised_left_arm_points_to_the_left_and_its_elbow_bends_up():
    arms = np.zeros((1, 1, 2, 4))
    arms[0, 0, 0] = (90, 90, 0, 90)  # sideways, horizontal, forearm vertical
    [[figure]] = pose([Body("b", 1.8)], still(arms=arms))
    at = dict(zip(JOINTS, figure, strict=True))
    assert at["left_elbow"] - at["left_shoulder"] == pytest.approx([0.186 * 1.8, 0, 0])
    assert at["left_wrist"] - at["left_elbow"] == pytest.approx([0, 0.146 * 1.8, 0])
    assert at["right_wrist"][1] < at["right_shoulder"][1]


def test_a_camera_in_front_sees_left_on_its_right_and_one_at_the_left_sees_a_face_turned_left():
    figure = pose([Body("b", 1.8)], still())
    front = seen_from(figure, np.array([0.0]), np.array([0.0]))
    assert joint(front, "left_hip")[0, 0, 0] > joint(front, "right_hip")[0, 0, 0]
    assert joint(front, "nose")[0, 0, 1] < joint(front, "left_ankle")[0, 0, 1]  # y is down
    assert joint(front, "nose")[0, 0, 2] < joint(front, "pelvis")[0, 0, 2]  # nearer
    side = seen_from(figure, np.array([90.0]), np.array([0.0]))
    assert joint(side, "nose")[0, 0, 0] < joint(side, "pelvis")[0, 0, 0]
    assert joint(side, "left_hip")[0, 0, 2] < joint(side, "right_hip")[0, 0, 2]
    above = seen_from(figure, np.array([0.0]), np.array([90.0]))
    assert joint(above, "nose")[0, 0, 2] < joint(above, "left_ankle")[0, 0, 2]


def test_a_set_is_the_same_every_time_and_another_with_another_seed():
    first, again = (synthetic.make_exercises(12, 4, num_frames=16) for _ in range(2))
    other = synthetic.make_exercises(12, 5, num_frames=16)
    assert first.data.tobytes() == again.data.tobytes()
    assert first.ids == again.ids
    assert not np.array_equal(first.data, other.data)


def test_a_sample_does_not_depend_on_how_many_others_there_are():
    few = synthetic.make_exercises(6, 4, num_frames=16)
    many = synthetic.make_exercises(18, 4, num_frames=16)
    np.testing.assert_allclose(many.data[:6], few.data, atol=1e-6)
    assert many.ids[:6] == few.ids


def test_a_set_has_the_layout_the_network_reads():
    made = synthetic.make_exercises(60, 0, num_frames=20)
    assert made.data.shape == (60, 3, 20, 34, 1)
    assert made.data.dtype == np.float32
    assert np.isfinite(made.data).all()
    assert np.bincount(made.labels).tolist() == [10] * 6
    assert len(set(made.ids)) == 60
    assert made.ids[0].startswith("squat_0000_")
    assert made.class_names == CLASSES


def test_the_pelvis_is_the_origin_and_values_are_metres_over_1200_millimetres():
    made = synthetic.make_exercises(30, 0, num_frames=20)
    assert not made.data[:, :, :, 0].any()
    assert 0.7 < np.abs(made.data).max() < 1.5
    feet = made.data[:, 1, :, JOINTS.index("left_ankle"), 0]
    assert np.median(feet) > 0.4  # y points down


def test_missing_joints_are_zero_in_every_channel_and_neither_rare_nor_common():
    made = synthetic.make_exercises(120, 1, num_frames=32)
    is_missing = (made.data[:, :, :, 1:] == 0).all(axis=1)
    assert 0.02 < is_missing.mean() < 0.08
    assert np.array_equal(is_missing, (made.data[:, :, :, 1:] == 0).any(axis=1))
    whole_arm = is_missing[:, :, JOINTS.index("left_elbow") - 1] & is_missing[:, :, 23]
    assert whole_arm.sum() > 10  # limbs are hidden for a while, too


def test_held_out_bodies_and_views_are_not_those_of_training():
    assert not set(synthetic.TRAIN_BODIES) & set(synthetic.HELD_OUT_BODIES)
    assert not set(synthetic.TRAIN_VIEWS) & set(synthetic.HELD_OUT_VIEWS)
    heights = [body.height for body in make_bodies(40, seed=3)]
    assert 1.5 <= min(heights) < 1.6
    assert 1.85 < max(heights) <= 1.95


def test_one_frame_tells_far_less_than_the_movement():
    """Nearest class mean on one frame of clean, front-view figures stays well below certain."""

    def features(count, seed):
        made = synthetic.pose_exercises(count, seed, num_frames=32)
        centred = made.positions - made.positions[:, :, :1]
        return centred, made.labels

    train, labels = features(240, 1)
    held_out, truth = features(120, 2)

    def accuracy(describe):
        known, asked = describe(train), describe(held_out)
        means = np.stack([known[labels == label].mean(0) for label in range(6)])
        guess = ((asked[:, None] - means) ** 2).sum(-1).argmin(1)
        return (guess == truth).mean()

    first_frame = accuracy(lambda x: x[:, 0].reshape(len(x), -1))
    movement = accuracy(lambda x: x.std(axis=1).reshape(len(x), -1))
    assert first_frame < 0.75
    assert movement > first_frame + 0.15
