"""The search itself: asks what to try, has it trained, looks what came of it, and asks again.

Promises: killed at any moment and started again, it goes on: what has ended is not run again,
what runs is adopted, what never began begins, and the trials are the same in number. One trial
that fails is a failure and no more; several in a row end the search with their common cause.
A request to stop cancels what runs, which saves its checkpoint, and the next start takes it up.
Leaves out: what is proposed (algorithms), how jobs run (jobs/runners), files (telling.py).
"""

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from kineme.automl import judging, retention, trials
from kineme.automl.algorithms import propose
from kineme.automl.algorithms.early_stop import should_stop
from kineme.automl.ledger import PRUNE, STOP, Entry, Ledger
from kineme.automl.study import open_study
from kineme.automl.telling import Files, build_view
from kineme.automl.trial_specs import Plan
from kineme.automl.trials import Idle, TrialState
from kineme.automl.view import SearchView
from kineme.engine import lease
from kineme.engine.names import LEASE_FILE
from kineme.errors import (
    EXIT_SIGINT,
    EXIT_SIGTERM,
    CheckpointError,
    DataError,
    KinemeError,
    PartialError,
    QualityError,
    ResourceError,
    ServiceError,
    SpecError,
    printable,
)
from kineme.files import sweep_temporaries
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import check_platform, load_runner
from kineme.jobs.store import LOG_FILE
from kineme.signals import STOPPING, Interrupted, StopRequest, signal_handlers

POLL_SECONDS = 0.3
ASK_RUNNER_SECONDS = 10.0
SWEEP_SECONDS = 5.0  # between looks for checkpoints of running trials that can go
STOP_SLACK_SECONDS = 15.0  # that running trials have to end, beyond their grace
SEQUENTIAL = ("in_process",)
_ERRORS: Mapping[int, type[KinemeError]] = {
    error.exit_code: error
    for error in (SpecError, DataError, CheckpointError, ResourceError, ServiceError,
                  QualityError, PartialError)
}  # fmt: skip


class SearchStopped(Interrupted):
    """A signal ended the search, after its trials were asked to save and end."""


def search(
    plan: Plan,
    *,
    runner: str = "subprocess",
    platform: Mapping[str, Any] | None = None,
    show: Callable[[SearchView], None] = lambda view: None,
    tell: Callable[[str], None] = lambda text: None,
    poll_seconds: float = POLL_SECONDS,
) -> SearchView:
    """Run or go on with the search of the plan's folder; returns what it found.

    show: gets the search whenever something may have changed. tell: gets notes.
    Raises KinemeError: where another one leads this search, or another search is in the folder;
    the common cause where too many trials failed; SearchStopped after a signal.
    """
    check_runner(plan, runner, platform or {})
    with lease.held(plan.folder / LEASE_FILE), _signals() as stop:
        study = open_study(plan)
        sweep_temporaries(plan.folder, is_ours_alone=True)
        ledger = Ledger(study, plan, runner=runner, platform=platform)
        one = _Search(ledger, Files(ledger), show, tell, stop, poll_seconds)
        one.files.status("Starting AutoML.", status="STARTED")
        try:
            view = one.run()
        except BaseException as error:
            one.files.status(printable(str(error) or type(error).__name__), status="FAILURE")
            raise
        kpi = {view.metric: view.best.value} if view.best else {}
        one.files.status("AutoML finished successfully.", status="SUCCESS", kpi=kpi)
        return view


def check_runner(plan: Plan, runner: str, platform: Mapping[str, Any]) -> None:
    """Raise SpecError for a runner that does not fit the search."""
    load_runner(runner)
    limit = plan.settings.trial_timeout_seconds
    check_platform(runner, {**platform, **({"time_limit_seconds": limit} if limit else {})})
    if runner in SEQUENTIAL and plan.settings.max_concurrent > 1:
        raise SpecError(
            "automl.max_concurrent", f"1, as the runner is {runner}",
            str(plan.settings.max_concurrent), "Use --runner subprocess for trials side by side.",
        )  # fmt: skip


