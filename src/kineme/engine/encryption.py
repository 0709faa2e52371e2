"""Encrypted checkpoints: whoever has the file and not the key learns its length.

Promises: what is read was written with this key, in this order and to the end, or it is an
error before any of it is used; a file of any size is read and written a chunk at a time. The
key is stretched once per process for all files that share a salt, and is in no message.
Leaves out: what is inside (checkpoint.py), where the key comes from (concealment.py, spec).

A file is a header of 96 bytes and chunks, numbers big-endian:

    offset  bytes
         0      8  MAGIC
         8      1  version, 1
         9      3  cost of scrypt (RFC 7914): log2 N, r, p
        12      1  log2 of the bytes that a chunk holds
        13      3  zero
        16     16  salt of scrypt, drawn once per process
        32     32  salt of this file, drawn for each
        64     32  check of the key

scrypt makes 32 bytes of the key (UTF-8, without white space around it); HKDF-SHA256 (RFC 5869)
with the salt of the file makes 64 of these: a key of AES-256-GCM, and the check of the key. The
check names a wrong key, and commits to one: a file opens with no second key (Len, Grubbs,
Ristenpart: Partitioning Oracle Attacks, 2021).
Each chunk is its ciphertext and a tag of 16 bytes. Its nonce is 7 zero bytes, its number (4
bytes, from 0) and 1 for the last chunk, else 0; the header is associated data of every chunk.
That is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015); a key that serves one
file lets the nonces start anew. Only the last chunk may be short; empty is only that of nothing.
"""

import functools
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kineme.errors import CheckpointError

MAGIC = b"\x8aKINEME\n"
VERSION = 1
TAG_BYTES = 16
CHUNK_BITS = 20  # chunks of 1 MiB
_HEADER = struct.Struct(">8sBBBBB3s16s32s32s")
_INFO = b"kineme encrypted checkpoint, version 1"
_MAX_KDF_BYTES = 1 << 30  # of memory that a file may ask for before it is trusted
_MAX_PASSES = 4
_CHUNK_BITS_READ = range(10, 25)


class LockedError(CheckpointError):
    """A checkpoint that is encrypted, and no key, or not the one that opens it."""


@dataclass(frozen=True)
class Cost:
    """What a guess at the key costs: 128 * r * 2**log2_n bytes of memory, gone through p times."""

    log2_n: int = 17
    r: int = 8
    p: int = 1

    @property
    def is_bearable(self) -> bool:
        """Whether a stranger's file may ask for it."""
        bits_fit = 1 <= self.log2_n <= 30 and self.r >= 1 and 1 <= self.p <= _MAX_PASSES
        return bits_fit and (128 * self.r << self.log2_n) <= _MAX_KDF_BYTES


COST = Cost()  # 128 MiB and about half a second


def write_encrypted(
    file: IO[bytes],
    data: bytes | memoryview,
    key: str,
    *,
    cost: Cost | None = None,
    chunk_bits: int = CHUNK_BITS,
) -> None:
    """Write `data` to `file`, encrypted. cost: of guessing the key (default: COST)."""
    cost = cost or COST
    salt, file_salt = _salt_of_process(key), os.urandom(32)
    cipher, check = _file_keys(key, salt, file_salt, cost)
    header = _HEADER.pack(
        MAGIC, VERSION, cost.log2_n, cost.r, cost.p, chunk_bits, bytes(3), salt, file_salt, check
    )
    file.write(header)
    for number, chunk, is_last in _chunks(memoryview(data), 1 << chunk_bits):
        file.write(cipher.encrypt(_nonce(number, is_last=is_last), chunk, header))


