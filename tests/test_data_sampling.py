"""Frame indices: hand-computed values, and what holds for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.data import sampling
from kineme.data.sampling import crop_or_pad, short_warning, take_frames, uniform_indices

U = st.floats(0, 1, exclude_max=True)


def test_uniform_without_draws_takes_the_middle_of_each_segment():
    # 10 frames in 5 segments of 2: the middle of [0, 2) is 1; 7 in 3: [0,2) [2,4) [4,7)
    assert uniform_indices(np.array([10]), 5).tolist() == [[1, 3, 5, 7, 9]]
    assert uniform_indices(np.array([7]), 3).tolist() == [[1, 3, 5]]
    assert uniform_indices(np.array([4]), 4).tolist() == [[0, 1, 2, 3]]


def test_uniform_draws_choose_within_each_segment():
    draws = np.array([[0.0, 0.99, 0.5], [0.99, 0.0, 0.34]])
    assert uniform_indices(np.array([9, 7]), 3, draws).tolist() == [[0, 5, 7], [1, 2, 5]]


def test_d23_short_samples_are_stretched_in_order():
    assert uniform_indices(np.array([2, 1]), 4).tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    # floor((i + u) * 3 / 4): 0.675, 0.75, 2.175, 2.25
    draws = np.array([[0.9, 0.0, 0.9, 0.0]])
    assert uniform_indices(np.array([3]), 4, draws).tolist() == [[0, 0, 2, 2]]


def test_a_sample_without_frames_gives_its_zero_frame():
    assert uniform_indices(np.array([0]), 3).tolist() == [[0, 0, 0]]


def test_clips_shift_evenly_and_one_clip_is_the_middle():
    # offsets 1/4 and 3/4 of segments of 4
    assert sampling.test_clips(np.array([8]), 2, 2).tolist() == [[[1, 5], [3, 7]]]
    lengths = np.arange(1, 60)
    one = sampling.test_clips(lengths, 16, 1)
    np.testing.assert_array_equal(one[:, 0], uniform_indices(lengths, 16))


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(1, 70), st.data())
def test_uniform_indices_stay_inside_run_forward_and_use_distinct_frames(lengths, frames, data):
    size = len(lengths) * frames
    draws = np.reshape(data.draw(st.lists(U, min_size=size, max_size=size)), (-1, frames))
    indices = uniform_indices(np.array(lengths), frames, draws)
    assert indices.shape == (len(lengths), frames)
    for row, length in zip(indices, lengths, strict=True):
        assert row[0] >= 0
        assert row[-1] < length
        assert (np.diff(row) >= (1 if length >= frames else 0)).all()


def test_frames_are_as_uneven_as_asked():
    draws = np.array([[0.0, 0.5, 0.5, 0.99]])
    anywhere = np.array([[0.9, 0.1, 0.95, 0.05]])  # in order 0.05, 0.1, 0.9, 0.95
    for warp, expected in ((0.0, [0, 3, 6, 9]), (1.0, [0, 1, 9, 9]), (0.5, [0, 2, 7, 9])):
        frames = sampling.warped_indices(np.array([10]), draws, anywhere, warp)
        assert frames.tolist() == [expected]


@given(st.integers(1, 400), st.integers(1, 70), U, st.data())
def test_warped_frames_stay_inside_and_run_forward(length, num_frames, warp, data):
    row = st.lists(U, min_size=num_frames, max_size=num_frames)
    draws, anywhere = (np.array([data.draw(row)]) for _ in range(2))
    frames = sampling.warped_indices(np.array([length]), draws, anywhere, warp)[0]
    assert frames.min() >= 0
    assert frames.max() < length
    assert (np.diff(frames) >= 0).all()


def test_a_random_part_has_the_length_and_the_place_that_are_drawn():
    lengths, share = np.array([10, 10, 10, 3, 1, 0]), (0.5, 0.7)
    draws = np.array([[0, 0], [0.5, 0.99], [0.99, 0.5], [0, 0.99], [0, 0.5], [0, 0.5]])
    starts, kept = sampling.random_parts(lengths, share, draws)
    assert kept.tolist() == [5, 6, 7, 2, 1, 1]
    assert starts.tolist() == [0, 4, 2, 1, 0, 0]


@given(st.integers(1, 400), st.floats(0.01, 1), st.floats(0.01, 1), U, U)
def test_random_parts_stay_inside(length, low, high, how_long, where):
    share = (min(low, high), max(low, high))
    starts, kept = sampling.random_parts(np.array([length]), share, np.array([[how_long, where]]))
    assert starts[0] >= 0
    assert kept[0] >= 1
    assert starts[0] + kept[0] <= length


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 12))
def test_clips_of_a_sample_stay_inside(length, frames, clips):
    indices = sampling.test_clips(np.array([length]), frames, clips)
    assert indices.shape == (1, clips, frames)
    assert indices.min() >= 0
    assert indices.max() < length
    assert (np.diff(indices, axis=1) >= 0).all()  # a later clip never starts earlier


def test_every_frame_is_drawn_equally_often():
    draws = np.random.default_rng(0).random((20_000, 4))
    counts = np.bincount(uniform_indices(np.full(20_000, 12), 4, draws).reshape(-1), minlength=12)
    assert counts.min() > 6300  # 6667 expected, standard deviation 67
    assert counts.max() < 7000


def test_contract_random_choose_leaves_a_window_of_the_same_length():
    assert crop_or_pad(3, 3, draws=np.array([0.1, 0.9])).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_contract_random_choose_pads_a_shorter_array_at_a_random_offset():
    draws = np.array([0.0, 0.5, 0.99])  # offsets 0, 1, 2 of 0..2
    expected = [[0, 1, -1, -1], [-1, 0, 1, -1], [-1, -1, 0, 1]]
    assert crop_or_pad(2, 4, draws=draws).tolist() == expected


def test_contract_random_choose_crops_a_longer_array_anywhere():
    draws = np.array([0.0, 0.5, 0.99])  # starts 0, 1, 2 of 0..2
    assert crop_or_pad(5, 3, draws=draws).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_contract_without_random_choose_pads_at_the_end_and_never_crops():
    assert crop_or_pad(2, 4).tolist() == [[0, 1, -1, -1]]
    assert crop_or_pad(5, 3).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("draws", [None, np.array([0.3, 0.8])])
def test_no_window_keeps_all_frames(draws):
    assert (crop_or_pad(4, -1, draws=draws) == np.arange(4)).all()


@given(st.integers(1, 50), st.integers(1, 50), st.lists(U, min_size=1, max_size=9))
def test_random_windows_are_contiguous_and_hold_all_that_fits(num_frames, window, draws):
    for row in crop_or_pad(num_frames, window, draws=np.array(draws)):
        kept = row[row >= 0]
        assert len(row) == window
        assert len(kept) == min(num_frames, window)
        assert (np.diff(kept) == 1).all()
        assert kept[-1] < num_frames


def test_take_frames_is_fancy_indexing_with_zeros_for_minus_one():
    data = np.random.default_rng(0).random((4, 3, 6, 5, 2), np.float32)
    frames = np.array([[5, -1, 0], [2, 2, 3]])
    taken = take_frames(data, frames, np.array([3, 1]))
    assert taken.shape == (2, 3, 3, 5, 2)
    np.testing.assert_array_equal(taken[0, :, 0], data[3, :, 5])
    np.testing.assert_array_equal(taken[0, :, 1], 0)
    np.testing.assert_array_equal(taken[1], data[1][:, [2, 2, 3]])
    np.testing.assert_array_equal(take_frames(data, frames[:1]), take_frames(data, frames[[0] * 4]))


def test_take_frames_refuses_a_frame_past_the_end():
    with pytest.raises(IndexError, match="frame 6 of 6"):
        take_frames(np.zeros((1, 3, 6, 5, 2), np.float32), np.array([[6]]))


def test_d23_short_samples_are_reported_once_with_their_count():
    assert short_warning("a.npy", np.array([64, 70]), 64) is None
    assert short_warning("a.npy", np.array([64, 1, 30]), 64) == (
        "a.npy: 2 of 3 samples have fewer than 64 frames (the shortest 1); "
        "they are stretched to 64."
    )
