"""Flow in two folders of gray images: pairs, order, depth (V02)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images_made import encoded, save_image
from kineme.data.images import check_pairs, list_frames, read_flow_images
from kineme.errors import DataError


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
