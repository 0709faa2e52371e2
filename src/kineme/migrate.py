"""`kineme migrate spec FILE`: a spec of any TAO release as a short one in today's keys.

Promises: what is written loads as the file itself does; it says only what differs from the
defaults, what must be set, and no secrets; every key that went elsewhere or away is told. A
file that is there stays, unless --overwrite says otherwise.
Leaves out: which older key is which today (spec/legacy.py and the rooms), weights (they load
as they are).
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kineme.errors import EXIT_OK, SpecError, printable
from kineme.files import write_text
from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import MUST_BE_SET, Setting, settings
from kineme.spec.load import Account, account, load_spec, value_at
from kineme.spec.read import read_document, scalar
from kineme.spec.sections import Spec
from kineme.spec.suggest import did_you_mean

USAGE = """\
usage: kineme migrate spec FILE [--network NAME] [--action NAME] [-o OUT] [--overwrite]

Reads a spec of TAO (any release), or its experiment.yaml, and writes it in today's keys to OUT,
or to the terminal; what became of each key is told on stderr.

  --network NAME   action_recognition or pose_classification, where the file does not tell
  --action NAME    train, evaluate, inference, export or dataset_convert, likewise
  -o, --out OUT    the file to write
  --overwrite      replace OUT if it is there
"""
_PLAIN = re.compile(r"[A-Za-z0-9_./][\w./@+-]*")
_SIGNS = {  # blocks, and keys of the top level before 5.0, that only one action has
    "train": {"train", "train_config", "training_config"},
    "evaluate": {"evaluate", "eval_config", "evaluation_config", "test_dataset_dir",
                 "video_eval_mode", "label"},
    "inference": {"inference", "inference_config", "inference_dataset_dir", "video_inf_mode"},
    "export": {"export", "export_config"},
    "dataset_convert": {"dataset_convert", "dataset_convert_config", "pose_type",
                        "sequence_length"},
}  # fmt: skip


@dataclass(frozen=True)
class Migrated:
    """A spec in today's keys, as YAML, and what is to be told of how it came about."""

    network: str
    action: str
    text: str
    remarks: tuple[str, ...]


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises SpecError."""
    if not words or "-h" in words or "--help" in words:
        print(USAGE, end="")
        return EXIT_OK
    asked = _parsed(words)
    target = Path(asked["--out"]) if asked["--out"] else None
    if target and target.exists() and not asked["--overwrite"]:
        fix = "Name another file, or add --overwrite."
        raise SpecError(str(target), "a free path", "a file that exists", fix)
    migrated = migrate_spec(asked["FILE"], network=asked["--network"], action=asked["--action"])
    for remark in migrated.remarks:
        print(printable(remark), file=sys.stderr)
    if target:
        write_text(target, migrated.text)
    else:
        print(migrated.text, end="")
    return EXIT_OK


def migrate_spec(path: str, *, network: str = "", action: str = "") -> Migrated:
    """The spec in `path` in today's keys; what it is for is found out unless it is said.

    Raises SpecError with what cannot be translated, or where the file does not tell enough.
    """
    network, action = _purpose(path, network, action)
    model = load_specs(network)[action]
    said = account(model, path)
    if said.problems:
        raise SpecError.of(said.problems)
    missing = [key for key in model.mandatory if key not in said.values]
    if f"{action}.results_dir" in said.values and "results_dir" in missing:
        missing.remove("results_dir")
    declared = {one.key: one for one in settings(model)}
    examples = {key: declared[key].rule.example for key in missing}
    spec, notes = load_spec(model, path, examples)
    kept, defaults = _worth_saying(spec, said.values, declared)
    tree = _nested({**kept, **dict.fromkeys(missing, MUST_BE_SET)}, declared)
    age = "before 5.0" if said.is_older else "5.0 or later"
    remarks = [
        f"{path}: {network}, TAO {age}, for {action}",
        *_changes(said),
        *(f"left out {key}: it is secret; give it when it is needed" for key in said.values
          if declared[key].rule.secret),
        *([f"left out, as they say the default: {', '.join(defaults)}"] if defaults else []),
        *([f"to be set: {', '.join(missing)}"] if missing else []),
        *(f"note: {note}" for note in notes if not note.startswith(f"{path}: ")),
    ]  # fmt: skip
    return Migrated(network, action, "".join(_lines(tree)), tuple(remarks))


def _parsed(words: Sequence[str]) -> dict[str, str]:
    """The value of each option, and the file under FILE; "" where nothing is said."""
    found = dict.fromkeys(("FILE", "--network", "--action", "--out", "--overwrite"), "")
    if words[0] != "spec":
        raise SpecError("migrate", "spec FILE", " ".join(words)[:80], "kineme migrate --help")
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        name = "--out" if name == "-o" else name
        if name == "--overwrite" and not equals:
            found[name] = "yes"
        elif name in found and name.startswith("--"):
            found[name] = value if equals else next(rest, "")
            if not found[name]:
                raise SpecError(name, "a value after it", "nothing")
        elif word.startswith("-") or found["FILE"]:
            known = [name for name in found if name.startswith("--")]
            fix = did_you_mean(name, known)
            raise SpecError("migrate", "one FILE and known options", repr(word[:80]), fix)
        else:
            found["FILE"] = word
    if not found["FILE"]:
        raise SpecError("migrate spec", "a FILE", "none", "kineme migrate --help")
    return found


# What a file is for


def _purpose(path: str, network: str, action: str) -> tuple[str, str]:
    """Network and action: as asked, or what the file fits best."""
    _check_name("--network", network, list(NETWORKS))
    names = [network] if network else list(NETWORKS)
    actions = sorted({one for name in names for one in load_specs(name)})
    _check_name("--action", action, actions)
    tree = read_document(path).tree
    guess = action or next(iter(_signed(tree)), "train")
    fits = {name: _fit(account(load_specs(name)[guess], tree)) for name in names}
    best = [name for name in names if fits[name] == max(fits.values())]
    if len(best) > 1:
        fix = f"Say which: --network {best[0]}"
        raise SpecError(path, "keys of one network", f"keys that {' and '.join(best)} have", fix)
    found = action or _action_of(path, tree, load_specs(best[0]))
    if not found:
        fix = "Say which: --action evaluate"
        raise SpecError(path, "keys that tell the action", "only what all actions have", fix)
    return best[0], found


def _fit(said: Account) -> tuple[int, int]:
    """How well a file fits a network: few problems first, then many settings."""
    return -len(said.problems), len(said.values)


def _signed(tree: Mapping[str, Any]) -> list[str]:
    """The actions that have something of their own in a file, training first."""
    return [action for action, signs in _SIGNS.items() if signs & set(tree)]


def _action_of(path: str, tree: Mapping[str, Any], specs: Mapping[str, type[Spec]]) -> str:
    """The action that a file is for; "" where it does not tell.

    By its folder, if TAO wrote it there; else by blocks and keys, where those of several are
    there the first that has all it needs.
    """
    file = Path(path)
    if file.name == "experiment.yaml" and file.parent.name in specs:
        return file.parent.name
    signed = _signed(tree)
    likely = signed or list(_SIGNS)
    for action in likely:
        needed = set(specs[action].mandatory) - {"results_dir"}
        if needed <= account(specs[action], tree).values.keys():
            return action
    return likely[0] if len(likely) == 1 or "train" in signed else ""


def _check_name(option: str, name: str, known: Sequence[str]) -> None:
    if name and name not in known:
        expected = f"one of {', '.join(known)}"
        raise SpecError(option, expected, repr(name[:80]), did_you_mean(name, known))


# What is written, and what is told


def _worth_saying(
    spec: Spec, values: Mapping[str, Any], declared: Mapping[str, Setting]
) -> tuple[dict[str, Any], list[str]]:
    """Values that differ from what holds without them, and the keys of those that do not."""
    recipe = spec.recipes.get(str(values.get("recipe")), {})
    kept: dict[str, Any] = {}
    defaults: list[str] = []
    for key, one in declared.items():
        if key not in values or one.rule.secret:
            continue
        value = values[key] if "${" in str(values[key]) else value_at(spec, key)
        if value == recipe.get(key, one.default) and key not in spec.mandatory:
            defaults.append(key)
        else:
            kept[key] = value
    return kept, defaults


def _changes(said: Account) -> Iterator[str]:
    """A line for each block and key that went elsewhere or away."""
    yield from dict.fromkeys(moved.with_block for moved in said.moved if moved.with_block)
    yield from dict.fromkeys(str(m) for m in said.moved if m.change or not m.with_block)
    yield from (f"dropped {key}: {reason}" for key, reason in said.idle.items())
    yield from (f"not in the file, and another default today: {text}" for text in said.changed)


def _nested(values: Mapping[str, Any], declared: Mapping[str, Setting]) -> dict[str, Any]:
    """Dotted keys as blocks, in the order of the spec."""
    tree: dict[str, Any] = {}
    for key in sorted(values, key=list(declared).index):
        *parents, leaf = key.split(".")
        at = tree
        for name in parents:
            at = at.setdefault(name, {})
        at[leaf] = values[key]
    return tree


def _lines(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{indent}{_word(name)}:\n"
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{_word(name)}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str):
        return value if value == MUST_BE_SET else _word(value)
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


def _word(text: str) -> str:
    """Text that YAML of either version reads as this text."""
    if _PLAIN.fullmatch(text) and scalar(text) == text == yaml.safe_load(text):
        return text
    inner = "".join(
        f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text
    )
    return f'"{inner}"'
