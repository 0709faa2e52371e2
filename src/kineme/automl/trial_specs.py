"""From the user's spec to those of the jobs of a search: trials, evaluations, the best one.

Promises: a trial has the user's settings, and beside them only the searched values, the length of
a full training with its schedule in proportion, and where the trial stops and goes on. Keys of
encryption are in none of them; the file that holds one is named, and needs no runner to hand it on.
Paths are absolute, as jobs run in folders of their own.
All that is wrong with spec, settings and space is told at once, before anything is made.
Leaves out: what is proposed (algorithms), jobs (ledger.py).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kineme.automl.algorithms import check
from kineme.automl.parameters import Space
from kineme.automl.schedule import flat, scaled_schedule
from kineme.automl.setting_rows import OTHER_NAMES
from kineme.automl.settings import BLOCK, Settings, read_settings, split_document
from kineme.automl.space import build_space
from kineme.errors import Problem, SpecError
from kineme.network import data_length, load_skill, load_specs
from kineme.skills import load_schema
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set, value_at
from kineme.spec.overrides import parse_override
from kineme.spec.paths import absolute, portable
from kineme.spec.read import Document, nested, read_document
from kineme.spec.schema import resolved, secrets_of
from kineme.spec.sections import CHECKPOINT_SUFFIXES, Spec

STUDY_FILE = "automl.json"
RESUME_KEY = "train.resume_training_checkpoint_path"
_KEY_FILE = "encryption_key_file"
_SEARCHS_OWN = {  # settings of a training that a search gives its trials itself
    "results_dir", "train.results_dir", "train.resume", "train.stop_epoch", RESUME_KEY,
    "encryption_key", _KEY_FILE, "automl_policy",
}  # fmt: skip
_TOLD = {"train.results_dir", "train.resume", "train.stop_epoch"}  # when the user sets them
_TEST_DATA = "evaluate.test_dataset"
_NESTED = ("algorithm_specific_params",)  # of TAO's older service
_PRETRAINED = ("ptm_if_no_resume_model",)  # skill_info's word for where training starts


@dataclass(frozen=True)
class Plan:
    """A search as asked for, checked.

    base: dotted settings of every trial. start: checkpoint that trainings go on from, or "".
    key: of encrypted checkpoints; key_file: the file it is from. own: the spec's values of what
    is searched.
    """

    network: str
    results_dir: Path
    settings: Settings
    space: Space
    base: Mapping[str, Any]
    spec: Any = field(repr=False)
    start: str = ""
    key: str | None = field(default=None, repr=False)
    key_file: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the search."""
        return self.results_dir / BLOCK

    @property
    def key_setting(self) -> Mapping[str, str]:
        """The setting by which jobs find the key; a pipe is read once, and tells no one else."""
        is_lasting = self.key_file is not None and os.path.isfile(self.key_file)
        return {_KEY_FILE: str(self.key_file)} if is_lasting else {}

    def key_for(self, spec: Mapping[str, Any]) -> str | None:
        """What a runner must hand on to a job of `spec`: nothing where that names a file."""
        return None if _KEY_FILE in spec else self.key

    @property
    def secrets(self) -> tuple[str, ...]:
        return (*secrets_of(self.spec), *([self.key] if self.key else []))

    @property
    def own(self) -> Mapping[str, Any]:
        return {one.key: value_at(self.spec, one.key) for one in self.space.parameters}


