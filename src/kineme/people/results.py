"""What an analysis leaves: who did what, when, as tables for people and programs.

Promises: every file is complete or absent; all of them are of one run and tell the same segments,
whenever it was stopped or killed: those of an earlier run go before it writes the first, and the
report comes last.
Leaves out: the page (page.py), the video (labelled_video.py), tracks (data/tracks.py), the table
of repetitions (repetitions/results.py).
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kineme import __version__, files
from kineme.data.tracks import Tracks
from kineme.engine.names import REPORT_FILE
from kineme.errors import SpecError, printable
from kineme.people.found import Found
from kineme.people.page import render_page
from kineme.people.repetitions.results import plain_count, write_repetitions
from kineme.people.segments import Segment

TIMELINE_FILE = "timeline.csv"
TIMELINE_JSON_FILE = "timeline.json"
SEGMENT_LINES_FILE = "timeline.jsonl"
REPETITIONS_FILE = "repetitions.csv"
TRACKS_FILE = "tracks.npz"
ANNOTATED_FILE = "annotated.mp4"
JOURNAL_FILE = ".frames.jsonl"
_RESULT_FILES = (  # the report first: while others are left, it does not call them whole
    REPORT_FILE, TIMELINE_JSON_FILE, REPETITIONS_FILE, TIMELINE_FILE, SEGMENT_LINES_FILE,
    TRACKS_FILE, ANNOTATED_FILE,
)  # fmt: skip
COLUMNS = ("person", "label", "probability", "start_seconds", "end_seconds")


def write_results(
    folder: Path, found: Found, tracks: Tracks, picture: Callable[[int], bytes]
) -> None:
    """All files of an analysis but its video, the report last. picture: of a person, as JPEG."""
    tracks.save(folder / TRACKS_FILE)
    write_segments(folder, found.segments)
    if found.counts is not None:
        write_repetitions(folder / REPETITIONS_FILE, found.counts, found.rules)
    files.write_json(folder / TIMELINE_JSON_FILE, _as_plain(found))
    files.write_text(folder / REPORT_FILE, render_page(found, picture))


def refuse_results(source: str, folder: Path) -> None:
    """Raise SpecError where `source` is a file that an analysis in `folder` will take away."""
    if Path(source).resolve() in {(folder / name).resolve() for name in _RESULT_FILES}:
        expected = "a folder other than that of the video, which is a result there"
        raise SpecError("--out", expected, str(folder), "Name another.")


def refuse_folder(folder: Path, source: str) -> None:
    """Raise SpecError where results cannot lie in `folder`: a file is there or above it, or it is
    the source itself."""
    if folder.resolve() == Path(source).expanduser().resolve():
        expected = "a folder for the results, other than the source"
        raise SpecError("--out", expected, str(folder), "Name another.")
    for place in (folder, *folder.parents):
        if os.path.lexists(place):
            if not os.path.isdir(place):
                expected = "a folder for the results, which may be new"
                raise SpecError("--out", expected, f"a file ({place})", "Name another.")
            return


def remove_results(folder: Path) -> None:
    """Take away what an earlier run left, so that nothing of it lies beside what comes now."""
    for name in _RESULT_FILES:
        (folder / name).unlink(missing_ok=True)


def earlier_source(folder: Path) -> str:
    """Of which source the results in a folder are; "" where there are none that say it."""
    try:
        source = json.loads((folder / TIMELINE_JSON_FILE).read_bytes())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return source if isinstance(source, str) else ""


def write_segments(folder: Path, segments: Iterable[Segment]) -> None:
    """timeline.csv, of all segments or of those that are over."""
    files.write_csv(folder / TIMELINE_FILE, COLUMNS, map(_row, segments))


def in_order(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """By person and time, nobody last."""
    return tuple(sorted(segments, key=lambda one: (one.person == 0, one.person, one.start)))


def segment_line(segment: Segment) -> str:
    """A segment as a JSON line."""
    return json.dumps(plain_segment(segment), ensure_ascii=False)


def plain_segment(one: Segment) -> dict[str, Any]:
    """A segment as files and streams tell it."""
    return {
        "person": one.person or None,
        "label": one.label,
        "probability": None if one.probability is None else round(one.probability, 4),
        "start_seconds": round(one.start, 3),
        "end_seconds": round(one.end, 3),
    }


def _row(one: Segment) -> tuple[str, ...]:
    person = str(one.person) if one.person else ""
    probability = "" if one.probability is None else f"{one.probability:.4f}"
    return person, printable(one.label), probability, f"{one.start:.3f}", f"{one.end:.3f}"


def _as_plain(found: Found) -> dict[str, Any]:
    by_person: dict[int, list[dict[str, Any]]] = {}
    for segment in found.segments:
        plain = plain_segment(segment)
        del plain["person"]
        by_person.setdefault(segment.person, []).append(plain)
    people: list[dict[str, Any]] = [
        {"person": person, "segments": by_person[person]} for person in found.people
    ]
    counted = {one.person: plain_count(one) for one in found.counts or ()}
    for person in people if found.counts is not None else ():
        person["repetitions"] = counted[person["person"]]
    return {
        "kineme": __version__,
        **dataclasses.asdict(found.facts),
        "people": people,
        "nobody": by_person.get(0, []),
        "rules": [dataclasses.asdict(rule) for rule in found.rules],
        "events": [dataclasses.asdict(event) for event in found.events],
    }
