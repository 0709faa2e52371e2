"""Turn other programs' skeleton or video files into what training reads.

Promises: what was left out or changed is told once, counted; the files of the run's
folder are complete or as they were; where some of the data cannot be read, everything
else is converted and told before the error.
Leaves out: the formats, which are the network's (`<room>/convert`).
"""

from collections.abc import Mapping
from typing import Any

from kineme.engine import results
from kineme.errors import PartialError
from kineme.network import Network
from kineme.signals import impatient_signals


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Convert `spec.dataset_convert.data`; returns the counts and the files written."""
    with (
        impatient_signals(),
        results.open_run(network, "dataset_convert", spec) as a_run,
    ):
        found = network.convert(spec, a_run.folder)
        for line in found["warnings"]:
            a_run.note(f"{spec.dataset_convert.data}: {line}.")
        a_run.kpi = found["kpi"]
        a_run.status("Converted.", kpi=a_run.kpi)
        for name in found["files"]:
            a_run.status(f"Saved {name}.")
        counts = ", ".join(f"{key[0].lower()}{key[1:]}: {n:,}" for key, n in a_run.kpi.items())
        a_run.say(f"{counts}; in {a_run.folder}")
        if found["failed"]:  # after what became of the others was told
            raise PartialError.of(found["failed"])
    return {**found["kpi"], "files": [str(a_run.folder / name) for name in found["files"]]}
