"""A small model and the steps that train it, for tests of a step by itself."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from kineme.engine import optim
from kineme.engine.objective import Objective
from kineme.engine.runtime import Devices, build_fabric
from kineme.engine.stepping import Step
from kineme.engine.training import Progress, Training
from kineme.network import Batch


def made_step(device="cpu", *, optimizer="SGD", decay=0.0, is_recorded=False):
    """A step of two layers, whose second learns at twice the rate of the first."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    fabric = build_fabric(Devices(device, (0,)), "32-true")
    settings = SimpleNamespace(
        optimizer_type=optimizer, lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=True,
        backbone_lr_factor=0.5,
    )  # fmt: skip
    built = optim.build_optimizer(
        module, settings, head=("2.weight", "2.bias"), can_be_recorded=is_recorded
    )
    model, wrapped = fabric.setup(module, built)
    averaged = optim.AveragedWeights(module, decay) if decay else None
    training = Training(module, built, None, averaged, Progress())
    objective = Objective(torch.nn.functional.cross_entropy)
    return Step(fabric, training, model, wrapped, objective, grad_clip=1.0, is_recorded=is_recorded)


def mixed_batches(count, device, *, size=4):
    """Batches that differ in everything, each mixed with itself turned by one."""
    draw, rows = torch.Generator().manual_seed(1), torch.arange(size)
    for turn in range(count):
        x = torch.randn(size, 6, generator=draw)
        labels = torch.randint(3, (size,), generator=draw)
        batch = Batch({"input": x}, labels, rows, rows, mixed_share=turn / 20).to(device)
        yield replace(batch, mixed_labels=batch.labels.roll(1))
