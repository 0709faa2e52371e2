"""Videos of strangers: they name no other file, claim no memory, hang and crash nothing
(V15, V17, V22, V29)."""

import contextlib
import ctypes
import os
import random
import resource
import socket
import struct
import time

import av
import numpy as np
import pytest

from clips_made import KINDS, Made, make_video
from kineme.data import video
from kineme.data.video import iterate, probe, read_frames
from kineme.errors import DataError


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def nothing_remembered():
    video.forget()


class Watch:
    """Whether a file, or anything in a folder, was opened, as the kernel saw it (inotify)."""

    def __init__(self, path):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        opened = 0x20
        assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), opened) >= 0

    def has_seen_something(self):
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False
        finally:
            os.close(self._descriptor)


def test_the_watch_itself_sees_an_open(tmp_path):
    (tmp_path / "bait").write_bytes(b"x")
    watch = Watch(tmp_path)
    (tmp_path / "bait").read_bytes()
    assert watch.has_seen_something()


LISTS = {
    "hls": ("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{bait}\n#EXT-X-ENDLIST\n", "HLS"),
    "hls_address": ("#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n", "HLS"),
    "hls_key": ('#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{bait}"\n#EXTINF:5,\n{bait}\n', "HLS"),
    "absolute": ("ffconcat version 1.0\nfile '{bait}'\n", "ffconcat"),
    "relative": ("ffconcat version 1.0\nfile bait/plain.mp4\n", "ffconcat"),
    "no_header": ("file '{bait}'\n", "a list of other files"),
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
        "SDP",
    ),
    "dash": ("<MPD><Period><BaseURL>{bait}</BaseURL></Period></MPD>", "DASH"),
    "dash_xml": ('<?xml version="1.0"?>\n<MPD><BaseURL>{bait}</BaseURL></MPD>', "a text file"),
    "concat": ("concat:{bait}|{bait}", "a text file"),
    "subfile": ("subfile,,start,0,end,0,,:{bait}", "a text file"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_v22_a_list_of_other_files_is_refused_and_nothing_else_is_opened(made, tmp_path, kind):
    bait = tmp_path / "bait" / "plain.mp4"
    bait.parent.mkdir()
    bait.write_bytes(made.kind("plain.mp4").read_bytes())
    content, words = LISTS[kind]
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        path = tmp_path / "x.mp4"
        path.write_text(content.format(bait=bait, port=server.getsockname()[1]))
        watch = Watch(bait.parent)
        for use in (probe, lambda p: list(iterate(p)), lambda p: read_frames(p, np.array([0]))):
            with pytest.raises(DataError, match=words):
                use(path)
        assert not watch.has_seen_something()
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "form", ["concat:{}|{}", "subfile,,start,0,end,0,,:{}", "file:{}", "pipe:0"]
)
def test_v22_a_path_is_a_path_and_no_address(made, tmp_path, form):
    path = made.kind("plain.mp4")
    with pytest.raises(DataError, match="no such file"):
        probe(form.format(path, path))


def test_v22_a_movie_whose_pictures_lie_in_another_file_does_not_open_it(made, tmp_path):
    raw = made.kind("plain.mov").read_bytes()
    bait = tmp_path / "secret.mov"
    bait.write_bytes(raw)
    path = tmp_path / "x.mov"
    path.write_bytes(_refer(raw, bait))
    watch = Watch(bait)
    with contextlib.suppress(DataError):
        read_frames(path, np.array([0]))
    assert not watch.has_seen_something()
    watch = Watch(bait)
    options = {"enable_drefs": "1"}
    with contextlib.suppress(av.FFmpegError), av.open(str(path), options=options):
        pass
    assert watch.has_seen_something()  # the reference is one that FFmpeg could follow


