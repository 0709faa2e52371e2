"""Form rules: files of strangers refused with everything at once; angles judged by hand."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from exercising import Exercising, Setting, exercise
from kineme.data.tracks import Track, Tracks
from kineme.errors import SpecError
from kineme.people.repetitions.form_rules import PHASES, FormRule, Judgement, judge, load_form_rules
from kineme.people.repetitions.search import Repetition, count_repetitions
from kineme.pose_classification.layouts import LAYOUTS

LEG = ("left_hip", "left_knee", "left_ankle")
GOOD = """
rules:
  - name: knee depth
    angle: [left_hip, left_knee, left_ankle]
    at: lowest
    below: 100
    message: Go lower.
  - name: standing up
    angle: [left_hip, left_knee, left_ankle]
    at: highest
    above: 160.5
    message: Stand up between repetitions.
"""


def knee(degrees: np.ndarray) -> np.ndarray:
    """(T, 3, 2) joints LEG with these degrees at the knee."""
    way = np.radians(degrees)[:, None]
    ankle = np.concatenate([np.sin(way), np.cos(way)], axis=1)
    hip, at = np.broadcast_to([0.0, 1.0], ankle.shape), np.zeros_like(ankle)
    return np.stack([hip, at, ankle], axis=1)


def bends(*lowest: float) -> tuple[np.ndarray, np.ndarray, tuple[Repetition, ...]]:
    """Seconds, degrees and repetitions of three seconds, down from 170 to each of `lowest`
    for a second and back."""
    now = np.arange(len(lowest) * 90) / 30
    phase = now % 3
    share = np.interp(phase, [0.25, 1, 2, 2.75], [0, 1, 1, 0])
    depth = 170 - np.repeat(lowest, 90)
    repetitions = tuple(
        Repetition(3.0 * i, 3 * i + 1.5, 3 * i + 2.9, 1) for i in range(len(lowest))
    )
    return now, 170 - share * depth, repetitions


def rule(at: str, **bounds: float) -> FormRule:
    return FormRule(name=f"knee {at}", angle=LEG, at=at, message="Mind your knee.", **bounds)


def judged(rules, now, degrees, repetitions, layout=LEG):
    return judge(rules, repetitions, knee(degrees), now, layout=layout)


def test_a_file_becomes_rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(GOOD)
    rules = load_form_rules(tmp_path / "rules.yaml", "coco")
    assert rules == (
        FormRule("knee depth", LEG, "lowest", "Go lower.", below=100.0),
        FormRule("standing up", LEG, "highest", "Stand up between repetitions.", above=160.5),
    )


def test_each_repetition_is_judged_by_each_rule_with_what_was_measured():
    now, degrees, repetitions = bends(90, 120)
    depth, height = rule("lowest", below=100), rule("highest", above=165)
    answers = judged([depth, height], now, degrees, repetitions)
    assert [(one.repetition, one.rule, one.verdict, one.message) for one in answers] == [
        (1, "knee lowest", "met", ""),
        (1, "knee highest", "met", ""),
        (2, "knee lowest", "not met", "Mind your knee."),
        (2, "knee highest", "met", ""),
    ]
    assert [one.degrees for one in answers] == pytest.approx([90, 170, 120, 170], abs=0.5)


@pytest.mark.parametrize(
    ("at", "bounds", "verdict", "degrees"),
    [
        ("turn", {"below": 100}, "met", 90),
        ("turn", {"above": 100}, "not met", 90),
        ("whole", {"above": 80}, "met", 90),
        ("whole", {"above": 95}, "not met", 90),
        ("whole", {"below": 165}, "not met", 170),
        ("whole", {"below": 175, "above": 95}, "not met", 90),
        ("whole", {"below": 150, "above": 85}, "not met", 170),
        ("lowest", {"below": 100, "above": 80}, "met", 90),
        ("lowest", {"below": 89, "above": 80}, "not met", 90),
        ("highest", {"below": 165}, "not met", 170),
    ],
)
def test_phases_and_bounds(at, bounds, verdict, degrees):
    now, angle, repetitions = bends(90)
    (one,) = judged([rule(at, **bounds)], now, angle, repetitions)
    assert one.verdict == verdict
    assert one.degrees == pytest.approx(degrees, abs=0.5)


@pytest.mark.parametrize("at", PHASES)
def test_a_rule_whose_joints_are_missing_is_not_seen_and_never_met(at):
    now, degrees, repetitions = bends(90, 90, 90)
    joints = knee(degrees)
    joints[95:140, 2] = np.nan  # half of the second repetition
    joints[200:205, 2] = np.nan  # a moment of the third, bridged
    answers = judge([rule(at, below=180)], repetitions, joints, now, layout=LEG)
    assert [one.verdict for one in answers] == ["met", "not seen", "met"]
    assert math.isnan(answers[1].degrees)
    assert answers[1].message == ""
    elsewhere = ("left_hip", "left_knee", "nose")  # no ankle in this layout
    assert {one.verdict for one in judged([rule(at, below=180)], now, degrees, repetitions,
            elsewhere)} == {"not seen"}  # fmt: skip


def test_the_far_point_has_to_be_seen_itself():
    now, degrees, repetitions = bends(90)
    joints = knee(degrees)
    joints[44:47] = np.nan
    gone = Repetition(0.0, 9.0, 2.9, 1)  # its turn lies beyond what was seen
    (bridged,) = judge([rule("turn", below=100)], repetitions, joints, now, layout=LEG)
    assert bridged.verdict == "met"
    (beyond,) = judge([rule("lowest", below=100)], [gone], joints * np.nan, now, layout=LEG)
    assert beyond == Judgement(1, "knee lowest", "not seen", beyond.degrees, "")


def test_one_frame_that_jumps_decides_nothing():
    now, degrees, repetitions = bends(120)
    degrees[45] = 20
    (one,) = judged([rule("lowest", below=100)], now, degrees, repetitions)
    assert one.verdict == "not met"
    assert one.degrees > 105


def test_nothing_is_judged_without_repetitions_frames_or_rules():
    now, degrees, repetitions = bends(90)
    assert judged([rule("turn", below=9)], now, degrees, ()) == ()
    assert judged([], now, degrees, repetitions) == ()
    assert judge([rule("turn", below=9)], (), np.zeros((0, 3, 2)), np.zeros(0), layout=LEG) == ()


def test_squats_are_judged_by_how_deep_they_are():
    one = exercise(12, Setting(axes=(3,), hidden=0, pause=0), name="squat", count=5)
    found = count_repetitions(one.joints, one.seconds, one.layout)
    repetitions = found.series[0].repetitions
    sides = [FormRule("deep", LEG, "lowest", "Go lower.", below=limit) for limit in (150.0, 30.0)]
    for limit, verdict in zip(sides, ("met", "not met"), strict=True):
        answers = judge([limit], repetitions, one.joints, one.seconds, layout=one.layout)
        assert [answer.verdict for answer in answers] == [verdict] * 5
        assert all(40 < answer.degrees < 130 for answer in answers)


def test_the_code_of_the_page_counts_and_judges(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "repetitions.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    squats = exercise(12, Setting(axes=(2,), layouts=("coco",), hidden=0), name="squat", count=4)
    save_tracks(squats, "tracks.npz")
    (rules,) = (text for language, text in blocks if language == "yaml")
    Path("rules.yaml").write_text(rules)
    space: dict = {}
    for text in (text for language, text in blocks if language == "python"):
        exec(text, space)
    printed = capsys.readouterr().out
    assert re.search(r"^1 4 (0\.\d\d|1\.00)$", printed, flags=re.M)
    assert len(re.findall(r"^[1-4] knee depth (met|not met) \d", printed, flags=re.M)) == 4
    assert len(re.findall(r"^[1-4] straight arms at the top", printed, flags=re.M)) == 4
    counts = [space["next_frame"](*row) for row in zip(squats.seconds, squats.joints, strict=True)]
    assert counts[-1] == 4


def save_tracks(one: Exercising, path: str) -> None:
    num = len(one.seconds)
    seen = np.isfinite(one.joints).all(axis=-1)
    track = Track(
        id=1,
        frames=np.arange(num),
        seconds=one.seconds,
        joints=one.joints,
        confidence=seen.astype(np.float32),
        boxes=np.zeros((num, 4), np.float32),
        scores=np.ones(num, np.float32),
    )
    names = LAYOUTS[one.layout].joints
    Tracks(one.layout, names, 1280, 720, 25.0, "made up", num, tracks=(track,)).save(path)


# Files of strangers ------------------------------------------------------------------------


def problems_of(tmp_path, text: str, layout: str | None = "coco") -> list[str]:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_form_rules(path, layout)
    assert caught.value.exit_code == 2
    return [str(problem).replace(f"{path}", "FILE") for problem in caught.value.problems]


def test_every_problem_of_a_file_is_told_at_once_with_its_line(tmp_path):
    text = """
