"""What `kineme analyze` costs beyond its pose estimator, on one video.

    python benchmarks/analyze_speed.py VIDEO [--frames N] [--rounds N] [--checkpoint FILE]

Milliseconds a frame: of the processor, all threads together and the one that calls the estimator,
which hold on a busy machine too; and of the clock, which needs a quiet one. The estimator alone is
what its calls take while nothing else runs; in the same rounds, whole analyses without and with the
annotated video, results and report included, the loading of the estimator not. The middle of the
rounds is told.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from kineme.people import analyze as module
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.estimators import Estimator
from kineme.people.sources import open_source
from kineme.people.streams import StreamSettings

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pose_speed import machine

MEASURES = ("processor", "processor, the estimator's thread", "clock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--estimator", default="movenet")
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    estimator = module.build_estimator(arguments.estimator, {})
    module.build_estimator = lambda *_: estimator  # loaded once
    settings = AnalysisSettings(
        out=Path(), estimator=arguments.estimator, checkpoint=arguments.checkpoint
    )
    analyzed(arguments.video, replace(settings, max_frames=3))  # whatever the first run loads
    settings = replace(settings, max_frames=arguments.frames)
    rounds = []
    for _ in range(arguments.rounds):
        alone = estimated(arguments.video, estimator, arguments.frames)
        cases = [
            analyzed(arguments.video, replace(settings, writes_video=writes_video))
            for writes_video in (False, True)
        ]
        rounds.append([alone, *cases])
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    for name, costs in zip(MEASURES, np.array(rounds).T, strict=True):
        alone, bare, full = (statistics.median(row) for row in costs)  # (case, round)
        print(
            f"{name}, ms a frame: {alone:.1f} in {arguments.estimator} alone; "
            f"{bare:.1f} ({100 * (bare / alone - 1):+.0f} %) with --no-video; "
            f"{full:.1f} ({100 * (full / alone - 1):+.0f} %) with annotated.mp4"
        )


def now() -> np.ndarray:
    """Milliseconds by MEASURES."""
    return 1000 * np.array([time.process_time(), time.thread_time(), time.monotonic()])


def estimated(video: str, estimator: Estimator, num_frames: int) -> np.ndarray:
    """What a frame costs in the estimator, while nothing else runs."""
    spent, count = np.zeros(len(MEASURES)), 0
    estimator.reset()
    for moment in open_source(video, StreamSettings()).moments():
        began = now()
        estimator.detect(moment.frame)
        spent, count = spent + now() - began, count + 1
        if count == num_frames:
            break
    return spent / count


def analyzed(video: str, settings: AnalysisSettings) -> np.ndarray:
    """What a frame costs in an analysis."""
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(video, StreamSettings())
        began = now()
        facts = analyze(source, replace(settings, out=Path(folder))).facts
        return (now() - began) / facts.num_frames


if __name__ == "__main__":
    main()
