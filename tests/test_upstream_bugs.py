"""Faults of upstream (rows of docs/compatibility.md) that no other test holds off.

The number in a test's name is that of the row. Everything else of the page is shown by the
tests of whatever the row is about.
"""

import ast
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from kineme import cli
from kineme.action_recognition import network as video_network
from kineme.action_recognition import transforms
from kineme.action_recognition.model import build_model
from kineme.action_recognition.sources import complete
from kineme.action_recognition.spec import SPECS as VIDEO_SPECS
from kineme.action_recognition.weights import HEAD, adapt_weights
from kineme.actions import answers, train
from kineme.engine.checkpoint import load_checkpoint, restore_spec
from kineme.engine.weights import fit_weights
from kineme.errors import CheckpointError, SpecError
from kineme.network import Answers, load_specs
from kineme.spec.load import load_spec, value_at
from parity.video_specs import video_spec
from stick import rows_of
from tiny import TINY, tiny_spec
from video_folders import save_classes, spec_for

SOURCE = Path(__file__).resolve().parents[1] / "src" / "kineme"


# Action recognition


class _Named:
    ids = ("clap/a", "clap/b")
    labels = np.array([-1, -1])


def test_b03_inference_averages_clips_and_writes_scores_of_videos_and_of_clips(tmp_path):
    shares = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]], np.float32)  # two clips of a, one of b
    scores = np.log(np.array([[0.6, 0.4], [0.2, 0.8]], np.float32))
    said = Answers(scores, np.log(shares), np.array([0, 0, 1]))
    answers.write_predictions(tmp_path, _Named(), said, class_names=("catch", "smile"), top_k=2)
    videos = rows_of(tmp_path / "predictions.csv")
    assert [(row["id"], row["label"]) for row in videos] == [
        ("clap/a", "catch"),
        ("clap/b", "smile"),
    ]
    assert [float(row["probability"]) for row in videos] == pytest.approx([0.6, 0.8], abs=1e-6)
    assert [float(row["probability_2"]) for row in videos] == pytest.approx([0.4, 0.2], abs=1e-6)
    clips = rows_of(tmp_path / "clips.csv")
    assert [(row["id"], row["clip"], row["label"]) for row in clips] == [
        ("clap/a", "0", "catch"), ("clap/a", "1", "smile"), ("clap/b", "0", "smile"),
    ]  # fmt: skip
    assert [float(row["probability"]) for row in clips] == pytest.approx([0.9, 0.7, 0.8], abs=1e-6)


def imports_of(path):
    """The packages that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_b08_no_module_needs_a_test_runner():
    imported = {name for path in SOURCE.rglob("*.py") for name in imports_of(path)}
    assert "torch" in imported  # the walk sees imports
    assert imported.isdisjoint({"pytest", "_pytest", "hypothesis", "unittest", "doctest"})


def loaded_from(path, spec):
    """What of a file a training of `spec` starts from, as `actions/train.py` loads it."""
    weights = adapt_weights(load_checkpoint(path).weights, spec, "")
    return fit_weights(build_model(spec), weights, where="file", head=HEAD, is_partial=True)


def save_as_tao(path, spec):
    """A file in Lightning's form, as TAO writes them without a key."""
    state = {f"model.{name}": tensor for name, tensor in build_model(spec).state_dict().items()}
    torch.save({"epoch": 9, "global_step": 90, "state_dict": state}, path)
    return path


def test_b13_a_head_of_as_many_classes_is_loaded_whatever_the_spec_says_of_it(tmp_path):
    path = save_as_tao(tmp_path / "tao.tlt", video_spec(num_classes=5))
    for told in (5, 0):  # upstream's default, with which it draws a new head, and its way out
        report = loaded_from(path, video_spec(num_classes=5, rgb_pretrained_num_classes=told))
        assert {"fc_cls.weight", "fc_cls.bias"} <= set(report.matched)
        assert (report.missing, report.unexpected, report.resized) == ((), (), ())


