"""What a data set can teach and prove: classes, lengths, joints, copies, subjects, chance.

Promises: figures are counted, not judged, but for the few that mislead (said as notes); subjects
are those of a pattern, or guessed from usual names, which is told.
Leaves out: reading the data (each network's `inspect`), drawing (fault_page.py).

N samples of a split, V joints.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.faults import Fault, Inspection, Samples
from kineme.data.near_copies import near_pairs
from kineme.data.subjects import Subjects, subjects_of
from kineme.errors import listed
from kineme.report.scores import wilson_interval

IMBALANCE = 5.0  # largest class over smallest
TELLING_JOINT = 0.5  # how much more often a joint is missing in one class than in another
SUPPOSED = 0.9  # accuracy for which intervals are told
HALF_WIDTHS = (0.05, 0.02)  # of intervals, for which the samples needed are told
NUM_JOINTS_TOLD = 5
LEAST_TOLD = 0.05  # of frames, for a joint that goes missing to be told
NUM_COPIES_KEPT = 50


@dataclass(frozen=True)
class Overview:
    """facts: plain values for JSON and the page. lines: the same in short. notes: what misleads."""

    facts: Mapping[str, Any]
    lines: tuple[str, ...]
    notes: tuple[Fault, ...]


def overview(found: Inspection, *, window: int = 0, pattern: str | None = None) -> Overview:
    """Look at all samples. window: frames of a model, default the network's. Raises SpecError."""
    window = window or found.window
    splits = {name: _split(samples, window) for name, samples in found.samples.items()}
    subjects, are_guessed = _subjects(found.samples, pattern)
    held = _held_out(found.samples)
    facts = {
        "window": window,
        "splits": splits,
        "held_out": {split: proof(len(found.samples[split].ids)) for split in held},
        "subjects": _subject_facts(subjects, held, are_guessed) if subjects else None,
        "copies": list(_copies(found.samples)),
        "joints": {
            name: _joints(samples)
            for name, samples in found.samples.items()
            if samples.missing is not None
        },
    }
    return Overview(facts, tuple(_lines(facts)), tuple(_notes(facts)))


def proof(num_samples: int) -> dict[str, Any]:
    """How surely so many samples show an accuracy: 95 % limits (Wilson), and what others take."""
    return {
        "samples": num_samples,
        "accuracy": SUPPOSED,
        "half_width": _half_width(num_samples),
        "needed": {str(half): needed_samples(half) for half in HALF_WIDTHS},
    }


def needed_samples(half_width: float, accuracy: float = SUPPOSED) -> int:
    """The fewest samples whose 95 % interval of an accuracy is no wider to each side."""
    few, many = 1, 1
    while _half_width(many, accuracy) > half_width:
        few, many = many, 2 * many
    while few < many:
        middle = (few + many) // 2
        if _half_width(middle, accuracy) > half_width:
            few = middle + 1
        else:
            many = middle
    return many


def _half_width(num_samples: int, accuracy: float = SUPPOSED) -> float:
    low, high = wilson_interval(accuracy * num_samples, num_samples)
    return (high - low) / 2


def _held_out(splits: Mapping[str, Samples]) -> list[str]:
    """The splits that figures come from: all but training, or the only one."""
    others = [name for name in splits if not name.lower().startswith("train")]
    return others or list(splits)


def _split(samples: Samples, window: int) -> dict[str, Any]:
    counts = Counter(label for label in samples.labels if label)
    known, lengths = sum(counts.values()), samples.lengths
    return {
        "samples": len(samples.ids),
        "classes": dict(sorted(counts.items())),
        "imbalance": max(counts.values()) / min(counts.values()) if counts else None,
        "chance": {
            "largest_class": max(counts.values()) / known if known else None,
            "even": 1 / len(counts) if counts else None,
        },
        "lengths": {
            "min": int(lengths.min()) if len(lengths) else 0,
            "median": float(np.median(lengths)) if len(lengths) else 0.0,
            "max": int(lengths.max()) if len(lengths) else 0,
            "shorter": float((lengths < window).mean()) if len(lengths) else 0.0,
        },
    }


