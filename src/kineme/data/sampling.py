"""Which frames of a sample a model sees, as index arithmetic over a whole batch.

Promises: indices depend only on lengths and the draws given, stay inside the sample, and
run forward in time. -1 stands for a frame of zeros.
Leaves out: drawing (randomness.py) and reading (arrays.py, shards.py).

Shapes: B samples, F frames asked for, K clips; batches are (B, C, T, V, M).
"""

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.integer]


def uniform_indices(
    lengths: Lengths, num_frames: int, draws: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """(B, F): one frame from each of `num_frames` equal segments of every sample.

    draws: (B, F) or (B, 1) in [0, 1), where in each segment; None takes the middle.
    A sample of at least `num_frames` frames gives distinct frames: segment i is the whole
    frames [i*L // F, (i+1)*L // F). A shorter one is stretched: frame floor((i+u)*L / F), so
    its frames repeat in order. A sample without frames (length 0) gives frame 0.
    The sampling of Duan et al. 2022 (PoseConv3D), which wraps short samples around instead.
    """
    if draws is None:
        draws = np.full((1, 1), 0.5)
    length = np.maximum(np.asarray(lengths, np.int64), 1)[:, None]
    edges = np.arange(num_frames + 1) * length // num_frames
    starts, sizes = edges[:, :-1], np.diff(edges, axis=1)
    inside = starts + (draws * sizes).astype(np.int64)
    stretched = ((np.arange(num_frames) + draws) * length / num_frames).astype(np.int64)
    return np.where(length >= num_frames, inside, np.minimum(stretched, length - 1))


def warped_indices(
    lengths: Lengths, draws: NDArray[np.float64], anywhere: NDArray[np.float64], warp: float
) -> NDArray[np.int64]:
    """(B, F): frames at uneven steps; draws and anywhere (B, F) in [0, 1), warp in [0, 1].

    At warp 0 the i-th lies in the i-th of F equal segments, where draws say (segments of time:
    not always other frames, as `uniform_indices` gives); at 1 all lie anywhere, in order, as the
    feeder of Chen et al. 2021 (CTR-GCN) draws them; else between the two. A sample without
    frames gives frame 0.
    """
    num_frames = draws.shape[1]
    even = (np.arange(num_frames) + draws) / num_frames
    places = (1 - warp) * even + warp * np.sort(anywhere, axis=1)
    length = np.maximum(np.asarray(lengths, np.int64), 1)[:, None]
    frames: NDArray[np.int64] = np.minimum((places * length).astype(np.int64), length - 1)
    return frames


def random_parts(
    lengths: Lengths, share: tuple[float, float], draws: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First frame and number of frames, each (B,), of a stretch of every sample, of one or more.

    share: of a sample's length, in (0, 1]; draws: (B, 2) in [0, 1): how much between the two, and
    where. The cropping of Duan et al. 2022 (PYSKL).
    """
    low, high = share
    length = np.maximum(np.asarray(lengths, np.int64), 1)
    asked = (low + draws[:, 0] * (high - low)) * length
    kept = np.maximum(np.ceil(asked - 1e-9), 1).astype(np.int64)  # 0.28 of 25 is 7.000000000000001
    starts = (draws[:, 1] * (length - kept + 1)).astype(np.int64)
    return starts, kept


def test_clips(lengths: Lengths, num_frames: int, num_clips: int) -> NDArray[np.int64]:
    """(B, K, F): `num_clips` uniform samplings, clip k at (k + 1/2) / K of each segment.

    One clip is the middle one that `uniform_indices` takes without draws.
    """
    clips = [
        uniform_indices(lengths, num_frames, np.full((1, 1), (k + 0.5) / num_clips))
        for k in range(num_clips)
    ]
    return np.stack(clips, axis=1)


def crop_or_pad(
    num_frames: int, window: int, *, draws: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """(B, F) for the fixed T=`num_frames` of an array, or (1, F) without draws.

    draws: (B,) in [0, 1), one place for each sample: a shorter array is padded to `window`
    with zeros before and after, a longer one cropped to a contiguous stretch. Without draws
    zeros go to the end, and nothing is ever cropped. A `window` below 1 keeps all frames.
    """
    if window < 1 or window == num_frames:
        draws = None if draws is None else np.zeros_like(draws)
        window = num_frames
    if draws is None:
        frames = np.arange(max(window, num_frames))[None]
    else:
        room = abs(window - num_frames) + 1
        places = (draws * room).astype(np.int64)[:, None]
        frames = np.arange(window) + (places if window < num_frames else -places)
    return np.where((frames >= 0) & (frames < num_frames), frames, -1)


def take_frames(
    data: NDArray[np.float32],
    frames: NDArray[np.int64],
    samples: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """(B, C, F, V, M): frames (B, F) or (1, F) of samples (B,) of data (N, C, T, V, M).

    samples: None takes all, B = N. Frame -1 gives zeros.
    """
    total, channels, length, joints, persons = data.shape
    samples = np.arange(total) if samples is None else samples
    if frames.size and frames.max() >= length:
        raise IndexError(f"frame {frames.max()} of {length}")
    planes = samples[:, None] * channels + np.arange(channels)  # (B, C)
    rows = planes[:, :, None] * length + np.maximum(frames, 0)[:, None]  # (B, C, F)
    flat = data.reshape(-1, joints * persons)
    picked = np.take(flat, rows.reshape(-1), axis=0, mode="clip")
    taken: NDArray[np.float32] = picked.reshape(*rows.shape, joints, persons)
    if (frames < 0).any():
        np.copyto(taken, 0, where=(frames < 0)[:, None, :, None, None])
    return taken


def short_warning(where: str, lengths: Lengths, num_frames: int) -> str | None:
    """One line when samples are shorter than the frames asked for, else None."""
    short = int((np.asarray(lengths) < num_frames).sum())
    if not short:
        return None
    shortest = int(np.min(lengths))
    return (
        f"{where}: {short} of {len(lengths)} samples have fewer than {num_frames} frames "
        f"(the shortest {shortest}); they are stretched to {num_frames}."
    )
