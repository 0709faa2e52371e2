"""Encrypted checkpoints from training to export, and a key that is in no file, log or process."""

import json
import os
import signal

import pytest
import torch

import rooms
from kineme.actions import dry_run, evaluate, export, inference, train
from kineme.engine import checkpoint as checkpoints
from kineme.engine import encryption, ranks
from kineme.engine.encryption import LockedError
from kineme.engine.results import open_run
from kineme.errors import CheckpointError
from rooms import ROOMS
from stick import NETWORK, rows_of, spec_of, train_stick
from tiny import TINY, content_of, same, tiny_spec
from tiny_process import finish, start, wait_until

KEY = "correct horse battery staple"
CHEAP = {"cheap_keys": True}
LAST = "model_epoch_002_step_00018.pth"
WEIGHTS = {"best.pth", "best.safetensors", "last.safetensors", "ty_model_latest.pth", LAST}


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(encryption, "COST", encryption.Cost(log2_n=2, r=1, p=1))


def tiny_run(folder, **changes):
    return train.run(TINY, tiny_spec(folder, **{"train__num_epochs": 3, **changes}))


def opened(folder, name=LAST, key=KEY):
    """A checkpoint of ours without what may differ between equal runs."""
    content = dict(checkpoints.load_checkpoint(folder / "train" / name, key).content)
    for varying in ("results_dir", "train"):
        content["kineme"]["spec"].pop(varying)
    return content


