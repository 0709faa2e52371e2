"""Of the people in a video, those who act; sights of one person that are joined."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kineme.people.training_sets.acting import acting, distance_travelled, join_sights
from tracks_made import NAN, made_track, made_tracks


def test_distance_is_what_joints_travel_in_diagonals_by_their_confidence() -> None:
    x = np.zeros((4, 3, 2))
    x[:, 0, 0] = [0, 30, 30, 60]  # 60 pixels, 0.5 sure
    x[:, 1, 1] = [0, 40, NAN, 80]  # 40 pixels, then not seen on both sides of a step
    x[2, 1] = NAN
    track = made_track(1, [0, 1, 2, 3], x)
    tracks = made_tracks(track, width=300, height=400)
    assert distance_travelled(track, tracks) == pytest.approx((60 + 40) * 0.5 / 3 / 500)


def test_who_moves_comes_before_who_stands_and_who_stays_before_who_passes() -> None:
    def moved(id_: int, num_frames: int, step: float) -> Any:
        x = np.zeros((num_frames, 3, 2)) + np.arange(num_frames)[:, None, None] * step
        return made_track(id_, list(range(num_frames)), x)

    tracks = made_tracks(moved(1, 20, 0), moved(2, 3, 4), moved(3, 20, 2), moved(4, 1, 0))
    assert [t.id for t in acting(tracks, 1)] == [3]
    assert [t.id for t in acting(tracks, 2)] == [2, 3]
    assert [t.id for t in acting(tracks, 9)] == [1, 2, 3, 4]
    still_ones = made_tracks(moved(1, 5, 0), moved(2, 5, 0))
    assert [t.id for t in acting(still_ones, 1)] == [1]
    assert acting(made_tracks(), 1) == ()


def test_sights_that_follow_each_other_in_time_place_and_scene_are_one_person() -> None:
    def seen(id_: int, frames: list[int], x: float) -> Any:
        track = made_track(id_, frames, np.zeros((len(frames), 3, 2)) + x)
        box = np.array([x - 30, -40, x + 30, 40], np.float32)  # 100 from corner to corner
        return replace(track, boxes=np.tile(box, (len(frames), 1)))

    first, near, far = seen(1, [0, 1], 0), seen(2, [5, 6], 90), seen(3, [5, 6], 110)
    both = join_sights(made_tracks(first, near))
    (one,) = both.tracks
    assert (one.id, one.frames.tolist()) == (1, [0, 1, 5, 6])
    assert one.joints[:, 0, 0].tolist() == [0, 0, 90, 90]
    late, beside = seen(2, [22, 23], 0), seen(2, [1, 2], 0)
    for apart in (
        made_tracks(first, far), made_tracks(first, late), made_tracks(first, beside),
        made_tracks(first, near, cuts=(5,)),
    ):  # fmt: skip
        assert [track.frames.tolist() for track in join_sights(apart).tracks] == [
            track.frames.tolist() for track in apart.tracks
        ]
    three = join_sights(made_tracks(first, seen(2, [0, 1], 70), seen(3, [3], 60)))
    assert [track.frames.tolist() for track in three.tracks] == [[0, 1], [0, 1, 3]]
