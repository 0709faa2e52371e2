"""Jobs from the request to their results: a skeleton of one's own, data and results in a store."""

import json
import os

import numpy as np
import pytest
import yaml

import jobs_here
import stick
from kineme.data.labels import Labels, write_labels
from kineme.jobs import Client
from kineme.jobs.record import State
from skill_ground import make_skeletons
from stores import KEY_ID, SECRET, moto, store_at

POSE = "pose_classification"
QUICK = {
    "train.num_epochs": 1,
    "dataset.batch_size": 4,
    "dataset.num_workers": 0,
    "train.tensorboard": False,
    "dataset.normalize": "center",
}


@pytest.fixture
def client(monkeypatch, tmp_path):
    """Jobs run in this process, with a thin model."""
    jobs_here.make_jobs_run_here(monkeypatch, tmp_path)
    return Client(tmp_path / "jobs", runner="in_process")


@pytest.fixture(scope="module")
def url():
    with moto() as url:
        store_at(url)._client.create_bucket(Bucket="bucket")
        yield url


@pytest.fixture
def bucket(url, monkeypatch, tmp_path):
    """The client of a store that this process and its children ask; it holds `bucket`."""
    for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", KEY_ID),
                        ("SECRET_ACCESS_KEY", SECRET)):  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    return store_at(url)._client


def held(bucket, prefix):
    """{relative name: bytes} of what is below `prefix`."""
    pages = bucket.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {
        key.removeprefix(prefix): bucket.get_object(Bucket="bucket", Key=key)["Body"].read()
        for key in keys
    }


def stick_data(folder):
    """Data of four joints, and their layout beside them."""
    folder.mkdir()
    for prefix, number, seed in (("train", 12, 0), ("val", 6, 1)):
        data, labels = stick.waves(number, seed)
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(number))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels, stick.CLASSES))
    facts = {**stick.LAYOUT, "source": "https://example.org/stick"}
    (folder / "stick.yaml").write_text(yaml.safe_dump(facts))
    return folder


def test_a_skeleton_of_ones_own_travels_from_its_file_through_a_chain_of_jobs(
    client, tmp_path, monkeypatch
):
    data = stick_data(tmp_path / "data")
    monkeypatch.chdir(data)
    specs = {**QUICK, "model.layout": "stick.yaml"}
    train = client.create_job(
        POSE, "train", specs=specs, train_datasets=[str(data)], automl_policy="off"
    )
    train.wait().result()
    said = json.loads(train.record.spec["model"]["layout"])
    assert said["joints"] == stick.LAYOUT["joints"]
    (data / "stick.yaml").unlink()
    evaluated = client.create_job(POSE, "evaluate", parent_job_id=train.id,
                                  specs={"dataset.num_workers": 0},
                                  eval_dataset=str(data))  # fmt: skip
    assert 0 <= evaluated.wait().result()["kpi"]["accuracy"] <= 100
    specs = {**train.record.spec, "results_dir": str(tmp_path / "again")}
    again = client.create_job(POSE, "train", specs=specs, automl_policy="off")
    assert again.record.spec["model"]["layout"] == train.record.spec["model"]["layout"]
    assert again.wait().status is State.COMPLETE


def test_results_of_a_job_arrive_in_the_store_below_its_id_without_what_is_excluded(
    bucket, tmp_path, monkeypatch
):
    """Two processes and their imports: the agent sends what `dataset_convert` writes."""
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "jobs"))
    make_skeletons(tmp_path)
    client = Client("s3://bucket/runs/")
    job = client.create_job(
        POSE, "dataset_convert", specs={"dataset_convert.data": str(tmp_path / "bodypose.json")},
        upload_excludes=["*.log", "dataset_convert/log.txt"],
    )  # fmt: skip
    job.wait(120).result()
    assert job.record.uploads_to == f"s3://bucket/runs/{job.id}"
    assert job.record.upload_excludes == ("*.log", "dataset_convert/log.txt")
    here = set(client.list_results(job.id))
    there = held(bucket, f"runs/{job.id}/")
    assert here - there.keys() == {"dataset_convert/log.txt"}
    assert {"dataset_convert/dataset.json", "dataset_convert/status.json"} <= there.keys() <= here
    for name, content in there.items():
        assert content == (job.results_dir / name).read_bytes()
    assert held(bucket, "runs/").keys() == {f"{job.id}/{name}" for name in there}


def test_training_data_may_lie_in_a_store(client, bucket, tmp_path):
    data = stick_data(tmp_path / "data")
    for name in os.listdir(data):
        bucket.upload_file(str(data / name), "bucket", f"data/{name}")
    job = client.create_job(
        POSE, "train", specs={**QUICK, "model.layout": str(data / "stick.yaml")},
        train_datasets=["s3://bucket/data"], automl_policy="off",
    )  # fmt: skip
    result = job.wait().result()
    assert job.record.train_datasets == ("s3://bucket/data",)
    assert job.record.spec["dataset"]["train_dataset"]["data_path"].startswith("s3://bucket/data")
    assert result["checkpoint"].endswith("best.pth")
