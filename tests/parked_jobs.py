"""Jobs for tests that need none to run: a runner that only takes them, and results made by hand."""

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from kineme.errors import SpecError
from kineme.jobs import runners
from kineme.jobs.client import Client, Job
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.record import Failure, JobRecord, State
from kineme.jobs.runners import Runner
from kineme.jobs.store import JobStore

POSE, VIDEO = "pose_classification", "action_recognition"
keys_handed_over: list[str | None] = []


def _start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    keys_handed_over.append(key)
    return store.amend(record.id, backend_job_id="parked")


PARKED = Runner(
    start=_start,
    cancel=ask_to_end,
    is_gone=lambda store, record: None,
    settings={"seats": ((int,), "of a car park")},
)


def parked_client(monkeypatch, folder: Path) -> Client:
    """A client whose jobs wait for ever."""
    monkeypatch.setitem(runners.RUNNERS, "parked", "parked_jobs:PARKED")
    monkeypatch.delenv("KINEME_ENCRYPTION_KEY", raising=False)
    keys_handed_over.clear()
    return Client(folder, runner="parked")


def problems_of(client: Client, *args, **keywords) -> list[str]:
    """Why a job cannot be created so; nothing of it is left."""
    with pytest.raises(SpecError) as caught:
        client.create_job(*args, **keywords)
    assert caught.value.exit_code == 2
    assert list(client.store.root.glob(".new*")) == []
    return [str(problem) for problem in caught.value.problems]


def train(client: Client, data: Path, **keywords) -> Job:
    """A pose training that waits."""
    return client.create_job(POSE, "train", train_datasets=str(data), **keywords)


def ended(client: Client, job: Job, state: State = State.COMPLETE, message: str = "") -> Job:
    """`job` when somebody has run it."""
    client.store.move(job.id, State.RUNNING, reason="test", source="test")
    failure = Failure("data", message, 3) if message else None
    exit_code = 3 if message else 0
    client.store.move(
        job.id, state, reason="test", source="test", exit_code=exit_code, failure=failure
    )
    return job.refresh()


def pose_data(folder: Path, *splits: str) -> Path:
    """A data set by TAO's names; nobody looks inside."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits or ("train", "val", "test"):
        (folder / f"{split}_data.npy").write_bytes(b"")
        (folder / f"{split}_label.pkl").write_bytes(b"")
    return folder


def checkpoint(path: Path, *, is_whole: bool = True) -> Path:
    """A file as torch writes them, as far as its container goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"0123456789" * 20)
    if not is_whole:
        path.write_bytes(path.read_bytes()[:150])
    return path


def training_results(
    record: JobRecord, values: dict[int, float | None], *, best: bool = True
) -> Path:
    """What a training of some epochs leaves: val_acc by epoch, a checkpoint each, the best."""
    folder = Path(record.results_dir) / "train"
    for epoch in values:
        checkpoint(folder / f"model_epoch_{epoch:03d}_step_{10 * (epoch + 1):05d}.pth")
    if best:
        checkpoint(folder / "best.pth")
    lines = ["epoch,step,val_acc"]
    lines += [f"{n},{10 * (n + 1)},{'' if v is None else v}" for n, v in values.items()]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    model_type = record.spec.get("model", {}).get("model_type", "rgb")
    (folder / "experiment.yaml").write_text(yaml.safe_dump({"model": {"model_type": model_type}}))
    return folder


def trained(
    client: Client, data: Path, values: dict[int, float | None], *, best: bool = True, **others
) -> Job:
    """A pose training that has ended well."""
    job = train(client, data, automl_policy="off", **others)
    training_results(job.record, values, best=best)
    return ended(client, job)


def spec_file(client: Client, job: Job) -> dict:
    """The spec that the action of a job is given."""
    return yaml.safe_load((client.store.folder(job.id) / "spec.yaml").read_text())


def choice(job: Job, key: str) -> tuple[str, str]:
    """What was found for `key`, and why."""
    found = next(one for one in job.record.choices if one.key == key)
    return str(found.value), found.reason


def rewrite(client: Client, job_id: str, **changes) -> None:
    """Change a record as no program would."""
    path = client.store.folder(job_id) / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
