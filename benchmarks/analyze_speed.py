"""What `kineme analyze` costs beyond its pose estimator, on one video.

    python benchmarks/analyze_speed.py VIDEO [--frames N] [--checkpoint FILE] [--no-video]

Seconds of the processor, which hold on a busy machine too, and of the clock: the estimator alone
(as it is called within the analysis), and everything else, the annotated video included.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import cv2

from kineme.people import analyze as module
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.sources import open_source
from kineme.people.streams import StreamSettings

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pose_speed import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("video")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--estimator", default="movenet")
    parser.add_argument("--checkpoint")
    parser.add_argument("--no-video", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    spent = 0.0
    build = module.build_estimator

    def timed(name, settings):  # type: ignore[no-untyped-def]
        estimator = build(name, settings)
        detect = estimator.detect

        def measured(frame):  # type: ignore[no-untyped-def]
            nonlocal spent
            began = time.thread_time()
            people = detect(frame)
            spent += time.thread_time() - began
            return people

        estimator.detect = measured
        return estimator

    module.build_estimator = timed  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(arguments.video, StreamSettings())
        settings = AnalysisSettings(
            out=Path(folder), estimator=arguments.estimator, max_frames=arguments.frames,
            checkpoint=arguments.checkpoint, writes_video=not arguments.no_video,
        )  # fmt: skip
        analyze(source, AnalysisSettings(out=Path(folder) / "warm", max_frames=3))
        spent = 0.0
        began = time.process_time()
        facts = analyze(source, settings).facts
        total = time.process_time() - began
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    wall, estimate = facts.wall_seconds, facts.estimate_seconds
    for name, own, whole in (("processor", spent, total), ("clock", estimate, wall)):
        own, beyond = (1000 * part / facts.num_frames for part in (own, whole - own))
        print(
            f"{name}, a frame: {own:.1f} ms in {facts.estimator}, {beyond:.1f} ms beyond it "
            f"({100 * beyond / own:.0f} %)"
        )


if __name__ == "__main__":
    main()
