"""Transforms against values worked out by hand and invariants that must hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kineme.pose_classification import transforms
from kineme.pose_classification.dataset import View, prepare
from kineme.pose_classification.layouts import LAYOUTS, Layout
from kineme.pose_classification.spec import PoseSpec

PLUS = Layout(
    name="plus",
    joints=("pelvis", "left_shoulder", "right_shoulder"),
    bones=(("pelvis", "left_shoulder"), ("pelvis", "right_shoulder")),
    centre="pelvis",
    source="made for tests",
)


def rows(values: list) -> torch.Tensor:
    """(R, C, T, V, M) from nested lists written as rows[frame][joint] = (x, y, z), one person."""
    return torch.tensor(values, dtype=torch.float32).permute(0, 3, 1, 2).unsqueeze(-1).contiguous()


def centred(x: torch.Tensor) -> torch.Tensor:
    present = transforms.present_joints(x)
    return transforms.move(x, present, PLUS, origin=transforms.origins(x, present, PLUS), turn=None)


def test_present_joints_are_those_with_any_channel_that_is_not_zero():
    x = rows([[[(0, 0, 3), (0, 0, 0), (1, 0, 0)]]])
    assert transforms.present_joints(x).flatten().tolist() == [True, False, True]
    assert transforms.present_joints(x + 1) is None


def test_centre_moves_the_first_frames_centre_joint_to_the_origin():
    x = rows([[[(1, 2, 3), (2, 2, 3), (0, 0, 0)], [(2, 2, 3), (2, 4, 3), (1, 1, 1)]]])
    expected = rows([[[(0, 0, 0), (1, 0, 0), (0, 0, 0)], [(1, 0, 0), (1, 2, 0), (0, -1, -2)]]])
    torch.testing.assert_close(centred(x), expected)


def test_centre_uses_the_mean_of_present_joints_when_the_centre_joint_is_missing():
    x = rows([[[(0, 0, 0), (2, 2, 2), (4, 4, 4)]]])
    torch.testing.assert_close(centred(x), rows([[[(0, 0, 0), (-1, -1, -1), (1, 1, 1)]]]))


def test_align_turns_the_shoulder_line_into_the_picture_plane_and_keeps_lengths():
    cos, sin = math.cos(math.radians(40)), math.sin(math.radians(40))
    x = rows([[[(0, 0, 0), (cos, 1, sin), (-cos, 1, -sin)]]])
    present = transforms.present_joints(x)
    turn = transforms.facing_turns(x, present, PLUS)
    turned = transforms.move(x, present, PLUS, origin=torch.zeros(1, 3), turn=turn)
    torch.testing.assert_close(
        turned, rows([[[(0, 0, 0), (1, 1, 0), (-1, 1, 0)]]]), atol=1e-6, rtol=0
    )


def test_align_leaves_rows_without_both_shoulders_alone():
    x = rows([[[(0, 0, 0), (0, 0, 0), (-1, 1, -1)]]])
    turn = transforms.facing_turns(x, transforms.present_joints(x), PLUS)
    torch.testing.assert_close(turn[0], torch.eye(3))


def test_min_max_spans_minus_one_to_one_per_axis_and_ignores_missing_joints():
    x = rows([[[(1, 10, 5), (3, 20, 5), (0, 0, 0)]]])
    expected = rows([[[(-1, -1, 0), (1, 1, 0), (0, 0, 0)]]])
    scaled = transforms.min_max(x, transforms.present_joints(x), PLUS)
    torch.testing.assert_close(scaled, expected)
    complete = x[:, :, :, :2]
    torch.testing.assert_close(transforms.min_max(complete, None, PLUS), expected[:, :, :, :2])


def test_a_confidence_channel_is_neither_moved_nor_scaled():
    flat = replace(PLUS, num_axes=2)
    x = rows([[[(1, 2, 0.9), (3, 6, 0.5), (0, 0, 0)]]])
    present = transforms.present_joints(x)
    turn = transforms.about_y(torch.tensor([math.radians(60)]))
    moved = transforms.move(x, present, flat, origin=torch.tensor([[1.0, 2.0]]), turn=turn)
    # a flat figure turned by 60 degrees about the vertical is half as wide
    expected = rows([[[(0, 0, 0.9), (1, 4, 0.5), (0, 0, 0)]]])
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)
    scaled = transforms.min_max(moved, present, flat)
    torch.testing.assert_close(scaled, rows([[[(-1, -1, 0.9), (1, 1, 0.5), (0, 0, 0)]]]))
    noisy = transforms.jitter(x, present, flat, noise=torch.ones(1, 2, 1, 3, 1), std=0.5)
    torch.testing.assert_close(noisy, rows([[[(1.5, 2.5, 0.9), (3.5, 6.5, 0.5), (0, 0, 0)]]]))


def rotated(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    return transforms.move(x, None, PLUS, origin=torch.zeros(len(x), 3), turn=turn)


def test_rotation_by_ninety_degrees_about_y_turns_z_towards_x():
    x = rows([[[(0, 0, 1), (1, 0, 0), (0, 1, 0)]]])
    turned = rotated(x, transforms.about_y(torch.tensor([math.pi / 2])))
    torch.testing.assert_close(
        turned, rows([[[(1, 0, 0), (0, 0, -1), (0, 1, 0)]]]), atol=1e-6, rtol=0
    )


def test_rotation_by_ninety_degrees_about_x_turns_y_towards_z():
    x = rows([[[(0, 1, 0), (1, 0, 0), (0, 0, 1)]]])
    turned = rotated(x, transforms.about_x(torch.tensor([math.pi / 2])))
    torch.testing.assert_close(
        turned, rows([[[(0, 0, 1), (1, 0, 0), (0, -1, 0)]]]), atol=1e-6, rtol=0
    )


def test_random_view_with_middle_draws_is_the_identity_and_draws_set_the_scale():
    x = torch.randn(2, 3, 4, 5, 1, generator=torch.Generator().manual_seed(0))
    middle = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.0]])
    turn = transforms.random_turns(middle, max_degrees=60, scale=(0.5, 1.5))
    seen = rotated(x, turn)
    torch.testing.assert_close(seen[0], x[0])
    torch.testing.assert_close(seen[1], x[1] * 0.5)


def test_shear_adds_a_share_of_each_axis_to_the_others():
    x = rows([[[(1, 0, 0), (0, 1, 0), (0, 0, 1)]]])
    draws = torch.tensor([[1.0, 0.75, 0.5, 0.0, 0.25, 0.5]])  # of (x: y, z), (y: x, z), (z: x, y)
    sheared = rotated(x, transforms.random_shears(draws, 0.4))
    expected = rows([[[(1, 0, -0.2), (0.4, 1, 0), (0.2, -0.4, 1)]]])
    torch.testing.assert_close(sheared, expected)


def test_a_stretch_of_frames_goes_missing_where_somebody_is_not_in_the_padding():
    someone = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 0], [0] * 8, [1] + [0] * 7]).bool()
    draws = torch.tensor([[0.0, 0.99, 0.99]]).expand(3, 3)
    hidden = transforms.dropped_time(draws, 1.0, someone)[:, 0, :, 0, 0]
    expected = [[0, 0, 0, 1, 1, 0, 0, 0], [0] * 8, [1] + [0] * 7]  # half of frames 1 to 4
    assert hidden.int().tolist() == expected


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_flip_swaps_left_and_right_joints_and_twice_is_nothing(name):
    layout = LAYOUTS[name]
    x = torch.randn(2, 3, 2, layout.num_joints, 1, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([True, False])
    once = transforms.flip(x, chosen, layout)
    torch.testing.assert_close(once[1], x[1])
    for joint, joint_name in enumerate(layout.joints):
        other = joint_name.replace("left_", "?").replace("right_", "left_").replace("?", "right_")
        torch.testing.assert_close(once[0, 0, :, joint], -x[0, 0, :, layout.joints.index(other)])
        torch.testing.assert_close(once[0, 1, :, joint], x[0, 1, :, layout.joints.index(other)])
    torch.testing.assert_close(transforms.flip(once, chosen, layout), x)


def slow_random_move(x: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Contract 2.4, one sample, one frame, one joint at a time."""
    moved = x.copy()
    tables = (
        transforms.MOVE_ANGLES,
        transforms.MOVE_SCALES,
        transforms.MOVE_SHIFTS,
        transforms.MOVE_SHIFTS,
    )
    for row in range(x.shape[0]):
        for frame in range(x.shape[2]):
            share = frame / (x.shape[2] - 1)
            angle, scale, shift_x, shift_y = (
                table[int(a * len(table))] * (1 - share) + table[int(b * len(table))] * share
                for table, (a, b) in zip(tables, picks[row], strict=True)
            )
            cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            for joint in range(x.shape[3]):
                if not x[row, :, frame, joint].any():
                    continue
                a, b = x[row, 0, frame, joint, 0], x[row, 1, frame, joint, 0]
                moved[row, 0, frame, joint, 0] = scale * (cos * a - sin * b) + shift_x
                moved[row, 1, frame, joint, 0] = scale * (sin * a + cos * b) + shift_y
    return moved


