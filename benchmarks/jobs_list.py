"""How long `kineme jobs list` takes for ten thousand jobs that wait, beside reading every record.

    python benchmarks/jobs_list.py [--jobs N] [--rounds N]

Rounds are interleaved; a round is the listing in this process (time of the processor), the whole
command as a process of its own (wall time), and all records read and parsed, one after the other.
The cache of the records is warm, as it is from the second listing on.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kineme.jobs import command
from kineme.jobs.record import JobRecord, to_json
from kineme.jobs.store import RECORD_FILE
from pose_speed import machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_jobs(root, options.jobs)
        ways: dict[str, Callable[[], float]] = {
            "listing": lambda: listing(root, options.jobs),
            "whole command": lambda: whole_command(root),
            "reading every record": lambda: reading(root, options.jobs),
        }
        ways["listing"]()  # fills the cache
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                seconds[name].append(way())
    for name, ones in seconds.items():
        print(f"{name:21} {1000 * statistics.median(ones):7.0f} ms  ({len(ones)} rounds)")
    pairs = zip(seconds["reading every record"], seconds["listing"], strict=True)
    print(f"reading / listing     {statistics.median(a / b for a, b in pairs):7.1f}")


def make_jobs(root: Path, number: int) -> None:
    """Records of jobs that wait."""
    plain = JobRecord("", "pose_classification", "train", "2026-01-01T00:00:00.000+00:00")
    for i in range(number):
        job_id = f"00000000-0000-4000-8000-{i:012x}"
        (root / job_id).mkdir()
        (root / job_id / RECORD_FILE).write_text(json.dumps({**to_json(plain), "id": job_id}))


def listing(root: Path, number: int) -> float:
    """Seconds of the processor."""
    table = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(table):
        command.main(["list", "--root", str(root)])
    seconds = time.process_time() - began
    assert table.getvalue().count("Pending") == number
    return seconds


def whole_command(root: Path) -> float:
    """Seconds on the wall, the start of Python among them."""
    words = [sys.executable, "-m", "kineme", "jobs", "list", "--root", str(root)]
    began = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def reading(root: Path, number: int) -> float:
    """Seconds of the processor for what there would be without the cache."""
    began = time.process_time()
    states = [json.loads((folder / RECORD_FILE).read_bytes())["state"]
              for folder in root.iterdir() if folder.is_dir()]  # fmt: skip
    seconds = time.process_time() - began
    assert len(states) == number
    return seconds


if __name__ == "__main__":
    main()
