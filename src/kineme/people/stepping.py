"""What people do, a frame at a time: each new frame costs one step, not a window.

In place of windows that are each looked at anew, the model goes along with every person
(pose_classification/steps/stepped_model.py says what its answers equal); the timeline is the
ordinary one, of the frames for which the model's answers are complete.

Promises: a file and a live stream get the same segments; a person's answers do not depend on who
else is in the picture; short gaps are closed as in windows, with the frames held back until it is
known what closes them.
Leaves out: people together: each is shown to the model alone.

Shapes: V joints, D axes, C channels, K classes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.people.classifier import PoseClassifier
from kineme.people.poses import FramePoses, PersonPose
from kineme.people.segments import Segment
from kineme.people.timeline import Timeline, TimelineSettings, Window
from kineme.people.tracking.smoothing import SLACK_SECONDS, SmoothingSettings
from kineme.pose_classification.layouts import Layout
from kineme.pose_classification.steps.stepped_model import SteppedModel, Steps
from kineme.pose_classification.steps.values import SteppedValues


class SteppedClassifier(PoseClassifier):
    """A trained model that goes along with each person.

    fps: of the video. window_seconds: what an answer is the mean over, 0 for what the checkpoint
    sees. max_gap_seconds: up to which missing joints are put on a line between two sights.
    step_seconds: from step to step. Raises SpecError for models that have no steps.
    """

    def __init__(
        self,
        path: str | Path,
        source: Layout,
        size: tuple[int, int],
        *,
        fps: float,
        window_seconds: float = 0.0,
        max_gap_seconds: float = SmoothingSettings.max_gap_seconds,
        key: str | None = None,
        uses_threshold: bool = True,
        estimator: str = "",
    ) -> None:
        super().__init__(
            path, source, size,
            key=key, uses_threshold=uses_threshold, is_alone=True, estimator=estimator,
            picks_window=not window_seconds, fps=fps,
        )  # fmt: skip
        settings = self._spec.dataset
        window = window_seconds or self.window_seconds(fps)
        num_frames = settings.num_frames if settings.sampling == "uniform" else round(window * fps)
        num_frames = max(num_frames, 1)
        self.step_seconds = window / num_frames
        self.model = SteppedModel(self._model, window=num_frames)
        self._new_values = partial(
            SteppedValues, settings.normalize, self.layout, num_frames,
            fill_gaps=settings.fill_gaps,
        )  # fmt: skip
        self._max_gap_seconds = max_gap_seconds
        self._people: dict[int, _Person] = {}
        self.notes = (*self.notes, self._delay_note())
        if self._padded_frames:
            self.cautions = (*self.cautions, self._unpadded_note())

    def update(
        self, person: int, seconds: float, pose: PersonPose | None
    ) -> NDArray[np.float32] | None:
        """Take the next frame, None where the person is not seen in it; (K,) probabilities of the
        last window that is complete, None before there is one."""
        one = self._people.get(person)
        if one is None:
            one = self._people[person] = self._begin(seconds)
        self._take(one, one.gaps.add(seconds, pose))
        logits = self.model.answer(one.steps)
        return None if logits is None else self._shares(logits)[0]

    def classify(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """(B, K) probabilities of people through windows, by the steps taken with them since."""
        answers = [self.answer(one.person, *one.seconds[[0, -1]].tolist()) for one in windows]
        return np.stack(answers)

    def answer(self, person: int, first: float, last: float) -> NDArray[np.float32]:
        """(K,) probabilities of somebody from a frame to another, both in seconds."""
        one = self._people[person]
        begin, end = (round((at - one.start) / self.step_seconds) for at in (first, last))
        begin = min(begin, end + 1 - self.model.stride)  # so that there is a feature
        logits = self.model.answer(one.steps, (begin, end + 1))
        if logits is None:  # nothing to go by
            return np.zeros(len(self.names), np.float32)
        shares: NDArray[np.float32] = self._shares(logits)[0]
        return shares

    def complete_until(self, person: int) -> float:
        """Seconds up to which no answer about somebody will change."""
        one = self._people[person]
        done = one.steps.num_features * self.model.stride * self.step_seconds
        return math.inf if one.is_over else one.start + done

    def finish(self, person: int) -> None:
        """Nothing comes after: what is left is answered as at the end of a window."""
        one = self._people[person]
        self._take(one, one.gaps.rest())
        self._step(one, one.values.rest())
        self.model.finish(one.steps)  # at least one feature
        one.is_over = True

    def forget(self, person: int) -> None:
        del self._people[person]

    @property
    def people(self) -> set[int]:
        """Those who are remembered."""
        return set(self._people)

    def _begin(self, seconds: float) -> _Person:
        places = self._num_places if self.model.counts_nobody else 1
        return _Person(
            seconds,
            self.model.begin(1, places),
            self._new_values(),
            _Gaps(self._max_gap_seconds),
        )

    def _take(self, one: _Person, frames: Sequence[_Frame]) -> None:
        """Steps up to each frame: the first at or after a step's time is what that step sees."""
        for frame in frames:
            due = (frame.seconds - one.start) / self.step_seconds + 0.5
            if one.values.num_frames <= due:
                x = self._as_seen(frame)
                while one.values.num_frames <= due:
                    self._step(one, one.values.update(x))

    def _step(self, one: _Person, frames: Sequence[torch.Tensor]) -> None:
        others = one.steps.num_persons - 1  # places where nobody is
        for x in frames:
            self.model.step(one.steps, torch.nn.functional.pad(x, (0, others)))

    def _as_seen(self, frame: _Frame) -> torch.Tensor:
        """(1, C, V, 1) as the model is given it."""
        values = self._in_picture(frame.joints[None], frame.confidence[None])
        return torch.from_numpy(values.transpose(0, 2, 1)[..., None].copy())

    def _unpadded_note(self) -> str:
        return (
            f"the model learned from samples that zeros fill up to {self._padded_frames} frames, "
            "which steps leave out: without --step it sees them as in training"
        )

    def _delay_note(self) -> str:
        delay = self.model.delay * self.step_seconds
        return f"steps: labels come {delay:.1f} seconds later than those of windows would"


