"""Cameras and network streams: frames as they come, through drops, stalls and changes.

Promises: a stream that never was there is told at once, with the reason (or waited for, where
asked); one that breaks is connected again, with growing pauses, and the gap told with how long it
was; one that is silent for `stall_seconds` counts as broken; who is slower than the stream gets the
newest frame, and what was left out is counted; frames are of one size, and a change is told once.
Only streams are opened: no address makes this read a file.
Leaves out: video files (data/video), sound, and passwords in what is told (`shown_address`).

Shapes: frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
from numpy.typing import NDArray

from kineme.data.video.files import MAX_PIXELS
from kineme.data.video.pictures import Shaper
from kineme.errors import ServiceError, shortened

Frame = NDArray[np.uint8]

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "tcp", "udp")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.+)", re.IGNORECASE)
_PROTOCOLS = "http,https,tcp,tls,udp,rtp,rtmp,rtsp,rtsps,srtp,httpproxy"
_OPTIONS = {
    "protocol_whitelist": _PROTOCOLS,
    "rtsp_transport": "tcp",
    "max_pixels": str(MAX_PIXELS),
}
_LIVE_OPTIONS = {  # a stream that is back is seen soon, and nothing old
    "analyzeduration": "250000",  # microseconds
    "probesize": "500000",
    "fflags": "nobuffer",
}
_ENDS = ("http", "https")  # these may be files, which end
_PLAYLISTS = ("hls", "dash")  # small files, of something that may go on
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class StreamSettings:
    """waits: for a stream that is not there yet. is_live: frames that come faster than they are
    looked at are left out, and the end of what is no file is a drop. give_up_seconds: without a
    connection, after which a stream that was there is over. backoff: seconds, first and longest.
    """

    waits: bool = False
    is_live: bool = False
    connect_seconds: float = 10.0
    stall_seconds: float = 5.0
    give_up_seconds: float = 60.0
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 0.5
    queue_frames: int = 2


@dataclass(frozen=True)
class StreamEvent:
    """What happened at `seconds`: kind gap, changed or ended; duration_seconds of a gap."""

    kind: str
    seconds: float
    text: str
    duration_seconds: float = 0.0


def is_stream(word: str) -> bool:
    """Whether a word names a camera or an address rather than a path."""
    return word.isdigit() or _ADDRESS.fullmatch(word) is not None


def shown_address(word: str) -> str:
    """The address without user and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", word)


