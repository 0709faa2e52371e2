"""From the paths in a spec to sequences that have been held against it.

Promises: data, labels, layout and class count agree before anything is trained; every
problem found together is reported together; nothing is dropped without a note.
Leaves out: which files are meant (paths.py), their labels (labels.py), the formats themselves
(data/), frames and augmentation (dataset.py).

Shapes: N sequences; the array behind them is (N, C, T, V, M).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data import arrays, sampling, scan, shards
from kineme.data.labels import Labels, label_problems, label_warnings
from kineme.data.origin import UNKNOWN_ORIGIN, Origin
from kineme.errors import CheckpointError, DataError, Problem, SpecError
from kineme.network import PREDICT, TEST, TRAIN, VAL
from kineme.pose_classification.labels import class_names, labels_of, layout_problems
from kineme.pose_classification.layouts import Layout, layout_of, layouts_with
from kineme.pose_classification.paths import open_store, resolve_paths, section_of
from kineme.pose_classification.people import who_moves_most
from kineme.spec.load import user_set, with_values

RESIDENT_BYTES = 2**30  # data up to this size is kept in memory, larger data is read as needed
NO_PERSON = "no person"  # what is said of a sample in which there is nobody
NO_PERSON_FATE = {  # what becomes of such samples, where a label is asked for
    TEST: f"they are answered {NO_PERSON!r}, which counts as wrong",
    PREDICT: f"they are answered {NO_PERSON!r}",
}


_CONVERT = "Convert the data to it; the checkpoint was trained with it."
_FIX_OF_LAYOUT = "Use data of one layout; if these are of that one, correct layout: in the labels."


@dataclass(frozen=True, eq=False)
class Sequences:
    """N labelled sequences and how to gather their frames.

    lengths: (N,) frames up to the last one that is not empty, at least 1.
    is_empty: (N,) nobody is in any frame.
    people: (N, P) which persons are kept, by falling motion energy; None keeps all.
    is_centred: the data were centred on the layout's centre joint: zero is its place, and not a
    sign that it is missing. Training data say so, others are taken as those were.
    most_people: that any sequence of the data shows. origin: as the data say it.
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
    most_people: int = 0
    origin: Origin = UNKNOWN_ORIGIN
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
    data_path, label_path = resolve_paths(section_of(spec, split), split)
    store = open_store(data_path)
    problems = _shape_problems(spec, split, str(data_path), store.shape)
    try:
        labels = labels_of(spec, split, data_path, label_path, count=store.shape[0])
    except DataError as error:
        raise DataError.of([*problems, *error.problems]) from error
    where = str(label_path or data_path)
    problems += layout_problems(
        where,
        labels.layout,
        num_joints=store.shape[3],
        own=layout_of(spec.model),
        whose="the model's",
        fix=_FIX_OF_LAYOUT if split in (TRAIN, VAL) else _CONVERT,
    )
    if problems:
        raise DataError.of(problems)
    found = scan.scan_skeletons(store)
    # a test set may come without labels; then there are predictions and nothing to measure
    is_bare = split == TEST and label_path is None and bool((labels.labels < 0).all())
    is_labelled = split != PREDICT and not is_bare
    problems = _content_problems(
        spec, split, found, labels, paths=(str(data_path), where), is_labelled=is_labelled
    )
    if problems:
        raise DataError.of(problems)
    sequences = _sequences(spec, store, labels, found)
    notes = _notes(spec, split, sequences, found, where=str(data_path))
    notes += [f"{data_path}: no labels, so there is nothing to measure."] if is_bare else []
    notes += label_warnings(where, labels, class_names(spec)) if is_labelled else []
    sequences = replace(sequences, notes=(*sequences.notes, *notes))
    return _with_leak_note(spec, sequences) if split == VAL else sequences


def _sequences(spec: Any, store: arrays.Skeletons, labels: Labels, found: scan.Scan) -> Sequences:
    """Those that dataset.nan_policy leaves, with the people that dataset.num_persons does."""
    rows = np.arange(store.shape[0])
    if spec.dataset.nan_policy == "drop":
        rows = np.setdiff1d(rows, found.nonfinite_samples)
    if not len(rows):
        raise DataError(
            str(store.path),
            "samples without NaN",
            "0 samples left by dataset.nan_policy: drop",
            "Mend the data, or set dataset.nan_policy: zero.",
        )
    people, notes = _people(spec, store)
    return Sequences(
        ids=tuple(labels.ids[row] for row in rows),
        labels=labels.labels[rows],
        lengths=np.maximum(found.lengths, 1)[rows],
        is_empty=found.lengths[rows] == 0,
        store=store,
        rows=rows,
        resident=_resident(store, found.nonfinite_count > 0),
        people=None if people is None else people[rows],
        has_nan=found.nonfinite_count > 0,
        is_centred=_is_centred(spec, found),
        most_people=int(found.persons.max(initial=0)),
        origin=labels.origin,
        notes=tuple(f"{store.path}: {note}" for note in notes),
    )


