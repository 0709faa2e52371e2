"""Specs whose data lie in an object store or an archive, run as if they lay here."""

import io
import json

import numpy as np
import pytest

from kineme import cli
from kineme.action_recognition.spec import SPECS as VIDEO_SPECS
from kineme.data import shards
from kineme.data.remote import staging
from kineme.data.remote.staging import localized
from kineme.errors import DataError, SpecError
from kineme.network import PREDICT, TRAIN, VAL
from kineme.pose_classification.paths import resolve_paths
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec, user_set, value_at
from packed import tar_of, zip_of
from stick import rows_of, train_stick, waves
from stores import KEY_ID, SECRET, moto, store_at

TRAIN_DATA, VAL_DATA = "dataset.train_dataset.data_path", "dataset.val_dataset.data_path"


@pytest.fixture(scope="module")
def url():
    with moto() as url:
        store_at(url)._client.create_bucket(Bucket="data")
        yield url


@pytest.fixture
def client(url, monkeypatch, tmp_path):
    monkeypatch.setenv("S3_ENDPOINT_URL", url)
    monkeypatch.setenv("ACCESS_KEY", KEY_ID)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    return store_at(url)._client


def put(client, key, data):
    client.put_object(Bucket="data", Key=key, Body=data)


def spec_of(action="train", specs=SPECS, **values):
    values = {name.replace("__", "."): value for name, value in values.items()}
    return load_spec(specs[action], None, {"results_dir": "out", **values})[0]


def data_files(num, seed, prefix):
    """Names -> bytes of a labelled split, as users have them."""
    data, labels = waves(num, seed)
    array = io.BytesIO()
    np.save(array, data)
    names = [f"{prefix}{i}" for i in range(num)]
    text = json.dumps([names, labels.tolist()])
    return {f"{prefix}_data.npy": array.getvalue(), f"{prefix}_label.json": text.encode()}


# localized


def test_each_address_that_is_read_becomes_a_path_with_a_note(client, tmp_path):
    put(client, "x/train_data.npy", b"data")
    put(client, "x/train_label.pkl", b"labels")
    put(client, "w/model.pth", b"weights")
    spec = spec_of(**{
        TRAIN_DATA: "s3://data/x/train_data.npy",
        "dataset.train_dataset.label_path": "s3://data/x/train_label.pkl",
        VAL_DATA: "here.npy", "model.pretrained_model_path": "s3://data/w/model.pth",
    })  # fmt: skip
    before = user_set(spec)
    told = []
    found, notes = localized(spec, tell=told.append)
    train = found.dataset.train_dataset
    for path, content in (
        (train.data_path, b"data"), (train.label_path, b"labels"),
        (found.model.pretrained_model_path, b"weights"),
    ):  # fmt: skip
        with open(path, "rb") as file:
            assert file.read() == content
    assert train.data_path.startswith(str(tmp_path / "cache" / "remote"))
    assert train.data_path.endswith("/train_data.npy")
    assert (found.dataset.val_dataset.data_path, found.results_dir) == ("here.npy", "out")
    assert user_set(found) == before
    order = ["model.pretrained_model_path", TRAIN_DATA, "dataset.train_dataset.label_path"]
    assert [note.partition(": ")[0] for note in notes] == order
    assert f"{TRAIN_DATA}: s3://data/x/train_data.npy is read from {train.data_path}." in notes
    assert [text.split()[0] for text in told] == ["fetching"] * 3


def test_a_spec_without_addresses_is_the_same_and_needs_no_store(monkeypatch):
    spec = spec_of(**{TRAIN_DATA: "here.npy"})
    assert localized(spec) == (spec, ())


def test_what_another_action_reads_is_not_fetched(client):
    put(client, "x/model.pth", b"weights")
    values = {
        "evaluate.checkpoint": "s3://data/x/model.pth", "evaluate.test_dataset.data_path": "a.npy",
        TRAIN_DATA: "s3://data/none", "inference.checkpoint": "s3://data/none",
    }  # fmt: skip
    found, notes = localized(spec_of("evaluate", **values))
    assert found.evaluate.checkpoint.endswith("/model.pth")
    assert value_at(found, TRAIN_DATA) == "s3://data/none"
    assert f"{TRAIN_DATA}: not fetched, as evaluate does not read it." in notes
    assert "inference.checkpoint: not fetched, as evaluate does not read it." in notes


