"""What holds on a GPU alone: recorded steps, data kept there, streams side by side."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from kineme.actions import train
from kineme.data import randomness, tensor_draws
from kineme.engine import checkpoint as checkpoints
from kineme.engine import stepping
from kineme.errors import QualityError, ResourceError
from kineme.pose_classification import resident
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.resident import ResidentBatches
from kineme.pose_classification.spec import SPECS
from kineme.signals import Interrupted
from kineme.spec.load import load_spec
from steps_made import made_step, mixed_batches
from test_pose_dataset import folder_of, skeletons
from tiny import content_of, same
from tiny_training import stop_at

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

AUGMENTED = [
    "recipe=accurate", "dataset.num_frames=8", "dataset.normalize=center_align_minmax",
    "dataset.augmentation.flip_prob=0.5", "dataset.augmentation.jitter_std=0.01",
    "dataset.augmentation.mixup_alpha=0.2", "train.grad_clip=1",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    data = skeletons(26, frames=12, joints=20)
    return folder_of(tmp_path / "data", data, [i % 3 for i in range(26)], layout="kinect-20")


def trained(folder, results, *settings):
    """Weights and figures of three epochs of 6 steps."""
    spec, _ = load_spec(
        SPECS["train"],
        overrides=[
            f"dataset.train_dataset.data_path={folder}", "dataset.num_classes=3",
            "dataset.label_map={a: 0, b: 1, c: 2}", "model.graph_layout=kinect-20",
            "dataset.batch_size=4", "train.num_epochs=3", "train.seed=3", "device=gpu",
            "train.tensorboard=false", f"results_dir={results}", *settings,
        ],
    )  # fmt: skip
    train.run(NETWORK, spec)
    return checkpoints.load_checkpoint(results / "train" / "pc_model_latest.pth")


def check_close(one, other, *, tolerance):
    """All weights of two checkpoints, by the size of the whole tensor."""
    for name, weights in one.weights.items():
        if weights.is_floating_point():
            gap = (weights - other.weights[name]).norm() / weights.norm().clamp(min=1e-6)
            assert gap < tolerance, (name, float(gap))


@pytest.mark.parametrize(
    "settings",
    [
        ["model.model_type=ST-GCN"],
        ["model.model_type=ST-GCN++"],
        ["model.model_type=CTR-GCN"],
        ["model.streams=[joint,bone,joint_motion,bone_motion]", "model.mask=true"],
    ],
)
def test_recorded_steps_are_those_of_one_by_one(folder, tmp_path, monkeypatch, settings):
    played = count_replays(monkeypatch)
    mine = [*AUGMENTED, "train.optim.lr=0.01", *settings]
    recorded = trained(folder, tmp_path / "recorded", *mine)
    assert len(played) == 17  # all but the first
    plain = trained(folder, tmp_path / "plain", *mine, "train.cuda_graph=false")
    assert len(played) == 17
    check_close(recorded, plain, tolerance=2e-2)
    other = trained(folder, tmp_path / "other", *mine, "train.optim.lr=0.02")
    with pytest.raises(AssertionError):  # the rate does reach the recording
        check_close(recorded, other, tolerance=2e-2)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW", "Adamax"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_step_of_every_optimizer_can_be_recorded(optimizer, decay):
    taken = {is_recorded: seven_steps(optimizer, decay, is_recorded) for is_recorded in (0, 1)}
    for ours, plain in zip(taken[1], taken[0], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


def seven_steps(optimizer, decay, is_recorded):
    """Weights, averaged ones and figures after steps whose batches, rates and shares differ."""
    step = made_step("gpu", optimizer=optimizer, decay=decay, is_recorded=bool(is_recorded))
    figures = []
    for turn, batch in enumerate(mixed_batches(7, step.fabric.device)):
        found = step(batch, rate=0.1 / (turn + 1), seed=turn)
        figures += [found.loss, found.num_correct, found.norm]
    training = step.training
    states = [training.module.state_dict()]
    states += [training.averaged.module.state_dict()] if training.averaged else []
    return [*(tensor.cpu() for state in states for tensor in state.values()), torch.tensor(figures)]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_recorded_run_that_was_stopped_ends_bitwise_like_one_that_was_not(
    folder, tmp_path, monkeypatch, optimizer
):
    mine = [*AUGMENTED, f"train.optim.optimizer_type={optimizer}", "train.optim.lr=0.01"]
    trained(folder, tmp_path / "whole", *mine)
    last = "train/model_epoch_002_step_00018.pth"
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        with pytest.raises(Interrupted):
            trained(folder, tmp_path / "stopped", *mine)
    trained(folder, tmp_path / "stopped", *mine, "train.resume=true")
    assert same(content_of(tmp_path / "stopped" / last), content_of(tmp_path / "whole" / last))


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_run_goes_on_from_the_cpu_on_the_gpu_and_back(folder, tmp_path, optimizer):
    mine = [
        "model.model_type=ST-GCN", "dataset.sampling=uniform", "dataset.num_frames=8",
        "model.dropout=0", f"train.optim.optimizer_type={optimizer}", "train.optim.lr=0.001",
    ]  # fmt: skip
    for device, stop in (("cpu", 1), ("gpu", 2), ("cpu", 0)):
        resumed = f"train.resume={'true' if stop != 1 else 'false'}"
        words = [*mine, f"device={device}", f"train.stop_epoch={stop}", resumed]
        moved = trained(folder, tmp_path / "moved", *words)
    stayed = trained(folder, tmp_path / "stayed", *mine, "device=cpu")
    check_close(moved, stayed, tolerance=5e-2)
    states = [found.content["optimizer_states"][0] for found in (moved, stayed)]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    if optimizer == "Adam":
        assert {float(one["step"]) for one in states[0]["state"].values()} == {18.0}


@pytest.mark.parametrize("model_type", list(MODELS))
@pytest.mark.parametrize("streams", ["[joint]", "[joint,bone,joint_motion,bone_motion]"])
def test_values_and_gradients_are_those_of_the_cpu(model_type, streams):
    words = [
        f"model.model_type={model_type}", f"model.streams={streams}", "model.dropout=0",
        "model.graph_layout=kinect-20", "dataset.num_classes=3", "results_dir=unused",
        "dataset.label_map={a: 0, b: 1, c: 2}", "dataset.train_dataset.data_path=unused",
    ]  # fmt: skip
    spec, _ = load_spec(SPECS["train"], overrides=words)
    data = skeletons(5, frames=9, joints=20, persons=2)
    data[::2, ..., 1] = 0  # nobody in the second place
    torch.manual_seed(0)
    here = NETWORK.build_model(spec).double()  # sums that cancel out hide nothing then
    there = copy.deepcopy(here).cuda()
    found = []
    for model, device in ((here, "cpu"), (there, "cuda")):
        logits = model(torch.from_numpy(data).double().to(device))
        (logits * torch.arange(logits.numel(), device=device).view_as(logits)).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        buffers = [b for name, b in model.named_buffers() if "running" in name]
        found.append([tensor.detach().cpu() for tensor in (logits, *gradients, *buffers)])
    assert len(found[0]) == len(found[1]) > 50
    for ours, theirs in zip(*found, strict=True):
        gap = (ours - theirs).norm() / ours.norm().clamp(min=1e-9)
        assert gap < 1e-7, (tuple(ours.shape), float(gap))


@pytest.mark.parametrize("lies_there", [True, False])
def test_batches_that_lack_people_are_not_replayed_by_models_that_skip_them(
    tmp_path, monkeypatch, lies_there
):
    if not lies_there:
        monkeypatch.setattr(resident, "LARGEST_SHARE", 0)
    data = skeletons(26, frames=12, joints=20, persons=2)
    data[::9, ..., 1] = 0
    folder = folder_of(tmp_path / "data", data, [i % 3 for i in range(26)], layout="kinect-20")
    mine = ["recipe=accurate", "dataset.num_frames=8", "train.optim.lr=0.01"]
    played = count_replays(monkeypatch)
    recorded = trained(folder, tmp_path / "recorded", *mine)
    # full are, of six in each epoch, 3, 4 and 3; the first of them warms up
    assert len(played) == 9
    played.clear()
    plain = trained(folder, tmp_path / "plain", *mine, "train.cuda_graph=false")
    check_close(recorded, plain, tolerance=2e-2)
    assert not played
    for settings in (["model.model_type=ST-GCN"], ["model.persons=pair"]):  # which skip nobody
        trained(folder, tmp_path / settings[0], *mine, *settings)
        assert len(played) == 17
        played.clear()


def test_a_step_that_waits_for_the_gpu_cannot_be_recorded_and_says_so():
    step = made_step("gpu", is_recorded=True)
    layer = step.training.module[0]
    layer.register_forward_hook(lambda layer, inputs, output: output * output.sum().item())
    first, second = mixed_batches(2, step.fabric.device)
    step(first, rate=0.1, seed=0)
    with pytest.raises(ResourceError, match=r"captur.*Set train\.cuda_graph=false"):
        step(second, rate=0.1, seed=1)


def test_a_loss_that_is_not_finite_rolls_back_and_is_recorded_anew(folder, tmp_path, monkeypatch):
    together = ResidentBatches._together

    def spoiled(self, requests):
        batches = together(self, requests)
        if requests[0][0] == 1:  # of the second epoch, the fourth step
            inputs = {"skeleton": batches[3].inputs["skeleton"] * float("inf")}
            batches[3] = replace(batches[3], inputs=inputs)
        return batches

    monkeypatch.setattr(ResidentBatches, "_together", spoiled)
    mine = ["model.model_type=ST-GCN", "train.optim.lr=0.01", "train.ema_decay=0.9"]
    with pytest.raises(QualityError, match="finite loss and gradient"):
        trained(folder, tmp_path / "stop", *mine)
    played = count_replays(monkeypatch)
    found = trained(folder, tmp_path / "on", *mine, "train.on_nan=rollback")
    assert len(played) == (6 - 1) + 4 + (5 - 1) + 6  # each time, the first is not
    assert all(bool(weights.isfinite().all()) for weights in found.weights.values())
    assert "without that step" in (tmp_path / "on/train/log.txt").read_text()


def count_replays(monkeypatch):
    """A list that grows by one with each."""
    played, replay = [], stepping._Recording.replay
    monkeypatch.setattr(
        stepping._Recording, "replay", lambda self, batch: played.append(1) or replay(self, batch)
    )
    return played


def test_draws_are_those_of_the_cpu():
    indices = np.asarray([0, 3, 10**9, 2**62])
    options = {"name": "flip", "size": 1000}
    here = randomness.uniform32(7, 3, indices, **options)
    there = tensor_draws.uniform32(7, 3, torch.from_numpy(indices).cuda(), **options)
    np.testing.assert_array_equal(there.cpu().numpy(), here)
    there = tensor_draws.normal32(7, 3, torch.from_numpy(indices).cuda(), **options).cpu()
    expected = randomness.normal(7, 3, indices, **options).astype(np.float32)
    np.testing.assert_allclose(there.numpy(), expected, rtol=1e-5, atol=1e-6)
