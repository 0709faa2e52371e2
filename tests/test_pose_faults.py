"""Bad input and faults, met by the actions of the pose room as docs/faults.md says."""

import errno
import json
import os
import warnings

import numpy as np
import pytest
import torch
import yaml

from kineme.actions import evaluate, inference, train
from kineme.cli import main
from kineme.data.labels import Labels, write_labels
from kineme.data.shards import ShardWriter
from kineme.engine import checkpoint as checkpoints
from kineme.errors import CheckpointError, DataError, ResourceError, SpecError
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec
from stick import CLASSES, NETWORK, rows_of, spec_of, train_stick, waves


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("pose"))


def data_folder(folder, data, labels=None, *, classes=CLASSES, ids=None):
    """`data` and its labels as test_data in `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "test_data.npy", data)
    if labels is not None:
        ids = ids or tuple(f"t{i}" for i in range(len(labels)))
        write_labels(folder / "test_label.json", Labels(ids, np.asarray(labels), classes))
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def training_words(folder, data, layout):
    """`data` as training data of two classes in turn, whose labels name `layout`; the words."""
    np.save(folder / "train_data.npy", data)
    ids = tuple(f"s{i}" for i in range(len(data)))
    labels = Labels(ids, np.arange(len(data)) % 2, ("a", "b"), layout)
    write_labels(folder / "train_label.json", labels)
    return [
        f"dataset.train_dataset.data_path={folder}", f"dataset.batch_size={len(data)}",
        "train.num_epochs=1", "dataset.num_workers=0", "train.tensorboard=false", "device=cpu",
    ]  # fmt: skip


# D15, D25: what is in the data


def test_d15_a_confidence_outside_0_and_1_and_pixels_are_notes_of_a_run(tmp_path, capsys):
    data = np.random.default_rng(0).random((6, 3, 8, 18, 1)).astype(np.float32)
    data[0, 2, 0, 0, 0] = 93.0  # percent, where a share is meant
    data[1, 0, 3, 4, 0] = 1919.0
    folder = tmp_path / "d"
    folder.mkdir()
    words = training_words(folder, data, "openpose")
    words += [f"results_dir={tmp_path}", "train.optim.lr=0.0001"]
    assert main(["pose_classification", "train", *words]) == 0
    said = capsys.readouterr().err
    path, low = folder / "train_data.npy", data[:, 0].min()
    assert (
        f"note: {path}: channel 0 is in [{low:.4g}, 1919], expected coordinates in [-10, 10]. "
        "Pixels? Divide by width and height." in said
    )
    assert (
        f"note: {path}: channel 2 is in [{data[:, 2].min():.4g}, 93], expected a confidence in "
        "[0, 1]." in said
    )


def with_nobody(trained, *rows):
    """The validation data with nobody in the samples `rows`."""
    data, labels = waves(7, 1)
    data[list(rows)] = 0
    return data, labels


def test_d25_a_sample_with_nobody_gets_no_class(trained, tmp_path, capsys):
    data, _ = with_nobody(trained, 2, 5)
    folder = data_folder(tmp_path / "d", data)
    spec = spec_of("inference", trained, tmp_path, "inference.top_k=2",
                   f"inference.test_dataset.data_path={folder}")  # fmt: skip
    inference.run(NETWORK, spec)
    out = tmp_path / "inference"
    rows = rows_of(out / "predictions.csv")
    assert [row["status"] for row in rows] == [
        "no person" if i in (2, 5) else "ok" for i in range(7)
    ]
    for i in (2, 5):
        assert set(rows[i].values()) == {str(i), "", "no person"}
    assert all(0 < float(rows[i]["probability"]) <= 1 for i in (0, 1, 3, 4, 6))
    lines = lines_of(out / "predictions.jsonl")
    assert lines[5] == {
        "id": "5", "label": None, "probability": None, "truth": None, "status": "no person",
        "top": [],
    }  # fmt: skip
    assert lines[0]["status"] == "ok"
    labels = (out / "results.txt").read_text().splitlines()
    assert [i for i, label in enumerate(labels) if label == "no_person"] == [2, 5]
    assert [label for label in labels if label != "no_person"] == [
        row["label"] for row in rows if row["label"]
    ]
    note = (
        f"note: {folder / 'test_data.npy'}: 2 of 7 samples (29 %) are all zero, the first at "
        "2, 5; they are answered 'no person'.\n"
    )
    assert capsys.readouterr().err.count(note) == 1


def test_d25_a_file_in_which_there_is_nobody_at_all_is_answered(trained, tmp_path):
    folder = data_folder(tmp_path / "d", np.zeros((2, 3, 8, 4, 1), np.float32))
    words = [f"inference.test_dataset.data_path={folder}"]
    inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))
    assert (tmp_path / "inference" / "results.txt").read_text() == "no_person\nno_person\n"
    words = [
        f"evaluate.test_dataset.data_path={data_folder(folder, np.zeros((2, 3, 8, 4, 1)), [0, 1])}"
    ]
    with pytest.raises(DataError, match="got 2 samples, all zero"):
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))


def test_d25_in_an_evaluation_nobody_is_a_wrong_answer_everywhere(trained, tmp_path, capsys):
    """Sample 0 is of class 0, which an argmax over nothing would name."""
    data, labels = with_nobody(trained, 0, 4)
    folder = data_folder(tmp_path / "d", data, labels)
    words = [f"evaluate.test_dataset.data_path={folder}", "evaluate.occlusion=true"]
    facts = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    out = tmp_path / "evaluate"
    rows = rows_of(out / "predictions.csv")
    right = sum(row["label"] == row["truth"] for row in rows)
    assert [row["label"] for row in rows].count("") == 2
    assert facts["accuracy"] == pytest.approx(100 * right / 7, abs=1e-4)
    measured = json.loads((out / "metrics.json").read_text())
    assert (measured["samples"], measured["unanswered"]) == (7, 2)
    confusion = np.array(measured["confusion"])
    assert confusion.shape == (3, 4)
    assert confusion[:, 3].tolist() == [1, 1, 0]
    assert confusion.sum() == 7
    shares = [float(row["probability"]) for row in rows if row["label"] == row["truth"]]
    assert len(shares) == right
    assert measured["loss"] > 0
    header = (out / "confusion_matrix.csv").read_text().splitlines()[0]
    assert header.endswith(",no answer")
    report = (out / "report.html").read_text()
    assert '<span title="no answer">no answer</span>' in report
    assert f"{right} of 7 right" in report
    assert max(share for curve in measured["occlusion"].values() for _, share in curve) <= 5 / 7
    assert "they are answered 'no person', which counts as wrong" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_d25_people_with_hidden_joints_are_answered_with_a_confidence(trained, tmp_path, share):
    data, _ = waves(5, 3)
    hidden = np.random.default_rng(0).random((5, 1, *data.shape[2:])) < share
    folder = data_folder(tmp_path / "d", np.where(hidden, 0, data).astype(np.float32))
    words = [f"inference.test_dataset.data_path={folder}"]
    inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))
    rows = rows_of(tmp_path / "inference" / "predictions.csv")
    assert {row["status"] for row in rows} == {"ok"}
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


# S11, X06, I04: files that exist, and runs made of what other runs left


def test_s11_the_resolved_spec_of_a_run_gives_the_same_weights(trained, tmp_path):
    spec, notes = load_spec(
        SPECS["train"], trained / "train" / "experiment.yaml", [f"results_dir={tmp_path}"]
    )
    assert notes == ()
    train.run(NETWORK, spec)
    old, new = (
        yaml.safe_load((folder / "train" / "experiment.yaml").read_text())
        for folder in (trained, tmp_path)
    )
    assert {**new, "results_dir": old["results_dir"]} == old
    weights = [
        checkpoints.load_checkpoint(folder / "train" / "last.safetensors").weights
        for folder in (trained, tmp_path)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_i04_a_named_output_file_that_exists_is_refused_before_anything_is_done(
    trained, tmp_path, capsys
):
    target = tmp_path / "mine.txt"
    target.write_text("mine\n")
    words = [f"inference.output_file={target}"]
    with pytest.raises(SpecError) as caught:
        inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))
    assert str(caught.value) == (
        f"inference.output_file: expected a path that is free, got '{target}', which exists. "
        "Set another path, or inference.overwrite=true to replace it."
    )
    assert target.read_text() == "mine\n"
    assert not (tmp_path / "inference").exists()
    spec = spec_of("inference", trained, tmp_path, *words, "inference.overwrite=true")
    inference.run(NETWORK, spec)
    assert len(target.read_text().splitlines()) == 7
    dry = [f"results_dir={tmp_path}", f"inference.checkpoint={trained / 'train' / 'best.pth'}",
           f"inference.test_dataset.data_path={trained}", "--dry-run"]  # fmt: skip
    assert main(["pose_classification", "inference", *words, *dry]) == 2
    assert "inference.overwrite=true" in capsys.readouterr().err


def test_i04_a_folder_in_the_place_of_the_output_file_is_refused(trained, tmp_path):
    words = [f"inference.output_file={tmp_path}", "inference.overwrite=true"]
    with pytest.raises(SpecError, match="which is a folder"):
        inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))


def test_i04_a_run_replaces_its_own_files_as_a_whole(trained, tmp_path):
    for _ in range(2):
        inference.run(NETWORK, spec_of("inference", trained, tmp_path))
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path))
    assert len(rows_of(tmp_path / "inference" / "predictions.csv")) == 7
    statuses = [line["status"] for line in lines_of(tmp_path / "evaluate" / "status.json")]
    assert statuses[-1] == "SUCCESS"


def test_i04_a_full_disk_leaves_the_older_answers(trained, tmp_path, monkeypatch):
    spec = spec_of("inference", trained, tmp_path)
    inference.run(NETWORK, spec)
    target = tmp_path / "inference" / "predictions.csv"
    before = target.read_bytes()
    fsync = os.fsync

    def full(descriptor):
        if "predictions" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "full")
        fsync(descriptor)

    monkeypatch.setattr("kineme.files.os.fsync", full)
    with pytest.raises(ResourceError, match="bytes free") as caught:
        inference.run(NETWORK, spec)
    assert caught.value.exit_code == 5
    assert target.read_bytes() == before


# I05 to I08, I16, I17: names, numbers and labels


NASTY = ('a,"b"', "line\nbreak", "\U0001f468\u200d\U0001f3a8 paints")


def test_i05_any_class_name_comes_back_from_every_file(tmp_path):
    trained = train_stick(tmp_path, classes=NASTY)
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path))
    inference.run(NETWORK, spec_of("inference", trained, tmp_path))
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    assert [row["truth"] for row in rows] == [NASTY[i % 3] for i in range(7)]
    lines = lines_of(tmp_path / "evaluate" / "predictions.jsonl")
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert {row["label"] for row in rows_of(tmp_path / "evaluate" / "per_class.csv")} == set(NASTY)
    text = (tmp_path / "inference" / "results.txt").read_text()
    assert [line.replace("\\n", "\n") for line in text.split("\n")[:-1]] == [
        row["label"] for row in rows_of(tmp_path / "inference" / "predictions.csv")
    ]


def test_i06_a_model_file_that_is_none_is_named(trained, tmp_path):
    (tmp_path / "text.pth").write_text("not a model")
    (tmp_path / "model.engine").write_bytes(b"ftrt" + bytes(64))
    content = torch.load(trained / "train" / "best.pth", weights_only=True)
    content["state_dict"] = {"other.weight": torch.zeros(2, 2)}
    torch.save(content, tmp_path / "other.pth")
    for name, message in (
        ("none.pth", "expected a checkpoint, got no such file"),
        (".", "expected a checkpoint, got a folder"),
        ("text.pth", "got a file that starts with b'no'"),
        ("model.engine", "got a file that starts with b'ft'"),
        ("other.pth", "got other.weight"),
    ):
        words = [f"evaluate.checkpoint={tmp_path / name}"]
        with pytest.raises(CheckpointError) as caught:
            evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
        assert message in str(caught.value)
        assert caught.value.exit_code == 4


def test_i06_weights_of_another_input_shape_are_named_with_both(trained, tmp_path):
    content = torch.load(trained / "train" / "best.pth", weights_only=True)
    name = "model.data_bn.weight"
    content["state_dict"][name] = torch.ones(8)
    torch.save(content, tmp_path / "shape.pth")
    words = [f"evaluate.checkpoint={tmp_path / 'shape.pth'}"]
    with pytest.raises(
        CheckpointError, match=r"data_bn\.weight: expected shape \(12,\), got shape \(8,\)"
    ):
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))


def test_i07_one_sample_and_a_batch_larger_than_the_data(trained, tmp_path):
    data, labels = waves(1, 4)
    folder = data_folder(tmp_path / "d", data, labels)
    words = [f"evaluate.test_dataset.data_path={folder}", "evaluate.batch_size=64"]
    facts = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    assert facts["accuracy"] in (0, 100)
    assert len(rows_of(tmp_path / "evaluate" / "predictions.csv")) == 1


def test_i07_no_sample_is_an_error(trained, tmp_path):
    folder = data_folder(tmp_path / "d", np.zeros((0, 3, 8, 4, 1), np.float32))
    words = [f"inference.test_dataset.data_path={folder}"]
    with pytest.raises(DataError, match="0 samples"):
        inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))


def test_i08_a_sample_that_comes_twice_is_answered_twice_alike(trained, tmp_path):
    data, _ = waves(3, 5)
    folder = data_folder(tmp_path / "d", np.concatenate([data, data[::-1]]))
    words = [f"inference.test_dataset.data_path={folder}", "inference.batch_size=4"]
    inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))
    rows = rows_of(tmp_path / "inference" / "predictions.csv")
    assert [row["id"] for row in rows] == list("012345")
    for i in range(3):
        assert rows[i]["label"] == rows[5 - i]["label"]
        first, second = (float(rows[k]["probability"]) for k in (i, 5 - i))
        assert first == pytest.approx(second, abs=1e-6)


def test_i16_classes_are_matched_by_name_whatever_their_numbers(trained, tmp_path):
    data, labels = waves(7, 1)
    turned = CLASSES[::-1]
    by_name = data_folder(tmp_path / "names", data, 2 - labels, classes=turned)
    samples = [{"id": f"t{i}", "label": int(2 - label)} for i, label in enumerate(labels)]
    by_number = data_folder(tmp_path / "numbers", data)
    text = json.dumps({"classes": turned, "samples": samples})
    (by_number / "test_label.json").write_text(text)
    with ShardWriter(tmp_path / "store", class_names=turned) as writer:
        for i, skeleton in enumerate(data):
            writer.add(skeleton, id=f"t{i}", label=int(2 - labels[i]))
    for folder in (by_name, by_number, tmp_path / "store"):
        words = [f"evaluate.test_dataset.data_path={folder}"]
        evaluate.run(NETWORK, spec_of("evaluate", trained, folder, *words))
        rows = rows_of(folder / "evaluate" / "predictions.csv")
        assert [row["truth"] for row in rows] == [CLASSES[i] for i in labels]


@pytest.mark.parametrize("kind", ["file", "store"])
def test_i16_a_class_that_the_checkpoint_does_not_have_is_told_with_both_lists(
    trained, tmp_path, kind
):
    data, labels = waves(6, 1)
    classes = ("still", "swim", "fly")
    if kind == "file":
        folder = data_folder(tmp_path / "d", data, labels, classes=classes)
    else:
        folder = tmp_path / "store"
        with ShardWriter(folder, class_names=classes) as writer:
            for i, skeleton in enumerate(data):
                writer.add(skeleton, id=f"t{i}", label=int(labels[i]))
    words = [f"evaluate.test_dataset.data_path={folder}"]
    with pytest.raises(CheckpointError) as caught:
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    assert caught.value.exit_code == 4
    assert str(caught.value).endswith(
        "expected the 3 classes of the checkpoint, ['jump', 'still', \"wave, 'hello'\"], got 2 "
        "others besides: 'fly', 'swim'. Relabel or remove these samples, or train with them."
    )


@pytest.fixture(scope="module")
def of_coco(tmp_path_factory):
    """A model of coco's 17 joints, which stands for one of as many joints in another order."""
    folder = tmp_path_factory.mktemp("coco")
    data = np.random.default_rng(0).normal(size=(8, 2, 8, 17, 1)).astype(np.float32)
    words = training_words(folder, data, "coco")
    words += [f"results_dir={folder}", "model.input_channels=2"]
    train.run(NETWORK, load_spec(SPECS["train"], None, words)[0])
    return folder / "train" / "pc_model_latest.pth"


