"""Frames of clips: TAO's own vectors, its bugs not repeated, and what holds for all videos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.data.clip_sampling import Sampling, by_stream, eval_clips, needed_frames, train_clip

INTERVAL = Sampling("random_interval")
CONSECUTIVE = Sampling("consecutive")
ALMOST_ONE = 1 - 2**-53
U = st.floats(0, 1, exclude_max=True)
SAMPLINGS = st.builds(
    Sampling,
    st.sampled_from(["random_interval", "consecutive"]),
    st.integers(1, 5),
    st.sampled_from(["pad", "loop"]),
)
MODES = st.sampled_from(["center", "conv", "all"])


def draws_of(data, length):
    return np.array(data.draw(st.lists(U, min_size=length, max_size=length)))


# The vectors of contract 10.3 and 2.2


def test_the_middle_of_128_frames_are_32_from_48():
    assert eval_clips(128, 32, CONSECUTIVE).tolist() == [list(range(48, 80))]


def test_intervals_give_their_middle_frame():
    assert eval_clips(10, 3, INTERVAL).tolist() == [[1, 5, 8]]


def test_a_short_video_is_stretched_over_its_intervals():
    assert eval_clips(2, 4, INTERVAL).tolist() == [[0, 0, 1, 1]]


def test_conv_spreads_ten_clips():
    clips = eval_clips(128, 32, CONSECUTIVE, mode="conv", num_segments=10)
    assert clips[:, 0].tolist() == [4, 14, 24, 33, 43, 53, 63, 72, 82, 92]
    assert (np.diff(clips, axis=1) == 1).all()


@pytest.mark.parametrize("mode", ["conv", "all"])
def test_interval_models_see_interleaved_clips_and_no_number_of_segments(mode):
    clips = eval_clips(10, 3, INTERVAL, mode=mode, num_segments=7)
    assert clips.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_all_shows_every_frame_of_whole_windows_once():
    sampling = Sampling("consecutive", rate=2)
    clips = eval_clips(10, 2, sampling, mode="all")
    assert clips.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_the_middle_of_a_video_at_a_rate():
    # a = 128 - 32 * 2 + 1 = 65 starts, the middle one is 32
    clips = eval_clips(128, 32, Sampling("consecutive", rate=2))
    assert clips.tolist() == [list(range(32, 96, 2))]


def test_short_videos_end_as_asked():
    pad, loop = Sampling("consecutive", 2, "pad"), Sampling("consecutive", 2, "loop")
    for mode in ("center", "conv", "all"):
        assert eval_clips(5, 4, pad, mode=mode, num_segments=3).tolist() == [[0, 2, 4, 4]]
        assert eval_clips(5, 4, loop, mode=mode, num_segments=3).tolist() == [[0, 2, 4, 1]]
    assert train_clip(5, 4, pad, np.full(4, 0.9)).tolist() == [[0, 2, 4, 4]]
    assert train_clip(5, 4, loop, np.full(4, 0.9)).tolist() == [[0, 2, 4, 1]]
    # an interval model, shown all of a short video: one clip, min(i, n - 1)
    assert eval_clips(2, 4, INTERVAL, mode="all").tolist() == [[0, 1, 1, 1]]


def test_training_draws_with_repeats_from_a_video_shorter_than_the_clip():
    # floor(3 * u) = 2, 0, 1, 2, sorted
    draws = np.array([0.9, 0.1, 0.4, 0.7])
    assert train_clip(3, 4, INTERVAL, draws).tolist() == [[0, 1, 2, 2]]


def test_training_takes_a_frame_of_each_interval():
    # parts [0, 3) [3, 6) [6, 10): 0 + floor(.5 * 3), 3 + 0, 6 + floor(.99 * 4)
    assert train_clip(10, 3, INTERVAL, np.array([0.5, 0.0, 0.99])).tolist() == [[1, 3, 9]]


# TAO's bugs (contract 8.1), not repeated


@pytest.mark.parametrize("num_frames", [4, 5, 9])
def test_c5_a_training_clip_never_wraps_to_the_first_frame(num_frames):
    (clip,) = train_clip(num_frames, 4, CONSECUTIVE, np.full(4, ALMOST_ONE))
    assert clip.tolist() == list(range(num_frames - 4, num_frames))


def test_c6_the_last_frames_are_seen_in_training():
    # TAO: k = 11 // 4 = 2, frames 8, 9 and 10 never
    draws = np.random.default_rng(0).random((500, 4))
    seen = {int(i) for row in draws for i in train_clip(11, 4, INTERVAL, row)[0]}
    assert seen == set(range(11))


def test_c7_two_streams_keep_the_rate_and_lie_at_the_same_time():
    sampling = Sampling("consecutive", rate=3)
    clips = eval_clips(60, 8, sampling)
    assert clips.tolist() == [[18, 21, 24, 27, 30, 33, 36, 39]]
    streams = by_stream(clips, {"rgb": 4, "flow": 8}, sampling)
    assert streams["flow"].tolist() == clips.tolist()
    assert streams["rgb"].tolist() == [[24, 27, 30, 33]]
    equal = by_stream(clips, {"rgb": 8, "flow": 8}, sampling)
    assert equal["rgb"].tolist() == equal["flow"].tolist() == clips.tolist()


def test_c19_a_3d_model_sees_all_of_a_video_in_clips_of_its_own_length():
    sampling = Sampling("consecutive", rate=2)
    clips = eval_clips(10, 2, sampling, mode="all", has_tail=True)
    assert clips.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7], [6, 8], [7, 9]]
    whole = eval_clips(8, 2, sampling, mode="all", has_tail=True)
    assert whole.tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert eval_clips(3, 2, sampling, mode="all", has_tail=True).tolist() == [[0, 2]]


def test_c20_all_is_more_than_the_middle_for_3d_interval_models():
    clips = eval_clips(10, 3, INTERVAL, mode="all", has_tail=True)
    assert clips.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("mode", ["conv", "all"])
def test_c21_the_shorter_stream_of_consecutive_models_is_consecutive_in_every_mode(mode):
    clips = eval_clips(40, 10, CONSECUTIVE, mode=mode, num_segments=3)
    streams = by_stream(clips, {"rgb": 3, "flow": 10}, CONSECUTIVE)
    # TAO's test_consecutive over the longer clip: start (10 - 3 + 1) // 2
    assert streams["rgb"].tolist() == [row[4:7] for row in clips.tolist()]


def test_the_shorter_stream_of_interval_models_is_spread_over_the_longer():
    clips = eval_clips(100, 10, INTERVAL)
    assert clips.tolist() == [[5, 15, 25, 35, 45, 55, 65, 75, 85, 95]]
    # the middle of ten thirds: 1, 5, 8
    assert by_stream(clips, {"rgb": 3, "flow": 10}, INTERVAL)["rgb"].tolist() == [[15, 55, 85]]
    # parts of 3, 3 and 4: 0 + floor(.5 * 3), 3 + 0, 6 + floor(.99 * 4)
    draws = np.array([0.5, 0.0, 0.99])
    drawn = by_stream(clips, {"rgb": 3, "flow": 10}, INTERVAL, draws)
    assert drawn["rgb"].tolist() == [[15, 35, 95]]


def test_one_stream_is_the_clips_themselves():
    clips = eval_clips(100, 10, INTERVAL)
    assert list(by_stream(clips, {"flow": 10}, INTERVAL)) == ["flow"]


# What holds for all videos


@given(st.integers(1, 300), st.integers(1, 40), SAMPLINGS, st.data())
def test_training_clips_stay_inside_and_run_forward(num_frames, length, sampling, data):
    clips = train_clip(num_frames, length, sampling, draws_of(data, length))
    check(clips, num_frames, length, sampling)
    assert len(clips) == 1
    if num_frames >= needed_frames(length, sampling):
        assert len(set(clips[0].tolist())) == length
        if sampling.strategy == "consecutive":
            assert (np.diff(clips[0]) == sampling.rate).all()


@given(st.integers(1, 300), st.integers(1, 40), SAMPLINGS, MODES, st.integers(1, 12), st.booleans())
def test_clips_of_every_mode_stay_inside_and_come_in_order(
    num_frames, length, sampling, mode, num_segments, has_tail
):
    clips = eval_clips(
        num_frames, length, sampling, mode=mode, num_segments=num_segments, has_tail=has_tail
    )
    check(clips, num_frames, length, sampling)
    is_whole = num_frames >= length
    assert (np.diff(clips[:, 0]) >= (1 if mode == "all" and is_whole else 0)).all()
    if sampling.strategy == "consecutive" and num_frames >= length * sampling.rate:
        assert (np.diff(clips) == sampling.rate).all()
        if mode == "conv":
            assert len(clips) == num_segments
            left, right = clips[0, 0], num_frames - length * sampling.rate - clips[-1, 0]
            assert abs(left - right) <= 1  # as far from the start as from the end
        if mode == "all":
            seen = np.bincount(clips.reshape(-1), minlength=num_frames)
            whole = num_frames // (length * sampling.rate) * length * sampling.rate
            assert has_tail or (seen[:whole] == 1).all()
            assert has_tail or not seen[whole:].any()
            assert not has_tail or (seen >= 1).all()


def check(clips, num_frames, length, sampling):
    assert clips.dtype == np.int64
    assert clips.shape[1] == length
    assert clips.min() >= 0
    assert clips.max() < num_frames
    is_whole = num_frames >= length * sampling.rate
    if sampling.short_clip == "pad" or is_whole:
        assert (np.diff(clips) >= 0).all()


@given(st.integers(1, 40), st.integers(1, 8), SAMPLINGS)
def test_training_draws_from_the_whole_video(num_frames, length, sampling):
    draws = np.linspace(0, ALMOST_ONE, 50)
    clips = [train_clip(num_frames, length, sampling, np.full(length, u))[0] for u in draws]
    seen = set(np.concatenate(clips).tolist())
    num_starts = num_frames - needed_frames(length, sampling) + 1
    if sampling.strategy == "random_interval" or num_starts >= sampling.rate:
        assert seen == set(range(num_frames))
    elif num_starts > 0:
        assert {0, num_frames - 1} <= seen
        assert len({int(clip[0]) for clip in clips}) == num_starts


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_centres_are_those_of_the_float_arithmetic_up_to_its_rounding(num_frames, length, rate):
    share = num_frames / length
    floats = [int(share / 2 + share * i) for i in range(length)]
    ours = eval_clips(num_frames, length, INTERVAL)[0]
    exact = np.array([(2 * i + 1) * num_frames % (2 * length) != 0 for i in range(length)])
    assert (ours[exact] == np.array(floats)[exact]).all()
    assert (np.abs(ours - floats) <= 1).all()
    room = num_frames - length * rate + 1
    start = int(room / 2) if room > 0 else 0
    clip = eval_clips(num_frames, length, Sampling("consecutive", rate, "loop"))[0]
    assert clip.tolist() == [(start + i * rate) % num_frames for i in range(length)]


@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 30), SAMPLINGS, MODES, st.data())
def test_the_shorter_stream_holds_frames_of_the_longer_at_the_same_rate(
    num_frames, one, other, sampling, mode, data
):
    lengths = {"rgb": one, "flow": other}
    longest, shortest = max(one, other), min(one, other)
    clips = eval_clips(num_frames, longest, sampling, mode=mode, num_segments=4)
    draws = data.draw(st.sampled_from([None, draws_of(data, longest)]))
    streams = by_stream(clips, lengths, sampling, draws)
    assert list(streams) == ["rgb", "flow"]
    for stream, length in lengths.items():
        assert streams[stream].shape == (len(clips), length)
    short = streams["rgb" if one == shortest else "flow"]
    for row, full in zip(short.tolist(), clips.tolist(), strict=True):
        assert set(row) <= set(full)
        if sampling.strategy == "consecutive":
            before = (longest - shortest + 1) // 2
            assert row == full[before : before + shortest]


def test_every_start_of_a_training_clip_is_equally_likely():
    draws = np.random.default_rng(0).random(20_000)
    starts = [train_clip(14, 5, CONSECUTIVE, np.array([u]))[0, 0] for u in draws]
    counts = np.bincount(starts)
    assert len(counts) == 10
    assert counts.min() > 1800  # 2000 expected, standard deviation 42
    assert counts.max() < 2200
