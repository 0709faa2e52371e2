"""What an upload of a folder has done and has still to do, told by a file that survives kill -9.

    <folder>/.kineme-upload/journal.jsonl   one event a line, on the disk before it is acted on
    <folder>/.kineme-upload/spool/          further names (or copies) of what is to be sent
    <folder>/.kineme-upload/lock            held by whoever sends

Promises: what was queued is sent or still queued, whatever happens to the process or to the file
of that name; half a line, left by a kill, costs nothing but the step that it was about. It grows
with the number of files, not with how often they change.
Leaves out: finding files and sending them (spool.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineme.errors import KinemeError
from kineme.files import append_line, copy_atomically, sync, write_text

FOLDER_NAME = ".kineme-upload"
MAX_LINES = 1000  # beyond what its state needs, before it is rewritten

Stamp = tuple[int, int, int]  # size, mtime_ns, inode


@dataclass(frozen=True)
class Version:
    """One state of a file. name: relative to the folder. spooled: its name in the spool."""

    name: str
    stamp: Stamp
    spooled: str

    @property
    def size(self) -> int:
        return self.stamp[0]


@dataclass
class Journal:
    """The state after all events. Threads of one process may share it.

    pending: what is to be sent, in order. sent: the stamp of what was. begun: names whose upload
    in parts began and is not known to have ended.
    """

    folder: Path  # FOLDER_NAME below the folder that is sent
    pending: dict[str, Version] = field(default_factory=dict)
    sent: dict[str, Stamp] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    _next_number: int = 0
    _num_lines: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def opened(cls, folder: Path) -> Journal:
        """The journal in `folder`, rewritten as its state; what nobody needs is swept away."""
        (folder / "spool").mkdir(parents=True, exist_ok=True)
        journal = cls(folder)
        for event in _events(folder / "journal.jsonl"):
            journal._apply(event)
        journal._rewrite()
        needed = {version.spooled for version in journal.pending.values()}
        for entry in list((folder / "spool").iterdir()):
            if entry.name not in needed:
                entry.unlink(missing_ok=True)
        return journal

    def path_of(self, version: Version) -> Path:
        """Where the bytes of a version are kept until they are sent."""
        return self.folder / "spool" / version.spooled

    def queue(self, name: str, source: Path, stamp: Stamp) -> None:
        """Keep `source` as it is now under a further name, and have it sent as `name`.

        An earlier version of `name` that was not sent is sent no more.
        """
        with self._lock:
            spooled = f"{self._next_number:08d}"
            before = self.pending.get(name)
            self._tell({"event": "queued", "name": name, "stamp": stamp, "spooled": spooled})
            version = self.pending[name]
            try:
                os.link(source, self.path_of(version))
            except FileNotFoundError:  # gone meanwhile: there is nothing to send
                self.drop(version)
            except OSError:  # of many kinds: each file system without links has its own
                copy_atomically(source, self.path_of(version))
            if before is not None:
                self.path_of(before).unlink(missing_ok=True)

    def begin_parts(self, name: str) -> None:
        """Say that an upload in parts will begin."""
        with self._lock:
            self._tell({"event": "begun", "name": name})

    def end_parts(self, name: str) -> None:
        """Say that no parts of it are left."""
        with self._lock:
            self._tell({"event": "ended", "name": name})

    def finish(self, version: Version) -> None:
        """Say that the store holds this version; its name in the spool goes."""
        with self._lock:
            facts = {"name": version.name, "stamp": version.stamp, "spooled": version.spooled}
            self._tell({"event": "sent", **facts})
            self.path_of(version).unlink(missing_ok=True)

    def drop(self, version: Version) -> None:
        """Forget a version that cannot be sent."""
        with self._lock:
            self._tell({"event": "dropped", "name": version.name, "spooled": version.spooled})
            self.path_of(version).unlink(missing_ok=True)

    def waiting(self) -> tuple[Version, ...]:
        """What is to be sent, oldest first."""
        with self._lock:
            return tuple(self.pending.values())

    def is_known(self, name: str, stamp: Stamp) -> bool:
        """Whether this state of the file was queued or sent."""
        with self._lock:
            queued = self.pending.get(name)
            return stamp == (queued.stamp if queued else self.sent.get(name))

    def _tell(self, event: dict[str, Any]) -> None:
        path = self.folder / "journal.jsonl"
        append_line(path, json.dumps(event))
        sync(path)
        self._apply(event)
        self._num_lines += 1
        if self._num_lines > MAX_LINES + 4 * (len(self.sent) + len(self.pending)):
            with contextlib.suppress(KinemeError, OSError):  # a full disk: it is whole, and longer
                self._rewrite()

    def _apply(self, event: dict[str, Any]) -> None:
        kind, name = event["event"], event["name"]
        if kind == "queued":
            stamp, spooled = _stamp(event["stamp"]), str(event["spooled"])
            self.pending.pop(name, None)  # so that it waits at the end
            self.pending[name] = Version(name, stamp, spooled)
            self._next_number = max(self._next_number, int(spooled) + 1)
        elif kind == "begun":
            self.begun.add(name)
        elif kind == "ended":
            self.begun.discard(name)
        elif kind in ("sent", "dropped"):
            if kind == "sent":
                self.sent[name] = _stamp(event["stamp"])
                self.begun.discard(name)
            queued = self.pending.get(name)
            if queued is not None and queued.spooled == event["spooled"]:
                del self.pending[name]

    def _rewrite(self) -> None:
        """The shortest journal with this state."""
        lines = [
            {"event": "sent", "name": name, "stamp": stamp, "spooled": ""}
            for name, stamp in self.sent.items()
        ]
        lines += [
            {"event": "queued", "name": v.name, "stamp": v.stamp, "spooled": v.spooled}
            for v in self.pending.values()
        ]
        lines += [{"event": "begun", "name": name} for name in sorted(self.begun)]
        write_text(self.folder / "journal.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
        self._num_lines = len(lines)


def _stamp(value: Any) -> Stamp:
    size, mtime_ns, inode = map(int, value)
    return size, mtime_ns, inode


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The whole events of a journal, in order."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"event", "name"} <= event.keys():
                yield event
