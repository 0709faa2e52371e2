"""Going along with people a frame at a time."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import thin
from acting import (
    FPS,
    HEIGHT,
    LAYOUT,
    WIDTH,
    absent,
    act,
    scene_of,
    train_actor,
    write_scene,
)
from kineme.data.tracks import Track
from kineme.errors import SpecError
from kineme.people import command
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.classifier import PoseClassifier
from kineme.people.poses import FramePoses, build_pose
from kineme.people.segments import SegmentSettings
from kineme.people.sources import StoredSource
from kineme.people.stepping import SteppedClassifier, SteppedTimeline, _Gaps
from kineme.people.timeline import TimelineSettings
from kineme.people.tracking.smoothing import fill_gaps

SIZE = (WIDTH, HEIGHT)
SETTINGS = TimelineSettings(
    window_seconds=1.6, stride_seconds=0.4, frame_seconds=1 / FPS, end_after_seconds=1.0,
    segments=SegmentSettings(0.5, 0.35, 0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        thin.make_thin(patch)
        yield train_actor(tmp_path_factory.mktemp("actor"), "dataset.normalize=none")


@pytest.fixture(autouse=True)
def _thin_models(monkeypatch):
    thin.make_thin(monkeypatch)


def stepped(checkpoint, **options) -> SteppedClassifier:
    return SteppedClassifier(checkpoint, LAYOUT, SIZE, fps=FPS, **options)


def test_that_steps_leave_out_the_zeros_of_training_is_told(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    facts = content["kineme"]
    facts["spec"]["dataset"]["sampling"] = "none"
    for min_frames, told in ((12, 1), (40, 0)):
        facts["training_data"] = {"num_frames": 40, "min_frames": min_frames}
        torch.save(content, tmp_path / "a.pth")
        cautions = stepped(tmp_path / "a.pth", window_seconds=1.6).cautions
        assert (
            sum("zeros fill up to 40 frames, which steps leave" in one for one in cautions) == told
        )


def film(people, times=None):
    """(FramePoses, found) of {id: (T, V, 3)}; NaN where somebody is not there."""
    length = max(map(len, people.values()))
    for number in range(length):
        found = tuple(
            (id_, build_pose(body[number, :, :2], body[number, :, 2]))
            for id_, body in people.items()
            if number < len(body) and np.isfinite(body[number, 0]).any()
        )
        seconds = number / FPS if times is None else times[number]
        yield FramePoses(number, seconds, tuple(pose for _, pose in found)), found


def segments_of(checkpoint, people, **options):
    timeline = SteppedTimeline(stepped(checkpoint, **options), SETTINGS)
    over = [one for pair in film(people) for one in timeline.update(*pair)]
    return [*over, *timeline.finish()]


def told(segments, person):
    return [dataclasses.astuple(one)[1:] for one in segments if one.person == person]


def test_answers_are_those_of_the_model_over_all_frames_so_far(checkpoint):
    ours, plain = stepped(checkpoint), PoseClassifier(checkpoint, LAYOUT, SIZE)
    body = np.concatenate([act("still", 12), act("wave", 14)])
    for number, (frame, found) in enumerate(film({5: body})):
        ours.update(5, frame.seconds, found[0][1])
        assert ours.complete_until(5) == pytest.approx(max(0, (number - 8) // 2 + 1) * 2 / FPS)
    ours.finish(5)
    skeleton = torch.cat([ours._as_seen(_frame(pose)) for pose in body]).permute(3, 1, 0, 2)[
        ..., None
    ]
    with torch.inference_mode():
        logits = plain._model(skeleton=skeleton) / plain._temperature
    expected = logits.softmax(dim=1).numpy()[0]
    np.testing.assert_allclose(ours.answer(5, 0, 2.5), expected, rtol=0, atol=1e-5)
    assert ours.complete_until(5) == np.inf


def _frame(pose):
    return _Gaps(0.0).add(0.0, build_pose(pose[:, :2], pose[:, 2]))[0]


def test_a_label_that_changes_is_told_where_it_does_and_after_the_delay(checkpoint):
    people = {1: np.concatenate([act("still", 40), act("wave", 40, seed=2)])}
    found = told(segments_of(checkpoint, people), 1)
    assert [label for label, *_ in found] == ["still", "wave"]
    assert found[0][2:] == (0, pytest.approx(4.0, abs=0.4 + 1e-6))
    assert found[1][3] == pytest.approx(8.0)


def test_who_else_is_there_changes_no_bit_of_what_somebody_is_said_to_do(checkpoint):
    one = np.concatenate([act("wave", 30, x=40), absent(5), act("still", 30)])
    other = np.concatenate([absent(7), act("still", 25, x=120), absent(33)])
    together = segments_of(checkpoint, {1: one, 2: other})
    assert told(together, 1) == told(segments_of(checkpoint, {1: one}), 1)
    assert told(together, 2) == told(segments_of(checkpoint, {2: other}), 2)


def test_who_is_gone_is_forgotten(checkpoint):
    timeline = SteppedTimeline(stepped(checkpoint), SETTINGS)
    body = np.concatenate([act("wave", 8), absent(60)])
    for pair in film({1: body, 2: act("still", 68)}):
        timeline.update(*pair)
    assert timeline.classifier.people == {2}


def test_of_frames_that_a_stream_left_out_the_next_stands_in(checkpoint):
    filled, thinned = stepped(checkpoint), stepped(checkpoint)
    frames = list(film({1: act("wave", 20)}))
    left_out = {7: 8, 11: 13, 12: 13}
    for number, (frame, found) in enumerate(frames):
        filled.update(1, frame.seconds, frames[left_out.get(number, number)][1][0][1])
        if number not in left_out:
            thinned.update(1, frame.seconds + (0.02 if number else 0), found[0][1])
    answers = [one.answer(1, 0, 1.1) for one in (filled, thinned)]
    assert np.array_equal(*answers)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.25, 0.5]))
def test_gaps_are_closed_as_in_a_track_that_is_known_whole(data, max_gap_seconds):
    num_frames = data.draw(st.integers(2, 14))
    seen = data.draw(st.lists(st.lists(st.booleans(), min_size=2, max_size=2),
                              min_size=num_frames, max_size=num_frames))  # fmt: skip
    seen = np.array(seen)
    seen[0, 0] = seen[-1, 1] = True  # a track is from sight to sight
    rng = np.random.default_rng(0)
    joints = rng.uniform(0, 100, (num_frames, 2, 2)).astype(np.float32)
    confidence = np.where(seen, rng.uniform(0.2, 1, seen.shape), 0).astype(np.float32)
    joints[~seen] = np.nan
    seconds = np.arange(num_frames) / FPS
    rows = seen.any(axis=1)
    track = Track(
        1, np.flatnonzero(rows), seconds[rows], joints[rows], confidence[rows],
        np.zeros((rows.sum(), 4), np.float32), np.ones(rows.sum(), np.float32),
    )  # fmt: skip
    expected = fill_gaps(track, max_gap_seconds)
    gaps, received = _Gaps(max_gap_seconds), []
    for number in range(num_frames):
        pose = build_pose(joints[number], confidence[number]) if rows[number] else None
        for frame in gaps.add(seconds[number], pose):
            received.append(frame)
            held = number - len(received) + 1
            assert held <= max_gap_seconds * FPS + 1
    received += gaps.rest()
    assert [frame.seconds for frame in received] == seconds.tolist()
    for row, number in enumerate(expected.frames):
        np.testing.assert_allclose(received[number].joints, expected.joints[row], atol=1e-4)
        np.testing.assert_allclose(received[number].confidence, expected.confidence[row])
    absent = np.setdiff1d(np.arange(num_frames), expected.frames)
    assert not any(received[number].confidence.any() for number in absent)


class Live(StoredSource):
    """The frames of a stored video as if they came live."""

    is_live, stamp = True, ""


def test_analyze_steps_where_it_is_asked_to_live_as_offline(checkpoint, tmp_path):
    turning = np.concatenate([act("still", 24, x=110, seed=1), act("wave", 24, x=110, seed=2)])
    video, points = write_scene(tmp_path, scene_of(turning))
    files, notes = {"path": str(points), "format": "coco"}, []
    settings = AnalysisSettings(
        tmp_path / "a", "files", files, str(checkpoint), is_stepped=True, writes_video=False
    )
    stored = analyze(StoredSource(video), settings, tell=notes.append)
    live = analyze(Live(video), dataclasses.replace(settings, out=tmp_path / "b"))
    assert live.segments == stored.segments
    assert [one.label for one in stored.segments] == ["still", "wave"]
    assert stored.segments[0].end == pytest.approx(2.4, abs=0.4 + 1e-6)
    assert "steps: labels come 0.8 seconds later than those of windows would" in notes


def test_steps_need_a_checkpoint(tmp_path):
    with pytest.raises(SpecError, match="--step: expected a checkpoint whose model steps"):
        command.main([str(tmp_path), "--step"])
