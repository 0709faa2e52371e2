"""Gaps closed and jitter taken out: by hand, against a slow obvious filter, and measured."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme.data.tracks import Track
from kineme.people.tracking.smoothing import (
    OneEuroFilter,
    SmoothingSettings,
    fill_gaps,
    smooth_track,
    smooth_tracks,
)
from tracks_made import NAN, made_track, made_tracks

SETTINGS = SmoothingSettings()


def one_joint(values: list[float], frames: list[int] | None = None, **facts: object) -> Track:
    """A joint that moves in x only; nan where it is not seen."""
    frames = frames or list(range(len(values)))
    joints = np.array([[[value, 2 * value]] for value in values], np.float32)
    return made_track(1, frames, joints, **facts)  # type: ignore[arg-type]


def xs(track: Track) -> list[float]:
    return [None if math.isnan(x) else x for x in track.joints[:, 0, 0].tolist()]  # type: ignore[misc]


# Gaps. Frames are a tenth of a second apart.


def test_short_gaps_become_straight_lines() -> None:
    track = fill_gaps(one_joint([1, NAN, NAN, 4, NAN, 8]), 0.3)
    assert xs(track) == [1, 2, 3, 4, 6, 8]
    assert track.joints[:, 0, 1].tolist() == [2, 4, 6, 8, 12, 16]


def test_longer_gaps_and_what_lies_outside_stay_missing() -> None:
    track = fill_gaps(one_joint([NAN, 1, NAN, NAN, NAN, 5, NAN, 7, NAN]), 0.3)
    assert xs(track) == [None, 1, None, None, None, 5, 6, 7, None]
    assert track.confidence[:, 0].tolist() == [0, 0.5, 0, 0, 0, 0.5, 0.5, 0.5, 0]


def test_frames_without_a_row_are_filled_too_and_only_in_short_gaps() -> None:
    track = fill_gaps(one_joint([0, 3, 10], frames=[4, 7, 20]), 0.3)
    assert track.frames.tolist() == [4, 5, 6, 7, 20]
    np.testing.assert_allclose(track.seconds, [0.4, 0.5, 0.6, 0.7, 2.0])
    assert xs(track) == [0, 1, 2, 3, 10]
    np.testing.assert_array_equal(track.boxes, [[0, 0, 60, 80]] * 5)


def test_lines_follow_time_and_not_the_number_of_frames() -> None:
    track = one_joint([0, NAN, 10], seconds=[0.0, 0.02, 0.1])
    assert xs(fill_gaps(track, 0.3)) == [0, 2, 10]


def test_what_is_filled_is_as_sure_as_the_less_sure_end() -> None:
    track = one_joint([0, NAN, 2])
    track.confidence[:, 0] = [0.9, 0, 0.4]
    track.scores[:] = [0.8, 0.9, 0.6]
    filled = fill_gaps(track, 0.5)
    np.testing.assert_allclose(filled.confidence[:, 0], [0.9, 0.4, 0.4])
    track = one_joint([0, 2], frames=[0, 2])
    track.scores[:] = [0.8, 0.6]
    np.testing.assert_allclose(fill_gaps(track, 0.5).scores, [0.8, 0.6, 0.6])


def test_nothing_is_filled_where_gaps_are_not_to_be() -> None:
    track = one_joint([1, NAN, 3])
    assert fill_gaps(track, 0) is track


@given(
    seen=st.lists(st.booleans(), min_size=1, max_size=25),
    steps=st.lists(st.integers(1, 3), min_size=25, max_size=25),
    max_gap=st.integers(1, 6),
)
@settings(max_examples=80, deadline=None)
def test_gaps_are_filled_as_a_slow_obvious_loop_fills_them(
    seen: list[bool], steps: list[int], max_gap: int
) -> None:
    frames = np.cumsum(steps[: len(seen)]).tolist()
    values = [float(f * f) if is_seen else NAN for f, is_seen in zip(frames, seen, strict=True)]
    filled = fill_gaps(one_joint(values, frames=frames), max_gap / 10)
    known = {f: float(f * f) for f, is_seen in zip(frames, seen, strict=True) if is_seen}
    for frame, x in zip(filled.frames.tolist(), xs(filled), strict=True):
        before = max((f for f in known if f <= frame), default=None)
        after = min((f for f in known if f >= frame), default=None)
        if frame in known:
            assert x == known[frame]
        elif before is None or after is None or after - before > max_gap:
            assert x is None
        else:
            share = (frame - before) / (after - before)
            assert x == pytest.approx(known[before] + share * (known[after] - known[before]))


# The filter


def slow_one_euro(
    seconds: list[float], values: np.ndarray, size: float, settings: SmoothingSettings
) -> np.ndarray:
    """One joint (T, D), never missing, as the paper writes the filter."""
    out, speed = [values[0].astype(float)], np.zeros(values.shape[1])
    for row in range(1, len(values)):
        step = seconds[row] - seconds[row - 1]
        raw = (values[row].astype(float) - values[row - 1]) / step
        alpha = 1 / (1 + 1 / (2 * math.pi * settings.speed_cutoff) / step)
        speed = alpha * raw + (1 - alpha) * speed
        cutoff = settings.min_cutoff + settings.responsiveness * np.hypot(*speed[:2]) / size
        alpha = 1 / (1 + 1 / (2 * math.pi * cutoff) / step)
        out.append(alpha * values[row] + (1 - alpha) * out[-1])
    return np.array(out)


def test_the_filter_is_the_one_euro_filter_at_uneven_times() -> None:
    rng = np.random.default_rng(0)
    seconds = np.cumsum(rng.uniform(0.01, 0.2, 40)).tolist()
    joints = np.cumsum(rng.normal(0, 3, (40, 5, 3)), axis=0).astype(np.float32)
    track = made_track(1, list(range(40)), joints, seconds=seconds)
    smoothed = smooth_track(track, SETTINGS).joints
    for joint in range(5):
        expected = slow_one_euro(seconds, joints[:, joint], 100.0, SETTINGS)  # box of 60 x 80
        np.testing.assert_allclose(smoothed[:, joint], expected, rtol=1e-5, atol=1e-5)


def test_live_is_offline() -> None:
    rng = np.random.default_rng(1)
    joints = rng.normal(0, 5, (30, 4, 2)).astype(np.float32)
    joints[rng.random((30, 4)) < 0.3] = NAN
    track = made_track(1, list(range(30)), joints)
    offline = smooth_tracks(made_tracks(track, num_frames=50), SETTINGS).tracks[0]
    smoother = OneEuroFilter(SETTINGS)
    for row in range(30):
        live = smoother.update(float(track.seconds[row]), track.joints[row], track.boxes[row])
        seen = np.isfinite(joints[row]).all(axis=-1)
        assert np.isnan(live[~seen]).all()
        np.testing.assert_array_equal(live[seen], offline.joints[row][seen])


def test_what_is_missing_stays_missing_and_the_rest_is_as_if_alone() -> None:
    rng = np.random.default_rng(2)
    joints = rng.normal(0, 5, (30, 2, 2)).astype(np.float32)
    alone = smooth_track(made_track(1, list(range(30)), joints[:, :1]), SETTINGS).joints
    joints[5:20, 1] = NAN
    both = smooth_track(made_track(1, list(range(30)), joints), SETTINGS).joints
    np.testing.assert_array_equal(both[:, :1], alone)
    assert np.isnan(both[5:20, 1]).all()
    assert np.isfinite(both[20:, 1]).all()


def test_a_joint_that_was_missing_for_long_starts_anew() -> None:
    values = [0.0] * 5 + [NAN] * 6 + [50.0] * 2
    assert smooth_track(one_joint(values), SETTINGS).joints[11, 0, 0] == 50  # after 0.7 s
    values = [0.0] * 5 + [NAN] * 3 + [50.0] * 2
    assert 0 < smooth_track(one_joint(values), SETTINGS).joints[8, 0, 0] < 50  # after 0.4 s


def test_nothing_depends_on_the_size_of_people_in_the_picture() -> None:
    rng = np.random.default_rng(3)
    joints = np.cumsum(rng.normal(0, 4, (40, 3, 2)), axis=0).astype(np.float32)
    small = made_track(1, list(range(40)), joints)
    large = made_track(1, list(range(40)), joints * 8)
    large.boxes[:] *= 8
    first, second = (smooth_track(track, SETTINGS).joints for track in (small, large))
    np.testing.assert_allclose(first * 8, second, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fps", [10, 25, 60])
@pytest.mark.parametrize("sizes_a_second", [0.3, 1.0, 3.0])
def test_steady_motion_trails_by_less_than_a_fiftieth_of_a_second_and_the_body(
    fps: int, sizes_a_second: float
) -> None:
    # In the long run a low pass of f hertz trails by 1 / (2 pi f) seconds.
    seconds = np.arange(3 * fps) / fps
    speed = sizes_a_second * 100  # the box of 60 x 80 is 100 pixels from corner to corner
    track = one_joint((speed / math.sqrt(5) * seconds).tolist(), seconds=seconds.tolist())
    lag = (track.joints - smooth_track(track, SETTINGS).joints)[-1, 0]
    trails_seconds = np.hypot(*lag) / speed
    cutoff = SETTINGS.min_cutoff + SETTINGS.responsiveness * sizes_a_second
    assert trails_seconds == pytest.approx(1 / (2 * math.pi * cutoff), rel=0.02)
    assert trails_seconds < (0.03 if sizes_a_second < 1 else 0.01001)
    assert np.hypot(*lag) / 100 < 1 / (2 * math.pi * SETTINGS.responsiveness) < 0.011


@pytest.mark.parametrize(("fps", "factor"), [(10, 1.8), (25, 3.0), (60, 4.5)])
def test_jitter_of_a_body_that_stands_still_shrinks(fps: int, factor: float) -> None:
    rng = np.random.default_rng(4)
    seconds = (np.arange(20 * fps) / fps).tolist()
    noise = rng.normal(0, 1.0, (20 * fps, 17, 2)).astype(np.float32)  # 1 % of the body
    track = made_track(1, list(range(20 * fps)), noise, seconds=seconds)
    smoothed = smooth_track(track, SETTINGS).joints[fps:]
    assert noise[fps:].var() / smoothed.var() > factor


def test_real_movement_comes_out_nearer_to_the_truth_than_it_went_in() -> None:
    from kineme.figures import seen_from
    from kineme.synthetic import HELD_OUT_BODIES, pose_exercises

    figures = pose_exercises(6, 3, bodies=HELD_OUT_BODIES, num_frames=100, fps=25)
    seen = seen_from(figures.positions, np.full(6, 20.0), np.full(6, 5.0))[..., :2] * 100
    rng = np.random.default_rng(5)
    errors = np.zeros(2)
    for true in seen:
        noisy = (true + rng.normal(0, 1.8, true.shape)).astype(np.float32)
        track = made_track(1, list(range(100)), noisy, seconds=(np.arange(100) / 25).tolist())
        track.boxes[:] = np.concatenate([true.min(axis=1), true.max(axis=1)], axis=-1)
        smoothed = smooth_track(track, SETTINGS).joints
        errors += [((noisy - true)[12:] ** 2).mean(), ((smoothed - true)[12:] ** 2).mean()]
    assert errors[1] / errors[0] < 0.75  # measured: 0.60 of the squared error


def test_time_that_goes_back_is_a_bug_of_the_caller() -> None:
    smoother = OneEuroFilter(SETTINGS)
    joints, box = np.zeros((1, 2), np.float32), np.array([0, 0, 1, 1], np.float32)
    smoother.update(1.0, joints, box)
    with pytest.raises(ValueError, match=r"1.0 s does not come after 1.0 s"):
        smoother.update(1.0, joints, box)
