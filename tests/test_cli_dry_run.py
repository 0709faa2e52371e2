"""`--dry-run` (row S16): what would be met is told, nothing is written, errors are the action's."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from kineme import cli

LABELS = "dataset.label_map={left:0,right:1}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a checkpoint of one epoch."""
    root = tmp_path_factory.mktemp("dry")
    data = np.random.default_rng(0).normal(size=(8, 3, 6, 34, 1)).astype(np.float32)
    for split in ("train", "val"):
        np.save(root / f"{split}_data.npy", data + (split == "val"))
        labels = {f"s{i}": "left" if i % 2 else "right" for i in range(8)}
        (root / f"{split}_label.json").write_text(json.dumps(labels))
    words = [*_train_words(root), "train.num_epochs=1", "train.tensorboard=false"]
    assert cli.main(words) == 0
    return root


def _train_words(root, results_dir="out"):
    return ["pose_classification", "train", f"results_dir={root / results_dir}", "device=cpu",
            f"dataset.train_dataset.data_path={root}", f"dataset.val_dataset.data_path={root}",
            "dataset.batch_size=4", "dataset.num_workers=0", LABELS]  # fmt: skip


def _words(root, action):
    checkpoint = root / "out" / "train" / "pc_model_latest.pth"
    data = [f"{action}.test_dataset.data_path={root}"] if action != "export" else []
    return ["pose_classification", action, f"results_dir={root / 'out'}", "device=cpu",
            f"{action}.checkpoint={checkpoint}", *data]  # fmt: skip


def _dry_run(root, words, capsys):
    """(exit code, stdout, stderr); nothing may have changed below `root`."""
    before = _state(root)
    code = cli.main([*words, "--dry-run"])
    assert _state(root) == before
    return code, *capsys.readouterr()


def _state(root):
    return {path: path.lstat().st_mtime_ns for path in [root, *root.rglob("*")]}


def test_training_is_checked_up_to_one_batch_of_each_split(trained, capsys):
    code, out, err = _dry_run(trained, _train_words(trained, "new"), capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].startswith(f"results: {trained}/new/train can be written, ")
    assert [lines[0], *lines[2:]] == [
        "spec: valid for pose_classification train",
        "device: 1 x cpu",
        "checkpoint: start anew",
        "train data: 8 samples",
        "epoch: 2 steps of 4 samples",
        "one batch: logits (4, 2), all finite",
        "val data: 8 samples",
        "one batch: logits (4, 2), all finite",
        "Execution status: PASS",
    ]


@pytest.mark.parametrize(("action", "rows"), [("evaluate", 8), ("inference", 8), ("export", 2)])
def test_a_checkpoint_is_loaded_and_asked(trained, capsys, action, rows):
    code, out, _ = _dry_run(trained, _words(trained, action), capsys)
    assert code == 0
    assert "pc_model_latest.pth fits" in out
    assert f"one batch: logits ({rows}, 2), all finite" in out


def test_an_export_in_fewer_bits_looks_at_its_data(trained, capsys):
    words = [*_words(trained, "export"), "export.precision=int8"]
    code, out, err = _dry_run(trained, words, capsys)
    assert code == 0
    assert "data to calibrate on: 8 samples\ndata to judge the file by: 8 samples\none batch" in out
    assert "note: dataset.val_dataset.data_path is " in err


def test_what_an_evaluation_looks_at_beside_its_data_is_tried(trained, capsys):
    words = _words(trained, "evaluate")
    other = trained / "out" / "train" / "best.pth"
    more = [f"evaluate.baseline={other}", f"evaluate.unknown_dataset.data_path={trained}"]
    code, out, _ = _dry_run(trained, [*words, *more], capsys)
    assert code == 0
    assert "unknown data: 8 samples\none batch" in out
    assert f"baseline: {other} fits\none batch" in out
    for wrong, code in [("evaluate.baseline", 4), ("evaluate.unknown_dataset.data_path", 3)]:
        assert _dry_run(trained, [*words, f"{wrong}=/nowhere"], capsys)[0] == code


