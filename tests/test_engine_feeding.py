"""Orders of training and evaluation, shared over processes."""

import numpy as np
import pytest

from kineme.data.randomness import permutation
from kineme.engine.feeding import Feed, evaluation_requests, steps_per_epoch, training_requests
from kineme.errors import SpecError
from kineme.network import TRAIN, VAL
from tiny import TinyData, tiny_spec


def flat(requests):
    return [i for _, indices in requests for i in indices.tolist()]


def test_an_epoch_is_a_permutation_without_its_incomplete_step():
    requests = training_requests(10, 3, seed=5, epoch=2)
    assert [epoch for epoch, _ in requests] == [2, 2, 2]
    assert flat(requests) == permutation(5, 2, 10)[:9].tolist()


def test_two_processes_take_together_what_one_with_twice_the_batch_takes():
    alone = training_requests(26, 6, seed=1, epoch=3)
    left, right = (
        training_requests(26, 3, seed=1, epoch=3, rank=rank, world_size=2) for rank in (0, 1)
    )
    for (_, both), (_, a), (_, b) in zip(alone, left, right, strict=True):
        assert both.tolist() == [*a, *b]


@pytest.mark.parametrize("num_samples", [1, 2, 7, 8, 9, 26])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_sample_once(num_samples, world_size):
    shares = [
        evaluation_requests(num_samples, 4, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sorted(i for share in shares for i in flat(share)) == list(range(num_samples))


def test_steps_are_counted_over_all_processes():
    assert steps_per_epoch(26, 4, 1) == 6
    assert steps_per_epoch(26, 4, 2) == 3
    with pytest.raises(SpecError) as caught:
        steps_per_epoch(7, 4, 2)
    assert str(caught.value) == (
        "dataset.batch_size: expected at least one step per epoch, got 0 steps per epoch: "
        "7 samples, batch_size 4 x 2 processes. Set dataset.batch_size to 3 or less."
    )


def test_a_data_set_too_small_for_the_processes_says_so():
    with pytest.raises(SpecError, match=r"fewer processes or more data"):
        steps_per_epoch(1, 4, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_feed_reads_requests_in_order_again_and_again(tmp_path, num_workers):
    feed = Feed(TinyData(tiny_spec(tmp_path), TRAIN), num_workers=num_workers)
    for epoch in range(3):
        requests = training_requests(26, 4, seed=0, epoch=epoch)
        got = [batch.indices.tolist() for batch in feed.read(requests)]
        assert got == [indices.tolist() for _, indices in requests]
    feed.close()


def test_a_feed_that_is_left_early_starts_afresh(tmp_path):
    feed = Feed(TinyData(tiny_spec(tmp_path), VAL), num_workers=1)
    requests = evaluation_requests(11, 2)
    reading = feed.read(requests)
    assert next(reading).indices.tolist() == [0, 1]
    reading.close()
    assert flat((0, batch.indices) for batch in feed.read(requests)) == list(range(11))
    feed.close()


def test_requests_are_whole_numbers():
    assert all(i.dtype == np.int64 for _, i in evaluation_requests(5, 2))
    assert all(i.dtype == np.int64 for _, i in training_requests(5, 2, seed=0, epoch=0))
