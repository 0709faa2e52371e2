"""Frame folders: what is a frame, in which order, and where some are missing (V05 to V07)."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images_made import plain, save_image
from kineme.data.images import Gap, list_frames, natural_order, read_images
from kineme.errors import DataError


def test_v05_unpadded_numbers_come_in_the_order_of_time(tmp_path):
    for number in range(1, 17):
        save_image(tmp_path / f"frame{number}.png", plain(number * 10))
    frames = list_frames(tmp_path)
    assert frames.names[:3] == ("frame1.png", "frame2.png", "frame3.png")
    pixels = read_images(frames.paths)
    assert pixels.shape == (16, 4, 6, 3)
    assert pixels[:, 0, 0, 0].tolist() == [number * 10 for number in range(1, 17)]


def test_natural_order_by_hand():
    names = ["b2", "b10", "a", "10", "9", "b2x1", "b02", "", "B2", "é1"]
    assert natural_order(names) == ["", "9", "10", "B2", "a", "b02", "b2", "b2x1", "b10", "é1"]


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=20, unique=True))
def test_natural_order_is_that_of_the_numbers(numbers):
    ordered = natural_order(f"img_{number}.jpg" for number in numbers)
    assert ordered == [f"img_{number}.jpg" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=10), st.randoms())
def test_natural_order_does_not_depend_on_the_order_before(names, order):
    shuffled = list(names)
    order.shuffle(shuffled)
    assert natural_order(shuffled) == natural_order(names)


def test_v06_only_images_are_frames_and_the_rest_is_listed(tmp_path):
    for name in ("000001.jpg", "000002.JPG", "000003.PNG", "000004.webp", "000005.bmp"):
        (tmp_path / name).write_bytes(b"")
    for name in (".DS_Store", "Thumbs.db", "._000001.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more.jpg").mkdir()
    (tmp_path / "sub").mkdir()
    frames = list_frames(tmp_path)
    assert frames.names == tuple(sorted(os.listdir(tmp_path))[2:7])
    assert set(frames.ignored) == {
        ".DS_Store", "._000001.jpg", "Thumbs.db", "more.jpg", "notes.txt", "sub",
    }  # fmt: skip
    assert frames.gaps == ()


@pytest.mark.parametrize(
    ("numbers", "gaps"),
    [
        ((1, 2, 3, 4), []),
        ((1, 2, 4, 5, 9), [(2, 4, 1), (5, 9, 3)]),
        ((0, 5, 10, 20), [(10, 20, 1)]),  # every fifth frame was kept
        ((0, 33, 67, 100, 167), [(100, 167, 1)]),  # milliseconds
        ((7,), []),
        ((1, 100), []),  # nothing says what the usual step is
    ],
)
def test_v07_gaps_by_number(tmp_path, numbers, gaps):
    for number in numbers:
        (tmp_path / f"clip3_{number:06d}.jpg").write_bytes(b"")
    frames = list_frames(tmp_path)
    expected = [Gap(f"clip3_{a:06d}.jpg", f"clip3_{b:06d}.jpg", n) for a, b, n in gaps]
    assert list(frames.gaps) == expected
    assert frames.num_missing == sum(n for *_, n in gaps)


@pytest.mark.parametrize("names", [("a1.jpg", "b9.jpg"), ("x.jpg", "y.jpg", "z.jpg"), ()])
def test_v07_names_that_are_no_series_have_no_gaps(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert list_frames(tmp_path).gaps == ()
    assert list_frames(tmp_path).names == names


def test_two_images_of_one_frame_are_refused(tmp_path):
    for name in ("1.jpg", "1.png", "2.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"expected one image of each frame, got '1.jpg' and '1.p"):
        list_frames(tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match="expected a folder of frames, got no such file"):
        list_frames(tmp_path / "rgb")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="expected a folder of frames, got not a directory"):
        list_frames(tmp_path / "file")
