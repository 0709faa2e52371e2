"""What `--help` prints.

Promises: imports neither torch nor numpy; every example is a command that works as it is printed,
given the files that it names.
Leaves out: help of the commands beside the networks (each has a USAGE of its own).
"""

from typing import Any

from kineme import __version__
from kineme.actions import ACTIONS
from kineme.network import NETWORKS, load_specs

SPEC_USAGE = """\
usage: kineme spec NETWORK ACTION [--json]
       kineme spec [NETWORK] --docs

Prints every setting of an action, as a commented YAML spec or, with --json, as a JSON schema; with
--docs, the reference of all actions of a network, or of all networks, as Markdown."""


def usage() -> str:
    """What there is, with examples."""
    networks = "\n".join(f"  {name:<22}{entry.title}" for name, entry in NETWORKS.items())
    first = "pose_classification"
    return f"""kineme {__version__}: tells what people are doing in video

usage: kineme <network> <action> [-e SPEC] [key=value ...] [options]
       kineme <network> default_specs results_dir=FOLDER
       kineme spec <network> <action> [--json]
       kineme analyze SOURCE [--checkpoint FILE] [--out FOLDER] ...
       kineme automl <network> -e SPEC [key=value ...] [automl.NAME=value ...]
       kineme check DATA [LABELS] [results_dir=FOLDER] [window=FRAMES] [subject_pattern=REGEX]
       kineme jobs create|list|show|logs|wait|cancel|retry|delete ...
       kineme schema generate|check [FOLDER]
       kineme skills [copy FOLDER]
       kineme migrate spec FILE [-o OUT]
       kineme demo

networks
{networks}
actions
  {", ".join(ACTIONS)}
options
  -e, --experiment_spec_file SPEC   settings in YAML, JSON or TOML
  --device auto|cpu|gpu             what to run on
  --resume                          go on with what was cut off (train, inference)
  --max-bad SHARE                   inputs of an inference that may fail: 0.05 or 5%
  --annotate                        also write each video with its label on it (inference)
  --dry-run                         check spec, data, disk and device; write nothing
  --log-json                        errors, notes and the result as JSON lines
  --help, --version

examples
  kineme demo
  kineme spec {first} train > train.yaml
  kineme {first} train -e train.yaml train.num_epochs=30 recipe=modern
  {example(first, "evaluate")}

`kineme {first} train --help` says what an action needs."""


def network_usage(name: str) -> str:
    """The actions of a network, and what each must be told."""
    lines = [f"{name}: {NETWORKS[name].title}", "", f"usage: kineme {name} <action> ...", ""]
    lines += [f"  {action:<18}{_needs(spec)}" for action, spec in load_specs(name).items()]
    lines += [f"  {'default_specs':<18}results_dir=FOLDER: a commented spec of every action"]
    return "\n".join(lines)


def _needs(spec: Any) -> str:
    return "needs " + ", ".join(spec.mandatory)


def action_usage(name: str, action: str) -> str:
    """What an action must be told, and often is."""
    if action == "default_specs":
        return f"usage: kineme {name} default_specs results_dir=FOLDER"
    from kineme.spec.fields import settings

    spec = load_specs(name)[action]
    must = [one for one in settings(spec) if one.key in spec.mandatory]
    tops = ("", action)
    often = [
        one
        for one in settings(spec)
        if one.rule.popular and one not in must and one.key.rpartition(".")[0] in tops
    ]
    lines = [f"usage: kineme {name} {action} [-e SPEC] [key=value ...]", "", "must be set"]
    lines += [f"  {one.key:<38} {one.doc}" for one in must]
    lines += ["often set"] if often else []
    lines += [f"  {f'{one.key}={one.default}':<38} {one.doc}" for one in often]
    lines += ["", f"example: {example(name, action)}"]
    return "\n".join([*lines, f"all settings: kineme spec {name} {action}"])


def example(name: str, action: str) -> str:
    """A command that says what must be said."""
    from kineme.spec.fields import settings_by_key

    spec = load_specs(name)[action]
    declared = settings_by_key(spec)
    words = [f"{key}={declared[key].rule.example}" for key in spec.mandatory]
    return " ".join(["kineme", name, action, *words])