@pytest.mark.parametrize(
    ("action", "words", "reads"),
    [("evaluate", ["evaluate.k_fold=2"], ["train.distill.teacher", TRAIN_DATA]),
     ("export", ["export.precision=int8", "export.checkpoint=c.pth"], [TRAIN_DATA]),
     ("export", ["export.checkpoint=c.pth"], [])],
)  # fmt: skip
def test_what_folds_and_an_export_in_fewer_bits_read_is_fetched(monkeypatch, action, words, reads):
    asked = []

    def fetch(address, **_):
        asked.append(str(address))
        return "here"

    monkeypatch.setattr(staging, "fetched", fetch)
    keys = ["train.distill.teacher", TRAIN_DATA]
    told = [f"{key}=s3://bucket/{key}" for key in keys]
    spec, _ = load_spec(SPECS[action], None, ["results_dir=r", *words, *told])
    localized(spec)
    assert sorted(asked) == sorted(f"s3://bucket/{key}" for key in reads)


def test_j22_every_address_that_cannot_be_is_refused_before_anything_is_fetched(client):
    put(client, "x/train_data.npy", b"data")
    values = {
        TRAIN_DATA: "s3://data/x/train_data.npy", VAL_DATA: "s3://data/../x",
        "results_dir": "s3://data/out", "train.results_dir": "s3://data/out",
         "model.pretrained_model_path": "https://host/w.pth",
    }  # fmt: skip
    told = []
    with pytest.raises(SpecError) as error:
        localized(spec_of(**values), tell=told.append)
    assert told == []
    assert {problem.where for problem in error.value.problems} == {*values} - {TRAIN_DATA}
    assert (
        "results_dir: expected a path on this machine, got an address (s3://...). Results are "
        "written here; a job sends them to an address afterwards."
    ) in [str(problem) for problem in error.value.problems]


def test_videos_come_to_the_cache_that_their_spec_names(client, tmp_path):
    put(client, "v/run/1.mp4", b"1")
    put(client, "v/walk/2.mp4", b"2")
    spec = spec_of(
        specs=VIDEO_SPECS, dataset__train_dataset_dir="s3://data/v",
        dataset__cache_dir=str(tmp_path / "own"),
    )  # fmt: skip
    found, _ = localized(spec)
    folder = found.dataset.train_dataset_dir
    assert folder.startswith(str(tmp_path / "own" / "remote"))
    assert sorted(p.name for p in (tmp_path / "own").rglob("*.mp4")) == ["1.mp4", "2.mp4"]


# Archives of skeletons


def section(**words):
    return spec_of(**{
        f"dataset.train_dataset.{name}": str(value) for name, value in words.items()
    }).dataset.train_dataset  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["train.tar.gz", "train.tgz", "train.zip", "train.tar", "anything"]
)
@pytest.mark.parametrize("top", ["", "dataset/", "a/b/"])
@pytest.mark.parametrize("beside", [{}, {"README.md": b"of whom", "__MACOSX/._x": b"of Finder"}])
def test_an_archive_stands_for_what_is_in_it_or_in_its_one_folder(
    client, tmp_path, kind, top, beside
):
    files = {top + name: data for name, data in data_files(3, 0, "train").items()}
    files |= {top + name: data for name, data in data_files(3, 1, "val").items()}
    path = tmp_path / kind
    if kind.endswith(".zip"):
        zip_of(path, files | beside)
    else:
        tar_of(path, files | beside, mode="w" if kind.endswith((".tar", "thing")) else "w:gz")
    for split, prefix in ((TRAIN, "train"), (VAL, "val"), (PREDICT, "val")):
        data, label = resolve_paths(section(data_path=path), split)
        assert data.name == f"{prefix}_data.npy"
        assert data.read_bytes() == files[f"{top}{prefix}_data.npy"]
        assert (label.name, label.parent) == (f"{prefix}_label.json", data.parent)
    assert data.is_relative_to(tmp_path / "cache" / "archives")


