"""What is known of a job, and which states may follow each other.

A record says what was asked, what became of it and why; it is the truth about a job, whatever an
index, a scheduler or a memory says. States are those of TAO's job SDK.
Promises: a record survives the way to JSON and back unchanged. `moved` refuses what the table
TRANSITIONS does not have, so that no job ever leaves a terminal state. Secrets are not in it.
Leaves out: files and locks (store.py), who makes things happen (agent.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from kineme.errors import DataError, SpecError, shortened
from kineme.processes import ProcessIdentity

SCHEMA_VERSION = 1
GRACE_SECONDS = 30.0
SEARCH_GRACE_SECONDS = 75.0  # whose trials have GRACE_SECONDS each


class State(StrEnum):
    """Of a job, in the words of TAO's SDK."""

    PENDING = "Pending"
    RUNNING = "Running"
    PAUSED = "Paused"
    CANCELING = "Canceling"
    UNKNOWN = "Unknown"  # on another machine that shows no sign of life
    COMPLETE = "Complete"
    ERROR = "Error"
    CANCELED = "Canceled"


TERMINAL = frozenset({State.COMPLETE, State.ERROR, State.CANCELED})
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.RUNNING, State.CANCELING} | TERMINAL - {State.COMPLETE}),
    State.RUNNING: frozenset({State.PAUSED, State.CANCELING, State.UNKNOWN} | TERMINAL),
    # what is set aside may go on, and end, before anybody looks
    State.PAUSED: frozenset({State.PENDING, State.RUNNING, State.CANCELING, State.UNKNOWN})
    | TERMINAL,
    # a job that ends by itself while it is being cancelled has ended as it has
    State.CANCELING: frozenset({State.UNKNOWN} | TERMINAL),
    State.UNKNOWN: frozenset({State.RUNNING, State.CANCELING, State.PAUSED} | TERMINAL),
    **{state: frozenset() for state in TERMINAL},
}


@dataclass(frozen=True)
class Transition:
    """A change of state. time: ISO 8601, UTC. source: client, agent, observer or a runner."""

    time: str
    state: State
    reason: str
    source: str


@dataclass(frozen=True)
class Choice:
    """A value that was found rather than given, by which function (parent_model, ...), and why."""

    key: str
    value: Any
    function: str
    reason: str


@dataclass(frozen=True)
class Failure:
    """Why a job ended in Error. kind: of the exit code, as `data` or `crashed`."""

    kind: str
    message: str
    exit_code: int | None = None


FAILURE_KINDS = {
    1: "bug",
    2: "spec",
    3: "data",
    4: "checkpoint",
    5: "resource",
    6: "service",
    7: "quality",
    8: "partial",
}
CRASHED = "crashed"


@dataclass(frozen=True)
class JobRecord:
    """A job. Times are ISO 8601 in UTC; paths are absolute.

    command: the words after `kineme`; by default those of the action. spec: nested values as
    asked for, with what was found for them. uploads_to: an address that results are copied to.
    exclusive settings of a runner are in `platform`. details: what the maker of the job keeps
    with it (a trial's number, ...).
    """

    id: str
    network_arch: str
    action: str
    created_at: str
    state: State = State.PENDING
    updated_at: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    parent_job_id: str | None = None
    retry_of: str | None = None
    train_datasets: tuple[str, ...] = ()
    eval_dataset: str | None = None
    automl_policy: str | None = None
    idempotency_key: str | None = None
    runner: str = "subprocess"
    platform: Mapping[str, Any] = field(default_factory=dict)
    backend_job_id: str | None = None
    results_dir: str = ""
    uploads_to: str | None = None
    upload_excludes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    agent: ProcessIdentity | None = None
    group: ProcessIdentity | None = None  # who leads the processes of the action
    exit_code: int | None = None
    failure: Failure | None = None
    transitions: tuple[Transition, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self.state in TERMINAL

    @property
    def grace_seconds(self) -> float:
        """How long its action may take to stop; a search has longer than its trials."""
        usual = SEARCH_GRACE_SECONDS if self.details.get("automl") else GRACE_SECONDS
        return float(self.platform.get("grace_seconds", usual))


def now() -> str:
    """The time as records write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def moved(
    record: JobRecord, state: State, *, reason: str, source: str, **changes: Any
) -> JobRecord:
    """`record` in another state, with other fields changed.

    Raises SpecError for a step that TRANSITIONS does not have.
    """
    if state not in TRANSITIONS[record.state]:
        allowed = ", ".join(sorted(TRANSITIONS[record.state])) or "none: it has ended"
        raise SpecError(f"job {record.id}", f"a state that may follow {record.state} ({allowed})",
                        str(state))  # fmt: skip
    time = now()
    step = Transition(time, state, reason, source)
    transitions = (*record.transitions, step)
    return replace(record, state=state, updated_at=time, transitions=transitions, **changes)


def to_json(record: JobRecord) -> dict[str, Any]:
    """`record` as JSON has it."""
    return asdict(record)


def from_json(value: Any, *, where: str) -> JobRecord:
    """The record that `to_json` made `value` of; fields of a later version are left out.

    Raises DataError where it is none; `where` names its file.
    """
    try:
        known = {item.name for item in fields(JobRecord)}
        given = {key: value[key] for key in value.keys() & known}
        parts = {
            "state": State(given["state"]),
            "transitions": tuple(
                Transition(**{**step, "state": State(step["state"])})
                for step in given["transitions"]
            ),
            "choices": tuple(Choice(**choice) for choice in given["choices"]),
            "failure": Failure(**given["failure"]) if given.get("failure") else None,
            **{name: _process(given.get(name)) for name in ("agent", "group")},
            **{name: tuple(given[name]) for name in _TUPLES if name in given},
        }
        return JobRecord(**{**given, **parts})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(where, "the record of a job", shortened(str(error))) from error


_TUPLES = ("command", "train_datasets", "upload_excludes", "notes")


def _process(value: Any) -> ProcessIdentity | None:
    return ProcessIdentity(**value) if value else None
