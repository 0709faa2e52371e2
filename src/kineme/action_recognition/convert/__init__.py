"""Data sets of videos to the frames, flow or lists that training reads.

Public: `READERS`, a reader function for each value of `dataset_convert.format`, and
`convert`. A new format is a file with a reader, a line in the table and a name in
`settings.FORMATS`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kineme import files
from kineme.action_recognition.convert.found import WHOLE, Source
from kineme.action_recognition.convert.frames import write_frames
from kineme.action_recognition.convert.hmdb import read_hmdb, read_jhmdb
from kineme.action_recognition.convert.lists import list_name, write_lists
from kineme.action_recognition.convert.videos import read_videos
from kineme.data.conversion import DATASET_FILE, MAX_SHOWN, Tally, failed_problems
from kineme.errors import DataError, Problem

__all__ = ["DATASET_FILE", "READERS", "convert"]

READERS: Mapping[str, Callable[[Any, Tally], Source]] = {
    "videos": read_videos,
    "hmdb": read_hmdb,
    "jhmdb": read_jhmdb,
}


def convert(spec: Any, folder: Path) -> dict[str, Any]:
    """Convert `spec.dataset_convert.data` into `folder`.

    Returns {"kpi": counts, "files": names, "warnings": lines, "failed": problems}, each line a
    count of what was left out or changed, the problems those of videos that cannot be read, when
    everything else was written. Raises DataError where nothing can be converted.
    """
    asked, tally = spec.dataset_convert, Tally()
    source = READERS[asked.format](asked, tally)
    counts: Mapping[str, int]
    if asked.write == "manifest":
        counts, failed = write_lists(source, folder, num_workers=asked.workers, tally=tally)
        names = [list_name(split) for split in source.splits]
    else:
        written = write_frames(
            source, folder, frame_settings(spec), num_workers=asked.workers, tally=tally
        )
        counts = {name: clip["num_frames"] for name, clip in written.clips.items()}
        failed = written.failed
        names = list(dict.fromkeys(name.split("/")[0] for name in counts))
    if not counts:
        raise DataError.of(failed[:MAX_SHOWN])
    files.write_json(folder / DATASET_FILE, _facts(source, counts, tally, failed, asked.write))
    kpi = {_title(split): number for split, number in _videos_by_split(source, counts).items()}
    kpi["Number of frames"] = sum(counts.values())
    return {
        "kpi": kpi,
        "files": [*names, DATASET_FILE],
        "warnings": tally.lines(),
        "failed": failed_problems(failed, len(source.videos), where=str(folder / DATASET_FILE)),
    }


def frame_settings(spec: Any) -> dict[str, Any]:
    """What the spec says of the images to write, as far as it matters to them."""
    asked = spec.dataset_convert
    streams = {"both": ("rgb", "flow"), "rgb": ("rgb",), "flow": ("flow",)}
    chosen = list(streams[asked.streams] if asked.streams else spec.model.streams)
    settings = {"streams": chosen, "short_side": asked.short_side, "fps": asked.fps}
    if "rgb" in chosen:
        settings["image_format"] = asked.image_format
    if "flow" in chosen or asked.image_format == "jpg":
        settings["image_quality"] = asked.image_quality
    if "flow" in chosen:
        settings["flow_method"] = spec.dataset.flow_method
        settings["flow_scaling"] = spec.dataset.flow_scaling
        settings["flow_bound"] = spec.dataset.flow_bound
    return settings


def _facts(
    source: Source, counts: Mapping[str, int], tally: Tally, failed: list[Problem], write: str
) -> dict[str, Any]:
    """What dataset.json says."""
    videos = [video for video in source.videos if video.id in counts]
    return {
        "source": source.name,
        "written": write,
        "label_map": {name: number for number, name in enumerate(source.classes)},
        "splits": {
            split or "all": {
                "videos": number,
                "frames": sum(counts[v.id] for v in videos if v.split == split),
                "videos_per_class": dict(
                    sorted(Counter(v.label for v in videos if v.split == split).items())
                ),
            }
            for split, number in _videos_by_split(source, counts).items()
        },
        "left_out_or_changed": tally.facts(),
        "failed": [str(problem) for problem in failed],
    }


def _videos_by_split(source: Source, counts: Mapping[str, int]) -> dict[str, int]:
    found = Counter(video.split for video in source.videos if video.id in counts)
    return {split: found[split] for split in source.splits}


def _title(split: str) -> str:
    return "Number of videos" if split == WHOLE else f"Number of videos in {split}"
