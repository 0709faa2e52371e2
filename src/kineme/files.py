"""Writing files so that a full disk, kill -9 or a signal never harms what was there.

Promises: a file with a final name is complete or absent. Bytes go to a sibling
temporary file (same filesystem), are fsynced, then renamed over the target.
Leaves out: reading, and names of result files (engine/names.py).
"""

import contextlib
import csv
import errno
import functools
import io
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kineme.errors import ResourceError

_TEMPORARY = re.compile(r"\..+\.tmp-(?:(?P<machine>[0-9a-f]{8})-)?(?P<pid>\d+)-[0-9a-f]{8}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (NotADirectoryError, FileExistsError, IsADirectoryError)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE)
_PASSING = (errno.EIO, errno.ESTALE, errno.EDQUOT)  # may be over in a moment
_COPIED_BYTES = 1 << 20  # at a time
_PAUSES_SECONDS = (0.05, 0.2, 0.8)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a binary file that becomes `path` when the block ends without an exception.

    Raises ResourceError when the disk is full or the folder cannot be written; then
    an existing file at `path` is as it was and no temporary file is left.
    """
    target = Path(path)
    temporary = temporary_beside(target)
    with write_errors_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_whole(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """`atomic_write` of what `write` writes, all of it again up to 3 times on a passing fault.

    Passing are EIO, ESTALE and EDQUOT, as network disks have them. Nothing less will do than
    writing everything again: after a failed fsync, the next one may succeed without it.
    """
    for pause in (*_PAUSES_SECONDS, None):
        try:
            with atomic_write(path) as file:
                write(file)
            return
        except ResourceError as error:
            cause = error.__cause__
            if pause is None or not isinstance(cause, OSError) or cause.errno not in _PASSING:
                raise
            time.sleep(pause)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8, all or nothing."""
    data = text.encode("utf-8")
    write_whole(path, lambda file: file.write(data))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as strict, indented JSON (NaN and infinities are refused)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a table to `path`, all or nothing."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    write_text(path, text.getvalue())


def copy_atomically(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Write the bytes of the file `source` to `target`, all or nothing."""
    with open(source, "rb") as original, atomic_write(target) as file:
        shutil.copyfileobj(original, file, _COPIED_BYTES)


def link_or_copy(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, is_symbolic: bool = False
) -> None:
    """Make `target` another name of the file `source`, atomically; a copy where links fail.

    is_symbolic: a name that shows whatever is called `source`, which lies beside it; otherwise
    one that outlives `source`.
    """
    source, target = Path(source), Path(target)
    temporary = temporary_beside(target)
    with write_errors_named(target):
        try:
            is_linked = _is_linked(source, temporary, is_symbolic=is_symbolic)
            if is_linked:
                os.replace(temporary, target)
                sync(target.parent)
        finally:  # a second name of one and the same file is not moved, but left
            with contextlib.suppress(OSError):
                temporary.unlink()
    if not is_linked:
        copy_atomically(source, target)


def _is_linked(source: Path, name: Path, *, is_symbolic: bool) -> bool:
    try:
        if is_symbolic:
            os.symlink(source.name, name)
        else:
            os.link(source, name)
    except OSError:  # of many kinds: each file system without links has its own
        return False
    return True


def append_line(path: str | os.PathLike[str], line: str) -> None:
    """Append one whole line with a single write, so that readers see lines or nothing."""
    with write_errors_named(Path(path)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, (line + "\n").encode("utf-8"))
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network filesystems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def temporary_beside(target: Path) -> Path:
    """A name in the folder of `target` that is nobody else's, and tells who uses it."""
    owner = f"{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.parent / f".{target.name}.tmp-{owner}"


def is_abandoned(name: str, *, is_ours_alone: bool = False) -> bool:
    """Whether a name is a temporary one, and whoever used it is no more.

    Other machines may be at work in a shared folder, and nobody can see from here whether they
    are: theirs are abandoned only where the folder `is_ours_alone`.
    """
    match = _TEMPORARY.fullmatch(name)
    if match is None:
        return False
    if match["machine"] not in (None, _machine()):
        return is_ours_alone
    return not is_alive(int(match["pid"]))


def sweep_temporaries(folder: str | os.PathLike[str], *, is_ours_alone: bool = False) -> int:
    """Delete temporary files that a killed process left in `folder`; return how many.

    is_ours_alone: as of `is_abandoned`; so it is for whoever holds the lease of a run's folder.
    """
    swept = 0
    for entry in Path(folder).iterdir() if Path(folder).is_dir() else ():
        if is_abandoned(entry.name, is_ours_alone=is_ours_alone):
            entry.unlink(missing_ok=True)
            swept += 1
    return swept


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def _machine() -> str:
    """8 hex digits of whatever numbers processes: a machine, or a container on it."""
    numbering = "/proc/self/ns/pid"
    space = os.stat(numbering).st_ino if os.path.exists(numbering) else 0
    return f"{zlib.crc32(f'{os.uname().nodename} {space}'.encode()):08x}"


@contextlib.contextmanager
def write_errors_named(target: Path) -> Iterator[None]:
    """Turn what the operating system says about a failed write into a ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            free = shutil.disk_usage(_existing_parent(target)).free
            raise ResourceError(
                str(target),
                "enough disk space to write it",
                f"{free:,} bytes free",
                "Free space or set another results_dir; what was there is intact.",
            ) from error
        is_homeless = isinstance(error, FileNotFoundError) and not target.parent.is_dir()
        if error.errno in _NOT_WRITABLE or isinstance(error, _IN_THE_WAY) or is_homeless:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ResourceError(
                str(target),
                "a path that can be written",
                reason,
                "Set another path or results_dir.",
            ) from error
        raise


def _existing_parent(path: Path) -> Path:
    for parent in path.absolute().parents:
        if parent.is_dir():
            return parent
    return Path("/")
