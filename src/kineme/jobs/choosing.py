"""Which model of a job that has run: the best, the latest, or that of an epoch.

Promises: only a file that is whole is chosen (every record of it is held against its checksum;
of an encrypted one, what can be seen without its key); one that is not is passed over and said so.
The best is the one that training called so by its metric on the validation data; where there is
none, of the checkpoints that are left the one whose epoch was best, else the latest.
Leaves out: whether the job may be a parent at all (parents.py), loading (engine/checkpoint.py).
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kineme.engine.archive import check_whole
from kineme.engine.names import (
    BEST_FILE,
    CHECKPOINT_PATTERN,
    METRIC,
    METRICS_FILE,
    ONNX_FILE,
    OPENVINO_FILE,
    find_checkpoints,
    read_metrics,
)
from kineme.errors import CheckpointError, KinemeError, SpecError, listed
from kineme.jobs.record import JobRecord
from kineme.jobs.store import AUTOML_FOLDER, JobStore

Rule = Literal["best", "latest"] | int
RULES: Mapping[str, Rule] = {"best": "best", "latest": "latest"}
METHODS: Mapping[str, Rule | None] = {  # TAO's names; None: the number is in EPOCH_KEY
    "best_model": "best",
    "latest_model": "latest",
    "from_epoch_number": None,
}
METHOD_KEY, EPOCH_KEY = "checkpoint_choose_method", "checkpoint_epoch_number"
BEST_TRIAL_FILE = "best_trial.json"
_SMALLEST_ENCRYPTED_BYTES = 112  # its header and one tag (engine/encryption.py)


@dataclass(frozen=True)
class Checkpoint:
    """A model that a job left. epoch: from 0, as file names count; None where none is known.

    metric_value: of `metric_name`, NaN never. damage: why it cannot be used, else "".
    """

    path: str
    epoch: int | None = None
    step: int | None = None
    metric_name: str | None = None
    metric_value: float | None = None
    is_best: bool = False
    damage: str = ""


@dataclass(frozen=True)
class Chosen:
    """The model that was chosen, and why; skipped: files that are not whole, with reasons."""

    checkpoint: Checkpoint
    reason: str
    skipped: tuple[str, ...] = ()


class NoCheckpointError(SpecError):
    """A job that has no model to go on with."""


def rule_of(text: Any, epoch: Any = None) -> Rule:
    """The rule that is meant by best, latest or an epoch, or by TAO's two keys.

    Raises SpecError.
    """
    if text is None:
        text = "best" if epoch is None else "from_epoch_number"
    known = METHODS.get(text, text) if isinstance(text, str) else text
    if known is None:
        known = _epoch_number(epoch)
    elif epoch is not None:
        fix = f"Set {METHOD_KEY}=from_epoch_number, or leave the number out."
        raise SpecError(EPOCH_KEY, f"no number beside {text!r}", repr(epoch)[:40], fix)
    if isinstance(known, str) and known.isdecimal():
        known = int(known)
    if isinstance(known, str) and known in RULES:
        return RULES[known]
    if isinstance(known, int) and not isinstance(known, bool) and known >= 0:
        return known
    from kineme.spec.suggest import did_you_mean

    expected = f"best, latest, the number of an epoch (from 0), or {', '.join(METHODS)}"
    raise SpecError("checkpoint", expected, repr(text)[:80], did_you_mean(text, [*RULES, *METHODS]))


def choose(store: JobStore, record: JobRecord, rule: Rule = "best") -> Chosen:
    """The checkpoint of a training, or of the best trial of a search for settings.

    Raises NoCheckpointError where there is none that fits and is whole.
    """
    if is_search(record):
        trial = best_trial(store, record)
        chosen = choose(store, trial, rule)
        return replace(chosen, reason=f"of the best trial, {trial.id}: {chosen.reason}")
    generations = [record, *retried(store, record)]
    found = [list(_of_training(one)) for one in generations]
    every = [checkpoint for part in found for checkpoint in part]
    if not every:
        raise _none(record, "none in its results")
    skipped: list[str] = []
    for checkpoint, reason in _in_order(found, rule):
        damage = damage_of(Path(checkpoint.path))
        if not damage:
            return Chosen(checkpoint, reason + _instead(skipped), tuple(skipped))
        skipped.append(f"{checkpoint.path}: {damage}")
    if skipped:
        raise _none(record, f"damaged ones alone: {listed(skipped)}")
    epochs = listed(sorted({c.epoch for c in every if c.epoch is not None}), 20)
    raise _none(record, f"those of epochs {epochs} (from 0)", expected=f"one of epoch {rule}")


def best_model(store: JobStore, record: JobRecord) -> str | None:
    """The file of the model that a job left for others to use; None where none is whole."""
    if record.action == "export":
        whole = [path for path in _onnx_files(record) if not damage_of(path)]
        return str(whole[0]) if whole else None
    try:
        return choose(store, record).checkpoint.path
    except NoCheckpointError:
        return None


def list_checkpoints(store: JobStore, record: JobRecord) -> list[Checkpoint]:
    """All models of a job and of those that it tries again, the best first, then the latest.

    Only damage that shows at a glance is told.
    """
    if is_search(record):
        try:
            return list_checkpoints(store, best_trial(store, record))
        except NoCheckpointError:
            return []
    if record.action == "export":
        found = [Checkpoint(str(path)) for path in _onnx_files(record)]
    else:
        generations = [record, *retried(store, record)]
        found = [checkpoint for one in generations for checkpoint in _of_training(one)]
        found.sort(key=lambda one: (one.is_best, one.step or 0), reverse=True)
    return [replace(one, damage=damage_of(Path(one.path), is_thorough=False)) for one in found]


def is_search(record: JobRecord) -> bool:
    """Whether a job searches for good settings, by trials that are jobs."""
    return bool(record.details.get("automl"))


def best_trial(store: JobStore, record: JobRecord) -> JobRecord:
    """The job of the best trial of a search. Raises NoCheckpointError where it says none."""
    path = Path(record.results_dir) / AUTOML_FOLDER / BEST_TRIAL_FILE
    try:
        job_id = json.loads(path.read_bytes())["job_id"]
        trial = store.load(job_id)
    except (OSError, ValueError, KeyError, TypeError, KinemeError) as error:
        raise _none(record, f"no best trial in {path} ({type(error).__name__})") from error
    if is_search(trial):
        raise _none(record, f"{path}, which names a search and no trial")
    return trial


def retried(store: JobStore, record: JobRecord) -> list[JobRecord]:
    """The jobs that `record` is another try of, the last one first, as far as they are there."""
    found: list[JobRecord] = []
    seen = {record.id}
    while record.retry_of and record.retry_of not in seen:
        seen.add(record.retry_of)
        try:
            record = store.load(record.retry_of)
        except KinemeError:
            break
        found.append(record)
    return found


def latest(records: list[JobRecord]) -> Chosen | None:
    """The newest whole checkpoint of the trainings `records`, asked in this order."""
    skipped: list[str] = []
    for record in records:
        for path in reversed(find_checkpoints(action_folder(record, "train"))):
            if damage := damage_of(path):
                skipped.append(f"{path}: {damage}")
                continue
            reason = f"the newest checkpoint of job {record.id}"
            return Chosen(_named(path), reason + _instead(skipped), tuple(skipped))
    return None


def action_folder(record: JobRecord, action: str = "") -> Path:
    """Where an action of a job leaves its files."""
    action = action or record.action
    block = record.spec.get(action)
    own = block.get("results_dir") if isinstance(block, Mapping) else None
    return Path(own) if own else Path(record.results_dir) / action


def damage_of(path: Path, *, is_thorough: bool = True) -> str:
    """Why a model file is not whole, or "". is_thorough: all of it is read."""
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                size = path.stat().st_size
                if is_encrypted(path):
                    return "" if size >= _SMALLEST_ENCRYPTED_BYTES else "cut off within its header"
                if path.suffix in (".onnx", ".xml"):
                    return "" if size else "empty"
            check_whole(path, file, is_thorough=is_thorough)
    except CheckpointError as error:
        return error.problems[0].received
    except OSError as error:
        return f"one that cannot be read ({error})"
    return ""


def is_encrypted(path: str | Path) -> bool:
    """Whether a key of ours is needed to read a file."""
    from kineme.engine import encryption  # takes its time

    return encryption.is_encrypted(Path(path))


def _epoch_number(epoch: Any) -> Any:
    """The number in TAO's epoch key, which may be a mapping of one job to it."""
    if isinstance(epoch, Mapping) and len(epoch) == 1:
        epoch = next(iter(epoch.values()))
    if isinstance(epoch, int) and not isinstance(epoch, bool):
        return epoch
    received = "nothing" if epoch is None else repr(epoch)[:40]
    raise SpecError(EPOCH_KEY, "the number of an epoch, from 0 as file names count", received)


