"""Which frames a video has, when each is shown, and where its decoding can start.

Promises: frame k is the k-th picture that a full decode shows, or for a variable frame rate the
one shown at time k / fps; where packets cannot tell that for certain (no times, doubled times,
hidden frames, fields), the file is decoded once to find out, and always from its start.
Leaves out: turning pictures into arrays (decoding.py), and keeping indexes (__init__.py).

Words: a *packet* is one compressed picture, numbered in the order they lie in the file; a *slot*
is one shown picture, numbered in the order they are shown; a *frame* is what the caller counts.
Shapes: P packets, S slots, F frames.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from kineme.data.video.files import OpenVideo, open_video
from kineme.data.video.frame_times import frame_grid, has_broken_times, said_rate, usual_rate
from kineme.data.video.packets import (
    Seen,
    decode_packet,
    demux,
    first_error,
    no_pictures,
    read_packets,
)
from kineme.data.video.pictures import Turn, turn_of
from kineme.data.video.transport_stream import count_gaps

Int64 = NDArray[np.int64]
NO_TIME = int(np.iinfo(np.int64).min)

_USUAL_TICK = Fraction(1, 1000)
_MISSING_SHARE = 0.02  # frames short of a container's *duration* that are no damage (it is rounded)


@dataclass(frozen=True, eq=False)
class PacketTable:
    """Where pictures lie in a file whose packets say when they are shown.

    pts: (S,) time stamps, rising; packet: (S,) packets; start: (S,) key packets (or 0, the
    first) at which decoding for it may start.
    all_pts, packet_of_all: (P,) every time stamp, rising, and its packet, hidden ones too.
    key: (K,) the packets in `start`; key_pts, key_dts: (K,) their time stamps, NO_TIME for none.
    """

    pts: Int64
    packet: Int64
    start: Int64
    all_pts: Int64
    packet_of_all: Int64
    key: Int64
    key_pts: Int64
    key_dts: Int64

    def slot_at(self, pts: int) -> int:
        """The slot shown at a time stamp, -1 for none."""
        at = int(np.searchsorted(self.pts, pts))
        return at if at < len(self.pts) and self.pts[at] == pts else -1

    def number_at(self, pts: int | None) -> int:
        """The packet with a time stamp, -1 for none."""
        if pts is None:
            return -1
        at = int(np.searchsorted(self.all_pts, pts))
        found = at < len(self.all_pts) and self.all_pts[at] == pts
        return int(self.packet_of_all[at]) if found else -1


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The pictures of one file.

    slot_of_frame: (F,) which picture each frame is.
    width, height: of the first picture as it is stored; turn: how to show it.
    table: None where pictures can only be counted from the start of the file.
    """

    slot_of_frame: Int64
    fps: float
    duration_seconds: float
    is_variable_rate: bool
    expected_frames: int
    damage: str
    width: int
    height: int
    turn: Turn
    table: PacketTable | None = None


def build_index(video: OpenVideo) -> FrameIndex:
    """The index of a video that was just opened. Reads all of it, decodes its first picture.

    Raises DataError when there is no picture in it.
    """
    packets, first = read_packets(video)
    if not packets:
        raise no_pictures(video, num_packets=0)
    shown = [(p.pts, number) for number, p in enumerate(packets) if p.is_shown]
    times = [pts for pts, _ in shown if pts is not None]
    are_unique = len(shown) == len(times) == len(set(times))
    if first is None or not are_unique or first.pts not in times or _may_hold_fields(video):
        return _counted_index(video, packets)
    return _timed_index(video, packets, first)


def _may_hold_fields(video: OpenVideo) -> bool:
    """Whether two packets may make one picture: interlaced broadcast streams."""
    progressive_or_unknown = video.stream.codec_context.field_order <= 1
    return "mpeg" in video.container.format.name and not progressive_or_unknown


def _timed_index(video: OpenVideo, packets: list[Seen], first: VideoFrame) -> FrameIndex:
    table = _packet_table(packets)
    tick = float(video.stream.time_base or _USUAL_TICK)
    seconds = (table.pts.astype(np.float64) - float(table.pts[0])) * tick
    rate = usual_rate(video.stream, seconds, tick)
    last = packets[int(table.packet[-1])].duration * tick
    if has_broken_times(seconds):
        video.complain("index", "time stamps that jump")
    slots, duration, is_variable = frame_grid(video.path, seconds, rate, last)
    claimed = _claimed_frames(video, rate, is_variable, float(table.pts[0]) * tick)
    missing = _missing_frames(video, packets, claimed)
    return FrameIndex(
        slot_of_frame=slots,
        fps=rate,
        duration_seconds=duration,
        is_variable_rate=is_variable,
        expected_frames=len(table.pts) + missing,
        damage=_damage(video, packets, claimed, missing),
        width=first.width,
        height=first.height,
        turn=turn_of(first),
        table=table,
    )


