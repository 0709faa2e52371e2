"""What was fetched from object stores, kept by content and shown under its own names.

    <cache>/remote/objects/ab/<sha256>   the bytes of objects, whoever they came from
    <cache>/remote/known/<digest>.json   which bytes a version (place, ETag, size) of an object is
    <cache>/remote/trees/<digest>/...    an object or a folder of them under their names
    <cache>/remote/trees/<digest>.json   what each file of it has to be
    <cache>/remote/locks/                held by whoever fetches

Promises: what is there and right is not fetched again; of several processes one fetches and the
others wait; a file that was damaged since (by size, time or inode, then by sha256) is fetched
again; a name that would leave its folder is refused; kill -9 at any time leaves whole files and
partial ones that are continued. A store is asked each time whether what it has is still the same.
Leaves out: emptying it. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kineme.data.cache import default_cache, temporary_cache
from kineme.data.inputs import InputFile, read_bytes
from kineme.data.remote.addresses import Address, refusal_of
from kineme.data.remote.partial import Facts
from kineme.data.remote.s3 import Entry, S3Store
from kineme.errors import DataError, Problem, ResourceError, ServiceError
from kineme.files import link_or_copy, sweep_temporaries, write_json

NUM_FETCHED_AT_ONCE = 8
MAX_PROBLEMS = 20

_MAX_RECORD_BYTES = 1 << 30
_READ_ONLY = 0o444

Tell = Callable[[str], None]


class _StoppedError(Exception):
    """Another object of the same folder failed."""


def fetched(
    address: Address,
    *,
    store: S3Store | None = None,
    cache: Path | None = None,
    tell: Tell | None = None,
) -> Path:
    """The file with the object at `address`, or the folder with all that lies below it.

    cache: by default KINEME_CACHE or the user's. tell: told before anything is fetched, and when
    something was damaged.
    Raises ServiceError (unreachable, absent, no access), ResourceError (disk), DataError (names).
    """
    store = store or S3Store()
    is_folder, entries = _listed(store, address)
    names = _names(address, entries, is_folder=is_folder)
    shelf = _writable((cache or default_cache()).expanduser().absolute() / "remote")
    tree = _Tree(shelf, store, names, tell or (lambda text: None))
    with _locked(shelf, _digest("place", _place(store, address))):
        folder = tree.made()
    return folder if is_folder else folder / next(iter(names))


def _listed(store: S3Store, address: Address) -> tuple[bool, Sequence[Entry]]:
    """Whether the address means a folder, and the objects."""
    if not address.is_folder and (facts := store.find(address)) is not None:
        return False, [Entry(address, facts.size, facts.etag)]
    entries = store.list(address.as_folder())
    if not entries:
        raise ServiceError(str(address), "an object, or objects below it", "none", "Check the key.")
    return True, entries


def _names(address: Address, entries: Sequence[Entry], *, is_folder: bool) -> dict[str, Entry]:
    """Objects by the path that each will have. Raises DataError naming those that cannot be."""
    start = len(address.as_folder().key) if is_folder else len(address.key) - len(address.name)
    names: dict[str, Entry] = {}
    problems: list[Problem] = []
    folders: set[str] = set()
    for entry in entries:
        name = entry.address.key[start:]
        if not name or (name.endswith("/") and not entry.size):
            continue  # a mark that consoles leave for a folder
        reason = refusal_of(name)
        if reason:
            problems.append(_unfit(entry.address, reason))
        names[name] = entry
        folders.update(name[:i] for i, c in enumerate(name) if c == "/")
    problems += [
        _unfit(names[name].address, "both an object and a folder") for name in folders & set(names)
    ]
    if problems:
        raise DataError.of(problems[:MAX_PROBLEMS])
    if not names:
        raise ServiceError(str(address), "objects below it", "none with any bytes", "Fill it.")
    return names


def _unfit(address: Address, reason: str) -> Problem:
    fix = "Nothing was fetched. Rename the object, or give a folder without it."
    return Problem(str(address), "a key that is a path below its folder", reason, fix)


@dataclass
class _Tree:
    """One set of versions of objects, as a folder. The caller holds its lock."""

    shelf: Path
    store: S3Store
    names: Mapping[str, Entry]
    tell: Tell

    def made(self) -> Path:
        """The folder, made now or earlier, each of its files as it has to be."""
        versions = [(name, e.address.key, e.etag, e.size) for name, e in self.names.items()]
        where = (self.store.access.endpoint_url, next(iter(self.names.values())).address.bucket)
        folder = self.shelf / "trees" / _digest("tree", where, versions)
        record = folder.with_suffix(".json")
        known = _read_record(record)
        states = {name: _state(folder / name, known.get(name)) for name in self.names}
        wrong = [name for name, state in states.items() if state == "wrong"]
        moved = [name for name, state in states.items() if state == "moved"]
        damaged = [name for name in wrong if name in known]
        if damaged:
            first = self.names[damaged[0]].address
            self.tell(f"{len(damaged)} cached files were damaged; first: that of {first}.")
        if wrong or moved:
            for name, sha256 in self._fetch(wrong).items():
                known[name] = self._shown(folder / name, sha256)
            known |= {name: [known[name][0], *_stamp(folder / name)] for name in moved}
            with contextlib.suppress(ResourceError):  # then it is looked at again next time
                write_json(record, known)
        return folder

    def _fetch(self, names: Sequence[str]) -> dict[str, str]:
        """sha256 by name; their bytes are in `objects` then."""
        kept = {name: self._kept(self.names[name]) for name in names}
        missing = [name for name in names if kept[name] is None]
        num_bytes = sum(self.names[name].size for name in missing)
        if missing:
            first = self.names[missing[0]].address
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            self.tell(f"fetching {first}{more} ({num_bytes:,} bytes)")
            _check_space(self.shelf, num_bytes)
            with contextlib.suppress(FileNotFoundError):
                sweep_temporaries(self.shelf / "known")
        brought = self._bring_all(missing)
        return {name: kept[name] or brought[name] for name in names}

    def _bring_all(self, names: Sequence[str]) -> dict[str, str]:
        """sha256 by name, several at a time; where one fails, the others are stopped."""
        is_over = threading.Event()

        def beat() -> None:
            if is_over.is_set():
                raise _StoppedError

        if len(names) < 2:
            return {name: self._bring(self.names[name], beat) for name in names}
        with ThreadPoolExecutor(NUM_FETCHED_AT_ONCE) as pool:
            tasks = {name: pool.submit(self._bring, self.names[name], beat) for name in names}
            try:
                wait(tasks.values(), return_when=FIRST_EXCEPTION)
            finally:
                is_over.set()
                for task in tasks.values():
                    task.cancel()
        failed = [t for t in tasks.values() if t.done() and not t.cancelled() and t.exception()]
        for task in failed:
            if not isinstance(task.exception(), _StoppedError):
                task.result()  # which raises it
        return {name: task.result() for name, task in tasks.items()}

    def _kept(self, entry: Entry) -> str | None:
        """The sha256 of a version that is here, if its bytes still have it."""
        try:
            known = _read_record(self._known_path(entry))
        except DataError:
            return None
        sha256 = str(known.get("sha256", ""))
        path = _object_path(self.shelf, sha256)
        if len(sha256) != 64 or not path.is_file():
            return None
        if _state(path, [sha256, *known.get("stamp", ())]) != "wrong":
            return sha256
        path.unlink(missing_ok=True)
        return None

    def _bring(self, entry: Entry, beat: Callable[[], None]) -> str:
        """Fetch an object, unless another program has done it meanwhile; gives its sha256."""
        name = _digest("object", _place(self.store, entry.address))
        beat()
        with _locked(self.shelf, name[:2]):
            return self._kept(entry) or self._brought(entry, self.shelf / "incoming" / name, beat)

    def _brought(self, entry: Entry, incoming: Path, beat: Callable[[], None]) -> str:
        facts = Facts(entry.size, entry.etag)
        sha256 = self._download(entry.address, incoming, facts, beat)
        if incoming.stat().st_size != entry.size:  # replaced since it was listed
            incoming.unlink()
            raise ServiceError(
                str(entry.address), "no change while it is fetched", "another version",
                "Wait until whatever writes it has finished, then start again.",
            )  # fmt: skip
        path = _object_path(self.shelf, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        incoming.chmod(_READ_ONLY)
        os.replace(incoming, path)
        write_json(self._known_path(entry), {"sha256": sha256, "stamp": _stamp(path)})
        return sha256

    def _download(
        self, address: Address, incoming: Path, facts: Facts, beat: Callable[[], None]
    ) -> str:
        try:
            return self.store.download(address, incoming, facts=facts, beat=beat)
        except ResourceError as error:
            (told,) = error.problems
            fix = "Free space, or set KINEME_CACHE to a folder on a larger disk."
            raise ResourceError(told.where, told.expected, told.received, fix) from error

    def _shown(self, path: Path, sha256: str) -> list[Any]:
        """Make `path` another name of an object; gives what it has to be from now on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(_object_path(self.shelf, sha256), path)
        return [sha256, *_stamp(path)]

    def _known_path(self, entry: Entry) -> Path:
        version = (_place(self.store, entry.address), entry.etag, entry.size)
        return self.shelf / "known" / f"{_digest('version', version)}.json"


