"""Jobs on a SLURM cluster, through submitit: the agent runs where SLURM says.

The store's folder and this Python environment must be seen by the nodes under the same paths. On
several nodes the first one's agent runs the job, and the others follow it (follower.py). SLURM's
warning before the time limit stops the action in time to save.
Promises: the job is SLURM's business before `start` returns, under the id in the record. A key is
refused: SLURM keeps what it is given for all to see; a file of the shared folder can hold it.
Leaves out: requeuing (a retry is a new job that resumes).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kineme import concealment
from kineme.errors import ServiceError, SpecError, shortened
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import Runner, check_platform
from kineme.jobs.runners.local import WORDS, agent_environment
from kineme.jobs.store import JobStore

SETTINGS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "partition": ((str,), "of the cluster"),
    "account": ((str,), "that is charged"),
    "qos": ((str,), "quality of service"),
    "num_nodes": ((int,), "machines (1)"),
    "num_gpus": ((int,), "GPUs of each node (0)"),
    "num_cpus": ((int,), "CPUs of each node (2)"),
    "memory_gb": ((int, float), "memory of each node"),
    "time_minutes": ((int,), "after which SLURM ends the job (1440)"),
    "setup": ((list, tuple), "lines of shell before the agent starts"),
    "cluster": ((str,), "slurm, or local: submitit's stand-in on this machine (slurm)"),
}
FOLDER = "slurm"  # of submitit's files, below that of the job
_FIRST_PORT, _NUM_PORTS = 20_000, 20_000
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY",
          "BOOT_FAIL", "DEADLINE", "PREEMPTED")  # fmt: skip


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Submit a job. See runners.Start."""
    check_platform("slurm", record.platform)
    refuse_key("slurm", key)
    record = store.load(record.id)
    if record.state is not State.PENDING or record.backend_job_id is not None:
        return record
    folder = store.folder(record.id)
    submitit = _submitit()
    cluster = record.platform.get("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=folder / FOLDER, cluster=cluster)
        executor.update_parameters(**parameters_of(record))
        submitted = executor.submit(enter, str(folder))
    except (RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError) as error:
        reason = shortened(" ".join(str(error).split()), 200)
        raise ServiceError("slurm", "a cluster that takes the job", reason) from error
    return store.amend(record.id, backend_job_id=str(submitted.job_id))


def end(store: JobStore, record: JobRecord) -> None:
    """`scancel`. See runners.End."""
    with contextlib.suppress(OSError):  # a job that has ended is found by its agent, which ends
        _submitted(store, record).cancel(check=False)


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    if record.backend_job_id is None or record.platform.get("cluster", "slurm") != "slurm":
        return None
    state = _state(store, record)
    if state == "UNKNOWN":
        return None
    return state in _ENDED


def is_paused(store: JobStore, record: JobRecord) -> bool:
    """See runners.IsPaused."""
    if record.backend_job_id is None or record.platform.get("cluster", "slurm") != "slurm":
        return False
    return _state(store, record) == "SUSPENDED"


def parameters_of(record: JobRecord) -> dict[str, Any]:
    """What submitit is told of a job."""
    platform = record.platform
    parameters: dict[str, Any] = {
        "name": f"kineme-{record.action}",
        "nodes": platform.get("num_nodes", 1),
        "tasks_per_node": 1,
        "gpus_per_node": platform.get("num_gpus", 0),
        "cpus_per_task": platform.get("num_cpus", 2),
        "timeout_min": platform.get("time_minutes", 1440),
    }
    if "memory_gb" in platform:
        parameters["mem_gb"] = platform["memory_gb"]
    for name in ("partition", "account", "qos", "setup"):
        if name in platform:
            value = platform[name]
            parameters[f"slurm_{name}"] = list(value) if name == "setup" else value
    return parameters


def enter(folder: str) -> None:
    """On a node: become the agent of a job, or who follows it on a further node."""
    words, environment = entry(os.environ, folder)
    os.chdir(folder)
    os.execve(sys.executable, words, environment)  # noqa: S606


def entry(environment: Mapping[str, str], folder: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a node."""
    own = agent_environment(environment)
    num_nodes = int(own.get("SLURM_JOB_NUM_NODES", "1"))
    if num_nodes == 1:
        return [*WORDS, folder], own
    node = own["SLURM_NODEID"]
    own |= {
        "NODE_RANK": node,
        "WORLD_SIZE": str(num_nodes),
        "MASTER_ADDR": _submitit().JobEnvironment().hostnames[0],
        "MASTER_PORT": str(_FIRST_PORT + int(own["SLURM_JOB_ID"]) % _NUM_PORTS),
    }
    words = WORDS if node == "0" else (sys.executable, "-P", "-m", "kineme.jobs.follower")
    return [*words, folder], own


def refuse_key(runner: str, key: str | None) -> None:
    """Raise SpecError for a key, which this runner cannot hand on unseen."""
    if key is not None or concealment.environment_key() is not None:
        raise SpecError(
            f"runner {runner}", "no key: others would see it", "a key",
            "Set encryption_key_file to a file of yours that the nodes see, and "
            f"unset {concealment.VARIABLE}.",
        )  # fmt: skip


def _state(store: JobStore, record: JobRecord) -> str:
    """The word of SLURM for what a job does."""
    job = _submitted(store, record)
    word = str(job.state).split()[0].rstrip("+")
    if word not in _ENDED:
        job.watcher.clear()  # submitit takes SUSPENDED for an end, and would not ask again
    return word


def _submitted(store: JobStore, record: JobRecord) -> Any:
    folder = Path(store.folder(record.id)) / FOLDER
    submitit = _submitit()
    kind = submitit.SlurmJob
    if record.platform.get("cluster", "slurm") != "slurm":
        kind = submitit.LocalJob
    return kind(folder=folder, job_id=record.backend_job_id)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        fix = "pip install 'kineme[slurm]'"
        raise SpecError("runner slurm", "the package submitit", "none", fix) from error
    return submitit


RUNNER = Runner(
    start=start, cancel=ask_to_end, is_gone=is_gone, settings=SETTINGS, end=end,
    is_paused=is_paused,
)  # fmt: skip
