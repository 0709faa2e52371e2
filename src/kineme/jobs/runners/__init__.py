"""Who runs a job: the table RUNNERS, and what each of them can do.

Promises: whatever runs a job, its folder, its states and its log are the same (agent.py makes
them). A runner is asked for by name and imported when it is used.
Leaves out: what becomes of a job once its agent runs (agent.py), reading states (liveness.py).
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kineme import concealment
from kineme.errors import Problem, SpecError
from kineme.jobs.record import JobRecord
from kineme.jobs.store import JobStore

# Import paths of each `Runner`, so that none is imported before it is used.
RUNNERS: Mapping[str, str] = {
    "subprocess": "kineme.jobs.runners.local:RUNNER",
    "in_process": "kineme.jobs.runners.in_process:RUNNER",
    "slurm": "kineme.jobs.runners.slurm:RUNNER",
    "ray": "kineme.jobs.runners.ray:RUNNER",
    "docker": "kineme.jobs.runners.docker:RUNNER",
}
DEFAULT = "subprocess"
# Settings of `record.platform` that the agent of any runner reads: name -> (types, meaning).
COMMON_SETTINGS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "grace_seconds": (
        (int, float),
        "between asking an action to stop and ending it (30; a search 75)",
    ),
    "time_limit_seconds": ((int, float), "after which it is stopped, an error (none)"),
    "upload_seconds": ((int, float), "for what is still to be sent at the end (600)"),
    "environment": ((dict,), "variables that the action gets; no secrets"),
    "gpu_ids": ((list, tuple), "GPUs that the action sees"),
}


class Start(Protocol):
    """Put a Pending job on its way; returns its record once it runs, waits or has ended.

    A job that runs or has ended already is left alone. key: of encrypted checkpoints.
    Raises SpecError for settings that do not fit, ServiceError where nobody would take it.
    """

    def __call__(
        self, store: JobStore, record: JobRecord, *, key: str | None = None
    ) -> JobRecord: ...


class Cancel(Protocol):
    """Have a job end, soon; returns its record. One that has ended stays as it is."""

    def __call__(self, store: JobStore, record: JobRecord, *, reason: str = ...) -> JobRecord: ...


class End(Protocol):
    """Have a scheduler end a job that does not hear; one that is not there any more is no error.

    Raises SpecError or ServiceError where nobody can be asked.
    """

    def __call__(self, store: JobStore, record: JobRecord) -> None: ...


class IsGone(Protocol):
    """Whether nobody runs the job, or ever will; None where that cannot be known."""

    def __call__(self, store: JobStore, record: JobRecord) -> bool | None: ...


class IsPaused(Protocol):
    """Whether a scheduler has set a job aside that had begun. Asked after IsGone."""

    def __call__(self, store: JobStore, record: JobRecord) -> bool: ...


@dataclass(frozen=True)
class Runner:
    """What can be done with a job. settings: of `record.platform`, beside COMMON_SETTINGS.

    unable: those of COMMON_SETTINGS that it cannot keep, and why. end, is_paused: of a scheduler.
    """

    start: Start
    cancel: Cancel
    is_gone: IsGone
    settings: Mapping[str, tuple[tuple[type, ...], str]]
    unable: Mapping[str, str] = field(default_factory=dict)
    end: End | None = None
    is_paused: IsPaused | None = None


def load_runner(name: str) -> Runner:
    """The runner of that name. Raises SpecError for an unknown one."""
    if name not in RUNNERS:
        from kineme.spec.suggest import did_you_mean

        fix = did_you_mean(name, RUNNERS)
        raise SpecError("runner", f"one of {', '.join(RUNNERS)}", repr(name)[:80], fix)
    module, attribute = RUNNERS[name].split(":")
    runner: Runner = getattr(importlib.import_module(module), attribute)
    return runner


def check_platform(runner: str, platform: Mapping[str, Any]) -> None:
    """Raise SpecError for each setting that `runner` does not have or keep, or of another type."""
    unable = load_runner(runner).unable
    common = {name: about for name, about in COMMON_SETTINGS.items() if name not in unable}
    known = {**common, **load_runner(runner).settings}
    problems = []
    for name, value in platform.items():
        where = f"platform.{name}"
        if name in unable:
            expected = f"a setting that the runner {runner} can keep"
            problems.append(Problem(where, expected, f"one that it cannot: {unable[name]}",
                                    "Use the runner subprocess."))  # fmt: skip
        elif name not in known:
            from kineme.spec.suggest import did_you_mean

            expected = f"a setting of the runner {runner} ({', '.join(sorted(known))})"
            problems.append(Problem(where, expected, "an unknown one", did_you_mean(name, known)))
        elif not _is_of(value, known[name][0]):
            types = " or ".join(one.__name__ for one in known[name][0])
            problems.append(Problem(where, types, f"{type(value).__name__} {value!r}"[:80]))
        elif isinstance(value, int | float) and not value >= 0:  # NaN neither
            problems.append(Problem(where, "0 or more", repr(value)))
    problems += _environment_problems(platform.get("environment"))
    if problems:
        raise SpecError.of(problems)


def _is_of(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _environment_problems(environment: Any) -> list[Problem]:
    if not isinstance(environment, Mapping):
        return []
    problems = []
    for name, value in environment.items():
        where = f"platform.environment.{name}"
        if not isinstance(value, str) or "\0" in value:
            problems.append(Problem(where, "text", repr(value)[:80]))
        if not str(name).replace("_", "a").isalnum():
            problems.append(Problem(where, "the name of a variable", repr(name)[:80]))
        if concealment.is_secret_name(str(name)):
            fix = "Records are read by others: set it where the job is created, or use a file."
            problems.append(Problem(where, "nothing secret", "a name of secrets", fix))
    return problems
