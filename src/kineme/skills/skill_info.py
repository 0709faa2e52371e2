"""`references/skill_info.yaml`: how jobs run a network and find what its spec leaves open.

Promises: TAO's keys; what follows from the specs (which inputs may be left out, short keys)
is taken from there; what a network alone knows is in its `skill.py`. What TAO does not have
is marked `x_kineme`.
Leaves out: resolving any of it (jobs).
"""

from collections.abc import Mapping
from typing import Any

import yaml

from kineme.network import DataSource, Skill
from kineme.skills.tao_schema import is_ours
from kineme.spec.fields import blocks, settings_by_key
from kineme.spec.sections import Spec

HEADER = "# Written by `kineme schema generate`; do not edit.\n"
GPU_KEY = "train.num_gpus"

# How a job finds a value: TAO's names, for every network whose spec has the key. A key of a
# block is for the block's own action.
SPEC_PARAMS = {
    "encryption_key": "key",
    "results_dir": "output_dir",
    "dataset_convert.results_dir": "output_dir",
    "train.resume_training_checkpoint_path": "resume_model",
    "evaluate.checkpoint": "parent_model",
    "inference.checkpoint": "parent_model",
    "export.checkpoint": "parent_model",
    "export.onnx_file": "create_onnx_file",
}
# The same in a search: one trial's own folder and weights; checkpoints only at a trial's end.
AUTOML_PARAMS = {
    "output_dir": "automl_output_dir",
    "ptm_if_no_resume_model": "automl_assign_ptm",
    "resume_model": "automl_resume_model",
}
AUTOML_CONSTANTS = {
    "train.checkpoint_interval": "assign_const_value,train.num_epochs",
    "train.validation_interval": "assign_const_value,train.num_epochs",
}
INPUTS = {
    "train.resume_training_checkpoint_path": "file",
    "evaluate.checkpoint": "file",
    "inference.checkpoint": "file",
    "export.checkpoint": "file",
}
OUTPUTS = {"results_dir": "folder", "export.onnx_file": "file"}


def skill_info(specs: Mapping[str, type[Spec]], skill: Skill, folder: str) -> str:
    """The YAML text for a network's specs by action, in the skill folder named `folder`."""
    model = next(iter(specs.values()))
    params = {action: _spec_params(spec, skill) for action, spec in specs.items()}
    info = {
        "name": folder,
        "network_arch": model.network,
        "automl_enabled": True,
        "container_image": None,  # runs wherever the package is installed
        "data_format": "default",
        "gpu_spec_key": GPU_KEY,
        "actions": {action: _action(spec, skill) for action, spec in specs.items()},
        "data_sources": {
            action: {key: _source(source) for key, source in sources.items()}
            for action, sources in skill.sources.items()
        },
        "spec_params": params,
        "automl_spec_params": _automl_params(params["train"]),
        "key_defaults": {},
        "spec_shorthand_keys": dict(model.aliases),
        "spec_templates": {
            action: f"../references/spec_template_{action}.yaml" for action in specs
        },
        "description": skill.description,
        "x_kineme": {"python_package": "kineme"},
    }
    return HEADER + yaml.safe_dump(info, sort_keys=False, width=100)


def _action(spec: type[Spec], skill: Skill) -> dict[str, Any]:
    inputs = {**skill.inputs.get(spec.action, {}), **_of_action(INPUTS, spec)}
    known = settings_by_key(spec)
    return {
        "command": f"{spec.network} {spec.action} -e {{config_path}}",
        "config_format": "yaml",
        "mode": "config",
        "inputs": {
            key: {
                "type": kind,
                **({} if key in spec.mandatory else {"optional": True}),
                **({"x_kineme": True} if known[key].rule.ours else {}),
            }
            for key, kind in inputs.items()
        },
        "outputs": {key: {"type": kind} for key, kind in _of_action(OUTPUTS, spec).items()},
        "upload_excludes": ["inputs/"],
        **({"x_kineme": True} if is_ours(blocks(spec)[spec.action]) else {}),
    }


def _spec_params(spec: type[Spec], skill: Skill) -> dict[str, str]:
    return {**_of_action(SPEC_PARAMS, spec), **skill.spec_params.get(spec.action, {})}


def _automl_params(train_params: Mapping[str, str]) -> dict[str, str]:
    searched = {key: AUTOML_PARAMS.get(name, name) for key, name in train_params.items()}
    return {**searched, **AUTOML_CONSTANTS}


def _of_action(table: Mapping[str, str], spec: type[Spec]) -> dict[str, str]:
    """The entries at the top of the spec, and of the block of its action."""
    return {
        key: value for key, value in table.items() if key.rpartition(".")[0] in ("", spec.action)
    }


def _source(source: DataSource) -> dict[str, Any]:
    told: dict[str, Any] = {"source": source.data}
    if source.paths:
        told["path"] = source.paths[0]
    if source.paths[1:]:
        told["x_kineme_paths"] = list(source.paths)
    return told