def read_plan(
    network: str, spec_path: str | None, words: Sequence[str] = (), *, key: str | None = None
) -> Plan:
    """What a spec file and overrides ask for. key: of the environment. Raises SpecError."""
    model = load_specs(network)["train"]
    document = read_document(spec_path)
    problems: list[Problem] = list(document.problems)
    block, tree = split_document(document.tree)
    own_words, words = _split_words(words, problems)
    spec, settings = None, None
    notes: list[str] = []
    try:
        spec, ignored = load_spec(model, tree, words)
        notes += ignored
    except SpecError as error:
        problems += _placed(error.problems, document)
    try:
        epochs = spec.train.num_epochs if spec else None
        settings, ignored = read_settings(_overridden(block, own_words), num_epochs=epochs)
        notes += ignored
    except SpecError as error:
        problems += error.problems
    if spec is not None and "://" in spec.results_dir:
        fix = "Name a local folder; results of jobs are copied to an address by the job."
        problems.append(Problem("results_dir", "a folder", "an address", fix))
    if problems or spec is None or settings is None:
        raise SpecError.of(problems)
    space, ignored = build_space(
        load_schema(network, "train"), resolved(spec), settings,
        idle=dict(spec.ignored()), data_length=data_length(network, spec),
    )  # fmt: skip
    base, told = _base(network, spec, settings)
    notes += (*ignored, *told, *check(space, settings))
    if settings.metric.startswith("val_") and not any(
        key.startswith("dataset.val_dataset") and value for key, value in base.items()
    ):
        fix = "Name validation data, or set automl.metric=train_loss."
        raise SpecError(f"{BLOCK}.metric", f"validation data for {settings.metric}", "none", fix)
    return Plan(
        network=network,
        results_dir=Path(spec.results_dir).absolute(),
        settings=settings,
        space=space,
        base=base,
        spec=spec,
        start=absolute(start) if (start := value_at(spec, RESUME_KEY)) else "",
        key=spec.encryption_key or key,
        key_file=absolute(spec.encryption_key_file) if spec.encryption_key_file else None,
        notes=tuple(dict.fromkeys(notes)),
    )


def train_spec(
    plan: Plan,
    params: Mapping[str, Any],
    *,
    results_dir: str,
    budget: int,
    resumes: bool = False,
    start: str = "",
) -> dict[str, Any]:
    """The spec of a trial: stops after epoch `budget`, goes on in its folder or from `start`."""
    values = {"train.tensorboard": False, **plan.base, **params, "results_dir": results_dir}
    values |= plan.key_setting
    if budget < plan.settings.num_epochs:
        values["train.stop_epoch"] = budget
    if resumes:
        values["train.resume"] = True
    elif start:
        values[RESUME_KEY] = start
    return nested(values)


def best_spec_text(plan: Plan, params: Mapping[str, Any], head: Sequence[str]) -> str:
    """A spec file for `train -e`: a full training with `params`, comment lines first."""
    values = {**plan.base, **params, "results_dir": str(plan.results_dir)}
    if plan.start:
        values[RESUME_KEY] = plan.start
    if plan.key_file:
        values[_KEY_FILE] = plan.key_file
    text = yaml.safe_dump(nested(values), sort_keys=False, allow_unicode=True, width=100)
    return "".join(f"# {' '.join(line.split())}\n" for line in head) + text


def evaluate_spec(
    plan: Plan, params: Mapping[str, Any], *, results_dir: str, checkpoint: str, data: bool
) -> dict[str, Any] | None:
    """The spec of an evaluation; None where there are no data for it.

    data: whether held-out data are meant; else the validation data.
    """
    told = {k: v for k, v in {**plan.base, **params}.items() if not k.startswith("train.")}
    held_out = test_data(plan)
    if not data:
        told = {k: v for k, v in told.items() if not k.startswith(_TEST_DATA)}
        held_out = _validation_data(plan)
    if not held_out:
        return None
    values = {**told, **held_out, "results_dir": results_dir, "evaluate.checkpoint": checkpoint}
    return nested({**values, **plan.key_setting})


def test_data(plan: Plan) -> dict[str, Any]:
    """The settings that name data held out for the end and their labels, if the user gave any."""
    model = load_specs(plan.network)["evaluate"]
    keys = [k for k in model.mandatory if k not in ("results_dir", "evaluate.checkpoint")]
    if not all(plan.base.get(key) for key in keys):
        return {}
    more = [key for key in plan.base if key.startswith(_TEST_DATA) and plan.base[key]]
    return {key: plan.base[key] for key in dict.fromkeys([*keys, *more])}


