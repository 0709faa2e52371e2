"""Data sets of frames for tests of action recognition: small, and every pixel known.

Frame k of a video is one colour, (k, seed, 100), so that a test sees which frames came.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from images_made import save_image
from kineme.action_recognition.sources import KEYS, complete, load_videos
from kineme.action_recognition.spec import SPECS
from kineme.errors import DataError
from kineme.spec.load import load_spec

SIZE = (12, 16)


def save_frames(folder, numbers=range(4), *, seed=0, size=SIZE, name="{:06d}.png"):
    """Colour frames of these numbers; returns the folder."""
    for k in numbers:
        frame = np.empty((*size, 3), np.uint8)
        frame[:] = (k, seed, 100)
        save_image(Path(folder) / name.format(k), frame)
    return Path(folder)


def save_flow(folder, numbers=range(3), *, size=SIZE, u=140, v=120):
    """Gray frames in u/ and v/: everything moves alike; frame k of u is u + k."""
    for k in numbers:
        save_image(Path(folder) / "u" / f"{k:06d}.png", np.full(size, u + k, np.uint8))
        save_image(Path(folder) / "v" / f"{k:06d}.png", np.full(size, v, np.uint8))
    return Path(folder)


def save_tao(folder, num_frames=4, *, seed=0, flow=False):
    """A video as TAO has it: rgb/, and u/ and v/ where asked for."""
    save_frames(Path(folder) / "rgb", range(num_frames), seed=seed)
    if flow:
        save_flow(folder, range(num_frames - 1))
    return Path(folder)


def save_classes(root, num_frames=4, *, flow=False, classes=("catch", "smile"), per_class=2):
    """<root>/<class>/v<i>."""
    for c, name in enumerate(classes):
        for i in range(per_class):
            save_tao(Path(root) / name / f"v{i}", num_frames, seed=10 * c + i, flow=flow)
    return Path(root)


def pack(archive, folder, *, inside):
    """A .tar.gz of `folder`, called `inside` in it."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=inside)
    return Path(archive)


def spec_for(where, split="train", *words):
    """A spec that names `where` as the data of `split`, classes as the data say."""
    keys = {"dataset.train_dataset_dir", KEYS[split]}
    base = ["results_dir=results", "dataset.workers=0", *(f"{key}={where}" for key in sorted(keys))]
    return load_spec(SPECS["train"], None, [*base, *words])[0]


def videos_at(where, split="train", *words):
    """What `load_videos` makes of it."""
    spec, _ = complete(spec_for(where, split, *words), split)
    return load_videos(spec, split)


def refused(where, split="train", *words):
    """The problems of data that must not load, one string each."""
    with pytest.raises(DataError) as caught:
        videos_at(where, split, *words)
    assert caught.value.exit_code == 3
    return [str(problem).replace(f"{where}", "D") for problem in caught.value.problems]


def ids_of(videos):
    """Names of the videos, in order."""
    return [video.id for video in videos.items]
