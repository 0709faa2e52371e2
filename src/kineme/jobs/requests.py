"""From what a user asks for to the record of a job.

Promises: everything that is wrong with a request is told at once, before anything is on the disk;
the spec holds what the user said and what was found for them, no defaults and no secrets, with
paths that mean the same in every folder. A training becomes a search for good settings unless
`automl_policy` says otherwise and wherever the network can be searched.
Leaves out: starting the job (client.py), finding values (lineage.py, sources.py).
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from kineme import concealment
from kineme.errors import KinemeError, Problem, SpecError, shortened
from kineme.jobs import choosing, lineage, sources
from kineme.jobs.choosing import EPOCH_KEY, METHOD_KEY, Rule
from kineme.jobs.lineage import Asked, Resolution, info_of
from kineme.jobs.record import JobRecord, now
from kineme.jobs.store import RESULTS_FOLDER, SPEC_FILE, JobStore, new_id
from kineme.network import NETWORKS, load_specs
from kineme.skills import load_schema, load_template
from kineme.spec.draft import Draft, add_document, add_overrides
from kineme.spec.fields import Setting, settings_by_key
from kineme.spec.load import addresses_in, load_spec, refused_addresses, user_set, value_at
from kineme.spec.overrides import parse_overrides
from kineme.spec.read import plain, read_document
from kineme.spec.sections import Spec
from kineme.spec.suggest import closest

AUTOML_BLOCK = "automl"
POLICIES = ("auto", "on", "off")
_OFF_WORDS = ("turn off automl", "disable automl", "no hpo", "plain training")  # of the texts
_NOT_RUNNABLE = (
    "AutoML is enabled but not runnable for {network}: its train schema or template is missing; "
    "it is trained directly."
)
_PATH = re.compile(r"(\w+_)?(path|dir|file|weights|checkpoint|data|labels|layout)")
_SECRET = re.compile(r"api_?key|secret|token|password|credential", re.IGNORECASE)
_UNKNOWN_YET = "unknown.pth"  # stands for a value whose absence is told in better words
_MAX_KEY = 256


@dataclass(frozen=True)
class Request:
    """What `create_job` is told. specs: a mapping (nested or dotted) or a file.

    overrides: `key=value` texts or a mapping, which win over specs. results_dir: of another job,
    whose work this one goes on with. details: kept with the record. needs_key: whether what it
    goes on with is encrypted.
    """

    network_arch: str
    action: str
    specs: Mapping[str, Any] | str | os.PathLike[str] | None = None
    overrides: Sequence[str] | Mapping[str, Any] = ()
    parent_job_id: str | None = None
    train_datasets: Sequence[str] = ()
    eval_dataset: str | None = None
    runner: str = "subprocess"
    platform: Mapping[str, Any] = field(default_factory=dict)
    automl_policy: Any = "auto"
    automl_settings: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    upload_excludes: Sequence[str] | None = None
    checkpoint: Any = None
    retry_of: str | None = None
    results_dir: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    needs_key: bool = False


def build(store: JobStore, request: Request, *, uploads_root: str | None = None) -> JobRecord:
    """The record that `request` asks for. Raises SpecError with everything that is wrong."""
    model = _model(request)
    said = _Said(model, request)
    problems = said.problems
    rule = said.rule()
    policy = said.policy()
    _check_key(request.idempotency_key, problems)
    _check_runner(request, problems)
    record, key = said.record(store, policy, uploads_root), said.key()
    if request.needs_key and not said.has_key(key):
        fix = f"Set encryption_key or {concealment.VARIABLE}."
        received = "none: keys are not kept"
        problems.append(Problem("encryption_key", "the key of the first try", received, fix))
    asked = Asked(store, record, said.given, rule, said.has_key(key))
    found = [lineage.resolve(asked), said.sources(found_parent=_named_parent(asked))]
    spec, notes = said.checked(found)
    if problems:
        raise SpecError.of(list(dict.fromkeys(problems)))
    tree = nested(_stored(spec))
    is_search, more = _is_search(request, policy)
    if is_search:
        tree[AUTOML_BLOCK] = dict(said.automl)
    elif said.automl:
        more = (*more, "automl settings have no effect: the job does not search.")
    details = {**request.details, "request": said.digest(policy, rule), "checkpoint": rule}
    details |= {"automl": True} if is_search else {}
    details |= {"has_key": True} if key is not None else {}
    return replace(
        record,
        spec=tree,
        command=_search_command(request) if is_search else (),
        choices=tuple(choice for resolution in found for choice in resolution.choices),
        notes=(*notes, *(note for resolution in found for note in resolution.notes), *more),
        details=details,
    )


def request_digest(request: Request) -> str:
    """The same for requests that ask for the same, whatever the state of data and parents."""
    said = _Said(_model(request), request)
    return said.digest(said.policy(), said.rule())


def key_of(request: Request) -> str | None:
    """The key of encrypted checkpoints that a request names, or the environment."""
    return _Said(_model(request), request).key()


def policy_of(value: Any) -> str:
    """auto, on or off, as `value` means it. Raises SpecError."""
    if isinstance(value, bool):
        return "on" if value else "off"
    text = " ".join(str(value).lower().split()).strip(" .!\"'")
    if text in POLICIES:
        return text
    if text in _OFF_WORDS:
        return "off"
    expected = f"one of {', '.join(POLICIES)}"
    fix = "Did you mean off?" if any(word in text for word in ("off", "no ", "disable")) else ""
    raise SpecError("automl_policy", expected, shortened(value), fix)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as a tree."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        at = tree
        for name in parents:
            at = at.setdefault(name, {})
        at[leaf] = value
    return tree


def is_path(declared: Setting) -> bool:
    """Whether a setting names a file or folder."""
    is_free = str in declared.kinds and not declared.rule.choices and not declared.rule.secret
    return is_free and bool(_PATH.fullmatch(declared.key.rpartition(".")[2]))


class _Said:
    """What the user said, in today's keys, before anything is found for them."""

    def __init__(self, model: type[Spec], request: Request) -> None:
        self.model, self.request = model, request
        document = read_document(request.specs)
        secret = {key for key, one in settings_by_key(model).items() if one.rule.secret}
        parsed, problems = parse_overrides(request.overrides, secret)
        self.problems: list[Problem] = list(problems)
        self.tree, extra = _without_extras(document.tree)
        self.overrides: dict[str, Any] = {}
        for override in parsed:
            is_extra = override.key.partition(".")[0] in _EXTRAS
            (extra if is_extra else self.overrides)[override.key] = override.value
        # a file as it is, so that problems name its lines, unless it says what no spec does
        is_file = isinstance(request.specs, str | os.PathLike)
        self.source: Any = request.specs if is_file and self.tree == document.tree else self.tree
        self.extra = extra
        self.automl: dict[str, Any] = {
            key.partition(".")[2]: value
            for key, value in extra.items()
            if key.startswith(f"{AUTOML_BLOCK}.")
        }
        self.automl |= plain(dict(request.automl_settings or {}))
        self._check_automl()
        draft = Draft(model)  # its problems are those that load_spec finds again
        add_document(draft, read_document(self.source))
        add_overrides(draft, self.overrides)
        self.given: Mapping[str, Any] = draft.values
        self.secret = secret

    def rule(self) -> Rule:
        try:
            asked = self.request.checkpoint
            method = self.extra.get(METHOD_KEY) if asked is None else asked
            epoch = self.extra.get(EPOCH_KEY) if asked is None else None
            return choosing.rule_of(method, epoch)
        except SpecError as error:
            self.problems += error.problems
            return "best"

    def policy(self) -> str:
        """That of the call; else, where the call leaves it open, that of the spec."""
        try:
            policy = policy_of(self.request.automl_policy)
            said = self.given.get("automl_policy")
            return policy_of(said) if policy == "auto" and said is not None else policy
        except SpecError as error:
            self.problems += error.problems
            return "off"

    def has_key(self, key: str | None) -> bool:
        return key is not None or "encryption_key_file" in self.given

    def record(self, store: JobStore, policy: str, uploads_root: str | None) -> JobRecord:
        """The record as far as it follows from what was said."""
        request = self.request
        job_id = new_id(request.idempotency_key)
        folder = request.results_dir or str(store.root / job_id / RESULTS_FOLDER)
        uploads_to = f"{uploads_root.rstrip('/')}/{job_id}" if uploads_root else None
        said = self.given.get("results_dir")
        if isinstance(said, str) and "://" in said:
            uploads_to = said
            self.given = {key: one for key, one in self.given.items() if key != "results_dir"}
        elif isinstance(said, str):
            folder = os.path.abspath(os.path.expanduser(said))
        self._check_address(uploads_to)
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
            train_datasets=tuple(_absolute(text) for text in _texts(request.train_datasets)),
            eval_dataset=None if request.eval_dataset is None else _absolute(request.eval_dataset),
            automl_policy=policy if request.action == "train" else None,
            idempotency_key=request.idempotency_key,
            runner=request.runner,
            platform=dict(request.platform),
            results_dir=folder,
            uploads_to=uploads_to,
            upload_excludes=tuple(excludes),
            details=dict(request.details),
        )

    def key(self) -> str | None:
        key = self.given.get("encryption_key")
        return concealment.environment_key() if key is None else str(key)

    def sources(self, *, found_parent: JobRecord | None) -> Resolution:
        """The keys that name data, of the data sets or of what the parent converted."""
        request = self.request
        named = _texts(request.train_datasets)
        is_converted = found_parent is not None and found_parent.action == "dataset_convert"
        if found_parent and is_converted and request.action == "train" and not named:
            named = [str(choosing.action_folder(found_parent))]
        return sources.resolve_sources(
            request.network_arch, request.action, given=self.given,
            train_datasets=named, eval_dataset=request.eval_dataset,
        )  # fmt: skip

    def checked(self, found: Sequence[Resolution]) -> tuple[Any, tuple[str, ...]]:
        """The spec with what was found; adds to the problems. None where there is none."""
        values: dict[str, Any] = {}
        for resolution in found:
            self.problems += resolution.problems
            values |= dict.fromkeys(resolution.missing, _UNKNOWN_YET)
            values |= resolution.values
        try:
            spec, notes = load_spec(self.model, self.source, {**self.overrides, **values})
        except SpecError as error:
            self.problems += error.problems
            return None, ()
        self.problems += refused_addresses(spec)
        for key, text in addresses_in(spec).items():
            self._check_address(text, key)
        return spec, notes

    def digest(self, policy: str, rule: Rule) -> str:
        """Of all that was asked for, secrets left out."""
        request = self.request
        asked = {
            "network_arch": request.network_arch,
            "action": request.action,
            "spec": {key: one for key, one in self.given.items() if key not in self.secret},
            "automl": self.automl,
            "others": [request.parent_job_id, _texts(request.train_datasets), request.eval_dataset],
            "rules": [policy, rule],
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _check_automl(self) -> None:
        for name in self.automl:
            if _SECRET.search(name):
                where = f"{AUTOML_BLOCK}.{name}"[:80]
                fix = "Records are read by others: leave it out."
                self.problems.append(Problem(where, "nothing secret", "a name of secrets", fix))

    def _check_address(self, text: str | None, where: str = "results_dir") -> None:
        if text is None or "://" not in text:
            return
        from kineme.data.remote.addresses import is_address, parse

        if where != "results_dir" and not is_address(text):
            return  # told by refused_addresses
        try:
            parse(text, where=where)
        except SpecError as error:
            self.problems += error.problems


_EXTRAS = (AUTOML_BLOCK, METHOD_KEY, EPOCH_KEY)


def _named_parent(asked: Asked) -> JobRecord | None:
    """The record of the parent, if there is one."""
    if asked.record.parent_job_id is None:
        return None
    try:
        return asked.store.load(asked.record.parent_job_id)
    except KinemeError:  # told by lineage.resolve
        return None


def _model(request: Request) -> type[Spec]:
    """The spec of the network's action. Raises SpecError."""
    name, action = request.network_arch, request.action
    if name not in NETWORKS:
        raise SpecError("network_arch", _one_of(NETWORKS), shortened(name), _meant(name, NETWORKS))
    specs = load_specs(name)
    if action not in specs:
        raise SpecError("action", _one_of(specs), shortened(action), _meant(action, specs))
    model: type[Spec] = specs[action]
    return model


def _one_of(names: Mapping[str, Any]) -> str:
    return f"one of {', '.join(names)}"


def _meant(word: Any, known: Mapping[str, Any]) -> str:
    name = closest(word, list(known)) if isinstance(word, str) else None
    return f"Did you mean {name}?" if name else ""


def _without_extras(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a spec says, and what only jobs read: the block automl, TAO's keys of checkpoints."""
    rest: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in tree.items():
        if key == AUTOML_BLOCK and isinstance(value, Mapping):
            extra |= {f"{AUTOML_BLOCK}.{name}": one for name, one in value.items()}
        elif key.partition(".")[0] in _EXTRAS and key != AUTOML_BLOCK:
            extra[key] = value
        else:
            rest[key] = value
    return rest, extra


def _check_key(key: str | None, problems: list[Problem]) -> None:
    if key is None:
        return
    if not isinstance(key, str) or not key.strip() or len(key) > _MAX_KEY:
        expected = f"text of 1 to {_MAX_KEY} characters"
        problems.append(Problem("idempotency_key", expected, shortened(key)))


def _check_runner(request: Request, problems: list[Problem]) -> None:
    from kineme.jobs.runners import check_platform

    try:
        check_platform(request.runner, request.platform)
    except SpecError as error:
        problems += error.problems


def _stored(spec: Spec) -> dict[str, Any]:
    """What the user said and what was found, by dotted key, fit to be read in any folder."""
    known = settings_by_key(type(spec))
    values: dict[str, Any] = {}
    for key in sorted(user_set(spec)):
        declared = known[key]
        if declared.rule.secret:
            continue
        value = plain(value_at(spec, key))
        values[key] = _absolute(value) if is_path(declared) and value else value
    return values


def _absolute(text: str) -> str:
    """A path as it is from here; addresses stay."""
    return text if "://" in text or "\0" in text else os.path.abspath(os.path.expanduser(text))


def _texts(named: Any) -> list[str]:
    """Data sets as a list, whether one was named or several."""
    several = [named] if isinstance(named, str | os.PathLike) else named
    return [os.fspath(one) for one in several]


def _is_search(request: Request, policy: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the job searches for settings, and what to tell where it cannot."""
    if request.action != "train" or policy == "off":
        return False, ()
    if request.details.get(lineage.IS_TRIAL) is not None:
        return False, ()
    network = request.network_arch
    if not info_of(network).get("automl_enabled"):
        return False, ((f"AutoML is not enabled for {network}: it is trained directly.",)
                       if policy == "on" else ())  # fmt: skip
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


def _search_command(request: Request) -> tuple[str, ...]:
    return ("automl", request.network_arch, "-e", SPEC_FILE)
