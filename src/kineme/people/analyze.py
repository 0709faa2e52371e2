"""From a video or stream to who does what: people found, followed and classified, frame by frame.

Promises: a file and a live stream go the same way, and the same frames give the same answers; a
frame is in memory only while it is looked at; what was found before a signal or a kill is not
looked for again; whoever is stopped leaves the segments that were over by then.
Leaves out: what is written (results.py), command lines (command.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from kineme import __version__, files
from kineme.engine import lease
from kineme.engine.names import LEASE_FILE
from kineme.errors import EXIT_SIGINT, EXIT_SIGTERM, KinemeError
from kineme.people.cuts import CutDetector
from kineme.people.drawing import AnnotatedVideo, Figure, Scene, Thumbnails
from kineme.people.estimators import Estimator, build_estimator
from kineme.people.journal import Journal
from kineme.people.poses import FramePoses, PersonPose
from kineme.people.results import (
    ANNOTATED_FILE,
    JOURNAL_FILE,
    SEGMENT_LINES_FILE,
    Facts,
    Found,
    in_order,
    plain_segment,
    segment_line,
    write_results,
    write_segments,
)
from kineme.people.segments import Segment, SegmentSettings
from kineme.people.smoothing import OneEuroFilter, SmoothingSettings
from kineme.people.sources import LiveSource, Moment, Source
from kineme.people.streams import StreamEvent
from kineme.people.timeline import Classifier, Presence, Timeline, TimelineSettings
from kineme.people.tracking import Tracker, TrackingSettings
from kineme.pose_classification.layouts import LAYOUTS, Layout

_PLAIN_SECONDS = 30.0  # between lines of progress


@dataclass(frozen=True)
class AnalysisSettings:
    """out: the folder of results. max_frames: 0 for all. window_seconds: 0 for what the checkpoint
    sees. stride_seconds: 0 for a quarter of the window. writes_video: annotated.mp4 too."""

    out: Path
    estimator: str = "movenet"
    estimator_settings: Mapping[str, object] = field(default_factory=dict)
    checkpoint: str | None = None
    max_frames: int = 0
    window_seconds: float = 0.0
    stride_seconds: float = 0.0
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    writes_video: bool = True


class Stopped(KinemeError):
    """A signal ended the analysis. The exit code is the shell's: 128 + signal."""

    exit_code = EXIT_SIGTERM


@dataclass(frozen=True, eq=False)
class Step:
    """What one frame brought: who is in it, as found and with smoothed joints, and which segments
    are over."""

    poses: FramePoses
    found: tuple[tuple[int, PersonPose], ...]
    smooth: tuple[tuple[int, PersonPose], ...]
    over: tuple[Segment, ...]
    is_cut: bool


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


def analyze(
    source: Source,
    settings: AnalysisSettings,
    *,
    tell: Callable[[str], None] = lambda text: None,
    stream: Callable[[Mapping[str, Any]], None] | None = None,
) -> Found:
    """Look at all of `source` and write what is found into `settings.out`.

    tell: notes and progress, a line each. stream: results as they come, as plain values.
    Raises Stopped on SIGTERM and SIGINT, after what is over was written.
    """
    with lease.held(settings.out / LEASE_FILE):
        files.sweep_temporaries(settings.out, is_ours_alone=True)
        return _Analysis(source, settings, tell, stream).run()


