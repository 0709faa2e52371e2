"""`dataset_convert` as users run it: files, status, notes, exit codes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clips_made import make_video
from kineme.cli import main


def convert(folder: Path, *words: str) -> int:
    return main(
        ["pose_classification", "dataset_convert", f"results_dir={folder / 'results'}", *words]
    )


def poses(folder: Path) -> Path:
    """Two people in 12 frames, one of them for 9 frames only."""
    batches = [
        {
            "num_frames_in_batch": 1,
            "batches": [
                {
                    "frame_num": t,
                    "objects": [
                        {"object_id": number, "pose3d": [1.0 + j for j in range(136)]}
                        for number in range(2 if t < 9 else 1)
                    ],
                }
            ],
        }
        for t in range(12)
    ]
    path = folder / "poses.json"
    path.write_text(json.dumps(batches))
    return path


def test_a_run_leaves_data_and_says_how_it_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = poses(tmp_path)
    assert convert(tmp_path, f"dataset_convert.data={path}") == 0
    folder = tmp_path / "results" / "dataset_convert"
    assert {entry.name for entry in folder.iterdir()} == {
        "object_0.npy",
        "dataset.json",
        "experiment.yaml",
        "status.json",
        "log.txt",
    }
    lines = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["STARTED", *["RUNNING"] * 3, "SUCCESS"]
    assert lines[1]["kpi"] == {"Number of objects": 2}
    assert [line["message"] for line in lines[2:4]] == [
        "Saved object_0.npy.",
        "Saved dataset.json.",
    ]
    note = f"note: {path}: 1 tracks shorter than 10 frames, left out; first: object_1.\n"
    assert capsys.readouterr().err.count(note) == 1


def test_a_file_that_cannot_be_converted_is_exit_code_3_and_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "poses.json"
    path.write_text("[{}]")
    assert convert(tmp_path, f"dataset_convert.data={path}") == 3
    error = f"{path}: batch 0: expected the key 'batches', got no keys."
    assert error in capsys.readouterr().err
    status = (tmp_path / "results" / "dataset_convert" / "status.json").read_text()
    last = json.loads(status.splitlines()[-1])
    assert (last["status"], error in last["message"]) == ("FAILURE", True)


@pytest.mark.parametrize(
    "words",
    [
        ["dataset_convert.sequence_overlap=0.005"],
        ["dataset_convert.sequence_length=301"],
        ["dataset_convert.format=nw_ucla", "dataset_convert.protocol=fold1"],
        ["dataset_convert.format=bvh"],
    ],
)
def test_settings_that_cannot_work_are_exit_code_2(tmp_path: Path, words: list[str]) -> None:
    data = tmp_path if len(words) == 2 else poses(tmp_path)
    assert convert(tmp_path, f"dataset_convert.data={data}", *words) == 2
    assert not list(tmp_path.rglob("*.npy"))


def test_sigterm_is_143_and_a_failure_in_the_status(tmp_path: Path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    frames = json.dumps([[[1.0, 2.0, 3.0]] * 20] * 50)
    for take in range(2_000):
        text = f'{{"skeletons": {frames}, "label": 1}}'
        (data / f"a01_s01_e{take}_v01.json").write_text(text)
    code = "import sys; from kineme.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "pose_classification", "dataset_convert"]
    words = ["dataset_convert.format=nw_ucla", f"dataset_convert.data={data}"]
    process = subprocess.Popen(
        [*command, *words, f"results_dir={tmp_path / 'results'}"], stderr=subprocess.DEVNULL
    )
    folder = tmp_path / "results" / "dataset_convert"
    until = time.monotonic() + 30
    while not (folder / "status.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    last = json.loads((folder / "status.json").read_text().splitlines()[-1])
    assert last["status"] == "FAILURE"
    assert not list(folder.glob("*.npy"))


def test_one_bad_video_silences_nothing_of_what_became_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data" / "run"
    data.mkdir(parents=True)
    cut = make_video(data / "cut.mkv", 30)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    make_video(data / "good.mp4", 4)
    (data / "text.mp4").write_text("no video")
    words = [f"results_dir={tmp_path / 'out'}", f"dataset_convert.data={data.parent}"]
    words += ["dataset_convert.write=manifest", "dataset_convert.workers=1"]
    assert main(["action_recognition", "dataset_convert", *words]) == 8
    told = capsys.readouterr().err
    assert f"note: {data.parent}: 1 damaged videos, listed all the same; first: run/cut" in told
    assert f"{data / 'text.mp4'}: expected a video" in told
    folder = tmp_path / "out" / "dataset_convert"
    assert "expected all 3 videos to be converted, got 1 that failed. The others are done" in told
    lines = [json.loads(line) for line in (folder / "status.json").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["STARTED", *["RUNNING"] * 3, "FAILURE"]
    assert lines[1]["kpi"]["Number of videos"] == 2
    assert lines[2]["message"] == "Saved videos.csv."
