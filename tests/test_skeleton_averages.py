"""Means over two axes of activations: values and gradients of torch's mean, sums in float32."""

import pytest
import torch

from kineme.pose_classification.blocks.averages import mean_of


@pytest.mark.parametrize("dim", [(0, 3), (2, 3)])
def test_value_and_gradient_are_those_of_the_plain_mean(dim) -> None:
    generator = torch.Generator().manual_seed(dim[0])
    x = torch.randn(5, 7, 3, 4, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    means = mean_of(x, dim=dim), x.mean(dim=dim)
    torch.testing.assert_close(*means, rtol=0, atol=1e-15)
    upstream = torch.randn(means[0].shape, generator=generator, dtype=torch.float64)
    gradients = [torch.autograd.grad(mean, x, upstream)[0] for mean in means]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-16)
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_is_added_up_in_float32_and_its_gradient_is_rounded_once() -> None:
    x = torch.full((34, 2, 1, 300), 1 + 2**-7, dtype=torch.bfloat16).requires_grad_()
    mean = mean_of(x, dim=(0, 3))
    assert mean.dtype == torch.float32
    assert mean.tolist() == [[1 + 2**-7], [1 + 2**-7]]
    mean.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad, torch.full_like(x, 1 / 10200))
