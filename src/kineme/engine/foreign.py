"""Weights out of checkpoints that hold more than tensors, without running any of it.

torch reads tensors and plain values safely and refuses a file that holds anything else. TAO's
files do: callbacks of Lightning, settings, schedulers. Here the pickle in such a file is gone
through step by step; a class that is not a tensor's is never looked up, an inert stand-in takes
whatever is put into it, and only the tensors are read.
Promises: no import and no call of what a file names; sizes are held against the bytes that are
there; a file that names what runs programs is refused by name. Raises CheckpointError only.
Leaves out: training state (it is dropped), tensors that are sparse or quantised.
"""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from kineme.data.pickles import DAMAGES, Machine, Name, Pending, RefusedError, may_be_key
from kineme.engine.archive import PICKLE_NAME, check_names
from kineme.errors import CheckpointError

MAX_STEPS = 2_000_000  # about 2 s; the largest network of TAO's and its optimizer take 100,000
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's files before 1.6
_RUNS_PROGRAMS = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|importlib|runpy|pty|ctypes|webbrowser|code|timeit"
    r"|pickle|_pickle|cPickle|marshal|commands|popen2|pip)\.|"
    r"(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open|breakpoint|input)$"
)
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {str(kind): kind for kind in _STORAGES.values()}
_MAX_DIMENSIONS = 64


@dataclass(frozen=True)
class Inert:
    """Something of a class that is not read, or the class itself."""

    name: str


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    length: int


class _Tensor(NamedTuple):
    """A tensor that is not read yet."""

    storage: _Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_tensors(path: Path, file: IO[bytes]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The dict in `file` with its tensors and plain values, and the names of what it lacks.

    Of dicts in it, tensors and plain values are kept; whatever else there is, is left out.
    """
    file.seek(0)
    is_archive = file.read(2) == b"PK"
    file.seek(0)
    try:
        value, machine, bytes_of = (_archived if is_archive else _streamed)(path, file)
        if isinstance(value, Inert):
            raise CheckpointError(
                str(path), "a dict of tensors", f"an object of {value.name[:80]}",
                "Save its state_dict, from a program you trust.",
            )  # fmt: skip
        if not isinstance(value, dict):
            raise CheckpointError(str(path), "a dict of tensors", f"a {type(value).__name__}")
        return _kept(value, _Reader(bytes_of)), tuple(sorted(machine.met))
    except _HostileError as hostile:
        raise CheckpointError(
            str(path), "tensors and plain values only",
            f"a file that asks to run code when it is loaded ({hostile})",
            "It was refused, and nothing was run. Save its state_dict alone, from a program you "
            "trust.",
        ) from None  # fmt: skip
    except (*DAMAGES, RefusedError, RuntimeError, zipfile.BadZipFile, OSError) as error:
        received = f"one that cannot be read ({str(error)[:80] or type(error).__name__})"
        raise CheckpointError(
            str(path), "a whole checkpoint", received, "Use another checkpoint of the same run."
        ) from error


BytesOf = Callable[[_Storage], bytes | memoryview]


def _archived(path: Path, file: IO[bytes]) -> tuple[Any, "_TorchMachine", BytesOf]:
    """torch since 1.6: a zip archive with one pickle, and a record for each storage."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    check_names(path, names)
    pickles = [name for name in names if name.rpartition("/")[2] == PICKLE_NAME]
    folder = pickles[0].removesuffix(PICKLE_NAME)
    if len(pickles) > 1:
        raise ValueError("several pickles")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("written on a big-endian machine")
    machine = _TorchMachine(archive.read(pickles[0]))
    value = machine.run(MAX_STEPS)
    return value, machine, lambda storage: archive.read(f"{folder}data/{storage.key}")


def _streamed(path: Path, file: IO[bytes]) -> tuple[Any, "_TorchMachine", BytesOf]:
    """torch before 1.6: five pickles, then the bytes of the storages one after the other."""
    del path
    content = file.read()
    values: list[Any] = []
    machine = _TorchMachine(content)
    for _ in range(4):
        machine = _TorchMachine(content, machine.at)
        values.append(machine.run(MAX_STEPS))
    magic, protocol, system, value = values
    if magic != _MAGIC or protocol != _PROTOCOL or not isinstance(system, dict):
        raise ValueError("none of torch's files")
    if system.get("little_endian") is not True:
        raise ValueError("written on a big-endian machine")
    last = _TorchMachine(content, machine.at)
    keys, at = last.run(MAX_STEPS), last.at
    places: dict[str, int] = {}
    for key in keys:
        storage = machine.storages[key]
        if int.from_bytes(content[at : at + 8], "little") != storage.length:
            raise ValueError(f"another length of storage {key[:20]}")
        places[key] = at + 8
        at += 8 + storage.length * storage.dtype.itemsize

    def bytes_of(storage: _Storage) -> memoryview:
        start = places[storage.key]
        return memoryview(content)[start : start + storage.length * storage.dtype.itemsize]

    return value, machine, bytes_of


def _kept(value: Mapping[Any, Any], reader: "_Reader") -> dict[str, Any]:
    """Tensors and plain values of a dict, and those of the dicts in it."""
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, _Tensor):
            kept[str(key)] = reader.tensor(item)
        elif isinstance(item, dict):
            kept[str(key)] = {
                str(name): reader.tensor(inner) if isinstance(inner, _Tensor) else inner
                for name, inner in item.items()
                if isinstance(inner, _Tensor) or _is_plain(inner)
            }
        elif _is_plain(item):
            kept[str(key)] = bytes(item) if isinstance(item, memoryview) else item
        elif key == "state_dict_encrypted":  # TAO names the cipher by an object of its own
            kept[key] = True
    return kept


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | bytes | memoryview)


