"""Archives of data sets, extracted once and safely; where the data in a folder begin.

Promises: `extract` gives a folder with every member of a .tar, .tar.gz, .tgz or .zip file,
told apart by content. The folder is named by the archive's sha256 and appears whole, by
one rename, after it is on disk: kill -9 half-way leaves nothing that is taken for data,
and the next call tidies up. Of several processes one extracts and the others wait. A bad
archive is a DataError that names the member, and leaves the disk as it was.
Leaves out: what members may be (unpacking.py); emptying the cache.

The cache: `archives/<sha256>/` with the members, `<sha256>.lock`, and `stamps/` that
remember the sha256 of a file by path, size, time and inode.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

from kineme.data.archives.tar import is_tar, tar_members
from kineme.data.archives.unpacking import Member, unpack
from kineme.data.archives.zip import is_zip, zip_members
from kineme.data.cache import temporary_cache
from kineme.data.inputs import InputFile, read_bytes
from kineme.data.names import OF_FINDER
from kineme.errors import DataError, ResourceError
from kineme.files import write_text

SPLIT_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

_SHA256 = re.compile(rb"[0-9a-f]{64}")
_OTHER_CACHE = "choose another cache folder (KINEME_CACHE, where the spec names none)."
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"Rar!\x1a\x07": "a rar file",
}


def extract(path: str | os.PathLike[str], cache: Path) -> Path:
    """The folder with the members of the archive `path`, extracted now or earlier.

    A `cache` that cannot be written costs a note and a temporary folder that goes with the
    process. Raises DataError for an archive that is bad or none, ResourceError for a disk
    that is full.
    """
    archive = InputFile(path)
    try:
        shelf = cache.absolute() / "archives"
        sha256 = _remembered_sha256(archive, shelf) or archive.sha256()
        if (shelf / sha256).is_dir():
            return shelf / sha256
        with _locked(shelf, sha256) as writable_shelf:
            folder = writable_shelf / sha256
            if not folder.is_dir():
                _extract_whole(archive, folder)
            _remember_sha256(archive, writable_shelf, sha256)
            return folder
    finally:
        archive.close()


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an archive by its content, of a kind that `extract` takes or not."""
    archive = InputFile(path)
    try:
        head = _head(archive)
    finally:
        archive.close()
    known = (_GZIP, *_OTHERS)
    return is_zip(head) or is_tar(head) or any(head.startswith(magic) for magic in known)


def data_root(folder: Path) -> Path:
    """Where the classes or videos begin: below folders that are alone and named as a split.

    So `train/<class>/<clip>` and `<class>/<clip>` are the same data set.
    """
    while True:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
        inner = [name for name in names if name[0] != "." and name != OF_FINDER]
        if len(inner) != 1 or inner[0].lower() not in SPLIT_FOLDERS:
            return folder
        folder = folder / inner[0]


def resolve_inside(root: Path, path: Path) -> Path:
    """The real path of `path`, which may be a link as long as it stays inside `root`.

    Raises DataError for a link that leads out, nowhere, in a circle, or to a folder above
    itself (whoever walks there never ends).
    """
    try:
        real_root = Path(os.path.realpath(root, strict=True))
        real_parent = Path(os.path.realpath(path.parent, strict=True))
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise DataError(str(path), "a path inside the data set", reason) from error
    if real != real_root and real_root not in real.parents:
        raise DataError(
            str(path),
            f"a path inside {root}",
            f"a link to {str(real)!r}",
            "Copy what it leads to into the data set, or give the folder it leads to.",
        )
    if path.is_symlink() and (real == real_parent or real in real_parent.parents):
        raise DataError(str(path), "a link that does not lead back above itself", f"{str(real)!r}")
    return real


def _members(archive: InputFile) -> Iterator[Member]:
    """The members by what the archive is, whatever its name says."""
    head = _head(archive)
    if is_zip(head):
        return zip_members(archive)
    is_gzip = head.startswith(_GZIP)
    if is_gzip or is_tar(head):
        return tar_members(archive, is_gzip=is_gzip)
    other = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), None)
    received = other or (f"other bytes, {head[:8]!r}..." if head else "an empty file")
    raise DataError(
        str(archive.path), "a tar, tar.gz or zip file", received, "Pack it again, or extract it."
    )


def _head(archive: InputFile) -> bytes:
    """The bytes that tell what it is."""
    return archive.read(0, min(512, archive.stamp.size))


def _extract_whole(archive: InputFile, folder: Path) -> None:
    """Make `folder`, or nothing. The caller holds its lock, so other attempts are dead."""
    prefix = f".{folder.name}.tmp-"
    for name in os.listdir(folder.parent):
        if name.startswith(prefix):
            shutil.rmtree(folder.parent / name, ignore_errors=True)
    temporary = folder.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        unpack(str(archive.path), _members(archive), str(temporary))
        archive.check_unchanged()
        os.sync()  # all files at once; one by one would take far longer
        temporary.rename(folder)
    except OSError as error:
        raise ResourceError(
            str(folder.parent),
            f"a disk that takes the members of {archive.path.name!r}",
            os.strerror(error.errno or 0).lower(),
            f"Free space, or {_OTHER_CACHE} What was there is intact.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _locked(shelf: Path, sha256: str) -> Iterator[Path]:
    """Hold the lock of an archive, which ends with the process; gives the shelf to write to."""
    try:
        descriptor = _open_lock(shelf, sha256)
    except OSError as error:
        shelf = _temporary_shelf(str(shelf), os.strerror(error.errno or 0).lower())
        descriptor = _open_lock(shelf, sha256)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield shelf
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may still have it open
        os.close(descriptor)


def _open_lock(shelf: Path, sha256: str) -> int:
    shelf.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(shelf / f"{sha256}.lock", flags, 0o666)


@functools.cache
def _temporary_shelf(shelf: str, reason: str) -> Path:
    """A folder that goes with this process; said once."""
    warnings.warn(
        f"{shelf} cannot be written ({reason}): archives are extracted to a temporary folder, "
        f"at every start; {_OTHER_CACHE}",
        stacklevel=1,
    )
    return temporary_cache("archives")


def _remembered_sha256(archive: InputFile, shelf: Path) -> str | None:
    try:
        content = read_bytes(_stamp_path(archive, shelf), max_bytes=64)
    except DataError:  # never seen before
        return None
    return content.decode() if _SHA256.fullmatch(content) else None


def _remember_sha256(archive: InputFile, shelf: Path, sha256: str) -> None:
    path = _stamp_path(archive, shelf)
    if not path.exists():
        with contextlib.suppress(ResourceError):  # then it is counted again next time
            write_text(path, sha256)


def _stamp_path(archive: InputFile, shelf: Path) -> Path:
    version = (str(archive.path.absolute()), archive.stamp)
    return shelf / "stamps" / hashlib.blake2b(repr(version).encode(), digest_size=16).hexdigest()
