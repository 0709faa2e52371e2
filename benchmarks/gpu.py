"""Training on a GPU: what `kineme` does with it, beside a plain PyTorch loop over the same data.

"plain" is the slow model of tests/parity in a loop as PyTorch's own guides write it: a DataLoader
whose workers read and augment on the CPU, pinned memory, one optimiser step after another,
averaged weights. It takes the same samples, augmentation, optimiser and schedule. Both are timed
over whole epochs after a first one; utilisation is what nvidia-smi says, sampled meanwhile. With
--judge both also say how many of the validation samples they get right, with the averaged weights
after the last epoch. Time includes what an epoch needs to begin, such as the plain loop's workers.

    python benchmarks/gpu.py DATA [--cases NAME ...] [--epochs N] [--repeats N] [--judge]

DATA: a folder with train_data.npy, train_label.json, val_data.npy and val_label.json, such as
`kineme pose_classification dataset_convert` writes of NW-UCLA (examples/nw_ucla.md).
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel

from kineme.actions import train
from kineme.engine.feeding import evaluation_requests, training_requests
from kineme.engine.optim import Schedule, scaled_rate
from kineme.pose_classification.layouts import layout_of
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec, with_values

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
from adaptive_reference import ReferenceAdaptive, ReferenceCTRGCN
from stgcn_reference import ReferenceSTGCN

PLAIN = {"ST-GCN": ReferenceSTGCN, "ST-GCN++": ReferenceAdaptive, "CTR-GCN": ReferenceCTRGCN}
BETTER = ["dataset.normalize=center_align_minmax", "dataset.augmentation.flip_prob=0.5"]
STREAMS = "model.streams=[joint,bone,joint_motion,bone_motion]"
CASES = {
    "CTR-GCN": ["recipe=accurate", *BETTER],
    "ST-GCN++": ["recipe=accurate", "model.model_type=ST-GCN++", *BETTER],
    "ST-GCN": ["recipe=modern", *BETTER],
    "four streams": ["recipe=accurate", STREAMS, *BETTER],
}
BF16 = "train.precision=bf16-mixed"
WAYS = {
    "kineme": [BF16],
    "kineme, float32": [],
    "kineme, no CUDA graph": [BF16, "train.cuda_graph=false"],
}
PLAIN_WAYS = {
    "plain, float32": [],
    "plain, bfloat16": [BF16],
    "plain, float32, all frames": ["dataset.sampling=none"],
}
MAX_WORKERS = 8


@dataclass
class Outcome:
    """samples_per_second: the median epoch after the first. accuracy: in %, None if not asked."""

    samples_per_second: float
    utilisation: float | None
    accuracy: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--plain", nargs="*", default=list(PLAIN_WAYS), choices=list(PLAIN_WAYS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true")
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error("--epochs: the first is not timed, so at least 2")
    print(f"{machine(arguments.device)}; {arguments.epochs} epochs of {arguments.repeats} passes")
    for name in arguments.cases:
        compare(name, arguments)


def machine(device: str) -> str:
    kind = torch.cuda.get_device_name() if device == "gpu" else "CPU"
    return f"{kind}, {os.cpu_count()} cores, torch {torch.__version__}"


def compare(name: str, arguments: argparse.Namespace) -> None:
    """One row for each way to train a model, and its ratio to the plain loop."""
    print(f"\n{name:<30}{'samples/s':>12}{'ratio':>9}{'GPU busy':>10}{'correct':>10}")
    asked = [*CASES[name], f"train.seed={arguments.seed}"]
    first: float | None = None
    for title in (*arguments.plain, *arguments.ways):
        settings = [*asked, *(PLAIN_WAYS | WAYS)[title]]
        with tempfile.TemporaryDirectory() as folder:
            spec = spec_of(settings, arguments, folder)
            if title in PLAIN_WAYS:
                outcome = plain_training(spec, arguments)
            else:
                outcome = our_training(spec, Path(folder), arguments)
        first = first or outcome.samples_per_second
        show(title, outcome, first)


def show(title: str, outcome: Outcome, first: float) -> None:
    busy = "-" if outcome.utilisation is None else f"{outcome.utilisation:.0f} %"
    correct = "-" if outcome.accuracy is None else f"{outcome.accuracy:.2f} %"
    rate = outcome.samples_per_second
    print(f"  {title:<28}{rate:>12,.0f}{rate / first:>7.1f} x{busy:>10}{correct:>10}", flush=True)


def spec_of(settings: Sequence[str], arguments: argparse.Namespace, folder: str) -> Any:
    data = [f"dataset.{split}_dataset.data_path={arguments.data}" for split in ("train", "val")]
    ours = [
        f"train.num_epochs={arguments.epochs}",
        f"dataset.repeats={arguments.repeats}",
        f"train.validation_interval={arguments.epochs}",
        f"train.checkpoint_interval={arguments.epochs}",
        "train.tensorboard=false",
        f"device={arguments.device}",
        f"results_dir={folder}",
    ]
    spec, _ = load_spec(SPECS["train"], overrides=[*settings, *data, *ours])
    return spec


def our_training(spec: Any, folder: Path, arguments: argparse.Namespace) -> Outcome:
    with Utilisation(arguments.device) as utilisation:
        train.run(NETWORK, spec)
    with (folder / "train" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = int(rows[-1]["step"]) // len(rows)
    seconds = statistics.median(float(row["seconds"]) for row in rows[1:])
    accuracy = 100 * float(rows[-1]["val_acc"]) if arguments.judge else None
    return Outcome(steps * spec.dataset.batch_size / seconds, utilisation.mean, accuracy)


def plain_training(spec: Any, arguments: argparse.Namespace) -> Outcome:
    """One model; of four streams, each is trained by itself, and the rate is a quarter of one's."""
    kind = spec.train.precision
    spec, _ = NETWORK.complete(spec, "train")
    device = torch.device("cuda" if arguments.device == "gpu" else "cpu")
    data, settings = NETWORK.build_dataset(spec, "train"), spec.train
    size, num_streams = spec.dataset.batch_size, len(spec.model.streams)
    torch.manual_seed(settings.seed)
    model = plain_model(spec).to(device)
    optim = settings.optim
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
    )
    decay = settings.ema_decay
    averaged = AveragedModel(
        model, multi_avg_fn=following(decay), use_buffers=True
    ) if decay else None  # fmt: skip
    steps = len(data) // size
    schedule = Schedule(
        optim, steps_per_epoch=steps, num_epochs=settings.num_epochs, lr=scaled_rate(optim, size)
    )
    taken = []
    with Utilisation(arguments.device) as utilisation:
        for epoch in range(settings.num_epochs):
            start = time.perf_counter()
            batches = loaded(data, size, settings.seed, epoch, device)
            for step, (x, labels) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = schedule.lr(epoch, step)
                with autocast(device, kind):
                    logits = model(x.to(device, non_blocking=True))
                targets = labels.to(device, non_blocking=True)
                loss = F.cross_entropy(
                    logits.float(), targets, label_smoothing=settings.label_smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if averaged:
                    averaged.update_parameters(model)
                if not np.isfinite(loss.item()):
                    raise SystemExit(f"loss {loss.item()} at epoch {epoch + 1}, step {step + 1}")
            taken.append(time.perf_counter() - start)
            print(f"plain, epoch {epoch + 1}: {taken[-1]:.1f} s", file=sys.stderr, flush=True)
    rate = steps * size / statistics.median(taken[1:]) / num_streams
    is_judged = arguments.judge and num_streams == 1
    accuracy = judged(averaged or model, spec, device, kind) if is_judged else None
    return Outcome(rate, utilisation.mean, accuracy)


def plain_model(spec: Any) -> torch.nn.Module:
    """The plain model of one stream, with the weights that ours begins with."""
    ours = NETWORK.build_model(with_values(spec, {"model.streams": ["joint"]}))
    settings, num_classes = spec.model, spec.dataset.num_classes
    layout, kind = layout_of(settings), PLAIN[settings.model_type]
    if kind is ReferenceSTGCN:
        model = kind(num_classes, settings.input_channels, layout=layout, dropout=settings.dropout)
    else:
        model = kind(num_classes, settings.input_channels, layout=layout)
        model.fcn.register_forward_pre_hook(  # the one place where ours drop features
            lambda fcn, inputs: (F.dropout(inputs[0], settings.dropout, fcn.training),)
        )
    model.load_state_dict(ours.state_dict())
    return model


def following(decay: float) -> Callable[..., None]:
    """An exponential moving average that forgets its beginning.

    torch's own, `get_ema_multi_avg_fn`, decays at one rate from the first step on, and what
    batch normalisation saw in the first steps stays in it: of NW-UCLA, 80 % in place of 92 %.
    """

    @torch.no_grad()
    def follow(averaged: list[torch.Tensor], new: list[torch.Tensor], num_averaged: Any) -> None:
        n = int(num_averaged)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, new, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averaged, new)

    return follow


