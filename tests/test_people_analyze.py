"""`kineme analyze` from a video to who does what, stopped, resumed, live, and at any length."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import thin
from acting import (
    CLASSES,
    FILES,
    FPS,
    HEIGHT,
    WIDTH,
    absent,
    act,
    run,
    scene_of,
    train_actor,
    write_scene,
)
from kineme.data.tracks import Tracks
from kineme.data.video import iterate, probe, write_video
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.journal import Journal
from kineme.people.poses import FramePoses, build_pose
from kineme.people.sources import Moment, StoredSource
from kineme.people.tracking.recording import Recording
from kineme.pose_classification.layouts import LAYOUTS
from streaming import shade


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    """(checkpoint, video, key points): a waving one with a gap, and one who begins to wave."""
    folder = tmp_path_factory.mktemp("actor")
    with pytest.MonkeyPatch.context() as patch:
        thin.make_thin(patch)
        checkpoint = train_actor(folder)
    waving = [act("wave", 30, x=40, seed=3), absent(10), act("wave", 30, x=40, seed=3)]
    turning = [act("still", 40, x=110, seed=1), act("wave", 40, x=110, seed=2)]
    scene = scene_of(np.concatenate(waving), np.concatenate(turning))
    return checkpoint, *write_scene(folder, scene)


@pytest.fixture(autouse=True)
def _thin_models(monkeypatch):
    thin.make_thin(monkeypatch)


def rows_of(out):
    with open(out / "timeline.csv", newline="") as file:
        return list(csv.DictReader(file))


def plain(segments):
    return [(one.person, one.label, one.start, one.end) for one in segments]


def test_a_video_becomes_a_timeline_of_each_person(actor, tmp_path, capsys):
    checkpoint, video, points = actor
    assert run(video, points, tmp_path, f"--checkpoint={checkpoint}") == 0
    assert [(row["person"], row["label"]) for row in rows_of(tmp_path)] == [
        ("1", "wave"), ("1", "no person"), ("1", "wave"), ("2", "still"), ("2", "wave"),
    ]  # fmt: skip
    rows = rows_of(tmp_path)
    times = [(float(row["start_seconds"]), float(row["end_seconds"])) for row in rows]
    truth = [(0, 3), (3, 4), (4, 7), (0, 4), (4, 8)]
    assert np.abs(np.subtract(times, truth)).max() <= 0.4 + 1e-6  # a stride of windows of 1.6 s
    assert [row["probability"] == "" for row in rows] == [False, True, False, False, False]
    assert all(float(row["probability"] or 1) > 0.5 for row in rows)
    printed = capsys.readouterr()
    assert printed.out == f"2 people in 80 frames; {tmp_path / 'report.html'}\n"
    first, second = printed.err.splitlines()
    assert first == "note: joints of coco as they are"
    assert second.startswith("note: unknown: whoever has no class of probability 0.5 or more")


def test_every_file_tells_the_same_segments(actor, tmp_path):
    checkpoint, video, points = actor
    run(video, points, tmp_path, f"--checkpoint={checkpoint}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "annotated.mp4", "report.html", "timeline.csv", "timeline.json", "timeline.jsonl",
        "tracks.npz",
    ]  # fmt: skip
    rows = [
        (int(row["person"]), row["label"], float(row["start_seconds"]), float(row["end_seconds"]))
        for row in rows_of(tmp_path)
    ]
    facts = json.loads((tmp_path / "timeline.json").read_text())
    assert rows == [
        (one["person"], part["label"], part["start_seconds"], part["end_seconds"])
        for one in facts["people"]
        for part in one["segments"]
    ]
    lines = [json.loads(line) for line in (tmp_path / "timeline.jsonl").read_text().splitlines()]
    assert sorted(rows) == sorted(
        (one["person"], one["label"], one["start_seconds"], one["end_seconds"]) for one in lines
    )
    assert (facts["num_frames"], facts["fps"], facts["seconds"]) == (80, FPS, 8.0)
    assert facts["class_names"] == list(CLASSES)
    page = (tmp_path / "report.html").read_text()
    assert "default-src 'none'" in page
    assert not re.findall(r"<script|https?://", page)
    assert page.count('class="lane"') == 2
    assert page.count("data:image/jpeg;base64,") == 2


def test_the_tracks_file_holds_what_was_seen(actor, tmp_path):
    _, video, points = actor
    run(video, points, tmp_path)
    tracks = Tracks.load(tmp_path / "tracks.npz")
    assert (tracks.layout, tracks.width, tracks.height) == ("coco", WIDTH, HEIGHT)
    assert (tracks.fps, tracks.num_frames, tracks.source) == (FPS, 80, video.name)
    first, second = tracks.tracks
    assert first.frames.tolist() == [*range(30), *range(40, 70)]
    assert second.frames.tolist() == list(range(80))
    expected = np.concatenate([act("still", 40, x=110, seed=1), act("wave", 40, x=110, seed=2)])
    np.testing.assert_allclose(second.joints, expected[..., :2], atol=1e-3)


def test_the_annotated_video_has_every_frame_in_its_time(actor, tmp_path):
    checkpoint, video, points = actor
    run(video, points, tmp_path, f"--checkpoint={checkpoint}")
    assert probe(tmp_path / "annotated.mp4").num_frames == 80
    frames = [frame for _, frame in iterate(tmp_path / "annotated.mp4")]
    coloured = [(np.ptp(frame.astype(int), axis=2) > 60).sum() for frame in frames]
    assert min(coloured) > 50  # somebody is drawn on every frame
    assert max(coloured[32:38]) < min(coloured[10:28])  # one of the two is gone then


def test_without_a_checkpoint_people_are_told_and_torch_is_not_loaded(actor, tmp_path):
    _, video, points = actor
    words = [str(video), "--estimator=files", f"files.path={points}", FILES, "--no-video"]
    code = (
        "import sys; from kineme.people.command import main; "
        f"main({[*words, f'--out={tmp_path}']!r}); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert [(row["person"], row["label"]) for row in rows_of(tmp_path)] == [
        ("1", "person"), ("1", "no person"), ("1", "person"), ("2", "person"),
    ]  # fmt: skip
    assert not (tmp_path / "annotated.mp4").exists()


class Live:
    """The frames of a stored video as if they came live."""

    is_live, stamp, num_frames, damage = True, "", 0, ""

    def __init__(self, path):
        self._stored = StoredSource(path)
        self.name, self.fps = "rtsp://somewhere/1", self._stored.fps
        self.width, self.height = self._stored.width, self._stored.height

    def moments(self):
        return self._stored.moments()

    def again(self, *, short_side):
        return None

    def close(self):
        pass


def test_a_live_stream_gets_the_segments_that_the_file_gets(actor, tmp_path):
    checkpoint, video, points = actor
    settings = AnalysisSettings(
        out=tmp_path / "file",
        estimator="files",
        estimator_settings={"path": str(points), "format": "coco"},
        checkpoint=str(checkpoint),
    )
    stored = analyze(StoredSource(video), settings)
    told = []
    live = analyze(Live(video), _with(settings, out=tmp_path / "live"), stream=told.append)
    assert live.segments == stored.segments
    assert [one["label"] for one in told if one["event"] == "segment"] == [
        json.loads(line)["label"]
        for line in (tmp_path / "file" / "timeline.jsonl").read_text().splitlines()
    ]
    labels = [(one["person"], one["label"]) for one in told if one["event"] == "label"]
    assert labels == [(1, "wave"), (2, "still"), (2, "wave")]
    first = next(one for one in told if one["event"] == "label")
    assert first["seconds"] <= 1.6 + 1 / FPS  # as soon as the first window is full
    assert probe(tmp_path / "live" / "annotated.mp4").num_frames == 80


def _with(settings, **changes):
    import dataclasses

    return dataclasses.replace(settings, **changes)


# Whoever is not there, or hidden -------------------------------------------------------------


def test_i03_a_video_without_people_has_one_row_that_says_no_person(tmp_path):
    video, points = write_scene(tmp_path, [[] for _ in range(20)])
    assert run(video, points, tmp_path / "out") == 0
    assert rows_of(tmp_path / "out") == [
        {"person": "", "label": "no person", "probability": "", "start_seconds": "0.000",
         "end_seconds": "2.000"},
    ]  # fmt: skip
    assert Tracks.load(tmp_path / "out" / "tracks.npz").tracks == ()
    assert "nobody" in (tmp_path / "out" / "report.html").read_text()


def test_i03_fifty_people_and_two_who_cross_keep_their_ids(tmp_path):
    crowd = [act("still", 12, x=10 + 3 * place, seed=place) for place in range(50)]
    for place, person in enumerate(crowd):
        person[..., 1] += 100 * place  # the estimator says so, wherever the picture ends
    video, points = write_scene(tmp_path, scene_of(*crowd), name="crowd")
    assert run(video, points, tmp_path / "crowd") == 0
    assert [int(row["person"]) for row in rows_of(tmp_path / "crowd")] == list(range(1, 51))

    path = np.linspace(0, 100, 40)[:, None, None] * np.array([1, 0, 0])
    left, right = act("still", 40, x=30, seed=1) + path, act("still", 40, x=130, seed=2) - path
    right[..., 1] += 6
    video, points = write_scene(tmp_path, scene_of(left, right), name="crossing")
    run(video, points, tmp_path / "crossing")
    tracks = Tracks.load(tmp_path / "crossing" / "tracks.npz")
    assert [len(track) for track in tracks.tracks] == [40, 40]
    moved = [track.joints[-1, 0, 0] - track.joints[0, 0, 0] for track in tracks.tracks]
    assert sorted(moved) == pytest.approx([-100, 100], abs=2)


def test_d25_hidden_joints_lower_the_probability_and_a_hidden_person_is_no_person(actor, tmp_path):
    checkpoint, *_ = actor
    legs = act("wave", 40, x=80, seed=4)
    legs[:, 11:, 2] = 0  # 35 % of the joints
    gone = act("wave", 40, x=80, seed=4)
    gone[..., 2] = 0
    for name, person in (("legs", legs), ("gone", gone)):
        video, points = write_scene(tmp_path, scene_of(person), name=name)
        run(video, points, tmp_path / name, f"--checkpoint={checkpoint}", "--no-video")
    (row,) = rows_of(tmp_path / "legs")
    assert row["label"] in (*CLASSES, "unknown")
    assert 0 < float(row["probability"]) <= 1
    assert [(one["person"], one["label"]) for one in rows_of(tmp_path / "gone")] == [
        ("", "no person")
    ]


def test_d24_of_fifty_people_each_gets_a_label_from_a_model_of_one(actor, tmp_path):
    checkpoint, *_ = actor
    crowd = [act("wave" if place % 2 else "still", 24, x=80, seed=place) for place in range(50)]
    for place, person in enumerate(crowd):
        person[..., 0] += 160 * place
    video, points = write_scene(tmp_path, scene_of(*crowd))
    run(video, points, tmp_path / "out", f"--checkpoint={checkpoint}", "--no-video")
    rows = rows_of(tmp_path / "out")
    assert {row["person"] for row in rows} == {str(number) for number in range(1, 51)}
    assert {row["label"] for row in rows} <= {*CLASSES, "unknown"}


# Layouts ---------------------------------------------------------------------------------


def test_joints_of_another_layout_are_mapped_by_name_and_that_is_told_once(actor, tmp_path, capsys):
    checkpoint, video, points = actor
    scene = json.loads(points.read_text())
    for entry in scene:
        coco = np.reshape(entry["keypoints"], (17, 3))
        entry["keypoints"] = _as_halpe(coco).ravel().tolist()
    (tmp_path / "halpe.json").write_text(json.dumps(scene))
    run(video, tmp_path / "halpe.json", tmp_path / "a", f"--checkpoint={checkpoint}", "--no-video")
    told = capsys.readouterr().err
    assert told.count("joints of") == 1
    assert told.startswith("note: joints of coco from halpe-26: 17 of 17 by name\n")
    run(video, points, tmp_path / "b", f"--checkpoint={checkpoint}", "--no-video")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def _as_halpe(coco):
    names = LAYOUTS["coco"].joints
    extra = {"neck": ("left_shoulder", "right_shoulder"), "pelvis": ("left_hip", "right_hip")}
    joints = []
    for name in LAYOUTS["halpe-26"].joints:
        parts = extra.get(name, (name,) if name in names else ("nose",))
        joints.append(np.mean([coco[names.index(part)] for part in parts], axis=0))
    return np.array(joints)


# Length, progress, signals -----------------------------------------------------------------


class Made:
    """Frames made up as they are asked for, one in a second; knows how often it was asked."""

    is_live, stamp, damage, name, fps = False, "made", "", "made.mp4", 1.0
    width, height = WIDTH, HEIGHT

    def __init__(self, num_frames):
        self.num_frames = num_frames

    def moments(self):
        for index in range(self.num_frames):
            yield Moment(index, float(index), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))

    def again(self, *, short_side):
        assert short_side == HEIGHT
        return self.moments()

    def close(self):
        pass


class Walker:
    """An estimator that sees one person after another, each for 50 frames."""

    layout, settings = "coco", None

    def __init__(self, settings=None):
        self._body = act("wave", 50)
        self.num_asked = 0

    def detect(self, frame):
        place = self.num_asked % 60
        self.num_asked += 1
        if place >= 50:
            return ()
        return (build_pose(self._body[place, :, :2], self._body[place, :, 2]),)

    def reset(self):
        pass


@pytest.fixture
def walker(monkeypatch):
    made = Walker()
    monkeypatch.setattr("kineme.people.analyze.build_estimator", lambda *_: made)
    return made


def test_i09_windows_of_a_video_of_one_frame_a_second_are_aligned_to_time(walker, tmp_path):
    settings = AnalysisSettings(
        out=tmp_path, estimator="movenet", window_seconds=8, stride_seconds=2, writes_video=False
    )
    found = analyze(Made(130), settings)
    assert plain(found.segments)[:2] == [
        (1, "person", 0.0, 50.0), (2, "person", 62.0, 110.0),  # known at the third sight
    ]  # fmt: skip


def test_i09_progress_says_how_long_it_takes_yet(walker, tmp_path, monkeypatch):
    monkeypatch.setattr("kineme.people.progress.PLAIN_SECONDS", 0.0)
    told = []
    settings = AnalysisSettings(out=tmp_path, estimator="movenet", writes_video=False)
    analyze(Made(30), settings, tell=told.append)
    assert re.fullmatch(r"15 of 30 frames, [\d.,]+ a second, 0:0\d to go", told[14])


@pytest.mark.slow
def test_i09_ten_thousand_frames_take_no_more_memory_than_a_thousand(walker, tmp_path):
    held = []  # bytes, after every 1,000 frames

    def detect(frame):
        if walker.num_asked % 1000 == 999:
            held.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
        return Walker.detect(walker, frame)

    walker.detect = detect
    analyze(Made(10_000), AnalysisSettings(out=tmp_path, window_seconds=8))
    assert len(held) == 10
    assert max(held[1:]) - held[0] < 20_000_000  # all frames are 576 MB, what is found 10 MB
    assert len(Tracks.load(tmp_path / "tracks.npz").tracks) == 167


def test_max_frames_ends_the_work_there(actor, tmp_path):
    _, video, points = actor
    run(video, points, tmp_path, "--max-frames=25")
    assert json.loads((tmp_path / "timeline.json").read_text())["num_frames"] == 25
    assert probe(tmp_path / "annotated.mp4").num_frames == 25


SLOW_RUN = """
import sys
sys.path.insert(0, {tests!r})
from kineme.people.estimators import ESTIMATORS
ESTIMATORS["movenet"] = "slow_people:Slow"
from kineme.cli import main
sys.exit(main({words!r}))
"""


def test_i15_sigterm_leaves_what_is_over_and_the_same_command_goes_on(tmp_path):
    video = tmp_path / "shades.mp4"
    write_video(video, (shade(number, HEIGHT, WIDTH) for number in range(80)), FPS)

    def code(out):
        words = ["analyze", str(video), "movenet.seconds=0.03", "--window=0.8", "--stride=0.4"]
        tests = str(Path(__file__).parent)
        return SLOW_RUN.format(tests=tests, words=[*words, "--out", str(tmp_path / out)])

    process = subprocess.Popen(
        [sys.executable, "-c", code("out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    num_looked = 0
    for _ in process.stdout:
        num_looked += 1
        if num_looked == 64:
            process.send_signal(signal.SIGTERM)
            break
    rest, told = process.communicate(timeout=30)
    num_looked += rest.count("looked")
    assert process.returncode == 143
    assert "the same command goes on from here" in told
    assert 64 <= num_looked < 80
    stopped = rows_of(tmp_path / "out")
    assert not (tmp_path / "out" / "annotated.mp4").exists()

    for out in ("out", "whole"):
        done = subprocess.run(
            [sys.executable, "-c", code(out)], capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        if out == "out":
            assert f"people of {num_looked} frames are known already" in done.stderr
            assert done.stdout.count("looked") == 80 - num_looked
    whole = rows_of(tmp_path / "whole")
    assert 0 < len(stopped) < len(whole)
    assert [row for row in whole if row in stopped] == stopped
    for name in ("timeline.csv", "timeline.jsonl", "tracks.npz", "annotated.mp4"):
        contents = {(tmp_path / out / name).read_bytes() for out in ("out", "whole")}
        assert len(contents) == 1, name
    assert not list((tmp_path / "out").glob(".*"))


def test_a_run_of_another_video_or_estimator_is_not_gone_on_with(tmp_path):
    path = tmp_path / "frames"
    journal = Journal(path, {"source": "a"})
    journal.begin()
    journal.add(FramePoses(0, 0.0, ()), {}, is_cut=False)
    journal.flush()
    assert Journal(path, {"source": "a"}).is_of_this()
    assert not Journal(path, {"source": "b"}).is_of_this()


def test_a_journal_that_was_cut_off_anywhere_goes_on_after_its_last_whole_line(tmp_path):
    path = tmp_path / "frames"
    journal = Journal(path, {"source": "a"})
    journal.begin()
    pose = build_pose([[1.5, 2.5], [3.5, np.nan]], [0.5, 0.5], score=0.25)
    for index in range(3):
        journal.add(FramePoses(index, index / 10, (pose,)), {0: 7}, is_cut=index == 2)
    journal.flush()
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == 10]
    for length in range(ends[0], len(content) + 1):
        path.write_bytes(content[:length])
        again = Journal(path, {"source": "a"})
        assert again.mend() == sum(end <= length for end in ends) - 1
        assert os.path.getsize(path) == max(end for end in ends if end <= length)
    frames = list(Journal(path, {"source": "a"}).read())
    assert [(frame.index, frame.seconds, is_cut, ids) for frame, is_cut, ids in frames] == [
        (0, 0.0, False, (7,)), (1, 0.1, False, (7,)), (2, 0.2, True, (7,)),
    ]  # fmt: skip
    read = frames[0][0].people[0]
    np.testing.assert_array_equal(read.joints, pose.joints)
    np.testing.assert_array_equal(read.confidence, pose.confidence)
    np.testing.assert_array_equal(read.box, pose.box)
    assert read.score == 0.25


def test_a_journal_gives_the_tracks_of_what_was_added_though_an_earlier_run_came_farther(tmp_path):
    layout = LAYOUTS["coco"]
    joints = layout.num_joints
    pose = build_pose(np.ones((joints, 2)), np.ones(joints), score=0.5)
    path = tmp_path / "frames"
    for num_frames, is_new in ((6, True), (2, False)):  # the second with a smaller --max-frames
        journal = Journal(path, {"source": "a"})
        if is_new:
            journal.begin()
        for index in range(num_frames):
            frame = FramePoses(index, index / 10, (pose,))
            journal.add(frame, {0: 7}, is_cut=False, is_new=is_new)
        journal.flush()
    with journal.tracks(Recording(layout, 8, 8, 10.0, "a")) as tracks:
        assert tracks.num_frames == 2
        assert [list(track.frames) for track in tracks.tracks] == [[0, 1]]
