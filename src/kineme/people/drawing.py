"""People drawn on frames, a video of them, and a small picture of each person.

Promises: what is drawn on a frame is what was found in that frame; the video keeps the time of its
source, whatever the frame rate does; memory is that of a few frames and of what waits to be drawn;
nothing here makes the analysis wait but a video that lags far behind.
Leaves out: what is drawn (analyze.py), encoding (data/video/writing.py).

Shapes: frames are (H, W, 3) uint8 RGB; V joints.
"""

from __future__ import annotations

import functools
import io
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kineme.data.video.writing import write_video
from kineme.errors import KinemeError, printable
from kineme.people.poses import PersonPose
from kineme.people.read_ahead import read_ahead
from kineme.people.sources import Moment
from kineme.pose_classification.layouts import Layout
from kineme.report.annotate import TEXT_SHARE, font_of

Frame = NDArray[np.uint8]

COLOURS = (
    (255, 183, 77), (79, 209, 193), (108, 176, 255), (255, 138, 128), (186, 160, 255),
    (174, 213, 129), (240, 98, 146), (255, 241, 118), (77, 208, 225), (188, 170, 164),
)  # fmt: skip
_LAG_FRAMES = 1000  # that may wait to be drawn, without pixels
_LIVE_LAG_FRAMES = 32  # with them
_AHEAD_BYTES = 64 << 20  # of frames read again before they are due, so that the end comes soon
_MAX_REPEATS = 250
_MIN_CONFIDENCE = 0.1
_THUMB_HEIGHT, _THUMB_MARGIN, _MAX_THUMBS = 96, 0.12, 200
_BETTER = 1.3  # a thumbnail is replaced by one so much better


@dataclass(frozen=True, eq=False)
class Figure:
    """Somebody in a frame, with what is said of them."""

    id: int
    pose: PersonPose
    text: str


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is drawn on frame `index`. figures: in pixels of the annotated video. frame: None
    where it is read again."""

    index: int
    seconds: float
    figures: tuple[Figure, ...]
    frame: Frame | None = None


def colour_of(person: int) -> tuple[int, int, int]:
    """The colour of a person, RGB."""
    return COLOURS[(person - 1) % len(COLOURS)]


def draw_people(frame: Frame, figures: Sequence[Figure], layout: Layout) -> Frame:
    """A copy of `frame` with skeletons, ids and labels."""
    drawn = frame.copy()
    for figure in figures:
        _draw_skeleton(drawn, figure.pose, layout, colour_of(figure.id))
    for figure in figures:
        _draw_text(drawn, figure)
    return drawn


def _draw_skeleton(
    frame: Frame, pose: PersonPose, layout: Layout, colour: tuple[int, int, int]
) -> None:
    tall = pose.box[3] - pose.box[1] if np.isfinite(pose.box).all() else frame.shape[0] / 4
    thickness = int(np.clip(round(float(tall) / 80), 1, 12))
    is_seen = pose.confidence > _MIN_CONFIDENCE
    points = np.nan_to_num(pose.joints[:, :2]).clip(-30_000, 30_000).round().astype(int).tolist()
    for a, b in layout.edges:
        if is_seen[a] and is_seen[b]:
            cv2.line(frame, points[a], points[b], colour, thickness, cv2.LINE_AA)
    for place in np.flatnonzero(is_seen):
        cv2.circle(frame, points[place], thickness + 1, colour, -1, cv2.LINE_AA)


def _draw_text(frame: Frame, figure: Figure) -> None:
    """Id and label above the head, dark on the person's colour."""
    height, width = frame.shape[:2]
    letters = _letters(printable(figure.text), max(round(height * TEXT_SHARE / 2), 10))
    x, y = figure.pose.box[:2] if np.isfinite(figure.pose.box).all() else (0, 0)
    tall, wide = min(letters.shape[0], height), min(letters.shape[1], width)
    left = int(np.clip(x, 0, width - wide))
    top = int(np.clip(y - tall, 0, height - tall))
    share = letters[:tall, :wide, None].astype(np.uint16)
    colour = np.array(colour_of(figure.id), np.uint16)
    frame[top : top + tall, left : left + wide] = (colour * (255 - share) + 20 * share) // 255


