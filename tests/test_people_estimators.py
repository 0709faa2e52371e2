"""Pose estimators: their arithmetic by hand and against slow versions, on made-up models."""

import dataclasses
import importlib
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from format_files import write
from kineme.errors import CheckpointError, DataError, SpecError
from kineme.people.estimators import (
    ESTIMATORS,
    blazepose,
    build_estimator,
    settings_of,
    tflite,
)
from kineme.people.estimators.blazepose import (
    BlazePose,
    BlazePoseSettings,
    anchor_centres,
    decode_detections,
    refine_by_heat,
    region_of_body,
    sigmoid,
    weighted_suppression,
)
from kineme.people.estimators.duplicates import pose_distance, without_duplicates
from kineme.people.estimators.frames import Region, fitted, squares
from kineme.people.estimators.movenet import MoveNetSettings, people_of
from kineme.people.poses import build_pose
from kineme.pose_classification.layouts import LAYOUTS

BLACK = np.zeros((480, 640, 3), np.uint8)

# The table


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_a_class_with_settings_of_plain_values(name):
    module, _, attribute = ESTIMATORS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    settings = kind.settings_type()
    assert dataclasses.is_dataclass(settings)
    assert callable(kind.detect)
    assert callable(kind.reset)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        assert type(value) in (bool, int, float, str)
        assert f"{field.name}:" in kind.settings_type.__doc__ or f"{field.name}," in (
            kind.settings_type.__doc__
        )
    if name != "files":  # whose layout is that of its file
        assert kind.layout in LAYOUTS


def test_settings_are_read_from_text_by_the_type_of_their_default():
    words = {"track": "True", "num_people": "3", "min_presence": "0.25"}
    settings = settings_of(BlazePoseSettings, words, "blazepose")
    assert settings == BlazePoseSettings(track=True, num_people=3, min_presence=0.25)


def test_all_wrong_settings_are_told_at_once():
    words = {"num_peple": 1, "track": "maybe", "detect_every": "2.5", "min_detection": 1.5}
    with pytest.raises(SpecError) as caught:
        settings_of(BlazePoseSettings, words, "blazepose")
    first, *others = [str(problem) for problem in caught.value.problems]
    assert first.startswith("blazepose.num_peple: expected a known setting (num_people, ")
    assert first.endswith("Did you mean num_people?")
    assert others == [
        "blazepose.track: expected true or false, got 'maybe'.",
        "blazepose.detect_every: expected a whole number, got '2.5'.",
        "blazepose.min_detection: expected 0.0 to 1.0, got 1.5.",
    ]


def test_an_unknown_estimator_is_refused_with_the_one_that_was_meant():
    with pytest.raises(SpecError, match=r"Did you mean movenet\?"):
        build_estimator("movnet")


# Pictures