def test_b14_a_checkpoint_of_a_joint_2d_model_starts_a_joint_model(tmp_path):
    words = {"model_type": "joint", "rgb_seq_length": 3, "of_seq_length": 3, "num_fc": 10}
    spec = video_spec(form="stack", **words)
    report = loaded_from(save_as_tao(tmp_path / "joint.pth", spec), spec)
    assert len(report.matched) == 2 * 122 + 4
    assert (report.missing, report.unexpected, report.resized) == ((), (), ())


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("model.sample_strategy", "dense", "'consecutive', 'random_interval'"),
        ("dataset.augmentation_config.train_crop_type", "center_crop", "'multi_scale_crop'"),
        ("evaluate.video_eval_mode", "dense", "'all', 'center', 'conv'"),
        ("inference.video_inf_mode", "dense", "'all', 'center', 'conv'"),
    ],
)
def test_b18_a_choice_that_there_is_not_is_refused_before_anything_runs(key, value, known):
    with pytest.raises(SpecError, match=f"{key}: expected one of .*{known}.*, got '{value}'"):
        load_spec(VIDEO_SPECS["train"], {"results_dir": "r", "dataset.train_dataset_dir": "d"},
                  [f"{key}={value}"])  # fmt: skip


def test_b22_a_multi_scale_crop_is_that_of_one_stream_in_a_joint_model_too(tmp_path, monkeypatch):
    save_classes(tmp_path, 4, flow=True, per_class=1)  # frames of 12 x 16
    real, plans = transforms.crop_plan, []
    monkeypatch.setattr(transforms, "crop_plan",
                        lambda *words: plans.append(real(*words)) or plans[-1])  # fmt: skip
    kinds = ("rgb", "of", "joint")
    for kind in kinds:
        words = (
            f"model.model_type={kind}", "model.input_width=24", "model.input_height=24",
            "dataset.augmentation_config.train_crop_type=multi_scale_crop",
            "dataset.augmentation_config.scales=[1.0, 0.75]",
            "dataset.augmentation_config.crop_smaller_edge=48",
        )  # fmt: skip
        spec, _ = complete(spec_for(tmp_path, "train", *words), "train")
        video_network.build_dataset(spec, "train").read(np.array([0, 1]), 3)
    rgb, of, joint = (plans[2 * i : 2 * i + 2] for i in range(3))
    assert rgb == of == joint
    # the shorter edge became 48 and the crop a share of that: 24 pixels show 48 or 36 of them
    assert {plan.decode_size for plan in rgb} <= {(24, 32), (32, 43)}


def test_b28_the_batch_of_an_export_is_accepted_and_said_to_have_no_effect():
    words = ["results_dir=r", "export.checkpoint=m.pth", "export.batch_size=4"]
    _, notes = load_spec(VIDEO_SPECS["export"], None, words)
    assert notes == (
        "export.batch_size has no effect: an exported model takes any number of samples.",
    )


@pytest.mark.parametrize("network", ["action_recognition", "pose_classification"])
def test_b30_the_gpu_of_an_export_is_accepted_and_said_to_have_no_effect(network):
    words = ["results_dir=r", "export.checkpoint=m.pth", "export.gpu_id=1"]
    _, notes = load_spec(load_specs(network)["export"], None, words)
    assert notes == ("export.gpu_id has no effect: export computes on the CPU.",)
    assert load_spec(load_specs(network)["export"], None, [*words[:2], "export.gpu_id=0"])[1] == ()


