"""Opening files that others wrote, so that none of them can block or crash the reader.

Promises: only regular files are opened (a FIFO or device never blocks); reads go through
`pread`, so a file that is cut short while it is read is a DataError and never a bus
error; a file that changes under a reader is noticed by size, time and inode.
Leaves out: what the bytes mean (arrays.py, labels.py, pickles.py, shards.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from kineme.errors import DataError

_READ_BYTES = 1 << 20
_WHILE_READ = "Wait until whatever writes it has finished, then start again."


class Digest(Protocol):
    """A hash that grows."""

    def update(self, data: bytes, /) -> None: ...


class Stamp(NamedTuple):
    """What tells one version of a file from another without reading it."""

    size: int
    mtime_ns: int
    inode: int
    device: int


class InputFile:
    """One regular file, open for reading at any offset, from any thread or process.

    A pickled copy (a spawned worker) opens the path again and insists on the same stamp.
    Raises DataError when the path is missing, a folder, unreadable or no regular file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = _open(self.path)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.stamp = _stamp(os.fstat(self._descriptor))

    def close(self) -> None:
        """Give the descriptor back now; otherwise it goes with the object."""
        self._close()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` (bytes) from `offset`. Raises DataError where the file ends early."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:  # EIO, ESTALE: a failing disk or a lost share
                reason = os.strerror(error.errno or 0)
                raise DataError(str(self.path), "a readable file", reason) from error
            if count == 0:
                raise DataError(
                    str(self.path),
                    f"{offset + len(buffer):,} bytes or more",
                    f"{offset + done:,} bytes: the file ends early",
                    _WHILE_READ,
                )
            done += count

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`."""
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def feed(self, digest: Digest, beat: Callable[[], None] = lambda: None) -> None:
        """Put all of its bytes into a hash. Raises DataError when it changes meanwhile."""
        for offset in range(0, self.stamp.size, _READ_BYTES):
            digest.update(self.read(offset, min(_READ_BYTES, self.stamp.size - offset)))
            beat()
        self.check_unchanged()

    def sha256(self) -> str:
        """Of all of its bytes, in hex. Raises DataError when it changes meanwhile."""
        digest = hashlib.sha256()
        self.feed(digest)
        return digest.hexdigest()

    def check_descriptor(self) -> None:
        """Raise DataError when the open file was written to since it was opened (cheap)."""
        self._compare(_stamp(os.fstat(self._descriptor)))

    def check_unchanged(self) -> None:
        """Raise DataError when the file, or what its path names, has changed."""
        self.check_descriptor()
        try:
            self._compare(_stamp(os.stat(self.path)))
        except OSError as error:
            raise DataError(
                str(self.path), "the file that was opened", _why(self.path, error), _WHILE_READ
            ) from error

    def _compare(self, now: Stamp) -> None:
        if now == self.stamp:
            return
        if now.size != self.stamp.size:
            received = f"{now.size:,} bytes, {self.stamp.size:,} when it was opened"
        else:
            received = "a file that was written to or replaced since"
        raise DataError(str(self.path), "no change while it is read", received, _WHILE_READ)

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.path, self.stamp))


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """The whole file. Raises DataError when it is longer than `max_bytes`."""
    file = InputFile(path)
    try:
        if file.stamp.size > max_bytes:
            raise DataError(str(path), f"at most {max_bytes:,} bytes", f"{file.stamp.size:,} bytes")
        return file.read(0, file.stamp.size)
    finally:
        file.close()


def _reopen(path: Path, stamp: Stamp) -> InputFile:
    file = InputFile(path)
    found, file.stamp = file.stamp, stamp
    file._compare(found)
    return file


def _open(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(str(path), "a file that can be read", _why(path, error)) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DataError(str(path), "a regular file", _kind(mode), "Give the path of a file.")
    return descriptor


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _why(path: Path, error: OSError | ValueError) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return "a path that cannot exist"
    with contextlib.suppress(OSError):
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            return f"a link to {os.readlink(path)!r}, which does not exist"
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return "a socket"
    return os.strerror(error.errno).lower()
