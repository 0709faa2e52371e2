"""Flow stores for all videos of a data set, computed once by several processes.

    <cache>/flow/ab/abcdef....zip   one store per content of a video and settings of the flow
    <cache>/flow/known.jsonl        sha256 by name and time stamp; stores found whole
    <cache>/flow/locks              held by whoever computes a store

Promises: what is there and whole is not computed again, whatever the video is called now; a video
is hashed once for each version of it; a damaged store is found and computed again; two programs
share the work; kill -9 at any time leaves whole stores and nothing else of a final name.
Leaves out: deleting stores that nobody needs any more. They may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kineme.data.flow.store import FORMAT, FlowSettings, FlowStore, build_store
from kineme.data.frames import content_hash, stamp_of
from kineme.data.workers import run_tasks
from kineme.errors import DataError
from kineme.files import append_line, sweep_temporaries, write_errors_named

__all__ = ["FlowSettings", "build_stores"]

_TASK = "kineme.data.flow.cache:build_one"
_BUSY_SECONDS = 2.0  # that a worker waits for a store another one computes, before it asks again

Progress = Callable[[int, int], None]  # (done, of all)
Note = Callable[[str], None]


def build_stores(
    videos: Sequence[Path],
    cache: Path,
    settings: FlowSettings,
    *,
    num_workers: int,
    progress: Progress | None = None,
    note: Note | None = None,
) -> list[Path | DataError]:
    """The store of each video (a file or a folder of frames), or why it has none.

    num_workers: processes; 0 computes in this one. progress: told after each video. note: told
    with counts, of damaged stores that were made again and of damaged videos.
    Raises SpecError where OpenCV lacks the method, ResourceError where `cache` cannot be written.
    """
    folder = Path(cache) / "flow"
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    known = _Known.read(folder / "known.jsonl")
    found: dict[str, Path | DataError] = {}
    tasks: deque[Mapping[str, Any]] = deque()
    for name in dict.fromkeys(str(Path(video).absolute()) for video in videos):
        try:
            stamp = stamp_of(Path(name))
        except DataError as error:
            found[name] = error
            continue
        except OSError as error:
            found[name] = DataError(name, "a video", os.strerror(error.errno or 0).lower())
            continue
        sha256 = known.sources.get((name, stamp))
        store = None if sha256 is None else folder / store_name(sha256, settings)
        if store is not None and known.is_whole(store):
            found[name] = store
        else:
            tasks.append(_task(name, stamp, sha256, folder, settings))
    rebuilt = _run(tasks, found, known, num_workers, progress or (lambda done, of_all: None))
    if note:
        for line in _notes(found, known, rebuilt):
            note(line)
    return [found[str(Path(video).absolute())] for video in videos]


def store_name(sha256: str, settings: FlowSettings) -> str:
    """The path of a store in the cache's folder: of content and settings, nothing else."""
    text = json.dumps([FORMAT, sha256, settings.facts()], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:40]
    return f"{key[:2]}/{key}.zip"


