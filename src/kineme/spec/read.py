"""Spec files to plain trees: YAML, JSON and TOML, mappings and dataclasses.

Promises: a tree of dicts, lists, str, int, float, bool and None, with the line of every
key. Nothing in a file runs code or grows: tags, anchors and aliases are refused, size and
depth are capped, only regular files are opened. Duplicate keys are problems.
YAML scalars follow YAML 1.2: only true/false are flags (a label `no` or `on` stays text),
1e-3 is a number, 007 and 1:30 are text. Keys are always text.
Leaves out: what the keys mean (load.py).
"""

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kineme.errors import Problem, SpecError
from kineme.spec.fields import NUMBER

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_INTEGER = re.compile(r"[-+]?(0|[1-9][\d_]*)")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Document:
    """What a source says. `lines` maps the path of a key to its line, where there are lines."""

    name: str
    tree: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


Source = str | os.PathLike[str] | Mapping[str, Any] | BaseModel | Document | None


def read_document(source: Any) -> Document:
    """Read `source` (path, mapping, dataclass, model or None); raises SpecError.

    What was read before stays as it is.
    """
    if isinstance(source, Document):
        return source
    if source is None:
        return Document("command line")
    if isinstance(source, BaseModel):
        source = source.model_dump(exclude_unset=True)
    elif dataclasses.is_dataclass(source) and not isinstance(source, type):
        source = dataclasses.asdict(source)
    if isinstance(source, Mapping):
        return Document("spec", plain(source))
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source))
    raise SpecError("spec", "a path or a mapping", f"{type(source).__name__}")


def scalar(text: str) -> Any:
    """The value of an unquoted word, in YAML files and in overrides alike."""
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        if _INTEGER.fullmatch(word):
            return int(word)
        if NUMBER.fullmatch(word) and any(c in word for c in ".eE"):
            return float(word)
    except ValueError:  # thousands of digits
        return word
    return word


def plain(value: Any, name: str = "spec", depth: int = 0) -> Any:
    """`value` in plain containers, as if it had been read from the file `name`."""
    if depth > MAX_DEPTH:
        raise SpecError(name, f"at most {MAX_DEPTH} levels of nesting", "more")
    if isinstance(value, Mapping):
        return {str(key): plain(item, name, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item, name, depth + 1) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key, as a tree."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        at = tree
        for name in parents:
            at = at.setdefault(name, {})
        at[leaf] = value
    return tree


def _read_file(path: Path) -> Document:
    name = str(path)
    text = _text_of(path)
    try:
        if path.suffix.lower() == ".json":
            return _from_json(text, name)
        if path.suffix.lower() == ".toml":
            return Document(name, plain(tomllib.loads(text), name))
        return _from_yaml(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(where, "YAML", error.problem or "a syntax error") from error
    except json.JSONDecodeError as error:
        raise SpecError(f"{name}:{error.lineno}", "JSON", error.msg) from error
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SpecError(name, "a spec in YAML, JSON or TOML", reason) from error


def _text_of(path: Path) -> str:
    name = str(path)
    try:
        if path.is_dir():
            raise SpecError(name, "a spec file", "a folder", "Name the file in it.")
        if not path.exists():
            raise SpecError(name, "a spec file", "no such file", "Check -e.")
        if not path.is_file():
            raise SpecError(name, "a regular file", "a pipe or device")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SpecError(name, f"a spec of at most {MAX_BYTES:,} bytes", f"{size:,} bytes")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(name, "a readable spec file", reason) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {error.start:,} is not UTF-8"
        raise SpecError(name, "a text file (UTF-8)", where, "Is this a spec?") from error


def _from_json(text: str, name: str) -> Document:
    document = Document(name)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree = dict(pairs)
        for key in {key for key, _ in pairs} if len(tree) < len(pairs) else ():
            count = sum(key == other for other, _ in pairs)
            if count > 1:
                document.problems.append(_duplicate(f"{name}: {key}", f"{count} of them"))
        return tree

    tree = json.loads(text, object_pairs_hook=unique) if text.strip() else {}
    document.tree = plain(_mapping_at_top(tree, name), name)
    return document


def _from_yaml(text: str, name: str) -> Document:
    document = Document(name)
    tree = _YamlTree(document, yaml.parse(text, Loader=yaml.SafeLoader)).build()
    document.tree = _mapping_at_top(tree, name)
    return document


class _YamlTree:
    """Builds a tree from YAML events. Recursive: depth is capped at every step down."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self.document = document
        self.events = events

    def build(self) -> Any:
        tree: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refused(event, "one YAML document", "a second one after ---")
                tree = self._node(next(self.events), ())
        return tree

    def _node(self, event: yaml.Event, path: tuple[str, ...]) -> Any:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._refused(event, "plain values", "a YAML anchor or alias", "Write it out.")
        if getattr(event, "tag", None) not in (None, "!"):
            tag = event.tag  # type: ignore[attr-defined]
            raise self._refused(event, "plain values", f"the YAML tag {tag!r}", "Remove the tag.")
        if len(path) > MAX_DEPTH:
            raise self._refused(event, f"at most {MAX_DEPTH} levels of nesting", "more")
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.style is None else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _sequence(self, path: tuple[str, ...]) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, str(len(items)))))
        return items

    def _mapping(self, path: tuple[str, ...]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refused(event, "a word as key", "a list, a mapping or an alias")
            key, line = event.value, _line(event)
            self._node(event, path)  # refuses tags and anchors on keys
            value = self._node(next(self.events), (*path, key))
            where = (*path, key)
            if key in tree:
                name = f"{self.document.name}:{line}: {'.'.join(where)}"
                received = f"it again, first on line {self.document.lines[where]}"
                self.document.problems.append(_duplicate(name, received))
            else:
                tree[key] = value
                self.document.lines[where] = line
        return tree

    def _refused(self, event: yaml.Event, expected: str, received: str, fix: str = "") -> SpecError:
        return SpecError(f"{self.document.name}:{_line(event)}", expected, received, fix)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _duplicate(where: str, received: str) -> Problem:
    return Problem(where, "each key once", received, "Keep one of them.")


def _mapping_at_top(tree: Any, name: str) -> dict[str, Any]:
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else repr(tree)[:60]
        raise SpecError(name, "a mapping of keys to values", kind, "Is this a spec?")
    return tree