@pytest.mark.parametrize("kind", ["file", "store"])
@pytest.mark.parametrize("action", [evaluate, inference])
def test_joints_in_another_order_than_those_of_the_checkpoint_are_refused(
    of_coco, tmp_path, action, kind
):
    data = np.random.default_rng(1).normal(size=(2, 2, 8, 17, 1)).astype(np.float32)
    names = {"class_names": ("a", "b"), "layout": "human3.6m"}
    if kind == "file":
        np.save(tmp_path / "test_data.npy", data)
        where = tmp_path / "test_label.json"
        write_labels(where, Labels(("c", "d"), np.arange(2), **names))
        path = tmp_path
    else:
        path = where = tmp_path / "store"
        with ShardWriter(path, **names) as writer:
            for i, skeleton in enumerate(data):
                writer.add(skeleton, id=f"t{i}", label=i)
    name = action.__name__.rpartition(".")[2]
    words = [
        f"results_dir={tmp_path}", f"{name}.checkpoint={of_coco}",
        f"{name}.test_dataset.data_path={path}",
    ]  # fmt: skip
    with pytest.raises(DataError) as told:
        action.run(NETWORK, load_spec(SPECS[name], None, words)[0])
    assert str(told.value) == (
        f"{where}: layout: expected 'coco', the model's, got 'human3.6m'. "
        "Convert the data to it; the checkpoint was trained with it."
    )


