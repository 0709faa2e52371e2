"""Whose model a job goes on with: the parent, and whether it may be one; who depends on a job.

Promises: what is wrong with a parent is said with its state and what to do about it. A job that
leaves no checkpoint (evaluate, inference, export) stands for its own parent; records that lead in a
circle are told, never followed for ever.
Leaves out: which of its files is taken (choosing.py).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from kineme.errors import KinemeError, SpecError
from kineme.jobs.record import JobRecord, State
from kineme.jobs.store import JobStore, trials_of

WHERE = "parent_job_id"
_PASSES_ON = ("evaluate", "inference", "export")  # actions that leave no checkpoint
_PARENTS = {  # action -> those whose models it can use; a training can use converted data, too
    "train": ("train", "dataset_convert"),
    "evaluate": ("train",),
    "inference": ("train",),
    "export": ("train",),
}


@dataclass(frozen=True)
class Parent:
    """The job that has the model. notes: how it was come by, where it is not the one named."""

    record: JobRecord
    notes: tuple[str, ...] = ()


def checked_parent(store: JobStore, job_id: str, *, network_arch: str, action: str) -> Parent:
    """The job whose model `action` uses when told of the parent `job_id`. Raises SpecError."""
    if action not in _PARENTS:
        raise _problem(f"none: {action} needs no model", repr(job_id)[:60], "Leave it out.")
    record = _loaded(store, job_id)
    seen = [record.id]
    notes: list[str] = []
    while True:
        _refuse_other(record, network_arch)
        _refuse_unfinished(record)
        if record.action not in _PASSES_ON:
            break
        if record.parent_job_id is None:
            what = f"{record.action}, which leaves no checkpoint, and no parent of its own"
            raise _problem("a job that trained a model", _shown(record, what), _name_it(action))
        if record.parent_job_id in seen:
            circle = " -> ".join((*seen, record.parent_job_id))
            raise _problem("parents that end somewhere", f"a circle: {circle}", _name_it(action))
        notes.append(
            f"job {record.id} ({record.action}) leaves no checkpoint: its parent is asked."
        )
        seen.append(record.parent_job_id)
        record = _loaded(store, record.parent_job_id)
    if record.action not in _PARENTS[action]:
        raise _problem(f"a job of {' or '.join(_PARENTS[action])}", _shown(record, record.action))
    return Parent(record, tuple(notes))


def dependents(store: JobStore, job_id: str) -> list[JobRecord]:
    """The jobs that go on with the model of a job or with its try, theirs too, last ones first."""
    by_parent: dict[str, list[JobRecord]] = {}
    records = list(_records(store))
    for record in records:
        for named in {record.parent_job_id, record.retry_of} - {None}:
            by_parent.setdefault(str(named), []).append(record)
    found: dict[str, JobRecord] = {}
    waiting = [job_id, *_trials_of_its_own(store.load(job_id), records)]
    while waiting:
        for child in by_parent.get(waiting.pop(), ()):
            if child.id not in found and child.id != job_id:
                found[child.id] = child
                waiting.append(child.id)
    return sorted(found.values(), key=lambda record: record.created_at, reverse=True)


def _trials_of_its_own(search: JobRecord, records: list[JobRecord]) -> list[str]:
    """The ids of the trials that nobody finds any more without the record of their search.

    Another try of a search has the trials of the first one, which keeps them.
    """
    trials = trials_of(search)
    if trials is None or not trials.is_dir():
        return []
    others = [one for one in records if one.id != search.id and trials_of(one) == trials]
    return [] if search.retry_of in {one.id for one in others} else os.listdir(trials)


def _records(store: JobStore) -> Iterator[JobRecord]:
    for job_id in store.ids():
        try:
            yield store.load(job_id)
        except KinemeError:  # deleted meanwhile, or damaged: told where it is asked for
            continue


def _loaded(store: JobStore, job_id: str) -> JobRecord:
    try:
        return store.load(job_id)
    except SpecError as error:
        first = error.problems[0]
        raise _problem(first.expected, first.received, first.fix) from error


def _refuse_other(record: JobRecord, network_arch: str) -> None:
    if record.network_arch != network_arch:
        received = f"job {record.id} of {record.network_arch}"
        raise _problem(f"a job of {network_arch}", received, "Models of one are none of the other.")


def _refuse_unfinished(record: JobRecord) -> None:
    if record.state is State.COMPLETE:
        return
    since = f" since {record.updated_at}" if record.updated_at else ""
    if record.state is State.ERROR:
        why = f": {record.failure.message}" if record.failure else ""
        fix = f"`kineme jobs logs {record.id}` shows why, `kineme jobs retry {record.id}` retries."
        raise _problem("a parent that succeeded", _shown(record, f"{record.state}{why}"), fix)
    if record.state is State.CANCELED:
        fix = f"`kineme jobs retry {record.id}` goes on with it."
        raise _problem("a parent that succeeded", _shown(record, f"{record.state}{since}"), fix)
    if record.state is State.UNKNOWN:
        fix = f"Look at the machine it runs on, or `kineme jobs cancel {record.id}`."
        raise _problem("a parent that has ended", _shown(record, f"{record.state}{since}"), fix)
    fix = f"`kineme jobs wait {record.id}` waits for it."
    raise _problem("a parent that has ended", _shown(record, f"{record.state}{since}"), fix)


def _shown(record: JobRecord, what: str) -> str:
    return f"job {record.id}: {what}"


def _name_it(action: str) -> str:
    return f"Name the job that trained it, or set {action}.checkpoint." if action != "train" else ""


def _problem(expected: str, received: str, fix: str = "") -> SpecError:
    return SpecError(WHERE, expected, received, fix)
