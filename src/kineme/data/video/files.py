"""Opening video files of strangers: only real container formats, only this one file, within limits.

Promises: the bytes come from one regular file through `pread` (inputs.py), so nothing blocks, no
second file and no network address is ever opened, whatever the file asks for; playlists and
other lists of files are refused; sizes that a file claims are checked before memory is set aside
for them; whatever FFmpeg says becomes a DataError in plain words; what it logs is kept.
Leaves out: which frames there are (frame_index.py) and decoding them (decoding.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import av
import av.logging
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from kineme.data.inputs import InputFile
from kineme.data.video.movie_boxes import claimed_frames, has_no_index
from kineme.errors import DataError

MAX_FRAMES = 5_000_000  # two days at 30 frames a second
MAX_PIXELS = 64_000_000
MAX_FPS = 1_000
MAX_SECONDS = 7 * 24 * 3600

# FFmpeg's names of the containers that hold video themselves. None of them can name another file.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
_DECODERS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,libvpx,libvpx-vp9,mpeg4,mpeg1video,mpeg2video,msmpeg4,"
    "msmpeg4v1,msmpeg4v2,h261,h263,h263i,h263p,flv,vp6,vp6a,vp6f,wmv1,wmv2,wmv3,vc1,theora,mjpeg,"
    "prores,dnxhd,dvvideo,ffv1,huffyuv,ffvhuff,utvideo,rawvideo,png,gif,qtrle,cinepak,svq1,svq3,"
    "indeo3,indeo5,rv40"
)
_OPTIONS = {
    "format_whitelist": _FORMATS,
    "codec_whitelist": _DECODERS,
    "protocol_whitelist": "none",
    "max_pixels": str(MAX_PIXELS),
}
_GUESS_TIMES = 0x1  # AVFMT_FLAG_GENPTS, which PyAV sets: a guessed time stamp is worse than none
_BUFFER_BYTES = 256 * 1024
_HEAD_BYTES = 1024
_EXPECTED = "a video"


Complaint = tuple[int, str, str]  # level, who, words


@dataclass(frozen=True)
class OpenVideo:
    """One open video stream, and the signs of damage that were met since it was opened."""

    path: str
    file: InputFile
    container: InputContainer
    stream: VideoStream
    complaints: list[Complaint] = field(repr=False)
    threads: int

    def complain(self, who: str, words: str) -> None:
        self.complaints.append((av.logging.ERROR, who, words))

    def listening(self) -> AbstractContextManager[None]:
        """What FFmpeg complains about while the block runs is this video's."""
        return listening(self.complaints, everywhere=self.threads > 1)


@contextlib.contextmanager
def open_video(file: InputFile, *, threads: int = 1) -> Iterator[OpenVideo]:
    """The video stream of `file`. DataError says in plain words why there is none.

    threads: of the decoder. With more than one, complaints of decodings that run at the same
    time in this process cannot be told apart.
    """
    path = str(file.path)
    _refuse_lists(file)
    if (frames := claimed_frames(file)) > MAX_FRAMES:
        raise _beyond(path, "frames", MAX_FRAMES, frames)
    complaints: list[Complaint] = []
    with ffmpeg_errors_named(file), listening(complaints):
        container = av.open(
            _Reader(file),
            "r",
            options=_OPTIONS,
            metadata_errors="replace",
            buffer_size=_BUFFER_BYTES,
            io_open=_refuse_to_open,
        )
    with container:
        stream = _video_stream(path, container)
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        stream.codec_context.thread_count = threads
        _check_claims(path, container, stream)
        container.flags &= ~_GUESS_TIMES
        yield OpenVideo(path, file, container, stream, complaints, threads)


@contextlib.contextmanager
def ffmpeg_errors_named(file: InputFile) -> Iterator[None]:
    """Turn what FFmpeg raises into a DataError about `file`."""
    try:
        yield
    except DataError:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError, EOFError) as error:
        raise DataError(str(file.path), _EXPECTED, _why(file, error)) from error


