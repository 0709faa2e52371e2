"""`--dry-run` (row S16): what would be met is told, nothing is written, errors are the action's."""

import json

import numpy as np
import pytest

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


def test_a_disk_without_room_for_a_checkpoint_is_told(trained, capsys, monkeypatch):
    from kineme.actions import dry_run

    monkeypatch.setattr(dry_run, "_free_bytes", lambda folder: 1000)
    code, _, err = _dry_run(trained, _train_words(trained, "new"), capsys)
    assert code == 5
    assert "bytes for a checkpoint, got 1,000 bytes free" in err
