"""Archives as data sets of videos: where in them the data begin, and what they are called.

Promises: a folder that is packed under a name of its own is the same data set as what is in it.
Leaves out: extracting (data/archives), what the data are (listing.py).
"""

import os
from pathlib import Path

from kineme.action_recognition.listing import is_frame_folder, is_video, is_video_file
from kineme.action_recognition.manifests import is_list
from kineme.data import archives
from kineme.data.names import OF_FINDER


def packed_root(archive: Path, cache: Path) -> Path:
    """The folder with the splits, classes or videos of an archive, extracted below `cache`.

    It lies below lone folders that are no split, class or video. Raises DataError for an archive
    that is bad or none.
    """
    folder = archives.extract(archive, cache)
    while (inner := _wrapped(folder)) is not None:
        folder = inner
    return folder


def as_packed(text: str, root: Path, archive: Path) -> str:
    """A text that names `root`, where an archive was extracted, with the archive in its place."""
    return text.replace(str(root), str(archive))


def _wrapped(folder: Path) -> Path | None:
    """The folder that is alone in `folder` and named after the data set; None if there is none."""
    children = _shown(folder)
    folders = [path for path in children if path.is_dir()]
    if len(folders) != 1 or folders[0].is_symlink():
        return None
    if any(is_video_file(path) or is_list(path) for path in children if path not in folders):
        return None
    inner = folders[0]
    if inner.name.lower() in archives.SPLIT_FOLDERS or is_frame_folder(inner):
        return None
    below = _shown(inner)
    has_videos = any(map(is_video, below))
    has_folders = any(path.is_dir() for path in below)
    return inner if has_folders and not has_videos else None


def _shown(folder: Path) -> list[Path]:
    """What is in a folder and neither hidden nor put there by Finder."""
    try:
        names = os.listdir(folder)
    except OSError:  # whoever lists it says why
        return []
    return [folder / name for name in names if name[0] != "." and name != OF_FINDER]
