"""How far a run is: a bar on a terminal, a line now and then elsewhere.

Leaves out: what is said at the end of an epoch (`Run.say`).
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kineme.engine.results import Run

PLAIN_SECONDS = 30.0  # between lines where there is no terminal


class Advance(Protocol):
    """Say that `done` of the total are done, and what there is to say of them."""

    def __call__(self, done: int, text: str = "") -> None: ...


@contextlib.contextmanager
def track(run: Run, title: str, *, total: int) -> Iterator[Advance]:
    """Yield a function that shows how many of `total` are done, in the process that writes."""
    if not run.is_writer:
        yield lambda done, text="": None
    elif sys.stderr is not None and sys.stderr.isatty():  # None: closed at the start
        with _bar() as bar:
            task = bar.add_task(title, total=total, text="")
            yield lambda done, text="": bar.update(task, completed=done, text=text)
    else:
        yield _plain(title, total)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        transient=True,  # the line of the epoch stays instead
    )


def _plain(title: str, total: int) -> Advance:
    last_seconds = time.monotonic()

    def advance(done: int, text: str = "") -> None:
        nonlocal last_seconds
        if time.monotonic() - last_seconds >= PLAIN_SECONDS:
            last_seconds = time.monotonic()
            with contextlib.suppress(OSError, ValueError):  # a closed pipe does not end a run
                print(f"{title}  {done}/{total}  {text}".rstrip(), file=sys.stderr, flush=True)

    return advance