def validation_name(plan: Plan) -> str:
    """Where the validation data are, "" if the user names none."""
    return next((str(v) for v in _validation_data(plan).values()), "")


def is_begun(plan: Plan) -> bool:
    """Whether a search is in the folder already."""
    return (plan.folder / STUDY_FILE).exists()


def start_weights(plan: Plan) -> str:
    """The weights that every training starts from, a path, or "" from scratch."""
    if plan.start:
        return plan.start
    params = load_skill(plan.network).spec_params.get("train", {})
    keys = [key for key, name in params.items() if name in _PRETRAINED]
    keys += [key for key in plan.base if key.endswith("pretrained_model_path")]
    paths = [plan.base[key] for key in dict.fromkeys(keys) if plan.base.get(key)]
    is_model = len(paths) == 1 and str(paths[0]).endswith(CHECKPOINT_SUFFIXES)
    return str(paths[0]) if is_model else ""


def _split_words(words: Sequence[str], problems: list[Problem]) -> tuple[dict[str, Any], list[str]]:
    """(settings of the search, the other words)."""
    own: dict[str, Any] = {}
    rest = []
    for word in words:
        if not word.strip().lstrip("+~").startswith((f"{BLOCK}.", f"{BLOCK}=", "automl_settings.")):
            rest.append(word)
            continue
        try:
            override = parse_override(word)
        except ValueError as error:
            expected, received = error.args
            problems.append(Problem("command line", expected, received[:80]))
            continue
        first, _, name = override.key.partition(".")
        if name:
            own[name] = override.value
        elif isinstance(override.value, Mapping):
            own |= override.value
        else:
            example = f"{first}.algorithm=asha"
            problems.append(Problem(f"command line: {first}", example, repr(override.value)[:80]))
    return own, rest


def _overridden(block: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, those left out that the words name, by whichever of their names."""
    said = {_name_of(key) for key in words}

    def left(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: left(value) if isinstance(value, Mapping) and key in _NESTED else value
            for key, value in tree.items()
            if _name_of(key) not in said
        }

    return {**left(block), **words}


def _name_of(key: str) -> str:
    """The name that a setting of a search goes by here."""
    name = key.removeprefix("automl_")
    return OTHER_NAMES.get(key) or OTHER_NAMES.get(name) or name


def _placed(problems: Sequence[Problem], document: Document) -> Iterator[Problem]:
    """Problems of a spec that was read from a file, with its name and line."""
    for problem in problems:
        name, colon, key = problem.where.partition(": ")
        line = document.lines.get(tuple(key.split(".")))
        if name == "spec" and colon:
            place = f"{document.name}:{line}" if line else document.name
            problem = replace(problem, where=f"{place}: {key}")
        yield problem


def _base(network: str, spec: Any, settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """The settings that all trials share, and notes."""
    user = user_set(spec)
    model: type[Spec] = type(spec)
    known = settings_by_key(model)
    base: dict[str, Any] = {}
    for key in known:
        if key in user and key not in _SEARCHS_OWN and not known[key].rule.secret:
            base[key] = portable(known[key], value_at(spec, key))
    changes, notes = scaled_schedule(dict(flat(resolved(spec))), settings.num_epochs)
    base |= changes
    for name in ("validation_interval", "checkpoint_interval"):
        if value_at(spec, f"train.{name}") > settings.num_epochs:
            base[f"train.{name}"] = settings.num_epochs
    ignored = sorted(key for key in _TOLD & user if value_at(spec, key))
    notes += [f"{key} has no effect: a search sets it for each trial." for key in ignored]
    return base, notes


def _validation_data(plan: Plan) -> dict[str, Any]:
    """The validation data, under the keys of an evaluation's data."""
    model = load_specs(plan.network)["evaluate"]
    known = settings_by_key(model)
    found = {}
    for key, value in plan.base.items():
        if key.startswith("dataset.val_dataset") and value:
            other = key.replace("dataset.val_dataset", _TEST_DATA, 1)
            if other in known:
                found[other] = value
    return found
