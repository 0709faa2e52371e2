"""Repetitions and rules of form of everybody in a video: files, events, live as offline."""

import csv
import json

import numpy as np
import pytest

from exercising import Setting, exercise
from kineme.cli import main
from kineme.data.tracks import Tracks
from kineme.errors import SpecError
from kineme.people import command
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.estimators import ESTIMATORS, build_estimator, layout_of_estimator
from kineme.people.poses import FramePoses, build_pose
from kineme.people.repetitions.counting import LiveCounts, count_people, count_track
from kineme.people.repetitions.form_rules import MARGIN_SECONDS, judge, load_form_rules
from kineme.people.repetitions.search import Repetition, Repetitions, Series, count_repetitions
from kineme.people.sources import Moment
from kineme.people.tracking.recording import Recording, TracksRecorder
from kineme.pose_classification.layouts import LAYOUTS

COCO = LAYOUTS["coco"]
EASY = Setting(
    layouts=("coco",), axes=(2,), fps=(10.0,), dropped=0, hidden=0, pause=0, tempo=(0.5, 0.6),
    variation=0.1, azimuth=(-30, 30), jitter=(0.002, 0.004),
)  # fmt: skip
RULES = """
rules:
  - name: knee depth
    angle: [left_hip, left_knee, left_ankle]
    at: lowest
    below: 20
    message: Go lower.
  - name: straight legs
    angle: [left_hip, left_knee, left_ankle]
    at: highest
    above: 90
    message: Stand up.
  - name: seen
    angle: [left_ear, nose, right_ear]
    at: whole
    above: 1
    message: Look here.
"""


@pytest.fixture(scope="module")
def squats():
    """(seconds, (T, 17, 2)) of five squats, an ear hidden."""
    made = exercise(3, EASY, name="squat", count=5)
    joints = made.joints.copy()
    joints[:, COCO.joints.index("left_ear")] = np.nan
    return made.seconds - made.seconds[0], joints


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    return load_form_rules(tmp_path / "rules.yaml", COCO.joints)


def film_of(seconds, *people):
    """What an estimator says of people (T, 17, 2)."""
    return [
        FramePoses(index, float(now), tuple(
            build_pose(person[index], np.where(np.isfinite(person[index, :, 0]), 0.9, 0))
            for person in people if np.isfinite(person[index]).any()
        ))
        for index, now in enumerate(seconds)
    ]  # fmt: skip


class Film:
    """A video whose people are known, and the estimator that knows them."""

    layout, settings, name, stamp, damage = "coco", None, "made.mp4", "", ""
    width, height, fps = 1280, 720, 10.0

    def __init__(self, frames, *, is_live):
        self._frames, self.is_live, self.num_frames = frames, is_live, len(frames)
        self._next = iter(frames)

    def moments(self):
        picture = np.zeros((16, 16, 3), np.uint8)
        return (Moment(frame.index, frame.seconds, picture) for frame in self._frames)

    def detect(self, frame):
        return next(self._next).people

    def close(self):
        pass


def analyzed(frames, out, monkeypatch, *, is_live=False, **settings):
    film, told = Film(frames, is_live=is_live), []
    monkeypatch.setattr("kineme.people.analyze.build_estimator", lambda *_: film)
    asked = AnalysisSettings(out=out, writes_video=False, **settings)
    found = analyze(film, asked, stream=told.append if is_live else None)
    return found, told


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_track_is_counted_and_judged_as_all_of_it_at_once_would_be(squats, rules):
    seconds, joints = squats
    later = seconds + seconds[-1] + 12.05  # a second series, after a pause that ends the first
    recorder = TracksRecorder()
    all_seconds = np.concatenate([seconds, later])
    frames = film_of(all_seconds, np.concatenate([joints, joints + 40]))
    for frame in frames:
        recorder.add(frame, tuple((7, pose) for pose in frame.people))
    tracks = recorder.tracks(COCO, width=1280, height=720)
    (count,) = count_people(tracks, rules)
    (track,) = tracks.tracks
    whole = count_repetitions(track.joints, track.seconds, "coco")
    assert count.found == whole
    assert [series.count for series in whole.series] == [5, 5]
    every = [one for series in whole.series for one in series.repetitions]
    said = judge(rules, every, track.joints, track.seconds, layout="coco")
    flat = [one for group in count.judgements for one in group]
    for one, other in zip(flat, said, strict=True):
        assert (one.repetition, one.rule, one.verdict, one.message) == (
            other.repetition, other.rule, other.verdict, other.message,
        )  # fmt: skip
        assert one.degrees == pytest.approx(other.degrees, abs=1e-6, nan_ok=True)
    verdicts = {one.rule: one.verdict for one in count.judged(10)}
    assert verdicts == {"knee depth": "not met", "straight legs": "met", "seen": "not seen"}