def _of_training(record: JobRecord) -> Iterator[Checkpoint]:
    """The checkpoints of a training, oldest first, then the one that it calls the best."""
    folder = action_folder(record, "train")
    values = _metrics(folder)
    for path in find_checkpoints(folder):
        named = _named(path)
        value = values.get(-1 if named.epoch is None else named.epoch)
        yield replace(named, metric_name=METRIC if value is not None else None, metric_value=value)
    if (folder / BEST_FILE).is_file():
        epoch = max(values, key=lambda one: (values[one], -one), default=None)  # ties: the first
        value = None if epoch is None else values[epoch]
        name = METRIC if value is not None else None
        yield Checkpoint(str(folder / BEST_FILE), epoch, None, name, value, is_best=True)


def _in_order(found: list[list[Checkpoint]], rule: Rule) -> Iterator[tuple[Checkpoint, str]]:
    """Checkpoints by how well they fit the rule, and why; of a later try first."""
    numbered = [one for part in found for one in part if not one.is_best]
    by_step = sorted(numbered, key=lambda one: one.step or 0, reverse=True)
    best = [one for part in found for one in part if one.is_best]
    if rule == "latest":
        yield from ((one, f"the latest, epoch {one.epoch}, step {one.step}") for one in by_step)
        # a training whose numbered files are all gone still has this one
        yield from ((one, "the best, as no other is there") for one in best)
    elif rule == "best":
        for one in best:
            how = f"by {_told(one)}" if one.metric_name else "as training says"
            yield one, f"the best {how}"
        judged = [one for one in by_step if one.metric_value is not None]
        judged.sort(key=lambda one: one.metric_value or 0.0, reverse=True)  # stable: later first
        for one in judged:
            yield one, f"the best of the checkpoints by {_told(one)}"
        for one in by_step:
            if one.metric_value is None:
                yield one, f"the latest, epoch {one.epoch}, as no {METRIC} is recorded"
    else:
        for one in by_step:
            if one.epoch == rule:
                yield one, f"of epoch {rule} (from 0), as asked"


