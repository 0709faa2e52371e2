"""From clips to the files that training reads.

Promises: (N, C, T, V, M) float32, zero padded after a clip's last frame, zero in every
channel where a joint is missing; memory for one clip however many there are; every file
complete or absent; `dataset.json`, written last, says what is inside and what was left out.
Leaves out: reading (one file per format).

T is known only after the last clip, so clips go to a nameless temporary file first.
Shapes: N clips, C channels, T frames, V joints, M persons.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kineme import files
from kineme.data.conversion import DATASET_FILE, Tally
from kineme.data.labels import Labels, write_labels
from kineme.data.origin import Origin, is_alike, origin_of
from kineme.data.shards import INDEX_NAME, ShardWriter
from kineme.errors import DataError, SpecError, listed
from kineme.pose_classification.convert.clips import Clip, Source, mark_missing, most_moving
from kineme.pose_classification.layouts import LAYOUTS


@dataclass(frozen=True)
class _Stored:
    """A clip in the temporary file: (C, T, V, M) float32 from byte `offset`."""

    id: str
    label: int
    stem: str  # of the file it will be in
    shape: tuple[int, ...]
    offset: int
    fps: float
    estimator: str


@dataclass(frozen=True)
class _Group:
    """The clips of one file. shape: (C, T, V, M) of each as it is written."""

    stem: str
    clips: Sequence[_Stored]
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    layout: str | None
    origin: Origin


def write_source(
    source: Source, folder: Path, tally: Tally, *, as_shards: bool = False
) -> dict[str, Any]:
    """A data and, with classes, a label file for each `Clip.stem`; then dataset.json.

    as_shards: a sharded store, labels inside, in place of the two files.
    Returns {"kpi": counts, "files": names, "warnings": lines}. Raises DataError when
    nothing is left to write or the clips do not fit together, SpecError because of older stores,
    or of older labels beside data that have none, in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if as_shards:
        _refuse_older_data(folder)
    with files.write_errors_named(folder), tempfile.TemporaryFile(dir=folder) as spool:
        stored = _spool(source, spool, tally)
        _count_other_rates(stored, tally)
        groups = _grouped(stored, source)
        if not (as_shards or source.classes):
            _refuse_older_labels(folder, [group.stem for group in groups])
        names = []
        for group in groups:
            samples = _samples(spool, group)
            names += (_write_store if as_shards else _write_arrays)(folder, group, samples)
    files.write_json(folder / DATASET_FILE, _facts(source, groups, tally))
    written = {Path(name).parts[0] for name in names}
    for path in sorted([*folder.glob("*.npy"), *folder.glob(f"*/{INDEX_NAME}")]):
        name = path.relative_to(folder).parts[0]
        if name not in written:
            tally.add("data of an earlier conversion, still in the folder", name)
    kpi = source.kpi or {f"Number of samples in {group.stem}": len(group.clips) for group in groups}
    return {"kpi": dict(kpi), "files": [*names, DATASET_FILE], "warnings": tally.lines()}


def layout_name(candidates: Sequence[str], num_joints: int) -> str | None:
    """The first of `candidates` with `num_joints` joints."""
    fitting = (name for name in candidates if LAYOUTS[name].num_joints == num_joints)
    return next(fitting, None)


def _spool(source: Source, spool: IO[bytes], tally: Tally) -> list[_Stored]:
    """Write every clip that shows somebody, persons in order, missing joints zero."""
    stored: list[_Stored] = []
    for clip in source.clips:
        skeleton = clip.skeleton
        tally.add("joints with numbers that are not finite", clip.id, mark_missing(skeleton))
        if np.isnan(skeleton).all():
            what = "no frames" if skeleton.shape[1] == 0 else "nobody in any frame"
            tally.add(f"samples with {what}, left out", clip.id)
            continue
        if source.num_persons and len(skeleton) > source.num_persons:
            beyond = len(skeleton) - source.num_persons
            tally.add(f"persons beyond the {source.num_persons} that move most", clip.id, beyond)
        kept = most_moving(skeleton, source.num_persons)
        rows = np.ascontiguousarray(np.nan_to_num(kept, nan=0.0).transpose(3, 1, 2, 0))
        if stored and rows.shape[::2] != stored[0].shape[::2]:
            raise _misfit(clip, rows.shape, stored[0])
        place = spool.tell()
        about = (clip.fps, clip.estimator)
        stored.append(_Stored(clip.id, clip.label, clip.stem, rows.shape, place, *about))
        spool.write(rows.data)
    twice = [name for name, count in Counter(clip.id for clip in stored).items() if count > 1]
    for name in twice:
        tally.add("ids that occur twice or more", name)
    if not stored:
        reason = "; ".join(tally.lines()) or "none found"
        raise DataError("dataset_convert.data", f"{source.name} sequences", reason)
    return stored


def _grouped(stored: Sequence[_Stored], source: Source) -> list[_Group]:
    """By the file they go to, all of one shape."""
    num_channels, num_frames, num_joints, num_persons = np.max([c.shape for c in stored], axis=0)
    shape = (
        int(num_channels),
        source.num_frames or int(num_frames),
        int(num_joints),
        source.num_persons or int(num_persons),
    )
    layout = layout_name(source.layouts, shape[2])
    by_stem: dict[str, list[_Stored]] = {}
    for clip in stored:
        by_stem.setdefault(clip.stem, []).append(clip)
    return [
        _Group(stem, clips, shape, source.classes, layout, _origin(clips))
        for stem, clips in by_stem.items()
    ]