def test_a_conversion_asks_for_its_source(trained, capsys):
    words = ["pose_classification", "dataset_convert", f"results_dir={trained}/new"]
    source = trained / "train_data.npy"
    assert _dry_run(trained, [*words, f"dataset_convert.data={source}"], capsys)[0] == 0
    code, _, err = _dry_run(trained, [*words, "dataset_convert.data=none.json"], capsys)
    assert code == 3
    assert err == "error: none.json: expected a file or folder to convert, got nothing there.\n"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["train.num_epochs=0"], 2, "train.num_epochs: expected an integer >= 1"),
        (["dataset.batch_size=9"], 2, "0 steps per epoch: 8 samples, batch_size 9"),
        (["model.graph_layout=coco"], 3, "expected 17 joints"),
        (["device=gpu", "train.gpu_ids=[99]"], 5, "expected GPUs 99"),
        (["results_dir=/dev/null/x"], 5, "expected a folder that can be written"),
        (["train.resume_training_checkpoint_path=none.pth"], 4, "expected a checkpoint"),
        (["train.class_weights=[1,2,3]", LABELS], 2, "2 weights, one per class"),
        (["results_dir=/proc/none"], 5, "expected a disk with space, got 0 bytes free"),
        (["model.pretrained_model_path=none.pth"], 4, "none.pth: expected a checkpoint"),
    ],
)
def test_errors_and_exit_codes_are_those_of_the_action(trained, capsys, more, code, words):
    got, out, err = _dry_run(trained, [*_train_words(trained, "new"), *more], capsys)
    assert got == code
    assert words in err
    assert out.endswith("Execution status: FAIL\n")


def test_a_folder_with_results_is_refused_as_by_training(trained, capsys):
    code, _, err = _dry_run(trained, _train_words(trained), capsys)
    assert code == 2
    assert "Set train.resume=true to continue it" in err


def test_the_state_of_a_run_to_continue_is_tried(trained, capsys):
    words = [*_train_words(trained), "train.resume=true", "train.num_epochs=3"]
    code, out, err = _dry_run(trained, words, capsys)
    assert (code, err) == (0, "")
    assert "checkpoint: continue " in out
    assert "state: fits, 1 of 3 epochs are done" in out
    for more, expected in [
        (
            "train.optim.optimizer_type=torch.optim.Adam",
            "expected the state of this optimizer, got another",
        ),
        ("train.ema_decay=0.9", "expected averaged weights, got a run without them"),
    ]:
        code, _, err = _dry_run(trained, [*words, more], capsys)
        assert code == 4
        assert expected in err


def test_a_disk_without_room_for_checkpoints_is_told_as_training_tells_it(
    trained, capsys, monkeypatch
):
    usage = shutil.disk_usage(trained)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, _, err = _dry_run(trained, _train_words(trained, "new"), capsys)
    assert code == 0
    assert re.fullmatch(
        rf"note: {trained}: 1,000 bytes free, and one checkpoint needs [\d,]+\. "
        r"Training stops when the disk is full\.\n",
        err,
    )


def test_a_calibration_that_is_none_fails_an_export_before_it_begins(trained, tmp_path, capsys):
    content = torch.load(trained / "out/train/pc_model_latest.pth", weights_only=True)
    content["kineme"]["calibration"] = {"temperature": 1.0}
    torch.save(content, tmp_path / "odd.pth")
    words = _words(trained, "export")
    words[4] = f"export.checkpoint={tmp_path / 'odd.pth'}"
    code, _, err = _dry_run(trained, words, capsys)
    assert code == 4
    assert "odd.pth: expected a calibration with a temperature of" in err


def test_data_unlike_the_checkpoints_are_told_as_the_action_tells_it(trained, tmp_path, capsys):
    content = torch.load(trained / "out/train/pc_model_latest.pth", weights_only=True)
    content["kineme"]["training_data"]["min_frames"] = 3  # zeros fill up to the 6 of the others
    torch.save(content, tmp_path / "padded.pth")
    data = np.random.default_rng(1).normal(size=(8, 3, 30, 34, 1)).astype(np.float32)
    np.save(tmp_path / "test_data.npy", data)
    words = [*_words(trained, "inference")[:2], f"results_dir={tmp_path / 'out'}", "device=cpu",
             f"inference.checkpoint={tmp_path / 'padded.pth'}",
             f"inference.test_dataset.data_path={tmp_path}"]  # fmt: skip
    dry = _dry_run(tmp_path, words, capsys)[2]
    assert cli.main(words) == 0
    notes = [x for x in capsys.readouterr().err.splitlines() if x.startswith("note: ")]
    assert notes == dry.splitlines()
    assert any("zeros fill up to 6 frames, and these have 30" in note for note in notes)


