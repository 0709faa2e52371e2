"""What clips that dataset_convert wrote say of their flow, held against the spec.

Promises: flow that was made in another way than a model learned from, or than the user says, is
refused; a training whose spec is silent takes what its clips say. Clips that say nothing of
themselves pass.
Leaves out: writing clips (convert/frames.py).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kineme.action_recognition.entries import CLIP_FILE, Entry
from kineme.errors import Problem
from kineme.spec.load import user_set

_MAX_BYTES = 1 << 20


def settings_of_clips(spec: Any, entries: Sequence[Entry]) -> dict[str, Any]:
    """The settings of flow that all clips have in common and the spec does not say, by key."""
    found = [made for _, made in _told(spec, entries)]
    said = user_set(spec)
    return {
        f"dataset.{name}": found[0][name]
        for name in _SETTINGS
        if found
        and f"dataset.{name}" not in said
        and all(made[name] == found[0][name] for made in found)
        and found[0][name] != getattr(spec.dataset, name)
    }


def flow_problems(spec: Any, entries: Sequence[Entry]) -> Iterator[Problem]:
    """Clips whose flow is another one than the spec's, told by the first of them."""
    told = _told(spec, entries)
    for name in _SETTINGS:
        asked = getattr(spec.dataset, name)
        if name == "flow_bound" and spec.dataset.flow_scaling != "fixed":
            continue
        others = [(one, made[name]) for one, made in told if made[name] != asked]
        if others:
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            fix = "Convert the videos again, as the model's were."
            if spec.has_training:
                fix = f"Set dataset.{name} to what all clips were made with, or convert again."
            yield Problem(
                str(others[0][0].path / CLIP_FILE),
                f"flow made with dataset.{name} {asked!r}", f"{others[0][1]!r}{more}", fix,
            )  # fmt: skip


def _told(spec: Any, entries: Sequence[Entry]) -> list[tuple[Entry, Mapping[str, Any]]]:
    """Clips with flow that a model of flow would see, and what they were made with."""
    if "flow" not in spec.model.streams:
        return []
    found = ((entry, None if entry.is_file else _made_from(entry)) for entry in entries)
    return [(entry, made) for entry, made in found if made]


def _made_from(entry: Entry) -> Mapping[str, Any] | None:
    """None where there is no file of ours: TAO's clips have none, and it may be a stranger's."""
    try:
        with open(entry.path / CLIP_FILE, "rb") as file:
            made = json.loads(file.read(_MAX_BYTES))["made_from"]
        is_ours = "flow" in made["streams"] and all(
            is_valid(made[name]) for name, is_valid in _VALID.items()
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return {**made, "flow_short_side": made["short_side"]} if is_ours else None


_VALID: Mapping[str, Callable[[Any], bool]] = {
    "flow_method": lambda value: value in ("dis", "farneback", "tvl1"),
    "flow_scaling": lambda value: value in ("fixed", "per_frame"),
    "flow_bound": lambda value: type(value) in (int, float) and 0 < value < math.inf,
    "short_side": lambda value: type(value) is int and value >= 0,
}
_SETTINGS = ("flow_method", "flow_scaling", "flow_bound", "flow_short_side")
