"""Images are whole or refused, and their colours come out right (V08, V09)."""

import os
import random
import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from images_made import encoded, gradient, plain, png, refusal, save_image
from kineme.data.images import image_size, read_images
from kineme.errors import DataError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize("ending", ["png", "bmp"])
@pytest.mark.parametrize("frame", [gradient(), gradient()[..., 0], gradient()[::2, ::-1]])
def test_what_is_saved_without_loss_is_read_as_it_was(tmp_path, ending, frame):
    path = tmp_path / "new" / f"1.{ending}"
    save_image(path, frame)
    expected = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
    assert (read_images([path])[0] == expected).all()


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
            f"{path}: expected a whole JPEG, got one without its end mark. Write or copy it again."
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
        f"{path}: expected a PNG, JPEG, WebP or BMP image, got {received}. Write or copy it again."
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