def files_with(folder, *words):
    """Files below `folder` that hold one of `words` (bytes)."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert files
    return {path.name for path in files if any(word in path.read_bytes() for word in words)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    tiny_run(folder)
    return content_of(folder / "train" / LAST)


# Training


def test_everything_that_holds_weights_is_encrypted_and_trains_to_the_same_bits(tmp_path, plain):
    tiny_run(tmp_path, encryption_key=KEY, train__tensorboard=True)
    sealed = {p.name for p in (tmp_path / "train").iterdir() if p.is_file()
              and encryption.is_encrypted(p)}  # fmt: skip
    assert sealed == WEIGHTS | {"model_epoch_000_step_00006.pth", "model_epoch_001_step_00012.pth"}
    content = opened(tmp_path)
    content["kineme"]["spec"].pop("encryption_key", None)
    assert same(content, plain)
    tensors = [
        tensor.numpy().tobytes() for tensor in content["state_dict"].values() if tensor.dim()
    ]
    assert len(tensors) >= 6
    assert files_with(tmp_path, *tensors) == set()
    assert files_with(tmp_path, KEY.encode()) == set()
    best = checkpoints.load_checkpoint(tmp_path / "train" / "best.safetensors", KEY)
    assert best.facts["network"] == "tiny"


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, plain, epochs):
    tiny_run(tmp_path, encryption_key=KEY, train__num_epochs=epochs)
    tiny_run(tmp_path, encryption_key=KEY, train__resume=True)
    assert same(opened(tmp_path), plain)


def test_averaged_weights_and_a_roll_back_work_on_encrypted_checkpoints(tmp_path):
    bad = {"dataset__bad_sample": 25, "train__checkpoint_interval_unit": "step",
           "train__on_nan": "rollback", "train__ema_decay": 0.9}  # fmt: skip
    tiny_run(tmp_path, encryption_key=KEY, **bad)
    newest = checkpoints.load_newest(tmp_path / "train", KEY)[0]
    training = newest.facts["training"]
    assert training["progress"]["passed_over"]
    raw = [tensor.numpy().tobytes() for tensor in training["raw_state_dict"].values()]
    assert files_with(tmp_path, *[data for data in raw if len(data) > 8]) == set()


def test_resuming_without_the_key_or_with_another_is_an_error_and_changes_nothing(tmp_path):
    tiny_run(tmp_path, train__num_epochs=1)
    tiny_run(tmp_path, encryption_key=KEY, train__num_epochs=2, train__resume=True)
    newest = tmp_path / "train" / "model_epoch_001_step_00012.pth"
    before = newest.read_bytes()
    for key, said in ((None, "got none"), ("another key of mine", "got one of another key")):
        with pytest.raises(LockedError, match=said) as caught:
            tiny_run(tmp_path, encryption_key=key, train__resume=True)
        assert caught.value.exit_code == 4
        assert newest.name in str(caught.value)
    assert newest.read_bytes() == before
    assert checkpoints.find_checkpoints(tmp_path / "train")[-1] == newest


def test_a_plain_run_goes_on_encrypted_and_that_is_told(tmp_path, plain, capfd):
    tiny_run(tmp_path, train__num_epochs=1)
    tiny_run(tmp_path, encryption_key=KEY, train__resume=True)
    path = tmp_path / "train" / "model_epoch_000_step_00006.pth"
    told = f"note: {path} is not encrypted: it was read without encryption_key.\n"
    assert told in capfd.readouterr().err
    assert same(opened(tmp_path), plain)


def test_weights_to_start_from_may_be_encrypted_and_a_short_key_is_told(tmp_path, capfd):
    tiny_run(tmp_path / "a", encryption_key="short key", train__num_epochs=1)
    source = tmp_path / "a" / "train" / "best.safetensors"
    words = {"model__pretrained_model_path": str(source), "train__num_epochs": 1}
    tiny_run(tmp_path / "b", encryption_key="short key", **words)
    told = capfd.readouterr().err
    assert f"{source}: 9 of 9 tensors loaded" in told
    assert told.count("encryption_key is shorter than 12 characters") == 2
    with pytest.raises(LockedError, match=r"best\.safetensors: expected the encryption_key"):
        tiny_run(tmp_path / "c", **words)


@pytest.mark.parametrize(
    "kill_in", [("fsync", 5, "before"), ("replace", 4, "before"), ("replace", 4, "after")]
)
def test_a_run_that_is_killed_while_saving_loses_nothing(tmp_path, plain, kill_in):
    settings = {"encryption_key": KEY, "train__num_epochs": 3,
                "train__checkpoint_interval_unit": "step"}  # fmt: skip
    process = start(tmp_path, faults={"kill_in": kill_in, **CHEAP}, **settings)
    assert finish(process) == -signal.SIGKILL
    for path in checkpoints.find_checkpoints(tmp_path / "train"):
        checkpoints.load_checkpoint(path, KEY)
    assert finish(start(tmp_path, faults=CHEAP, train__resume=True, **settings)) == 0
    assert same(opened(tmp_path)["state_dict"], plain["state_dict"])


def test_a_signal_leaves_an_encrypted_checkpoint(tmp_path):
    process = start(tmp_path, faults=CHEAP, encryption_key=KEY, train__num_epochs=500)
    wait_until(lambda: checkpoints.find_checkpoints(tmp_path / "train"))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 143
    newest = checkpoints.find_checkpoints(tmp_path / "train")[-1]
    assert encryption.is_encrypted(newest)
    checkpoints.load_checkpoint(newest, KEY)


def test_two_processes_train_and_resume_with_a_key_that_neither_shows(tmp_path):
    two = {"encryption_key": KEY, "train__num_gpus": 2, "train__num_epochs": 3}
    faults = {"fork": True, **CHEAP}
    process = start(tmp_path, faults=faults, dataset__seconds=0.05, **two)
    wait_until(lambda: checkpoints.find_checkpoints(tmp_path / "train"))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 143
    assert finish(start(tmp_path, faults=faults, train__resume=True, **two)) == 0
    assert finish(start(tmp_path / "whole", faults=faults, **two)) == 0
    name = checkpoints.find_checkpoints(tmp_path / "whole" / "train")[-1].name
    assert same(opened(tmp_path, name), opened(tmp_path / "whole", name))
    assert files_with(tmp_path, KEY.encode()) == set()


# The actions that follow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data, a training of them whose best.pth is encrypted, and the same file plain."""
    folder, real = tmp_path_factory.mktemp("sealed"), encryption.COST
    train_stick(folder)
    best = folder / "train" / "best.pth"
    best.rename(folder / "plain.pth")
    encryption.COST = encryption.Cost(log2_n=2, r=1, p=1)
    content = checkpoints.load_checkpoint(folder / "plain.pth").content
    checkpoints.save(best, content, KEY)
    encryption.COST = real
    return folder


ACTIONS = {"evaluate": evaluate.run, "inference": inference.run, "export": export.run}


