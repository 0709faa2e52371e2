"""Reading pickles of plain values without ever running what they say.

A pickle is a program for a stack machine. The machine here knows only the steps that make
lists, tuples, dicts, text, bytes, numbers and numpy arrays of numbers or text; every other
step is refused by name. No class is looked up, nothing is imported, nothing is called.
Promises: protocols 0 to 5 and Python 2 (its text as latin-1); `max_steps` bounds the time
and the size of the file bounds the memory; whatever else happens is a DataError.
Leaves out: objects, sets, buffers kept outside the file. A list may hold itself. A machine
that passes over objects is built on this one (engine/foreign.py).
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from kineme.data.inputs import read_bytes
from kineme.errors import DataError

MAX_STEPS = 1_000_000  # about 0.5 s; a label file of 200,000 samples in any protocol
_MAX_FILE_BYTES = 8 << 30
_MAX_INTEGER_BYTES = 64
_MAX_KEY = 2**40  # integers beyond may be made to collide in a dict, which then takes ages
_MAX_ARGUMENTS = 8
_LONG_BYTES = 4096  # bytes from this length on are views of the file's content, not copies
_NUMBERS = re.compile(r"[<>|=]?[biufUS][1-9]\d{0,5}")  # dtypes that may be
_LEAVES = frozenset({type(None), bool, int, float, str, bytes, memoryview, np.ndarray})


def read_plain_pickle(path: str | os.PathLike[str], *, max_steps: int = MAX_STEPS) -> Any:
    """The value in a pickle file: None, bool, int, float, str, bytes, list, tuple, dict, array.

    Arrays are read-only and share the file's bytes; bytes of 4 KiB or more come as
    memoryviews. Raises DataError for anything else, naming what is not allowed.
    """
    content = read_bytes(path, max_bytes=_MAX_FILE_BYTES)
    return parse_plain_pickle(str(path), content, max_steps=max_steps)


def parse_plain_pickle(where: str, content: bytes, *, max_steps: int = MAX_STEPS) -> Any:
    """The value in the pickle `content`; `where` names it in errors."""
    machine = Machine(content)
    try:
        value = machine.run(max_steps)
        _check_plain(value)
        return value
    except RefusedError as refused:
        raise DataError(
            where,
            "a pickle of plain lists, tuples, dicts, text and numbers",
            str(refused),
            "Nothing in it was run. Save plain lists, or write JSON or CSV.",
        ) from None
    except DAMAGES as error:
        raise DataError(
            where,
            "a whole pickle",
            f"a damaged one, or none (byte {machine.step_at:,} of {len(content):,})",
            "Write or copy it again, or use JSON or CSV.",
        ) from error


class RefusedError(Exception):
    """A step or a value that is not allowed."""


DAMAGES = (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error)
"""What a step raises where the pickle is not whole."""


class Name(NamedTuple):
    """The name of something that may be called: of one of the functions in CALLS."""

    text: str


class Pending:
    """A dtype or array that a later step completes, and where it is remembered."""

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.dtype = dtype  # without its byte order; None for an array
        self.keys: list[int] = []


def may_be_key(value: object) -> bool:
    """Whether a dict takes it as a key: text, bytes, or an integer that cannot collide."""
    return type(value) in (str, bytes) or (type(value) is int and abs(value) < _MAX_KEY)


class Machine:
    """Runs one pickle of `content`, from the byte `at`."""

    value_steps: ClassVar[Mapping[int, Callable[[Any], Any]]] = {}  # a step pushes what it returns
    stack_steps: ClassVar[Mapping[int, Callable[[Any], None]]] = {}

    def __init__(self, content: bytes, at: int = 0) -> None:
        self.content = content
        self.at = at  # the next byte
        self.step_at = 0  # the step under way
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copies_left = 4 * len(content) + 4096  # bytes that steps may make out of others

    def run(self, max_steps: int) -> Any:
        """The value that the pickle makes."""
        values, moves = self.value_steps, self.stack_steps
        for _ in range(max_steps):
            self.step_at = at = self.at
            code = self.content[at]
            self.at = at + 1
            if value_of := values.get(code):
                self.stack.append(value_of(self))
            elif code == _STOP:
                return self.stack.pop()
            else:
                moves.get(code, _refuse)(self)
        raise RefusedError(f"more than {max_steps:,} steps")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        start, self.at = self.at, self.at + count
        if not start <= self.at <= len(self.content):
            raise ValueError("ends early")
        return self.content[start : self.at]

    def number(self, count: int) -> int:
        """An unsigned integer of `count` bytes."""
        return int.from_bytes(self.take(count), "little")

    def integer(self, count: int) -> int:
        """A signed integer of `count` bytes."""
        if count > _MAX_INTEGER_BYTES:
            raise RefusedError(f"an integer of {count:,} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def line(self) -> str:
        """The text up to the next line end."""
        end = self.content.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode("latin-1")

    def text(self, count: int) -> str:
        return str(self.take(count), "utf-8", "surrogatepass")

    def blob(self, count: int) -> bytes | memoryview:
        if count < _LONG_BYTES:
            return self.take(count)
        start, self.at = self.at, self.at + count
        if self.at > len(self.content):
            raise ValueError("ends early")
        return memoryview(self.content)[start : self.at]

    def above_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("nothing there")
        del self.stack[-count:]
        return items

    def remember(self, key: int) -> None:
        if not 0 <= key < _MAX_KEY:
            raise ValueError("no place to remember")
        value = self.memo[key] = self.stack[-1]
        if type(value) is Pending:
            value.keys.append(key)

    def fill_list(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("no list to fill")
        target.extend(items)

    def fill_dict(self, target: object, items: Sequence[Any]) -> None:
        """items: keys and values in turn. Only keys that `may_be_key` allows."""
        if type(target) is not dict:
            raise TypeError("no dict to fill")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not may_be_key(key):
                kind = type(key).__name__
                raise RefusedError(f"a dict key that is no text or small integer, {kind}")
            target[key] = value

    def name(self, module: object, attribute: object) -> Name:
        if type(module) is not str or type(attribute) is not str:
            raise TypeError("a name that is not text")
        text = f"{module}.{attribute}"
        if text not in CALLS:
            raise RefusedError(f"pickle opcode GLOBAL {text[:120]} is not allowed")
        return Name(text)

    def call(self, called: object, arguments: object) -> Any:
        if type(called) is not Name or type(arguments) is not tuple:
            raise RefusedError(f"a call of {type(called).__name__}")
        if len(arguments) > _MAX_ARGUMENTS:
            raise RefusedError(f"a call with {len(arguments):,} arguments")
        return CALLS[called.text](self, *arguments)

    def complete(self) -> None:
        pending, state = self.last(2)
        if type(pending) is not Pending or type(state) is not tuple:
            raise RefusedError(f"a state for {type(pending).__name__}")
        value: Any
        if pending.dtype is not None:
            value = _ordered(pending.dtype, state)
        else:
            _, shape, dtype, is_fortran, raw = state
            value = _array(self, raw, dtype, shape, "F" if is_fortran else "C")
        self.stack.append(value)
        for key in pending.keys:
            self.memo[key] = value

    def spend(self, count: int) -> None:
        """Few bytes must not become many: a bomb that copies one text many times ends here."""
        self.copies_left -= count
        if self.copies_left < 0:
            raise RefusedError("a value that grows far beyond its file")


# What a pickle may call: our own stand-ins for the constructors of numpy values.


def _dtype(machine: Machine, code: object, *_: object) -> Pending:
    if type(code) is not str:
        raise TypeError("a dtype that is not text")
    if not _NUMBERS.fullmatch(code):
        kind = "objects" if code.startswith("O") else f"dtype {code[:40]!r}"
        raise RefusedError(f"a numpy array of {kind}")
    return Pending(np.dtype(code))


def _ordered(dtype: np.dtype[Any], state: tuple[Any, ...]) -> np.dtype[Any]:
    _, order, *fields = state[:5]
    if any(field is not None for field in fields):
        raise RefusedError("a structured numpy array")
    return dtype.newbyteorder(order) if order in ("<", ">") else dtype


def _reconstruct(machine: Machine, *_: object) -> Pending:
    return Pending(None)


def _array(
    machine: Machine, raw: Any, dtype: object, shape: Any, order: object
) -> np.ndarray[Any, Any]:
    if type(raw) is str:  # how Python 2 wrote bytes
        machine.spend(len(raw))
        raw = raw.encode("latin-1")
    if type(raw) not in (bytes, memoryview) or not isinstance(dtype, np.dtype):
        raise RefusedError("a numpy array of something else than numbers")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise TypeError("no shape")
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != len(raw) or order not in ("C", "F"):
        raise ValueError("bytes and shape differ")
    if not len(raw):
        return np.empty(shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _from_buffer(
    machine: Machine, raw: object, dtype: object, shape: object, order: object
) -> np.ndarray[Any, Any]:
    return _array(machine, raw, dtype, shape, order)


def _scalar(machine: Machine, dtype: object, raw: Any) -> Any:
    machine.spend(len(raw))
    return _array(machine, raw, dtype, (), "C").item()


def _encode(machine: Machine, text: object, encoding: object = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise RefusedError("an encoding other than latin-1")
    machine.spend(len(text))
    return text.encode("latin-1")


def _empty_bytes(machine: Machine, *arguments: object) -> bytes:
    if arguments:
        raise RefusedError("a call of bytes")
    return b""


def _not_called(machine: Machine, *_: object) -> Any:
    raise RefusedError("a call of numpy.ndarray")


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": _not_called,  # only ever an argument of _reconstruct
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encode,  # how protocols 0 to 2 write bytes
    "__builtin__.bytes": _empty_bytes,
    "builtins.bytes": _empty_bytes,
}

# The steps. A value step returns what is pushed; a stack step moves what is there.


def _int(machine: Machine) -> int:
    line = machine.line()
    return line == "01" if line in ("00", "01") else int(line)


def _quoted(machine: Machine) -> str:
    line = machine.line()
    if len(line) < 2 or line[0] not in "'\"" or line[-1] != line[0]:
        raise ValueError("text without quotes")
    return line[1:-1].encode("latin-1").decode("unicode_escape")


def _dict(machine: Machine) -> dict[Any, Any]:
    value: dict[Any, Any] = {}
    machine.fill_dict(value, machine.above_mark())
    return value


def _set_items(machine: Machine) -> None:
    items = machine.above_mark()
    machine.fill_dict(machine.stack[-1], items)


def _protocol(machine: Machine) -> None:
    if machine.number(1) > 5:
        raise RefusedError("a pickle protocol above 5")


def _frame(machine: Machine) -> None:
    machine.take(8)


def _refuse(machine: Machine) -> None:
    name = _REFUSED.get(chr(machine.content[machine.step_at]))
    if name is None:
        raise ValueError("no step of any protocol")
    if name == "INST":
        name = f"INST {machine.line()}.{machine.line()}"[:120]
    raise RefusedError(f"pickle opcode {name} is not allowed")


_STOP = ord(".")
_VALUE_STEPS: dict[str, Callable[[Machine], Any]] = {
    "N": lambda m: None,
    "\x88": lambda m: True,
    "\x89": lambda m: False,
    "I": _int,
    "L": lambda m: int(m.line().rstrip("L")),
    "J": lambda m: m.integer(4),  # BININT
    "K": lambda m: m.number(1),  # BININT1
    "M": lambda m: m.number(2),  # BININT2
    "\x8a": lambda m: m.integer(m.number(1)),  # LONG1
    "\x8b": lambda m: m.integer(m.number(4)),  # LONG4
    "F": lambda m: float(m.line()),
    "G": lambda m: struct.unpack(">d", m.take(8))[0],  # BINFLOAT
    "S": _quoted,  # STRING
    "T": lambda m: m.take(m.number(4)).decode("latin-1"),  # BINSTRING
    "U": lambda m: m.take(m.number(1)).decode("latin-1"),  # SHORT_BINSTRING
    "V": lambda m: m.line().encode("latin-1").decode("raw_unicode_escape"),  # UNICODE
    "X": lambda m: m.text(m.number(4)),  # BINUNICODE
    "\x8c": lambda m: m.text(m.number(1)),  # SHORT_BINUNICODE
    "\x8d": lambda m: m.text(m.number(8)),  # BINUNICODE8
    "B": lambda m: m.blob(m.number(4)),  # BINBYTES
    "C": lambda m: m.blob(m.number(1)),  # SHORT_BINBYTES
    "\x8e": lambda m: m.blob(m.number(8)),  # BINBYTES8
    "\x96": lambda m: m.blob(m.number(8)),  # BYTEARRAY8
    "]": lambda m: [],
    "}": lambda m: {},
    ")": lambda m: (),
    "l": lambda m: m.above_mark(),  # LIST
    "d": _dict,
    "t": lambda m: tuple(m.above_mark()),
    "\x85": lambda m: (m.stack.pop(),),
    "\x86": lambda m: tuple(m.last(2)),
    "\x87": lambda m: tuple(m.last(3)),
    "g": lambda m: m.memo[int(m.line())],  # GET
    "h": lambda m: m.memo[m.number(1)],
    "j": lambda m: m.memo[m.number(4)],
    "c": lambda m: m.name(m.line(), m.line()),  # GLOBAL
    "\x93": lambda m: m.name(*m.last(2)),  # STACK_GLOBAL
    "R": lambda m: m.call(*m.last(2)),  # REDUCE
}
_STACK_STEPS: dict[str, Callable[[Machine], None]] = {
    "\x80": _protocol,
    "\x95": _frame,
    "\x98": lambda m: None,  # READONLY_BUFFER: what we make is read-only anyway
    "(": lambda m: m.marks.append(len(m.stack)),
    "a": lambda m: m.fill_list(m.last(1)),  # APPEND
    "e": lambda m: m.fill_list(m.above_mark()),
    "s": lambda m: m.fill_dict(m.stack[-3], m.last(2)),  # SETITEM
    "u": _set_items,
    "p": lambda m: m.remember(int(m.line())),  # PUT
    "q": lambda m: m.remember(m.number(1)),
    "r": lambda m: m.remember(m.number(4)),
    "\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    "b": lambda m: m.complete(),  # BUILD
}
Machine.value_steps = {ord(character): step for character, step in _VALUE_STEPS.items()}
Machine.stack_steps = {ord(character): step for character, step in _STACK_STEPS.items()}
_REFUSED = {
    "0": "POP",
    "1": "POP_MARK",
    "2": "DUP",
    "P": "PERSID",
    "Q": "BINPERSID",
    "i": "INST",
    "o": "OBJ",
    "\x81": "NEWOBJ",
    "\x92": "NEWOBJ_EX",
    "\x82": "EXT1",
    "\x83": "EXT2",
    "\x84": "EXT4",
    "\x8f": "EMPTY_SET",
    "\x90": "ADDITEMS",
    "\x91": "FROZENSET",
    "\x97": "NEXT_BUFFER",
}


def _check_plain(value: object) -> None:
    """Refuse what a pickle can leave half made: names, dtypes and arrays without content."""
    waiting: list[Any] = [value]
    seen: set[int] = set()
    while waiting:
        item = waiting.pop()
        if type(item) in (list, tuple, dict):
            if id(item) not in seen:
                seen.add(id(item))
                inner = item.values() if type(item) is dict else item
                waiting.extend(part for part in inner if type(part) not in _LEAVES)
        elif type(item) not in _LEAVES:
            raise RefusedError(f"a value of type {type(item).__name__.strip('_').lower()}")
