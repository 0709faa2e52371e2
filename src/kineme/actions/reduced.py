"""An export that computes in fewer bits: made, judged against the checkpoint, and told of.

Promises: ranges of int8 are fitted to training data, seen as validation sees its own (nothing
random); the file is judged on validation data, as it will be published. Where the spec names
neither, they are those that the checkpoint was trained with, and that is said. Test data are
never looked at. What the file lost stands in its facts and on the terminal.
Leaves out: how bits are saved (engine/quantization.py, engine/openvino_files.py), what is too
much (engine/export_gate.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from kineme.engine import export_gate
from kineme.engine.checkpoint import Checkpoint
from kineme.engine.exported import Exported, open_exported
from kineme.engine.feeding import build_feed
from kineme.engine.keeping import fingerprint
from kineme.engine.openvino_files import has_bfloat16, write_openvino
from kineme.engine.predict import predict
from kineme.engine.progress import track
from kineme.engine.quantization import calibration_samples, quantize_onnx
from kineme.engine.results import Run
from kineme.engine.runtime import Devices, build_fabric
from kineme.errors import DataError, Problem, SpecError
from kineme.network import TRAIN, VAL, Answers, Dataset, ExportForm, Network
from kineme.spec.load import value_at, with_values


@dataclass(frozen=True)
class Data:
    """What a file is judged by, and for int8 calibrated on; spec: that names them."""

    spec: Any
    judged_by: Dataset
    calibrated_on: Dataset | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What is to be reduced. onnx_file: in fp32. fp32_file: the same for the runtime asked for."""

    network: Network
    data: Data
    model: nn.Module
    form: ExportForm
    onnx_file: Path
    fp32_file: Path


def reduce(source: Source, a_run: Run) -> tuple[Path, Mapping[str, Any]]:
    """Write the file beside `source.onnx_file`; returns its path and what it lost.

    Raises QualityError where it lost too much.
    """
    spec, dataset = source.data.spec, source.data.judged_by
    path, origin = _written(source, a_run)
    precision = spec.export.precision
    exported, fp32 = (
        open_exported(one, source.form.names, source.form.output, precision=kind)
        for one, kind in ((path, precision), (source.fp32_file, "fp32"))
    )
    before = _ask(source.model, source, a_run, title="fp32")
    after = _ask(exported, source, a_run, title=precision)
    limit = spec.export.max_accuracy_drop
    facts = export_gate.judge(before, after, dataset.labels, max_accuracy_drop=limit)
    facts |= {"data": _named(source.network, spec, VAL), **origin, "runtime": exported.runtime}
    facts["bytes"], facts["fp32_bytes"] = _size(path), _size(source.fp32_file)
    first = {word: x[:1] for word, x in source.form.examples.items()}
    facts["speed"] = export_gate.time_against(fp32, exported, first)
    a_run.say(_told(precision, facts))
    return path, facts


def find_data(network: Network, spec: Any, checkpoint: Checkpoint) -> Data | None:
    """The training and validation data that the spec, or else the checkpoint, names.

    None where `export.precision` needs none. Raises SpecError where neither names what it needs,
    DataError with what is wrong with all of them.
    """
    precision = spec.export.precision
    if precision == "fp32":
        return None
    if precision == "int8" and network.unaugmented is None:
        expected = f"fp32 or bf16, as {network.name} has no samples to calibrate on"
        raise SpecError("export.precision", expected, precision)
    spec, taken, notes = _with_paths(network, spec, checkpoint)
    problems: list[Problem] = []
    judged_by = calibrated_on = None
    try:
        spec, more = network.complete(spec, VAL)
        judged_by = network.build_dataset(spec, VAL)
        notes += (*more, *judged_by.notes)
    except DataError as error:
        problems += error.problems
    try:
        if network.unaugmented is not None and precision == "int8":
            calibrated_on = network.unaugmented(spec)
    except DataError as error:
        problems += error.problems
    for split, dataset in ((VAL, judged_by), (TRAIN, calibrated_on)):
        if split in taken and dataset is not None:
            problems += _strangers(network, checkpoint, split, dataset, taken[split])
    if judged_by is None or problems:
        told = _FIX.format(checkpoint.path.name)
        raise DataError.of([
            replace(one, fix=f"{one.fix} {told}".strip())
            if one.where.startswith(tuple(taken.values())) else one
            for one in problems
        ])  # fmt: skip
    return Data(spec, judged_by, calibrated_on, notes)


_FIX = "This path is as {} was trained with; name the data in the spec."


def _strangers(
    network: Network, checkpoint: Checkpoint, split: str, dataset: Dataset, path: str
) -> list[Problem]:
    """That what lies where a training had its data is not what it had."""
    known = checkpoint.facts.get("fingerprints")
    own = known.get(split) if isinstance(known, Mapping) else None
    if own is None or own == fingerprint(network, dataset):
        return []
    return [Problem(path, f"the data that {checkpoint.path.name} was trained with", "others")]