def test_i17_data_without_labels_are_answered_and_nothing_is_measured(trained, tmp_path, capsys):
    data, _ = waves(7, 1)
    path = data_folder(tmp_path / "d", data) / "test_data.npy"
    words = [f"evaluate.test_dataset.data_path={path}", "evaluate.occlusion=true"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        facts = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    assert facts == {"accuracy": None, "avg_accuracy": None}
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert (measured["samples"], measured["loss"], measured["top5_accuracy"]) == (0, None, None)
    assert len(rows_of(tmp_path / "evaluate" / "predictions.csv")) == 7
    said = capsys.readouterr()
    assert f"note: {path}: no labels, so there is nothing to measure.\n" in said.err
    assert "n/a" in said.out
    assert "No sample has a label" in (tmp_path / "evaluate" / "report.html").read_text()


def test_i17_absent_classes_are_n_a_and_one_class_is_enough(trained, tmp_path, capsys):
    data, labels = waves(9, 1)
    folder = data_folder(tmp_path / "d", data[labels == 1], labels[labels == 1])
    words = [f"evaluate.test_dataset.data_path={folder}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        facts = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    assert facts["accuracy"] == facts["avg_accuracy"]
    table = rows_of(tmp_path / "evaluate" / "per_class.csv")
    assert [row["accuracy"] == "n/a" for row in table] == [True, False, True]
    assert "2 of 3 classes have no sample: 'still', 'jump'" in capsys.readouterr().err
