"""Checkpoints: written so that they cannot be lost, read so that they can do no harm.

Promises: a file under its final name is whole; damage is found before anything is used
(every record of the archive carries a checksum); no code of a file is ever run; what does
not fit a model is named. Files of TAO (Lightning) and bare state dicts are read as well.
With a key, whatever holds weights is written encrypted (encryption.py).
Leaves out: what training puts in and takes out (training.py).

Layout of a file of ours: Lightning's keys (epoch, global_step, state_dict with names under
`model.`, optimizer_states, lr_schedulers), and `kineme`, which holds plain values only:
resolved spec, class names, the network's description, metric and versions.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from kineme.engine import encryption, foreign
from kineme.engine.archive import check_whole, damaged
from kineme.engine.encryption import LockedError
from kineme.engine.names import find_checkpoints
from kineme.engine.weights import WeightsReport, fit_weights
from kineme.errors import CheckpointError, Problem, ResourceError, SpecError, listed
from kineme.files import link_or_copy, write_json, write_whole
from kineme.network import Network, load_specs
from kineme.spec.load import load_spec, user_set, value_at, with_values

FORMAT = 1
STATE_PREFIX = "model."
_PREFIXES = ("module.", STATE_PREFIX)  # of DistributedDataParallel, of Lightning
_CLASS_FIELDS = ("dataset.num_classes", "dataset.label_map")
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_IN_NGC = re.compile(r"(ngc:/+)?nvidia/[\w-]+/[\w.-]+(:[\w.-]+)?$")


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read. weights: by the model's own names. facts: the `kineme` block.

    is_encrypted: whether it was opened with a key of ours.
    """

    path: Path
    weights: Mapping[str, torch.Tensor]
    content: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    is_encrypted: bool = False

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; empty if the file does not say."""
        return tuple(str(name) for name in self.facts.get("class_names", ()))


# Writing


def save(path: Path, content: Mapping[str, Any], key: str | None = None) -> None:
    """Write `content` to `path`, all or nothing, encrypted where there is a key.

    Raises ResourceError with the bytes needed.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    needed = buffer.getbuffer().nbytes
    try:
        _write(path, buffer.getbuffer(), key)
    except ResourceError as error:
        problem = error.problems[0]
        raise ResourceError(
            problem.where, f"{problem.expected} ({needed:,} bytes)", problem.received, problem.fix
        ) from error


def save_weights(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    key: str | None = None,
) -> None:
    """Write weights as safetensors that describe themselves, and the description as JSON.

    With a key, the weights are encrypted. The description is not: it says no more than
    experiment.yaml beside it.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, {"kineme": json.dumps(facts)})
    _write(path, data, key)
    write_json(path.with_suffix(".json"), facts)


def _write(path: Path, data: bytes | memoryview, key: str | None) -> None:
    if key is None:
        write_whole(path, lambda file: file.write(data))
    else:
        write_whole(path, lambda file: encryption.write_encrypted(file, data, key))


def point_to(link: Path, target: Path) -> None:
    """Make `link` another name of `target` beside it, atomically; a copy where links fail."""
    link_or_copy(target, link, is_symbolic=True)


def share(path: Path, source: Path) -> None:
    """Give the file `source` a second name that outlives the first, without a second copy."""
    link_or_copy(source, path)


def plain(value: Any) -> Any:
    """`value` in types that every reader takes: no tuples, paths, numpy or own classes."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


# Finding


