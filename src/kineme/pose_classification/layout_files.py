"""Reading a skeleton layout of a user's own, and writing one down for a checkpoint.

Promises: a layout file is refused with all its problems at once; what a stranger's file or
checkpoint says is never repeated at length, and never costs more than reading it.
Leaves out: the known layouts (layouts.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from kineme.errors import Problem, SpecError, listed, shortened
from kineme.pose_classification.graph import Layout, walk
from kineme.spec.read import Document, read_document
from kineme.spec.suggest import did_you_mean

MAX_JOINTS = 1000
MAX_NAME_CHARS = 200
MAX_COUNT = 1_000_000
MAX_BONES = 10_000  # names in all chains
_MAX_STRANGE = 20  # names that are told one by one


def layout_facts(layout: Layout) -> dict[str, Any]:
    """The layout in the form that layout files and checkpoints hold."""
    return {
        "name": layout.name,
        "joints": list(layout.joints),
        "bones": [list(bone) for bone in layout.bones],
        "centre": layout.centre,
        "source": layout.source,
        "num_persons": layout.num_persons,
        "num_frames": layout.num_frames,
        "num_axes": layout.num_axes,
    }


def load_layout(source: str | Path) -> Layout:
    """A user's own layout from a YAML file; or from JSON, which starts with `{`.

    All its problems are in one SpecError.
    Keys: name, joints (list of names), bones (list of chains of two or more names, each
    tied to the next), centre; optional: source, num_persons, num_frames, num_axes.
    """
    is_text = str(source).startswith("{")
    where = "model.layout" if is_text else str(source)
    document = _document(source, where, is_text=is_text)
    content = document.tree
    problems = [*document.problems, *_problems_of(content, where)]
    if problems:
        raise SpecError.of(problems)
    return Layout(
        name=content["name"],
        joints=tuple(content["joints"]),
        bones=tuple(pair for chain in content["bones"] for pair in pairwise(chain)),
        centre=content["centre"],
        source=content.get("source", "" if is_text else Path(where).name),  # wherever it lies
        num_persons=content.get("num_persons", 1),
        num_frames=content.get("num_frames", 300),
        num_axes=content.get("num_axes", 3),
    )


def _document(source: str | Path, where: str, *, is_text: bool) -> Document:
    """What the source says, read as specs are."""
    try:
        return read_document(json.loads(str(source)) if is_text else Path(source))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "brackets nested too deeply"
        raise SpecError(where, "a layout in JSON", reason) from error
    except SpecError as error:
        first = error.problems[0]
        what = "" if "spec" in first.expected else f" ({first.expected})"
        expected = f"a readable YAML file with a layout{what}"
        raise SpecError(where if is_text else first.where, expected, first.received) from error


def _problems_of(content: dict[str, Any], where: str) -> list[Problem]:
    """What keeps `content` from being a layout: keys first, graph last.

    The graph is looked at as far as what it is made of is right.
    """
    problems = []
    unknown = [shortened(key) for key in content if key not in _KEYS]
    if unknown:
        problems.append(Problem(where, f"only the keys {', '.join(_KEYS)}", listed(unknown)))
    right: dict[str, Any] = {}
    for key, (kind, is_right) in _KEYS.items():
        if key in content and is_right(content[key]):
            right[key] = content[key]
        elif key in content:
            problems.append(Problem(f"{where}: {key}", kind, shortened(content[key])))
        elif key in ("name", "joints", "bones", "centre"):
            problems.append(Problem(f"{where}: {key}", kind, "nothing", f"Add {key}:."))
    problems += _problems_of_names(
        right.get("joints"), right.get("bones", []), right.get("centre"), where=where
    )
    return problems or _problems_of_graph(**{k: right[k] for k in _GRAPH}, where=where)


def _problems_of_names(
    joints: list[str] | None, chains: list[list[str]], centre: str | None, *, where: str
) -> Iterator[Problem]:
    """Joints twice, bones and a centre that are none; nothing is held against joints unknown."""
    if joints is not None:
        for name, count in Counter(joints).items():
            if count > 1:
                yield Problem(f"{where}: joints", "every name once", f"{name!r} {count} times")
        yield from _unlisted(joints, chains, centre, where=where)
    loops = sorted({a for chain in chains for a, b in pairwise(chain) if a == b})
    if loops:
        received = f"{listed(map(repr, loops))} tied to itself"
        yield Problem(f"{where}: bones", "bones between two joints", received)


def _problems_of_graph(
    joints: list[str], bones: list[list[str]], centre: str, *, where: str
) -> list[Problem]:
    """Joints that the centre is not tied to; all names are known to be right."""
    pairs = [pair for chain in bones for pair in pairwise(chain)]
    edges = [(joints.index(a), joints.index(b)) for a, b in pairs]
    reached = walk(len(joints), edges, joints.index(centre))
    lost = [name for i, name in enumerate(joints) if i not in reached]
    expected = f"bones that tie every joint to the centre {centre!r}"
    received = f"no way to {listed(map(repr, lost))}"
    return [Problem(f"{where}: bones", expected, received)] if lost else []


def _unlisted(
    joints: list[str], chains: list[list[str]], centre: str | None, *, where: str
) -> Iterator[Problem]:
    """Names that are no joints, each once."""
    places: dict[str, str] = {}
    for i, chain in enumerate(chains):
        for name in chain:
            places.setdefault(name, f"bones[{i}]")
    if centre is not None:
        places.setdefault(centre, "centre")
    known = set(joints)
    strange = [name for name in places if name not in known]
    for name in strange[:_MAX_STRANGE]:
        fix = did_you_mean(name, joints, shown=repr)
        yield Problem(f"{where}: {places[name]}", "a name listed in joints", repr(name), fix)
    if len(strange) > _MAX_STRANGE:
        received = f"{len(strange) - _MAX_STRANGE:,} more that are not"
        yield Problem(f"{where}: bones", "names listed in joints", received)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_NAME_CHARS


def _is_texts(value: Any, at_least: int = 1) -> bool:
    is_long_enough = isinstance(value, list) and at_least <= len(value) <= MAX_JOINTS
    return is_long_enough and all(map(_is_text, value))


def _is_chains(value: Any) -> bool:
    is_list = isinstance(value, list) and all(_is_texts(chain, 2) for chain in value)
    return is_list and sum(map(len, value)) <= MAX_BONES


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


_GRAPH = ("joints", "bones", "centre")
_KEYS = {  # of a layout file: what each holds, and the check
    "name": ("a name", _is_text),
    "joints": (f"a list of joint names, at most {MAX_JOINTS:,}", _is_texts),
    "bones": ("a list of chains of two or more joint names", _is_chains),
    "centre": ("the name of a joint", _is_text),
    "source": (f"a text of at most {MAX_NAME_CHARS} characters", _is_text),
    "num_persons": (f"a whole number from 1 to {MAX_COUNT:,}", _is_count),
    "num_frames": (f"a whole number from 1 to {MAX_COUNT:,}", _is_count),
    "num_axes": ("2 or 3", lambda value: value in (2, 3)),
}
