"""How well does it do on people it has never seen: K models, each judged on whom it left out.

`evaluate` with `evaluate.k_fold: K`. Promises: no subject is in two folds; each model is trained
as `train` trains and judged as `evaluate` judges, on the last epoch, with nothing chosen by the
data that it is judged on; every sample of the training data is answered once, by the model that
had not seen it. Killed at any moment, the same command goes on, and trains no finished fold again.
Leaves out: which samples go together (engine/folds.py).

Files: `<results_dir>/evaluate/` with folds.json and the files of any evaluation, over all samples;
`fold_1/` and so on with those of one, and its training in `fold_1/train/`.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme import files
from kineme.actions import answers, train
from kineme.data.inputs import read_bytes
from kineme.data.subjects import Subjects, subjects_of
from kineme.engine import results
from kineme.engine.feeding import steps_per_epoch
from kineme.engine.folds import assign_folds
from kineme.engine.keeping import fingerprint
from kineme.engine.names import FOLDS_FILE, LATEST_FILE, find_checkpoints
from kineme.engine.results import Run
from kineme.errors import DataError, Problem, SpecError, listed
from kineme.network import TEST, TRAIN, Answers, Common, Dataset, Network, Remarks, load_specs
from kineme.report.trust import measure_trust
from kineme.spec.load import for_action, value_at, with_values

BY_FOLD = "accuracy by fold (%)"
MAX_RECORD_BYTES = 1 << 28
# Settings that change nothing of what a model learns, or where data lie.
_FREE = {
    "train.results_dir", "train.resume", "train.resume_training_checkpoint_path",
    "train.tensorboard", "train.stall_timeout", "train.checkpoint_interval",
    "train.checkpoint_interval_unit", "dataset.num_workers", "dataset.workers",
    "dataset.cache_dir",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Who is left out when. fold_of: sample id -> fold, from 0. subjects: of each sample."""

    num_folds: int
    fold_of: Mapping[str, int]
    subjects: Subjects

    def members(self, ids: Sequence[str], fold: int) -> list[int]:
        """Positions of the samples that a fold leaves out."""
        return [i for i, name in enumerate(ids) if self.fold_of[name] == fold]


def run(
    network: Network, spec: Any, *, judge: Callable[..., Any], record: Callable[..., dict[str, Any]]
) -> Mapping[str, Any]:
    """Train and judge all folds; returns the figures over all samples, and those of the folds.

    judge, record: how evaluate asks a model, and what it writes (evaluate.py).
    """
    spec, notes = prepared(network, spec)
    with results.open_run(network, "evaluate", spec) as a_run:
        for text in notes:
            a_run.note(text)
        dataset = network.build_dataset(spec, TEST)
        answers.unknown_data(network, spec)  # what cannot be is told now, not after a training
        plan, advice = planned(spec, dataset)
        for text in advice:
            a_run.note(text)
        record_of_folds = record_of(network, spec, plan, dataset)
        refuse_others(a_run.folder, record_of_folds)
        files.write_json(a_run.folder / FOLDS_FILE, record_of_folds)
        found = [
            _fold(network, spec, a_run, plan, fold=fold, judge=judge)
            for fold in range(plan.num_folds)
        ]
        subject = answers.Subject(network, spec, a_run.folder / FOLDS_FILE, notes, asked=spec)
        pooled, figures, told = _pooled(dataset, plan, found)
        more = {"k_fold": told, "checkpoint": None}
        facts = record(a_run, subject, dataset, pooled, figures, more)
        a_run.say(f"accuracy by fold: {figures.facts[BY_FOLD]}")
        answers.refuse_failures(a_run, dataset, pooled)
        spread = told["accuracy"]
        a_run.kpi = {
            **{name: facts[name] for name in ("accuracy", network.mean_accuracy)},
            "fold_accuracy_mean": spread["mean"],
            "fold_accuracy_std": spread["std"],
        }
    return a_run.kpi


def prepared(network: Network, spec: Any) -> tuple[Any, tuple[str, ...]]:
    """The spec whose test data are those of training, completed, and what to tell."""
    if "LOCAL_RANK" in os.environ:
        fix = "Start one process: it starts the others, for each fold anew."
        raise SpecError("evaluate.k_fold", "one process", "several, of a launcher (torchrun)", fix)
    asked = spec.evaluate
    idle = ["evaluate.checkpoint"] if asked.checkpoint else []
    idle += ["evaluate.baseline"] if asked.baseline else []
    common = network.common(spec)
    idle += ["validation data"] if common.has_validation else []
    idle += ["test data"] if value_at(spec, network.data_keys[TEST][0]) else []
    idle += ["dataset.fail_on_leakage"] if getattr(spec.dataset, "fail_on_leakage", False) else []
    notes = [f"{key}: no effect, as evaluate.k_fold trains its own models." for key in idle]
    notes += list(_cautions(network, spec, common))
    if network.of_folds is None or network.subset is None:
        raise SpecError("evaluate.k_fold", "0, as this network has no folds", str(asked.k_fold))
    spec = with_values(network.of_folds(spec), {"evaluate.baseline": None})
    for_action(spec, load_specs(network.name)["train"])  # what is wrong with it is told at once
    spec, more = network.complete(spec, TRAIN)
    return spec, (*notes, *more)


