"""DeepStream BodyPose JSON to windows, against contract 2.5 and a slow, obvious version."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kineme.data.labels import read_labels
from kineme.errors import DataError
from kineme.pose_classification.convert import convert
from kineme.pose_classification.convert.reading import iter_json_list
from kineme.pose_classification.settings import DatasetConvert

Frame = dict[str, Any]
EMPTY = '{"num_frames_in_batch": 0, "batches": []}'


def run(folder: Path, frames: list[Frame] | str, **settings: Any) -> dict[str, Any]:
    """Convert frames, one per batch, or the text of a file; results in folder/out."""
    path = folder / "poses.json"
    text = frames
    if not isinstance(frames, str):
        text = json.dumps([{"num_frames_in_batch": 1, "batches": [frame]} for frame in frames])
    path.write_text(str(text))
    spec = SimpleNamespace(dataset_convert=DatasetConvert(data=str(path), **settings))
    return convert(spec, folder / "out")


def frame(number: int, *poses: list[float], key: str = "pose3d", source: int = 0) -> Frame:
    """Objects 0, 1, ... with these poses."""
    objects = [{"object_id": i, key: pose} for i, pose in enumerate(poses)]
    return {"frame_num": number, "source_id": source, "objects": objects}


def pose(value: float, num_joints: int = 34, confidence: float = 1.0) -> list[float]:
    """Joint j at (value + j, 2 value, 3), all seen."""
    return [n for j in range(num_joints) for n in (value + j, 2 * value, 3.0, confidence)]


def test_120_frames_give_windows_at_0_50_and_100(tmp_path: Path) -> None:
    result = run(tmp_path, [frame(t, pose(t + 1.0)) for t in range(120)])
    data = np.load(tmp_path / "out" / "object_0.npy")
    assert data.shape == (3, 3, 300, 34, 1)
    assert data.dtype == np.float32
    lengths = [np.flatnonzero(window.any(axis=(0, 2, 3))).max() + 1 for window in data]
    assert lengths == [100, 70, 20]
    assert result["kpi"] == {"Number of objects": 1}
    assert result["files"] == ["object_0.npy", "dataset.json"]
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("pose_type", "key", "expected"),
    [
        ("3dbp", "pose3d", [(300.0 - 60.0) / 1200, (150.0 - 30.0) / 1200, (7.0 - 5.0) / 1200]),
        ("25dbp", "pose25d", [300.0 / 1920 - 0.5, 150.0 / 1080 - 0.5, 7.0]),
        ("2dbp", "pose25d", [300.0 / 1920 - 0.5, 150.0 / 1080 - 0.5]),
    ],
)
def test_pose_types_are_scaled_as_the_contract_says(
    tmp_path: Path, pose_type: str, key: str, expected: list[float]
) -> None:
    values = [60.0, 30.0, 5.0, 0.9, 300.0, 150.0, 7.0, 0.5, 9.0, 9.0, 9.0, 0.0]
    frames = [frame(t, values, key=key) for t in range(10)]
    run(tmp_path, frames, pose_type=pose_type, num_joints=3)
    data = np.load(tmp_path / "out" / "object_0.npy")
    assert data.shape == (1, len(expected), 300, 3, 1)
    np.testing.assert_allclose(data[0, :, 4, 1, 0], expected, rtol=1e-6)
    assert not data[0, :, :, 2].any()


def test_short_gaps_are_missing_frames_and_long_ones_split(tmp_path: Path) -> None:
    numbers = [*range(10), *range(12, 22), *range(40, 50)]
    frames = [frame(t, pose(t + 1.0)) for t in numbers]
    result = run(tmp_path, frames, max_gap_frames=2)
    data = np.load(tmp_path / "out" / "object_0.npy")
    seen = data.any(axis=(1, 3, 4))
    assert seen.shape[0] == 2
    assert np.flatnonzero(seen[0]).tolist() == [*range(10), *range(12, 22)]
    assert np.flatnonzero(seen[1]).tolist() == list(range(10))
    assert result["warnings"] == [
        "1 gaps longer than 2 frames, track split; first: object_0",
        "2 frames missing from a track, filled as missing; first: object_0",
    ]


def test_a_frame_number_that_goes_back_splits_and_one_twice_is_counted(tmp_path: Path) -> None:
    frames = [frame(t, pose(t + 1.0)) for t in [*range(20), 19, *range(5, 17)]]
    result = run(tmp_path, frames)
    assert np.load(tmp_path / "out" / "object_0.npy").shape[0] == 2
    assert result["warnings"] == [
        "1 poses of an object seen twice in a frame, the first kept; first: object 0, frame 19",
        "1 times that frame_num goes back, track split; first: object_0",
    ]


def test_sources_are_kept_apart_and_named_only_when_there_are_several(tmp_path: Path) -> None:
    frames = [frame(t, pose(t + 1.0 + 100 * s), source=s) for t in range(12) for s in (3, 4)]
    result = run(tmp_path, frames, pose_type="3dbp")
    assert result["files"] == ["object_3_0.npy", "object_4_0.npy", "dataset.json"]
    assert result["kpi"] == {"Number of objects": 2}
    assert result["warnings"] == []


def test_without_frame_numbers_frames_follow_each_other(tmp_path: Path) -> None:
    frames = [frame(t, pose(t + 1.0)) for t in range(30)]
    for one in frames:
        del one["frame_num"], one["source_id"]
    assert run(tmp_path, frames)["warnings"] == []
    assert np.load(tmp_path / "out" / "object_0.npy").shape[0] == 1


def test_a_frame_without_its_root_is_missing_whole(tmp_path: Path) -> None:
    frames = [frame(t, pose(1.0)) for t in range(12)]
    frames[5]["objects"][0]["pose3d"][3] = 0.0
    result = run(tmp_path, frames)
    data = np.load(tmp_path / "out" / "object_0.npy")
    assert np.flatnonzero(~data[0].any(axis=(0, 2, 3)))[0] == 5
    assert result["warnings"] == ["1 frames without a pelvis, made missing; first: object_0"]


def test_numbers_that_are_not_finite_are_missing_and_counted(tmp_path: Path) -> None:
    frames = [frame(t, pose(1.0)) for t in range(12)]
    frames[5]["objects"][0]["pose3d"][9] = float("nan")
    frames[6]["objects"][0]["pose3d"][13] = float("inf")
    result = run(tmp_path, frames)
    data = np.load(tmp_path / "out" / "object_0.npy")
    assert np.isfinite(data).all()
    assert not data[0, :, 5, 2].any()
    assert data[0, :, 5, 3].any()
    assert result["warnings"] == ["2 joints with numbers that are not finite; first: object_0"]


def test_short_tracks_are_left_out_and_counted(tmp_path: Path) -> None:
    frames = [frame(t, *([pose(1.0)] * (2 if t < 9 else 1))) for t in range(10)]
    result = run(tmp_path, frames)
    assert result["files"] == ["object_0.npy", "dataset.json"]
    assert result["warnings"] == ["1 tracks shorter than 10 frames, left out; first: object_1"]


def test_merged_and_labelled_windows_become_one_data_set(tmp_path: Path) -> None:
    frames = [frame(t, pose(1.0), pose(2.0)) for t in range(20)]
    (tmp_path / "labels.csv").write_text(
        "object_id,label,start_frame,end_frame\n0,walk,0,11\n0,sit,12,19\n1,walk,15,\n"
    )
    result = run(
        tmp_path,
        frames,
        merge=True,
        labels=str(tmp_path / "labels.csv"),
        sequence_length=10,
        sequence_overlap=1.0,
        sequence_length_max=10,
    )
    assert result["files"] == ["data.npy", "label.json", "dataset.json"]
    assert np.load(tmp_path / "out" / "data.npy").shape == (3, 3, 10, 34, 1)
    labels = read_labels(tmp_path / "out" / "label.json")
    assert labels.ids == ("object_0/0", "object_0/10", "object_1/10")
    assert labels.class_names == ("sit", "walk")
    assert labels.labels.tolist() == [1, 0, 1]
    assert labels.layout == "nvidia"
    assert result["warnings"] == ["1 windows without a label, left out; first: object_1/0"]


def test_labels_may_be_json_and_name_a_source(tmp_path: Path) -> None:
    rows = [{"object_id": 0, "source_id": 1, "label": "b"}, {"object_id": 0, "label": "a"}]
    (tmp_path / "labels.json").write_text(json.dumps(rows))
    frames = [frame(t, pose(1.0), source=s) for t in range(10) for s in (0, 1)]
    run(tmp_path, frames, merge=True, labels=str(tmp_path / "labels.json"))
    labels = read_labels(tmp_path / "out" / "label.json")
    assert (labels.ids, labels.labels.tolist()) == (("object_0_0/0", "object_1_0/0"), [0, 1])


def test_labels_of_nobody_are_counted(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("object_id,source_id,label\n0,,walk\n7,,sit\n0,4,sit\n")
    result = run(
        tmp_path, [frame(t, pose(1.0)) for t in range(10)], labels=str(tmp_path / "labels.csv")
    )
    assert result["warnings"] == ["2 labels of objects that are not there; first: object 7"]


def test_labels_that_contradict_are_told_together(tmp_path: Path) -> None:
    rows = "0,walk,0,11\n0,sit,11,19\n1,walk,9,5\n"
    (tmp_path / "labels.csv").write_text(f"object_id,label,start_frame,end_frame\n{rows}")
    with pytest.raises(DataError) as caught:
        run(tmp_path, [frame(t, pose(1.0)) for t in range(10)], labels=str(tmp_path / "labels.csv"))
    first, second = str(caught.value).splitlines()
    assert "csv:4: expected end_frame 9 or later, as start_frame is 9, got 5" in first
    assert "object 0: expected one label in a frame, got 'walk' and 'sit' in frame 11" in second


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("objects", 0, "pose3d"), None, "pose3d: expected numbers of shape any, got something"),
        (("objects", 0, "object_id"), "x", "object_id: expected a whole number, got 'x'"),
        (("objects", 0), 7, "object 0: expected an object with 'object_id', got a number"),
        (("objects",), {}, "objects: expected a list, got an object"),
        (("frame_num",), 1.5, "frame_num: expected a whole number, got 1.5"),
        (
            ("objects", 0, "pose3d"),
            pose(1.0, 18),
            "for each of 34 joints (num_joints), got 72 num"
            "bers, 18 joints. Set dataset_convert.num_joints: 18.",
        ),
    ],
)
def test_faults_name_batch_frame_object_and_key(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    frames = [frame(t, pose(1.0)) for t in range(12)]
    target: Any = frames[3]
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(DataError) as caught:
        run(tmp_path, frames)
    assert message in str(caught.value)
    assert f"{tmp_path / 'poses.json'}: batch 3, frame 0" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_pose_that_was_not_published_names_the_app_flag(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, [frame(0, pose(1.0), key="pose25d")])
    assert str(caught.value).endswith(
        "batch 0, frame 0, object 0: expected the key 'pose3d', got 'object_id', 'pose25d'. "
        "Let the app publish it: --publish-pose pose3d."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "expected a JSON list, got a file that starts with '{}'"),
        ("", "expected a JSON list, got a file that starts with ''"),
        ("[{]", "byte 2: expected JSON"),
        (f"[{EMPTY} {EMPTY}]", "byte 43: expected a comma or the end of the list, got '{"),
        (f"[{EMPTY}", "expected a comma or the end of the list, got the end"),
        (f"[{EMPTY}] []", "expected nothing after the list, got '[]'"),
        (f"[{EMPTY},]", "expected JSON, got Expecting value at ']'"),
        ('[{"batches": []}]', "batch 0: expected the key 'num_frames_in_batch', got 'batches'"),
        ('[{"num_frames_in_batch": 2, "batches": []}]', "expected 2 frames, as num_frames_in_b"),
        ("[]", "dataset_convert.data: expected DeepStream BodyPose sequences, got none found."),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        run(tmp_path, text)
    assert message in str(caught.value)


def test_a_list_longer_than_a_chunk_is_read_element_by_element(tmp_path: Path) -> None:
    values = [{"i": i, "text": "é" * (i % 7), "list": list(range(i % 50))} for i in range(12_000)]
    path = tmp_path / "list.json"
    path.write_text("\ufeff \n" + json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    assert path.stat().st_size > 2 * 2**20
    assert list(iter_json_list(path)) == values
    numbers = list(range(400_000))
    path.write_text(json.dumps(numbers))
    assert list(iter_json_list(path)) == numbers


def slow_windows(frames: list[Frame], s: Any) -> dict[str, list[list[Any]]]:
    """Contract 2.5 read aloud: {file: windows of (t, joint) -> values}, nothing vectorised."""
    tracks: dict[tuple[int, int], list[tuple[int, list[float]]]] = {}
    for one in frames:
        for person in one["objects"]:
            track = tracks.setdefault((one["source_id"], person["object_id"]), [])
            if not track or track[-1][0] != one["frame_num"]:
                key = "pose3d" if s.pose_type == "3dbp" else "pose25d"
                track.append((one["frame_num"], person[key]))
    has_sources = len({source for source, _ in tracks}) > 1
    files: dict[str, list[list[Any]]] = {}
    for (source, number), track in tracks.items():
        parts: list[list[Any]] = []
        last = None
        for t, values in track:
            if last is None or t < last or t - last - 1 > s.max_gap_frames:
                parts.append([])
            else:
                parts[-1].extend([None] * (t - last - 1))
            parts[-1].append(slow_frame(values, s))
            last = t
        windows = []
        for part in parts:
            start = 0
            while len(part) - start >= s.sequence_length_min:
                windows.append(part[start : start + s.sequence_length])
                start += int(s.sequence_length * s.sequence_overlap)
        windows = [w for w in windows if any(j for f in w if f for j in f.values())]
        if windows:
            files[f"object_{source}_{number}" if has_sources else f"object_{number}"] = windows
    return files


def slow_frame(values: list[float], s: Any) -> dict[int, list[float]]:
    joints = {}
    is_seen = [
        all(map(math.isfinite, values[4 * j : 4 * j + 4])) and values[4 * j + 3] != 0
        for j in range(s.num_joints)
    ]
    for j in range(s.num_joints):
        x, y, z, _ = values[4 * j : 4 * j + 4]
        if is_seen[j] and s.pose_type == "3dbp" and is_seen[0]:
            joints[j] = [(p - r) / s.focal_length for p, r in zip((x, y, z), values, strict=False)]
        elif is_seen[j] and s.pose_type != "3dbp":
            joints[j] = [x / s.input_width - 0.5, y / s.input_height - 0.5, z]
            joints[j] = joints[j][: 2 if s.pose_type == "2dbp" else 3]
    return {j: v for j, v in joints.items() if any(v)}


@hypothesis_settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), pose_type=st.sampled_from(["3dbp", "25dbp", "2dbp"]))
def test_vectorised_equals_the_obvious_loop(
    tmp_path_factory: pytest.TempPathFactory, seed: int, pose_type: str
) -> None:
    draw = np.random.default_rng(seed)
    settings = {
        "pose_type": pose_type,
        "num_joints": 3,
        "sequence_length": int(draw.integers(2, 9)),
        "sequence_overlap": float(draw.choice([0.5, 0.75, 1.0])),
        "sequence_length_min": int(draw.integers(1, 3)),
        "sequence_length_max": int(draw.integers(9, 12)),
        "max_gap_frames": int(draw.integers(0, 3)),
    }
    key = "pose3d" if pose_type == "3dbp" else "pose25d"
    clock = {0: 0, 1: 0}
    frames = []
    for _ in range(int(draw.integers(1, 40))):
        source = int(draw.integers(0, 2)) if seed % 2 else 0
        clock[source] += int(draw.choice([0, 1, 1, 1, 1, 2, 3, 5, -2]))
        objects = []
        for number in draw.permutation(3)[: draw.integers(0, 4)]:
            values = draw.normal(0, 500, 12).round(1)
            values[3::4] = draw.choice([0.0, 0.4, 1.0], 3)
            if draw.random() < 0.1:
                values[draw.integers(12)] = draw.choice([np.nan, np.inf])
            objects.append({"object_id": int(number), key: values.tolist()})
        frames.append({"frame_num": clock[source], "source_id": source, "objects": objects})
    folder = tmp_path_factory.mktemp("poses")
    expected = slow_windows(frames, DatasetConvert(**settings))
    if not expected:
        with pytest.raises(DataError):
            run(folder, frames, **settings)
        return
    run(folder, frames, **settings)
    written = {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}
    assert written.keys() == expected.keys()
    for name, windows in expected.items():
        array = np.zeros_like(written[name])
        assert len(array) == len(windows)
        for n, window in enumerate(windows):
            for t, joints in enumerate(window):
                for joint, values in (joints or {}).items():
                    array[n, :, t, joint, 0] = values
        np.testing.assert_allclose(written[name], array, rtol=1e-5, atol=1e-6)
