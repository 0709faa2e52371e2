"""An ONNX model as a function of one array.

Promises: as many threads as said, none of them spinning while it waits; a file that onnxruntime
cannot run is an error that names it.
Leaves out: what goes in and what comes out (the estimators).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class OnnxModel:
    """One model with one input and one output, on the CPU."""

    def __init__(self, path: Path, *, num_threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._name = self._session.get_inputs()[0].name

    def __call__(self, value: NDArray[Any]) -> NDArray[np.float32]:
        (answer,) = self._session.run(None, {self._name: value})
        return np.asarray(answer, np.float32)