def test_random_move_equals_the_slow_version_and_keeps_missing_joints_missing():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(3, 3, 5, 4, 1)).astype(np.float32)
    x[:, :, 3:, 2] = 0
    picks = generator.random((3, 4, 2))
    tensor = torch.from_numpy(x)
    moved = transforms.random_move(
        tensor, transforms.present_joints(tensor), torch.from_numpy(picks)
    )
    np.testing.assert_allclose(moved.numpy(), slow_random_move(x, picks), atol=1e-6)
    assert not moved[:, :, 3:, 2].any()


def test_dropped_parts_follow_their_draws():
    joints = transforms.dropped_joints(torch.tensor([[0.05, 0.5, 0.2]]), 0.1)
    assert joints.flatten().tolist() == [True, False, False]
    layout = LAYOUTS["nvidia"]
    first = next(iter(layout.limbs.values()))
    limb = transforms.dropped_limb(torch.tensor([[0.0, 0.0], [0.9, 0.0]]), 0.5, layout)
    assert limb[0].flatten().nonzero().flatten().tolist() == sorted(first)
    assert not limb[1].any()
    draws = torch.tensor([[0.0, 0.5, 0.5], [0.6, 0.5, 0.5]])
    time = transforms.dropped_time(draws, 0.5, torch.ones(2, 8, dtype=torch.bool))
    # length ceil(0.5 * 8 / 2) = 2, start floor(0.5 * (8 - 2 + 1)) = 3
    assert time[0].flatten().tolist() == [False] * 3 + [True] * 2 + [False] * 3
    assert not time[1].any()


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor without values on a device of its own, which mixes with no other."""
    return torch.empty(shape, dtype=dtype, device="meta")


BODY, THERE = on_meta(2, 3, 4, 3, 1), on_meta(2, 1, 4, 3, 1, dtype=torch.bool)
BARE = replace(PLUS, joints=("a", "b", "c"), bones=(("a", "b"), ("a", "c")), centre="a")


@pytest.mark.parametrize(
    "call",
    [
        lambda: transforms.without(None, THERE, BODY.shape),
        lambda: transforms.with_centre(THERE, PLUS),
        lambda: transforms.origins(BODY, THERE, PLUS),
        lambda: transforms.facing_turns(BODY, THERE, PLUS),
        lambda: transforms.random_turns(on_meta(2, 3), max_degrees=9, scale=(1.0, 2.0)),
        lambda: transforms.random_shears(on_meta(2, 6), 0.1),
        lambda: transforms.move(BODY, THERE, PLUS, origin=on_meta(2, 3), turn=on_meta(2, 3, 3)),
        lambda: transforms.min_max(BODY, THERE, PLUS),
        lambda: transforms.flip_mask(THERE, on_meta(2) < 0.5, PLUS),
        lambda: transforms.jitter(BODY, THERE, PLUS, noise=BODY, std=0.1),
        lambda: transforms.random_move(BODY, THERE, on_meta(2, 4, 2)),
        lambda: transforms.dropped_joints(on_meta(2, 3), 0.5),
        lambda: transforms.dropped_limb(on_meta(2, 2), 0.5, PLUS),
        lambda: transforms.dropped_limb(on_meta(2, 2), 0.5, BARE),
        lambda: transforms.dropped_time(on_meta(2, 3), 0.5, on_meta(2, 4) < 0.5),
    ],
)
def test_transforms_stay_on_the_device_of_their_data(call):
    assert call().device.type == "meta"  # another device in between is an error of torch's


def test_a_person_who_enters_late_is_centred_where_they_enter():
    x = rows([[[(0, 0, 0)] * 3, [(1, 2, 3), (2, 2, 3), (0, 2, 3)]]])
    expected = rows([[[(0, 0, 0)] * 3, [(0, 0, 0), (1, 0, 0), (-1, 0, 0)]]])
    torch.testing.assert_close(centred(x), expected)


def test_in_data_centred_on_the_pelvis_zero_is_its_place():
    x = rows([[[(0, 0, 0), (1, 1, 0), (-1, 1, 0)], [(0, 0, 0)] * 3]])
    present = transforms.with_centre(transforms.present_joints(x), PLUS)
    assert present.flatten().tolist() == [True, True, True, False, False, False]
    origin = transforms.origins(x, present, PLUS)
    assert origin.tolist() == [[0, 0, 0]]


def test_gaps_are_filled_on_the_line_between_two_sights_and_at_the_ends_with_the_nearest():
    away = (0, 0, 0)
    x = rows([[[away, (1, 1, 0), away], [(2, 8, 1), away, away], [away, away, away],
               [away, (5, 3, 4), away], [(8, 2, 4), away, away]]])  # fmt: skip
    expected = rows([[[(2, 8, 1), (1, 1, 0), away], [(2, 8, 1), (7 / 3, 5 / 3, 4 / 3), away],
                      [(4, 6, 2), (11 / 3, 7 / 3, 8 / 3), away], [(6, 4, 3), (5, 3, 4), away],
                      [(8, 2, 4), (5, 3, 4), away]]])  # fmt: skip
    filled, present = transforms.fill_gaps(x, transforms.present_joints(x))
    torch.testing.assert_close(filled, expected, rtol=0, atol=1e-6)
    assert present[0, 0, :, :, 0].tolist() == [[True, True, False]] * 5
    assert transforms.fill_gaps(x, None) == (x, None)


def test_filled_gaps_are_those_of_interpolation_joint_by_joint():
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(3, 2, 11, 4, 2, generator=generator) + 0.1
    hidden = torch.rand(3, 1, 11, 4, 2, generator=generator) < 0.6
    hidden[0, 0, :, 1, 1] = True
    filled, present = transforms.fill_gaps(x.masked_fill(hidden, 0), ~hidden)
    for row, joint, person in np.ndindex(3, 4, 2):
        seen = (~hidden[row, 0, :, joint, person]).nonzero()[:, 0].numpy()
        assert bool(present[row, 0, :, joint, person].all()) == (len(seen) > 0)
        for channel in range(2):
            line = x[row, channel, :, joint, person].numpy()
            expected = np.interp(np.arange(11), seen, line[seen]) if len(seen) else np.zeros(11)
            received = filled[row, channel, :, joint, person].numpy()
            np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6)


def test_what_training_hides_for_a_time_is_filled_and_what_it_hides_throughout_is_not():
    still = torch.rand(8, 3, 1, 3, 1, generator=torch.Generator().manual_seed(5)) + 1
    options = {"time_dropout_prob": 1.0, "joint_dropout_prob": 0.5}
    prepared = {}
    for fill_gaps in (False, True):
        settings = PoseSpec(dataset={"fill_gaps": fill_gaps, "augmentation": options}).dataset
        view = View(settings, PLUS, seed=0, is_random=True)
        prepared[fill_gaps] = prepare(still.repeat(1, 1, 6, 1, 1), view, np.arange(8), epoch=0)
    gaps, filled = prepared[False], prepared[True]
    assert (gaps == 0).all(dim=(1, 3, 4)).any(dim=1).all()  # in every row some frames are empty
    shown = (gaps != 0).any(dim=1)[..., 0]  # (R, T, V)
    for row, joint in np.ndindex(8, 3):
        frames = shown[row].any(dim=1).nonzero()[:, 0].tolist()  # somebody is there
        expected = torch.zeros(6, 3)
        if shown[row, :, joint].any():
            expected[frames[0] : frames[-1] + 1] = still[row, :, 0, joint, 0]
        assert torch.equal(filled[row, :, :, joint, 0].t(), expected)


def test_nobody_is_made_up_before_they_come_or_after_they_are_gone():
    away, here = (0, 0, 0), (3, 1, 2)
    x = rows([[[away, away, away], [here, away, here], [away, away, away], [here, here, here],
               [away, away, away]]])  # fmt: skip
    filled, _ = transforms.fill_gaps(x, transforms.present_joints(x))
    stays = [[away] * 3, [here] * 3, [here] * 3, [here] * 3, [away] * 3]
    assert torch.equal(filled, rows([stays]))


def test_a_joint_that_is_there_and_lies_at_zero_is_told_from_a_missing_one():
    x = rows([[[(0, 0, 0), (0, 0, 0), (0, 2, 0)]]])
    present = torch.tensor([True, False, True]).view(1, 1, 1, 3, 1)
    told = transforms.told_apart(x, present)[0, :, 0, :, 0].t()
    assert told.tolist() == [[pytest.approx(1e-6), 0, 0], [0, 0, 0], [0, 2, 0]]
    assert transforms.present_joints(transforms.told_apart(x, None)) is None


def test_in_data_centred_on_a_joint_that_joint_is_there_for_a_model():
    x = rows([[[(0, 0, 0), (1, 1, 0), (-1, 1, 0)], [(0, 0, 0)] * 3]])
    for normalize in ("none", "center"):
        settings = PoseSpec(dataset={"normalize": normalize}).dataset
        view = View(settings, PLUS, seed=0, is_random=False, is_centred=True)
        given = prepare(x, view, np.arange(1), epoch=0)
        assert (given != 0).any(dim=1).flatten().tolist() == [True] * 3 + [False] * 3


def test_somebody_alone_in_the_second_place_is_centred_and_turned_as_in_the_first():
    layout = LAYOUTS["nvidia"]
    one = torch.rand(2, 3, 4, 34, 1, generator=torch.Generator().manual_seed(6)) + 4
    first, second = (torch.cat(pair, dim=4) for pair in ((one, one * 0), (one * 0, one)))
    settings = PoseSpec(dataset={"normalize": "center_align"}).dataset
    view = View(settings, layout, seed=0, is_random=False)
    here, there = (prepare(x, view, np.arange(2), epoch=0) for x in (first, second))
    assert torch.equal(here[..., 0], there[..., 1])
    assert here[..., 0].mean().abs() < 1


@pytest.mark.parametrize("degrees", [-170, -35, 20, 120])
def test_aligned_and_scaled_skeletons_are_the_same_from_every_side(degrees):
    x = torch.rand(2, 3, 5, 3, 1, generator=torch.Generator().manual_seed(1)) + 1
    turn = transforms.about_y(torch.full((2,), math.radians(degrees)))
    seen = transforms.move(x, None, PLUS, origin=torch.zeros(2, 3), turn=turn) + 5
    settings = PoseSpec(dataset={"normalize": "center_align_minmax"}).dataset
    view = View(settings, PLUS, seed=0, is_random=False)
    here, there = (prepare(one, view, np.arange(2), epoch=0) for one in (x, seen))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    assert here.amax(dim=(2, 3, 4)).allclose(torch.ones(2, 3))


def test_an_axis_too_flat_for_its_inverse_becomes_zero():
    x = rows([[[(0.5, 1, 1e-40), (1, 1, 2e-40), (2, 1, 3e-40)]]])
    scaled = transforms.min_max(x, None, PLUS)[0, :, 0, :, 0]
    assert scaled[0].tolist() == pytest.approx([-1, -1 / 3, 1])
    assert not scaled[1:].any()
