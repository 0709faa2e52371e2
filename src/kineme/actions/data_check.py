"""`kineme check DATA`: everything that is wrong with a data set, and what it can teach and prove.

`kineme data check` is the same command.
Promises: one command, no spec; nothing below the data is changed; what is found is told, and
written as JSON and HTML. The exit code is 3 where training would refuse the data.
Leaves out: finding it (each network's `inspect`), what it says of a data set (report/overview.py).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kineme import files
from kineme.data.cache import default_cache
from kineme.data.faults import Fault, Inspection
from kineme.data.subjects import subjects_of
from kineme.errors import EXIT_OK, DataError, SpecError, printable
from kineme.network import NETWORKS, load_network
from kineme.report.fault_page import render_faults
from kineme.report.overview import Overview, overview

JSON_FILE, PAGE_FILE = "data_check.json", "data_check.html"
SHOWN = 20  # faults on the terminal
USAGE = """\
kineme check DATA [LABELS] [results_dir=FOLDER] [window=FRAMES] [subject_pattern=REGEX]
       kineme data check DATA ...

Reads all of a data set and tells what is wrong with it: a folder, an archive, a list of videos, or
one file of skeletons, whose labels may be named after it. Then what it can teach and prove:
classes, lengths, joints that are not seen, copies, people who are in training and held-out data
alike, the level of chance, and how many samples an accuracy needs.

  results_dir      where data_check.json and data_check.html are written (data_check)
  window           frames that a model will see; samples that are shorter are counted
  subject_pattern  a regular expression that finds the subject in a sample's id, as (person\\d+)"""
OPTIONS = ("results_dir", "window", "subject_pattern")


@dataclass(frozen=True)
class _Request:
    data: Path
    labels: Path | None
    results: Path  # outside of the data
    window: int
    pattern: str | None


def check(words: Sequence[str]) -> int:
    """Check the data that the words name; returns the exit code."""
    request = _parsed(words)
    inspections = [
        network.inspect(request.data, default_cache(), request.labels)
        for network in map(load_network, NETWORKS)
        if network.inspect is not None
    ]
    known = [inspection for inspection in inspections if inspection is not None]
    if not known:
        expected = "videos in class folders, or skeletons in .npy files"
        raise DataError(str(request.data), expected, "neither")
    found = max(known, key=lambda inspection: inspection.num_samples)
    seen = overview(found, window=request.window, pattern=request.pattern)
    faults = sorted((*found.faults, *seen.notes), key=lambda fault: not fault.is_error)
    facts = _facts(request.data, found, faults, seen)
    files.write_json(request.results / JSON_FILE, facts)
    files.write_text(request.results / PAGE_FILE, render_faults(facts))
    _tell(found, faults, seen, request.results)
    return DataError.exit_code if found.errors else EXIT_OK


def main(words: Sequence[str]) -> int:
    """`kineme data check ...`; returns the exit code."""
    if words[:1] != ["check"]:
        raise SpecError("data", _usage(), " ".join(["kineme data", *words]))
    return check(words[1:])


def _usage() -> str:
    return USAGE.partition("\n")[0]


def _parsed(words: Sequence[str]) -> _Request:
    """What the words ask for. Raises SpecError, and DataError where there are no data."""
    options: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in OPTIONS:
            rest.append(word)
        elif name in options or not value:
            raise SpecError(name, "one value", repr(value) if not value else "two")
        else:
            options[name] = value
    if len(rest) not in (1, 2) or any(word.startswith("-") for word in rest):
        raise SpecError("check", _usage(), " ".join(["kineme check", *words]))
    for word in rest:
        scheme, mark, _ = word.partition("://")
        if mark:  # what follows may hold a password
            fix = "train fetches what a spec names so; to check it beforehand, copy it here."
            raise SpecError("check", "a path on this machine", f"an address ({scheme}://...)", fix)
    window = options.get("window", "0")
    if not window.isdigit() or (window == "0" and "window" in options):
        raise SpecError("window", "a number of frames", repr(window))
    where, results = Path(rest[0]), Path(options.get("results_dir", "data_check"))
    labels = Path(rest[1]) if len(rest) == 2 else None
    if not where.exists():
        raise DataError(str(where), "a folder, a file of data or an archive", "nothing there")
    if labels is not None and not labels.is_file():
        raise DataError(str(labels), "a file of labels: .json, .csv or .pkl", "none")
    if where.resolve() in (results.resolve(), *results.resolve().parents):
        fix = "Set results_dir to another folder: a check changes nothing."
        raise SpecError("results_dir", f"a folder outside {where}", repr(str(results)), fix)
    pattern = options.get("subject_pattern")
    subjects_of((), pattern)  # refused before all is read
    return _Request(where, labels, results, int(window), pattern)


def _facts(
    where: Path, found: Inspection, faults: Sequence[Fault], seen: Overview
) -> dict[str, object]:
    told = [
        {
            "kind": "error" if fault.is_error else "note",
            "where": printable(fault.where),
            "what": printable(fault.what),
            "fix": printable(fault.fix),
        }
        for fault in faults
    ]
    return {
        "folder": printable(str(where)),
        "samples": found.num_samples,
        "frames": found.num_frames,
        "errors": len(found.errors),
        "notes": len(faults) - len(found.errors),
        "names": sorted({name for counts in found.classes.values() for name in counts}),
        "classes": found.classes,
        "faults": told,
        "overview": seen.facts,
    }


def _tell(found: Inspection, faults: Sequence[Fault], seen: Overview, results: Path) -> None:
    for fault in faults[:SHOWN]:
        kind = "error" if fault.is_error else "note"
        line = f"{kind}: {fault.where}: {fault.what}. {fault.fix}".rstrip()
        print(printable(line), file=sys.stderr if fault.is_error else sys.stdout, flush=True)
    if len(faults) > SHOWN:
        print(f"... and {len(faults) - SHOWN} more")
    for line in seen.lines:
        print(printable(line))
    num_errors = len(found.errors)
    print(
        f"{found.num_samples} samples, {found.num_frames} frames: {num_errors} errors, "
        f"{len(faults) - num_errors} notes; all of them in {results / PAGE_FILE}"
    )
