"""What every network promises: the same tests for all of them, on a tiny data set of each."""

import functools
import json
import os
import random
import signal
import socket
import time
from collections import defaultdict

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

import rooms
from kineme import cli
from kineme.actions import evaluate, export, inference, train
from kineme.engine import checkpoint as checkpoints
from kineme.engine.results import read_metrics
from kineme.errors import DataError
from kineme.network import NETWORKS, TRAIN, VAL
from kineme.signals import Interrupted
from kineme.spec.load import value_at, with_values
from rooms import NUM_VAL, ROOMS, STEPS
from stick import rows_of
from test_train_processes import check_intact, newest
from tiny import same
from tiny_process import finish, session_processes, wait_until
from tiny_training import stop_at

LAST = f"model_epoch_001_step_{2 * STEPS:05d}.pth"
TITLES = list(ROOMS)


class Trained:
    """A room, its data and a run of two epochs that nothing disturbed."""

    def __init__(self, title, folder):
        self.title, self.room = title, ROOMS[title]
        self.data, self.folder = folder / "data", folder / "whole"
        self.data.mkdir()
        self.room.make(self.data)
        torch.set_num_threads(1)
        self.facts = train.run(self.room.network, self.room.train_spec(self.data, self.folder))
        self.best = self.folder / "train" / "best.pth"


@pytest.fixture(scope="module", params=TITLES)
def whole(request, tmp_path_factory):
    return Trained(request.param, tmp_path_factory.mktemp("room"))


def state_of(path):
    """All that a checkpoint remembers but what was asked for and where."""
    content = torch.load(path, weights_only=True)
    del content["kineme"]["spec"]
    return content


def test_every_network_has_a_room_here():
    assert {room.network_name for room in ROOMS.values()} == set(NETWORKS)


# Training


@pytest.mark.parametrize(
    ("whole", "workers"),
    [
        *((title, workers) for title in TITLES[:2] for workers in (0, 2)),
        (TITLES[2], 0),
        pytest.param(TITLES[2], 2, marks=pytest.mark.slow),
    ],
    indirect=["whole"],
)
def test_a_run_stopped_at_any_step_ends_bitwise_like_one_that_was_not(
    whole, tmp_path, monkeypatch, workers
):
    room = whole.room
    words = [room.workers] if workers else []
    for step in room.stops[workers]:
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(Interrupted) as stopped:
                train.run(room.network, room.train_spec(whole.data, folder, *words))
        assert stopped.value.exit_code == 143
        assert newest(folder)[0].name.endswith(f"{step:05d}.pth")
        words_then = [*words, "train.resume=true"]
        train.run(room.network, room.train_spec(whole.data, folder, *words_then))
        ours, theirs = (state_of(f / "train" / LAST) for f in (folder, whole.folder))
        assert same(ours, theirs)
        rows = [read_metrics(f / "train" / "metrics.csv") for f in (folder, whole.folder)]
        assert [{**row, "seconds": ""} for row in rows[0]] == [
            {**row, "seconds": ""} for row in rows[1]
        ]


@pytest.mark.parametrize("title", TITLES[:2])
def test_runs_that_are_killed_and_stopped_lose_nothing(title, tmp_path):
    """T01, T04: kill -9 and SIGTERM at random instants; then the weights of a whole run."""
    room, data, folder = ROOMS[title], tmp_path / "data", tmp_path / "run"
    data.mkdir()
    room.make(data)
    words = [
        *room.light, "train.checkpoint_interval_unit=step", "train.validation_interval=100",
        "train.resume=true",
    ]  # fmt: skip
    draw = random.Random(5)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        first = newest(folder)
        process = rooms.start(title, data, folder, *words, "train.num_epochs=500")
        wait_until(lambda first=first: newest(folder) != first)
        time.sleep(draw.uniform(0.0, 0.5))
        seen = newest(folder)
        os.killpg(process.pid, number)
        code = finish(process)
        wait_until(lambda process=process: not session_processes(process.pid), 10)
        assert code == (-9 if number == signal.SIGKILL else 143)
        assert check_intact(folder) >= 1
        assert newest(folder) >= seen
    epochs = int(newest(folder)[0].name[12:15]) + 1
    words[-2] = f"train.validation_interval={epochs}"
    words.append(f"train.num_epochs={epochs}")
    for results in (folder, tmp_path / "whole"):
        train.run(room.network, room.train_spec(data, results, *words))
    assert same(*(state_of(newest(f)[0]) for f in (folder, tmp_path / "whole")))
    assert not [path for path in (folder / "train").iterdir() if ".tmp-" in path.name]