class _Analysis:
    def __init__(
        self,
        source: Source,
        settings: AnalysisSettings,
        tell: Callable[[str], None],
        stream: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        self.source, self.settings, self.tell, self.stream = source, settings, tell, stream
        estimator = build_estimator(settings.estimator, settings.estimator_settings)
        for note in getattr(estimator, "notes", ()):
            tell(note)
        self.layout = LAYOUTS[estimator.layout]
        self._is_in_order = _needs_all_frames(settings.estimator, estimator)
        classifier, timeline_settings = self._classifier()
        self.timeline = Timeline(classifier, timeline_settings)
        self.follower = Follower(estimator, self.layout, self.timeline)
        self.thumbnails = Thumbnails()
        self.segments: list[Segment] = []
        self.events: list[StreamEvent] = []
        self.journal = Journal(settings.out / JOURNAL_FILE, self._journal_facts(estimator))
        self.video: AnnotatedVideo | None = None
        self._undecided: deque[Scene] = deque()
        self._told: dict[int, str] = {}
        self._num_frames, self._last_seconds = 0, 0.0

    def run(self) -> Found:
        began = time.monotonic()
        known, num_known = self._known_frames()
        lines = self.settings.out / SEGMENT_LINES_FILE
        lines.unlink(missing_ok=True)
        if self.settings.writes_video:
            again = None if self.source.is_live else self.source.moments()
            path = self.settings.out / ANNOTATED_FILE
            self.video = AnnotatedVideo(path, self.layout, fps=self.source.fps, again=again)
        progress = _Progress(self.tell, self._total(), num_known)
        try:
            with _stop_signals() as request:
                for moment in self._moments():
                    self._look(moment, next(known, None))
                    progress.at(self._num_frames)
                    if request.number:
                        break
            if request.number and not self.source.is_live:
                raise self._stopped(request.number)
            found = self._finish(began)
        except BaseException:
            self.journal.flush()
            if self.video is not None:
                self.video.abandon()
            raise
        if request.number:
            raise _stopped_by(request.number, "Its results are written.")
        return found

    def _moments(self) -> Iterator[Moment]:
        moments = self.source.moments()
        return itertools.islice(moments, self.settings.max_frames or None)

    def _look(self, moment: Moment, known: FramePoses | None) -> None:
        step = self.follower.look(moment, known)
        ids = _ids_by_place(step)
        self.journal.add(step.poses, ids, is_cut=step.is_cut, is_new=known is None)
        for id_, pose in step.found:
            self.thumbnails.look(moment.frame, id_, pose)
        self._num_frames += 1
        self._last_seconds = moment.seconds
        self._over(step.over)
        self._draw(moment, step)
        if self.stream is not None:
            self._stream(step)
        self._take_events()

    def _over(self, segments: Sequence[Segment]) -> None:
        self.segments += segments
        if segments:
            lines = "\n".join(segment_line(segment) for segment in segments)
            files.append_line(self.settings.out / SEGMENT_LINES_FILE, lines)
        if self.stream is not None:
            for segment in segments:
                self.stream({"event": "segment", **plain_segment(segment)})

    def _stream(self, step: Step) -> None:
        """Tell whose label is another than before, at once."""
        if self.stream is None:
            return
        for id_, _ in step.found:
            label, probability = self.timeline.latest(id_)
            if label and self._told.get(id_) != label:
                self._told[id_] = label
                self.stream(
                    {
                        "event": "label", "person": id_, "label": label,
                        "probability": probability, "seconds": step.poses.seconds,
                    }
                )  # fmt: skip

    def _take_events(self) -> None:
        if not isinstance(self.source, LiveSource):
            return
        for event in self.source.stream.events[len(self.events) :]:
            self.events.append(event)
            self.tell(f"{self.source.name}: {event.text}")
            if self.stream is not None:
                self.stream({"event": event.kind, **_without_kind(event)})

    # Drawing ---------------------------------------------------------------------------

    def _draw(self, moment: Moment, step: Step) -> None:
        """Files are drawn when their labels are final, streams with the labels of now."""
        if self.video is None:
            return
        figures = tuple(Figure(id_, pose, "") for id_, pose in step.smooth)
        if self.source.is_live:
            scene = Scene(moment.index, moment.seconds, figures, moment.frame)
            self.video.put(self._labelled(scene, is_final=False))
            return
        self._undecided.append(Scene(moment.index, moment.seconds, figures))
        self._draw_decided(self.timeline.decided_until)

    def _draw_decided(self, until: float) -> None:
        while self.video is not None and self._undecided and self._undecided[0].seconds < until:
            self.video.put(self._labelled(self._undecided.popleft(), is_final=True))
        if self._undecided:
            self.timeline.forget(self._undecided[0].seconds)

    def _labelled(self, scene: Scene, *, is_final: bool) -> Scene:
        figures = []
        for one in scene.figures:
            if is_final:
                label, probability = self.timeline.label_at(one.id, scene.seconds)
            else:
                label, probability = self.timeline.latest(one.id)
            figures.append(Figure(one.id, one.pose, _caption(one.id, label, probability)))
        return dataclasses.replace(scene, figures=tuple(figures))

    # Beginning and end -----------------------------------------------------------------

    def _classifier(self) -> tuple[Classifier, TimelineSettings]:
        settings, fps = self.settings, self.source.fps
        window = settings.window_seconds or 2.0
        classifier: Classifier = Presence()
        segments = SegmentSettings(0.0, 0.0, settings.segments.min_seconds)
        if settings.checkpoint:
            from kineme.people.classifier import PoseClassifier  # loads torch

            size = (self.source.width, self.source.height)
            model = PoseClassifier(settings.checkpoint, self.layout, size)
            self.tell(model.mapping.told())
            window = settings.window_seconds or model.window_seconds(fps)
            classifier, segments = model, settings.segments
        stride = settings.stride_seconds or window / 4
        num_strides = max(round(window / stride), 1)
        return classifier, TimelineSettings(
            window_seconds=num_strides * stride,
            stride_seconds=stride,
            end_after_seconds=TrackingSettings(self.layout).max_lost_seconds,
            frame_seconds=1 / fps,
            segments=segments,
        )

    def _journal_facts(self, estimator: Estimator) -> dict[str, Any]:
        settings = getattr(estimator, "settings", None)
        names = [one.name for one in dataclasses.fields(settings)] if settings else []
        return {
            "kineme": __version__,
            "source": self.source.name,
            "stamp": self.source.stamp,
            "estimator": self.settings.estimator,
            "settings": {name: str(getattr(settings, name)) for name in names},
            "layout": self.layout.name,
        }

    def _known_frames(self) -> tuple[Iterator[FramePoses], int]:
        """What an interrupted run found, and of how many frames."""
        self.settings.out.mkdir(parents=True, exist_ok=True)
        if self.source.stamp and not self._is_in_order and self.journal.is_of_this():
            num_known = self.journal.mend()
            if num_known:
                self.tell(f"Going on: people of {num_known:,} frames are known already.")
            frames = (frame for frame, _, _ in self.journal.read())
            return itertools.islice(frames, num_known), num_known
        self.journal.begin()
        return iter(()), 0

    def _total(self) -> int:
        limits = [n for n in (self.source.num_frames, self.settings.max_frames) if n]
        return min(limits, default=0)

    def _finish(self, began: float) -> Found:
        self._over(self.timeline.finish())
        self._draw_decided(float("inf"))
        if self.video is not None:
            if self._num_frames:
                self.video.finish()
            else:
                self.video.abandon()
        self._take_events()
        found = self._found(began)
        source = self.source
        with self.journal.tracks(
            self.layout, width=source.width, height=source.height, fps=source.fps,
            source=Path(source.name).name if not source.is_live else source.name,
        ) as tracks:  # fmt: skip
            write_results(self.settings.out, found, tracks, self.thumbnails.picture)
        self.journal.remove()
        return found

    def _stopped(self, number: int) -> Stopped:
        write_segments(self.settings.out, in_order(self.segments))
        how = "begins anew" if self._is_in_order else "goes on from here"
        return _stopped_by(
            number,
            f"The segments that were over after {self._num_frames:,} frames are written; "
            f"the same command {how}.",
        )

    def _found(self, began: float) -> Found:
        source, settings = self.source, self.settings
        stream = source.stream if isinstance(source, LiveSource) else None
        facts = Facts(
            source=source.name,
            width=source.width,
            height=source.height,
            fps=source.fps,
            num_frames=self._num_frames,
            seconds=self._last_seconds + 1 / source.fps if self._num_frames else 0.0,
            num_dropped=stream.num_dropped if stream else 0,
            num_ignored=self.follower.tracker.num_ignored,
            damage=source.damage,
            estimator=settings.estimator,
            layout=self.layout.name,
            checkpoint=settings.checkpoint or "",
            class_names=tuple(self.timeline.classifier.names),
            window_seconds=self.timeline.settings.window_seconds,
            stride_seconds=self.timeline.settings.stride_seconds,
            wall_seconds=time.monotonic() - began,
            estimate_seconds=self.follower.estimate_seconds,
            has_video=self.video is not None and self._num_frames > 0,
        )
        return Found(facts, in_order(self.segments), tuple(self.events))


def _needs_all_frames(name: str, estimator: Estimator) -> bool:
    """Whether an estimator goes by the frames before, so that it cannot go on in the middle."""
    return name == "files" or bool(getattr(getattr(estimator, "settings", None), "track", False))


def _ids_by_place(step: Step) -> dict[int, int]:
    """The id of each person of the frame who is followed, by place in it."""
    places = {id(pose): place for place, pose in enumerate(step.poses.people)}
    return {places[id(pose)]: id_ for id_, pose in step.found}


def _caption(person: int, label: str, probability: float | None) -> str:
    if not label or label == "person":
        return str(person)
    return f"{person} {label}" + ("" if probability is None else f" {100 * probability:.0f} %")


def _without_kind(event: StreamEvent) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(event).items() if name != "kind"}


def _stopped_by(number: int, fix: str) -> Stopped:
    error = Stopped(signal.Signals(number).name, "to run to the end", "a request to stop", fix)
    error.exit_code = EXIT_SIGINT if number == signal.SIGINT else EXIT_SIGTERM
    return error


@dataclass
class _StopRequest:
    number: int = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopRequest]:
    """The first SIGTERM or SIGINT is noted in the request; a second SIGINT ends it at once.

    As engine/runtime.py has it, which loads torch.
    """
    request = _StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == request.number == signal.SIGINT:
            raise KeyboardInterrupt
        request.number = number

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """A line now and then: how far it is, and how long it takes yet."""

    def __init__(self, tell: Callable[[str], None], total: int, num_known: int) -> None:
        self._tell, self._total, self._num_known = tell, total, num_known
        self._began = self._told = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told < _PLAIN_SECONDS:
            return
        self._told = now
        rate = max(done - self._num_known, 1) / (now - self._began)
        if not self._total:
            self._tell(f"{done:,} frames, {rate:.1f} a second")
            return
        left = max(self._total - done, 0) / rate
        self._tell(f"{done:,} of {self._total:,} frames, {rate:.1f} a second, {_clock(left)} to go")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
