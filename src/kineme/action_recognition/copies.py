"""Videos that a data set holds twice, told by their bytes.

Promises: both names are said, and whether they stand in two classes; of stretches of a file, those
that share some of it are found, too. Only what is equally large is opened, and of that the
beginning and the end (of a file) or three frames (of a folder), so that looking costs next to
nothing.
Leaves out: copies that were encoded again.
"""

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kineme.action_recognition.samples import Video
from kineme.data.inputs import InputFile
from kineme.errors import DataError

_READ_BYTES = 1 << 20


def copy_notes(videos: Sequence[Video]) -> Iterator[str]:
    """A line for the copies within a class, one for those in two classes."""
    pairs = list(find_copies(videos))
    for is_same, what in ((True, "twice"), (False, "in two classes")):
        found = [(a, b) for a, b in pairs if (a.label == b.label) is is_same]
        if found:
            first, second = found[0]
            yield (
                f"{len(found)} of {len(videos)} videos are there {what}, the first "
                f"{first.id!r} and {second.id!r}."
            )


def find_copies(videos: Sequence[Video]) -> Iterator[tuple[Video, Video]]:
    """Pairs of a video and a later one with the same bytes, each later one once."""
    by_size: dict[Hashable, list[Video]] = defaultdict(list)
    for video in videos:
        by_size[_size(video)].append(video)
    for group in by_size.values():
        seen: dict[str, Video] = {}
        for video in group if len(group) > 1 else ():
            first = seen.setdefault(_digest(video), video)
            if first is not video:
                yield first, video


def find_shared(known: Sequence[Video], own: Sequence[Video], *, slack: int) -> list[Video]:
    """Those of `own` that share more than `slack` with one of `known`, in what their `first` and
    `num_frames` count."""
    whole = {id(video): replace(video, first=0, num_frames=0) for video in (*known, *own)}
    same = {id(later): id(first) for first, later in find_copies(list(whole.values()))}
    file_of = {key: same.get(id(video), id(video)) for key, video in whole.items()}
    ends: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for video in sorted(known, key=lambda one: one.first):  # (where it begins, furthest end so far)
        if video.num_frames > slack:
            until = ends[file_of[id(video)]]
            end = video.first + video.num_frames
            until.append((video.first, max(end, until[-1][1] if until else 0)))
    found = []
    for video in own:
        until = ends[file_of[id(video)]]
        before = bisect_left(until, (video.first + video.num_frames - slack,))
        if video.num_frames > slack and before and until[before - 1][1] > video.first + slack:
            found.append(video)
    return found


def _size(video: Video) -> Hashable:
    """What copies have in common, without opening anything."""
    try:
        sizes = tuple(path.stat().st_size for path in _parts(video))
    except OSError:  # gone since it was listed; reading it will say so
        return video.id
    return video.is_file, video.first, video.num_frames, sizes


def _parts(video: Video) -> list[Path]:
    """A file; or the first, middle and last image of a folder, of each stream."""
    if video.is_file:
        return [video.path]
    streams = (names for names in (video.rgb, video.u, video.v) if names)
    return [names[i] for names in streams for i in (0, len(names) // 2, -1)]


def _digest(video: Video) -> str:
    digest = hashlib.sha256()
    for path in _parts(video):
        try:
            file = InputFile(path)
        except DataError:
            return video.id
        try:
            size = file.stamp.size
            digest.update(file.read(0, min(size, _READ_BYTES)))
            rest = min(max(0, size - _READ_BYTES), _READ_BYTES)
            digest.update(file.read(size - rest, rest))
        except DataError:
            return video.id
        finally:
            file.close()
    return digest.hexdigest()
