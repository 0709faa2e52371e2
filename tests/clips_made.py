"""Small videos made on the spot, with every frame known: each shows its own number.

`picture(k)` is frame k as it goes into the encoder. `make_video` writes any codec, container,
rate, group length, time stamps and orientation that a test asks for.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH = 64, 80
BITS = 10


def picture(number, *, height=HEIGHT, width=WIDTH):
    """(H, W, 3): a soft pattern that moves, above it the number as black and white blocks."""
    y, x = np.mgrid[:height, :width]
    red = 127 + 90 * np.sin((x + 3 * number) / 9)
    green = 127 + 90 * np.cos((y - 2 * number) / 7)
    blue = (x * 2 + y + 5 * number) % 256 / 2 + 60
    frame = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    cell = width // BITS
    for bit in range(BITS):
        frame[: height // 4, bit * cell : (bit + 1) * cell] = 235 if number >> bit & 1 else 16
    return frame


def number_in(frame):
    """The number that a decoded frame shows."""
    height, width = frame.shape[:2]
    cell = width // BITS
    lights = [
        frame[: max(height // 5, 1), b * cell + cell // 4 : (b + 1) * cell - cell // 4].mean()
        for b in range(BITS)
    ]
    return sum(1 << bit for bit, light in enumerate(lights) if light > 128)


def make_video(
    path,
    num_frames=30,
    *,
    codec="libx264",
    container=None,
    fps=25,
    height=HEIGHT,
    width=WIDTH,
    pixels="yuv420p",
    group=12,
    b_frames=2,
    options=None,
    container_options=None,
    ticks=None,
    ticks_per_second=None,
    rotation=None,
    frames=None,
    mirrored=False,
    sound=False,
):
    """Write frames 0..num_frames-1 (or `frames`) to `path`; return the path.

    ticks: time stamp of each frame in 1 / ticks_per_second; None spaces them evenly at `fps`.
    rotation: degrees counterclockwise of the display matrix, which `mirrored` mirrors.
    sound: a silent track beside it. (x264 with its mbtree gives other bytes each time.)
    """
    path = Path(path)
    ticks_per_second = ticks_per_second or fps
    with av.open(path, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        context = stream.codec_context
        context.time_base = Fraction(1, ticks_per_second)
        context.gop_size = group
        context.thread_count = 1
        if codec not in ("mjpeg", "ffv1", "gif", "rawvideo", "libvpx", "libvpx-vp9", "prores_ks"):
            context.max_b_frames = b_frames
        stream.options = {
            "libx264": {"preset": "veryfast", "crf": "20", "sc_threshold": "0", "mbtree": "0"},
            "libx265": {"preset": "ultrafast", "x265-params": f"log-level=0:keyint={group}"},
        }.get(codec, {}) | (options or {})
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        audio = output.add_stream("aac", rate=8000, layout="mono") if sound else None
        pictures = frames or (picture(k, height=height, width=width) for k in range(num_frames))
        for number, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base = Fraction(1, ticks_per_second)
            frame.pts = ticks[number] if ticks else number * ticks_per_second // fps
            output.mux(stream.encode(frame.reformat(format=pixels)))
        output.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            for k in range(max(num_frames * 8000 // (fps * 1024), 1)):
                silence.pts = k * 1024
                output.mux(audio.encode(silence))
            output.mux(audio.encode(None))
    return path


def full_decode(path):
    """Every frame as the plainest use of PyAV gives it: the truth that tests compare with."""
    with av.open(str(path)) as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]


class Made:
    """Videos made once and kept: `made("plain.mp4", num_frames=30)` is a path."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, name, *settings, **keywords):
        path = self.folder / name
        if not path.exists():
            make_video(path, *settings, **keywords)
        return path

    def kind(self, name):
        """One of KINDS."""
        return self(name, **KINDS[name])


def _wobbling(step, wobble):
    return [k * step + (k % 3) * wobble for k in range(30)]


_OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal"}
_REFRESH = {"x264-params": "intra-refresh=1:keyint=12"}
_FIELDS = {"flags": "+ildct+ilme"}
_HIDDEN = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "8"}
_FAST_VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "16"}
_MS = {"ticks_per_second": 1000}

KINDS = {  # what a decoder may meet, by file name
    "plain.mp4": {},
    "long_group.mp4": {"num_frames": 60, "group": 60, "b_frames": 3},
    "no_b_frames.mp4": {"b_frames": 0},
    "open_groups.mp4": {"num_frames": 60, "options": _OPEN_GROUPS},
    "open_groups.mkv": {"num_frames": 60, "options": _OPEN_GROUPS},
    "open_groups.ts": {"num_frames": 60, "options": _OPEN_GROUPS},
    "no_key_frames.mp4": {"num_frames": 60, "options": _REFRESH},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "index_first.mp4": {"container_options": {"movflags": "faststart"}},
    "sound.mp4": {"sound": True},
    "sound.mkv": {"sound": True},
    "plain.mkv": {},
    "plain.mov": {},
    "plain.avi": {},
    "plain.ts": {},
    "plain.flv": {},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_b.avi": {"codec": "mpeg4"},
    "mpeg4_b.mp4": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "vp8_hidden.webm": {"codec": "libvpx", "options": _HIDDEN},
    "vp9.webm": {"codec": "libvpx-vp9", "options": _FAST_VP9},
    "hevc.mp4": {"codec": "libx265", "num_frames": 40},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1"},
    "picture.gif": {"codec": "gif", "pixels": "rgb8"},
    "odd_444.mp4": {"pixels": "yuv444p", "height": 61, "width": 79},
    "colour_422.mp4": {"pixels": "yuv422p"},
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "interlaced.mp4": {"options": _FIELDS | {"x264-params": "tff=1"}},
    "interlaced.ts": {"options": _FIELDS | {"x264-params": "tff=1"}},
    "interlaced_mpeg2.ts": {"codec": "mpeg2video", "options": _FIELDS},
    "late_start.mp4": {"ticks": [k * 40 + 4000 for k in range(30)]} | _MS,
    "late_start.ts": {"ticks": [k * 40 + 4000 for k in range(30)]} | _MS,
    "negative_start.mkv": {"ticks": [k * 40 - 400 for k in range(30)]} | _MS,
    "edit_list.mp4": {"ticks": [k * 40 - 400 for k in range(30)]} | _MS,  # ten are never shown
    "wobbling.mkv": {"ticks": _wobbling(40, 5)} | _MS,
    "one_frame.mp4": {"num_frames": 1},
    "two_frames.mp4": {"num_frames": 2},
    "one_frame.avi": {"num_frames": 1},
}
