"""A TFLite model as a function of one picture.

Promises: its outputs in the order of the shapes asked for; the greeting that the library prints
when a model is loaded is left out, whatever else it says is passed on.
Leaves out: what goes in and what comes out (the estimators).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kineme.errors import CheckpointError, SpecError

_GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate"


class TfliteModel:
    """One model in memory. Raises SpecError where ai-edge-litert is not installed."""

    def __init__(self, path: Path, *, num_threads: int) -> None:
        try:
            library = importlib.import_module("ai_edge_litert.interpreter")
        except ImportError as error:
            fix = "pip install ai-edge-litert"
            raise SpecError(path.name, "the package ai-edge-litert", "none", fix) from error
        self._path = path
        with _without_greeting():
            self._interpreter = library.Interpreter(str(path), num_threads=num_threads)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = {
            tuple(int(n) for n in details["shape"]): details["index"]
            for details in self._interpreter.get_output_details()
        }

    def __call__(
        self, picture: NDArray[np.float32], *shapes: tuple[int, ...]
    ) -> list[NDArray[np.float32]]:
        """The outputs of these shapes (without the first axis, 1) for an (H, W, 3) picture."""
        absent = [shape for shape in shapes if (1, *shape) not in self._outputs]
        if absent:
            received = ", ".join(map(str, self._outputs))
            raise CheckpointError(str(self._path), f"an output {(1, *absent[0])}", received)
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(self._outputs[1, *shape])[0] for shape in shapes]


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """What C code writes to stderr meanwhile is passed on afterwards, all but the greeting."""
    sys.stderr.flush()
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            caught.seek(0)
            for line in caught:
                if not line.startswith(_GREETING):
                    os.write(2, line)
