"""From the paths in a spec to videos that have been held against it.

Promises: folders of class folders, lists (CSV, JSON lines), a single folder of videos and
archives of these end in the same `Videos`, in an order that depends on names alone; every
problem found together is reported together; nothing is dropped without a note.
Leaves out: decoding (clips.py), which frames and how they are cropped (dataset.py).

N videos. A video is a file, a stretch of one, or a folder of frames.
"""

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kineme.action_recognition.copies import copy_notes, find_shared
from kineme.action_recognition.entries import Entry
from kineme.action_recognition.listing import is_listable, list_videos, stream_folders
from kineme.action_recognition.made_from import flow_problems, settings_of_clips
from kineme.action_recognition.packed import as_packed, packed_root
from kineme.action_recognition.samples import Video, Videos, with_way_out
from kineme.action_recognition.stream_words import FOLDERS, STREAM_FOLDERS, TAO_WORDS
from kineme.data import archives, images
from kineme.data.cache import default_cache
from kineme.data.clip_sampling import Sampling, needed_frames
from kineme.data.labels import one_class_problem
from kineme.data.scan import leak_text
from kineme.data.video import VideoFacts
from kineme.data.video.probing import probe_all
from kineme.errors import CheckpointError, DataError, Problem, listed, printable
from kineme.network import PREDICT, TEST, TRAIN, VAL
from kineme.spec.load import value_at, with_values

KEYS = {  # split -> dotted key of the spec that names its folder
    TRAIN: "dataset.train_dataset_dir",
    VAL: "dataset.val_dataset_dir",
    TEST: "evaluate.test_dataset_dir",
    PREDICT: "inference.inference_dataset_dir",
}
PROBE_DEADLINE_SECONDS = 20.0
_MOMENT = 100  # milliseconds by which stretches that follow each other may overlap
_ENDLESS = 1 << 40


def class_names(spec: Any) -> tuple[str, ...]:
    """Class names by id."""
    label_map = spec.dataset.label_map or {}
    return tuple(sorted(label_map, key=lambda name: label_map[name]))


def data_path(spec: Any, split: str) -> str:
    """The folder, archive, list or video that the spec names for `split`; or ""."""
    return str(value_at(spec, KEYS[split]) or "")


def complete(spec: Any, split: str) -> tuple[Any, tuple[str, ...]]:
    """Take from the data what the spec does not say: classes (sorted names, ids from 0), and in
    training how the flow of its clips was made.

    Raises CheckpointError where the data to judge a checkpoint by have classes it lacks.
    """
    is_learning_flow = split == TRAIN and "flow" in spec.model.streams
    if split == PREDICT or (spec.dataset.label_map and split != TEST and not is_learning_flow):
        return spec, ()
    given = Path(data_path(spec, split))
    if spec.dataset.label_map and split == TRAIN and not given.exists():
        return spec, ()  # whoever reads them says so
    where = source_path(spec, split)
    entries = list_videos(where, split).entries
    names = sorted({entry.label for entry in entries if entry.label is not None})
    values: dict[str, Any] = {}
    notes: list[str] = []
    if spec.dataset.label_map and split == TEST:
        _refuse_new_classes(given, names, spec.dataset.label_map)
    elif names and not spec.dataset.label_map:
        values["dataset.label_map"] = {name: i for i, name in enumerate(names)}
        told = listed(map(repr, names), 8)
        notes.append(f"dataset.label_map: {len(names)} classes by the data's own names: {told}.")
    if is_learning_flow and (taken := settings_of_clips(spec, entries)):
        values |= taken
        said = ", ".join(f"{key}={value!r}" for key, value in taken.items())
        notes.append(f"{given}: took {said}, with which its flow was made.")
    return with_values(spec, values) if values else spec, tuple(notes)


def _refuse_new_classes(where: Path, names: Sequence[str], label_map: Mapping[str, int]) -> None:
    new = [name for name in names if name not in label_map]
    if new:
        raise CheckpointError(
            str(where),
            f"classes of the checkpoint ({listed(map(repr, sorted(label_map)), 8)})",
            f"{listed(map(repr, new), 8)}, which it does not have",
            "Classes are matched by name: rename the folders, or train with these classes.",
        )


def source_path(spec: Any, split: str) -> Path:
    """Where the videos of `split` are; an archive is extracted first."""
    block, key = KEYS[split].split(".")
    path = Path(getattr(getattr(spec, block), key))
    if is_listable(path):
        return path
    return archives.data_root(packed_root(path, cache_of(spec)))


def cache_of(spec: Any) -> Path:
    """The folder for extracted archives and optical flow."""
    return Path(spec.dataset.cache_dir) if spec.dataset.cache_dir else default_cache()


