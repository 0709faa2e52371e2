"""The log of a job: written without end in bounded space, read from its end in bounded memory.

Promises: whatever an action prints (gigabytes, binary garbage, no line ends) is kept as it came,
the last MAX_BYTES of it at least, twice that at most; a full disk stops no action, and the last
words get room on it. What readers get is text without terminal escapes. Following goes on across
rotations and says where something was missed.
Leaves out: who writes (leash.py), whether a job has ended (liveness.py).
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kineme.errors import printable, without_secrets

MAX_BYTES = 64 << 20  # of the current file; as much again lies in the one before it
SPARE_BYTES = 16 << 10  # kept free for last words
_RECENT_BYTES = 64 << 10  # of what was written, in memory
_BLOCK_BYTES = 64 << 10
_LONGEST_LINE = 8 << 10  # that readers are given in one piece
_MAX_ERROR_LINES = 5


class LogWriter:
    """Appends to the log at `path`; secrets become ***.

    recent: the last 64 KiB that were written, or should have been. lost_bytes: what found no
    room on the disk.
    """

    def __init__(
        self, path: Path, *, secrets: Sequence[str] = (), max_bytes: int = MAX_BYTES
    ) -> None:
        self.recent = b""
        self.lost_bytes = 0
        self._path = path
        self._secrets: list[str] = []
        self.hide(secrets)
        self._max_bytes = max_bytes
        self._held = b""  # may be the beginning of a secret
        self._spare = path.with_name(f".{path.name}.spare")
        self._descriptor = _opened(path)
        _fill(self._spare, SPARE_BYTES)

    def hide(self, secrets: Sequence[str]) -> None:
        """Take these out of all that follows, too."""
        self._secrets += [secret for secret in secrets if secret.strip()]

    def write(self, data: bytes) -> None:
        """Append `data`; what finds no room is counted."""
        if self._secrets:
            data, self._held = self._without_secrets(self._held + data)
        self._append(data)

    def note(self, text: str) -> None:
        """A line of ours."""
        start = "" if self.recent.endswith(b"\n") or not self.recent else "\n"
        self._append(f"{start}note: {printable(text)}\n".encode())

    def close(self) -> None:
        """Write what was held back; after a full disk, the last words that had no room."""
        held, self._held = self._held, b""
        self._append(held)
        self._spare.unlink(missing_ok=True)
        if self.lost_bytes:
            lost = self.lost_bytes
            words = f"\nnote: the disk was full; {lost:,} bytes are not here; the last words:\n"
            self._put(words.encode() + self.recent[-(SPARE_BYTES // 2) :])
            self.lost_bytes = lost
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        self.recent = (self.recent + data)[-_RECENT_BYTES:]
        size = os.fstat(self._descriptor).st_size
        if size and size + len(data) > self._max_bytes:
            cut = data.find(b"\n") + 1
            self._put(data[:cut])
            data = data[cut:]
            self._rotate()
        self._put(data)

    def _put(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # the disk is full, or gone: no reason to end an action
            self.lost_bytes += len(data)

    def _rotate(self) -> None:
        try:
            os.replace(self._path, _before(self._path))
            descriptor = _opened(self._path)
        except OSError:
            return
        os.close(self._descriptor)
        self._descriptor = descriptor

    def _without_secrets(self, data: bytes) -> tuple[bytes, bytes]:
        """`data` for the log, and its end that may be the beginning of a secret."""
        text = data.decode("utf-8", "surrogateescape")
        cleaned = without_secrets(text, self._secrets).encode("utf-8", "surrogateescape")
        num_held = max(_overlap(cleaned, secret.encode()) for secret in self._secrets)
        return cleaned[: len(cleaned) - num_held], cleaned[len(cleaned) - num_held :]


def tail(path: Path, num_lines: int = 100, *, max_bytes: int = 1 << 20) -> list[str]:
    """The last lines of a log, of at most `max_bytes`; none where there is no log."""
    descriptor = _open_to_read(path)
    try:
        lines, rest = _last_lines(path, descriptor, num_lines, max_bytes)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    lines = [*lines, rest] if rest else lines
    return [shown(line) for line in lines[-num_lines:]] if num_lines > 0 else []


def follow(
    path: Path, has_ended: Callable[[], bool], *, num_lines: int = 100, poll_seconds: float = 0.2
) -> Iterator[str]:
    """The last lines of a log and those to come, until the job `has_ended` and all is read."""
    descriptor = _open_to_read(path)
    try:
        lines, rest = _last_lines(path, descriptor, num_lines, 1 << 20)
        yield from map(shown, lines[-num_lines:] if num_lines > 0 else [])
        is_last = False
        while not is_last:
            is_last = has_ended()  # asked first: what was written before it is read below
            while descriptor is not None or (descriptor := _open_to_read(path)) is not None:
                new = _file_after(path, descriptor)  # looked for first, for the same reason
                while block := os.read(descriptor, _BLOCK_BYTES):
                    *lines, rest = _cut(rest + block)
                    yield from map(shown, lines)
                if new is None:
                    break
                if not _is_file_before(path, descriptor):
                    yield "note: the log grew too fast; a part of it is not shown"
                os.close(descriptor)
                descriptor = new
            if not is_last:
                time.sleep(poll_seconds)
        if rest:
            yield shown(rest)
    finally:
        if descriptor is not None:
            os.close(descriptor)


_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")


def shown(line: bytes) -> str:
    """A line of a log as a terminal may show it: of a progress bar its last state, no escapes, of
    a long one the two ends."""
    line = line.rstrip(b"\r\n").rpartition(b"\r")[2]
    if len(line) > 2 * _LONGEST_LINE:
        between = f" ... {len(line) - 2 * _LONGEST_LINE:,} bytes ... ".encode()
        line = line[:_LONGEST_LINE] + between + line[-_LONGEST_LINE:]
    text = _ESCAPES.sub("", line.decode("utf-8", "replace"))
    return printable(text.replace("\t", "    "))


def last_error(data: bytes) -> str:
    """The last words `error: ...` that a command printed, several problems a line each, or ""."""
    found: list[str] = []
    is_together = False
    for line in data.split(b"\n"):
        text = _error_in(shown(line))
        if text:
            found = [*found, text] if is_together else [text]
        is_together = bool(text)
    if len(found) > _MAX_ERROR_LINES:
        more = len(found) - _MAX_ERROR_LINES
        found = [*found[:_MAX_ERROR_LINES], f"and {more:,} more"]
    return "\n".join(found)


def _error_in(line: str) -> str:
    if line.startswith("error: "):
        return line.removeprefix("error: ")
    if line.startswith("{") and '"error"' in line:  # --log-json
        try:
            facts: Any = json.loads(line)
        except ValueError:
            return ""
        if isinstance(facts, dict) and facts.get("level") == "error":
            if "where" not in facts:
                return str(facts.get("message", ""))
            text = f"{facts['where']}: expected {facts.get('expected')}, got "
            return f"{text}{facts.get('received')}. {facts.get('fix', '')}".rstrip()
    return ""


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _open_to_read(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _fill(path: Path, num_bytes: int) -> None:
    """Take room on the disk, where there is any."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.write(descriptor, bytes(num_bytes))
    os.close(descriptor)


