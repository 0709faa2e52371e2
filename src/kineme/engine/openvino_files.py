"""Models in OpenVINO's own form: a graph (.xml) with its weights (.bin) beside it.

Promises: openvino and nncf are the extra `[openvino]`, loaded only when they are needed, and a
missing one is an error that says how to get it; neither reports its use. What metadata an ONNX
file holds, the graph holds under `kineme`.
Leaves out: running such files (exported.py), ONNX files in eight bits (quantization.py).
"""

import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kineme.engine.quiet import quiet
from kineme.errors import SpecError

_QUANTIZED = ("Convolution", "GroupConvolution", "MatMul")


def load_openvino() -> Any:
    """The package openvino. Raises SpecError where there is none."""
    return _load("openvino")


def load_nncf() -> Any:
    """The package nncf, which makes models of eight bits. Raises SpecError where there is none."""
    nncf = _load("nncf")
    nncf.set_log_level(logging.ERROR)
    return nncf


def _load(name: str) -> Any:
    # Its presence alone makes them report; None is an import that fails, which both allow for.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fix = "pip install 'kineme[openvino]'"
        raise SpecError("export.format=openvino", f"the package {name}", "none", fix) from error


def has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 by itself."""
    return "BF16" in load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def hint(precision: str) -> str:
    """In what a file of a `precision` computes where it computes in floats: what int8 leaves, in
    bfloat16 where the CPU has it, as OpenVINO itself chooses."""
    if precision == "int8":
        return "bf16" if has_bfloat16() else "f32"
    return {"fp32": "f32", "bf16": "bf16"}[precision]


def write_openvino(
    source: Path,
    target: Path,
    *,
    metadata: Mapping[str, str],
    precision: str,
    samples: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> None:
    """Write the ONNX file `source` as `target` (.xml) and the .bin beside it.

    samples: feeds to fit the ranges of int8 to. bf16: weights are kept in 16 bits.
    """
    model = load_openvino().Core().read_model(str(source))
    if precision == "int8":
        model = _quantized(model, samples)
    for key, value in metadata.items():
        model.set_rt_info(value, ["kineme", key])
    load_openvino().save_model(model, str(target), compress_to_fp16=precision == "bf16")


def _quantized(model: Any, samples: Sequence[Mapping[str, NDArray[Any]]]) -> Any:
    """The model with convolutions and products in int8, but for the first and the last."""
    nncf = load_nncf()
    heavy = [op for op in model.get_ordered_ops() if op.get_type_name() in _QUANTIZED]
    left = sorted({op.get_friendly_name() for op in (heavy[:1] + heavy[-1:])})
    estimators = importlib.import_module("nncf.quantization.range_estimator")
    options = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True,  # it takes what is added to each joint for a bias, and fails
        activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX,
    )
    with quiet():
        return nncf.quantize(
            model,
            nncf.Dataset([dict(feeds) for feeds in samples]),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            ignored_scope=nncf.IgnoredScope(names=left),
            advanced_parameters=options,
        )
