"""Everything that can be found wrong in a folder of videos, without a spec or a model.

Promises: every frame of every video is decoded, in processes that may crash or hang without
harm; nothing is changed; one fault hides no other.
Leaves out: what only a spec decides (missing streams, short clips, unknown classes).
"""

import contextlib
import hashlib
import os
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.action_recognition.copies import find_copies, find_shared
from kineme.action_recognition.entries import Entry, Listing
from kineme.action_recognition.listing import is_listable, list_videos, stream_folders
from kineme.action_recognition.manifests import is_list, list_splits
from kineme.action_recognition.packed import as_packed, packed_root
from kineme.action_recognition.samples import Video
from kineme.action_recognition.sources import frame_video, one_class_problems, stretch_of
from kineme.data import archives, images, video
from kineme.data.faults import Fault, Inspection, Samples, is_learned_from
from kineme.data.frames import FrameReader
from kineme.data.names import natural_order
from kineme.data.workers import Beat, run_tasks
from kineme.errors import DataError, printable
from kineme.network import PREDICT, TRAIN

WINDOW = 8  # frames that `recipe: modern` takes
DEADLINE_SECONDS = 60.0  # without a sign of life
_TASK = "kineme.action_recognition.inspection:inspect_one"


def inspect(
    where: Path, cache: Path, labels_path: Path | None = None, *, num_workers: int = 2
) -> Inspection | None:
    """Look at the videos at `where`: class folders, folders of these by split, an archive, a list.

    cache: where an archive is extracted. None where a folder has no video, or labels are given,
    as folders and lists name classes themselves.
    """
    if labels_path:
        return None
    given = where
    if where.is_file() and not is_listable(where):
        if not archives.is_archive(where):
            return None
        where = packed_root(where, cache)
    listings = {split: list_videos(path, kind) for split, path, kind in _splits(where)}
    if not any(found.entries for found in listings.values()) and not is_list(where):
        return None
    faults = [*_listing_faults(where, listings)]
    entries = [
        (f"{split}/{entry.id}" if split else entry.id, entry)
        for split, found in listings.items()
        for entry in found.entries
    ]
    stretches, found = _seen([entry for _, entry in entries], num_workers)
    faults += found
    labels = {split: [e.label or "" for e in x.entries] for split, x in listings.items()}
    sizes = {split: len(names) for split, names in labels.items()}
    faults += _copies(entries, stretches, sizes)
    faults += [*_strange_classes(labels), *_beside_splits(where, listings)]
    classes = {split: dict(sorted(Counter(names).items())) for split, names in labels.items()}
    lengths = {place: num_frames for place, (_, num_frames) in stretches.items()}
    samples = dict(_samples(listings, lengths))
    if where != given:
        told = ((as_packed(f.where, where, given), as_packed(f.what, where, given)) for f in faults)
        faults = [replace(f, where=w, what=t) for f, (w, t) in zip(faults, told, strict=True)]
    once = tuple(dict.fromkeys(faults))  # several rows of a list may be of one video
    return Inspection(classes, sum(lengths.values()), once, samples, window=WINDOW)


def _listing_faults(where: Path, listings: Mapping[str, Listing]) -> Iterator[Fault]:
    """What is wrong with the names of videos, and with the classes of those to learn from."""
    for split, listing in listings.items():
        place = where / split if where.is_dir() else where
        yield from map(Fault.of, listing.problems)
        for note in listing.notes:
            text = note.removeprefix(f"{printable(str(place))}: ").removesuffix(".")
            yield Fault(str(place), text, False)
        if listing.entries and not any(entry.label for entry in listing.entries):
            yield Fault(str(where), "no labels: nothing can be learned from it", False)
        elif is_learned_from(split):
            yield from map(Fault.of, one_class_problems(place, listing.entries))


def _samples(
    listings: Mapping[str, Listing], lengths: Mapping[int, int]
) -> Iterator[tuple[str, Samples]]:
    """The videos of each split that could be decoded. lengths: frames by place among all."""
    place = 0
    for split, listing in listings.items():
        places = range(place, place + len(listing.entries))
        place = places.stop
        kept = [(entry, lengths[at]) for entry, at in zip(listing.entries, places, strict=True)
                if lengths.get(at)]  # fmt: skip
        yield (
            split,
            Samples(
                ids=tuple(entry.id for entry, _ in kept),
                labels=tuple(entry.label or "" for entry, _ in kept),
                lengths=np.asarray([length for _, length in kept], np.int64),
            ),
        )


