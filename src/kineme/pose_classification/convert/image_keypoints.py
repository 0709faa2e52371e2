"""What 2-D pose estimators write: OpenPose folders and COCO key-point results.

OpenPose: a folder per clip with a file per frame, `<name>_<frame>_keypoints.json`, holding
`people[].pose_keypoints_2d`, x, y, confidence in pixels: BODY_25, or COCO with 18.
COCO: a JSON list per clip of {"image_id", "keypoints", ...}, one entry per person and
image; `track_id` (or `idx`) follows people where every entry has one. Frames are ordered
by image_id, or by the last number in it when it is a file name.

Written: x / input_width - 0.5, y / input_height - 0.5, confidence, as the Kinetics
skeletons have them; a joint of confidence 0 is missing. Without track numbers people are
followed by distance (clips.link).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme.data.conversion import Tally
from kineme.errors import DataError, listed
from kineme.pose_classification.convert.clips import (
    Source,
    in_time,
    link,
    mark_missing,
    read_each,
    refuse_shares,
)
from kineme.pose_classification.convert.folders import source_of
from kineme.pose_classification.convert.reading import (
    as_int,
    as_list,
    children_of,
    iter_json_list,
    numbers,
    read_json,
    take,
)

_FRAME = re.compile(r"(?:.*_)?(\d+)_keypoints\.json")
_TRACK_KEYS = ("track_id", "idx")


def read_openpose(settings: Any, tally: Tally) -> Source:
    """A clip for every folder that holds *_keypoints.json files."""
    return source_of(
        settings,
        tally,
        name="OpenPose",
        layouts=("body-25", "openpose"),
        is_clip=_is_openpose_clip,
        read=partial(read_openpose_clip, settings=settings, tally=tally),
    )


def read_coco(settings: Any, tally: Tally) -> Source:
    """A clip for every JSON file."""
    return source_of(
        settings,
        tally,
        name="COCO key points",
        layouts=("coco", "halpe-26", "body-25", "openpose"),
        is_clip=lambda path: path.suffix.lower() == ".json" and path.is_file(),
        read=partial(read_coco_clip, settings=settings, tally=tally),
    )


def read_openpose_clip(
    folder: Path, name: str, *, settings: Any, tally: Tally
) -> NDArray[np.float32]:
    """(M, T, V, 3) of one folder."""
    return _in_image(openpose_people(folder, tally), name, settings, tally)


def openpose_people(folder: Path, tally: Tally) -> dict[int, NDArray[np.float32]]:
    """(P, V, 3) of each frame number of one folder: x, y in pixels, confidence."""
    paths: dict[int, Path] = {}
    for path in children_of(folder):
        found = _FRAME.fullmatch(path.name)
        if found is None:
            tally.add("files that are no <name>_<frame>_keypoints.json, left out", path.name)
            continue
        number = int(found[1])
        if paths.setdefault(number, path) != path:
            received = f"{paths[number].name} and {path.name}"
            fix = "Give every clip a folder of its own."
            raise DataError(str(folder), f"one file of frame {number}", received, fix)
    return dict(read_each(paths.items(), lambda one: (one[0], _people_of_frame(one[1]))))


def read_coco_clip(path: Path, name: str, *, settings: Any, tally: Tally) -> NDArray[np.float32]:
    """(M, T, V, 3) of one file."""
    frames, tracks = coco_people(path)
    if tracks:
        frames = _by_track(frames, tracks, str(path))
    return _in_image(frames, name, settings, tally, is_tracked=bool(tracks))


def coco_people(path: Path) -> tuple[dict[int, NDArray[np.float32]], dict[int, list[int]]]:
    """((P, V, 3) of each frame number: x, y in pixels, confidence; their track numbers, if any)."""
    frames: dict[int, list[NDArray[np.float32]]] = {}
    tracks: dict[int, list[int]] = {}
    key, parents = None, set()
    for index, entry in enumerate(iter_json_list(path)):
        where = f"{path}: [{index}]"
        number, parent = _frame_number(take(entry, "image_id", where), where)
        parents.add(parent)
        pose = numbers(take(entry, "keypoints", where), (-1,), f"{where}: keypoints")
        if index == 0:
            key = next((key for key in _TRACK_KEYS if type(entry.get(key)) is int), None)
        if key is not None:
            track = as_int(take(entry, key, where), f"{where}: {key}")
            tracks.setdefault(number, []).append(track)
        frames.setdefault(number, []).append(_triples(pose, f"{where}: keypoints"))
    if len(parents) > 1:
        received = f"images of {len(parents)} folders: {listed(sorted(parents))}"
        raise DataError(str(path), "images of one clip", received, "Write a file per clip.")
    return {number: _stack(frames[number], str(path)) for number in sorted(frames)}, tracks


def _in_image(
    frames: dict[int, NDArray[np.float32]],
    name: str,
    settings: Any,
    tally: Tally,
    *,
    is_tracked: bool = False,
) -> NDArray[np.float32]:
    """(M, T, V, 3) from (P, V, 3) in pixels by frame number."""
    people = [frames[number] for number in sorted(frames)]
    if len({seen.shape[1] for seen in people if len(seen)}) > 1:
        raise DataError(name, "as many joints in every frame", "different numbers of them")
    if not any(len(seen) for seen in people):
        return np.zeros((1, len(people), 1, 3), np.float32)
    width, height = settings.input_width, settings.input_height
    for seen in people:
        tally.add("joints with numbers that are not finite", name, mark_missing(seen, seen[..., 2]))
    skeleton = np.stack(people, axis=1) if is_tracked else link(people)
    _check_pixels(skeleton, name, width=width, height=height, tally=tally)
    skeleton[..., 0] = skeleton[..., 0] / width - 0.5
    skeleton[..., 1] = skeleton[..., 1] / height - 0.5
    places = in_time(sorted(frames), settings.max_gap_frames, name, tally)
    spread = np.full((len(skeleton), places[-1] + 1, *skeleton.shape[2:]), np.nan, np.float32)
    spread[:, places] = skeleton
    return spread


def _check_pixels(
    skeleton: NDArray[np.float32], name: str, *, width: int, height: int, tally: Tally
) -> None:
    fix = (
        "If they are shares of the image, set dataset_convert.input_width: 1 and "
        "dataset_convert.input_height: 1."
    )
    refuse_shares(skeleton[..., :2], name, width=width, height=height, fix=fix)
    x, y = skeleton[np.isfinite(skeleton[..., 0])][:, :2].T
    is_outside = (np.abs(x - width / 2) > width) | (np.abs(y - height / 2) > height)
    what = f"joints far outside the image of {width} x {height} (input_width, input_height)"
    tally.add(what, name, int(is_outside.sum()))


def _people_of_frame(path: Path) -> NDArray[np.float32]:
    """(P, V, 3) of one OpenPose file."""
    people = []
    content = read_json(path)
    for index, person in enumerate(as_list(take(content, "people", str(path)), f"{path}: people")):
        where = f"{path}: people[{index}]"
        # Versions before 1.3 wrote it without _2d.
        key = "pose_keypoints" if "pose_keypoints" in person else "pose_keypoints_2d"
        pose = numbers(take(person, key, where), (-1,), f"{where}: {key}")
        if len(pose):
            people.append(_triples(pose, f"{where}: {key}"))
    return _stack(people, str(path))


def _triples(pose: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    if len(pose) == 0 or len(pose) % 3:
        raise DataError(where, "x, y, confidence for every joint", f"{len(pose)} numbers")
    return pose.reshape(-1, 3)


def _stack(people: list[NDArray[np.float32]], where: str) -> NDArray[np.float32]:
    if len({len(pose) for pose in people}) > 1:
        raise DataError(where, "as many joints for every person", "different numbers of them")
    return np.stack(people) if people else np.zeros((0, 0, 3), np.float32)


def _by_track(
    frames: dict[int, NDArray[np.float32]], tracks: dict[int, list[int]], where: str
) -> dict[int, NDArray[np.float32]]:
    """Every frame with everybody, in the order of track numbers."""
    order = {track: i for i, track in enumerate(sorted({t for ts in tracks.values() for t in ts}))}
    full = {}
    for number, seen in frames.items():
        if len(set(tracks[number])) < len(tracks[number]):
            raise DataError(where, "every track once in an image", f"one twice in image {number}")
        full[number] = np.full((len(order), *seen.shape[1:]), np.nan, np.float32)
        full[number][[order[track] for track in tracks[number]]] = seen
    return full


def _frame_number(image_id: Any, where: str) -> tuple[int, str]:
    """(frame number, folder) of an image_id."""
    if isinstance(image_id, str):
        parent, _, name = image_id.rpartition("/")
        digits = re.findall(r"\d+", name.rpartition(".")[0] or name)
        if digits:
            return as_int(digits[-1], f"{where}: image_id"), parent
        raise DataError(f"{where}: image_id", "a number, or a file name with one", repr(image_id))
    return as_int(image_id, f"{where}: image_id"), ""


def _is_openpose_clip(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*_keypoints.json"))
