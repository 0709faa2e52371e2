"""annotated.mp4: its size, what is drawn where, and a reader that fails while it reads ahead."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from acting import HEIGHT, WIDTH, act, run, scene_of, write_scene
from images_made import save_image
from kineme.data.video import iterate, probe
from kineme.errors import DataError, SpecError
from kineme.people import command, drawing, labelled_video
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.drawing import AnnotatedVideo, Figure, Scene
from kineme.people.poses import build_pose
from kineme.people.sources import StoredSource
from kineme.pose_classification.layouts import LAYOUTS

COCO = LAYOUTS["coco"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One who stands at the right."""
    return write_scene(tmp_path_factory.mktemp("scene"), scene_of(act("still", 15, x=120)))


def legs_in(frame):
    """Where the drawn legs are, as shares of the frame: x of their middle, y of their end."""
    is_coloured = np.ptp(frame.astype(int), axis=2) > 40
    rows, columns = np.nonzero(is_coloured[frame.shape[0] * 6 // 10 :])
    return columns.mean() / frame.shape[1], 0.6 + (rows.max() + 1) / frame.shape[0]


LEGS = (120 / WIDTH, 112 / HEIGHT)  # to the edge of the ankles


def sizes(path):
    facts = probe(path)
    return facts.width, facts.height, facts.num_frames


def test_the_video_is_no_larger_than_asked_and_people_are_drawn_where_they_are(scene, tmp_path):
    video, points = scene
    found = {}
    for side in (80, 160, 4000):
        run(video, points, tmp_path / str(side), f"--video-side={side}")
        annotated = tmp_path / str(side) / "annotated.mp4"
        assert sizes(annotated) == (min(side, WIDTH), min(side, WIDTH) * HEIGHT // WIDTH, 15)
        found[side] = legs_in([frame for _, frame in iterate(annotated)][5])
    assert found[4000] == found[160]
    assert found[160] == pytest.approx(LEGS, abs=0.02)
    assert found[80] == pytest.approx(LEGS, abs=0.05)


def test_unless_asked_for_the_longer_side_has_1280_pixels(tmp_path):
    (tmp_path / "tall").mkdir()
    for number in range(3):
        save_image(tmp_path / "tall" / f"{number}.png", np.full((1600, 900, 3), 90, np.uint8))
    (tmp_path / "nobody.json").write_text("[]")
    run(tmp_path / "tall", tmp_path / "nobody.json", tmp_path / "out")
    assert sizes(tmp_path / "out" / "annotated.mp4") == (720, 1280, 3)


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (768, 1366), (2704, 1520), (3000, 200)])
def test_no_side_is_longer_than_asked_whatever_the_shape(tmp_path, monkeypatch, width, height):
    made = []
    monkeypatch.setattr(labelled_video, "AnnotatedVideo", lambda *_, size, **__: made.append(size))
    source = SimpleNamespace(
        width=width, height=height, fps=10, is_live=True, again=lambda **_: None
    )
    labelled_video.LabelledVideo(tmp_path / "a.mp4", COCO, source, None, long_side=1280)
    assert max(made[0]) <= 1280 < max(made[0]) * 1.01


def test_frames_of_a_stream_are_brought_to_the_size_too(tmp_path):
    video = AnnotatedVideo(tmp_path / "live.mp4", COCO, fps=10, size=(60, 80))
    body = act("still", 1, x=120)[0] / (2, 2, 1)  # in pixels of the small video
    figure = Figure(1, build_pose(body[:, :2], body[:, 2]), "")
    for index in range(5):
        frame = np.full((120, 160, 3), 60, np.uint8)
        video.put(Scene(index, index / 10, (figure,), frame))
    video.finish()
    assert sizes(tmp_path / "live.mp4") == (80, 60, 5)
    frames = [frame for _, frame in iterate(tmp_path / "live.mp4")]
    assert legs_in(frames[2]) == pytest.approx(LEGS, abs=0.05)


def test_few_frames_with_pixels_wait_to_be_drawn(tmp_path, monkeypatch):
    is_free, put = threading.Event(), []

    def write(path, frames, fps, *, is_quick):
        return is_free.wait(5) and len(list(frames))

    monkeypatch.setattr(drawing, "write_video", write)
    video = AnnotatedVideo(tmp_path / "live.mp4", COCO, fps=10, size=(60, 80))
    scenes = [Scene(i, i / 10, (), np.zeros((60, 80, 3), np.uint8)) for i in range(60)]
    blocked = threading.Thread(target=lambda: [put.append(video.put(one)) for one in scenes])
    blocked.start()
    end = time.monotonic() + 5
    while len(put) < 32 and time.monotonic() < end:
        time.sleep(0.005)
    blocked.join(0.1)  # long enough for one too many
    assert (blocked.is_alive(), len(put)) == (True, 32)
    is_free.set()
    blocked.join(5)
    video.finish()
    assert video.num_frames == len(put) == 60


def test_a_side_that_no_video_has_is_told():
    with pytest.raises(SpecError, match=r"--video-side: expected a whole number of at least 64"):
        command.main(["a.mp4", "--video-side=0"])


class Breaking(StoredSource):
    """A video whose twelfth frame cannot be read."""

    def moments(self):
        for moment in super().moments():
            if moment.index == 11:
                raise DataError(self.name, "frames", "none any more")
            yield moment


def test_an_error_in_the_middle_comes_after_all_frames_before_it_were_looked_at(scene, tmp_path):
    video, points = scene
    settings = AnalysisSettings(
        out=tmp_path, estimator="files",
        estimator_settings={"path": str(points), "format": "coco"},
    )  # fmt: skip
    with pytest.raises(DataError, match="none any more"):
        analyze(Breaking(video), settings)
    assert (tmp_path / ".frames.jsonl").read_text().count("\n") == 1 + 11
    assert not (tmp_path / "annotated.mp4").exists()
    assert not [one for one in threading.enumerate() if one.name.startswith("read ahead")]
