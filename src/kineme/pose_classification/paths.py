"""Which files a spec means: those it names, or those of the usual names in a folder or archive.

Promises: labels are paired with the data they belong to by name; what is absent is told with
the names that were looked for. An archive (tar, tar.gz, zip) is unpacked into the cache, once,
and stands for what is in it, or in the one folder that holds all of the data.
Leaves out: opening them (sources.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kineme.data import archives, arrays, shards
from kineme.data.cache import default_cache
from kineme.data.inputs import InputFile
from kineme.data.names import OF_FINDER
from kineme.errors import DataError, SpecError
from kineme.network import PREDICT, TEST, TRAIN, VAL

SECTIONS = {  # split -> dotted section of the spec that names its files
    TRAIN: "dataset.train_dataset",
    VAL: "dataset.val_dataset",
    TEST: "evaluate.test_dataset",
    PREDICT: "inference.test_dataset",
}
_PREFIXES = {TRAIN: ("train",), VAL: ("val",), TEST: ("test", "val"), PREDICT: ("test", "val")}
_LABEL_ENDINGS = (".json", ".csv", ".pkl")
_ENDINGS = (".npy", *_LABEL_ENDINGS)  # of what lies where the data are; a README may lie elsewhere


def section_of(spec: Any, split: str) -> Any:
    """The section that names the files of `split`. Raises SpecError where it names none."""
    block, name = SECTIONS[split].split(".")
    section = getattr(getattr(spec, block), name)
    if not section.data_path:
        raise SpecError(
            f"{SECTIONS[split]}.data_path",
            "an .npy file, a folder or a sharded store",
            "nothing",
            "Set it.",
        )
    return section


def data_path(spec: Any, split: str) -> str:
    """The data that the spec names for `split`, a file where a folder stands for one; or ""."""
    block, name = SECTIONS[split].split(".")
    section = getattr(getattr(spec, block), name)
    return str(resolve_paths(section, split)[0]) if section.data_path else ""


def data_length(spec: Any) -> int | None:
    """Frames of the longest sample of training, by the header of its file or the store's index.

    None where nothing says it at once: of an archive, an address, data that are not here or that
    training will refuse.
    """
    data: Path | None = Path(spec.dataset.train_dataset.data_path or "")
    try:
        if data and data.is_dir() and not shards.is_store(data):
            data = _find(data, _names(TRAIN, "data", (".npy", "")))
        if data and data.is_dir():
            return shards.open_shards(data).shape[2]
        shape = arrays.read_header(InputFile(data))[0] if data else ()
    except (DataError, OSError, ValueError):  # training says so, and more
        return None
    return shape[2] if len(shape) == 5 and shape[2] else None


def resolve_paths(section: Any, split: str) -> tuple[Path, Path | None]:
    """Data and label files of a section; a folder stands for what it holds of the usual names.

    So does an archive. A sharded store is a folder with an index of its own and needs no label
    file.
    """
    data = unpacked(Path(section.data_path))
    label = unpacked(Path(section.label_path)) if section.label_path else None
    if data.is_dir() and not shards.is_store(data):
        names, folder = _names(split, "data", (".npy", "")), data
        found = _find(folder, names)
        if found is None:
            raise _absent(folder, [name for name in names if name.endswith(".npy")], split)
        data, label = found, label or folder
    if label is not None and label.is_dir():
        names, folder = label_names(data, split), label
        label = _find(folder, names)
        if label is None and split != PREDICT and not shards.is_store(data):
            raise _absent(folder, names, split)
    return data, label


def unpacked(path: Path, cache: Path | None = None) -> Path:
    """`path`, or the folder with the members of the archive that it is, below `cache`."""
    is_array_file = path.suffix.lower() in (".npy", ".npz")  # the latter is a zip file, too
    if is_array_file or not path.is_file() or not archives.is_archive(path):
        return path
    folder = archives.extract(path, cache or default_cache())
    while not shards.is_store(folder):
        entries = [x for x in folder.iterdir() if x.name[0] != "." and x.name != OF_FINDER]
        inner = [entry for entry in entries if entry.is_dir()]
        if len(inner) != 1 or any(entry.suffix.lower() in _ENDINGS for entry in entries):
            break
        folder = inner[0]
    return folder


def label_names(data: Path, split: str = "") -> list[str]:
    """Names of label files that belong to `data`: train_label.* to train_data.npy.

    Where the name of the data does not say, those of `split`, and label.*
    """
    if not data.stem.endswith("data"):
        return _names(split, "label", _LABEL_ENDINGS)
    stem = data.stem.removesuffix("data") + "label"
    return [stem + ending for ending in _LABEL_ENDINGS]


def open_store(path: Path) -> arrays.Skeletons:
    """An .npy file or a sharded store."""
    return shards.open_shards(path) if path.is_dir() else arrays.open_skeletons(path)


def _names(split: str, kind: str, endings: Sequence[str]) -> list[str]:
    stems = [*(f"{prefix}_{kind}" for prefix in _PREFIXES.get(split, ())), kind]
    return [stem + ending for stem in stems for ending in endings]


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file or a sharded store."""
    paths = (folder / name for name in names)
    return next((path for path in paths if path.is_file() or shards.is_store(path)), None)


def _absent(folder: Path, names: Sequence[str], split: str) -> DataError:
    received = f"{len(list(folder.iterdir()))} other entries"
    expected = f"one of {', '.join(names)} for {SECTIONS[split]}"
    return DataError(str(folder), expected, received, "Name the file itself.")