def test_b31_other_normalisation_than_the_checkpoints_is_refused_with_both_values(tmp_path):
    trained = video_spec(action="train")
    facts = {"network": "action_recognition", "spec": trained.model_dump(mode="json")}
    torch.save({"kineme": facts, "state_dict": {"a": torch.ones(1)}}, tmp_path / "m.pth")
    checkpoint = load_checkpoint(tmp_path / "m.pth")
    identity = video_network.NETWORK.identity
    asked = {"results_dir": "r", "evaluate.checkpoint": "m.pth", "evaluate.test_dataset_dir": "d"}
    key = "dataset.augmentation_config.rgb_input_mean"
    spec, _ = load_spec(VIDEO_SPECS["evaluate"], asked)
    assert value_at(restore_spec(spec, checkpoint, identity), key) == [0.485, 0.456, 0.406]
    spec, _ = load_spec(VIDEO_SPECS["evaluate"], {**asked, key: [0.5]})
    with pytest.raises(CheckpointError, match=r"expected \[0.485, 0.456, 0.406\] as in m.pth, got"):
        restore_spec(spec, checkpoint, identity)


# Both networks


@pytest.mark.parametrize(
    ("network", "action", "key"),
    [
        ("action_recognition", "export", "export.onnx_file"),
        ("action_recognition", "train", "model.rgb_pretrained_model_path"),
        ("action_recognition", "train", "train.resume_training_checkpoint_path"),
        ("pose_classification", "export", "export.onnx_file"),
        ("pose_classification", "inference", "inference.output_file"),
        ("pose_classification", "train", "model.pretrained_model_path"),
    ],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_b27_empty_text_of_a_template_means_not_set(tmp_path, network, action, key, as_file):
    model = load_specs(network)[action]
    words = [f"{name}=somewhere" for name in model.mandatory]
    (tmp_path / "spec.yaml").write_text(f"{key}: ''\n")
    spec, notes = load_spec(
        model, tmp_path / "spec.yaml" if as_file else None, words + [f"{key}="] * (not as_file)
    )
    assert value_at(spec, key) is None
    assert notes == ()


def test_b52_gpus_of_one_action_are_not_those_of_another_and_a_spec_file_is_never_rewritten(
    tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(cli, "load_network", lambda name: name)
    monkeypatch.setattr(cli, "_imported", lambda path: lambda network, spec: seen.append(spec))
    for name, value in {"WORLD_SIZE": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    text = f"results_dir: {tmp_path}\ndataset: {{train_dataset: {{data_path: x.npy}}}}  # mine\n"
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    words = ["pose_classification", "train", "-e", str(path), "evaluate.num_gpus=4"]
    assert cli.main([*words, "model_name=num_gpus=8"]) == 0
    assert (seen[0].train.num_gpus, seen[0].train.gpu_ids) == (1, [0])
    assert (seen[0].evaluate.num_gpus, seen[0].evaluate.gpu_ids) == (4, [0, 1, 2, 3])
    assert seen[0].model_name == "num_gpus=8"
    assert path.read_text() == text


def test_b57b_values_with_spaces_arrive_as_they_were_typed(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "load_network", lambda name: name)
    monkeypatch.setattr(cli, "_imported", lambda path: lambda network, spec: seen.append(spec))
    words = [
        "results_dir=my results", "dataset.train_dataset.data_path=/data/day 1/x.npy",
        "train.gpu_ids=[0, 1]", "dataset.label_map={sit down: 0, 'up, fast': 1}",
    ]  # fmt: skip
    assert cli.main(["pose_classification", "train", *words]) == 0
    (spec,) = seen
    assert (spec.results_dir, spec.train.gpu_ids) == ("my results", [0, 1])
    assert spec.dataset.train_dataset.data_path == "/data/day 1/x.npy"
    assert spec.dataset.label_map == {"sit down": 0, "up, fast": 1}


def test_b57b_a_run_calls_nobody(tmp_path, monkeypatch):
    """Neither telemetry nor anything else: wandb is asked only where an account is set up."""
    called = []
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *words: called.append(words))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: called.append(words))
    train.run(TINY, tiny_spec(tmp_path / "run", train__tensorboard=True))
    assert called == []
    assert (tmp_path / "run/train/ty_model_latest.pth").exists()