def load_newest(folder: Path, key: str | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that can be read, and what is wrong with newer ones.

    Raises CheckpointError when there are checkpoints and none can be read, and LockedError
    when it takes another key: a key that is missing is no reason to go back to an older one.
    """
    damaged: list[str] = []
    for path in reversed(find_checkpoints(folder)):
        try:
            return load_checkpoint(path, key), damaged
        except LockedError:
            raise
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(
            str(folder), "a checkpoint that can be read",
            f"{len(damaged)} damaged ones, the newest: {damaged[0]}",
            "Set another results_dir to start over.",
        )  # fmt: skip
    return None, damaged


# Reading


def load_checkpoint(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Read a .pth, .tlt, .pt, .ckpt or .safetensors file of ours, of TAO, or of others.

    key: of files that we encrypted; others do not need one. Raises CheckpointError when it is
    missing, damaged, locked, encrypted by others, or needs code to load.
    """
    path = Path(path)
    if not path.is_file():
        received = "a folder" if path.is_dir() else "no such file"
        fix = "Download it from NGC, and name the file." if _IN_NGC.match(str(path)) else ""
        raise CheckpointError(str(path), "a checkpoint", received, fix or "Check the path.")
    if not os.access(path, os.R_OK):
        raise CheckpointError(str(path), "a checkpoint", "a file that may not be read")
    if not encryption.is_encrypted(path):
        with open(path, "rb") as file:
            return _read(path, file, is_encrypted=False)
    with encryption.open_encrypted(path, key) as file:
        return _read(path, file, is_encrypted=True)


def sha256_of(path: Path) -> str:
    """What tells one checkpoint from another, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_note(checkpoint: Checkpoint, key: str | None) -> str:
    """What to tell a user whose key a checkpoint did not need, else ""."""
    if key is None or checkpoint.is_encrypted:
        return ""
    return f"{checkpoint.path} is not encrypted: it was read without encryption_key."


def _read(path: Path, file: IO[bytes], *, is_encrypted: bool) -> Checkpoint:
    """The checkpoint of which `file` holds the plain bytes."""
    if path.suffix == ".safetensors":
        weights, facts = _safetensors_in(path, file, is_encrypted=is_encrypted)
        return Checkpoint(path, weights, {}, facts, is_encrypted)
    check_whole(path, file)
    content = _unpack(path, file if is_encrypted else path)
    own = content.get("kineme")
    facts = own if isinstance(own, dict) else {}
    return Checkpoint(path, _weights_in(path, content), content, facts, is_encrypted)


def _unpack(path: Path, source: Path | IO[bytes]) -> dict[str, Any]:
    """The dict in `source`, loaded without running anything that it says."""
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a stranger's bytes fail in every possible way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason or "Weights only" in reason:
            return _foreign(path, source)
        raise damaged(path, f"one that cannot be read ({reason})") from error
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "a dict of tensors", f"a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _foreign(path: Path, source: Path | IO[bytes]) -> dict[str, Any]:
    """What can be read of a file that holds more than tensors and plain values."""
    if isinstance(source, Path):
        with open(source, "rb") as file:
            content, left_out = foreign.read_tensors(path, file)
    else:
        content, left_out = foreign.read_tensors(path, source)
    names = ", ".join(name[:60] for name in left_out[:3]) or "other classes"
    more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
    _tell_once(f"{path}: only tensors and plain values are read, not objects of {names}{more}")
    return content


@functools.cache
def _tell_once(text: str) -> None:
    """An action may read a checkpoint several times."""
    warnings.warn(text, stacklevel=1)


def _weights_in(path: Path, content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint, or the checkpoint that is one, by plain names."""
    if content.get("state_dict_encrypted") or isinstance(content.get("state_dict"), bytes):
        raise CheckpointError(
            str(path), "readable weights", "weights that TAO encrypted",
            "kineme does not have the cipher: save the model without encryption_key in TAO.",
        )  # fmt: skip
    state: Any = content
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), dict):
            state = content[wrapper]
            break
    weights = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not weights:
        keys = ", ".join(sorted(content)[:8]) or "none"
        raise CheckpointError(str(path), "model weights", f"a dict without any (keys: {keys})")
    if "kineme" in content:  # a model of ours may itself have names under "model."
        return {name.removeprefix(STATE_PREFIX): tensor for name, tensor in weights.items()}
    return _by_plain_names(path, weights)


def _by_plain_names(path: Path, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A stranger's weights without what DistributedDataParallel and Lightning put before names."""
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in weights)), ""):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    beside = [name for name in weights if not name.startswith(STATE_PREFIX)]
    if len(beside) < len(weights):  # a loss with weights of its own, for example
        _tell_once(f"{path}: tensors beside the model's were left out: {listed(beside)}.")
        for name in beside:
            del weights[name]
        weights = {name.removeprefix(STATE_PREFIX): tensor for name, tensor in weights.items()}
    return weights


