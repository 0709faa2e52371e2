"""Reading what strangers wrote: JSON, numbers, folders; every fault named to the place.

Promises: a file that is not what its format says is a DataError with file, place and key;
JSON lists of any length are read an element at a time.
Leaves out: what the numbers mean (one file per format).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.inputs import InputFile, read_bytes
from kineme.data.names import natural_key, natural_order
from kineme.errors import DataError, SpecError, listed, shortened

_CHUNK_BYTES = 2**20
_MAX_ELEMENT_CHARS = 2**26
_MAX_FILE_BYTES = 2**31
_MAX_DIGITS = 18
_CLASS_DIGITS = 5  # a longer number is a name: an id, a date


def read_text(path: Path) -> str:
    """The whole file as UTF-8 (with or without a byte order mark)."""
    try:
        return read_bytes(path, max_bytes=_MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(str(path), "UTF-8 text", f"other bytes at {error.start:,}") from error


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise DataError(where, "JSON", f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise DataError(str(path), "JSON", _too_much(error)) from error


def iter_json_list(path: Path) -> Iterator[Any]:
    """The elements of a JSON list, one at a time, in memory for one element."""
    decoder, text, is_first = json.JSONDecoder(), _Text(path), True
    if text.next_char() != "[":
        raise DataError(str(path), "a JSON list", f"a file that starts with {text.start()!r}")
    text.skip(1)
    while text.next_char() != "]":
        if not is_first:
            if text.next_char() != ",":
                raise text.error("a comma or the end of the list")
            text.skip(1)
            text.next_char()
        is_first = False
        yield text.decode(decoder)
    text.skip(1)
    if text.next_char():
        raise text.error("nothing after the list")


class _Text:
    """A file as a stretch of text that grows at its end and is eaten at its start."""

    def __init__(self, path: Path) -> None:
        self.path, self.buffer, self.position = path, "", 0
        self._file, self._offset = InputFile(path), 0
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()

    def next_char(self) -> str:
        """The next character that is no space, '' at the end."""
        while True:
            found = re.compile(r"\S").search(self.buffer, self.position)
            if found:
                self.position = found.start()
                return found.group()
            self.position = len(self.buffer)
            if not self._grow(_CHUNK_BYTES):
                return ""

    def decode(self, decoder: json.JSONDecoder) -> Any:
        """The JSON value that starts here."""
        size = _CHUNK_BYTES
        while True:
            try:
                value, end = decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                is_too_long = len(self.buffer) - self.position > _MAX_ELEMENT_CHARS
                if is_too_long or not self._grow(size):
                    raise self.error("JSON", error.msg, at=error.pos) from error
                size *= 2
                continue
            except (ValueError, RecursionError) as error:
                raise self.error("JSON", _too_much(error)) from error
            # A number may go on in the next chunk; whatever ends in a bracket does not.
            if isinstance(value, dict | list) or end < len(self.buffer) or not self._grow(size):
                self.position = end
                return value

    def skip(self, count: int) -> None:
        self.position += count

    def start(self) -> str:
        return self.buffer[:20]

    def error(self, expected: str, received: str = "", at: int | None = None) -> DataError:
        place = self.position if at is None else at
        nearby = self.buffer[place : place + 20]
        seen = (f"{received} at " if received else "") + (repr(nearby) if nearby else "the end")
        byte = self._offset - len(self.buffer[place:].encode())
        return DataError(f"{self.path}: byte {byte:,}", expected, seen)

    def _grow(self, count: int) -> bool:
        count = min(count, self._file.stamp.size - self._offset)
        if count <= 0:
            return False
        data = self._file.read(self._offset, count)
        self._offset += count
        try:
            more = self._utf8.decode(data, final=self._offset == self._file.stamp.size)
        except UnicodeDecodeError as error:
            raise DataError(str(self.path), "UTF-8 text", "other bytes") from error
        self.buffer, self.position = self.buffer[self.position :] + more, 0
        return True


def _too_much(error: Exception) -> str:
    is_deep = isinstance(error, RecursionError)
    return "brackets nested too deeply" if is_deep else "a number with too many digits"


def take(value: Any, key: str, where: str, fix: str = "") -> Any:
    """`value[key]` of a JSON object. Raises DataError naming the key."""
    if not isinstance(value, dict):
        raise DataError(where, f"an object with {key!r}", _kind(value))
    if key not in value:
        keys = listed(map(shortened, sorted(map(str, value))), 8) or "no keys"
        raise DataError(where, f"the key {key!r}", keys, fix)
    return value[key]


def as_list(value: Any, where: str) -> list[Any]:
    """`value`, which has to be a list."""
    if not isinstance(value, list):
        raise DataError(where, "a list", _kind(value))
    return value


def as_int(value: Any, where: str) -> int:
    """`value`, a whole number that an array can hold (in a CSV: its digits)."""
    is_digits = isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value)
    if not is_digits and type(value) is not int:
        raise DataError(where, "a whole number", shortened(value))
    if len(value.strip()) > _MAX_DIGITS if is_digits else abs(value) >= 10**_MAX_DIGITS:
        raise DataError(where, f"a number of at most {_MAX_DIGITS} digits", shortened(value))
    return int(value)


def numbers(value: Any, shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """A nested list as float32 of `shape`, where -1 fits any size."""
    if value == [] and shape[0] == -1:
        return np.zeros((0, *shape[1:]), np.float32)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    expected = "numbers of shape " + " x ".join("any" if n < 0 else str(n) for n in shape)
    if array.dtype.kind not in "fiu" and array.size:
        raise DataError(where, expected, "something else: " + shortened(value))
    fits = len(array.shape) == len(shape) and all(
        want in (-1, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise DataError(where, expected, " x ".join(map(str, array.shape)) or "one number")
    with np.errstate(over="ignore"):  # beyond float32 is inf, which is counted as missing
        return array.astype(np.float32)


def choose_protocol(settings: Any, protocols: Sequence[str]) -> str:
    """`dataset_convert.protocol`: one of `protocols` (the first if not set) or "none"."""
    chosen = settings.protocol or protocols[0]
    if chosen not in (*protocols, "none"):
        raise SpecError(
            "dataset_convert.protocol",
            f"one of {', '.join((*protocols, 'none'))} for format {settings.format}",
            repr(chosen),
        )
    return str(chosen)


def children_of(folder: Path) -> list[Path]:
    """What lies in `folder`, hidden things left out, in natural order."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise DataError(str(folder), "a readable folder", reason) from error
    return sorted(entries, key=lambda entry: natural_key(entry.name))


