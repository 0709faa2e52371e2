"""Members of a stranger's archive into a folder of our own, or a refusal that names one.

Promises: only plain files and folders are made, all of them inside the folder; what cannot
be meant well is refused by name: a path that leads out, a link, device, FIFO, sparse or
setuid file, a name twice, or two that are one name to Unicode. An archive that grows too
far (bytes, ratio, members, members without content) is stopped while it does. Archives
inside are files like others. Odd but possible names (newline, `-rf`, no UTF-8) are kept.
Leaves out: the formats (tar.py, zip.py), and removing what was made
before a refusal (__init__.py).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kineme.data.names import OF_FINDER
from kineme.errors import DataError

CHUNK_BYTES = 1 << 20
MAX_RATIO = 200  # of bytes that come out to bytes that went in, beyond the first 64 MiB
RATIO_FROM_BYTES = 64 << 20
MAX_BYTES = 1 << 40
MAX_MEMBERS = 5_000_000
MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
NUM_SMALL_FREE = 1000  # small members beyond these need as many that are not
SMALL_BYTES = 64  # no image or video is smaller

_BIDI_CONTROLS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # they make a name read as another


@dataclass(frozen=True)
class Member:
    """One entry of an archive. chunks: its bytes, to be read before the next member comes.

    name: text, with bytes that are no UTF-8 as surrogates. refusal: why it is neither a
    plain file nor a folder, or "".
    """

    name: str
    is_folder: bool
    chunks: Iterator[bytes]
    refusal: str = ""


@dataclass
class Meter:
    """Bytes that went in and came out so far; raises DataError when they grow too far."""

    where: str
    taken: int = 0
    given: int = 0

    def count(self, *, taken: int = 0, given: int = 0) -> None:
        self.taken += taken
        self.given += given
        if self.given > RATIO_FROM_BYTES + MAX_RATIO * self.taken:
            received = f"{self.given:,} bytes out of the first {self.taken:,}"
            raise DataError(self.where, f"at most {MAX_RATIO} bytes out of one", received, _BOMB)
        if self.given > MAX_BYTES:
            raise DataError(self.where, f"at most {MAX_BYTES:,} bytes", "more", _BOMB)


def unpack(where: str, members: Iterable[Member], folder: str) -> None:
    """Write `members` into the empty `folder`. Raises DataError naming the first bad member."""
    tree = _Tree(where, folder)
    for member in members:
        parts = _checked_parts(where, member)
        if not parts or parts[0] == OF_FINDER:
            continue
        if member.is_folder:
            tree.add_folder(member.name, parts)
        else:
            tree.add_file(member, parts)
    tree.make_empty_folders()
    if not tree.num_files:
        raise DataError(where, "an archive of files", "one without any")


def damaged(where: str, reason: str) -> DataError:
    """The error of an archive that is not whole."""
    return DataError(where, "a whole archive", reason, "Download or copy it again.")


def refused(where: str, name: str, reason: str) -> DataError:
    """The error of an archive with a member that is not taken."""
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    return DataError(
        f"{where}: {shown!r}",
        "a plain file or folder inside the archive",
        reason,
        "Nothing was extracted. Pack the archive again without it, if you trust it.",
    )


_FILE_AND_FOLDER = "a name that is a file and a folder"
_BOMB = "It is stopped as a bomb; extract it yourself and give the folder, if you trust it."


def _checked_parts(where: str, member: Member) -> list[str]:
    """The names on the way to a member; none for the root."""
    name = member.name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    reason = member.refusal
    if "\0" in name:
        reason = "a name with a zero byte"
    elif name.startswith("/"):
        reason = "an absolute path"
    elif ".." in parts:
        reason = "a path that leads out"
    elif "\\" in name:
        reason = "a name with a backslash"
    elif _BIDI_CONTROLS.search(name):
        reason = "a name with characters that turn the direction of reading"
    elif len(encoded := os.fsencode(name)) > MAX_NAME_BYTES:
        reason = f"a name of {len(encoded):,} bytes"
    elif any(len(os.fsencode(part)) > MAX_PART_BYTES for part in parts):
        reason = f"a name of more than {MAX_PART_BYTES} bytes"
    elif not parts and not member.is_folder:
        reason = "a file without a name"
    if reason:
        raise refused(where, name, reason)
    return parts


class _Tree:
    """The folder as it grows. It holds no links, and only this process writes to it."""

    def __init__(self, where: str, root: str) -> None:
        self.where = where
        self.num_files = 0
        self._num_small = 0  # folders too
        self._num_members = 0
        self._root = root
        self._folders: dict[str, str] = {}  # path from the root -> the member that needs it
        self._made = {""}
        self._spellings: dict[tuple[str, str], str] = {}

    def add_folder(self, name: str, parts: list[str]) -> str:
        """Note a folder and those above it, unless they are known; gives its path."""
        path = ""
        for part in parts:
            above, path = path, f"{path}/{part}"
            if path not in self._folders:
                self._check_spelling(name, above, part)
                self._folders[path] = name
                self._count(is_small=True)
        return path

    def add_file(self, member: Member, parts: list[str]) -> None:
        above = self.add_folder(member.name, parts[:-1])
        self._make(above)
        self._check_spelling(member.name, above, parts[-1])
        path = f"{above}/{parts[-1]}"
        if path in self._folders:
            raise refused(self.where, member.name, _FILE_AND_FOLDER)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._root + path, flags, 0o666)
        except FileExistsError:
            raise refused(self.where, member.name, "a name that occurs twice") from None
        size = 0
        with open(descriptor, mode="wb", buffering=0) as file:
            for chunk in member.chunks:
                size += len(chunk)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
        self.num_files += 1
        self._count(is_small=size < SMALL_BYTES)

    def make_empty_folders(self) -> None:
        """Those that no file has asked for: a million of them never gets as far."""
        for path in self._folders:
            self._make(path)

    def _make(self, path: str) -> None:
        if path in self._made:
            return
        self._make(path.rpartition("/")[0])
        try:
            os.mkdir(self._root + path)
        except FileExistsError:
            raise refused(self.where, self._folders[path], _FILE_AND_FOLDER) from None
        self._made.add(path)

    def _count(self, *, is_small: bool) -> None:
        self._num_members += 1
        self._num_small += is_small
        num_large = self._num_members - self._num_small
        if self._num_small > NUM_SMALL_FREE + num_large:
            received = f"{self._num_small:,}, and {num_large:,} files with more"
            expected = f"few folders and files of under {SMALL_BYTES} bytes"
            raise DataError(self.where, expected, received, _BOMB)
        if self._num_members > MAX_MEMBERS:
            raise DataError(self.where, f"at most {MAX_MEMBERS:,} members", "more", _BOMB)

    def _check_spelling(self, name: str, above: str, part: str) -> None:
        """Names that differ only in how Unicode composes them are one name to some systems."""
        if part.isascii():
            return
        key = (above, unicodedata.normalize("NFC", part))
        if self._spellings.setdefault(key, part) != part:
            reason = "a name that occurs twice, in two Unicode forms"
            raise refused(self.where, name, reason)