def autocast(device: torch.device, kind: str) -> Any:
    is_plain = kind == "32-true"
    return nullcontext() if is_plain else torch.autocast(device.type, torch.bfloat16)


@dataclass
class Prepared(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Batches of an epoch, read and augmented where they are asked for."""

    data: Any
    requests: Sequence[Any]

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, indices = self.requests[place]
        batch = self.data.transform(self.data.read(indices, epoch), epoch)
        return batch.inputs["skeleton"], batch.labels


def loaded(
    data: Any, size: int, seed: int, epoch: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    requests = training_requests(len(data), size, seed=seed, epoch=epoch)
    workers = min(MAX_WORKERS, max(0, (os.cpu_count() or 1) - 1))
    return iter(
        torch.utils.data.DataLoader(
            Prepared(data, requests),
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
    )


@torch.no_grad()
def judged(model: torch.nn.Module, spec: Any, device: torch.device, kind: str) -> float:
    """Share of the validation samples that are right, in %."""
    data = NETWORK.build_dataset(spec, "val")
    model.eval()
    num_right = 0
    for epoch, indices in evaluation_requests(len(data), 64):
        batch = data.transform(data.read(indices, epoch), epoch)
        with autocast(device, kind):
            answers = model(batch.inputs["skeleton"].to(device)).argmax(dim=1)
        num_right += int((answers.cpu() == batch.labels).sum())
    return 100 * num_right / len(data)


@dataclass
class Utilisation:
    """Mean of what nvidia-smi says of the first GPU while the body runs, in %."""

    device: str
    samples: list[float] = field(default_factory=list)
    mean: float | None = None

    def __enter__(self) -> "Utilisation":
        self._process = None
        if self.device == "gpu" and shutil.which("nvidia-smi"):
            ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            self._process = subprocess.Popen(
                [*ask, "--id=0", "--loop-ms=200"], stdout=subprocess.PIPE, text=True
            )
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
        self.mean = statistics.mean(self.samples) if self.samples else None

    def _listen(self) -> None:
        for line in self._process.stdout:  # type: ignore[union-attr]
            if line.strip().isdigit():
                self.samples.append(float(line))


if __name__ == "__main__":
    main()
