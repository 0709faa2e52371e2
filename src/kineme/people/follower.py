"""What one frame after another brings: people found, followed, smoothed, and what they do.

Promises: the same frames give the same steps, live or from a file, with pixels or with what an
estimator said of them before; memory does not grow with the video.
Leaves out: where frames come from (sources.py), what is kept and written (analyze.py).
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from kineme.people.estimators import Estimator
from kineme.people.poses import FramePoses, PersonPose
from kineme.people.segments import Segment
from kineme.people.sources import Moment
from kineme.people.timeline import Timeline
from kineme.people.tracking.cuts import CutDetector
from kineme.people.tracking.smoothing import OneEuroFilter, SmoothingSettings
from kineme.people.tracking.tracker import Tracker, TrackingSettings
from kineme.pose_classification.layouts import Layout


@dataclass(frozen=True, eq=False)
class Step:
    """What one frame brought: who is in it, as found and with smoothed joints, and which segments
    are over."""

    poses: FramePoses
    found: tuple[tuple[int, PersonPose], ...]
    smooth: tuple[tuple[int, PersonPose], ...]
    over: tuple[Segment, ...]
    is_cut: bool

    @property
    def ids_by_place(self) -> dict[int, int]:
        """The id of each person of the frame who is followed, by place in it."""
        places = {id(pose): place for place, pose in enumerate(self.poses.people)}
        return {places[id(pose)]: id_ for id_, pose in self.found}


class Follower:
    """People, tracks and timeline of one video, a frame at a time. estimate_seconds: spent in
    the estimator. Joints are smoothed, as those of training sets made of videos are."""

    def __init__(self, estimator: Estimator, layout: Layout, timeline: Timeline) -> None:
        self.estimator, self.layout, self.timeline = estimator, layout, timeline
        self.tracker = Tracker(TrackingSettings(layout))
        self.estimate_seconds = 0.0
        self._cuts = CutDetector()
        self._smoothers: dict[int, OneEuroFilter] = {}

    def look(self, moment: Moment, known: FramePoses | None = None) -> Step:
        """known: what the estimator said of this frame in an earlier run."""
        is_cut = self._cuts.is_cut(moment.frame)
        if known is None:
            began = time.perf_counter()
            people = self.estimator.detect(moment.frame)
            self.estimate_seconds += time.perf_counter() - began
            known = FramePoses(moment.index, moment.seconds, people)
        return self.follow(known, is_cut=is_cut)

    def follow(self, poses: FramePoses, *, is_cut: bool = False) -> Step:
        """The part that needs no pixels."""
        found = self.tracker.update(poses, is_cut=is_cut)
        smooth = tuple((id_, self._smoothed(id_, poses.seconds, pose)) for id_, pose in found)
        if len(self._smoothers) > 2 * self.tracker.num_followed + 8:  # of people who are gone
            here = {id_ for id_, _ in found} | self.timeline.people
            self._smoothers = {id_: one for id_, one in self._smoothers.items() if id_ in here}
        return Step(poses, found, smooth, self.timeline.update(poses, smooth), is_cut)

    def _smoothed(self, person: int, seconds: float, pose: PersonPose) -> PersonPose:
        smoother = self._smoothers.get(person)
        if smoother is None:
            smoother = self._smoothers[person] = OneEuroFilter(SmoothingSettings())
        joints = smoother.update(seconds, pose.joints, pose.box)
        return dataclasses.replace(pose, joints=joints)