@pytest.mark.parametrize("title", TITLES[:2])
def test_two_processes_see_each_sample_once(title, tmp_path):
    room, data, folder = ROOMS[title], tmp_path / "data", tmp_path / "run"
    data.mkdir()
    room.make(data)
    two = {"fork": True, "record": True}
    words = [*room.light, "train.num_gpus=2", "dataset.batch_size=2"]
    assert finish(rooms.start(title, data, folder, *words, faults=two), 120) == 0
    seen = defaultdict(list)
    processes = set()
    for line in (folder / "seen.txt").read_text().splitlines():
        epoch, process, *samples = map(int, line.split())
        seen[epoch] += samples
        processes.add(process)
    assert len(processes) == 2
    assert {epoch: sorted(samples) for epoch, samples in seen.items()} == {
        epoch: list(range(rooms.NUM_TRAIN)) for epoch in (0, 1)
    }
    assert seen[0] != seen[1]
    words = ["evaluate.num_gpus=2", "evaluate.batch_size=2"]
    process = rooms.start(title, data, folder, *words, action="evaluate", faults={"fork": True})
    assert finish(process, 120) == 0
    rows = rows_of(folder / "evaluate" / "predictions.csv")
    assert [row["id"] for row in rows] == list(room.ids)
    # validation in two processes while training, and one process now, say the same
    spec = room.spec("evaluate", folder / "train" / "best.pth", tmp_path, data=data)
    facts = evaluate.run(room.network, spec)
    ours = rows_of(tmp_path / "evaluate" / "predictions.csv")
    for row, other in zip(rows, ours, strict=True):
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-6)
    best = int(torch.load(folder / "train" / "best.pth", weights_only=True)["epoch"])
    trained = read_metrics(folder / "train" / "metrics.csv")[best]
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert facts["accuracy"] == pytest.approx(100 * float(trained["val_acc"]), abs=1e-3)
    assert measured["loss"] == pytest.approx(float(trained["val_loss"]), rel=1e-4)


