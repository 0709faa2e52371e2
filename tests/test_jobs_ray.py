"""Jobs on a Ray cluster, whose job API a stand-in plays."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest

from job_ground import elsewhere, made, silence, states
from kineme.errors import ServiceError
from kineme.jobs import liveness
from kineme.jobs.agent import run_agent
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import load_runner, ray

pytestmark = pytest.mark.usefixtures("no_key")


class FakeRay:
    """Of Ray's job API, what is used."""

    def __init__(self):
        self.jobs, self.stopped, self.status, self.error_type = {}, [], "PENDING", None

    def submit_job(self, **submission):
        if submission["submission_id"] in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission['submission_id']} "
                               "already exists.")  # fmt: skip
        self.jobs[submission["submission_id"]] = submission

    def get_job_info(self, job_id):
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        is_last = job_id == list(self.jobs)[-1]
        return SimpleNamespace(
            status=SimpleNamespace(value=self.status if is_last else "FAILED"),
            error_type=self.error_type,
        )

    def stop_job(self, job_id):
        self.stopped.append(job_id)


@pytest.fixture
def fake_ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setattr(ray, "_client", lambda record: fake)
    return fake


def test_ray_is_told_what_the_platform_says_and_once(store, fake_ray):
    platform = {"num_gpus": 0.5, "num_cpus": 4, "memory_gb": 2, "resources": {"disk": 1}}
    record = made(store, "x", runner="ray", platform=platform)
    started = ray.start(store, record)
    assert started.backend_job_id == record.id
    store.amend(record.id, backend_job_id=None)  # as if the client had been killed in between
    assert ray.start(store, record).backend_job_id == record.id
    assert fake_ray.jobs == {
        record.id: {
            "entrypoint": f"{sys.executable} -P -m kineme.jobs.agent {store.folder(record.id)}",
            "submission_id": record.id,
            "metadata": {"network": "pose_classification", "action": "train"},
            "entrypoint_num_cpus": 4,
            "entrypoint_num_gpus": 0.5,
            "entrypoint_memory": 2 << 30,
            "entrypoint_resources": {"disk": 1},
        }
    }


def test_ray_is_asked_what_became_of_a_job_and_told_of_its_end(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    for status, gone in (("PENDING", False), ("RUNNING", False), ("FAILED", True)):
        fake_ray.status = status
        assert ray.is_gone(store, record) is gone
    assert load_runner("ray").cancel(store, record).state is State.CANCELED
    assert fake_ray.stopped == [record.id]


def test_a_job_that_ray_has_no_patience_to_let_wait_is_submitted_again(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    first = fake_ray.jobs[record.id]
    for number in (2, 3):
        fake_ray.status, fake_ray.error_type = "FAILED", "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
        waiting = store.load(record.id)
        for reader in range(2):  # who both have looked before either has asked
            assert reconcile(store, waiting, asks_runner=True).state is State.PENDING, reader
        record = store.load(record.id)
        assert record.backend_job_id == f"{record.id}-{number}"
        assert fake_ray.jobs[record.backend_job_id] == {
            **first,
            "submission_id": record.backend_job_id,
        }
        fake_ray.status, fake_ray.error_type = "PENDING", None
        assert ray.is_gone(store, record) is False
    assert len(fake_ray.jobs) == 3
    assert ray.start(store, record) == record
    assert len(fake_ray.jobs) == 3
    load_runner("ray").cancel(store, record)
    assert fake_ray.stopped == [f"{record.id}-3"]


def test_a_cluster_that_was_started_anew_has_no_job_of_before(store, fake_ray):
    record = ray.start(store, made(store, "x", runner="ray"))
    assert reconcile(store, record, asks_runner=True) == record
    fake_ray.jobs.clear()
    record = reconcile(store, record, asks_runner=True)
    assert record.failure == Failure("crashed", "ray has it no more")


def test_j01_a_job_of_a_node_that_died_is_crashed_though_its_lock_is_still_held(store, fake_ray):
    record = elsewhere(store, ray.start(store, made(store, "x", runner="ray")))
    fake_ray.status = "FAILED"
    # a cluster that has lost sight of a node is not believed while the agent shows life
    assert reconcile(store, record, asks_runner=True) == record
    silence(store, record, 16)
    with liveness.agent_lock(store.folder(record.id)):  # which a file server may keep for long
        silent = reconcile(store, record)
        assert silent.state is State.UNKNOWN
        fake_ray.status = "RUNNING"
        assert reconcile(store, silent, asks_runner=True) == silent
        fake_ray.status = "FAILED"
        record = reconcile(store, silent, asks_runner=True)
    assert states(record) == [State.RUNNING, State.UNKNOWN, State.ERROR]
    assert record.failure == Failure("crashed", "ray has it no more")


def test_an_agent_that_ray_starts_again_on_another_node_leaves_the_job_alone(store, fake_ray):
    record = elsewhere(store, ray.start(store, made(store, "x", runner="ray")))
    silence(store, record, 60)
    record = reconcile(store, record)
    for _ in range(2):
        assert run_agent(store, record.id, program=("/no/such/program",)) == record
        record = reconcile(store, record)
    fake_ray.status = "SUCCEEDED"  # as Ray has it: the second agent ended well
    assert reconcile(store, record, asks_runner=True).state is State.ERROR


def test_a_waiting_job_is_cancelled_although_ray_cannot_be_reached(store, fake_ray, monkeypatch):
    record = ray.start(store, made(store, "x", runner="ray"))

    def unreachable(record):
        raise ServiceError("ray", "a cluster that takes the job", "none")

    monkeypatch.setattr(ray, "_client", unreachable)
    assert load_runner("ray").cancel(store, record).state is State.CANCELED


def test_a_cluster_that_wants_a_token_is_told_with_what_to_set(store, fake_ray, monkeypatch):
    class RayError(Exception):
        pass

    class AuthenticationError(RayError):  # of Ray's own, and no RuntimeError
        pass

    def refuse(**submission):
        raise AuthenticationError("Authentication required: no token")

    record = made(store, "x", runner="ray")
    monkeypatch.setitem(sys.modules, "ray.exceptions", SimpleNamespace(RayError=RayError))
    monkeypatch.setattr(fake_ray, "submit_job", refuse)
    with pytest.raises(ServiceError, match=r"Authentication required.*RAY_AUTH_MODE=token"):
        ray.start(store, record)
    monkeypatch.setattr(fake_ray, "get_job_info", lambda job_id: refuse())
    assert ray.is_gone(store, dataclasses.replace(record, backend_job_id="x")) is None


def test_without_a_ray_cluster_the_error_says_so(store):
    platform = {"address": "http://127.0.0.1:9"}
    record = made(store, "x", runner="ray", platform=platform)
    with pytest.raises(ServiceError, match="ray: expected a cluster that takes the job"):
        ray.start(store, record)
    assert ray.is_gone(store, dataclasses.replace(record, backend_job_id="x")) is None
