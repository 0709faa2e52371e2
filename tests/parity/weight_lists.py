"""State dicts as text: a line per module, which a diff shows and a reader understands.

    "conv1": "weight: 64,C,7,7"
    "bn1": "weight bias running_mean running_var: 64; num_batches_tracked: () int64"

A letter is a number that differs between the variants of an architecture (its row says which);
2V is twice V. Types are float32 where nothing is said. The order is the state dict's.
Leaves out: values.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parents[1] / "goldens" / "weights"
Kind = tuple[tuple[int, ...], str]  # shape and type


@functools.cache
def load_golden(name: str) -> dict[str, Any]:
    """A file of the goldens; nobody may change what is in it."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


def listed(name: str, variant: str) -> dict[str, Kind]:
    """The tensors of a variant of a golden, in order."""
    golden = load_golden(name)
    row = golden["variants"][variant]
    found = read_list(golden["tensors"], row["sizes"])
    return {key: kind for key, kind in found.items() if not _is_under(row.get("without"), key)}


def kinds_of(state: Mapping[str, torch.Tensor]) -> dict[str, Kind]:
    """The shape and type of each tensor, in order."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }


def read_list(lines: Mapping[str, str], letters: Mapping[str, int]) -> dict[str, Kind]:
    """The tensors that `lines` say, where letters are these numbers."""
    found = {}
    for module, line in lines.items():
        for part in line.split("; "):
            names, kind = part.split(": ")
            shape, _, dtype = kind.partition(" ")
            sizes = tuple(_size(text, letters) for text in shape.strip("()").split(",") if text)
            for name in names.split(" "):
                found[f"{module}.{name}" if module else name] = (sizes, dtype or "float32")
    return found


def write_list(
    states: Sequence[Mapping[str, Kind]], letters: Sequence[Mapping[str, int]]
) -> dict[str, str]:
    """The lines of an architecture, from its variants and the letters of each."""
    lines = {}
    modules = groupby(states[0], key=lambda name: name.rpartition(".")[0])
    for module, members in modules:
        written = [
            (name.rpartition(".")[2], _kind([state[name] for state in states], letters))
            for name in members
        ]
        parts = groupby(written, key=lambda pair: pair[1])
        lines[module] = "; ".join(
            f"{' '.join(name for name, _ in same)}: {kind}" for kind, same in parts
        )
    return lines


def _is_under(module: str | None, name: str) -> bool:
    return module is not None and name.startswith(f"{module}.")


def _size(text: str, letters: Mapping[str, int]) -> int:
    found = re.fullmatch(r"(\d*)([A-Z]?)", text)
    if not found or not text:
        raise ValueError(f"no size: {text!r}")
    number, letter = found.groups()
    return int(number or 1) * (letters[letter] if letter else 1)


def _kind(kinds: Sequence[Kind], letters: Sequence[Mapping[str, int]]) -> str:
    shapes, dtypes = zip(*kinds, strict=True)
    sizes = [_written(values, letters) for values in zip(*shapes, strict=True)]
    (dtype,) = set(dtypes)
    return (",".join(sizes) or "()") + (f" {dtype}" if dtype != "float32" else "")


def _written(values: Iterable[int], letters: Sequence[Mapping[str, int]]) -> str:
    """A number, or how many times which letter."""
    sizes: list[Any] = list(values)
    if len(set(sizes)) == 1:
        return str(sizes[0])
    for letter in letters[0]:
        shares = {size / row[letter] for size, row in zip(sizes, letters, strict=True)}
        if len(shares) == 1 and (share := shares.pop()).is_integer():
            return (str(int(share)) if share > 1 else "") + letter
    raise ValueError(f"sizes {sizes} follow from none of {letters}")