def _joints(samples: Samples) -> list[dict[str, Any]]:
    """Of each joint, the share missing, and the classes in which it is most and least often."""
    missing = samples.missing if samples.missing is not None else np.zeros((0, 0), np.float32)
    labels = np.asarray(samples.labels)
    rows = []
    by_class = {
        name: _means(missing[labels == name]) for name in sorted(set(samples.labels) - {""})
    }
    for joint, (name, share) in enumerate(zip(samples.joints, _means(missing), strict=True)):
        classes = {label: float(means[joint]) for label, means in by_class.items()}
        classes = {label: value for label, value in classes.items() if value == value}
        worst, best = (
            max(classes, key=classes.__getitem__, default=""),
            min(classes, key=classes.__getitem__, default=""),
        )
        rows.append(
            {
                "joint": name,
                "missing": float(share) if share == share else None,
                "worst": [worst, classes[worst]] if worst else None,
                "best": [best, classes[best]] if best else None,
            }
        )
    return rows


def _means(missing: NDArray[np.float32]) -> NDArray[np.float64]:
    """(V,) mean over samples with a person; NaN without any."""
    seen = missing[~np.isnan(missing).any(axis=1)]
    if not len(seen):
        return np.full(missing.shape[1], np.nan)
    means: NDArray[np.float64] = seen.mean(axis=0, dtype=np.float64)
    return means


def _subjects(
    splits: Mapping[str, Samples], pattern: str | None
) -> tuple[dict[str, Counter[str]], bool]:
    """Samples of each subject by split, and whether names were guessed; nothing where unknown."""
    ids = [text for samples in splits.values() for text in samples.ids]
    found: Subjects = subjects_of(ids, pattern)
    if not found.are_known and not (pattern and any(found.names)):
        return {}, False
    counts, at = {}, 0
    for name, samples in splits.items():
        people = found.people[at : at + len(samples.ids)]
        counts[name] = Counter(who for both in people for who in both)
        at += len(samples.ids)
    return counts, found.is_guessed


def _subject_facts(
    counts: Mapping[str, Counter[str]], held: list[str], are_guessed: bool
) -> dict[str, Any]:
    train = {who for name, found in counts.items() if name not in held for who in found}
    return {
        "are_guessed": are_guessed,
        "splits": {name: dict(sorted(found.items())) for name, found in counts.items()},
        "shared": {
            name: sorted(who for who in counts[name] if who in train and who) for name in held
        },
    }


def _copies(splits: Mapping[str, Samples]) -> Iterator[dict[str, Any]]:
    """Pairs of samples that are the same, or nearly, within splits and between them."""
    pairs = [(name, name) for name in splits] + list(combinations(splits, 2))
    for first, second in pairs:
        one, other = splits[first], splits[second]
        same = set(_same(one, other, is_one=first == second))
        near: set[tuple[int, int]] = set()
        if one.forms is not None and other.forms is not None:
            near = set(near_pairs(one.forms, None if first == second else other.forms)) - same
        for kind, found in (("same", same), ("near", near)):
            if found:
                kept = sorted(found)[:NUM_COPIES_KEPT]
                yield {
                    "kind": kind,
                    "splits": [first, second],
                    "count": len({b for _, b in found}),
                    "pairs": [[one.ids[a], other.ids[b]] for a, b in kept],
                }


def _same(one: Samples, other: Samples, *, is_one: bool) -> Iterator[tuple[int, int]]:
    known: dict[bytes, int] = {}
    for place, digest in enumerate(one.digests):
        if digest and is_one and digest in known:
            yield known[digest], place
        known.setdefault(digest, place)
    if not is_one:
        yield from (
            (known[digest], place)
            for place, digest in enumerate(other.digests)
            if digest and digest in known
        )


