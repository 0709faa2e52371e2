"""automl.html: what a search found, what its trials say, and what to do next.

Promises: a single file that makes no request of any kind (a content policy forbids it) and runs
no script; every string of the user is escaped; it says what it is not sure of: how many trials a
figure rests on, and on which data the best was chosen. The file is replaced as a whole, so that
a reader never meets half of one.
Leaves out: computing and drawing (comparing.py, importance.py, findings.py, charts.py).
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineme import files
from kineme.automl import charts, comparing
from kineme.automl.findings import find_next_steps
from kineme.automl.importance import MIN_TRIALS, RELIABLE_TRIALS, find_importances
from kineme.automl.parameters import Kind, Parameter
from kineme.automl.trials import MAXIMIZE, TrialState, epochs_spent
from kineme.automl.view import SearchView, TrialView
from kineme.automl.wording import as_words, changes, duration, epochs, short_names, shown
from kineme.report.environment import environment

if TYPE_CHECKING:
    from jinja2 import Template


def write_page(path: str | Path, view: SearchView) -> None:
    """Write the page of `view` to `path`."""
    files.write_text(Path(path), render_page(view))


def render_page(view: SearchView) -> str:
    """The page as text."""
    from markupsafe import Markup

    keys = [parameter.key for parameter in view.space.parameters]
    drawings = {
        "history": charts.draw_history(view),
        "parallel": charts.draw_parallel(view),
        "curves": charts.draw_learning_curves(view),
    }
    found = changes(view.best.params, view.own) if view.best else ()
    return _template().render(
        view=view,
        counts=_counts(view),
        num_finalists=len(comparing.finalists(view)),
        longest=comparing.longest_budget(view),
        spent=epochs_spent(one.trial for one in view.trials),
        better="higher" if view.direction == MAXIMIZE else "lower",
        steps=find_next_steps(view),
        changes=found,
        words=as_words(found),
        importances=find_importances(view),
        min_trials=MIN_TRIALS,
        reliable_trials=RELIABLE_TRIALS,
        names=short_names(keys),
        keys=keys,
        rows=_rows(view),
        searched=[(one.key, range_words(one), scale_words(one), view.own.get(one.key))
                  for one in view.space.parameters],
        drawn={name: Markup(svg) for name, svg in drawings.items()},  # noqa: S704
    )  # fmt: skip


@functools.cache
def _template() -> "Template":
    """Compiled once: the page is written again and again while a search goes on."""
    pages = environment("kineme.automl")
    pages.filters |= {"shown": shown, "duration": duration, "epochs": epochs}
    return pages.get_template("automl.html")


def _counts(view: SearchView) -> dict[str, int]:
    """How many trials are in each state, states without any left out."""
    counts = {str(state): 0 for state in TrialState}
    for one in view.trials:
        counts[str(one.state)] += 1
    return {state: count for state, count in counts.items() if count}


def _rows(view: SearchView) -> list[dict[str, Any]]:
    """The table of trials: the best first, then those without a score by number."""
    order = comparing.ranked(view.trials, view.direction)
    rest = [one for one in view.trials if one.trial.score is None]
    keys = [parameter.key for parameter in view.space.parameters]
    return [
        {
            "trial": one.trial,
            "about": _about(one),
            "is_best": view.best is not None and one.number == view.best.number,
            "seconds": one.seconds,
            "folder": one.folder,
            "params": [shown(one.params[key]) if key in one.params else "–" for key in keys],
        }
        for one in [*order, *rest]
    ]


def _about(trial: TrialView) -> str:
    """Why it failed, where it came from, how often it was tried."""
    parts = [trial.reason] if trial.reason else []
    if trial.trial.parent is not None:
        parts.append(f"goes on from {trial.trial.parent}")
    elif trial.trial.origin:
        parts.append(trial.trial.origin)
    if trial.retries:
        parts.append(
            "tried again once" if trial.retries == 1 else f"tried {trial.retries + 1} times"
        )
    return "; ".join(parts)


def range_words(parameter: Parameter) -> str:
    """Where a setting is searched."""
    if parameter.kind == Kind.CHOICE:
        return ", ".join(shown(choice) for choice in parameter.choices)
    told = f"{shown(parameter.low)} to {shown(parameter.high)}"
    if parameter.power_of:
        told += f", powers of {parameter.power_of}"
    elif parameter.multiple_of > 1:
        told += f", multiples of {parameter.multiple_of}"
    return told if parameter.off is None else f"{told}, or {shown(parameter.off)} (off)"


def scale_words(parameter: Parameter) -> str:
    """How draws are spread over it."""
    if parameter.kind == Kind.CHOICE:
        return "choice"
    return "logarithmic" if parameter.is_log or parameter.power_of else "even"
