"""Everything that can be found wrong in files of skeletons, without a spec or a model.

Promises: every value is read; nothing is changed; one fault hides no other. Joints have names
where the labels or their number tell the layout; what else depends on it is left to training.

Shapes: N samples, T frames, V joints, M persons; skeletons (N, C, T, V, M).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.data import scan, shards
from kineme.data.arrays import Skeletons
from kineme.data.faults import Fault, Inspection, Samples, is_learned_from
from kineme.data.labels import (
    Labels,
    UnknownClasses,
    label_problems,
    label_warnings,
    read_labels,
    renumbered,
)
from kineme.data.near_copies import form_of
from kineme.errors import DataError
from kineme.pose_classification.labels import layout_problems
from kineme.pose_classification.layouts import LAYOUTS, Layout, layouts_with
from kineme.pose_classification.paths import label_names, open_store, unpacked
from kineme.pose_classification.sources import skeleton_warnings

WINDOW = 64  # frames that `recipe: modern` takes
_CHUNK = 64  # samples read at once


@dataclass(frozen=True)
class _Known:
    """A file that could be read; labels: None where there are none to use."""

    path: Path
    store: Skeletons
    labels: Labels | None


def inspect(where: Path, cache: Path, labels_path: Path | None = None) -> Inspection | None:
    """Look at an .npy file, a sharded store, or all of these in a folder or an archive.

    labels_path: of the one data file, where they are not beside it. None where there is no data.
    """
    paths = sorted(_data_files(unpacked(where, cache)), key=_training_first)
    if not paths:
        return None
    if labels_path and len(paths) > 1:
        raise DataError(str(where), "one data file, as one label file is given", f"{len(paths)}")
    faults: list[Fault] = []
    classes: dict[str, dict[str, int]] = {}
    digests: dict[Path, dict[str, bytes]] = {}
    samples: dict[str, Samples] = {}
    layouts: dict[Path, str] = {}  # as the labels name them
    training: _Known | None = None
    num_frames = 0
    for path in paths:
        try:
            store = open_store(path)
        except DataError as error:
            faults += [Fault.of(problem) for problem in error.problems]
            continue
        found = scan.scan_skeletons(store)
        faults += _damaged_shards(store)
        labels = _labels(path, store, faults, labels_path)
        faults += [Fault.of(p) for p in scan.scan_problems(str(path), found, nan_policy="error")]
        layout = _layout(labels, store.shape[3])
        faults += _notes(skeleton_warnings(str(path), found, layout))
        faults += _notes(getattr(store, "notes", ()))
        num_frames += int(found.lengths.sum())
        classes[path.stem] = _counts(labels, store.shape[0])
        ids = labels.ids if labels else tuple(map(str, range(store.shape[0])))
        known = scan.content_digests(store, found.lengths)
        digests[path] = dict(zip(ids, known, strict=False))
        samples[path.stem] = _samples(store, found, labels, layout, ids=ids, digests=known)
        faults += _strange_layout(path, labels, store.shape[3], layouts)
        if path.stem.lower().startswith("train"):
            training = training or _Known(path, store, labels)
        elif training and not is_learned_from(path.stem):
            own = _Known(path, store, labels)
            faults += _unfit(own, training, file=_label_file(path, labels_path))
    for first, second in combinations(digests, 2):
        leak = scan.leak_warning(str(first), digests[first], str(second), digests[second])
        faults += _notes([leak] if leak else [])
    return Inspection(classes, num_frames, tuple(faults), samples, window=WINDOW)


def _samples(
    store: Skeletons,
    found: scan.Scan,
    labels: Labels | None,
    layout: Layout | None,
    *,
    ids: Sequence[str],
    digests: Sequence[bytes],
) -> Samples:
    """What a look at all samples needs of a file."""
    num_axes = layout.num_axes if layout else store.shape[1]
    names: Sequence[str] = labels.class_names or () if labels else ()
    numbers = np.asarray(labels.labels).tolist() if labels else []
    forms, missing = [], []
    for start in range(0, store.shape[0], _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, store.shape[0]))
        for sample, length in zip(store.read(rows), found.lengths[rows], strict=True):
            own = sample[:, : max(int(length), 1)]
            forms.append(form_of(own, num_axes=min(num_axes, 3)))
            missing.append(_missing(own))
    return Samples(
        ids=tuple(ids),
        labels=tuple(names[n] if 0 <= n < len(names) else str(n) if n >= 0 else "" for n in numbers)
        or ("",) * len(ids),
        lengths=found.lengths,
        digests=tuple(digests),
        forms=np.stack(forms),
        missing=np.stack(missing),
        joints=layout.joints if layout else tuple(map(str, range(store.shape[3]))),
    )


def _layout(labels: Labels | None, num_joints: int) -> Layout | None:
    """The layout that the labels name, or the only one with as many joints."""
    named = LAYOUTS.get(labels.layout or "") if labels else None
    if named and named.num_joints == num_joints:
        return named
    fitting = layouts_with(num_joints)
    return LAYOUTS[fitting[0]] if len(fitting) == 1 else None


def _strange_layout(
    path: Path, labels: Labels | None, num_joints: int, known: dict[Path, str]
) -> list[Fault]:
    """A layout that cannot be that of the data, or is not that of the first file that is known.

    A good one is known afterwards.
    """
    named = labels.layout if labels else None
    if named is None:
        return []
    first, other = next(iter(known.items()), (path, named))
    problems = layout_problems(
        str(path),
        named,
        num_joints=num_joints,
        own=LAYOUTS.get(other),
        whose=f"as of {first}",
        fix="Train on data of one layout.",
    )
    if not problems:
        known[path] = named
    return [Fault.of(problem) for problem in problems]


def _unfit(own: _Known, training: _Known, *, file: Path | None) -> list[Fault]:
    """What keeps data to judge a model by from one of the training data. file: their labels."""
    faults = [
        Fault(
            str(own.path), f"expected {known} {what}, as {training.path}, got {found}", True,
            "Make both alike.",
        )
        for what, axis in (("channels", 1), ("joints", 3))
        if (found := own.store.shape[axis]) != (known := training.store.shape[axis])
    ]  # fmt: skip
    return [*faults, *_strange_classes(own, training, file=file)]


def _strange_classes(own: _Known, training: _Known, *, file: Path | None) -> list[Fault]:
    """Classes that the training data do not have, or number otherwise."""
    if not (training.labels and own.labels):
        return []
    names, labels, where = training.labels.class_names, own.labels, str(file or own.path)
    try:
        if names:
            numbers = {name: number for number, name in enumerate(names)}
            by_name = not own.path.stem.lower().startswith("val")
            labels = (
                read_labels(file, label_map=numbers, by_name=by_name)
                if file
                else renumbered(labels, numbers, where=where)
            )
    except DataError as error:
        found = [Fault.of(problem) for problem in error.problems]
        # a spec has to number names that no file does, and may name more of them
        return found if _are_declared(training) else [replace(f, is_error=False) for f in found]
    num_classes = len(names or ()) or int(training.labels.labels.max(initial=0)) + 1
    beyond = np.flatnonzero(labels.labels >= num_classes)
    if not len(beyond):
        return []
    expected = f"expected a class of {training.path}, from 0 to {num_classes - 1}"
    received = f"got {labels.labels[beyond[0]]} ({len(beyond)} such labels)"
    return [Fault(f"{where}: labels[{beyond[0]}]", f"{expected}, {received}", True)]


def _are_declared(known: _Known) -> bool:
    """Whether the labels themselves say which classes there are, rather than naming some."""
    file = _label_file(known.path, None)
    try:
        return file is None or read_labels(file).class_names is not None
    except UnknownClasses:
        return False


def _missing(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """(V,) share of the frames with a person in which a joint is missing; NaN where nobody is."""
    is_there = (np.nan_to_num(sample) != 0).any(axis=0)  # (T, V, M)
    frames = int(is_there.any(axis=1).sum())
    counts = is_there.sum(axis=(0, 2))
    share = 1 - counts / frames if frames else np.full(len(counts), np.nan)
    return np.asarray(share, np.float32)


def _damaged_shards(store: Skeletons) -> list[Fault]:
    """What a store's own checksums say of it; an array has none."""
    try:
        if isinstance(store, shards.SkeletonShards):
            store.verify()
    except DataError as error:
        return [Fault.of(problem) for problem in error.problems]
    return []