def is_encrypted(path: Path) -> bool:
    """Whether `path` begins as the files that `write_encrypted` writes."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_encrypted(path: Path, key: str | None) -> IO[bytes]:
    """What the encrypted file holds, as a file that can be read and searched.

    Raises LockedError without the right key, CheckpointError where the file is damaged or cut
    off; reading from it raises CheckpointError where the damage is further on.
    """
    raw = open(path, "rb", buffering=0)  # noqa: SIM115 - the reader closes it
    try:
        return io.BufferedReader(_Reader(path, raw, key))
    except OSError as error:
        raw.close()
        raise _damaged(path, f"one that cannot be read ({error.strerror})") from error
    except BaseException:
        raw.close()
        raise


class _Reader(io.RawIOBase):
    """The plain bytes of an encrypted file; holds one chunk at a time."""

    def __init__(self, path: Path, raw: io.FileIO, key: str | None) -> None:
        super().__init__()
        self._path, self._raw = path, raw
        self._header = raw.read(_HEADER.size) or b""
        self._cipher, self._chunk_bytes = _unlocked(path, self._header, key)
        self._position, self._number, self._chunk = 0, -1, b""
        body = os.fstat(raw.fileno()).st_size - _HEADER.size
        self._num_chunks = -(-body // (self._chunk_bytes + TAG_BYTES))
        self._size = body - self._num_chunks * TAG_BYTES
        self._check_end()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        number, offset = divmod(self._position, self._chunk_bytes)
        if self._position >= self._size:
            return 0
        if number != self._number:
            plain = self._opened(number, is_last=number == self._num_chunks - 1)
            if plain is None:
                first = number * self._chunk_bytes
                last = min(first + self._chunk_bytes, self._size) - 1
                raise _damaged(self._path, f"a damaged one (bytes {first:,} to {last:,} of it)")
            self._number, self._chunk = number, plain
        piece = self._chunk[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _check_end(self) -> None:
        """Open the last chunk. It alone tells a whole file from one that was cut between two."""
        last = self._num_chunks - 1
        plain = self._opened(last, is_last=True) if last >= 0 else None
        if plain is not None:
            self._number, self._chunk = last, plain
        elif last < 0 or self._opened(last, is_last=False) is not None:
            raise _damaged(self._path, f"one that was cut off after {max(0, self._size):,} bytes")
        else:
            raise _damaged(self._path, "one that was cut off, or is damaged at its end")

    def _opened(self, number: int, *, is_last: bool) -> bytes | None:
        """The plain bytes of a chunk; None if they are not what was written there."""
        length = self._chunk_bytes + TAG_BYTES
        sealed = os.pread(self._raw.fileno(), length, _HEADER.size + number * length)
        try:
            return self._cipher.decrypt(_nonce(number, is_last=is_last), sealed, self._header)
        except InvalidTag:
            return None


def _unlocked(path: Path, header: bytes, key: str | None) -> tuple[AESGCM, int]:
    """The cipher of a file with this header, and the bytes that a chunk holds."""
    if len(header) < _HEADER.size:
        raise _damaged(path, f"one that was cut off in its header, after {len(header)} bytes")
    _, version, log2_n, r, p, chunk_bits, zeros, salt, file_salt, check = _HEADER.unpack(header)
    if version != VERSION:
        raise CheckpointError(
            str(path), f"an encrypted file of version {VERSION}", f"one of version {version}",
            "A newer kineme may read it; if none wrote it, it is damaged.",
        )  # fmt: skip
    cost = Cost(log2_n, r, p)
    if not cost.is_bearable or chunk_bits not in _CHUNK_BITS_READ or any(zeros):
        raise _damaged(path, "one with a header that kineme never writes")
    if key is None:
        raise LockedError(
            str(path), "the encryption_key that it was encrypted with", "none",
            "Set it in KINEME_ENCRYPTION_KEY, or name a file with it: encryption_key_file=PATH.",
        )  # fmt: skip
    cipher, expected = _file_keys(key, salt, file_salt, cost)
    if not constant_time.bytes_eq(check, expected):
        raise LockedError(
            str(path), "a checkpoint that opens with this encryption_key",
            f"one of another key, or damaged in its first {_HEADER.size} bytes",
            "Check the key; if it is the right one, use another checkpoint of the same run.",
        )  # fmt: skip
    return cipher, 1 << chunk_bits


def _file_keys(key: str, salt: bytes, file_salt: bytes, cost: Cost) -> tuple[AESGCM, bytes]:
    """The cipher of one file, and the check of its key."""
    derivation = HKDF(hashes.SHA256(), length=64, salt=file_salt, info=_INFO)
    keys = derivation.derive(_stretched(key, salt, cost))
    return AESGCM(keys[:32]), keys[32:]


@functools.lru_cache(maxsize=16)
def _stretched(key: str, salt: bytes, cost: Cost) -> bytes:
    secret = key.strip().encode("utf-8", "surrogateescape")
    return Scrypt(salt=salt, length=32, n=1 << cost.log2_n, r=cost.r, p=cost.p).derive(secret)


@functools.lru_cache(maxsize=16)
def _salt_of_process(key: str) -> bytes:
    """The salt of all files that this process writes with `key`."""
    del key  # files of two keys have nothing in common
    return os.urandom(16)


def _chunks(data: memoryview, chunk_bytes: int) -> Iterator[tuple[int, memoryview, bool]]:
    """(number, bytes, whether it is the last) of every chunk, of which there is at least one."""
    last = max(0, (len(data) - 1) // chunk_bytes)
    for number in range(last + 1):
        yield number, data[number * chunk_bytes :][:chunk_bytes], number == last


def _nonce(number: int, *, is_last: bool) -> bytes:
    return struct.pack(">7xIB", number, is_last)


def _damaged(path: Path, received: str) -> CheckpointError:
    return CheckpointError(
        str(path), "a whole checkpoint", received, "Use another checkpoint of the same run."
    )