def _told(one: Checkpoint) -> str:
    return f"{one.metric_name} {one.metric_value:.4g} at epoch {one.epoch}"


def _named(path: Path) -> Checkpoint:
    match = re.fullmatch(CHECKPOINT_PATTERN, path.name)
    if match is None:
        return Checkpoint(str(path))
    return Checkpoint(str(path), int(match[1]), int(match[2]))


def _metrics(folder: Path) -> dict[int, float]:
    """The metric by epoch, as far as it was recorded and is a number."""
    values: dict[int, float] = {}
    for row in read_metrics(folder / METRICS_FILE):
        try:
            value = float(row.get(METRIC) or "nan")
        except ValueError:
            continue
        if math.isfinite(value):
            values[int(row["epoch"])] = value
    return values


def _onnx_files(record: JobRecord) -> list[Path]:
    block = record.spec.get("export")
    named = block.get("onnx_file") if isinstance(block, Mapping) else None
    is_openvino = isinstance(block, Mapping) and block.get("format") == "openvino"
    name = OPENVINO_FILE if is_openvino else ONNX_FILE
    path = Path(named) if named else action_folder(record) / name
    return [path] if path.is_file() else []


def _instead(skipped: list[str]) -> str:
    return f"; {len(skipped)} passed over that cannot be read" if skipped else ""


def _none(record: JobRecord, received: str, expected: str = "a checkpoint") -> NoCheckpointError:
    whose = f"{record.id} ({record.network_arch} {record.action}, {record.state})"
    return NoCheckpointError(
        "parent_job_id",
        f"a job with {expected}",
        f"{whose}, with {received}",
        f"`kineme jobs checkpoints {record.id}` lists what there is.",
    )
