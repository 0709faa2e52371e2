"""Devices and processes: where a run computes, and what is set there before it does.

Promises: GPUs that are not there, and a lack of memory, are errors that say so; what several
processes need to find each other comes from the spec or from a launcher's environment.
Leaves out: running code on the devices (launching.py), starting and ending processes (ranks.py),
what is computed (actions), and what is saved (checkpoint.py).
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from kineme.errors import ResourceError, SpecError
from kineme.signals import StopRequest


@dataclass(frozen=True)
class Devices:
    """What each node computes on: GPU numbers, or 0..n-1 for n CPU processes."""

    kind: str  # "cpu" or "gpu"
    ids: tuple[int, ...]
    num_nodes: int = 1

    @property
    def world_size(self) -> int:
        return len(self.ids) * self.num_nodes


def agreed(request: StopRequest, fabric: Fabric) -> int:
    """The signal that any process got. A collective when there are several."""
    if fabric.world_size == 1:
        return request.number
    number = torch.tensor(request.number, device=fabric.device)
    return int(fabric.all_reduce(number, reduce_op="max"))  # type: ignore[arg-type]


def asked_devices(spec: Any, action: str) -> tuple[Devices, str]:
    """`choose_devices` as the section of an action has it."""
    section = getattr(spec, action)
    return choose_devices(
        spec.device,
        num_gpus=section.num_gpus,
        gpu_ids=tuple(section.gpu_ids),
        num_nodes=section.num_nodes,
    )


def choose_devices(
    device: str, *, num_gpus: int = 1, gpu_ids: tuple[int, ...] = (0,), num_nodes: int = 1
) -> tuple[Devices, str]:
    """What to run on and a note for the user ("" if there is nothing to say).

    device: "auto" (GPUs if there are any), "cpu" (num_gpus processes) or "gpu".
    Raises ResourceError when the GPUs asked for are not there.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    num_nodes = _num_nodes(num_nodes)
    if device == "cpu":
        return Devices("cpu", tuple(range(num_gpus)), num_nodes), ""
    ids = gpu_ids if len(gpu_ids) == num_gpus else tuple(range(num_gpus))
    if available == 0 and device == "auto" and ids == (0,):
        return Devices("cpu", (0,), num_nodes), "No GPU here: running on the CPU."
    if not available or max(ids) >= available:
        raise ResourceError(
            "num_gpus" if len(ids) > 1 else "gpu_ids",
            f"GPUs {', '.join(map(str, ids))}",
            _present(available),
            "Set device=cpu to run on the CPU"
            + (f" in {len(ids)} processes." if len(ids) > 1 else "."),
        )
    return Devices("gpu", ids, num_nodes), ""


def _present(available: int) -> str:
    if available == 0:
        return "a machine without GPUs"
    numbers = "0" if available == 1 else f"0 to {available - 1}"
    return f"{available} GPU{'s' * (available > 1)} on this machine ({numbers})"


def _num_nodes(num_nodes: int) -> int:
    """Nodes by the spec, or by TAO's WORLD_SIZE (which torchrun uses for something else)."""
    named = os.environ.get("WORLD_SIZE", "")
    if num_nodes == 1 and named.isdigit() and "LOCAL_RANK" not in os.environ:
        num_nodes = max(1, int(named))
    if num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise SpecError(
            "num_nodes", "MASTER_ADDR, MASTER_PORT and NODE_RANK in the environment of each node",
            f"num_nodes {num_nodes} and no MASTER_ADDR", "Set them, or num_nodes=1.",
        )  # fmt: skip
    return num_nodes


def leads_the_run() -> bool:
    """Whether results are this process's to write: not on a second node or torchrun rank."""
    if "LOCAL_RANK" in os.environ:
        return os.environ.get("RANK", "0") == "0"
    return "MASTER_ADDR" not in os.environ or node_rank() == "0"


def node_rank() -> str:
    """This machine's number among the nodes of a run, as TAO and Lightning say it."""
    return os.environ.get("NODE_RANK") or os.environ.get("RANK") or "0"


def build_fabric(devices: Devices, precision: str) -> Fabric:
    """Fabric for this process; several processes find each other by the environment."""
    is_alone = devices.world_size == 1
    on_gpu = devices.kind == "gpu"
    if not on_gpu and precision == "16-mixed":
        precision = "bf16-mixed"  # CPUs have no float16 arithmetic; `cpu_precision_note` says so
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no banners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice about launchers that we do not use
        return Fabric(
            accelerator="cuda" if on_gpu else "cpu",
            devices=list(devices.ids) if on_gpu else len(devices.ids),
            num_nodes=devices.num_nodes,
            strategy="auto" if is_alone else DDPStrategy(gradient_as_bucket_view=True),
            precision=precision,  # type: ignore[arg-type]
            plugins=None if is_alone else [LightningEnvironment()],
        )


def cpu_precision_note(devices: Devices, precision: str) -> str:
    """What to tell a user whose precision this device does not have, else ""."""
    if devices.kind == "cpu" and precision == "16-mixed":
        return "train.precision 16-mixed needs a GPU: using bf16-mixed on the CPU."
    return ""


def join_processes(devices: Devices, precision: str) -> Fabric:
    """Fabric of one process among several, connected to the others."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // len(devices.ids)))
    warnings.filterwarnings("ignore", "Grad strides do not match")  # channels-last weights
    fabric = build_fabric(devices, precision)
    fabric.launch()
    return fabric


@contextlib.contextmanager
def repeatable(seed: int, *, deterministic: bool, benchmark: bool) -> Iterator[None]:
    """Seed torch for weights that are about to be drawn; choose kernels for the block."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]


@contextlib.contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn a lack of memory, on whatever device, into ResourceError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and "DefaultCPUAllocator" not in text:
            raise
        raise ResourceError(
            "memory",
            "enough for this batch and model",
            text.splitlines()[0] if text else "no more",
            "Try a smaller dataset.batch_size.",
        ) from error
