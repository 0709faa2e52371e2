"""What is known of a search at one moment, as those who show it need it.

Promises: plain values alone, read from the ledger; whoever shows a `SearchView` (page.py,
table.py) opens no file and asks no job. Figures that are not known are None, never 0.
Leaves out: reading the ledger (ledger.py), drawing (page.py, table.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kineme.automl.parameters import Space
from kineme.automl.settings import Settings
from kineme.automl.trials import Trial, TrialState


@dataclass(frozen=True)
class TrialView:
    """A trial of the ledger, and what became of its job.

    trial: number, params, budget (epochs), state, value, parent, rung, curve, ...
    epochs: those that its own job has trained so far. seconds: from start to end, or to now;
    None before it starts. reason: why it failed or was pruned, "" otherwise.
    folder: its results, which a promoted trial shares with the trial it goes on from.
    retries: jobs of it that crashed before.
    """

    trial: Trial
    job_id: str = ""
    epochs: int = 0
    seconds: float | None = None
    reason: str = ""
    folder: str = ""
    retries: int = 0

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def params(self) -> Mapping[str, Any]:
        return self.trial.params

    @property
    def state(self) -> TrialState:
        return self.trial.state

    @property
    def value(self) -> float | None:
        return self.trial.value


@dataclass(frozen=True)
class Figure:
    """A value that was measured beside the search. where: the data, or the checkpoint, in words.

    is_seen: whether the best trial was chosen on these very data.
    """

    value: float | None
    where: str = ""
    is_seen: bool = False


@dataclass(frozen=True)
class SearchView:
    """A search. trials: by number. best: of those that were trained the longest.

    own: the values that the spec itself has for the searched settings. num_planned: trials in
    all, None where the algorithm does not know before. final: None until it was measured;
    without held-out data, `selected_on` says on which data the best value was chosen.
    best_spec: path of best_spec.yaml, "" while there is none. next_steps: commands to type.
    """

    network: str
    folder: str
    settings: Settings
    space: Space
    trials: tuple[TrialView, ...] = ()
    best: TrialView | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    num_planned: int | None = None
    started_at: str = ""  # ISO 8601, UTC
    seconds: float = 0.0  # since then, over all commands of the search
    is_over: bool = False
    baseline: Figure | None = None
    final: Figure | None = None
    selected_on: str = ""
    best_spec: str = ""
    notes: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        return self.settings.metric

    @property
    def direction(self) -> str:
        return self.settings.direction
