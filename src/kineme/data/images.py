"""Frames that lie in folders as image files: listed in order, read strictly.

Promises: frames come in the order of their numbers, padded or not; what a file is its
content decides, not its name (a PNG called .jpg is read as the PNG it is); an image that
is cut off, damaged, none at all or too large is a DataError that names file and reason,
never a frame filled up with gray. Colour comes as 8-bit RGB, upright: gray is repeated,
16-bit values keep their high byte, alpha is dropped, EXIF rotation is applied.
Leaves out: damage inside a JPEG that has its end mark (the format has no checksum), and
which frames are wanted (clip_sampling.py).

T frames; images (T, H, W, 3), flow (T, H, W, 2) uint8. Sizes are (height, width).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from kineme.data.inputs import read_bytes
from kineme.data.names import natural_order
from kineme.errors import DataError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MAX_PIXELS = 1 << 26  # 64 Mpx: 192 MiB as RGB
MEND = "Write or copy it again."  # an image that cannot be read

_MAX_FILE_BYTES = 1 << 28
_DIGITS = re.compile(r"([0-9]+)")
_ORIENTATION = 0x0112  # the EXIF tag
_Convert = Callable[[Path, ImageFile, int], Image.Image]  # (path, image, EXIF orientation)
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, LookupError)


class Gap(NamedTuple):
    """Frames that are missing between two others, by their numbers."""

    after: str
    before: str
    num_missing: int


@dataclass(frozen=True)
class Frames:
    """The frames of a folder, in order. ignored: other visible and hidden entries of it."""

    folder: Path
    names: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the frames are."""
        return tuple(self.folder / name for name in self.names)

    @property
    def num_missing(self) -> int:
        """Frames that the numbers say should be there."""
        return sum(gap.num_missing for gap in self.gaps)


def list_frames(folder: str | os.PathLike[str]) -> Frames:
    """The images of `folder` by their endings, in natural order; hidden files are none.

    A gap is a step between numbers well above the usual one of the folder, which may be 1,
    5 or milliseconds. Raises DataError where two images differ only in their ending.
    """
    folder = Path(folder)
    names: list[str] = []
    ignored: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_image = entry.name.lower().endswith(IMAGE_ENDINGS)
                is_frame = is_image and not entry.name.startswith(".") and not entry.is_dir()
                (names if is_frame else ignored).append(entry.name)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise DataError(str(folder), "a folder of frames", reason) from error
    names = natural_order(names)
    _check_one_image_each(folder, names)
    return Frames(folder, tuple(names), tuple(natural_order(ignored)), tuple(_gaps(names)))


def check_pairs(u_paths: Sequence[Path], v_paths: Sequence[Path]) -> None:
    """Flow is read from files of the same names. Raises DataError at the first without one."""
    v_names = {path.name for path in v_paths}
    for u, v in zip_longest(u_paths, v_paths):
        if u is not None and v is not None and u.name == v.name:
            continue
        lone, is_u = (u, True) if u is not None and u.name not in v_names else (v or u, v is None)
        raise DataError(
            str(lone),
            f"an image of the same name in {'v' if is_u else 'u'}/",
            f"none ({len(u_paths)} images in u/, {len(v_paths)} in v/)",
            "Compute the flow again, or remove the image.",
        )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of an upright image, from its header where that says it."""
    path = Path(path)
    image, has_metadata = _open(path)
    with _damage_named(path, image.format):
        is_turned = has_metadata and _orientation(image) >= 5
    return (image.width, image.height) if is_turned else (image.height, image.width)


def read_images(
    paths: Sequence[Path], *, size: tuple[int, int] | None = None, short_side: int | None = None
) -> NDArray[np.uint8]:
    """(T, H, W, 3) uint8 RGB; a path may occur more than once.

    size: (height, width) to stretch to. short_side: pixels of the shorter side, aspect kept.
    Resizing is Pillow's bilinear filter, as TAO resizes. Raises DataError for a bad image,
    and for images of different sizes unless `size` is given.
    """
    return _stacked(paths, _rgb, size=size, short_side=short_side)


def read_flow_images(
    u_paths: Sequence[Path],
    v_paths: Sequence[Path],
    *,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
) -> NDArray[np.uint8]:
    """(T, H, W, 2) uint8, u then v, from pairs of 8-bit gray images of the same names.

    Values are resized like colours and not scaled. Raises DataError as `read_images`, for an
    image that is not 8-bit gray, and at the first file without a partner.
    """
    check_pairs(u_paths, v_paths)
    paths = [path for pair in zip(u_paths, v_paths, strict=True) for path in pair]
    flat = _stacked(paths, _flow, size=size, short_side=short_side)  # (2T, H, W)
    pairs = flat.reshape(len(u_paths), 2, *flat.shape[1:])
    return np.ascontiguousarray(pairs.transpose(0, 2, 3, 1))


def scaled_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side `short_side`, the other rounded as videos' is."""
    if height <= width:
        return short_side, max(round(width * short_side / height), 1)
    return max(round(height * short_side / width), 1), short_side


