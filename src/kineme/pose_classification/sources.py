"""From the paths in a spec to sequences that have been held against it.

Promises: data, labels, layout and class count agree before anything is trained; every
problem found together is reported together; nothing is dropped without a note.
Leaves out: the formats themselves (data/), frames and augmentation (dataset.py).

Shapes: N sequences; the array behind them is (N, C, T, V, M).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data import arrays, sampling, scan, shards
from kineme.data.labels import (
    Labels,
    UnknownClasses,
    label_problems,
    label_warnings,
    read_labels,
    renumbered,
)
from kineme.errors import CheckpointError, DataError, Problem, SpecError
from kineme.network import PREDICT, TEST, TRAIN, VAL
from kineme.pose_classification.layouts import Layout, layout_of, layouts_with
from kineme.spec.load import with_values

RESIDENT_BYTES = 2**30  # data up to this size is kept in memory, larger data is read as needed
SECTIONS = {  # split -> dotted section of the spec that names its files
    TRAIN: "dataset.train_dataset",
    VAL: "dataset.val_dataset",
    TEST: "evaluate.test_dataset",
    PREDICT: "inference.test_dataset",
}
PREFIXES = {TRAIN: ("train",), VAL: ("val",), TEST: ("test", "val"), PREDICT: ("test", "val")}
LABEL_ENDINGS = (".json", ".csv", ".pkl")
NO_PERSON = "no person"  # what is said of a sample in which there is nobody
NO_PERSON_FATE = {  # what becomes of such samples, where a label is asked for
    TEST: f"they are answered {NO_PERSON!r}, which counts as wrong",
    PREDICT: f"they are answered {NO_PERSON!r}",
}


@dataclass(frozen=True, eq=False)
class Sequences:
    """N labelled sequences and how to gather their frames.

    lengths: (N,) frames up to the last one that is not empty, at least 1.
    is_empty: (N,) nobody is in any frame.
    people: (N, P) which persons are kept, by falling motion energy; None keeps all.
    is_centred: the layout's centre joint never moves, as in data that was centred on it:
    there, zero is its place and not a sign that it is missing.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    lengths: NDArray[np.int64]
    is_empty: NDArray[np.bool_]
    store: arrays.Skeletons
    rows: NDArray[np.int64]  # (N,) position of each sequence in the store
    resident: NDArray[np.float32] | None = None
    people: NDArray[np.int64] | None = None
    has_nan: bool = False
    is_centred: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> arrays.Shape:
        """(N, C, T, V, M) as gathered."""
        _, channels, frames, joints, persons = self.store.shape
        if self.people is not None:
            persons = self.people.shape[1]
        return (len(self.ids), channels, frames, joints, persons)

    def gather(
        self, samples: NDArray[np.int64], frames: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """(R, C, F, V, M): frames (R, F) of each sample, or all T; -1 is an empty frame."""
        rows = self.rows[samples]
        if self.resident is not None:
            x = (
                self.resident[rows]
                if frames is None
                else sampling.take_frames(self.resident, frames, rows)
            )
        elif frames is None:
            x = self.store.read(rows)
        else:
            x = self.store.read_frames(rows, frames)
        if self.people is not None:
            kept = self.people[samples][:, None, None, None, :]
            x = np.take_along_axis(x, kept, axis=4)
        if self.has_nan and self.resident is None:
            np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return x


def load_sequences(spec: Any, split: str) -> Sequences:
    """The sequences of `split`, checked. Raises SpecError or DataError with all problems."""
    data_path, label_path = resolve_paths(_section(spec, split), split)
    store = open_store(data_path)
    problems = _shape_problems(spec, str(data_path), store.shape)
    if problems:
        raise DataError.of(problems)
    labels = _labels(spec, split, data_path, label_path, count=store.shape[0])
    found = scan.scan_skeletons(store)
    where = str(label_path or data_path)
    # a test set may come without labels; then there are predictions and nothing to measure
    is_bare = split == TEST and label_path is None and bool((labels.labels < 0).all())
    is_labelled = split != PREDICT and not is_bare
    problems = _content_problems(
        spec, split, found, labels, paths=(str(data_path), where), is_labelled=is_labelled
    )
    if problems:
        raise DataError.of(problems)
    rows = np.arange(store.shape[0])
    if spec.dataset.nan_policy == "drop":
        rows = np.setdiff1d(rows, found.nonfinite_samples)
    people, people_note = _people(store, spec.dataset.num_persons)
    sequences = Sequences(
        ids=tuple(labels.ids[row] for row in rows),
        labels=labels.labels[rows],
        lengths=np.maximum(found.lengths, 1)[rows],
        is_empty=found.lengths[rows] == 0,
        store=store,
        rows=rows,
        resident=_resident(store, found.nonfinite_count > 0),
        people=None if people is None else people[rows],
        has_nan=found.nonfinite_count > 0,
        is_centred=layout_of(spec.model).centre_index in found.constant_joints,
    )
    if not len(rows):
        raise DataError(
            str(data_path),
            "samples without NaN",
            "0 samples left by dataset.nan_policy: drop",
            "Mend the data, or set dataset.nan_policy: zero.",
        )
    notes = _notes(spec, split, sequences, found, where=str(data_path))
    notes += [f"{data_path}: {people_note}"] if people_note else []
    notes += [f"{data_path}: no labels, so there is nothing to measure."] if is_bare else []
    notes += label_warnings(where, labels, class_names(spec)) if is_labelled else []
    sequences = replace(sequences, notes=tuple(notes))
    return _with_leak_note(spec, sequences) if split == VAL else sequences


def _content_problems(
    spec: Any,
    split: str,
    found: scan.Scan,
    labels: Labels,
    *,
    paths: tuple[str, str],
    is_labelled: bool,
) -> list[Problem]:
    """What is wrong inside the data and label files at `paths`."""
    nan_policy = spec.dataset.nan_policy
    return [
        *scan.scan_problems(paths[0], found, nan_policy=nan_policy, may_be_empty=split == PREDICT),
        *label_problems(
            paths[1],
            labels,
            num_samples=found.shape[0],
            num_classes=spec.dataset.num_classes,
            is_labelled=is_labelled,
            is_training=split == TRAIN,
        ),
    ]


def _notes(
    spec: Any, split: str, sequences: Sequences, found: scan.Scan, *, where: str
) -> list[str]:
    """What the user should hear about the data."""
    layout, settings = layout_of(spec.model), spec.dataset
    notes = [*getattr(sequences.store, "notes", ()), *found.notes]
    notes += scan.scan_warnings(
        where,
        found,
        nan_policy=settings.nan_policy,
        confidence_channel=layout.num_axes if found.shape[1] > layout.num_axes else None,
        joint_names=layout.joints,
        centre=layout.centre_index,
        fate_of_empty=NO_PERSON_FATE.get(split, ""),
    )
    if settings.sampling == "uniform" and split == TRAIN:
        note = sampling.short_warning(where, sequences.lengths, settings.num_frames)
        notes += [note] if note else []
    return notes


def resolve_paths(section: Any, split: str) -> tuple[Path, Path | None]:
    """Data and label files of a section; a folder stands for what it holds of the usual names.

    A sharded store is a folder with an index of its own and needs no label file.
    """
    data = Path(section.data_path)
    label = Path(section.label_path) if section.label_path else None
    if data.is_dir() and not shards.is_store(data):
        names, folder = _names(split, "data", (".npy", "")), data
        found = _find(folder, names)
        if found is None:
            raise _absent(folder, [name for name in names if name.endswith(".npy")], split)
        data, label = found, label or folder
    if label is not None and label.is_dir():
        names, folder = _label_names(data, split), label
        label = _find(folder, names)
        if label is None and split != PREDICT and not shards.is_store(data):
            raise _absent(folder, names, split)
    return data, label


def open_store(path: Path) -> arrays.Skeletons:
    """An .npy file or a sharded store."""
    return shards.open_shards(path) if path.is_dir() else arrays.open_skeletons(path)


def complete(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    """Fill in what the data says of itself where the spec is silent: classes and layout.

    Returns the spec and a note for each value taken. Only fields the user did not set
    change; contradictions are found by `load_sequences`.
    """
    data_path, label_path = resolve_paths(_section(spec, split), split)
    if label_path is None and not shards.is_store(data_path):
        return spec, ()
    labels = _labels(spec, split, data_path, label_path)
    values: dict[str, Any] = {}
    if labels.class_names and spec.dataset.label_map is None:
        values["dataset.label_map"] = {name: i for i, name in enumerate(labels.class_names)}
        values["dataset.num_classes"] = len(labels.class_names)
        asked = spec.dataset.num_classes
        if "num_classes" in spec.dataset.model_fields_set and asked != len(labels.class_names):
            raise SpecError(
                "dataset.num_classes",
                f"{len(labels.class_names)}, the classes of {label_path or data_path}",
                repr(asked),
                "Remove it, or set dataset.label_map.",
            )
    is_free = spec.model.layout is None and "graph_layout" not in spec.model.model_fields_set
    if labels.layout and is_free and labels.layout != spec.model.graph_layout:
        values["model.graph_layout"] = labels.layout
    if not values:
        return spec, ()
    listed = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return with_values(spec, values), (f"{label_path or data_path}: took {listed}",)


def class_names(spec: Any) -> tuple[str, ...]:
    """Label names by id; without a label map, the ids themselves."""
    if spec.dataset.label_map is None:
        return tuple(str(label) for label in range(spec.dataset.num_classes))
    return tuple(sorted(spec.dataset.label_map, key=spec.dataset.label_map.__getitem__))


def motion_energy(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, M): sum of squared joint displacements between frames where a joint is present."""
    present = (x != 0).any(axis=1)  # (B, T, V, M)
    both = present[:, 1:] & present[:, :-1]
    steps = (np.diff(x, axis=2) ** 2).sum(axis=1)
    energy: NDArray[np.float32] = np.where(both, steps, 0).sum(axis=(1, 2))
    return energy


def _resident(store: arrays.Skeletons, has_nan: bool) -> NDArray[np.float32] | None:
    if int(np.prod(store.shape, dtype=np.int64)) * 4 > RESIDENT_BYTES:
        return None
    data = store.read(np.arange(store.shape[0]))
    return np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if has_nan else data


def _people(
    store: arrays.Skeletons, num_persons: int | None
) -> tuple[NDArray[np.int64] | None, str | None]:
    """The persons to keep in each sample, those that move most first."""
    total, persons = store.shape[0], store.shape[4]
    if num_persons is None or num_persons >= persons:
        return None, None
    energy = np.concatenate(
        [
            _energy_of_people(store.read(np.arange(start, min(start + 64, total))))
            for start in range(0, total, 64)
        ]
    )
    kept = np.argsort(-energy, axis=1, kind="stable")[:, :num_persons]
    dropped = int((np.sort(energy, axis=1)[:, : persons - num_persons] >= 0).any(axis=1).sum())
    note = f"kept the {num_persons} of {persons} persons who move most; {dropped} of {total} "
    return kept, note + "samples had more (dataset.num_persons)."


def _energy_of_people(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, M) as `motion_energy`, -1 for a place with nobody: who stands still comes before it."""
    x = np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return np.where((x != 0).any(axis=(1, 2, 3)), motion_energy(x), np.float32(-1))


def _labels(
    spec: Any, split: str, data_path: Path, label_path: Path | None, *, count: int = 0
) -> Labels:
    """The labels of `split`; without a file, those of the store, or `count` unknown ones."""
    label_map = spec.dataset.label_map
    try:
        if label_path is not None:
            labels = read_labels(label_path, label_map=label_map, by_name=split == TEST)
        elif shards.is_store(data_path):
            labels = shards.open_shards(data_path).labels
            if label_map is not None and split != PREDICT:
                labels = renumbered(labels, label_map, where=str(data_path))
        elif split in (TEST, PREDICT):
            labels = Labels(tuple(map(str, range(count))), np.full(count, -1, np.int64))
        else:
            raise SpecError(
                f"{SECTIONS[split]}.label_path",
                "a label file (.json, .csv or .pkl)",
                "none",
                "Set it, or give a folder that holds data and labels as data_path.",
            )
    except UnknownClasses as error:
        if split != TEST or label_map is None:
            raise
        raise _strangers(str(label_path or data_path), error.names, label_map) from error
    if label_path is not None and split == PREDICT:  # they do not matter, and may be of others
        known = np.where(labels.labels < spec.dataset.num_classes, labels.labels, -1)
        labels = replace(labels, labels=known)
    return labels


def _strangers(where: str, names: Sequence[str], label_map: Mapping[str, int]) -> CheckpointError:
    """Test data with classes that the checkpoint does not have."""
    shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    return CheckpointError(
        where,
        f"the {len(label_map)} classes of the checkpoint, {str(sorted(label_map))[:120]}",
        f"{len(names)} others besides: {shown}",
        "Relabel or remove these samples, or train with them.",
    )


def _shape_problems(spec: Any, where: str, shape: Sequence[int]) -> list[Problem]:
    layout: Layout = layout_of(spec.model)
    return arrays.check_shape(
        where,
        shape,
        num_channels=spec.model.input_channels,
        num_joints=layout.num_joints,
        layout=layout.name,
        layouts=layouts_with,
    )


def _with_leak_note(spec: Any, val: Sequences) -> Sequences:
    """Say which validation sequences are in the training data too."""
    path, _ = resolve_paths(spec.dataset.train_dataset, TRAIN)
    train = open_store(path)
    lengths = scan.scan_skeletons(train).lengths
    known = dict(enumerate(scan.content_digests(train, lengths)))
    own = scan.content_digests(val.store, scan.scan_skeletons(val.store).lengths)
    note = scan.leak_warning(
        str(path),
        {str(i): digest for i, digest in known.items()},
        str(val.store.path),
        {val.ids[i]: own[row] for i, row in enumerate(val.rows)},
    )
    if note is None:
        return val
    if spec.dataset.fail_on_leakage:
        raise DataError(
            str(val.store.path),
            "no sample of the training data",
            note,
            "Split by person or recording, or set dataset.fail_on_leakage: false.",
        )
    return replace(val, notes=(*val.notes, note))


def _section(spec: Any, split: str) -> Any:
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


def _names(split: str, kind: str, endings: Sequence[str]) -> list[str]:
    stems = [*(f"{prefix}_{kind}" for prefix in PREFIXES[split]), kind]
    return [stem + ending for stem in stems for ending in endings]


def _label_names(data: Path, split: str) -> list[str]:
    """Names of label files that belong to `data`: train_label.* to train_data.npy."""
    if not data.stem.endswith("data"):
        return _names(split, "label", LABEL_ENDINGS)
    stem = data.stem.removesuffix("data") + "label"
    return [stem + ending for ending in LABEL_ENDINGS]


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file or a sharded store."""
    paths = (folder / name for name in names)
    return next((path for path in paths if path.is_file() or shards.is_store(path)), None)


def _absent(folder: Path, names: Sequence[str], split: str) -> DataError:
    received = f"{len(list(folder.iterdir()))} other entries"
    expected = f"one of {', '.join(names)} for {SECTIONS[split]}"
    return DataError(str(folder), expected, received, "Name the file itself.")
