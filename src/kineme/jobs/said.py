"""What a user says of a job, read once: its settings in today's keys, and what only jobs read.

Promises: nothing is looked for and nothing is changed; what is wrong with the words is kept beside
them, to be told with the rest. The digest is of all that was asked for, secrets left out, and the
same for requests that ask for the same, whatever the state of data and parents.
Leaves out: what is found for a job, and its record (requests.py).
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kineme import concealment
from kineme.errors import Problem, SpecError, shortened
from kineme.jobs import choosing
from kineme.jobs.choosing import EPOCH_KEY, METHOD_KEY, Rule
from kineme.jobs.record import JobRecord
from kineme.network import NETWORKS, load_specs
from kineme.spec.draft import Draft, add_document, add_overrides
from kineme.spec.fields import settings_by_key
from kineme.spec.overrides import parse_overrides
from kineme.spec.read import Document, plain, read_document
from kineme.spec.sections import Spec
from kineme.spec.suggest import did_you_mean

AUTOML_BLOCK = "automl"
POLICIES = ("auto", "on", "off")
_OFF_WORDS = ("turn off automl", "disable automl", "no hpo", "plain training")  # of the texts
_EXTRAS = (AUTOML_BLOCK, METHOD_KEY, EPOCH_KEY)


@dataclass(frozen=True)
class Request:
    """What `create_job` is told. specs: a mapping (nested or dotted) or a file.

    overrides: `key=value` texts or a mapping, which win over specs. results_dir: of another job,
    whose work this one goes on with. details: kept with the record. needs_key: whether what it
    goes on with is encrypted. uploads_to: an address that results are copied to, uploads_root:
    one where they get a folder of their own; a results_dir in the specs wins over both.
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
    uploads_to: str | None = None
    uploads_root: str | None = None

    @property
    def data_sets(self) -> list[str]:
        """train_datasets as a list, whether one was named or several."""
        named: Any = self.train_datasets
        several = [named] if isinstance(named, str | os.PathLike) else named
        return [os.fspath(one) for one in several]


@dataclass(frozen=True)
class Said:
    """A request, read. given: settings by dotted key. automl: of a search.

    document, overrides: what a spec is made of. problems: with the words themselves.
    """

    request: Request
    model: type[Spec]
    document: Document = field(repr=False)
    overrides: Mapping[str, Any] = field(repr=False)
    given: Mapping[str, Any] = field(repr=False)
    automl: Mapping[str, Any]
    policy: str
    rule: Rule
    problems: tuple[Problem, ...] = ()

    @property
    def address(self) -> str | None:
        """The results_dir, where that is one in a store."""
        said = self.given.get("results_dir")
        return said if isinstance(said, str) and "://" in said else None

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those that go into the spec as given: an address is for whoever copies the results."""
        left_out = ("results_dir",) if self.address else ()
        return {key: one for key, one in self.given.items() if key not in left_out}

    @property
    def key(self) -> str | None:
        """Of encrypted checkpoints: the one that was said, or that of the environment."""
        key = self.given.get("encryption_key")
        return concealment.environment_key() if key is None else str(key)

    @property
    def has_key(self) -> bool:
        return self.key is not None or "encryption_key_file" in self.given

    @property
    def digest(self) -> str:
        """Of all that was asked for."""
        request, secret = self.request, _secret_keys(self.model)
        asked = {
            "network_arch": request.network_arch,
            "action": request.action,
            "spec": {key: one for key, one in self.given.items() if key not in secret},
            "automl": self.automl,
            "others": [request.parent_job_id, request.data_sets, request.eval_dataset],
            "rules": [self.policy, self.rule],
        }
        text = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_request(request: Request) -> Said:
    """What `request` says. Raises SpecError where it names no action or a file that is no spec."""
    model = _model(request)
    document = read_document(request.specs)
    parsed, problems = parse_overrides(request.overrides, _secret_keys(model))
    tree, extra = _without_extras(document.tree)
    document = replace(document, tree=tree)
    overrides: dict[str, Any] = {}
    for override in parsed:
        is_extra = override.key.partition(".")[0] in _EXTRAS
        (extra if is_extra else overrides)[override.key] = override.value
    automl = {
        key.partition(".")[2]: value
        for key, value in extra.items()
        if key.startswith(f"{AUTOML_BLOCK}.")
    }
    automl |= plain(dict(request.automl_settings or {}))
    problems += secrets_in(automl)
    draft = Draft(model)  # its problems are those that load_spec finds again
    add_document(draft, document)
    add_overrides(draft, overrides)
    rule = _rule(request, extra, problems)
    policy = _policy(request, draft.values, problems)
    return Said(
        request, model, document, overrides, draft.values, automl, policy, rule, tuple(problems)
    )


def differences(request: Request, record: JobRecord) -> list[str]:
    """What a job does in another way than `request` asks, beside what its digest tells."""
    asked: dict[str, Any] = {"runner": request.runner, "platform": dict(request.platform)}
    if request.upload_excludes is not None:
        asked["upload_excludes"] = tuple(request.upload_excludes)
    return [name for name, one in asked.items() if _json(getattr(record, name)) != _json(one)]


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
    is_off = any(word in text for word in ("off", "no ", "disable"))
    fix = did_you_mean("off" if is_off else text, POLICIES)
    raise SpecError("automl_policy", expected, shortened(value), fix)


def _rule(request: Request, extra: Mapping[str, Any], problems: list[Problem]) -> Rule:
    try:
        asked = request.checkpoint
        method = extra.get(METHOD_KEY) if asked is None else asked
        epoch = extra.get(EPOCH_KEY) if asked is None else None
        return choosing.rule_of(method, epoch)
    except SpecError as error:
        problems += error.problems
        return "best"


def _policy(request: Request, given: Mapping[str, Any], problems: list[Problem]) -> str:
    """That of the call; else, where the call leaves it open, that of the spec."""
    try:
        policy = policy_of(request.automl_policy)
        said = given.get("automl_policy")
        return policy_of(said) if policy == "auto" and said is not None else policy
    except SpecError as error:
        problems += error.problems
        return "off"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=list)


def secrets_in(tree: Mapping[str, Any], where: str = AUTOML_BLOCK) -> Iterator[Problem]:
    """Names in the settings of a search that should not be there."""
    for name, value in tree.items():
        place = f"{where}.{name}"[:80]
        if concealment.is_secret_name(str(name).rpartition(".")[2]):
            fix = "Records are read by others: leave it out."
            yield Problem(place, "nothing secret", "a name of secrets", fix)
        elif isinstance(value, Mapping):
            yield from secrets_in(value, place)


def _secret_keys(model: type[Spec]) -> set[str]:
    """Settings that nobody should see, by their names of today and of older releases."""
    secret = {key for key, one in settings_by_key(model).items() if one.rule.secret}
    return secret | {old for old, new in model.legacy.keys.items() if new in secret}


def _model(request: Request) -> type[Spec]:
    """The spec of the network's action. Raises SpecError."""
    name, action = request.network_arch, request.action
    if name not in NETWORKS:
        fix = did_you_mean(name, NETWORKS)
        raise SpecError("network_arch", _one_of(NETWORKS), shortened(name), fix)
    specs = load_specs(name)
    if action not in specs:
        fix = did_you_mean(action, specs)
        raise SpecError("action", _one_of(specs), shortened(action), fix)
    model: type[Spec] = specs[action]
    return model


def _one_of(names: Mapping[str, Any]) -> str:
    return f"one of {', '.join(names)}"


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
