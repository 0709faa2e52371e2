"""Sizes of images: of one clip, within bounds, and changed on reading (V10, V11)."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from images_made import encoded, gradient, plain, refusal, save_image
from kineme.data.images import read_images, scaled_size


def test_v10_frames_of_different_size_are_refused_unless_a_size_is_asked_for(tmp_path):
    save_image(tmp_path / "1.png", plain(50))
    save_image(tmp_path / "2.png", plain(50, 8, 6))
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    assert refusal(*paths) == (
        f"{paths[1]}: expected 6 x 4 pixels as in '1.png', got 6 x 8. Frames of one clip have "
        "one size: extract them again, or ask for a fixed size."
    )
    refusal(*paths, short_side=4)
    assert read_images(paths, size=(5, 7)).tolist() == [[[[50] * 3] * 7] * 5] * 2


def test_v11_an_image_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    width = height = 20_000
    engine = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    data = b"".join(engine.compress(row) for _ in range(height)) + engine.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, part in (*chunks, (b"IEND", b"")):
        crc = zlib.crc32(kind + part)
        content += struct.pack(">I", len(part)) + kind + part + struct.pack(">I", crc)
    assert len(content) < 60_000
    path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REFUSED_SMALL, str(path)],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    message, grown = done.stdout.splitlines()
    assert message == f"{path}: expected at most 67,108,864 pixels, got 20000 x 20000."
    assert int(grown) < 20_000  # kB


REFUSED_SMALL = """
import resource, sys
from pathlib import Path
from kineme.data.images import image_size, read_images
from kineme.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (image_size, lambda path: read_images([path])):
    try:
        read(Path(sys.argv[1]))
    except DataError as error:
        message = str(error)
print(message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def webp_of_size(width, height):
    frame = bytearray(encoded(plain(0), "WEBP", lossless=True))
    at = frame.index(b"VP8L") + 9
    struct.pack_into("<I", frame, at, (width - 1) | (height - 1) << 14)
    return bytes(frame)


def test_v11_a_webp_bomb_is_refused_too(tmp_path):
    (tmp_path / "1.webp").write_bytes(webp_of_size(16_000, 10_000))
    assert "expected at most 67,108,864 pixels, got 16000 x 10000" in refusal(tmp_path / "1.webp")


def test_an_image_at_the_cap_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("kineme.data.images.MAX_PIXELS", 24)
    save_image(tmp_path / "1.png", plain(7))
    save_image(tmp_path / "2.png", plain(7, 5, 5))
    assert read_images([tmp_path / "1.png"]).max() == 7
    assert "expected at most 24 pixels, got 5 x 5" in refusal(tmp_path / "2.png")


def test_resizing_is_that_of_pillow(tmp_path):
    frame = gradient()
    save_image(tmp_path / "1.png", frame)
    expected = np.asarray(Image.fromarray(frame).resize((20, 10), Image.Resampling.BILINEAR))
    assert (read_images([tmp_path / "1.png"], size=(10, 20))[0] == expected).all()
    halved = read_images([tmp_path / "1.png"], short_side=24)
    assert halved.shape == (1, 24, 32, 3)
    expected = np.asarray(Image.fromarray(frame).resize((32, 24), Image.Resampling.BILINEAR))
    assert (halved[0] == expected).all()


@pytest.mark.parametrize(
    ("height", "width", "short_side", "scaled"),
    [
        (240, 320, 256, (256, 341)),
        (320, 240, 256, (341, 256)),
        (100, 100, 7, (7, 7)),
        (1, 1000, 3, (3, 3000)),
        (240, 426, 240, (240, 426)),
        (480, 853, 256, (256, 455)),  # 454.93
    ],
)
def test_the_short_side_keeps_the_aspect(height, width, short_side, scaled):
    assert scaled_size(height, width, short_side=short_side) == scaled


def test_a_path_may_be_asked_for_again(tmp_path):
    for number in (1, 2):
        save_image(tmp_path / f"{number}.png", plain(number))
    paths = [tmp_path / f"{number}.png" for number in (2, 1, 2, 2)]
    assert read_images(paths)[:, 0, 0, 0].tolist() == [2, 1, 2, 2]


def test_nothing_asked_for_is_a_bug_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="give paths"):
        read_images([])
    with pytest.raises(ValueError, match="at most one of size"):
        read_images([tmp_path / "1.png"], size=(2, 2), short_side=2)
