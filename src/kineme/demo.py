"""`kineme demo`: every action of pose classification, on people made up on the spot.

Promises: writes only under its folder; calls the actions with specs as a user would; the
people and cameras of the test are none of training's. Ends with one table and the path
of the report.
Leaves out: a model for real use. The figures are synthetic, and so is what is learned.
"""

import contextlib
import importlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from kineme import synthetic
from kineme.actions import ACTIONS
from kineme.data.labels import Labels, write_labels
from kineme.errors import EXIT_OK, SpecError
from kineme.files import atomic_write
from kineme.network import load_network, load_specs
from kineme.spec.load import load_spec

NETWORK = "pose_classification"
USAGE = "usage: kineme demo [--out DIR] [--seed N]"
NUM_TRAIN, NUM_VAL, NUM_TEST, NUM_FRAMES = 480, 60, 120, 64
SPEC: Mapping[str, Any] = {  # small enough for two cores and a minute
    "model.graph_layout": "nvidia",
    "model.dropout": 0.0,
    "dataset.sampling": "uniform",
    "dataset.num_frames": 16,
    "dataset.batch_size": 12,
    "dataset.num_workers": 0,
    "train.num_epochs": 6,
    "train.optim.optimizer_type": "Adam",
    "train.optim.lr": 1.5e-3,
    "train.optim.weight_decay": 5e-4,
    "train.optim.lr_scheduler": "cosine",
    "train.optim.warmup_epochs": 1,
    "train.checkpoint_interval": 6,
    "train.tensorboard": False,
    "evaluate.occlusion": True,
}


@dataclass
class _Log:
    """The steps so far: name, result, seconds."""

    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Time a step; yield a function that takes its result in words."""
        results: list[str] = []
        started = time.monotonic()
        yield results.append
        self.rows.append((name, "; ".join(results), time.monotonic() - started))


def main(argv: Sequence[str] = ()) -> int:
    """Run the demo; returns the exit code. Raises KinemeError."""
    options = _parse(argv)
    if options is None:
        print(USAGE)
        return EXIT_OK
    folder, seed = options
    log = _Log()
    with log.step("people") as tell:
        tell(_make_data(folder / "data", seed))
    base = {**SPEC, **_machine(), "results_dir": str(folder), "train.seed": seed}
    base["dataset.label_map"] = {name: i for i, name in enumerate(synthetic.CLASS_NAMES)}
    checkpoint = str(folder / "train" / "pc_model_latest.pth")

    with log.step("train") as tell:
        sets = _files("dataset.train_dataset", folder, "train")
        sets |= _files("dataset.val_dataset", folder, "val")
        facts = _run("train", {**base, **sets})
        tell(
            f"{SPEC['train.num_epochs']} epochs, {100 * facts['train_acc']:.1f} % right in the last"
        )
    with log.step("evaluate") as tell:
        sets = _files("evaluate.test_dataset", folder, "test")
        facts = _run("evaluate", {**base, **sets, "evaluate.checkpoint": checkpoint})
        chance = 100 / len(synthetic.CLASS_NAMES)
        tell(f"{facts['accuracy']:.1f} % right on new people and views; chance is {chance:.1f} %")
    with log.step("inference") as tell:
        sets = _files("inference.test_dataset", folder, "test")
        facts = _run("inference", {**base, **sets, "inference.checkpoint": checkpoint})
        tell(f"{facts['samples']} labels in inference/predictions.csv")
    with log.step("export") as tell:
        facts = _run("export", {**base, "export.checkpoint": checkpoint})
        tell(f"export/model.onnx, within {facts['parity']['max_abs_difference']:.0e} of the model")
    _print(log, folder)
    return EXIT_OK


def _parse(argv: Sequence[str]) -> tuple[Path, int] | None:
    """The folder and the seed; None when help is wanted."""
    values = {"--out": "", "--seed": "0"}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-h", "--help"):
            return None
        if name not in values:
            raise SpecError("kineme demo", "--out DIR or --seed N", repr(word), USAGE)
        values[name] = value if equals else next(words, "")
    if not values["--seed"].isdigit():
        raise SpecError("--seed", "a whole number of at least 0", repr(values["--seed"]))
    if not values["--out"]:
        return next(path for path in _free_names() if not path.exists()), int(values["--seed"])
    folder = Path(values["--out"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError("--out", "a folder that is new or empty", repr(str(folder)))
    return folder, int(values["--seed"])


def _free_names() -> Iterator[Path]:
    yield Path("kineme-demo")
    for number in count(2):
        yield Path(f"kineme-demo-{number}")


def _make_data(folder: Path, seed: int) -> str:
    """Write training, validation and test sets; bodies and views of the last two are new."""
    new = (synthetic.HELD_OUT_BODIES, synthetic.HELD_OUT_VIEWS)
    known = (synthetic.TRAIN_BODIES, synthetic.TRAIN_VIEWS)
    for i, (name, number, (bodies, views)) in enumerate(
        (("train", NUM_TRAIN, known), ("val", NUM_VAL, new), ("test", NUM_TEST, new))
    ):
        made = synthetic.make_exercises(
            number, 3 * seed + i, bodies=bodies, views=views, num_frames=NUM_FRAMES
        )
        with atomic_write(folder / f"{name}_data.npy") as file:
            np.save(file, made.data)
        labels = Labels(made.ids, made.labels, made.class_names, "nvidia")
        write_labels(folder / f"{name}_label.json", labels)
    return f"{NUM_TRAIN} sequences of {len(known[0])} bodies, {NUM_TEST} of {len(new[0])} new ones"


def _files(section: str, folder: Path, name: str) -> dict[str, str]:
    return {
        f"{section}.data_path": str(folder / "data" / f"{name}_data.npy"),
        f"{section}.label_path": str(folder / "data" / f"{name}_label.json"),
    }


def _machine() -> dict[str, str]:
    """The GPU if there is one; bfloat16 where it is computed and not imitated."""
    import torch

    has_gpu = torch.cuda.is_available()
    has_bfloat16 = has_gpu or torch.cpu._is_avx512_bf16_supported()
    return {
        "device": "gpu" if has_gpu else "cpu",
        "train.precision": "bf16-mixed" if has_bfloat16 else "32-true",
    }


def _run(action: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """One action, as the command line would run it; what it prints for TAO's sake is dropped."""
    spec, _ = load_spec(load_specs(NETWORK)[action], dict(settings))
    module, name = ACTIONS[action].split(":")
    run = getattr(importlib.import_module(module), name)
    with contextlib.redirect_stdout(io.StringIO()):
        facts: Mapping[str, Any] = run(load_network(NETWORK), spec)
    return facts


def _print(log: _Log, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "result", title=f"in {folder.resolve()}", title_justify="left")
    table.add_column("seconds", justify="right")
    for name, result, seconds in log.rows:
        table.add_row(name, result, f"{seconds:.1f}")
    table.add_section()
    table.add_row("", "", f"{sum(seconds for _, _, seconds in log.rows):.1f}")
    console = Console(markup=False, highlight=False)
    console.print(table)
    console.print(f"report: {(folder / 'evaluate' / 'report.html').resolve()}", soft_wrap=True)
