"""Members of a zip file, by its central directory.

Promises: stored and deflated members, zip64 too; sizes and CRC-32 are checked, directory
and local headers must agree, and no two members may share bytes; a list of a million
members costs no more than those that are looked at.
Leaves out: other methods and encryption (handed on with a refusal), archives in several
parts, and whether a name is a good one (unpacking.py).

The format: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from kineme.data.archives.unpacking import CHUNK_BYTES, Member, Meter, damaged
from kineme.data.inputs import InputFile

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_MAX_COMMENT_BYTES = 0xFFFF
_MAX_DIRECTORY_BYTES = 1 << 29
_UNKNOWN16, _UNKNOWN32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _UTF8 = 0x0001, 0x0800
_STORED, _DEFLATED = 0, 8
_COMPRESSED_READ_BYTES = 1 << 16


def is_zip(head: bytes) -> bool:
    """Whether a file that begins like this is a zip file."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def zip_members(file: InputFile) -> Iterator[Member]:
    """The members in the order of the directory. Raises DataError where it is not whole."""
    meter = Meter(str(file.path))
    for entry in _entries(file):
        is_folder = entry.name.endswith("/")
        yield Member(entry.name, is_folder, _content(file, entry, meter), _refusal(entry))


class _Entry(NamedTuple):
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    mode: int  # as Unix has it; 0 where the file was packed elsewhere
    offset: int  # of the local header


def _entries(file: InputFile) -> Iterator[_Entry]:
    where = str(file.path)
    start, size, count = _directory(file)
    directory = file.read(start, size)
    at = shared = 0
    for _ in range(count):
        if at + _ENTRY.size > size:
            raise damaged(where, "a zip directory that ends early")
        (mark, _, _, flags, method, _, _, crc, packed, unpacked, name_bytes, extra_bytes,
         comment_bytes, _, _, attributes, offset) = _ENTRY.unpack_from(directory, at)  # fmt: skip
        at += _ENTRY.size
        raw_name = directory[at : at + name_bytes]
        extra = directory[at + name_bytes : at + name_bytes + extra_bytes]
        at += name_bytes + extra_bytes + comment_bytes
        if mark != b"PK\x01\x02" or at > size:
            raise damaged(where, "a zip directory with a broken entry")
        unpacked, packed, offset = _long_numbers(where, extra, [unpacked, packed, offset])
        shared += _LOCAL.size + name_bytes + packed
        if offset + _LOCAL.size + name_bytes + packed > start or shared > start:
            raise damaged(where, "members that overlap or lie outside the file")
        name, mode = _text(raw_name, flags), attributes >> 16
        yield _Entry(name, raw_name, flags, method, crc, packed, unpacked, mode, offset)
    if at != size:
        raise damaged(where, f"more than the {count:,} members that it counts")


def _directory(file: InputFile) -> tuple[int, int, int]:
    """(first byte, bytes, members) of the central directory."""
    where, length = str(file.path), file.stamp.size
    tail_start = max(0, length - _END.size - _MAX_COMMENT_BYTES)
    tail = file.read(tail_start, length - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise damaged(where, "a zip file that ends early, without its directory")
    _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    if _UNKNOWN16 in (disk, count) or _UNKNOWN32 in (size, start):
        locator_at = end - _LOCATOR64.size
        mark, _, end, _ = _LOCATOR64.unpack(file.read(max(0, locator_at), _LOCATOR64.size))
        if mark != b"PK\x06\x07" or end + _END64.size > locator_at:
            raise damaged(where, "a zip64 directory that is not where it should be")
        _, _, _, _, disk, _, _, count, size, start = _END64.unpack(file.read(end, _END64.size))
    if disk or start + size != end or size > _MAX_DIRECTORY_BYTES:
        raise damaged(where, "a zip directory that is not where it should be, or in parts")
    return start, size, count


def _long_numbers(where: str, extra: bytes, numbers: list[int]) -> list[int]:
    """Numbers of 32 bits, those that are too small for it taken from the zip64 field."""
    if _UNKNOWN32 not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, count = struct.unpack_from("<2H", extra, at)
        content = extra[at + 4 : at + 4 + count]
        if kind == 1 and len(content) >= 8 * numbers.count(_UNKNOWN32):
            longer = (value for (value,) in struct.iter_unpack("<Q", content[: count // 8 * 8]))
            return [next(longer) if n == _UNKNOWN32 else n for n in numbers]
        at += 4 + count
    raise damaged(where, "a zip64 member without its sizes")


def _refusal(entry: _Entry) -> str:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a device, FIFO or socket"
    if entry.mode & 0o6000 and kind == stat.S_IFREG:
        return "a setuid or setgid file"
    if entry.flags & _ENCRYPTED:
        return "an encrypted file"
    if entry.method not in (_STORED, _DEFLATED):
        return f"a file packed by method {entry.method}, neither stored nor deflated"
    return ""


def _text(name: bytes, flags: int) -> str:
    """UTF-8 where it is said or fits, else the old code page of PCs."""
    if flags & _UTF8:
        return name.decode("utf-8", "surrogateescape")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")


def _content(file: InputFile, entry: _Entry, meter: Meter) -> Iterator[bytes]:
    """The bytes of a member, checked while they come."""
    member = f"{meter.where}: {entry.name!r}"
    local = file.read(entry.offset, _LOCAL.size)
    mark, *_, name_bytes, extra_bytes = _LOCAL.unpack(local)
    start = entry.offset + _LOCAL.size + name_bytes + extra_bytes
    local_name = file.read(entry.offset + _LOCAL.size, min(name_bytes, len(entry.raw_name) + 1))
    has_room = start + entry.packed_size <= file.stamp.size
    if mark != b"PK\x03\x04" or not has_room or local_name != entry.raw_name:
        raise damaged(member, "a header other than the directory says")
    crc = size = 0
    packed = _packed(file, start, entry.packed_size, meter)
    for chunk in _inflated(member, packed) if entry.method == _DEFLATED else packed:
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
        if size > entry.size:
            raise damaged(member, f"more than the {entry.size:,} bytes it should have")
        meter.count(given=len(chunk))
        yield chunk
    if size != entry.size or crc != entry.crc:
        raise damaged(member, "bytes that fail their check (CRC-32)")


def _packed(file: InputFile, start: int, count: int, meter: Meter) -> Iterator[bytes]:
    for at in range(start, start + count, _COMPRESSED_READ_BYTES):
        piece = file.read(at, min(_COMPRESSED_READ_BYTES, start + count - at))
        meter.count(taken=len(piece))
        yield piece


def _inflated(member: str, packed: Iterator[bytes]) -> Iterator[bytes]:
    engine = zlib.decompressobj(wbits=-15)
    for waiting in packed:
        while True:
            try:
                chunk = engine.decompress(waiting, CHUNK_BYTES)
            except zlib.error as error:
                raise damaged(member, f"data that are damaged ({error})") from error
            waiting = engine.unconsumed_tail
            yield chunk
            if not waiting and len(chunk) < CHUNK_BYTES:
                break
    if not engine.eof or engine.unused_data:
        raise damaged(member, "data that end early or late")
