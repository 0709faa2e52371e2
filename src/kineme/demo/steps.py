"""What the halves of the demo share: steps that are timed, and actions that are called.

Promises: an action gets the spec that the command line would give it; each step is said when it
begins.
Leaves out: what the steps are (skeletons.py, videos.py).
"""

import contextlib
import importlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kineme import synthetic
from kineme.actions import ACTIONS
from kineme.figures import Body
from kineme.network import load_network, load_specs
from kineme.spec.load import load_spec


class People(NamedTuple):
    """Who is seen, and from where."""

    bodies: tuple[Body, ...]
    views: tuple[synthetic.View, ...]


KNOWN = People(synthetic.TRAIN_BODIES, synthetic.TRAIN_VIEWS)
NEW = People(synthetic.HELD_OUT_BODIES, synthetic.HELD_OUT_VIEWS)
LABEL_MAP = {name: i for i, name in enumerate(synthetic.CLASS_NAMES)}
CHANCE = f"chance is {100 / len(synthetic.CLASS_NAMES):.1f} %"


@dataclass
class Log:
    """The steps so far: name, result, seconds. title: the half of the demo that they are of."""

    title: str = ""
    rows: list[tuple[str, str, float]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Callable[[str], None]]:
        """Say that a step begins, time it; yield a function that takes its result in words."""
        say(f"{self.title}: {name}")
        results: list[str] = []
        started = time.monotonic()
        yield results.append
        self.rows.append((name, "; ".join(results), time.monotonic() - started))

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(seconds for _, _, seconds in self.rows)


def say(text: str) -> None:
    """A line on stderr, above those of the actions."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe does not end the demo
        print(text, file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """The GPU if there is one; bfloat16 where it is computed and not imitated."""
    import torch

    has_gpu = torch.cuda.is_available()
    has_bfloat16 = has_gpu or torch.cpu._is_avx512_bf16_supported()
    return {
        "device": "gpu" if has_gpu else "cpu",
        "train.precision": "bf16-mixed" if has_bfloat16 else "32-true",
    }


def call(network: str, action: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """One action, as the command line would run it; what it prints for TAO's sake is dropped."""
    spec, _ = load_spec(load_specs(network)[action], dict(settings))
    module, name = ACTIONS[action].split(":")
    run = getattr(importlib.import_module(module), name)
    with contextlib.redirect_stdout(io.StringIO()):
        facts: Mapping[str, Any] = run(load_network(network), spec)
    return facts
