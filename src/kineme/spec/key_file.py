"""The key of encrypted checkpoints, from a file that holds nothing else.

Promises: one line of text, without white space around it; what is wrong is said, and nothing
of what the file holds. A pipe will do: it is read once.
Leaves out: what the key opens (engine/encryption.py).
"""

from kineme.errors import SpecError

MAX_BYTES = 4096
_WHERE = "encryption_key_file"


def read_key(path: str) -> str:
    """The key in the file `path`. Raises SpecError."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError(f"{_WHERE}: {path}", "a file that can be read", reason) from error
    try:
        key = content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        where = f"byte {error.start:,} is not UTF-8"
        raise SpecError(f"{_WHERE}: {path}", "a line of text", where) from None
    if not key or len(content) > MAX_BYTES or len(key.splitlines()) > 1:
        received = "nothing" if not key else "more than a line"
        if len(content) > MAX_BYTES:
            received = f"more than {MAX_BYTES:,} bytes"
        raise SpecError(f"{_WHERE}: {path}", "one line, the key", received)
    return key
