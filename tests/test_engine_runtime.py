"""Devices, signals, and answers that several processes give together."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from kineme.engine import runtime
from kineme.engine.feeding import Feed
from kineme.engine.launching import launch
from kineme.engine.predict import predict
from kineme.engine.runtime import Devices, choose_devices
from kineme.errors import KinemeError, ResourceError, SpecError
from kineme.network import Batch
from kineme.signals import Interrupted
from tiny import TinyData, build_model, tiny_spec


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that a machine has so many GPUs."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_the_default_runs_on_the_cpu_where_there_is_no_gpu(gpus):
    gpus(0)
    assert choose_devices("auto") == (Devices("cpu", (0,)), "No GPU here: running on the CPU.")


def test_the_default_takes_the_first_gpu(gpus):
    gpus(2)
    assert choose_devices("auto") == (Devices("gpu", (0,)), "")
    assert choose_devices("auto", num_gpus=2, gpu_ids=(0, 1))[0].ids == (0, 1)


def test_gpus_that_are_not_there_are_an_error_that_suggests_the_cpu(gpus):
    gpus(0)
    with pytest.raises(ResourceError) as caught:
        choose_devices("auto", num_gpus=2, gpu_ids=(0, 1))
    assert str(caught.value) == (
        "num_gpus: expected GPUs 0, 1, got a machine without GPUs. "
        "Set device=cpu to run on the CPU in 2 processes."
    )
    assert caught.value.exit_code == 5
    gpus(1)
    with pytest.raises(ResourceError) as caught:
        choose_devices("auto", gpu_ids=(7,))
    assert str(caught.value) == (
        "gpu_ids: expected GPUs 7, got 1 GPU on this machine (0). Set device=cpu to run on the CPU."
    )
    gpus(0)
    with pytest.raises(ResourceError):
        choose_devices("gpu")


def test_the_cpu_can_be_asked_for_in_several_processes(gpus):
    gpus(2)
    assert choose_devices("cpu", num_gpus=2)[0] == Devices("cpu", (0, 1))


def test_nodes_come_from_the_spec_or_from_taos_environment(gpus, monkeypatch):
    gpus(0)
    with pytest.raises(SpecError, match="num_nodes 3 and no MASTER_ADDR"):
        choose_devices("cpu", num_nodes=3)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert choose_devices("cpu", num_nodes=3)[0].world_size == 3
    monkeypatch.setenv("WORLD_SIZE", "2")  # TAO: nodes
    assert choose_devices("cpu", num_gpus=2)[0].world_size == 4
    monkeypatch.setenv("LOCAL_RANK", "0")  # torchrun: processes
    assert choose_devices("cpu", num_gpus=2)[0].world_size == 2


def test_half_precision_on_the_cpu_becomes_bf16_and_says_so():
    cpu = Devices("cpu", (0,))
    assert runtime.build_fabric(cpu, "16-mixed").strategy.precision.precision == "bf16-mixed"
    assert "using bf16-mixed" in runtime.cpu_precision_note(cpu, "16-mixed")
    assert runtime.cpu_precision_note(cpu, "bf16-mixed") == ""


def test_a_body_runs_in_this_process_when_it_is_alone():
    got = launch(lambda fabric, x: (fabric.world_size, x), 3, devices=Devices("cpu", (0,)))
    assert got == (1, 3)


def test_processes_that_the_spec_does_not_know_of_are_refused(monkeypatch):
    """torchrun with two processes and num_gpus=1: each would train alone, in one folder."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match=r"num_gpus.* 2 processes.* got 1 in the spec"):
        launch(lambda fabric: 0, devices=Devices("cpu", (0,)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_body_that_does_not_wait_for_it(number, code):
    before = signal.getsignal(number)

    def body(fabric):
        os.kill(os.getpid(), number)
        return "survived"

    with pytest.raises(Interrupted) as caught:
        launch(body, devices=Devices("cpu", (0,)))
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_an_interruption_crosses_processes_with_its_exit_code():
    error = Interrupted.by(signal.SIGINT, "in epoch 2")
    rebuilt, arguments = error.__reduce__()
    copy = rebuilt(*arguments)
    assert isinstance(copy, KinemeError)
    assert (copy.exit_code, str(copy)) == (130, str(error))


class Clips:
    """5 samples of 1 to 3 rows; the features are what the model answers."""

    notes = ()
    ids = "abcde"
    labels = np.zeros(5, dtype=np.int64)
    counts = np.array([1, 3, 2, 1, 2])

    def __len__(self):
        return 5

    def read(self, indices, epoch):
        of_row = np.repeat(np.arange(len(indices)), self.counts[indices])
        rows = np.arange(len(of_row), dtype=np.float32) + 10 * indices[of_row]
        x = np.stack([np.sin(rows), np.cos(rows), rows * 0], axis=1).astype(np.float32)
        as_tensor = torch.from_numpy
        return Batch(
            {"x": as_tensor(x)}, torch.zeros(len(indices)).long(), as_tensor(indices),
            as_tensor(of_row),
        )  # fmt: skip

    def transform(self, batch, epoch):
        return batch


class Echo(torch.nn.Module):
    def forward(self, x):
        return x


def test_probabilities_of_a_samples_rows_are_averaged():
    fabric, feed = Fabric(accelerator="cpu"), Feed(Clips())
    answers = predict(fabric, Echo(), feed, batch_size=5)
    scores = answers.scores
    batch = Clips().read(np.arange(5), 0)
    rows = batch.inputs["x"].softmax(dim=1).numpy()
    for i in range(5):
        expected = rows[batch.sample_of_row.numpy() == i].mean(axis=0)
        assert np.exp(scores[i]) == pytest.approx(expected, rel=1e-5)


def test_answers_do_not_depend_on_the_batch_size(tmp_path):
    fabric = Fabric(accelerator="cpu")
    spec = tiny_spec(tmp_path)
    model = build_model(spec)
    feed = Feed(TinyData(spec, "val"))
    whole = predict(fabric, model, feed, batch_size=100).scores
    assert whole.shape == (11, 3)
    assert whole.dtype == np.float32
    seen = []
    for batch_size in (1, 3, 4):
        parts = predict(fabric, model, feed, batch_size=batch_size, poll=seen.append).scores
        assert parts == pytest.approx(whole, abs=1e-6)
    assert seen[:11] == list(range(1, 12))


def body_that_predicts(fabric, folder):
    spec = tiny_spec(folder)
    torch.manual_seed(0)
    feed = Feed(TinyData(spec, "val"))
    counts = []
    answers = predict(fabric, build_model(spec), feed, batch_size=2, poll=counts.append)
    return answers.scores, counts, fabric.world_size


def test_two_processes_answer_for_every_sample_once(tmp_path, monkeypatch):
    monkeypatch.setattr("kineme.engine.ranks.START_METHOD", "fork")
    torch.set_num_threads(1)
    scores, counts, world_size = launch(
        body_that_predicts, str(tmp_path), devices=Devices("cpu", (0, 1))
    )
    alone, _, _ = body_that_predicts(
        SimpleNamespace(
            world_size=1, global_rank=0, device=torch.device("cpu"),
            autocast=lambda: torch.autocast("cpu", enabled=False),
        ),
        str(tmp_path),
    )  # fmt: skip
    assert world_size == 2
    assert scores == pytest.approx(alone, abs=1e-6)
    assert counts == [4, 8, 11]  # of 11 samples in 6 batches: three rounds of two