def _people(spec: Any, store: arrays.Skeletons) -> tuple[NDArray[np.int64] | None, list[str]]:
    """Which persons the spec keeps, as `Sequences` has them, and what to tell of it."""
    asked, persons = spec.dataset.num_persons, store.shape[4]
    sees_two = spec.model.persons != "mean"
    people, note = who_moves_most(store, asked or (2 if sees_two else None))
    notes = [] if note is None else [note]
    if sees_two and persons == 1:
        which = f"model.persons {spec.model.persons}"
        notes.append(f"one person a sample, so {which} has no second one.")
    elif asked and asked > persons and "dataset.num_persons" in user_set(spec):
        notes.append(f"dataset.num_persons is {asked}, but samples have places for {persons}.")
    return people, notes


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
    settings = spec.dataset
    notes = [*getattr(sequences.store, "notes", ()), *found.notes]
    notes += skeleton_warnings(
        where,
        found,
        layout_of(spec.model),
        nan_policy=settings.nan_policy,
        fate_of_empty=NO_PERSON_FATE.get(split, ""),
    )
    if settings.sampling == "uniform" and split == TRAIN:
        note = sampling.short_warning(where, sequences.lengths, settings.num_frames)
        notes += [note] if note else []
    return notes


def skeleton_warnings(
    where: str,
    found: scan.Scan,
    layout: Layout | None,
    *,
    nan_policy: str = "error",
    fate_of_empty: str = "",
) -> list[str]:
    """`scan.scan_warnings` of joints whose layout may be known."""
    num_axes = layout.num_axes if layout else found.shape[1]
    return scan.scan_warnings(
        where,
        found,
        nan_policy=nan_policy,
        confidence_channel=num_axes if found.shape[1] > num_axes else None,
        joint_names=layout.joints if layout else (),
        centre=layout.centre_index if layout else None,
        fate_of_empty=fate_of_empty,
    )


def complete(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    """Fill in what the data says of itself where the spec is silent: classes and layout; of
    training data, whether they are centred already.

    Returns the spec and a note for each value taken. Only fields change that neither the user
    nor a checkpoint set; contradictions are found by `load_sequences`.
    """
    spec, notes = _completed_by_labels(spec, split)
    if split != TRAIN or spec.dataset.centred is not None:
        return spec, notes
    data_path, _ = resolve_paths(section_of(spec, split), split)
    is_centred = _is_centred(spec, scan.scan_skeletons(open_store(data_path)))
    if is_centred:
        layout = layout_of(spec.model)
        notes += (
            f"{data_path}: {layout.joints[layout.centre_index]!r} never moves, so the data are "
            "taken as centred on it (dataset.centred=true).",
        )
    return with_values(spec, {"dataset.centred": is_centred}), notes


def _is_centred(spec: Any, found: scan.Scan) -> bool:
    if spec.dataset.centred is not None:
        return bool(spec.dataset.centred)
    return layout_of(spec.model).centre_index in found.constant_joints


def _completed_by_labels(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    data_path, label_path = resolve_paths(section_of(spec, split), split)
    if label_path is None and not shards.is_store(data_path):
        if not data_path.exists():
            open_store(data_path)  # which says so
        return spec, ()
    labels = labels_of(spec, split, data_path, label_path)
    values: dict[str, Any] = {}
    if labels.class_names and spec.dataset.label_map is None:
        asked, found = spec.dataset.num_classes, len(labels.class_names)
        if "num_classes" not in spec.dataset.model_fields_set or asked == found:
            values["dataset.label_map"] = {name: i for i, name in enumerate(labels.class_names)}
            values["dataset.num_classes"] = found
        elif split != PREDICT:  # there, labels do not matter
            where = str(label_path or data_path)
            if not spec.has_training:
                expected = f"{asked} classes, as the checkpoint has"
                fix = "Use data of the classes that the model has."
                raise CheckpointError(where, expected, f"{found}", fix)
            fix = "Remove it, or set dataset.label_map."
            expected = f"{found}, the classes of {where}"
            raise SpecError("dataset.num_classes", expected, repr(asked), fix)
    is_free = spec.model.layout is None and "graph_layout" not in spec.model.model_fields_set
    if labels.layout and is_free and labels.layout != spec.model.graph_layout:
        values["model.graph_layout"] = labels.layout
    if not values:
        return spec, ()
    taken = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return with_values(spec, values), (f"{label_path or data_path}: took {taken}",)


def _resident(store: arrays.Skeletons, has_nan: bool) -> NDArray[np.float32] | None:
    if int(np.prod(store.shape, dtype=np.int64)) * 4 > RESIDENT_BYTES:
        return None
    data = store.read(np.arange(store.shape[0]))
    return np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0) if has_nan else data


def _shape_problems(spec: Any, split: str, where: str, shape: Sequence[int]) -> list[Problem]:
    layout: Layout = layout_of(spec.model)
    return arrays.check_shape(
        where,
        shape,
        num_channels=spec.model.input_channels,
        num_joints=layout.num_joints,
        layout=layout.name,
        layouts_with=layouts_with,
        is_fixed=split in (TEST, PREDICT),
    )


def _with_leak_note(spec: Any, val: Sequences) -> Sequences:
    """Say which validation sequences are in the training data, where they are known, too."""
    if not spec.dataset.train_dataset.data_path or not spec.has_training:
        return val
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
