"""Runs that remember: recorded, chained by parents, run here or elsewhere, found again.

`from kineme.jobs import Client`. Importing it needs neither torch nor numpy.
Leaves out: searching for good settings (automl), which makes jobs of its own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kineme.jobs.client import Client, Job, JobStatus
    from kineme.jobs.record import State

__all__ = ["Client", "Job", "JobStatus", "State"]


def __getattr__(name: str) -> Any:
    """What users import, when they do: an agent needs none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kineme.jobs import client

    return getattr(client, name)
