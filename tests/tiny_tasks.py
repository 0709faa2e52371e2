"""A task for the worker tests, run in processes of their own."""

import os
import signal
import time

from kineme.data import video
from kineme.data.video import probing
from kineme.errors import DataError, ResourceError


def act(task, beat):
    """Do what the task's name says."""
    if task["name"] == "hangs":
        time.sleep(600)
    if task["name"] == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task["name"] == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task["name"] == "prints":
        print("no answer", flush=True)
    if task["name"] == "is slow":
        for _ in range(12):
            time.sleep(0.25)
            beat()
    if task["name"] == "waits":
        open(task["path"], "w").close()
        while True:
            time.sleep(0.02)
            beat()
    if task["name"] == "breaks":
        raise ZeroDivisionError
    if task["name"] == "bad":
        raise DataError("bad", "good data", "bad data", "Mend it.")
    if task["name"] == "full":
        raise ResourceError("bad", "disk space", "none")
    return task["name"].upper()


def probe_badly(task, beat):
    """Look at a video as its name says."""
    name = os.path.basename(task["name"])
    if "hang" in name:
        while True:
            pass
    if "crash" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "greedy" in name:
        probing.probe = lambda path: bytearray(probing.MAX_BYTES)
    try:
        return probing.probe_one(task, beat)
    finally:
        probing.probe = video.probe
