"""How a job that has ended did: errors made failures of its record and back, its last figures.

Promises: who waits for a job gets the class of error, and so the exit code, that its action ended
with.
Leaves out: watching a job (client.py), running it (agent.py).
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kineme.errors import (
    CheckpointError,
    DataError,
    KinemeError,
    Problem,
    QualityError,
    ResourceError,
    ServiceError,
    SpecError,
    listed,
)
from kineme.jobs.record import CRASHED, Failure, JobRecord

_ERRORS: Mapping[str, type[KinemeError]] = {
    "spec": SpecError,
    "data": DataError,
    "checkpoint": CheckpointError,
    "resource": ResourceError,
    "service": ServiceError,
    "quality": QualityError,
}


def failure_of(error: KinemeError) -> Failure:
    """What a record says of `error`."""
    kind = next((name for name, one in _ERRORS.items() if isinstance(error, one)), CRASHED)
    return Failure(kind, str(error.problems[0]), error.exit_code)


def error_of(record: JobRecord) -> KinemeError:
    """What to raise for a job that did not end well."""
    if record.failure is None:
        fix = f"`kineme jobs retry {record.id}` goes on with it."
        return ServiceError(f"job {record.id}", "a job that succeeded", str(record.state), fix)
    error = _ERRORS.get(record.failure.kind, KinemeError)
    fix = f"`kineme jobs logs {record.id}` shows more."
    received = listed(line.rstrip(".") for line in record.failure.message.splitlines())
    problem = Problem(f"job {record.id}", "success", received, fix)
    return error.of([problem])


def last_kpi(path: Path) -> dict[str, Any]:
    """The figures that an action told last in its status file; none where it told none."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                found = told["kpi"] if isinstance(told, dict) and told.get("kpi") else found
    return found