def _state(path: Path, expected: Any) -> Literal["right", "moved", "wrong"]:
    """What became of a file that was [sha256, size, mtime_ns, inode]; moved: but its bytes are."""
    if not isinstance(expected, list) or not expected or not path.is_file() or path.is_symlink():
        return "wrong"
    if expected[1:] == _stamp(path):
        return "right"
    try:
        file = InputFile(path)
        try:
            return "moved" if file.sha256() == expected[0] else "wrong"
        finally:
            file.close()
    except DataError:
        return "wrong"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read_record(path: Path) -> dict[str, Any]:
    """What was written earlier; nothing where that is absent or no JSON any more."""
    try:
        value = json.loads(read_bytes(path, max_bytes=_MAX_RECORD_BYTES))
    except (DataError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _check_space(shelf: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(shelf).free
    if num_bytes > free:
        fix = "Free space, or set KINEME_CACHE to a folder on a larger disk."
        raise ResourceError(str(shelf), f"{num_bytes:,} bytes of disk", f"{free:,} free", fix)


def _object_path(shelf: Path, sha256: str) -> Path:
    return shelf / "objects" / sha256[:2] / sha256


def _place(store: S3Store, address: Address) -> tuple[str | None, str]:
    return store.access.endpoint_url, str(address)


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _locked(shelf: Path, name: str) -> Iterator[None]:
    """Hold a lock that ends with the process; a second process waits for the first."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(shelf / "locks" / f"{name}.lock", flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have it open
        os.close(descriptor)


def _writable(shelf: Path) -> Path:
    """`shelf`, or a folder that goes with this process where it cannot be written."""
    try:
        (shelf / "locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _temporary_shelf(str(shelf), os.strerror(error.errno or 0).lower())
    if os.access(shelf / "locks", os.W_OK):
        return shelf
    return _temporary_shelf(str(shelf), "permission denied")


@functools.cache
def _temporary_shelf(shelf: str, reason: str) -> Path:
    warnings.warn(
        f"{shelf} cannot be written ({reason}): objects are fetched to a temporary folder, at "
        "every start. Set KINEME_CACHE.",
        stacklevel=1,
    )
    folder = temporary_cache("remote")
    (folder / "locks").mkdir(exist_ok=True)
    return folder