@pytest.mark.parametrize("action", ["evaluate", "inference"])
def test_an_action_needs_the_key_and_then_says_what_it_says_of_the_plain_file(
    trained, tmp_path, action, capfd
):
    check_locked(action, trained, tmp_path)
    key, plain = f"encryption_key={KEY}", f"{action}.checkpoint={trained / 'plain.pth'}"
    ACTIONS[action](NETWORK, spec_of(action, trained, tmp_path / "sealed", key))
    assert "not encrypted" not in capfd.readouterr().err
    ACTIONS[action](NETWORK, spec_of(action, trained, tmp_path / "plain", key, plain))
    assert "plain.pth is not encrypted: it was read without" in capfd.readouterr().err
    tables = [tmp_path / name / action / "predictions.csv" for name in ("sealed", "plain")]
    assert tables[0].read_text() == tables[1].read_text()
    assert files_with(tmp_path, KEY.encode()) == set()


def test_two_processes_judge_an_encrypted_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "START_METHOD", "fork")
    key, found = f"encryption_key={KEY}", []
    for words in (["evaluate.num_gpus=2", "evaluate.batch_size=2"], []):
        folder = tmp_path / str(len(words))
        evaluate.run(NETWORK, spec_of("evaluate", trained, folder, key, "device=cpu", *words))
        rows = rows_of(folder / "evaluate" / "predictions.csv")
        found.append([float(row["probability"]) for row in rows])
    assert found[0] == pytest.approx(found[1], abs=2e-6)
    assert files_with(tmp_path, KEY.encode()) == set()


def test_export_needs_the_key_and_says_that_onnx_is_not_encrypted(
    trained, tmp_path, capfd, monkeypatch
):
    check_locked("export", trained, tmp_path)
    models = []

    def save(model, form, path):
        models.append(model)
        path.write_bytes(b"onnx")

    monkeypatch.setattr(export, "save_onnx", save)
    monkeypatch.setattr(export, "compare", lambda *_: {"max_abs_difference": 0.0})
    export.run(NETWORK, spec_of("export", trained, tmp_path, f"encryption_key={KEY}"))
    assert (tmp_path / "export" / "model.onnx").read_bytes() == b"onnx"
    told = "model.onnx is not encrypted: encryption_key is for checkpoints alone."
    assert told in capfd.readouterr().err
    weights = checkpoints.load_checkpoint(trained / "plain.pth").weights
    assert same(dict(models[0].state_dict()), dict(weights))
    assert files_with(tmp_path, KEY.encode()) == set()


def check_locked(action, trained, tmp_path):
    """Without the key or with another one the action, and its dry run, ends with 4."""
    for words, said in (([], "got none"), (["encryption_key=another key"], "of another key")):
        spec = spec_of(action, trained, tmp_path, *words)
        with pytest.raises(CheckpointError, match=said) as caught:
            ACTIONS[action](NETWORK, spec)
        assert caught.value.exit_code == 4
        assert not (tmp_path / action).exists()
        with pytest.raises(CheckpointError, match=said):
            list(dry_run.check(NETWORK, spec))
    spec = spec_of(action, trained, tmp_path, f"encryption_key={KEY}")
    assert any("best.pth fits" in line for line in dry_run.check(NETWORK, spec))


@pytest.mark.parametrize(("title", "part"), [
    ("pose_classification", ""), ("action_recognition, two streams", "rgb_"),
    ("action_recognition, two streams", "of_"), ("action_recognition, two streams", "joint_"),
])  # fmt: skip
def test_both_networks_start_from_encrypted_weights_whole_or_by_stream(tmp_path, title, part):
    room, source = ROOMS[title], tmp_path / "source.pth"
    network = room.network
    (tmp_path / "stick.yaml").write_text(json.dumps(rooms.stick.LAYOUT))
    words = [f"encryption_key={KEY}", f"model.{part}pretrained_model_path={source}"]
    words += ["dataset.label_map={catch: 0, smile: 1}"] if part else []
    spec = room.train_spec(tmp_path, tmp_path, *words)
    torch.manual_seed(1)
    model, fresh = network.build_model(spec), network.build_model(spec)
    ((name, path),) = network.common(spec).pretrained.items()
    weights = model.get_submodule(name).state_dict()
    checkpoints.save(source, {"state_dict": weights}, KEY)
    with open_run(network, "train", spec) as run:
        train._load_pretrained(network, spec, fresh, run, part=name, path=path)
    assert same(dict(fresh.get_submodule(name).state_dict()), dict(weights))
