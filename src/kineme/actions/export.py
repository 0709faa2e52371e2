"""Write a checkpoint as ONNX, checked against the model it came from.

Promises: the file appears only after onnxruntime gave the model's own answers, at
several batch sizes and at every dynamic dimension; labels and normalisation travel in
its metadata; a failed export leaves nothing behind.
"""

import contextlib
import io
import itertools
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from kineme import files
from kineme.engine import checkpoint as checkpoints
from kineme.engine import results
from kineme.engine.weights import fit_weights
from kineme.errors import QualityError, SpecError
from kineme.network import ExportForm, Network

BATCH_SIZES = (1, 3, 8)
NUM_RANDOM_BATCHES = 6
TOLERANCE = 1e-4  # largest difference allowed, as a share of the largest logit


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Export `spec.export.checkpoint`; returns the parity figures and the path.

    Raises SpecError when the target exists, QualityError when the exported model answers
    differently from the checkpoint's.
    """
    checkpoint = checkpoints.load_checkpoint(spec.export.checkpoint)
    spec = checkpoints.restore_spec(spec, checkpoint, network.identity)
    with results.open_run(network, "export", spec) as a_run:
        target = Path(spec.export.onnx_file or a_run.folder / results.ONNX_FILE)
        if target.exists():
            raise SpecError(
                "export.onnx_file",
                "a path that is free",
                f"{str(target)!r}, which exists",
                "Remove it or set another export.onnx_file.",
            )
        model = network.build_model(spec)
        weights = network.adapt_weights(checkpoint.weights, spec)
        fit_weights(model, weights, where=str(checkpoint.path))
        form = network.export_form(spec)
        with tempfile.TemporaryDirectory() as scratch:
            draft = Path(scratch) / "model.onnx"
            save_onnx(model.eval(), form, draft)
            parity = compare(model, form, draft)
            _publish(draft, target, form)
        facts = {
            "onnx_file": str(target),
            "checkpoint": str(spec.export.checkpoint),
            "inputs": {form.names[word]: list(x.shape) for word, x in form.examples.items()},
            "dynamic": {form.names[word]: dict(axes) for word, axes in form.dynamic.items()},
            "output": form.output,
            "opset": form.opset,
            "labels": list(network.class_names(spec)),
            "parity": parity,
        }
        files.write_json(a_run.folder / results.EXPORT_FILE, facts)
        a_run.note(f"wrote {target} (largest difference {parity['max_abs_difference']:.1e})")
    return facts


def save_onnx(model: torch.nn.Module, form: ExportForm, path: Path) -> None:
    """Trace `model` with the example inputs and write ONNX with named, dynamic inputs."""
    shapes = {
        word: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for word, axes in form.dynamic.items()
    }
    axis_names = [dict(form.dynamic[word]) for word in form.examples]
    with _quiet():
        program = torch.onnx.export(
            model,
            (),
            kwargs=dict(form.examples),
            input_names=[form.names[word] for word in form.examples],
            output_names=[form.output],
            dynamic_shapes=shapes,
            opset_version=form.opset,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise QualityError("export", "an ONNX program", "nothing", "Please report this model.")
    program.save(str(path))
    _name_axes(path, form, axis_names)


def _name_axes(path: Path, form: ExportForm, axis_names: list[dict[int, str]]) -> None:
    """Give dynamic dimensions their published names and store the metadata."""
    model = onnx.load(str(path))
    for value, names in zip(model.graph.input, axis_names, strict=True):
        for axis, name in names.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes in between still carry the tracer's own names
    onnx.helper.set_model_props(model, dict(form.metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def compare(model: torch.nn.Module, form: ExportForm, path: Path) -> dict[str, Any]:
    """Run model and file on the same random inputs; raise QualityError when they differ."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    worst, scale, agreed, total, shapes = 0.0, 0.0, 0, 0, []
    for inputs in itertools.islice(_variants(form, generator), NUM_RANDOM_BATCHES):
        with torch.no_grad():
            ours = model(**inputs).float().numpy()
        feeds = {form.names[word]: x.numpy() for word, x in inputs.items()}
        theirs = session.run([form.output], feeds)[0]
        worst = float(np.maximum(worst, np.abs(ours - theirs).max()))  # NaN stays NaN
        scale = max(scale, float(np.abs(ours).max()))
        agreed += int((ours.argmax(1) == theirs.argmax(1)).sum())
        total += len(ours)
        shapes.append([list(x.shape) for x in inputs.values()])
    if not np.isfinite(worst) or not worst <= TOLERANCE * max(scale, 1e-6) or agreed < total:
        raise QualityError(
            "export parity",
            f"differences up to {TOLERANCE:g} of the largest logit ({scale:.3g})",
            f"{worst:.3g}, {agreed} of {total} predictions equal",
            "No file was written; please report this model.",
        )
    return {
        "max_abs_difference": worst,
        "max_abs_logit": scale,
        "equal_predictions": agreed,
        "samples": total,
        "shapes": shapes,
        "runtime": f"onnxruntime {onnxruntime.__version__}",
    }


def _variants(form: ExportForm, generator: torch.Generator) -> Iterator[dict[str, torch.Tensor]]:
    """Random inputs over the batch sizes and, for other dynamic axes, also shorter and longer."""
    for round_ in itertools.count():
        inputs = {}
        for word, example in form.examples.items():
            shape = list(example.shape)
            for axis in form.dynamic[word]:
                shape[axis] = (shape[axis], shape[axis] + 1, max(1, shape[axis] // 2))[round_ % 3]
            shape[0] = BATCH_SIZES[round_ % len(BATCH_SIZES)]
            inputs[word] = torch.randn(shape, generator=generator)
        yield inputs


def _publish(draft: Path, target: Path, form: ExportForm) -> None:
    with files.atomic_write(target) as file:
        file.write(draft.read_bytes())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter off the user's terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
