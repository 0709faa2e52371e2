"""Videos into TAO's folders of frames: `<clip>/rgb/000001.png`, `u/000001.jpg`, `v/000001.jpg`.

Promises: a clip folder is complete or absent, and `clip.json` in it says what it was made from; a
second run goes on where the first one was stopped; a clip of other settings is never written
over; flow k, from frame k to k + 1, has the number of frame k, counted from 1.
Leaves out: which videos there are (videos.py, hmdb.py).

Shapes: frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme import files
from kineme.action_recognition.convert.found import Found, Source
from kineme.action_recognition.entries import CLIP_FILE
from kineme.action_recognition.stream_words import FOLDERS
from kineme.data.conversion import Tally
from kineme.data.flow import encode_flow, iterate_flow
from kineme.data.flow.store import encode_jpeg
from kineme.data.frames import FrameReader, FramesFacts, content_hash, stamp_of
from kineme.data.workers import run_tasks
from kineme.errors import DataError, Problem, listed

_PARTIAL = ".partial"  # clips that are being written, in the folder of the conversion
_TASK = "kineme.action_recognition.convert.frames:write_clip"


@dataclass(frozen=True)
class Written:
    """clips: facts of each clip by its id, those of earlier runs too. failed: what has none."""

    clips: Mapping[str, Mapping[str, Any]]
    failed: list[Problem]


def write_frames(
    source: Source, folder: Path, settings: Mapping[str, Any], *, num_workers: int, tally: Tally
) -> Written:
    """Write every video of `source` below `folder`, as many at once as there are workers.

    settings: streams, short_side, fps; of colour image_format; of flow flow_method, flow_scaling,
    flow_bound; of what is JPEG image_quality. Raises DataError, with all of them, for clip folders
    of that name that something else has made, and where there are clips of other videos, which
    training would see, too; then nothing is written.
    """
    with files.write_errors_named(folder):
        (folder / _PARTIAL).mkdir(parents=True, exist_ok=True)
        _sweep(folder / _PARTIAL)
    clips: dict[str, Mapping[str, Any]] = {}
    failed: list[Problem] = []
    foreign: dict[str, list[Path]] = {}  # clips by what they are, where they are not these
    tasks: deque[Mapping[str, Any]] = deque()
    for video in source.videos:
        try:
            task = _task(video, folder, settings)
            there = _facts_there(folder / video.id)
        except DataError as error:
            failed += error.problems
            continue
        if there is None:
            tasks.append(task)
        elif not (what := _differs(there, task)):
            clips[video.id] = there
            tally.add("clips of an earlier run, kept", video.id)
        else:
            foreign.setdefault(what, []).append(folder / video.id)
    problems = [_foreign(what, paths) for what, paths in foreign.items()]
    problems += _strays(folder, {video.id for video in source.videos})
    if problems:
        raise DataError.of(problems)
    for done, result in run_tasks(_TASK, tasks, num_workers=min(num_workers, len(tasks))):
        if isinstance(result, DataError):
            failed += result.problems
        else:
            clips[done["id"]] = result
    for name, clip in clips.items():
        if clip["damage"]:
            tally.add("damaged videos, converted as far as they go", f"{name} ({clip['damage']})")
        if clip.get("num_repeated"):
            what = "videos with frames more than once, as dataset_convert.fps is above their own"
            tally.add(what, f"{name} ({clip['num_repeated']} of {clip['num_frames']})")
    with contextlib.suppress(OSError):
        (folder / _PARTIAL).rmdir()
    return Written({v.id: clips[v.id] for v in source.videos if v.id in clips}, failed)


def write_clip(task: Mapping[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
    """In a worker: one clip folder; returns what its `clip.json` says."""
    made_from = task["made_from"]
    frames = FrameReader(Path(task["name"]), short_side=made_from["short_side"])
    indices = _indices(frames.facts, made_from["fps"], task["name"])
    needed = 2 if "flow" in made_from["streams"] else 1
    if len(indices) < needed:
        raise DataError(task["name"], f"at least {needed} frames", str(len(indices)))
    target = Path(task["folder"], task["id"])
    partial = files.temporary_beside(Path(task["folder"], _PARTIAL, "clip"))
    with files.write_errors_named(target), _removed_unless_renamed(partial):
        facts = _write(partial, frames, indices, made_from, beat)
        facts["sha256"] = content_hash(Path(task["name"]), beat)
        files.write_json(partial / CLIP_FILE, facts)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(partial, target)
        files.sync(target.parent)
    return facts


def _write(
    folder: Path,
    frames: FrameReader,
    indices: NDArray[np.int64],
    made_from: Mapping[str, Any],
    beat: Callable[[], None],
) -> dict[str, Any]:
    """The images of one clip; returns what there is to say of them."""
    streams = made_from["streams"]
    folders = [folder / name for stream in streams for name in FOLDERS[stream]]
    for path in folders:
        path.mkdir(parents=True)
    size = (0, 0)

    def passing() -> Iterator[NDArray[np.uint8]]:
        nonlocal size
        for number, frame in enumerate(frames.at(indices), start=1):
            size = frame.shape[:2]
            if "rgb" in streams:
                ending = made_from["image_format"]
                data = _encoded(frame, ending, made_from.get("image_quality"))
                _save(folder / "rgb" / f"{number:06d}.{ending}", data)
            beat()
            yield frame

    if "flow" in streams:
        _write_flow(folder, passing(), made_from)
    else:
        deque(passing(), maxlen=0)
    for path in (*(image for part in folders for image in part.iterdir()), *folders, folder):
        files.sync(path)
    return {
        "made_from": dict(made_from),
        "num_frames": len(indices),
        "num_repeated": len(indices) - len(np.unique(indices)),
        "height": size[0],
        "width": size[1],
        "fps": made_from["fps"] or frames.facts.fps,
        "damage": frames.damage,
    }


def _write_flow(
    folder: Path, frames: Iterable[NDArray[np.uint8]], made_from: Mapping[str, Any]
) -> None:
    """The images of the flow between frames."""
    scaling, bound = made_from["flow_scaling"], made_from["flow_bound"]
    pairs = iterate_flow(frames, method=made_from["flow_method"])
    for number, pair in enumerate(pairs, start=1):
        flow = encode_flow(pair, scaling=scaling, bound=bound)
        for axis, name in enumerate("uv"):
            data = encode_jpeg(flow[..., axis], made_from["image_quality"])
            _save(folder / name / f"{number:06d}.jpg", data)


def _indices(facts: FramesFacts, fps: float | None, name: str) -> NDArray[np.int64]:
    """All frames, or those shown at times k / fps."""
    if fps is None:
        return np.arange(facts.num_frames)
    if facts.fps == 0:
        fix = "Leave dataset_convert.fps unset."
        raise DataError(name, "a video file for dataset_convert.fps", "a folder of frames", fix)
    count = max(int(facts.num_frames / facts.fps * fps + 1e-6), 1)
    indices = np.floor(np.arange(count) * (facts.fps / fps) + 1e-6).astype(np.int64)
    return np.asarray(np.minimum(indices, facts.num_frames - 1), np.int64)


def _task(video: Found, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        stamp = stamp_of(video.frames)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise DataError(str(video.path), "a video", reason) from error
    return {
        "name": str(video.frames.absolute()),
        "id": video.id,
        "folder": str(folder.absolute()),
        "made_from": {"video": video.path.name, "stamp": stamp, **settings},
    }


def _facts_there(clip: Path) -> Mapping[str, Any] | None:
    """What the clip folder says of itself, None where there is none."""
    if not clip.exists():
        return None
    nothing: Mapping[str, Any] = {"made_from": {}}
    try:
        found = json.loads((clip / CLIP_FILE).read_bytes())
    except (OSError, ValueError):
        return nothing
    return (
        found if isinstance(found, dict) and isinstance(found.get("made_from"), dict) else nothing
    )


def _strays(folder: Path, ids: Collection[str]) -> list[Problem]:
    """What to say of clips below the folder that are none of these."""
    strays = []
    for path, folders, names in os.walk(folder):
        folders[:] = [] if CLIP_FILE in names else [x for x in folders if x != _PARTIAL]
        if CLIP_FILE in names and Path(path).relative_to(folder).as_posix() not in ids:
            strays.append(os.path.relpath(path, folder))
    if not strays:
        return []
    received = f"{len(strays)} of other videos, splits or classes: {listed(sorted(strays))}"
    fix = "Training would see them, too: delete them, or set another results_dir."
    return [Problem(str(folder), "no clips but of this conversion", received, fix)]


def _differs(there: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """What the clip is, where it is not the task's; a video of another time or place but the same
    bytes is the same."""
    made, asked = there["made_from"], task["made_from"]
    if not made:
        return "one that something else made"
    differs = [key for key in asked if made.get(key) != asked[key]]
    if differs == ["stamp"] and there.get("sha256") == content_hash(Path(task["name"])):
        return ""
    words = ["content of its video" if key == "stamp" else key for key in differs]
    return f"one of another {', '.join(words)}" if differs else ""


def _foreign(what: str, clips: Sequence[Path]) -> Problem:
    """What to say of clips that are not of this conversion for the same reason."""
    more = f" (and {len(clips) - 1} more)" if len(clips) > 1 else ""
    fix = "Delete it, or set another results_dir."
    return Problem(str(clips[0]), "no clip, or one of this conversion", what + more, fix)


def _encoded(frame: NDArray[np.uint8], ending: str, quality: int | None) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if quality and ending == "jpg" else []
    _, data = cv2.imencode(f".{ending}", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def _save(path: Path, data: bytes) -> None:
    """A file in a folder that nobody knows yet; it is synced when the folder is whole."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _removed_unless_renamed(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove clips that a process of this machine which is no more had begun."""
    for path in folder.iterdir():
        if files.is_abandoned(path.name):
            shutil.rmtree(path, ignore_errors=True)
