"""Images are written whole, and read as they were."""

import os

import numpy as np
import pytest

from images_made import gradient, plain
from kineme.data.images import read_images, save_image
from kineme.errors import ResourceError


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
