"""`kineme schema generate` and `kineme schema check`: the package data from the declarations.

Promises: every file follows from the specs (<network>/spec.py) and the network's `skill.py`
alone; generating twice changes nothing; a check names each file that differs.
Leaves out: SKILL.md, which people write, and everything else in the folders.
"""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kineme.errors import EXIT_OK, Problem, SpecError
from kineme.files import write_text
from kineme.network import NETWORKS, load_network, load_skill, load_specs
from kineme.skills import ROOT, folder_name
from kineme.skills.skill_info import skill_info
from kineme.skills.spec_templates import spec_template
from kineme.skills.tao_schema import SCHEMA_VERSION, tao_schema
from kineme.spec.schema import json_schema

USAGE = "kineme schema generate|check [FOLDER]"
# Pages that layers above this one write about themselves, by import path.
PAGES = {"kineme-run-automl/references/settings.md": "kineme.automl.describing:settings_page"}
EDITOR_SCHEMA = "schemas/spec.json-schema.json"  # one file serves all actions
FROM_CHECKPOINT = frozenset({"evaluate", "inference", "export"})
_GENERATED = ("*/schemas/*.json", "*/references/*.yaml", "*.json")
_RULE = "automl_enabled, and schemas/train.schema.json and references/spec_template_train.yaml"


def main(words: Sequence[str]) -> int:
    """Write or check the files below a folder (default: the package's own)."""
    verb, *folders = words if words else [""]
    if verb not in ("generate", "check") or len(folders) > 1 or words[-1].startswith("-"):
        raise SpecError("schema", USAGE, " ".join(["kineme schema", *words]))
    root = Path(folders[0]) if folders else ROOT
    texts = generated()
    if verb == "generate":
        for name, text in texts.items():
            write_text(root / name, text)
        print(f"{root}: {len(texts)} files written")
    else:
        problems = differences(root, texts)
        if problems:
            raise SpecError.of(problems)
        print(f"{root}: {len(texts)} files as the declarations say")
    return EXIT_OK


def generated() -> dict[str, str]:
    """Every generated file, by its path below the root. Imports torch."""
    texts: dict[str, str] = {}
    manifests = []
    for network in NETWORKS:
        files, manifest = _of_network(network)
        texts |= {f"{folder_name(network)}/{name}": text for name, text in files.items()}
        manifests.append(manifest)
    texts |= {name: _written_by(path) for name, path in PAGES.items()}
    texts["schemas.manifest.json"] = _json(_summary(manifests))
    texts["automl_support.json"] = _json(_automl_support(manifests))
    return texts


def differences(root: Path, texts: Mapping[str, str]) -> list[Problem]:
    """What is not as generated: files that are missing, differ, or are no longer generated."""
    fix = "Run `kineme schema generate`."
    problems = []
    for name, text in texts.items():
        path = root / name
        received = path.read_bytes() if path.is_file() else None
        if received != text.encode():
            what = "no such file" if received is None else "another text"
            problems.append(Problem(str(path), "what the declarations say", what, fix))
    here = {path for pattern in _GENERATED for path in root.glob(pattern)}
    for path in sorted(here - {root / name for name in texts}):
        problems.append(Problem(str(path), "generated files only", "another file", "Remove it."))
    return problems


def _of_network(network: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The files of one skill, by path in its folder, and its manifest."""
    specs, skill, name = load_specs(network), load_skill(network), folder_name(network)
    loaded = load_network(network)
    files = {
        "references/skill_info.yaml": skill_info(specs, skill, name),
        EDITOR_SCHEMA: _json({**json_schema(specs["train"]), "title": f"spec of {network}"}),
    }
    entries = {}
    for action, model in specs.items():
        schema = tao_schema(model, name)
        path, template = f"schemas/{action}.schema.json", f"references/spec_template_{action}.yaml"
        files[path] = _json(schema)
        files[template] = spec_template(
            model,
            values=skill.template_values.get(action, {}),
            told_by_checkpoint=(*loaded.identity, *loaded.inherited)
            if action in FROM_CHECKPOINT
            else (),
            schema=f"../{EDITOR_SCHEMA}",
        )
        entries[action] = {
            "automl_default_parameters": schema["automl_default_parameters"],
            "automl_disabled_parameters": schema["automl_disabled_parameters"],
            "core_module": network,
            "path": path,
            "popular": schema["popular"],
            "schema_action": action,
            "spec_template": template,
        }
    manifest = {
        "actions": entries,
        "automl_enabled": True,
        "failures": {},
        "model": name,
        "network_arch": network,
        "schema_version": SCHEMA_VERSION,
    }
    files["schemas/manifest.json"] = _json(manifest)
    return files, manifest


def _written_by(path: str) -> str:
    module, _, name = path.partition(":")
    return str(getattr(import_module(module), name)())


def _summary(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every skill with its actions."""
    models = {
        manifest["model"]: {
            "actions": sorted(manifest["actions"]),
            "automl_enabled": manifest["automl_enabled"],
            "failures": manifest["failures"],
            "network_arch": manifest["network_arch"],
        }
        for manifest in manifests
    }
    return {"models": models, "schema_version": SCHEMA_VERSION}


def _automl_support(manifests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every skill whose training AutoML can run."""
    supported = [
        {
            "automl_default_parameters": train["automl_default_parameters"],
            "automl_enabled": manifest["automl_enabled"],
            "model": manifest["model"],
            "network_arch": manifest["network_arch"],
            "train_schema": train["path"],
            "train_spec_template": train["spec_template"],
        }
        for manifest in manifests
        for train in [manifest["actions"]["train"]]
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "support_rule": _RULE,
        "supported": supported,
        "unsupported": [],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
