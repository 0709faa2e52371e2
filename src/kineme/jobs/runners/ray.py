"""Jobs on a Ray cluster, through its job API: the agent runs where Ray has room.

The store's folder and this Python environment must be seen by the nodes under the same paths.
Promises: the job is Ray's business before `start` returns, under the job's own id, so that it is
submitted once however often that is tried. It waits for its turn as long as it takes: Ray gives up
on a job after a quarter of an hour of waiting, which is no failure, and it is submitted again. A
key is refused: Ray shows what it runs to all.
Leaves out: starting a cluster; `platform.address` or RAY_API_SERVER_ADDRESS says where it is.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from kineme.errors import ServiceError, SpecError, shortened
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import Runner, check_platform
from kineme.jobs.runners.local import WORDS
from kineme.jobs.runners.slurm import refuse_key
from kineme.jobs.store import JobStore

SETTINGS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "address": ((str,), "of the cluster's dashboard (http://127.0.0.1:8265)"),
    "num_gpus": ((int, float), "GPUs that the job takes (0)"),
    "num_cpus": ((int, float), "CPUs that the job takes (1)"),
    "memory_gb": ((int, float), "memory that the job takes"),
    "resources": ((dict,), "of the cluster's own, by name"),
}
ADDRESS = "http://127.0.0.1:8265"
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
_WAITED_TOO_LONG = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"  # a type of error: it never began
_IF_NOT_LET_IN = (
    "Set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token."
)


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Submit a job. See runners.Start."""
    check_platform("ray", record.platform)
    refuse_key("ray", key)
    record = store.load(record.id)
    if record.state is not State.PENDING or record.backend_job_id is not None:
        return record
    return _submitted(store, record, record.id)


def end(store: JobStore, record: JobRecord) -> None:
    """See runners.End."""
    try:
        _client(record).stop_job(record.backend_job_id)
    except _refusals() as error:
        raise _refusal(error) from error


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    if record.backend_job_id is None:
        return None
    try:
        job = _client(record).get_job_info(record.backend_job_id)
        if job.error_type == _WAITED_TOO_LONG and record.state is State.PENDING:
            number = int(record.backend_job_id[len(record.id) + 1 :] or 1) + 1
            _submitted(store, record, f"{record.id}-{number}")
            return False
    except _refusals() as error:
        # a cluster that was started anew knows no job of before
        return True if f"Job {record.backend_job_id} does not exist" in str(error) else None
    return str(job.status.value) in _ENDED


def submission_of(store: JobStore, record: JobRecord) -> dict[str, Any]:
    """What Ray is told of a job."""
    platform = record.platform
    submission: dict[str, Any] = {
        "entrypoint": shlex.join([*WORDS, str(store.folder(record.id))]),
        "submission_id": record.id,
        "metadata": {"network": record.network_arch, "action": record.action},
        "entrypoint_num_cpus": platform.get("num_cpus", 1),
        "entrypoint_num_gpus": platform.get("num_gpus", 0),
    }
    if "memory_gb" in platform:
        submission["entrypoint_memory"] = int(platform["memory_gb"] * 2**30)
    if "resources" in platform:
        submission["entrypoint_resources"] = dict(platform["resources"])
    return submission


def _submitted(store: JobStore, record: JobRecord, name: str) -> JobRecord:
    """The record of a job that Ray has under that name, from now on or already."""
    client = _client(record)
    try:
        client.submit_job(**{**submission_of(store, record), "submission_id": name})
    except _refusals() as error:
        if "already exists" not in str(error):
            raise _refusal(error) from error
    return store.amend(record.id, backend_job_id=name)


def _client(record: JobRecord) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        fix = "pip install 'kineme[ray]'"
        raise SpecError("runner ray", "the package ray[default]", "none", fix) from error
    address = record.platform.get("address") or os.environ.get(_ADDRESS_VARIABLE) or ADDRESS
    try:
        return JobSubmissionClient(address)
    except _refusals() as error:
        raise _refusal(error) from error


def _refusals() -> tuple[type[Exception], ...]:
    """What Ray's client, or `_client`, raises; ConnectionError is an OSError. Errors of Ray's own,
    as that of a missing token, are there once Ray is imported, and not before."""
    module = sys.modules.get("ray.exceptions")
    return (RuntimeError, OSError, ServiceError, *([module.RayError] if module else []))


def _refusal(error: Exception) -> ServiceError:
    reason = shortened(" ".join(str(error).split()), 200)
    is_token = type(error).__name__ == "AuthenticationError"
    return ServiceError(
        "ray", "a cluster that takes the job", reason, _IF_NOT_LET_IN if is_token else ""
    )


RUNNER = Runner(start=start, cancel=ask_to_end, is_gone=is_gone, settings=SETTINGS, end=end)
