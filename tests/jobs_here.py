"""Jobs in this process with thin models, for tests that run the commands of pages.

What is asked, recorded, chosen and found is the same; a job takes moments.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import thin
from kineme.jobs import runners
from kineme.jobs.runners import in_process


def make_jobs_run_here(monkeypatch: Any, folder: Path) -> None:
    """Until the test is over; jobs and caches lie below `folder`."""
    thin.make_thin(monkeypatch)
    for name, place in (("KINEME_CACHE", "cache"), ("KINEME_JOBS", "jobs")):
        monkeypatch.setenv(name, str(folder / place))
    here = {**runners.RUNNERS, "subprocess": runners.RUNNERS["in_process"]}
    monkeypatch.setattr(runners, "RUNNERS", here)
    monkeypatch.setattr(in_process, "_act", _acting(in_process._act))


def _acting(real: Callable[..., None]) -> Callable[..., None]:
    """What a job of this process does, where a search is done too."""

    def act(words: tuple[str, ...], folder: Path, key: str | None, log: Any) -> None:
        if words[0] != "automl":
            real(words, folder, key, log)
            return
        from kineme.automl import command

        with contextlib.chdir(folder):
            command.main(words[1:])

    return act