def _cautions(network: Network, spec: Any, common: Common) -> Iterator[str]:
    """What the figures over all folds do not say."""
    known = ["train.distill.teacher"] if common.distillation else []
    known += ["weights to begin with"] if common.pretrained else []
    if known:
        yield f"{' and '.join(known)}: where they know these samples, folds look better than true."
    alone = ["evaluate.occlusion"] if common.has_occlusion else []
    alone += ["unknown samples"] if network.of_unknown and network.of_unknown(spec) else []
    if alone:
        yield f"{' and '.join(alone)}: judged fold by fold alone, in fold_1/metrics.json and so on."


def planned(spec: Any, dataset: Dataset) -> tuple[Plan, list[str]]:
    """The folds of a dataset, and what to tell of them. Raises SpecError."""
    num_folds = spec.evaluate.k_fold
    ids, labels = list(dataset.ids), dataset.labels
    subjects = subjects_of(ids, spec.evaluate.subject_pattern, key="evaluate.subject_pattern")
    known = subjects.groups(num_folds)
    groups = [name or own for name, own in zip(known, ids, strict=True)]
    seed = max(spec.train.seed, 0)
    guess = f"{ids[0]!r} is of {subjects.names[0]!r}: evaluate.subject_pattern says otherwise."
    fix = f"They are guessed from ids: {guess}" if subjects.is_guessed else ""
    folds = assign_folds(groups, labels, num_folds=num_folds, seed=seed, fix=fix)
    plan = Plan(
        num_folds, {own: folds[name] for own, name in zip(ids, groups, strict=True)}, subjects
    )
    for fold in range(num_folds):  # a step an epoch at least, of the last one too
        num_left = len(ids) - len(plan.members(ids, fold))
        steps_per_epoch(num_left * getattr(spec.dataset, "repeats", 1), spec.dataset.batch_size, 1)
    notes = []
    if not subjects.are_known:
        notes.append(
            "No subject in the ids (evaluate.subject_pattern): samples are spread by class, and "
            "one person may be in training and left out alike."
        )
    elif subjects.is_guessed:
        first, total = subjects.names[0], len(set(subjects.names))
        notes.append(f"{total} subjects, guessed from ids: {ids[0]!r} is of {first!r}.")
        notes += list(_parted(subjects, groups))
    alone = sum(not name for name in subjects.names) if subjects.are_known else 0
    if alone:
        first = next(own for own, name in zip(ids, subjects.names, strict=True) if not name)
        notes.append(f"{alone} samples name no subject, and are one each, the first {first!r}.")
    return plan, notes


def _parted(subjects: Subjects, groups: Sequence[str]) -> Iterator[str]:
    """That people are in several groups, which folds may part."""
    found: dict[str, set[str]] = {}
    for people, group in zip(subjects.people, groups, strict=True):
        for one in people:
            found.setdefault(one, set()).add(group)
    several = {one: sorted(those) for one, those in found.items() if len(those) > 1}
    if several:
        one, those = min(several.items())
        yield (
            f"{len(several)} of {len(found)} people are in several groups, and so may be in "
            f"training and left out alike: {one!r} is in {listed(map(repr, those))}."
        )


