"""Mixup: the shares that are drawn, and who is mixed with whom."""

import numpy as np
import pytest
import torch

from kineme.data import mixing
from kineme.network import Batch


def draws(*values):
    return np.asarray(values)


def test_the_share_of_mixup_is_the_first_pair_that_fits():
    # alpha 1: 0.8 + 0.6 is too much, 0.3 + 0.1 fits: 0.1 / 0.4
    assert mixing.share_of(1.0, draws([0.8, 0.6], [0.3, 0.1])) == pytest.approx(0.25)
    # alpha 0.5: 0.5 ** 2 = 0.25 and 0.866 ** 2 = 0.75
    assert mixing.share_of(0.5, draws([0.5, 0.75**0.5 - 1e-9])) == pytest.approx(0.25)
    assert mixing.share_of(1.0, draws([0.8, 0.6])) == 0.5
    assert mixing.share_of(0.2, draws([0.0, 0.0], [0.0, 0.5])) == 0.0


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 2.0])
def test_shares_of_mixup_are_those_of_a_beta_distribution(alpha):
    generator = np.random.default_rng(0)
    ours = [mixing.share_of(alpha, generator.random((64, 2))) for _ in range(4000)]
    numpys = generator.beta(alpha, alpha, 100_000)
    numpys = np.minimum(numpys, 1 - numpys)
    # standard errors: 0.15 / sqrt(4000) = 0.0024 of the mean
    assert np.mean(ours) == pytest.approx(numpys.mean(), abs=0.01)
    assert np.quantile(ours, [0.25, 0.75]) == pytest.approx(
        np.quantile(numpys, [0.25, 0.75]), abs=0.02
    )


def test_partners_and_shares_are_of_the_batch():
    def mix(rows, seed, epoch):
        labels = torch.tensor([5, 6, 7])[: len(rows)]
        x = torch.arange(float(len(rows)))
        batch = Batch({"x": x}, labels, torch.tensor(rows), torch.arange(len(rows)))
        blend = lambda x, partners, share: x[partners] + share * 0  # noqa: E731
        return mixing.mixed(batch, blend, alpha=1.0, seed=seed, epoch=epoch)

    first = mix([3, 1, 2], 0, 0)
    assert first.inputs["x"].tolist() == [2, 0, 1]
    assert first.mixed_labels.tolist() == [7, 5, 6]
    keys = ((0, 0), (0, 1), (1, 0))
    shares = {mix(rows, *key).mixed_share for rows in ([3, 1], [3, 2]) for key in keys}
    assert len(shares) == 3  # the first sample, the seed and the epoch decide
