"""Frames as models see them: values worked out by hand, slow versions, and invariants."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kineme.action_recognition import transforms
from kineme.action_recognition.transforms import CropPlan, apply_plan, crop_plan

ALMOST_ONE = 1 - 2**-53
U = st.floats(0, 1, exclude_max=True)


@dataclass(frozen=True)
class Options:
    """The part of `dataset.augmentation_config` that plans read."""

    train_crop_type: str = "random_crop"
    scales: list = field(default_factory=lambda: [1.0])
    val_center_crop: bool = False
    crop_smaller_edge: int = 256


def draws(*values):
    return np.array(values)


# Plans


def test_random_crop_takes_any_window_of_the_frame_at_its_shorter_edge():
    # 240 x 320 at 256: width floor(256 * 320 / 240) = 341; room 32 + 1 and 117 + 1
    plan = crop_plan((240, 320), (224, 224), Options(), draws(0.5, 0.0))
    assert plan == CropPlan((256, 341), 16, 0, (224, 224))
    plan = crop_plan((240, 320), (224, 224), Options(), draws(ALMOST_ONE, ALMOST_ONE))
    assert plan == CropPlan((256, 341), 32, 117, (224, 224))
    plan = crop_plan((320, 240), (224, 200), Options(), draws(0.0, 0.5))
    assert plan == CropPlan((341, 256), 0, 28, (224, 200))


@pytest.mark.parametrize("options", [Options("no_crop"), Options("random_crop")])
def test_the_whole_frame_loses_its_proportions(options):
    at = draws(0.3, 0.7) if options.train_crop_type == "no_crop" else None
    assert crop_plan((240, 320), (112, 96), options, at) == CropPlan((112, 96), 0, 0, (112, 96))


def test_outside_training_the_middle_may_be_cropped():
    options = Options("no_crop", val_center_crop=True)
    plan = crop_plan((240, 320), (224, 224), options)
    assert plan == CropPlan((256, 341), 16, 58, (224, 224))  # round(58.5) is even, as in TAO


def test_multi_scale_crop_scales_once_what_tao_scales_twice():
    options = Options("multi_scale_crop", [1.0, 0.875, 0.66])
    # 256 x 341; 0.66: side 168, steps (256 - 168) // 4 = 22 and (341 - 168) // 4 = 43;
    # the middle is (44, 86); times 224 / 168 = 4 / 3: 341.3 x 454.7, (58.7, 114.7)
    plan = crop_plan((240, 320), (224, 224), options, draws(0.7, 4.5 / 13))
    assert plan == CropPlan((341, 455), 59, 115, (224, 224))
    # 0.875: side 224 as it is; steps 8 and 29; place 11 is (1, 3) quarters: left 29, top 24
    plan = crop_plan((240, 320), (224, 224), options, draws(0.4, 11.5 / 13))
    assert plan == CropPlan((256, 341), 24, 29, (224, 224))


def test_multi_scale_crop_snaps_to_the_size_of_the_model():
    options = Options("multi_scale_crop", crop_smaller_edge=226)
    plan = crop_plan((226, 226), (224, 224), options, draws(0.0, 3.5 / 13))
    assert plan == CropPlan((226, 226), 0, 0, (224, 224))  # steps (226 - 224) // 4 = 0
    options = Options("multi_scale_crop", crop_smaller_edge=227)
    plan = crop_plan((227, 227), (224, 224), options, draws(0.0, 3.5 / 13))
    assert plan == CropPlan((224, 224), 0, 0, (224, 224))  # 227 is no snap: the whole frame


def test_multi_scale_crop_has_thirteen_places():
    options = Options("multi_scale_crop", [0.5], crop_smaller_edge=100)
    plans = [
        crop_plan((100, 200), (50, 50), options, draws(0.0, (k + 0.5) / 13)) for k in range(13)
    ]
    # room 50 and 150, steps 12 and 37
    assert [(plan.left, plan.top) for plan in plans] == [
        (0, 0), (148, 0), (0, 48), (148, 48), (74, 24), (0, 24), (148, 24), (74, 48), (74, 0),
        (37, 12), (111, 12), (37, 36), (111, 36),
    ]  # fmt: skip
    assert {plan.decode_size for plan in plans} == {(100, 200)}


@given(
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.builds(
        Options,
        st.sampled_from(["random_crop", "multi_scale_crop", "no_crop"]),
        st.lists(st.floats(0.1, 1), min_size=1, max_size=4),
        st.booleans(),
        st.integers(1, 300),
    ),
    st.none() | st.tuples(U, U),
)
def test_every_crop_lies_in_its_frame(frame_size, size, options, at):
    plan = crop_plan(frame_size, size, options, None if at is None else draws(*at))
    assert plan.size == size
    assert 0 <= plan.top <= plan.decode_size[0] - size[0]
    assert 0 <= plan.left <= plan.decode_size[1] - size[1]


def ramp(height, width, num_frames=1):
    """Frames whose first channel tells the place down, whose second the place across, 0 to 250."""
    down, across = np.mgrid[0:height, 0:width]
    places = [(down + 0.5) / height * 250, (across + 0.5) / width * 250]
    frame = np.stack([*places, np.full((height, width), 7.0)], axis=2).round().astype(np.uint8)
    return np.repeat(frame[None], num_frames, axis=0)


@given(st.sampled_from([1.0, 0.875, 0.75, 0.66]), st.integers(0, 12))
def test_one_scaling_shows_the_same_picture_as_two(scale, place):
    options = Options("multi_scale_crop", [scale], crop_smaller_edge=64)
    plan = crop_plan((120, 160), (56, 56), options, draws(0.0, (place + 0.5) / 13))
    (once,) = apply_plan(ramp(120, 160), plan)
    smaller = cv2.resize(ramp(120, 160)[0], (85, 64), interpolation=cv2.INTER_AREA)
    side = int(64 * scale)
    side = 56 if abs(side - 56) < 3 else side
    left, top = ((room // 4) * q for room, q in
                 zip((85 - side, 64 - side), transforms.PLACES[place], strict=True))  # fmt: skip
    twice = cv2.resize(smaller[top : top + side, left : left + side], (56, 56))
    # half a pixel of 64 is 2 of 250
    inner = (slice(1, -1), slice(1, -1))  # the second scaling repeats the border of the crop
    assert np.abs(once[inner].astype(int) - twice[inner]).max() <= 4


def test_one_plan_shows_the_same_part_of_both_streams_whatever_their_size():
    options = Options("multi_scale_crop", [0.66], crop_smaller_edge=64)
    plan = crop_plan((240, 320), (56, 56), options, draws(0.0, 12.5 / 13))
    (rgb,) = apply_plan(ramp(240, 320), plan)
    (flow,) = apply_plan(ramp(64, 85)[..., :2], plan)
    assert flow.shape == (56, 56, 2)
    assert np.abs(rgb[..., :2].astype(int) - flow).max() <= 4


def test_frames_that_were_decoded_at_the_planned_size_are_only_cut():
    plan = CropPlan((64, 85), 3, 5, (56, 48))
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 85, 3), np.uint8)
    cut = apply_plan(frames, plan)
    assert cut.flags.c_contiguous
    np.testing.assert_array_equal(cut, frames[:, 3:59, 5:53])


def test_shrinking_averages_the_area_and_growing_is_bilinear():
    # a chequered board becomes grey, where plain bilinear scaling would pick squares
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 200).astype(np.uint8)[None, :, :, None]
    shrunk = apply_plan(np.repeat(board, 2, axis=3), CropPlan((2, 2), 0, 0, (2, 2)))
    assert (shrunk == 100).all()
    row = np.array([0, 100], np.uint8)[None, None, :, None].repeat(2, axis=3)
    grown = apply_plan(row, CropPlan((1, 4), 0, 0, (1, 4)))
    assert grown[0, 0, :, 0].tolist() == [0, 25, 75, 100]
    # one side shrinks by 2 while the other grows by 2
    both = apply_plan(np.array([[0], [100]], np.uint8)[None, :, :, None].repeat(2, axis=3),
                      CropPlan((1, 2), 0, 0, (1, 2)))  # fmt: skip
    assert both[0, 0, :, 0].tolist() == [50, 50]


def test_shrinking_is_near_to_that_of_tao():
    noise = np.random.default_rng(0).random((30, 40, 3)) * 255
    frame = cv2.GaussianBlur(
        cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC), (0, 0), 2
    )
    frame = frame.clip(0, 255).astype(np.uint8)
    (ours,) = apply_plan(frame[None], CropPlan((112, 149), 0, 0, (112, 149)))
    theirs = np.asarray(Image.fromarray(frame).resize((149, 112), Image.Resampling.BILINEAR))
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.mean() < 1
    assert np.percentile(difference, 99) <= 4


# Where the batch lies


def clips(values):
    """(R, T, H, W, C) uint8."""
    return torch.tensor(values, dtype=torch.uint8)


def test_flip_mirrors_the_chosen_clips():
    x = clips([[[[[1, 2, 3], [4, 5, 6]]]], [[[[1, 2, 3], [4, 5, 6]]]]])
    flipped = transforms.flip(x, torch.tensor([True, False]), "rgb")
    assert flipped.tolist() == [[[[[4, 5, 6], [1, 2, 3]]]], [[[[1, 2, 3], [4, 5, 6]]]]]
    assert x[0, 0, 0, 0].tolist() == [1, 2, 3]


def test_c4_flip_turns_the_motion_of_flow_round():
    # to the right by 72, down by 28: to the left by 73 about 127.5, down as before
    x = clips([[[[[200, 156], [128, 128]]]]])
    flipped = transforms.flip(x, torch.tensor([True]), "flow")
    assert flipped.tolist() == [[[[[127, 128], [55, 156]]]]]
    assert transforms.flip(flipped, torch.tensor([True]), "flow").tolist() == x.tolist()


def test_as_unit_divides_by_255():
    unit = transforms.as_unit(clips([[[[[0, 51, 255]]]]]))
    torch.testing.assert_close(unit, torch.tensor([[[[[0.0, 0.2, 1.0]]]]]))


def slow_jitter(clip, brightness, contrast, saturation):
    """One clip (T, H, W, 3), step by step."""
    gray = np.array(transforms.GRAY)
    clip = clip * brightness
    mean = (clip @ gray).mean()
    clip = mean + (clip - mean) * contrast
    own = (clip @ gray)[..., None]
    return np.clip(own + (clip - own) * saturation, 0, 1)


def test_color_jitter_is_brightness_then_contrast_then_saturation_of_whole_clips():
    x = torch.rand(3, 2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([[0.0, 0.5, 0.5], [0.9, 0.2, 0.99], [0.1, 0.8, 0.3]])
    changed = transforms.color_jitter(x, at, 0.4)
    for row in range(3):
        factors = (1 + (2 * at[row].double().numpy() - 1) * 0.4).tolist()
        expected = slow_jitter(x[row].double().numpy(), *factors)
        np.testing.assert_allclose(changed[row].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(changed[0], x[0] * 0.6)
    torch.testing.assert_close(transforms.color_jitter(x, torch.full((3, 3), 0.5), 0.4), x)


def test_normalise_repeats_short_lists_and_skips_empty_ones():
    x = torch.tensor([[[[[0.5, 0.75, 1.0]]]]])
    half = transforms.normalise(x, [0.5], [0.25])
    assert half.tolist() == [[[[[0, 1, 2]]]]]
    own = transforms.normalise(x, [0.5, 0.25, 0.0], [1.0, 0.5, 2.0])
    assert own.tolist() == [[[[[0, 1, 0.5]]]]]
    assert transforms.normalise(x, [], []) is x
    flow = transforms.normalise(x[..., :2], [0.5], [0.5])
    assert flow.tolist() == [[[[[0, 0.5]]]]]


def test_pack_puts_channels_before_time_as_tao_does():
    x = torch.arange(2 * 2 * 1 * 2 * 3).view(2, 2, 1, 2, 3)  # R, T, H, W, C
    packed = transforms.pack(x, is_stacked=False)
    assert packed.shape == (2, 3, 2, 1, 2)
    assert packed[0, :, :, 0, 0].tolist() == [[0, 6], [1, 7], [2, 8]]
    stacked = transforms.pack(x, is_stacked=True)
    assert stacked.shape == (2, 6, 1, 2)
    assert stacked[0, :, 0, 0].tolist() == [0, 6, 1, 7, 2, 8]  # R_0 R_1 G_0 G_1 B_0 B_1


def test_pack_copies_nothing_and_keeps_channels_last():
    x = torch.rand(2, 4, 5, 6, 3)
    packed = transforms.pack(x, is_stacked=False)
    assert packed.data_ptr() == x.data_ptr()
    assert packed.is_contiguous(memory_format=torch.channels_last_3d)


def test_mixup_blends_each_row_with_its_partner():
    x = torch.tensor([[0.0, 8.0], [4.0, 0.0], [8.0, 8.0]])
    mixed = transforms.mixup(x, torch.tensor([1, 2, 2]), 0.25)
    assert mixed.tolist() == [[1, 6], [5, 2], [8, 8]]
