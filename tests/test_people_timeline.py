"""Windows over people's time, and the segments that come of them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme.people.poses import FramePoses, build_pose
from kineme.people.segments import Cell, Decider, Segment, SegmentSettings
from kineme.people.timeline import Presence, Timeline, TimelineSettings

FPS = 10
SETTINGS = TimelineSettings(frame_seconds=1 / FPS)  # windows of 2 s every 0.5 s


def timeline_of(frames, classifier, settings):
    """The segments of a whole video: what `Timeline` says frame by frame, by person and time."""
    timeline = Timeline(classifier, settings)
    over = [segment for frame, found in frames for segment in timeline.update(frame, found)]
    over += timeline.finish()
    return sorted(over, key=lambda segment: (segment.person, segment.start))


class Scores:
    """Class b as likely as the person is sure to be one, a otherwise."""

    names = ("a", "b")

    def __init__(self):
        self.asked = []

    def classify(self, windows):
        self.asked += windows
        shares = [float(one.scores[one.scores > 0].mean()) for one in windows]
        return np.array([[1 - share, share] for share in shares], np.float32)


def body(score):
    return build_pose([[10.0, 20.0], [30.0, 80.0]], [0.9, 0.9], score=score)


def film(*people, fps=FPS):
    """Frames in which person i is there with the score people[i][frame]; 0 is not there."""
    frames = []
    for index, scores in enumerate(itertools.zip_longest(*people, fillvalue=0)):
        there = tuple((i + 1, body(score)) for i, score in enumerate(scores) if score)
        frames.append((FramePoses(index, index / fps, tuple(p for _, p in there)), there))
    return frames


def plain(segments):
    return [(s.person, s.label, round(s.start, 6), round(s.end, 6)) for s in segments]


def test_a_label_changes_where_the_mean_of_the_windows_over_a_cell_does():
    found = timeline_of(film([0.9] * 30 + [0.1] * 30), Scores(), SETTINGS)
    # b in the windows from 0, 0.5, ..., 4 s: 0.9 0.9 0.9 0.7 0.5 0.3 0.1 0.1 0.1; the cell from
    # 2.5 s has the mean of four of them, 0.6, that from 3 s 0.4
    assert plain(found) == [(1, "b", 0, 3), (1, "a", 3, 6)]
    cells = [0.9, 0.9, 0.9, (0.9 * 3 + 0.7) / 4, (0.9 * 2 + 0.7 + 0.5) / 4, 0.6]
    assert found[0].probability == pytest.approx(np.mean(cells), abs=1e-6)


def test_windows_hold_the_frames_of_their_time_with_short_gaps_closed_and_long_ones_nan():
    scores = Scores()
    timeline_of(film([0.5] * 5 + [0] * 6 + [0.5] * 4 + [0] + [0.5] * 20), scores, SETTINGS)
    first = scores.asked[0]
    assert first.seconds.tolist() == [index / FPS for index in range(20)]
    assert np.isnan(first.joints[5:11]).all()
    assert np.isfinite(np.delete(first.joints, range(5, 11), axis=0)).all()
    assert first.confidence[5:11].tolist() == [[0, 0]] * 6
    assert first.scores.tolist() == pytest.approx([0.5] * 5 + [0] * 6 + [0.5] * 9)


def test_a_window_that_is_no_whole_number_of_strides_is_as_long_as_asked():
    uneven, scores = replace(SETTINGS, window_seconds=2.0, stride_seconds=1.5), Scores()
    found = timeline_of(film([0.9] * 30 + [0.1] * 30), scores, uneven)
    spans = [(one.seconds[0], one.seconds[-1]) for one in scores.asked]
    # three full ones, each 20 frames, and that of the last two seconds
    assert spans == [(0, 1.9), (1.5, 3.4), (3, 4.9), (4, 5.9)]
    assert plain(found) == [(1, "b", 0, 3), (1, "a", 3, 6)]
    assert (uneven.num_overlapping, SETTINGS.num_overlapping) == (1, 4)


def test_windows_are_aligned_to_time_whatever_the_frame_rate_does():
    even = film([0.9] * 30 + [0.1] * 30)
    thinned = [pair for number, pair in enumerate(even) if number % 3 or number > 40]
    slow = timeline_of(thinned, Scores(), SETTINGS)
    assert plain(slow)[0][3] == pytest.approx(3.0, abs=0.61)  # begins at 0.1, as seen first
    assert plain(slow)[-1][3] == 6


def test_a_person_seen_for_less_than_a_window_is_told_from_what_there_is():
    assert plain(timeline_of(film([0] * 20 + [0.9] * 7), Scores(), SETTINGS)) == [
        (0, "no person", 0, 2), (1, "b", 2, 2.7),
    ]  # fmt: skip


def test_a_gap_in_a_track_is_no_person_and_what_comes_after_the_last_sight_is_nothing():
    found = timeline_of(film([0.9] * 20 + [0] * 20 + [0.9] * 20, [0.9] * 90), Scores(), SETTINGS)
    assert plain(found) == [
        (1, "b", 0, 2), (1, "no person", 2, 4), (1, "b", 4, 6), (2, "b", 0, 9),
    ]  # fmt: skip
    assert found[1].probability is None


@pytest.mark.parametrize("seconds_after", [0, 1, 3, 12])
def test_a_short_visit_gets_the_same_label_however_long_the_video_goes_on(seconds_after):
    visit = film([0] * 30 + [0.9] * 8 + [0] * (seconds_after * FPS))
    found = [one for one in timeline_of(visit, Scores(), SETTINGS) if one.person]
    assert plain(found) == [(1, "b", 3, 3.8)]
    assert found[0].probability == pytest.approx(0.9)


@pytest.mark.parametrize(("fps", "stride"), [(1, 0.5), (10, 0.02), (3, 0.1)])
def test_somebody_in_every_frame_is_never_away_however_far_frames_are_apart(fps, stride):
    settings = replace(
        SETTINGS,
        frame_seconds=1 / fps,
        stride_seconds=stride,
        segments=SegmentSettings(0.6, 0.4, 0),
    )
    found = timeline_of(film([0.9] * 4 * fps, fps=fps), Scores(), settings)
    assert plain(found) == [(1, "b", 0, 4)]


def test_somebody_is_away_from_the_first_frame_without_them_to_the_next_with_them():
    settings = replace(SETTINGS, frame_seconds=1, stride_seconds=0.25)
    found = timeline_of(film([0.9] * 4 + [0] * 2 + [0.9] * 4, fps=1), Scores(), settings)
    assert plain(one for one in found if one.person) == [
        (1, "b", 0, 4), (1, "no person", 4, 6), (1, "b", 6, 10),
    ]  # fmt: skip


def test_i03_nobody_at_all_is_one_row_that_says_no_person():
    assert timeline_of(film([0] * 30), Presence(), SETTINGS) == [
        Segment(0, "no person", None, 0.0, 3.0)
    ]
    one_frame = timeline_of(film([0]), Presence(), SETTINGS)
    assert plain(one_frame) == [(0, "no person", 0, 0.1)]
    assert timeline_of([], Presence(), SETTINGS) == []


def test_i03_somebody_who_enters_late_begins_then_and_fifty_people_are_fifty_rows():
    late = film([0.8] * 60, [0] * 25 + [0.8] * 35)
    assert plain(timeline_of(late, Presence(), SETTINGS)) == [
        (1, "person", 0, 6), (2, "person", 2.5, 6),
    ]  # fmt: skip
    crowd = timeline_of(film(*[[0.8] * 30] * 50), Presence(), SETTINGS)
    assert plain(crowd) == [(person, "person", 0, 3) for person in range(1, 51)]


def test_d24_everybody_of_a_crowd_is_asked_about_alone():
    scores = Scores()
    timeline_of(film(*[[0.8] * 20] * 50), scores, SETTINGS)
    assert all(window.joints.shape == (20, 2, 2) for window in scores.asked)
    assert len(scores.asked) == 2 * 50  # the full window, and the last one of each


@settings(max_examples=40, deadline=None)
@given(
    people=st.lists(
        st.lists(st.sampled_from([0, 0, 0.05, 0.3, 0.5, 0.7, 0.95]), min_size=1, max_size=90),
        min_size=1,
        max_size=3,
    ),
    stride=st.sampled_from([0.5, 0.3, 0.7, 1.5]),
)
def test_segments_cover_each_person_without_gap_or_overlap(people, stride):
    frames = film(*people)
    found = timeline_of(frames, Scores(), replace(SETTINGS, stride_seconds=stride))
    for person, scores in enumerate(people, start=1):
        mine = [one for one in found if one.person == person]
        seen = [index for index, score in enumerate(scores) if score]
        if not seen:
            assert mine == []
            continue
        # whoever is unseen for more than 3 s is gone, and has segments of their own afterwards
        parts = np.split(seen, np.flatnonzero(np.diff(seen) > 30) + 1)
        starts = {round(part[0] / FPS, 6) for part in parts}
        ends = {round((part[-1] + 1) / FPS, 6) for part in parts}
        assert round(mine[0].start, 6) in starts
        assert round(mine[-1].end, 6) in ends
        for before, after in itertools.pairwise(mine):
            is_next = abs(before.end - after.start) < 1e-6
            assert is_next or round(after.start, 6) in starts
        total = sum(one.end - one.start for one in mine)
        assert total == pytest.approx(sum((p[-1] + 1 - p[0]) / FPS for p in parts))


@settings(max_examples=30, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0, 0.1, 0.45, 0.6, 0.9]), min_size=30, max_size=120),
    cut=st.integers(1, 119),
)
def test_what_was_told_by_a_frame_depends_on_nothing_later(scores, cut):
    frames = film(scores)
    whole, part = Timeline(Scores(), SETTINGS), Timeline(Scores(), SETTINGS)
    told = [whole.update(*pair) for pair in frames]
    assert [part.update(*pair) for pair in frames[:cut]] == told[:cut]


def test_labels_are_final_once_they_are_said_to_be():
    frames = film([0.9] * 30 + [0.1] * 40)
    timeline, told = Timeline(Scores(), SETTINGS), {}
    for pair in frames:
        timeline.update(*pair)
        for index in range(70):
            if index / FPS < timeline.decided_until:
                told.setdefault(index, timeline.label_at(1, index / FPS + 1e-6)[0])
    timeline.finish()
    assert len(told) >= 45
    assert told == {index: "b" if index < 30 else "a" for index in told}


def test_memory_of_a_timeline_is_that_of_a_window_however_long_it_runs():
    timeline = Timeline(Scores(), SETTINGS)
    for pair in film([0.9] * 3000):
        timeline.update(*pair)
    (track,) = timeline._tracks.values()
    assert len(track.rows) < 40
    assert len(timeline._frames) < 80
    assert len(track.sums) <= 4


# From cells to segments ------------------------------------------------------------------


def decide(*values, min_seconds=1.0, min_unknown_seconds=0.5):
    """Segments of cells of 0.5 s: the probability of b, None for unseen, "?" for no answer."""
    chosen = SegmentSettings(min_seconds=min_seconds, min_unknown_seconds=min_unknown_seconds)
    decider = Decider(7, ("a", "b", "c"), chosen)
    over = []
    for number, value in enumerate(values):
        p = None
        if value not in (None, "?"):
            p = np.array(value if isinstance(value, tuple) else (1 - value, value, 0.0))
        over += decider.add(Cell(number / 2, number / 2 + 0.5, p, value is not None))
    over += decider.finish(len(values) / 2)
    return [(one.label, one.start, one.end) for one in over]


def test_a_label_is_entered_high_and_left_low():
    between = (0.3, 0.4, 0.3)
    assert decide(between, between) == [("unknown", 0, 1)]
    assert decide(0.9, 0.9, between, between) == [("b", 0, 2)]
    low = (0.34, 0.33, 0.33)
    assert decide(0.9, 0.9, low, low) == [("b", 0, 1), ("unknown", 1, 2)]


def test_what_is_too_short_belongs_to_what_was_before():
    assert decide(0.9, 0.9, 0.1, 0.9) == [("b", 0, 2)]
    assert decide(0.9, 0.9, 0.1) == [("b", 0, 1.5)]
    assert decide(0.9, 0.9, 0.1, 0.1, 0.9) == [("b", 0, 1), ("a", 1, 2.5)]
    assert decide(0.9, 0.9, None, 0.9, 0.9) == [("b", 0, 2.5)]


def test_what_is_too_short_at_the_start_belongs_to_what_comes():
    assert decide(0.9, 0.1, 0.1) == [("a", 0, 1.5)]
    assert decide(0.9) == [("b", 0, 0.5)]
    assert decide(0.9, 0.1, 0.9, min_seconds=2) == [("b", 0, 1.5)]


def test_doubt_from_one_label_to_the_next_is_parted_between_them():
    a, b = (0.9, 0.1, 0.0), (0.1, 0.9, 0.0)
    more_a, more_b, third = (0.4, 0.3, 0.3), (0.3, 0.4, 0.3), (0.1, 0.1, 0.45)
    three = {"min_seconds": 0.5, "min_unknown_seconds": 2.0}
    # a is kept down to 0.35, left at 0.3; doubt lasts up to 1.5 s
    assert decide(a, a, more_b, b, b, **three) == [("a", 0, 1), ("b", 1, 2.5)]
    assert decide(a, a, third, more_a, more_b, b, **three) == [("a", 0, 2), ("b", 2, 3)]
    assert decide(a, a, third, third, third, a, a, **three) == [("a", 0, 3.5)]
    assert decide(a, a, third, "?", b, b, **three) == [("a", 0, 2), ("b", 2, 3)]
    assert decide(a, a, third, third, None, None, **three) == [("a", 0, 2), ("no person", 2, 3)]
    assert decide(a, a, third, third, **three) == [("a", 0, 2)]
    assert decide(a, a, third, third, third, third, b, b, **three) == [
        ("a", 0, 1), ("unknown", 1, 3), ("b", 3, 4),
    ]  # fmt: skip
    assert decide(third, third, b, b, **three) == [("unknown", 0, 1), ("b", 1, 2)]


def test_windows_over_two_labels_are_no_third_thing():
    """Between b and a every window that sees both is sure of neither."""

    class Doubting(Scores):
        def classify(self, windows):
            shares = super().classify(windows)
            shares[(shares > 0.2).all(axis=1)] = (0.1, 0.1)
            return shares

    found = timeline_of(film([0.99] * 35 + [0.01] * 35), Doubting(), SETTINGS)
    assert [label for _, label, _, _ in plain(found)] == ["b", "a"]
    assert abs(found[1].start - 3.5) <= 0.5


def test_where_no_window_says_anything_it_is_unknown():
    assert decide("?", "?", 0.9, 0.9) == [("unknown", 0, 1), ("b", 1, 2)]


def test_d25_a_person_who_cannot_be_seen_at_all_is_no_class():
    assert decide(None, None) == [("no person", 0, 1)]
    hidden = build_pose([[np.nan, np.nan]] * 2, [0, 0], score=0.9)
    assert hidden.num_seen == 0
