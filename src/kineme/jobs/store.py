"""Jobs as folders: created, changed and removed so that none is lost, twice or half there.

Promises: a job's folder appears whole or not at all; a record on the disk is always one that was
written whole. Changes of one job come one after the other, whatever processes make them. An
idempotency key makes one job, however often it is used. Names from outside are never paths.
Leaves out: which states follow each other (record.py), finding jobs fast (index.py).
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kineme.errors import DataError, KinemeError, Problem, ResourceError, SpecError, listed
from kineme.files import is_abandoned, sync, temporary_beside, write_errors_named, write_json
from kineme.jobs.record import JobRecord, State, from_json, moved, now, to_json

ROOT_VARIABLE = "KINEME_JOBS"  # names the folder of jobs where nothing else does
RECORD_FILE = "job.json"
SPEC_FILE = "spec.yaml"
LOG_FILE = "job.log"
CANCEL_FILE = "cancel.json"
AGENT_LOCK_FILE = "agent.lock"
RESULTS_FOLDER = "results"
AUTOML_FOLDER = "automl"  # of a search, inside its results
TRIALS_FOLDER = "trials"  # inside that: the jobs that it made
LOCK_FILE = "lock"
_TRIALS = f"*/{RESULTS_FOLDER}/{AUTOML_FOLDER}/{TRIALS_FOLDER}"
_SEARCH_MARK = b'"automl"'  # in the record of every search
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAMESPACE = uuid.UUID("6c1f5b0e-8f1d-5c0a-9d2f-0b6f4b0a7c11")  # of ids made from keys
_LOCK_SECONDS = 30.0


class JobStore:
    """The jobs of a folder `root`, which is made when the first one is created."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()

    def create(self, record: JobRecord) -> tuple[JobRecord, bool]:
        """Put a new job on the disk. Returns its record, and whether it is new.

        A record whose idempotency key made a job before gives that job. Raises SpecError when
        that one was asked for otherwise, ResourceError when it cannot be written.
        """
        folder = self.root / checked_id(record.id)
        record = replace(record, updated_at=record.created_at)
        if not record.results_dir:
            record = replace(record, results_dir=str(folder / RESULTS_FOLDER))
        if folder.exists():
            return self._existing(record), False
        self._sweep()
        building = temporary_beside(folder)
        with write_errors_named(folder):
            building.mkdir(parents=True)
            try:
                write_json(building / RECORD_FILE, to_json(record))
                os.rename(building, folder)  # refused when another process was first
                sync(self.root)
            except OSError:
                if not (folder / RECORD_FILE).exists():
                    raise
                return self._existing(record), False
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return record, True

    def load(self, job_id: str) -> JobRecord:
        """The record of a job, one of a search's trials too. Raises SpecError for an unknown one,
        DataError for a record that is none."""
        return self.read(self.folder(job_id))

    def read(self, folder: Path) -> JobRecord:
        """The record in a job's folder."""
        path = folder / RECORD_FILE
        try:
            return from_json(json.loads(path.read_bytes()), where=str(path))
        except PermissionError as error:
            raise DataError(str(path), "a record that can be read", "no permission") from error
        except ValueError as error:
            raise DataError(str(path), "the record of a job", str(error)) from error

    def folder(self, job_id: str) -> Path:
        """The folder of a job. Raises SpecError where there is none of this id."""
        folder = self.root / checked_id(job_id)
        if os.path.isfile(folder / RECORD_FILE):  # False, not an error, where nobody may look
            return folder
        for trials in self.trial_folders():
            if (trials / job_id / RECORD_FILE).is_file():
                return trials / job_id
        fix = "`kineme jobs list` shows them."
        raise SpecError("job id", f"a job of {self.root}", repr(job_id), fix)

    def trial_folders(self) -> Iterator[Path]:
        """Where the trials of searches lie: in the folders of their jobs, or where those have
        their results. Takes a look at every record once the first are through."""
        usual = list(self.root.glob(_TRIALS))
        yield from usual
        elsewhere = set()
        for job_id in self.ids():
            folder = self.root / job_id
            with contextlib.suppress(OSError, KinemeError):  # deleted meanwhile, or damaged
                if _SEARCH_MARK not in (folder / RECORD_FILE).read_bytes():
                    continue
                trials = trials_of(self.read(folder))
                if trials is not None:
                    elsewhere.add(trials)
        yield from sorted(elsewhere - set(usual))

    def ids(self) -> list[str]:
        """Of all jobs, in no order; those of searches' trials left out."""
        if not self.root.is_dir():
            return []
        try:
            with os.scandir(self.root) as entries:
                return [entry.name for entry in entries if _ID.fullmatch(entry.name)]
        except PermissionError as error:
            fix = f"Name another with --root or {ROOT_VARIABLE}."
            expected = "a folder of jobs that can be read"
            raise ResourceError(str(self.root), expected, "no permission", fix) from error

    def move(
        self, job_id: str, state: State, *, reason: str, source: str, **changes: Any
    ) -> JobRecord:
        """Change the state of a job; returns the new record. Raises SpecError if it may not."""
        with self._changing(job_id) as folder:
            record = moved(self.read(folder), state, reason=reason, source=source, **changes)
            write_json(folder / RECORD_FILE, to_json(record))
        return record

    def amend(self, job_id: str, **changes: Any) -> JobRecord:
        """Change what is known of a job, but not its state; returns the new record."""
        with self._changing(job_id) as folder:
            record = replace(self.read(folder), updated_at=now(), **changes)
            write_json(folder / RECORD_FILE, to_json(record))
        return record

    def wish_to_cancel(self, job_id: str, reason: str) -> None:
        """Leave word for whoever runs the job that it should end; the first word counts."""
        path = self.folder(job_id) / CANCEL_FILE
        if not path.exists():
            write_json(path, {"reason": reason, "time": now()})

    def delete(self, job_id: str, *, children: Iterable[JobRecord] = ()) -> None:
        """Remove the folder of a job that has ended, and of the ended `children`, theirs first.

        Links inside are removed, never followed. Raises SpecError, and removes nothing, when
        any of them has not ended.
        """
        records = [*children, self.load(job_id)]
        if problems := [
            Problem(f"job {record.id}", "a job that has ended", f"one that is {record.state}",
                    f"`kineme jobs cancel {record.id}` ends it.")
            for record in records
            if not record.is_terminal
        ]:  # fmt: skip
            raise SpecError.of(problems)
        for record in records:
            folder = self.folder(record.id)
            if stat.S_ISLNK(folder.lstat().st_mode):
                folder.unlink()
                continue
            # out of sight at once; what a killed deletion leaves is no job any more
            gone = temporary_beside(folder)
            with write_errors_named(folder):
                os.rename(folder, gone)
                shutil.rmtree(gone)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed processes of this machine left of jobs half made or half removed."""
        if not self.root.is_dir():
            return
        with os.scandir(self.root) as entries:
            left = [entry.path for entry in entries if is_abandoned(entry.name)]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)

    def _existing(self, record: JobRecord) -> JobRecord:
        """The job that is there already for this id; SpecError if it was asked for otherwise."""
        there = self.load(record.id)
        differing = [name for name in _ASKED if _plain(there, name) != _plain(record, name)]
        if record.idempotency_key is None or differing:
            raise SpecError(
                f"idempotency_key {record.idempotency_key!r}",
                f"the same request as that of job {there.id}",
                f"another {listed(differing)}",
                "Use another key for another job.",
            )
        return there

    @contextlib.contextmanager
    def _changing(self, job_id: str) -> Iterator[Path]:
        """The folder of a job that nobody else changes meanwhile."""
        folder = self.folder(job_id)
        with write_errors_named(folder):
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, folder)
            yield folder
        finally:
            os.close(descriptor)


_ASKED = ("network_arch", "action", "spec", "command", "parent_job_id", "train_datasets",
          "eval_dataset", "automl_policy")  # fmt: skip


def trials_of(record: JobRecord) -> Path | None:
    """Where the trials of a search lie; None for another job."""
    if not record.details.get("automl"):
        return None
    return Path(record.results_dir) / AUTOML_FOLDER / TRIALS_FOLDER


def new_id(idempotency_key: str | None = None) -> str:
    """Of a job: random, or always the same for the same key."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(_NAMESPACE, idempotency_key))


def checked_id(job_id: str) -> str:
    """`job_id`, if it is spelled as ids are. Raises SpecError."""
    if not isinstance(job_id, str) or not _ID.fullmatch(job_id):
        raise SpecError("job id", "32 hex digits in groups, as 0b6e57a2-...", repr(job_id)[:80])
    return job_id


def _plain(record: JobRecord, name: str) -> str:
    return json.dumps(getattr(record, name), sort_keys=True, default=list)


def _lock(descriptor: int, folder: Path) -> None:
    """Wait for the lock; it goes with the descriptor or its process."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ResourceError(
                    str(folder),
                    "a job that can be changed",
                    f"one locked by another process for {_LOCK_SECONDS:g} s",
                    "Try again; a process that holds it may hang.",
                ) from error
        time.sleep(0.01)
