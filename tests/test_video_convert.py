"""Videos into TAO's folders or into lists: complete clips, every bad input named, splits kept."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from images_made import save_image
from kineme.action_recognition.convert import READERS, convert
from kineme.action_recognition.convert import frames as frame_writing
from kineme.action_recognition.listing import find_entries
from kineme.data.flow import encode_flow
from kineme.data.images import list_frames, read_flow_images, read_images
from kineme.data.video import read_frames, write_video
from kineme.errors import DataError
from moving import compute_flow

ASKED = {
    "format": "videos", "split": None, "split_dir": None, "streams": "rgb", "write": "frames",
    "image_format": "png", "image_quality": 95, "fps": None, "short_side": 0, "workers": 0,
}  # fmt: skip


def spec_of(data, **asked):
    """A resolved spec as far as a conversion reads it."""
    dataset = SimpleNamespace(flow_method="dis", flow_scaling="fixed", flow_bound=20.0)
    return SimpleNamespace(
        dataset_convert=SimpleNamespace(**{**ASKED, "data": str(data), **asked}),
        dataset=dataset,
        model=SimpleNamespace(streams=("rgb", "flow")),
    )


def pictures(num_frames, seed=0):
    """A gray ramp with noise that moves a pixel to the right a frame."""
    chance = np.random.default_rng(seed)
    noise = cv2.resize(chance.normal(size=(12, 40)), (160, 32), interpolation=cv2.INTER_CUBIC)
    wide = np.clip(128 + 60 * noise, 0, 255).astype(np.uint8)
    return [np.repeat(wide[:, 80 - t : 128 - t, None], 3, axis=2) for t in range(num_frames)]


def save_video(path, num_frames=4, seed=0, fps=25):
    write_video(path, iter(pictures(num_frames, seed)), fps)


@pytest.fixture
def data(tmp_path):
    """Two classes, three videos."""
    save_video(tmp_path / "data" / "run" / "r1.mp4", 5)
    save_video(tmp_path / "data" / "run" / "r 2.mkv", 4, seed=1)
    save_video(tmp_path / "data" / "sit" / "s1.mp4", 3, seed=2)
    return tmp_path / "data"


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def names(stem, ending, count):
    return [f"{stem}/{number:06d}.{ending}" for number in range(1, count + 1)]


def test_every_format_of_the_spec_has_a_reader():
    assert set(READERS) == {"videos", "hmdb", "jhmdb"}


def test_videos_become_taos_folders_of_frames_and_flow(data, tmp_path):
    out = tmp_path / "out"
    result = convert(spec_of(data, streams=None), out)
    assert tree(out) == sorted(
        [
            "dataset.json",
            *(
                f"{clip}/{name}"
                for clip, count in (("run/r1", 5), ("run/r 2", 4), ("sit/s1", 3))
                for name in (
                    "clip.json",
                    *names("rgb", "png", count),
                    *names("u", "jpg", count - 1),
                    *names("v", "jpg", count - 1),
                )
            ),
        ]
    )
    assert result == {
        "kpi": {"Number of videos": 3, "Number of frames": 12},
        "files": ["run", "sit", "dataset.json"],
        "warnings": [],
        "failed": [],
    }
    facts = json.loads((out / "dataset.json").read_text())
    assert facts["label_map"] == {"run": 0, "sit": 1}
    assert facts["splits"] == {
        "all": {"videos": 3, "frames": 12, "videos_per_class": {"run": 2, "sit": 1}}
    }


def test_frames_are_those_of_the_video_and_flow_k_is_from_frame_k_on(data, tmp_path):
    convert(spec_of(data, streams="both"), tmp_path / "out")
    clip = tmp_path / "out" / "run" / "r1"
    exact = read_frames(data / "run" / "r1.mp4", np.arange(5)).frames
    np.testing.assert_array_equal(read_images(list_frames(clip / "rgb").paths), exact)
    flow = read_flow_images(list_frames(clip / "u").paths, list_frames(clip / "v").paths)
    expected = encode_flow(compute_flow(exact), scaling="fixed").astype(int)
    assert np.abs(flow - expected).max() <= 3  # JPEG
    assert np.median(flow[..., 0]) - 127.5 == pytest.approx(127.5 / 20, abs=1)  # to the right
    said = json.loads((clip / "clip.json").read_text())
    assert (said["num_frames"], said["height"], said["width"], said["fps"]) == (5, 32, 48, 25.0)


def test_the_written_folder_is_read_as_a_data_set(data, tmp_path):
    convert(spec_of(data), tmp_path / "out")
    entries = find_entries(tmp_path / "out", "train")
    assert [(e.id, e.label) for e in entries] == [
        ("run/r1", "run"), ("run/r 2", "run"), ("sit/s1", "sit"),
    ]  # fmt: skip


def test_flow_alone_in_smaller_frames_with_taos_scaling(data, tmp_path):
    spec = spec_of(data, streams="flow", short_side=16)
    spec.dataset.flow_scaling = "per_frame"
    convert(spec, tmp_path / "out")
    clip = tmp_path / "out" / "sit" / "s1"
    assert tree(clip) == ["clip.json", *names("u", "jpg", 2), *names("v", "jpg", 2)]
    smaller = read_frames(data / "sit" / "s1.mp4", np.arange(3), short_side=16).frames
    expected = encode_flow(compute_flow(smaller), scaling="per_frame").astype(int)
    flow = read_flow_images(list_frames(clip / "u").paths, list_frames(clip / "v").paths)
    assert flow.shape == (2, 16, 24, 2)
    assert np.abs(flow - expected).mean() < 3


def test_jpeg_frames_and_a_lower_rate(tmp_path):
    save_video(tmp_path / "data" / "run" / "a.mp4", 10, fps=30)
    result = convert(spec_of(tmp_path / "data", image_format="jpg", fps=12.0), tmp_path / "out")
    # 10 frames at 30 are a third of a second: 4 frames at 12, shown at 0, 2.5, 5, 7.5 of 30.
    assert result["kpi"]["Number of frames"] == 4
    clip = tmp_path / "out" / "run" / "a" / "rgb"
    assert tree(clip) == [f"{number:06d}.jpg" for number in range(1, 5)]
    exact = read_frames(tmp_path / "data" / "run" / "a.mp4", np.array([0, 2, 5, 7])).frames
    assert np.abs(read_images(list_frames(clip).paths).astype(int) - exact).mean() < 2


def test_flow_is_added_to_folders_of_frames(tmp_path):
    for number, frame in enumerate(pictures(3), start=1):
        save_image(tmp_path / "data" / "run" / "tao" / "rgb" / f"{number}.png", frame)
        save_image(tmp_path / "data" / "run" / "plain" / f"{number}.png", frame)
    convert(spec_of(tmp_path / "data", streams="flow"), tmp_path / "out")
    for clip in ("tao", "plain"):
        assert tree(tmp_path / "out" / "run" / clip / "u") == ["000001.jpg", "000002.jpg"]
    with pytest.raises(DataError, match=r"video file for dataset_convert\.fps, got a folder of fr"):
        convert(spec_of(tmp_path / "data", fps=5.0), tmp_path / "out2")


def test_frames_that_come_more_than_once_are_told(tmp_path):
    save_video(tmp_path / "data" / "run" / "a.mp4", 10, fps=30)
    result = convert(spec_of(tmp_path / "data", fps=60.0), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "run" / "a" / "clip.json").read_text())
    assert (said["num_frames"], said["num_repeated"]) == (20, 10)
    assert [text for text in result["warnings"] if "more than once" in text] == [
        "1 videos with frames more than once, as dataset_convert.fps is above their own; first: "
        "run/a (10 of 20)"
    ]


def test_train_and_test_on_top_are_splits(tmp_path):
    save_video(tmp_path / "data" / "train" / "run" / "a.mp4", 3)
    save_video(tmp_path / "data" / "test" / "run" / "b.mp4", 2)
    result = convert(spec_of(tmp_path / "data"), tmp_path / "out")
    assert result["kpi"] == {
        "Number of videos in train": 1, "Number of videos in test": 1, "Number of frames": 5,
    }  # fmt: skip
    assert result["files"] == ["train", "test", "dataset.json"]
    assert tree(tmp_path / "out" / "test") == ["run/b/clip.json", *names("run/b/rgb", "png", 2)]


def test_bad_videos_are_named_all_at_once_and_the_others_converted(data, tmp_path):
    (data / "run" / "text.mp4").write_text("no video")
    (data / "sit" / "empty.mp4").write_bytes(b"")
    save_video(data / "sit" / "one.mp4", 1)
    found = convert(spec_of(data, streams="both"), tmp_path / "out")
    problems = [str(problem) for problem in found["failed"]]
    assert len(problems) == 4
    assert any("run/text.mp4: expected a video" in line for line in problems)
    assert any("sit/empty.mp4: expected a video" in line for line in problems)
    assert any("sit/one.mp4: expected at least 2 frames, got 1" in line for line in problems)
    assert problems[-1] == (
        f"{tmp_path / 'out' / 'dataset.json'}: expected all 6 videos to be converted, "
        "got 3 that failed. The others are done."
    )
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert len(facts["failed"]) == 3
    assert facts["splits"]["all"]["videos"] == 3
    clips = {path.parent.name for path in (tmp_path / "out").rglob("clip.json")}
    assert clips == {"r1", "r 2", "s1"}
    assert not (tmp_path / "out" / ".partial").exists()


def test_nothing_that_can_be_converted_is_an_error(tmp_path):
    (tmp_path / "data" / "run").mkdir(parents=True)
    (tmp_path / "data" / "run" / "a.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"a\.mp4: expected a video"):
        convert(spec_of(tmp_path / "data"), tmp_path / "out")
    with pytest.raises(DataError, match=r"dataset_convert\.data: expected a folder, got '.*gone'"):
        convert(spec_of(tmp_path / "gone"), tmp_path / "out")


def test_two_videos_of_one_name_are_refused(data, tmp_path):
    save_video(data / "run" / "r1.mkv", 2)
    with pytest.raises(DataError, match=r"one video of each name, got 'r1\.mkv' and 'r1\.mp4'"):
        convert(spec_of(data), tmp_path / "out")


def test_a_second_run_keeps_what_is_there_and_completes_the_rest(data, tmp_path):
    out = tmp_path / "out"
    convert(spec_of(data), out)
    before = {name: (out / name).stat().st_mtime_ns for name in tree(out)}
    save_video(data / "sit" / "s2.mp4", 2)
    result = convert(spec_of(data), out)
    assert result["kpi"] == {"Number of videos": 4, "Number of frames": 14}
    assert result["warnings"] == ["3 clips of an earlier run, kept; first: run/r1"]
    del before["dataset.json"]
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_clips_of_other_settings_or_videos_are_never_written_over(data, tmp_path):
    out = tmp_path / "out"
    convert(spec_of(data), out)
    with pytest.raises(DataError) as caught:
        convert(spec_of(data, short_side=16, image_format="jpg"), out)
    assert len(caught.value.problems) == 1
    assert re.search(r"another .*short_side.* \(and 2 more\)\. Delete", str(caught.value))
    save_video(data / "run" / "r1.mp4", 3)
    with pytest.raises(DataError, match=r"run/r1: .* got one of another content of"):
        convert(spec_of(data), out)
    assert len(list_frames(out / "run" / "r1" / "rgb").names) == 5
    (out / "sit" / "s1" / "clip.json").unlink()
    with pytest.raises(DataError, match=r"sit/s1: .* got one that something else made"):
        convert(spec_of(data), out)


def test_the_same_bytes_at_another_time_and_settings_without_effect_are_no_other_clip(
    data, tmp_path
):
    convert(spec_of(data), tmp_path / "out")
    shutil.copy(data / "sit" / "s1.mp4", tmp_path / "copy")
    os.replace(tmp_path / "copy", data / "sit" / "s1.mp4")
    result = convert(spec_of(data, image_quality=50), tmp_path / "out")
    assert result["warnings"] == ["3 clips of an earlier run, kept; first: run/r1"]


@pytest.mark.parametrize("moved", ["sit/r1.mp4", "gone"])
def test_clips_that_are_not_of_this_conversion_are_refused(data, tmp_path, moved):
    out = tmp_path / "out"
    convert(spec_of(data), out)
    (data / "run" / "r1.mp4").rename(data / moved if "/" in moved else tmp_path / moved)
    save_video(data / "sit" / "new.mp4", 3)
    before = tree(out)
    with pytest.raises(
        DataError, match=r"got 1 of other videos, splits or classes: run/r1\. Train"
    ):
        convert(spec_of(data), out)
    assert tree(out) == before
    (tmp_path / "split").mkdir()
    data.rename(tmp_path / "split" / "train")
    with pytest.raises(DataError, match="got 3 of other videos"):  # the same again as a split
        convert(spec_of(tmp_path / "split"), out)
    shutil.rmtree(out / "run" / "r1")
    (tmp_path / "split" / "train").rename(data)
    assert convert(spec_of(data), out)["warnings"] == [
        "2 clips of an earlier run, kept; first: run/r 2"
    ]


def test_lists_that_are_not_of_this_conversion_are_told(data, tmp_path):
    convert(spec_of(data, write="manifest"), tmp_path / "out")
    (tmp_path / "split").mkdir()
    data.rename(tmp_path / "split" / "train")
    told = convert(spec_of(tmp_path / "split", write="manifest"), tmp_path / "out")["warnings"]
    assert told == ["1 lists of an earlier conversion, still in the folder; first: videos.csv"]


def test_a_clip_that_is_stopped_half_way_leaves_nothing(data, tmp_path, monkeypatch):
    real, calls = frame_writing._encoded, []

    def fails(*args):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(frame_writing, "_encoded", fails)
    with pytest.raises(KeyboardInterrupt):
        convert(spec_of(data), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("clip.json")] == ["clip.json"]
    assert tree(tmp_path / "out") == ["run/r1/clip.json", *names("run/r1/rgb", "png", 5)]


CONVERT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_video_convert import convert, spec_of
convert(spec_of(sys.argv[2], workers=1), Path(sys.argv[3]))
"""


