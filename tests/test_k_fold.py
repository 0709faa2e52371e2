"""`evaluate.k_fold`: nobody is judged by a model that saw them, and a kill costs one fold."""

import contextlib
import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme import cli
from kineme.actions import train
from kineme.data.labels import Labels, write_labels
from kineme.engine.folds import assign_folds
from kineme.errors import SpecError
from kineme.network import load_network, load_specs
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import for_action, load_spec, value_at
from stick import CLASSES, LAYOUT, rows_of, waves
from video_folders import save_tao

POSE = load_network("pose_classification")
NUM = 24

# Which samples go together


@st.composite
def _samples(draw):
    """Groups and labels of 1 to 60 samples."""
    groups = draw(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=60))
    size = len(groups)
    labels = draw(st.lists(st.integers(-1, 4), min_size=size, max_size=size))
    return groups, np.array(labels, np.int64)


@settings(max_examples=150, deadline=None)
@given(samples=_samples(), num_folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_nobody_is_in_two_folds_and_no_fold_is_empty(samples, num_folds, seed):
    groups, labels = samples
    if len(set(groups)) < num_folds:
        with pytest.raises(SpecError, match="as many as there are subjects"):
            assign_folds(groups, labels, num_folds=num_folds, seed=seed)
        return
    folds = assign_folds(groups, labels, num_folds=num_folds, seed=seed)
    assert folds.keys() == set(groups)
    assert set(folds.values()) == set(range(num_folds))
    order = np.random.default_rng(seed).permutation(len(groups))
    again = assign_folds([groups[i] for i in order], labels[order], num_folds=num_folds, seed=seed)
    assert again == folds


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=6, max_size=80), num_folds=st.integers(2, 6))
def test_without_subjects_every_class_is_spread_to_within_one_sample(labels, num_folds):
    names = [f"s{i}" for i in range(len(labels))]
    folds = assign_folds(names, np.array(labels), num_folds=num_folds, seed=0)
    for label in set(labels):
        own = [folds[name] for name, one in zip(names, labels, strict=True) if one == label]
        counts = np.bincount(own, minlength=num_folds)
        assert counts.max() - counts.min() <= 1, label


def test_another_seed_gives_other_folds():
    names = [f"s{i}" for i in range(20)]
    found = {
        tuple(sorted(assign_folds(names, np.zeros(20, int), num_folds=4, seed=seed).items()))
        for seed in range(5)
    }
    assert len(found) > 1


# Training and judging them


