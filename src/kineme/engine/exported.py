"""Exported files as models: what onnxruntime or OpenVINO say of named inputs.

Promises: a file is run by as many threads as torch uses here, pinned to no core, so that a
process that may use two of many cores is not held up; OpenVINO computes in the precision that
is asked for, which by itself it does not. onnxruntime reports nothing of its use, unless the
user says so (ORT_DISABLE_TELEMETRY).
Leaves out: writing such files (openvino_files.py, quantization.py, actions/export.py).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kineme.engine.openvino_files import hint, load_openvino

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported, from 1.31 on
import onnxruntime

Feeds = Mapping[str, NDArray[Any]]


class Exported(nn.Module):
    """An exported file that is called as the model it came from.

    names: the file's name of each input, by the model's word for it; what a batch holds beside
    these, the file does not take. runtime: what runs it, with its version.
    """

    def __init__(
        self, answer: Callable[[Feeds], NDArray[Any]], names: Mapping[str, str], runtime: str
    ) -> None:
        super().__init__()
        self.answer, self.names, self.runtime = answer, dict(names), runtime

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) on the CPU."""
        feeds = {name: inputs[word].cpu().numpy() for word, name in self.names.items()}
        return torch.from_numpy(np.asarray(self.answer(feeds), np.float32))


def open_exported(
    path: Path, names: Mapping[str, str], output: str, *, precision: str = "fp32"
) -> Exported:
    """The model in `path`, by its ending: .xml is OpenVINO's, anything else ONNX.

    precision: of what the file does not fix itself, as in `export.precision`.
    """
    if path.suffix == ".xml":
        return _open_openvino(path, names, output, precision)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice is pinned to cores
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    runtime = f"onnxruntime {onnxruntime.__version__}"
    return Exported(lambda feeds: session.run([output], dict(feeds))[0], names, runtime)


def _open_openvino(path: Path, names: Mapping[str, str], output: str, precision: str) -> Exported:
    openvino = load_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": hint(precision),
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()

    def answer(feeds: Feeds) -> NDArray[Any]:
        request.infer(dict(feeds))
        return np.array(request.get_tensor(output).data)  # its memory is used again

    return Exported(answer, names, f"OpenVINO {openvino.__version__.partition('-')[0]}")
