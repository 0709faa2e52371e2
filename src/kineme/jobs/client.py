"""Jobs from Python: create, watch, cancel, retry, delete, and what they left.

    from kineme.jobs import Client
    job = Client().create_job("pose_classification", "train", train_datasets=["data"]).wait()

Promises: a job is on the disk before anything is started, so whoever is killed leaves it findable;
an idempotency key makes one job. What readers are told was held against who really runs. Nothing
that has ended changes.
Leaves out: what a request means (requests.py), running jobs (runners), the command (command.py).
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineme import concealment
from kineme.engine.names import STATUS_FILE
from kineme.errors import KinemeError, SpecError, listed
from kineme.files import write_errors_named, write_text
from kineme.jobs import choosing, log
from kineme.jobs.choosing import Checkpoint
from kineme.jobs.index import JobRow, list_rows
from kineme.jobs.liveness import is_forgotten, reconcile
from kineme.jobs.outcome import error_of, failure_of, last_kpi
from kineme.jobs.parents import dependents
from kineme.jobs.record import JobRecord, State, to_json
from kineme.jobs.runners import DEFAULT, load_runner
from kineme.jobs.store import LOG_FILE, ROOT_VARIABLE, SPEC_FILE, JobStore, new_id

if TYPE_CHECKING:  # what makes a spec takes its time to import, and reading jobs needs none
    from kineme.jobs.said import Request, Said

DEFAULT_ROOT = "~/.kineme/jobs"
_LAUNCH_LOCK = "launch.lock"
_SEEN = (State.RUNNING, State.CANCELING, State.UNKNOWN, State.PAUSED)  # somebody should be there
_POLL_SECONDS = (0.05, 1.0)
_ASK_SECONDS = 15.0  # between two questions to a scheduler about one job
# of which a scheduler may know more
_DOUBTFUL = (State.PENDING, State.PAUSED, State.CANCELING, State.UNKNOWN)


@dataclass(frozen=True)
class JobStatus:
    """What is to be said of a job now. status: a word of `State`."""

    job_id: str
    status: State
    message: str
    updated_at: str


class Client:
    """The jobs of a root folder: `results_root`, else $KINEME_JOBS, else ~/.kineme/jobs.

    results_root may be an address `s3://bucket/prefix`: records then lie in a folder of their own
    below the default root, and each job's results are copied to `<results_root>/<job id>`.
    runner: who runs jobs unless they say otherwise.
    """

    def __init__(
        self, results_root: str | os.PathLike[str] | None = None, *, runner: str = DEFAULT
    ) -> None:
        root = os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT
        self.uploads_root: str | None = None
        if results_root is not None and "://" in os.fspath(results_root):
            self.uploads_root = _checked_address(os.fspath(results_root))
            root = str(Path(root) / _folder_of(self.uploads_root))
        elif results_root is not None:
            root = os.fspath(results_root)
        self.store = JobStore(root)
        self.runner = runner
        self._asked: dict[str, float] = {}  # when a job's runner was asked about it
        load_runner(runner)

    def create_job(
        self,
        network_arch: str,
        action: str,
        *,
        specs: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        parent_job_id: str | None = None,
        train_datasets: Sequence[str] | str | None = None,
        eval_dataset: str | None = None,
        checkpoint: str | int | None = None,
        runner: str | None = None,
        platform: Mapping[str, Any] | None = None,
        automl_policy: str | bool = "auto",
        automl_settings: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        upload_excludes: Sequence[str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> "Job":
        """Record a job and have it run; returns when it is on its way.

        specs: settings by nested or dotted keys, or a spec file; overrides win over them.
        parent_job_id: whose model to use; checkpoint: its "best" (default), "latest", or the
        number of an epoch. train_datasets: one folder, archive or address.
        idempotency_key: the same for the same request, which then makes one job.
        Raises SpecError with everything that is wrong, and what the runner says.
        """
        from kineme.jobs.said import Request

        request = Request(
            network_arch=network_arch,
            action=action,
            specs=specs,
            overrides=overrides,
            parent_job_id=parent_job_id,
            train_datasets=() if train_datasets is None else train_datasets,
            eval_dataset=eval_dataset,
            runner=runner or self.runner,
            platform=platform or {},
            automl_policy=automl_policy,
            automl_settings=automl_settings,
            idempotency_key=idempotency_key,
            upload_excludes=upload_excludes,
            checkpoint=checkpoint,
            details=details or {},
            uploads_root=self.uploads_root,
        )
        return self._create(request)

    def get_job(self, job_id: str) -> "Job":
        """A job by its id, a trial of a search too. Raises SpecError for an unknown one."""
        return Job(self, self._looked_up(job_id))

    def get_job_status(self, job_id: str) -> JobStatus:
        """What is to be said of a job now."""
        record = self._looked_up(job_id)
        reason = record.transitions[-1].reason if record.transitions else "waits to be started"
        message = record.failure.message if record.failure else reason
        return JobStatus(record.id, record.state, message, record.updated_at)

    def list_jobs(
        self,
        *,
        states: Sequence[State | str] | None = None,
        network_arch: str | None = None,
        action: str | None = None,
        parent_job_id: str | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """Jobs, the newest first; those of searches' trials are left out."""
        wanted = None if states is None else frozenset(map(_state, states))

        def listed_now() -> list[JobRow]:
            return list_rows(
                self.store, network_arch=network_arch, action=action, parent_job_id=parent_job_id
            )

        rows = listed_now()
        changed = [self._has_changed(row) for row in rows if row.state in _SEEN]  # all of them
        if any(changed):
            rows = listed_now()
        return [row for row in rows if wanted is None or row.state in wanted][:limit]

    def get_job_logs(self, job_id: str, tail: int = 100, *, follow: bool = False) -> Iterator[str]:
        """The last lines that a job printed; with `follow`, those to come until it has ended."""
        path = self.store.folder(job_id) / LOG_FILE
        if not follow:
            return iter(log.tail(path, tail))
        return log.follow(path, lambda: self._current(job_id).is_terminal, num_lines=tail)

    def cancel_job(self, job_id: str, *, reason: str = "asked for") -> bool:
        """Have a job end. Returns whether it is Canceled, now or soon; False if it had ended.

        Asking twice is as asking once.
        """
        record = self._current(job_id)
        if not record.is_terminal:
            record = load_runner(record.runner).cancel(self.store, record, reason=reason)
        return record.state is State.CANCELED or not record.is_terminal

    def retry_job(self, job_id: str, *, encryption_key: str | None = None) -> "Job":
        """A new job that does again what one did that failed or was cancelled.

        A training goes on from the newest whole checkpoint of that job, a search with its trials.
        encryption_key: again, where the job had one. Raises SpecError.
        """
        record = self._current(job_id)
        if record.state not in (State.ERROR, State.CANCELED):
            expected = "a job that failed or was cancelled"
            fix = "Create another." if record.is_terminal else "Wait for it, or cancel it first."
            raise SpecError(f"job {record.id}", expected, f"one that is {record.state}", fix)
        if self.store.folder(record.id).parent != self.store.root:
            fix = "Its search tries it again."
            raise SpecError(f"job {record.id}", "a job of its own", "a trial of a search", fix)
        from kineme.jobs.said import Request

        values = _without(record.spec, {choice.key for choice in record.choices})
        if encryption_key is not None:
            values["encryption_key"] = encryption_key
        uploads_to, uploads_root = record.uploads_to, self.uploads_root
        root, _, name = (uploads_to or "").rpartition("/")
        if name == record.id and not choosing.is_search(record):
            uploads_to, uploads_root = None, root  # beside those of the first try
        request = Request(
            network_arch=record.network_arch,
            action=record.action,
            specs=values,
            parent_job_id=record.parent_job_id,
            train_datasets=record.train_datasets,
            eval_dataset=record.eval_dataset,
            runner=record.runner,
            platform=record.platform,
            automl_policy=record.automl_policy or "auto",
            upload_excludes=record.upload_excludes,
            checkpoint=record.details.get("checkpoint"),
            retry_of=record.id,
            # a search finds its trials where they are
            results_dir=record.results_dir if choosing.is_search(record) else None,
            needs_key=bool(record.details.get("has_key")),
            uploads_to=uploads_to,
            uploads_root=uploads_root,
        )
        return self._create(request)

    def delete_job(self, job_id: str, *, cascade: bool = False) -> list[str]:
        """Remove a job that has ended, and all it left in its folder.

        cascade: and the jobs that go on with it. Returns where results stay: in a results_dir of
        the user's, and at the address that they were copied to. Raises SpecError where others go
        on with the job and it is not said, or any of them has not ended; then nothing is removed.
        """
        record = self._current(job_id)
        if self.store.folder(record.id).parent != self.store.root:
            fix = "Delete the search."
            raise SpecError(f"job {record.id}", "a job of its own", "a trial of a search", fix)
        children = [reconcile(self.store, child) for child in dependents(self.store, record.id)]
        if children and not cascade:
            shown = listed(f"{child.id} ({child.action}, {child.state})" for child in children)
            raise SpecError(
                f"job {record.id}", "a job that no other goes on with", shown,
                "Say cascade (`--cascade`) to delete these too.",
            )  # fmt: skip
        kept = [place for one in (record, *children) for place in self._outside(one)]
        self.store.delete(record.id, children=children)
        return list(dict.fromkeys(kept))

    def _outside(self, record: JobRecord) -> Iterator[str]:
        """The places of a job's results that are not in its folder."""
        results = Path(record.results_dir)
        if not results.is_relative_to(self.store.folder(record.id)) and results.is_dir():
            yield str(results)
        if record.uploads_to is not None:
            yield record.uploads_to

    def get_checkpoints(self, job_id: str) -> list[Checkpoint]:
        """The models that a job left, the best first, damaged ones marked."""
        return choosing.list_checkpoints(self.store, self._current(job_id))

    def list_results(self, job_id: str) -> list[str]:
        """The files that a job left, relative to its results, by name; links are not followed.

        Left out is what begins with a dot: notes of programs to themselves.
        """
        root = Path(self._current(job_id).results_dir)
        found = []
        for folder, inner, names in os.walk(root):
            inner[:] = [name for name in inner if not name.startswith(".")]
            shown = [name for name in names if not name.startswith(".")]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in shown]
        return sorted(found)

    def get_failure_analysis(self, job_id: str) -> dict[str, Any] | None:
        """Why a job failed, with the end of its log; None if it did not."""
        record = self._current(job_id)
        if record.failure is None:
            return None
        return {
            "job_id": record.id,
            "kind": record.failure.kind,
            "message": record.failure.message,
            "exit_code": record.failure.exit_code,
            "log_tail": list(self.get_job_logs(record.id, 20)),
        }

    def _create(self, request: "Request") -> "Job":
        from kineme.jobs.requests import build
        from kineme.jobs.said import differences, read_request

        said = read_request(request)
        record, is_new = self._made_before(said), False
        if record is None:
            record, is_new = self.store.create(build(self.store, said))
        if not is_new:
            text = f"idempotency_key {request.idempotency_key!r}: job {record.id} is there already"
            if differing := differences(request, record):
                text = f"{text}, with another {listed(differing)}; it stays as it is."
                warnings.warn(text, stacklevel=3)
        return Job(self, self._launch(record, said.key), is_new=is_new)

    def _made_before(self, said: "Said") -> JobRecord | None:
        """The job that the same request made before. Raises SpecError if another one did."""
        key = said.request.idempotency_key
        if not isinstance(key, str) or not key:
            return None
        try:
            record = self.store.load(new_id(key))
        except SpecError:
            return None
        if record.details.get("request") != said.digest:
            raise SpecError(
                f"idempotency_key {key!r}", f"the same request as that of job {record.id}",
                "another one", "Use another key for another job.",
            )  # fmt: skip
        return record

    def _launch(self, record: JobRecord, key: str | None) -> JobRecord:
        """Start a job that nobody has started; of several clients one does."""
        folder = self.store.folder(record.id)
        with _only_one(folder / _LAUNCH_LOCK):
            record = self.store.load(record.id)
            if record.state is not State.PENDING or record.backend_job_id or record.agent:
                return record
            if record.details.get("has_key") and key is None:
                fix = f"Set encryption_key or {concealment.VARIABLE}, and create it again."
                raise SpecError("encryption_key", "the key of this job", "none", fix)
            if not (folder / SPEC_FILE).exists():
                import yaml

                text = yaml.safe_dump(dict(record.spec), sort_keys=False, allow_unicode=True)
                write_text(folder / SPEC_FILE, text)
            try:
                return load_runner(record.runner).start(self.store, record, key=key)
            except KinemeError as error:
                self._fail(record, error)
                raise

    def _fail(self, record: JobRecord, error: KinemeError) -> None:
        """Record that a job could not be started."""
        with contextlib.suppress(KinemeError):  # it runs or has ended after all
            self.store.move(
                record.id, State.ERROR, reason="could not be started", source="client",
                failure=failure_of(error),
            )  # fmt: skip

    def _has_changed(self, row: JobRow) -> bool:
        """Whether a job is no more what a list says, once it was held against who runs it."""
        try:
            return self._current(row.id).state is not row.state
        except SpecError:  # deleted meanwhile
            return True

    def _current(self, job_id: str) -> JobRecord:
        """The record of a job, held against who runs it."""
        return reconcile(self.store, self.store.load(job_id))

    def _looked_up(self, job_id: str) -> JobRecord:
        """As `_current`; of a job that waits or is silent its runner is asked now and then."""
        record = self._current(job_id)
        if record.state not in _DOUBTFUL:
            self._asked.pop(job_id, None)
            return record
        now = time.monotonic()
        if now - self._asked.get(job_id, -_ASK_SECONDS) < _ASK_SECONDS:
            return record
        self._asked[job_id] = now
        return reconcile(self.store, record, asks_runner=True)


