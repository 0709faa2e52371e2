"""A spec whose data lie in object stores, made one whose data lie here.

Promises: each setting that names data or weights at an `s3://` address, and that the action
reads, is fetched into the cache and set to where it lies; every address that cannot be is
refused before anything is fetched, all of them at once; results stay on this machine.
Leaves out: sending results (spool.py, which jobs use), archives (their readers unpack them).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kineme.data.cache import default_cache
from kineme.data.remote.addresses import Address, is_address, parse
from kineme.data.remote.cache import fetched
from kineme.errors import Problem, SpecError
from kineme.spec.load import addresses_in, refused_addresses, with_values
from kineme.spec.sections import Spec

ACTION_BLOCKS = ("dataset_convert", "train", "evaluate", "inference", "export")
OUTPUTS = ("results_dir", "output_file", "onnx_file")
HERE_ONLY = ("cache_dir", "encryption_key_file", "model_name", "trt_engine", "recipe")
TRAINING_DATA = "dataset."  # evaluation and inference name theirs in blocks of their own

_AnySpec = TypeVar("_AnySpec", bound=Spec)


def localized(
    spec: _AnySpec, *, tell: Callable[[str], None] = lambda text: None
) -> tuple[_AnySpec, tuple[str, ...]]:
    """`spec` with paths of this machine in place of addresses, and notes on what was done.

    tell: told before something is fetched, which may take long.
    Raises SpecError for addresses that are not read, ServiceError and others as `fetched` does.
    """
    found = addresses_in(spec)
    if not found:
        return spec, ()
    problems = list(refused_addresses(spec))
    wanted: dict[str, Address] = {}
    notes = []
    for key, text in found.items():
        if not is_address(text):
            continue
        try:
            address = parse(text, where=key)
        except SpecError as error:
            problems += error.problems
            continue
        problem = _problem(key)
        if problem is not None:
            problems.append(problem)
        elif _is_read(spec, key):
            wanted[key] = address
        else:
            notes.append(f"{key}: not fetched, as {spec.action} does not read it.")
    if problems:
        raise SpecError.of(problems)
    values = {}
    for key, address in wanted.items():
        path = fetched(address, cache=_cache_of(spec), tell=tell)
        values[key] = str(path)
        notes.append(f"{key}: {address} is read from {path}.")
    return (with_values(spec, values) if values else spec), tuple(notes)


def _problem(key: str) -> Problem | None:
    """Why an address cannot be the value of `key`."""
    block, _, name = key.rpartition(".")
    expected, received = "a path on this machine", "an address (s3://...)"
    if name in OUTPUTS:
        fix = "Results are written here; a job sends them to an address afterwards."
        return Problem(key, expected, received, fix)
    if name in HERE_ONLY or block == "wandb":
        return Problem(key, expected, received, "It is not fetched.")
    return None


def _is_read(spec: Spec, key: str) -> bool:
    """Whether the action of `spec` reads what `key` names; it has the blocks of others too."""
    block = key.partition(".")[0]
    if block in ACTION_BLOCKS:
        return block == spec.action or (block == "train" and spec.has_training)
    export = getattr(spec, "export", None)
    is_judged = spec.action == "export" and getattr(export, "precision", "fp32") != "fp32"
    return spec.has_training or is_judged or not key.startswith(TRAINING_DATA)


def _cache_of(spec: Spec) -> Path:
    own = getattr(getattr(spec, "dataset", None), "cache_dir", None)
    return Path(own) if own else default_cache()