# In words


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """A table and a few lines."""
    splits = facts["splits"]
    if not splits:
        return
    head = ("split", "samples", "classes", "largest : smallest", "frames min / median / max",
            f"shorter than {facts['window']}", "chance", "1 / classes")  # fmt: skip
    rows = [head, *(_row(name or "all", split) for name, split in splits.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
    for name, shown in facts["held_out"].items():
        needed = ", ".join(
            f"± {100 * float(half):g} takes {count:,}" for half, count in shown["needed"].items()
        )
        yield (
            f"{name or 'all'}: with {shown['samples']:,} samples an accuracy of "
            f"{_percent(shown['accuracy'])} is known to ± {100 * shown['half_width']:.1f} points; "
            f"{needed}"
        )
    if facts["subjects"]:
        counts = facts["subjects"]["splits"]
        total = {who for found in counts.values() for who in found}
        guessed = " (guessed from ids)" if facts["subjects"]["are_guessed"] else ""
        told = ", ".join(f"{len(found)} in {name or 'all'}" for name, found in counts.items())
        yield f"subjects: {len(total)}{guessed}; {told}"
    for name, joints in facts["joints"].items():
        often = [row for row in joints if (row["missing"] or 0) >= LEAST_TOLD]
        gone = sorted(often, key=lambda row: -row["missing"])
        if gone:
            told = ", ".join(
                f"{row['joint']} {_percent(row['missing'])}" for row in gone[:NUM_JOINTS_TOLD]
            )
            yield f"{name or 'all'}: joints that are often missing: {told} of frames"


def _row(name: str, split: Mapping[str, Any]) -> tuple[str, ...]:
    lengths, chance = split["lengths"], split["chance"]
    return (
        name,
        f"{split['samples']:,}",
        str(len(split["classes"])),
        f"{split['imbalance']:.1f}" if split["imbalance"] else "-",
        f"{lengths['min']} / {lengths['median']:g} / {lengths['max']}",
        _percent(lengths["shorter"]),
        _percent(chance["largest_class"]),
        _percent(chance["even"]),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _notes(facts: Mapping[str, Any]) -> Iterator[Fault]:
    """What makes figures look better, or a model worse, than they should be."""
    for name, split in facts["splits"].items():
        if split["imbalance"] and split["imbalance"] > IMBALANCE:
            counts = split["classes"]
            most, least = max(counts, key=counts.get), min(counts, key=counts.get)
            what = f"{counts[most]} samples of {most!r} and {counts[least]} of {least!r}"
            fix = "train.class_weights: balanced, and look at mean class accuracy."
            yield Fault(name, what, False, fix)
    for name, shared in (facts["subjects"] or {"shared": {}})["shared"].items():
        if shared:
            total = len(facts["subjects"]["splits"][name])
            guessed = " (guessed from ids)" if facts["subjects"]["are_guessed"] else ""
            what = f"{len(shared)} of {total} subjects{guessed} are in the training data too"
            fix = "Its figures say nothing of new people; split by subject for that."
            yield Fault(name, f"{what}: {listed(shared)}", False, fix)
    for copies in facts["copies"]:
        first, second = copies["splits"]
        is_exact, is_one = copies["kind"] == "same", first == second
        if is_exact and not is_one:
            continue  # which the data themselves were told of
        where = "others of it" if is_one else f"samples of {first}"
        how = "copies of" if is_exact else "nearly the same as"
        a, b = copies["pairs"][0]
        what = f"{copies['count']} samples are {how} {where}, the first {b!r} as {a!r}"
        yield Fault(second, what, False)
    for name, joints in facts["joints"].items():
        telling = [
            row for row in joints
            if row["worst"] and row["worst"][1] - row["best"][1] > TELLING_JOINT
        ]  # fmt: skip
        if telling:
            row = telling[0]
            what = (
                f"{len(telling)} joints are missing in some classes and not in others, the first "
                f"{row['joint']}: {_percent(row['worst'][1])} of {row['worst'][0]!r}, "
                f"{_percent(row['best'][1])} of {row['best'][0]!r}"
            )
            fix = "A model may learn what is hidden rather than what is done."
            yield Fault(name, what, False, fix)