def _data_files(where: Path) -> Iterator[Path]:
    if (where.is_file() and where.suffix.lower() == ".npy") or shards.is_store(where):
        yield where
    elif where.is_dir():
        for path in where.iterdir():
            is_data = path.suffix == ".npy" or (path.is_dir() and shards.is_store(path))
            if is_data and not path.name.startswith("."):
                yield path


def _training_first(path: Path) -> tuple[bool, Path]:
    """The order in which files are held against each other."""
    return not path.stem.lower().startswith("train"), path


def _labels(path: Path, store: Skeletons, faults: list[Fault], given: Path | None) -> Labels | None:
    """The labels that are given, or beside the data, else those in it.

    What is wrong with them goes to faults.
    """
    num_samples, names = store.shape[0], label_names(path)
    file = _label_file(path, given)
    try:
        labels = _read(file) if file else getattr(store, "labels", None)
    except DataError as error:
        faults += [Fault.of(problem) for problem in error.problems]
        return None
    if labels is None or (file is None and (labels.labels < 0).all()):
        where = "in it" if shards.is_store(path) else "beside it"
        faults.append(Fault(str(path), f"no labels {where} ({', '.join(names)})", False))
        return None
    where, classes = str(file or path), labels.class_names or ()
    num_classes = len(classes) or int(labels.labels.max(initial=0)) + 1
    problems = label_problems(
        where,
        labels,
        num_samples=num_samples,
        num_classes=num_classes,
        is_training=is_learned_from(path.stem),
    )
    faults += [Fault.of(problem) for problem in problems]
    faults += _notes(label_warnings(where, labels, classes))
    return labels if len(labels) == num_samples else None


def _label_file(path: Path, given: Path | None) -> Path | None:
    """The labels that are given, or beside the data."""
    files = (path.with_name(name) for name in label_names(path))
    return given or next((file for file in files if file.is_file()), None)


def _read(file: Path) -> Labels:
    """Labels that are text are numbered by their sorted names."""
    try:
        return read_labels(file)
    except UnknownClasses as error:
        if error.are_some_known:
            raise
        label_map = {name: i for i, name in enumerate(error.names)}
        found = read_labels(file, label_map=label_map)
        return Labels(found.ids, found.labels, tuple(error.names), found.layout)


def _counts(labels: Labels | None, num_samples: int) -> dict[str, int]:
    if labels is None:
        return {"": num_samples}
    names = labels.class_names or ()
    counts = Counter(np.asarray(labels.labels).tolist())
    return {
        names[number] if 0 <= number < len(names) else str(number): count
        for number, count in sorted(counts.items())
    }


def _notes(texts: Iterable[str]) -> list[Fault]:
    """Lines that begin with where they are."""
    found = []
    for text in texts:
        where, _, what = text.rstrip(".").partition(": ")
        found.append(Fault(where, what, False))
    return found
