"""Evaluations beside the trials: of where training starts, and of the best model in the end.

Promises: figures are in the unit of the search's metric where metrics.json has it, so that they
can be held against each other. An evaluation that fails is told and ends nothing. Without
held-out data there is no final figure, and that is said.
Leaves out: running the jobs (controller.py).
"""

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from kineme.automl import trial_specs, trials
from kineme.automl.ledger import BASELINE, FINAL, Ledger
from kineme.automl.retention import best_checkpoint
from kineme.automl.trial_specs import Plan
from kineme.automl.view import Figure
from kineme.engine.names import EVALUATION_FILE
from kineme.jobs.record import JobRecord, State
from kineme.network import TRAIN, VAL

_SEEN: Mapping[Any, str] = {TRAIN: "trained on", VAL: "chosen on"}
_OF_METRICS: Mapping[str, tuple[str, float]] = {  # name in metrics.json, and what it is divided by
    "val_acc": ("accuracy", 100.0),
    "val_loss": ("loss", 1.0),
}


class Judged(Enum):
    """On which data."""

    VALIDATION = "validation"
    HELD_OUT = "held out"


def baseline_job(ledger: Ledger) -> JobRecord | None:
    """The evaluation of the weights that training starts from; None where none is wanted."""
    plan, settings = ledger.plan, ledger.plan.settings
    weights = trial_specs.start_weights(plan)
    if not settings.run_baseline or settings.baseline_metric is not None or not weights:
        return None
    spec = trial_specs.evaluate_spec(plan, {}, results_dir="", checkpoint=weights, data=False)
    return ledger.evaluation(BASELINE, spec) if spec else None


def final_job(ledger: Ledger) -> JobRecord | None:
    """The evaluation of the best trial on held-out data; None without them, or unwanted."""
    plan, settings = ledger.plan, ledger.plan.settings
    best = trials.best(ledger.history, settings.direction)
    if not settings.run_final_evaluation or best is None:
        return None
    entry = ledger.entries[best.number]
    checkpoint = best_checkpoint(entry, settings.metric, settings.direction)
    if checkpoint is None:
        return None
    spec = trial_specs.evaluate_spec(
        plan, best.params, results_dir="", checkpoint=str(checkpoint), data=True
    )
    return ledger.evaluation(FINAL, spec) if spec else None


def figure_of(plan: Plan, record: JobRecord, judged: Judged) -> Figure | None:
    """What an evaluation measured; None while it runs."""
    if not record.is_terminal:
        return None
    if record.state is not State.COMPLETE:
        failure = record.failure.message if record.failure else str(record.state)
        return Figure(None, f"not measured: {failure}")
    name, divisor = _OF_METRICS.get(plan.settings.metric, _OF_METRICS["val_acc"])
    if plan.settings.final_evaluation_metric and judged is Judged.HELD_OUT:
        name, divisor = plan.settings.final_evaluation_metric, 1.0
    facts = _facts(Path(record.results_dir) / record.action / EVALUATION_FILE)
    value = facts.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return Figure(None, f"no {name} in {EVALUATION_FILE}")
    data = " and ".join(str(v) for v in _data_of(record.spec).values())
    where = f"{name} on {data}"
    seen = _SEEN.get(facts.get("seen_in"), "")
    is_seen = judged is Judged.HELD_OUT and bool(seen)
    if judged is Judged.HELD_OUT:
        where += f", the very data it was {seen}" if seen else ", held out"
    else:
        where = f"the weights that training starts from: {where}"
    return Figure(float(value) / divisor, where, is_seen)


def held_out_note(plan: Plan) -> str:
    """That nothing is held out, and what to do about it; "" where something is."""
    if trial_specs.test_data(plan):
        return ""
    from kineme.network import load_specs

    own = ("results_dir", "evaluate.checkpoint")
    keys = [k for k in load_specs(plan.network)["evaluate"].mandatory if k not in own]
    return (
        "The best value is chosen on the data that it is measured on, so expect less on others. "
        f"Set {' and '.join(keys)} to data held out for the end."
    )


def _facts(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _data_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The paths of the data of an evaluation."""
    block = spec.get("evaluate", {})
    found: dict[str, Any] = {}
    for key, value in block.items():
        if key == "test_dataset" and isinstance(value, Mapping):
            found |= {"data": value.get("data_path")}
        elif key.startswith("test_dataset"):
            found[key] = value
    return {key: value for key, value in found.items() if value}