def read_rows(
    path: Path, required: Collection[str], optional: Collection[str]
) -> list[tuple[str, Mapping[str, Any]]]:
    """(place, row) of a CSV with a header or a JSON list of objects, these columns only.

    What is blank is not there.
    """
    if path.suffix.lower() == ".json":
        rows = [_filled(row) for row in as_list(read_json(path), str(path))]
        places = [f"{path}[{index}]" for index in range(len(rows))]
    else:
        reader = csv.DictReader(io.StringIO(read_text(path)), restkey="", strict=True)
        try:
            rows = [_filled(row) for row in reader]
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}", "CSV", str(error)) from error
        places = [f"{path}:{line}" for line in range(2, len(rows) + 2)]
    for row, place in zip(rows, places, strict=True):
        for key in required:
            take(row, key, place)
        for key in row:
            if key not in required and key not in optional:
                columns = ", ".join([*required, *optional])
                raise DataError(place, f"only the columns {columns}", repr(key))
    if not rows:
        raise DataError(str(path), f"rows of {', '.join(required)}", "none")
    return list(zip(places, rows, strict=True))


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels in their order; if all are class numbers, every number up to the largest.

    01 is a name: a class of that number would have another.
    """
    found = set(labels)
    if found and all(_is_class_number(label) for label in found):
        return tuple(str(number) for number in range(max(map(int, found)) + 1))
    return tuple(natural_order(found))


def _filled(row: Any) -> Any:
    """A row without what is blank."""
    if not isinstance(row, dict):
        return row
    is_blank = {key: isinstance(value, str) and not value.strip() for key, value in row.items()}
    return {key: value for key, value in row.items() if not is_blank[key]}


def _is_class_number(label: str) -> bool:
    is_number = label.isdecimal() and len(label) <= _CLASS_DIGITS
    return is_number and label == str(int(label))


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a flag"}
    return kinds.get(type(value), "a number")
