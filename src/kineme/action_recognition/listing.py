"""Which videos a folder or a list names: entries with ids and labels, nothing opened.

Layouts: `<root>/<class>/<video>`, where a video is a file, a folder of frames, or TAO's
folder of `rgb/`, `u/`, `v/`; for inference also a folder of such videos without classes, or
one video; a CSV or JSON lines list (manifests.py).
Promises: natural order of names; hidden files and others that are no videos are passed over;
videos that are not where they are looked for are told; links that lead out of the data set,
nowhere or in a circle are problems; all problems together.
"""

import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineme.action_recognition import manifests
from kineme.action_recognition.entries import VIDEO_ENDINGS, Entry, Listing, case_notes
from kineme.action_recognition.stream_words import STREAM_FOLDERS
from kineme.data import archives, images
from kineme.data.names import OF_FINDER, is_utf8, natural_order
from kineme.errors import DataError, Problem, printable
from kineme.network import PREDICT


def find_entries(where: Path, split: str) -> list[Entry]:
    """The videos at `where` for `split`. Raises DataError with all problems."""
    found = list_videos(where, split)
    if found.problems:
        raise DataError.of(found.problems)
    return list(found.entries)


def list_videos(where: Path, split: str) -> Listing:
    """The videos at `where` for `split`, and everything that is wrong with their names."""
    if manifests.is_list(where):
        found = manifests.read_list(where, split)
    elif where.is_dir():
        found = (_unlabelled if split == PREDICT else _labelled)(where)
    elif split == PREDICT and is_video_file(where) and os.path.lexists(where):
        found = Listing((Entry(printable(where.name), where, True, where.parent),))
    else:
        received = "a file" if where.exists() else "nothing there"
        expected = "a folder of videos, a .csv or .jsonl list, or an archive"
        found = Listing((), (Problem(str(where), expected, received),))
    return Listing(found.entries, found.problems, (*found.notes, *case_notes(found.entries)))


def is_listable(path: Path) -> bool:
    """Whether `list_videos` takes the path as it is: it is a folder, a list or a video by name."""
    return path.is_dir() or manifests.is_list(path) or is_video_file(path)


def is_video_file(path: Path) -> bool:
    """Whether a path is called as videos are."""
    return path.name.lower().endswith(VIDEO_ENDINGS)


def is_video(path: Path) -> bool:
    """Whether a file or a folder is a video."""
    return is_frame_folder(path) if path.is_dir() else is_video_file(path)


def stream_folders(path: Path) -> dict[str, Path]:
    """Where the frames of a video lie: rgb, u and v as far as it has them, or all in one, rgb."""
    found = {name: path / name for name in STREAM_FOLDERS if (path / name).is_dir()}
    return found or {"rgb": path}


def is_frame_folder(path: Path) -> bool:
    """Whether a folder is one video: TAO's rgb/, u/ or v/ in it, or frames themselves."""
    return _has_streams(path) or _has_images(path)


def _labelled(where: Path) -> Listing:
    """<class>/<video>."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    children = list(_children(where, where, problems))
    left = [path for path in children if not path.is_dir()]
    for folder in (path for path in children if path.is_dir()):
        name, before = folder.name, len(problems)
        if not is_utf8(name):
            expected = "the name of a class in UTF-8"
            problems.append(Problem(str(folder), expected, repr(os.fsencode(name))))
            continue
        found = [
            Entry(printable(f"{name}/{path.name}"), path, not path.is_dir(), where, name)
            for path in _videos_in(folder, where, problems, left)
        ]
        entries += found
        if not found and len(problems) == before:
            problems.append(Problem(str(folder), "videos or folders of frames", "none"))
    if not entries and not problems:
        fix = "Give <root>/<class>/<video>."
        problems.append(Problem(str(where), "class folders with videos", "none", fix))
    return Listing(tuple(entries), tuple(problems), tuple(_passed_over(where, left)))


def _unlabelled(where: Path) -> Listing:
    """One video; or the videos of one folder; of its class folders, where it has those instead."""
    problems: list[Problem] = []
    left: list[Path] = []
    if _has_streams(where):
        return Listing((Entry(printable(where.name), where, False, where),))
    entries = [
        Entry(printable(path.name), path, not path.is_dir(), where)
        for path in _videos_in(where, where, problems, left)
    ]
    if not entries and _has_images(where):
        entries = [Entry(printable(where.name), where, False, where)]
    if not entries and not problems:
        entries = [
            Entry(printable(f"{folder.name}/{path.name}"), path, not path.is_dir(), where)
            for folder in _children(where, where, problems)
            if folder.is_dir()
            for path in _videos_in(folder, where, problems, left)
        ]
        seen = {entry.path.parent for entry in entries}
        left = [path for path in left if path not in seen]
    if not entries and not problems:
        problems.append(Problem(str(where), "videos or folders of frames", "none"))
    return Listing(tuple(entries), tuple(problems), tuple(_passed_over(where, left)))


def _videos_in(
    folder: Path, root: Path, problems: list[Problem], left: list[Path]
) -> Iterator[Path]:
    """Files with a video's ending and folders of frames, in natural order; left gets the rest."""
    for path in _children(folder, root, problems):
        if is_video(path):
            yield path
        else:
            left.append(path)


def _passed_over(where: Path, left: Sequence[Path]) -> Iterator[str]:
    """A line for videos that lie beside or below those that are read."""
    files = [path for path in left if not path.is_dir() and _is_like_a_video(path)]
    folders = [path for path in left if path.is_dir() and _holds_videos(path)]
    told = [
        f"{len(found)} {what} (the first {printable(str(found[0].relative_to(where)))!r})"
        for what, found in (("files of videos", files), ("folders of videos", folders))
        if found
    ]
    if told:
        yield (
            f"{where}: passed over, as they are not where videos are looked for, or of another "
            f"kind: {' and '.join(told)}."
        )


def _is_like_a_video(path: Path) -> bool:
    kind = mimetypes.guess_type(path.name)[0] or ""
    return is_video_file(path) or kind.startswith("video/")


def _holds_videos(folder: Path) -> bool:
    try:
        children = list(folder.iterdir())
    except OSError:
        return True  # nobody knows
    return any(map(is_video, children))


def _children(folder: Path, root: Path, problems: list[Problem]) -> Iterator[Path]:
    """What is in a folder and not hidden, in natural order; bad links become problems."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        problems.append(Problem(str(folder), "a folder that can be read", reason))
        return
    for name in natural_order(names):
        path = folder / name
        if name.startswith(".") or name == OF_FINDER:
            continue
        if path.is_symlink():
            try:
                archives.resolve_inside(root, path)
            except DataError as error:
                problems += error.problems
                continue
        yield path


def _has_streams(path: Path) -> bool:
    return stream_folders(path) != {"rgb": path}


def _has_images(path: Path) -> bool:
    try:
        with os.scandir(path) as children:
            return any(
                child.name.lower().endswith(images.IMAGE_ENDINGS)
                and not child.name.startswith(".")
                and child.is_file()
                for child in children
            )
    except OSError:  # a folder that may not be read is named by whoever lists it
        return False
