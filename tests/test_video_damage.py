"""Videos that are none, end early or hold flipped bits: said in words, never padded over
(V12 to V14)."""

import random
import re
from pathlib import Path

import av
import numpy as np
import pytest

from clips_made import KINDS, Made, full_decode
from kineme.data import video
from kineme.data.inputs import InputFile
from kineme.data.video import iterate, probe, read_frames
from kineme.data.video.nal_units import is_impossible, length_bytes
from kineme.data.video.transport_stream import count_gaps
from kineme.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FIRST = {"container_options": {"movflags": "faststart"}}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("clips"))


@pytest.fixture(autouse=True)
def nothing_remembered():
    video.forget()


def _empty(made):
    return b""


def _text(made):
    return b"frame,label\n1,wave\n"


def _garbage(made):
    return b"\x8f" + random.Random(0).randbytes(5000)


def _header_only(made):
    return made("plain.mkv").read_bytes()[:64]


def _no_moov(made):
    raw = made("plain.mp4").read_bytes()
    return raw[: raw.rindex(b"moov") - 4]


def _audio_only(made):
    path = made.folder / "audio.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000, layout="mono")
        for k in range(8):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 8000, 1024 * k
            output.mux(stream.encode(sound))
        output.mux(stream.encode(None))
    return path.read_bytes()


def _no_frames(made):
    raw = made("first.mp4", **FIRST).read_bytes()
    return raw[: raw.rindex(b"mdat") + 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_empty, "an empty file"),
        (_text, "a text file"),
        (_garbage, "bytes of no video format that is known here"),
        (_header_only, "the header of a video and nothing after it"),
        (_no_moov, "an mp4 without its index (the moov box): its recording was not finished, "
                   "or the file was cut off"),
        (_audio_only, "no video stream, only audio"),
        (_no_frames, "a video stream without frames"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "use", [probe, lambda p: read_frames(p, np.array([0])), lambda p: list(iterate(p))]
)
def test_v12_what_is_no_video_is_said_in_plain_words(made, tmp_path, content, words, use):
    path = tmp_path / "x.mp4"
    path.write_bytes(content(made))
    with pytest.raises(DataError) as raised:
        use(path)
    assert str(raised.value) == f"{path}: expected a video, got {words}."


@pytest.mark.parametrize("name", ["missing.mp4", "folder"])
def test_v12_what_is_no_file_is_said_in_plain_words(tmp_path, name):
    (tmp_path / "folder").mkdir()
    words = {"missing.mp4": "no such file or directory", "folder": "a folder"}[name]
    with pytest.raises(DataError, match=words):
        probe(tmp_path / name)


