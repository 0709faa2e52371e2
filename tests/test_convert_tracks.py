"""Files of tracks as training data."""

import json
from pathlib import Path

import numpy as np
import pytest

from format_files import message_of, run
from kineme.data.tracks import Track
from kineme.people.tracking.smoothing import OneEuroFilter, SmoothingSettings
from kineme.pose_classification.layout_mapping import in_picture
from kineme.pose_classification.layouts import LAYOUTS
from tracks_made import NAN, made_track, made_tracks


def moving(id_: int, frames: list[int], step: float, num_joints: int = 17) -> Track:
    """Joint j at x = 20 + j + step * row, y = 50."""
    rows, joints = np.arange(len(frames)), np.arange(num_joints)
    x = 20 + joints[None] + step * rows[:, None]
    return made_track(id_, frames, np.stack([x, np.full_like(x, 50.0)], -1))


def test_tracks_are_written_as_shares_of_the_picture_with_confidence(tmp_path: Path) -> None:
    track = moving(2, [5, 6, 8], 1.0)
    track.joints[1, 3] = NAN
    track.confidence[1, 3] = 0
    made_tracks(track, layout="coco").save(tmp_path / "a.npz")
    run(tmp_path / "a.npz", tmp_path / "out", format="tracks", smoothing=False)
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 4, 17, 1)  # from frame 5 to 8
    np.testing.assert_allclose(data[0, :, 0, 4, 0], [24 / 200 - 0.5, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(data[0, :, 3, 4, 0], [26 / 200 - 0.5, 0, 0.5], atol=1e-6)
    assert not data[0, :, 2].any()  # frame 7, in which nobody was seen
    assert not data[0, :, 1, 3].any()
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts["layout"] == "coco"  # and not another of 17 joints


def test_depth_is_a_share_of_the_width(tmp_path: Path) -> None:
    joints = np.full((2, 33, 3), [100, 25, 30], np.float32)
    whole = made_tracks(made_track(1, [0, 1], joints), num_axes=3, layout="mediapipe-33")
    whole.save(tmp_path / "a.npz")
    run(tmp_path / "a.npz", tmp_path / "out", format="tracks")
    data = np.load(tmp_path / "out" / "data.npy")
    np.testing.assert_allclose(data[0, :, 1, 7, 0], [0, -0.25, 0.15], atol=1e-6)


def test_training_data_are_what_an_analysis_shows_a_model_of_that_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for layout, num_joints, num_axes in (
        ("coco", 17, 2), ("mediapipe-33", 33, 3), ("mediapipe-33", 33, 2)
    ):  # fmt: skip
        joints = rng.uniform(5, 95, (3, num_joints, num_axes))
        joints[1, 4] = NAN
        track = made_track(1, [0, 1, 2], joints)
        made_tracks(track, num_axes=num_axes, layout=layout).save(tmp_path / "a.npz")
        out = tmp_path / f"{layout}-{num_axes}"
        run(tmp_path / "a.npz", out, format="tracks", smoothing=False)
        shown = in_picture(
            track.joints, track.confidence, width=200, height=100, num_channels=3,
            num_axes=LAYOUTS[layout].num_axes,
        )  # fmt: skip
        written = np.load(out / "data.npy")[0, ..., 0]
        np.testing.assert_array_equal(written.transpose(1, 2, 0), shown)


def test_joints_are_smoothed_as_an_analysis_shows_them_to_a_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    joints = rng.uniform(5, 95, (9, 17, 2))
    joints[3:5, 4] = NAN  # a short gap
    tracks = made_tracks(made_track(1, list(range(9)), joints), layout="coco")
    tracks.save(tmp_path / "a.npz")
    run(tmp_path / "a.npz", tmp_path / "out", format="tracks")
    smoother, shown = OneEuroFilter(SmoothingSettings()), joints.astype(np.float32)
    (track,) = tracks.tracks
    for row, seconds in enumerate(track.seconds):
        shown[row] = smoother.update(seconds, track.joints[row], track.boxes[row])
    data = np.load(tmp_path / "out" / "data.npy")[0, :2, :, :, 0].transpose(1, 2, 0)
    there = np.isfinite(shown)
    expected = shown / (200, 100) - 0.5
    np.testing.assert_allclose(data[there], expected[there], atol=1e-6)
    between = expected[2, 4] + (expected[5, 4] - expected[2, 4]) * np.array([[1], [2]]) / 3
    np.testing.assert_allclose(data[3:5, 4], between, atol=1e-6)
    assert np.abs(expected[1:] - (joints / (200, 100) - 0.5)[1:])[there[1:]].mean() > 0.005


def test_classes_and_splits_come_from_folders_and_those_who_move_most_are_kept(
    tmp_path: Path,
) -> None:
    still, slow, fast = (moving(i, [0, 1, 2], step) for i, step in ((1, 0.0), (2, 1.0), (3, 5.0)))
    for split in ("train", "val"):
        for label in ("jump", "sit"):
            path = tmp_path / "in" / split / label / "a.npz"
            path.parent.mkdir(parents=True)
            made_tracks(still, slow, fast, layout="coco").save(path)
    result = run(tmp_path / "in", tmp_path / "out", format="tracks", num_persons=2, smoothing=False)
    data = np.load(tmp_path / "out" / "train_data.npy")
    assert data.shape == (2, 3, 3, 17, 2)
    steps = np.diff(data[0, 0, :, 0], axis=0) * 200
    np.testing.assert_allclose(steps, [[5, 1], [5, 1]], atol=1e-4)
    labels = json.loads((tmp_path / "out" / "val_label.json").read_text())
    assert labels["classes"] == ["jump", "sit"]
    assert any("persons beyond the 2 that move most" in line for line in result["warnings"])


def test_long_gaps_are_closed_as_in_other_formats(tmp_path: Path) -> None:
    made_tracks(moving(1, [0, 1, 40, 41], 1.0), layout="coco").save(tmp_path / "a.npz")
    result = run(tmp_path / "a.npz", tmp_path / "out", format="tracks")
    assert np.load(tmp_path / "out" / "data.npy").shape == (1, 3, 4, 17, 1)
    assert any("gaps longer than 10 frames, closed" in line for line in result["warnings"])


def test_a_video_without_people_is_counted_and_left_out(tmp_path: Path) -> None:
    made_tracks(layout="coco").save(tmp_path / "in" / "empty.npz")
    assert "1 samples with no frames, left out" in message_of(
        tmp_path / "in", tmp_path / "out", format="tracks"
    )


def test_estimator_and_length_go_with_the_labels_and_other_estimators_are_counted(
    tmp_path: Path,
) -> None:
    for name, estimator, num_frames in (("1", "movenet", 10), ("2", "blazepose", 20)):
        folder = tmp_path / "in" / f"class{name}"
        folder.mkdir(parents=True)
        track = moving(1, list(range(num_frames)), 1.0)
        made = made_tracks(track, layout="coco", estimator=estimator, fps=5.0)
        made.save(folder / f"{name}.npz")
    found = run(tmp_path / "in", tmp_path / "out", format="tracks")
    assert found["warnings"] == ["1 tracks of another estimator than the first; first: class2/2"]
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert "estimator" not in facts  # it is not one
    assert facts["files"]["data"]["fps"] == 5.0
    labels = json.loads((tmp_path / "out" / "label.json").read_text())
    assert labels["origin"] == {"clip_seconds": 2.0, "fps": 5.0}
    (tmp_path / "in" / "class2" / "2.npz").unlink()
    run(tmp_path / "in", tmp_path / "one", format="tracks")
    facts = json.loads((tmp_path / "one" / "dataset.json").read_text())
    assert (facts["estimator"], "estimator_settings" in facts) == ("movenet", False)
    labels = json.loads((tmp_path / "one" / "label.json").read_text())
    assert labels["origin"] == {"estimator": "movenet", "clip_seconds": 2.0, "fps": 5.0}


def test_other_frame_rates_are_counted(tmp_path: Path) -> None:
    for name, fps in (("a", 24.0), ("b", 25.0), ("c", 25.0), ("d", 50.0), ("e", 0.0)):
        track = moving(1, list(range(4)), 1.0)
        made_tracks(track, layout="coco", fps=fps).save(tmp_path / "in" / f"{name}.npz")
    found = run(tmp_path / "in", tmp_path / "out", format="tracks")
    assert [line for line in found["warnings"] if "rates" in line] == [
        "1 samples of other frame rates than 25 a second (dataset.sampling=none sees that); "
        "first: d (50)"
    ]


def test_files_of_different_layouts_are_not_mixed(tmp_path: Path) -> None:
    made_tracks(moving(1, [0, 1], 1.0), layout="coco").save(tmp_path / "in" / "a.npz")
    made_tracks(moving(1, [0, 1], 1.0), layout="human3.6m").save(tmp_path / "in" / "b.npz")
    message = message_of(tmp_path / "in", tmp_path / "out", format="tracks")
    assert "b.npz: expected layout 'coco' as in the first, got 'human3.6m'" in message


def test_a_file_that_is_no_tracks_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", x=np.zeros(3))
    message = message_of(tmp_path / "in", tmp_path / "out", format="tracks")
    assert "a.npz: expected tracks.json as the first member, got 'x.npy'" in message


@pytest.mark.parametrize("given", ["nothing there", ""])
def test_no_data_is_named(tmp_path: Path, given: str) -> None:
    from types import SimpleNamespace

    from kineme.data.conversion import Tally
    from kineme.errors import DataError
    from kineme.pose_classification.convert.tracks import read_tracks

    with pytest.raises(DataError, match=r"dataset_convert\.data: expected a file or folder"):
        read_tracks(SimpleNamespace(data=given, labels=None, num_persons=None), Tally())
