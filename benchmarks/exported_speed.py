"""How fast exported ST-GCN files answer, by runtime and precision.

Held against the slow, obvious version in tests/parity, with the same weights, in one process,
in interleaved rounds. The lines that say so are given as many frames as `recipe: modern` samples,
in place of TAO's 300 padded ones, or a batch in parts of two. torch by itself gives freed memory
back, and may wait for it anew in every step: what the reference takes when it keeps it, as
`kineme` does, stands last.
Weights are random, so this tells speed, and how far answers move; `export` itself tells the
accuracy of a trained model. OpenVINO's lines need the extra `[openvino]`.

    python benchmarks/exported_speed.py [--threads N] [--rounds N] [--batches 1 16] [--json FILE]
"""

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kineme.actions.export import save_onnx
from kineme.engine.exported import Exported, open_exported
from kineme.engine.openvino_files import write_openvino
from kineme.engine.quantization import quantize_onnx
from kineme.errors import SpecError
from kineme.network import ExportForm
from pose_speed import NVIDIA, batch, build_pair, compare, logits, machine

NUM_CALIBRATION = 4
SAMPLED = 64
KEPT = "reference, freed memory kept"
NAMES, OUTPUT = {"skeleton": "input"}, "fc_pred"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, {arguments.threads} threads; load {os.getloadavg()[0]:.1f} at the start")
    ours, reference = settled_pair()
    tables: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = exported(ours, Path(folder))
        for size in arguments.batches:
            x, _ = batch(NVIDIA[1], size)
            cases = {
                "reference float32": functools.partial(logits, reference, x, torch.float32),
                "ours float32": functools.partial(logits, ours, x, torch.float32),
                "ours bfloat16": functools.partial(logits, ours, x, torch.bfloat16),
                **{name: functools.partial(file, skeleton=x) for name, file in files.items()},
            }
            sampled = {
                f"{name}, {SAMPLED} frames sampled": functools.partial(
                    file, skeleton=x[:, :, :SAMPLED].contiguous()
                )
                for name, file in files.items()
                if name.endswith("int8")
            }
            if size > 2:
                for name, file in files.items():
                    asked = functools.partial(in_twos, file, x)
                    cases[f"{name}, two at a time"] = asked
            timed = [
                (name, name.startswith("ours"), case) for name, case in {**cases, **sampled}.items()
            ]
            timed.append((KEPT, True, cases["reference float32"]))
            title = f"Forward, {size} x {' x '.join(map(str, NVIDIA[1]))}"
            rounds = arguments.rounds * (3 if size == 1 else 1)
            tables[title] = compare(title, timed, rounds)
            tables[title] |= {"moved": moved(cases)}
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **tables}, indent=2) + "\n")


def in_twos(file: Exported, x: torch.Tensor) -> torch.Tensor:
    """Answers to a batch, two samples at a time: what is computed in between stays in the cache."""
    return torch.cat([file(skeleton=pair) for pair in x.split(2)])


def settled_pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Both models, with the same weights and statistics that fit their data, to be asked."""
    ours, reference = build_pair(NVIDIA[0], dropout=0.0)
    ours.train()
    with torch.no_grad():
        for turn in range(5):
            generator = torch.Generator().manual_seed(turn)
            ours(torch.randn(4, *NVIDIA[1], generator=generator)[:, :, :100])
    reference.load_state_dict(ours.state_dict())
    return ours.eval(), reference.eval()


def exported(model: torch.nn.Module, folder: Path) -> Mapping[str, Exported]:
    """The model as files, by runtime and precision, as `export` writes them."""
    channels, frames, joints, _ = NVIDIA[1]
    form = ExportForm(
        NAMES,
        {"skeleton": torch.randn(2, channels, frames, joints, 2)},
        {"skeleton": {0: "batch", 2: "frames", 4: "persons"}},
        OUTPUT,
        18,
        {},
    )
    draws = np.random.default_rng(0).standard_normal((NUM_CALIBRATION, 1, *NVIDIA[1]))
    samples = [{"input": x.astype(np.float32)} for x in draws]
    onnx = folder / "fp32.onnx"
    save_onnx(model, form, onnx)
    quantize_onnx(onnx, folder / "int8.onnx", samples)
    found = {
        f"onnxruntime {kind}": open_exported(folder / f"{kind}.onnx", NAMES, OUTPUT)
        for kind in ("fp32", "int8")
    }
    try:
        for kind in ("fp32", "bf16", "int8"):
            path = folder / f"{kind}.xml"
            write_openvino(onnx, path, metadata={}, precision=kind, samples=samples)
            found[f"OpenVINO {kind}"] = open_exported(path, NAMES, OUTPUT, precision=kind)
    except SpecError as error:
        print(f"Without OpenVINO: {error}")
    return found


def moved(cases: Mapping[str, Any]) -> Mapping[str, float]:
    """The largest difference to the reference, as a share of its largest logit."""
    (_, first), *others = ((name, ask()) for name, ask in cases.items())
    found = {name: float((y - first).abs().max() / first.abs().max()) for name, y in others}
    for name, share in found.items():
        print(f"  {name:<28} answers off by {share:.1e} of the largest logit")
    return found


if __name__ == "__main__":
    main()
