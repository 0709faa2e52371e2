"""Tracks written down by hand: what tests of tracks share."""

import numpy as np

from kineme.data.tracks import Track, Tracks

NAMES = ("nose", "left_hip", "right_hip")
NAN = np.float32(np.nan)


def made_track(
    id_: int,
    frames: list[int],
    joints: np.ndarray,
    *,
    seconds: list[float] | None = None,
    confidence: float = 0.5,
) -> Track:
    """joints (T, V, D), NaN where not seen; a box around them."""
    joints = np.asarray(joints, np.float32)
    is_missing = np.isnan(joints).any(axis=-1)
    length = len(frames)
    return Track(
        id_,
        np.array(frames, np.int64),
        np.array([f / 10 for f in frames] if seconds is None else seconds, np.float64),
        joints,
        np.where(is_missing, 0, confidence).astype(np.float32),
        np.tile(np.array([0, 0, 60, 80], np.float32), (length, 1)),
        np.full(length, 0.75, np.float32),
    )


def made_tracks(*tracks: Track, num_axes: int = 2, layout: str = "mine", **facts: object) -> Tracks:
    names = NAMES
    if tracks and tracks[0].joints.shape[1] != len(names):
        names = tuple(f"joint{i}" for i in range(tracks[0].joints.shape[1]))
    given = {"width": 200, "height": 100, "fps": 10.0, "source": "a.mp4", "num_frames": 50, **facts}
    return Tracks(layout=layout, joint_names=names, num_axes=num_axes, tracks=tracks, **given)  # type: ignore[arg-type]
