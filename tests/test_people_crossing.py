"""Two who exercise and change sides, one hiding the other: ids and labels stay with them.

The quick tests know the labels; the slow one trains a classifier, by benchmarks/crossing_people.py,
which also measures what `kineme analyze` makes of rendered videos.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossing import COCO, followed, ids_of, judge, sights
from kineme.figures import JOINTS
from kineme.people.timeline import TimelineSettings, Window
from kineme.scenes import HEIGHT, WIDTH, Scene, make_scene
from kineme.synthetic import CLASS_NAMES

FPS = 10.0
SETTINGS = TimelineSettings(frame_seconds=1 / FPS, end_after_seconds=2.0)


class Knowing:
    """The true label of who is nearest to the joints asked about, frame by frame."""

    names, threshold = CLASS_NAMES, None

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        at = [JOINTS.index(name) for name in COCO.joints]
        self.truth = np.stack([scene.joints(person)[:, at] for person in (0, 1)])

    def classify(self, windows: Sequence[Window]) -> np.ndarray:
        shares = np.zeros((len(windows), len(CLASS_NAMES)), np.float32)
        for share, window in zip(shares, windows, strict=True):
            for t, joints in zip(
                np.rint(window.seconds * FPS).astype(int), window.joints, strict=True
            ):
                gaps = np.linalg.norm(self.truth[:, t] - joints[:, :2], axis=-1)
                if np.isfinite(gaps).any():
                    person = int(np.nanmean(gaps, axis=1).argmin())
                    share[self.scene.labels[person, t]] += 1
            share /= max(share.sum(), 1)
        return shares


@pytest.mark.parametrize("index", [0, 1])
def test_i03_those_who_never_touch_keep_their_ids_and_labels(index: int) -> None:
    scene = make_scene(77, index, has_contact=False, seconds=10, fps=FPS, num_parts=2)
    rows, segments = followed(sights(scene, index), Knowing(scene), SETTINGS)
    judged = judge(scene, ids_of(scene, rows), segments)
    assert judged.switches == 0
    assert {id_ for found in rows for id_, _ in found} == {1, 2}
    assert judged.right.mean(axis=1).min() > 0.9
    assert judged.right[judged.border_seconds > 1].all()


@pytest.mark.parametrize("index", [0, 1])
def test_i03_those_who_hide_each_other_keep_their_ids_and_labels(index: int) -> None:
    scene = make_scene(78, index, has_contact=True, seconds=10, fps=FPS, num_parts=2)
    assert max(scene.is_hidden(person).mean(axis=1).max() for person in (0, 1)) > 0.2
    rows, segments = followed(sights(scene, index), Knowing(scene), SETTINGS)
    judged = judge(scene, ids_of(scene, rows), segments)
    assert judged.switches == 0
    assert judged.right.mean(axis=1).min() > 0.9


def test_an_exchange_of_ids_is_seen_as_one() -> None:
    scene = make_scene(79, 0, has_contact=False, seconds=6, fps=FPS, num_parts=1)
    at = [JOINTS.index(name) for name in COCO.joints]
    first, second = (scene.joints(person)[:, at] for person in (0, 1))
    rows = [
        [(1 + (t >= 30), first[t]), (2 - (t >= 30), second[t])] for t in range(scene.num_frames)
    ]
    rows[10] = []
    ids = ids_of(scene, rows)
    assert ids.tolist() == [
        [0 if t == 10 else 1 + (t >= 30) for t in range(60)],
        [0 if t == 10 else 2 - (t >= 30) for t in range(60)],
    ]
    assert judge(scene, ids, []).switches == 2


@pytest.mark.slow
def test_i03_with_a_trained_classifier_nine_tenths_of_all_labels_are_right(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import crossing_people as benchmark
    from kineme.people.classifier import PoseClassifier

    checkpoint, right = benchmark.train(tmp_path / "classifier", seed=0)
    assert right > 85  # of windows of bodies and views that training has not seen
    classifier = PoseClassifier(checkpoint, COCO, (WIDTH, HEIGHT))
    settings = replace(
        SETTINGS, window_seconds=benchmark.WINDOW_SECONDS,
        stride_seconds=benchmark.WINDOW_SECONDS / 4,
    )  # fmt: skip
    shares = []
    for index in range(8):
        has_contact = bool(index % 2)
        scene = make_scene(80, index, has_contact=has_contact, fps=FPS)
        rows, segments = followed(sights(scene, index), classifier, settings)
        judged = judge(scene, ids_of(scene, rows), segments)
        assert judged.switches == 0 or has_contact
        shares.append(judged.right.mean())
    assert np.mean(shares) >= 0.9
