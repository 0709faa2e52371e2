"""Compressed pictures as they lie in a file, and what comes out when they are decoded.

Promises: an error in the file ends or interrupts nothing; it becomes a complaint of the video.
Leaves out: what the packets add up to (frame_index.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kineme.data.video.files import MAX_FRAMES, MAX_PIXELS, OpenVideo
from kineme.data.video.nal_units import is_impossible, length_bytes
from kineme.errors import DataError


class Seen(NamedTuple):
    """What demuxing a file tells of one packet."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_shown: bool
    is_corrupt: bool


def read_packets(video: OpenVideo) -> tuple[list[Seen], VideoFrame | None]:
    """What every packet says, and the first picture that can be decoded."""
    packets: list[Seen] = []
    first: VideoFrame | None = None
    context = video.stream.codec_context
    length_size = length_bytes(context.name, context.extradata)
    is_cut = False
    for packet in demux(video):
        if first is None:
            pictures = decode_packet(video, packet)
            first = pictures[0] if pictures else None
        if packet is None:
            break
        is_cut = is_corrupt = packet.is_corrupt
        if length_size is not None and not is_corrupt:
            is_corrupt = is_impossible(bytes(packet), length_size)
        packets.append(
            Seen(
                packet.pts,
                packet.dts,
                packet.duration or 0,
                is_key=packet.is_keyframe,
                is_shown=_is_shown(packet, context.name),
                is_corrupt=is_corrupt,
            )
        )
        if len(packets) > MAX_FRAMES:
            raise DataError(video.path, f"a video of at most {MAX_FRAMES:,} frames", "more")
    if len(packets) > 1 and is_cut:
        packets.pop()
        video.complain("packets", "the last frame is cut off")
    return packets, first


def _is_shown(packet: Packet[VideoStream], codec: str) -> bool:
    """Whether a picture comes of it. VP8 has packets that are only referred to (RFC 6386, 9.1)."""
    is_hidden = codec in ("vp8", "libvpx") and packet.size and not bytes(packet)[0] & 0x10
    return bool(packet.size) and not packet.is_discard and not is_hidden


def demux(video: OpenVideo) -> Iterator[Packet[VideoStream] | None]:
    """The packets from here to the end, or to where the file cannot be read on (a complaint).

    Ends with None: decoding it gives the pictures that the decoder still holds. An AVI has packets
    without bytes where a picture is repeated.
    """
    packets = video.container.demux(video.stream)
    while True:
        try:
            with video.listening():
                packet = next(packets, None)
        except (av.FFmpegError, ValueError, MemoryError) as error:
            video.complain("demuxer", f"reading stopped: {error}")
            packet = None
        is_end = packet is None or (packet.size == 0 and packet.dts is None)
        yield None if is_end else packet
        if is_end:
            return


def decode_packet(video: OpenVideo, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """The pictures that come out when `packet` goes in; an error becomes a complaint."""
    if packet is not None and packet.size == 0:
        return []
    try:
        with video.listening():
            return video.stream.codec_context.decode(packet)
    except av.EOFError:
        return []  # the end was reached before
    except (av.FFmpegError, ValueError, MemoryError) as error:
        video.complain("decoder", f"decoding failed: {error}")
        return []


def no_pictures(video: OpenVideo, *, num_packets: int) -> DataError:
    """What to raise for a video of which nothing can be shown."""
    if num_packets == 0:
        return DataError(video.path, "a video", "a video stream without frames")
    for _, _, words in video.complaints:
        if size := re.match(r"Picture size (\d+x\d+) ", words):
            limit = f"a video of at most {MAX_PIXELS:,} pixels in a frame"
            return DataError(video.path, limit, f"one of {size[1]}")
    return DataError(video.path, "a video", f"no frame that can be decoded{first_error(video)}")


def first_error(video: OpenVideo) -> str:
    """The first complaint, to put behind a sentence; "" for none."""
    if not video.complaints:
        return ""
    words = " ".join(video.complaints[0][2].split()).strip(" .")
    return f", the first: {words}"