def coordinates(height: int, width: int) -> np.ndarray:
    """A frame whose red is x and whose green is y of the middle of each pixel, less a half."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.arange(width)
    frame[..., 1] = np.arange(height)[:, None]
    return frame


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.2])
def test_a_cut_shows_what_lies_at_the_places_it_says(angle):
    frame, region = coordinates(200, 250), Region(120.0, 90.0, 64.0, angle)
    cut = region.cut(frame, 32)
    v, u = np.mgrid[:32, :32]
    expected = region.to_frame(np.stack([u, v], axis=-1).astype(np.float32) / 32)
    np.testing.assert_allclose(cut[..., :2], expected, atol=0.6)  # colours are whole numbers


def test_beyond_the_frame_a_cut_is_black_or_repeats_the_edge():
    frame = np.full((10, 20, 3), 200, np.uint8)
    region = Region(10, 5, 20)
    black, repeated = region.cut(frame, 20), region.cut(frame, 20, is_edge_repeated=True)
    assert black[:4].max() == 0
    assert black[6:14].min() == 200
    assert repeated.min() == 200


def test_a_frame_is_fitted_with_its_aspect_and_filled_up_to_the_multiple():
    picture, scale = fitted(np.full((1080, 1920, 3), 9, np.uint8), 384, 32)
    assert (picture.shape, scale) == ((224, 384, 3), 0.2)
    assert (picture[:216] == 9).all()
    assert not picture[216:].any()
    assert fitted(np.zeros((20, 10, 3), np.uint8), 64, 32)[0].shape == (64, 32, 3)


def test_tiles_cover_the_frame_and_share_a_quarter():
    frame = np.zeros((300, 700, 3), np.uint8)
    assert squares(frame, 1) == (Region(350, 150, 700),)
    around, *tiles = squares(frame, 2)
    assert around == Region(350, 150, 700)
    assert tiles == [Region(200, 150, 400), Region(500, 150, 400)]
    small = squares(frame, 4)[1:]
    size = 700 / 3.25
    assert {round(one.size, 6) for one in small} == {round(size, 6)}
    covered = np.zeros((300, 700), bool)
    for one in small:
        x, y = round(one.centre_x - size / 2), round(one.centre_y - size / 2)
        covered[max(y, 0) : y + int(size) + 1, max(x, 0) : x + int(size) + 1] = True
    assert covered.all()


@pytest.mark.parametrize("frame", [BLACK[..., 0], BLACK.astype(np.float32), BLACK[:0]])
def test_what_is_no_picture_is_refused(frame):
    with pytest.raises(DataError, match=r"an RGB picture, \(H, W, 3\) uint8"):
        blazepose.checked(frame)


# One person found twice


def square_pose(x: float, y: float, size: float, score: float):
    corners = [[x, y], [x + size, y], [x, y + size], [x + size, y + size]]
    return build_pose(corners, np.ones(4), score=score)


def test_the_distance_of_poses_is_a_share_of_the_smaller_one():
    one, other = square_pose(0, 0, 100, 1), square_pose(30, 40, 100, 1)
    assert pose_distance(one, other) == pytest.approx(0.5)
    thin = build_pose([[0, 0], [0, 100]], [1, 1])
    beside = build_pose([[10, 0], [10, 100]], [1, 1])
    assert pose_distance(thin, beside) == pytest.approx(10 / 25)
    hidden = build_pose([[0, 0], [0, 100]], [0, 1])
    assert pose_distance(hidden, build_pose([[0, 0], [0, 1]], [1, 0])) == float("inf")


def test_who_shares_half_of_the_joints_is_one_person():
    """The whole of somebody, and what a model makes of the upper half."""
    whole = np.stack([np.tile([0.0, 20.0], 5), np.repeat(np.arange(5) * 20.0, 2)], -1)  # 20 x 80
    guessed = whole.copy()
    guessed[5:, 1] -= 50
    one = build_pose(whole, np.ones(10), score=0.9)
    half = build_pose(guessed + 1, np.ones(10), score=0.8)
    assert pose_distance(one, half) > 0.5
    assert pose_distance(one, half, share=0.5) == pytest.approx(math.sqrt(2) / math.sqrt(20 * 50))
    assert without_duplicates([half, one], 0.3) == (one,)
    aside = build_pose(guessed + np.array([5, 5]), np.ones(10), score=0.8)
    assert pose_distance(one, aside, share=0.5) == pytest.approx(math.sqrt(50 / 1000))  # 0.22
    assert len(without_duplicates([one, aside], 0.3)) == 2
    within = build_pose(guessed + np.array([0, 7]), np.ones(10), score=0.8)  # 94 % of its box
    assert pose_distance(one, within, share=0.5) == pytest.approx(7 / math.sqrt(1000))  # 0.22
    assert without_duplicates([one, within], 0.3) == (one,)
    beside = build_pose(whole + np.array([14, 0]), np.ones(10), score=0.8)
    assert len(without_duplicates([one, beside], 0.3)) == 2
    few = [build_pose(joints[3:8], np.ones(5), score=0.9) for joints in (whole, guessed)]
    assert pose_distance(*few, share=0.4) == 0
    assert len(without_duplicates(few, 0.3)) == 2


def test_of_a_person_found_twice_the_surer_pose_stays():
    people = [square_pose(5, 0, 100, 0.6), square_pose(0, 0, 100, 0.9), square_pose(200, 0, 99, 1)]
    kept = without_duplicates(people, 0.3)
    assert [pose.score for pose in kept] == [1, pytest.approx(0.9)]
    assert len(without_duplicates(people, 0.01)) == 3


# BlazePose, step by step


def test_the_anchors_are_the_2254_of_the_published_strides():
    anchors = anchor_centres()
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[:3] * 28, [[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(anchors[1568:1571] * 14, [[0.5, 0.5]] * 2 + [[1.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(anchors[1960:1967] * 7, [[0.5, 0.5]] * 6 + [[1.5, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(anchors[-6:] * 7, [[6.5, 6.5]] * 6, rtol=1e-6)


def test_a_detection_is_decoded_about_its_anchor():
    values = np.zeros((2254, 12), np.float32)
    logits = np.full(2254, -100, np.float32)
    values[0] = [8, 4, 112, 56, 0, 0, 22.4, -4, 1, 1, 2, 2]
    logits[0] = 0
    scores, boxes, found = decode_detections(values, logits, anchor_centres(), min_score=0.5)
    anchor = 4  # pixels of 224, in both axes
    assert scores.tolist() == [0.5]
    expected = np.array([anchor + 8 - 56, anchor + 4 - 28, anchor + 8 + 56, anchor + 4 + 28])
    np.testing.assert_allclose(boxes[0] * 224, expected, rtol=1e-5)
    np.testing.assert_allclose(found[0] * 224, [[4, 4], [26.4, 0], [5, 5], [6, 6]], atol=1e-4)
    none = decode_detections(values, logits, anchor_centres(), min_score=0.51)
    assert [len(part) for part in none] == [0, 0, 0]


def test_overlapping_detections_become_one_weighted_by_score():
    scores = np.float32([0.5, 0.75, 0.6])
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]])
    places = np.float32([[[0, 0], [0, 10]], [[5, 0], [5, 20]], [[55, 55], [55, 40]]])
    first, second = weighted_suppression(scores, boxes, places, max_overlap=0.3)
    assert first[0] == 0.75
    np.testing.assert_allclose(first[1], [[3, 0], [3, 16]], rtol=1e-6)  # 2 parts to 3
    assert second[0] == pytest.approx(0.6)
    np.testing.assert_allclose(second[1], places[2], rtol=1e-6)
    apart = weighted_suppression(scores, boxes, places, max_overlap=0.95)
    assert len(apart) == 3
    empty = np.zeros((0, 4), np.float32)
    assert weighted_suppression(scores[:0], empty, places[:0], max_overlap=0.3) == []


@pytest.mark.parametrize(
    ("edge", "angle"),
    [((50, 30), 0), ((70, 50), np.pi / 2), ((50, 70), np.pi), ((30, 50), -np.pi / 2)],
)
def test_the_region_of_a_body_stands_upright_and_is_a_quarter_larger(edge, angle):
    region = region_of_body(np.float32([50, 50]), np.float32(edge))
    assert (region.centre_x, region.centre_y) == (50, 50)
    assert region.size == pytest.approx(50)  # 20 pixels, twice, and a quarter more
    assert region.angle == pytest.approx(angle)
    top = region.to_frame(np.float32([0.5, 0.1]))  # up in the region is towards the edge
    np.testing.assert_allclose(top, edge, atol=1e-4)


def slow_refinement(places, heat):
    """Joint by joint and cell by cell."""
    height, width, _ = heat.shape
    refined = places.copy()
    for joint, (x, y) in enumerate(places):
        column, row = int(np.floor(x * width)), int(np.floor(y * height))
        if not (0 <= column < width and 0 <= row < height):
            continue
        total = mean_x = mean_y = most = 0.0
        for r in range(max(0, row - 3), min(height, row + 4)):
            for c in range(max(0, column - 3), min(width, column + 4)):
                p = 1 / (1 + np.exp(-float(heat[r, c, joint])))
                total, most = total + p, max(most, p)
                mean_x, mean_y = mean_x + p * c, mean_y + p * r
        if most >= 0.5:
            refined[joint] = mean_x / total / width, mean_y / total / height
    return refined


def test_refinement_by_heat_is_that_of_the_slow_version():
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.1, 1.1, (39, 2)).astype(np.float32)
    heat = rng.normal(-3, 2.5, (64, 64, 39)).astype(np.float32)
    heat[..., :5] = -9  # no heat at all: these joints stay
    refined = refine_by_heat(places, heat)
    np.testing.assert_allclose(refined, slow_refinement(places, heat), atol=1e-5)
    np.testing.assert_array_equal(refined[:5], places[:5])
    assert (refined != places).any(axis=1).sum() > 15


def test_sigmoid_neither_overflows_nor_leaves_its_range():
    with np.errstate(all="raise"):
        values = sigmoid(np.float32([-1e9, -1, 0, 1, 1e9]))
    np.testing.assert_allclose(values, [0, 0.26894143, 0.5, 0.7310586, 1], atol=1e-6)


# BlazePose as a whole, on models that are made up


class FakeDetector:
    """Sees bodies whose middle and edge lie at places of its picture, 0 to 1."""

    def __init__(self, bodies):
        self.bodies, self.num_calls = bodies, 0

    def __call__(self, picture, *shapes):
        assert (picture.shape, picture.dtype) == ((224, 224, 3), np.float32)
        self.num_calls += 1
        values, logits = np.zeros((2254, 12), np.float32), np.full((2254, 1), -99, np.float32)
        anchors = anchor_centres()
        for row, (score, middle, edge) in enumerate(self.bodies):
            points = np.float32([middle, (0.1, 0.1), middle, edge, middle, edge])
            points[[0, 2, 3, 4, 5]] -= anchors[row]
            values[row], logits[row] = points.reshape(-1) * 224, np.log(score / (1 - score))
        return values, logits


class FakeLandmarks:
    """Puts every joint at the middle of the region, the hips a fifth below."""

    def __init__(self, presences, visibility=0.8):
        self.presences, self.visibility, self.num_calls = presences, visibility, 0

    def __call__(self, picture, *shapes):
        assert (picture.shape, picture.dtype) == ((256, 256, 3), np.float32)
        presence = self.presences[self.num_calls % len(self.presences)]
        self.num_calls += 1
        values = np.zeros((39, 5), np.float32)
        values[:, :2] = 128
        values[11:13, 2] = 25.6
        values[23:25, 1] = 128 + 51.2
        values[34, 1] = 128 - 102.4  # the edge as the detector had it
        values[:, 3] = np.log(self.visibility / (1 - self.visibility))
        values[:, 4] = 9
        values[11:13, 3] = 0  # shoulders: depth, and half as likely as not
        return values.reshape(-1), np.float32([presence]), np.full((64, 64, 39), -99, np.float32)


def fake_blazepose(monkeypatch, bodies, presences, **settings):
    parts = iter([FakeDetector(bodies), FakeLandmarks(presences)])
    monkeypatch.setattr(blazepose, "TfliteModel", lambda path, num_threads: next(parts))
    names = {"pose_detection.tflite": None, "pose_landmark_full.tflite": None}
    monkeypatch.setattr(blazepose, "model_files", lambda card: names)
    return BlazePose(BlazePoseSettings(**settings))


UPRIGHT = (0.9, (0.5, 0.5), (0.5, 0.3))
LYING = (0.8, (0.25, 0.6), (0.45, 0.6))  # the head to the right


def test_joints_are_mapped_back_through_the_turned_region(monkeypatch):
    frame = np.zeros((400, 600, 3), np.uint8)  # in a square of 600, 100 rows above and below
    estimator = fake_blazepose(monkeypatch, [UPRIGHT, LYING], [0.95, 0.9])
    upright, lying = estimator.detect(frame)
    assert (upright.score, lying.score) == (pytest.approx(0.95), pytest.approx(0.9))
    size = 2 * 1.25 * 0.2 * 600
    np.testing.assert_allclose(upright.joints[0], [300, 200, 0], atol=1e-3)
    np.testing.assert_allclose(upright.joints[23], [300, 200 + size / 5, 0], atol=1e-3)
    np.testing.assert_allclose(lying.joints[0], [150, 260, 0], atol=1e-3)
    np.testing.assert_allclose(lying.joints[23], [150 - size / 5, 260, 0], atol=1e-3)
    assert upright.joints.shape == (33, 3)
    assert np.isnan(upright.joints[11]).sum() == 0
    np.testing.assert_allclose(upright.joints[11, 2], size / 10, atol=1e-3)
    np.testing.assert_allclose(upright.confidence[[0, 11]], [0.8, 0.5], atol=1e-3)


def test_whom_the_landmark_model_does_not_see_is_nobody(monkeypatch):
    estimator = fake_blazepose(monkeypatch, [UPRIGHT, LYING], [0.4, 0.9])
    (only,) = estimator.detect(BLACK)
    assert only.score == pytest.approx(0.9)
    assert fake_blazepose(monkeypatch, [], [1.0]).detect(BLACK) == ()
    low = [(0.45, (0.5, 0.5), (0.5, 0.3))]
    assert fake_blazepose(monkeypatch, low, [1.0]).detect(BLACK) == ()


def test_joints_below_the_visibility_that_is_set_are_missing(monkeypatch):
    estimator = fake_blazepose(monkeypatch, [UPRIGHT], [0.9], min_visibility=0.6)
    (pose,) = estimator.detect(BLACK)
    assert np.flatnonzero(~pose.is_seen).tolist() == [11, 12]  # 0.5
    assert np.isnan(pose.joints[11:13]).all()


def test_at_most_as_many_people_as_asked_for(monkeypatch):
    estimator = fake_blazepose(monkeypatch, [UPRIGHT, LYING], [0.7, 0.9], num_people=1)
    (pose,) = estimator.detect(BLACK)
    assert pose.score == pytest.approx(0.9)


def test_tracking_detects_now_and_then_and_reset_forgets(monkeypatch):
    estimator = fake_blazepose(monkeypatch, [UPRIGHT], [0.9], track=True, detect_every=4)
    alone = fake_blazepose(monkeypatch, [UPRIGHT], [0.9])
    expected = alone.detect(BLACK)[0]
    for _ in range(8):
        (pose,) = estimator.detect(BLACK)
        np.testing.assert_allclose(pose.joints, expected.joints, atol=1e-3)
    assert estimator._detector.num_calls == 2  # frames 0 and 4
    assert estimator._landmarks.num_calls == 8  # who is tracked is not looked at twice
    estimator.reset()
    estimator.detect(BLACK)
    assert estimator._detector.num_calls == 3
    for _ in range(3):
        alone.detect(BLACK)
    assert alone._detector.num_calls == 4


def test_a_person_who_is_lost_is_looked_for_in_the_next_frame(monkeypatch):
    presences = [0.9, 0.1, 0.9]
    estimator = fake_blazepose(monkeypatch, [UPRIGHT], presences, track=True, detect_every=100)
    assert [len(estimator.detect(BLACK)) for _ in range(3)] == [1, 0, 1]
    assert estimator._detector.num_calls == 2


# MoveNet


def test_the_rows_of_movenet_become_people_in_pixels_of_the_frame():
    rows = np.zeros((6, 56), np.float32)
    rows[2, :51] = np.tile([0.25, 0.5, 0.9], 17)
    rows[2, 3:6] = [0.3, 0.6, 0.05]  # the left eye, hardly seen
    rows[2, 51:] = [0.1, 0.2, 0.8, 0.9, 0.7]
    rows[4, 55] = 0.14
    (pose,) = people_of(rows, width=1000, height=400, settings=MoveNetSettings())
    np.testing.assert_allclose(pose.joints[0], [500, 100], rtol=1e-6)
    assert np.isnan(pose.joints[1]).all()
    np.testing.assert_allclose(pose.box, [200, 40, 900, 320], rtol=1e-6)
    assert pose.score == pytest.approx(0.7)
    assert people_of(rows[3:], width=9, height=9, settings=MoveNetSettings()) == ()


# RTMPose


class FakeBody:
    """What rtmlib.Body is, as its documentation has it."""

    boxes = np.array([[10, 20, 110, 220], [300, 20, 400, 220.0]])

    def __init__(self, **options):
        FakeBody.options = options

    def det_model(self, image):
        FakeBody.first_pixel = image[0, 0].tolist()
        assert image.flags.c_contiguous
        return self.boxes

    def pose_model(self, image, bboxes):
        joints = np.stack(
            [np.tile(box[:2] + 1, (17, 1)) + np.arange(17)[:, None] for box in bboxes]
        )
        scores = np.full((len(bboxes), 17), 0.5)
        scores[:, 3], scores[-1] = 0.1, 1.2
        return joints, scores


def test_rtmpose_takes_colours_the_other_way_round_and_joins_boxes_with_joints(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(Body=FakeBody))
    estimator = build_estimator("rtmpose", {"mode": "lightweight"})
    frame = BLACK.copy()
    frame[0, 0] = [1, 2, 3]
    second, first = estimator.detect(frame)
    assert FakeBody.first_pixel == [3, 2, 1]
    assert FakeBody.options == {
        "mode": "lightweight", "to_openpose": False, "backend": "onnxruntime", "device": "cpu",
    }  # fmt: skip
    assert first.joints[0].tolist() == [11, 21]
    assert np.isnan(first.joints[3]).all()
    assert first.box.tolist() == [10, 20, 110, 220]
    assert (first.score, second.score) == (0.5, 1)


def test_rtmpose_sees_nobody_where_its_detector_sees_nobody(monkeypatch):
    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(Body=FakeBody))
    estimator = build_estimator("rtmpose")
    monkeypatch.setattr(FakeBody, "boxes", np.zeros((0, 4)))
    assert estimator.detect(BLACK) == ()


def test_rtmpose_takes_files_of_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(Body=FakeBody))
    names = {name: str(write(tmp_path / f"{name}.onnx", "")) for name in ("detector", "pose")}
    build_estimator("rtmpose", names)
    assert FakeBody.options["det"] == names["detector"]
    assert FakeBody.options["pose_input_size"] == (192, 256)
    with pytest.raises(SpecError, match=r"rtmpose\.pose: expected a file, as the other one is set"):
        build_estimator("rtmpose", {"detector": names["detector"]})
    with pytest.raises(CheckpointError, match=r"'none\.onnx', not there"):
        build_estimator("rtmpose", names | {"pose": "none.onnx"})


@pytest.mark.parametrize(
    ("name", "package"), [("rtmpose", "rtmlib"), ("blazepose", "ai_edge_litert.interpreter")]
)
def test_a_package_that_is_not_installed_is_named_with_what_to_install(
    monkeypatch, name, package, tmp_path
):
    monkeypatch.setitem(sys.modules, package, None)
    paths = {"pose_detection.tflite": tmp_path, "pose_landmark_full.tflite": tmp_path}
    monkeypatch.setattr(blazepose, "model_files", lambda card: paths)
    with pytest.raises(SpecError, match="pip install") as caught:
        build_estimator(name)
    assert caught.value.exit_code == 2


# Libraries that talk


def test_what_a_library_says_while_it_loads_is_passed_on_without_its_greeting(capfd):
    with tflite._without_greeting():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nERROR: broken\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "ERROR: broken\nlater\n"
