"""What can be said of an analysis, and the timeline that follows from it.

Promises: what a checkpoint says of itself (joints, windows, people, unknowns) is told once, in
words, before anything is looked at.
Leaves out: the words of the command (command.py), the analysis itself (analyze.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineme.people.estimators.choosing import maker_of
from kineme.people.repetitions.form_rules import FormRule
from kineme.people.segments import SegmentSettings
from kineme.people.sources import Source
from kineme.people.timeline import Classifier, Presence, Timeline, TimelineSettings
from kineme.people.tracking.tracker import TrackingSettings
from kineme.pose_classification.layouts import Layout

if TYPE_CHECKING:
    from kineme.people.classifier import PoseClassifier

_WINDOW_SECONDS = 2.0  # without a checkpoint


@dataclass(frozen=True)
class AnalysisSettings:
    """out: the folder of results. estimator: by name; None for the default of
    estimators/choosing.py. max_frames: 0 for all. window_seconds: 0 for what the checkpoint
    sees. stride_seconds: 0 for a quarter of the window. writes_video: annotated.mp4 too.
    video_side: pixels of its longer side, at most.
    key: of an encrypted checkpoint. uses_threshold: that of the checkpoint, for unknowns.
    is_alone: whoever is asked about is shown alone, also to a model of two people.
    is_stepped: the model takes every frame once (stepping.py) in place of windows.
    counts: repetitions, which rules are then held against, if there are any."""

    out: Path
    estimator: str | None = None
    estimator_settings: Mapping[str, object] = field(default_factory=dict)
    checkpoint: str | None = None
    key: str | None = field(default=None, repr=False)
    max_frames: int = 0
    window_seconds: float = 0.0
    stride_seconds: float = 0.0
    segments: SegmentSettings = field(default_factory=SegmentSettings)
    uses_threshold: bool = True
    is_alone: bool = False
    is_stepped: bool = False
    writes_video: bool = True
    video_side: int = 1280
    counts: bool = False
    rules: tuple[FormRule, ...] = ()


def build_timeline(
    settings: AnalysisSettings, layout: Layout, source: Source, tell: Callable[[str], None]
) -> Timeline:
    """The timeline of people of `layout` in `source`, by the checkpoint where there is one.

    tell: what there is to say of the checkpoint. Raises CheckpointError, DataError.
    """
    timeline = TimelineSettings(
        end_after_seconds=TrackingSettings(layout).max_lost_seconds,
        frame_seconds=1 / source.fps,
        segments=SegmentSettings(0.0, 0.0, settings.segments.min_seconds),
    )
    classifier: Classifier = Presence()
    window = settings.window_seconds or _WINDOW_SECONDS
    build: Callable[[Any, TimelineSettings], Timeline] = Timeline
    if settings.checkpoint:
        model, build = _model(settings, layout, source)
        for note in (*model.notes, *_idle(settings, model), *model.cautions):
            tell(note)
        tell(_unknowns(model.threshold, settings.segments.min_probability))
        window = settings.window_seconds or model.window_seconds(source.fps)
        timeline = replace(timeline, segments=settings.segments, num_persons=model.num_persons)
        classifier = model
    stride = settings.stride_seconds or window / 4
    if stride > window:
        tell(f"windows of {stride:g} s in place of {window:g} s: --stride {stride:g} leaves no gap")
    timeline = replace(timeline, window_seconds=max(window, stride), stride_seconds=stride)
    return build(classifier, timeline)


def _model(
    settings: AnalysisSettings, layout: Layout, source: Source
) -> tuple[PoseClassifier, Callable[[Any, TimelineSettings], Timeline]]:
    """The checkpoint's model, and what makes a timeline of it; this loads torch."""
    from kineme.people.classifier import PoseClassifier
    from kineme.people.stepping import SteppedClassifier, SteppedTimeline

    path, size = settings.checkpoint or "", (source.width, source.height)
    estimator = maker_of(settings.estimator or "")
    if settings.is_stepped:
        return SteppedClassifier(
            path, layout, size, fps=source.fps, window_seconds=settings.window_seconds,
            key=settings.key, uses_threshold=settings.uses_threshold, estimator=estimator,
        ), SteppedTimeline  # fmt: skip
    return PoseClassifier(
        path, layout, size,
        key=settings.key, uses_threshold=settings.uses_threshold, is_alone=settings.is_alone,
        estimator=estimator, picks_window=not settings.window_seconds, fps=source.fps,
    ), Timeline  # fmt: skip


def _idle(settings: AnalysisSettings, model: PoseClassifier) -> Iterator[str]:
    """Options without effect on this model."""
    if not settings.uses_threshold and not model.has_threshold:
        yield "--no-threshold has no effect: the checkpoint has no threshold"
    if settings.is_alone and not model.sees_others:
        yield "--alone has no effect: the model sees one person at a time"
    elif settings.is_alone and settings.is_stepped:
        yield "--alone has no effect: --step shows everybody alone"


def _unknowns(threshold: float | None, min_probability: float) -> str:
    """Which threshold applies."""
    text = f"unknown: whoever has no class of probability {min_probability:g} or more"
    if threshold is None:
        return text
    return f"{text}, or less familiarity than the checkpoint's threshold of {threshold:.3f}"
