"""What a checkpoint decides in an analysis: who is unknown, and how many are seen."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import thin
from acting import CLASSES, FPS, HEIGHT, WIDTH, act
from acting_checkpoints import build_actor, changed, labels, run
from kineme.cli import main
from kineme.engine.checkpoint import save
from kineme.errors import CheckpointError
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.classifier import PoseClassifier
from kineme.people.poses import FramePoses, build_pose
from kineme.people.sources import StoredSource
from kineme.people.timeline import Timeline, TimelineSettings, Window
from kineme.pose_classification.layouts import LAYOUTS

COCO = LAYOUTS["coco"]


@pytest.fixture(autouse=True)
def _thin_models(monkeypatch):
    thin.make_thin(monkeypatch)


@pytest.fixture(scope="module")
def actor(tmp_path_factory):
    return build_actor(tmp_path_factory.mktemp("checkpoints"))


def window_of(body, others=()):
    """A window of (T, 17, 3) x, y, confidence."""
    length = len(body)
    return Window(
        np.float32(body[..., :2]), np.float32(body[..., 2]), np.full(length, 0.9, np.float32),
        np.arange(length) / FPS, tuple(others),
    )  # fmt: skip


# Unknowns ---------------------------------------------------------------------------------


def test_whoever_is_less_familiar_than_the_threshold_is_unknown(actor, tmp_path, capsys):
    high = changed(actor[0], tmp_path / "high.pth", threshold=0.5, temperature=1.0)
    run(actor, tmp_path / "high", high)
    assert labels(tmp_path / "high") == [("1", "unknown"), ("2", "unknown")]
    told = capsys.readouterr().err
    assert told.count("familiarity") == 1
    assert "unknown: whoever has no class of probability 0.5 or more, or less familiarity" in told
    assert "threshold of 0.500" in told
    facts = json.loads((tmp_path / "high" / "timeline.json").read_text())
    assert (facts["threshold"], facts["min_probability"]) == (0.5, 0.5)
    assert "or familiarity below 0.500" in (tmp_path / "high" / "report.html").read_text()

    run(actor, tmp_path / "off", high, "--no-threshold")
    assert labels(tmp_path / "off") == [("1", "wave"), ("2", "still")]
    assert "familiarity" not in capsys.readouterr().err


def test_without_a_calibration_the_probability_alone_decides(actor, tmp_path, capsys):
    plain = changed(actor[0], tmp_path / "plain.pth")
    run(actor, tmp_path / "plain", plain)
    assert labels(tmp_path / "plain") == [("1", "wave"), ("2", "still")]
    told = capsys.readouterr().err
    assert "note: unknown: whoever has no class of probability 0.5 or more\n" in told
    facts = json.loads((tmp_path / "plain" / "timeline.json").read_text())
    assert facts["threshold"] is None
    (caution,) = facts["cautions"]
    assert caution.startswith(
        "the checkpoint has no calibration: its probabilities may be far too "
    )
    assert "dataset.val_dataset.data_path" in caution
    assert told.count(f"note: {caution}\n") == 1
    assert (tmp_path / "plain" / "report.html").read_text().count(caution) == 1

    run(actor, tmp_path / "calibrated", actor[0])
    assert "no calibration" not in capsys.readouterr().err
    assert json.loads((tmp_path / "calibrated" / "timeline.json").read_text())["cautions"] == []
    assert "Before you rely on it" not in (tmp_path / "calibrated" / "report.html").read_text()


def test_familiarity_is_taken_before_the_temperature_and_window_by_window(actor, tmp_path):
    windows = [window_of(act("wave", 16, x=60)), window_of(act("still", 16, x=60))]
    known = PoseClassifier(changed(actor[0], tmp_path / "a.pth"), COCO, (WIDTH, HEIGHT))
    shares = known.classify(windows)
    entropy = -(shares * np.log(shares)).sum(axis=1)
    sure, unsure = int(entropy.argmin()), int(entropy.argmax())
    between = -float(entropy.mean())
    path = changed(actor[0], tmp_path / "b.pth", threshold=between, temperature=2.0)
    split = PoseClassifier(path, COCO, (WIDTH, HEIGHT))
    answers = split.classify(windows)
    assert answers[unsure].tolist() == [0, 0]
    logits = np.log(shares[sure]) / 2
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(answers[sure], expected, rtol=1e-4)
    for place in range(2):
        np.testing.assert_array_equal(split.classify(windows[place : place + 1])[0], answers[place])


def test_live_and_file_agree_on_who_is_unknown(actor, tmp_path):
    checkpoint, video, points = actor
    settings = AnalysisSettings(
        out=tmp_path / "file", estimator="files", writes_video=False,
        estimator_settings={"path": str(points), "format": "coco"},
        checkpoint=str(changed(checkpoint, tmp_path / "c.pth", threshold=-0.3)),
    )  # fmt: skip
    stored = analyze(StoredSource(video), settings)
    source = StoredSource(video)
    source.is_live, source.stamp, told = True, "", []
    live = analyze(source, dataclasses.replace(settings, out=tmp_path / "l"), stream=told.append)
    assert live.segments == stored.segments
    assert {one["label"] for one in told if one["event"] == "label"} <= {*CLASSES, "unknown"}


# Two people -------------------------------------------------------------------------------


class Pairs:
    """As many probabilities as people; keeps the windows."""

    names, threshold = ("a", "b"), None

    def __init__(self):
        self.asked = []

    def classify(self, windows):
        self.asked += windows
        return np.tile(np.float32([0.1, 0.9]), (len(windows), 1))


def body_at(x, height=80.0):
    return build_pose([[x, 20.0], [x + 20, 20 + height]], [0.9, 0.9], score=0.8)


def pairs_of(*paths, num_persons=2, num_frames=40, **settings):
    """Windows of people who are at paths[i](frame), None for not there."""
    classifier = Pairs()
    timeline = Timeline(
        classifier, TimelineSettings(frame_seconds=0.1, num_persons=num_persons, **settings)
    )
    for index in range(num_frames):
        found = [
            (place, body_at(x))
            for place, path in enumerate(paths, 1)
            if (x := path(index)) is not None
        ]
        poses = FramePoses(index, index / 10, tuple(pose for _, pose in found))
        timeline.update(poses, found)
    timeline.finish()
    return classifier.asked


def first_x(window):
    return float(window.joints[0, 0, 0])


def test_a_window_of_two_holds_the_nearest_other_in_the_same_frames():
    asked = pairs_of(lambda i: 100.0, lambda i: 300.0, lambda i: 340.0)
    pairs = {(first_x(one), *(first_x(other) for other in one.others)) for one in asked}
    assert pairs == {(100.0, 300.0), (300.0, 340.0), (340.0, 300.0)}
    for one in asked:
        (other,) = one.others
        np.testing.assert_array_equal(one.seconds, other.seconds)
        assert other.joints.shape == one.joints.shape
        assert other.others == ()


def test_of_a_model_of_one_nobody_else_is_in_the_window():
    assert all(one.others == () for one in pairs_of(lambda i: 1.0, lambda i: 2.0, num_persons=1))


def test_the_nearest_is_so_on_average_over_the_frames_that_show_both():
    asked = pairs_of(lambda i: 0.0, lambda i: 100.0, lambda i: 20.0 if i % 20 > 15 else 190.0)
    first = next(one for one in asked if first_x(one) == 0)
    # 190 in 16 frames of the window and 20 in 4 are 156 on average
    assert first_x(first.others[0]) == 100.0


def test_whoever_is_seen_too_rarely_or_not_at_all_is_no_other():
    alone = pairs_of(lambda i: 5.0)
    assert alone
    assert all(one.others == () for one in alone)
    passing = pairs_of(lambda i: 5.0, lambda i: 50.0 if i < 8 else None, num_frames=20)
    assert [one.others for one in passing if first_x(one) == 5] == [(), ()]


def test_of_somebody_who_left_the_last_window_still_has_the_other():
    asked = pairs_of(lambda i: 100.0 if i < 25 else None, lambda i: 130.0 + i, num_frames=80)
    of_first = [one for one in asked if first_x(one) == 100]
    assert len(of_first) == 5  # from 0, 0.5, 1 and 1.5 s, and one that ends with the last sight
    for one in of_first:
        (other,) = one.others
        assert np.isfinite(other.joints).all()


def test_the_model_gets_the_person_first_and_the_other_second(actor, tmp_path):
    two = changed(actor[0], tmp_path / "two.pth", persons=2)
    wave, still = window_of(act("wave", 16, x=60)), window_of(act("still", 16, x=100))
    model = PoseClassifier(two, COCO, (WIDTH, HEIGHT))
    assert model.num_persons == 2
    assert "the model sees 2 people at a time: each person with the nearest other" in model.notes
    seen = []
    model._model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["skeleton"]), with_kwargs=True
    )
    pair = dataclasses.replace(wave, others=(still,))
    model.classify([pair, wave])
    (paired,), (single,) = seen[0].numpy(), seen[1].numpy()
    assert paired.shape == (3, 16, 17, 2)  # (C, T, V, M)
    assert np.abs(paired[..., 1]).max() > 0
    assert np.abs(single[..., 1]).max() == 0
    # the scale is of both, but who is first is the one that the window is of
    lifted = paired[1, :, COCO.joints.index("left_wrist"), :].std(axis=0)
    assert lifted[0] > 3 * lifted[1]


def test_a_model_of_two_people_is_told_and_may_be_shown_each_alone(actor, tmp_path, capsys):
    two = changed(actor[0], tmp_path / "two.pth", persons=2)
    assert run(actor, tmp_path / "pair", two) == 0
    assert capsys.readouterr().err.count("each person with the nearest other\n") == 1
    facts = json.loads((tmp_path / "pair" / "timeline.json").read_text())
    assert facts["num_persons"] == 2
    assert run(actor, tmp_path / "alone", two, "--alone") == 0
    told = (
        "learned from samples of 2 people, and sees each person with nobody else (--alone, --step)"
    )
    assert told in capsys.readouterr().err
    assert told in (tmp_path / "alone" / "report.html").read_text()
    assert json.loads((tmp_path / "alone" / "timeline.json").read_text())["num_persons"] == 1


# What it learned from ----------------------------------------------------------------------


def test_windows_last_as_long_as_the_clips_that_the_model_learned_from(actor, tmp_path):
    def model(*, picks_window=True, **data):
        path = changed(actor[0], tmp_path / "a.pth", data=data)
        return PoseClassifier(path, COCO, (WIDTH, HEIGHT), picks_window=picks_window)

    assert model().window_seconds(10) == 1.6  # 16 frames
    assert model(clip_seconds=2.5, fps=25.0).window_seconds(10) == 2.5
    long = model(clip_seconds=42.0, fps=25.0)
    assert long.window_seconds(10) == 10
    note = "the model learned from clips of 42 s, and sees windows of 10 s: --window says otherwise"
    assert note in long.cautions
    asked = model(clip_seconds=42.0, fps=25.0, picks_window=False)
    assert note not in asked.cautions
    first = model(clip_seconds=2.5, fps=20.0)
    first._spec.dataset.__dict__.update(sampling="none", window_size=30)
    assert first.window_seconds(10) == 1.5  # the frames that it sees, at the rate of training


def test_training_writes_down_how_many_people_and_frames_its_data_show(actor):
    facts = torch.load(actor[0], weights_only=True)["kineme"]
    assert facts["training_data"] == {
        "num_persons": 1, "max_persons": 1, "num_frames": 20, "min_frames": 20, "y_up": -1,
        "has_depth": False,
    }  # fmt: skip


def seen_by(model, *windows):
    """What the model is given of each window, (C, T, V, M)."""
    seen = []
    hook = model._model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["skeleton"][0].numpy()), with_kwargs=True
    )
    model.classify(windows)
    hook.remove()
    return seen


def test_people_are_turned_over_for_a_model_that_learned_from_others_upright(actor, tmp_path):
    body = window_of(act("wave", 16, x=60))
    as_found, turned = (
        PoseClassifier(changed(actor[0], tmp_path / "a.pth", data=data), COCO, (WIDTH, HEIGHT))
        for data in ({"y_up": -1, "has_depth": False}, {"y_up": 1, "has_depth": True})
    )
    for model in (as_found, turned):
        model._view.settings.__dict__["normalize"] = "none"
    (one,), (other,) = seen_by(as_found, body), seen_by(turned, body)
    assert np.array_equal(other[1], -one[1])
    assert np.abs(one[1]).max() > 0.1
    assert np.array_equal(np.delete(other, 1, axis=0), np.delete(one, 1, axis=0))
    (caution,) = (text for text in turned.cautions if "upwards" in text)
    assert "those of the video are turned over, with depth, and sees those of the video flat" in (
        caution
    )
    assert not any("upwards" in text or "flat" in text for text in as_found.cautions)


def test_frames_after_somebody_left_are_not_among_those_that_a_model_sees(actor, tmp_path):
    body = act("wave", 16, x=60)
    model = PoseClassifier(actor[0], COCO, (WIDTH, HEIGHT))
    left = np.concatenate([body, np.full((14, 17, 3), [np.nan, np.nan, 0])])
    whole, short = seen_by(model, window_of(body), window_of(left))
    assert np.array_equal(whole, short)
    other = window_of(np.concatenate([body, act("still", 14, x=60)]))
    with_other = dataclasses.replace(window_of(left), others=(other,))
    model._num_places = 2
    (both,) = seen_by(model, with_other)
    assert (both[..., 0] == 0).all(axis=(0, 2)).sum() == 7  # 16 of 30, 14 of them empty


def test_places_are_those_of_training_and_people_as_many_as_it_showed(actor, tmp_path):
    for data, places, people in (
        ({"num_persons": 2, "max_persons": 2}, 2, 2), ({"num_persons": 2, "max_persons": 1}, 2, 1),
        ({"num_persons": 1, "max_persons": 1}, 1, 1), ({}, 1, 1),
    ):  # fmt: skip
        path = changed(actor[0], tmp_path / "a.pth", data=data)
        model = PoseClassifier(path, COCO, (WIDTH, HEIGHT))
        assert (model._num_places, model.num_persons) == (places, people)
        alone = PoseClassifier(path, COCO, (WIDTH, HEIGHT), is_alone=True)
        assert any("samples of 2 people" in one for one in alone.cautions) == (people == 2)


def test_another_estimator_than_that_of_training_is_told(actor, tmp_path):
    path = changed(actor[0], tmp_path / "a.pth", data={"estimator": "blazepose"})

    def told(estimator):
        model = PoseClassifier(path, COCO, (WIDTH, HEIGHT), estimator=estimator)
        return [one for one in model.cautions if "people that" in one]

    assert told("blazepose") == told("") == []
    assert told("movenet") == [
        "the model learned from people that blazepose found, and sees those of movenet, whose "
        "joints lie and tremble otherwise; --estimator blazepose is like its training"
    ]


def without_sampling(actor, path, *, data):
    """A copy of the checkpoint that takes all frames of a sample, and says `data` of its own."""
    content = torch.load(actor[0], weights_only=True)
    facts = content["kineme"]
    facts["spec"]["dataset"]["sampling"] = "none"
    facts["training_data"] = data
    save(path, content)
    return path


@pytest.mark.parametrize(
    ("learned", "fps", "told"),
    [(30.0, 10.0, "3 times as fast"), (10.0, 30.0, "0.33 times as fast"), (30.0, 25.0, None),
     (0.0, 10.0, None), (30.0, 0.0, None)],
)  # fmt: skip
def test_a_model_of_all_frames_is_told_of_at_another_frame_rate(
    actor, tmp_path, learned, fps, told
):
    data = {"num_frames": 40, "min_frames": 40, "fps": learned}
    path = without_sampling(actor, tmp_path / "a.pth", data=data)
    found = PoseClassifier(path, COCO, (WIDTH, HEIGHT), fps=fps).cautions
    assert [told in text for text in found if "a second (dataset.sampling none)" in text] == (
        [True] if told else []
    )
    uniform = changed(actor[0], tmp_path / "b.pth", data=data)
    others = PoseClassifier(uniform, COCO, (WIDTH, HEIGHT), fps=fps).cautions
    assert not any("a second" in text for text in others)


def test_options_that_this_model_has_no_use_for_are_told_of(actor, tmp_path, capsys):
    plain = changed(actor[0], tmp_path / "plain.pth")  # without a calibration
    run(actor, tmp_path / "out", plain, "--alone", "--no-threshold", "--max-frames=3")
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert told == [
        "note: --no-threshold has no effect: the checkpoint has no threshold",
        "note: --alone has no effect: the model sees one person at a time",
    ]
    two = changed(actor[0], tmp_path / "two.pth", threshold=0.1, temperature=1.0, persons=2)
    run(actor, tmp_path / "two", two, "--alone", "--no-threshold", "--max-frames=3")
    assert "no effect" not in capsys.readouterr().err


def test_windows_are_padded_as_samples_were_and_inference_says_the_same(actor, tmp_path):
    padded = {"num_frames": 40, "min_frames": 12}
    path = without_sampling(actor, tmp_path / "a.pth", data=padded)
    model = PoseClassifier(path, COCO, (WIDTH, HEIGHT))
    seen = []
    model._model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["skeleton"]), with_kwargs=True
    )
    shares = model.classify([window_of(act("wave", n, x=60)) for n in (16, 50)])
    assert [x.shape[2] for x in seen] == [40, 50]  # never cut
    assert np.abs(seen[0][:, :, 16:].numpy()).max() == 0

    body = act("wave", 16, x=60)
    x = np.zeros((1, 3, 40, 17, 1), np.float32)
    x[0, :2, :16, :, 0] = (body[..., :2] / (WIDTH, HEIGHT) - 0.5).transpose(2, 0, 1)
    x[0, 2, :16, :, 0] = body[..., 2]
    np.save(tmp_path / "clip.npy", x)
    words = [
        f"inference.checkpoint={path}", f"inference.test_dataset.data_path={tmp_path}/clip.npy",
        f"results_dir={tmp_path}", "inference.top_k=2", "device=cpu",
    ]  # fmt: skip
    assert main(["pose_classification", "inference", *words]) == 0
    said = json.loads((tmp_path / "inference" / "predictions.jsonl").read_text())["top"]
    told = {one["label"]: one["probability"] for one in said}
    assert [told[name] for name in CLASSES] == pytest.approx(shares[0].tolist(), abs=1e-5)
    full = without_sampling(actor, tmp_path / "b.pth", data=padded | {"min_frames": 40})
    unpadded = PoseClassifier(full, COCO, (WIDTH, HEIGHT)).classify([window_of(body)])
    assert np.abs(unpadded - shares[0]).max() > 0.01


def test_a_checkpoint_that_does_not_say_how_long_its_samples_were_is_told(actor, tmp_path):
    def cautions(data):
        path = without_sampling(actor, tmp_path / "a.pth", data=data)
        model = PoseClassifier(path, COCO, (WIDTH, HEIGHT))
        assert seen_by(model, window_of(act("wave", 16)))[0].shape == (3, 16, 17, 1)
        return [one for one in model.cautions if "dataset.sampling none" in one]

    (caution,) = cautions(None)
    assert caution.startswith("the checkpoint does not say of how many frames its training samples")
    assert cautions({"num_frames": 16, "min_frames": 16}) == []
    uniform = PoseClassifier(changed(actor[0], tmp_path / "b.pth", data={}), COCO, (WIDTH, HEIGHT))
    assert not any("dataset.sampling" in one for one in uniform.cautions)


@pytest.mark.parametrize(
    "data",
    [
        {"num_persons": "2"},
        {"num_persons": 1 << 40},
        {"num_frames": -1},
        {"min_frames": 1 << 40},
        {"clip_seconds": float("nan")},
        {"estimator": [1]},
        {"y_up": 2},
        {"y_up": True},
        {"has_depth": 1},
        7,
    ],
)
def test_training_data_that_cannot_be_are_an_error_of_the_checkpoint(actor, tmp_path, data):
    path = changed(actor[0], tmp_path / "a.pth", data=data)
    with pytest.raises(CheckpointError, match="training_data with num_persons, max_persons, num"):
        PoseClassifier(path, COCO, (WIDTH, HEIGHT))