def make(folder):
    """24 samples of six people, and the layout."""
    values, labels = waves(NUM, 0)
    np.save(folder / "train_data.npy", values)
    ids = tuple(f"{i}_p{i // 4}" for i in range(NUM))
    write_labels(folder / "train_label.json", Labels(ids, labels, CLASSES))
    (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
    return folder


@pytest.fixture
def data(tmp_path):
    return make(tmp_path)


def words(data, *more, folds=2):
    return [
        "pose_classification", "evaluate", f"evaluate.k_fold={folds}", "device=cpu",
        f"results_dir={data / 'results'}", f"dataset.train_dataset.data_path={data}",
        f"model.layout={data / 'stick.yaml'}", "train.num_epochs=1", "dataset.batch_size=8",
        "dataset.num_workers=0", "train.tensorboard=false", "train.optim.lr=0.02",
        "dataset.normalize=center", "dataset.repeats=2", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two folds; its folder, the data sets of each, and what was told."""
    folder, seen, told = make(tmp_path_factory.mktemp("folds")), [], io.StringIO()
    real = train.run

    def watched(network, spec):
        seen.append((network.build_dataset(spec, "train"), network.build_dataset(spec, "test")))
        return real(network, spec)

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(told):
        patched.setattr(train, "run", watched)
        assert cli.main(words(folder)) == 0
    return folder, seen, told.getvalue()


def test_every_sample_is_judged_once_by_a_model_that_had_not_seen_it(finished):
    data, seen, told = finished
    assert "6 subjects, guessed from ids: '0_p0' is of 'p0'." in told
    folder = data / "results" / "evaluate"
    people = []
    for fold, (kept, held) in enumerate(seen):
        ids = {name.split("_")[1] for name in kept.ids}, {n.split("_")[1] for n in held.ids}
        assert not ids[0] & ids[1]
        assert (len(kept), len(held)) == (24, 12)  # three of six people are left out; seen twice
        people += sorted(ids[1])
        own = rows_of(folder / f"fold_{fold + 1}" / "predictions.csv")
        assert [row["id"] for row in own] == list(held.ids)
        x = held.read(np.arange(12), 0).inputs["skeleton"].numpy()
        rows = [int(name.split("_")[0]) for name in held.ids]
        np.testing.assert_array_equal(x, np.load(data / "train_data.npy")[rows])
    assert sorted(people) == [f"p{i}" for i in range(6)]
    pooled = {row["id"]: row for row in rows_of(folder / "predictions.csv")}
    assert list(pooled) == [f"{i}_p{i // 4}" for i in range(NUM)]
    parts = [rows_of(folder / f"fold_{fold}" / "predictions.csv") for fold in (1, 2)]
    assert {row["id"]: row for part in parts for row in part} == pooled


def test_the_report_tells_all_samples_and_the_spread_of_the_folds(finished):
    data, seen, told = finished
    folder = data / "results" / "evaluate"
    parts = [rows_of(folder / f"fold_{fold}" / "predictions.csv") for fold in (1, 2)]
    shares = [100 * np.mean([row["label"] == row["truth"] for row in part]) for part in parts]
    facts = json.loads((folder / "metrics.json").read_text())
    found = facts["k_fold"]
    assert [one["accuracy"] for one in found["folds"]] == pytest.approx(shares, abs=1e-3)
    assert found["folds"][0]["subjects"] == sorted({n.split("_")[1] for n in seen[0][1].ids})
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(shares), abs=1e-3)
    assert found["accuracy"]["std"] == pytest.approx(np.std(shares, ddof=1), abs=1e-3)
    assert facts["accuracy"] == pytest.approx(np.mean(shares), abs=1e-3)  # folds of equal size
    assert np.sum(facts["confusion"]) == NUM
    status = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    assert [line["message"] for line in status if "fold" in line["message"]] == [
        f"{verb} fold {fold} of 2." for fold in (1, 2) for verb in ("Training", "Judged")
    ]
    assert status[-1]["status"] == "SUCCESS"
    assert status[-1]["kpi"]["fold_accuracy_std"] == found["accuracy"]["std"]
    report = (folder / "report.html").read_text()
    assert f"mean {np.mean(shares):.2f}, standard deviation {np.std(shares, ddof=1):.2f}" in report
    assert told.count("epoch 1/1  ") == 2  # not once for each run that is open
    assert (folder / "log.txt").read_text().count("epoch 1/1  ") == 2


def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(finished, monkeypatch, capsys):
    data = finished[0]
    again = words(data, f"results_dir={data / 'again'}")
    real, steps = train._step, []

    def dying(job, batch):
        if len(steps) == 5:
            raise KeyboardInterrupt
        return counting(job, batch)

    def counting(job, batch):
        steps.append(job.run.folder.parent.name)
        return real(job, batch)

    monkeypatch.setattr(train, "_step", dying)
    assert cli.main(again) == 130
    assert steps == ["fold_1"] * 3 + ["fold_2"] * 2
    last = (data / "again" / "evaluate" / "status.json").read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "FAILURE"
    steps.clear()
    monkeypatch.setattr(train, "_step", counting)
    capsys.readouterr()
    assert cli.main(again) == 0
    assert steps == ["fold_2"] * 3
    assert "Already finished: 1 epochs" in capsys.readouterr().err
    for name in ("predictions.csv", "folds.json", "confusion_matrix.csv"):
        ours, other = (data / run / "evaluate" / name for run in ("results", "again"))
        assert ours.read_text() == other.read_text(), name


def test_folds_of_other_settings_are_never_mixed(finished, capsys):
    data = finished[0]
    assert cli.main([*words(data, "train.optim.lr=0.5"), "--dry-run"]) == 2
    assert cli.main(words(data, "train.optim.lr=0.5")) == 2
    told = capsys.readouterr().err
    assert "error: train.optim.lr: expected 0.02, as the folds in" in told
    assert "were trained with, got 0.5. Set another results_dir, or what it was." in told
    assert cli.main(words(data, folds=3)) == 2
    assert "expected a folder without folds, or with the same" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["frames", "labels"])
def test_folds_of_other_data_of_the_same_names_are_never_mixed(finished, tmp_path, capsys, what):
    data = shutil.copytree(finished[0], tmp_path / "copy")
    assert cli.main([*words(data), "--dry-run"]) == 0  # wherever it lies
    values, labels = waves(NUM, 0)
    if what == "frames":
        values[7, 0, 3, 2] += 0.25
        np.save(data / "train_data.npy", values)
    else:
        labels[[4, 5]] = labels[[5, 4]]  # of one person: the folds are the same
        ids = tuple(f"{i}_p{i // 4}" for i in range(NUM))
        write_labels(data / "train_label.json", Labels(ids, labels, CLASSES))
    capsys.readouterr()
    assert cli.main(words(data)) == 2
    told = capsys.readouterr().err
    assert "training data: expected frames and labels as those that the folds in" in told


def test_videos_are_told_from_others_by_size_and_length(tmp_path):
    for i in range(4):
        save_tao(tmp_path / ("walk", "run")[i % 2] / f"v{i}", 6, seed=i)
    asked = {"results_dir": "r", "dataset.train_dataset_dir": str(tmp_path)}
    network = load_network("action_recognition")
    spec, _ = network.complete(load_spec(load_specs(network.name)["train"], asked)[0], "train")
    before = network.fingerprint(network.build_dataset(spec, "train"))
    assert network.fingerprint(network.build_dataset(spec, "train")) == before
    save_tao(tmp_path / "walk" / "v0", 7, seed=0)
    assert network.fingerprint(network.build_dataset(spec, "train")) != before


def test_samples_without_subjects_are_spread_by_class_and_it_is_said(data, capsys):
    labels = np.arange(NUM) % 3
    ids = tuple(f"sample {i}" for i in range(NUM))
    write_labels(data / "train_label.json", Labels(ids, labels, CLASSES))
    assert cli.main([*words(data, folds=4), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "note: No subject in the ids (evaluate.subject_pattern)" in told.err
    assert [line for line in told.out.splitlines() if line.startswith("fold ")] == [
        f"fold {fold}: 18 to train on, 6 left out" for fold in (1, 2, 3, 4)
    ]
    assert not (data / "results").exists()


def told_of(data, capsys, ids, *, folds):
    """The dry run of folds over samples of these ids, and what it notes of people."""
    write_labels(data / "train_label.json", Labels(tuple(ids), np.arange(NUM) % 3, CLASSES))
    assert cli.main([*words(data, folds=folds), "--dry-run"]) == 0
    told = capsys.readouterr()
    held = [line for line in told.out.splitlines() if line.startswith("fold ")]
    return held, [line for line in told.err.splitlines() if " people are " in line]


def test_pairs_with_a_person_in_common_are_left_out_together(data, capsys):
    pairs = ("s01s02", "s02s03", "s04s05", "s06s07")
    held, notes = told_of(data, capsys, (f"{pairs[i // 6]}_{i}" for i in range(NUM)), folds=3)
    assert notes == []
    assert held == [
        "fold 1: 12 to train on, 12 of 2 subjects left out",
        "fold 2: 18 to train on, 6 of 1 subjects left out",
        "fold 3: 18 to train on, 6 of 1 subjects left out",
    ]


def test_people_whom_folds_part_are_told(data, capsys):
    pairs = ("s01s02", "s02s03", "s03s01", "s04s05")
    held, notes = told_of(data, capsys, (f"{pairs[i // 6]}_{i}" for i in range(NUM)), folds=4)
    assert [line.partition(", ")[2] for line in held] == ["6 of 1 subjects left out"] * 4
    assert notes == [
        "note: 3 of 5 people are in several groups, and so may be in training and left out alike: "
        "'s01' is in 's01s02', 's03s01'."
    ]


def test_what_the_figures_over_all_folds_do_not_say_is_told(finished, data, capsys):
    weights = finished[0] / "results" / "evaluate" / "fold_1" / "train" / "pc_model_latest.pth"
    more = [f"model.pretrained_model_path={weights}", "evaluate.occlusion=true"]
    assert cli.main([*words(data, *more), "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "note: weights to begin with: where they know these samples, folds look better" in told
    assert "note: evaluate.occlusion: judged fold by fold alone, in fold_1/metrics.json" in told


@pytest.mark.parametrize(
    ("key", "code"),
    [("evaluate.unknown_dataset.data_path", 3), ("train.distill.teacher", 4),
     ("model.pretrained_model_path", 4)],
)  # fmt: skip
def test_what_folds_need_is_tried_by_a_dry_run(data, capsys, key, code):
    assert cli.main([*words(data, f"{key}=/nowhere"), "--dry-run"]) == code
    assert "/nowhere" in capsys.readouterr().err


def test_unknown_samples_are_looked_at_before_a_fold_is_trained(data, capsys):
    assert cli.main(words(data, "evaluate.unknown_dataset.data_path=/nowhere")) == 3
    assert not (data / "results" / "evaluate" / "fold_1").exists()


def test_data_that_folds_do_not_look_at_are_told(data, capsys):
    more = ["evaluate.test_dataset.data_path=/nowhere", "dataset.fail_on_leakage=true"]
    assert cli.main([*words(data, *more), "--dry-run"]) == 0
    told = capsys.readouterr().err
    for key in ("test data", "dataset.fail_on_leakage"):
        assert f"note: {key}: no effect, as evaluate.k_fold trains its own models." in told


def test_settings_without_effect_on_the_models_of_folds_are_told(data, capsys):
    more = ["dataset.num_frames=5", "model.graph_layout=coco", "train.distill.weight=0.9"]
    assert cli.main([*words(data, *more), "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "note: dataset.num_frames has no effect: dataset.sampling is none." in told
    assert "note: model.graph_layout has no effect: model.layout is set." in told
    assert "note: train.distill.weight has no effect: train.distill.teacher is not set." in told


def test_settings_without_effect_on_the_models_of_folds_of_videos_are_told():
    asked = {"results_dir": "r", "evaluate.k_fold": 2, "dataset.train_dataset_dir": "d"}
    asked |= {"model.sample_rate": 2, "model.of_seq_length": 5}
    _, notes = load_spec(load_specs("action_recognition")["evaluate"], asked)
    assert notes == (
        "model.sample_rate has no effect: model.sample_strategy is random_interval.",
        "model.of_seq_length has no effect: model.model_type is rgb.",
    )


def test_folds_begun_from_other_weights_are_other_folds(finished, capsys):
    data = finished[0]
    assert cli.main(words(data, "model.pretrained_model_path=other.pth")) == 2
    assert "model.pretrained_model_path: expected None, as the folds in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["evaluate.k_fold=7"], "evaluate.k_fold: expected at most 6, as many as there are subj"),
        (["evaluate.k_fold=1"], "evaluate.k_fold: expected 0 (off) or at least 2, got 1"),
        (["evaluate.subject_pattern=(nobody)"], "evaluate.subject_pattern: expected a patt"),
        (["train.num_epochs=2", "train.optim.warmup_epochs=2"], "train.optim.warmup_epochs"),
        (["dataset.batch_size=500"], "expected at least one step per epoch, got 0 steps per epoch"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_folds_that_cannot_be_are_refused_before_anything_is_trained(
    data, capsys, more, expected, dry
):
    assert cli.main(words(data, *more, *dry)) == 2
    assert expected in capsys.readouterr().err
    assert not (data / "results" / "evaluate" / "fold_1").exists()


def test_more_folds_than_guessed_subjects_tell_the_guess(data, capsys):
    assert cli.main(words(data, folds=7)) == 2
    told = capsys.readouterr().err
    assert re.search(r"They are guessed from ids: '.+' is of '.+': evaluate.subject_pattern", told)


def test_weights_of_classes_are_counted_by_a_dry_run_of_folds(data, capsys):
    assert cli.main(words(data, "train.class_weights=[1]", "--dry-run")) == 2
    assert "train.class_weights: expected 3 weights" in capsys.readouterr().err


def test_folds_need_training_data_and_no_checkpoint(capsys):
    asked = ["pose_classification", "evaluate", "evaluate.k_fold=3", "results_dir=r"]
    assert cli.main(asked) == 2
    assert "expected a value for dataset.train_dataset.data_path" in capsys.readouterr().err
    assert cli.main([*asked[:2], asked[3]]) == 2
    told = capsys.readouterr().err
    assert "values for evaluate.checkpoint and evaluate.test_dataset.data_path" in told


def test_a_spec_of_one_action_becomes_one_of_another():
    base = {"results_dir": "r", "evaluate.k_fold": 3, "dataset.train_dataset.data_path": "d",
            "recipe": "modern", "train.optim.weight_decay": 0.1}  # fmt: skip
    spec, _ = load_spec(SPECS["evaluate"], base)
    turned = for_action(spec, SPECS["train"])
    plain, _ = load_spec(SPECS["train"], base)
    assert turned == plain
    assert value_at(turned, "train.optim.lr_scaling") == "linear"


@pytest.mark.slow
def test_videos_are_folded_too(tmp_path, capsys):
    root = tmp_path / "data"
    for i in range(8):
        save_tao(root / ("walk", "run")[i % 2] / f"v{i}_p{i // 2}", 6, seed=i)
    results = tmp_path / "results"
    asked = [
        "action_recognition", "evaluate", "evaluate.k_fold=2", "device=cpu",
        f"results_dir={results}", f"dataset.train_dataset_dir={root}", "train.num_epochs=1",
        "dataset.batch_size=2", "dataset.workers=0", "train.tensorboard=false",
        "model.input_width=32", "model.input_height=32",
        "dataset.augmentation_config.crop_smaller_edge=36",
    ]  # fmt: skip
    assert cli.main(asked) == 0
    with open(results / "evaluate" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 8
    facts = json.loads((results / "evaluate" / "metrics.json").read_text())
    people = [fold["subjects"] for fold in facts["k_fold"]["folds"]]
    assert sorted(people[0] + people[1]) == ["p0", "p1", "p2", "p3"]
