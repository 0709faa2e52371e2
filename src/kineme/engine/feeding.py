"""Batches in the order that training or evaluation needs, read ahead by worker processes.

Promises: the order of an epoch follows from (seed, epoch) alone, so an epoch continues at
any step; evaluation sees every sample exactly once over all processes; what goes wrong in
a worker is one line that names the sample; a worker that hangs is waited for so long and
then ended, whatever it hangs in.
Leaves out: what a sample is (the rooms), and moving batches to a device (the actions).

N samples, B of them in a batch; a request is (epoch, indices (B,) int64).
"""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator, Iterator, MutableSequence, Sequence
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, Sampler, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils import signal_handling

from kineme.data.randomness import permutation
from kineme.engine.ranks import end_with_parent
from kineme.errors import DataError, KinemeError, Problem, ResourceError, SpecError
from kineme.network import Batch, Dataset, Network, Request
from kineme.signals import Interrupted

STALL_SECONDS = 300.0
MAX_NAMED = 8  # samples in a message

_IDLE = -1
_END: Any = object()
_BATCHES_AT_ONCE = (
    1.5  # how many times as long as a batch a wait may be: torch's own limit is first
)
_BATCHES_AT_START = 3.5  # what a pass that was left had read ahead comes first: 2 of each worker
_SECONDS_TO_DIE = 5
_FORK = multiprocessing.get_context("fork")
_READ_ERRORS = (OSError, ValueError, LookupError, ArithmeticError, EOFError, RuntimeError)


def steps_per_epoch(num_samples: int, batch_size: int, world_size: int) -> int:
    """Full steps in one pass; what remains is left out, other samples in each epoch.

    Raises SpecError when there is not even one step.
    """
    steps = num_samples // (batch_size * world_size)
    if steps == 0:
        processes = f" x {world_size} processes" if world_size > 1 else ""
        raise SpecError(
            "dataset.batch_size",
            "at least one step per epoch",
            f"0 steps per epoch: {num_samples} samples, batch_size {batch_size}{processes}",
            f"Set dataset.batch_size to {num_samples // world_size} or less."
            if num_samples >= world_size
            else "Use fewer processes or more data.",
        )
    return steps