def _video_stream(path: str, container: InputContainer) -> VideoStream:
    """The best stream of moving pictures. A cover picture is none."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        kinds = sorted({str(s.type) for s in container.streams} - {"video"})
        kinds += ["a cover picture"] if container.streams.video else []
        only = f", only {' and '.join(kinds)}" if kinds else ""
        raise DataError(path, _EXPECTED, f"no video stream{only}")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in videos else videos[0]
    context: VideoCodecContext | None = stream.codec_context  # None where nothing decodes it
    if context is None or context.name not in _DECODERS.split(","):
        name = "an unknown one" if context is None else repr(context.name)
        raise DataError(path, "a video codec that is allowed here", name, "Re-encode it as H.264.")
    return stream


def _check_claims(path: str, container: InputContainer, stream: VideoStream) -> None:
    """Refuse what a file says of itself when it is beyond the limits."""
    seconds = (container.duration or 0) / av.time_base
    if stream.duration and stream.time_base:
        seconds = max(seconds, float(stream.duration * stream.time_base))
    pixels = stream.codec_context.width * stream.codec_context.height
    claims = (
        ("frames", MAX_FRAMES, stream.frames),
        ("pixels in a frame", MAX_PIXELS, pixels),
        ("seconds", MAX_SECONDS, round(seconds)),
    )
    for what, limit, claimed in claims:
        if claimed > limit:
            raise _beyond(path, what, limit, claimed)


def _beyond(path: str, what: str, limit: int, claimed: int) -> DataError:
    return DataError(
        path, f"a video of at most {limit:,} {what}", f"a file that claims {claimed:,}"
    )


def _refuse_lists(file: InputFile) -> None:
    """Playlists name other files or addresses: say so instead of "not a video"."""
    head = file.read(0, min(_HEAD_BYTES, file.stamp.size)).lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what in (
        (b"#EXTM3U", "an HLS playlist, which names other files or addresses"),
        (b"ffconcat", "a list of other files (ffconcat)"),
        (b"v=0", "an SDP description of a network stream"),
        (b"<MPD", "a DASH manifest, which names other files or addresses"),
        (b"file ", "a list of other files"),
    ):
        if head.startswith(start):
            raise DataError(str(file.path), _EXPECTED, what, "Give the video file itself.")


def _refuse_to_open(url: str, flags: int, options: object) -> object:
    raise DataError(url, "a video that stands alone", "a file that asks for another one")


def _why(file: InputFile, error: Exception) -> str:
    """What is wrong with a file that FFmpeg cannot open or read, in plain words."""
    size = file.stamp.size
    head = file.read(0, min(_HEAD_BYTES, size))
    if size == 0:
        return "an empty file"
    if isinstance(error, MemoryError):
        return "one that needs more memory than there is"
    if has_no_index(file):
        return (
            "an mp4 without its index (the moov box): its recording was not finished, "
            "or the file was cut off"
        )
    if _is_text(head):
        return "a text file"
    known = head[4:8] in (b"ftyp", b"moov") or head[:4] in (b"\x1aE\xdf\xa3", b"RIFF", b"OggS")
    if known and size <= 4 * _HEAD_BYTES:
        return "the header of a video and nothing after it"
    reason = error.strerror if isinstance(error, av.FFmpegError) else str(error)
    if known:
        return f"a damaged one ({str(reason or type(error).__name__).lower()})"
    return "bytes of no video format that is known here"


def _is_text(head: bytes) -> bool:
    with contextlib.suppress(UnicodeDecodeError):
        text = head.decode("utf-8")
        return all(c.isprintable() or c in "\r\n\t\f" for c in text)
    return False


class _Reader:
    """The file object that FFmpeg reads: `pread` on a file that is already open."""

    def __init__(self, file: InputFile) -> None:
        self._file, self._position = file, 0
        self.name = os.fspath(file.path)

    def read(self, count: int) -> bytes:
        count = max(min(count, self._file.stamp.size - self._position), 0)
        data = self._file.read(self._position, count)
        self._position += count
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.stamp.size}
        self._position = max(start[whence] + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position


_listeners = 0
_listeners_lock = threading.Lock()


@contextlib.contextmanager
def listening(complaints: list[Complaint], *, everywhere: bool = False) -> Iterator[None]:
    """Add to `complaints` what FFmpeg logs in this thread (or in all) while the block runs.

    PyAV's level is one for the whole process, so it is raised while anybody listens.
    """
    global _listeners
    with _listeners_lock:
        if _listeners == 0:
            av.logging.set_skip_repeated(False)
            av.logging.set_level(av.logging.INFO)
        _listeners += 1
    try:
        with av.logging.Capture(local=not everywhere) as heard:
            yield
    finally:
        complaints.extend(entry for entry in heard if _is_damage(entry))
        with _listeners_lock:
            _listeners -= 1
            if _listeners == 0:
                av.logging.set_level(None)


def _is_damage(entry: Complaint) -> bool:
    """Errors, and pictures that were patched up."""
    level, _, message = entry
    is_refused_sound = "not on whitelist" in message
    return (level <= av.logging.ERROR and not is_refused_sound) or message.startswith("concealing ")