def skips_bad(spec: Any, split: str) -> bool:
    """Whether videos that cannot be read are passed over."""
    policy = spec.dataset.bad_sample
    return bool(policy == "skip" or (policy == "auto" and split == PREDICT))


def load_videos(spec: Any, split: str, *, is_taught: bool = False) -> Videos:
    """The videos of `split`, checked. Raises DataError with all problems.

    is_taught: whether a model learns from them, for which one class alone is not enough.
    """
    where, given = source_path(spec, split), Path(data_path(spec, split))
    try:
        videos = _loaded(spec, split, where, is_taught=is_taught)
    except DataError as error:
        if where == given:
            raise
        problems = [replace(p, where=as_packed(p.where, where, given)) for p in error.problems]
        raise DataError.of(problems) from error
    notes = tuple(as_packed(note, where, given) for note in videos.notes)
    return videos if where == given else replace(videos, notes=notes)


def _loaded(spec: Any, split: str, where: Path, *, is_taught: bool) -> Videos:
    """The videos of `split` at `where`, as `load_videos` gives them."""
    listing = list_videos(where, split)
    entries = listing.entries
    label_map: Mapping[str, int] = spec.dataset.label_map or {}
    problems = list(listing.problems)
    if split != PREDICT and (entries or label_map):
        problems += _label_problems(where, entries, label_map, split)
    problems += flow_problems(spec, entries)
    if is_taught:
        problems += one_class_problems(where, entries)
    videos, bad, notes = _read_entries(entries, label_map, spec.model.streams)
    if bad and not skips_bad(spec, split):
        problems += [_bad_problem(entries[i], error) for i, error in sorted(bad.items())]
    if problems:
        raise DataError.of(problems)
    notes = [*listing.notes, *notes, *copy_notes([video for video in videos if video])]
    notes += _leak_notes(spec, where, entries) if split == VAL else []
    notes += _class_notes(where, entries, label_map, split)
    kept, failed = _without_bad(entries, videos, bad, split)
    kept, short_notes = _short(spec, kept, split)
    if bad and split in (TRAIN, VAL):
        first = min(bad)
        notes.append(
            f"{where}: {len(bad)} of {len(entries)} videos cannot be read and are left out, the "
            f"first {entries[first].id!r} ({bad[first].problems[0].received})."
        )
    if not any(video.num_frames for video in kept):
        reason = f": {next(iter(failed.values()))}" if failed else ""
        raise DataError(str(where), "at least one video", f"0 usable of {len(entries)}{reason}")
    if lost := list(_lost_classes(where, entries, kept, label_map)) if split == TRAIN else []:
        raise DataError.of(lost)
    return Videos(tuple(kept), failed, tuple(printable(note) for note in (*notes, *short_notes)))


def _leak_notes(spec: Any, where: Path, entries: Sequence[Entry]) -> list[str]:
    """Which validation videos are in the training data. Raises DataError where none may be."""
    if not spec.dataset.train_dataset_dir or not spec.has_training:
        return []
    known = _in_time(list_videos(source_path(spec, TRAIN), TRAIN).entries)
    shared = [one.id for one in find_shared(known, _in_time(entries), slack=_MOMENT)]
    if not shared:
        return []
    note = leak_text(data_path(spec, TRAIN), str(where), shared, total=len(entries))
    if spec.dataset.fail_on_leakage:
        fix = "Split by person or recording, or set dataset.fail_on_leakage: false."
        raise DataError(str(where), "no video of the training data", note, fix)
    return [note]


def _in_time(entries: Sequence[Entry]) -> list[Video]:
    """Entries as `find_shared` takes them, stretches in milliseconds; nothing is decoded."""
    found = []
    for entry in entries:
        first, end = (entry.start or 0.0, math.inf if entry.end is None else entry.end)
        length = min(round(1000 * (end - first)) if end < math.inf else _ENDLESS, _ENDLESS)
        with contextlib.suppress(DataError):  # whoever reads it says so
            whole = Video(entry.id, entry.path, 0, num_frames=length, first=round(1000 * first))
            folder = None if entry.is_file else frame_video(entry, (), 0)[0]
            found.append(replace(folder, num_frames=_ENDLESS) if folder else whole)
    return found


