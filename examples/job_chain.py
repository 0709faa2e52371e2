"""Search, evaluate, export, label: four jobs chained by their ids alone, for both networks.

    python examples/job_chain.py --out FOLDER [--network NAME] [--s3]

Data are the demo's made-up people, few of them, packed as tar.gz. Each job after the search knows
its model through `parent_job_id` and its data through `train_datasets`. With --s3, data and
results lie in a bucket of an S3 server that the script itself starts (needs kineme[s3], moto).
"""

import argparse
import contextlib
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kineme import synthetic
from kineme.data.labels import Labels, write_labels
from kineme.data.video import write_video
from kineme.demo.steps import KNOWN, LABEL_MAP, NEW
from kineme.jobs import Client
from kineme.rendering import film_exercises

NETWORKS = ("pose_classification", "action_recognition")
NUM_TRIALS = 8
BUCKET = "kineme-example"
SPECS: Mapping[str, Mapping[str, Any]] = {
    "pose_classification": {
        "dataset.label_map": LABEL_MAP,
        "dataset.sampling": "uniform",
        "dataset.num_frames": 8,
        "dataset.num_workers": 0,
        "dataset.batch_size": 12,
        "train.num_epochs": 2,
        "train.optim.optimizer_type": "Adam",
        "train.optim.lr": 1e-3,
    },
    "action_recognition": {
        "dataset.label_map": LABEL_MAP,
        "model.rgb_seq_length": 3,
        "model.input_height": 48,
        "model.input_width": 48,
        "dataset.augmentation_config.crop_smaller_edge": 56,
        "dataset.batch_size": 8,
        "dataset.workers": 0,
        "train.num_epochs": 2,
        "train.optim.optimizer_type": "AdamW",
        "train.optim.lr": 1e-3,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for data, records, results")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--s3", action="store_true", help="data and results in a bucket")
    parser.add_argument("--trials", type=int, default=NUM_TRIALS)
    parser.add_argument("--runner", default="subprocess")
    options = parser.parse_args()
    options.out = options.out.absolute()
    with s3_server(options.out) if options.s3 else contextlib.nullcontext() as client:
        for network in options.network or NETWORKS:
            data = make_data(network, options.out / "data" / network)
            where, root = str(data), str(options.out / "jobs")
            if client:
                where = upload(client, data, network)
                root = f"s3://{BUCKET}/results"
            run_chain(network, where, Client(root, runner=options.runner), options.trials)
            if client:
                print_bucket(client)


def run_chain(network: str, data: str, client: Client, num_trials: int) -> dict[str, str]:
    """The four jobs; returns their ids by action. Raises the error of the first that fails."""
    search = client.create_job(
        network,
        "train",
        specs=SPECS[network],
        train_datasets=[data],
        automl_settings={"algorithm": "bayesian", "automl_max_recommendations": num_trials},
    )
    tell(network, search)
    ids = {"train": search.id}
    parent = search.id
    for action in ("evaluate", "export", "inference"):
        job = client.create_job(network, action, parent_job_id=parent, train_datasets=[data])
        tell(network, job)
        ids[action] = job.id
    return ids


def tell(network: str, job: Any) -> None:
    """Wait for a job, then say what it found by itself and what came out."""
    result = job.wait().result()
    print(f"{network} {job.record.action}: {json.dumps(result, default=str)[:300]}")
    for choice in job.record.choices:
        print(f"    {choice.key} = {choice.value}  ({choice.function}: {choice.reason})")


def make_data(network: str, folder: Path) -> Path:
    """tar.gz files under the names that the network's data sources have; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        parts = Path(scratch)
        sets = (("train", 60, KNOWN, 0), ("val", 24, NEW, 1), ("test", 24, NEW, 2))
        if network == "pose_classification":
            for name, number, people, seed in sets:
                made = synthetic.make_exercises(
                    number, seed, bodies=people.bodies, views=people.views, num_frames=24
                )
                np.save(parts / f"{name}_data.npy", made.data)
                labels = Labels(made.ids, made.labels, made.class_names, "nvidia")
                write_labels(parts / f"{name}_label.json", labels)
            pack(parts, folder.with_suffix(".tar.gz"))
            return folder.with_suffix(".tar.gz")
        for name, number, people, seed in (sets[0], sets[2]):
            films = film_exercises(
                number, seed, bodies=people.bodies, views=people.views, num_frames=12, fps=10.0,
                size=56,
            )  # fmt: skip
            for film in films:
                path = parts / name / synthetic.CLASS_NAMES[film.label] / f"{film.id}.mp4"
                write_video(path, film.frames, 10.0)
            pack(parts / name, folder / f"{name}.tar.gz")
    return folder


def pack(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)


@contextlib.contextmanager
def s3_server(home: Path) -> Iterator[Any]:
    """An S3 server on this machine, for this process and what it starts."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "example",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_DEFAULT_REGION": "us-east-1",
        "KINEME_JOBS": str(home / "jobs"),
    }
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    try:
        yield client
    finally:
        server.stop()


def upload(client: Any, data: Path, network: str) -> str:
    """Put the data into the bucket; returns their address."""
    files = [data] if data.is_file() else sorted(path for path in data.rglob("*") if path.is_file())
    for path in files:
        client.upload_file(str(path), BUCKET, f"data/{path.relative_to(data.parent)}")
    return f"s3://{BUCKET}/data/{data.name}"


def print_bucket(client: Any) -> None:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix="results/").get("Contents", [])
    print(f"{len(found)} results in the bucket, for example:")
    for item in [item for item in found if item["Key"].endswith((".onnx", ".html", ".csv"))][:6]:
        print(f"    s3://{BUCKET}/{item['Key']}  {item['Size']:,} bytes")


if __name__ == "__main__":
    main()
