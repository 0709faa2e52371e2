"""ONNX files in eight bits, calibrated on samples of data.

Promises: weights are int8, each output channel with a scale of its own; activations are uint8
within ranges that the samples showed; the first and the last layer stay float, as do all
operations but convolutions and products. The file says so in QuantizeLinear and DequantizeLinear
nodes, which any runtime reads; names, free axes and metadata are those of the float file.
Leaves out: whether the result is good enough (export_gate.py), OpenVINO (openvino_files.py).
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kineme.data.randomness import permutation
from kineme.engine.feeding import Feed
from kineme.engine.quiet import quiet

QUANTIZED = ("Conv", "MatMul", "Gemm")


def calibration_samples(
    feed: Feed,
    names: Mapping[str, str],
    *,
    most: int,
    seed: int,
) -> list[dict[str, NDArray[Any]]]:
    """Inputs of at most `most` samples, drawn by `seed`, by the file's names for them.

    feed: closed at the end.
    """
    dataset = feed.dataset
    drawn = np.sort(permutation(seed, 0, len(dataset))[:most])
    found = []
    try:
        with contextlib.closing(
            feed.read([(0, drawn[i : i + 1]) for i in range(len(drawn))])
        ) as read:
            for batch in read:
                if len(batch.sample_of_row):  # one that failed has no rows
                    ready = dataset.transform(batch, 0)
                    found.append({name: ready.inputs[word].numpy() for word, name in names.items()})
    finally:
        feed.close()
    return found


def quantize_onnx(
    source: Path, target: Path, samples: Sequence[Mapping[str, NDArray[Any]]]
) -> None:
    """Write the float ONNX file `source` as `target` in eight bits."""
    from onnxruntime import quantization  # brings much that fp32 does without
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Mapping[str, NDArray[Any]]] = iter(samples)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            feeds = next(self.rest, None)
            return None if feeds is None else dict(feeds)

    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, quiet():
        folded = Path(scratch) / "folded.onnx"
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        heavy = [node.name for node in onnx.load(folded).graph.node if node.op_type in QUANTIZED]
        quantization.quantize_static(
            str(folded),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=[*heavy[:1], *heavy[-1:]],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    _restore_names(source, target)


def _restore_names(source: Path, target: Path) -> None:
    """Give the file the inputs, outputs and metadata of the float one."""
    known, model = onnx.load(source), onnx.load(target)
    for kind in ("input", "output"):
        values = getattr(model.graph, kind)
        del values[:]
        values.extend(getattr(known.graph, kind))
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.metadata_props.extend(known.metadata_props)
    model.producer_name, model.producer_version = known.producer_name, known.producer_version
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
