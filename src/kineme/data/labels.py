"""Which label each sample has: reading .pkl, .json and .csv, checking, writing.

Promises: nothing in a label file is ever run; a bad label is named by index and value;
samples keep the order of the file. Unknown labels are -1.
Leaves out: which classes a run wants (the spec), and the skeletons (arrays.py).

.pkl   [names, labels], a list or tuple, as NTU and TAO data come.
.json  {"classes": [...], "layout": ..., "samples": [{"id": ..., "label": name or number}]}
       (what `write_labels` writes; "origin" too, where it is known), or [names, labels], or
       {id: label}.
.csv   a header with id and label, further columns ignored.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.inputs import read_bytes
from kineme.data.origin import ORIGIN_FORM, UNKNOWN_ORIGIN, Origin, read_origin
from kineme.data.pickles import read_plain_pickle
from kineme.errors import DataError, Problem, listed
from kineme.files import write_text
from kineme.spec.suggest import did_you_mean

UNKNOWN = -1

_MAX_FILE_BYTES = 1 << 30
_MAX_LABEL = 2**31
_MAX_DIGITS = 20
_MAX_NAME_LENGTH = 4096
_SHOWN = 3
_OWN_WORDS = ("unknown", "no person", "person")  # that results have in place of a class
_FILE_KEYS = ("classes", "layout", "origin", "samples")


@dataclass(frozen=True, eq=False)
class Labels:
    """N samples in the order of their data. The rest is known where the file says it."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,), -1 where unknown
    class_names: tuple[str, ...] | None = None
    layout: str | None = None
    origin: Origin = UNKNOWN_ORIGIN

    def __len__(self) -> int:
        return len(self.ids)


class UnknownClasses(DataError):
    """Labels that are names without a number; `names` are these names, sorted.

    are_some_known: other names have a number, so that these may be misspelled.
    """

    names: tuple[str, ...] = ()
    are_some_known = False


