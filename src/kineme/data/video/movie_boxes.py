"""What the boxes of an mp4 or mov say, before FFmpeg sets memory aside for it.

Promises: reads a few bytes of each box and nothing of the pictures; never more than a fixed
number of boxes; a file that is no mp4 claims nothing. The format is ISO/IEC 14496-12.
Leaves out: everything but the number of frames and whether there is an index at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kineme.data.inputs import InputFile

_MAX_BOXES = 100_000
_FOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"}
_FIRST = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp"}
# Where the number of frames stands in the body of a box.
_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4}


class _Box(NamedTuple):
    kind: bytes
    body: int  # offset of the first byte after the header
    end: int


def claimed_frames(file: InputFile) -> int:
    """The most frames (samples) that any table of the file claims; 0 for a file that is no mp4."""
    most = 0
    fragments = 0
    for box in _boxes(file):
        offset = _COUNT_AT.get(box.kind)
        if offset is None or box.body + offset + 4 > file.stamp.size:
            continue
        count = int.from_bytes(file.read(box.body + offset, 4), "big")
        if box.kind == b"trun":
            fragments += count
        most = max(most, count, fragments)
    return most


def has_no_index(file: InputFile) -> bool:
    """Whether this is an mp4 that has neither a moov box nor fragments."""
    kinds = {box.kind for box in _boxes(file)}
    return bool(kinds & _FIRST) and not kinds & {b"moov", b"moof"}


def _boxes(file: InputFile) -> Iterator[_Box]:
    """The boxes of the file, those in folders after their folder. Empty for other formats."""
    size = file.stamp.size
    if size < 8 or file.read(4, 4) not in _FIRST:
        return
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > size:
            return
        header = file.read(position, min(16, size - position))
        length, kind, body = int.from_bytes(header[:4], "big"), header[4:8], position + 8
        if length == 1 and len(header) == 16:
            length, body = int.from_bytes(header[8:], "big"), position + 16
        end = position + length if length else size
        yield _Box(kind, body, end)
        if kind in _FOLDERS:
            position = body
        elif end > position:
            position = end
        else:
            return
