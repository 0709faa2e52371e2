"""The search that a folder holds: what it was asked for when it first started.

Promises: a later start goes on with the same search, or is told every setting that differs; what
only says how trials are run and kept may change. A file that cannot be read is refused, and a
copy of it is kept beside it. One process at a time leads a search (engine/lease.py).
Leaves out: the trials (ledger.py).
"""

import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kineme.automl.parameters import Space
from kineme.automl.settings import BLOCK
from kineme.automl.trial_specs import STUDY_FILE, Plan
from kineme.errors import Problem, ResourceError, SpecError, shortened
from kineme.files import write_json
from kineme.jobs.record import now

FORMAT = 1
PAGE_FILE = "automl.html"
TABLE_FILE = "trials.csv"
BEST_SPEC_FILE = "best_spec.yaml"
# How trials are run, and what becomes of them; not which ones there are.
FREE_SETTINGS = frozenset({
    "max_concurrent", "retries", "max_failures_in_a_row", "trial_timeout_seconds", "keep_best",
    "allow_constant_metric",
    "delete_intermediate_ckpt", "checkpoint_retention_strategy", "run_baseline", "baseline_metric",
    "run_final_evaluation", "final_evaluation_metric",
})  # fmt: skip
GROWING = frozenset({"max_recommendations", "max_trials"})  # a search may go on for longer
FREE_KEYS = ("device", "wandb.", "evaluate.", "inference.", "export.", "dataset_convert.",
             "train.tensorboard", "train.stall_timeout")  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A search on the disk. id: part of the ids of its jobs. created_at: ISO 8601, UTC."""

    id: str
    folder: Path
    created_at: str


def open_study(plan: Plan) -> Study:
    """The search of the plan's folder, begun now if there is none.

    Raises SpecError where another one was begun there, ResourceError where its file is damaged.
    """
    path = plan.folder / STUDY_FILE
    asked = _as_asked(plan)
    if not path.exists():
        study = Study(uuid.uuid4().hex, plan.folder, now())
        write_json(path, {"format": FORMAT, "study": study.id, "created_at": study.created_at,
                          **asked})  # fmt: skip
        return study
    there = _read(path)
    refuse_another(plan)
    study = Study(str(there["study"]), plan.folder, str(there["created_at"]))
    if any(there[name] != asked[name] for name in asked):
        write_json(path, {**there, **asked})
    return study


def refuse_another(plan: Plan) -> None:
    """Raise SpecError where another search was begun in the plan's folder. Nothing is written."""
    path = plan.folder / STUDY_FILE
    problems = list(_differences(_read(path), _as_asked(plan))) if path.exists() else []
    if problems:
        raise SpecError.of(problems)


def refuse_damaged(path: Path, reason: str) -> ResourceError:
    """The error for a file of a search that cannot be read; a copy of it is made."""
    copy = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    fix = "Put the file back from a backup, or set another results_dir to start anew."
    try:
        shutil.copy2(path, copy)
        fix = f"A copy is {copy.name}. {fix}"
    except OSError as error:
        fix = f"It cannot be copied either ({error.strerror}). {fix}"
    return ResourceError(str(path), "a file of a search that is whole", reason, fix)


def space_facts(space: Space) -> list[dict[str, Any]]:
    """The space in plain values, as JSON gives them back."""
    facts = [asdict(parameter) for parameter in space.parameters]
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]


def _as_asked(plan: Plan) -> dict[str, Any]:
    settings = json.loads(json.dumps(asdict(plan.settings)))
    spec = json.loads(json.dumps(dict(plan.base)))
    return {"network": plan.network, "settings": settings, "space": space_facts(plan.space),
            "spec": spec, "start": plan.start}  # fmt: skip


def _read(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        kinds = {"study": str, "created_at": str, "network": str, "settings": dict, "space": list,
                 "spec": dict, "start": str}  # fmt: skip
        wrong = [name for name, kind in kinds.items() if not isinstance(value[name], kind)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise refuse_damaged(path, shortened(str(error))) from error
    except OSError as error:
        fix = "See to it that it can be read."
        raise ResourceError(str(path), "a readable file", error.strerror or "none", fix) from error
    if wrong or value.get("format") != FORMAT:
        raise refuse_damaged(path, f"one of another form ({', '.join(wrong) or 'format'})")
    return value  # type: ignore[no-any-return]


def _differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[Problem]:
    """What was asked for otherwise when the search began."""
    fix = "Set it as it was, or another results_dir for another search."
    if there["network"] != asked["network"]:
        yield Problem("network", f"{there['network']!r}, as when it began", repr(asked["network"]))
        return
    settings = _changed(there["settings"], asked["settings"])
    for name, (before, now_) in settings.items():
        is_more = name in GROWING and isinstance(now_, int) and (before or 0) < now_
        if name not in FREE_SETTINGS and not is_more:
            since = " or more, as before" if name in GROWING else ", as when the search began"
            yield Problem(f"{BLOCK}.{name}", f"{_said(before)}{since}", _said(now_), fix)
    spec = _changed(there["spec"], asked["spec"])
    told = {key for key in spec if not key.startswith(FREE_KEYS)}
    for key in sorted(told):
        before, now_ = spec[key]
        yield Problem(key, f"{_said(before)}, as when the search began", _said(now_), fix)
    if there["start"] != asked["start"]:
        key = "train.resume_training_checkpoint_path"
        yield Problem(key, f"{there['start']!r}, as when the search began", repr(asked["start"]))
    if not told and not set(settings) - FREE_SETTINGS and there["space"] != asked["space"]:
        before, now_ = (shortened([one.get("key") for one in s["space"]]) for s in (there, asked))
        yield Problem("search space", f"that of the beginning ({before})",
                      f"another ({now_})", fix)  # fmt: skip


def _said(value: Any) -> str:
    return "no value" if value is None else shortened(value)


def _changed(there: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*there, *(key for key in asked if key not in there)]
    return {
        key: (there.get(key), asked.get(key)) for key in keys if there.get(key) != asked.get(key)
    }
