"""The process behind decode_pool.py: answers questions about video files until it is told to end.

Promises: ends when its parent is gone, even while a decoder hangs; takes no more memory than it
is allowed; a file that cannot be decoded is an answer, not the end.
Leaves out: deadlines and replacing a worker that died (the pool's business).

A question and the head of an answer are JSON, the frames of a clip follow as plain bytes: what
crosses between the processes can run nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from kineme.data.video import probe, read_frames
from kineme.errors import DataError

MAX_BYTES = 4 * 1024**3  # of address space: a frame of 64 million pixels and its references fit


def main() -> None:
    """Serve the socket whose number is the first argument. Standard input is the parent's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    questions = Connection(int(sys.argv[1]))
    questions.send_bytes(b"ready")
    while True:
        try:
            question = json.loads(questions.recv_bytes())
        except (EOFError, ConnectionError):
            return
        head, body = _answer(question)
        questions.send_bytes(json.dumps(head).encode())
        if body is not None:
            questions.send_bytes(body)


def _answer(question: dict[str, Any]) -> tuple[dict[str, Any], memoryview | None]:
    try:
        if question["indices"] is None:
            return {"facts": dataclasses.asdict(probe(question["path"]))}, None
        clip = read_frames(
            question["path"],
            np.array(question["indices"], np.int64),
            size=question["size"] and tuple(question["size"]),
            short_side=question["short_side"],
        )
    except DataError as error:
        return {"problems": [dataclasses.asdict(problem) for problem in error.problems]}, None
    except IndexError as error:
        return {"no_such_frame": str(error)}, None
    except MemoryError:
        problem = {
            "where": question["path"],
            "expected": f"a video that is decoded within {MAX_BYTES // 1024**3} GiB of memory",
            "received": "more",
            "fix": "",
        }
        return {"problems": [problem]}, None
    head = {
        "shape": clip.frames.shape,
        "damage": clip.damage,
        "num_missing": clip.num_missing,
        "num_resized": clip.num_resized,
    }
    return {"clip": head}, clip.frames.data.cast("B") if clip.frames.size else None


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    main()