@pytest.mark.parametrize("is_live", [False, True])
def test_depth_that_an_estimator_guesses_changes_no_angle(
    squats, rules, tmp_path, monkeypatch, is_live
):
    seconds, joints = squats
    flat = film_of(seconds, joints)
    guessed = 80 * np.sin(np.arange(joints.size // 2)).reshape(*joints.shape[:2], 1)
    deep = film_of(seconds, np.concatenate([joints, guessed], axis=2))
    told = {}
    for name, frames in (("flat", flat), ("deep", deep)):
        asked = {"counts": True, "rules": rules, "is_live": is_live}
        _, events = analyzed(frames, tmp_path / name, monkeypatch, **asked)
        told[name] = (rows_of(tmp_path / name / "repetitions.csv"), events)
    assert len(told["flat"][0]) == 5
    assert told["deep"] == told["flat"]


def test_frames_around_a_repetition_say_what_all_frames_say(squats, rules):
    seconds, joints = squats
    whole = count_repetitions(joints, seconds, "coco").series[0].repetitions
    for number in (1, 3):
        one = whole[number]
        near = (seconds >= one.start - MARGIN_SECONDS) & (seconds <= one.end + MARGIN_SECONDS)
        part = judge(
            rules, [one], joints[near], seconds[near], layout="coco", since=float(seconds[0])
        )
        said = judge(rules, whole, joints, seconds, layout="coco")[3 * number : 3 * number + 3]
        assert [p.degrees for p in part] == pytest.approx(
            [s.degrees for s in said], abs=1e-6, nan_ok=True
        )


def test_all_files_tell_the_same_repetitions(squats, rules, tmp_path, monkeypatch):
    seconds, joints = squats
    still = np.tile(joints[:1], (len(joints), 1, 1)) + np.array([400, 0])
    found, _ = analyzed(
        film_of(seconds, joints, still), tmp_path / "out", monkeypatch, counts=True, rules=rules
    )
    by_person = {one.person: one.found.count for one in found.counts}
    assert by_person == {1: 5, 2: 0}
    rows = rows_of(tmp_path / "out" / "repetitions.csv")
    assert [(row["person"], row["series"], row["repetition"]) for row in rows] == [
        ("1", "1", str(number)) for number in range(1, 6)
    ]
    assert {row["rule: knee depth"] for row in rows} == {"not met"}
    assert {(row["rule: seen"], row["degrees: seen"]) for row in rows} == {("not seen", "")}
    facts = json.loads((tmp_path / "out" / "timeline.json").read_text())
    told = {one["person"]: one["repetitions"] for one in facts["people"]}
    assert (told[1]["count"], told[2]["count"], told[2]["series"]) == (5, 0, [])
    (series,) = told[1]["series"]
    assert 25 < series["tempo"] < 40  # 0.5 to 0.6 a second, give or take a tenth
    for row, one in zip(rows, series["repetitions"], strict=True):
        for name in ("start_seconds", "turn_seconds", "end_seconds"):
            assert float(row[name]) == one[name]
        assert float(row["left_knee_range"]) == one["ranges"]["left_knee"]
        assert row["degrees: knee depth"] == str(one["rules"][0]["degrees"])
        assert one["rules"][0]["message"] == "Go lower."
    assert [rule["name"] for rule in facts["rules"]] == ["knee depth", "straight legs", "seen"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<a href="#repetitions">' in page
    assert "1, 2, 3, 4, 5</td><td>Go lower.</td>" in page
    assert "Stand up." not in page  # it was met
    assert f"{100 * found.counts[0].found.confidence:.0f} %" in page


def test_without_counting_there_is_no_table_not_even_one_of_an_earlier_run(
    squats, tmp_path, monkeypatch
):
    frames = film_of(squats[0], squats[1])
    analyzed(frames, tmp_path / "out", monkeypatch, counts=True)
    assert (tmp_path / "out" / "repetitions.csv").exists()
    analyzed(frames, tmp_path / "out", monkeypatch)
    assert not (tmp_path / "out" / "repetitions.csv").exists()
    facts = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert "repetitions" not in facts["people"][0]
    assert 'id="repetitions"' not in (tmp_path / "out" / "report.html").read_text()


def test_live_tells_every_repetition_and_its_verdicts_and_ends_as_the_file_does(
    squats, rules, tmp_path, monkeypatch
):
    seconds, joints = squats
    twin = joints[::-1] + np.array([400, 0])
    frames = film_of(seconds, joints, twin)
    settings = {"counts": True, "rules": rules}
    stored, _ = analyzed(frames, tmp_path / "file", monkeypatch, **settings)
    live, told = analyzed(frames, tmp_path / "live", monkeypatch, is_live=True, **settings)
    assert live.counts == stored.counts
    texts = {(tmp_path / out / "repetitions.csv").read_text() for out in ("file", "live")}
    assert len(texts) == 1
    for count in stored.counts:
        mine = [one for one in told if one.get("person") == count.person]
        every = [one for series in count.found.series for one in series.repetitions]
        assert count.found.count == 5
        repeated = [one for one in mine if one["event"] == "repetition"]
        assert [one["repetition"] for one in repeated] == [1, 2, 3, 4, 5]
        turns = [one["turn_seconds"] for one in repeated]
        assert turns == pytest.approx([one.turn for one in every], abs=1.0)  # known better later
        verdicts = [(one["repetition"], one["rule"], one["verdict"], one["message"])
                    for one in mine if one["event"] == "verdict"]  # fmt: skip
        assert verdicts == [
            (judged.repetition, judged.rule, judged.verdict, judged.message)
            for group in count.judgements
            for judged in group
        ]


def test_a_count_that_is_taken_back_is_told_and_whoever_is_gone_is_forgotten(monkeypatch):
    answers = iter([(3.0, 5.0), (3.0,), (3.0, 5.0, 7.0), (3.0, 5.0, 7.0)])

    class Scripted:
        def __init__(self, layout):
            pass

        def update(self, seconds, joints):
            pass

        def result(self):
            every = tuple(Repetition(turn - 1, turn, turn + 1, 1.0) for turn in next(answers))
            return Repetitions((Series(every, 0.75),), 0.75)

    monkeypatch.setattr("kineme.people.repetitions.counting.RepetitionCounter", Scripted)
    told = []
    counts = LiveCounts(COCO.joints, (), told.append)
    pose = build_pose(np.ones((17, 2)), np.ones(17))
    for seconds, here in ((8.0, {4}), (8.2, {4}), (8.5, {4}), (8.7, set())):
        counts.update(seconds, [(4, pose)] if here else [], here)
    counts.finish()
    plain = [(one["event"], one.get("repetition"), one.get("count")) for one in told]
    assert plain == [
        ("repetition", 1, None), ("repetition", 2, None), ("count", None, 1),
        ("repetition", 2, None), ("repetition", 3, None),
    ]  # fmt: skip
    assert counts._people == {}
    assert told[0] == {
        "event": "repetition", "person": 4, "repetition": 1, "start_seconds": 2.0,
        "turn_seconds": 3.0, "end_seconds": 4.0, "confidence": 0.75,
    }  # fmt: skip


def test_what_is_kept_of_a_person_live_does_not_grow(rules):
    counts = LiveCounts(COCO.joints, rules, lambda event: None)
    pose = build_pose(np.ones((17, 2)), np.ones(17))
    for second in range(60):
        counts.update(float(second), [(1, pose)], {1})
    (person,) = counts._people.values()
    assert len(person.recent) == 46


class Rows:
    """Ten thousand rows of a still person, made when they are asked for."""

    num_rows = 10_000

    def __iter__(self):
        return (np.ones((17, 2), np.float32) for _ in range(self.num_rows))


def test_a_long_track_is_read_row_by_row():
    class Long:
        id, seconds, joints = 1, np.arange(Rows.num_rows) / 100, Rows()

    assert count_track(Long(), COCO.joints).found.count == 0  # slices of it would fail


# Words ------------------------------------------------------------------------------------


def test_rules_are_checked_before_the_video_is_opened(tmp_path, capsys):
    (tmp_path / "rules.yaml").write_text(RULES.replace("left_ear", "left_horn"))
    (tmp_path / "none.mp4").write_bytes(b"no video")
    words = ["analyze", str(tmp_path / "none.mp4"), f"--rules={tmp_path / 'rules.yaml'}"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "rules[2].angle: expected joints of the layout, got 'left_horn'" in told
    assert "Did you mean" in told
    assert "none.mp4" not in told
    (tmp_path / "rules.yaml").write_text(RULES)
    assert main(words) == 3  # the video is not there
    assert main([*words[:2], "--rules", str(tmp_path / "no.yaml")]) == 2


def test_joints_are_those_of_the_estimator(tmp_path):
    text = RULES.replace("left_ear, nose, right_ear", "left_knee, left_ankle, left_heel")
    (tmp_path / "rules.yaml").write_text(text)
    path = str(tmp_path / "rules.yaml")
    request = command._parsed(["a.mp4", "--rules", path, "--estimator=blazepose"])
    settings = command._settings(request)
    assert (settings.counts, len(settings.rules)) == (True, 3)
    with pytest.raises(SpecError, match="joints of the layout, got 'left_heel'"):
        command._settings(command._parsed(["a.mp4", "--rules", path, "--estimator=movenet"]))
    assert command._settings(command._parsed(["a.mp4", "--repetitions"])).counts
    assert not command._settings(command._parsed(["a.mp4"])).counts


def test_the_layout_of_an_estimator_is_known_without_its_model(tmp_path):
    named = {name: layout_of_estimator(name) for name in ESTIMATORS if name != "files"}
    assert named == {"blazepose": "mediapipe-33", "movenet": "coco", "rtmpose": "coco"}
    points = tmp_path / "points.json"
    points.write_text(json.dumps([{"image_id": 0, "keypoints": [1.0] * 3 * 26}]))
    settings = {"path": str(points), "format": "coco"}
    assert layout_of_estimator("files", settings) == "halpe-26"
    assert build_estimator("files", settings).layout == "halpe-26"


def test_tracks_are_put_together_in_one_place():
    recording = Recording(COCO, 8, 6, 25.0, "a.mp4", "movenet")
    made = recording.tracks([], num_frames=3, num_axes=3, cuts=[1])
    assert vars(made) == vars(
        Tracks("coco", COCO.joints, 8, 6, 25.0, "a.mp4", 3, 3, (1,), estimator="movenet")
    )