def _read_entries(
    entries: Sequence[Entry], label_map: Mapping[str, int], streams: Sequence[str]
) -> tuple[list[Video | None], dict[int, DataError], list[str]]:
    """What is known of each entry without decoding it, and what is wrong with the others."""
    videos: list[Video | None] = [None] * len(entries)
    bad: dict[int, DataError] = {}
    files = [i for i, entry in enumerate(entries) if entry.is_file]
    unique = sorted({entries[i].path for i in files})
    facts = dict(
        zip(unique, probe_all(unique, deadline_seconds=PROBE_DEADLINE_SECONDS), strict=True)
    )
    notes: list[str] = []
    num_gaps, first_gap = 0, ""
    for i, entry in enumerate(entries):
        label = label_map.get(entry.label, -1) if entry.label is not None else -1
        try:
            if entry.is_file:
                videos[i] = _file_video(entry, facts[entry.path], streams, label)
            else:
                videos[i], has_gap = frame_video(entry, streams, label)
                num_gaps, first_gap = num_gaps + has_gap, first_gap or (entry.id if has_gap else "")
        except DataError as error:
            bad[i] = error
    if num_gaps:
        notes.append(
            f"{num_gaps} of {len(entries)} videos have gaps in the numbers of their frames, the "
            f"first {first_gap!r}."
        )
    return videos, bad, notes


def _file_video(
    entry: Entry, facts: VideoFacts | DataError, streams: Sequence[str], label: int
) -> Video:
    """A file or a stretch of one."""
    if isinstance(facts, DataError):
        raise facts
    first, last = stretch_of(entry, facts)
    if "flow" in streams and last - first < 2:
        raise DataError(entry.id, "two frames, as flow lies between them", "one")
    return Video(
        entry.id,
        entry.path,
        label,
        num_frames=last - first,
        fps=facts.fps,
        size=(facts.height, facts.width),
        first=first,
    )


def stretch_of(entry: Entry, facts: VideoFacts) -> tuple[int, int]:
    """The frames [first, last) from start to end in seconds; all of a file without these.

    Raises DataError where there are none.
    """
    first = 0 if entry.start is None else round(entry.start * facts.fps)
    last = facts.num_frames if entry.end is None else round(entry.end * facts.fps)
    last = min(last, facts.num_frames)
    if first >= last:
        raise DataError(
            f"{entry.id}: start, end",
            f"a stretch inside the {facts.duration_seconds:.2f} s of the video",
            f"{entry.start or 0:g} to {'its end' if entry.end is None else f'{entry.end:g}'}",
        )
    return first, last


def frame_video(entry: Entry, streams: Sequence[str], label: int) -> tuple[Video, bool]:
    """A folder of frames: TAO's rgb/, u/, v/, or images themselves; and whether numbers miss.

    streams: those it must have. Raises DataError.
    """
    path, has_gap = entry.path, False
    found: dict[str, tuple[Path, ...]] = dict.fromkeys(STREAM_FOLDERS, ())
    for name, folder in stream_folders(path).items():
        listing = images.list_frames(folder)
        _check_links(entry.root, folder)
        found[name], has_gap = listing.paths, has_gap or bool(listing.num_missing)
    _check_streams(path, found, streams)
    shown = found["rgb"] or found["u"]
    video = Video(
        entry.id,
        path,
        label,
        num_frames=len(found["rgb"]) or len(found["u"]) + 1,
        size=images.image_size(shown[0]),
        rgb=found["rgb"],
        u=found["u"],
        v=found["v"],
    )
    return video, has_gap


def _check_streams(path: Path, found: Mapping[str, Sequence[Path]], streams: Sequence[str]) -> None:
    """Raise DataError where a folder lacks frames of a stream, or streams do not go together."""
    needed = [name for stream in streams for name in FOLDERS[stream]]
    absent = [name for name in needed if not found[name]]
    if absent:
        kind = "joint" if len(streams) > 1 else TAO_WORDS[streams[0]]
        raise DataError(
            str(path),
            f"frames in {_folders(needed)}, as model.model_type is {kind}",
            f"none in {_folders(absent)}",
            "" if absent == ["rgb"] else "dataset_convert makes u/ and v/ from videos.",
        )
    images.check_pairs(found["u"], found["v"])
    if len(streams) > 1 and len(found["rgb"]) < len(found["u"]):
        raise DataError(
            str(path),
            "as many frames in rgb/ as in u/, or one more",
            f"{len(found['rgb'])} in rgb/, {len(found['u'])} in u/",
            "Extract both from the same video again.",
        )
    if not any(found.values()):
        raise DataError(str(path), "frames", "none")


def _folders(names: Sequence[str]) -> str:
    return " and ".join(f"{name}/" for name in names)


def _check_links(root: Path, folder: Path) -> None:
    """Raise DataError for links in a folder of frames, or to it, that lead out of the data."""
    if folder.is_symlink():
        archives.resolve_inside(root, folder)
    with os.scandir(folder) as children:
        links = sorted(child.name for child in children if child.is_symlink())
    for name in links:
        archives.resolve_inside(root, folder / name)