def wait_for_workers(folder):
    """The worker of a killed program ends by itself; its number is in the names of its work."""
    for path in folder.iterdir() if folder.is_dir() else ():
        for _ in range(500):
            if not Path("/proc", path.name.split("-")[-2]).exists():
                break
            time.sleep(0.02)


def test_kill_9_leaves_whole_clips_and_the_next_run_completes_them(tmp_path):
    for number in range(8):
        save_video(tmp_path / "data" / "run" / f"{number}.mp4", 20, seed=number)
    out = tmp_path / "out"
    command = [sys.executable, "-c", CONVERT, os.path.dirname(__file__)]
    program = subprocess.Popen([*command, str(tmp_path / "data"), str(out)])
    while len(list(out.glob("run/*"))) < 2 and program.poll() is None:
        time.sleep(0.002)
    program.send_signal(signal.SIGKILL)
    program.wait()
    clips = list(out.glob("run/*"))
    assert len(clips) >= 2
    for clip in clips:
        assert tree(clip) == ["clip.json", *names("rgb", "png", 20)]
    assert not (out / "dataset.json").exists()
    wait_for_workers(out / ".partial")
    assert convert(spec_of(tmp_path / "data"), out)["kpi"]["Number of frames"] == 160
    assert not (out / ".partial").exists()


