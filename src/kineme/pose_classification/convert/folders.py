"""Clips that lie in folders, for the formats that say nothing of classes themselves.

`data` is one clip, or a folder [train | val | test /] [class /] ... / clip: with nothing but
`train`, `val` and `test` on top they are the split, and the folder below that (or on top) is the
class. Or `labels` says it: a CSV or JSON of id and label, where id is the path of a clip
in `data` without its ending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally, path_of
from kineme.errors import DataError, listed
from kineme.pose_classification.convert.clips import (
    TEST_STEM,
    TRAIN_STEM,
    UNKNOWN,
    VAL_STEM,
    WHOLE,
    Clip,
    Source,
    read_each,
)
from kineme.pose_classification.convert.reading import children_of, class_names, read_rows

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
STEMS = {"train": TRAIN_STEM, "val": VAL_STEM, "test": TEST_STEM}


@dataclass(frozen=True)
class Found:
    """Where a clip lies. label: None where neither folder nor list says it."""

    path: Path
    id: str
    label: str | None
    stem: str


def source_of(
    settings: Any,
    tally: Tally,
    *,
    name: str,
    layouts: tuple[str, ...],
    is_clip: Callable[[Path], bool],
    read: Callable[[Path, str], NDArray[np.float32]],
) -> Source:
    """Every clip below `settings.data`; `read(path, id)` gives its (M, T, V, C)."""
    root = path_of(settings.data)
    found = list(find_clips(root, is_clip))
    if settings.labels:
        found = labelled(found, Path(settings.labels), tally)
    classes = class_names(clip.label for clip in found if clip.label is not None)
    return Source(
        name=name,
        layouts=layouts,
        classes=classes,
        clips=_clips(found, classes, read, tally),
        num_persons=settings.num_persons or 0,
        protocol="folders" if any(clip.stem != WHOLE for clip in found) else "none",
    )


def find_clips(root: Path, is_clip: Callable[[Path], bool]) -> Iterator[Found]:
    """Clips at or below `root`, in the order of their names."""
    if is_clip(root):
        yield Found(root, root.stem if root.is_file() else root.name, None, WHOLE)
        return
    top = children_of(root) if root.is_dir() else []
    folders = {
        entry.name
        for entry in top
        if entry.is_dir() and (is_clip(entry) or any(_walk(entry, is_clip)))
    }
    has_splits = bool(folders) and folders <= set(STEMS)
    if not has_splits and len(split_like := sorted(n for n in folders if n.lower() in _SPLITS)) > 1:
        fix = "Name parts of a split so, and put nothing else beside them."
        received = f"{listed(split_like)} among {len(folders)} folders"
        raise DataError(str(root), "classes, or train, val and test alone", received, fix)
    for path in _walk(root, is_clip):
        relative = path.relative_to(root)
        name = relative.with_suffix("") if path.is_file() else relative
        folders_above = list(relative.parts[:-1])
        stem = STEMS[folders_above.pop(0)] if has_splits and folders_above else WHOLE
        yield Found(path, name.as_posix(), folders_above[0] if folders_above else None, stem)


def _walk(folder: Path, is_clip: Callable[[Path], bool]) -> Iterator[Path]:
    for entry in children_of(folder) if folder.is_dir() else ():
        if is_clip(entry):
            yield entry
        elif entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, is_clip)


def labelled(found: list[Found], path: Path, tally: Tally) -> list[Found]:
    """The clips with the labels of a list, which overrule folders."""
    labels: dict[str, str] = {}
    for place, row in read_rows(path, ("id", "label"), ()):
        if labels.setdefault(str(row["id"]), str(row["label"])) != str(row["label"]):
            raise DataError(place, f"one label for {row['id']!r}", "a second one")
    if found and not any(clip.id in labels for clip in found):
        received = f"none of {len(found)} clips, the first {found[0].id!r}"
        fix = "An id is the path of a clip in the data, without its ending."
        raise DataError(str(path), "labels of clips that are there", received, fix)
    for name in sorted(labels.keys() - {clip.id for clip in found}):
        tally.add("labels of clips that are not there", name)
    return [Found(clip.path, clip.id, labels.get(clip.id), clip.stem) for clip in found]


def _clips(
    found: list[Found],
    classes: tuple[str, ...],
    read: Callable[[Path, str], NDArray[np.float32]],
    tally: Tally,
) -> Iterator[Clip]:
    def read_one(clip: Found) -> Clip | None:
        if classes and clip.label is None:
            tally.add("clips without a class, left out", clip.id)
            return None
        label = UNKNOWN if clip.label is None else classes.index(clip.label)
        return Clip(clip.id, read(clip.path, clip.id), label, clip.stem)

    return read_each(found, read_one)