CUT = {  # containers and where in them pictures begin
    "cut.mp4": (b"mdat", FIRST),
    "cut.mkv": (b"\x1f\x43\xb6\x75", {}),
    "cut.avi": (b"movi", {"codec": "mpeg4", "b_frames": 0}),
    "cut.flv": (b"\x09", {}),
    "cut.webm": (b"\x1f\x43\xb6\x75", {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
}


@pytest.mark.parametrize("percent", [20, 50, 75, 90])
@pytest.mark.parametrize("name", CUT)
def test_v13_of_a_video_that_was_cut_off_the_whole_frames_are_there(made, tmp_path, name, percent):
    start, settings = CUT[name]
    whole = made(name, 60, height=120, width=160, **settings)
    truth = full_decode(whole)
    raw = whole.read_bytes()
    begin = raw.index(start)
    cut = tmp_path / name
    cut.write_bytes(raw[: begin + (len(raw) - begin) * percent // 100])
    facts = probe(cut)
    assert (facts.expected_frames, facts.damage != "") == (60, True)
    assert 3 <= facts.num_frames < 60
    clip = read_frames(cut, np.arange(facts.num_frames))
    assert (clip.num_missing, clip.damage.startswith(facts.damage)) == (0, True)
    same = [np.array_equal(a, b) for a, b in zip(clip.frames, truth, strict=False)]
    tail = 4  # pictures that lie in the file before those shown before them
    assert all(same[:-tail])


def test_v13_how_much_is_left_of_a_video_is_said(made, tmp_path):
    raw = made("cut.mp4", 60, height=120, width=160, **FIRST).read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(raw[: len(raw) // 2])
    facts = probe(path)
    assert facts.damage.startswith(f"{facts.num_frames} of 60 frames are in the file; ")
    assert "the last frame is cut off" in facts.damage or "Invalid NAL unit size" in facts.damage


def test_v13_a_frame_that_cannot_be_decoded_is_counted_and_the_one_before_stands_in(made, tmp_path):
    whole = made("still.avi", 10, codec="mjpeg", pixels="yuvj420p")
    truth = full_decode(whole)
    raw = bytearray(whole.read_bytes())
    movie = raw.index(b"movi")
    starts = [m.end() + 4 for m in re.finditer(b"00dc", raw) if m.start() > movie]  # of pictures
    raw[starts[4] : starts[5] - 8] = bytes(starts[5] - 8 - starts[4])
    path = tmp_path / "hole.avi"
    path.write_bytes(raw)
    clip = read_frames(path, np.array([3, 4, 5, 4]))
    for frame, shown in zip(clip.frames, [3, 3, 5, 3], strict=True):
        assert np.array_equal(frame, truth[shown])
    assert clip.num_missing == 2
    assert "1 of 3 frames cannot be decoded, the ones before stand in" in clip.damage
    with pytest.raises(DataError, match="expected frames that can be decoded, got"):
        read_frames(path, np.array([4]))


def flipped(raw, draw):
    """`raw` with 1 to 1,000 bits flipped, or a stretch of it zeroed."""
    raw = bytearray(raw)
    if draw.random() < 0.7:
        for _ in range(min(round(10 ** draw.uniform(0, 3)), len(raw) // 8)):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    else:
        length = round(len(raw) ** draw.uniform(0.2, 0.9))
        start = draw.randrange(len(raw) - length)
        raw[start : start + length] = bytes(length)
    return bytes(raw)


DAMAGED = (
    "plain.mp4", "long_group.mp4", "plain.mkv", "plain.flv", "plain.ts", "mpeg4_b.mp4",
)  # fmt: skip


def count_flags(made, tmp_path, kinds, copies):
    """(visibly damaged, of them flagged, misses) over damaged copies of some kinds of video."""
    visible, flagged, missed = 0, 0, []
    for kind in kinds:
        raw, truth = made.kind(kind).read_bytes(), np.stack(full_decode(made.kind(kind)))
        draw = random.Random(kind)
        for copy in range(copies):
            path = tmp_path / f"{copy}{kind}"
            path.write_bytes(flipped(raw, draw))
            is_visible, is_flagged = _judge(path, truth)
            visible += is_visible
            flagged += is_visible and is_flagged
            if is_visible and not is_flagged:
                missed.append(path.name)
    return visible, flagged, missed


def _judge(path, truth):
    """Whether a frame is off by more than 8 of 255 (root mean square), and whether that is said."""
    try:
        clip = read_frames(path, np.arange(probe(path).num_frames))
    except DataError:
        return True, True
    if clip.frames.shape != truth.shape:
        return True, clip.damage != ""
    difference = clip.frames.astype(np.float32) - truth
    worst = np.sqrt((difference**2).mean(axis=(1, 2, 3))).max()
    return bool(worst > 8), clip.damage != ""


def test_v14_damage_that_is_seen_is_said(made, tmp_path):
    visible, flagged, missed = count_flags(made, tmp_path, DAMAGED, copies=10)
    assert visible >= 40
    assert flagged >= 0.95 * visible, missed


@pytest.mark.parametrize("kind", KINDS)
def test_v14_no_clean_file_is_accused(made, kind):
    path = made.kind(kind)
    assert read_frames(path, np.arange(probe(path).num_frames)).damage == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs shared/data beside the repository")
def test_v14_no_clean_recording_is_accused():
    for path in sorted((SHARED / "videos").iterdir()):
        assert probe(path).damage == ""
    for path in sorted((SHARED / "jhmdb" / "videos").glob("*/*.mp4"))[::60]:
        assert read_frames(path, np.arange(probe(path).num_frames), short_side=64).damage == ""


@pytest.mark.slow
def test_v14_damage_that_is_seen_is_said_of_six_hundred_files(made, tmp_path):
    visible, flagged, missed = count_flags(made, tmp_path, DAMAGED, copies=100)
    assert visible >= 400
    assert flagged >= 0.95 * visible, missed


def test_v14_zeros_inside_a_picture_are_no_h264(made):
    path = made.kind("plain.mp4")
    with av.open(str(path)) as source:
        size = length_bytes("h264", source.streams.video[0].codec_context.extradata)
        packets = [bytes(p) for p in source.demux(video=0) if p.size]
    assert size == 4
    assert not any(is_impossible(packet, size) for packet in packets)
    middle = len(packets[0]) // 2
    assert is_impossible(packets[0][:middle] + bytes(3) + packets[0][middle + 3 :], size)
    assert is_impossible(packets[0][:-1], size)
    assert not is_impossible(packets[0][:-1] + bytes(1), size)  # a zero that may be a muxer's
    left_over = packets[0][:-5] + b"\0\0\0\1\x0a"  # seen in the wild: a start code and an end
    assert not is_impossible(left_over, size)


@pytest.mark.parametrize(
    ("packet", "is_damaged"),
    [
        (b"\0\0\0\1\x65\x88\0\0\3\1\x80", False),
        (b"\0\0\1\x65\x88\x80\0\0\0\0\1\x41\x9a\x80\0\0", False),
        (b"\0\0\0\1\x65\x88\0\0\2\x80", True),
        (b"\0\0\0\1\x65\x88\0\0\0\0\x80", True),
    ],
)
def test_v14_start_codes_are_told_from_zeros(packet, is_damaged):
    assert is_impossible(packet, 0) is is_damaged


@pytest.mark.parametrize(
    ("damage", "gaps"),
    [
        (lambda raw: raw, 0),
        (lambda raw: raw[: 188 * 10] + raw[188 * 12 :], 1),  # two packets lost
        (lambda raw: raw[:-50], 1),
        (lambda raw: raw[: 188 * 10] + bytes(188) + raw[188 * 11 :], 2),  # no sync, and a jump
    ],
)
def test_v14_gaps_of_a_transport_stream_are_counted(made, tmp_path, damage, gaps):
    path = tmp_path / "x.ts"
    path.write_bytes(damage(made("stream.ts", 40, height=120, width=160).read_bytes()))
    assert count_gaps(InputFile(path)) == gaps