class Stream:
    """Frames of a camera (a number) or an address, read in a thread of its own.

    events: so far, in order. num_dropped: frames that came and were left out. fps: as the stream
    says, 0.0 where it does not.
    """

    def __init__(self, word: str, settings: StreamSettings) -> None:
        self.word, self.settings = word, settings
        self.events: list[StreamEvent] = []
        self.num_dropped, self.fps = 0, 0.0
        self._scheme = word.partition(":")[0].lower() if not word.isdigit() else "camera"
        self._leaks = settings.is_live or self._scheme not in _ENDS
        self._open: Callable[[], Any] = _opener(word, settings, is_leaky=self._leaks)
        self._arrived: deque[tuple[int, float, Frame]] = deque()
        self._changed = threading.Condition()
        self._failure: ServiceError | None = None
        self._reason = ""  # why the last connection ended
        self._is_over = self._is_closed = False
        self._shaper: Shaper | None = None
        self._picture_form: tuple[str, int, int] | None = None
        self._count, self._last_seconds = 0, -1.0
        self._began = self._arrived_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True, name="stream")
        self._thread.start()

    def first(self) -> Frame:
        """The first frame, which stays in the queue. Raises ServiceError where none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._is_over or self._is_closed)
            if not self._arrived:
                raise self._failure or self._no("frames", "none before it ended")
            return self._arrived[0][2]

    def frames(self) -> Iterator[tuple[int, float, Frame]]:
        """(number, seconds since the first, frame), until the stream is over or closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived or self._is_over or self._is_closed)
                if not self._arrived:
                    return
                moment = self._arrived.popleft()
                self._changed.notify_all()
            yield moment

    @property
    def now(self) -> float:
        """Seconds since the first frame came, on this machine's clock."""
        return time.monotonic() - self._began

    def close(self) -> None:
        """Stop reading; a frame that was read is still given."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout=0.5)  # blocked in a read, it ends by itself

    # The reading thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:  # whoever waits for frames hears of it in any case
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _keep_connected(self) -> None:
        pause, broken_at, was_there = self.settings.first_pause_seconds, time.monotonic(), False
        while not self._is_closed:
            reason = "it ended"
            before = self._count
            try:
                self._read()
            except (av.FFmpegError, OSError, ValueError, ServiceError) as error:
                reason = _reason(error, self.word)
            if self._count > before:
                was_there, broken_at, self._reason = True, self._arrived_at, reason
                pause = self.settings.first_pause_seconds
                if reason == "it ended" and not self._leaks:
                    break
            elif not was_there and not self.settings.waits:
                self._failure = self._no("a stream that can be read", reason)
                break
            elif was_there and time.monotonic() - broken_at > self.settings.give_up_seconds:
                self._tell_end(reason, time.monotonic() - broken_at)
                break
            self._sleep(pause)
            pause = min(2 * pause, self.settings.longest_pause_seconds)

    def _read(self) -> None:
        """Everything that one connection gives."""
        with contextlib.closing(self._connect()) as connection:
            is_first, start, anchor = True, 0.0, 0.0
            for seconds, picture in connection:
                now = time.monotonic()
                if is_first:
                    is_first, start = False, seconds
                    anchor = self._begin_connection(now, connection.fps)
                self._put(picture, anchor + seconds - start, now)
                if self._is_closed:
                    return

    def _connect(self) -> Any:
        """A connection; a file can wait, and what was read to know it is not thrown away."""
        connection = self._open()
        if self._leaks and connection.is_file:
            connection.close()
            self._leaks = False
            self._open = _opener(self.word, self.settings, is_leaky=False)
            return self._open()
        return connection

    def _begin_connection(self, now: float, fps: float) -> float:
        """When its first frame is, in seconds since the first of all."""
        if self._count == 0:
            self._began, self.fps = now, fps
            return 0.0
        begins = max(now - self._began, self._last_seconds + 1e-3)
        lost = begins - self._last_seconds
        text = f"no frames for {lost:.1f} s ({self._reason}); connected again"
        self._tell(StreamEvent("gap", self._last_seconds, text, lost))
        return begins

    def _put(self, picture: Any, seconds: float, now: float) -> None:
        form = _form_of(picture)
        if self._shaper is None:
            self._shaper = Shaper.of(picture, size=None, short_side=None)
        elif form != self._picture_form and self._picture_form is not None:
            old, new = _form_words(self._picture_form), _form_words(form)
            text = f"pictures changed from {old} to {new}; they are scaled to the first size"
            self._tell(StreamEvent("changed", seconds, text))
        self._picture_form = form
        frame: Frame = np.ascontiguousarray(self._shaper.to_rgb(picture))
        self._last_seconds = max(seconds, self._last_seconds + 1e-4)
        with self._changed:
            if self._leaks:
                while len(self._arrived) >= self.settings.queue_frames:
                    self._arrived.popleft()
                    self.num_dropped += 1
            else:
                room = self.settings.queue_frames
                self._changed.wait_for(lambda: len(self._arrived) < room or self._is_closed)
            self._arrived.append((self._count, self._last_seconds, frame))
            self._count += 1
            self._arrived_at = time.monotonic()
            self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_closed and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _tell_end(self, reason: str, lost: float) -> None:
        text = f"no frames for {lost:.0f} s ({reason}); given up"
        self._tell(StreamEvent("ended", self._arrived_at - self._began, text, lost))

    def _tell(self, event: StreamEvent) -> None:
        with self._changed:
            self.events.append(event)

    def _no(self, expected: str, reason: str) -> ServiceError:
        where = f"camera {self.word}" if self._scheme == "camera" else shown_address(self.word)
        return ServiceError(where, expected, reason, "Check it, or wait for it with --wait.")


def _opener(word: str, settings: StreamSettings, *, is_leaky: bool) -> Callable[[], Any]:
    """What connects. Raises ServiceError for an address of another kind."""
    if word.isdigit():
        return lambda: _Camera(int(word))
    found = _ADDRESS.fullmatch(word)
    if found is None or found[1].lower() not in SCHEMES:
        expected = f"an address that starts with one of {', '.join(SCHEMES)}"
        raise ServiceError(shown_address(word), expected, shortened(word.partition(":")[0]))
    return lambda: _Connection(word, settings, is_leaky=is_leaky)


class _Connection:
    """One connection to an address: iterates over (seconds, picture)."""

    def __init__(self, address: str, settings: StreamSettings, *, is_leaky: bool) -> None:
        self._container = av.open(
            address,
            "r",
            options=_OPTIONS | (_LIVE_OPTIONS if is_leaky else {}),
            timeout=(settings.connect_seconds, settings.stall_seconds),
            metadata_errors="replace",
        )
        if not self._container.streams.video:
            self._container.close()
            raise ValueError("no video in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"  # frames in flight would be late
        self.fps = float(self._stream.guessed_rate or self._stream.average_rate or 0)
        is_whole = self._container.duration or self._container.format.name not in _PLAYLISTS
        self.is_file = bool(self._container.size > 0 and is_whole)  # no stream has a size

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        tick = float(self._stream.time_base or 0)
        began, first, count = time.monotonic(), None, 0
        for packet in self._container.demux(self._stream):
            try:
                pictures = packet.decode()
            except av.InvalidDataError:  # of one picture, as networks lose some
                continue
            for picture in pictures:
                first = picture.pts if first is None else first
                if picture.pts is None or first is None:
                    seconds = count / self.fps if self.fps else time.monotonic() - began
                else:
                    seconds = (picture.pts - first) * tick
                count += 1
                yield seconds, picture

    def close(self) -> None:
        self._container.close()


class _Camera:
    """One camera: iterates over (seconds, picture)."""

    def __init__(self, number: int) -> None:
        import cv2

        with _quiet_opencv():
            self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            self._capture.release()
            raise ServiceError(f"camera {number}", "a camera", "none of that number")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS) or 0)
        self.is_file = False

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        began = time.monotonic()
        while True:
            is_there, frame = self._capture.read()
            if not is_there:
                return
            pixels = np.ascontiguousarray(frame).astype(np.uint8, copy=False)
            picture = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            yield time.monotonic() - began, picture

    def close(self) -> None:
        self._capture.release()


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """What it would log of a camera that is not there, we say ourselves."""
    from cv2.utils import logging

    level = logging.getLogLevel()
    logging.setLogLevel(0)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def _form_of(picture: Any) -> tuple[str, int, int]:
    return str(picture.format.name), int(picture.width), int(picture.height)


def _form_words(form: tuple[str, int, int]) -> str:
    return f"{form[1]} x {form[2]} ({form[0]})"


def _reason(error: Exception, word: str) -> str:
    """Why there is no connection, in plain words."""
    if isinstance(error, ServiceError):
        return error.problems[0].received
    host = urlsplit(word).hostname
    if host and isinstance(error, OSError) and error.errno == errno.EIO:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            return f"the name {host} cannot be resolved"
    if isinstance(error, av.ExitError):
        return "no answer in time"
    words = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return shortened(" ".join(words.split()), 200).strip("'\"") or type(error).__name__
