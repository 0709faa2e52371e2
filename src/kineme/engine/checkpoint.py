"""Checkpoints: written so that they cannot be lost, read so that they can do no harm.

Promises: a file under its final name is whole; damage is found before anything is used
(every record of the archive carries a checksum); no code of a file is ever run; what does
not fit a model is named. Files of TAO (Lightning) and bare state dicts are read as well.
Leaves out: what training puts in and takes out (actions/train.py).

Layout of a file of ours: Lightning's keys (epoch, global_step, state_dict with names under
`model.`, optimizer_states, lr_schedulers), and `kineme`, which holds plain values only:
resolved spec, class names, the network's description, metric and versions.
"""

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from kineme.engine import results
from kineme.engine.weights import WeightsReport
from kineme.engine.weights import fit_weights as fit_weights
from kineme.errors import CheckpointError, Problem, ResourceError, SpecError
from kineme.files import write_errors_named, write_json, write_whole
from kineme.spec.load import user_set, value_at, with_values

FORMAT = 1
STATE_PREFIX = "model."
_PREFIXES = ("module.", STATE_PREFIX)  # of DistributedDataParallel, of Lightning
_CLASS_FIELDS = ("dataset.num_classes", "dataset.label_map")
_WRAPPERS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class Checkpoint:
    """A file that was read. weights: by the model's own names. facts: the `kineme` block."""

    path: Path
    weights: Mapping[str, torch.Tensor]
    content: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; empty if the file does not say."""
        return tuple(str(name) for name in self.facts.get("class_names", ()))


# Writing


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`, all or nothing. Raises ResourceError with the bytes needed."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    needed = buffer.getbuffer().nbytes
    try:
        write_whole(path, lambda file: file.write(buffer.getbuffer()))
    except ResourceError as error:
        problem = error.problems[0]
        raise ResourceError(
            problem.where, f"{problem.expected} ({needed:,} bytes)", problem.received, problem.fix
        ) from error


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write weights as safetensors that describe themselves, and the description as JSON."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    data = safetensors.torch.save(tensors, {"kineme": json.dumps(facts)})
    write_whole(path, lambda file: file.write(data))
    write_json(path.with_suffix(".json"), facts)


def point_to(link: Path, target: Path) -> None:
    """Make `link` another name of `target` beside it, atomically; a copy where links fail."""
    temporary = link.parent / f".{link.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with write_errors_named(link):
        try:
            os.symlink(target.name, temporary)
        except OSError:
            shutil.copyfile(target, temporary)
        os.replace(temporary, link)


def share(path: Path, source: Path) -> None:
    """Give the file `source` a second name that outlives the first, without a second copy."""
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    with write_errors_named(path):
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, path)


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


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a training folder, oldest first by step; clocks are not asked."""
    found = []
    for path in folder.glob("model_epoch_*.pth"):
        match = re.fullmatch(results.CHECKPOINT_PATTERN, path.name)
        if match:
            found.append((int(match[2]), int(match[1]), path))
    return [path for _, _, path in sorted(found)]


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that can be read, and what is wrong with newer ones.

    Raises CheckpointError when there are checkpoints and none can be read.
    """
    damaged: list[str] = []
    for path in reversed(find_checkpoints(folder)):
        try:
            return load_checkpoint(path), damaged
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


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a .pth, .tlt, .pt, .ckpt or .safetensors file of ours, of TAO, or of others.

    Raises CheckpointError when it is missing, damaged, encrypted, or needs code to load.
    """
    path = Path(path)
    if not path.is_file():
        received = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(str(path), "a checkpoint", received, "Check the path.")
    if not os.access(path, os.R_OK):
        raise CheckpointError(str(path), "a checkpoint", "a file that may not be read")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    _check_archive(path)
    content = _unpack(path)
    facts = content.get("kineme")
    return Checkpoint(
        path, _weights_in(path, content), content, facts if isinstance(facts, dict) else {}
    )


def _check_archive(path: Path) -> None:
    """Hold every record against its checksum. torch itself does not."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"\x80\x02":  # torch before 1.6: one stream, no checksums
        return
    if start != b"PK":
        received = "an empty file" if not start else f"a file that starts with {start!r}"
        raise _damaged(path, received)
    try:
        with zipfile.ZipFile(path) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                raise _damaged(path, "compressed records, which torch never writes")
            if sum(record.file_size for record in archive.infolist()) > path.stat().st_size:
                raise _damaged(path, "records larger than the file")
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise _damaged(path, f"a truncated or damaged one ({error})") from error
    if broken is not None:
        raise _damaged(path, f"a damaged one (wrong checksum of {broken!r})")


def _unpack(path: Path) -> dict[str, Any]:
    """The dict in the file, loaded without running anything that it says."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes fail in every possible way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason or "Weights only" in reason:
            raise CheckpointError(
                str(path), "tensors and plain values only",
                "a file that asks to run code when it is loaded",
                "It was refused. Save its state_dict alone, from a program you trust.",
            ) from None  # fmt: skip
        raise _damaged(path, f"one that cannot be read ({reason})") from error
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "a dict of tensors", f"a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


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
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in weights)), ""):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _load_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads((file.metadata() or {}).get("kineme", "{}"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"one that cannot be read ({error})") from error
    return Checkpoint(path, weights, {}, facts if isinstance(facts, dict) else {})


def _damaged(path: Path, received: str) -> CheckpointError:
    return CheckpointError(
        str(path), "a whole checkpoint", received, "Use another checkpoint of the same run."
    )


# Using


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> WeightsReport:
    """Give `module` the checkpoint's weights; they must fit exactly (CheckpointError)."""
    return fit_weights(module, checkpoint.weights, where=str(checkpoint.path))


def restore_spec(spec: Any, checkpoint: Checkpoint, identity: Sequence[str]) -> Any:
    """`spec` with the fields of `identity` as the checkpoint was trained with.

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
    for key in identity:
        asked, known = plain(value_at(spec, key)), _lookup(trained, key)
        if known is _NOTHING or asked == known:
            continue
        restored[key] = known
        if key in fixed_by_user:
            expected = f"{known!r} as in {checkpoint.path.name}"
            fix = "Remove it from the spec, or use another checkpoint."
            if spec.action == "train" and key in _CLASS_FIELDS:
                fix = "To learn other classes from it, make it model.pretrained_model_path instead."
            problems.append(Problem(key, expected, repr(asked), fix))
    if problems:
        raise CheckpointError.of(problems)
    try:
        return with_values(spec, restored) if restored else spec
    except SpecError as error:  # the file's values are a stranger's
        first = error.problems[0]
        raise CheckpointError(
            str(checkpoint.path), f"{first.where}: {first.expected}", first.received
        ) from error


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
