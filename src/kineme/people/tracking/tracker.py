"""Who is who from frame to frame: ids that stay with people while they cross and hide.

Promises: an id is given once and never again; the same frames give the same ids, one by one
as all at once; a frame costs time by the people in it and
not by how long the video is.
Method: ByteTrack (Zhang et al. 2022): sure detections are assigned first, unsure ones then,
to those still without one. Known people are expected where their velocity takes them, less
and less so while they are lost (known.py). Someone new is tentative until seen `confirm_rows`
times, but at the start of a scene known at once; someone lost comes back under the old id for
`max_lost_seconds`.
Leaves out: seeing people (estimators/), what they look like: two who hide for long and come
back elsewhere are new; movements of the camera.

Shapes: K people known, P people seen, V joints, E bones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.people.poses import FramePoses, PersonPose
from kineme.people.tracking.association import (
    Array,
    Bodies,
    assign,
    bone_difference,
    bone_logs,
    sigmas_of,
    similarity,
    sizes_of,
)
from kineme.people.tracking.known import KnownPerson, Sight
from kineme.pose_classification.layouts import Layout

Found = tuple[tuple[int, PersonPose], ...]  # (id, pose) by rising id

_SPREAD = 0.1  # body sizes that somebody may be off at once
_SPREAD_PER_SECOND = 1.2
_MAX_SPREAD = 1.5
_FRESH_SECONDS = 0.2  # unseen for longer is lost; so is unseen for more than two frames
_COST_OF_LOST = 0.1
_COST_OF_BONES = 0.2
_MAX_COST_OF_UNSURE = 0.5
_SAME_POSE = 0.6  # similarity of two detections from which they are one person seen twice


@dataclass(frozen=True)
class TrackingSettings:
    """How people are followed. Scores are those of PersonPose.

    layout: of the joints. high_score: from which a detection is sure. low_score: below which
    one is ignored. new_score: from which one may be somebody new. confirm_rows: times seen
    until an id is given. max_lost_seconds: how long somebody unseen is remembered.
    min_similarity: in [0, 1], below which two are never the same.
    """

    layout: Layout
    high_score: float = 0.25
    low_score: float = 0.1
    new_score: float = 0.25
    confirm_rows: int = 3
    max_lost_seconds: float = 2.0
    min_similarity: float = 0.2


class Tracker:
    """Follows people through one video or stream, a frame at a time.

    num_ignored: how often somebody seen was not looked at: a score below `low_score`, or
    no box.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        self.settings, self.num_ignored = settings, 0
        self._sigmas = sigmas_of(settings.layout)
        self._known: list[KnownPerson] = []
        self._last_id = 0
        self._last: FramePoses | None = None
        self._step_seconds = 0.0  # from the frame before to this one
        self._is_new_scene = True

    def update(self, frame: FramePoses, *, is_cut: bool = False) -> Found:
        """(id, pose) of everybody followed and seen in `frame`, by rising id.

        is_cut: this frame begins another scene: nobody before it is anybody in it.
        """
        last = self._last
        if last and (frame.index <= last.index or frame.seconds < last.seconds):
            raise ValueError(f"frame {frame.index} does not follow frame {last.index}")
        self._step_seconds = frame.seconds - last.seconds if last else 0.0
        self._last = frame
        if is_cut:
            self._known, self._is_new_scene = [], True
        self._known = [person for person in self._known if self._is_remembered(person)]
        sights = self._look(frame)
        if sights:
            self._match(sights)
            self._is_new_scene = False
        is_here = (p for p in self._known if p.id and p.sight.frame_index == frame.index)
        return tuple((p.id, p.sight.pose) for p in sorted(is_here, key=lambda person: person.id))

    @property
    def num_followed(self) -> int:
        """People with an id, seen or not lost for long."""
        return sum(person.id > 0 for person in self._known)

    def _is_remembered(self, person: KnownPerson) -> bool:
        limit = self.settings.max_lost_seconds if person.id else self._fresh_seconds
        return self._unseen_seconds(person) <= limit

    def _unseen_seconds(self, person: KnownPerson) -> float:
        return self._last.seconds - person.sight.seconds if self._last else 0.0

    @property
    def _fresh_seconds(self) -> float:
        return max(_FRESH_SECONDS, 2.5 * self._step_seconds)

    def _look(self, frame: FramePoses) -> list[Sight]:
        """Those of a frame who can be followed."""
        poses = [
            pose
            for pose in frame.people
            if pose.score >= self.settings.low_score and np.isfinite(pose.box).all()
        ]
        self.num_ignored += len(frame.people) - len(poses)
        if not poses:
            return []
        joints = np.stack([pose.joints[:, :2] for pose in poses]).astype(float)
        sizes = sizes_of(np.stack([pose.box for pose in poses]).astype(float))
        bones = bone_logs(joints, self.settings.layout.edges, sizes)
        return [
            Sight(pose, frame.index, frame.seconds, body, float(size), logs)
            for pose, body, size, logs in zip(poses, joints, sizes, bones, strict=True)
        ]

    def _match(self, sights: list[Sight]) -> None:
        """Find those known among those seen; the others may be new."""
        settings = self.settings
        scores = np.array([sight.pose.score for sight in sights])
        costs = self._costs(sights)
        is_sure = scores >= settings.high_score
        has_id = np.array([person.id > 0 for person in self._known], bool)
        unseen = np.array([self._unseen_seconds(person) for person in self._known])
        is_fresh = unseen <= self._fresh_seconds
        rows, columns = np.ones(len(self._known), bool), np.ones(len(sights), bool)
        limit = 1 - settings.min_similarity
        for whom, what, most in (
            (has_id, is_sure, limit),
            (has_id & is_fresh, ~is_sure, min(limit, _MAX_COST_OF_UNSURE)),
            (~has_id, is_sure, limit),
        ):
            people, places = np.flatnonzero(rows & whom), np.flatnonzero(columns & what)
            for row, column in assign(costs[np.ix_(people, places)], most):
                person, place = people[row], places[column]
                rows[person] = columns[place] = False
                self._known[person].see(sights[place], settings.layout)
        for person in self._known:
            if not person.id and person.num_rows >= settings.confirm_rows:
                person.id = self._next_id()
        self._add_new(sights, columns & is_sure & (scores >= settings.new_score), ~columns)

    def _add_new(
        self, sights: list[Sight], is_new: NDArray[np.bool_], is_taken: NDArray[np.bool_]
    ) -> None:
        """Start to follow those who are new and not a second sight of somebody taken."""
        bodies = _bodies_seen(sights)
        _, alike = similarity(
            bodies,
            bodies,
            sigmas=self._sigmas,
            spread=np.zeros(len(sights)),
            sizes=sizes_of(bodies.boxes),
        )
        for place in np.flatnonzero(is_new).tolist():
            if (alike[place, is_taken] > _SAME_POSE).any():
                continue
            is_taken[place] = True
            person = KnownPerson(sights[place])
            if self._is_new_scene or self.settings.confirm_rows <= 1:
                person.id = self._next_id()
            self._known.append(person)

    def _costs(self, sights: list[Sight]) -> Array:
        """(K, P) how ill those known and those seen fit."""
        if not self._known:
            return np.zeros((0, len(sights)))
        seconds = sights[0].seconds
        unseen = np.array([self._unseen_seconds(person) for person in self._known])
        expected = [person.expected(seconds) for person in self._known]
        bodies = Bodies(
            np.stack([joints for joints, _ in expected]),
            np.stack([person.trust for person in self._known]),
            np.stack([box for _, box in expected]),
        )
        fit, _ = similarity(
            bodies,
            _bodies_seen(sights),
            sigmas=self._sigmas,
            spread=np.minimum(_SPREAD + _SPREAD_PER_SECOND * unseen, _MAX_SPREAD),
            sizes=np.array([person.size for person in self._known]),
        )
        bones = bone_difference(
            np.stack([person.bones.means for person in self._known]),
            np.stack([person.bones.deviations for person in self._known]),
            np.stack([sight.bones for sight in sights]),
        )
        is_lost = unseen > self._fresh_seconds
        return np.asarray(1 - fit + _COST_OF_BONES * bones + _COST_OF_LOST * is_lost[:, None])

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id


def _bodies_seen(sights: list[Sight]) -> Bodies:
    return Bodies(
        np.stack([sight.joints for sight in sights]),
        np.stack([sight.pose.confidence for sight in sights]).astype(float),
        np.stack([sight.pose.box for sight in sights]).astype(float),
    )
