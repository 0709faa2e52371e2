"""Devices, processes and signals: where a run computes, and how it ends when told to.

Promises: one python process starts all others (spawned, one per device) and outlives
them; whatever one of them raises is what the user sees, and all are gone within seconds.
SIGTERM and SIGINT end a run with `Interrupted`, at once or (`patient_signals`) at a place
that the body chooses; a second SIGINT is never patient.
Leaves out: what is computed (actions), and what is saved (checkpoint.py).

A launched body is an importable function `body(fabric, *args)`; its arguments travel by
reference or value, so a `Network` is its module's, not a copy.
"""

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from kineme.errors import EXIT_SIGINT, EXIT_SIGTERM, KinemeError, ResourceError, SpecError

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Devices:
    """What each node computes on: GPU numbers, or 0..n-1 for n CPU processes."""

    kind: str  # "cpu" or "gpu"
    ids: tuple[int, ...]
    num_nodes: int = 1

    @property
    def world_size(self) -> int:
        return len(self.ids) * self.num_nodes


class Interrupted(KinemeError):
    """A signal ended the run. The exit code is the shell's: 128 + signal."""

    exit_code = EXIT_SIGTERM

    def __init__(self, where: str, expected: str, received: str, fix: str = "") -> None:
        super().__init__(where, expected, received, fix)
        self.exit_code = EXIT_SIGINT if where == "SIGINT" else EXIT_SIGTERM

    @classmethod
    def by(cls, number: int, progress: str = "", fix: str = "") -> "Interrupted":
        """The signal `number` came; `progress` says where the run was."""
        received = f"a request to stop {progress}".rstrip()
        return cls(signal.Signals(number).name, "to run to the end", received, fix)


@dataclass
class StopRequest:
    """The last signal that asked to stop, 0 if none did."""

    number: int = 0

    def agreed(self, fabric: Fabric) -> int:
        """The signal that any process got. A collective when there are several."""
        if fabric.world_size == 1:
            return self.number
        number = torch.tensor(self.number, device=fabric.device)
        return int(fabric.all_reduce(number, reduce_op="max"))  # type: ignore[arg-type]


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


def launch(
    body: Callable[..., _Result],
    *args: Any,
    devices: Devices,
    precision: str = "32-true",
) -> _Result:
    """Run `body(fabric, *args)` on every device; returns what rank 0 returned.

    Raises what the body raised: that of the process which failed first.
    """
    _check_launcher(devices)
    if devices.world_size == 1:
        with impatient_signals(), memory_errors_named():
            fabric = build_fabric(devices, precision)
            fabric.launch()
            return body(fabric, *args)
    if "LOCAL_RANK" in os.environ:  # torchrun started us, once per device
        with impatient_signals(), memory_errors_named():
            return body(join_processes(devices, precision), *args)
    from kineme.engine import ranks  # the way back: ranks uses this module

    result: _Result = ranks.supervise(body, args, devices, precision)
    return result


def _check_launcher(devices: Devices) -> None:
    """Refuse processes that torchrun started and the spec does not know of."""
    started = os.environ.get("WORLD_SIZE", "1")
    if "LOCAL_RANK" in os.environ and started != str(devices.world_size):
        raise SpecError(
            "num_gpus, num_nodes",
            f"{started} processes, as the launcher (torchrun) started",
            f"{devices.world_size} in the spec",
            "Set both as they are there, or start one process only: it starts the others.",
        )


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


@contextlib.contextmanager
def impatient_signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise `Interrupted` wherever the program is."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise Interrupted.by(number)

    with signal_handlers(on_signal):
        yield


@contextlib.contextmanager
def patient_signals() -> Iterator[StopRequest]:
    """SIGTERM and the first SIGINT are noted in the request that this yields."""
    request = StopRequest()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == request.number == signal.SIGINT:
            raise Interrupted.by(number, "at once")
        request.number = number

    with signal_handlers(on_signal):
        yield request


@contextlib.contextmanager
def signal_handlers(on_signal: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals while the block runs; a signal that is ignored stays ignored."""
    is_main = threading.current_thread() is threading.main_thread()  # only there it is allowed
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT)
        if is_main and signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
