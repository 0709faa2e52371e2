"""What clips that dataset_convert wrote say of their flow, held against the spec.

Promises: flow that was made in another way than a model learned from, or than the user says, is
refused; a training whose spec is silent takes what its clips say. Clips that say nothing of
themselves pass.
Leaves out: writing clips (convert/frames.py).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kineme.action_recognition.entries import CLIP_FILE, Entry
from kineme.errors import Problem
from kineme.spec.load import user_set

_KEYS = ("flow_method", "flow_scaling", "flow_bound")
_MAX_BYTES = 1 << 20


def flow_settings(spec: Any, entries: Sequence[Entry]) -> dict[str, Any]:
    """The settings of flow that all clips have in common and the spec does not say, by key."""
    found = [made for _, made in _told(spec, entries)]
    said = user_set(spec)
    return {
        f"dataset.{name}": found[0][name]
        for name in _KEYS
        if found
        and f"dataset.{name}" not in said
        and name in found[0]
        and all(made.get(name) == found[0][name] for made in found)
        and found[0][name] != getattr(spec.dataset, name)
    }


def flow_problems(spec: Any, entries: Sequence[Entry]) -> Iterator[Problem]:
    """Clips whose flow is another one than the spec's, told by the first of them."""
    for name in _KEYS:
        asked = getattr(spec.dataset, name)
        if name == "flow_bound" and spec.dataset.flow_scaling != "fixed":
            continue
        others = [(one, made[name]) for one, made in _told(spec, entries)
                  if name in made and made[name] != asked]  # fmt: skip
        if others:
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            fix = "Convert the videos again, as the model's were."
            yield Problem(
                str(others[0][0].path / CLIP_FILE),
                f"flow made with dataset.{name} {asked!r}", f"{others[0][1]!r}{more}", fix,
            )  # fmt: skip


def _told(spec: Any, entries: Sequence[Entry]) -> list[tuple[Entry, Mapping[str, Any]]]:
    """Clips with flow that a model of flow would see, and what they were made with."""
    if "flow" not in spec.model.streams:
        return []
    found = []
    for entry in entries:
        made = None if entry.is_file else _made_from(entry)
        if made and "flow" in (made.get("streams") or ()):
            found.append((entry, made))
    return found


def _made_from(entry: Entry) -> Mapping[str, Any] | None:
    try:
        with open(entry.path / CLIP_FILE, "rb") as file:
            made = json.loads(file.read(_MAX_BYTES))["made_from"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # TAO's clips have no such file, and it may be a stranger's
    return made if isinstance(made, Mapping) else None
