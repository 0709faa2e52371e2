"""Data sets that jobs are given, as keys of their specs."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from kineme.errors import ServiceError, SpecError
from kineme.jobs import sources
from kineme.jobs.sources import resolve_sources
from parked_jobs import POSE, VIDEO, choice, pose_data, spec_file

TRAIN, VAL = "dataset.train_dataset", "dataset.val_dataset"
TEST, SEEN = "evaluate.test_dataset", "inference.test_dataset"


def found(network, action, place, *, given=None, eval_dataset=None) -> dict:
    named = [] if place is None else [str(place)]
    result = resolve_sources(
        network, action, given=given or {}, train_datasets=named,
        eval_dataset=None if eval_dataset is None else str(eval_dataset),
    )  # fmt: skip
    assert result.problems == ()
    assert {one.key: one.value for one in result.choices} == result.values
    return dict(result.values)


def refused(network, action, *places, eval_dataset=None) -> list[str]:
    result = resolve_sources(
        network, action, given={}, train_datasets=list(map(str, places)), eval_dataset=eval_dataset
    )
    return [str(problem) for problem in result.problems]


def packed(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def in_store(monkeypatch, *addresses: str) -> list[str]:
    """Let only these be in a store; returns what is asked for."""
    asked: list[str] = []

    def is_there(text: str) -> bool:
        asked.append(text)
        return text in addresses

    monkeypatch.setattr(sources, "_is_in_store", is_there)
    return asked


# Folders


def test_a_folder_of_taos_names_gives_every_key_of_the_texts(tmp_path):
    data = pose_data(tmp_path)
    assert found(POSE, "train", data) == {
        f"{TRAIN}.data_path": f"{data}/train_data.npy",
        f"{TRAIN}.label_path": f"{data}/train_label.pkl",
        f"{VAL}.data_path": f"{data}/val_data.npy",
        f"{VAL}.label_path": f"{data}/val_label.pkl",
    }
    assert found(POSE, "evaluate", data) == {
        f"{TEST}.data_path": f"{data}/val_data.npy",
        f"{TEST}.label_path": f"{data}/val_label.pkl",
    }
    assert found(POSE, "inference", data) == {
        f"{SEEN}.data_path": f"{data}/test_data.npy",
        f"{SEEN}.label_path": f"{data}/test_label.pkl",
    }
    assert found(POSE, "dataset_convert", data) == {"dataset_convert.data": str(data)}


@pytest.mark.parametrize("ending", ["/", ".tar.gz"])
def test_videos_are_found_as_folders_and_as_archives(tmp_path, ending):
    names = [f"train{ending}", f"test{ending}", f"test/smile{ending}"]
    for name in names:
        path = tmp_path / name
        path.mkdir(parents=True) if ending == "/" else packed(path)
    train, test, smile = (f"{tmp_path}/{name.rstrip('/')}" for name in names)
    assert found(VIDEO, "train", tmp_path) == {
        "dataset.train_dataset_dir": train, "dataset.val_dataset_dir": test,
    }  # fmt: skip
    assert found(VIDEO, "evaluate", tmp_path) == {"evaluate.test_dataset_dir": test}
    assert found(VIDEO, "inference", tmp_path) == {"inference.inference_dataset_dir": smile}


def test_taos_own_name_comes_before_ours(tmp_path):
    pose_data(tmp_path)
    (tmp_path / "train_label.json").write_text("{}")
    (tmp_path / "train_data").mkdir()
    values = found(POSE, "train", tmp_path)
    assert values[f"{TRAIN}.label_path"].endswith("train_label.pkl")
    assert values[f"{TRAIN}.data_path"].endswith("train_data.npy")


def test_sharded_stores_bring_their_own_labels(tmp_path):
    (tmp_path / "train_data").mkdir()
    assert found(POSE, "train", tmp_path) == {f"{TRAIN}.data_path": f"{tmp_path}/train_data"}


def test_without_validation_data_there_are_none(tmp_path):
    (tmp_path / "train").mkdir()
    values = found(VIDEO, "train", tmp_path)
    assert values == {"dataset.train_dataset_dir": f"{tmp_path}/train"}


def test_what_the_user_set_wins(tmp_path):
    data = pose_data(tmp_path)
    values = found(POSE, "evaluate", data, given={f"{TEST}.data_path": "own.npy"})
    assert values == {f"{TEST}.label_path": f"{data}/val_label.pkl"}


def test_a_data_set_without_what_is_needed_is_told_with_what_was_looked_for(tmp_path):
    assert refused(POSE, "train", tmp_path) == [
        f"train_datasets: expected train_data.npy or train_data for {TRAIN}.data_path, got none of "
        f"them in {tmp_path}. Set {TRAIN}.data_path where the file is called otherwise."
    ]
    (problem,) = refused(VIDEO, "inference", tmp_path)
    assert "expected test/smile.tar.gz or test/smile or smile" in problem


def test_data_without_labels_are_told_where_labels_are_needed(tmp_path):
    pose_data(tmp_path, "train")
    (tmp_path / "train_label.pkl").unlink()
    assert refused(POSE, "train", tmp_path) == [
        f"train_datasets: expected labels (train_label.pkl, train_label.json, train_label.csv), "
        f"got none of them in {tmp_path}. Set {TRAIN}.label_path."
    ]
    (tmp_path / "test_data.npy").write_bytes(b"")
    assert found(POSE, "inference", tmp_path) == {f"{SEEN}.data_path": f"{tmp_path}/test_data.npy"}


def test_two_data_sets_are_refused_as_in_the_texts(tmp_path):
    one, two = pose_data(tmp_path / "1"), pose_data(tmp_path / "2")
    assert refused(POSE, "train", one, two) == [
        "train_datasets: expected one data set: train takes no list of them, got 2. "
        "Put them together into one folder."
    ]


@pytest.mark.parametrize("place", ["missing", "a\0b"])
def test_a_data_set_that_is_not_there_is_told(tmp_path, place):
    (problem,) = refused(POSE, "train", tmp_path / place)
    assert problem.startswith("train_datasets: expected a folder or an archive that is there")


def test_an_action_that_reads_no_data_says_so(tmp_path):
    result = resolve_sources(
        POSE, "export", given={}, train_datasets=[str(tmp_path)], eval_dataset=str(tmp_path)
    )
    assert (result.values, result.problems) == ({}, ())
    assert result.notes == (
        "train_datasets has no effect: export reads no data.",
        "eval_dataset has no effect: export reads no data.",
    )


def test_paths_hold_in_every_folder(tmp_path, monkeypatch):
    pose_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert found(POSE, "train", "data")[f"{TRAIN}.data_path"] == f"{tmp_path}/data/train_data.npy"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(POSE, "train", "~/data")[f"{TRAIN}.data_path"] == f"{tmp_path}/data/train_data.npy"


# One file


def test_an_archive_of_videos_is_the_split_that_the_action_is_about(tmp_path):
    archive = packed(tmp_path / "train.tar.gz", "catch/1.mp4")
    assert found(VIDEO, "train", archive) == {"dataset.train_dataset_dir": str(archive)}
    assert found(VIDEO, "evaluate", archive) == {"evaluate.test_dataset_dir": str(archive)}
    assert found(VIDEO, "inference", archive) == {"inference.inference_dataset_dir": str(archive)}


@pytest.mark.parametrize("prefix", ["", "./", "nw_ucla/"])
def test_an_archive_of_skeletons_stands_for_the_files_in_it(tmp_path, prefix):
    names = [f"{prefix}{split}_{what}" for split in ("train", "val")
             for what in ("data.npy", "label.pkl")]  # fmt: skip
    archive = packed(tmp_path / "data.tar.gz", *names)
    assert found(POSE, "train", archive) == dict.fromkeys(
        (f"{block}.{name}" for block in (TRAIN, VAL) for name in ("data_path", "label_path")),
        str(archive),
    )
    assert set(refused(POSE, "inference", archive)) == {
        f"train_datasets: expected test_data.npy or test_data for {SEEN}.data_path, got an "
        f"archive with {_shown(names)}."
    }


def _shown(names: list[str]) -> str:
    plain = {name.removeprefix("./") for name in names}
    return ", ".join(sorted(plain | {name.partition("/")[2] for name in plain if "/" in name}))


def test_an_archive_without_validation_data_gives_none(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_data.npy", b"")
        archive.writestr("train_label.csv", b"")
    assert found(POSE, "train", path) == {
        f"{TRAIN}.data_path": str(path), f"{TRAIN}.label_path": str(path),
    }  # fmt: skip


def test_an_archive_that_cannot_be_listed_is_believed(tmp_path):
    path = tmp_path / "data.tar.gz"
    path.write_bytes(b"\x1f\x8b damaged")
    values = found(POSE, "evaluate", path)  # the action says what is wrong with it
    assert values == {f"{TEST}.data_path": str(path), f"{TEST}.label_path": str(path)}


def test_one_file_of_skeletons_brings_the_labels_beside_it_for_its_own_split(tmp_path):
    data = pose_data(tmp_path, "train", "val")
    assert found(POSE, "train", data / "train_data.npy") == {
        f"{TRAIN}.data_path": f"{data}/train_data.npy",
        f"{TRAIN}.label_path": f"{data}/train_label.pkl",
    }
    assert found(POSE, "evaluate", data / "val_data.npy") == {
        f"{TEST}.data_path": f"{data}/val_data.npy",
        f"{TEST}.label_path": f"{data}/val_label.pkl",
    }


# eval_dataset


def test_an_eval_dataset_takes_the_place_of_validation_and_test_data(tmp_path):
    data, other = pose_data(tmp_path / "1"), pose_data(tmp_path / "2", "val")
    values = found(POSE, "train", data, eval_dataset=other)
    assert values[f"{TRAIN}.data_path"] == f"{data}/train_data.npy"
    assert values[f"{VAL}.data_path"] == f"{other}/val_data.npy"
    assert values[f"{VAL}.label_path"] == f"{other}/val_label.pkl"
    assert found(POSE, "evaluate", None, eval_dataset=other) == {
        f"{TEST}.data_path": f"{other}/val_data.npy",
        f"{TEST}.label_path": f"{other}/val_label.pkl",
    }


def test_an_eval_dataset_may_call_its_split_otherwise(tmp_path):
    other = pose_data(tmp_path, "test")
    assert found(POSE, "evaluate", None, eval_dataset=other) == {
        f"{TEST}.data_path": f"{other}/test_data.npy",
        f"{TEST}.label_path": f"{other}/test_label.pkl",
    }


def test_an_eval_dataset_of_videos_may_be_the_split_itself(tmp_path):
    for name in ("data/train", "other/catch"):
        (tmp_path / name).mkdir(parents=True)
    other = tmp_path / "other"
    values = found(VIDEO, "train", tmp_path / "data", eval_dataset=other)
    assert values == {
        "dataset.train_dataset_dir": f"{tmp_path}/data/train",
        "dataset.val_dataset_dir": str(other),
    }
    archive = packed(tmp_path / "held_out.tar.gz", "catch/1.mp4")
    assert found(VIDEO, "evaluate", None, eval_dataset=archive) == {
        "evaluate.test_dataset_dir": str(archive)
    }


# Addresses


def test_a_folder_in_a_store_is_looked_into(monkeypatch):
    names = ("train_data.npy", "train_label.json", "val_data.npy", "val_label.pkl")
    asked = in_store(monkeypatch, *(f"s3://bucket/data/{name}" for name in names))
    values = found(POSE, "train", "s3://bucket/data/")
    assert list(values.values()) == [f"s3://bucket/data/{name}" for name in names]
    assert asked[:3] == [
        "s3://bucket/data/train_data.npy", "s3://bucket/data/train_label.pkl",
        "s3://bucket/data/train_label.json",
    ]  # fmt: skip


def test_a_job_finds_its_data_in_a_bucket(client, monkeypatch):
    """A server in this process takes its second."""
    stores = pytest.importorskip("stores")
    from kineme.data.remote.addresses import parse

    with stores.moto() as url:
        monkeypatch.setenv("S3_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", stores.KEY_ID)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stores.SECRET)
        store = stores.store_at(url)
        store._client.create_bucket(Bucket="job-data")
        for name in ("train_data/index.json", "val_data.npy", "val_label.csv"):
            store._client.put_object(Bucket="job-data", Key=f"some/{name}", Body=b"x")
        job = client.create_job(POSE, "train", train_datasets="s3://job-data/some")
        with pytest.raises(ServiceError):
            sources._is_in_store(str(parse("s3://no-such-bucket/x")))
    assert spec_file(client, job)["dataset"] == {
        "train_dataset": {"data_path": "s3://job-data/some/train_data"},
        "val_dataset": {
            "data_path": "s3://job-data/some/val_data.npy",
            "label_path": "s3://job-data/some/val_label.csv",
        },
    }
    assert stores.SECRET not in (client.store.folder(job.id) / "job.json").read_text()


def test_an_archive_in_a_store_is_believed_to_hold_the_usual_names(monkeypatch):
    assert in_store(monkeypatch) == []
    values = found(POSE, "train", "s3://bucket/data.tar.gz")
    assert set(values.values()) == {"s3://bucket/data.tar.gz"}
    assert len(values) == 4
    assert found(VIDEO, "train", "s3://bucket/data/train.tar.gz") == {
        "dataset.train_dataset_dir": "s3://bucket/data/train.tar.gz"
    }


def test_what_a_store_says_is_told_with_the_rest(monkeypatch):
    def fails(text: str) -> bool:
        raise ServiceError("s3://bucket", "a bucket", "none of this name")

    monkeypatch.setattr(sources, "_is_in_store", fails)
    assert refused(POSE, "train", "s3://bucket/data") == [
        "s3://bucket: expected a bucket, got none of this name."
    ]


@pytest.mark.parametrize(
    "place",
    ["s3://", "s3://bucket/../../x", "file:///etc/passwd", "http://169.254.169.254/latest",
     "s3://user:secret@bucket/x", "ngc://nvidia/tao"],
)  # fmt: skip
def test_j22_other_addresses_are_refused_when_the_job_is_created(client, place):
    with pytest.raises(SpecError) as caught:
        client.create_job(POSE, "train", train_datasets=place)
    assert caught.value.exit_code == 2
    assert caught.value.problems[0].where == "train_datasets"
    assert "secret" not in str(caught.value)
    key = f"{TRAIN}.data_path"
    with pytest.raises(SpecError) as caught:
        client.create_job(POSE, "train", specs={key: place})
    assert key in {problem.where for problem in caught.value.problems}
    assert client.list_jobs() == []


# The examples of the texts


def test_defect_73_the_overrides_of_the_texts_work_as_they_are_printed(client):
    place = "s3://bucket/data/train"
    pose = {
        "train.num_epochs": 30, "train.checkpoint_interval": 10, "train.validation_interval": 10,
        "train.num_gpus": 1, "num_classes": 6, "graph_layout": "nvidia",
        f"{TRAIN}.data_path": place, f"{TRAIN}.label_path": place,
        f"{VAL}.data_path": place, f"{VAL}.label_path": place,
    }  # fmt: skip
    job = client.create_job(POSE, "train", specs=pose)
    spec = spec_file(client, job)
    assert spec["dataset"]["num_classes"] == 6
    assert spec["model"]["graph_layout"] == "nvidia"
    assert spec["dataset"]["train_dataset"] == {"data_path": place, "label_path": place}
    videos = {
        "train.num_epochs": 30, "train.num_gpus": 1,
        "dataset.label_map": {"catch": 0, "smile": 1}, "dataset.batch_size": 2,
        "dataset.train_dataset_dir": f"{place}/train.tar.gz",
        "dataset.val_dataset_dir": f"{place}/test.tar.gz",
        "model.pretrained_model_path": "s3://bucket/resnet.pth",
    }  # fmt: skip
    job = client.create_job(VIDEO, "train", specs=videos)
    spec = spec_file(client, job)
    assert spec["dataset"]["train_dataset_dir"] == f"{place}/train.tar.gz"
    assert spec["dataset"]["label_map"] == {"catch": 0, "smile": 1}
    assert spec["model"]["pretrained_model_path"] == "s3://bucket/resnet.pth"


def test_what_was_found_and_where_is_in_the_record(client, tmp_path):
    data = pose_data(tmp_path / "data")
    job = client.create_job(POSE, "train", train_datasets=str(data))
    assert job.record.train_datasets == (str(data),)
    assert choice(job, f"{VAL}.label_path") == (
        f"{data}/val_label.pkl", "val_label.pkl of train_datasets"
    )  # fmt: skip


def test_validation_data_with_test_data_beside_them_are_judged_on_with_a_note(tmp_path):
    for name in ("val_data.npy", "val_label.json", "test_data.npy"):
        (tmp_path / name).touch()
    notes = resolve_sources(
        "pose_classification", "evaluate", given={}, train_datasets=[str(tmp_path)]
    ).notes
    assert notes == (
        "evaluate.test_dataset.data_path: the model was chosen on these data; test_data.npy lies "
        "beside them, and is judged on where the spec names it and its labels.",
    )
