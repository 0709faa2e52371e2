"""Many video files looked at by processes that may crash or hang without harm.

Promises: a decoder that does not answer within the deadline is killed, one that crashes or
wants too much memory is replaced, and only the file it was working on fails; answers come in
the order of the files.
Leaves out: what the answers are (video/) and how processes are kept (workers.py).
"""

from __future__ import annotations

import dataclasses
import os
import resource
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kineme.data.video import VideoFacts, probe
from kineme.data.workers import Beat, Task, run_tasks
from kineme.errors import DataError

DEADLINE_SECONDS = 60.0
MAX_BYTES = 4 * 1024**3  # of address space: a frame of 64 million pixels and its references fit
_TASK = "kineme.data.video.probing:probe_one"


def probe_all(
    paths: Sequence[str | os.PathLike[str]],
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    num_workers: int = 2,
) -> list[VideoFacts | DataError]:
    """What each file is, or why it is no video, in the order of `paths`."""
    tasks: deque[Task] = deque(
        {"name": os.fspath(path), "place": place} for place, path in enumerate(paths)
    )
    found: dict[int, VideoFacts | DataError] = {}
    num_workers = max(min(num_workers, len(tasks)), 1)
    for asked, answer in run_tasks(
        _TASK, tasks, num_workers=num_workers, silence_seconds=deadline_seconds
    ):
        is_bad = isinstance(answer, DataError)
        found[asked["place"]] = answer if is_bad else VideoFacts(**answer)
    return [found[place] for place in range(len(found))]


def probe_one(task: Mapping[str, Any], beat: Beat) -> dict[str, Any]:
    """The facts of the file `task["name"]`, in plain values; in a process that is limited."""
    del beat  # one file has one deadline
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, resource.RLIM_INFINITY))
    try:
        return dataclasses.asdict(probe(task["name"]))
    except MemoryError as error:
        expected = f"a video that is decoded within {MAX_BYTES // 1024**3} GiB of memory"
        raise DataError(task["name"], expected, "more") from error
