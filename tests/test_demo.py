"""`kineme demo` runs both networks on new people, says so in one table, and harms no folder."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest

from kineme import demo
from kineme.cli import main
from kineme.data.video import probe, read_frames
from kineme.demo import skeletons, videos
from kineme.rendering import film_exercises
from kineme.synthetic import CLASS_NAMES


def test_help_says_how_to_call_it(capsys):
    assert main(["demo", "--help"]) == 0
    assert capsys.readouterr().out == "usage: kineme demo [--out DIR] [--seed N]\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out"], "--out: expected a value after it, got nothing."),
        (["--seed="], "--seed: expected a value after it, got nothing."),
        (["--output=x"], "kineme demo: expected --out DIR or --seed N, got '--output=x'."),
        (["--seed", "x"], "--seed: expected a whole number of at least 0, got 'x'."),
    ],
)
def test_unknown_words_are_refused(capsys, words, said):
    assert main(["demo", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert f"--out: expected a folder that is new or empty, got '{tmp_path}'." in (
        capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_out_the_first_free_name_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo._parse([]) == (demo.Path("kineme-demo"), 0)
    (tmp_path / "kineme-demo").mkdir()
    (tmp_path / "kineme-demo-2").mkdir()
    assert demo._parse(["--seed=7"]) == (demo.Path("kineme-demo-3"), 7)


def make_small(monkeypatch):
    """Both halves with few samples and one epoch."""
    sizes = {
        skeletons: {"NUM_TRAIN": 24, "NUM_VAL": 12, "NUM_TEST": 12, "NUM_FRAMES": 16},
        videos: {"NUM_TRAIN": 12, "NUM_TEST": 6, "NUM_FRAMES": 10},
    }
    for half, numbers in sizes.items():
        for name, number in numbers.items():
            monkeypatch.setattr(half, name, number)
    epochs = {"train.num_epochs": 1, "train.optim.warmup_epochs": 0}
    small = {"dataset.num_frames": 4, "train.checkpoint_interval": 1, "evaluate.occlusion": False}
    monkeypatch.setattr(skeletons, "SPEC", {**skeletons.SPEC, **epochs, **small})
    monkeypatch.setattr(videos, "SPEC", {**videos.SPEC, **epochs, "dataset.batch_size": 6})
    monkeypatch.setattr(videos, "JOINT", {**videos.JOINT, "dataset.batch_size": 6})


def test_it_runs_both_networks_and_prints_one_table_and_the_reports(tmp_path, monkeypatch, capsys):
    make_small(monkeypatch)
    folder = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--out", str(folder)]) == 0
    said = capsys.readouterr()
    cells = [line.split("│")[1:4] for line in said.out.splitlines() if line.startswith("│")]
    steps = [step.strip() for _, step, _ in cells if step.strip()]
    assert steps == [
        "people", "train", "evaluate", "inference", "export",
        "clips", "train rgb", "train of", "train joint", "evaluate",
    ]  # fmt: skip
    assert [half.strip() for half, _, _ in cells if half.strip()] == ["skeletons", "videos"]
    reports = [folder / "evaluate" / "report.html", folder / "joint" / "evaluate" / "report.html"]
    assert said.out.splitlines()[-2:] == [f"report: {report}" for report in reports]
    assert all(report.stat().st_size > 10_000 for report in reports)
    side_by_side = r"rgb [\d.]+ %, of [\d.]+ %,\s+joint [\d.]+ %"
    assert re.search(side_by_side, " ".join(result.strip() for _, _, result in cells))
    assert (folder / "export" / "model.onnx").stat().st_size > 1_000_000
    with open(folder / "inference" / "predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert len(list((folder / "cache" / "flow").glob("*/*.zip"))) == 12 + 6
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    begun = [line for line in said.err.splitlines() if re.match(r"(skeletons|videos): ", line)]
    assert begun == [
        f"{'skeletons' if i < 5 else 'videos'}: {step}" for i, step in enumerate(steps)
    ]
    at = [said.err.index(f"videos: train {name}\n") for name in ("rgb", "of", "joint")]
    assert "epoch 1/1" in said.err[at[0] : at[1]]
    assert "epoch 1/1" in said.err[at[1] : at[2]]
    sizes = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*.pth")}
    told = re.search(r", ([\d,]+) MB, mostly checkpoints", " ".join(said.out.split()))
    assert sum(sizes.values()) / 1e6 < int(told[1].replace(",", "")) < sum(sizes.values()) / 5e5
    assert "arning" not in said.err
    assert "Traceback" not in said.err


def test_the_sets_of_sequences_share_no_sample_and_the_test_has_new_bodies(tmp_path, monkeypatch):
    for name, number in (("NUM_TRAIN", 60), ("NUM_VAL", 12), ("NUM_TEST", 12), ("NUM_FRAMES", 16)):
        monkeypatch.setattr(skeletons, name, number)
    skeletons.make_data(tmp_path, 3)
    sets = {name: np.load(tmp_path / f"{name}_data.npy") for name in ("train", "val", "test")}
    assert {name: len(data) for name, data in sets.items()} == {"train": 60, "val": 12, "test": 12}
    everything = np.concatenate([data.reshape(len(data), -1) for data in sets.values()])
    assert len(np.unique(everything, axis=0)) == 84
    bodies = {}
    for name in sets:
        samples = json.loads((tmp_path / f"{name}_label.json").read_text())["samples"]
        bodies[name] = {body_in(sample["id"]) for sample in samples}
    assert not bodies["train"] & bodies["test"]


def test_making_many_videos_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    for name, number in (("NUM_TRAIN", 7), ("NUM_TEST", 2), ("NUM_FRAMES", 2), ("NUM_PER_LINE", 3)):
        monkeypatch.setattr(videos, name, number)
    videos.make_clips(tmp_path, 3)
    assert capsys.readouterr().err.splitlines() == ["train  3/7", "train  6/7"]


def test_videos_lie_by_class_are_those_of_the_films_and_test_new_bodies_and_views(
    tmp_path, monkeypatch
):
    for name, number in (("NUM_TRAIN", 36), ("NUM_TEST", 12), ("NUM_FRAMES", 6)):
        monkeypatch.setattr(videos, name, number)
    videos.make_clips(tmp_path, 3)
    paths = {name: sorted((tmp_path / name).glob("*/*.mp4")) for name in ("train", "test")}
    assert {name: len(found) for name, found in paths.items()} == {"train": 36, "test": 12}
    for found in paths.values():
        counts = Counter(path.parent.name for path in found)
        assert counts == dict.fromkeys(CLASS_NAMES, len(found) // 6)
        assert all(path.name.startswith(f"{path.parent.name}_") for path in found)
    bodies, azimuths = (
        {name: {read(path.stem) for path in found} for name, found in paths.items()}
        for read in (body_in, lambda stem: int(stem.rpartition("_")[2]))
    )
    assert not bodies["train"] & bodies["test"]
    assert not azimuths["train"] & azimuths["test"]
    film = next(film_exercises(36, 9, num_frames=6, size=videos.SIZE))
    facts = probe(paths["train"][-6])  # squat_0000
    assert facts.path.endswith(f"{film.id}.mp4")
    assert (facts.num_frames, facts.fps, facts.width, facts.height) == (6, 10, 56, 56)
    frames = read_frames(paths["train"][-6], np.arange(6)).frames
    assert np.abs(frames.astype(float) - film.frames).mean() < 6  # H.264, colours at half size


def body_in(text):
    return re.search(r"body\w+(?=_)", text)[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_new_people_are_recognised_and_both_streams_better_than_either(tmp_path, seed):
    assert main(["demo", "--out", str(tmp_path), f"--seed={seed}"]) == 0
    facts = {
        name: json.loads((tmp_path / name / "evaluate" / "metrics.json").read_text())
        for name in (".", "rgb", "of", "joint")
    }
    assert [each["samples"] for each in facts.values()] == [120] * 4
    accuracy = {name: each["accuracy"] for name, each in facts.items()}
    assert accuracy["."] >= 95
    assert min(accuracy["rgb"], accuracy["of"]) > 40
    assert accuracy["joint"] > max(accuracy["rgb"], accuracy["of"])
