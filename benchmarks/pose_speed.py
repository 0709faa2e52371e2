"""How fast the ST-GCN of this project trains, answers and is fed.

Held against the slow, obvious version in tests/parity, with the same weights, in one
process, in interleaved rounds, so that whatever else the machine does falls on both.
The reference runs as a user would run it; ours as `kineme` runs it, with freed memory
kept (engine/memory.py). Lines marked "kept" and "plain" cross the two over.

    python benchmarks/pose_speed.py [--quick] [--threads N] [--rounds N] [--json FILE]
"""

import argparse
import functools
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kineme.data.arrays import open_skeletons
from kineme.data.scan import scan_skeletons
from kineme.engine.feeding import Feed, training_requests
from kineme.engine.memory import keep_freed_memory, return_freed_memory
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import STGCN
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
from stgcn_reference import ReferenceSTGCN

NVIDIA, KINECT = ("nvidia", (3, 300, 34, 1)), ("kinect-20", (3, 64, 20, 1))
FORWARD_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "onnx": 1e-4}  # of the largest logit

Timed = Callable[[], object]
Case = tuple[str, bool, Timed]  # name, whether freed memory is kept, what is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small parity check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    print(f"{machine()}, {arguments.threads} threads; load {os.getloadavg()[0]:.1f} at the start")
    tables = {
        "Multiplications alone": multiplications(),
        "Losses over training steps": parity(arguments.quick),
        "Training step, 16 x 3 x 300 x 34 x 1": training(*NVIDIA, batch_size=16, rounds=rounds),
        "Training step, 32 x 3 x 64 x 20 x 1": training(*KINECT, batch_size=32, rounds=rounds),
        "Forward, batch 16 x 3 x 300 x 34 x 1": forward(*NVIDIA, batch_size=16, rounds=rounds),
        "Forward, batch 1 x 3 x 300 x 34 x 1": forward(*NVIDIA, batch_size=1, rounds=3 * rounds),
        "Feeding, 3 x 64 x 20 x 1, one thread": feeding(rounds),
        "Scan of new data": scan(rounds),
    }
    print(f"\nLoad {os.getloadavg()[0]:.1f} at the end.")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), **tables}, indent=2) + "\n")


