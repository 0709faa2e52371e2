"""Pictures by number: decode the groups that hold them, and nothing else.

Promises: a picture is the one that a full decode gives, whatever was skipped; where starting at
a key frame turns out not to be exact, decoding starts at the beginning of the file; a picture
that cannot be decoded is missing from the answer, never guessed.
Leaves out: what stands in for a missing picture, and the order and repeats asked for (__init__.py).

Slots, packets and time stamps are those of frame_index.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import av
import numpy as np
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from kineme.data.video.files import OpenVideo, open_video
from kineme.data.video.frame_index import NO_TIME, FrameIndex, PacketTable
from kineme.data.video.packets import decode_packet, demux

_SKIPS_UNREFERENCED = ("h264", "hevc")  # decoders that can pass over what nothing else refers to
_INTRA = (PictureType.NONE, PictureType.I, PictureType.SI, PictureType.BI)

Keep = Callable[[int, VideoFrame], None]  # (slot, picture)


@dataclass
class Decoded:
    """What decoding some pictures came to.

    missing: slots that did not come out. num_corrupt: pictures the decoder calls corrupt.
    is_seek_exact: whether starting at key frames gave what decoding from the start gives.
    """

    missing: set[int]
    num_corrupt: int = 0
    errors: list[str] = field(default_factory=list)
    is_seek_exact: bool = True


def decode_slots(
    video: OpenVideo, index: FrameIndex, slots: Sequence[int], keep: Keep, *, seeks: bool = True
) -> Decoded:
    """Decode the pictures `slots` (rising, no repeats); each goes to `keep` at least once.

    seeks: False starts at the beginning of the file. `video` may stand anywhere in it.
    """
    decoded = Decoded(missing=set(slots))
    if not seeks or index.table is None:
        _decode_from_start(video, index.table, keep, decoded)
        return decoded
    is_exact = _decode_groups(video, index.table, slots, keep, decoded)
    if is_exact and not decoded.missing:
        return decoded
    again = Decoded(missing=set(slots))
    _decode_from_start(video, index.table, keep, again)
    again.is_seek_exact = is_exact and len(again.missing) == len(decoded.missing)
    return again


def _decode_groups(
    video: OpenVideo, table: PacketTable, slots: Sequence[int], keep: Keep, decoded: Decoded
) -> bool:
    """Decode from key frame to picture, group by group. False where that is not exact."""
    wanted = frozenset(table.packet[list(slots)].tolist())
    stretch: _Stretch | None = None
    for slot in slots:
        if slot not in decoded.missing:
            continue
        start = int(table.start[slot])
        if stretch is None or not stretch.begin <= start <= stretch.position:
            landed = _seek(video, table, start)
            if landed is None:
                return False
            stretch = _Stretch(video, table, landed, wanted=wanted, keep=keep, decoded=decoded)
        if not stretch.run_to(slot):
            return False
    return True


class _Landing(NamedTuple):
    """Where a seek ended: the number of a key packet, itself, and what follows it."""

    number: int
    packet: Packet[VideoStream]
    rest: Iterator[Packet[VideoStream] | None]


def _seek(video: OpenVideo, table: PacketTable, start: int) -> _Landing | None:
    """Go to key packet `start`, or to one before it. None where no seek leads there."""
    at = int(np.searchsorted(table.key, start))
    depth = video.stream.codec_context.reorder_depth
    for stamp in (int(table.key_pts[at]), int(table.key_dts[at])):
        if stamp == NO_TIME:
            continue
        try:
            with video.listening():
                video.container.seek(stamp, stream=video.stream)
        except (av.FFmpegError, ValueError):
            continue
        video.stream.codec_context.reorder_depth = depth  # a flushed decoder forgets it
        packets = demux(video)
        for packet in packets:
            number = table.number_at(packet.pts) if packet else start + 1
            if packet is None or number > start:
                break
            if packet.is_keyframe and number >= 0:
                return _Landing(number, packet, packets)
    return None


class _Stretch:
    """Packets decoded without a break from a key frame on; `begin` is its packet, `position`
    the next one."""

    def __init__(
        self,
        video: OpenVideo,
        table: PacketTable,
        landing: _Landing,
        *,
        wanted: frozenset[int],
        keep: Keep,
        decoded: Decoded,
    ) -> None:
        self.begin = self.position = landing.number
        self._video, self._table, self._wanted = video, table, wanted
        self._keep, self._decoded = keep, decoded
        self._packets = itertools.chain([landing.packet], landing.rest)
        self._context = video.stream.codec_context
        self._skips = self._context.name in _SKIPS_UNREFERENCED
        self._shown = NO_TIME  # time stamp of the last picture that came out
        # What is shown before the key frame it began at is not to be trusted, and not needed.
        self._floor = NO_TIME if self.begin == 0 else int(landing.packet.pts or 0)

    def run_to(self, slot: int) -> bool:
        """Decode until `slot` has come out or cannot come any more. False: start elsewhere."""
        due = int(self._table.pts[slot])
        while slot in self._decoded.missing and self._shown <= due:
            packet = next(self._packets, None)
            if packet is not None:
                number = self._table.number_at(packet.pts)
                self.position = number + 1 if number >= 0 else self.position
                if self._skips:
                    self._context.skip_frame = "DEFAULT" if number in self._wanted else "NONREF"
            complaints_before = len(self._video.complaints)
            pictures = decode_packet(self._video, packet)
            if packet is None or packet.pts is None or packet.pts >= self._floor:
                new = [words for _, _, words in self._video.complaints[complaints_before:]]
                self._decoded.errors.extend(w for w in new if not self._is_of_the_past(w))
            for picture in pictures:
                if not self._take(picture):
                    return False
            if packet is None:
                break
        return True

    def _is_of_the_past(self, words: str) -> bool:
        """Whether a decoder misses a picture of before the key frame only to let go of it."""
        return self.begin > 0 and words.startswith("mmco: unref short failure")

    def _take(self, picture: VideoFrame) -> bool:
        """Hand over a picture that is wanted. False where the key frame was none."""
        pts = picture.pts
        if pts is None or pts < self._floor:
            return True
        if pts == self._floor and not (picture.key_frame and picture.pict_type in _INTRA):
            return False
        self._shown = max(self._shown, pts)
        _offer(picture, self._table.slot_at(pts), self._keep, self._decoded)
        return True


def _decode_from_start(
    video: OpenVideo, table: PacketTable | None, keep: Keep, decoded: Decoded
) -> None:
    with open_video(video.file, threads=video.threads) as again:
        count = 0
        for packet in demux(again):
            for picture in decode_packet(again, packet):
                slot = count
                count += 1
                if table is not None:
                    slot = -1 if picture.pts is None else table.slot_at(picture.pts)
                _offer(picture, slot, keep, decoded)
            if not decoded.missing:
                break
        decoded.errors.extend(words for _, _, words in again.complaints)


def _offer(picture: VideoFrame, slot: int, keep: Keep, decoded: Decoded) -> None:
    if slot in decoded.missing:
        decoded.missing.discard(slot)
        decoded.num_corrupt += picture.is_corrupt
        keep(slot, picture)
