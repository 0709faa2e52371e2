"""Normalisation a frame at a time, held against that of windows."""

import numpy as np
import pytest
import torch

from kineme.pose_classification import transforms
from kineme.pose_classification.dataset import View, prepare
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.spec import PoseSpec
from kineme.pose_classification.steps.values import SteppedValues

LAYOUT, WINDOW = LAYOUTS["coco"], 5


def walker(num_frames: int) -> torch.Tensor:
    """(1, 3, T, 17, 1): x, y and confidence of somebody who crosses the picture; some joints
    are missing, and in frame 7 all."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, num_frames, 17, 1, generator=generator) + 0.1
    x[:, 0] += torch.arange(num_frames)[:, None, None] * 0.3
    hidden = torch.rand(1, 1, num_frames, 17, 1, generator=generator) < 0.2
    hidden[:, :, 7:8] = True
    return x.masked_fill(hidden, 0)


def stepped(normalize: str, x: torch.Tensor) -> list[torch.Tensor]:
    """What each frame made ready, joined; None where nothing."""
    values = SteppedValues(normalize, LAYOUT, WINDOW)
    return [torch.stack(one, dim=2) if one else None for one in map(values.update, x.unbind(2))]


def test_without_normalisation_frames_pass_as_they_are():
    x = walker(9)
    assert torch.equal(torch.cat(stepped("none", x), dim=2), x)


def test_min_max_holds_the_first_window_and_scales_the_rest_by_the_window_that_ends_there():
    x = walker(13)
    first, *rest = stepped("center_minmax", x)[WINDOW - 1 :]
    assert stepped("center_minmax", x)[: WINDOW - 1] == [None] * (WINDOW - 1)
    windows = [x[:, :, end - WINDOW : end] for end in range(WINDOW, 14)]
    scaled = [transforms.min_max(one, transforms.present_joints(one), LAYOUT) for one in windows]
    torch.testing.assert_close(first, scaled[0], rtol=0, atol=1e-6)
    for received, expected in zip(rest, scaled[1:], strict=True):
        torch.testing.assert_close(received[:, :, 0], expected[:, :, -1], rtol=0, atol=1e-6)
    assert rest[2].abs().max() == 0  # frame 7 stays missing


@pytest.mark.parametrize("num_frames", [1, 3])
def test_who_is_gone_before_a_window_is_full_is_scaled_by_what_there_was(num_frames):
    x = walker(num_frames)
    values = SteppedValues("center_minmax", LAYOUT, WINDOW)
    assert all(values.update(frame) == [] for frame in x.unbind(2))
    expected = transforms.min_max(x, transforms.present_joints(x), LAYOUT)
    torch.testing.assert_close(torch.stack(values.rest(), 2), expected, rtol=0, atol=1e-6)
    assert values.rest() == []


def test_the_origin_is_the_mean_place_of_the_centre_over_the_window_that_ends_there():
    x, centre = walker(13), LAYOUT.centre_index
    x[:, :, :, centre] = torch.tensor([1.0, 2.0, 0.9])[:, None, None]
    x[:, 0, :, centre, 0] += torch.arange(13)
    x[:, :, 9, centre] = 0  # the mean of the other joints stands in
    other = x[0, :2, 9, :, 0][:, (x[0, :, 9, :, 0] != 0).any(dim=0)].mean(dim=1)
    received = torch.cat(stepped("center", x), dim=2)
    for frame, places in ((0, [1.0]), (3, [1, 2, 3, 4]), (8, [5, 6, 7, 8, 9])):
        moved = x[:, :2, frame] - torch.tensor([sum(places) / len(places), 2.0])[:, None, None]
        expected = moved.masked_fill((x[:, :, frame] == 0).all(dim=1, keepdim=True), 0)
        torch.testing.assert_close(received[:, :2, frame], expected, rtol=0, atol=1e-5)
    mean = (torch.tensor([7.0 + 8 + 9 + 11, 8.0]) + other) / 5
    moved = x[0, :2, 10, 0, 0] - mean
    torch.testing.assert_close(received[0, :2, 10, 0, 0], moved, rtol=0, atol=1e-5)
    assert torch.equal(received[:, 2], x[:, 2])  # a confidence does not move


def test_who_stays_in_place_is_centred_and_turned_as_a_window_is():
    layout = LAYOUTS["nvidia"]
    x = torch.rand(1, 3, 1, 34, 1, generator=torch.Generator().manual_seed(2)) + 0.1
    x = x.repeat(1, 1, 8, 1, 1)
    for normalize in ("center", "center_align"):
        turn = transforms.facing_turns(x, None, layout) if normalize == "center_align" else None
        origin = transforms.origins(x, None, layout)
        expected = transforms.move(x, None, layout, origin=origin, turn=turn)
        values = SteppedValues(normalize, layout, WINDOW)
        received = torch.stack([values.update(one)[0] for one in x.unbind(2)], dim=2)
        torch.testing.assert_close(received, expected, rtol=0, atol=1e-6)


def test_turned_and_scaled_frames_are_those_of_the_window_that_ends_there():
    layout = LAYOUTS["nvidia"]
    x = torch.rand(1, 3, 9, 34, 1, generator=torch.Generator().manual_seed(3)) + 0.1
    x[:, :, 2:4, layout.joints.index("left_shoulder")] = 0
    values = SteppedValues("center_align_minmax", layout, WINDOW)
    taken = [values.update(frame) for frame in x.unbind(2)]
    assert taken[: WINDOW - 1] == [[]] * (WINDOW - 1)
    settings = PoseSpec(dataset={"normalize": "center_align_minmax"}).dataset
    view = View(settings, layout, seed=0, is_random=False)
    for end in range(WINDOW, 10):
        window = prepare(x[:, :, end - WINDOW : end], view, np.array([0]), epoch=0)
        expected = window if end == WINDOW else window[:, :, -1:]
        received = torch.stack(taken[end - 1], dim=2)
        torch.testing.assert_close(received, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "center_minmax"])
def test_gaps_are_filled_with_the_last_place_that_the_window_knows(normalize):
    x = walker(13)
    x[:, :, :4, 3] = 0  # comes late
    x[:, :, 2:9, 5] = 0  # is gone for longer than a window
    values = SteppedValues(normalize, LAYOUT, WINDOW, fill_gaps=True)
    taken = [values.update(frame) for frame in x.unbind(2)]
    view = View(
        PoseSpec(dataset={"normalize": normalize, "fill_gaps": True}).dataset,
        LAYOUT,
        seed=0,
        is_random=False,
    )
    for end in range(WINDOW, 14):
        window = prepare(x[:, :, end - WINDOW : end], view, np.array([0]), epoch=0)
        torch.testing.assert_close(taken[end - 1][-1], window[:, :, -1], rtol=0, atol=1e-6)
    assert taken[7][-1][:, :, 5].abs().max() == 0
    if normalize == "none":
        assert torch.equal(taken[4][0][:, :2, 5], x[:, :2, 1, 5])
        assert values.rest() == []
