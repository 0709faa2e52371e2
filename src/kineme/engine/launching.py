"""A body of code run on every device: in this process, in those it starts, or in one of torchrun's.

Promises: what any process raises is what the caller sees; what the first process returns is what
the caller gets; all of it is over when the call is.
Leaves out: choosing devices (runtime.py), and starting and ending processes (ranks.py).

A launched body is an importable function `body(fabric, *args)`; its arguments travel by
reference or value, so a `Network` is its module's, not a copy.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from kineme.engine import ranks
from kineme.engine.runtime import Devices, build_fabric, join_processes, memory_errors_named
from kineme.errors import SpecError
from kineme.signals import impatient_signals

_Result = TypeVar("_Result")


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
