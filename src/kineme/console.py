"""What the terminal gets: lines without secrets, on streams that never end a run.

Promises: one line per error or note, as text or JSON; secrets of the spec are taken out; a
closed pipe or a narrow character set is no error; warnings of ours are notes.
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

from kineme.errors import printable

HIDDEN = "***"


@dataclass
class Session:
    """What error reports need to know of the command so far."""

    is_json: bool = False
    is_action: bool = False
    run_folder: Path | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def say(self, level: str, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """One line on stderr, by way of `steady_streams`."""
        line = f"{level}: {printable(text)}"
        if self.is_json:
            line = _json_line(level, facts or {"message": text})
        print(line, file=sys.stderr, flush=True)

    def clean(self, text: str) -> str:
        """`text` without the secrets of the spec."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


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
    """Let a closed pipe or a narrow character set never end a run; take out secrets."""
    before = sys.stdout, sys.stderr
    kinds = (_Steady, _JsonLines if session.is_json else _Steady)
    steady = [kind(stream, session) for kind, stream in zip(kinds, before, strict=True) if stream]
    if len(steady) == 2:  # a stream that was closed at the start is None and stays so
        sys.stdout, sys.stderr = steady
    try:
        yield
    finally:
        for stream in steady:
            stream.flush()
        sys.stdout, sys.stderr = before


class _Steady:
    """A text stream that drops what no one reads."""

    def __init__(self, stream: IO[str], session: Session) -> None:
        self._stream = stream
        self._session = session
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(self._session.clean(text))
        except BrokenPipeError:
            self._drop()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Point the file descriptor at nothing, so that later writes succeed."""
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
            if line and not line.startswith("{"):
                is_note = line.startswith("note: ")
                level, message = ("note", line[6:]) if is_note else ("info", line)
                line = _json_line(level, {"message": message})
            super().write(line + "\n")
        return len(text)

    def isatty(self) -> bool:
        return False


def _json_line(level: str, facts: Mapping[str, Any]) -> str:
    return json.dumps({"level": level, **facts})
