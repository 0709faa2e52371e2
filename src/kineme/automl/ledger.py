"""The trials of a search, kept as job records and nothing else.

Each step of the ledger is a job in the folder `trials`; the details of its record say which
trial it is, of which configuration, trained up to which epoch. A job that crashed is followed by
another one of the same trial, which goes on from the checkpoint in the same results folder.
Promises: a trial is there as soon as its record is, whole, and once: its job's id follows from
the search and the number. What is known of a trial follows from records and status.json alone, so
whoever reads them after any interruption knows the same. No trial without a finite metric
is complete.
Leaves out: which trials there should be (algorithms), running jobs (controller.py).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kineme.automl import trial_specs
from kineme.automl.curves import Curve, read_curve
from kineme.automl.study import Study, refuse_damaged
from kineme.automl.trial_specs import Plan
from kineme.automl.trials import Proposal, Trial, TrialState, as_trial
from kineme.automl.view import TrialView
from kineme.engine.names import checkpoint_name, find_checkpoints
from kineme.errors import DataError
from kineme.files import write_text
from kineme.jobs.liveness import reconcile
from kineme.jobs.record import CRASHED, JobRecord, State, now
from kineme.jobs.store import (
    RECORD_FILE,
    RESULTS_FOLDER,
    SPEC_FILE,
    TRIALS_FOLDER,
    JobStore,
    new_id,
)

TRIAL, FINAL, BASELINE = "trial", "final", "baseline"  # details: what a job is for
STOP, PRUNE = "stop", "prune"  # details["ended_for"]: why the search itself ended it
_AGAIN = (CRASHED, "interrupted")  # kinds of failure that say nothing of the configuration
_TRAIN = "train"


@dataclass
class Entry:
    """A trial and its jobs, the first one first. is_final: nothing can become of it any more."""

    trial: Trial
    jobs: list[JobRecord]
    curve: Curve = field(default_factory=Curve)
    reason: str = ""
    exit_code: int | None = None  # of the failure
    wants_retry: bool = False
    is_final: bool = False

    @property
    def job(self) -> JobRecord:
        """The one that counts."""
        return self.jobs[-1]

    @property
    def folder(self) -> Path:
        """Where training leaves its files."""
        return Path(self.job.results_dir) / _TRAIN

    @property
    def view(self) -> TrialView:
        crashed = [job for job in self.jobs[:-1] if job.details.get("ended_for") != STOP]
        return TrialView(
            self.trial, self.job.id, self.curve.num_epochs, seconds_of(self.jobs), self.reason,
            str(self.folder), len(crashed),
        )  # fmt: skip


class Ledger:
    """The trials of a study, as their records say. runner, platform: of new jobs."""

    def __init__(
        self, study: Study, plan: Plan, *, runner: str, platform: Mapping[str, Any] | None = None
    ) -> None:
        self.study, self.plan, self.runner = study, plan, runner
        self.platform = dict(platform or {})
        self.store = JobStore(study.folder / TRIALS_FOLDER)
        self.entries: dict[int, Entry] = {}
        self.others: dict[str, JobRecord] = {}  # evaluations, by what they are for
        for record in sorted(map(self._read, self.store.ids()), key=_order):
            self._add(record)
        for entry in self.entries.values():
            self._judge(entry)

    @property
    def history(self) -> list[Trial]:
        """All trials, by number."""
        return [self.entries[number].trial for number in sorted(self.entries)]

    @property
    def active(self) -> list[Entry]:
        """Those that may still become something, by number."""
        return [e for _, e in sorted(self.entries.items()) if not e.is_final]

    def refresh(self, *, asks_runner: bool = False) -> None:
        """Look again at all jobs that have not ended."""
        for entry in self.active:
            record = reconcile(self.store, self._read(entry.job.id), asks_runner=asks_runner)
            entry.jobs[-1] = record
            self._judge(entry)
        for name, record in self.others.items():
            if not record.is_terminal:
                record = self._read(record.id)
                self.others[name] = reconcile(self.store, record, asks_runner=asks_runner)

    def create(self, proposal: Proposal) -> Entry:
        """The next trial, on the disk, and not started yet."""
        number = max(self.entries, default=-1) + 1
        trial = as_trial(proposal, number)
        job_id = self._id(f"{TRIAL}-{number}")
        goes_on = proposal.resume_from
        parent = None if goes_on is None else self.entries[goes_on]
        results_dir = str(self.store.root / job_id / RESULTS_FOLDER)
        resumes, start = False, self.plan.start
        notes: tuple[str, ...] = ()
        if parent is not None and self._goes_on(parent, proposal):
            results_dir, resumes = parent.job.results_dir, True
        elif parent is not None:
            start = self._checkpoint_of(parent)
            if start == self.plan.start:
                text = f"Trial {number} is trained anew: the checkpoint of trial {goes_on} is gone."
                notes = (text,)
        spec = trial_specs.train_spec(
            self.plan, trial.params, results_dir=results_dir, budget=trial.budget,
            resumes=resumes, start=start,
        )  # fmt: skip
        details = {
            "kind": TRIAL, "trial": number, "attempt": 0, "params": dict(trial.params),
            "budget": trial.budget, "parent": trial.parent, "rung": trial.rung,
            "bracket": trial.bracket, "member": trial.member, "origin": trial.origin,
            "num_epochs": self.plan.settings.num_epochs,
        }  # fmt: skip
        name = f"{TRIAL}-{number}"
        record = self._put(job_id, _TRAIN, spec, details, results_dir, name, notes=notes)
        self._add(record)
        self._judge(self.entries[number])
        return self.entries[number]

    def retry(self, entry: Entry) -> Entry:
        """Another job of a trial whose last one crashed or was stopped with the search."""
        last = entry.job
        attempt = int(last.details["attempt"]) + 1
        name = f"{TRIAL}-{entry.trial.number}-{attempt}"
        spec = {**last.spec, _TRAIN: dict(last.spec.get(_TRAIN, {}))}
        if find_checkpoints(entry.folder):
            spec[_TRAIN].pop("resume_training_checkpoint_path", None)
            spec[_TRAIN]["resume"] = True
        details = {k: v for k, v in last.details.items() if k != "ended_for"}
        details["attempt"] = attempt
        self._add(self._put(self._id(name), _TRAIN, spec, details, last.results_dir, name,
                            retry_of=last.id))  # fmt: skip
        self._judge(entry)
        return entry

    def evaluation(self, kind: str, spec: Mapping[str, Any]) -> JobRecord:
        """The job of an evaluation: FINAL, or BASELINE. A new one where the last failed, or was
        of another spec; the last one where it does what is asked for."""
        last = self.others.get(kind)
        attempt = 0
        if last is not None:
            asked = {**spec, "results_dir": last.results_dir}
            if last.spec == asked and (not last.is_terminal or last.state is State.COMPLETE):
                return last
            attempt = int(last.details["attempt"]) + 1
        name = f"{kind}-{attempt}"
        job_id = self._id(name)
        results_dir = str(self.store.root / job_id / RESULTS_FOLDER)
        spec, details = {**spec, "results_dir": results_dir}, {"kind": kind, "attempt": attempt}
        self._add(self._put(job_id, "evaluate", spec, details, results_dir, name))
        return self.others[kind]

    def mark_end(self, entry: Entry, why: str) -> None:
        """Write down that the search itself is going to end a trial's job, before it does."""
        details = {**entry.job.details, "ended_for": why}
        entry.jobs[-1] = self.store.amend(entry.job.id, details=details)

    def update(self, record: JobRecord) -> None:
        """What a runner says of a job that it was given."""
        if record.details["kind"] != TRIAL:
            self.others[record.details["kind"]] = record
            return
        entry = self.entries[record.details["trial"]]
        entry.jobs[-1] = record
        self._judge(entry)

    def _put(
        self, job_id: str, action: str, spec: Mapping[str, Any], details: Mapping[str, Any],
        results_dir: str, name: str, *, retry_of: str | None = None, notes: tuple[str, ...] = (),
    ) -> JobRecord:  # fmt: skip
        record = JobRecord(
            id=job_id, network_arch=self.plan.network, action=action, created_at=now(),
            spec=spec, idempotency_key=self._key(name), runner=self.runner,
            platform=self.job_platform(), notes=notes,
            results_dir=results_dir, details=details, retry_of=retry_of, automl_policy="off",
        )  # fmt: skip
        record, _ = self.store.create(record)
        self.write_spec(record)
        return record

    def job_platform(self) -> dict[str, Any]:
        """Of a new job: with the limit of its time, and its own share of the GPUs."""
        platform, limit = dict(self.platform), self.plan.settings.trial_timeout_seconds
        if limit:
            platform["time_limit_seconds"] = limit
        ids, count = list(platform.get("gpu_ids", ())), self.plan.spec.train.num_gpus
        shares = [ids[i : i + count] for i in range(0, len(ids) - count + 1, count)]
        if shares and self.plan.settings.max_concurrent > 1:
            busy = Counter(str(entry.job.platform.get("gpu_ids")) for entry in self.active)
            platform["gpu_ids"] = min(shares, key=lambda share: busy[str(share)])
        return platform

    def write_spec(self, record: JobRecord) -> None:
        """The spec file that the action reads; again after a search that was killed before."""
        path = self.store.folder(record.id) / SPEC_FILE
        if not path.exists():
            text = yaml.safe_dump(dict(record.spec), sort_keys=False, allow_unicode=True)
            write_text(path, text)

    def _goes_on(self, parent: Entry, proposal: Proposal) -> bool:
        """Whether the step is of its parent's configuration, and so goes on in its folder."""
        is_same = dict(parent.trial.params) == dict(proposal.params)
        is_taken = any(
            entry.trial.parent == parent.trial.number and entry.job.results_dir == (
                parent.job.results_dir
            )
            for entry in self.entries.values()
        )  # fmt: skip
        return is_same and parent.trial.member == proposal.member and not is_taken

    def _checkpoint_of(self, parent: Entry) -> str:
        """The checkpoint at the end of a trial; its folder may hold later ones by now."""
        found = find_checkpoints(parent.folder)
        prefix = checkpoint_name(parent.trial.budget - 1, 0).partition("_step_")[0]
        of_epoch = [path for path in found if path.name.startswith(f"{prefix}_step_")]
        # without one, the configuration is trained anew
        return str(of_epoch[-1]) if of_epoch else self.plan.start

    def _key(self, name: str) -> str:
        return f"{self.study.id}/{name}"

    def _id(self, name: str) -> str:
        return new_id(self._key(name))

    def _read(self, job_id: str) -> JobRecord:
        try:
            return self.store.load(job_id)
        except DataError as error:
            path = self.store.root / job_id / RECORD_FILE
            raise refuse_damaged(path, error.problems[0].received) from error

    def _add(self, record: JobRecord) -> None:
        details = record.details
        if details.get("kind") != TRIAL:
            self.others[str(details.get("kind"))] = record
            return
        number = int(details["trial"])
        if number in self.entries:
            self.entries[number].jobs.append(record)
            return
        trial = Trial(
            number, dict(details["params"]), int(details["budget"]), parent=details["parent"],
            rung=details["rung"], bracket=details["bracket"], member=details["member"],
            origin=details["origin"],
        )  # fmt: skip
        self.entries[number] = Entry(trial, [record])

    def _judge(self, entry: Entry) -> None:
        """What a trial is, by its last job and what its training wrote."""
        record, metric = entry.job, self.plan.settings.metric
        entry.curve = read_curve(entry.folder, metric, entry.trial.budget)
        entry.wants_retry = False
        state, value, reason = TrialState.RUNNING, None, ""
        ended_for = record.details.get("ended_for")
        if record.state is State.PENDING:
            state = TrialState.WAITING
        elif record.state is State.COMPLETE:
            value = entry.curve.best(self.plan.settings.direction)
            state = TrialState.FAILED if value is None else TrialState.COMPLETE
            reason = entry.curve.missing(metric) if value is None else ""
            entry.exit_code = 7 if value is None else None
        elif record.state is State.CANCELED and ended_for == PRUNE:
            state, reason = TrialState.PRUNED, "it trailed the others"
            value = entry.curve.best(self.plan.settings.direction)
        elif record.is_terminal and ended_for == STOP:
            state, entry.wants_retry = TrialState.WAITING, True
        elif record.is_terminal:
            state, reason = self._failed(entry)
        entry.reason = reason
        entry.is_final = record.is_terminal and not entry.wants_retry
        entry.trial = replace(entry.trial, state=state, value=value, curve=entry.curve.points)

    def _failed(self, entry: Entry) -> tuple[TrialState, str]:
        """Of a job that ended in Error, or was cancelled by somebody else."""
        record, failure = entry.job, entry.job.failure
        if record.state is State.CANCELED:
            last = record.transitions[-1].reason if record.transitions else "asked for"
            return TrialState.FAILED, f"cancelled: {last}"
        is_ours = failure is not None and failure.kind in _AGAIN
        if failure and is_ours and entry.view.retries < self.plan.settings.retries:
            entry.wants_retry = True
            return TrialState.WAITING, failure.message
        entry.exit_code = failure.exit_code if failure else None
        return TrialState.FAILED, failure.message if failure else "no word why"


def seconds_of(jobs: list[JobRecord]) -> float | None:
    """How long jobs have run together, until now where one runs; None before any did."""
    spans = [span for job in jobs if (span := _span(job)) is not None]
    return sum(spans) if spans else None


def _span(job: JobRecord) -> float | None:
    started = next((s.time for s in job.transitions if s.state is State.RUNNING), None)
    if started is None:
        return None
    end = datetime.fromisoformat(job.transitions[-1].time) if job.is_terminal else datetime.now(UTC)
    return max(0.0, (end - datetime.fromisoformat(started)).total_seconds())


def _order(record: JobRecord) -> tuple[int, int]:
    details = record.details
    return int(details.get("trial", -1)), int(details.get("attempt", 0))


def steps(entries: Mapping[int, Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """(results folder, its trials by number): the steps of one configuration."""
    folders: dict[str, list[Entry]] = {}
    for number in sorted(entries):
        folders.setdefault(entries[number].job.results_dir, []).append(entries[number])
    yield from folders.items()