def test_data_and_labels_may_be_two_archives_or_one_of_them(client, tmp_path):
    files = data_files(3, 0, "train")
    data, label = tmp_path / "data.tar.gz", tmp_path / "label.zip"
    tar_of(data, {"train_data.npy": files["train_data.npy"]}, mode="w:gz")
    zip_of(label, {"x/train_label.json": files["train_label.json"]})
    found = resolve_paths(section(data_path=data, label_path=label), TRAIN)
    assert [path.name for path in found] == ["train_data.npy", "train_label.json"]
    (tmp_path / "here.json").write_bytes(files["train_label.json"])
    found = resolve_paths(section(data_path=data, label_path=tmp_path / "here.json"), TRAIN)
    assert found[1] == tmp_path / "here.json"


def test_an_archive_of_a_sharded_store_is_that_store(client, tmp_path):
    data, labels = waves(4, 0)
    with shards.ShardWriter(tmp_path / "store") as writer:
        for index, sample in enumerate(data):
            writer.add(sample, id=f"s{index}", label=int(labels[index]))
    files = {f"store/{p.name}": p.read_bytes() for p in (tmp_path / "store").iterdir()}
    found, label = resolve_paths(section(data_path=tar_of(tmp_path / "s.tar", files)), TRAIN)
    assert (found.name, label) == ("store", None)
    assert shards.open_shards(found).shape[0] == 4


def test_an_archive_without_data_or_that_is_damaged_is_one_line(client, tmp_path):
    path = tar_of(tmp_path / "a.tar.gz", {"x/notes.txt": b"n" * 100}, mode="w:gz")
    with pytest.raises(DataError, match=r"one of train_data\.npy, data\.npy for dataset\.train"):
        resolve_paths(section(data_path=path), TRAIN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="expected a whole archive"):
        resolve_paths(section(data_path=path), TRAIN)


def test_arrays_are_arrays_whatever_they_begin_with(client, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert resolve_paths(section(data_path=tmp_path / "a.npz"), TRAIN)[0] == tmp_path / "a.npz"


# From a bucket to answers, by the command


def command(*words):
    base = ["dataset.num_workers=0", "--log-json"]
    return cli.main(["pose_classification", *words, *base])


def test_a_model_of_a_bucket_is_asked_about_a_folder_and_an_archive_there(client, tmp_path, capsys):
    local = tmp_path / "local"
    local.mkdir()
    train_stick(local)
    train = data_files(12, 0, "train") | data_files(7, 1, "val")
    for name, data in train.items():
        put(client, f"set/{name}", data)
    packed = tar_of(tmp_path / "val.tar.gz", data_files(7, 1, "val"), mode="w:gz")
    put(client, "packed/val.tar.gz", packed.read_bytes())
    put(client, "models/best.pth", (local / "train" / "best.pth").read_bytes())
    results = tmp_path / "results"
    words = [
        "evaluate.checkpoint=s3://data/models/best.pth", f"results_dir={results}",
        "evaluate.test_dataset.data_path=s3://data/packed/val.tar.gz",
    ]  # fmt: skip
    assert command("evaluate", *words, "evaluate.results_dir=" + str(tmp_path / "e")) == 0
    told = capsys.readouterr()
    assert "evaluate.checkpoint: s3://data/models/best.pth is read from " in told.err
    assert SECRET not in told.err + told.out
    words = [
        "inference.checkpoint=s3://data/models/best.pth", f"results_dir={results}",
        "inference.test_dataset.data_path=s3://data/set/",
    ]  # fmt: skip
    assert command("inference", *words) == 0
    assert len(rows_of(results / "inference" / "predictions.csv")) == 7
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {"archives", "remote", "scans"}


def test_a_bucket_that_is_not_there_ends_with_6(client, tmp_path, capsys):
    words = [f"results_dir={tmp_path}", f"{TRAIN_DATA}=s3://no-such-bucket/x"]
    assert cli.main(["pose_classification", "train", *words]) == 6
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "s3://no-such-bucket/x: expected a bucket 'no-such-bucket', got 404" in line


def test_labels_beside_the_data_of_a_bucket_are_found(client):
    for name, data in data_files(3, 0, "train").items():
        put(client, f"pair/{name}", data)
    found, _ = localized(spec_of(**{TRAIN_DATA: "s3://data/pair"}))
    data, label = resolve_paths(found.dataset.train_dataset, TRAIN)
    assert (data.name, label.name) == ("train_data.npy", "train_label.json")
