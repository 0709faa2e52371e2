"""Two made-up people who cross and hide each other, on film: are they told apart, and what they do?

Both do one exercise after another while they drift about (kineme.scenes): in half of the videos
with contact, where they change sides and the nearer hides the farther, in half without. Bodies and
views are none that the classifier was trained on. What is judged is what `kineme analyze` leaves.

    python benchmarks/crossing_people.py [--estimator NAME] [--scenes N] [--seed N] [--json FILE]

--estimator: blazepose or movenet, on rendered frames that were written as mp4; or truth: no pixels,
but the true joints made noisy, those that the other person hides missing. The classifier is trained
first, in some minutes, by the demo's recipe on the demo's skeletons as a camera sees them: COCO's
joints in the picture, 2.5 s at a time; for an estimator then, shortly, on what it makes of films of
the people of training. The threshold for unknown windows was fitted before that, and is not used on
what an estimator finds.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from kineme import synthetic
from kineme.data.labels import Labels, write_labels
from kineme.data.tracks import Tracks
from kineme.data.video import write_video
from kineme.demo.skeletons import SPEC
from kineme.demo.steps import KNOWN, LABEL_MAP, NEW, People, call, machine
from kineme.figures import JOINTS
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.classifier import PoseClassifier
from kineme.people.estimators import build_estimator
from kineme.people.results import TRACKS_FILE
from kineme.people.segments import Segment
from kineme.people.sources import open_source
from kineme.people.streams import StreamSettings
from kineme.people.timeline import TimelineSettings
from kineme.pose_classification.layout_mapping import in_picture, map_layout
from kineme.pose_classification.layouts import LAYOUTS
from kineme.rendering import AIM, film_exercises, hold_camera, project
from kineme.scenes import HEIGHT, WIDTH, Scene, make_scene
from kineme.synthetic import Draws

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from crossing import COCO, Judgement, followed, ids_of, judge, rows_of, sights
from pose_speed import machine as machine_name

FPS, WINDOW_SECONDS = 10.0, 2.5
NUM_TRAIN, NUM_VAL, NUM_FRAMES = 1920, 180, 64  # windows are cut out of sequences of NUM_FRAMES
NUM_FILMED, FILM_PIXELS, FILMED_SEED = 240, 288, 31
BIAS_METRES = 0.025  # by which an estimator sees a joint elsewhere, as long as a window lasts
ESTIMATORS: Mapping[str, Mapping[str, object]] = {
    "blazepose": {"tiles": 2},  # for people who are a third of the picture's width high
    "movenet": {},
}
ADAPTING: Mapping[str, Any] = {
    "train.num_epochs": 5,
    "train.checkpoint_interval": 5,
    "train.optim.lr": 7e-4,
}
CHANGES: Mapping[str, Any] = {  # of the demo's recipe
    "model.graph_layout": "coco",
    "dataset.normalize": "center_minmax",
    "dataset.augmentation.flip_prob": 0.5,
    "evaluate.occlusion": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--estimator", default="blazepose", choices=(*ESTIMATORS, "truth"))
    parser.add_argument("--scenes", type=int, default=12, help="of each kind")
    parser.add_argument(
        "--seed", type=int, default=4000, help="settings were chosen on 1000 to 3000"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first, of each kind")
    parser.add_argument("--checkpoint", help="in place of training one")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    print(f"{machine_name()}; load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if not checkpoint:
            began = time.monotonic()
            checkpoint, right = train(Path(folder) / "classifier", seed=0)
            took = time.monotonic() - began
            print(f"classifier: {right:.1f} % of {NUM_VAL} windows of new people, in {took:.0f} s")
            if arguments.estimator != "truth":
                checkpoint = adapt(checkpoint, arguments.estimator, seed=0)
                print(f"adapted to {arguments.estimator}: {time.monotonic() - began:.0f} s in all")
        torch.set_num_threads(1)
        table = [
            judged(index, is_contact, arguments, str(checkpoint), Path(folder))
            for index in range(arguments.first, arguments.first + arguments.scenes)
            for is_contact in (True, False)
        ]
    summary = {"machine": machine_name(), "estimator": arguments.estimator, "seed": arguments.seed}
    for name, is_contact in (("with contact", True), ("without contact", False)):
        summary[name] = summed([row for row in table if row["contact"] == is_contact])
        print(f"{name}: {summary[name]}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**summary, "videos": table}, indent=1) + "\n")


# The classifier --------------------------------------------------------------------------


def train(folder: Path, *, seed: int) -> tuple[Path, float]:
    """The checkpoint, and how many of the validation windows it has right in percent."""
    folder.mkdir(parents=True)
    write(folder, "train", *windows(NUM_TRAIN, 2 * seed, KNOWN))
    write(folder, "val", *windows(NUM_VAL, 2 * seed + 1, NEW))
    facts = call("pose_classification", "train", spec_of(folder, folder, seed))
    return folder / "train" / "pc_model_latest.pth", 100 * facts["val_acc"]


def adapt(checkpoint: Path, estimator: str, *, seed: int) -> Path:
    """The checkpoint trained on, with films as the estimator sees them, each twice an epoch, among
    as many true windows."""
    before = checkpoint.parents[1]
    folder = before / estimator
    folder.mkdir()
    data, labels = filmed(estimator)
    true = np.load(before / "train_data.npy")[:NUM_FILMED]
    data = np.concatenate([data, data, true])
    labels = np.concatenate([labels, labels, np.arange(len(true)) % len(LABEL_MAP)])
    write(folder, "train", data, labels, tuple(f"window_{i}" for i in range(len(data))))
    start = {"model.pretrained_model_path": str(checkpoint)}
    call("pose_classification", "train", {**spec_of(folder, before, seed), **ADAPTING, **start})
    return folder / "train" / "pc_model_latest.pth"


def spec_of(folder: Path, val: Path, seed: int) -> dict[str, Any]:
    """The demo's, changed; training data in `folder`, validation data in `val`."""
    spec = {**SPEC, **machine(), **CHANGES, "results_dir": str(folder), "train.seed": seed}
    spec["dataset.label_map"] = LABEL_MAP
    for name, place in (("train", folder), ("val", val)):
        spec[f"dataset.{name}_dataset.data_path"] = str(place / f"{name}_data.npy")
        spec[f"dataset.{name}_dataset.label_path"] = str(place / f"{name}_label.json")
    return spec


