"""From what a user asks for to the record of a job.

Promises: everything that is wrong with a request is told at once, before anything is on the disk;
the spec holds what the user said and what was found for them, no defaults and no secrets, with
paths that mean the same in every folder. A training becomes a search for good settings unless
`automl_policy` says otherwise and wherever the network can be searched.
Leaves out: reading the words (said.py), starting the job (client.py), finding values (lineage.py,
sources.py), what a search may be told (automl).
"""

import functools
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from kineme import concealment
from kineme.errors import KinemeError, Problem, SpecError, shortened
from kineme.jobs import choosing, lineage, sources
from kineme.jobs.lineage import Asked, Resolution, info_of
from kineme.jobs.record import JobRecord, now
from kineme.jobs.said import AUTOML_BLOCK, Said, secrets_in
from kineme.jobs.store import RESULTS_FOLDER, SPEC_FILE, JobStore, new_id
from kineme.skills import load_schema, load_template
from kineme.spec.fields import settings_by_key
from kineme.spec.load import addresses_in, load_spec, refused_addresses, user_set, value_at
from kineme.spec.paths import absolute, portable
from kineme.spec.read import nested, plain
from kineme.spec.sections import Spec

# Import paths of what knows whether the settings of a job's own command are right; it lies above.
CHECKS: Mapping[str, str] = {AUTOML_BLOCK: "kineme.automl.asked:check_asked"}
ACTIONS_ALONE = ("in_process",)  # runners that run the actions of networks and no other command
_NOT_RUNNABLE = (
    "AutoML is enabled but not runnable for {network}: its train schema or template is missing; "
    "it is trained directly."
)
_UNKNOWN_YET = "unknown.pth"  # stands for a value whose absence is told in better words
_MAX_KEY = 256


@dataclass(frozen=True)
class _Checked:
    """A spec with what was found, None where it is wrong; notes, and what is wrong."""

    spec: Any
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def build(store: JobStore, said: Said) -> JobRecord:
    """The record that was asked for. Raises SpecError with everything that is wrong."""
    request = said.request
    record = _record(store, said)
    is_search, notes = _is_search(said)
    problems = [*said.problems, *_key_problems(said), *_runner_problems(said, is_search)]
    problems += _address_problems(record.uploads_to)
    asked = Asked(store, record, said.settings, said.rule, said.has_key)
    found = [lineage.resolve(asked), _sources(said, asked)]
    checked = _checked(said, found)
    problems += checked.problems
    if is_search:
        told = _check(said, checked.spec, problems)
        notes = (*notes, *told)
    elif said.automl:
        notes = (*notes, "automl settings have no effect: the job does not search.")
    if problems:
        raise SpecError.of(list(dict.fromkeys(problems)))
    tree = nested(_stored(checked.spec))
    details = {**request.details, "request": said.digest, "checkpoint": said.rule}
    details |= {"has_key": True} if said.key is not None else {}
    if is_search:
        tree[AUTOML_BLOCK] = dict(said.automl)
        details["automl"] = True
    return replace(
        record,
        spec=tree,
        command=("automl", request.network_arch, "-e", SPEC_FILE) if is_search else (),
        choices=tuple(choice for resolution in found for choice in resolution.choices),
        notes=(*checked.notes, *(note for one in found for note in one.notes), *notes),
        details=details,
    )


def _record(store: JobStore, said: Said) -> JobRecord:
    """The record as far as it follows from what was said."""
    request = said.request
    job_id = new_id(request.idempotency_key)
    folder = request.results_dir or str(store.root / job_id / RESULTS_FOLDER)
    own = said.settings.get("results_dir")
    if isinstance(own, str):
        folder = os.path.abspath(os.path.expanduser(own))
    root = request.uploads_root
    below_root = f"{root.rstrip('/')}/{job_id}" if root else None
    excludes = request.upload_excludes
    if excludes is None:
        info = info_of(request.network_arch)
        excludes = info["actions"][request.action].get("upload_excludes", ())
    return JobRecord(
        id=job_id,
        network_arch=request.network_arch,
        action=request.action,
        created_at=now(),
        parent_job_id=request.parent_job_id,
        retry_of=request.retry_of,
        train_datasets=tuple(map(absolute, request.data_sets)),
        eval_dataset=None if request.eval_dataset is None else absolute(request.eval_dataset),
        automl_policy=said.policy if request.action == "train" else None,
        idempotency_key=request.idempotency_key,
        runner=request.runner,
        platform=dict(request.platform),
        results_dir=folder,
        uploads_to=said.address or request.uploads_to or below_root,
        upload_excludes=tuple(excludes),
        details=dict(request.details),
    )


