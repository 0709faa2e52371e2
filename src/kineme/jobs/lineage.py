"""Values of a spec that a job finds for itself: TAO's inference functions.

skill_info.yaml says which function finds which key of which action (`spec_params`); what they do
is in the table FUNCTIONS.
Promises: what the user gave is never replaced. Every value that is found is a `Choice`, with why;
everything that cannot be found is told together. A key is handed on, and never a value here.
Leaves out: data sets (sources.py), which checkpoint of a job (choosing.py), parents (parents.py).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kineme.engine.names import LABELS_FILE, ONNX_FILE, SPEC_FILE
from kineme.errors import HIDDEN, Problem, SpecError
from kineme.jobs import choosing
from kineme.jobs.choosing import Chosen, Rule
from kineme.jobs.parents import WHERE, Parent, checked_parent
from kineme.jobs.record import Choice, JobRecord
from kineme.jobs.store import JobStore
from kineme.network import load_specs
from kineme.skills import load_skill_info
from kineme.spec.fields import settings_by_key

CONSTANT = "assign_const_value"
RESUME_KEY = "train.resume_training_checkpoint_path"
RESUMES = "resumes"  # in a trial's details: the id of the trial whose checkpoint it goes on with
IS_TRIAL = "trial"  # in its details: its number
_OURS = {  # keys that TAO's mapping leaves out
    ("action_recognition", "train"): {
        "model.joint_pretrained_model_path": "ptm_if_no_resume_model",
    },
}
_STREAMS_OF = {"rgb": ("rgb",), "of": ("of",), "joint": ("rgb", "of")}


@dataclass(frozen=True)
class Asked:
    """A job in the making. given: what the user said, by dotted key.

    rule: which checkpoint of the parent. has_key: whether encrypted files can be read.
    """

    store: JobStore
    record: JobRecord
    given: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule = "best"
    has_key: bool = False
    parent: Parent | None = None

    def value(self, key: str) -> Any:
        """What the spec will say at `key` as far as that is known now; None for an unknown key."""
        if key in self.given:
            return self.given[key]
        model = load_specs(self.record.network_arch)[self.record.action]
        declared = settings_by_key(model).get(key)
        return declared.default if declared else None

    @property
    def has_folds(self) -> bool:
        """Whether an evaluation trains its own models, and so takes none."""
        return self.record.action == "evaluate" and bool(self.value("evaluate.k_fold"))


@dataclass(frozen=True)
class Found:
    """A value, and why it is this one; notes: what else the user should know."""

    value: Any
    reason: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resolution:
    """What was found, by dotted key, and what is wrong. parent: whose model is used."""

    values: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    missing: frozenset[str] = frozenset()  # keys that the problems are about
    parent: Parent | None = None


def resolve(asked: Asked, params: Mapping[str, str] | None = None) -> Resolution:
    """The values that the functions of `params` (default: skill_info's) find for the job."""
    record = asked.record
    problems: list[Problem] = []
    notes: list[str] = []
    is_parent_bad = False
    if record.parent_job_id is not None:
        try:
            parent = checked_parent(
                asked.store, record.parent_job_id, network_arch=record.network_arch,
                action="train" if asked.has_folds else record.action,
            )  # fmt: skip
            notes += parent.notes
            asked = replace(asked, parent=parent)
        except SpecError as error:
            problems += error.problems
            is_parent_bad = True
    values: dict[str, Any] = {}
    choices: list[Choice] = []
    missing: set[str] = set()
    for key, text in (params_of(record) if params is None else params).items():
        name, _, argument = text.partition(",")
        if key in asked.given:
            if record.parent_job_id is not None and name in _OF_PARENT:
                notes.append(f"{key} is as given: nothing of {WHERE} takes its place.")
            continue
        if is_parent_bad and name in _OF_PARENT:
            missing.add(key)
            continue
        try:
            found = FUNCTIONS[name](asked, key, argument)
        except SpecError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            missing.add(key)
            continue
        if found is None:
            continue
        choices.append(Choice(key, found.value, text, found.reason))
        notes += [note for note in found.notes if note not in notes]
        if name != "key":
            values[key] = found.value
    notes += _unused_parent(asked, values)
    return Resolution(
        values, tuple(choices), tuple(notes), tuple(problems), frozenset(missing), asked.parent
    )


def params_of(record: JobRecord) -> dict[str, str]:
    """Which function finds which key, for a job of a network and action, or for a trial."""
    info = info_of(record.network_arch)
    ours = _OURS.get((record.network_arch, record.action), {})
    if record.details.get(IS_TRIAL) is not None:
        ours = {key: _AUTOML[name] for key, name in ours.items()}
        return {**info["automl_spec_params"], **ours}
    return {**info["spec_params"].get(record.action, {}), **ours}


@functools.cache
def info_of(network_arch: str) -> Mapping[str, Any]:
    """skill_info.yaml of a network, read once: reading it takes longer than all the rest."""
    return load_skill_info(network_arch)


def _key(asked: Asked, key: str, argument: str) -> Found | None:
    """encryption_key: handed to the runner beside the spec, where there is one."""
    del key, argument
    return Found(HIDDEN, "handed to the job apart from its spec") if asked.has_key else None


def _output_dir(asked: Asked, key: str, argument: str) -> Found | None:
    """The job's own folder of results; below it, that of an action."""
    del argument
    block = key.rpartition(".")[0]
    folder = Path(asked.record.results_dir)
    return Found(str(folder / block if block else folder), "the results of this job")


def _parent_model(asked: Asked, key: str, argument: str) -> Found | None:
    """The model file of the parent, by the rule that was asked for."""
    del argument
    if asked.has_folds:
        return None
    if asked.parent is None:
        fix = f"Name the job that trained it, or set {key}."
        raise SpecError(WHERE, f"a job whose model to use, or {key}", "neither", fix)
    chosen = _chosen(asked)
    return Found(chosen.checkpoint.path, _of(asked, chosen), _skipped(chosen))


def _parent_model_folder(asked: Asked, key: str, argument: str) -> Found | None:
    """The folder of the parent's model file."""
    found = _parent_model(asked, key, argument)
    return Found(str(Path(found.value).parent), found.reason, found.notes) if found else None


def _resume_model(asked: Asked, key: str, argument: str) -> Found | None:
    """The newest checkpoint of this very job, or of those that it is another try of."""
    del key, argument
    chosen = choosing.latest(_own(asked))
    if chosen is None:
        return None
    _refuse_locked(asked, chosen.checkpoint.path)
    return Found(chosen.checkpoint.path, chosen.reason, _skipped(chosen))


def _resume_model_bool(asked: Asked, key: str, argument: str) -> Found | None:
    """Whether there is such a checkpoint."""
    found = _resume_model(asked, key, argument)
    return Found(found is not None, found.reason if found else "this job has no checkpoint")


def _ptm_if_no_resume_model(asked: Asked, key: str, argument: str) -> Found | None:
    """The parent's model to start from, unless the job goes on from a checkpoint of its own."""
    del argument
    parent = asked.parent
    if parent is None or parent.record.action != "train" or _resumes(asked):
        return None
    chosen = _chosen(asked)
    if not _fits(asked, key, chosen.checkpoint.path):
        return None
    return Found(chosen.checkpoint.path, f"to start from {_of(asked, chosen)}", _skipped(chosen))


def _create_onnx_file(asked: Asked, key: str, argument: str) -> Found | None:
    """Where the ONNX file goes."""
    del key, argument
    return Found(str(_action_results(asked) / ONNX_FILE), "in the results of this job")


def _create_inference_result_file_pose(asked: Asked, key: str, argument: str) -> Found | None:
    """Where the labels that pose classification gives go."""
    del key, argument
    return Found(str(_action_results(asked) / LABELS_FILE), "in the results of this job")


def _automl_resume_model(asked: Asked, key: str, argument: str) -> Found | None:
    """As of any job, and else of the trial that this one goes on with."""
    found = _resume_model(asked, key, argument)
    other = asked.record.details.get(RESUMES)
    if found is not None or other is None:
        return found
    trial = asked.store.load(str(other))
    chosen = choosing.latest([trial, *choosing.retried(asked.store, trial)])
    if chosen is None:
        raise SpecError(key, f"a checkpoint of trial {trial.id}", "none that is whole")
    _refuse_locked(asked, chosen.checkpoint.path)
    return Found(chosen.checkpoint.path, chosen.reason, _skipped(chosen))


def _assign_const_value(asked: Asked, key: str, argument: str) -> Found | None:
    """The same value as another key has."""
    del key
    value = asked.value(argument)
    return None if value is None else Found(value, f"as {argument}")


_Function = Callable[[Asked, str, str], Found | None]
FUNCTIONS: Mapping[str, _Function] = {
    "key": _key,
    "output_dir": _output_dir,
    "parent_model": _parent_model,
    "parent_model_folder": _parent_model_folder,
    "resume_model": _resume_model,
    "resume_model_bool": _resume_model_bool,
    "ptm_if_no_resume_model": _ptm_if_no_resume_model,
    "create_onnx_file": _create_onnx_file,
    "create_inference_result_file_pose": _create_inference_result_file_pose,
    "automl_output_dir": _output_dir,  # a trial is a job: its own folder
    "automl_assign_ptm": _ptm_if_no_resume_model,
    "automl_resume_model": _automl_resume_model,
    CONSTANT: _assign_const_value,
}
_OF_PARENT = ("parent_model", "parent_model_folder")
_AUTOML = {"ptm_if_no_resume_model": "automl_assign_ptm"}


def _own(asked: Asked) -> list[JobRecord]:
    """The job and those that it tries again; in a folder that a new one was given, none is its."""
    record, store = asked.record, asked.store
    is_alone = Path(record.results_dir).is_relative_to(store.root / record.id)
    return [record, *choosing.retried(store, record)] if is_alone or record.retry_of else []


def _resumes(asked: Asked) -> bool:
    """Whether the job goes on from a checkpoint, its own or one that was named."""
    if RESUME_KEY in asked.given or asked.record.details.get(RESUMES):
        return True
    return choosing.latest(_own(asked)) is not None


def _chosen(asked: Asked) -> Chosen:
    if asked.parent is None:
        raise RuntimeError("a model was asked for without a parent")
    chosen = choosing.choose(asked.store, asked.parent.record, asked.rule)
    _refuse_locked(asked, chosen.checkpoint.path)
    return chosen


def _refuse_locked(asked: Asked, path: str) -> None:
    if not asked.has_key and choosing.is_encrypted(path):
        fix = "Set encryption_key_file, encryption_key or KINEME_ENCRYPTION_KEY."
        raise SpecError("encryption_key", f"the key of {path}, which is encrypted", "none", fix)


def _of(asked: Asked, chosen: Chosen) -> str:
    name = asked.parent.record.id if asked.parent else ""
    return f"of job {name}: {chosen.reason}"


def _skipped(chosen: Chosen) -> tuple[str, ...]:
    return tuple(f"passed over: {text}" for text in chosen.skipped)


def _action_results(asked: Asked) -> Path:
    own = asked.given.get(f"{asked.record.action}.results_dir")
    root = asked.given.get("results_dir") or asked.record.results_dir
    return Path(own) if own else Path(root) / asked.record.action


def _fits(asked: Asked, key: str, path: str) -> bool:
    """Whether `key` is the one for the weights in `path`: keys of single streams take theirs."""
    stream = key.rpartition(".")[2].partition("_")[0]
    if stream not in _STREAMS_OF:
        return True
    if "model.pretrained_model_path" in asked.given:
        return False
    asked_type = asked.value("model.model_type")
    trained_type = _trained_type(path) or asked_type
    if stream == "joint":
        return bool(asked_type == trained_type == "joint")
    return trained_type == stream and stream in _STREAMS_OF.get(asked_type, ())


def _trained_type(path: str) -> str | None:
    """The model.model_type that the training of a checkpoint wrote down beside it."""
    try:
        text = (Path(path).parent / SPEC_FILE).read_text("utf-8")
        return str(yaml.safe_load(text)["model"]["model_type"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return None


def _unused_parent(asked: Asked, values: Mapping[str, Any]) -> list[str]:
    """What to tell where the model of a parent goes nowhere."""
    parent = asked.parent
    if asked.has_folds and parent and parent.record.action == "train":
        return [f"The model of job {parent.record.id} is not used: folds train their own."]
    if asked.record.action != "train" or parent is None or parent.record.action != "train":
        return []
    used = [key for key in (*values, *asked.given) if "pretrained" in key]
    if used or _resumes(asked):
        return []
    return [f"The model of job {parent.record.id} sees other streams: it is not started from."]