def read_labels(
    path: str | os.PathLike[str],
    *,
    label_map: Mapping[str, int] | None = None,
    by_name: bool = False,
    takes_others: bool = False,
    num_classes: int | None = None,
) -> Labels:
    """Read a label file, by its ending.

    label_map: name -> number, for labels that are text; the file's own classes do as well.
    by_name: numbers, in a file with classes of its own, stand for these classes' names, and
        so may differ from those of `label_map`; otherwise that is an error.
    takes_others: names without a number are unknown labels (-1); otherwise they are an error.
    num_classes: checked by `label_problems`; here it says what labels may be, in messages.
    Labels that are null or blank are -1. Raises DataError for an unreadable file, an unknown form
    or a label that is no label.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], _Raw]] = {
        ".pkl": _read_pickle,
        ".pickle": _read_pickle,
        ".json": _read_json,
        ".csv": _read_csv,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(str(path), "a label file .pkl, .json or .csv", repr(path.suffix))
    raw = reader(path)
    where = str(path)
    if len(raw.ids) != len(raw.labels):
        raise DataError(
            where, "as many names as labels", f"{len(raw.ids)} names, {len(raw.labels)} labels"
        )
    ids = tuple(_as_id(where, index, name) for index, name in enumerate(raw.ids))
    has_numbers = any(type(label) is int for label in raw.labels)
    values = [UNKNOWN if _is_blank(label) else label for label in raw.labels]
    if raw.class_names is not None and label_map is not None and has_numbers:
        if by_name:
            values = _named(values, raw.class_names)
        else:
            _check_same_order(where, raw.class_names, label_map)
    own = {name: i for i, name in enumerate(raw.class_names or ())}
    numbers = own if label_map is None else label_map  # names mean what the spec says
    if takes_others:
        values = _known_names(values, numbers)
    labels = _as_numbers(where, values, numbers, num_classes)
    return Labels(ids, labels, raw.class_names, raw.layout, raw.origin)


def renumbered(
    labels: Labels, label_map: Mapping[str, int], *, where: str, takes_others: bool = False
) -> Labels:
    """The same samples with their classes numbered as in `label_map`, by name.

    Raises DataError when a sample's class has no number, unless takes_others: then it is unknown
    (-1). Without class names nothing changes.
    """
    if labels.class_names is None:
        return labels
    known = _named(labels.labels.tolist(), labels.class_names)
    if takes_others:
        known = _known_names(known, label_map)
    numbers = _as_numbers(where, known, label_map)
    return replace(labels, labels=numbers)


def write_labels(path: str | os.PathLike[str], labels: Labels) -> None:
    """Write the JSON form; labels as names where there are class names. All or nothing."""
    names = labels.class_names
    values = labels.labels.tolist()
    samples = [
        {"id": name, "label": names[value] if names and value >= 0 else value}
        for name, value in zip(labels.ids, values, strict=True)
    ]
    lines = ",\n".join(json.dumps(sample, ensure_ascii=False) for sample in samples)
    known = labels.origin.known()
    told = {"classes": names, "layout": labels.layout, **({"origin": known} if known else {})}
    head = json.dumps(told, ensure_ascii=False)
    write_text(path, f'{head[:-1]}, "samples": [\n{lines}\n]}}\n')


def label_problems(
    where: str,
    labels: Labels,
    *,
    num_samples: int,
    num_classes: int,
    is_labelled: bool = True,
    is_training: bool = False,
) -> list[Problem]:
    """Counts that differ from the data, labels outside [0, num_classes), a single class.

    is_labelled: False where labels are not used (inference); then only counts matter.
    is_training: True where one class alone is not enough.
    """
    problems = []
    if len(labels) != num_samples:
        problems.append(
            Problem(
                where,
                f"{num_samples} labels for {num_samples} samples",
                f"{len(labels)} labels",
                "Check that both files are of the same set.",
            )
        )
    if not is_labelled:
        return problems
    outside = np.flatnonzero((labels.labels < 0) | (labels.labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        largest = int(labels.labels.max())
        more = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        fix = f"Set dataset.num_classes: {largest + 1}, or relabel."
        problems.append(
            Problem(
                f"{where}: labels[{first}]",
                f"an integer in [0, {num_classes})",
                f"{labels.labels[first]}{more}",
                fix if largest >= num_classes else "Relabel or remove the samples.",
            )
        )
    if is_training and len(labels) and len(np.unique(labels.labels)) == 1:
        problems.append(one_class_problem(where, str(labels.labels[0])))
    return problems


def one_class_problem(where: str, shown: str) -> Problem:
    """That there is nothing to tell apart. shown: the only class."""
    return Problem(where, "samples of at least 2 classes", f"only class {shown}")


def label_warnings(where: str, labels: Labels, class_names: Sequence[str]) -> list[str]:
    """Names that occur twice, classes without samples, and those called as results call others."""
    warnings = []
    twice = [name for name, count in Counter(labels.ids).items() if count > 1]
    if twice:
        warnings.append(
            f"{where}: {len(twice)} sample names occur twice or more: {listed(map(repr, twice))}."
        )
    present = set(labels.labels.tolist())
    absent = [name for number, name in enumerate(class_names) if number not in present]
    if absent:
        warnings.append(
            f"{where}: {len(absent)} of {len(class_names)} classes have no sample: "
            f"{listed(map(repr, absent))}."
        )
    own = [name for name in class_names if name in _OWN_WORDS]
    if own:
        warnings.append(
            f"{where}: {listed(map(repr, own))} in results may be this class, or nobody's; a class "
            "of another name is not mistaken."
        )
    return warnings


@dataclass(frozen=True)
class _Raw:
    """A label file as it stands."""

    ids: Sequence[Any]
    labels: Sequence[Any]
    class_names: tuple[str, ...] | None = None
    layout: str | None = None
    origin: Origin = UNKNOWN_ORIGIN


def _read_pickle(path: Path) -> _Raw:
    value = read_plain_pickle(path)
    raw = _pair(value)
    if raw is None:
        raise DataError(
            str(path),
            "[names, labels]: a list of N names and a list of N integers",
            _described(value),
            "For PySKL annotations run dataset_convert first.",
        )
    return raw


def _read_json(path: Path) -> _Raw:
    try:
        text = read_bytes(path, max_bytes=_MAX_FILE_BYTES).decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)[:120]
        raise DataError(str(path), "JSON", reason) from error
    raw = _pair(value)
    if raw is not None:
        return raw
    if isinstance(value, dict) and isinstance(value.get("samples"), list):
        return _described_samples(str(path), value)
    if isinstance(value, dict) and not any(isinstance(v, list | dict) for v in value.values()):
        return _Raw(list(value), list(value.values()))
    raise DataError(
        str(path),
        '{"classes": [...], "samples": [{"id": ..., "label": ...}]}, [names, labels] '
        "or {id: label}",
        _described(value),
    )


def _described_samples(where: str, value: Mapping[str, Any]) -> _Raw:
    _refuse_misspelled(where, value, _FILE_KEYS)
    classes, layout, samples = value.get("classes"), value.get("layout"), value["samples"]
    if classes is not None and not _is_names(classes):
        expected = "a list of different names, none of them empty"
        raise DataError(f"{where}: classes", expected, repr(classes)[:80])
    if layout is not None and not isinstance(layout, str):
        raise DataError(f"{where}: layout", "a name", repr(layout)[:80])
    try:
        origin = read_origin(value.get("origin"))
    except ValueError as error:
        raise DataError(f"{where}: origin", ORIGIN_FORM, str(error)) from error
    for index, sample in enumerate(samples):
        if not isinstance(sample, dict) or "id" not in sample:
            expected = '{"id": ..., "label": ...}'
            raise DataError(f"{where}: samples[{index}]", expected, repr(sample)[:80])
        if len(sample) > 1 and "label" not in sample:
            _refuse_misspelled(f"{where}: samples[{index}]", sample, ("label",))
    return _Raw(
        [sample["id"] for sample in samples],
        [UNKNOWN if sample.get("label") is None else sample["label"] for sample in samples],
        None if classes is None else tuple(classes),
        layout,
        origin,
    )


def _refuse_misspelled(where: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise DataError for a key that is none of `known` and nearly one that is not there."""
    absent = [key for key in known if key not in value]
    for key in value:
        if key not in known and (fix := did_you_mean(key, absent)):
            keys = f"the key{'s' * (len(known) > 1)} {', '.join(known)}"
            raise DataError(where, keys, _described(key), fix)


