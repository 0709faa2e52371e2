"""Write a checkpoint as ONNX or for OpenVINO, checked against the model it came from.

Promises: the file appears only after its runtime gave the model's own answers, to random
and to lifelike inputs, at several batch sizes and sizes of every dynamic dimension; one that
computes in fewer bits, only after it was judged on validation data. Labels, normalisation,
version and the checkpoint's digest travel in its metadata; a failed export leaves nothing behind.
Leaves out: what the inputs are called and look like (the network's `ExportForm`).
"""

import itertools
import json
import re
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnxscript import ir

from kineme import __version__, files
from kineme.actions import reduced
from kineme.engine import checkpoint as checkpoints
from kineme.engine import results
from kineme.engine.calibration import load_calibration
from kineme.engine.exported import open_exported
from kineme.engine.names import EXPORT_FILE, ONNX_FILE, OPENVINO_FILE
from kineme.engine.openvino_files import load_nncf, load_openvino, write_openvino
from kineme.engine.quiet import quiet
from kineme.errors import QualityError
from kineme.network import ExportForm, Network

BATCH_SIZES = (1, 3, 8)
NUM_RANDOM = 64  # samples at least, beside the lifelike ones
TOLERANCE = 1e-4  # largest difference allowed, as a share of the largest logit


def run(network: Network, spec: Any) -> Mapping[str, Any]:
    """Export `spec.export.checkpoint`; returns the parity figures and the path.

    Raises SpecError when the file that the spec names exists, QualityError when the model
    has no ONNX form, answers differently in it, or loses too much with fewer bits.
    """
    asked = spec.export
    results.refuse_taken(network, spec)
    load_packages(asked)
    checkpoint = checkpoints.load_checkpoint(asked.checkpoint, spec.encryption_key)
    spec = checkpoints.restore_spec(spec, checkpoint, network.identity, network.inherited)
    with results.open_run(network, "export", spec) as a_run:
        name = OPENVINO_FILE if asked.format == "openvino" else ONNX_FILE
        target = Path(asked.onnx_file or a_run.folder / name)
        model = checkpoints.build_trained(network, spec, checkpoint)
        calibration = load_calibration(checkpoint.facts, where=str(checkpoint.path))
        trust = calibration.brief() if calibration else None
        form = _with_origin(network.export_form(spec), checkpoint.path, trust)
        data = reduced.find_data(network, spec, checkpoint)
        for text in data.notes if data else ():
            a_run.note(text)
        with tempfile.TemporaryDirectory() as scratch, files.write_errors_named(Path(scratch)):
            whole = draft = Path(scratch) / "model.onnx"
            save_onnx(model.eval(), form, whole)
            if asked.format == "openvino":
                draft = Path(scratch) / "model.xml"
                write_openvino(whole, draft, metadata=form.metadata, precision="fp32")
            parity = compare(model, form, draft)
            judged = None
            if data:
                source = reduced.Source(network, data, model, form, whole, draft)
                draft, judged = reduced.reduce(source, a_run)
            _publish(draft, target)
        facts = {
            "onnx_file": str(target),
            "format": asked.format,
            "precision": asked.precision,
            "checkpoint": str(spec.export.checkpoint),
            "inputs": {form.names[word]: list(x.shape) for word, x in form.examples.items()},
            "dynamic": {form.names[word]: dict(axes) for word, axes in form.dynamic.items()},
            "output": form.output,
            "opset": form.opset,
            "labels": list(network.class_names(spec)),
            "calibration": trust,
            "parity": parity,
            "judged": judged,
        }
        files.write_json(a_run.folder / EXPORT_FILE, facts)
        if checkpoint.is_encrypted:
            a_run.note(f"{target} is not encrypted: encryption_key is for checkpoints alone.")
        of_what = ", before fewer bits" if judged else ""
        a_run.say(
            f"Wrote {target} (largest difference {parity['max_abs_difference']:.1e}{of_what})"
        )
    return facts


def load_packages(asked: Any) -> None:
    """Raise SpecError now, not after minutes, where a package is missing."""
    if asked.format == "openvino":
        load_openvino()
        if asked.precision == "int8":
            load_nncf()


def _publish(draft: Path, target: Path) -> None:
    """Put a file in its place; weights that lie beside it go first, and never meet another's.

    Whoever finds a graph finds its own weights, at the price of a moment without a graph.
    """
    weights = draft.with_suffix(".bin")
    if draft.suffix == ".xml":
        target.unlink(missing_ok=True)
        files.write_whole(target.with_suffix(".bin"), lambda file: file.write(weights.read_bytes()))
    content = draft.read_bytes()
    files.write_whole(target, lambda file: file.write(content))


def _with_origin(
    form: ExportForm, checkpoint: Path, calibration: Mapping[str, Any] | None
) -> ExportForm:
    """`form` with metadata that say what the file was made of, and which axes are free.

    calibration: how probabilities are made of what it says, and unknown samples found.
    """
    origin = {
        "kineme": __version__,
        "checkpoint_sha256": checkpoints.sha256_of(checkpoint),
        "dynamic": {form.names[word]: dict(axes) for word, axes in form.dynamic.items()},
        "calibration": calibration,
        "precision": "fp32",
    }
    own = {key: json.dumps(value) for key, value in origin.items()}
    return replace(form, metadata={**form.metadata, **own})


