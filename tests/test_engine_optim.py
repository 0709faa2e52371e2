"""Optimizers, learning rates, averaged weights and losses, against hand-made figures."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kineme.engine import optim
from kineme.errors import SpecError


def settings(**changes):
    values = {
        "optimizer_type": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True,
        "weight_decay": 1e-4, "lr_scheduler": "MultiStep", "lr_monitor": "val_loss",
        "patience": 1, "min_lr": 1e-3, "lr_steps": [2, 4], "lr_decay": 0.1, "warmup_epochs": 0,
        "backbone_lr_factor": 1.0,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def schedule(*, steps_per_epoch=10, num_epochs=6, **changes):
    return optim.Schedule(
        settings(**changes), steps_per_epoch=steps_per_epoch, num_epochs=num_epochs
    )


@pytest.mark.parametrize("prefix", ["", "torch.optim."])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adamax", "AdamW"])
def test_the_optimizer_asked_for_is_the_one_built(prefix, name):
    module = nn.Linear(1, 1)
    built = optim.build_optimizer(module, settings(optimizer_type=prefix + name, lr=0.3))
    assert type(built).__name__ == name
    assert built.param_groups[0]["lr"] == 0.3
    assert built.param_groups[0]["weight_decay"] == 1e-4


def test_momentum_zero_with_nesterov_is_plain_sgd():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    built = optim.build_optimizer(module, settings(momentum=0.0, weight_decay=0.0))
    module.weight.grad = torch.tensor([[2.0]])
    built.step()
    assert module.weight.item() == pytest.approx(1.0 - 0.1 * 2.0)


def test_the_head_learns_at_the_full_rate_and_the_rest_at_its_share():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    asked = settings(backbone_lr_factor=0.1, momentum=0.0, weight_decay=0.0, nesterov=False)
    built = optim.build_optimizer(module, asked, head=("1.weight",))
    for parameter in module.parameters():
        parameter.data.fill_(1.0)
        parameter.grad = torch.tensor([[1.0]])
    optim.set_rate(built, 0.5)
    built.step()
    assert [p.item() for p in module.parameters()] == pytest.approx([0.95, 0.5])


def test_multistep_falls_at_its_epochs():
    rates = [schedule().lr(epoch, 0) for epoch in range(6)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_cosine_falls_by_step_to_zero():
    s = schedule(lr_scheduler="cosine", steps_per_epoch=2, num_epochs=2)
    rates = [s.lr(epoch, step) for epoch in range(2) for step in range(2)]
    assert rates == pytest.approx(
        [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))]
    )


def test_warmup_rises_by_step_and_cosine_starts_after_it():
    s = schedule(lr_scheduler="cosine", warmup_epochs=1, steps_per_epoch=4, num_epochs=3)
    assert [s.lr(0, step) for step in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert s.lr(1, 0) == pytest.approx(0.1)
    assert s.lr(2, 0) == pytest.approx(0.05)


def test_autoreduce_follows_torch():
    weight = nn.Parameter(torch.ones(1))
    torchs = torch.optim.SGD([weight], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        torchs, factor=0.5, patience=1, min_lr=0.02
    )
    ours = schedule(lr_scheduler="AutoReduce", lr_decay=0.5, min_lr=0.02, num_epochs=40)
    losses = [3, 2, 2, 2, 1.9, 1.95, 1.93, 1.91, 1.9, 1.9, 1.9, 1.9, 1.9, 1.0, 1.0, 1.0, 1.0, 1.0]
    for epoch, loss in enumerate(losses):
        assert ours.lr(epoch, 0) == pytest.approx(torchs.param_groups[0]["lr"]), epoch
        ours.end_epoch({"train_loss": 9.0, "val_loss": loss})
        plateau.step(loss)


def test_autoreduce_waits_for_its_metric():
    ours = schedule(lr_scheduler="AutoReduce")
    for _ in range(9):
        ours.end_epoch({"train_loss": 1.0})
    assert ours.lr(9, 0) == 0.1


def test_autoreduce_never_raises_a_rate_below_its_floor():
    ours = schedule(lr_scheduler="AutoReduce", lr=1e-5, min_lr=1e-3)
    for _ in range(9):
        ours.end_epoch({"val_loss": 1.0})
    assert ours.lr(9, 0) == 1e-5


def test_averaged_weights_follow_with_a_decay_that_warms_up():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 0.0)
    averaged = optim.AveragedWeights(model, 0.5)
    nn.init.constant_(model[0].weight, 1.0)
    model[1].num_batches_tracked += 7
    averaged.update(model)  # decay 1/10
    assert averaged.module[0].weight.item() == pytest.approx(0.9)
    averaged.update(model)  # decay 2/11
    assert averaged.module[0].weight.item() == pytest.approx(0.9 * 2 / 11 + 9 / 11)
    assert averaged.module[1].num_batches_tracked.item() == 7
    assert not averaged.module.training


def test_averaged_weights_go_as_far_with_a_share_that_lies_in_a_tensor():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    numbers, tensors = optim.AveragedWeights(model, 0.9), optim.AveragedWeights(model, 0.9)
    for turn in range(4):
        nn.init.constant_(model[0].weight, turn)
        model[1].num_batches_tracked += 1
        numbers.update(model)
        tensors.move(model, torch.tensor(tensors.next_share()))
    assert tensors.num_updates == numbers.num_updates == 4
    for ours, theirs in zip(
        tensors.module.state_dict().values(), numbers.module.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_rates_that_lie_in_tensors_are_written_in_place_and_saved_as_numbers():
    built = optim.build_optimizer(
        nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)),
        settings(backbone_lr_factor=0.1),
        head=("1.weight", "1.bias"),
    )
    optim.keep_rate_on(built, torch.device("cpu"))
    places = [group["lr"] for group in built.param_groups]
    optim.set_rate(built, 0.5)
    assert [place.item() for place in places] == pytest.approx([0.05, 0.5])
    assert all(
        group["lr"] is place for group, place in zip(built.param_groups, places, strict=True)
    )
    saved = optim.state_of(built)["param_groups"]
    assert [type(group["lr"]) for group in saved] == [float, float]
    assert [group["lr"] for group in saved] == pytest.approx([0.05, 0.5])


def test_gradients_get_the_strides_of_their_parameters_and_keep_their_values():
    module = nn.Conv2d(3, 4, 1)
    stored = torch.arange(12.0).view(4, 3, 1, 1).contiguous(memory_format=torch.channels_last)
    module.weight.grad = stored.as_strided((4, 3, 1, 1), (3, 1, 3, 3))
    assert module.weight.grad.stride() != module.weight.stride()
    optim.align_gradients(module)
    assert module.weight.grad.stride() == module.weight.stride()
    assert module.weight.grad.flatten().tolist() == list(range(12))
    assert module.weight.grad.data_ptr() == stored.data_ptr()  # nothing was copied


def test_gradients_of_another_order_are_copied_into_that_of_their_parameters():
    module = nn.Conv2d(2, 2, 3)
    gradient = torch.arange(36.0).view(2, 2, 3, 3)
    module.weight.grad = gradient.contiguous(memory_format=torch.channels_last)
    optim.align_gradients(module)
    assert module.weight.grad.stride() == module.weight.stride()
    assert torch.equal(module.weight.grad, gradient)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_that_begins_at_zero_changes_no_step(momentum):
    models = []
    for begins in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        model[1].bias.requires_grad_(False)
        built = optim.build_optimizer(model, settings(momentum=momentum))
        for step in range(3):
            if begins:  # again as after a restart, too
                optim.begin_momentum(built)
            built.zero_grad()
            model(torch.tensor([[1.0, step]])).square().sum().backward()
            built.step()
        models.append(model)
        assert model[1].bias not in built.state
    for plain, begun in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(plain, begun)


def test_balanced_weights_are_inverse_shares_of_present_classes():
    labels = np.array([0, 0, 0, 1])
    assert optim.class_weights("balanced", labels, 3) == pytest.approx([4 / 6, 4 / 2, 0.0])
    assert optim.class_weights("none", labels, 3) is None
    assert optim.class_weights([1.0, 2.0, 3.0], labels, 3) == [1.0, 2.0, 3.0]


def test_the_loss_smooths_labels():
    s = SimpleNamespace(class_weights="none", label_smoothing=0.2)
    loss = optim.build_loss(s, np.array([0, 1]), num_classes=2, device=torch.device("cpu"))
    logits = torch.log(torch.tensor([[0.75, 0.25]]))
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert loss(logits, torch.tensor([0])).item() == pytest.approx(expected)


def test_class_weights_of_another_length_are_refused():
    with pytest.raises(SpecError, match="3 weights, one for each class"):
        optim.class_weights([1.0, 2.0], np.array([0, 1, 2]), 3)


def test_a_scaled_rate_follows_the_samples_of_a_step_and_is_told():
    asked = settings(lr=0.1, lr_scaling="linear", lr_reference_batch=128)
    assert optim.scaled_rate(asked, 16) == pytest.approx(0.0125)
    assert optim.scaled_rate(asked, 256) == pytest.approx(0.2)
    assert optim.scaling_note(asked, 16) == (
        "Learning rate 0.0125: train.optim.lr 0.1 is for 128 samples, and a step has 16 "
        "(lr_scaling: linear)."
    )
    plain = settings(lr=0.1, lr_scaling="none", lr_reference_batch=128)
    assert (optim.scaled_rate(plain, 16), optim.scaling_note(plain, 16)) == (0.1, "")


@pytest.mark.parametrize("kind", ["MultiStep", "AutoReduce", "cosine"])
def test_every_schedule_starts_at_the_rate_it_is_given(kind):
    s = optim.Schedule(
        settings(lr_scheduler=kind, warmup_epochs=1), steps_per_epoch=4, num_epochs=9, lr=0.0125
    )
    assert [s.lr(0, step) for step in range(4)] == pytest.approx(
        [0.003125, 0.00625, 0.009375, 0.0125]
    )
    assert s.lr(1, 0) == pytest.approx(0.0125)
