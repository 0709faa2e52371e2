"""From a video or stream to who does what: people found, followed and classified, frame by frame.

Promises: a file and a live stream go the same way, and the same frames give the same answers; a
frame is in memory only while it is looked at; what was found before a signal or a kill is not
looked for again; whoever is stopped leaves the segments that were over by then.
Leaves out: what a frame brings (follower.py), what is written (results.py), command lines
(command.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kineme import __version__, files
from kineme.engine import lease
from kineme.engine.names import LEASE_FILE
from kineme.people.analysis_settings import AnalysisSettings, build_timeline
from kineme.people.drawing import Thumbnails
from kineme.people.estimators import Estimator, build_estimator, spelled_settings
from kineme.people.estimators.choosing import choose_estimator, maker_of
from kineme.people.estimators.eyesight import small_people_note
from kineme.people.follower import Follower
from kineme.people.found import Facts, Found
from kineme.people.journal import Journal
from kineme.people.labelled_video import LabelledVideo
from kineme.people.live_events import LiveEvents
from kineme.people.poses import FramePoses
from kineme.people.progress import FrameProgress
from kineme.people.read_ahead import read_ahead
from kineme.people.repetitions.counting import LiveCounts, PersonCount, count_people
from kineme.people.results import (
    ANNOTATED_FILE,
    JOURNAL_FILE,
    SEGMENT_LINES_FILE,
    earlier_source,
    in_order,
    refuse_results,
    remove_results,
    segment_line,
    write_results,
    write_segments,
)
from kineme.people.segments import Segment
from kineme.people.sources import LiveSource, Moment, Source
from kineme.people.streams import StreamEvent
from kineme.people.tracking.recording import Recording
from kineme.pose_classification.layouts import LAYOUTS
from kineme.signals import Interrupted, patient_signals


def analyze(
    source: Source,
    settings: AnalysisSettings,
    *,
    tell: Callable[[str], None] = lambda text: None,
    stream: Callable[[Mapping[str, Any]], None] | None = None,
) -> Found:
    """Look at all of `source` and write what is found into `settings.out`.

    tell: notes and progress, a line each. stream: results as they come, as plain values.
    Raises Interrupted on SIGTERM and SIGINT, after what is over was written.
    """
    analysis = _Analysis(source, settings, tell, stream)  # what cannot be leaves no folder
    with lease.held(settings.out / LEASE_FILE):
        files.sweep_temporaries(settings.out, is_ours_alone=True)
        return analysis.run()


class _Analysis:
    def __init__(
        self,
        source: Source,
        settings: AnalysisSettings,
        tell: Callable[[str], None],
        stream: Callable[[Mapping[str, Any]], None] | None,
    ) -> None:
        chosen = choose_estimator(settings.estimator, settings.estimator_settings)
        estimator = build_estimator(chosen.name, settings.estimator_settings)
        for note in filter(None, (chosen.note, *getattr(estimator, "notes", ()))):
            tell(note)
        settings = dataclasses.replace(settings, estimator=chosen.name)
        self.source, self.settings, self.tell = source, settings, tell
        self.estimator_name = chosen.name
        self.layout = LAYOUTS[estimator.layout]
        self._is_in_order = _needs_all_frames(chosen.name, estimator)
        self.timeline = build_timeline(settings, self.layout, source, tell)
        self.follower = Follower(estimator, self.layout, self.timeline)
        self.thumbnails = Thumbnails()
        self.segments: list[Segment] = []
        self.events: list[StreamEvent] = []
        self.journal = Journal(settings.out / JOURNAL_FILE, self._journal_facts(estimator))
        self.video: LabelledVideo | None = None
        self.live: LiveEvents | None = None
        if stream is not None:
            counts = LiveCounts(self.layout.joints, settings.rules, stream)
            self.live = LiveEvents(stream, self.timeline, counts if settings.counts else None)
        self._num_frames, self._last_seconds = 0, 0.0

    def run(self) -> Found:
        began = time.monotonic()
        earlier = earlier_source(self.settings.out)
        if earlier not in ("", self.source.name):
            self.tell(f"{self.settings.out} has results of {earlier}, which are replaced.")
        refuse_results(self.source.name, self.settings.out)
        known, num_known = self._known_frames()
        if self.settings.writes_video:
            path = self.settings.out / ANNOTATED_FILE
            self.video = LabelledVideo(
                path, self.layout, self.source, self.timeline, long_side=self.settings.video_side
            )
        progress = FrameProgress(self.tell, total=self._total(), num_known=num_known)
        moments = self._moments() if self.source.is_live else read_ahead(self._moments())
        try:
            with patient_signals() as request, contextlib.closing(moments):
                for moment in moments:
                    if not self._num_frames:  # now there is something to take their place
                        remove_results(self.settings.out)
                    self._look(moment, next(known, None))
                    progress.at(self._num_frames)
                    if request.number:
                        break
            if not self._num_frames:  # what is written now is of nobody, and of this run
                remove_results(self.settings.out)
            if request.number and not self.source.is_live:
                raise self._stopped(request.number)
            found = self._finish(began)
        except BaseException:
            self.journal.flush()
            if self.video is not None:
                self.video.abandon()
            raise
        if request.number:
            raise Interrupted.by(request.number, fix="Its results are written.")
        return found

    def _moments(self) -> Generator[Moment]:
        with contextlib.closing(self.source.moments()) as moments:
            yield from itertools.islice(moments, self.settings.max_frames or None)

    def _look(self, moment: Moment, known: FramePoses | None) -> None:
        step = self.follower.look(moment, known)
        self.journal.add(step.poses, step.ids_by_place, is_cut=step.is_cut, is_new=known is None)
        for id_, pose in step.found:
            self.thumbnails.look(moment.frame, id_, pose)
        self._num_frames += 1
        self._last_seconds = moment.seconds
        self._over(step.over)
        if self.video is not None:
            self.video.put(moment, step)
        if self.live is not None:
            self.live.frame(step)
        self._take_events()

    def _over(self, segments: Sequence[Segment]) -> None:
        self.segments += segments
        if segments:
            lines = "\n".join(segment_line(segment) for segment in segments)
            files.append_line(self.settings.out / SEGMENT_LINES_FILE, lines)
        if self.live is not None:
            self.live.over(segments)

    def _take_events(self) -> None:
        if not isinstance(self.source, LiveSource):
            return
        for event in self.source.stream.events[len(self.events) :]:
            self.events.append(event)
            self.tell(f"{self.source.name}: {event.text}")
            if self.live is not None:
                self.live.happened(event)

    # Beginning and end -----------------------------------------------------------------

    def _journal_facts(self, estimator: Estimator) -> dict[str, Any]:
        return {
            "kineme": __version__,
            "source": self.source.name,
            "stamp": self.source.stamp,
            "estimator": self.estimator_name,
            "settings": spelled_settings(estimator),
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
        if self.video is not None:
            self.video.finish()
        if self.live is not None:
            self.live.finish()
        self._take_events()
        source, settings = self.source, self.settings
        name = source.name if source.is_live else Path(source.name).name
        size, made_by = (source.width, source.height), maker_of(self.estimator_name)
        recording = Recording(self.layout, *size, source.fps, name, made_by)
        with self.journal.tracks(recording) as tracks:
            counts = count_people(tracks, settings.rules) if settings.counts else None
            note = small_people_note(self.follower.estimator, self.estimator_name, tracks)
            found = self._found(began, counts, note)
            write_results(settings.out, found, tracks, self.thumbnails.picture)
        self.journal.remove()
        if note:
            self.tell(note)
        return found

    def _stopped(self, number: int) -> Interrupted:
        write_segments(self.settings.out, in_order(self.segments))
        how = "begins anew" if self._is_in_order else "goes on from here"
        return Interrupted.by(
            number,
            fix=f"The segments that were over after {self._num_frames:,} frames are written; "
            f"the same command {how}.",
        )

    def _found(self, began: float, counts: tuple[PersonCount, ...] | None, note: str) -> Found:
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
            estimator=self.estimator_name,
            layout=self.layout.name,
            checkpoint=settings.checkpoint or "",
            class_names=tuple(self.timeline.classifier.names),
            window_seconds=self.timeline.settings.window_seconds,
            stride_seconds=self.timeline.settings.stride_seconds,
            num_persons=self.timeline.settings.num_persons,
            min_probability=settings.segments.min_probability,
            threshold=self.timeline.classifier.threshold,
            wall_seconds=time.monotonic() - began,
            estimate_seconds=self.follower.estimate_seconds,
            has_video=self.video is not None and self._num_frames > 0,
            cautions=tuple(filter(None, (*self.timeline.classifier.cautions, note))),
        )
        return Found(facts, in_order(self.segments), tuple(self.events), counts, settings.rules)


def _needs_all_frames(name: str, estimator: Estimator) -> bool:
    """Whether an estimator goes by the frames before, so that it cannot go on in the middle."""
    return name == "files" or bool(getattr(getattr(estimator, "settings", None), "track", False))
