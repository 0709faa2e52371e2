"""The graph convolution: one result over the links, in large products, and by einsum."""

import pytest
import torch

from kineme.pose_classification.blocks import stgcn_ops
from kineme.pose_classification.blocks.stgcn_ops import Graph, dense_graph_conv, graph_conv


@pytest.mark.parametrize("num_partitions", [1, 3])
def test_dense_and_sparse_graph_convolutions_are_the_einsum(num_partitions, monkeypatch) -> None:
    monkeypatch.setattr(stgcn_ops, "_FEW_BYTES", 0)  # by links, however small
    generator = torch.Generator().manual_seed(num_partitions)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).double().requires_grad_()

    x, weight, shift = draw(6, 4, 2, 3), draw(num_partitions, 5, 4), draw(6, 5)
    values = draw(num_partitions, 6, 6)
    with torch.no_grad():
        values *= torch.rand(values.shape, generator=generator) < 0.5
        values[0, :, 1], values[0, 1, 4] = 0, 0
    links = [(k, v, w) for k, v, w in values.nonzero().tolist()]
    links.append((0, 1, 4))  # may differ from zero, and happens not to
    is_link = torch.zeros_like(values)
    is_link[tuple(torch.tensor(links).t())] = 1
    upstream = draw(6, 5, 2, 3).detach()
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    dense = dense_graph_conv(rows, weight, shift, values)
    results = [
        torch.einsum("vcnt,koc,kvw->wont", x, weight, values) + shift[:, :, None, None],
        graph_conv(x, weight, shift, Graph(values, links)),
        dense.view(6, 2, 3, 5).permute(0, 3, 1, 2),
    ]
    gradients = [torch.autograd.grad(y, (x, weight, values, shift), upstream) for y in results]
    for y, (of_x, of_weight, of_values, of_shift) in zip(results, gradients, strict=True):
        torch.testing.assert_close(y, results[0], rtol=0, atol=1e-13)
        torch.testing.assert_close(of_x, gradients[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(of_weight, gradients[0][1], rtol=0, atol=1e-12)
        torch.testing.assert_close(of_values * is_link, gradients[0][2] * is_link)
        torch.testing.assert_close(of_shift, gradients[0][3], rtol=0, atol=1e-12)
