"""Freed memory stays with the process when asked to, and goes when asked to."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from kineme.engine import memory
getattr(memory, sys.argv[1])()
def faults_of_four_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        block = bytearray(b"x") * (48 << 20)  # 12,288 pages, written
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of_four_blocks()
print(faults_of_four_blocks())
"""
PAGES = 4 * (48 << 20) // resource.getpagesize()


def faults_after(function: str) -> int:
    command = [sys.executable, "-c", PROGRAM, function]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_kept_memory_is_not_fetched_again() -> None:
    assert faults_after("keep_freed_memory") < PAGES / 20
    assert faults_after("return_freed_memory") > PAGES / 2
