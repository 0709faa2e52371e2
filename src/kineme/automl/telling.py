"""What a search leaves beside its trials, and how it is seen: the view, and files made of it.

Promises: `best_spec.yaml` and `best_trial.json` are of the best trial so far, always; files that
only show something (page, table, status lines) never end a search that could go on. What is
told follows from the ledger, so it is the same after any interruption.
Leaves out: drawing (page.py, table.py), the trials themselves (ledger.py).
"""

import contextlib
import csv
import io
import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kineme.automl import trial_specs, trials
from kineme.automl.algorithms.halving import table as rungs_of
from kineme.automl.judging import Judged, figure_of
from kineme.automl.ledger import BASELINE, FINAL, Entry, Ledger
from kineme.automl.page import write_page
from kineme.automl.retention import best_checkpoint
from kineme.automl.setting_rows import FAMILIES
from kineme.automl.settings import Settings
from kineme.automl.study import BEST_SPEC_FILE, PAGE_FILE, TABLE_FILE
from kineme.automl.trial_specs import Plan
from kineme.automl.view import Figure, SearchView, TrialView
from kineme.engine.names import STATUS_FILE
from kineme.errors import ResourceError, without_secrets
from kineme.files import append_line, write_json, write_text
from kineme.jobs.choosing import BEST_TRIAL_FILE
from kineme.network import load_specs

_ENDED = re.compile(r"Trial (\d+) ([a-z]+)[.:]")
_PAGE_SHARE = 20  # as long as writing the page takes, it is left alone
_COLUMNS = ("trial", "state", "value", "epochs", "budget", "seconds", "rung", "bracket", "member",
            "parent", "origin", "retries", "job_id", "reason")  # fmt: skip


def build_view(ledger: Ledger, *, notes: tuple[str, ...] = (), is_over: bool = False) -> SearchView:
    """The search as it is now."""
    plan, study = ledger.plan, ledger.study
    settings = plan.settings
    views = tuple(ledger.entries[number].view for number in sorted(ledger.entries))
    best = trials.best(ledger.history, settings.direction)
    best_view = next((one for one in views if best and one.number == best.number), None)
    since = datetime.now(UTC) - datetime.fromisoformat(study.created_at)
    view = SearchView(
        network=plan.network,
        folder=str(plan.folder),
        settings=settings,
        space=plan.space,
        trials=views,
        best=best_view,
        own=plan.own,
        num_planned=num_planned(plan),
        started_at=study.created_at,
        seconds=since.total_seconds(),
        is_over=is_over,
        baseline=_baseline(ledger, best_view),
        final=_final(ledger),
        selected_on=selected_on(plan),
        best_spec=str(plan.folder / BEST_SPEC_FILE) if best_view else "",
        notes=notes,
    )
    return replace(view, next_steps=next_steps(ledger, view)) if best_view else view


