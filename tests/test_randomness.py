"""Draws depend on (seed, epoch, sample index, name) and on nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kineme.data import tensor_draws
from kineme.data.randomness import derived_seed, normal, permutation, uniform, uniform32


def draws(indices, *, seed=7, epoch=3, name="flip", size=4):
    return uniform(seed, epoch, np.asarray(indices), name=name, size=size)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40), st.integers(0, 2**40))
def test_draws_of_a_sample_do_not_depend_on_its_batch(indices, seed):
    together = draws(indices, seed=seed)
    alone = np.concatenate([draws([i], seed=seed) for i in indices])
    np.testing.assert_array_equal(together, alone)


def test_more_draws_begin_with_the_same_draws():
    np.testing.assert_array_equal(draws([5], size=9)[:, :4], draws([5], size=4))


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 4}, {"name": "flop"}])
def test_every_part_of_the_key_changes_every_draw(change):
    assert (draws(range(1000)) != draws(range(1000), **change)).all()


def test_draws_are_the_same_in_another_process():
    code = (
        "import numpy as np; from kineme.data.randomness import uniform;"
        "print(uniform(7, 3, np.arange(3), name='flip', size=4).tobytes().hex())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(out.stdout) == draws(range(3)).tobytes()


def test_draws_of_a_fixed_key_never_change_between_versions():
    """Otherwise a run resumed with a newer version would silently be another run."""
    expected = [0.31072384901686634, 0.6462196410543216, 0.31635927097548255]
    assert uniform(1, 2, np.array([3]), name="x", size=3)[0].tolist() == expected
    assert permutation(1, 2, 8).tolist() == [7, 0, 5, 4, 6, 2, 3, 1]


def test_normal_draws_are_made_of_an_angle_and_a_radius():
    angle, radius = uniform(1, 2, np.array([3]), name="x", size=4).reshape(2, 2)
    expected = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)
    np.testing.assert_allclose(normal(1, 2, np.array([3]), name="x", size=2), [expected])
    many = normal(1, 2, np.arange(1000), name="y", size=50)
    np.testing.assert_allclose([many.mean(), many.std()], [0, 1], atol=0.01)


def test_derived_seed_is_split_mix_64():
    assert derived_seed(1234567) == 6457827717110365317 >> 1  # the published test vector


def chi_square(counts):
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


@pytest.mark.parametrize("seed", range(5))
def test_draws_are_uniform(seed):
    u = draws(range(25_000), seed=seed).reshape(-1)
    assert u.min() >= 0
    assert u.max() < 1
    statistic = chi_square(np.bincount((u * 100).astype(int), minlength=100))
    assert 54 < statistic < 164  # 99 degrees of freedom: within 4 standard deviations or so


PAIRS = {
    "neighbouring samples": lambda: (draws(range(50_000)), draws(range(1, 50_001))),
    "neighbouring epochs": lambda: (draws(range(50_000)), draws(range(50_000), epoch=4)),
    "neighbouring seeds": lambda: (draws(range(50_000)), draws(range(50_000), seed=8)),
    "neighbouring draws": lambda: np.split(draws(range(50_000), size=8), 2, axis=1),
    "names": lambda: (draws(range(50_000)), draws(range(50_000), name="flop")),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_draws_of_different_keys_are_independent(pair):
    first, second = ((part[:, 0] * 10).astype(int) for part in PAIRS[pair]())
    assert 54 < chi_square(np.bincount(first * 10 + second, minlength=100)) < 164


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 300))
def test_permutation_visits_every_sample_once(seed, epoch, length):
    assert sorted(permutation(seed, epoch, length)) == list(range(length))


def test_orders_of_epochs_differ():
    orders = {tuple(permutation(0, epoch, 50)) for epoch in range(100)}
    assert len(orders) == 100


def test_first_place_is_shared_fairly_between_samples():
    firsts = np.bincount([permutation(0, epoch, 10)[0] for epoch in range(3000)], minlength=10)
    assert chi_square(firsts) < 33  # 9 degrees of freedom, p about 1e-4


@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=40),
    st.integers(0, 2**40),
    st.integers(0, 2**31),
    st.integers(1, 9),
)
def test_draws_as_tensors_are_the_same_to_the_last_bit(indices, seed, epoch, size):
    key = (seed, epoch, np.asarray(indices))
    tensors = (seed, epoch, torch.tensor(indices))
    options = {"name": "flip", "size": size}
    found = tensor_draws.uniform(*tensors, **options).numpy()
    np.testing.assert_array_equal(found, uniform(*key, **options))
    found = tensor_draws.uniform32(*tensors, **options).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, uniform32(*key, **options))
    found = tensor_draws.normal32(*tensors, **options).numpy()
    expected = normal(*key, **options).astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_draw_in_32_bits_stays_below_one_as_a_tensor(monkeypatch):
    highest = torch.tensor([[1 - 2**-53]], dtype=torch.float64)  # rounds to 1
    assert highest.to(torch.float32).item() == 1
    monkeypatch.setattr(tensor_draws, "uniform", lambda *key, **options: highest)
    assert tensor_draws.uniform32(0, 0, torch.tensor([0]), name="", size=1).item() == 1 - 2**-24