def write(
    folder: Path,
    name: str,
    data: NDArray[np.float32],
    labels: NDArray[np.int64],
    ids: tuple[str, ...],
) -> None:
    np.save(folder / f"{name}_data.npy", data)
    found = Labels(ids, labels, synthetic.CLASS_NAMES, COCO.name)
    write_labels(folder / f"{name}_label.json", found)


def filmed(name: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, 3, T, V, 1) and labels: one person of training's in each film, as an estimator sees them.
    Films in which they are hardly seen are left out."""
    estimator = build_estimator(name, {})
    layout = LAYOUTS[estimator.layout]
    mapping, length = map_layout(layout, COCO), round(WINDOW_SECONDS * FPS)
    data, labels = [], []
    for film in film_exercises(
        NUM_FILMED, FILMED_SEED, num_frames=length + 3, fps=FPS, size=FILM_PIXELS
    ):
        joints = np.full((length, layout.num_joints, 3), np.nan, np.float32)
        confidence = np.zeros(joints.shape[:2], np.float32)
        estimator.reset()
        for t, frame in enumerate(film.frames[3:]):
            people = estimator.detect(frame)
            if people:
                joints[t, :, : people[0].joints.shape[1]] = people[0].joints
                confidence[t] = people[0].confidence
        if (confidence.max(axis=1) > 0).mean() < 0.6:
            continue
        joints, confidence = mapping.apply(joints[..., :2], confidence)
        size = {"width": FILM_PIXELS, "height": FILM_PIXELS}
        data.append(in_picture(joints, confidence, **size, num_channels=3, num_axes=2))
        labels.append(film.label)
    return np.stack(data).transpose(0, 3, 1, 2)[..., None].copy(), np.array(labels)


def windows(
    count: int, seed: int, people: People
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:
    """(N, 3, T, V, 1) as files of tracks are converted, labels and ids: the demo's exercises, each
    seen for one window by a camera that shows a room for two; some drift as they exercise."""
    times = np.arange(NUM_FRAMES) / FPS
    figures = synthetic.pose_exercises(
        count, seed, bodies=people.bodies, num_frames=NUM_FRAMES, fps=FPS
    )
    aimed = figures._replace(positions=figures.positions - np.array(AIM))
    seen, ids = synthetic.look_at(aimed, seed, bodies=people.bodies, views=people.views)
    draw = Draws(seed, count)
    seen += synthetic.estimator_noise(draw, seen.shape)
    bias = draw.normal("seen elsewhere", 3 * len(JOINTS)).reshape(count, 1, len(JOINTS), 3)
    seen += BIAS_METRES * bias
    for axis, place, speed in ((0, 1.2, 0.5), (2, 0.6, 0.15)):  # metres, and in a second
        path = draw(f"speed {axis}", -speed, speed) * (times - times.mean())
        seen[..., axis] += (path + draw(f"place {axis}", -place, place))[..., None]
    camera = hold_camera(draw, times, WIDTH, drifts=False)
    distance, shown = draw("far", 5.5, 7.5), draw("shown", 4.8, 5.4)
    camera = camera._replace(distance=distance, focal_length=distance * WIDTH / shown)
    pixels, _ = project(seen, camera, WIDTH)
    pixels[..., 1] -= (WIDTH - HEIGHT) // 2
    size = NUM_FRAMES * len(JOINTS)
    confidence = draw("confidence", 0.5, 0.95, size=size).reshape(count, NUM_FRAMES, -1)
    confidence *= synthetic.joints_seen(draw, NUM_FRAMES)
    length = round(WINDOW_SECONDS * FPS)
    starts = draw.choice("window", NUM_FRAMES - length + 1)
    at = [JOINTS.index(name) for name in COCO.joints]
    data = [
        in_picture(
            pixels[i, start : start + length, at].astype(np.float32).swapaxes(0, 1),
            confidence[i, start : start + length, at].astype(np.float32).swapaxes(0, 1),
            width=WIDTH, height=HEIGHT, num_channels=3, num_axes=2,
        )
        for i, start in enumerate(starts.tolist())
    ]  # fmt: skip
    return np.stack(data).transpose(0, 3, 1, 2)[..., None].copy(), figures.labels, ids


# The videos ------------------------------------------------------------------------------


def judged(
    index: int, is_contact: bool, arguments: argparse.Namespace, checkpoint: str, folder: Path
) -> dict[str, Any]:
    """One video, and how it was understood."""
    number = 2 * index + is_contact  # so that no people are in two videos
    scene = make_scene(arguments.seed, number, has_contact=is_contact, fps=FPS)
    began = time.monotonic()
    ids, segments, num_ids = understood(scene, arguments, checkpoint, folder / str(number))
    judgement = judge(scene, ids, segments)
    row = {
        "number": number,
        "contact": is_contact,
        "switches": judgement.switches,
        "ids": num_ids,
        "hidden": round(float(max(scene.is_hidden(p).mean(axis=1).max() for p in (0, 1))), 3),
        "seen": judgement.seen.mean(axis=1).round(4).tolist(),
        "right": judgement.right.mean(axis=1).round(4).tolist(),
        "right_inside": [round(share, 4) for share in inside(judgement)],
    }
    print(f"{time.monotonic() - began:5.0f} s  {row}", flush=True)
    return row


def understood(
    scene: Scene, arguments: argparse.Namespace, checkpoint: str, folder: Path
) -> tuple[NDArray[np.int64], list[Segment], int]:
    """(P, T) the id of each person, everybody's segments, and how many ids there are."""
    if arguments.estimator == "truth":
        classifier = PoseClassifier(checkpoint, COCO, (WIDTH, HEIGHT))
        settings = TimelineSettings(
            window_seconds=WINDOW_SECONDS, stride_seconds=WINDOW_SECONDS / 4,
            end_after_seconds=2.0, frame_seconds=1 / FPS,
        )  # fmt: skip
        rows, segments = followed(
            sights(scene, arguments.seed + int(folder.name)), classifier, settings
        )
        return ids_of(scene, rows), segments, len({id_ for found in rows for id_, _ in found})
    folder.mkdir()
    video = folder / "video.mp4"
    write_video(video, scene.frames(), FPS)
    settings = AnalysisSettings(
        out=folder / "analysis", estimator=arguments.estimator,
        estimator_settings=ESTIMATORS[arguments.estimator], checkpoint=checkpoint,
        window_seconds=WINDOW_SECONDS, uses_threshold=False, writes_video=False,
    )  # fmt: skip
    found = analyze(open_source(str(video), StreamSettings()), settings)
    tracks = Tracks.load(settings.out / TRACKS_FILE)
    ids = ids_of(scene, rows_of(tracks, scene.num_frames), LAYOUTS[tracks.layout])
    return ids, list(found.segments), len(tracks.tracks)


