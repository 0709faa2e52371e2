"""Frame folders: order, gaps, strict decoding, colours, sizes (V02, V05 to V11)."""

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kineme.data.images import (
    Gap,
    check_pairs,
    image_size,
    list_frames,
    natural_order,
    read_flow_images,
    read_images,
    save_image,
    scaled_size,
)
from kineme.errors import DataError, ResourceError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(value, height=4, width=6):
    """An RGB frame of one gray value."""
    return np.full((height, width, 3), value, np.uint8)


def gradient(height=48, width=64, *, noise=0):
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x * 4, y * 4, x + y * 2], -1) % 256
    shaken = planes + np.random.default_rng(0).normal(0, noise, planes.shape)
    return np.clip(shaken, 0, 255).astype(np.uint8)


def encoded(image, format_name, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, format_name, **options
    )
    return buffer.getvalue()


def png(width, height, *, bits, colour, rows, extra=b""):
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(rows)
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def refusal(*paths, read=read_images, **options):
    with pytest.raises(DataError) as caught:
        read(list(paths), **options)
    assert caught.value.exit_code == 3
    return str(caught.value)


# Listing


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


# Strict decoding


def test_v08_a_jpeg_cut_anywhere_is_refused_and_never_gray(tmp_path):
    content = encoded(gradient(noise=9), "JPEG", quality=90)
    path = tmp_path / "000001.jpg"
    for cut in (3, 30, 300, len(content) // 2, len(content) - 300, len(content) - 2):
        path.write_bytes(content[:cut])
        assert refusal(path).startswith(f"{path}: expected a whole JPEG")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_v08_a_jpeg_with_zeros_for_its_tail_is_refused(tmp_path, options):
    content = encoded(gradient(noise=9), "JPEG", quality=90, **options)
    path = tmp_path / "000001.jpg"
    for kept in (len(content) // 2, len(content) - 2):
        path.write_bytes(content[:kept] + bytes(4 * len(content)))
        assert refusal(path) == (
            f"{path}: expected a whole JPEG, got one without its end mark. "
            "Write or copy it again, or set dataset.bad_sample: skip."
        )


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "BMP"])
def test_v08_other_formats_cut_are_refused(tmp_path, format_name):
    content = encoded(gradient(noise=9), format_name)
    path = tmp_path / "000001.png"
    for cut in (8, 20, 60, len(content) // 2, len(content) - 200):
        path.write_bytes(content[:cut])
        refusal(path)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"<html>", "a web page"),
        (b"Not found\n", "text"),
        (bytes(1000), "nothing but zero bytes"),
        (b"GIF89a" + bytes(20), "a GIF"),
        (b"II*\0" + bytes(20), "a TIFF"),
        (b"\0\0\0\x20ftypisom" + bytes(20), "a video"),
        (
            b"\x07\x08\x09\xff" + bytes(20),
            "other bytes, b'\\x07\\x08\\t\\xff\\x00\\x00\\x00\\x00'...",
        ),
    ],
)
def test_v08_what_is_no_image_is_named(tmp_path, content, received):
    path = tmp_path / "000001.jpg"
    path.write_bytes(content)
    assert refusal(path) == (
        f"{path}: expected a PNG, JPEG, WebP or BMP image, got {received}. "
        "Write or copy it again, or set dataset.bad_sample: skip."
    )


def test_v08_content_decides_not_the_name(tmp_path):
    frame = gradient()
    path = tmp_path / "000001.jpg"
    path.write_bytes(encoded(frame, "PNG"))
    assert (read_images([path])[0] == frame).all()


def test_a_file_that_is_none_is_refused_without_waiting(tmp_path):
    assert "got no such file or directory" in refusal(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert "got a FIFO" in refusal(tmp_path / "2.png")


def test_an_animation_is_no_frame(tmp_path):
    path = tmp_path / "1.webp"
    first, second = Image.fromarray(plain(1)), Image.fromarray(plain(200))
    path.write_bytes(encoded(first, "WEBP", save_all=True, append_images=[second]))
    assert "expected one image, got an animation" in refusal(path)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "BMP"])
def test_damaged_bytes_give_an_image_or_a_data_error_and_nothing_else(tmp_path, format_name):
    content = encoded(gradient(16, 24, noise=9), format_name)
    path = tmp_path / "1.png"
    draws = random.Random(1)
    outcomes = set()
    for _ in range(150):
        mutated = bytearray(content)
        for _ in range(draws.choice((1, 3, 10))):
            mutated[draws.randrange(draws.choice((64, len(mutated))))] = draws.randrange(256)
        path.write_bytes(mutated)
        try:
            outcomes.add(read_images([path]).dtype.name)
        except DataError as error:
            outcomes.add(str(error)[: len(f"{path}: expected ")])
    assert outcomes - {"uint8"} == {f"{path}: expected "}