class SteppedTimeline(Timeline):
    """As `Timeline`, of the frames for which the steps' answers are complete; the newest wait."""

    def __init__(self, classifier: SteppedClassifier, settings: TimelineSettings) -> None:
        super().__init__(classifier, settings)
        self._stepped = classifier
        self._waiting: deque[tuple[FramePoses, Sequence[tuple[int, PersonPose]]]] = deque()
        self._last_seen: dict[int, float] = {}

    def update(
        self, frame: FramePoses, found: Sequence[tuple[int, PersonPose]]
    ) -> tuple[Segment, ...]:
        """The segments that are over by now. found: (id, pose) of who is seen in `frame`."""
        poses, now = dict(found), frame.seconds
        self._last_seen |= dict.fromkeys(poses, now)
        for person, last_seen in list(self._last_seen.items()):
            if now - last_seen > self.settings.end_after_seconds + SLACK_SECONDS:
                self._stepped.finish(person)
                del self._last_seen[person]
            else:
                self._stepped.update(person, now, poses.get(person))
        self._waiting.append((frame, found))
        over = self._pass_on()
        here = set(self._last_seen) | self.people
        for person in self._stepped.people - here:
            self._stepped.forget(person)
        return over

    def finish(self) -> tuple[Segment, ...]:
        """All segments that are not over yet; nothing comes after."""
        for person in self._last_seen:
            self._stepped.finish(person)
        self._last_seen.clear()
        return (*self._pass_on(), *super().finish())

    @property
    def people(self) -> set[int]:
        waiting = {person for _, found in self._waiting for person, _ in found}
        return super().people | waiting

    def _pass_on(self) -> tuple[Segment, ...]:
        """Frames up to which everybody's answers are complete."""
        limits = (self._stepped.complete_until(person) for person in self._stepped.people)
        limit = min(limits, default=math.inf) + SLACK_SECONDS
        over: list[Segment] = []
        while self._waiting and self._waiting[0][0].seconds <= limit:
            over += super().update(*self._waiting.popleft())
        return tuple(over)


@dataclass(eq=False)
class _Person:
    """start: seconds of the first sight, which the first step sees."""

    start: float
    steps: Steps
    values: SteppedValues
    gaps: _Gaps
    is_over: bool = False


@dataclass(eq=False)
class _Frame:
    """A person in a frame: joints (V, D) in pixels, confidence (V,), 0 where not seen."""

    seconds: float
    joints: NDArray[np.float32]
    confidence: NDArray[np.float32]


class _Gaps:
    """A person's frames in order, held back while joints that are missing in them may still be
    put on a line between two sights; what comes out is what `smoothing.fill_gaps` makes of all."""

    def __init__(self, max_gap_seconds: float) -> None:
        self._longest = max_gap_seconds + SLACK_SECONDS if max_gap_seconds > 0 else -1.0
        self._held: deque[_Frame] = deque()
        self._joints = np.zeros((0, 2), np.float32)  # (V, D) where each was seen last
        self._confidence = np.zeros(0, np.float32)
        self._seconds = np.zeros(0)

    def add(self, seconds: float, pose: PersonPose | None) -> list[_Frame]:
        """Take the next frame, the first with a pose; those of which all is known by now."""
        if pose is None:
            joints = np.full_like(self._joints, np.nan)
            confidence = np.zeros_like(self._confidence)
        else:
            joints, confidence = pose.joints, pose.confidence
        if not len(self._seconds):
            self._joints, self._confidence = joints.copy(), confidence.copy()
            self._seconds = np.full(len(confidence), -math.inf)
        is_seen = confidence > 0
        closes = is_seen & (seconds - self._seconds <= self._longest)
        for frame in self._held if closes.any() else ():
            self._close(frame, closes, seconds, joints, confidence)
        self._seconds[is_seen] = seconds
        self._joints[is_seen], self._confidence[is_seen] = joints[is_seen], confidence[is_seen]
        self._held.append(_Frame(seconds, joints.copy(), confidence.copy()))
        known: list[_Frame] = []
        while self._held and not self._may_close(self._held[0], seconds):
            known.append(self._held.popleft())
        return known

    def rest(self) -> list[_Frame]:
        """Those that are still held; nothing comes after."""
        left = list(self._held)
        self._held.clear()
        return left

    def _close(
        self,
        frame: _Frame,
        closes: NDArray[np.bool_],
        seconds: float,
        joints: NDArray[np.float32],
        confidence: NDArray[np.float32],
    ) -> None:
        """Put what is missing in `frame` on a line from the last sights to those of `seconds`."""
        at = closes & (frame.confidence == 0) & (self._seconds < frame.seconds)
        before = self._joints[at]
        share = (frame.seconds - self._seconds[at]) / (seconds - self._seconds[at])
        frame.joints[at] = before + share[:, None] * (joints[at].astype(np.float64) - before)
        frame.confidence[at] = np.minimum(self._confidence[at], confidence[at])

    def _may_close(self, frame: _Frame, now: float) -> bool:
        since = self._seconds  # a joint seen after the frame was missing there for too long
        is_open = (frame.confidence == 0) & (since < frame.seconds) & (now - since <= self._longest)
        return bool(is_open.any())
