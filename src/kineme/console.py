"""What the terminal gets: lines without secrets, on streams that never end a run.

Promises: one line per error or note, as text or JSON; secrets of the spec are taken out; a
closed stream, a closed pipe or a narrow character set is no error; a stdout that cannot take
any more is told at the end; warnings of ours are notes. With JSON, both streams are JSON lines.
Leaves out: exit codes and what is said (cli.py), progress bars (engine).
"""

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

from kineme.errors import printable, without_secrets


@dataclass
class Session:
    """What error reports need to know of the command so far."""

    is_json: bool = False
    is_action: bool = False
    run_folder: Path | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    lost: OSError | None = None  # why stdout did not take everything

    def say(self, level: str, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """One line on stderr, by way of `steady_streams`."""
        line = f"{level}: {printable(text)}"
        if self.is_json:
            line = _json_line(level, facts or {"message": text})
        print(line, file=sys.stderr, flush=True)

    def clean(self, text: str) -> str:
        """`text` without the secrets of the spec."""
        return without_secrets(text, self.secrets)


@contextlib.contextmanager
def notes_from_warnings(session: Session) -> Iterator[None]:
    """Our own warnings become notes; those of others show only when asked for (-W)."""
    ours = str(Path(__file__).parent)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if filename.startswith(ours):
            session.say("note", str(message))

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.showwarning = show
        yield


@contextlib.contextmanager
def steady_streams(session: Session) -> Iterator[None]:
    """Let no stream end a run, whatever becomes of it; take out secrets.

    session.lost is set where stdout cannot take what is written.
    """
    before = sys.stdout, sys.stderr
    _occupy_standard_descriptors()
    kind = _JsonLines if session.is_json else _Steady
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(descriptor, "w") as nowhere:  # in place of a stream that was closed
        steady = [kind(to or nowhere, session) for to in before]
        sys.stdout, sys.stderr = steady
        try:
            yield
        finally:
            for stream in steady:
                stream.finish()
            sys.stdout, sys.stderr = before


def _occupy_standard_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed: a file of ours that got such a number would be
    written to by every library that has something to say."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


# What frames a table, where the stream has no such letters.
_FRAMES = str.maketrans(
    dict.fromkeys("\u2501\u2500\u2550", "-")
    | dict.fromkeys("\u2503\u2502\u2551", "|")
    | dict.fromkeys("\u250f\u2533\u2513\u2521\u2547\u2529\u251c\u253c\u2524\u2514\u2534\u2518", "+")
    | dict.fromkeys("\u250c\u252c\u2510\u2517\u253b\u251b\u2523\u252b\u254b\u2578\u257a", "+")
)


class _Steady:
    """A text stream that drops what no one reads."""

    def __init__(self, stream: IO[str], session: Session) -> None:
        self._stream = stream
        self._session = session
        self._is_stdout = stream is sys.stdout
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(self._writable(self._session.clean(text)))
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def finish(self) -> None:
        """Nothing more is written."""
        self.flush()

    def _writable(self, text: str) -> str:
        """`text`, with frames of ASCII where the stream has no others."""
        try:
            text.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return text.translate(_FRAMES)
        return text

    def _drop(self, error: OSError) -> None:
        """Point the file descriptor at nothing, so that later writes succeed."""
        if self._is_stdout and not isinstance(error, BrokenPipeError):  # no one reads: no loss
            self._session.lost = self._session.lost or error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _JsonLines(_Steady):
    """Also turns the plain lines that others write into JSON."""

    _pending = ""

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            line = line.translate(_FRAMES)
            if not set(line) - set("+-*| "):  # blank, or the frame of a table
                continue
            if not _is_json(line):
                is_note = line.startswith("note: ")
                level, message = ("note", line[6:]) if is_note else ("info", line)
                line = _json_line(level, {"message": message})
            super().write(line + "\n")
        return len(text)

    def finish(self) -> None:
        if self._pending:
            self.write("\n")
        super().finish()

    def isatty(self) -> bool:
        return False


def _is_json(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _json_line(level: str, facts: Mapping[str, Any]) -> str:
    return json.dumps({"level": level, **facts})