def test_v08_a_png_with_any_bit_flipped_is_refused(tmp_path):
    frame = gradient(16, 24, noise=9)
    content = encoded(frame, "PNG")
    path = tmp_path / "1.png"
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        refusal(path)
    path.write_bytes(content[:-1])
    assert "expected a whole PNG, got one that is cut off or fails its check" in refusal(path)


# Colours


def one(path, content):
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_images([path])[0]


def test_v09_gray_is_repeated(tmp_path):
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    pixels = one(tmp_path / "1.png", encoded(gray, "PNG"))
    assert (pixels == gray[..., None]).all()
    jpeg = one(tmp_path / "1.jpg", encoded(np.full((16, 16), 77, np.uint8), "JPEG"))
    assert jpeg.tolist() == [[[77, 77, 77]] * 16] * 16
    bits = one(tmp_path / "2.png", encoded(Image.fromarray(gray > 100).convert("1"), "PNG"))
    assert (bits == np.where(gray > 100, 255, 0)[..., None]).all()


def test_v09_sixteen_bits_keep_their_high_byte(tmp_path):
    values = np.array([[0, 255, 256, 0x1234, 0x7FFF, 0xFFFF]], np.uint16)
    pixels = one(tmp_path / "1.png", encoded(values, "PNG"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 0x12, 0x7F, 255]
    colour = struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x00FF, 0x0100)
    pixels = one(tmp_path / "2.png", png(2, 1, bits=16, colour=2, rows=b"\0" + colour))
    assert pixels.tolist() == [[[0x12, 0x80, 255], [0, 0, 1]]]


def test_v09_cmyk_is_converted_also_as_adobe_inverts_it(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :8] = (0, 255, 255, 0)  # no cyan: red
    inks[:, 8:] = (0, 0, 0, 255)  # black
    image = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    pixels = one(tmp_path / "1.jpg", encoded(image, "JPEG", quality=100)).astype(int)
    assert np.abs(pixels[4, 2] - RED).max() <= 3
    assert np.abs(pixels[4, 13]).max() <= 3


