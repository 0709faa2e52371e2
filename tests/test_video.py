"""Frames of videos by number and in order, against the plainest full decode (V18 to V21)."""

import functools
import gc
import itertools
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clips_made import KINDS, Made, full_decode, make_video, number_in, picture
from kineme.data import video
from kineme.data.video import VideoFacts, decoding, iterate, probe, read_frames


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def nothing_remembered():
    video.forget()


def test_a_video_says_what_it_is(made):
    path = made.kind("plain.mp4")
    assert probe(path) == VideoFacts(
        path=str(path), num_frames=30, fps=25.0, duration_seconds=1.2, width=80, height=64,
        rotation=0, is_variable_rate=False, expected_frames=30, damage="",
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_frames_in_any_order_are_those_of_a_full_decode(made, kind):
    path = made.kind(kind)
    truth = full_decode(path)
    first = 10 if kind == "edit_list.mp4" else 0  # the edit list leaves out ten
    count = KINDS[kind].get("num_frames", 30) - first
    facts = probe(path)
    assert (facts.num_frames, facts.is_variable_rate, facts.damage) == (count, False, "")
    assert [number_in(frame) for frame in truth] == list(range(first, first + count))
    draw = np.random.default_rng(len(kind))
    for size in (1, 2, 5, 9):
        indices = draw.integers(0, count, size)
        clip = read_frames(path, indices)
        assert (clip.damage, clip.num_missing) == ("", 0)
        for frame, index in zip(clip.frames, indices, strict=True):
            assert np.array_equal(frame, truth[index]), f"frame {index}"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", ["long_group.mp4", "open_groups.mkv"])
def test_no_choice_of_frames_changes_a_frame(made, kind, indices):
    path = made.kind(kind)
    truth = _truth(path)
    clip = read_frames(path, np.array(indices))
    assert clip.damage == ""
    assert all(np.array_equal(f, truth[i]) for f, i in zip(clip.frames, indices, strict=True))


@functools.cache
def _truth(path):
    return full_decode(path)


@pytest.fixture
def fed(monkeypatch):
    """Time stamps of the packets that are decoded, in order."""
    stamps = []
    original = decoding.decode_packet

    def counting(opened, packet):
        stamps.append(packet and packet.pts)
        return original(opened, packet)

    monkeypatch.setattr(decoding, "decode_packet", counting)
    return stamps


def test_only_the_groups_that_are_needed_are_decoded(made, fed):
    path = made("groups.mp4", 120, group=12)
    probe(path)
    read_frames(path, np.array([50, 100, 51]))
    numbers = {stamp // 512 for stamp in fed if stamp is not None}  # 12,800 ticks a second
    assert numbers <= {*range(48, 60), *range(96, 108)}
    assert len(fed) <= 20


def test_a_frame_just_ahead_is_reached_without_going_back(made, fed):
    path = made("groups.mp4", 120, group=12)
    probe(path)
    read_frames(path, np.arange(40, 48))
    assert len(fed) == len(set(fed)) <= 14


def test_a_file_whose_key_frames_are_none_is_decoded_from_its_start_from_then_on(made, fed):
    path = made.kind("no_key_frames.mp4")
    truth = full_decode(path)
    assert np.array_equal(read_frames(path, np.array([50])).frames[0], truth[50])
    fed.clear()
    assert np.array_equal(read_frames(path, np.array([55])).frames[0], truth[55])
    assert len(fed) == len(set(fed)) >= 55


def test_two_threads_give_the_same_frames(made):
    path = made.kind("long_group.mp4")
    indices = np.array([3, 59, 31])
    one, two = (read_frames(path, indices, threads=n) for n in (1, 2))
    assert np.array_equal(one.frames, two.frames)


def test_threads_that_read_at_once_share_nothing(made, tmp_path):
    path = made.kind("long_group.mp4")
    truth = full_decode(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3 : len(raw) // 2] = bytes(len(raw) // 2 - len(raw) // 3)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(raw)

    def read(k):
        which, indices = (broken, np.array([59])) if k % 3 == 0 else (path, np.array([k, 59 - k]))
        return read_frames(which, indices)

    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(read, range(24)))
    for k, clip in enumerate(clips):
        assert (clip.damage != "") == (k % 3 == 0)
        if k % 3:
            assert np.array_equal(clip.frames, np.stack([truth[k], truth[59 - k]]))


@pytest.mark.parametrize(("degrees", "turns"), [(-90, 1), (180, 2), (90, 3)])
def test_v18_a_film_made_sideways_is_turned_upright_on_every_path(made, degrees, turns):
    upright = full_decode(made.kind("plain.mp4"))
    path = made(f"turned{degrees}.mp4", rotation=degrees)
    expected = np.stack([np.rot90(frame, -turns) for frame in upright])
    facts = probe(path)
    assert facts.rotation == 90 * turns
    assert (facts.height, facts.width) == expected.shape[1:3]
    assert np.array_equal(read_frames(path, np.arange(30)).frames, expected)
    assert np.array_equal(np.stack([frame for _, frame in iterate(path)]), expected)
    opened = cv2.VideoCapture(str(path))
    seen_by_opencv = cv2.cvtColor(opened.read()[1], cv2.COLOR_BGR2RGB)
    assert seen_by_opencv.shape == expected[0].shape
    assert np.abs(seen_by_opencv.astype(int) - expected[0]).mean() < 4  # its own colour matrix


def test_v18_a_mirrored_film_is_mirrored(tmp_path, made):
    upright = full_decode(made.kind("plain.mp4"))
    path = make_video(tmp_path / "mirrored.mp4", rotation=0, mirrored=True)
    assert probe(path).rotation == 0
    assert np.array_equal(read_frames(path, np.array([7])).frames[0], upright[7][:, ::-1])


def test_v18_a_size_is_that_of_the_turned_frame(made):
    path = made("turned-90.mp4", rotation=-90)
    assert read_frames(path, np.array([0]), size=(40, 20)).frames.shape == (1, 40, 20, 3)
    assert read_frames(path, np.array([0]), short_side=32).frames.shape == (1, 40, 32, 3)
    small = read_frames(path, np.array([0]), size=(40, 32)).frames[0]
    same = cv2.resize(np.rot90(full_decode(path)[0], -1), (32, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - same).mean() < 3


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"size": (30, 50)}, (30, 50)),
        ({"short_side": 32}, (32, 40)),
        ({"short_side": 128}, (128, 160)),
        ({}, (64, 80)),
    ],
)
def test_frames_come_in_the_size_asked_for(made, asked, expected):
    path = made.kind("plain.mp4")
    assert read_frames(path, np.array([4, 4]), **asked).frames.shape == (2, *expected, 3)
    with iterate(path, **asked) as stream:
        assert next(stream)[1].shape == (*expected, 3)


