"""Training steps and answers of every skeleton model, beside plain torch, in one run.

"plain" is the slow model of tests/parity with the same weights; the last table is beside plain
ST-GCN in float32. All cases run in turn, round after round, and the fastest of each counts.
With one thread, what is counted is the time of the processor, so that other work on the machine
shows less; with more, the time on the clock. Plain models run as a user would run them, ours as
`kineme` runs them, with freed memory kept.

    python benchmarks/skeleton_models.py [--threads N] [--rounds N] [--models NAME ...] [--short]
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from kineme.engine.memory import keep_freed_memory, return_freed_memory
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS
from pose_speed import Timed, batch, logits, machine, training_step

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
from adaptive_reference import ReferenceAdaptive, ReferenceCTRGCN
from stgcn_reference import ReferenceSTGCN

PLAIN = {"ST-GCN": ReferenceSTGCN, "ST-GCN++": ReferenceAdaptive, "CTR-GCN": ReferenceCTRGCN}
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH, CLASSES = 16, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(PLAIN), choices=list(PLAIN))
    parser.add_argument("--short", action="store_true", help="without the longest table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, {arguments.threads} threads, fastest of {arguments.rounds}")
    for num_frames in (32, 64):
        shape = (3, num_frames, 20, 1)
        for is_training in (True, False):
            title = f"{'Training step' if is_training else 'Answers'}, {BATCH} x {shape}"
            print(f"\n{title:<44}{'plain':>10}{'kineme':>10}")
            for name in arguments.models:
                models = build("kinect-20", name)
                for kind, dtype in KINDS.items():
                    cases = {
                        which: timed(model, shape, dtype, is_training=is_training)
                        for which, model in models.items()
                    }
                    show(f"{name} {kind}", fastest(cases, arguments.rounds), first="plain")
    if not arguments.short:
        beside_plain_stgcn(arguments.models, arguments.rounds)


def beside_plain_stgcn(names: list[str], rounds: int) -> None:
    """One training step of 16 samples as TAO pads them, in one round of all models.

    The rows that say so sample the frames (`dataset.sampling: uniform`, `recipe: modern` takes
    64), so that no padding is computed.
    """
    shape, sampled = (3, 300, 34, 1), (3, 64, 34, 1)
    plain = timed(build("nvidia", "ST-GCN")["plain"], shape, torch.float32, is_training=True)
    cases = {"plain ST-GCN float32": plain, "the same, freed memory kept": plain}
    for name in names:
        model = build("nvidia", name)["kineme"]
        for kind, dtype in KINDS.items():
            cases[f"{name} {kind}"] = timed(model, shape, dtype, is_training=True)
        cases[f"{name} bfloat16, 64 frames sampled"] = timed(
            model, sampled, torch.bfloat16, is_training=True
        )
    taken = fastest(cases, rounds)
    first = next(iter(taken.values()))
    print(f"\nTraining step, {BATCH} x {shape}")
    for name, seconds in taken.items():
        print(f"  {name:<42}{seconds * 1000:>10,.0f} ms  {first / seconds:>6.2f} x")


def build(layout: str, name: str) -> Mapping[str, torch.nn.Module]:
    torch.manual_seed(0)
    settings = {"layout": LAYOUTS[layout]}
    model = MODELS[name](CLASSES, 3, **settings)
    plain = PLAIN[name](CLASSES, 3, **settings)
    plain.load_state_dict(model.state_dict())
    return {"plain": plain, "kineme": model}


def timed(
    model: torch.nn.Module, shape: tuple[int, ...], dtype: torch.dtype, *, is_training: bool
) -> Timed:
    x, labels = batch(shape, BATCH)
    if is_training:
        return training_step(model, x, labels, dtype)

    def answer() -> None:
        logits(model.eval() if model.training else model, x, dtype)

    return answer


def fastest(cases: Mapping[str, Timed], rounds: int) -> Mapping[str, float]:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = dict.fromkeys(cases, float("inf"))
    for turn in range(rounds + 1):
        for name, case in cases.items():
            return_freed_memory() if name.startswith("plain") else keep_freed_memory()
            if turn == 0 or not name.startswith("plain"):
                case()  # warms up: caches, and memory to keep
            start = clock()
            case()
            if turn:
                taken[name] = min(taken[name], clock() - start)
    return_freed_memory()
    return taken


def show(name: str, taken: Mapping[str, float], *, first: str) -> None:
    shown = "".join(f"{seconds * 1000:>7,.0f} ms" for seconds in taken.values())
    print(f"  {name:<42}{shown}  {taken[first] / taken['kineme']:>6.2f} x", flush=True)


if __name__ == "__main__":
    main()