def multiplications() -> Mapping[str, Any]:
    """How long the products of the plain model take at the rate of a large matrix product.

    What is faster than this bound needs fewer products; what is near it has no waste left.
    """
    reference, (x, labels) = build_pair(NVIDIA[0], dropout=0.0)[1], batch(NVIDIA[1], 1)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(reference(skeleton=x), labels).backward()
    flops = {"training step": 16 * counter.get_total_flops()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reference(skeleton=x)
    flops["forward"] = 16 * counter.get_total_flops()
    bounds = {}
    print("\nMultiplications alone, 16 x 3 x 300 x 34 x 1, at the rate of a large matrix product")
    for dtype in (torch.float32, torch.bfloat16):
        left = torch.randn(4096, 4096).to(dtype)
        product = functools.partial(torch.mm, left, left)
        product()
        rate = 2 * 4096**3 / min(seconds(product) for _ in range(5))
        for name, count in flops.items():
            bounds[f"{name}, {dtype}"] = count / rate
            kind = f"{name} {str(dtype).removeprefix('torch.')}"
            print(f"  {kind:<28} {count / rate * 1000:>10,.1f} ms   at {rate / 1e9:,.0f} GFLOP/s")
    return bounds


def parity(is_quick: bool) -> Mapping[str, Any]:
    """The largest difference between the two losses over the same float32 steps."""
    steps, batch_size, num_frames = (5, 4, 60) if is_quick else (20, 16, 300)
    _, (channels, _, joints, persons) = NVIDIA
    x, labels = batch((channels, num_frames, joints, persons), batch_size)
    losses = []
    for model in build_pair(NVIDIA[0], dropout=0.0):
        step = training_step(model, x, labels)
        losses.append([step() for _ in range(steps)])
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    print(
        f"\nLosses over {steps} float32 steps, {losses[0][0]:.4f} to {losses[0][-1]:.4f}: ", end=""
    )
    print(f"largest difference {difference:.1e}")
    return {"steps": steps, "largest_difference": difference}


def training(
    layout: str, shape: tuple[int, ...], *, batch_size: int, rounds: int
) -> Mapping[str, Any]:
    """Forward, loss, backward and a Nesterov step."""
    ours, reference = build_pair(layout, dropout=0.5)
    x, labels = batch(shape, batch_size)

    def step(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Timed:
        return training_step(model, x, labels, dtype)

    return compare(
        f"Training step, {batch_size} x {' x '.join(map(str, shape))}",
        [
            ("reference float32", False, step(reference)),
            ("ours float32", True, step(ours)),
            ("ours bfloat16", True, step(ours, torch.bfloat16)),
            ("reference float32, kept", True, step(reference)),
            ("reference bfloat16", False, step(reference, torch.bfloat16)),
            ("ours float32, plain", False, step(ours)),
        ],
        rounds,
    )


def forward(
    layout: str, shape: tuple[int, ...], *, batch_size: int, rounds: int
) -> Mapping[str, Any]:
    """Logits without gradients, and whether they are those of the reference."""
    ours, reference = (model.eval() for model in build_pair(layout, dropout=0.5))
    x, _ = batch(shape, batch_size)
    session = exported(ours, x)

    def answer(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
        return functools.partial(logits, model, x, dtype)

    def onnx() -> Any:
        return torch.from_numpy(session.run(None, {"skeleton": x.numpy()})[0])

    expected = answer(reference)()
    for name, received in (
        ("float32", answer(ours)()),
        ("bfloat16", answer(ours, torch.bfloat16)()),
        ("onnx", onnx()),
    ):
        error = ((received - expected).abs().max() / expected.abs().max()).item()
        if error > FORWARD_TOLERANCE[name] or not torch.equal(
            received.argmax(1), expected.argmax(1)
        ):
            sys.exit(f"{name}: other answers than the reference (relative error {error:.1e})")
    return compare(
        f"Forward, {batch_size} x {' x '.join(map(str, shape))}",
        [
            ("reference float32", False, answer(reference)),
            ("ours float32", True, answer(ours)),
            ("ours bfloat16", True, answer(ours, torch.bfloat16)),
            ("ours exported, onnxruntime", False, onnx),
            ("reference float32, kept", True, answer(reference)),
            ("reference bfloat16", False, answer(reference, torch.bfloat16)),
            ("ours float32, plain", False, answer(ours)),
        ],
        rounds,
    )


def feeding(rounds: int) -> Mapping[str, Any]:
    """Clips per second through the dataset and its feed, on one thread."""
    num_samples, batch_size = 4096, 64
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        write_clips(Path(folder), num_samples)
        for name, settings in (
            ("as TAO reads them", ["dataset.sampling=none"]),
            ("recipe: modern", ["recipe=modern", "dataset.num_frames=64"]),
        ):
            feed_epoch = functools.partial(read_epoch, Path(folder), settings, batch_size)
            rates[name] = num_samples / statistics.median(
                seconds(feed_epoch()) for _ in range(rounds)
            )
    torch.set_num_threads(threads)
    print("\nFeeding, 3 x 64 x 20 x 1, one thread, batches of 64")
    for name, rate in rates.items():
        print(f"  {name:<28} {rate:>10,.0f} clips/s")
    return rates


def scan(rounds: int) -> Mapping[str, Any]:
    """What a training that sees its data for the first time waits for, beside np.isfinite."""
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "train_data.npy", (2000, 3, 100, 34, 1)
        np.save(path, np.random.default_rng(0).random(shape, np.float32))
        taken: dict[str, list[float]] = {"np.isfinite": [], "scan": []}
        for turn in range(rounds):
            os.environ["KINEME_CACHE"] = f"{folder}/cache{turn}"  # nothing is known yet
            skeletons = open_skeletons(path)
            plain = functools.partial(all_finite, path)
            taken["np.isfinite"].append(seconds(plain))
            taken["scan"].append(seconds(functools.partial(scan_skeletons, skeletons)))
        size = path.stat().st_size
    del os.environ["KINEME_CACHE"]
    rates = {name: size / statistics.median(values) for name, values in taken.items()}
    print("\nScan of new data, beside a look for values that are not finite")
    for name, rate in rates.items():
        print(f"  {name:<28} {rate / 1e9:>10,.2f} GB/s   {rate / rates['np.isfinite']:.2f} x")
    return rates


def all_finite(path: Path) -> bool:
    return bool(np.isfinite(np.load(path)).all())


def read_epoch(folder: Path, settings: list[str], batch_size: int) -> Timed:
    """What reads and prepares each clip of `folder` once, as training does."""
    files = [f"dataset.train_dataset.data_path={folder}/train_data.npy"]
    files += [f"dataset.train_dataset.label_path={folder}/train_label.json"]
    known = ["dataset.num_classes=2", "dataset.label_map={a: 0, b: 1}", f"results_dir={folder}"]
    layout = ["model.graph_layout=kinect-20"]
    spec, _ = load_spec(SPECS["train"], overrides=[*settings, *files, *known, *layout])
    dataset = NETWORK.build_dataset(spec, "train")
    feed = Feed(dataset)
    requests = training_requests(len(dataset), batch_size, seed=0, epoch=0)

    def read() -> None:
        for one in feed.read(requests):
            dataset.transform(one, 0)

    return read


def compare(title: str, cases: list[Case], rounds: int) -> Mapping[str, Any]:
    """Run all cases in turn, round after round; print medians and ratios to the first."""
    taken: dict[str, list[float]] = {name: [] for name, _, _ in cases}
    for turn in range(rounds + 1):
        for name, is_kept, timed in cases:
            keep_freed_memory() if is_kept else return_freed_memory()
            if turn == 0 or is_kept:
                timed()  # warms up: caches, and memory to keep
            if turn > 0:
                taken[name].append(seconds(timed))
    return_freed_memory()
    medians = {name: statistics.median(values) for name, values in taken.items()}
    first = medians[cases[0][0]]
    print(f"\n{title}, median of {rounds}")
    for name, median in medians.items():
        print(f"  {name:<36} {median * 1000:>10,.1f} ms   {first / median:>5.2f} x")
    return {
        name: {"seconds": values, "ratio": first / medians[name]} for name, values in taken.items()
    }


def seconds(timed: Timed) -> float:
    start = time.perf_counter()
    timed()
    return time.perf_counter() - start


def training_step(
    model: torch.nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    model.train()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.cross_entropy(model(skeleton=x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def logits(model: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return model(skeleton=x).float()


def build_pair(layout: str, *, dropout: float) -> tuple[STGCN, ReferenceSTGCN]:
    torch.manual_seed(0)
    ours = STGCN(6, 3, layout=LAYOUTS[layout], dropout=dropout)
    reference = ReferenceSTGCN(6, 3, layout=LAYOUTS[layout], dropout=dropout)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def batch(shape: tuple[int, ...], batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch_size, *shape, generator=generator)
    return x, torch.randint(6, (batch_size,), generator=generator)


def exported(model: torch.nn.Module, x: torch.Tensor) -> onnxruntime.InferenceSession:
    sizes = {i: torch.export.Dim(n) for i, n in ((0, "batch"), (2, "frames"), (4, "persons"))}
    logging.disable(logging.WARNING)  # that torchvision is missing: nothing here needs it
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            model,
            kwargs={"skeleton": torch.cat([x[:1]] * 2).repeat(1, 1, 1, 1, 2)},
            dynamic_shapes={"skeleton": sizes},
            dynamo=True,
            verbose=False,
        )
    logging.disable(logging.NOTSET)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)


def write_clips(folder: Path, num_samples: int) -> None:
    generator = np.random.default_rng(0)
    clips = generator.standard_normal((num_samples, 3, 64, 20, 1), dtype=np.float32)
    np.save(folder / "train_data.npy", clips)
    labels = {f"clip{i:05}": i % 2 for i in range(num_samples)}
    (folder / "train_label.json").write_text(json.dumps(labels))


def machine() -> str:
    """Processor and versions, in a line."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ] or [platform.processor()]
    packages = " ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "onnxruntime"))
    amx = ", AMX bfloat16" if torch.cpu._is_amx_tile_supported() else ""
    return f"{len(names)} x {names[0]}{amx}, Python {platform.python_version()}, {packages}"


if __name__ == "__main__":
    main()
