"""A folder of results sent to an object store while it grows, whether the store is there or not.

Promises: whoever writes the folder never waits for the store. Each file is given a further name
when it is first seen, so that what a training deletes or replaces meanwhile is sent all the same,
and that name goes only after the store has said that it holds the bytes; the files themselves are
not touched. An outage is waited out; a program that is killed goes on where it was, and what it
had sent in parts is dropped first. An object is whole or absent.
Leaves out: names that begin with a dot, links that lead out of the folder, deleting objects of
files that are gone.

A file that was replaced before it was sent is sent in its newest state only; one that grows (a
log) is sent again every AGAIN_SECONDS, and at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType

from kineme.data.remote import s3
from kineme.data.remote.addresses import Address, refusal_of
from kineme.data.remote.journal import FOLDER_NAME, Journal, Version
from kineme.data.remote.patience import UnavailableError, until
from kineme.errors import DataError, KinemeError, ResourceError, printable
from kineme.files import write_errors_named

POLL_SECONDS = 2.0
AGAIN_SECONDS = 30.0
CLOSING_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class Drained:
    """How far it came. pending: names still to be sent. error: what the store said last."""

    num_sent: int
    pending: tuple[str, ...]
    error: KinemeError | None

    @property
    def is_complete(self) -> bool:
        return not self.pending


def is_excluded(name: str, patterns: Sequence[str]) -> bool:
    """Whether a relative path is left out: `folder/` is all below it, others are as in shells.

    A pattern without / is held against the last part too: `*.tmp` means any.
    """
    return any(
        name.startswith(pattern.removeprefix("./"))
        if pattern.endswith("/")
        else fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)
        for pattern in patterns
    )


class Uploader:
    """Sends what appears in `local_folder` to `address`, from threads of its own.

    excludes: as of `is_excluded`. tell: told when an outage begins and ends, and what is left out.
    Use it in a `with`, or call `start` and `close`. Raises ResourceError where another process
    sends the folder, or it cannot be written.
    """

    def __init__(
        self,
        local_folder: Path,
        address: Address,
        *,
        excludes: Sequence[str] = (),
        store: s3.S3Store | None = None,
        poll_seconds: float = POLL_SECONDS,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = Path(local_folder)
        self.address = address.as_folder()
        self.excludes = tuple(excludes)
        self._store = store or s3.S3Store()
        self._poll_seconds = poll_seconds
        self._tell = tell
        own = self.folder / FOLDER_NAME
        with write_errors_named(own):
            own.mkdir(parents=True, exist_ok=True)
            self._descriptor = _locked(own)
            self.journal = Journal.opened(own)
        self.num_sent = 0
        self.error: KinemeError | None = None
        self._told: set[str] = set()
        self._sent_at: dict[str, float] = {}
        self._scanning = threading.Lock()
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self._is_draining = False
        self._num_failures = 0
        self._refused: dict[str, KinemeError] = {}  # by name in the spool
        self._drain_number = 0
        self._threads: tuple[threading.Thread, ...] = ()

    def __enter__(self) -> Uploader:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to look and to send."""
        self._threads = tuple(
            threading.Thread(target=run, daemon=True, name=f"upload {run.__name__.strip('_')}")
            for run in (self._watch, self._send_all)
        )
        for thread in self._threads:
            thread.start()

    def scan(self) -> None:
        """Queue what is new in the folder now."""
        with self._scanning:
            for name, path in self._files():
                self._consider(name, path)
        with self._changed:
            self._changed.notify_all()

    def drain(self, deadline_seconds: float) -> Drained:
        """Look once more and wait until everything is sent, at most so long.

        Returns early where the store refuses (403, no bucket). What is pending then is sent by
        the next `Uploader` of the folder.
        """
        ends = time.monotonic() + deadline_seconds
        with self._changed:
            self._is_draining = True
            self._num_failures = 0  # ends a pause; what the store said last stands until it answers
            self._refused.clear()
            self._drain_number += 1
        self.scan()
        with self._changed:
            while self.journal.pending and not self._is_refused():
                remaining = ends - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(min(remaining, 1.0))
            self._is_draining = False
        pending = tuple(version.name for version in self.journal.waiting())
        error = self.error or next(iter(self._refused.values()), None)
        return Drained(self.num_sent, pending, error if pending else None)

    def close(self) -> None:
        """End the threads; what is not sent stays in the journal."""
        self._is_over.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=CLOSING_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            os.close(self._descriptor)  # else one is at work, and the lock goes with the process

    def _is_refused(self) -> bool:
        """Whether the store was asked for everything that waits, and took nothing."""
        return all(version.spooled in self._refused for version in self.journal.waiting())

    def _watch(self) -> None:
        while not self._is_over.is_set():
            try:
                self.scan()
            except (KinemeError, OSError) as error:  # a full disk; the next look may do better
                self._say_once(f"{self.folder}: not all that is new could be queued ({error})")
            self._is_over.wait(self._poll_seconds)

    def _send_all(self) -> None:
        with until(self._is_over):
            while not self._is_over.is_set():
                waiting = self.journal.waiting()
                if waiting:
                    self._try(waiting)
                    continue
                with self._changed:
                    self._changed.notify_all()
                    self._changed.wait(self._poll_seconds)

    def _try(self, waiting: Sequence[Version]) -> None:
        """Send one of what waits: what was refused comes after what was not."""
        version = min(waiting, key=lambda one: one.spooled in self._refused)
        is_last_hope = version.spooled in self._refused or len(waiting) == 1
        drain_number = self._drain_number
        try:
            self._send(version)
        except DataError as error:  # the file was written to meanwhile, or is gone
            self.journal.drop(version)
            self._say_once(f"{version.name} is not sent as it was: {error}")
        except UnavailableError as error:
            self._wait_after(error)
        except KinemeError as error:
            if drain_number == self._drain_number:  # else it was asked before the drain
                self._refused[version.spooled] = error
            if is_last_hope:
                self._wait_after(error)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            self._wait_after(ResourceError(str(self.folder), "a folder that can be read", reason))

    def _send(self, version: Version) -> None:
        place = self.address.below(version.name)
        for name in sorted(self.journal.begun):
            self._store.abort_parts(self.address.below(name))
            self.journal.end_parts(name)
        if version.size > s3.PART_BYTES:
            self.journal.begin_parts(version.name)
        self._store.upload(self.journal.path_of(version), place, size=version.size)
        with self._changed:
            self.journal.finish(version)
            self.num_sent += 1
            self._sent_at[version.name] = time.monotonic()
            if self.error is not None:
                self._tell("Uploads go on.")
            self.error, self._num_failures = None, 0
            self._changed.notify_all()

    def _wait_after(self, error: KinemeError) -> None:
        """Say once what is wrong, and wait longer each time; a drain does not wait."""
        with self._changed:
            if self.error is None and not self._is_draining:
                self._tell(f"Uploads wait, and nothing else does: {error}")
            self.error = error
            self._num_failures += 1
            pause = min(FIRST_PAUSE_SECONDS * 2**self._num_failures, LONGEST_PAUSE_SECONDS)
            self._changed.notify_all()
            ends = time.monotonic() + pause
            while time.monotonic() < ends and self._num_failures and not self._is_over.is_set():
                self._changed.wait(min(pause, 0.2))
                if self._is_draining:
                    ends = min(ends, time.monotonic() + 0.2)

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Files by name, in order; links only to files inside."""
        root = os.path.realpath(self.folder)
        for folder, names_of_folders, names in os.walk(self.folder):
            names_of_folders[:] = sorted(n for n in names_of_folders if not n.startswith("."))
            for base in sorted(names):
                path = Path(folder) / base
                name = path.relative_to(self.folder).as_posix()
                if base.startswith(".") or is_excluded(name, self.excludes):
                    continue
                real = Path(os.path.realpath(path))
                if not real.is_relative_to(root):
                    self._say_once(f"{name} leads out of {self.folder}: not sent.")
                elif refusal_of(name):
                    self._say_once(f"{name} is not sent: {refusal_of(name)}.")
                elif real.is_file():
                    yield name, real

    def _consider(self, name: str, path: Path) -> None:
        stamp = _stamp(path)
        if stamp is None or self.journal.is_known(name, stamp):
            return
        sent_at = self._sent_at.get(name)
        is_recent = sent_at is not None and time.monotonic() - sent_at < AGAIN_SECONDS
        if self._is_draining or not is_recent:
            with write_errors_named(path):
                self.journal.queue(name, path, stamp)

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(printable(text))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _locked(own: Path) -> int:
    descriptor = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise ResourceError(
            str(own.parent), "a folder that no other process sends", "one that another sends",
            "Wait for it.",
        ) from error  # fmt: skip
    return descriptor