def _packet_table(packets: list[Seen]) -> PacketTable:
    packet = np.array([i for i, p in enumerate(packets) if p.is_shown], np.int64)
    pts = np.array([packets[i].pts for i in packet], np.int64)
    order = np.argsort(pts)
    pts, packet = pts[order], packet[order]
    stamped = np.array([i for i, p in enumerate(packets) if p.pts is not None], np.int64)
    all_pts = np.array([packets[i].pts for i in stamped], np.int64)
    by_time = np.argsort(all_pts, kind="stable")
    start = _starts(pts, packet, packets)
    key = np.unique(start)
    return PacketTable(
        pts=pts,
        packet=packet,
        start=start,
        all_pts=all_pts[by_time],
        packet_of_all=stamped[by_time],
        key=key,
        key_pts=np.array([_or_none(packets[i].pts) for i in key], np.int64),
        key_dts=np.array([_or_none(packets[i].dts) for i in key], np.int64),
    )


def _or_none(time: int | None) -> int:
    return NO_TIME if time is None else time


def _starts(pts: Int64, number: Int64, packets: list[Seen]) -> Int64:
    """(S,) the last key packet that lies before each slot's packet and is shown no later.

    What is shown before a key frame and lies after it in the file (the leading pictures of an
    open group) may refer to the group before, so it starts there. 0 is the start of the file.
    """
    keys = [i for i, p in enumerate(packets) if p.is_key and p.pts is not None and i > 0]
    key = np.array([0, *keys], np.int64)
    key_pts = np.array([NO_TIME, *(packets[i].pts for i in keys)], np.int64)
    if (key_pts[1:] <= key_pts[:-1]).any():
        return np.zeros(len(pts), np.int64)
    start = key[np.searchsorted(key_pts, pts, side="right") - 1]
    return np.where(start <= number, start, 0)


def _counted_index(video: OpenVideo, packets: list[Seen]) -> FrameIndex:
    """The index of a file that must be decoded to be known."""
    first: VideoFrame | None = None
    times: list[int | None] = []
    with open_video(video.file, threads=video.threads) as again:
        for packet in demux(again):
            for picture in decode_packet(again, packet):
                first = first or picture
                times.append(picture.pts)
        video.complaints.extend(again.complaints)
    if first is None:
        raise no_pictures(video, num_packets=len(packets))
    tick = float(video.stream.time_base or _USUAL_TICK)
    stamps = np.array([t for t in times if t is not None], np.int64)
    if len(stamps) == len(times) and (np.diff(stamps) > 0).all():
        seconds = (stamps.astype(np.float64) - float(stamps[0])) * tick
        rate = usual_rate(video.stream, seconds, tick)
    else:
        rate = said_rate(video.stream)
        seconds = np.arange(len(times)) / rate
    if has_broken_times(seconds):
        video.complain("index", "time stamps that jump")
    slots, duration, is_variable = frame_grid(video.path, seconds, rate, 1 / rate)
    missing = _missing_frames(video, packets, video.stream.frames)
    return FrameIndex(
        slot_of_frame=slots,
        fps=rate,
        duration_seconds=duration,
        is_variable_rate=is_variable,
        expected_frames=len(times) + missing,
        damage=_damage(video, packets, video.stream.frames, missing),
        width=first.width,
        height=first.height,
        turn=turn_of(first),
    )


def _claimed_frames(video: OpenVideo, rate: float, is_variable: bool, begins: float) -> int:
    """How many packets the container says there are; 0 where it does not say."""
    stream = video.stream
    if video.container.format.name.startswith("mov"):
        return len(stream.index_entries)  # without those that an edit list leaves out
    if stream.frames:
        return stream.frames
    seconds = _seconds_of_tag(stream.metadata.get("DURATION", ""))
    if not seconds and len(video.container.streams) == 1 and video.container.duration:
        seconds = video.container.duration / av.time_base
    return 0 if is_variable or not seconds else round((seconds - max(begins, 0)) * rate)


def _seconds_of_tag(text: str) -> float:
    """Seconds of Matroska's DURATION tag, like 00:00:12.480000000; 0 where there is none."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else 0.0


def _missing_frames(video: OpenVideo, packets: list[Seen], claimed: int) -> int:
    """How many packets that the container speaks of are not there."""
    found = len(packets)
    container = video.container.format.name
    if container == "avi" and packets[-1].dts is not None:
        found = max(found, packets[-1].dts + 1)  # with those of repeated frames, which are empty
    is_counted = video.stream.frames or container.startswith("mov")
    tolerated = 0 if is_counted else max(2, round(_MISSING_SHARE * claimed))
    return claimed - found if found < claimed - tolerated else 0


def _damage(video: OpenVideo, packets: list[Seen], claimed: int, missing: int) -> str:
    """What is wrong with the file as a whole, in words; "" for nothing."""
    said = []
    if missing:
        said.append(f"{claimed - missing} of {claimed} frames are in the file")
    if corrupt := sum(p.is_corrupt for p in packets):
        said.append(f"{corrupt} of {len(packets)} packets are damaged")
    if video.container.format.name == "mpegts" and (gaps := count_gaps(video.file)):
        said.append(f"{gaps} transport packets are damaged or missing")
    if video.complaints:
        said.append(f"errors while reading ({len(video.complaints)}){first_error(video)}")
    return "; ".join(said)
