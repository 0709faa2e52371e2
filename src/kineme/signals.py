"""Requests to stop: SIGTERM and SIGINT, while something runs that wants to end well.

Promises: both end a run with `Interrupted`, or are noted (`patient_signals`) for a place that the
body chooses, where a second SIGINT is not patient; a signal that is ignored stays ignored; outside
the main thread, where handlers cannot be set, all is left as it is. Afterwards it is as before.
Leaves out: what several processes agree on (engine/runtime.py), and what is saved.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from kineme.errors import EXIT_SIGINT, EXIT_SIGTERM, KinemeError

STOPPING = (signal.SIGTERM, signal.SIGINT)
STOPPING_JOBS = (*STOPPING, signal.SIGUSR2)  # SLURM's word that time is up soon


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
def signal_handlers(
    on_signal: Callable[[int, FrameType | None], None], numbers: Sequence[int] = STOPPING
) -> Iterator[None]:
    """Handle these signals while the block runs; one that is ignored stays ignored."""
    is_main = threading.current_thread() is threading.main_thread()  # only there it is allowed
    before = {n: signal.getsignal(n) for n in numbers if is_main and not is_ignored(n)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_ignored(number: int) -> bool:
    """Whether whoever started this process wants it to pass over a signal, as nohup does."""
    return signal.getsignal(number) is signal.SIG_IGN