@pytest.fixture
def hmdb(tmp_path):
    """Two classes with lists of two splits; the videos are .mp4, the lists say .avi."""
    lists = tmp_path / "hmdb" / "splits"
    lists.mkdir(parents=True)
    for label, codes in (("run", "12012"), ("sit", "211")):
        rows = []
        for number, code in enumerate(codes):
            name = f"{label} [x]_{number}"
            save_video(tmp_path / "hmdb" / "videos" / label / f"{name}.mp4", 2, seed=number)
            rows.append(f"{name}.avi {code} \n")
        (lists / f"{label}_test_split1.txt").write_text("".join(rows))
        turned = "".join(row.replace(" 1 ", " 2 ") for row in rows)
        (lists / f"{label}_test_split2.txt").write_text(turned)
    return tmp_path / "hmdb"


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_hmdb_lists_split_the_videos_into_lists(hmdb, tmp_path):
    result = convert(spec_of(hmdb, format="hmdb", split=1, write="manifest"), tmp_path / "out")
    path = hmdb / "videos"
    assert rows_of(tmp_path / "out" / "train.csv") == [
        ["path", "label", "split", "start", "end"],
        [str(path / "run" / "run [x]_0.mp4"), "run", "train", "", ""],
        [str(path / "run" / "run [x]_3.mp4"), "run", "train", "", ""],
        [str(path / "sit" / "sit [x]_1.mp4"), "sit", "train", "", ""],
        [str(path / "sit" / "sit [x]_2.mp4"), "sit", "train", "", ""],
    ]
    assert [row[0] for row in rows_of(tmp_path / "out" / "test.csv")[1:]] == [
        str(path / "run" / "run [x]_1.mp4"),
        str(path / "run" / "run [x]_4.mp4"),
        str(path / "sit" / "sit [x]_0.mp4"),
    ]
    assert result == {
        "kpi": {
            "Number of videos in train": 4, "Number of videos in test": 3, "Number of frames": 14,
        },
        "files": ["train.csv", "test.csv", "dataset.json"],
        "warnings": ["1 videos that the split does not use, left out; first: run/run [x]_2"],
        "failed": [],
    }  # fmt: skip
    assert tree(tmp_path / "out") == ["dataset.json", "test.csv", "train.csv"]
    for split, count in (("train", 4), ("test", 3)):
        assert len(find_entries(tmp_path / "out" / f"{split}.csv", split)) == count


