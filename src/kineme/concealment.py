"""The key of encrypted checkpoints, out of sight of `ps` and /proc.

A process shows its words and its first environment to others for as long as it lives, whatever
it does to its own copies; so do all that it starts with them.
Promises: a secret among the words or in KINEME_ENCRYPTION_KEY is handed to a new start of the same
process (execve: same number, same parent) through a pipe, before anything else is imported;
from then on neither it nor what it starts shows the key. A process that needs the key is
started with a pipe that holds it (`handed_on`).
Leaves out: the moment before; shells, their history and scripts that keep the words they ran.
"""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kineme.errors import HIDDEN, SpecError

VARIABLE = "KINEME_ENCRYPTION_KEY"
PIPE_VARIABLE = "KINEME_KEY_DESCRIPTOR"  # number of the pipe in the new start
# Settings, today's and of older TAO releases, whose values nobody should see.
SECRET_SETTINGS = ("encryption_key", "key", "ngc_key", "ngc_api_key")
_WORD = re.compile(rf"\s*\+*\s*({'|'.join(SECRET_SETTINGS)})\s*=(.*)", re.DOTALL)
_FILE = re.compile(r"\s*\+*\s*encryption_key_file\s*=(.*)", re.DOTALL)
# Parts of names, of settings and of variables, that records must not hold the values of.
_SECRET_NAME = re.compile(
    r"key(?!point|word|frame)|secret|token|passw|passphrase|credential", re.IGNORECASE
)
_MAX_BYTES = 32_768  # a pipe holds more without a reader
_FIX = "Use encryption_key_file=PATH instead."
_NO_KEY = ("null", "~", "???")  # what a word says to set none
_kept: dict[str, str | None] = {}  # the key of the environment, of a process that started anew


@dataclass(frozen=True)
class Told:
    """What a command was told. words: as typed. key: of the environment, or None."""

    words: tuple[str, ...]
    key: str | None = field(default=None, repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """All keys, for taking them out of texts."""
        said = [text for text in map(_said_in, self.words) if text]
        unquoted = [text.strip("'\"") for text in said]
        return tuple(dict.fromkeys(filter(None, [self.key, *said, *unquoted])))


def told(argv: Sequence[str] | None = None) -> Told:
    """What this command was told, in `argv` or, by default, in the words of this process.

    Words of this process that hold a key make it start anew; then this returns in the new
    start. Raises SpecError for a key that is empty or cannot be handed on.
    """
    if argv is not None:
        return _checked(Told(tuple(argv), os.environ.get(VARIABLE)))
    descriptor = os.environ.pop(PIPE_VARIABLE, None)
    if descriptor is not None:
        return _handed_over(descriptor)
    found = _checked(Told(tuple(sys.argv[1:]), os.environ.get(VARIABLE)))
    if found.secrets:
        _start_anew(found)
    return found


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable of that name seems to hold what nobody should see."""
    return _SECRET_NAME.search(name) is not None


def environment_key() -> str | None:
    """The key that KINEME_ENCRYPTION_KEY held when the command began."""
    return _kept.get(VARIABLE, os.environ.get(VARIABLE))


@contextlib.contextmanager
def handed_on(key: str | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """For a child that reads `told()`: its environment, which does not show the key, and the
    descriptors it must inherit (`pass_fds` of Popen). They are closed when the block ends."""
    if key is None:
        yield without_key(), ()
        return
    reading = _pipe_with(handed_bytes(key))
    try:
        yield {**without_key(), PIPE_VARIABLE: str(reading)}, (reading,)
    finally:
        os.close(reading)


def without_key() -> dict[str, str]:
    """The environment of this process, without a key."""
    return {
        name: value for name, value in os.environ.items() if name not in (VARIABLE, PIPE_VARIABLE)
    }


def handed_bytes(key: str | None, words: Mapping[int, str] | None = None) -> bytes:
    """What `told()` reads from its pipe. words: those with secrets, by their places."""
    content = json.dumps([key, words or {}]).encode()
    if len(content) > _MAX_BYTES:
        raise SpecError("encryption_key", f"at most {_MAX_BYTES:,} bytes", "more", _FIX)
    return content


def _pipe_with(content: bytes) -> int:
    """The reading end of a pipe that holds `content`, and nothing more to come."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    return reading


def _said_in(word: str) -> str | None:
    """The secret that an override sets; None where it is of something else, or sets none."""
    match = _WORD.fullmatch(word)
    return match[2].strip() if match and match[2].strip().lower() not in _NO_KEY else None


def _checked(found: Told) -> Told:
    """`found`, if no key in it is empty: an unset variable must not mean "unencrypted"."""
    fix = "Is a variable unset? To write checkpoints unencrypted, leave it out."
    if found.key is not None and not found.key.strip():
        raise SpecError(VARIABLE, "a key", "nothing", fix)
    for match in map(_WORD.fullmatch, found.words):
        if match and not match[1].startswith("ngc") and not match[2].strip(" '\""):
            raise SpecError(f"command line: {match[1]}", "a key", "nothing", fix)
    for match in map(_FILE.fullmatch, found.words):
        if match and not match[1].strip(" '\""):
            where = "command line: encryption_key_file"
            raise SpecError(where, "the file of a key", "nothing", fix)
    return found


def _start_anew(found: Told) -> None:
    """Replace this process by one of the same words without keys. Returns never."""
    secret = {i: word for i, word in enumerate(found.words) if _said_in(word) is not None}
    content = handed_bytes(found.key, secret)
    front = sys.orig_argv[1 : len(sys.orig_argv) - len(found.words)]
    if [*front, *found.words] != sys.orig_argv[1:] or not sys.executable:
        expected = "a process that was started with the words it reads"
        raise SpecError("command line: encryption_key", expected, "another", _FIX)
    words = [
        f"{word.partition('=')[0]}={HIDDEN}" if i in secret else word
        for i, word in enumerate(found.words)
    ]
    reading = _pipe_with(content)
    os.set_inheritable(reading, True)
    environment = {**os.environ, PIPE_VARIABLE: str(reading)}
    environment.pop(VARIABLE, None)
    try:
        os.execve(sys.executable, [sys.executable, *front, *words], environment)  # noqa: S606
    except OSError as error:
        os.close(reading)
        received = error.strerror or "a failure"
        raise SpecError("encryption_key", "to start anew without it", received, _FIX) from error


def _handed_over(descriptor: str) -> Told:
    """What the process knew before it started anew."""
    try:
        with open(int(descriptor), "rb") as pipe:
            key, typed = json.loads(pipe.read(_MAX_BYTES))
    except (OSError, ValueError, TypeError) as error:
        raise SpecError(PIPE_VARIABLE, "not to be set", repr(descriptor)) from error
    _kept[VARIABLE] = key
    words = [typed.get(str(i), word) for i, word in enumerate(sys.argv[1:])]
    return Told(tuple(words), key)