def _check_one_image_each(folder: Path, names: Sequence[str]) -> None:
    for first, second in pairwise(names):
        if os.path.splitext(first)[0] == os.path.splitext(second)[0]:
            raise DataError(
                str(folder),
                "one image of each frame",
                f"{first!r} and {second!r}",
                "Keep the images of one ending.",
            )


def _gaps(names: Sequence[str]) -> Iterator[Gap]:
    """Where the last number of the names jumps; nothing where they are not one series."""
    parts = [_DIGITS.split(os.path.splitext(name)[0]) for name in names]
    if len({(*part[:-2], part[-1]) for part in parts}) != 1 or len(parts[0]) < 3:
        return
    numbers = [int(part[-2]) for part in parts]
    steps = Counter(after - before for before, after in pairwise(numbers) if after > before)
    if not steps:
        return
    usual = min(steps, key=lambda step: (-steps[step], step))
    for index, (before, after) in enumerate(pairwise(numbers)):
        num_missing = round((after - before) / usual) - 1
        if num_missing > 0:
            yield Gap(names[index], names[index + 1], num_missing)


def _stacked(
    paths: Sequence[Path],
    convert: _Convert,
    *,
    size: tuple[int, int] | None,
    short_side: int | None,
) -> NDArray[np.uint8]:
    """The images as one array; each file is decoded once."""
    if not paths or (size and short_side):
        raise ValueError("give paths, and at most one of size and short_side")
    places: dict[Path, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(path, []).append(place)
    frames: NDArray[np.uint8] | None = None
    first_size = (0, 0)
    for path, where in places.items():
        image = _decoded(path, convert)
        found = (image.height, image.width)
        if frames is None:
            first_size = found
        elif size is None and found != first_size:
            _refuse_other_size(path, found, paths[0], first_size)
        target = scaled_size(*found, short_side=short_side) if short_side else size or found
        if target != found:
            image = image.resize((target[1], target[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        if frames is None:
            frames = np.empty((len(paths), *pixels.shape), np.uint8)
        frames[where] = pixels
    if frames is None:
        raise ValueError("no paths")
    return frames


def _refuse_other_size(
    path: Path, found: tuple[int, int], first: Path, expected: tuple[int, int]
) -> None:
    raise DataError(
        str(path),
        f"{expected[1]} x {expected[0]} pixels as in {first.name!r}",
        f"{found[1]} x {found[0]}",
        "Frames of one clip have one size: extract them again, or ask for a fixed size.",
    )


def _decoded(path: Path, convert: _Convert) -> Image.Image:
    image, has_metadata = _open(path)
    with _damage_named(path, image.format):
        image.load()
        return convert(path, image, _orientation(image) if has_metadata else 1)


def _rgb(path: Path, image: ImageFile, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    upright: Image.Image = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I"):  # 16-bit gray, which convert() would clip at 255
        high_bytes = np.asarray(upright).astype(np.uint32) >> 8
        upright = Image.fromarray(high_bytes.astype(np.uint8))
    if upright.mode == "P":  # straight to RGB would warn where the palette has alpha
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _flow(path: Path, image: ImageFile, orientation: int) -> Image.Image:
    is_turned = orientation in _TURNS
    if image.mode != "L" or is_turned:
        received = "one with EXIF rotation" if is_turned else _MODES.get(image.mode, image.mode)
        raise DataError(str(path), "an 8-bit gray image of flow", received)
    return image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MODES = {"RGB": "a colour image", "I;16": "16-bit gray", "1": "1-bit gray", "P": "a palette"}


def _orientation(image: ImageFile) -> int:
    """1 to 8; 1 where the file does not say, or says it in EXIF that nobody can read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return found if type(found) is int else 1


def _open(path: Path) -> tuple[ImageFile, bool]:
    """An image whose size is checked, not decoded yet, and whether it may have metadata."""
    content = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
    opener = next((o for magic, o in _OPENERS if re.match(magic, content, re.DOTALL)), None)
    if opener is None:
        expected = "a PNG, JPEG, WebP or BMP image"
        raise DataError(str(path), expected, _kind(content), MEND)
    with _damage_named(path, opener.format):
        image = opener(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        received = f"{image.width} x {image.height}"
        raise DataError(str(path), f"at most {MAX_PIXELS:,} pixels", received)
    if getattr(image, "is_animated", False):
        raise DataError(str(path), "one image", "an animation")
    if opener is JpegImageFile and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise DataError(str(path), "a whole JPEG", "one without its end mark", MEND)
    return image, opener is not PngImageFile or _check_png(path, content)


def _check_png(path: Path, content: bytes) -> bool:
    """Hold all chunks against their CRC-32, as Pillow does not; whether metadata is among them.

    Asking Pillow for the EXIF of a PNG without any would decode all of it.
    """
    at, kind, kinds = 8, b"", set()
    while kind != b"IEND":
        length = int.from_bytes(content[at : at + 4], "big")
        kind, end = content[at + 4 : at + 8], at + 8 + length
        crc = zlib.crc32(memoryview(content)[at + 4 : end])
        if crc.to_bytes(4, "big") != content[end : end + 4]:
            raise DataError(
                str(path), "a whole PNG", "one that is cut off or fails its check", MEND
            )
        kinds.add(kind)
        at = end + 4
    return not kinds.isdisjoint({b"eXIf", b"tEXt", b"zTXt", b"iTXt"})


# By content, and by the classes themselves: Image.open would warn of large images.
_OPENERS: tuple[tuple[bytes, type[ImageFile]], ...] = (
    (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    (rb"\xff\xd8\xff", JpegImageFile),
    (rb"RIFF....WEBP", WebPImageFile),
    (rb"BM", BmpImageFile),
)
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page"),
    (rb"GIF8", "a GIF"),
    (rb"II\*\0|MM\0\*", "a TIFF"),
    (rb"....ftyp(avif|heic|heif|mif1)", "an AVIF or HEIF image"),
    (rb"....ftyp", "a video"),
    (rb"\0+\Z", "nothing but zero bytes"),
    (rb"[\t\n\r -~]+\Z", "text"),
)


def _kind(content: bytes) -> str:
    """What a file that is no image is instead, in a few words."""
    head = content[:512]
    for pattern, name in _OTHERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return name
    return f"other bytes, {head[:8]!r}..." if content else "an empty file"


@contextlib.contextmanager
def _damage_named(path: Path, format_name: str | None) -> Iterator[None]:
    """What Pillow says about bytes that are not what their format asks for, as a DataError."""
    try:
        yield
    except Image.DecompressionBombError as error:  # of WebP, whose decoder is made beforehand
        raise DataError(str(path), f"at most {MAX_PIXELS:,} pixels", str(error)[:40]) from error
    except _DAMAGE as error:
        reason = f"a damaged one ({str(error)[:80] or type(error).__name__})"
        raise DataError(str(path), f"a whole {format_name} image", reason, MEND) from error