class _Reader:
    """Tensors from the bytes of their storages, each storage read once."""

    def __init__(self, bytes_of: BytesOf) -> None:
        self._bytes_of = bytes_of
        self._read: dict[str, torch.Tensor] = {}

    def tensor(self, wanted: _Tensor) -> torch.Tensor:
        storage = wanted.storage
        if storage.key not in self._read:
            raw = self._bytes_of(storage)
            if len(raw) != storage.length * storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key[:20]} is cut off")
            whole = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else None
            self._read[storage.key] = torch.empty(0, dtype=torch.uint8) if whole is None else whole
        flat = self._read[storage.key].view(wanted.dtype)
        if 0 in wanted.size:
            return flat[:0].reshape(wanted.size)
        return flat.as_strided(wanted.size, wanted.stride, wanted.offset)


class _HostileError(Exception):
    """A file that names what runs programs."""


class _TorchMachine(Machine):
    """Makes descriptions of tensors, and inert stand-ins of everything else."""

    def __init__(self, content: bytes, at: int = 0) -> None:
        super().__init__(content, at)
        self.storages: dict[str, _Storage] = {}
        self.met: set[str] = set()  # what was passed over, by name

    def name(self, module: object, attribute: object) -> Any:
        if type(module) is not str or type(attribute) is not str:
            raise TypeError("a name that is not text")
        text = f"{module}.{attribute}"
        if _RUNS_PROGRAMS.match(text):
            raise _HostileError(text[:80])
        if text in _DTYPES:
            return _DTYPES[text]
        if text in _REBUILDERS or _storage_kind(text):
            return Name(text)
        try:
            return super().name(module, attribute)
        except RefusedError:
            if module not in ("builtins", "__builtin__", "collections"):
                self.met.add(text)
            return Inert(text)

    def call(self, called: object, arguments: object) -> Any:
        if isinstance(called, Inert):
            return called
        if isinstance(called, Name) and called.text in _REBUILDERS:
            if type(arguments) is not tuple:
                raise TypeError("arguments that are no tuple")
            return _REBUILDERS[called.text](self, *arguments)
        try:
            return super().call(called, arguments)
        except RefusedError:
            return Inert("")

    def make(self, cls: object, arguments: object) -> Any:
        """A new object: a dict, or something inert."""
        del arguments
        if isinstance(cls, Name) and cls.text == "collections.OrderedDict":
            return {}
        return cls if isinstance(cls, Inert) else Inert("")

    def complete(self) -> None:
        """A state, for a numpy array under way; of all else it says nothing about weights."""
        if not isinstance(self.stack[-2], Pending):
            self.last(1)
            return
        try:
            super().complete()
        except RefusedError:
            self.stack.append(Inert("numpy.ndarray"))

    def fill_list(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], Inert):
            super().fill_list(items)

    def fill_dict(self, target: object, items: Sequence[Any]) -> None:
        """Only under names and small numbers; other keys are classes and the like."""
        if isinstance(target, Inert):
            return
        pairs = zip(items[::2], items[1::2], strict=True)
        kept = [pair for pair in pairs if may_be_key(pair[0]) and type(pair[0]) is not bytes]
        super().fill_dict(target, list(chain.from_iterable(kept)))

    def drop(self) -> None:
        """POP: the last value, or a mark with nothing above it."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def stored(self) -> Any:
        """What a persistent id stands for: a storage."""
        said = self.stack.pop()
        if type(said) is not tuple or len(said) not in (5, 6) or said[0] != "storage":
            raise ValueError("no storage")
        _, kind, key, _, length, *view = said
        dtype = _storage_kind(kind.text) if isinstance(kind, Name) else None
        if dtype is None or any(view):
            return Inert("a storage")
        if type(key) is not str or type(length) is not int or length < 0:
            raise TypeError("no storage")
        storage = _Storage(dtype, key, length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key[:20]} in two forms")
        return storage


def _storage_kind(text: str) -> torch.dtype | None:
    module, _, name = text.rpartition(".")
    return _STORAGES.get(name) if module in ("torch", "torch.cuda", "torch.storage") else None


# What stands for torch's own functions. They get what a stranger wrote, in any number.


def _tensor(
    machine: _TorchMachine, storage: object, offset: Any, size: Any, stride: Any, *_: object
) -> Any:
    return _checked(storage, None, offset, size, stride)


def _tensor_of_dtype(
    machine: _TorchMachine,
    storage: object,
    offset: Any,
    size: Any,
    stride: Any,
    grad: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> Any:
    return _checked(storage, dtype, offset, size, stride)


def _checked(storage: object, dtype: object, offset: Any, size: Any, stride: Any) -> Any:
    """A tensor that lies within its storage and is no larger; inert where nothing can be read."""
    if not isinstance(storage, _Storage):
        return Inert("a tensor")
    kind = storage.dtype if dtype is None else dtype
    if not isinstance(kind, torch.dtype):
        return Inert("a tensor")
    numbers = (offset, *size, *stride)
    if not len(size) == len(stride) <= _MAX_DIMENSIONS or any(
        type(n) is not int or n < 0 for n in numbers
    ):
        raise ValueError("no shape")
    length, rest = divmod(storage.length * storage.dtype.itemsize, kind.itemsize)
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count, last = count * n, last + (n - 1) * step
    if rest or count > length or (count and last >= length):
        raise ValueError(f"a tensor outside of storage {storage.key[:20]}")
    return _Tensor(storage, kind, offset, tuple(size), tuple(stride))


def _parameter(machine: _TorchMachine, tensor: object, *_: object) -> object:
    return tensor


def _of_type(
    machine: _TorchMachine, function: object, kind: object, arguments: object, *_: object
) -> Any:
    return machine.call(function, arguments)


def _ordered_dict(machine: _TorchMachine, pairs: object = (), *_: object) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for pair in pairs if type(pairs) in (list, tuple) else ():  # type: ignore[attr-defined]
        machine.fill_dict(made, list(pair))
    return made


def _shape(machine: _TorchMachine, size: object = (), *_: object) -> tuple[Any, ...]:
    return size if type(size) is tuple else ()


_REBUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _shape,
}


def _old_object(machine: _TorchMachine) -> Any:
    items = machine.above_mark()
    return machine.make(items[0], None)


def _named_object(machine: _TorchMachine) -> Any:
    cls = machine.name(machine.line(), machine.line())
    machine.above_mark()
    return machine.make(cls, None)


def _set(machine: _TorchMachine) -> Any:
    machine.above_mark()
    return Inert("a set")


_TorchMachine.value_steps = {
    **Machine.value_steps,
    ord("2"): lambda m: m.stack[-1],  # DUP
    ord("Q"): lambda m: m.stored(),  # BINPERSID
    ord("o"): _old_object,  # OBJ
    ord("i"): _named_object,  # INST
    0x81: lambda m: m.make(*m.last(2)),  # NEWOBJ
    0x92: lambda m: m.make(*m.last(3)[:2]),  # NEWOBJ_EX
    0x8F: lambda m: Inert("a set"),  # EMPTY_SET
    0x91: _set,  # FROZENSET
}
_TorchMachine.stack_steps = {
    **Machine.stack_steps,
    ord("0"): lambda m: m.drop(),
    ord("1"): lambda m: m.above_mark() and None,  # POP_MARK
    0x90: lambda m: m.above_mark() and None,  # ADDITEMS
}