def num_planned(plan: Plan) -> int | None:
    """Trials in all, None where it depends on how they go."""
    settings = plan.settings
    if settings.algorithm == "asha":
        return None
    family = FAMILIES[settings.algorithm]
    if family == "single":
        return int(min(settings.num_trials, plan.space.num_configurations))
    if family == "population":
        generations = -(-settings.num_epochs // settings.eval_interval)
        return settings.population_size * min(generations, settings.max_generations)
    return sum(rung.size for rungs in rungs_of(settings) for rung in rungs)


def selected_on(plan: Plan) -> str:
    """On which data the best value is chosen."""
    if not plan.settings.metric.startswith("val_"):
        return "the training data"
    name = trial_specs.validation_name(plan)
    return f"the validation data {name}".rstrip()


def next_steps(ledger: Ledger, view: SearchView) -> tuple[str, ...]:
    """What to type next."""
    plan = ledger.plan
    command = f"kineme {plan.network}"
    words = [f"{command} train -e {shlex.quote(view.best_spec)}"]
    entry = ledger.entries[view.best.number] if view.best else None
    checkpoint = _checkpoint(entry, plan.settings) if entry else None
    if checkpoint:
        data = trial_specs.test_data(plan) or dict.fromkeys(_test_keys(plan), "TEST_DATA")
        told = {"results_dir": str(plan.results_dir), "evaluate.checkpoint": str(checkpoint)}
        told |= data
        words.append(f"{command} evaluate " + " ".join(
            shlex.quote(f"{key}={value}") for key, value in told.items()
        ))  # fmt: skip
    return tuple(words)


class Files:
    """The files of a search that are made of its view."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.lost: dict[str, str] = {}  # files that cannot be written, and why
        self._told = _told_before(ledger.study.folder / STATUS_FILE)
        self._best: tuple[int, str] | None = None
        self._next_page = 0.0

    def write(self, view: SearchView, *, is_forced: bool = False) -> None:
        """All of them, anew; the page not so often that writing it takes much of the time."""
        self._write_best(view)
        folder = self.ledger.study.folder
        self._tolerantly(TABLE_FILE, lambda: write_text(folder / TABLE_FILE, _table(view)))
        began = time.monotonic()
        if is_forced or began >= self._next_page:
            self._tolerantly(PAGE_FILE, lambda: write_page(folder / PAGE_FILE, view))
            now = time.monotonic()
            self._next_page = now + _PAGE_SHARE * (now - began)
        for one in view.trials:
            if not one.trial.is_active and self._told.get(one.number) != one.state:
                self._told[one.number] = one.state
                facts = {"trial": one.number, view.metric: one.value, **one.params}
                text = f"Trial {one.number} {one.state}"
                self.status(f"{text}: {one.reason}." if one.reason else f"{text}.", kpi=facts)

    def status(
        self, message: str, *, status: str = "RUNNING", kpi: Mapping[str, Any] | None = None
    ) -> None:
        """A line of status.json, as every run has them."""
        at = datetime.now()
        line: dict[str, Any] = {
            "date": at.strftime("%m/%d/%Y"), "time": at.strftime("%H:%M:%S"), "status": status,
            "verbosity": "ERROR" if status == "FAILURE" else "INFO",
            "message": without_secrets(message, self.ledger.plan.secrets),
        }  # fmt: skip
        if kpi:
            line["kpi"] = dict(kpi)
        path = self.ledger.study.folder / STATUS_FILE
        self._tolerantly(STATUS_FILE, lambda: append_line(path, json.dumps(line, default=str)))

    def _write_best(self, view: SearchView) -> None:
        """The spec first: a reader of best_trial.json finds it."""
        if view.best is None:
            return
        entry = self.ledger.entries[view.best.number]
        plan, folder = self.ledger.plan, self.ledger.study.folder
        checkpoint = _checkpoint(entry, plan.settings)
        mark = (view.best.number, str(checkpoint))
        if mark == self._best:
            return
        head: tuple[str, ...] = (
            f"Trial {view.best.number} of the search in {view.folder}: {view.metric} "
            f"{view.best.value}, chosen on {view.selected_on}.",
            f"kineme {plan.network} train -e {view.best_spec}",
        )
        if plan.settings.algorithm == "pbt":
            head += ("Its settings changed on the way: these are the last ones. The model itself "
                     f"is {checkpoint}.",)  # fmt: skip
        text = trial_specs.best_spec_text(plan, entry.trial.params, head)
        write_text(folder / BEST_SPEC_FILE, text)
        facts = {
            "job_id": entry.job.id,
            "trial": entry.trial.number,
            "metric": view.metric,
            "value": entry.trial.value,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "epoch": entry.curve.best_epoch(view.direction),
            "params": dict(entry.trial.params),
        }
        write_json(folder / BEST_TRIAL_FILE, facts)
        self._best = mark

    def _tolerantly(self, name: str, write: Any) -> None:
        """What only shows something is not worth the end of a search."""
        try:
            write()
        except (OSError, ResourceError) as error:
            self.lost.setdefault(name, str(error))


def _told_before(path: Path) -> dict[int, str]:
    """What the lines of an earlier process say of trials that ended: (number, state)."""
    told = {}
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # cut off by a kill
                fact = json.loads(line)
                message = str(fact.get("message")) if isinstance(fact, dict) else ""
                if found := _ENDED.match(message):
                    told[int(found[1])] = found[2]
    return told


def _checkpoint(entry: Entry, settings: Settings) -> Path | None:
    return best_checkpoint(entry, settings.metric, settings.direction)


def _test_keys(plan: Plan) -> list[str]:
    own = ("results_dir", "evaluate.checkpoint")
    return [key for key in load_specs(plan.network)["evaluate"].mandatory if key not in own]


def _baseline(ledger: Ledger, best: TrialView | None) -> Figure | None:
    """Where the search began: as given, as evaluated, or the spec's own values as a trial."""
    settings = ledger.plan.settings
    if settings.baseline_metric is not None:
        return Figure(settings.baseline_metric, "as given (automl.baseline_metric)")
    if record := ledger.others.get(BASELINE):
        return figure_of(ledger.plan, record, Judged.VALIDATION)
    own = ledger.plan.space.own()
    for trial in ledger.history:
        is_comparable = best is not None and trial.budget == best.trial.budget
        if is_comparable and trial.score is not None and dict(trial.params) == own:
            return Figure(trial.score, f"trial {trial.number}, the values of the spec")
    return None


def _final(ledger: Ledger) -> Figure | None:
    record = ledger.others.get(FINAL)
    return figure_of(ledger.plan, record, Judged.HELD_OUT) if record else None


def _table(view: SearchView) -> str:
    """trials.csv."""
    keys = [parameter.key for parameter in view.space.parameters]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_COLUMNS, *keys])
    for one in view.trials:
        trial = one.trial
        seconds = "" if one.seconds is None else round(one.seconds, 3)
        facts = [trial.number, trial.state, trial.value, one.epochs, trial.budget, seconds,
                 trial.rung, trial.bracket, trial.member, trial.parent, trial.origin, one.retries,
                 one.job_id, one.reason]  # fmt: skip
        values = [one.params.get(key, "") for key in keys]
        rows.writerow(["" if fact is None else fact for fact in [*facts, *values]])
    return text.getvalue()
