"""The frame rate and the grid over time, from time stamps alone (V19, V17)."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kineme.data.video.frame_times import frame_grid, usual_rate
from kineme.errors import DataError

TICK = 0.001


def said(*rates):
    """A stream whose container says these rates, the likeliest first."""
    average, guessed, base = (*rates, None, None, None)[:3]
    return SimpleNamespace(average_rate=average, guessed_rate=guessed, base_rate=base)


@pytest.mark.parametrize(
    ("seconds", "rates", "expected"),
    [
        ([0, 0.04, 0.08, 0.12], (), 25.0),
        ([0, 0.033, 0.067, 0.1], (30000 / 1001,), 30000 / 1001),  # rounded to milliseconds
        ([0, 0.033, 0.067, 0.1], (12.0,), 30.0),  # a container that is wrong
        ([0, 0.04, 0.08, 0.5, 0.54], (9.26,), 25.0),  # a pause
        ([0, 0.96, 1.08], (), 1 / 0.12),  # two gaps, neither the usual one
        ([0], (12.5,), 12.5),
        ([0], (), 25.0),
    ],
)
def test_the_rate_is_the_usual_spacing_or_the_containers_where_it_agrees(seconds, rates, expected):
    assert usual_rate(said(*rates), np.array(seconds, float), TICK) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seconds", "rate", "last", "slots", "duration", "is_variable"),
    [
        ([0, 0.1, 0.2], 10, 0.1, [0, 1, 2], 0.3, False),
        ([0, 0.13, 0.2], 10, 0.1, [0, 1, 2], 0.3, False),  # less than half a frame off
        ([0, 0.1, 0.4], 10, 0.1, [0, 1, 1, 1, 2], 0.5, True),
        ([0, 0.1, 0.4], 10, 0.2, [0, 1, 1, 1, 2, 2], 0.6, True),
        ([0, 0.1, 0.4], 10, 0, [0, 1, 1, 1, 2], 0.5, True),
        ([0, 0.12, 0.42], 10, 0.1, [0, 1, 1, 1, 2], 0.52, True),  # a bit late counts as in time
        ([0, 0.1, 9000], 10, 0.1, [0, 1, 2], 0.3, False),  # no pause is that long
    ],
)
def test_frames_of_an_uneven_video_are_those_shown_at_even_times(
    seconds, rate, last, slots, duration, is_variable
):
    found, length, is_uneven = frame_grid("x", np.array(seconds, float), rate, last)
    assert (found.tolist(), is_uneven) == (slots, is_variable)
    assert length == pytest.approx(duration)


@given(gaps=st.lists(st.integers(1, 2_000), min_size=1, max_size=20))
@example(gaps=[1, 12, 1])  # 1 / 0.001 s, which is a bit more than the limit of 1,000
def test_any_time_stamps_give_frames_that_run_forward_and_end_in_time(gaps):
    seconds = np.concatenate([[0], np.cumsum(gaps)]) * TICK
    rate = usual_rate(said(), seconds, TICK)
    slots, duration, _ = frame_grid("x", seconds, rate, 0)
    assert slots.min() >= 0
    assert seconds[slots[0]] <= 0.25 / rate + 1e-9  # as if it had been shown from the start
    assert (np.diff(slots) >= 0).all()
    assert slots.max() < len(seconds)
    assert len(slots) == max(round(duration * rate), 1)


@pytest.mark.parametrize(
    ("seconds", "rate", "words"),
    [
        ([0, 1e-6], 1e6, "at most 1,000 frames a second, got 1,000,000"),
        ([0, 599], 1 / 1e6, "at most 604,800 seconds, got 1,000,599"),
    ],
)
def test_v17_a_rate_or_length_beyond_the_limits_is_refused(seconds, rate, words):
    with pytest.raises(DataError, match=words):
        frame_grid("x.mp4", np.array(seconds, float), rate, 0)