@functools.lru_cache(maxsize=512)
def _letters(text: str, size: int) -> NDArray[np.uint8]:
    """(h, w) of 255 where there is ink."""
    font = font_of(size)
    wide = round(font.getlength(text)) + size // 2
    picture = Image.new("L", (wide, round(size * 1.4)))
    ImageDraw.Draw(picture).text((size // 4, size * 0.7), text, fill=255, font=font, anchor="lm")
    return np.asarray(picture)


class AnnotatedVideo:
    """Writes scenes as they are put, in a thread. size: height and width of all frames. again: the
    frames of the source once more, where scenes come without."""

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        fps: float,
        size: tuple[int, int],
        again: Generator[Moment] | None = None,
    ) -> None:
        self._path, self._layout, self._fps, self._size = path, layout, fps, size
        num_ahead = max(_AHEAD_BYTES // (3 * size[0] * size[1]), 1)
        self._again = None if again is None else read_ahead(again, num_ahead=num_ahead)
        self._lag = _LIVE_LAG_FRAMES if again is None else _LAG_FRAMES
        self._waiting: deque[Scene] = deque()
        self._changed = threading.Condition()
        self._is_finished = self._is_abandoned = False
        self._error: BaseException | None = None
        self.num_frames = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="annotated video")
        self._thread.start()

    def put(self, scene: Scene) -> None:
        """Waits where the video lags far behind."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._lag or self._error)
            self._waiting.append(scene)
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until all is written. Raises what went wrong, DataError or ResourceError."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Stop; there is no file then."""
        with self._changed:
            self._is_abandoned = self._is_finished = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self.num_frames = write_video(self._path, self._frames(), self._fps, is_quick=True)
        except _AbandonedError:
            pass
        except (KinemeError, OSError, ValueError) as error:
            with self._changed:
                self._error = error
                self._waiting.clear()
                self._changed.notify_all()
        finally:
            if self._again is not None:
                self._again.close()

    def _frames(self) -> Iterator[Frame]:
        num_written = 0
        while (scene := self._next()) is not None:
            frame = scene.frame if scene.frame is not None else self._read_again(scene.index)
            repeats = round(scene.seconds * self._fps) + 1 - num_written
            if frame is None or repeats < 1:
                continue
            drawn = draw_people(_resized(frame, self._size), scene.figures, self._layout)
            for _ in range(min(repeats, _MAX_REPEATS)):
                yield drawn
            num_written += repeats

    def _next(self) -> Scene | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_finished)
            if self._is_abandoned:
                raise _AbandonedError
            scene = self._waiting.popleft() if self._waiting else None
            self._changed.notify_all()
            return scene

    def _read_again(self, index: int) -> Frame | None:
        if self._again is None:
            return None
        return next((one.frame for one in self._again if one.index == index), None)


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


class _AbandonedError(Exception):
    """The video is not wanted any more."""


class Thumbnails:
    """A small picture of each person, the largest and surest sight of them; of the first few
    hundred people."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[float, bytes]] = {}

    def look(self, frame: Frame, person: int, pose: PersonPose) -> None:
        """Keep this sight if it is better than the one kept."""
        if person not in self._found and len(self._found) >= _MAX_THUMBS:
            return
        if not np.isfinite(pose.box).all():
            return
        x0, y0, x1, y1 = pose.box.tolist()
        margin = _THUMB_MARGIN * max(x1 - x0, y1 - y0)
        height, width = frame.shape[:2]
        left, right = (int(np.clip(x, 0, width)) for x in (x0 - margin, x1 + margin))
        top, bottom = (int(np.clip(y, 0, height)) for y in (y0 - margin, y1 + margin))
        worth = pose.score * pose.num_seen * (max(bottom - top, 0) * max(right - left, 0)) ** 0.25
        if right - left < 8 or bottom - top < 8:
            return
        if person in self._found and worth < _BETTER * self._found[person][0]:
            return
        self._found[person] = (worth, _as_jpeg(frame[top:bottom, left:right]))

    def picture(self, person: int) -> bytes:
        """As JPEG; b"" where there is none."""
        return self._found.get(person, (0.0, b""))[1]


def _as_jpeg(part: Frame) -> bytes:
    wide = max(1, min(round(part.shape[1] * _THUMB_HEIGHT / part.shape[0]), 3 * _THUMB_HEIGHT))
    small = cv2.resize(part, (wide, _THUMB_HEIGHT), interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