def _read_csv(path: Path) -> _Raw:
    try:
        text = read_bytes(path, max_bytes=_MAX_FILE_BYTES).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (ValueError, csv.Error) as error:
        raise DataError(str(path), "CSV in UTF-8", str(error)[:120]) from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if "id" not in header or "label" not in header:
        raise DataError(str(path), "a header with id and label", repr(header)[:80])
    id_at, label_at = header.index("id"), header.index("label")
    filled = [(number, row) for number, row in enumerate(rows[1:], 2) if row]
    for number, row in filled:
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number}", f"{len(header)} cells", f"{len(row)}: {str(row)[:80]}"
            )
    cells = [row[label_at].strip() for _, row in filled]
    are_numbers = all(cell.removeprefix("-").isdecimal() for cell in cells if cell)
    for (number, _), cell in zip(filled, cells, strict=True):
        if are_numbers and len(cell) > _MAX_DIGITS:  # int() would refuse thousands of them
            expected = f"a label of at most {_MAX_DIGITS} digits"
            raise DataError(f"{path}: row {number}", expected, f"one of {len(cell):,}")
    labels = [int(cell) if cell and are_numbers else cell for cell in cells]
    return _Raw([row[id_at] for _, row in filled], labels)


def _pair(value: Any) -> _Raw | None:
    """[names, labels], if that is what `value` is."""
    if type(value) not in (list, tuple) or len(value) != 2:
        return None
    ids, labels = (
        part.tolist() if isinstance(part, np.ndarray) and part.ndim == 1 else part for part in value
    )
    if type(ids) not in (list, tuple) or type(labels) not in (list, tuple):
        return None
    if not all(type(name) in (str, bytes, int) for name in ids):
        return None
    return _Raw(ids, labels)


