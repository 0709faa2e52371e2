"""Jobs on a Ray cluster, through its job API: the agent runs where Ray has room.

The store's folder and this Python environment must be seen by the nodes under the same paths.
Promises: the job is Ray's business before `start` returns, under the job's own id, so that it is
submitted once however often that is tried. A key is refused: Ray shows what it runs to all.
Leaves out: starting a cluster; `platform.address` or RAY_API_SERVER_ADDRESS says where it is.
"""

from __future__ import annotations

import os
import shlex
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


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Submit a job. See runners.Start."""
    check_platform("ray", record.platform)
    refuse_key("ray", key)
    record = store.load(record.id)
    if record.state is not State.PENDING or record.backend_job_id is not None:
        return record
    client = _client(record)
    try:
        client.submit_job(**submission_of(store, record))
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise _refusal(error) from error
    except OSError as error:
        raise _refusal(error) from error
    return store.amend(record.id, backend_job_id=record.id)


def cancel(store: JobStore, record: JobRecord, *, reason: str = "asked for") -> JobRecord:
    """See runners.Cancel."""
    was_waiting = store.load(record.id).state is State.PENDING
    record = ask_to_end(store, record, reason=reason)
    if was_waiting and record.state is State.CANCELED and record.backend_job_id is not None:
        try:
            _client(record).stop_job(record.backend_job_id)
        except (RuntimeError, OSError):  # then it finds a job that has ended, and ends
            return record
    return record


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    if record.backend_job_id is None:
        return None
    try:
        return str(_client(record).get_job_status(record.backend_job_id).value) in _ENDED
    except (RuntimeError, OSError, ServiceError):
        return None


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


def _client(record: JobRecord) -> Any:
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        fix = "pip install 'kineme[ray]'"
        raise SpecError("runner ray", "the package ray[default]", "none", fix) from error
    address = record.platform.get("address") or os.environ.get(_ADDRESS_VARIABLE) or ADDRESS
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, OSError) as error:  # ConnectionError is an OSError
        raise _refusal(error) from error


def _refusal(error: Exception) -> ServiceError:
    reason = shortened(" ".join(str(error).split()), 200)
    return ServiceError("ray", "a cluster that takes the job", reason)


RUNNER = Runner(start=start, cancel=cancel, is_gone=is_gone, settings=SETTINGS)
