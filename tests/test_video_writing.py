"""Frames written as videos come back, whole or not at all."""

import cv2
import numpy as np
import pytest

from clips_made import number_in, picture
from kineme.data.video import iterate, probe, read_frames, write_video
from kineme.errors import DataError


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    assert write_video(path, (picture(k) for k in range(20)), 12.5) == 20
    facts = probe(path)
    assert (facts.num_frames, facts.fps, facts.damage) == (20, 12.5, "")
    frames = read_frames(path, np.arange(20)).frames
    assert [number_in(frame) for frame in frames] == list(range(20))
    difference = frames.astype(int) - np.stack([picture(k) for k in range(20)])
    assert np.abs(difference).mean() < 6  # colours are stored at half the resolution


@pytest.mark.parametrize(("height", "width"), [(32, 80), (61, 79)])
def test_what_is_written_quickly_is_as_near_to_the_frames(tmp_path, height, width):
    given = np.stack([picture(k, height=height, width=width) for k in range(10)])
    far = []
    for name, is_quick in (("slow", False), ("quick", True)):
        path = tmp_path / f"{name}.mp4"
        assert write_video(path, iter(given), 12.5, is_quick=is_quick) == 10
        facts = probe(path)
        assert (facts.num_frames, facts.fps, facts.damage) == (10, 12.5, "")
        frames = read_frames(path, np.arange(10)).frames[:, :height, :width]
        assert [number_in(frame) for frame in frames] == list(range(10))
        far.append(np.abs(frames.astype(int) - given).mean())
    assert far[1] < far[0] + 1.5


def test_other_players_read_what_is_written(tmp_path):
    write_video(tmp_path / "x.mp4", [picture(k) for k in range(5)], 30)
    opened = cv2.VideoCapture(str(tmp_path / "x.mp4"))
    shown = []
    while True:
        is_there, frame = opened.read()
        if not is_there:
            break
        shown.append(number_in(frame))
    assert shown == list(range(5))


def test_a_usual_rate_like_29_97_is_kept_exactly(tmp_path):
    write_video(tmp_path / "x.mp4", [picture(k) for k in range(4)], 30000 / 1001)
    assert probe(tmp_path / "x.mp4").fps == 30000 / 1001


def test_an_odd_size_gets_its_last_row_and_column_twice(tmp_path):
    write_video(tmp_path / "x.mp4", [picture(k, height=61, width=79) for k in range(2)], 25)
    facts = probe(tmp_path / "x.mp4")
    assert (facts.height, facts.width) == (62, 80)
    frame = read_frames(tmp_path / "x.mp4", np.array([0])).frames[0].astype(int)
    assert np.abs(frame[61] - frame[60]).mean() < 6


def test_frames_are_taken_one_at_a_time(tmp_path):
    write_video(tmp_path / "a.mp4", [picture(k) for k in range(8)], 25)
    frames = (frame for _, frame in iterate(tmp_path / "a.mp4"))
    assert write_video(tmp_path / "b.mp4", frames, 25) == 8


@pytest.mark.parametrize(
    ("frames", "name", "words"),
    [
        ([], "x.mp4", "expected frames to write, got none"),
        ([picture(0), picture(1, height=32)], "x.mp4", r"frame 1 of \(32, 80, 3\)"),
        ([picture(0)], "x.txt", "a name that ends in one of .avi, .mkv, .mov, .mp4, got '.txt'"),
    ],
)
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, frames, name, words):
    (tmp_path / name).write_bytes(b"before")
    with pytest.raises(DataError, match=words):
        write_video(tmp_path / name, iter(frames), 25)
    assert (tmp_path / name).read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == [name]