def _as_numbers(
    where: str,
    labels: Sequence[Any],
    numbers: Mapping[str, int],
    num_classes: int | None = None,
) -> NDArray[np.int64]:
    found = [numbers.get(label) if type(label) is str else label for label in labels]
    bad = [i for i, n in enumerate(found) if type(n) is not int or abs(n) >= _MAX_LABEL]
    if not bad:
        return np.array(found, np.int64)
    first = labels[bad[0]]
    expected = "an integer" if num_classes is None else f"an integer in [0, {num_classes})"
    fix = "Labels are integers, or names that dataset.label_map numbers."
    unknown = sorted({label for label in labels if type(label) is str} - set(numbers))
    if numbers and type(first) is str:
        expected = f"one of {listed(sorted(numbers), 10)}"
        correct = "Correct it, or add it to dataset.label_map or the training labels' classes."
        fix = did_you_mean(first, numbers, otherwise=correct, shown=repr)
    elif unknown:
        fix = f"Number the names in dataset.label_map: {{{_numbered(unknown)}}}."
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    received = f"{_described(first)}{more}"
    place = f"{where}: labels[{bad[0]}]"
    if not unknown:
        raise DataError(place, expected, received, fix)
    error = UnknownClasses(place, expected, received, fix)
    error.names, error.are_some_known = tuple(unknown), bool(numbers)
    raise error


def _named(labels: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Numbers within `names` as the names they stand for, the rest as it is."""
    return [names[n] if type(n) is int and 0 <= n < len(names) else n for n in labels]


def _known_names(labels: Sequence[Any], numbers: Mapping[str, int]) -> list[Any]:
    """Names without a number as unknown labels, the rest as it is."""
    return [UNKNOWN if type(n) is str and n not in numbers else n for n in labels]


def _check_same_order(where: str, class_names: Sequence[str], label_map: Mapping[str, int]) -> None:
    """The file's numbers and the spec's must mean the same."""
    for number, name in enumerate(class_names):
        if label_map.get(name, number) != number:
            raise DataError(
                f"{where}: classes",
                f"{name!r} as number {label_map[name]}, as in dataset.label_map",
                f"number {number}",
                "Order both alike: dataset.label_map is of the spec, or of the training labels.",
            )


def _as_id(where: str, index: int, name: Any) -> str:
    if type(name) is int:
        return str(name)
    if type(name) not in (str, bytes) or len(name) > _MAX_NAME_LENGTH:
        expected = f"a name of at most {_MAX_NAME_LENGTH:,} characters"
        raise DataError(f"{where}: names[{index}]", expected, _described(name))
    return name.decode("utf-8", "replace") if type(name) is bytes else name


def _is_blank(label: object) -> bool:
    """Whether a label is an empty cell or text: a missing one, as null is."""
    return isinstance(label, str) and not label.strip()


def _is_names(value: object) -> bool:
    is_list = isinstance(value, list) and all(
        isinstance(name, str) and not _is_blank(name) for name in value
    )
    return is_list and len(set(value)) == len(value)  # type: ignore[call-overload, arg-type]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (`object_pairs_hook`). Raises ValueError where a key occurs twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return value


def _described(value: Any) -> str:
    """A value in a few words; never its full text, which may be endless."""
    if type(value) in (int, float, str, bytes, bool, type(None)):
        return repr(value) if len(str(value)) <= 60 else f"{str(value)[:60]!r}..."
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(part).__name__ for part in value[:_SHOWN])
        return (
            f"a {type(value).__name__} of {len(value)} ({kinds}{', ...' * (len(value) > _SHOWN)})"
        )
    if isinstance(value, dict):
        return f"a dict with keys {', '.join(map(repr, list(value)[:_SHOWN]))}"[:120]
    return f"a {type(value).__name__}"


def _numbered(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name}: {number}" for number, name in enumerate(names[:10]))
    return shown + (", ..." if len(names) > 10 else "")