def inspect_one(task: Mapping[str, Any], beat: Beat) -> dict[str, Any]:
    """Decode one video or stretch of one, in a worker.

    Gives {"first": place in the file, "frames": how many, "faults": [where, what, is_error]}.
    """
    path, first = Path(task["name"]), 0
    faults: list[Fault] = []
    if not task["is_file"]:
        num_frames = _decode_folder(path, Path(task["root"]), faults, beat)
    else:
        indices = None
        if task["start"] is not None or task["end"] is not None:
            entry = Entry(task["id"], path, True, path, None, task["start"], task["end"])
            first, last = stretch_of(entry, video.probe(path))
            indices = np.arange(first, last)
        num_frames = _decode_file(path, indices, faults, beat)
    if num_frames == 1:
        where = str(path) if task["start"] is None and task["end"] is None else task["id"]
        faults.append(Fault(where, "it has one frame: nothing moves", False))
    told = [[fault.where, fault.what, fault.is_error] for fault in faults]
    return {"first": first, "frames": num_frames, "faults": told}


def _splits(where: Path) -> Iterator[tuple[str, Path, str]]:
    """(name, folder or list, how it is listed) of train/, test/ and the like, where these are."""
    if is_list(where):
        is_labelled = any(entry.label for entry in list_videos(where, PREDICT).entries)
        for split in (is_labelled and list_splits(where)) or ("",):
            yield split, where, (split or TRAIN) if is_labelled else PREDICT
        return
    if not where.is_dir():
        yield "", where, PREDICT
        return
    children = [child for child in natural_order(os.listdir(where)) if child[0] != "."]
    splits = [name for name in children if name.lower() in archives.SPLIT_FOLDERS]
    if not splits:
        yield "", where, TRAIN
    for name in sorted(splits, key=lambda name: not name.lower().startswith("train")):
        yield name, where / name, TRAIN


def _seen(
    entries: Sequence[Entry], num_workers: int
) -> tuple[dict[int, tuple[int, int]], list[Fault]]:
    """(first, number) of frames that were decoded, by place; what is wrong, in order of videos."""
    tasks: deque[Mapping[str, Any]] = deque(
        {
            "name": str(entry.path),
            "is_file": entry.is_file,
            "root": str(entry.root),
            "id": entry.id,
            "start": entry.start,
            "end": entry.end,
            "place": place,
        }
        for place, entry in enumerate(entries)
    )
    stretches: dict[int, tuple[int, int]] = {}
    by_place: dict[int, list[Fault]] = {}
    for task, answer in run_tasks(
        _TASK, tasks, num_workers=num_workers, silence_seconds=DEADLINE_SECONDS
    ):
        if isinstance(answer, DataError):
            by_place[task["place"]] = [Fault.of(problem) for problem in answer.problems]
        else:
            stretches[task["place"]] = answer["first"], answer["frames"]
            by_place[task["place"]] = [Fault(*told) for told in answer["faults"]]
    return stretches, [fault for place in sorted(by_place) for fault in by_place[place]]


def _decode_file(
    path: Path, indices: NDArray[np.int64] | None, faults: list[Fault], beat: Beat
) -> int:
    """The frames `indices` of a file, None for all; how many these are."""
    reader = FrameReader(path)
    pictures = _Pictures()
    for frame in reader if indices is None else reader.at(indices):
        pictures.add(frame)
        beat()
    if reader.damage:
        faults.append(Fault(str(path), f"damaged: {reader.damage}", False))
    pictures.judge(path, faults)
    return pictures.count


def _decode_folder(path: Path, root: Path, faults: list[Fault], beat: Beat) -> int:
    """The streams of a frame folder, each on its own, then held against each other."""
    found: dict[str, tuple[Path, ...]] = {}
    for name, folder in stream_folders(path).items():
        with _collected(faults):
            listing = images.list_frames(folder)
            found[name] = listing.paths
            _check_listing(listing, root, faults)
            _decode_images(listing, faults, beat, is_flow=name != "rgb")
    if not any(found.values()) and not faults:
        faults.append(Fault(str(path), "expected frames, got none", True))
    with _collected(faults):
        images.check_pairs(found.get("u", ()), found.get("v", ()))
    colour, motion = len(found.get("rgb", ())), len(found.get("u", ()))
    if colour and motion and motion not in (colour, colour - 1):
        what = f"{colour} frames in rgb/ and {motion} in u/: not of the same video?"
        faults.append(Fault(str(path), what, colour < motion))
    return colour or motion


