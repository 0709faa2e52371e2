"""Images made on the spot, and what is said of those that cannot be read."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kineme.data.images import read_images
from kineme.errors import DataError


def plain(value, height=4, width=6):
    """An RGB frame of one gray value."""
    return np.full((height, width, 3), value, np.uint8)


def gradient(height=48, width=64, *, noise=0):
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x * 4, y * 4, x + y * 2], -1) % 256
    shaken = planes + np.random.default_rng(0).normal(0, noise, planes.shape)
    return np.clip(shaken, 0, 255).astype(np.uint8)


def save_image(path, frame):
    """Write (H, W, 3) RGB or (H, W) gray in the format of the path's ending."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(frame)).save(path)


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