def test_lists_of_videos_below_them_can_be_moved_with_them(data):
    convert(spec_of(data, write="manifest"), data)
    assert [row[0] for row in rows_of(data / "videos.csv")[1:]] == [
        "run/r1.mp4", "run/r 2.mkv", "sit/s1.mp4",
    ]  # fmt: skip


def test_hmdb_splits_as_frames(hmdb, tmp_path):
    convert(spec_of(hmdb, format="hmdb", split=1), tmp_path / "out")
    found = sorted(str(p.parent.relative_to(tmp_path / "out")) for p in tmp_path.rglob("clip.json"))
    assert found == [
        "test/run/run [x]_1", "test/run/run [x]_4", "test/sit/sit [x]_0",
        "train/run/run [x]_0", "train/run/run [x]_3", "train/sit/sit [x]_1", "train/sit/sit [x]_2",
    ]  # fmt: skip


def test_without_a_split_all_videos_are_one_list(hmdb, tmp_path):
    result = convert(spec_of(hmdb, format="hmdb", write="manifest"), tmp_path / "out")
    assert result["files"] == ["videos.csv", "dataset.json"]
    assert len(rows_of(tmp_path / "out" / "videos.csv")) == 9


def test_what_is_wrong_with_lists_is_told_all_at_once(hmdb, tmp_path):
    lists = hmdb / "splits"
    with open(lists / "run_test_split1.txt", "a") as file:
        file.write("run [x]_9.avi 3\nrun [x]_0.avi 2\nnonsense\n\n")
    (lists / "fly_test_split1.txt").write_text("a.avi 1\n")
    (lists / "sit_test_split1.txt").unlink()
    with pytest.raises(DataError) as caught:
        convert(spec_of(hmdb, format="hmdb", split=1, write="manifest"), tmp_path / "out")
    run = lists / "run_test_split1.txt"
    assert [str(problem) for problem in caught.value.problems] == [
        f"{hmdb}: expected a list of class 'sit', got none for split 1.",
        f"{lists / 'fly_test_split1.txt'}: expected videos of class 'fly', got no folder fly in "
        f"{hmdb}.",
        f"{run}:6: expected a file and 0, 1 or 2, got 'run [x]_9.avi 3'.",
        f"{run}:7: expected one number for 'run [x]_0', got 2, and 1 before.",
        f"{run}:8: expected a file and 0, 1 or 2, got 'nonsense'.",
    ]


