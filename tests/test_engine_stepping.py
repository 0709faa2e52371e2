"""One step of training; what it does on a GPU is in test_gpu.py."""

import copy
import math

import pytest
import torch

from kineme.engine import stepping
from kineme.errors import ResourceError
from steps_made import made_step, mixed_batches


def test_a_step_reports_the_loss_of_both_labels_the_right_answers_and_the_norm():
    step = made_step()
    batch = list(mixed_batches(3, torch.device("cpu")))[2]  # a tenth of the other label
    logits = step.training.module(batch.inputs["input"])  # with a graph, for its gradients
    cross_entropy = torch.nn.functional.cross_entropy
    mine, other = (cross_entropy(logits, y) for y in (batch.labels, batch.mixed_labels))
    loss = 0.9 * mine + 0.1 * other
    gradients = torch.autograd.grad(loss, list(step.training.module.parameters()))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    found = step(batch, rate=0.0, seed=0)
    assert found.loss == pytest.approx(4 * loss.item(), rel=1e-5)
    assert found.num_correct == int((logits.argmax(1) == batch.labels).sum())
    assert found.norm == pytest.approx(norm, rel=1e-5)
    assert step.last_norm == found.norm


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    step = made_step(decay=0.5)
    before = copy.deepcopy(step.training.module.state_dict())
    (batch,) = mixed_batches(1, torch.device("cpu"))
    batch.inputs["input"][1, 2] = math.inf
    assert not math.isfinite(step(batch, rate=0.1, seed=0).norm)
    for name, weights in step.training.module.state_dict().items():
        assert torch.equal(weights, before[name])
    assert step.training.averaged.num_updates == 0


def test_each_group_learns_at_its_share_of_the_rate():
    step = made_step()
    module = step.training.module
    before = [p.detach().clone() for p in module.parameters()]
    (batch,) = mixed_batches(1, torch.device("cpu"))
    step(batch, rate=0.1, seed=0)
    for parameter, old, share in zip(module.parameters(), before, (0.5, 0.5, 1, 1), strict=True):
        wanted = parameter.grad + 0.01 * old
        expected = old - 0.1 * share * 1.9 * wanted  # Nesterov's first step
        torch.testing.assert_close(parameter.detach(), expected)


def test_a_step_that_cannot_be_recorded_says_what_to_set(monkeypatch):
    def fail(step, batch):
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(stepping, "_Recording", fail)
    step = made_step()
    first, second = mixed_batches(2, torch.device("cpu"))
    step(first, rate=0.1, seed=0)
    step._is_warm = True  # as after a first step on a GPU
    with pytest.raises(
        ResourceError, match=r"not permitted.*capturing\. Set train\.cuda_graph=false"
    ):
        step(second, rate=0.1, seed=1)