def test_v09_alpha_is_dropped_and_the_colour_below_kept(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., :3] = (10, 200, 30)
    rgba[0, 0, 3] = 255
    assert (one(tmp_path / "1.png", encoded(rgba, "PNG")) == (10, 200, 30)).all()
    gray_alpha = np.array([[[90, 0], [90, 255]]], np.uint8)
    image = Image.frombytes("LA", (2, 1), gray_alpha.tobytes())
    assert one(tmp_path / "2.png", encoded(image, "PNG")).tolist() == [[[90] * 3] * 2]


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0, 128])])
def test_v09_a_palette_gives_its_colours(tmp_path, transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([2, 1, 0])
    options = {} if transparency is None else {"transparency": transparency}
    pixels = one(tmp_path / "1.png", encoded(image, "PNG", **options))
    assert pixels.tolist() == [[list(BLUE), list(GREEN), list(RED)]]


EXIF_PIXELS = {  # what a viewer shows of the stored rows [[1, 2, 3], [4, 5, 6]]
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_v09_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40
    shown = np.array(EXIF_PIXELS[orientation]) * 40
    path = tmp_path / "1.png"
    assert (one(path, encoded(stored, "PNG", exif=exif)) == shown[..., None]).all()
    assert image_size(path) == shown.shape
    large = np.kron(stored, np.ones((16, 16), np.uint8))
    jpeg = one(tmp_path / "1.jpg", encoded(large, "JPEG", exif=exif, quality=100)).astype(int)
    assert np.abs(jpeg[8::16, 8::16, 0] - shown).max() <= 2
    assert image_size(tmp_path / "1.jpg") == (16 * shown.shape[0], 16 * shown.shape[1])


def test_v09_exif_that_nobody_can_read_leaves_the_image_as_stored(tmp_path):
    content = encoded(plain(9), "PNG", exif=b"Exif\0\0XX\0\0\xff\xff\xff\xff")
    assert (one(tmp_path / "1.png", content) == 9).all()


# Sizes


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


# Flow


def flow_folders(root, u_names, v_names):
    for folder, names, first in (("u", u_names, 100), ("v", v_names, 200)):
        (root / folder).mkdir()
        for i, name in enumerate(names):
            save_image(root / folder / name, np.full((4, 6), first + i, np.uint8))
    return [list_frames(root / folder).paths for folder in "uv"]


def test_flow_is_u_then_v(tmp_path):
    names = [f"{number:06d}.png" for number in (1, 2, 3)]
    flow = read_flow_images(*flow_folders(tmp_path, names, names))
    assert flow.shape == (3, 4, 6, 2)
    assert flow.flags.c_contiguous
    assert flow[:, 3, 5].tolist() == [[100, 200], [101, 201], [102, 202]]
    assert read_flow_images(
        [tmp_path / "u" / names[1]], [tmp_path / "v" / names[1]], size=(1, 2)
    ).tolist() == [[[[101, 201], [101, 201]]]]


@pytest.mark.parametrize(
    ("u", "v", "lone"),
    [
        ("1 2 3 4", "1 2 4", "u/3"),
        ("1 2 4", "1 2 3 4", "v/3"),
        ("1 2 3", "1 2", "u/3"),
        ("1", "1 2 3", "v/2"),
        ("", "5 6", "v/5"),
        ("1 2", "8 9", "u/1"),
    ],
)
def test_v02_the_first_flow_image_without_a_partner_is_named(u, v, lone):
    u_paths, v_paths = (
        [Path(f"clip/{folder}/{number}.jpg") for number in numbers.split()]
        for folder, numbers in (("u", u), ("v", v))
    )
    with pytest.raises(DataError) as caught:
        check_pairs(u_paths, v_paths)
    other = "v" if lone.startswith("u") else "u"
    assert str(caught.value) == (
        f"clip/{lone}.jpg: expected an image of the same name in {other}/, got none "
        f"({len(u_paths)} images in u/, {len(v_paths)} in v/). "
        "Compute the flow again, or remove the image."
    )


def test_v02_reading_flow_checks_the_pairs(tmp_path):
    u, v = flow_folders(tmp_path, ["1.png", "2.png"], ["1.png", "3.png"])
    with pytest.raises(DataError, match=r"u/2.png: expected an image of the same name in v/"):
        read_flow_images(u, v)


@pytest.mark.parametrize(
    ("image", "received"),
    [
        (Image.new("RGB", (6, 4)), "a colour image"),
        (Image.new("I;16", (6, 4)), "16-bit gray"),
        (Image.new("P", (6, 4)), "a palette"),
        (Image.new("1", (6, 4)), "1-bit gray"),
    ],
)
def test_flow_that_is_not_8_bit_gray_is_refused(tmp_path, image, received):
    (tmp_path / "1.png").write_bytes(encoded(image, "PNG"))
    path = tmp_path / "1.png"
    with pytest.raises(DataError) as caught:
        read_flow_images([path], [path])
    assert str(caught.value) == f"{path}: expected an 8-bit gray image of flow, got {received}."


def test_flow_that_is_rotated_by_exif_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "1.png"
    path.write_bytes(encoded(np.zeros((4, 6), np.uint8), "PNG", exif=exif))
    with pytest.raises(DataError, match="got one with EXIF rotation"):
        read_flow_images([path], [path])


# Writing


@pytest.mark.parametrize("ending", ["png", "bmp"])
@pytest.mark.parametrize("frame", [gradient(), gradient()[..., 0], gradient()[::2, ::-1]])
def test_what_is_saved_without_loss_is_read_as_it_was(tmp_path, ending, frame):
    path = tmp_path / "new" / f"1.{ending}"
    save_image(path, frame)
    expected = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
    assert (read_images([path])[0] == expected).all()
    assert os.listdir(path.parent) == [path.name]


def test_quality_is_that_of_jpeg(tmp_path):
    sizes = []
    for quality in (30, 95):
        save_image(tmp_path / "1.jpg", gradient(), quality=quality)
        sizes.append((tmp_path / "1.jpg").stat().st_size)
        assert (tmp_path / "1.jpg").read_bytes()[:3] == b"\xff\xd8\xff"
    assert sizes[0] < sizes[1]


def test_a_failed_write_leaves_the_image_that_was_there(tmp_path):
    save_image(tmp_path / "1.png", plain(3))
    with pytest.raises(TypeError):
        save_image(tmp_path / "1.png", np.zeros((2, 2, 7), np.uint8))
    assert read_images([tmp_path / "1.png"]).max() == 3
    with pytest.raises(ValueError, match=r"no image format of ending '.gif'"):
        save_image(tmp_path / "1.gif", plain(3))
    with pytest.raises(ResourceError):
        save_image(tmp_path / "1.png" / "2.png", plain(3))
    assert os.listdir(tmp_path) == ["1.png"]
