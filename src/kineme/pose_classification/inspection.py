"""Everything that can be found wrong in files of skeletons, without a spec or a model.

Promises: every value is read; nothing is changed; one fault hides no other. A layout is
guessed from nothing: what depends on it is left to training.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from kineme.data import scan, shards
from kineme.data.arrays import Skeletons
from kineme.data.faults import Fault, Inspection
from kineme.data.labels import Labels, UnknownClasses, label_problems, label_warnings, read_labels
from kineme.errors import DataError
from kineme.pose_classification.paths import label_names, open_store


def inspect(where: Path, cache: Path) -> Inspection | None:
    """Look at an .npy file, a sharded store, or all of these in a folder; None where none is."""
    del cache
    paths = sorted(_data_files(where))
    if not paths:
        return None
    faults: list[Fault] = []
    classes: dict[str, dict[str, int]] = {}
    digests: dict[Path, dict[str, bytes]] = {}
    num_frames = 0
    for path in paths:
        try:
            store = open_store(path)
        except DataError as error:
            faults += [Fault.of(problem) for problem in error.problems]
            continue
        found = scan.scan_skeletons(store)
        faults += _damaged_shards(store)
        labels = _labels(path, store, faults)
        faults += [Fault.of(p) for p in scan.scan_problems(str(path), found, nan_policy="error")]
        faults += _notes(scan.scan_warnings(str(path), found))
        faults += _notes(getattr(store, "notes", ()))
        num_frames += int(found.lengths.sum())
        classes[path.stem] = _counts(labels, store.shape[0])
        ids = labels.ids if labels else tuple(map(str, range(store.shape[0])))
        known = scan.content_digests(store, found.lengths)
        digests[path] = dict(zip(ids, known, strict=False))
    for first, second in combinations(digests, 2):
        leak = scan.leak_warning(str(first), digests[first], str(second), digests[second])
        faults += _notes([leak] if leak else [])
    return Inspection(classes, num_frames, tuple(faults))


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


def _labels(path: Path, store: Skeletons, faults: list[Fault]) -> Labels | None:
    """The labels beside the data, else those in it; what is wrong with them goes to faults."""
    num_samples, names = store.shape[0], label_names(path)
    files = (path.with_name(name) for name in names)
    file = next((file for file in files if file.is_file()), None)
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
        where, labels, num_samples=num_samples, num_classes=num_classes, is_training=True
    )
    faults += [Fault.of(problem) for problem in problems]
    faults += _notes(label_warnings(where, labels, classes))
    return labels if len(labels) == num_samples else None


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