def build_one(task: Mapping[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
    """In a worker: see to one store. {"state": busy | kept | built | rebuilt, ...}."""
    video, folder = Path(task["name"]), Path(task["folder"])
    settings = FlowSettings(**task["settings"])
    sha256 = task["sha256"] or content_hash(video, beat)
    store = folder / store_name(sha256, settings)
    facts = {"sha256": sha256, "store": str(store), "damage": ""}
    with _locked(folder / "locks", store.stem, wait_seconds=task["wait_seconds"]) as is_ours:
        if not is_ours:
            return {**facts, "state": "busy"}
        state = "built"
        if store.exists():
            try:
                return {**facts, "state": "kept", "damage": _verified(store, beat)}
            except DataError:
                state = "rebuilt"
        with write_errors_named(store):
            store.parent.mkdir(exist_ok=True)
            sweep_temporaries(store.parent)
        facts["damage"] = build_store(video, store, settings, sha256=sha256, beat=beat).damage
    if stamp_of(video) != task["stamp"]:
        store.unlink(missing_ok=True)  # it may be the flow of half of each
        fix = "Wait until whatever writes it has finished, then start again."
        raise DataError(str(video), "no change while it is read", "a file that was written to", fix)
    return {**facts, "state": state}


def _verified(store: Path, beat: Callable[[], None]) -> str:
    opened = FlowStore(store)
    try:
        opened.verify(beat)
        return opened.facts.damage
    finally:
        opened.close()


def _task(
    name: str, stamp: str, sha256: str | None, folder: Path, settings: FlowSettings
) -> dict[str, Any]:
    return {
        "name": name,
        "stamp": stamp,
        "sha256": sha256,
        "folder": str(folder.absolute()),
        "settings": asdict(settings),
        "wait_seconds": 0.0,
    }


def _run(
    tasks: deque[Mapping[str, Any]],
    found: dict[str, Path | DataError],
    known: _Known,
    num_workers: int,
    progress: Progress,
) -> list[str]:
    """Work the tasks off into `found`; those that another program has at hand come last.

    Returns the videos whose store was damaged and made again.
    """
    total = len(found) + len(tasks)
    rebuilt: list[str] = []
    if tasks:
        progress(len(found), total)
    for task, result in run_tasks(_TASK, tasks, num_workers=min(num_workers, len(tasks))):
        name = task["name"]
        if isinstance(result, DataError):
            found[name] = result
        elif result["state"] == "busy":
            tasks.append({**task, "sha256": result["sha256"], "wait_seconds": _BUSY_SECONDS})
            continue
        else:
            found[name] = store = Path(result["store"])
            known.add(name, task["stamp"], result["sha256"], store, result["damage"])
            rebuilt += [name] if result["state"] == "rebuilt" else []
        progress(len(found), total)
    return rebuilt


def _notes(
    found: Mapping[str, Path | DataError], known: _Known, rebuilt: Sequence[str]
) -> Iterator[str]:
    if rebuilt:
        yield f"{len(rebuilt)} damaged flow stores were computed again; first: that of {rebuilt[0]}"
    damaged = [
        f"{name}: {known.damage[store.name]}"
        for name, store in found.items()
        if isinstance(store, Path) and known.damage.get(store.name)
    ]
    if damaged:
        yield f"{len(damaged)} videos are damaged, and so is their flow; first: {damaged[0]}"


@dataclass
class _Known:
    """What earlier runs found out: sha256 by (path, stamp), stamp and damage by store."""

    path: Path
    sources: dict[tuple[str, str], str] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    damage: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Known:
        """All whole lines; half of one, left by a kill, only costs time."""
        known = cls(path)
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return known
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                said = json.loads(line)
                known.sources[said["video"], said["stamp"]] = said["sha256"]
                known.stores[said["store"]] = said["store_stamp"]
                known.damage[said["store"]] = said["damage"]
        return known

    def is_whole(self, store: Path) -> bool:
        """Whether `store` was found whole and nobody has touched it since."""
        try:
            return self.stores.get(store.name) == stamp_of(store)
        except OSError:
            return False

    def add(self, name: str, stamp: str, sha256: str, store: Path, damage: str) -> None:
        """Remember for the next run."""
        try:
            store_stamp = stamp_of(store)
        except OSError:  # deleted since, which is allowed
            return
        self.sources[name, stamp], self.stores[store.name] = sha256, store_stamp
        self.damage[store.name] = damage
        line = {
            "video": name,
            "stamp": stamp,
            "sha256": sha256,
            "store": store.name,
            "store_stamp": store_stamp,
            "damage": damage,
        }
        append_line(self.path, json.dumps(line))


@contextlib.contextmanager
def _locked(path: Path, key: str, *, wait_seconds: float) -> Iterator[bool]:
    """Whether this process now holds `key`. It ends with the block, or with the process.

    One byte of one file for each key, so that nothing is left to clean up. Where a file system
    knows no locks, two programs may do the same work; the store is whole either way.
    """
    deadline = time.monotonic() + wait_seconds
    with write_errors_named(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key[:12], 16))
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
                continue
            except OSError:  # no locks here
                pass
            yield True
            return
    finally:
        os.close(descriptor)
