"""A version of an object on its way to the disk: a file beside its target, until it is whole.

Promises: what a killed program left of a version is gone on from, what it left of another is not
touched; one process writes it and others wait; the target appears by one rename, after the bytes
are on disk; a disk that is full gets them back.
Leaves out: where the bytes come from (s3.py).

Checksums, the strongest that there is: sha256 that was written with the object, the store's own
SHA256, SHA1 or CRC32, an ETag that is an MD5; else the length alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.errors import ResourceError
from kineme.files import sync

_HASHED_BYTES = 1 << 20


@dataclass(frozen=True)
class Facts:
    """One version of an object. checksums: name -> hex, as far as this machine can check them."""

    size: int
    etag: str  # without quotes
    checksums: tuple[tuple[str, str], ...] = ()


class Partial:
    """The part of one version of an object that is here, as a file that one process writes."""

    def __init__(self, path: Path, facts: Facts) -> None:
        version = hashlib.blake2b(f"{facts.etag} {facts.size}".encode(), digest_size=8)
        self.path = path.with_name(f".{path.name}.{version.hexdigest()}.partial")
        self.learnt: dict[str, str] = {}  # checksums that came with the bytes
        self._facts = facts
        self._descriptor = -1

    def __enter__(self) -> Partial:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        while True:
            self._descriptor = os.open(self.path, flags, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    break
            except FileNotFoundError:  # whoever held it has published it
                pass
            os.close(self._descriptor)
        if self.size > self._facts.size:
            os.ftruncate(self._descriptor, 0)
        self.seek(self.size)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if isinstance(error, OSError):  # a full disk gets its bytes back
            self.discard()
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def seek(self, offset: int) -> None:
        """Go on from `offset`; what was behind it is gone."""
        os.ftruncate(self._descriptor, offset)
        os.lseek(self._descriptor, offset, os.SEEK_SET)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def check_space(self, path: Path) -> None:
        """Raise ResourceError where the rest will not fit, before any of it is fetched."""
        status = os.fstatvfs(self._descriptor)
        free, needed = status.f_bavail * status.f_frsize, self._facts.size - self.size
        if needed > free:
            self.discard()
            fix = "Free space, or set KINEME_CACHE to a folder on a larger disk."
            raise ResourceError(str(path), f"{needed:,} bytes of disk", f"{free:,} free", fix)

    def verdict(self, checksums: Mapping[str, str]) -> tuple[str, str]:
        """(what is wrong with the bytes or "", their sha256), read from the disk."""
        facts = self._facts
        if self.size != facts.size:
            return f"{self.size:,} bytes in place of {facts.size:,}", ""
        sums: dict[str, Any] = {
            name: hashlib.new(name, usedforsecurity=False)
            for name in ("md5", "sha1", "sha256")
            if name == "sha256" or name in checksums
        }
        crc32 = 0
        for offset in range(0, facts.size, _HASHED_BYTES):
            data = os.pread(self._descriptor, _HASHED_BYTES, offset)
            for one in sums.values():
                one.update(data)
            crc32 = zlib.crc32(data, crc32) if "crc32" in checksums else 0
        found = {name: one.hexdigest() for name, one in sums.items()} | {"crc32": f"{crc32:08x}"}
        for name, promised in checksums.items():
            if found[name] != promised:
                return f"others: their {name} is {found[name]}, not {promised}", ""
        return "", found["sha256"]

    def publish(self, path: Path) -> None:
        os.fsync(self._descriptor)
        os.replace(self.path, path)
        sync(path.parent)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
