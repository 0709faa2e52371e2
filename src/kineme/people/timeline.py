"""Who does what, when: windows over each person's time, what a classifier says of them, segments.

Promises: frames come one by one, live or from a file, and the same frames give the same segments;
the segments of a person cover the time from the first to the last sight of them without gap or
overlap; memory is that of one window for each person in sight, however long the video.
Method: windows begin every `stride_seconds` from a person's first sight; a stretch of one stride
gets the mean of the windows over it (`Cell`); labels are held and left by thresholds apart from
each other and last a while (segments.py).
Leaves out: the model behind the classifier (classifier.py).

Shapes: B windows, T frames of a window, V joints, D axes, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kineme.data.tracks import Track
from kineme.people.poses import FramePoses, PersonPose
from kineme.people.segments import NO_PERSON, PERSON, Cell, Decider, Segment, SegmentSettings
from kineme.people.tracking.recording import track_of
from kineme.people.tracking.smoothing import SLACK_SECONDS, SmoothingSettings, fill_gaps


@dataclass(frozen=True)
class TimelineSettings:
    """window_seconds: what the classifier sees at a time, at least a stride.
    end_after_seconds: unseen for longer, somebody is gone; as the tracker has it. min_seen: share
    of a window's frames in which its person has to be seen. frame_seconds: how long a frame is
    shown. max_gap_seconds: up to which missing joints are put on a line between two sights, as in
    training sets that are made of videos. min_empty_seconds: without anybody, from which that is
    told. num_persons: that a window holds, the others being those nearest to its person.
    """

    window_seconds: float = 2.0
    stride_seconds: float = 0.5
    end_after_seconds: float = 3.0
    min_seen: float = 0.5
    frame_seconds: float = 0.04
    max_gap_seconds: float = SmoothingSettings.max_gap_seconds
    min_empty_seconds: float = 1.0
    num_persons: int = 1
    segments: SegmentSettings = field(default_factory=SegmentSettings)

    @property
    def num_overlapping(self) -> int:
        """Windows over a cell: those that show half of it or more."""
        return max(math.floor(self.window_seconds / self.stride_seconds + 0.5), 1)


@dataclass(frozen=True, eq=False)
class Window:
    """A person through T frames. joints (T, V, D) in pixels, NaN where not seen; confidence
    (T, V); scores (T,), 0 where the person is not seen; seconds (T,). others: windows of the same
    frames, of those nearest to this person, the nearest first; as many as were asked for, or as
    there are. person: the id."""

    joints: NDArray[np.float32]
    confidence: NDArray[np.float32]
    scores: NDArray[np.float32]
    seconds: NDArray[np.float64]
    others: tuple[Window, ...] = ()
    person: int = 0


class Classifier(Protocol):
    """names: of the classes. threshold: of familiarity, below which a window is unknown; None
    where there is none. cautions: what to know before it is relied on. classify: (B, K)
    probabilities of windows, each on its own; all 0 for a window that is unknown.
    """

    names: tuple[str, ...]
    threshold: float | None
    cautions: tuple[str, ...]

    def classify(self, windows: Sequence[Window]) -> NDArray[np.float32]: ...


class Presence:
    """In place of a model: everybody is a person, as surely as the estimator saw them."""

    names: tuple[str, ...] = (PERSON,)
    threshold: float | None = None
    cautions: tuple[str, ...] = ()

    def classify(self, windows: Sequence[Window]) -> NDArray[np.float32]:
        """(B, 1) mean scores of the frames in which the person is seen."""
        scores = [window.scores[window.scores > 0] for window in windows]
        means = [float(one.mean()) if len(one) else 0.0 for one in scores]
        return np.array(means, np.float32)[:, None]


@dataclass
class _Track:
    """rows: (frame index -> pose) of the last window. next_window, next_cell: counted in strides
    from `start`. sums, counts: of windows over cells that are still open. gap: cells without a
    sight, until the person is back."""

    id: int
    start: float
    decider: Decider
    last_seen: float
    rows: dict[int, PersonPose] = field(default_factory=dict)
    next_window: int = 0
    next_cell: int = 0
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    gap: list[Cell] = field(default_factory=list)


class Timeline:
    """Segments of everybody, as frames come."""

    def __init__(self, classifier: Classifier, settings: TimelineSettings) -> None:
        self.classifier, self.settings = classifier, settings
        shortest = max(settings.segments.min_unknown_seconds, settings.window_seconds)
        self._segment_settings = replace(settings.segments, min_unknown_seconds=shortest)
        self._tracks: dict[int, _Track] = {}
        self._frames: deque[tuple[int, float]] = deque()
        self._recent: dict[int, list[Segment]] = {}
        self._empty_since: float | None = None
        self._has_anybody = False

    def update(
        self, frame: FramePoses, found: Sequence[tuple[int, PersonPose]]
    ) -> tuple[Segment, ...]:
        """The segments that are over by now. found: (id, pose) of who is seen in `frame`."""
        now = frame.seconds
        over = [*self._close(self._gone(now)), *self._empty(now, bool(found))]
        over += self._advance(now)
        self._frames.append((frame.index, now))
        for id_, pose in found:
            track = self._tracks.get(id_)
            if track is None:
                decider = Decider(id_, self.classifier.names, self._segment_settings)
                track = self._tracks[id_] = _Track(id_, now, decider, now)
            track.rows[frame.index], track.last_seen = pose, now
        self._forget_frames(now)
        return self._kept(over)

    def finish(self) -> tuple[Segment, ...]:
        """All segments that are not over yet; nothing comes after."""
        end = self._frames[-1][1] + self.settings.frame_seconds if self._frames else 0.0
        over = list(self._advance(end))
        over += self._close(list(self._tracks.values()))
        if self._empty_since is not None:
            over += self._empty_segment(end)
        return self._kept(over)

    @property
    def people(self) -> set[int]:
        """Those who are there, or not gone for long."""
        return set(self._tracks)

    @property
    def decided_until(self) -> float:
        """Seconds up to which the label of everybody will not change any more."""
        if not self._frames:
            return 0.0
        limits = (self._decided_until(track) for track in self._tracks.values())
        return min(limits, default=self._frames[-1][1])

    def label_at(self, person: int, seconds: float) -> tuple[str, float | None]:
        """Label and probability of somebody, final up to `decided_until`, later the latest."""
        for segment in reversed(self._recent.get(person, ())):
            if segment.start <= seconds < segment.end:
                return segment.label, segment.probability
        track = self._tracks.get(person)
        return track.decider.current if track else ("", None)

    def latest(self, person: int) -> tuple[str, float | None]:
        """What is held of somebody now; ("", None) before the first window is full."""
        track = self._tracks.get(person)
        return track.decider.latest if track else ("", None)

    def forget(self, before: float) -> None:
        """Drop segments that ended by `before`, of which `label_at` is not asked again."""
        self._recent = {
            person: kept
            for person, segments in self._recent.items()
            if (kept := [one for one in segments if one.end > before])
        }

    # Windows ---------------------------------------------------------------------------

    def _advance(self, now: float) -> Iterator[Segment]:
        """Every window that is full by `now`, one of each person at a time."""
        length = self.settings.window_seconds
        while True:
            due = [
                track
                for track in self._tracks.values()
                if self._at(track, track.next_window) + length <= now + SLACK_SECONDS
            ]
            if not due:
                return
            begins = [self._at(track, track.next_window) for track in due]
            answers = self._ask(due, [(begin, begin + length) for begin in begins])
            for track, answer in zip(due, answers, strict=True):
                last = track.next_window + self.settings.num_overlapping
                self._add(track, range(track.next_window, last), answer)
            lone = [track for track in due if self._lacks_answer(track)]
            for track, begin, answer in self._last_answers(lone):
                self._add_last(track, track.next_cell, begin=begin, end=math.inf, answer=answer)
            for track in due:
                track.next_window += 1
                end = self._at(track, track.next_cell + 1)
                yield from self._feed(track, end)
                self._forget_rows(track)

    def _last_answers(
        self, tracks: Sequence[_Track]
    ) -> list[tuple[_Track, float, NDArray[np.float32] | None]]:
        """What is said of the windows that end with the latest sight of each, and where these
        begin: of people who are there for less than a window, or leave."""
        ends = [track.last_seen + self.settings.frame_seconds for track in tracks]
        begins = [
            max(track.start, end - self.settings.window_seconds)
            for track, end in zip(tracks, ends, strict=True)
        ]
        answers = self._ask(tracks, list(zip(begins, ends, strict=True)))
        return list(zip(tracks, begins, answers, strict=True))

    def _ask(
        self, tracks: Sequence[_Track], spans: Sequence[tuple[float, float]]
    ) -> list[NDArray[np.float32] | None]:
        """(K,) of each span of a track; None where its person is hardly seen in it."""
        windows = [self._window(track, *span) for track, span in zip(tracks, spans, strict=True)]
        asked = [window for window in windows if window is not None]
        answers = iter(self.classifier.classify(asked) if asked else ())
        return [None if window is None else next(answers) for window in windows]

    def _window(self, track: _Track, begin: float, end: float) -> Window | None:
        frames = [
            (index, seconds)
            for index, seconds in self._frames
            if begin - SLACK_SECONDS <= seconds < end - SLACK_SECONDS
        ]
        num_seen = sum(index in track.rows for index, _ in frames)
        if not num_seen or num_seen < self.settings.min_seen * len(frames):
            return None
        others = [self._rows(one, frames) for one in self._nearest(track, frames)]
        return replace(self._rows(track, frames), others=tuple(others))

    def _nearest(self, track: _Track, frames: Sequence[tuple[int, float]]) -> list[_Track]:
        """The others that a window of `frames` holds: seen together with its person in
        `min_seen` of them, and nearest by the mean distance there from middle to middle."""
        if self.settings.num_persons < 2:
            return []
        found: list[tuple[float, int]] = []
        for other in self._tracks.values():
            both = [i for i, _ in frames if i in track.rows and i in other.rows]
            if other is not track and both and len(both) >= self.settings.min_seen * len(frames):
                away = [_distance(track.rows[i], other.rows[i]) for i in both]
                found.append((sum(away) / len(away), other.id))
        nearest = sorted(found)[: self.settings.num_persons - 1]
        return [self._tracks[id_] for _, id_ in nearest]

    def _rows(self, track: _Track, frames: Sequence[tuple[int, float]]) -> Window:
        """One person through `frames`, short gaps filled."""
        seen = [(index, seconds) for index, seconds in frames if index in track.rows]
        poses = [track.rows[index] for index, _ in seen]
        rows = fill_gaps(track_of(track.id, seen, poses), self.settings.max_gap_seconds)
        return _spread(rows, frames)

    def _at(self, track: _Track, strides: int) -> float:
        return track.start + strides * self.settings.stride_seconds

    # Cells -----------------------------------------------------------------------------

    def _add(self, track: _Track, cells: Iterable[int], answer: NDArray[np.float32] | None) -> None:
        if answer is None:
            return
        for cell in cells:
            track.sums[cell] = track.sums.get(cell, 0) + answer.astype(np.float64)
            track.counts[cell] = track.counts.get(cell, 0) + 1

    def _lacks_answer(self, track: _Track) -> bool:
        """Whether the next cell shows its person, who is hardly seen in any window over it."""
        begin, end = (self._at(track, track.next_cell + i) for i in range(2))
        return track.next_cell not in track.counts and self._is_seen(track, begin, end)

    def _add_last(
        self,
        track: _Track,
        cell: int,
        *,
        begin: float,
        end: float,
        answer: NDArray[np.float32] | None,
    ) -> None:
        """Give a cell that goes on until `end` the answer to a last window that begins at `begin`,
        where that shows half of the cell."""
        end = min(self._at(track, cell + 1), end)
        is_shown = (self._at(track, cell) + end) / 2 >= begin
        self._add(track, [cell] if is_shown else [], answer)

    def _feed(self, track: _Track, end: float) -> Iterator[Segment]:
        """The next cell, over which no window comes any more, goes to the decider."""
        number = track.next_cell
        begin = self._at(track, number)
        is_seen = self._is_seen(track, begin, end)
        total, count = track.sums.pop(number, None), track.counts.pop(number, 0)
        cell = Cell(begin, end, None if total is None else total / count, is_seen)
        track.next_cell += 1
        if not is_seen:
            track.gap.append(cell)
            return
        for one in (*track.gap, cell):
            yield from track.decider.add(one)
        track.gap.clear()

    def _is_seen(self, track: _Track, begin: float, end: float) -> bool:
        """Whether a cell shows its person; a frame is shown until the next one comes."""
        shown = None
        for index, seconds in self._frames:
            if seconds >= end - SLACK_SECONDS:
                break
            if seconds >= begin - SLACK_SECONDS and index in track.rows:
                return True
            shown = index if seconds < begin - SLACK_SECONDS else None
        return shown in track.rows

    def _close(self, tracks: Sequence[_Track]) -> list[Segment]:
        """What is left of people who are gone: a last window that ends with them."""
        over: list[Segment] = []
        for track, begin, answer in self._last_answers(tracks):
            end = track.last_seen + self.settings.frame_seconds
            while self._at(track, track.next_cell) < end - SLACK_SECONDS:
                number = track.next_cell
                cell_end = min(self._at(track, number + 1), end)
                self._add_last(track, number, begin=begin, end=cell_end, answer=answer)
                over += self._feed(track, cell_end)
            over += track.decider.finish(end)
            del self._tracks[track.id]
        return over

    # Who is there ------------------------------------------------------------------------

    def _gone(self, now: float) -> list[_Track]:
        limit = self.settings.end_after_seconds + SLACK_SECONDS
        return [track for track in self._tracks.values() if now - track.last_seen > limit]

    def _empty(self, now: float, is_anybody: bool) -> list[Segment]:
        if not is_anybody:
            self._empty_since = now if self._empty_since is None else self._empty_since
            return []
        over = [] if self._empty_since is None else self._empty_segment(now)
        self._empty_since, self._has_anybody = None, True
        return over

    def _empty_segment(self, end: float) -> list[Segment]:
        begin = self._empty_since or 0.0
        is_brief = end - begin < self.settings.min_empty_seconds
        if is_brief and self._has_anybody:
            return []
        return [Segment(0, NO_PERSON, None, begin, end)]

    def _decided_until(self, track: _Track) -> float:
        pending = track.decider.pending_since
        return self._at(track, track.next_cell) if pending is None else pending

    def _kept(self, over: list[Segment]) -> tuple[Segment, ...]:
        for segment in over:
            self._recent.setdefault(segment.person, []).append(segment)
        return tuple(over)

    def _forget_rows(self, track: _Track) -> None:
        settings = self.settings
        last = track.last_seen - settings.window_seconds
        if settings.num_persons > 1:  # the last window of somebody who is gone by then
            last -= settings.end_after_seconds + settings.stride_seconds
        needed = min(self._at(track, min(track.next_window, track.next_cell)), last)
        first = self._first_index(needed)
        while len(track.rows) > 1:  # the frame that is shown when `needed` comes may be before it
            oldest, following = itertools.islice(track.rows, 2)
            if following >= first:
                return
            del track.rows[oldest]

    def _first_index(self, seconds: float) -> int:
        return next((i for i, at in self._frames if at >= seconds - SLACK_SECONDS), 0)

    def _forget_frames(self, now: float) -> None:
        settings = self.settings
        reach = settings.window_seconds + settings.stride_seconds + settings.end_after_seconds + 1
        while self._frames and self._frames[0][1] < now - reach:
            self._frames.popleft()


def _distance(one: PersonPose, other: PersonPose) -> float:
    """Pixels between the middles of two boxes."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = one.box.tolist(), other.box.tolist()
    return math.hypot(x0 + x1 - u0 - u1, y0 + y1 - v0 - v1) / 2


def _spread(rows: Track, frames: Sequence[tuple[int, float]]) -> Window:
    """A window of `frames` (index, seconds) with the rows of those that have one."""
    indices = np.array([index for index, _ in frames])
    is_there = np.isin(rows.frames, indices)
    at = np.searchsorted(indices, rows.frames[is_there])
    joints = np.full((len(frames), *rows.joints.shape[1:]), np.nan, np.float32)
    confidence = np.zeros((len(frames), rows.joints.shape[1]), np.float32)
    scores = np.zeros(len(frames), np.float32)
    joints[at], confidence[at] = rows.joints[is_there], rows.confidence[is_there]
    scores[at] = rows.scores[is_there]
    times = np.array([seconds for _, seconds in frames])
    return Window(joints, confidence, scores, times, person=rows.id)