@pytest.mark.parametrize(
    "kind", ["plain.mp4", "odd_444.mp4", "ten_bits.mp4", "mjpeg.avi", "ffv1.mkv", "picture.gif"]
)
def test_frames_made_quickly_are_as_good_to_look_at(made, kind):
    path = made.kind(kind)
    well, quickly = (
        [frame for _, frame in iterate(path, short_side=40, is_quick=is_quick)]
        for is_quick in (False, True)
    )
    assert [number_in(frame) for frame in quickly] == [number_in(frame) for frame in well]
    assert np.abs(np.stack(quickly).astype(int) - np.stack(well)).mean() < 5
    if kind == "picture.gif":  # not in yuv: there is no shorter way
        np.testing.assert_array_equal(quickly, well)


def test_a_turned_video_is_made_quickly_the_same_way_up(tmp_path):
    path = make_video(tmp_path / "turned.mp4", 3, rotation=90)
    well, quickly = (
        next(iterate(path, short_side=40, is_quick=is_quick))[1] for is_quick in (False, True)
    )
    assert quickly.shape == (50, 40, 3)
    assert np.abs(quickly.astype(int) - well).mean() < 5


def test_no_frames_asked_for_is_an_empty_clip(made):
    assert read_frames(made.kind("plain.mp4"), np.zeros(0, np.int64)).frames.shape == (0, 64, 80, 3)


@pytest.mark.parametrize("index", [-1, 30])
def test_a_frame_that_is_none_is_refused(made, index):
    with pytest.raises(IndexError, match=rf"frames {index} to {index} of 30"):
        read_frames(made.kind("plain.mp4"), np.array([index]))


def test_size_and_short_side_exclude_each_other(made):
    with pytest.raises(ValueError, match="exclude each other"):
        read_frames(made.kind("plain.mp4"), np.array([0]), size=(8, 8), short_side=8)


