"""Searches from their first trial to their last, whose trainings take milliseconds.

They run in this process (`fake_training`), and write to a disk that does not wait.
"""

import os
from pathlib import Path
from typing import Any

import fake_training
from kineme.automl import telling
from kineme.automl.controller import search
from kineme.automl.trial_specs import Plan, read_plan
from kineme.automl.view import SearchView
from kineme.files import write_text
from kineme.jobs.record import JobRecord
from kineme.jobs.store import JobStore

RANDOM = "automl.algorithm=random"
ASHA = ("automl.algorithm=asha", "automl.max_epochs=4", "automl.reduction_factor=2")


class Killed(BaseException):
    """Nothing of ours can catch it."""


def install(monkeypatch: Any) -> fake_training.Fake:
    """Until the test is over: the runner `fake`, no waiting for disks, no pages."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(telling, "write_page", lambda path, view: write_text(path, "<html"))
    return fake_training.install(monkeypatch)


def plan_of(folder: Path, *words: str, key: str | None = None) -> Plan:
    base = [f"results_dir={folder}", *fake_training.WORDS, "automl.max_recommendations=6"]
    return read_plan("pose_classification", None, [*base, *words], key=key)


def run(folder: Path, *words: str, **options: Any) -> SearchView:
    return search(plan_of(folder, *words), runner="fake", poll_seconds=0.001, **options)


def facts_of(view: SearchView) -> list[tuple[Any, ...]]:
    """What must be the same whatever happened on the way."""
    return [(one.number, dict(one.params), one.state, one.value) for one in view.trials]


def records_of(folder: Path) -> list[JobRecord]:
    """The jobs of all trials."""
    store = JobStore(folder / "automl" / "trials")
    return [store.load(job_id) for job_id in store.ids()]
