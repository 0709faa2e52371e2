"""NTU RGB+D: bodies, protocols, and faults named by line, from tiny files made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from format_files import message_of, run, write
from kineme.data.labels import read_labels
from kineme.pose_classification.convert.ntu import CLASSES, TRAINING_SUBJECTS


def ntu_file(frames: list[list[tuple[str, float]]], state: int = 2) -> str:
    """A .skeleton: in each frame (body number, x); joint j at (x, j, 1)."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for number, x in bodies:
            lines += [f"{number} 0 1 1 1 1 0 0.02 -0.2 2", "25"]
            lines += [f"{x} {j} 1.0 1 2 3 4 0 0 0 0 {state}" for j in range(25)]
    return "\n".join(lines) + "\n"


NAMES = ("S001C001P001R001A001", "S001C002P003R001A060", "S002C003P008R002A002")


def test_ntu_keeps_the_two_bodies_that_move_most(tmp_path: Path) -> None:
    big = 72057594037931101  # next to its neighbours in float64
    bodies = [[(str(big), 1.0), (str(big + 1), 2.0), (str(big + 2), 5.0)] for _ in range(3)]
    bodies[1] = [(str(big), 1.5), (str(big + 2), 9.0)]
    write(tmp_path / "in" / f"{NAMES[0]}.skeleton", ntu_file(bodies))
    result = run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    data = np.load(tmp_path / "out" / "data.npy")
    assert data.shape == (1, 3, 3, 25, 2)
    assert data[0, 0, :, 7, 0].tolist() == [5.0, 9.0, 5.0]
    assert data[0, 0, :, 7, 1].tolist() == [1.0, 1.5, 1.0]
    assert data[0, 1, 0, :, 1].tolist() == list(range(25))
    assert result["warnings"] == [f"1 persons beyond the 2 that move most; first: {NAMES[0]}"]


@pytest.mark.parametrize(
    ("protocol", "val"),
    [
        ("cross_subject", [NAMES[1]]),
        ("cross_view", [NAMES[0]]),
        ("cross_setup", [NAMES[0], NAMES[1]]),
    ],
)
def test_ntu_protocols(tmp_path: Path, protocol: str, val: list[str]) -> None:
    for name in NAMES:
        write(tmp_path / "in" / f"{name}.skeleton", ntu_file([[("1", 1.0)], []]))
    run(tmp_path / "in", tmp_path / "out", format="ntu", protocol=protocol)
    labels = read_labels(tmp_path / "out" / "val_label.json")
    assert list(labels.ids) == val
    assert labels.labels.tolist() == [int(name[-3:]) - 1 for name in val]
    assert labels.class_names == CLASSES[:60]
    assert labels.layout == "ntu-rgb+d"
    data = np.load(tmp_path / "out" / "val_data.npy")
    assert data.shape == (len(val), 3, 2, 25, 2)
    assert not data[:, :, 1].any()
    assert not data[..., 1].any()


def test_the_lists_of_ntu_are_whole() -> None:
    assert len(set(CLASSES)) == 120
    assert len(TRAINING_SUBJECTS) == 53
    assert sum(subject <= 40 for subject in TRAINING_SUBJECTS) == 20
    assert (CLASSES[0], CLASSES[59], CLASSES[119]) == (
        "drink water",
        "walk apart",
        "rock paper scissors",
    )


def test_ntu_samples_without_skeletons_are_left_out_by_name(tmp_path: Path) -> None:
    for name in NAMES:
        frames = [[], []] if name == NAMES[1] else [[("1", 1.0)]]
        write(tmp_path / "in" / f"{name}.skeleton", ntu_file(frames))
    listed = "Samples with missing skeletons:\n" + NAMES[2] + "\n"
    write(tmp_path / "in" / "NTU_RGBD_samples_with_missing_skeletons.txt", listed)
    result = run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    assert result["kpi"] == {"Number of samples in data": 1}
    assert result["warnings"] == [
        f"1 samples on the list of missing skeletons, left out; first: {NAMES[2]}",
        f"1 samples with nobody in any frame, left out; first: {NAMES[1]}",
    ]


def test_joints_that_ntu_did_not_track_are_missing(tmp_path: Path) -> None:
    text = ntu_file([[("1", 1.0)]]).replace("1.0 5 1.0 1 2 3 4 0 0 0 0 2", "1.0 5 1.0 " + "0 " * 9)
    write(tmp_path / "in" / f"{NAMES[0]}.skeleton", text)
    run(tmp_path / "in", tmp_path / "out", format="ntu", protocol="none")
    data = np.load(tmp_path / "out" / "data.npy")
    assert data[0, :, 0, 5, 0].tolist() == [0, 0, 0]
    assert data[0, :, 0, 6, 0].tolist() == [1, 6, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "two\n" + text[2:], ":1: expected the number of frames, got 'two'"),
        (lambda text: text.replace("\n25\n", "\n20\n", 1), ":4: expected 25 joints, got '20'"),
        (lambda text: text[: len(text) // 2], ":18: expected 12 numbers of a joint"),
        (lambda text: text.replace("1.0 7 1.0", "1.0 x 1.0"), ":12: expected 12 numbers of a j"),
        (lambda text: text.replace("1.0 7 1.0", "1.0 7"), ":12: expected 12 numbers of a joint"),
        (lambda text: text.replace(" 0.02 -0.2 2", ""), ":3: expected a body: its number and 9"),
        (
            lambda text: text + "\n0\n",
            ":31: expected the end after 1 frames, as line 1",
        ),
        (
            lambda text: text.replace("\n1\n", "\n2\n", 1) + "\n".join(text.splitlines()[2:]),
            "expected each body once in a frame",
        ),
        (lambda text: "2" + text[1:], ":30: expected the number of bodies, got the end of the f"),
    ],
)
def test_faults_of_ntu_files_name_the_line(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "in" / f"{NAMES[0]}.skeleton", change(ntu_file([[("1", 1.0)]])))
    received = message_of(tmp_path / "in", tmp_path / "out", format="ntu")
    assert received.startswith(str(path))
    assert message in received


def test_a_name_that_says_no_action_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "S001C001P001R001A121.skeleton", ntu_file([[("1", 1.0)]]))
    assert "expected SsssCcccPpppRrrrAaaa.skeleton, A001 to A120" in message_of(
        tmp_path / "in", tmp_path / "out", format="ntu"
    )


def test_bad_files_are_told_together(tmp_path: Path) -> None:
    for name, text in zip(NAMES, ("x", ntu_file([[("1", 1.0)]]), "y"), strict=True):
        write(tmp_path / "in" / f"{name}.skeleton", text)
    received = message_of(tmp_path / "in", tmp_path / "out", format="ntu").splitlines()
    assert [Path(line.split(":")[0]).stem for line in received] == [NAMES[0], NAMES[2]]