def _refer(raw, target):
    """The data reference of the movie as a Macintosh alias of `target`."""
    name, where = target.name.encode(), os.fsencode(target)
    alias = bytes(10 + 28 + 12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    alias += struct.pack(">hh", 1, 1) + bytes(16)
    alias += struct.pack(">hh", 2, len(where)) + where + bytes(len(where) % 2)
    entry = struct.pack(">I4sI", 16 + len(alias), b"alis", 0) + alias + struct.pack(">hh", -1, 0)
    at = raw.rindex(b"dref")
    size = int.from_bytes(raw[at - 4 : at], "big")
    table = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    grown = raw[: at - 4] + table + raw[at - 4 + size :]
    for folder in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):  # all of them hold it
        box = grown.rindex(folder, 0, at)
        length = int.from_bytes(grown[box - 4 : box], "big") + len(table) - size
        grown = grown[: box - 4] + struct.pack(">I", length) + grown[box:]
    return grown


@pytest.mark.parametrize(
    "name",
    ["concat:a|b.mp4", "-rf.mp4", "%03d.mp4", "a b\nc.mp4", "{}.mp4", "ü✓.mp4", b"\xff\xfe.mp4"],
)
def test_v29_names_of_any_kind_are_read(made, tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(made.kind("two_frames.mp4").read_bytes())
    assert probe(os.fsdecode(path)).num_frames == 2


def test_a_codec_that_is_not_known_to_be_safe_is_refused(tmp_path):
    path = make_video(tmp_path / "x.avi", 3, codec="asv1")
    with pytest.raises(DataError, match="a video codec that is allowed here, got 'asv1'"):
        probe(path)


def test_d12_a_file_that_is_cut_while_it_is_read_is_a_data_error(tmp_path):
    path = make_video(tmp_path / "x.mkv", 40, codec="rawvideo", height=160, width=256)
    assert path.stat().st_size > 10**6  # more than is read ahead
    with iterate(path) as stream:
        next(stream)
        os.truncate(path, 1000)
        with pytest.raises(DataError, match="the file ends early"):
            list(stream)


def test_d28_a_file_that_is_written_while_it_is_read_is_a_data_error(made, tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    path.write_bytes(made.kind("plain.mp4").read_bytes())
    original = video.build_index

    def meanwhile(opened):
        with open(path, "ab") as file:
            file.write(b"more")
        return original(opened)

    monkeypatch.setattr(video, "build_index", meanwhile)
    for use in (probe, lambda p: read_frames(p, np.array([0]))):
        with pytest.raises(DataError, match="no change while it is read"):
            use(path)


def test_d27_a_fifo_does_not_block(tmp_path):
    path = tmp_path / "x.mp4"
    os.mkfifo(path)
    with pytest.raises(DataError, match="a regular file, got a FIFO"):
        probe(path)


def _samples(raw):
    """A billion samples of one byte each."""
    at = raw.index(b"stsz") + 8
    return raw[:at] + struct.pack(">II", 1, 1_000_000_000) + raw[at + 8 :]


def _fragment(raw):
    at = raw.rindex(b"trun") + 8
    return raw[:at] + struct.pack(">I", 4_000_000_000) + raw[at + 4 :]


def _rate(raw):
    """A million ticks a second, one tick a frame."""
    at = raw.index(b"mdhd")
    raw = raw[: at + 16] + struct.pack(">I", 1_000_000) + raw[at + 20 :]
    at = raw.index(b"stts") + 8
    return raw[:at] + struct.pack(">III", 1, 30, 1) + raw[at + 12 :]


def _duration(raw):
    at = raw.index(b"mvhd")
    raw = raw[: at + 16] + struct.pack(">II", 1, 1_000_000_000) + raw[at + 24 :]
    at = raw.index(b"mdhd")
    raw = raw[: at + 16] + struct.pack(">II", 1, 1_000_000_000) + raw[at + 24 :]
    at = raw.index(b"stts") + 8
    return raw[:at] + struct.pack(">III", 1, 30, 30_000_000) + raw[at + 12 :]


def _pixels(side):
    """Matroska's PixelWidth and PixelHeight."""

    def claim(raw):
        raw = raw.replace(b"\xb0\x82" + struct.pack(">H", 320), b"\xb0\x82" + side, 1)
        return raw.replace(b"\xba\x82" + struct.pack(">H", 256), b"\xba\x82" + side, 1)

    side = struct.pack(">H", side)
    return claim


LARGE = {"width": 320, "height": 256, "codec": "ffv1", "num_frames": 2}


@pytest.mark.parametrize(
    ("name", "settings", "claim", "words"),
    [
        ("a.mp4", {}, _samples, r"at most 5,000,000 frames, got a file that claims 1,000,000,000"),
        ("b.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}, _fragment,
         r"at most 5,000,000 frames, got a file that claims 4,000,000,\d+"),
        ("c.mp4", {"b_frames": 0}, _rate, "at most 1,000 frames a second, got 1,000,000"),
        ("d.mp4", {"b_frames": 0}, _duration, "at most 604,800 seconds, got 30,000,000"),
        ("e.mkv", LARGE, _pixels(65535), "64,000,000 pixels in a frame, got one of 65535x65535"),
        ("f.mkv", LARGE, _pixels(12000), "64,000,000 pixels in a frame, got one of 12000x12000"),
    ],
)  # fmt: skip
def test_v17_what_a_file_claims_is_checked_before_memory_is_set_aside(
    made, tmp_path, name, settings, claim, words
):
    raw = made(f"honest_{name}", **settings).read_bytes()
    lying = claim(raw)
    assert lying != raw
    path = tmp_path / name
    path.write_bytes(lying)
    before, start = _peak_bytes(), time.monotonic()
    with pytest.raises(DataError, match=words):
        probe(path)
    assert time.monotonic() - start < 2
    assert _peak_bytes() - before < 100 * 2**20


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mutated(raw, draw):
    """`raw` with one to eight changes that a disk, a network or an attacker might make."""
    raw = bytearray(raw)
    for _ in range(draw.choice([1, 1, 2, 3, 8])):
        size = len(raw)
        if size < 16:
            break
        at = draw.choice([
            draw.randrange(size), draw.randrange(min(size, 2000)),
            size - 1 - draw.randrange(min(size, 3000)),
        ])  # fmt: skip
        change = draw.randrange(7)
        if change == 0:
            raw[at] ^= 1 << draw.randrange(8)
        elif change == 1:
            raw[at] = draw.choice([0, 255, 127, 128])
        elif change == 2:
            extreme = [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
            raw[at : at + 4] = draw.choice(extreme)
        elif change == 3:
            del raw[at : at + draw.randrange(1, min(size // 4, 4096) + 1)]
        elif change == 4:
            start = draw.randrange(size)
            raw[at:at] = raw[start : start + draw.randrange(1, 1024)]
        elif change == 5:
            raw[at : at + draw.randrange(1, 512)] = draw.randbytes(draw.randrange(1, 64))
        else:
            del raw[at:]
    return bytes(raw)


def read_mutants(made, tmp_path, count):
    """Probe, read and iterate `count` mutants; (refused, read, slowest in seconds)."""
    draw = random.Random(15)
    sources = {kind: made.kind(kind).read_bytes() for kind in KINDS}
    refused, slowest = 0, 0.0
    for _ in range(count):
        kind = draw.choice(sorted(sources))
        path = tmp_path / kind
        path.write_bytes(mutated(sources[kind], draw))
        start = time.monotonic()
        try:
            facts = probe(path)
            some = np.unique(np.linspace(0, facts.num_frames - 1, 5).astype(int))
            read_frames(path, some, size=(32, 32))
            for _ in iterate(path, size=(16, 16)):
                pass
        except DataError:
            refused += 1
        slowest = max(slowest, time.monotonic() - start)
    return refused, count - refused, slowest


def test_v15_a_mutated_file_is_read_or_refused_and_nothing_else(made, tmp_path):
    refused, read, slowest = read_mutants(made, tmp_path, 150)
    assert min(refused, read) > 20
    assert slowest < 5


@pytest.mark.slow
def test_v15_two_thousand_mutated_files_are_read_or_refused(made, tmp_path):
    before = _peak_bytes()
    refused, read, slowest = read_mutants(made, tmp_path, 2000)
    assert min(refused, read) > 300
    assert slowest < 5
    assert _peak_bytes() - before < 500 * 2**20
