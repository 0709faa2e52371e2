"""Tracks that an analysis left, to training clips: what a model is shown of them there.

Promises: joints are smoothed and short gaps closed as `kineme analyze` shows them to a model, and
as in training sets made of videos, unless `dataset_convert.smoothing` is off.
Leaves out: reading the files (pose_classification/convert/tracks.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kineme.data.conversion import Tally
from kineme.people.tracking.smoothing import SmoothingSettings, smooth_tracks
from kineme.pose_classification.convert import tracks
from kineme.pose_classification.convert.clips import Source


def read_tracks(settings: Any, tally: Tally) -> Source:
    """The clips of files of tracks: a reader of dataset_convert."""
    if not settings.smoothing:
        return tracks.read_tracks(settings, tally)
    smoothed = partial(smooth_tracks, settings=SmoothingSettings())
    return tracks.read_tracks(settings, tally, smoothed)
