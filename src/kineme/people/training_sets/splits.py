"""Which clips of people are for training and which are held out.

Promises: the same names give the same split, on any machine and in any order; a subject is on one
side alone; what a list does not name is counted.
Method: subjects are ranked by the SHA-256 of their names and the first ones are held out. Where
clips name no subject, the same is done with the clips of each class, and that is told: clips cut
from one recording may then lie on both sides.
Leaves out: splits that folders or official lists give (clips.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kineme.data.conversion import Tally
from kineme.data.subjects import subjects_of
from kineme.errors import DataError, listed
from kineme.pose_classification.convert.clips import TRAIN_STEM, VAL_STEM
from kineme.pose_classification.convert.folders import STEMS, Found
from kineme.pose_classification.convert.reading import read_rows

_PATTERN_KEY = "dataset_convert.subject_pattern"


def split_by_list(found: Sequence[Found], path: Path, tally: Tally) -> list[Found]:
    """The clips that a CSV or JSON of id and split names. Raises DataError."""
    stems: dict[str, str | None] = {}
    for place, row in read_rows(path, ("id", "split"), ()):
        name, word = str(row["id"]), str(row["split"])
        if word != "none" and word not in STEMS:
            raise DataError(place, f"one of {', '.join(STEMS)}, none", repr(word))
        stem = STEMS.get(word)
        if stems.setdefault(name, stem) != stem:
            raise DataError(place, f"one split for {name!r}", "a second one")
    for name in sorted(stems.keys() - {clip.id for clip in found}):
        tally.add("clips that the split file names and that are not there", name)
    kept = []
    for clip in found:
        stem = stems.get(clip.id)
        if stem is None:
            what = "that the split leaves out" if clip.id in stems else "that no split names"
            tally.add(f"clips {what}", clip.id)
        else:
            kept.append(replace(clip, stem=stem))
    return kept


def hold_out(
    found: Sequence[Found], share: float, pattern: str | None, tally: Tally
) -> tuple[list[Found], str]:
    """The clips with `share` of the subjects, or of each class, held out; and by what.

    pattern: a regular expression that finds the subject in an id, its first group or all of it;
    without one the folders between class and clip are the subject. Raises SpecError.
    """
    subjects = _subjects(found, pattern, tally)
    known = {subject for subject in subjects if subject}
    if len(known) > 1:
        held = _first_by_hash(known, share)
        is_held = [subject in held for subject in subjects]
        words = "subjects"
    else:
        groups: dict[str | None, set[str]] = {}
        for clip in found:
            groups.setdefault(clip.label, set()).add(clip.id)
        held = {name for names in groups.values() for name in _first_by_hash(names, share)}
        is_held = [clip.id in held for clip in found]
        words = "clips"
        reason = "one subject in all" if known else "no subject in names or folders"
        what = (
            f"clips in all held out for validation, about {100 * share:g} % of each class and at "
            f"least one of two (dataset_convert.val_share), as there is {reason} "
            "(dataset_convert.subject_pattern)"
        )
        for name in sorted(held):
            tally.add(what, name)
    stems = (VAL_STEM if held_out else TRAIN_STEM for held_out in is_held)
    return [replace(c, stem=stem) for c, stem in zip(found, stems, strict=True)], words


def note_absent_classes(found: Sequence[Found], tally: Tally) -> None:
    """Count classes that one side of a split lacks."""
    labels = {clip.label for clip in found if clip.label is not None}
    for stem, words in ((TRAIN_STEM, "training"), (VAL_STEM, "validation")):
        there = [clip.label for clip in found if clip.stem == stem]
        if there:
            for label in sorted(labels - set(there)):
                tally.add(f"classes without clips for {words}", label)


def _subjects(found: Sequence[Found], pattern: str | None, tally: Tally) -> list[str]:
    """Who is in each clip as far as names say it, or "". Raises SpecError for the pattern."""
    if pattern is None:
        return [_folders_between(clip) for clip in found]
    names = subjects_of([clip.id for clip in found], pattern, key=_PATTERN_KEY).names
    for clip, name in zip(found, names, strict=True):
        if not name:
            tally.add("clips without the subject_pattern, a subject each", clip.id)
    return [name or clip.id for clip, name in zip(found, names, strict=True)]


def _folders_between(clip: Found) -> str:
    """The folders between class and clip."""
    folders = clip.id.split("/")[:-1]
    return "/".join(folders[1:] if folders[:1] == [clip.label] else folders)


def _first_by_hash(names: set[str], share: float) -> set[str]:
    """round(share * n) of them, at least one and not all, where there are two."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = min(max(round(share * len(ranked)), 1), len(ranked) - 1)
    return set(ranked[:count])


def without_clashes(found: Sequence[Found]) -> list[Found]:
    """`found`, where no two clips have one id. Raises DataError."""
    first: dict[str, Found] = {}
    twice = [clip.id for clip in found if first.setdefault(clip.id, clip) is not clip]
    if twice:
        fix = "Rename or remove one of each."
        raise DataError("dataset_convert.data", "one video of each name", listed(twice), fix)
    return list(found)
