"""Convolution over time with fewer products: that of torch, in values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from kineme.pose_classification.blocks import minimal_filtering
from kineme.pose_classification.blocks.minimal_filtering import conv_nine_taps, pays_off
from kineme.pose_classification.blocks.stgcn_ops import conv_over_time


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    image = x[:, None].permute(0, 3, 1, 2)
    y = F.conv2d(image, weight[:, :, None], bias, padding=(0, 4))
    return y.permute(0, 2, 3, 1)[:, 0]


def with_gradients(function, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The output, then the gradients of the inputs for an upstream gradient of noise."""
    y = function(*inputs)
    return [y, *torch.autograd.grad(y, inputs, draw(*y.shape, dtype=y.dtype).detach())]


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 6, 7, 11, 30])
@pytest.mark.parametrize("block_bytes", [1, 1500, 1 << 23])
def test_values_and_gradients_are_those_of_torch(num_frames, block_bytes, monkeypatch) -> None:
    monkeypatch.setattr(minimal_filtering, "_BLOCK_BYTES", block_bytes)  # a row, some, all
    inputs = draw(5, num_frames, 4), draw(6, 4, 9), draw(6)
    ours = with_gradients(conv_nine_taps, *inputs)
    for received, expected in zip(ours, with_gradients(plain, *inputs), strict=True):
        torch.testing.assert_close(received, expected, rtol=0, atol=1e-12)


def test_one_pulse_through_counted_taps() -> None:
    x = torch.zeros(1, 12, 1)
    x[0, 5] = 1
    y = conv_nine_taps(x, torch.arange(1.0, 10).view(1, 1, 9), torch.tensor([100.0]))
    expected = 100 + torch.tensor([0.0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0])
    torch.testing.assert_close(y.flatten(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [128, 256])
def test_float32_rounds_at_most_three_times_as_much_as_torch(channels: int) -> None:
    exact = draw(8, 40, channels), draw(channels, channels, 9), draw(channels)
    inputs = [tensor.detach().float().requires_grad_() for tensor in exact]
    rounded = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = with_gradients(plain, *rounded)
    plainly = with_gradients(plain, *inputs)
    for received, other, right in zip(
        with_gradients(conv_nine_taps, *inputs), plainly, expected, strict=True
    ):
        error, usual = (received - right).norm(), (other - right).norm()
        assert error < 3 * usual, f"{error / usual:.2f} times the error of torch"


def test_it_is_taken_for_long_wide_float32_convolutions_on_the_cpu_only() -> None:
    x, weight = torch.zeros(1, 128, 1, 32), torch.zeros(128, 128, 9, 1)
    assert pays_off(x, weight)
    assert not pays_off(x[..., :31], weight)
    assert not pays_off(x[:, :64], weight[:, :64])
    assert not pays_off(x, weight[:64])
    assert not pays_off(x, weight[:, :, :7])
    assert not pays_off(x.double(), weight.double())
    assert not pays_off(x.bfloat16(), weight.bfloat16())
    assert not pays_off(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays_off(x, weight)


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_over_time_is_right_either_way(stride: int, is_autocast: bool) -> None:
    x, weight, bias = (
        tensor.detach().float()
        for tensor in (draw(3, 128, 2, 33), draw(128, 128, 9, 1) / 34, draw(128))
    )
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        y = conv_over_time(x, weight, bias, stride)
    right = F.conv2d(
        x.double(), weight.double().transpose(2, 3), bias.double(), (1, stride), (0, 4)
    )
    assert y.dtype == (torch.bfloat16 if is_autocast else torch.float32)
    assert (y - right).abs().max() < (0.05 if is_autocast else 2e-5)
