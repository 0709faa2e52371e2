"""Which checkpoints of a search stay on the disk.

Promises: the best trials keep theirs; so does every configuration that may still go on, at the
epoch where it stopped. Nothing but checkpoints of this search's own trials is ever deleted, never
the newest two of a trial that runs. What is gone is only ever trained again, to the same weights.
Leaves out: how checkpoints are called (engine/names.py).

A training leaves numbered checkpoints, a name for the newest, `best.pth` and weights beside it.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kineme.automl.ledger import Entry, Ledger, steps
from kineme.automl.setting_rows import FAMILIES
from kineme.automl.trials import ranked
from kineme.engine.names import (
    BEST_FILE,
    BEST_WEIGHTS_FILE,
    CHECKPOINT_PATTERN,
    LAST_WEIGHTS_FILE,
    find_checkpoints,
)
from kineme.files import write_errors_named

_NUM_NEWEST = 2  # of a trial that runs: the last one may be damaged
METRIC_OF_BEST = "val_acc"  # by which `best.pth` is chosen (engine/metrics.py, which loads torch)


@dataclass(frozen=True)
class Swept:
    """num_files: deleted. num_bytes: what they held; a second name of a file counts nothing."""

    num_files: int = 0
    num_bytes: int = 0


def sweep(ledger: Ledger, *, is_over: bool = False) -> Swept:
    """Delete the checkpoints that nothing needs any more. is_over: no trial will start again."""
    settings = ledger.plan.settings
    if not settings.delete_intermediate_ckpt:
        return Swept()
    best = {entry.trial.number for entry in best_entries(ledger)}
    waiting = _parents(ledger) if is_over else _parents(ledger) | _may_go_on(ledger)
    num_files = num_bytes = 0
    for _, entries in steps(ledger.entries):
        for path in _unneeded(ledger, entries, best, waiting):
            status = path.lstat()
            with write_errors_named(path):
                path.unlink()
            num_files += 1
            num_bytes += status.st_size if status.st_nlink == 1 else 0
    return Swept(num_files, num_bytes)


def best_entries(ledger: Ledger) -> list[Entry]:
    """The keep_best best trials, of those that were trained the longest first."""
    settings = ledger.plan.settings
    trials = ranked(ledger.history, settings.direction)
    trials.sort(key=lambda trial: -trial.budget)  # stable: best first within a budget
    found: dict[str, Entry] = {}
    for trial in trials:
        entry = ledger.entries[trial.number]
        found.setdefault(entry.job.results_dir, entry)
    return list(found.values())[: settings.keep_best]


def best_checkpoint(entry: Entry, metric: str, direction: str) -> Path | None:
    """The checkpoint of the epoch that a trial's value is of, or the next best there is."""
    best = entry.folder / BEST_FILE
    if metric == METRIC_OF_BEST and best.is_file():
        return best
    found = find_checkpoints(entry.folder)
    of_epoch = [p for p in found if epoch_of(p) == entry.curve.best_epoch(direction)]
    if of_epoch:
        return of_epoch[-1]
    return best if best.is_file() else found[-1] if found else None


def epoch_of(path: Path) -> int | None:
    """The epoch, from 1, at whose end a numbered checkpoint was saved."""
    match = re.fullmatch(CHECKPOINT_PATTERN, path.name)
    return int(match[1]) + 1 if match else None


def size_of(ledger: Ledger) -> tuple[int, int]:
    """(number, bytes) of the checkpoints on the disk; a file of several names counts once."""
    files = {}
    for folder, _ in steps(ledger.entries):
        for path in _weights_in(Path(folder) / "train"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files[status.st_dev, status.st_ino] = status.st_size
    return len(files), sum(files.values())


def limit_note(ledger: Ledger) -> str:
    """What the disk has to hold, in words."""
    settings = ledger.plan.settings
    if not settings.delete_intermediate_ckpt:
        return "All checkpoints are kept: automl.delete_intermediate_ckpt is false."
    rest = ""
    if FAMILIES[settings.algorithm] != "single":
        rest = "; until it is over, trials that may still go on keep their last one"
    return (
        f"The {settings.keep_best} best trials keep their checkpoints (automl.keep_best), others' "
        f"are deleted{rest}."
    )


def _unneeded(
    ledger: Ledger, entries: list[Entry], best: set[int], waiting: set[int]
) -> Iterator[Path]:
    """Of one configuration."""
    settings = ledger.plan.settings
    folder = entries[-1].folder
    numbered = find_checkpoints(folder)
    is_running = any(not entry.is_final for entry in entries)
    kept = set(numbered[-_NUM_NEWEST:]) if is_running else set()
    stops = {entry.trial.budget for entry in entries if entry.trial.number in waiting}
    kept |= {path for path in numbered if epoch_of(path) in stops}
    is_best = any(entry.trial.number in best for entry in entries)
    if is_best or is_running:
        strategy = settings.checkpoint_retention_strategy
        if strategy != "best" and numbered:
            kept.add(numbered[-1])
        chosen = best_checkpoint(entries[-1], settings.metric, settings.direction)
        if strategy != "terminal" and chosen:
            kept.add(chosen)
    yield from (path for path in numbered if path not in kept)
    if not is_best and not is_running:
        kept_files = {path.resolve() for path in kept}
        for path in _weights_in(folder):
            if path not in numbered and path.resolve() not in kept_files:
                yield path


def _weights_in(folder: Path) -> Iterator[Path]:
    """Everything in a training's folder that holds weights, also under a second name."""
    names = (BEST_FILE, BEST_WEIGHTS_FILE, LAST_WEIGHTS_FILE)
    yield from find_checkpoints(folder)
    yield from (folder / name for name in names if (folder / name).is_file())
    yield from sorted(folder.glob("*_model_latest.pth"))


def _parents(ledger: Ledger) -> set[int]:
    """Trials that others go on from, which have not ended."""
    return {e.trial.parent for e in ledger.active if e.trial.parent is not None}


def _may_go_on(ledger: Ledger) -> set[int]:
    """Complete trials that the algorithm may still go on from."""
    settings, history = ledger.plan.settings, ledger.history
    family = FAMILIES[settings.algorithm]
    if family == "single":
        return set()
    scored = [trial for trial in history if trial.score is not None]
    if family == "population":
        youngest = max((trial.rung for trial in history), default=0)
        return {trial.number for trial in scored if trial.rung >= youngest - 1}
    gone_on = {trial.parent for trial in history}
    found: set[int] = set()
    for bracket, rung in {(trial.bracket, trial.rung) for trial in scored}:
        here = [t for t in scored if (t.bracket, t.rung) == (bracket, rung)]
        if settings.algorithm == "asha":
            most = settings.num_trials / settings.reduction_factor**rung  # so many may come yet
            size = max(len(here), most)
            count = math.ceil(size / settings.reduction_factor) + settings.max_concurrent
            here = ranked(here, settings.direction)[:count]
        elif any(t.bracket == bracket and t.rung == rung + 1 for t in history):
            num_above = sum(t.bracket == bracket and t.rung == rung + 1 for t in history)
            here = ranked(here, settings.direction)[: max(num_above, len(here) // 2)]
        found |= {trial.number for trial in here if trial.number not in gone_on}
    return found