def test_videos_and_lists_that_do_not_match_are_counted(hmdb, tmp_path):
    (hmdb / "videos" / "run" / "run [x]_0.mp4").unlink()
    save_video(hmdb / "videos" / "sit" / "new.mp4", 2)
    result = convert(spec_of(hmdb, format="hmdb", split=1, write="manifest"), tmp_path / "out")
    assert result["warnings"] == [
        "1 videos that the lists name and that are not there; first: "
        f"{hmdb / 'splits' / 'run_test_split1.txt'}:1 run [x]_0",
        "1 videos that the split does not use, left out; first: run/run [x]_2",
        "1 videos that no list names, left out; first: sit/new",
    ]
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts["left_out_or_changed"][2]["in"] == ["sit/new"]
    with pytest.raises(DataError, match=r"lists <class>_test_split3\.txt, got none\. Set"):
        convert(spec_of(hmdb, format="hmdb", split=3, write="manifest"), tmp_path / "out")


def test_bad_videos_are_not_listed_and_named(hmdb, tmp_path):
    (hmdb / "videos" / "run" / "run [x]_0.mp4").write_text("no video")
    found = convert(spec_of(hmdb, format="hmdb", split=1, write="manifest"), tmp_path / "out")
    assert "run [x]_0.mp4: expected a video" in str(found["failed"][0])
    assert len(rows_of(tmp_path / "out" / "train.csv")) == 4


def test_jhmdb_asks_for_its_21_classes(hmdb, tmp_path):
    with pytest.raises(DataError) as caught:
        convert(spec_of(hmdb, format="jhmdb", split=1, write="manifest"), tmp_path / "out")
    assert len(caught.value.problems) == 19  # run and sit are two of them
    assert "expected a list of class 'brush_hair', got none for split 1" in str(caught.value)