@pytest.mark.parametrize("whole", TITLES[:1], indirect=True)
@pytest.mark.parametrize("launcher", ["two nodes", "torchrun"])
def test_processes_that_others_started_judge_together(launcher, whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    (tmp_path / "train").mkdir()
    os.link(whole.best, tmp_path / "train" / "best.pth")
    processes = []
    for rank in ("0", "1"):
        if launcher == "torchrun":
            own = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": "2"}
            word = "evaluate.num_gpus=2"
        else:
            own, word = {"NODE_RANK": rank}, "evaluate.num_nodes=2"
        faults = {"fork": True, "environment": {**address, **own}}
        words = [word, "evaluate.batch_size=2"]
        start = functools.partial(rooms.start, action="evaluate", faults=faults)
        processes.append(start(whole.title, whole.data, tmp_path, *words))
    assert [finish(process, 120) for process in processes] == [0, 0]
    assert (tmp_path / "err.txt").read_text().count("5 samples judged") == 1
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    assert [row["id"] for row in rows] == list(whole.room.ids)
    lines = (tmp_path / "evaluate" / "status.json").read_text().splitlines()
    assert sum(json.loads(line)["status"] == "SUCCESS" for line in lines) == 1


def test_training_leaves_the_promised_files(whole):
    names = {path.name for path in (whole.folder / "train").iterdir()}
    prefix = whole.room.network.prefix
    assert names == {
        "best.json", "best.pth", "best.safetensors", "experiment.yaml", "last.json",
        "last.safetensors", "log.txt", "metrics.csv", "status.json", LAST,
        f"model_epoch_000_step_{STEPS:05d}.pth", f"{prefix}_model_latest.pth",
    }  # fmt: skip
    assert os.readlink(whole.folder / "train" / f"{prefix}_model_latest.pth") == LAST
    assert sum(row["epoch"] != "" for row in read_metrics(whole.folder / "train/metrics.csv")) == 2
    said = [json.loads(x) for x in (whole.folder / "train/status.json").read_text().splitlines()]
    assert (said[0]["status"], said[-1]["status"]) == ("STARTED", "SUCCESS")
    assert said[-1]["kpi"] == whole.facts
    content = torch.load(whole.best, weights_only=True)
    assert content["kineme"]["class_names"] == list(whole.room.classes)
    assert content["kineme"]["network"] == whole.room.network_name


# What comes later needs the checkpoint alone


@pytest.fixture(scope="module")
def alone(whole, tmp_path_factory):
    """The checkpoint and the data to judge, in other places than they were trained at."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "model.pth").write_bytes(whole.best.read_bytes())
    whole.room.make(folder)
    for path in [*folder.glob("*.yaml"), *folder.glob("train*")]:
        os.rename(path, folder / f"gone-{path.name}")
    return folder


def asked(whole, alone, action, results, *words):
    return whole.room.spec(action, alone / "model.pth", results, *words, data=alone)


def loss_of(rows):
    """The cross entropy that the probabilities of a predictions.csv have."""
    return -np.mean([np.log(dict(pairs_of(row))[row["truth"]]) for row in rows])


def test_without_calibration_predictions_have_the_loss_that_is_told(whole, alone, tmp_path):
    spec = asked(whole, alone, "evaluate", tmp_path, "evaluate.calibrate=false")
    evaluate.run(whole.room.network, spec)
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    assert measured["loss"] == pytest.approx(loss_of(rows), rel=1e-4)


def test_an_evaluation_agrees_with_itself_in_every_file(whole, alone, tmp_path, capsys):
    network, names = whole.room.network, whole.room.classes
    facts = evaluate.run(network, asked(whole, alone, "evaluate", tmp_path))
    folder = tmp_path / "evaluate"
    assert {path.name for path in folder.iterdir()} == {
        "confusion_matrix.csv", "confusion_matrix.png", "experiment.yaml", "log.txt",
        "metrics.json", "per_class.csv", "predictions.csv", "predictions.jsonl", "report.html",
        "status.json",
    }  # fmt: skip
    rows = rows_of(folder / "predictions.csv")
    assert [row["id"] for row in rows] == list(whole.room.ids)
    right = sum(row["label"] == row["truth"] for row in rows)
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["accuracy"] == facts["accuracy"] == pytest.approx(100 * right / NUM_VAL)
    assert measured[network.mean_accuracy] == facts[network.mean_accuracy]
    confusion = np.zeros((len(names), len(names)), int)
    for row in rows:
        confusion[names.index(row["truth"]), names.index(row["label"])] += 1
        assert float(row["probability"]) >= 1 / len(names)
    assert measured["confusion"] == confusion.tolist()
    trust = measured["calibration"]
    assert trust["nll_after"] == pytest.approx(loss_of(rows), rel=1e-4)
    assert trust["nll_before"] == pytest.approx(measured["loss"], rel=1e-6)
    lines = [json.loads(x) for x in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [row["label"] for row in rows]
    assert network.score_text(measured) in capsys.readouterr().out
    report = (folder / "report.html").read_text()
    assert f"{right} of {NUM_VAL} right" in report
    used = yaml.safe_load((folder / "experiment.yaml").read_text())
    trained = yaml.safe_load((whole.folder / "train" / "experiment.yaml").read_text())
    for key in network.identity:
        assert at(used, key) == at(trained, key), key


def pairs_of(row):
    """(class, probability) of every class in a row of predictions.csv."""
    yield row["label"], float(row["probability"])
    for place in range(2, 6):
        if row.get(f"label_{place}"):
            yield row[f"label_{place}"], float(row[f"probability_{place}"])


def at(tree, key):
    for name in key.split("."):
        tree = tree[name]
    return tree


def test_inference_says_what_evaluation_says_in_both_forms(whole, alone, tmp_path):
    network = whole.room.network
    facts = inference.run(network, asked(whole, alone, "inference", tmp_path, "inference.top_k=2"))
    folder = tmp_path / "inference"
    assert {"experiment.yaml", "log.txt", "predictions.csv", "predictions.jsonl", "results.txt",
            "status.json"} == {path.name for path in folder.iterdir()}  # fmt: skip
    rows = rows_of(folder / "predictions.csv")
    assert facts["samples"] == NUM_VAL == len(rows)
    assert [row["id"] for row in rows] == list(whole.room.ids)
    evaluate.run(network, asked(whole, alone, "evaluate", tmp_path))
    for row, other in zip(rows, rows_of(tmp_path / "evaluate" / "predictions.csv"), strict=True):
        assert row["label"] == other["label"]
        assert float(row["probability"]) == pytest.approx(float(other["probability"]), abs=2e-6)
    text = (folder / "results.txt").read_text().splitlines()
    assert len(text) == NUM_VAL
    for line, row in zip(text, rows, strict=True):
        assert row["label"] in line
    assert json.loads((folder / "status.json").read_text().splitlines()[-1])["status"] == "SUCCESS"


def test_batches_of_any_size_give_the_same_scores(whole, alone, tmp_path):
    found = []
    for size in (1, 64):
        words = [f"inference.batch_size={size}"]
        results = tmp_path / str(size)
        inference.run(whole.room.network, asked(whole, alone, "inference", results, *words))
        found.append(rows_of(results / "inference" / "predictions.csv"))
    assert [row["label"] for row in found[0]] == [row["label"] for row in found[1]]
    shares = [[float(row["probability"]) for row in rows] for rows in found]
    np.testing.assert_allclose(*shares, atol=2e-6)


@pytest.mark.parametrize(
    "whole",
    [pytest.param(title, marks=[pytest.mark.slow] * (title != TITLES[1])) for title in TITLES],
    indirect=True,
)
def test_an_exported_model_gives_the_checkpoints_answers(whole, alone, tmp_path):
    network = whole.room.network
    spec = asked(whole, alone, "export", tmp_path)
    facts = export.run(network, spec)
    folder = tmp_path / "export"
    assert {path.name for path in folder.iterdir()} == {
        "experiment.yaml", "export.json", "log.txt", "model.onnx", "status.json",
    }  # fmt: skip
    said = json.loads((folder / "export.json").read_text())
    assert said["labels"] == list(whole.room.classes)
    assert said["parity"]["equal_predictions"] == said["parity"]["samples"] >= 64
    assert facts["onnx_file"] == str(folder / "model.onnx")
    loaded = checkpoints.load_checkpoint(alone / "model.pth")
    restored = checkpoints.restore_spec(spec, loaded, network.identity)
    model = network.build_model(restored).eval()
    checkpoints.load_weights(model, loaded)
    form = network.export_form(restored)
    session = onnxruntime.InferenceSession(facts["onnx_file"])
    assert [i.name for i in session.get_inputs()] == list(form.names.values())
    assert all(i.shape[0] == "batch" for i in session.get_inputs())
    with torch.no_grad():
        ours = model(**form.examples).numpy()
    feeds = {form.names[word]: x.numpy() for word, x in form.examples.items()}
    np.testing.assert_allclose(session.run(["fc_pred"], feeds)[0], ours, atol=1e-4)
    metadata = {p.key: json.loads(p.value) for p in onnx.load(facts["onnx_file"]).metadata_props}
    assert metadata["network"] == whole.room.network_name
    assert metadata["labels"] == list(whole.room.classes)


@pytest.mark.parametrize("action", ["evaluate", "inference", "export"])
def test_a_spec_that_contradicts_the_checkpoint_is_refused_with_both_values(
    whole, alone, tmp_path, capsys, action
):
    word, expected = whole.room.contradiction
    names = {"evaluate": whole.room.test, "inference": whole.room.unlabelled}
    words = [f"results_dir={tmp_path}", f"{action}.checkpoint={alone / 'model.pth'}", word]
    words += [names[action].format(data=alone)] if action in names else []
    assert cli.main([whole.room.network_name, action, *words]) == 4
    said = capsys.readouterr().err
    key = word.split("=")[0]
    assert f"{key}: expected {expected.format(name='model.pth')}" in said
    assert not (tmp_path / action).exists()


def test_identity_is_made_of_fields_that_there_are(whole, alone, tmp_path):
    spec = asked(whole, alone, "export", tmp_path)
    for key in whole.room.network.identity:
        value_at(spec, key)


def test_settings_that_messages_name_are_those_that_are_meant(whole, alone, tmp_path):
    spec = whole.room.train_spec(whole.data, tmp_path)
    common = whole.room.network.common(spec)
    assert value_at(spec, common.num_workers_key) == common.num_workers
    assert value_at(spec, common.grad_clip_key) == common.grad_clip


def test_v30_leaks_are_looked_for_where_a_model_is_trained_alone(whole, alone, tmp_path):
    """An export is judged by validation data, also where the training data are not at hand."""
    network, spec = whole.room.network, asked(whole, alone, "export", tmp_path)
    spec = checkpoints.restore_spec(
        spec, checkpoints.load_checkpoint(whole.best), network.identity, network.inherited
    )
    trained = whole.room.train_spec(whole.data, tmp_path)
    values = {key: value_at(trained, key) for key in network.data_keys[VAL]}
    absent = {network.data_keys[TRAIN][0]: str(tmp_path / "nowhere")}
    spec, _ = network.complete(with_values(spec, values | absent), VAL)
    assert len(network.build_dataset(spec, VAL)) == NUM_VAL
    trained, _ = network.complete(trained, TRAIN)
    with pytest.raises(DataError, match="nowhere"):
        network.build_dataset(with_values(trained, absent), VAL)
