"""The streams of the command: closed, full, narrow or unread, none of them ends a run."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from kineme import cli, console
from kineme.actions import ACTIONS


def test_a_reader_that_stops_reading_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = _kineme(["spec", "pose_classification", "train"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_locale_without_utf_8_is_no_error():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    words = ["pose_classification", "train", "caf\u00e9=\u2603"]
    done = _kineme(words, env=environment, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert b"caf\\xe9" in done.stderr
    assert b"Traceback" not in done.stderr


def _kineme(words, **options):
    code = f"from kineme.cli import main; raise SystemExit(main({words!a}))"
    return subprocess.run([sys.executable, "-c", code], **options)


def test_a_closed_stdout_is_no_error_and_secrets_stay_out_of_stderr(tmp_path):
    words = f"{sys.executable} -m kineme pose_classification train encryption_key=hunter2secret"
    script = f"cd {tmp_path} && {words} nokey=hunter2secret >&-"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "nokey" in done.stderr
    assert "hunter2secret" not in done.stderr


def _shell(script, folder):
    script = f"cd {folder} && {sys.executable} -m kineme {script}"
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)


FULL = (
    "error: stdout: expected room for what is printed, got No space left on device. Everything "
    "else is done; what should have been printed is lost.\n"
)


@pytest.mark.parametrize("words", ["--help", "spec pose_classification train"])
def test_a_full_stdout_is_one_line_and_exit_code_5(tmp_path, words):
    done = _shell(f"{words} > /dev/full", tmp_path)
    assert (done.returncode, done.stderr) == (5, FULL)


def test_another_error_keeps_its_exit_code_on_a_full_stdout(tmp_path):
    done = _shell("pose_classification train > /dev/full", tmp_path)
    assert done.returncode == 2
    assert "room" not in done.stderr


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_with_a_closed_stderr_ends_as_with_an_open_one(action, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", None)  # what Python makes of a closed descriptor
    out = tmp_path / "out"
    assert cli.main(["pose_classification", action, f"results_dir={out}"]) == 2


@pytest.mark.parametrize("streams", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_training_with_closed_streams_does_its_work(tmp_path, streams):
    data = np.random.default_rng(0).normal(size=(8, 3, 6, 34, 1)).astype(np.float32)
    np.save(tmp_path / "train_data.npy", data)
    labels = {f"s{i}": "left" if i % 2 else "right" for i in range(8)}
    (tmp_path / "train_label.json").write_text(json.dumps(labels))
    words = (
        "pose_classification train results_dir=out device=cpu dataset.train_dataset.data_path=. "
        "dataset.label_map='{left: 0, right: 1}' dataset.batch_size=4 train.num_epochs=1 "
        f"train.tensorboard=false {streams}"
    )
    done = _shell(words, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "train" / "pc_model_latest.pth").is_file()


def test_tables_are_framed_in_ascii_where_the_stream_has_no_other_letters():
    table = "\u250f\u2501\u2533\u2513\\n\u2503 a\u2502\u2603"
    code = (
        "from kineme.console import Session, steady_streams\n"
        f"with steady_streams(Session()): print({table!a})"
    ).replace("\\\\n", "\\n")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode() == "+-++\n| a|\\u2603\n"


def test_a_table_stays_as_it_is_where_the_stream_can_show_it(capsys):
    with console.steady_streams(console.Session()):
        print("\u250f\u2501\u2513")
    assert capsys.readouterr().out == "\u250f\u2501\u2513\n"
