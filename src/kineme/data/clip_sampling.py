"""Which frames of a video the clips of a model hold, as index arithmetic.

Promises: indices depend only on the number of frames and the draws given, lie in [0, n)
and run forward in time (except where a short video starts over); training draws from the
whole video, its last frame included; the clips of two streams lie at the same time. TAO's
indices, where they are sound.
Leaves out: drawing (randomness.py), reading (video/, images.py), and refusing short
videos (whoever lists the videos).

Words: n frames of a video, L frames of a clip, rate r from one to the next, K clips of a
video. All indices are (K, L) int64. A video has n = number of frames (rgb), of flow images
(flow), or of flow images too where both are seen: flow image k lies between the frames k
and k + 1, so one index serves both streams.

Two strategies. random_interval: the video is cut into L equal parts and each gives a frame;
a video of fewer than L frames gives some of them twice. consecutive: every r-th frame from
a start; a video shorter than L * r ends early, and `short_clip` says what follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Draws = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How clips are taken: `model.sample_strategy`, `model.sample_rate`, `dataset.short_clip`.

    short_clip: pad repeats the last frame of a video that is too short, loop starts over.
    """

    strategy: str = "random_interval"
    rate: int = 1
    short_clip: str = "pad"


def train_clip(num_frames: int, length: int, sampling: Sampling, draws: Draws) -> Indices:
    """(1, L): a random clip. draws: (L,) in [0, 1), of which consecutive reads the first."""
    if sampling.strategy == "consecutive":
        clip = _random_consecutive(num_frames, length, sampling, float(draws[0]))
    else:
        clip = _random_interval(num_frames, length, draws)
    return clip[None]


def eval_clips(
    num_frames: int,
    length: int,
    sampling: Sampling,
    *,
    mode: str = "center",
    num_segments: int = 1,
    has_tail: bool = False,
) -> Indices:
    """(K, L): the clips whose opinions are averaged, in order of time.

    mode center: one clip in the middle. conv: `num_segments` clips, evenly spread
    (consecutive), or, like all, each of the n // L interleaved interval clips. all
    (consecutive): windows side by side, each r times, one frame later each time, so that
    every frame is seen once; what is left of less than a window at the end is dropped as
    TAO does, or with `has_tail` (3d models) covered by windows that end with the video. TAO
    gives a 3d model all frames as one clip instead, of a length it was not trained on.
    """
    if mode == "center":
        clips = _center(num_frames, length, sampling)[None]
    elif sampling.strategy != "consecutive":
        clips = _interleaved(num_frames, length)
    elif mode == "conv":
        clips = _spread(num_frames, length, sampling.rate, num_segments)
    else:
        clips = _side_by_side(num_frames, length, sampling.rate, has_tail=has_tail)
    return _within(clips, num_frames, sampling.short_clip)


def by_stream(
    clips: Indices, lengths: Mapping[str, int], sampling: Sampling, draws: Draws | None = None
) -> dict[str, Indices]:
    """The clips (K, L) of each stream, from those of the longest (K, max of lengths).

    A shorter clip holds frames of the longer one: under consecutive its middle, so the rate
    stays what it is; under random_interval one of each equal part of it, the middle one or
    (in training) by `draws` (at least as many as the shorter clip has frames).
    """
    longest = clips.shape[1]
    chosen = {}
    for stream, length in lengths.items():
        if length == longest:
            chosen[stream] = clips
            continue
        if sampling.strategy == "consecutive":
            picks = _center_consecutive(longest, length, 1)
        elif draws is None:
            picks = _center_interval(longest, length)
        else:
            picks = _random_interval(longest, length, draws[:length])
        chosen[stream] = clips[:, picks]
    return chosen


def needed_frames(length: int, sampling: Sampling) -> int:
    """Frames below which a video is short: some of a clip would be seen twice."""
    is_consecutive = sampling.strategy == "consecutive"
    return (length - 1) * sampling.rate + 1 if is_consecutive else length


def _random_interval(num_frames: int, length: int, draws: Draws) -> Indices:
    """One frame of each part; parts differ by one frame at most, so that none is left over."""
    if num_frames < length:
        return np.sort((draws * num_frames).astype(np.int64))
    edges = np.arange(length + 1, dtype=np.int64) * num_frames // length
    return edges[:-1] + (draws * np.diff(edges)).astype(np.int64)


def _random_consecutive(num_frames: int, length: int, sampling: Sampling, draw: float) -> Indices:
    """A clip from any start that leaves it whole."""
    last_start = max(0, num_frames - needed_frames(length, sampling))
    start = int(draw * (last_start + 1))
    clip = _every(start, length, sampling.rate)
    return _within(clip, num_frames, sampling.short_clip)


def _center(num_frames: int, length: int, sampling: Sampling) -> Indices:
    if sampling.strategy == "consecutive":
        return _center_consecutive(num_frames, length, sampling.rate)
    return _center_interval(num_frames, length)


def _center_interval(num_frames: int, length: int) -> Indices:
    """The middle frame of each part, floor((i + 1/2) * n / L)."""
    return (2 * np.arange(length, dtype=np.int64) + 1) * num_frames // (2 * length)


def _center_consecutive(num_frames: int, length: int, rate: int) -> Indices:
    return _every(max(0, num_frames - length * rate + 1) // 2, length, rate)


def _interleaved(num_frames: int, length: int) -> Indices:
    """Clip j holds frame j of each of L parts of n // L frames."""
    step = max(1, num_frames // length)
    return np.arange(length) * step + np.arange(step)[:, None]


def _spread(num_frames: int, length: int, rate: int, num_segments: int) -> Indices:
    """`num_segments` clips, clip k at (k + 1/2) / K of the possible starts."""
    num_starts = num_frames - length * rate + 1
    if num_starts < 1:
        return _every(0, length, rate)[None]
    starts = (2 * np.arange(num_segments, dtype=np.int64) + 1) * num_starts // (2 * num_segments)
    return starts[:, None] + _every(0, length, rate)


def _side_by_side(num_frames: int, length: int, rate: int, *, has_tail: bool) -> Indices:
    span = length * rate
    starts = np.arange(max(1, num_frames // span), dtype=np.int64) * span
    if has_tail and num_frames > span and num_frames % span:
        starts = np.append(starts, num_frames - span)
    phases = np.arange(rate if num_frames >= span else 1)
    starts = np.unique(starts[:, None] + phases)
    return starts[:, None] + _every(0, length, rate)


def _every(start: int, length: int, rate: int) -> Indices:
    return start + np.arange(length, dtype=np.int64) * rate


def _within(clips: Indices, num_frames: int, short_clip: str) -> Indices:
    """Clips of a short video, ended as `short_clip` says."""
    if short_clip == "loop":
        return clips % num_frames
    return np.minimum(clips, num_frames - 1)
