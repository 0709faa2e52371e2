"""Which jobs there are, fast: a cache of their records in one SQLite file.

Promises: what is told is what the records say now: each that changed since it was read last (time
or size of its file) is read again. The file may be deleted at any time; one that is damaged is
set aside and made anew, one that others write to is waited for, and where none can be
written the records themselves are read. 10,000 jobs are listed in well under a second.
Leaves out: whether a job that says Running still runs (liveness.py).
"""

import contextlib
import os
import sqlite3
import time
import warnings
from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from kineme.errors import DataError
from kineme.jobs.record import State
from kineme.jobs.store import RECORD_FILE, JobStore

INDEX_FILE = "index.sqlite3"
_WAIT_SECONDS = 15.0


class JobRow(NamedTuple):
    """What lists show of a job; the fields of its record."""

    id: str
    network_arch: str
    action: str
    state: State
    parent_job_id: str | None
    created_at: str
    updated_at: str


_STATES = {str(state): state for state in State}
_NOT_KNOWN = (None, None)
_NEVER = (-1, -1)  # time and size of no file
_NEWEST = attrgetter("created_at", "id")
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, network_arch TEXT, action TEXT, "
    "state TEXT, parent_job_id TEXT, created_at TEXT, updated_at TEXT, "
    "mtime_ns INTEGER, size INTEGER)"
)
_SELECT = (
    "SELECT id, network_arch, action, state, parent_job_id, created_at, updated_at, "
    "mtime_ns, size FROM jobs"
)
_INSERT = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def list_rows(
    store: JobStore,
    *,
    states: Collection[State] | None = None,
    network_arch: str | None = None,
    action: str | None = None,
    parent_job_id: str | None = None,
    limit: int | None = None,
) -> list[JobRow]:
    """Jobs of a store, the newest first, those that all of the given hold for."""
    wanted = {"network_arch": network_arch, "action": action, "parent_job_id": parent_job_id}
    rows = _all_rows(store)
    if states is not None:
        rows = [row for row in rows if row.state in states]
    for name, value in wanted.items():
        if value is not None:
            rows = [row for row in rows if getattr(row, name) == value]
    rows.sort(key=_NEWEST, reverse=True)
    return rows[:limit]


def _all_rows(store: JobStore) -> list[JobRow]:
    marks = _marks(store)
    if not marks:
        return []
    path = store.root / INDEX_FILE
    try:
        return _cached(store, path, marks)
    except sqlite3.OperationalError as error:  # locked for long, or not to be written
        warnings.warn(f"{path}: {error}; every record is read instead.", stacklevel=2)
    except sqlite3.DatabaseError as error:
        aside = path.with_name(f"{INDEX_FILE}.damaged-{time.time_ns()}")
        os.replace(path, aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(INDEX_FILE + suffix).unlink(missing_ok=True)
        text = f"{path}: {error}; it is made anew from the records, the old one is {aside.name}."
        warnings.warn(text, stacklevel=2)
        return _cached(store, path, marks)
    return list(filter(None, (_row(store, job_id) for job_id in marks)))


def _marks(store: JobStore) -> dict[str, tuple[int, int]]:
    """(time, size) of the record of every job."""
    marks = {}
    root, stat = str(store.root), os.stat
    for job_id in store.ids():
        try:
            status = stat(f"{root}/{job_id}/{RECORD_FILE}")
        except FileNotFoundError:  # deleted meanwhile
            continue
        except PermissionError:  # told when its record is read
            marks[job_id] = _NEVER
            continue
        marks[job_id] = (status.st_mtime_ns, status.st_size)
    return marks


def _cached(store: JobStore, path: Path, marks: dict[str, tuple[int, int]]) -> list[JobRow]:
    """All rows; those that the cache lacks or has of another time are read and put into it."""
    with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as base, base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute(_SCHEMA)
        known = {row[0]: row for row in base.execute(_SELECT).fetchall()}
        stale = {one for one, mark in marks.items() if known.get(one, _NOT_KNOWN)[-2:] != mark}
        read = {job_id: row for job_id in stale if (row := _row(store, job_id))}
        if read:
            base.executemany(
                _INSERT,
                [(*row, *marks[job_id]) for job_id, row in read.items()],
            )
        if gone := known.keys() - marks.keys():
            base.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in gone])
    rows = []
    for job_id in marks:
        if job_id in read:
            rows.append(read[job_id])
        elif job_id in known and job_id not in stale:
            first, network, action, state, parent, created, updated, _, _ = known[job_id]
            rows.append(JobRow(first, network, action, _STATES[state], parent, created, updated))
    return rows


def _row(store: JobStore, job_id: str) -> JobRow | None:
    """None, and a note, where the record cannot be read."""
    try:
        record = store.read(store.root / job_id)
    except FileNotFoundError:  # deleted meanwhile
        return None
    except DataError as error:
        warnings.warn(str(error), stacklevel=2)
        return None
    return JobRow(*(getattr(record, name) for name in JobRow._fields))