def record_of(network: Network, spec: Any, plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """What must be the same for folds to be of one run: settings, data and folds."""
    tree = spec.model_dump(mode="json")
    settings = {
        key: value
        for block in ("model", "dataset", "train")
        for key, value in _flat(tree[block], block).items()
        if key not in _FREE and not _is_place(key)
    }
    return {
        "k_fold": plan.num_folds,
        "settings": settings,
        "data": fingerprint(network, dataset),
        "folds": dict(plan.fold_of),
    }


def refuse_others(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise SpecError where the folder holds models of other folds."""
    known = _read_record(folder / FOLDS_FILE)
    if known is not None and any(folder.glob("fold_*/train/model_epoch_*.pth")):
        _refuse(folder, known, json.loads(json.dumps(record)))


def _is_place(key: str) -> bool:
    """Whether a setting says where data lie; those of weights to begin with are another matter."""
    is_of_data = key.startswith("dataset.") and key.endswith(("_path", "_dir"))
    return is_of_data or "_dataset." in key


def _flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}"
        found |= (
            _flat(value, key) if isinstance(value, dict) and name != "label_map" else {key: value}
        )
    return found


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(read_bytes(path, max_bytes=MAX_RECORD_BYTES))
    except (DataError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _refuse(folder: Path, known: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    fix = "Set another results_dir, or what it was."
    old, new = known.get("settings") or {}, record["settings"]
    problems = [
        Problem(key, f"{old.get(key)!r}, as the folds in {folder} were trained with",
                f"{new.get(key)!r}", fix)
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]  # fmt: skip
    if not problems and (known.get("k_fold"), known.get("folds")) != (
        record["k_fold"], record["folds"],
    ):  # fmt: skip
        received = f"{folder}, which holds {known.get('k_fold')} others"
        problems = [
            Problem("results_dir", "a folder without folds, or with the same", received, fix)
        ]
    if known.get("data", record["data"]) != record["data"]:  # older records do not say
        expected = f"frames and labels as those that the folds in {folder} were trained with"
        fix = "Set another results_dir, or take the data as they were."
        problems.append(Problem("training data", expected, "others", fix))
    if problems:
        raise SpecError.of(problems)


def build_part(
    spec: Any, split: str, *, network: Network, fold_of: Mapping[str, int], fold: int
) -> Dataset:
    """What a fold trains on, or what it leaves out, of the dataset of a split."""
    dataset = network.build_dataset(spec, split)
    if split not in (TRAIN, TEST) or network.subset is None:
        return dataset
    keeps_held = split == TEST
    kept = {name for name, own in fold_of.items() if (own == fold) == keeps_held}
    return network.subset(dataset, kept)


def _fold(
    network: Network,
    spec: Any,
    a_run: Run,
    plan: Plan,
    *,
    fold: int,
    judge: Callable[..., Any],
) -> Mapping[str, Any]:
    """Train a fold, as far as it is not, and judge it on what it left out."""
    folder, count = a_run.folder / f"fold_{fold + 1}", f"fold {fold + 1} of {plan.num_folds}"
    own = replace(
        network,
        build_dataset=functools.partial(
            build_part, network=network, fold_of=plan.fold_of, fold=fold
        ),
    )
    training = folder / "train"
    values = {
        "train.results_dir": str(training),
        "train.resume": bool(find_checkpoints(training)),
        "train.resume_training_checkpoint_path": None,
    }
    a_run.status(f"Training {count}.")
    train.run(own, for_action(with_values(spec, values), load_specs(network.name)["train"]))
    values = {
        "evaluate.results_dir": str(folder),
        "evaluate.checkpoint": str(training / LATEST_FILE.format(prefix=network.prefix)),
    }
    judged = answers.ask(own, with_values(spec, values), action="evaluate", split=TEST, body=judge)
    a_run.status(f"Judged {count}.", kpi=judged["kpi"])
    return judged


def _pooled(
    dataset: Dataset, plan: Plan, found: Sequence[Mapping[str, Any]]
) -> tuple[Answers, answers.Figures, dict[str, Any]]:
    """The answers of all folds together, what is told of them, and what the folds say."""
    places = [plan.members(dataset.ids, fold) for fold in range(plan.num_folds)]
    pooled = _joined([judged["answers"] for judged in found], places)
    shares = np.array([judged["kpi"]["accuracy"] for judged in found], np.float64)
    subjects = [sorted({plan.subjects.names[i] for i in held} - {""}) for held in places]
    folds = [
        {"fold": fold + 1, "samples": len(held), "subjects": names, **judged["kpi"]}
        for fold, (held, names, judged) in enumerate(zip(places, subjects, found, strict=True))
    ]
    spread = {"mean": _rounded(shares.mean()), "std": _rounded(shares.std(ddof=1))}
    told = ", ".join(f"{share:.2f}" for share in shares)
    words = f"{told}; mean {spread['mean']:.2f}, standard deviation {spread['std']:.2f}"
    known = pooled.labelled(dataset)
    trust = measure_trust(pooled.judged[known], dataset.labels[known])
    checkpoint = "none: each sample is judged by a model that had not seen it"
    figures = answers.Figures({}, {}, trust, facts={"checkpoint": checkpoint, BY_FOLD: words})
    return pooled, figures, {"accuracy": spread, "folds": folds}


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _joined(found: Sequence[Answers], places: Sequence[Sequence[int]]) -> Answers:
    """The answers of all folds; places: of each one's samples among all."""
    num_samples = sum(map(len, places))
    scores = np.full((num_samples, found[0].scores.shape[1]), np.nan, np.float32)
    of_row: list[NDArray[np.int64]] = []
    remarks = Remarks()
    for part, held in zip(found, places, strict=True):
        at = np.asarray(held, np.int64)
        scores[at] = part.scores
        of_row.append(at[part.sample_of_row])
        remarks |= Remarks(
            *({held[i]: text for i, text in kind.items()}
              for kind in (part.remarks.failed, part.remarks.blank, part.remarks.damaged))
        )  # fmt: skip
    sample_of_row = np.concatenate(of_row)
    order = np.argsort(sample_of_row, kind="stable")
    rows = np.concatenate([part.rows for part in found])[order]
    return Answers(scores, rows, sample_of_row[order], remarks)