def _safetensors_in(
    path: Path, file: IO[bytes], *, is_encrypted: bool
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights and facts; of an encrypted file by way of its bytes, of others mapped."""
    try:
        if is_encrypted:
            data = file.read()
            weights = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header.get("__metadata__")
        else:
            with safetensors.safe_open(path, framework="pt") as tensors:
                weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
                metadata = tensors.metadata()
        facts = json.loads((metadata or {}).get("kineme", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"one that cannot be read ({error})") from error
    facts = facts if isinstance(facts, dict) else {}
    return weights if facts else _by_plain_names(path, weights), facts


# Using


def build_trained(network: Network, spec: Any, checkpoint: Checkpoint) -> nn.Module:
    """The model of `spec` with all weights of `checkpoint`. Raises CheckpointError."""
    model = network.build_model(spec)
    weights = network.adapt_weights(checkpoint.weights, spec, "")
    fit_weights(model, weights, where=str(checkpoint.path))
    return model


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> WeightsReport:
    """Give `module` the checkpoint's weights; they must fit exactly (CheckpointError)."""
    return fit_weights(module, checkpoint.weights, where=str(checkpoint.path))


def restore_spec(
    spec: Any,
    checkpoint: Checkpoint,
    identity: Sequence[str],
    inherited: Sequence[str] = (),
    *,
    is_other: bool = False,
) -> Any:
    """`spec` with the fields of `identity` as the checkpoint was trained with: they are set.

    inherited: fields that follow the checkpoint as well, but for those that the user set.
    is_other: what the user set of `identity` is of another checkpoint, and gives way.
    Raises CheckpointError naming every one that the user set to something else. A file
    that says nothing of itself leaves the spec as it is.
    """
    trained = checkpoint.facts.get("spec")
    if not isinstance(trained, Mapping):
        return spec
    if checkpoint.facts.get("network") != spec.network:
        raise CheckpointError(
            str(checkpoint.path), f"a checkpoint of {spec.network}",
            f"one of {checkpoint.facts.get('network')!r}",
        )  # fmt: skip
    fixed_by_user = user_set(spec)
    restored: dict[str, Any] = {}
    problems: list[Problem] = []
    fixed = [key for key in identity if _lookup(trained, key) is not _NOTHING]
    for key in (*identity, *(key for key in inherited if key not in fixed_by_user)):
        asked, known = plain(value_at(spec, key)), _lookup(trained, key)
        if known is _NOTHING or asked == known:
            continue
        restored[key] = known
        if key in fixed_by_user and not is_other:
            expected = f"{known!r} as in {checkpoint.path.name}"
            fix = "Remove it from the spec, or use another checkpoint."
            if spec.action == "train" and key in _CLASS_FIELDS:
                fix = "To learn other classes from it, make it model.pretrained_model_path instead."
            problems.append(Problem(key, expected, repr(asked), fix))
    if problems:
        raise CheckpointError.of(problems)
    try:
        return with_values(spec, restored, fixed=fixed)
    except SpecError as error:  # the file's values are a stranger's
        first = error.problems[0]
        raise CheckpointError(
            str(checkpoint.path), f"{first.where}: {first.expected}", first.received
        ) from error


def trained_spec(network: Network, checkpoint: Checkpoint) -> Any:
    """The spec that a checkpoint was trained with, as inference sees it.

    Raises CheckpointError where the file says nothing of itself.
    """
    if not checkpoint.facts.get("spec"):
        raise CheckpointError(
            str(checkpoint.path), "a checkpoint that says what it was trained with",
            "weights alone", "Use one that kineme trained (best.pth).",
        )  # fmt: skip
    told = {"results_dir": ".", "inference.checkpoint": str(checkpoint.path)}
    settings = load_specs(network.name)["inference"]
    told |= {key: "-" for key in settings.mandatory if key not in told}
    spec, _ = load_spec(settings, None, told)
    return restore_spec(spec, checkpoint, network.identity, network.inherited)


_NOTHING = object()


def _lookup(tree: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return _NOTHING
        tree = tree[name]
    return tree


def preflight(folder: Path, needed_bytes: int) -> str:
    """What to tell a user whose disk is too full for two checkpoints, else ""."""
    with contextlib.suppress(OSError):
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < 2 * needed_bytes:
            return (
                f"{folder}: {free_bytes:,} bytes free, and one checkpoint needs"
                f" {needed_bytes:,}. Training stops when the disk is full."
            )
    return ""