def save_onnx(model: torch.nn.Module, form: ExportForm, path: Path) -> None:
    """Trace `model` with the example inputs and write ONNX with named, dynamic inputs.

    Raises QualityError naming the operation, and the module it is in, that has no ONNX form.
    """
    shapes = {
        word: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for word, axes in form.dynamic.items()
    }
    axis_names = [dict(form.dynamic[word]) for word in form.examples]
    try:
        with quiet():
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
    except torch.onnx.OnnxExporterError as error:  # a page long; log.txt has it
        raise QualityError(
            "export",
            "a model whose every operation has an ONNX form",
            f"one that fails at {_culprit(model, error)}",
            "Replace it in the model; the exporter's own words are in log.txt.",
        ) from error
    if program is None:
        raise QualityError("export", "an ONNX program", "nothing", "Please report this model.")
    ir.save(_folded(program.model), str(path))
    _name_axes(path, form, axis_names)


def _folded(model: ir.Model) -> ir.Model:
    """The model with whatever follows from weights alone computed, however large it is.

    Runtimes see weights in what they are given as such: only these do they quantize.
    """
    with quiet():
        return onnxscript.optimizer.optimize(
            model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT
        )


_NO_LIMIT = 1 << 40  # of numbers in a tensor


def _culprit(model: torch.nn.Module, error: BaseException) -> str:
    """The innermost operation and module that the exporter was at when it gave up."""
    names = {id(module): name for name, module in model.named_modules()}
    operation, place, reason = "", None, ""
    cause: BaseException | None = error
    while cause is not None:
        reason = str(cause) or reason
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            node, module = frame.f_locals.get("node"), frame.f_locals.get("self")
            if isinstance(node, torch.fx.Node):
                operation = str(node.target)
                stack = list(node.meta.get("nn_module_stack", {}).values())
                place = str(stack[-1][0]) if stack else place
            elif id(module) in names:
                place = names[id(module)]
        cause = cause.__cause__ or cause.__context__
    operation = operation or " ".join(re.sub(r"[^ -~]", " ", reason).split())[:120]
    return operation if place is None else f"{operation} in {place or type(model).__name__!r}"


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
    """Run model and file on the same inputs; raise QualityError when they differ.

    Where two classes are as good as equal to the model, either is an equal prediction.
    """
    exported = open_exported(path, form.names, form.output)
    worst, scale, agreed, total, shapes = 0.0, 0.0, 0, 0, []
    lifelike = list(_cut(form.lifelike))
    for inputs in itertools.chain(_random_batches(form), lifelike):
        with torch.no_grad():
            ours = model(**inputs).float().numpy()
            theirs = exported(**inputs).numpy()
        worst = float(np.maximum(worst, np.abs(ours - theirs).max()))  # NaN stays NaN
        scale = max(scale, float(np.abs(ours).max()))
        chosen = ours[np.arange(len(ours)), theirs.argmax(1)]
        agreed += int((chosen >= ours.max(1) - TOLERANCE * np.abs(ours).max()).sum())
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
        "lifelike_samples": sum(len(next(iter(inputs.values()))) for inputs in lifelike),
        "shapes": shapes,
        "runtime": exported.runtime,
    }


def _random_batches(form: ExportForm) -> Iterator[dict[str, torch.Tensor]]:
    """The examples, then NUM_RANDOM samples of other sizes.

    Any two dynamic axes meet at each pair of their three sizes: these run through the
    columns of an orthogonal array (Taguchi's L9).
    """
    yield dict(form.examples)
    generator, total = torch.Generator().manual_seed(0), 0
    for turn in itertools.count():
        batch, pace = turn % 3, turn // 3
        inputs = {}
        for word, example in form.examples.items():
            shape = list(example.shape)
            others = [axis for axis in form.dynamic[word] if axis != 0]
            for step, axis in enumerate(others):
                shape[axis] = _sizes(shape[axis])[(pace + step * batch) % 3]
            shape[0] = BATCH_SIZES[batch]
            inputs[word] = torch.randn(shape, generator=generator)
        yield inputs
        total += BATCH_SIZES[batch]
        if total >= NUM_RANDOM:
            return


def _sizes(example: int) -> tuple[int, int, int]:
    """Three sizes of an axis. Long ones become much shorter, so that a check takes seconds."""
    if example >= 16:
        return example // 8 + 1, example // 16 + 1, example // 32 + 1
    return example, max(1, example // 2), example + 1


def _cut(samples: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The samples in batches of the usual sizes."""
    total = max((len(x) for x in samples.values()), default=0)
    start = 0
    for size in itertools.cycle(BATCH_SIZES):
        if start >= total:
            return
        yield {word: x[start : start + size] for word, x in samples.items()}
        start += size