def test_weights_to_start_from_are_tried(trained, capsys):
    weights = trained / "out" / "train" / "pc_model_latest.pth"
    more = f"model.pretrained_model_path={weights}"
    code, out, _ = _dry_run(trained, [*_train_words(trained, "new"), more], capsys)
    assert code == 0
    assert f"weights: {weights}: " in out
    assert "tensors loaded" in out


def test_problems_of_all_splits_are_told_together(trained, tmp_path, capsys):
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}_data.npy", np.zeros((8, 3, 6, 5, 1), np.float32))
        (tmp_path / f"{split}_label.json").write_bytes(
            (trained / f"{split}_label.json").read_bytes()
        )
    words = [word.replace(f"data_path={trained}", f"data_path={tmp_path}")
             for word in _train_words(trained, "new")]  # fmt: skip
    code, _, err = _dry_run(trained, words, capsys)
    assert code == 3
    assert [f"{split}_data.npy: expected 34 joints" in err for split in ("train", "val")] == [
        True, True,
    ]  # fmt: skip


def test_notes_of_the_data_and_of_the_run_are_on_stderr(trained, capsys):
    words = [word for word in _train_words(trained, "new")
             if not word.startswith("dataset.val_dataset")]  # fmt: skip
    more = ["dataset.batch_size=3", "train.early_stopping_patience=2"]
    code, out, err = _dry_run(trained, [*words, *more], capsys)
    assert code == 0
    assert "note" not in out
    assert err.splitlines() == [
        "note: No validation data: no best.pth, and lr_monitor val_loss has no effect.",
        "note: train.early_stopping_patience has no effect: there is no validation data.",
        "note: 2 of 8 samples are left out of each epoch, others each time.",
    ]


def test_weights_of_classes_are_counted_against_the_classes_of_the_data(trained, tmp_path, capsys):
    data = np.load(trained / "train_data.npy")
    np.save(tmp_path / "train_data.npy", data)
    (tmp_path / "train_label.json").write_text(json.dumps({f"s{i}": i % 2 for i in range(8)}))
    words = ["pose_classification", "train", f"results_dir={tmp_path / 'out'}", "device=cpu",
             f"dataset.train_dataset.data_path={tmp_path}", "dataset.num_classes=2",
             "train.class_weights=[1,2,3]", "dataset.batch_size=4"]  # fmt: skip
    code, _, err = _dry_run(tmp_path, words, capsys)
    assert code == 2
    assert "train.class_weights: expected 2 weights, one for each class, got 3." in err


def test_a_folder_that_another_run_uses_is_refused(trained, capsys):
    folder = trained / "used" / "train"
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / ".lease.json")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        holder.stdout.readline()
        code, _, err = _dry_run(trained, _train_words(trained, "used"), capsys)
        holder.stdin.close()
    assert code == 2
    assert f"got one in use by pid {holder.pid} on " in err
    assert _dry_run(trained, _train_words(trained, "used"), capsys)[0] == 0


HOLD = """
import sys
from pathlib import Path
from kineme.engine import lease
with lease.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("is_dry", [True, False])
def test_an_empty_folder_and_a_file_that_is_not_there_are_told_together(tmp_path, capsys, is_dry):
    (tmp_path / "empty").mkdir()
    words = ["pose_classification", "train", f"results_dir={tmp_path / 'out'}", "device=cpu",
             f"dataset.train_dataset.data_path={tmp_path / 'empty'}",
             f"dataset.val_dataset.data_path={tmp_path / 'none.npy'}"]  # fmt: skip
    assert cli.main([*words, *["--dry-run"] * is_dry]) == 3
    err = capsys.readouterr().err
    assert "empty: expected one of train_data.npy" in err
    assert "none.npy: " in err
    assert err.count("error: ") == 2


def test_a_results_folder_that_cannot_be_is_exit_code_5(trained, capsys):
    assert cli.main(_train_words(trained, "/proc/none")) == 5
    assert "expected a path that can be written, got No such file" in capsys.readouterr().err


def test_a_folder_without_classes_is_the_datas_error_and_no_bug(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    words = ["action_recognition", "train", f"results_dir={tmp_path}/out", "device=cpu",
             f"dataset.train_dataset_dir={tmp_path}/data"]  # fmt: skip
    assert _dry_run(tmp_path, words, capsys)[0] == 3