def training_requests(
    num_samples: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[Request]:
    """What process `rank` reads in `epoch`.

    One step takes the next batch_size * world_size samples of a permutation that all
    processes share; each takes its own batch_size of them.
    """
    order = permutation(seed, epoch, num_samples)
    steps = num_samples // (batch_size * world_size)
    by_step = order[: steps * batch_size * world_size].reshape(steps, world_size, batch_size)
    return [(epoch, indices) for indices in by_step[:, rank]]


def evaluation_requests(
    num_samples: int,
    batch_size: int,
    *,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    done: Collection[int] = (),
) -> list[Request]:
    """What process `rank` evaluates: every world_size-th batch of all samples in order.

    done: samples to pass over; the others stay in the batches that they would have been in.
    """
    is_left = np.ones(num_samples, bool)
    is_left[list(done)] = False
    order = np.arange(num_samples, dtype=np.int64)
    batches = [order[i : i + batch_size] for i in range(0, num_samples, batch_size)]
    left = [rest for indices in batches if len(rest := indices[is_left[indices]])]
    return [(epoch, indices) for indices in left[rank::world_size]]


class Feed:
    """Reads requested batches of a dataset, ahead of time where there are workers.

    Workers live until `close`, or as long as the feed. stall_seconds: how long a batch of
    theirs is waited for, 0 for ever; what hangs in this very process cannot be ended.
    num_workers_key: the setting, as messages name it.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_workers: int = 0,
        num_workers_key: str = "data workers",
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self.dataset, self.num_workers = dataset, num_workers
        self.num_workers_key, self.stall_seconds = num_workers_key, stall_seconds
        self._plan = _Plan()
        self._read_now = _FORK.RawArray("q", [_IDLE] * num_workers)
        self._loader: DataLoader[Batch | KinemeError] | None = DataLoader(
            _Reader(dataset, self._read_now),
            batch_size=None,  # a request is a whole batch
            sampler=self._plan,
            num_workers=num_workers,
            multiprocessing_context=_FORK if num_workers else None,  # they share the data
            persistent_workers=num_workers > 0,
            collate_fn=_as_is,
            worker_init_fn=_prepare_worker if num_workers else None,
            timeout=stall_seconds if num_workers else 0,
        )
        self._watchdog = _Watchdog(stall_seconds if num_workers else 0, self._kill_workers)

    def read(self, requests: Sequence[Request]) -> Generator[Batch]:
        """The requested batches in order, on the CPU. Close it when you stop before its end.

        Raises DataError naming the sample, or ResourceError when a worker died or hangs.
        """
        if self._loader is None:
            raise RuntimeError("this feed is closed")
        self._plan.requests = requests
        num_read = 0
        try:
            with worker_death_named(self.num_workers, self.num_workers_key):
                with self._watchdog.waiting(_BATCHES_AT_START):
                    batches = iter(self._loader)
                while True:
                    with self._watchdog.waiting(_BATCHES_AT_ONCE):
                        batch = next(batches, _END)
                    if batch is _END:
                        return
                    num_read += 1
                    if isinstance(batch, KinemeError):
                        raise batch
                    yield batch
        except (RuntimeError, OSError, EOFError, ResourceError) as error:
            if not self._watchdog.has_bitten and not str(error).startswith("DataLoader timed out"):
                raise
            raise self._stall(requests[num_read:]) from error

    def close(self) -> None:
        """End the workers now, also those that hang and hold Python's lock meanwhile."""
        self._watchdog.close()
        iterator: Any = getattr(self._loader, "_iterator", None)
        if iterator is not None:  # torch has no public way to end it
            iterator._shutdown_workers()
            self._kill_workers()
            for worker in iterator._workers:
                worker.join(_SECONDS_TO_DIE)  # one that waits for a disk may take longer
        self._loader = None

    def _kill_workers(self) -> None:
        iterator: Any = getattr(self._loader, "_iterator", None)
        if iterator is None:
            return
        if iterator._worker_pids_set:  # or torch would raise of their deaths in the main thread
            cast(Any, signal_handling)._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        for worker in iterator._workers:
            worker.kill()

    def _stall(self, requests: Sequence[Request]) -> ResourceError:
        """That workers were silent for too long, with the samples that they are at.

        requests: those not read yet, the one waited for first. It may be done: a worker that
        holds Python's lock cannot hand over what it did before.
        """
        at = [first for first in self._read_now if first != _IDLE]
        stuck = [indices for _, indices in requests if indices[0] in at]
        if not stuck:  # they are still at what a pass before asked for
            stuck = [np.asarray(at)] if at else [indices for _, indices in requests[:1]]
        names = [repr(str(self.dataset.ids[index])) for indices in stuck for index in indices]
        logging.getLogger("kineme").debug("not read in time: %s", ", ".join(names))
        more = f" and {len(names) - MAX_NAMED} more (all in the log)" if names[MAX_NAMED:] else ""
        return ResourceError(
            f"samples {', '.join(names[:MAX_NAMED])}{more}" if names else "the data workers",
            f"to be read within {self.stall_seconds:g} s",
            "nothing from the data workers, which were ended",
            "Remove or re-encode what hangs; if it is only slow, raise train.stall_timeout.",
        )


def build_feed(network: Network, spec: Any, dataset: Dataset) -> Feed:
    """The feed of a dataset with the workers that the spec asks for."""
    common = network.common(spec)
    return Feed(
        dataset,
        num_workers=common.num_workers,
        num_workers_key=common.num_workers_key,
        stall_seconds=spec.train.stall_timeout,
    )


class _Watchdog:
    """Calls `bite`, from a thread of its own, when a wait takes longer than so many batches may.

    Beside DataLoader's time-out, which ends with the announcement of a batch: the wait for its
    memory, which the worker hands over afterwards, has no limit in multiprocessing.
    seconds: what one batch may take; 0: for ever.
    """

    def __init__(self, seconds: float, bite: Callable[[], None]) -> None:
        self.has_bitten = False
        self._seconds = seconds
        self._bite = weakref.WeakMethod(bite)  # its owner may go without saying so
        self._due = math.inf  # on the clock of time.monotonic
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def waiting(self, batches: float) -> Iterator[None]:
        """While the body runs, time counts. Raises RuntimeError after a bite: nobody would come."""
        if self.has_bitten:
            raise RuntimeError("the workers were ended")
        if self._seconds:
            self._due = time.monotonic() + batches * self._seconds
        try:
            yield
        finally:
            self._due = math.inf
        if self._seconds and self._thread is None:  # after the first fork, which copies no threads
            self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
            self._thread.start()

    def close(self) -> None:
        self._is_closed.set()

    def _watch(self) -> None:
        while not self._is_closed.wait(min(0.5, self._seconds / 4)):
            bite = self._bite()
            if bite is None:
                return
            if time.monotonic() >= self._due:
                self.has_bitten = True
                bite()
                return
            del bite  # or its owner would live as long as this thread


@contextlib.contextmanager
def worker_death_named(num_workers: int, key: str) -> Iterator[None]:
    """Turn torch's report of a dead worker, which may come at any line, into ResourceError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error) or num_workers == 0:
            raise
        raise ResourceError(
            key,
            f"{num_workers} data workers to live",
            str(error).splitlines()[0].rstrip(". "),
            f"Out of memory? Try fewer {key} or a smaller dataset.batch_size.",
        ) from error


class _Plan(Sampler[Request]):
    """The requests of one pass; replaced between passes, in the main process."""

    def __init__(self) -> None:
        self.requests: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _Reader(TorchDataset[Batch | KinemeError]):
    """Reads in a worker. Errors travel as values: torch would bury them in a traceback.

    read_now: shared by all processes, the first sample of the request that each worker is at.
    """

    def __init__(self, dataset: Dataset, read_now: MutableSequence[int]) -> None:
        self.dataset, self.read_now = dataset, read_now

    def __getitem__(self, request: Request) -> Batch | KinemeError:
        worker = get_worker_info()
        if worker is None:
            return self._read(request)
        self.read_now[worker.id] = int(request[1][0])
        batch = self._read(request)
        self.read_now[worker.id] = _IDLE
        return batch

    def _read(self, request: Request) -> Batch | KinemeError:
        epoch, indices = request
        try:
            return self.dataset.read(indices, epoch)
        except Interrupted:
            raise
        except (KinemeError, *_READ_ERRORS) as error:
            return _sample_named(self.dataset, request, error)


def _sample_named(dataset: Dataset, request: Request, error: Exception) -> KinemeError:
    """The error of the first sample that cannot be read alone, with its id."""
    epoch, indices = request
    where = f"samples {dataset.ids[indices[0]]!r} to {dataset.ids[indices[-1]]!r}"
    for index in indices:
        try:
            dataset.read(np.asarray([index]), epoch)
        except (KinemeError, *_READ_ERRORS) as its_own:
            where, error = f"sample {dataset.ids[index]!r}", its_own
            break
    if isinstance(error, KinemeError):
        return type(error).of(
            [Problem(f"{where}: {p.where}", p.expected, p.received, p.fix) for p in error.problems]
        )
    logging.getLogger(__name__).debug("%s", where, exc_info=error)
    cause = str(error).splitlines()[0] if str(error) else "no message"
    return DataError(
        where, "a readable sample", f"{type(error).__name__}: {cause}", "Repair or remove it."
    )


def _as_is(batch: Any) -> Any:
    return batch


def _prepare_worker(worker: int) -> None:
    """A worker ends when its parent says so or is gone; the user's signals are the parent's.

    A signal to the whole group must not take the workers away while the parent still saves.
    """

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads inherit it
    threading.Thread(target=obey, daemon=True, name="obey parent").start()
    end_with_parent()
