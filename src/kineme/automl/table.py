"""A search on the terminal: a table that keeps up on a terminal, a line per event elsewhere.

Promises: both go to stderr, as progress does; what strangers wrote is shown and not obeyed; the
table fits the window: trials that run come first, then the best, then the newest of the others,
and how many are left out is said. No thread is started.
Leaves out: reading the search (view.py), the page (page.py).
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kineme.automl import comparing
from kineme.automl.study import PAGE_FILE
from kineme.automl.trials import ACTIVE, TrialState
from kineme.automl.view import SearchView, TrialView
from kineme.automl.wording import duration, epochs, short_names, shown
from kineme.errors import printable

NUM_ROWS_BESIDE = 8  # lines of the window that are no trials: title, header, frame, summary
MIN_ROWS = 3
COLOURS: Mapping[TrialState, str] = {
    TrialState.RUNNING: "cyan", TrialState.FAILED: "red", TrialState.PRUNED: "yellow",
}  # fmt: skip


class LiveTable:
    """Shows each `SearchView` that it is given; a context manager.

    console: where to; by default stderr as it is when the table is entered.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._live: Live | None = None
        self._told: dict[int, TrialState] = {}

    def __enter__(self) -> "LiveTable":
        console = self._console or Console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False)
            self._live.start()
        return self

    def update(self, view: SearchView) -> None:
        """Show the search as it is now."""
        if self._live is not None:
            height = max(self._live.console.height - NUM_ROWS_BESIDE, MIN_ROWS)
            self._live.update(draw_table(view, num_rows=height), refresh=True)
            return
        for line in self._events(view):
            with contextlib.suppress(OSError, ValueError):  # a closed pipe does not end a search
                if self._console is not None:
                    self._console.print(Text(line), soft_wrap=True)
                else:
                    print(line, file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _events(self, view: SearchView) -> Iterator[str]:
        """A line for every trial whose state is new."""
        for one in view.trials:
            if one.state == self._told.get(one.number) or one.state == TrialState.WAITING:
                continue
            self._told[one.number] = one.state
            yield describe_event(one, view)


def describe_event(trial: TrialView, view: SearchView) -> str:
    """What became of a trial, in one line."""
    told = f"trial {trial.number}"
    if view.num_planned:
        told += f" of {view.num_planned}"
    told += f": {trial.state}"
    if trial.trial.score is not None:
        told += f", {view.metric} {shown(trial.trial.score)} after {epochs(trial.trial.budget)}"
    elif trial.state in ACTIVE:
        told += f", {epochs(trial.trial.budget)}"
    if trial.reason:
        told += f" ({trial.reason})"
    if trial.state not in ACTIVE:
        told += f" in {duration(trial.seconds)}" if trial.seconds is not None else ""
        told += f"; {describe_best(view)}"
    else:
        told += f"; {_params_of(trial)}" if trial.params else ""
    return printable(told)


def describe_best(view: SearchView) -> str:
    """The best so far, in a few words."""
    if view.best is None or view.best.value is None:
        return "no value yet"
    return f"best {shown(view.best.value)} (trial {view.best.number})"


def summary(view: SearchView) -> str:
    """The whole search in one line."""
    ended = sum(one.state not in ACTIVE for one in view.trials)
    failed = sum(one.state == TrialState.FAILED for one in view.trials)
    of = f" of {view.num_planned}" if view.num_planned else ""
    parts = [f"{ended}{of} trials ended", f"{failed} failed" if failed else "",
             f"{view.metric}: {describe_best(view)}", duration(view.seconds)]  # fmt: skip
    return printable(", ".join(part for part in parts if part))


def draw_table(view: SearchView, *, num_rows: int) -> Table:
    """At most `num_rows` trials, and the whole in a line below."""
    keys = [parameter.key for parameter in view.space.parameters]
    names = short_names(keys)
    title = f"{view.network}, {view.settings.algorithm}: {view.metric}, {view.direction}"
    rows, num_left_out = chosen_rows(view, num_rows)
    more = f"{num_left_out} more trials are in {PAGE_FILE}. " if num_left_out else ""
    table = Table(title=Text(printable(title)), caption=Text(more + summary(view)))
    for name in ("trial", "state", "epochs", view.metric):
        table.add_column(Text(name), justify="left" if name == "state" else "right", no_wrap=True)
    for key in keys:
        table.add_column(Text(printable(names[key])), justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("about", no_wrap=True, max_width=40)
    for one in rows:
        is_best = view.best is not None and one.number == view.best.number
        cells = [str(one.number), str(one.state), _epochs(one), _value(one)]
        cells += [shown(one.params[key]) if key in one.params else "–" for key in keys]
        cells += [duration(one.seconds), one.reason]
        style = "bold green" if is_best else COLOURS.get(one.state, "")
        table.add_row(*(Text(printable(cell)) for cell in cells), style=style)
    return table


def chosen_rows(view: SearchView, num_rows: int) -> tuple[list[TrialView], int]:
    """The trials that are shown, in their order, and how many are not."""
    running = [one for one in view.trials if one.state == TrialState.RUNNING]
    best = comparing.ranked(view.trials, view.direction)
    others = [
        one for one in view.trials[::-1] if one.trial.score is None and not one.trial.is_active
    ]
    order = {one.number: one for one in (*running, *best, *others)}
    shown_rows = list(order.values())[:num_rows]
    return shown_rows, len(order) - len(shown_rows)


def _epochs(trial: TrialView) -> str:
    if trial.state == TrialState.RUNNING:
        return f"{trial.epochs}/{trial.trial.budget}"
    return str(trial.trial.budget)


def _value(trial: TrialView) -> str:
    if trial.trial.score is not None:
        return shown(trial.trial.score)
    return shown(trial.trial.curve[-1][1]) + "…" if trial.trial.curve else "–"


def _params_of(trial: TrialView) -> str:
    names = short_names(list(trial.params))
    return ", ".join(f"{names[key]} {shown(value)}" for key, value in trial.params.items())