def _origin(clips: Sequence[_Stored]) -> Origin:
    lengths = [(clip.shape[1], clip.fps) for clip in clips]
    return origin_of(lengths, {clip.estimator for clip in clips})


def _count_other_rates(stored: Sequence[_Stored], tally: Tally) -> None:
    """Movement of other frame rates is faster or slower to a model that does not sample frames."""
    usual = _origin(stored).fps
    what = f"samples of other frame rates than {usual:g} a second (dataset.sampling=none sees that)"
    for clip in stored:
        if not is_alike(clip.fps, usual):
            tally.add(what, f"{clip.id} ({clip.fps:g})")


def _misfit(clip: Clip, shape: Sequence[int], first: _Stored) -> DataError:
    return DataError(
        clip.id,
        f"{first.shape[0]} channels and {first.shape[2]} joints as in {first.id}",
        f"{shape[0]} and {shape[2]}",
        "Convert what differs on its own.",
    )


def _refuse_older_data(folder: Path) -> None:
    """Stores are not written over, and arrays beside them would be found in their place."""
    stores = (path.parent.name for path in folder.glob(f"*/{INDEX_NAME}"))
    older = sorted([*stores, *(path.name for path in folder.glob("*.npy"))])
    if older:
        raise SpecError(
            "dataset_convert.write",
            "a folder without older data, as stores are not written over",
            f"{str(folder)!r} with {listed(older)}",
            "Remove them, or set another dataset_convert.results_dir.",
        )


def _refuse_older_labels(folder: Path, stems: Sequence[str]) -> None:
    """Labels that lie beside data without any would be taken for theirs."""
    endings = (".json", ".csv", ".pkl")
    names = [f"{_label_stem(stem)}{ending}" for stem in stems for ending in endings]
    if older := [name for name in names if (folder / name).exists()]:
        raise SpecError(
            "dataset_convert.results_dir",
            "a folder without labels of other data, as these have none",
            f"{str(folder)!r} with {listed(older)}",
            "Remove them, or set another dataset_convert.results_dir.",
        )


def _samples(spool: IO[bytes], group: _Group) -> Iterator[NDArray[np.float32]]:
    """Each clip as (C, T, V, M), zero padded; the array is reused."""
    sample = np.empty(group.shape, "<f4")
    for clip in group.clips:
        spool.seek(clip.offset)
        count = int(np.prod(clip.shape)) * 4
        rows = np.frombuffer(spool.read(count), np.float32).reshape(clip.shape)
        sample[...] = 0
        sample[:, : rows.shape[1], :, : rows.shape[3]] = rows
        yield sample


def _write_arrays(folder: Path, group: _Group, samples: Iterator[NDArray[np.float32]]) -> list[str]:
    """A data and, with classes, a label file; their names."""
    names = [f"{group.stem}.npy"]
    shape = (len(group.clips), *group.shape)
    with files.atomic_write(folder / names[0]) as file:
        npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for sample in samples:
            file.write(sample.data)
    if group.classes:
        names.append(f"{_label_stem(group.stem)}.json")
        labels = np.array([clip.label for clip in group.clips], np.int64)
        ids = tuple(clip.id for clip in group.clips)
        known = Labels(ids, labels, group.classes, group.layout, group.origin)
        write_labels(folder / names[1], known)
    return names


def _write_store(folder: Path, group: _Group, samples: Iterator[NDArray[np.float32]]) -> list[str]:
    """A sharded store, labels inside; the name of its index."""
    target, classes = folder / group.stem, group.classes or None
    with ShardWriter(
        target, layout=group.layout, class_names=classes, origin=group.origin
    ) as writer:
        for clip, sample in zip(group.clips, samples, strict=True):
            writer.add(sample, id=clip.id, label=clip.label)
    return [f"{group.stem}/{INDEX_NAME}"]


def _label_stem(stem: str) -> str:
    """train_data -> train_label, data -> label, object_7 -> object_7_label."""
    return stem[:-4] + "label" if stem.endswith("data") else f"{stem}_label"


def _facts(source: Source, groups: Sequence[_Group], tally: Tally) -> dict[str, Any]:
    """What dataset.json says."""
    return {
        "source": source.name,
        "protocol": source.protocol,
        "layout": groups[0].layout,
        "shape": dict(zip("CTVM", groups[0].shape, strict=True)),
        "classes": list(source.classes),
        **_made_by(source, groups),
        "files": {group.stem: _counts(group, source.classes) for group in groups},
        "left_out_or_changed": tally.facts(),
    }


def _made_by(source: Source, groups: Sequence[_Group]) -> dict[str, Any]:
    """Which estimator, where it is known, and its settings, where they are."""
    names = {clip.estimator for group in groups for clip in group.clips}
    told: dict[str, Any] = {"estimator": names.pop() if len(names) == 1 else ""}
    told["estimator_settings"] = dict(source.estimator_settings)
    return {key: value for key, value in told.items() if value}


def _counts(group: _Group, classes: Sequence[str]) -> Mapping[str, Any]:
    clips, origin = group.clips, group.origin
    by_label = Counter(clip.label for clip in clips)
    return {
        "samples": len(clips),
        "frames": {
            "shortest": min(clip.shape[1] for clip in clips),
            "longest": max(clip.shape[1] for clip in clips),
        },
        **({"clip_seconds": origin.clip_seconds, "fps": origin.fps} if origin.fps else {}),
        "samples_per_class": {name: by_label[label] for label, name in enumerate(classes)},
        "samples_without_label": by_label[-1],
    }