def _with_paths(
    network: Network, spec: Any, checkpoint: Checkpoint
) -> tuple[Any, dict[str, str], tuple[str, ...]]:
    """The spec with the paths that it lacks as the checkpoint names them; these by split; notes."""
    trained = checkpoint.facts.get("spec")
    values: dict[str, Any] = {}
    taken: dict[str, str] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    precision = spec.export.precision
    for split in (TRAIN, VAL) if precision == "int8" else (VAL,):
        keys = network.data_keys[split]
        if value_at(spec, keys[0]):
            continue
        found = {key: _looked_up(trained, key) for key in keys}
        path = found[keys[0]]
        if path and "://" not in path:
            values |= found
            taken[split] = path
            notes.append(f"{keys[0]} is {path!r}, as {checkpoint.path.name} was trained with.")
            continue
        expected = f"data {_PURPOSES[split]}, as export.precision is {precision}"
        problems.append(Problem(keys[0], expected, "nothing, here or in the checkpoint", "Set it."))
    if problems:
        raise SpecError.of(problems)
    return with_values(spec, values) if values else spec, taken, tuple(notes)


_PURPOSES = {TRAIN: "to calibrate on", VAL: "to judge the file by"}


def _looked_up(tree: Any, key: str) -> str | None:
    """The text at a dotted key of what a checkpoint, maybe a stranger's, says of its spec."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, str) else None


def _named(network: Network, spec: Any, split: str) -> str:
    return str(value_at(spec, network.data_keys[split][0]))


def _written(source: Source, a_run: Run) -> tuple[Path, dict[str, Any]]:
    """The file, and what it was calibrated on."""
    spec, form, dataset = source.data.spec, source.form, source.data.calibrated_on
    asked = spec.export
    samples, origin = [], {}
    if dataset is not None:
        seed = max(spec.train.seed, 0)
        samples = calibration_samples(
            build_feed(source.network, spec, dataset),
            form.names,
            most=asked.calibration_samples,
            seed=seed,
        )
        origin["calibrated_on"] = {
            "data": _named(source.network, spec, TRAIN),
            "samples": len(samples),
            "of": len(dataset),
            "seed": seed,
        }
        a_run.say(f"Calibrating on {len(samples)} of {len(dataset)} training samples.")
    told = {"precision": json.dumps(asked.precision)}
    told |= {key: json.dumps(value) for key, value in origin.items()}
    path = source.fp32_file.with_name(f"reduced{source.fp32_file.suffix}")
    if asked.format == "openvino":
        if asked.precision == "bf16" and not has_bfloat16():
            a_run.note("This CPU has no bfloat16: what is judged and timed here is in fp32.")
        metadata = {**form.metadata, **told}
        write_openvino(
            source.onnx_file, path, metadata=metadata, precision=asked.precision, samples=samples
        )
    else:
        quantize_onnx(source.onnx_file, path, samples)
        _tell(path, {**form.metadata, **told})
    return path, origin


def _tell(path: Path, metadata: Mapping[str, str]) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)


def _ask(model: nn.Module | Exported, source: Source, a_run: Run, *, title: str) -> Answers:
    """What a model, or a file as one, says of all samples, on the CPU in fp32."""
    spec, dataset = source.data.spec, source.data.judged_by
    feed = build_feed(source.network, spec, dataset)
    fabric = build_fabric(Devices("cpu", (0,)), "32-true")
    try:
        with track(a_run, title, total=len(dataset)) as advance_to:
            return predict(fabric, model, feed, batch_size=spec.dataset.batch_size, poll=advance_to)
    finally:
        feed.close()


def _size(path: Path) -> int:
    weights = path.with_suffix(".bin")
    beside = weights.stat().st_size if path.suffix == ".xml" else 0
    return path.stat().st_size + beside


def _told(precision: str, facts: Mapping[str, Any]) -> str:
    """What was lost and won, in a line."""
    speed = facts["speed"]
    right = f"{facts['agreement']:.2f} % of answers as before"
    if facts["measure"] == "accuracy":
        before, after = facts["accuracy"], facts["exported_accuracy"]
        right = f"{before:.2f} % right before, {after:.2f} % after, {right}"
    return (
        f"{precision}, {facts['samples']} validation samples: {right}, probabilities off by at "
        f"most {facts['max_probability_difference']:.3f}; "
        f"{facts['bytes'] / facts['fp32_bytes']:.0%} of the size, {speed['times_as_fast']:.2f} "
        f"times as fast on one sample ({facts['runtime']}, {speed['threads']} threads)"
    )