class Job:
    """A job as it was when it was last looked at: `refresh` looks again.

    is_new: whether the call that gave it made it; its idempotency key may have been used before.
    """

    def __init__(self, client: Client, record: JobRecord, *, is_new: bool = False) -> None:
        self._client = client
        self.record = record
        self.is_new = is_new

    def __repr__(self) -> str:
        record = self.record
        return f"Job({record.id}, {record.network_arch} {record.action}, {record.state})"

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> State:
        """Its state when it was last looked at."""
        return self.record.state

    @property
    def results_dir(self) -> Path:
        return Path(self.record.results_dir)

    def refresh(self) -> "Job":
        """Look again."""
        self.record = self._client._looked_up(self.id)
        return self

    def wait(self, timeout: float | None = None) -> "Job":
        """Wait until it has ended, however it does. Raises TimeoutError after `timeout` seconds.

        A job whose client was killed before it could start it is started.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, longest = _POLL_SECONDS
        while not self.refresh().record.is_terminal:
            if is_forgotten(self._client.store, self.record):
                self.record = self._client._launch(self.record, concealment.environment_key())
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {self.id} is {self.status} after {timeout:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, longest)
        return self

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """What it found, once it has ended: its last figures (kpi), its best model, its files.

        Raises what its action raised where it failed, ServiceError where it was cancelled.
        """
        record = self.wait(timeout).record
        if record.state is not State.COMPLETE:
            raise error_of(record)
        return {
            "job_id": self.id,
            "results_dir": record.results_dir,
            "kpi": last_kpi(choosing.action_folder(record) / STATUS_FILE),
            "checkpoint": choosing.best_model(self._client.store, record),
            "files": self._client.list_results(self.id),
        }

    def cancel(self) -> bool:
        """Have it end; see `Client.cancel_job`."""
        return self._client.cancel_job(self.id)

    def logs(self, tail: int = 100, *, follow: bool = False) -> Iterator[str]:
        """Its last lines; see `Client.get_job_logs`."""
        return self._client.get_job_logs(self.id, tail, follow=follow)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it, with its id as `job_id`, as TAO's SDK says."""
        tree = to_json(self.record)
        return {
            "job_id": tree.pop("id"),
            "status": str(self.record.state),
            "backend_type": self.record.runner,
            **tree,
        }


def _state(word: State | str) -> State:
    from kineme.spec.suggest import did_you_mean

    for state in State:
        if str(word).lower() == state.lower():
            return state
    fix = did_you_mean(str(word), State)
    raise SpecError("state", f"one of {', '.join(State)}", repr(str(word))[:40], fix)


def _without(tree: Mapping[str, Any], keys: set[str], prefix: str = "") -> dict[str, Any]:
    """A spec without some of its dotted keys."""
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if prefix + name not in keys
    }


def _checked_address(text: str) -> str:
    from kineme.data.remote.addresses import parse

    return str(parse(text, where="results_root")).rstrip("/")


def _folder_of(address: str) -> str:
    """A folder name of its own for the records of each address."""
    words = re.sub(r"[^a-z0-9]+", "-", address.partition("://")[2].lower()).strip("-")[:60]
    return f"s3-{words}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One at a time; the lock goes with the process."""
    with write_errors_named(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
