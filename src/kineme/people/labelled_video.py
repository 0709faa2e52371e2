"""annotated.mp4: when which frame is drawn, and what is said on it.

Promises: frames of a file are drawn when their labels are final, frames of a stream at once with
the labels of now; what waits to be drawn holds no pixels where these can be read again.
Leaves out: drawing and encoding (drawing.py).
"""

from __future__ import annotations

import dataclasses
from collections import deque
from pathlib import Path

from kineme.data.images import scaled_size
from kineme.people.drawing import AnnotatedVideo, Figure, Scene
from kineme.people.follower import Step
from kineme.people.poses import PersonPose
from kineme.people.segments import PERSON
from kineme.people.sources import Moment, Source
from kineme.people.timeline import Timeline
from kineme.pose_classification.layouts import Layout


class LabelledVideo:
    """The video of an analysis, a frame at a time. long_side: of its pixels, at most."""

    def __init__(
        self, path: Path, layout: Layout, source: Source, timeline: Timeline, *, long_side: int
    ) -> None:
        low, high = sorted((source.width, source.height))
        self._scale = min(long_side / high, 1.0)
        short_side = max(low * min(long_side, high) // high, 1)  # the other is at most long_side
        self._video = AnnotatedVideo(
            path,
            layout,
            fps=source.fps,
            size=scaled_size(source.height, source.width, short_side=short_side),
            again=source.again(short_side=short_side),
        )
        self._is_live, self._timeline = source.is_live, timeline
        self._undecided: deque[Scene] = deque()
        self._num_frames = 0

    def put(self, moment: Moment, step: Step) -> None:
        self._num_frames += 1
        figures = tuple(Figure(id_, _scaled(pose, self._scale), "") for id_, pose in step.smooth)
        if self._is_live:
            scene = Scene(moment.index, moment.seconds, figures, moment.frame)
            self._video.put(self._labelled(scene))
            return
        self._undecided.append(Scene(moment.index, moment.seconds, figures))
        self._draw_decided(self._timeline.decided_until)

    def finish(self) -> None:
        """Draw the rest, of which all labels are final now, and wait until it is written. Raises
        what went wrong; without frames there is no file."""
        self._draw_decided(float("inf"))
        if self._num_frames:
            self._video.finish()
        else:
            self._video.abandon()

    def abandon(self) -> None:
        """Stop; there is no file then."""
        self._video.abandon()

    def _draw_decided(self, until: float) -> None:
        while self._undecided and self._undecided[0].seconds < until:
            self._video.put(self._labelled(self._undecided.popleft()))
        if self._undecided:
            self._timeline.forget(self._undecided[0].seconds)

    def _labelled(self, scene: Scene) -> Scene:
        figures = []
        for one in scene.figures:
            if self._is_live:
                label, probability = self._timeline.latest(one.id)
            else:
                label, probability = self._timeline.label_at(one.id, scene.seconds)
            figures.append(Figure(one.id, one.pose, _caption(one.id, label, probability)))
        return dataclasses.replace(scene, figures=tuple(figures))


def _scaled(pose: PersonPose, scale: float) -> PersonPose:
    return dataclasses.replace(pose, joints=pose.joints * scale, box=pose.box * scale)


def _caption(person: int, label: str, probability: float | None) -> str:
    if not label or label == PERSON:
        return str(person)
    return f"{person} {label}" + ("" if probability is None else f" {100 * probability:.0f} %")
