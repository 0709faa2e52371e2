"""What went wrong, in one line a user can act on, and the exit code that goes with it.

Promises: every error a user can cause is a `KinemeError`; each of its problems says
where - expected - received - what to do; several problems are reported together.
Leaves out: printing and logging (cli.py), and bugs of ours (they stay plain exceptions).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HIDDEN = "***"  # in place of a secret

EXIT_OK = 0
EXIT_BUG = 1
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: `where: expected E, got R. Fix.`"""

    where: str
    expected: str
    received: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: expected {self.expected}, got {self.received}."
        return printable(f"{line} {self.fix}".rstrip())


class KinemeError(Exception):
    """An error the user can mend. Subclasses fix the exit code of the process."""

    exit_code = EXIT_BUG

    def __init__(self, where: str, expected: str, received: str, fix: str = "") -> None:
        self.problems: tuple[Problem, ...] = (Problem(where, expected, received, fix),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "KinemeError":
        """One error that carries several problems; it prints a line for each."""
        first = problems[0]
        error = cls(first.where, first.expected, first.received, first.fix)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error

    def __reduce__(self) -> tuple[object, ...]:  # crosses process boundaries with its problems
        return (type(self).of, (self.problems,))


class SpecError(KinemeError):
    """Usage or spec: an unknown key, a value out of range, settings that contradict."""

    exit_code = 2


class DataError(KinemeError):
    """Data on disk is not what its format or the spec says."""

    exit_code = 3


class CheckpointError(KinemeError):
    """A checkpoint or model file is missing, damaged, unsafe or of another model."""

    exit_code = 4


class ResourceError(KinemeError):
    """Disk, memory or a device is not there or not enough."""

    exit_code = 5


class ServiceError(KinemeError):
    """An external service (object store, stream) failed."""

    exit_code = 6


class QualityError(KinemeError):
    """A quality gate stopped the run: NaN loss, export parity."""

    exit_code = 7


class PartialError(KinemeError):
    """The run finished, but some inputs failed."""

    exit_code = 8


def without_secrets(text: str, secrets: Sequence[str]) -> str:
    """`text` with *** in place of every secret, as it is or as JSON or Python spell it."""
    for secret in filter(None, map(str.strip, secrets)):
        spellings = {secret, repr(secret)[1:-1], ascii(secret)[1:-1]}
        spellings |= {json.dumps(secret, ensure_ascii=flag)[1:-1] for flag in (True, False)}
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, HIDDEN)
    return text


def printable(text: str) -> str:
    """`text` on one line, with control characters and terminal escapes spelled out."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


def listed(words: Iterable[object], num_shown: int = 3) -> str:
    """The first few of `words` and how many more there are: "a, b, c and 4 more"."""
    texts = [str(word) for word in words]
    more = f" and {len(texts) - num_shown:,} more" if len(texts) > num_shown else ""
    return ", ".join(texts[:num_shown]) + more


def shortened(value: object, num_chars: int = 60) -> str:
    """`value` as Python writes it, at most `num_chars` of it."""
    if isinstance(value, str | bytes):
        value = value[: num_chars + 1]
    text = repr(value)
    return text if len(text) <= num_chars else f"{text[: num_chars - 3]}..."