FILM = [0, 1, 2, 3, 3, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12, 12, 12, 12, 13, 14, 15]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_v19_an_even_copy_and_one_without_the_repeats_give_the_same_frames(tmp_path, suffix):
    even = make_video(tmp_path / f"even.{suffix}", frames=[picture(k) for k in FILM])
    begins = [i for i, k in enumerate(FILM) if i == 0 or FILM[i - 1] != k]
    uneven = make_video(
        tmp_path / f"uneven.{suffix}", frames=[picture(FILM[i]) for i in begins],
        ticks=[40 * i for i in begins], ticks_per_second=1000,
    )  # fmt: skip
    facts = probe(uneven)
    assert (facts.is_variable_rate, facts.num_frames, facts.fps) == (True, 24, 25.0)
    indices = np.arange(24)
    for path in (even, uneven):
        assert [number_in(f) for f in read_frames(path, indices).frames] == FILM


def test_v19_a_late_start_and_jitter_change_no_frame(tmp_path):
    draw = np.random.default_rng(0)
    ticks = 3000 + 40 * np.arange(60) + draw.integers(-8, 9, 60) + np.repeat([0, 25], 30)
    path = make_video(tmp_path / "jitter.mkv", 60, ticks=ticks.tolist(), ticks_per_second=1000)
    facts = probe(path)
    assert facts.fps == pytest.approx(25, rel=0.02)
    shown = [number_in(f) for f in read_frames(path, np.arange(facts.num_frames)).frames]
    expected = np.round(np.linspace(0, 59, facts.num_frames))
    assert np.abs(np.array(shown) - expected).max() <= 1


def test_v19_an_avi_that_repeats_frames_with_empty_packets_is_read_by_time(tmp_path):
    path = make_video(
        tmp_path / "gaps.avi", 5, codec="mjpeg", pixels="yuvj420p", ticks=[0, 1, 4, 5, 6]
    )
    facts = probe(path)
    assert (facts.num_frames, facts.damage) == (7, "")
    shown = [number_in(f) for f in read_frames(path, np.arange(7)).frames]
    assert shown == [0, 1, 1, 1, 2, 3, 4]


def test_v20_a_size_that_changes_on_the_way_is_scaled_to_the_first_and_counted(tmp_path):
    small = make_video(tmp_path / "a.ts", 10, height=48, width=64)
    large = make_video(
        tmp_path / "b.ts", 10, frames=[picture(k + 10, height=64, width=80) for k in range(10)]
    )
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    facts = probe(both)
    assert (facts.height, facts.width, facts.num_frames) == (48, 64, 20)
    clip = read_frames(both, np.arange(20))
    assert clip.frames.shape == (20, 48, 64, 3)
    assert [number_in(f) for f in clip.frames] == list(range(20))
    changed = "10 of 20 frames have another size than the first, and were scaled to it"
    assert clip.damage.endswith(changed)
    with iterate(both) as stream:
        assert len(list(stream)) == 20
        assert stream.damage.endswith(changed)


def test_iterate_gives_every_picture_with_its_time(made):
    path = made.kind("late_start.mp4")
    seconds, frames = zip(*iterate(path), strict=True)
    assert seconds == pytest.approx([k / 25 for k in range(30)])
    assert all(np.array_equal(a, b) for a, b in zip(frames, full_decode(path), strict=True))


def test_iterating_two_videos_at_once_mixes_nothing(made, tmp_path):
    raw = bytearray(made.kind("plain.mp4").read_bytes())
    raw[len(raw) // 3 : len(raw) // 2] = bytes(len(raw) // 2 - len(raw) // 3)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(raw)
    with iterate(made.kind("plain.mp4")) as clean, iterate(damaged) as broken:
        for _ in itertools.zip_longest(clean, broken):
            pass
        assert clean.damage == ""
        assert "decoding errors" in broken.damage
        assert "\n" not in broken.damage


def test_a_stream_that_is_left_early_gives_its_file_back(made):
    path = made.kind("plain.mp4")
    before = len(os.listdir("/proc/self/fd"))
    with iterate(path) as stream:
        next(stream)
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_was_replaced_is_looked_at_anew(made, tmp_path):
    path = tmp_path / "video.mp4"
    shutil.copy(made.kind("plain.mp4"), path)
    assert probe(path).num_frames == 30
    shutil.copy(made.kind("two_frames.mp4"), path)
    assert probe(path).num_frames == 2


def test_v21_memory_stays_flat_over_a_long_video(tmp_path):
    still = [picture(k) for k in range(2)]
    frames = (still[k % 2] for k in range(6000))
    path = make_video(tmp_path / "long.mp4", frames=frames, codec="mpeg4", group=600, b_frames=0)
    resident = {}
    for count, _ in enumerate(iterate(path, size=(32, 32))):
        if count in (1000, 5999):
            gc.collect()
            resident[count] = _resident_bytes()
    assert count == 5999
    assert resident[5999] - resident[1000] < 5 * 2**20  # one MiB per thousand frames


def _resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
