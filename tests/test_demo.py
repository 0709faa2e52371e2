"""`kineme demo` runs every action on new people, says so in one table, and harms no folder."""

import csv
import json
import re

import numpy as np
import pytest

from kineme import demo
from kineme.cli import main


def test_help_says_how_to_call_it(capsys):
    assert main(["demo", "--help"]) == 0
    assert capsys.readouterr().out == "usage: kineme demo [--out DIR] [--seed N]\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output=x"], "kineme demo: expected --out DIR or --seed N, got '--output=x'."),
        (["--seed", "x"], "--seed: expected a whole number of at least 0, got 'x'."),
        (["--seed"], "--seed: expected a whole number of at least 0, got ''."),
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


def test_it_runs_every_action_and_prints_one_table_and_the_report(tmp_path, monkeypatch, capsys):
    for name, number in (("NUM_TRAIN", 24), ("NUM_VAL", 12), ("NUM_TEST", 12), ("NUM_FRAMES", 16)):
        monkeypatch.setattr(demo, name, number)
    small = {"dataset.num_frames": 4, "train.num_epochs": 1, "train.checkpoint_interval": 1,
             "train.optim.warmup_epochs": 0, "evaluate.occlusion": False}  # fmt: skip
    monkeypatch.setattr(demo, "SPEC", {**demo.SPEC, **small})
    folder = tmp_path / "out"
    assert main(["demo", "--out", str(folder)]) == 0
    said = capsys.readouterr()
    rows = [line.split("│")[1].strip() for line in said.out.splitlines() if line.startswith("│")]
    assert [row for row in rows if row] == ["people", "train", "evaluate", "inference", "export"]
    assert said.out.splitlines()[-1] == f"report: {folder / 'evaluate' / 'report.html'}"
    assert (folder / "evaluate" / "report.html").stat().st_size > 10_000
    assert (folder / "export" / "model.onnx").stat().st_size > 1_000_000
    with open(folder / "inference" / "predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
    assert "arning" not in said.err
    assert "Traceback" not in said.err


def test_the_sets_share_no_sample_and_the_test_has_new_bodies(tmp_path, monkeypatch):
    for name, number in (("NUM_TRAIN", 60), ("NUM_VAL", 12), ("NUM_TEST", 12), ("NUM_FRAMES", 16)):
        monkeypatch.setattr(demo, name, number)
    demo._make_data(tmp_path, 3)
    sets = {name: np.load(tmp_path / f"{name}_data.npy") for name in ("train", "val", "test")}
    assert {name: len(data) for name, data in sets.items()} == {"train": 60, "val": 12, "test": 12}
    everything = np.concatenate([data.reshape(len(data), -1) for data in sets.values()])
    assert len(np.unique(everything, axis=0)) == 84
    bodies = {}
    for name in sets:
        samples = json.loads((tmp_path / f"{name}_label.json").read_text())["samples"]
        bodies[name] = {re.search(r"body\w+(?=_)", sample["id"])[0] for sample in samples}
    assert not bodies["train"] & bodies["test"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_new_people_are_recognised(tmp_path, seed):
    assert main(["demo", "--out", str(tmp_path), f"--seed={seed}"]) == 0
    facts = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert facts["samples"] == 120
    assert facts["accuracy"] >= 95