# What comes of it ------------------------------------------------------------------------


def inside(judgement: Judgement) -> Iterator[float]:
    """For each person the share of right frames that lie further than half a window from where
    the true label changes: nearer ones are seen by windows of both labels."""
    for right, away in zip(judgement.right, judgement.border_seconds, strict=True):
        yield float(right[away > WINDOW_SECONDS / 2].mean())


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    right = np.array([row["right"] for row in rows])
    is_found = np.array([row["seen"] for row in rows]) >= 0.9
    return {
        "videos": len(rows),
        "switches": sum(row["switches"] for row in rows),
        "videos with a switch": sum(row["switches"] > 0 for row in rows),
        "right, percent": round(100 * float(right.mean()), 1),
        "right half a window from borders, percent": round(
            100 * float(np.mean([row["right_inside"] for row in rows])), 1
        ),
        "people of 90 percent and more": f"{int((right >= 0.9).sum())} of {right.size}",
        "worst person, percent": round(100 * float(right.min()), 1),
        "seen, percent": round(100 * float(np.mean([row["seen"] for row in rows])), 1),
        "people seen in 90 percent of frames and more": int(is_found.sum()),
        "right of these, percent": round(100 * float(right[is_found].mean()), 1)
        if is_found.any()
        else None,
    }


if __name__ == "__main__":
    main()
