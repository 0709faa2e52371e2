"""Videos with their labels on them.

Promises: the label stands on a darkened strip along the top of every frame, in a size that
fits; memory is that of a few frames; a file is complete or absent; every sample has a file
of its own inside the folder, whatever its id.
Leaves out: sound, and where the frames come from (network.Footage).

Frames are (H, W, 3) uint8 RGB.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from kineme.data.video.writing import encoder_note as encoder_note
from kineme.data.video.writing import write_video
from kineme.errors import printable
from kineme.network import Footage

ENDING = ".mp4"
DEFAULT_FPS = 25.0  # where nothing says it
TEXT_SHARE = 1 / 16  # of the height of a frame
SMALLEST_TEXT = 9  # pixels
DIMMED = 3  # the strip keeps this part of its light: 1 / 3
_MAX_NAME_BYTES = 200  # file systems allow 255


def write_annotated(path: Path, footage: Footage, text: str) -> int:
    """Write the footage with `text` on it; return how many frames it has.

    Raises DataError where the frames cannot be read, ResourceError where nothing can be written.
    """
    frames = _labelled(footage.frames, printable(text))
    return write_video(path, frames, footage.fps or DEFAULT_FPS, is_quick=True)


def file_names(ids: Sequence[str]) -> list[str]:
    """A path inside a folder for each id: `<id>.mp4`, and a number where that is taken."""
    taken: Counter[str] = Counter()
    names = []
    for one in ids:
        parts = [_part(part) for part in one.split("/") if part not in ("", ".", "..")]
        stem = "/".join(parts).removesuffix(ENDING) or "unnamed"
        name = stem
        while taken[name]:
            taken[stem] += 1
            name = f"{stem}-{taken[stem]}"
        taken[name] += 1
        names.append(name + ENDING)
    return names


def _part(part: str) -> str:
    """One step of a path, printable and short enough."""
    text = "".join(c if c.isprintable() else "_" for c in part)
    return text.encode("utf-8", "replace")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")


def _labelled(frames: Iterator[NDArray[np.uint8]], text: str) -> Iterator[NDArray[np.uint8]]:
    letters = np.zeros((0, 0), np.uint8)
    for frame in frames:
        if letters.shape[1] != frame.shape[1]:
            letters = draw_text(text, frame.shape[0], frame.shape[1])
        labelled = frame.copy()
        strip = labelled[: len(letters)]
        np.maximum(strip // DIMMED, letters[..., None], out=strip)
        yield labelled


def draw_text(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """(h, width): white letters on black, h <= height; smaller, then cut, where they are many."""
    size = max(round(height * TEXT_SHARE), SMALLEST_TEXT)
    font = font_of(size)
    margin = size // 3
    room = max(width - 2 * margin, 1)
    if font.getlength(text) > room:
        font = font_of(max(int(size * room / font.getlength(text)), SMALLEST_TEXT))
    while len(text) > 1 and font.getlength(text) > room:
        text = text[:-2] + "…"
    tall = min(round(font.size * 1.5), height)
    strip = Image.new("L", (width, tall))
    ImageDraw.Draw(strip).text((margin, tall / 2), text, fill=255, font=font, anchor="lm")
    return np.asarray(strip)


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The letters of a size in pixels."""
    import matplotlib  # takes a while, and few runs draw; its font knows many scripts

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)
