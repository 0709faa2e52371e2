"""T19: a data worker that hangs ends the run with what it hung on, and nothing is lost."""

import contextlib
import ctypes
import gc
import multiprocessing
import signal
import time

import pytest
import torch

from kineme.actions import train
from kineme.engine import checkpoint as checkpoints
from kineme.engine import feeding
from kineme.engine.feeding import Feed, evaluation_requests
from kineme.errors import ResourceError
from kineme.network import TRAIN, VAL
from tiny import TINY, TinyData, tiny_spec


@pytest.fixture(autouse=True)
def _ended_quickly(monkeypatch):
    """torch gives its workers 5 s to end by themselves."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


class Hanging(TinyData):
    """One sample is never read: its worker sleeps, with or without Python's lock."""

    holds_lock = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.is_held = multiprocessing.RawValue("b", 0)  # workers see it, too

    def read(self, indices, epoch):
        if 6 in indices and torch.utils.data.get_worker_info():
            if not self.holds_lock:
                time.sleep(600)
            time.sleep(0.3)  # what was read before is announced by another thread
            self.is_held.value = 1
            ctypes.PyDLL(None).sleep(600)
        return super().read(indices, epoch)


@pytest.mark.parametrize("holds_lock", [False, True])
def test_t19_a_worker_that_hangs_is_ended_and_its_samples_are_named(tmp_path, holds_lock):
    data = Hanging(tiny_spec(tmp_path), VAL)
    data.holds_lock = holds_lock
    feed = Feed(data, num_workers=2, stall_seconds=0.5)
    with contextlib.closing(feed):
        with pytest.raises(ResourceError) as caught:
            list(feed.read(evaluation_requests(11, 2)))
        workers = feed._loader._iterator._workers
    assert caught.value.exit_code == 5
    assert str(caught.value) == (
        "samples 'val-6', 'val-7': expected to be read within 0.5 s, got nothing from the data "
        "workers, which were ended. Remove or re-encode what hangs; if it is only slow, raise "
        "train.stall_timeout."
    )
    assert [worker.is_alive() for worker in workers] == [False, False]


@pytest.fixture
def stuck(tmp_path):
    """A feed whose worker hangs with Python's lock once one batch is read and the next announced.

    With it, a function that begins such a pass.
    """
    data = Hanging(tiny_spec(tmp_path), VAL)
    data.holds_lock = True
    feed = Feed(data, num_workers=1, stall_seconds=1.0)

    def begin():
        batches = feed.read(evaluation_requests(11, 3))
        assert list(next(batches).indices) == [0, 1, 2]
        while not data.is_held.value:
            time.sleep(0.01)
        announced = feed._loader._iterator._worker_result_queue._reader
        assert announced.poll(5)  # samples 3 to 5, whose memory is the worker's
        return batches

    with contextlib.closing(feed):
        yield feed, begin


def test_t19_a_worker_that_hangs_before_it_handed_over_a_batch_is_ended(stuck):
    """Its memory is asked for after its announcement was read: torch's time-out is over then."""
    _, begin = stuck
    batches = begin()
    with pytest.raises(ResourceError, match=r"samples 'val-6', 'val-7', 'val-8': expected"):
        next(batches)


def test_t19_a_worker_that_hangs_when_a_pass_begins_is_ended(stuck):
    """A pass that was left early may leave a worker behind that never takes the next one up."""
    feed, begin = stuck
    begin().close()
    with pytest.raises(ResourceError, match=r"samples 'val-6': expected to be read within 1 s"):
        list(feed.read(evaluation_requests(11, 3)[:2]))  # what hangs is not in this pass


def test_t19_workers_that_the_watchdog_ends_do_not_disturb_the_main_thread(tmp_path):
    """torch raises of deaths of workers there, whoever reads from them and whatever it does."""
    feed = Feed(TinyData(tiny_spec(tmp_path), VAL), num_workers=1)
    with contextlib.closing(feed):
        list(feed.read(evaluation_requests(11, 6)))  # torch listens for deaths from now on
        (worker,) = feed._loader._iterator._workers
        feed._watchdog._due = 0.0  # long past, as if another thread had waited for it
        time.sleep(1.5)  # where torch would raise; nobody takes note of the death meanwhile
        worker.join(5)
        assert worker.exitcode == -signal.SIGKILL
        with pytest.raises(ResourceError, match="expected to be read within 300 s"):
            list(feed.read(evaluation_requests(11, 6)))


def test_a_feed_that_is_dropped_ends_its_workers_and_its_watchdog(tmp_path):
    feed = Feed(TinyData(tiny_spec(tmp_path), VAL), num_workers=1, stall_seconds=2.0)
    list(feed.read(evaluation_requests(11, 3)))
    (worker,), thread = feed._loader._iterator._workers, feed._watchdog._thread
    assert worker.is_alive()
    assert thread.is_alive()
    del feed
    gc.collect()
    thread.join(5)
    worker.join(5)
    assert not worker.is_alive()
    assert not thread.is_alive()


def test_t19_training_that_hangs_ends_and_keeps_its_checkpoint(tmp_path, monkeypatch):
    class HangsInTheSecondEpoch(TinyData):
        def read(self, indices, epoch):
            if epoch == 1:
                time.sleep(600)
            return super().read(indices, epoch)

    monkeypatch.setattr("tiny.TinyData", HangsInTheSecondEpoch)
    network = TINY.__class__(**{**vars(TINY), "build_dataset": HangsInTheSecondEpoch})
    spec = tiny_spec(tmp_path, dataset__num_workers=1, train__stall_timeout=1.0)
    started = time.monotonic()
    with pytest.raises(
        ResourceError, match=r"samples 'train-\d+', .*: expected to be read within 1"
    ):
        train.run(network, spec)
    assert time.monotonic() - started < 60
    (path,) = checkpoints.find_checkpoints(tmp_path / "train")
    assert checkpoints.load_checkpoint(path).content["epoch"] == 0


def test_many_samples_are_counted_in_the_message_and_listed_in_the_log(tmp_path, caplog):
    caplog.set_level("DEBUG", logger="kineme")
    feed = Feed(TinyData(tiny_spec(tmp_path), TRAIN))
    error = feed._stall(evaluation_requests(26, 20))
    assert error.problems[0].where.endswith("'train-7' and 12 more (all in the log)")
    assert "'train-19'" in caplog.text


def test_a_worker_that_is_only_slow_is_waited_for_as_long_as_it_is_told(tmp_path):
    data = TinyData(tiny_spec(tmp_path, dataset__seconds=0.4), VAL)
    for seconds in (30.0, 0.0):
        feed = Feed(data, num_workers=1, stall_seconds=seconds)
        assert sum(len(batch.indices) for batch in feed.read(evaluation_requests(11, 6))) == 11
        feed.close()
    assert feeding.STALL_SECONDS == 300
