"""`kineme data check FOLDER`: everything that is wrong with a data set, before a run is.

Promises: one command, no spec; nothing below the folder is changed; what is found is told,
and written as JSON and HTML. The exit code is 3 where training would refuse the data.
Leaves out: finding it (each network's `inspect`).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from kineme import files
from kineme.data.cache import default_cache
from kineme.data.faults import Inspection
from kineme.errors import EXIT_OK, DataError, SpecError, printable
from kineme.network import NETWORKS, load_network
from kineme.report.fault_page import render_faults

JSON_FILE, PAGE_FILE = "data_check.json", "data_check.html"
SHOWN = 20  # faults on the terminal
USAGE = "kineme data check FOLDER [results_dir=FOLDER]"


def main(words: Sequence[str]) -> int:
    """Check the folder that the words name; returns the exit code."""
    where, results = _parsed(words)
    inspections = [
        network.inspect(where, default_cache())
        for network in map(load_network, NETWORKS)
        if network.inspect is not None
    ]
    known = [inspection for inspection in inspections if inspection is not None]
    if not known:
        expected = "videos in class folders, or skeletons in .npy files"
        raise DataError(str(where), expected, "neither")
    found = max(known, key=lambda inspection: inspection.num_samples)
    facts = _facts(where, found)
    files.write_json(results / JSON_FILE, facts)
    files.write_text(results / PAGE_FILE, render_faults(facts))
    _tell(found, results)
    return DataError.exit_code if found.errors else EXIT_OK


def _parsed(words: Sequence[str]) -> tuple[Path, Path]:
    """The data, and a folder outside of them for what is found."""
    options = [word.removeprefix("results_dir=") for word in words if "results_dir=" in word]
    rest = [word for word in words if "results_dir=" not in word]
    if len(rest) != 2 or rest[0] != "check" or len(options) > 1 or rest[1].startswith("-"):
        raise SpecError("data", USAGE, " ".join(["kineme data", *words]))
    where, results = Path(rest[1]), Path(options[0] if options else "data_check")
    if not where.exists():
        raise DataError(str(where), "a folder, a file of data or an archive", "nothing there")
    if where.resolve() in (results.resolve(), *results.resolve().parents):
        fix = "Set results_dir to another folder: a check changes nothing."
        raise SpecError("results_dir", f"a folder outside {where}", repr(str(results)), fix)
    return where, results


def _facts(where: Path, found: Inspection) -> dict[str, object]:
    faults = [
        {
            "kind": "error" if fault.is_error else "note",
            "where": printable(fault.where),
            "what": printable(fault.what),
            "fix": printable(fault.fix),
        }
        for fault in sorted(found.faults, key=lambda fault: not fault.is_error)
    ]
    return {
        "folder": printable(str(where)),
        "samples": found.num_samples,
        "frames": found.num_frames,
        "errors": len(found.errors),
        "notes": len(found.faults) - len(found.errors),
        "names": sorted({name for counts in found.classes.values() for name in counts}),
        "classes": found.classes,
        "faults": faults,
    }


def _tell(found: Inspection, results: Path) -> None:
    for fault in sorted(found.faults, key=lambda fault: not fault.is_error)[:SHOWN]:
        kind = "error" if fault.is_error else "note"
        line = f"{kind}: {fault.where}: {fault.what}. {fault.fix}".rstrip()
        print(printable(line), file=sys.stderr if fault.is_error else sys.stdout, flush=True)
    if len(found.faults) > SHOWN:
        print(f"... and {len(found.faults) - SHOWN} more")
    num_errors = len(found.errors)
    print(
        f"{found.num_samples} samples, {found.num_frames} frames: {num_errors} errors, "
        f"{len(found.faults) - num_errors} notes; all of them in {results / PAGE_FILE}"
    )