rules:
  - name: knee depth
    angle: [left_hip, left_kne, left_ankle]
    at: lowst
    below: 200
  - name: knee depth
    angle: [left_hip, left_hip, left_ankle]
    at: whole
    message: ''
  - 7
  - name: both
    angle: [left_hip, left_knee, left_ankle]
    at: turn
    below: 90
    above: 90
    mesage: Higher.
more: 1
"""
    assert problems_of(tmp_path, text) == [
        "FILE: expected only the key rules, got 'more'.",
        "FILE:3: rules[0].message: expected a text of 1 to 200 characters, got nothing.",
        "FILE:5: rules[0].at: expected one of lowest, highest, turn, whole, got 'lowst'. "
        "Did you mean 'lowest'?",
        "FILE:4: rules[0].angle: expected joints of the layout, got 'left_kne'. "
        "Did you mean 'left_knee'?",
        "FILE:6: rules[0].below: expected degrees from 0 to 180, got 200.",
        "FILE:10: rules[1].message: expected a text of 1 to 200 characters, got ''.",
        "FILE:8: rules[1].angle: expected three joints, the angle being at the second, "
        "got ['left_hip', 'left_hip', 'left_ankle'].",
        "FILE:7: rules[1]: expected below or above, in degrees, got neither.",
        "FILE: rules[2]: expected a mapping with the keys of a rule, got 7.",
        "FILE:17: rules[3]: expected only the keys name, angle, at, below, above, message, "
        "got 'mesage'. Did you mean message?",
        "FILE:12: rules[3].message: expected a text of 1 to 200 characters, got nothing.",
        "FILE:16: rules[3].above: expected less than below, got above 90 and below 90.",
        "FILE: rules: expected every name once, got 'knee depth' 2 times.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "FILE: rules: expected a list of 1 to 100 rules, got nothing."),
        ("rules: []", "FILE: rules: expected a list of 1 to 100 rules, got 0."),
        ("rules: {a: 1}", "FILE: rules: expected a list of 1 to 100 rules, got {'a': 1}."),
        ("- 1", "FILE: expected a readable YAML file with form rules (a mapping of keys to "
         "values), got a list."),
        ("rules: [", "FILE:1: expected a readable YAML file with form rules (YAML)"),
        ("rules: !!python/object:os.system [x]", "(plain values), got the YAML tag"),
        ("rules: &a [*a]", "(plain values), got a YAML anchor or alias."),
    ],
)  # fmt: skip
def test_files_that_are_no_rules_are_refused(tmp_path, text, said):
    (problem,) = problems_of(tmp_path, text)
    assert said in problem


def test_keys_given_twice_are_told_with_the_rest(tmp_path):
    problems = problems_of(tmp_path, "rules: []\nrules: []\n")
    assert problems == [
        "FILE:2: rules: expected each key once, got it again, first on line 1. Keep one of them.",
        "FILE: rules: expected a list of 1 to 100 rules, got 0.",
    ]


def test_a_missing_file_is_told_by_its_name(tmp_path):
    with pytest.raises(SpecError, match=r"none\.yaml: expected a readable YAML file with form rul"):
        load_form_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize("value", ["yes", True, -1, 180.1, math.nan, math.inf, [90], 10**400])
def test_bounds_are_degrees(value):
    one = {"name": "a", "angle": list(LEG), "at": "turn", "message": "b", "below": value}
    with pytest.raises(SpecError, match=r"rules\[0\]\.below: expected degrees from 0 to 180"):
        load_form_rules({"rules": [one]})


@pytest.mark.parametrize("names", [[1, 2, 3], [["a"], {}, None], "left_knee", None, ["a"] * 10_000])
def test_angles_are_three_joints(names):
    one = {"name": "a", "angle": names, "at": "turn", "message": "b", "below": 90}
    with pytest.raises(SpecError, match=r"rules\[0\]\.angle") as caught:
        load_form_rules({"rules": [one]})
    assert len(str(caught.value)) < 600


def test_long_texts_are_refused_and_not_repeated():
    one = {"name": "a" * 10**5, "angle": list(LEG), "at": ["x"] * 999, "message": "b", "below": 9}
    with pytest.raises(SpecError) as caught:
        load_form_rules({"rules": [one], "x" * 10**5: 1})
    assert len(caught.value.problems) == 3
    assert len(str(caught.value)) < 600


def test_joints_are_those_of_the_layout_or_of_any():
    one = {"name": "a", "angle": ["pelvis", "left_hip", "left_knee"], "at": "turn", "message": "b",
           "above": 0}  # fmt: skip
    assert load_form_rules({"rules": [one]})[0].above == 0.0
    assert load_form_rules({"rules": [one]}, ("pelvis", "left_hip", "left_knee"))
    with pytest.raises(SpecError, match="expected joints of the layout, got 'pelvis'"):
        load_form_rules({"rules": [one]}, "coco")
