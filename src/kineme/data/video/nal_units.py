"""Damage in H.264 and HEVC packets that decoders pass over: bytes that no encoder can write.

Both standards forbid the bytes 0 0 0 and 0 0 2 inside a NAL unit (an encoder breaks them up with
a 3: ISO/IEC 14496-10, 7.4.1), a first bit that is set, and lengths that do not add up to the
packet. A decoder fed zeroed bytes often draws garbage and says nothing.

Promises: a packet of a clean file is never accused. Zeros behind a unit are a muxer's padding,
and 0 0 1 is a start code, which some muxers leave where they put lengths.
Leaves out: everything inside the units.
"""

from __future__ import annotations

import re

_IMPOSSIBLE = re.compile(rb"\x00\x00(?:\x02|\x00+[^\x00\x01])")


def length_bytes(codec: str, extradata: bytes | None) -> int | None:
    """How many bytes a unit's length takes in packets; 0: start codes instead; None: no such codec.

    The header of mp4 and Matroska (avcC, hvcC: ISO/IEC 14496-15) begins with version 1.
    """
    at = {"h264": 4, "hevc": 21}.get(codec)
    if at is None:
        return None
    if not extradata or extradata[0] != 1 or len(extradata) <= at:
        return 0
    return (extradata[at] & 3) + 1


def is_impossible(packet: bytes, length_size: int) -> bool:
    """Whether no encoder can have written this packet of H.264 or HEVC."""
    if length_size == 0:
        return _holds_impossible(packet)
    position, end = 0, len(packet)
    while position < end:
        start = position + length_size
        length = int.from_bytes(packet[position:start], "big")
        position = start + length
        if position > end:
            return True
        if length and packet[start] & 0x80:
            return True
        if _holds_impossible(packet[start:position]):
            return True
    return False


def _holds_impossible(data: bytes) -> bool:
    return b"\0\0" in data and _IMPOSSIBLE.search(data) is not None
