"""What the terminal gets: lines without secrets, on streams that never end a run.

Promises: one line per error or note, as text or JSON; a closed pipe or a narrow character
set is no error; warnings of ours are notes.
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
        """One line on stderr, without secrets."""
        if self.is_json:
            line = json.dumps({"level": level, **(facts or {"message": text})}, ensure_ascii=False)
        else:
            line = f"{level}: {printable(text)}"
        print(self.clean(line), file=sys.stderr, flush=True)

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
def steady_streams() -> Iterator[None]:
    """Let a closed pipe or a narrow character set never end a run."""
    before = sys.stdout, sys.stderr
    steady = [_Steady(stream) if stream else stream for stream in before]
    sys.stdout, sys.stderr = steady
    try:
        yield
    finally:
        for stream in steady:
            if stream:
                stream.flush()
        sys.stdout, sys.stderr = before


class _Steady:
    """A text stream that drops what no one reads."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return self._drop(len(text))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self, length: int = 0) -> int:
        """Point the file descriptor at nothing, so that later writes succeed."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