def _overlap(data: bytes, secret: bytes) -> int:
    """How many bytes at the end of `data` are a beginning of `secret`, but not all of it."""
    for size in range(min(len(data), len(secret) - 1), 0, -1):
        if data.endswith(secret[:size]):
            return size
    return 0


def _last_lines(
    path: Path, descriptor: int | None, num_lines: int, max_bytes: int
) -> tuple[list[bytes], bytes]:
    """The last lines that have ended, `num_lines` at least where there are, and what follows.

    descriptor: of the log at `path`, left at its end.
    """
    data = b""
    if descriptor is not None:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        data = _end_of(descriptor, size, num_lines + 1, max_bytes)
    before = _open_to_read(_before(path))
    if before is not None:
        missing = num_lines + 1 - data.count(b"\n")
        if missing > 0 and len(data) < max_bytes:
            size = os.lseek(before, 0, os.SEEK_END)
            data = _end_of(before, size, missing, max_bytes - len(data)) + data
        os.close(before)
    *lines, rest = data.split(b"\n")
    return lines, rest


def _end_of(descriptor: int, size: int, num_newlines: int, max_bytes: int) -> bytes:
    """The end of a file of `size`, from before `num_newlines` line ends on."""
    at, data = size, b""
    while at > 0 and len(data) < max_bytes and data.count(b"\n") < num_newlines:
        num_bytes = min(_BLOCK_BYTES, at, max_bytes - len(data))
        at -= num_bytes
        data = os.pread(descriptor, num_bytes, at) + data
    return data


def _cut(data: bytes) -> list[bytes]:
    """Lines, the last of them not ended; one that is too long comes in pieces."""
    *lines, rest = data.split(b"\n")
    while len(rest) > _LONGEST_LINE:
        lines.append(rest[:_LONGEST_LINE])
        rest = rest[_LONGEST_LINE:]
    return [*lines, rest]


def _file_after(path: Path, descriptor: int) -> int | None:
    """The file that is the log now, if it is another one than `descriptor`."""
    new = _open_to_read(path)
    if new is not None and os.path.samestat(os.fstat(new), os.fstat(descriptor)):
        os.close(new)
        return None
    return new


def _is_file_before(path: Path, descriptor: int) -> bool:
    """Whether the log followed on `descriptor` and no other came in between."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(_before(path)), os.fstat(descriptor))
    return False
