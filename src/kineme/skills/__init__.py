"""What assistants and job runners read of a network: schemas, templates, how jobs run it.

Promises: reading needs neither torch nor numpy. The files lie in one folder per network and
are written by `kineme schema generate` (SKILL.md excepted, which people write); a test
compares them with the spec declarations.
Leaves out: writing them (generate.py), and what jobs make of them.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from kineme.errors import SpecError
from kineme.network import NETWORKS

ROOT = Path(__file__).resolve().parent


def folder_name(network: str) -> str:
    """Of the skill that trains a network: `kineme-train-action-recognition`."""
    return f"kineme-train-{network.replace('_', '-')}"


def folder(network: str) -> Path:
    """The folder of a network's skill. Raises SpecError for a network that is not known."""
    if network not in NETWORKS:
        raise SpecError("network", f"one of {', '.join(sorted(NETWORKS))}", repr(network))
    return ROOT / folder_name(network)


def load_skill_info(network: str) -> dict[str, Any]:
    """How jobs run a network: commands, inputs, data sources, mappings, short keys."""
    path = folder(network) / "references" / "skill_info.yaml"
    return yaml.safe_load(path.read_text("utf-8"))  # type: ignore[no-any-return]


def load_manifest(network: str) -> dict[str, Any]:
    """The actions of a network with their files, AutoML lists and popular settings."""
    return _read_json(folder(network) / "schemas" / "manifest.json")


def load_schema(network: str, action: str) -> dict[str, Any]:
    """The schema of an action in TAO's form. Raises SpecError for an unknown action."""
    return _read_json(_of_action(network, action, "schemas", f"{action}.schema.json"))


def load_template(network: str, action: str) -> dict[str, Any]:
    """The template of an action: its settings as a tree. Raises SpecError as `load_schema`."""
    path = _of_action(network, action, "references", f"spec_template_{action}.yaml")
    return yaml.safe_load(path.read_text("utf-8"))  # type: ignore[no-any-return]


def _of_action(network: str, action: str, *parts: str) -> Path:
    actions = load_manifest(network)["actions"]
    if action not in actions:
        raise SpecError("action", f"one of {', '.join(sorted(actions))}", repr(action))
    return folder(network).joinpath(*parts)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]