def stop_seconds(running: Iterable[JobRecord]) -> float:
    """How long a search that stops waits for its trials to save and end."""
    graces = [record.grace_seconds for record in running]
    return max(graces, default=0.0) + STOP_SLACK_SECONDS


@dataclass
class _Search:
    """A search under way, in the one process that leads it."""

    ledger: Ledger
    files: Files
    show: Callable[[SearchView], None]
    tell: Callable[[str], None]
    stop: StopRequest
    poll_seconds: float
    notes: list[str] = field(default_factory=list)
    _before: frozenset[int] = frozenset()  # trials that had ended when this process began
    _started: set[str] = field(default_factory=set)  # jobs that this process has started
    _asked_to_end: set[str] = field(default_factory=set)
    _num_refused: Counter[str] = field(default_factory=Counter)  # by runners, of a job
    _last_ask: float = 0.0
    _last_sweep: float = 0.0
    _shown: tuple[Any, ...] = ()
    _is_constant_told: bool = False

    @property
    def plan(self) -> Plan:
        return self.ledger.plan

    def run(self) -> SearchView:
        """All that is left of the search."""
        self._before = frozenset(n for n, e in self.ledger.entries.items() if e.is_final)
        self._note(*self.plan.notes, retention.limit_note(self.ledger))
        self._note(judging.held_out_note(self.plan))
        try:
            self._run_job(judging.baseline_job(self.ledger))
            self._trials()
            retention.sweep(self.ledger, is_over=True)
            self._run_job(judging.final_job(self.ledger))
        except KinemeError as error:
            if isinstance(error, SearchStopped):
                self._end_all()
            self._show(is_forced=True)
            raise
        number, num_bytes = retention.size_of(self.ledger)
        self._note(f"Checkpoints on the disk: {number} files, {num_bytes / 1e6:,.1f} MB.")
        return self._show(is_forced=True, is_over=True)

    def _trials(self) -> None:
        """Until no trial runs and none will start."""
        settings = self.plan.settings
        while True:
            self._look()
            self._refuse_failures()
            self._refuse_constant()
            self._prune()
            self._start_waiting()
            proposals = propose(self.plan.space, settings, self.ledger.history)
            if isinstance(proposals, list):
                for proposal in proposals:
                    record = self.ledger.create(proposal).job
                    self._note(*record.notes)
                    self._start(record)
            elif proposals is Idle.DONE and not self.ledger.active:
                break
            if isinstance(proposals, Idle) or self._num_running():
                self._pause()
        if not any(trial.score is not None for trial in self.ledger.history):
            raise self._common_cause(list(self.ledger.entries.values()))

    def _look(self) -> None:
        """At all jobs; then show, and delete what nothing needs."""
        asks_runner = time.monotonic() - self._last_ask > ASK_RUNNER_SECONDS
        if asks_runner:
            self._last_ask = time.monotonic()
        self.ledger.refresh(asks_runner=asks_runner)
        self._tell_constant()
        if time.monotonic() - self._last_sweep > SWEEP_SECONDS or self._states() != self._shown:
            self._last_sweep = time.monotonic()
            retention.sweep(self.ledger)
        self._show()

    def _start_waiting(self) -> None:
        """Jobs that no one runs: crashed ones anew, those that were never started now."""
        for entry in self.ledger.active:
            if self._num_running() >= self.plan.settings.max_concurrent:
                return
            if entry.wants_retry and not self._is_folder_free(entry):
                continue
            if entry.wants_retry:
                self._note_retry(entry)
                entry = self.ledger.retry(entry)
            if entry.job.state is State.PENDING and entry.job.id not in self._started:
                self._start(entry.job)

    def _is_folder_free(self, entry: Entry) -> bool:
        """Whether what is left of a crashed training has ended: it may still save its work."""
        try:
            lease.refuse_if_in_use(entry.folder / LEASE_FILE)
        except SpecError as error:
            self._note(
                f"Trial {entry.trial.number} waits for its folder: {error.problems[0].received}."
            )
            return False
        return True

    def _start(self, record: JobRecord) -> JobRecord:
        """Give a job to the runner that it was made for."""
        self._stop_if_asked()
        self._started.add(record.id)
        if record.backend_job_id is not None and record.state is State.PENDING:
            return record  # a scheduler has it
        self.ledger.write_spec(record)
        if record.runner != self.ledger.runner and record.state is State.PENDING:
            record = self.ledger.store.amend(
                record.id, runner=self.ledger.runner, platform=self.ledger.job_platform()
            )
        try:
            record = load_runner(record.runner).start(
                self.ledger.store, record, key=self.plan.key_for(record.spec)
            )
        except (ResourceError, ServiceError) as error:  # nobody takes it at the moment
            self._started.discard(record.id)
            self._num_refused[record.id] += 1
            if self._num_refused[record.id] > self.plan.settings.retries:
                raise
            self._note(f"{error} It is tried again.")
        except (KinemeError, KeyboardInterrupt) as error:
            code = getattr(error, "exit_code", EXIT_SIGINT)
            if code not in (EXIT_SIGINT, EXIT_SIGTERM):
                raise
            self.stop.number = code - 128  # it ended a job in this process, and is for us too
            self._mark_stopped(record)
            self._stop_if_asked()
        self.ledger.update(record)
        return record

    def _mark_stopped(self, record: JobRecord) -> None:
        """A trial of this process that the signal ended with it: the next start takes it up."""
        self.ledger.refresh()
        entry = self.ledger.entries.get(record.details.get("trial", -1))
        if entry is not None and entry.job.state in (State.ERROR, State.CANCELED):
            self.ledger.mark_end(entry, STOP)

    def _num_running(self) -> int:
        return sum(
            e.trial.state is TrialState.RUNNING or e.job.id in self._started
            for e in self.ledger.active
            if not e.wants_retry
        )

    def _prune(self) -> None:
        """End trials that trail the others, where the algorithm wants that."""
        history = self.ledger.history
        for entry in self.ledger.active:
            if entry.trial.state is not TrialState.RUNNING or entry.job.id in self._asked_to_end:
                continue
            is_marked = entry.job.details.get("ended_for") == PRUNE
            trial = entry.trial
            if is_marked or should_stop(self.plan.settings, history, trial.number, trial.curve):
                if not is_marked:
                    self.ledger.mark_end(entry, PRUNE)
                self._cancel(entry.job, "it trails the other trials")

    def _cancel(self, record: JobRecord, reason: str) -> None:
        self._asked_to_end.add(record.id)
        load_runner(record.runner).cancel(self.ledger.store, record, reason=reason)

    def _refuse_failures(self) -> None:
        """Raise the common cause when too many trials have failed one after the other."""
        new = [trial for trial in self.ledger.history if trial.number not in self._before]
        most = self.plan.settings.max_failures_in_a_row
        if trials.failures_in_a_row(new) < most:
            return
        self._end_all()
        ended = [n for n in sorted(self.ledger.entries) if n not in self._before]
        failed = [self.ledger.entries[n] for n in ended
                  if self.ledger.entries[n].trial.state is TrialState.FAILED]  # fmt: skip
        raise self._common_cause(failed[-most:])

    def _refuse_constant(self) -> None:
        """Raise where the metric says nothing of the settings, however they are."""
        settings = self.plan.settings
        new = [trial for trial in self.ledger.history if trial.number not in self._before]
        value = trials.stuck_metric(
            new, settings.num_epochs, max(5, settings.max_failures_in_a_row)
        )
        if value is None or settings.allow_constant_metric:
            return
        self._end_all()
        raise QualityError(
            "AutoML", f"a {settings.metric} that tells settings apart",
            f"{value:g} after every epoch of {sum(t.score is not None for t in new)} trials",
            "Check data and metric; automl.allow_constant_metric=true goes on all the same.",
        )  # fmt: skip

    def _common_cause(self, entries: list[Entry]) -> KinemeError:
        """What most of the trials that failed have in common, under its own exit code."""
        failed = [e for e in entries if e.trial.state is TrialState.FAILED] or entries
        causes = Counter((e.exit_code, _first_line(e.reason)) for e in failed)
        (code, reason), count = causes.most_common(1)[0]
        example = next(e for e in failed if (e.exit_code, _first_line(e.reason)) == (code, reason))
        kind = _ERRORS.get(code or 0, ResourceError if code != 1 else KinemeError)
        log = self.ledger.store.root / example.job.id / LOG_FILE
        return kind(
            "AutoML", "trials that end well", f"{len(failed)} that failed, {count} of them so: "
            f"{reason.rstrip('.') or 'no word why'}",
            f"The log of trial {example.trial.number} is {log}; the same command goes on.",
        )  # fmt: skip

    def _run_job(self, record: JobRecord | None) -> None:
        """An evaluation, to its end."""
        if record is None:
            return
        if record.state is State.PENDING:
            record = self._start(record)
        kind = record.details["kind"]
        while not self.ledger.others[kind].is_terminal:
            self._pause()
            self._look()

    def _pause(self) -> None:
        self._stop_if_asked()
        time.sleep(self.poll_seconds)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if not self.stop.number:
            return
        ended = sum(not trial.is_active for trial in self.ledger.history)
        raise SearchStopped(
            signal.Signals(self.stop.number).name, "to search to the end",
            f"a request to stop after {ended} trials", "The same command goes on.",
        )  # fmt: skip

    def _end_all(self) -> None:
        """Cancel what runs and wait until it has saved; the next start takes it up."""
        running = [e for e in self.ledger.active if e.trial.state is TrialState.RUNNING]
        for entry in running:
            self.ledger.mark_end(entry, STOP)
            self._cancel(entry.job, "the search was stopped")
        for record in self.ledger.others.values():
            if not record.is_terminal:
                self._cancel(record, "the search was stopped")
        deadline = time.monotonic() + stop_seconds(entry.job for entry in running)
        while any(not e.job.is_terminal for e in running) and time.monotonic() < deadline:
            time.sleep(self.poll_seconds)
            self.ledger.refresh()

    def _note_retry(self, entry: Entry) -> None:
        if entry.job.details.get("ended_for") != STOP:
            why = entry.job.failure.message if entry.job.failure else "it was stopped"
            self._note(f"Trial {entry.trial.number} is tried again from its checkpoint: {why}.")

    def _tell_constant(self) -> None:
        value = trials.constant_metric(self.ledger.history)
        if value is not None and not self._is_constant_told:
            self._is_constant_told = True
            metric = self.plan.settings.metric
            self._note(f"{metric} is {value:g} in all trials: nothing can be learned from it.")

    def _states(self) -> tuple[Any, ...]:
        entries = self.ledger.entries
        return tuple((n, e.job.id, e.trial.state) for n, e in entries.items())

    def _note(self, *texts: str) -> None:
        for text in texts:
            if text and text not in self.notes:
                self.notes.append(text)
                self.tell(text)

    def _show(self, *, is_forced: bool = False, is_over: bool = False) -> SearchView:
        """Let the user see the search; files only where a trial's state is new."""
        view = build_view(self.ledger, notes=tuple(self.notes), is_over=is_over)
        if is_forced or self._states() != self._shown:
            self._shown = self._states()
            self.files.write(view, is_forced=is_forced)
            self._note(*(f"{name}: {why}" for name, why in self.files.lost.items()))
        self.show(replace(view, notes=tuple(self.notes)))
        return view


@contextlib.contextmanager
def _signals() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT ask to stop; a second one ends the process at once."""
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in STOPPING}

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.number = number
        for one, handler in before.items():
            signal.signal(one, handler)

    with signal_handlers(on_signal):
        yield stop


def _first_line(text: str) -> str:
    return printable(text.strip().partition("\n")[0])[:300]
