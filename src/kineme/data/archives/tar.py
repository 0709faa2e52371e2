"""Members of a tar file, plain or compressed with gzip, in one pass from front to end.

Promises: v7, ustar, GNU and pax headers are understood, their sums checked; a file that is
cut off, that fails gzip's check or goes on after its end is a DataError; memory stays at a
few chunks, whatever a header claims.
Leaves out: members that are no plain files (handed on with a refusal), and whether a name
is a good one (unpacking.py).

The format: POSIX.1-2017 pax, section "pax Interchange Format", and GNU tar's manual.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from kineme.data.archives.unpacking import CHUNK_BYTES, Member, Meter, damaged, refused
from kineme.data.inputs import InputFile

_BLOCK = 512
_ZERO_BLOCK = bytes(_BLOCK)
_GZIP_READ_BYTES = 1 << 16
_MAX_EXTENSION_BYTES = 1 << 20  # of a pax or GNU header
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ")
_FILES, _FOLDER = (b"0", b"\0", b"7"), b"5"
_REFUSALS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}


def is_tar(head: bytes) -> bool:
    """Whether the first 512 bytes of a file are a tar header."""
    return len(head) >= _BLOCK and _sum_is_right(head[:_BLOCK])


def tar_members(file: InputFile, *, is_gzip: bool) -> Iterator[Member]:
    """The members in their order. Raises DataError where the archive is not whole."""
    where = str(file.path)
    pieces = _gunzipped(file) if is_gzip else _plain(file)
    stream = _Stream(where, pieces)
    while (block := stream.take(_BLOCK)) != _ZERO_BLOCK:
        header = _header(where, block, stream)
        chunks = stream.chunks(header.size)
        is_folder = header.kind == _FOLDER or header.name[-1:] == "/"  # the latter as of v7
        yield Member(header.name, is_folder, chunks, _refusal(header, is_folder))
        for _ in chunks:  # what was not read of it
            pass
        stream.take(-header.size % _BLOCK)
    if any(piece.strip(b"\0") for piece in stream.rest()):
        raise damaged(where, "data after its end mark")


@dataclass(frozen=True)
class _Header:
    name: str
    kind: bytes
    size: int
    mode: int
    is_sparse: bool


def _header(where: str, block: bytes, stream: _Stream) -> _Header:
    """The header of the next member, with what extension headers before it say."""
    long_name: bytes | None = None
    records: dict[bytes, bytes] = {}
    while True:
        if not _sum_is_right(block):
            raise damaged(where, f"no tar header at byte {stream.position - _BLOCK:,}")
        kind, size = block[156:157], _number(where, block[124:136])
        if kind not in (b"x", b"X", b"g", b"L", b"K"):
            break
        if size > _MAX_EXTENSION_BYTES:
            raise refused(where, _text(block[:100]), f"an extension header of {size:,} bytes")
        content = stream.take(size)
        stream.take(-size % _BLOCK)
        if kind in (b"x", b"X"):
            records = _pax_records(where, content)
        elif kind == b"L":
            long_name = content.rstrip(b"\0")
        elif kind == b"g" and _pax_records(where, content).keys() & {b"path", b"size"}:
            raise refused(where, "global pax header", "one name or size for all members")
        block = stream.take(_BLOCK)
    name = block[:100].rstrip(b"\0")
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].rstrip(b"\0")):
        name = prefix + b"/" + name
    name = records.get(b"path", name if long_name is None else long_name)
    if b"size" in records:
        size = _decimal(where, records[b"size"])
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in records)
    return _Header(_text(name), kind, size, _number(where, block[100:108]), is_sparse)


def _refusal(header: _Header, is_folder: bool) -> str:
    if header.is_sparse:
        return "a sparse file"
    if header.kind in _REFUSALS:
        return _REFUSALS[header.kind]
    if header.kind not in (*_FILES, _FOLDER):
        return f"a member of type {header.kind!r}"
    if header.mode & 0o6000 and not is_folder:
        return "a setuid or setgid file"
    return ""


def _pax_records(where: str, content: bytes) -> dict[bytes, bytes]:
    """Records `length key=value\\n`, where the length counts the whole record."""
    records = {}
    at = 0
    while at < len(content):
        match = _PAX_RECORD.match(content, at)
        end = at + int(match.group(1)) if match else 0
        record = content[match.end() : end] if match else b""
        key, equals, value = record.partition(b"=")
        if end > len(content) or not equals or value[-1:] != b"\n":
            raise damaged(where, f"a broken pax record {content[at : at + 20]!r}")
        records[key] = value[:-1]
        at = end
    return records


def _sum_is_right(block: bytes) -> bool:
    match = _OCTAL.fullmatch(block, 148, 156)
    if match is None or not match.group(1):
        return False
    expected = int(match.group(1), 8)
    counted = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(counted)
    signed = unsigned - 256 * sum(byte > 127 for byte in counted)  # as some old programs sum
    return expected in (unsigned, signed)


def _number(where: str, field: bytes) -> int:
    """Octal text, or GNU's binary form for sizes of 8 GiB and more."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise damaged(where, f"a number {field!r} in a header")
    return int(match.group(1) or b"0", 8)


def _decimal(where: str, text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", text):
        raise damaged(where, f"a size {text[:20]!r} in a header")
    return int(text)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class _Stream:
    """Bytes that come in pieces, taken by count."""

    def __init__(self, where: str, pieces: Iterator[bytes]) -> None:
        self.position = 0
        self._where = where
        self._pieces = pieces
        self._piece = memoryview(b"")

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which are few."""
        return b"".join(self.chunks(count))

    def chunks(self, count: int) -> Iterator[bytes]:
        """The next `count` bytes as they come."""
        while count:
            if not self._piece:
                self._piece = memoryview(self._next())
            chunk = bytes(self._piece[:count])
            self._piece = self._piece[len(chunk) :]
            self.position += len(chunk)
            count -= len(chunk)
            yield chunk

    def rest(self) -> Iterator[bytes]:
        """All that is left."""
        yield bytes(self._piece)
        yield from self._pieces

    def _next(self) -> bytes:
        for piece in self._pieces:
            if piece:
                return piece
        raise damaged(self._where, f"a tar file that ends early, at byte {self.position:,}")


def _plain(file: InputFile) -> Iterator[bytes]:
    for start in range(0, file.stamp.size, CHUNK_BYTES):
        yield file.read(start, min(CHUNK_BYTES, file.stamp.size - start))


def _gunzipped(file: InputFile) -> Iterator[bytes]:
    """What one or more gzip streams hold; zero bytes may follow them."""
    meter = Meter(str(file.path))
    engine = zlib.decompressobj(wbits=31)
    for start in range(0, file.stamp.size, _GZIP_READ_BYTES):
        waiting = file.read(start, min(_GZIP_READ_BYTES, file.stamp.size - start))
        meter.count(taken=len(waiting))
        while True:
            if engine.eof:
                if not (waiting := waiting.lstrip(b"\0")):
                    break
                engine = zlib.decompressobj(wbits=31)
            try:
                piece = engine.decompress(waiting, CHUNK_BYTES)
            except zlib.error as error:
                raise damaged(meter.where, f"gzip data that are damaged ({error})") from error
            waiting = engine.unused_data if engine.eof else engine.unconsumed_tail
            meter.count(given=len(piece))
            yield piece
            if not waiting and len(piece) < CHUNK_BYTES:
                break  # nothing is left inside the engine either
    if not engine.eof:
        raise damaged(meter.where, "gzip data that end early")
