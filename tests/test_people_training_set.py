"""From folders of videos to training data: what is written, on which side, and what fails."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from blocks_filmed import (
    BLUE,
    HEIGHT,
    RED,
    WIDTH,
    Blocks,
    converted,
    film,
    ids_in,
    sides,
    someone,
    still,
    walking,
)
from clips_made import make_video
from format_files import landmarks, message_of, run, write
from kineme import cli
from kineme.data.tracks import Tracks
from kineme.errors import SpecError
from kineme.people.estimators import ESTIMATORS
from kineme.people.training_sets import tracked_videos
from kineme.people.training_sets.clips import _Progress
from kineme.pose_classification import settings as pose_settings
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

REAL_MOVENET = ESTIMATORS["movenet"]


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Blocks]]:
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KINEME_MODELS", raising=False)
    monkeypatch.setitem(ESTIMATORS, "movenet", "blocks_filmed:Blocks")  # type: ignore[arg-type]
    monkeypatch.setattr(Blocks, "looked", [])
    monkeypatch.setattr(Blocks, "stops_after", 10**9)
    tracked_videos._estimator.cache_clear()
    yield Blocks
    tracked_videos._estimator.cache_clear()


# From videos to arrays


def test_videos_become_clips_with_labels_and_the_layout_of_the_estimator(tmp_path: Path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    film(data / "train" / "walk" / "a.mp4", (RED, walking(40, 32, 2)))
    film(data / "train" / "stand" / "b.mp4", (BLUE, still(80, 48)))
    film(data / "val" / "walk" / "c.mp4", (RED, walking(40, 32, 2)))
    found = converted(data, out, smoothing=False)
    assert found["kpi"] == {
        "Number of samples in train_data": 2,
        "Number of samples in val_data": 1,
    }
    x = np.load(out / "train_data.npy")
    assert x.shape == (2, 3, 6, 17, 1)
    labels = json.loads((out / "train_label.json").read_text())
    assert labels["layout"] == "coco"
    assert labels["classes"] == ["stand", "walk"]
    assert [one["label"] for one in labels["samples"]] == ["stand", "walk"]
    np.testing.assert_allclose(x[0, 0, :, 8, 0], 80 / 200 - 0.5, atol=0.005)
    np.testing.assert_allclose(x[1, 0, :, 8, 0], np.arange(40, 52, 2) / 200 - 0.5, atol=0.005)
    np.testing.assert_allclose(x[1, 1, :, 8, 0], 32 / 120 - 0.5, atol=0.01)
    np.testing.assert_array_equal(x[:, 2], 0.5)
    facts = json.loads((out / "dataset.json").read_text())
    assert (facts["source"], facts["protocol"], facts["layout"]) == ("Videos", "folders", "coco")


def test_smoothing_changes_nothing_of_who_stands_still_and_can_be_left_out(tmp_path: Path) -> None:
    def shaking(number: int) -> tuple[float, float]:
        return 80 + 2 * (-1) ** number, 48

    film(tmp_path / "in" / "a" / "still.mp4", (RED, still(80, 48)), num_frames=12)
    film(tmp_path / "in" / "a" / "shaking.mp4", (RED, shaking), num_frames=12)
    spread = {}
    for smoothing in (True, False):
        out = tmp_path / f"out{smoothing}"
        converted(tmp_path / "in", out, smoothing=smoothing, val_share=0.0)
        x = dict(
            zip(ids_in(out / "label.json"), np.load(out / "data.npy")[:, 0, :, 8, 0], strict=True)
        )
        spread[smoothing] = {name: float(np.ptp(row)) * WIDTH for name, row in x.items()}
    assert spread[False]["a/shaking"] == pytest.approx(4, abs=0.6)
    assert spread[True]["a/shaking"] < spread[False]["a/shaking"]
    assert spread[True]["a/still"] == pytest.approx(0, abs=0.3)


def test_a_video_of_nobody_is_left_out_and_counted(tmp_path: Path) -> None:
    someone(tmp_path / "in" / "a" / "1.mp4")
    film(tmp_path / "in" / "a" / "2.mp4")
    found = converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    assert found["warnings"][-1] == "1 samples with no frames, left out; first: a/2"
    assert ids_in(tmp_path / "out" / "label.json") == ["a/1"]


def test_videos_without_classes_become_data_without_labels(tmp_path: Path) -> None:
    someone(tmp_path / "in" / "1.mp4")
    found = converted(tmp_path / "in", tmp_path / "out")
    assert found["files"] == ["data.npy", "dataset.json"]


def test_a_list_of_labels_takes_the_place_of_class_folders(tmp_path: Path) -> None:
    for n in (1, 2):
        someone(tmp_path / "in" / f"{n}.mp4", seed=n)
    rows = write(tmp_path / "labels.csv", "id,label\n1,run\n2,walk\n")
    converted(tmp_path / "in", tmp_path / "out", labels=str(rows), val_share=0.0)
    labels = json.loads((tmp_path / "out" / "label.json").read_text())
    assert [one["label"] for one in labels["samples"]] == ["run", "walk"]


# Who acts


def test_the_one_who_acts_is_written_and_the_others_are_counted(tmp_path: Path) -> None:
    film(
        tmp_path / "in" / "a" / "1.mp4", (RED, still(30, 30)), (BLUE, walking(90, 80, 2)),
        num_frames=8,
    )  # fmt: skip
    found = converted(tmp_path / "in", tmp_path / "out", val_share=0.0, smoothing=False)
    assert "1 people who act less, left out; first: a/1" in found["warnings"]
    x = np.load(tmp_path / "out" / "data.npy")
    assert x.shape[-1] == 1
    np.testing.assert_allclose(x[0, 0, :, 8, 0], (90 + 2 * np.arange(8)) / 200 - 0.5, atol=0.005)
    both = converted(tmp_path / "in", tmp_path / "both", val_share=0.0, num_persons=2)
    assert not any("act less" in line for line in both["warnings"])
    assert np.load(tmp_path / "both" / "data.npy").shape[-1] == 2


def test_an_actor_who_is_seldom_seen_is_told(tmp_path: Path) -> None:
    def leaving(number: int) -> tuple[float, float]:
        return 40 + 2 * number, 48

    frames_with = [(RED, leaving)]
    film(tmp_path / "in" / "a" / "1.mp4", *frames_with, num_frames=4)
    pictures = np.full((8, HEIGHT, WIDTH, 3), 60, np.uint8)
    for number in range(3):
        pictures[number, 28:68, 20 + 2 * number : 60 + 2 * number] = RED
    make_video(tmp_path / "in" / "a" / "2.mp4", frames=list(pictures), height=HEIGHT, width=WIDTH)
    found = converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    what = "clips whose actor is seen in less than half of the video"
    assert f"1 {what}; first: a/2" in found["warnings"]


# Which side


def test_clips_are_split_when_nothing_else_says_how(tmp_path: Path) -> None:
    for label in ("jump", "walk"):
        for n in range(3):
            someone(tmp_path / "in" / label / f"{n}.mp4", seed=n + 3 * (label == "walk"))
    converted(tmp_path / "in", tmp_path / "out", val_share=0.3)
    found = sides(tmp_path / "out")
    assert {stem: len(ids) for stem, ids in found.items()} == {"train": 4, "val": 2}
    assert {name.split("/")[0] for name in found["val"]} == {"jump", "walk"}
    converted(tmp_path / "in", tmp_path / "whole", protocol="none")
    assert len(ids_in(tmp_path / "whole" / "label.json")) == 6


def test_a_split_file_says_which_side_and_what_it_does_not_name_is_counted(tmp_path: Path) -> None:
    for n in range(4):
        someone(tmp_path / "in" / "a" / f"{n}.mp4", seed=n)
    text = "id,split\na/0,train\na/1,test\na/2,none\na/9,val\n"
    rows = write(tmp_path / "split.csv", text)
    found = converted(tmp_path / "in", tmp_path / "out", split_file=str(rows))
    assert sides(tmp_path / "out") == {"train": ["a/0"], "test": ["a/1"]}
    assert found["warnings"][:3] == [
        "1 clips that the split file names and that are not there; first: a/9",
        "1 clips that the split leaves out; first: a/2",
        "1 clips that no split names; first: a/3",
    ]
    write(rows, "id,split\na/0,training\n")
    message = message_of(tmp_path / "in", tmp_path / "no", format="videos", split_file=str(rows))
    expected = "expected one of train, val, test, none, got 'training'."
    assert message == f"{rows}:2: {expected}"


def test_official_lists_split_and_classes_choose(tmp_path: Path) -> None:
    for label in ("jump", "walk", "wave"):
        for n in range(3):
            someone(tmp_path / "in" / "videos" / label / f"{label}{n}.mp4", seed=n)
        lines = f"{label}0.avi 1\n{label}1.avi 2\n{label}2.avi 0\n"
        write(tmp_path / "in" / "splits" / f"{label}_test_split2.txt", lines)
    settings = {"protocol": "split2", "classes": ["walk", "wave"]}
    converted(tmp_path / "in", tmp_path / "out", **settings)
    assert sides(tmp_path / "out") == {
        "train": ["walk/walk0", "wave/wave0"],
        "val": ["walk/walk1", "wave/wave1"],
    }
    with pytest.raises(SpecError, match=r"expected classes of the data \(jump, walk, wave\), got"):
        converted(tmp_path / "in", tmp_path / "out", protocol="split2", classes=["wakl"])
    with pytest.raises(SpecError, match="expected one of split1, split2, split3, none for format"):
        converted(tmp_path / "in", tmp_path / "out", protocol="fold1")


def test_a_class_that_one_side_lacks_is_told(tmp_path: Path) -> None:
    someone(tmp_path / "in" / "train" / "a" / "1.mp4")
    someone(tmp_path / "in" / "train" / "b" / "2.mp4")
    someone(tmp_path / "in" / "val" / "a" / "3.mp4")
    found = converted(tmp_path / "in", tmp_path / "out")
    assert "1 classes without clips for validation; first: b" in found["warnings"]


# The cache


def test_a_second_run_looks_at_nothing_again(tmp_path: Path, blocks: type[Blocks]) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    for n in range(2):
        someone(data / "a" / f"{n}.mp4", seed=n)
    converted(data, out, val_share=0.0)
    assert len(blocks.looked) == 8
    before = (out / "data.npy").read_bytes()
    (data / "a" / "1.mp4").rename(data / "a" / "one.mp4")  # its content is known
    found = converted(data, out, val_share=0.0)
    assert len(blocks.looked) == 8
    assert "2 videos whose tracks were in the cache; first: a/0" in found["warnings"]
    assert (out / "data.npy").read_bytes() == before
    converted(data, out, val_share=0.0, estimator_settings=["threshold=140"])
    assert len(blocks.looked) == 16
    someone(data / "a" / "0.mp4", seed=7)
    converted(data, out, val_share=0.0)
    assert len(blocks.looked) == 20


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, blocks: type[Blocks]) -> None:
    for n in range(3):
        someone(tmp_path / "in" / "a" / f"{n}.mp4", seed=n)
    blocks.stops_after = 6  # in the second video
    with pytest.raises(KeyboardInterrupt):
        converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    assert not list((tmp_path / "out").glob("*.npy"))
    blocks.stops_after = 10**9
    blocks.looked.clear()
    converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    assert len(blocks.looked) == 8
    assert len(ids_in(tmp_path / "out" / "label.json")) == 3


def test_damaged_tracks_in_the_cache_are_made_again(tmp_path: Path, blocks: type[Blocks]) -> None:
    someone(tmp_path / "in" / "a" / "1.mp4")
    converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    (kept,) = (tmp_path / "cache" / "tracks").glob("*/*.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
    assert len(blocks.looked) == 8
    assert kept.read_bytes() == whole
    assert Tracks.load(kept).layout == "coco"


# What fails


def test_unreadable_videos_are_named_and_the_others_converted(tmp_path: Path) -> None:
    data, out = tmp_path / "in", tmp_path / "out"
    someone(data / "a" / "1.mp4")
    write(data / "a" / "2.mp4", "no video")
    found = converted(data, out, val_share=0.0)
    assert ids_in(out / "label.json") == ["a/1"]
    first, last = found["failed"]
    assert first.where == str(data / "a" / "2.mp4")
    assert str(last) == (
        "dataset_convert.data: expected all 2 videos to be converted, got 1 that failed. "
        "The others are done."
    )
    assert "1 videos that cannot be read, left out; first: a/2" in found["warnings"]
    facts = json.loads((out / "dataset.json").read_text())["left_out_or_changed"]
    what = {"what": "videos that cannot be read, left out", "count": 1, "in": ["a/2"]}
    assert what in facts


def test_so_many_videos_as_allowed_may_be_unreadable(tmp_path: Path) -> None:
    someone(tmp_path / "in" / "a" / "1.mp4")
    for n in (2, 3):
        write(tmp_path / "in" / "a" / f"{n}.mp4", "no video")
    settings = {"val_share": 0.0, "max_bad": 0.5}
    found = converted(tmp_path / "in", tmp_path / "out", **settings)
    assert "at most 50 % of 3 videos to fail, got 2 that" in str(found["failed"][-1])
    (tmp_path / "in" / "a" / "3.mp4").unlink()
    found = converted(tmp_path / "in", tmp_path / "out", **settings)
    assert found["failed"] == ()
    assert "1 videos that cannot be read, left out; first: a/2" in found["warnings"]


def test_where_none_can_be_read_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a" / "1.mp4", "no video")
    message = message_of(tmp_path / "in", tmp_path / "out", format="videos", workers=0)
    assert message.startswith(f"{tmp_path / 'in' / 'a' / '1.mp4'}: expected")


def test_a_damaged_video_is_told_in_the_second_run_too(tmp_path: Path) -> None:
    path = film(tmp_path / "in" / "a" / "1.mp4", (RED, walking(40, 40, 2)), num_frames=30)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(bytes(content))
    for _ in range(2):
        found = converted(tmp_path / "in", tmp_path / "out", val_share=0.0)
        (line,) = (one for one in found["warnings"] if "damaged videos" in one)
        assert line.startswith("1 damaged videos, looked at as far as they go; first: a/1 (")


def test_folders_without_videos_and_names_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    message = message_of(tmp_path / "in", tmp_path / "out", format="videos")
    assert message.endswith(
        "expected class folders with videos, got none. Give <class>/<video>, or say what it is by "
        "dataset_convert.format."
    )
    someone(tmp_path / "in" / "a" / "1.mp4")
    someone(tmp_path / "in" / "a" / "1.avi")
    message = message_of(tmp_path / "in", tmp_path / "out", format="videos")
    assert message.startswith("dataset_convert.data: expected one video of each name, got a/1.")


def test_settings_of_the_estimator_are_checked_before_any_video(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"movenet\.treshold: expected a known setting"):
        converted(tmp_path / "none", tmp_path / "out", estimator_settings=["treshold=1"])
    with pytest.raises(SpecError, match="estimator_settings: expected key=value, got 'threshold'"):
        converted(tmp_path / "none", tmp_path / "out", estimator_settings=["threshold"])


# The command


def test_a_folder_is_of_videos_and_failures_are_exit_code_8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    someone(tmp_path / "in" / "a" / "1.mp4")
    words = [
        "pose_classification", "dataset_convert", f"dataset_convert.data={tmp_path / 'in'}",
        "dataset_convert.workers=0", f"results_dir={tmp_path / 'results'}",
    ]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "dataset_convert.data is a folder, so dataset_convert.format is videos" in said.err
    write(tmp_path / "in" / "a" / "2.mp4", "no video")
    assert cli.main(words) == 8
    assert "2.mp4: expected" in capsys.readouterr().err
    assert (tmp_path / "results" / "dataset_convert" / "train_data.npy").exists()


def test_settings_of_videos_are_told_where_another_format_does_not_read_them(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.json", [landmarks(0.5)])
    found = run(path, tmp_path / "out", format="mediapipe", val_share=0.5, max_bad=0.1)
    told = [line for line in found["warnings"] if "was not used" in line]
    assert told == [
        f"dataset_convert.{key} says nothing to format mediapipe and was not used"
        for key in ("val_share", "max_bad")
    ]


def test_the_spec_knows_the_estimators_that_see_videos() -> None:
    assert set(pose_settings.ESTIMATORS) == set(ESTIMATORS) - {"files"}


def test_settings_of_estimators_are_words_on_a_command_line(tmp_path: Path) -> None:
    words = [
        "results_dir=r", f"dataset_convert.data={tmp_path}",
        "dataset_convert.estimator_settings=[long_side=512, min_score=0.2]",
    ]  # fmt: skip
    spec, _ = load_spec(SPECS["dataset_convert"], None, words)
    asked = spec.dataset_convert
    assert asked.estimator_settings == ["long_side=512", "min_score=0.2"]
    assert asked.format == "videos"


def test_progress_says_what_is_to_do_yet(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SimpleNamespace(now=0.0)
    progress = _Progress(10, lambda: clock.now)
    progress.at(4, 0)
    clock.now = 30.0
    progress.at(6, 2)
    assert capsys.readouterr().err == "people in videos  6/10  1:00 to go\n"


@pytest.mark.slow
def test_workers_follow_people_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path(__file__).resolve().parents[2] / "shared"
    if not (shared / "models").is_dir() or not (shared / "data" / "jhmdb").is_dir():
        pytest.skip("needs shared/models and shared/data/jhmdb beside the repository")
    monkeypatch.setenv("KINEME_MODELS", str(shared / "models"))
    monkeypatch.setitem(ESTIMATORS, "movenet", REAL_MOVENET)  # type: ignore[arg-type]
    video = next((shared / "data" / "jhmdb" / "videos" / "golf").glob("Anna_Rawson*.mp4"))
    (tmp_path / "in" / "golf").mkdir(parents=True)
    (tmp_path / "in" / "golf" / "1.mp4").symlink_to(video)
    write(tmp_path / "in" / "golf" / "2.mp4", "no video")
    found = run(tmp_path / "in", tmp_path / "out", format="videos", workers=2, val_share=0.0)
    assert found["failed"][0].where.endswith("2.mp4")
    x = np.load(tmp_path / "out" / "data.npy")
    assert x.shape[0] == 1
    assert (x[0, 2, :, 5:7, 0] > 0.1).mean() > 0.9  # shoulders are seen nearly always