def _label_problems(
    where: Path, entries: Sequence[Entry], label_map: Mapping[str, int], split: str
) -> Iterator[Problem]:
    """Classes of the data that the spec does not know; classes without data when training."""
    if not label_map:
        yield Problem(
            "dataset.label_map", "class names and ids", "nothing", "Use a checkpoint of kineme."
        )
        return
    seen = {entry.label for entry in entries}
    source, fix = "dataset.label_map", "Add it to dataset.label_map, or remove its videos."
    if split != TRAIN:  # which has videos of every class there is
        source = "the training data"
        fix = f"Add videos of it to {KEYS[TRAIN]} (and to dataset.label_map, if set), or remove it."
    for name in sorted(str(name) for name in seen - set(label_map)):
        expected = f"classes of {source} ({', '.join(sorted(label_map))})"
        yield Problem(f"{where}", expected, repr(name), fix)
    if split == TRAIN:
        for name in sorted(set(label_map) - seen):
            yield Problem(f"{where}", f"videos of class {name!r}", "none")


def one_class_problems(where: Path, entries: Sequence[Entry]) -> Iterator[Problem]:
    """That videos to learn from are all of one class, as there is nothing to tell apart."""
    seen = {entry.label for entry in entries if entry.label is not None}
    if len(seen) == 1:
        yield one_class_problem(str(where), repr(seen.pop()))


def _class_notes(
    where: Path, entries: Sequence[Entry], label_map: Mapping[str, int], split: str
) -> Iterator[str]:
    if split in (VAL, TEST):
        absent = sorted(set(label_map) - {entry.label for entry in entries})
        if absent:
            yield f"{where}: no videos of {len(absent)} classes: {listed(absent, 5)}."


def _lost_classes(
    where: Path, entries: Sequence[Entry], kept: Sequence[Video], label_map: Mapping[str, int]
) -> Iterator[Problem]:
    """Classes of which every video is left out, for being bad or short."""
    given, left = Counter(entry.label for entry in entries), {video.label for video in kept}
    for name, number in label_map.items():
        if given[name] and number not in left:
            expected = f"a video of class {name!r} that can be used"
            received = f"none of {given[name]} (dataset.bad_sample, dataset.short_clip)"
            fix = "Mend them, or take the class out of the data."
            yield Problem(str(where), expected, received, fix)


def _bad_problem(entry: Entry, error: DataError) -> Problem:
    first = error.problems[0]
    where = first.where if entry.id in first.where else f"{entry.id}: {first.where}"
    return with_way_out(replace(first, where=where))


def _without_bad(
    entries: Sequence[Entry],
    videos: Sequence[Video | None],
    bad: Mapping[int, DataError],
    split: str,
) -> tuple[list[Video], dict[int, str]]:
    """Training leaves bad videos out; elsewhere they stay, with the reason, and have no frames."""
    if split in (TRAIN, VAL):
        return [video for video in videos if video is not None], {}
    kept, failed = [], {}
    for i, (entry, video) in enumerate(zip(entries, videos, strict=True)):
        kept.append(video or Video(entry.id, entry.path, -1, num_frames=0))
        if i in bad:
            problem = bad[i].problems[0]
            failed[i] = f"expected {problem.expected}, got {problem.received}"
    return kept, failed


def _short(spec: Any, videos: list[Video], split: str) -> tuple[list[Video], list[str]]:
    """What is done with videos that have fewer frames than a clip, said once."""
    policy, needed = spec.dataset.short_clip, _needed_frames(spec)
    short = [video for video in videos if 0 < video.num_frames < needed]
    if not short:
        return videos, []
    first = f"{short[0].id!r} has {short[0].num_frames}"
    if policy == "error":
        fix = "Remove it, or let dataset.short_clip pad, loop or drop it."
        raise DataError.of(
            [
                Problem(video.id, f"at least {needed} frames", str(video.num_frames), fix)
                for video in short
            ]
        )
    counted = f"{len(short)} of {len(videos)} videos have fewer than {needed} frames ({first})"
    if policy == "drop" and split in (TRAIN, VAL):
        dropped = {video.id for video in short}
        return [v for v in videos if v.id not in dropped], [f"{counted}; they are left out."]
    how = "looped" if policy == "loop" else "padded with their last frame"
    if spec.model.sample_strategy == "random_interval":
        how = "shown with frames more than once (random_interval)"
    if policy == "drop":
        how += ", as only training drops videos"
    return videos, [f"{counted}; they are {how}."]


def _needed_frames(spec: Any) -> int:
    """Frames below which some of a clip would be seen twice, over the streams in use."""
    model = spec.model
    sampling = Sampling(model.sample_strategy, model.sample_rate)
    lengths: Mapping[str, int] = model.lengths
    return max(
        needed_frames(length, sampling) + (stream == "flow") for stream, length in lengths.items()
    )
