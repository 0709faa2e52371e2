"""One step of training; what it does on a GPU is in test_gpu.py."""

import contextlib
import copy
import math
from types import SimpleNamespace

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


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_replay_finds_batch_rate_and_shares_at_their_fixed_places(monkeypatch, decay):
    """What is replayed here is Python: which places are read and written is the same."""

    class Replayed(stepping._Recording):
        def __init__(self, learn, update, batch, stream):
            self.batch = stepping._kept(batch)
            self.graph = SimpleNamespace(replay=lambda: self.again(learn, update))

        def again(self, learn, update):
            step.optimizer.zero_grad()
            self.figures = learn(self.batch)
            update()
            replays.append(1)

    monkeypatch.setattr(stepping, "_Recording", Replayed)
    plain, step, replays = made_step(decay=decay), made_step(decay=decay), []
    step._stream, step._own_stream = "not the default", contextlib.nullcontext
    step.start_anew()
    for turn, batch in enumerate(mixed_batches(7, torch.device("cpu"))):
        rate = 0.1 / (turn + 1)
        ours, theirs = step(batch, rate=rate, seed=0), plain(batch, rate=rate, seed=0)
        assert (ours.loss, ours.norm) == pytest.approx((theirs.loss, theirs.norm), rel=1e-5)
        assert ours.num_correct == theirs.num_correct
    assert len(replays) == 6
    models = [each.training.averaged or each.training for each in (step, plain)]
    for ours, theirs in zip(*(model.module.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (small,) = mixed_batches(1, torch.device("cpu"), size=3)
    step(small, rate=0.1, seed=0)
    assert len(replays) == 6  # a batch of another size is not replayed


def test_a_step_that_cannot_be_recorded_says_what_to_set(monkeypatch):
    def fail(*parts):
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