def _sources(said: Said, asked: Asked) -> Resolution:
    """The keys that name data, of the data sets or of what the parent converted."""
    request, named, parent = said.request, said.request.data_sets, _named_parent(asked)
    action = "train" if asked.has_folds else request.action  # folds read what training reads
    is_converted = parent is not None and parent.action == "dataset_convert"
    if parent and is_converted and action == "train" and not named:
        named = [str(choosing.action_folder(parent))]
    return sources.resolve_sources(
        request.network_arch, action, given=said.settings,
        train_datasets=named, eval_dataset=request.eval_dataset,
    )  # fmt: skip


def _checked(said: Said, found: Sequence[Resolution]) -> _Checked:
    """The spec with what was found."""
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for resolution in found:
        problems += resolution.problems
        values |= dict.fromkeys(resolution.missing, _UNKNOWN_YET)
        values |= resolution.values
    try:
        spec, notes = load_spec(said.model, said.document, {**said.overrides, **values})
    except SpecError as error:
        return _Checked(None, (), (*problems, *error.problems))
    problems += refused_addresses(spec)
    for key, text in addresses_in(spec).items():
        problems += _address_problems(text, key)
    return _Checked(spec, notes, tuple(problems))


def _check(said: Said, spec: Any, problems: list[Problem]) -> Sequence[str]:
    """Have the settings of a search checked by what will read them; notes."""
    if any(secrets_in(said.automl)):  # told already, and nobody may show them
        return ()
    module, name = CHECKS[AUTOML_BLOCK].split(":")
    check: Callable[..., Sequence[str]] = getattr(importlib.import_module(module), name)
    try:
        return check(said.request.network_arch, said.automl, spec)
    except SpecError as error:
        problems += error.problems
        return ()


def _key_problems(said: Said) -> list[Problem]:
    """Of the two keys: of the request, and of what it goes on with."""
    problems = []
    key = said.request.idempotency_key
    is_text = isinstance(key, str) and bool(key.strip()) and len(key) <= _MAX_KEY
    if key is not None and not is_text:
        expected = f"text of 1 to {_MAX_KEY} characters"
        problems.append(Problem("idempotency_key", expected, shortened(key)))
    if said.request.needs_key and not said.has_key:
        fix = f"Set encryption_key or {concealment.VARIABLE}."
        received = "none: keys are not kept"
        problems.append(Problem("encryption_key", "the key of the first try", received, fix))
    return problems


def _runner_problems(said: Said, is_search: bool) -> list[Problem]:
    from kineme.jobs.runners import check_platform

    runner = said.request.runner
    problems: list[Problem] = []
    try:
        check_platform(runner, said.request.platform)
    except SpecError as error:
        problems += error.problems
    if is_search and runner in ACTIONS_ALONE:
        fix = "Set automl_policy=off to train directly, or use the runner subprocess."
        expected = "a runner that can search for settings, as a training does by itself"
        problems.append(Problem("runner", expected, f"{runner}, which runs actions alone", fix))
    return problems


def _address_problems(text: str | None, where: str = "results_dir") -> Sequence[Problem]:
    if text is None or "://" not in text:
        return ()
    from kineme.data.remote.addresses import is_address, parse

    if where != "results_dir" and not is_address(text):
        return ()  # told by refused_addresses
    try:
        parse(text, where=where)
    except SpecError as error:
        return error.problems
    return ()


def _named_parent(asked: Asked) -> JobRecord | None:
    """The record of the parent, if there is one."""
    if asked.record.parent_job_id is None:
        return None
    try:
        return asked.store.load(asked.record.parent_job_id)
    except KinemeError:  # told by lineage.resolve
        return None


def _stored(spec: Spec) -> dict[str, Any]:
    """What the user said and what was found, by dotted key, fit to be read in any folder."""
    known = settings_by_key(type(spec))
    values: dict[str, Any] = {}
    for key in sorted(user_set(spec)):
        declared = known[key]
        if declared.rule.secret:
            continue
        values[key] = portable(declared, plain(value_at(spec, key)))
    return values


def _is_search(said: Said) -> tuple[bool, tuple[str, ...]]:
    """Whether the job searches for settings, and what to tell where it cannot."""
    request = said.request
    if request.action != "train" or said.policy == "off":
        return False, ()
    if request.details.get(lineage.IS_TRIAL) is not None:
        return False, ()
    network = request.network_arch
    if not info_of(network).get("automl_enabled"):
        return False, ((f"AutoML is not enabled for {network}: it is trained directly.",)
                       if said.policy == "on" else ())  # fmt: skip
    if not is_packaged(network):
        return False, (_NOT_RUNNABLE.format(network=network),)
    return True, ()


@functools.cache
def is_packaged(network_arch: str) -> bool:
    """Whether schema and template of the network's training are there, and can be read."""
    try:
        load_schema(network_arch, "train")
        load_template(network_arch, "train")
    except (OSError, ValueError, yaml.YAMLError, SpecError):
        return False
    return True