def _check_listing(listing: images.Frames, root: Path, faults: list[Fault]) -> None:
    folder = str(listing.folder)
    if listing.num_missing:
        after = listing.gaps[0].after
        what = f"{listing.num_missing} numbers are missing, the first after {after!r}"
        faults.append(Fault(folder, what, False))
    others = [name for name in listing.ignored if not name.startswith(".")]
    if others and listing.names:
        what = f"{len(others)} others than images are passed over, the first {others[0]!r}"
        faults.append(Fault(folder, printable(what), False))
    for path in (listing.folder, *listing.paths):
        if path.is_symlink():
            with _collected(faults):
                archives.resolve_inside(root, path)


def _decode_images(
    listing: images.Frames, faults: list[Fault], beat: Beat, *, is_flow: bool
) -> None:
    folder, pictures = str(listing.folder), _Pictures()
    sizes: dict[tuple[int, ...], Path] = {}
    for path in listing.paths:
        beat()
        with _collected(faults):
            if is_flow:
                frame = images.read_flow_images([path], [path])[0, ..., 0]
            else:
                frame = images.read_images([path])[0]
            pictures.add(frame)
            sizes.setdefault(frame.shape[:2], path)
    if len(sizes) > 1:
        told = ", ".join(f"{w} x {h} ({path.name!r})" for (h, w), path in sizes.items())
        faults.append(Fault(folder, f"frames of {len(sizes)} sizes: {told}", True))
    if not is_flow:  # steady motion is no fault
        pictures.judge(listing.folder, faults)


class _Pictures:
    """Counts pictures, and remembers whether they are all the same."""

    def __init__(self) -> None:
        self.count, self.first, self.has_change = 0, b"", False

    def add(self, frame: NDArray[np.uint8]) -> None:
        digest = hashlib.sha256(frame.tobytes()).digest()
        self.first = self.first or digest
        self.has_change |= digest != self.first
        self.count += 1

    def judge(self, where: Path, faults: list[Fault]) -> None:
        if self.count > 1 and not self.has_change:
            faults.append(Fault(str(where), f"all {self.count} frames are the same picture", False))


@contextlib.contextmanager
def _collected(faults: list[Fault]) -> Iterator[None]:
    """Turn a DataError of the block into faults, so that what follows is still looked at."""
    try:
        yield
    except DataError as error:
        faults += [Fault.of(problem) for problem in error.problems]


def _copies(
    entries: Sequence[tuple[str, Entry]],
    stretches: Mapping[int, tuple[int, int]],
    sizes: Mapping[str, int],
) -> Iterator[Fault]:
    """Videos that are there twice; across splits, that is a leak. stretches: as decoded."""
    split_of = [split for split, size in sizes.items() for _ in range(size)]
    numbers = {name: i for i, name in enumerate(sorted({e.label or "" for _, e in entries}))}
    places: dict[int, int] = {}
    videos: list[Video] = []
    for place, (name, entry) in enumerate(entries):
        label = numbers[entry.label or ""]
        try:
            if entry.is_file:
                first, num_frames = stretches.get(place, (0, 1))
                seen = Video(name, entry.path, label, num_frames=num_frames, first=first)
            else:
                seen = frame_video(entry, (), label)[0]
        except DataError:  # which is a fault already
            continue
        places[id(seen)] = place
        videos.append(seen)
    names = [name for name, _ in entries]
    pairs = list(find_copies(videos))
    for one, other in pairs:
        a, b = places[id(one)], places[id(other)]
        what = f"the same video as {names[a]!r}"
        if split_of[a] != split_of[b]:
            what += ": it is in two splits"
        if one.label != other.label:
            what += ": it is in two classes"
        yield Fault(names[b], what, False)
    told, earlier = {id(other) for _, other in pairs}, list[Video]()  # of the splits before
    for split in sizes:
        own = [one for one in videos if split_of[places[id(one)]] == split]
        for one in find_shared(earlier, own, slack=0):
            if id(one) not in told:
                what = "some of its frames are in another split, too"
                yield Fault(names[places[id(one)]], what, False)
        earlier += own


def _strange_classes(labels: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Classes that only some splits have."""
    every = sorted({name for names in labels.values() for name in names})
    for split, names in labels.items():
        absent = [name for name in every if name not in names]
        if absent:
            yield Fault(split, f"no videos of class {', '.join(map(repr, absent))}", False)


def _beside_splits(where: Path, splits: Collection[str]) -> Iterator[Fault]:
    """What lies beside train/ and test/ belongs to none of them."""
    if "" in splits or not where.is_dir():
        return
    others = [name for name in os.listdir(where) if name[0] != "." and name not in splits]
    if others:
        first = natural_order(others)[0]
        what = f"{len(others)} others beside the splits are passed over, the first {first!r}"
        yield Fault(str(where), printable(what), False)
