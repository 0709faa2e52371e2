"""Optical flow for the videos of a data set that have none: computed once, kept in a cache.

Promises: what was computed before is used again; several processes share the work; what
fails is named, video by video; a cache that cannot be written costs a note, and the time.
Leaves out: how flow is computed (data/flow) and stored (data/flow/cache.py).
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kineme.action_recognition.samples import Videos, with_way_out
from kineme.action_recognition.sources import cache_of, skips_bad
from kineme.data.cache import temporary_cache
from kineme.data.flow.cache import FlowSettings, build_stores
from kineme.errors import DataError, ResourceError

_LOGGER = logging.getLogger("kineme")
_TOLD = 10  # lines of progress, at most


def flow_settings(spec: Any) -> FlowSettings:
    """How the spec wants flow to be made."""
    settings = spec.dataset
    return FlowSettings(
        method=settings.flow_method,
        scaling=settings.flow_scaling,
        bound=settings.flow_bound,
        short_side=settings.flow_short_side,
    )


def with_flow(videos: Videos, spec: Any, split: str) -> Videos:
    """`videos`, each file with its flow. Raises DataError where some cannot be had."""
    needed = [i for i, v in enumerate(videos.items) if v.is_file and i not in videos.failed]
    notes: list[str] = []
    stores = _stores([videos.items[i].path for i in needed], spec, notes)
    items, failed = list(videos.items), dict(videos.failed)
    errors = []
    for i, store in zip(needed, stores, strict=True):
        if isinstance(store, DataError):
            errors.append(store)
            problem = store.problems[0]
            failed[i] = f"expected {problem.expected}, got {problem.received}"
        else:
            items[i] = replace(items[i], flow=store)
    if errors and not skips_bad(spec, split):
        raise DataError.of(
            [with_way_out(problem) for error in errors for problem in error.problems]
        )
    return Videos(tuple(items), failed, (*videos.notes, *notes))


def _stores(paths: Sequence[Path], spec: Any, notes: list[str]) -> list[Path | DataError]:
    """A flow store of each path, in the cache or, where that cannot be written, for now."""

    def build(cache: Path) -> list[Path | DataError]:
        return build_stores(
            paths,
            cache,
            flow_settings(spec),
            num_workers=min(max(spec.dataset.workers, 0), os.cpu_count() or 1),
            progress=_progress(len(set(paths))),
            note=notes.append,
        )

    cache = cache_of(spec)
    try:
        return build(cache)
    except ResourceError:
        folder = cache / "flow"
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            raise
    notes.append(
        f"{cache} cannot be written: optical flow goes to a temporary folder, and is computed at "
        "every start. Set dataset.cache_dir or KINEME_CACHE."
    )
    return build(temporary_cache("flow"))


def _progress(total: int) -> Callable[[int, int], None]:
    """A line now and then: the first time, flow takes a while."""
    every = max(total // _TOLD, 1)

    def tell(done: int, of_all: int) -> None:
        if done % every == 0 or done == of_all:
            _LOGGER.info("optical flow: %d of %d videos", done, of_all)

    return tell
