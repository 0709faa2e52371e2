"""Lists (CSV, JSON lines) and archives as data sets of videos: what they say, what is wrong."""

import json

import numpy as np
import pytest

from clips_made import full_decode, make_video
from kineme.action_recognition import clips
from kineme.action_recognition.listing import find_entries, list_videos
from kineme.action_recognition.sources import source_path
from kineme.errors import DataError
from video_folders import ids_of, pack, refused, save_classes, save_tao, spec_for, videos_at

# Lists


@pytest.fixture
def listed(tmp_path):
    """A film of two seconds at 25 frames a second and a folder of frames, and two lists."""
    make_video(tmp_path / "film.mp4", 50)
    save_tao(tmp_path / "frames", 4)
    rows = [
        {"path": "film.mp4", "label": "smile", "split": "train", "start": 0.4, "end": 1.2},
        {"path": "film.mp4", "label": "catch", "split": "train", "start": 1.2},
        {"path": "frames", "label": "catch", "split": "test"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    keys = ("path", "label", "split", "start", "end")
    lines = [",".join(str(row.get(key, "")) for key in keys) for row in rows]
    text = "\r\n".join([",".join(keys), *lines, ""])
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    return tmp_path


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_list_names_stretches_and_splits(listed, name):
    found = videos_at(listed / name)
    assert [(v.id, v.first, v.num_frames, v.label) for v in found.items] == [
        ("film.mp4#0.4-1.2", 10, 20, 1), ("film.mp4#1.2-", 30, 20, 0),
    ]  # fmt: skip
    test = videos_at(listed / name, "val")
    assert [(v.id, v.num_frames) for v in test.items] == [("frames", 4)]
    assert len(videos_at(listed / name, "predict").items) == 3


def test_frames_of_a_stretch_are_those_of_the_file(listed):
    first = videos_at(listed / "list.csv").items[0]
    seen = clips.read_rgb(first, np.array([0, 19]), size=(64, 80)).frames
    whole = full_decode(listed / "film.mp4")
    np.testing.assert_array_equal(seen, [whole[10], whole[29]])
    with pytest.raises(DataError, match="expected more frames, got 20, and frame 20 was asked"):
        clips.read_rgb(first, np.array([20]), size=(64, 80))


def test_all_that_is_wrong_with_a_list_is_told_at_once(tmp_path):
    save_tao(tmp_path / "a")
    rows = ["path,label,split,start,end", "a,walk,train,,", "gone,walk,train,,",
            ",walk,train,,", "a,,train,,", "a,walk,validation,,", "a,walk,train,x,-1",
            "a,walk,train,1,2"]  # fmt: skip
    (tmp_path / "l.csv").write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        find_entries(tmp_path / "l.csv", "train")
    said = [str(p).replace(f"{tmp_path}/", "") for p in caught.value.problems]
    assert said == [
        "l.csv:6: split: expected train, val or test, got 'validation'.",
        "l.csv:3: path: expected a video, got 'gone', which does not exist.",
        "l.csv:4: expected a path, got nothing.",
        "l.csv:5: label: expected a class name, got nothing.",
        "l.csv:7: start: expected seconds, got 'x'.",
        "l.csv:7: end: expected seconds, got '-1'.",
        "l.csv:7: start, end: expected nothing, as frames in a folder have no time, got x to -1.",
        "l.csv:8: start, end: expected nothing, as frames in a folder have no time, got 1 to 2.",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"label\nwalk\n", "l.csv: expected a header with path,label,split,start,end, got label."),
        (b"", "l.csv: expected a header with path,label,split,start,end, got nothing."),
        (b"path,label\n", "l.csv: expected rows, got 0 rows, none of them."),
        (b"path\n\xff\n", "l.csv:2: expected text in UTF-8, got byte 0xff."),
        (b"path,label,split\na,walk,val\n",
         "l.csv: expected rows of split train, got 1 rows, none of them."),
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_said(tmp_path, content, expected):
    save_tao(tmp_path / "a")
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_entries(tmp_path / "l.csv", "train")
    assert str(caught.value).replace(f"{tmp_path}/", "") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"path": "a"', "l.jsonl:2: expected a JSON object, got Expecting ',' delimiter"),
        ('["a"]', "l.jsonl:2: expected a JSON object, got ['a']."),
        ('{"path": "a", "label": ["x"]}', "l.jsonl:2: label: expected a text or a whole number, g"),
        ('{"path": "a", "label": true}', "l.jsonl:2: label: expected a text or a whole number, g"),
        ('{"path": "a", "label": 1.0}', "l.jsonl:2: label: expected a text or a whole number, got"),
        ('{"path": {"a": 1}, "label": 1}', "l.jsonl:2: path: expected a text or a whole number,"),
        ('{"path": "a", "label": 1, "start": [0]}', "l.jsonl:2: start: expected a number, got [0]"),
        ('{"path": "f.mp4", "label": "w", "start": NaN}', "l.jsonl:2: start: expected seconds, g"),
        ('{"path": "f.mp4", "label": "w", "end": 1e999}', "l.jsonl:2: end: expected seconds, got"),
        ('{"path": "a\\u0000b", "label": "w"}', "which does not exist"),
        ('{"path": "a", "label": "\\ud800"}', "l.jsonl:2: label: expected text in UTF-8"),
        ('{"path": "' + "x" * 5000 + '", "label": "w"}', "which does not exist"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, line, expected):
    save_tao(tmp_path / "a")
    (tmp_path / "f.mp4").write_text("not opened here")
    (tmp_path / "l.jsonl").write_text('{"path": "a", "label": "w"}\n' + line)
    with pytest.raises(DataError) as caught:
        find_entries(tmp_path / "l.jsonl", "train")
    assert len(caught.value.problems) == 1
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.csv", "path,lable,strat\na,w,0\n", [
            "l.csv: expected columns of path,label,split,start,end, got 'lable'. Did you mean "
            "label?",
            "l.csv: expected columns of path,label,split,start,end, got 'strat'. Did you mean "
            "start?",
        ]),
        ("l.csv", "path,label,label\na,w,x\n", [
            "l.csv: expected each column once, got 'label' 2 times.",
        ]),
        ("l.csv", "path,label\na,run, fast\na,w,,\n", [
            "l.csv:2: expected 2 values, as in the header, got 3.",
        ]),
        ("l.jsonl", '{"path": "a", "label": "w", "label": "x"}', [
            "l.jsonl:1: expected a JSON object, got the key 'label' occurs twice.",
        ]),
        ("l.jsonl", '{"path": "a", "label": "w"}\n'
         + '{"path": "a", "label": "w", "ned": 1}\n' * 2, [
            "l.jsonl:2: expected keys of path,label,split,start,end, got 'ned'. Did you mean end?",
        ]),
    ],
)  # fmt: skip
def test_columns_and_keys_that_look_misspelt_or_occur_twice_are_refused(
    tmp_path, name, text, expected
):
    save_tao(tmp_path / "a")
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        find_entries(tmp_path / name, "train")
    said = [str(p).replace(f"{tmp_path}/", "") for p in caught.value.problems]
    assert said == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "path,label,begin,labels,\na,w,0.2,1,\na,w,1,2,\n"),
        ("l.jsonl", '{"path": "a", "label": "w", "begin": 1}\n'
         '{"path": "a", "label": "w", "labels": 2}'),
    ],
)  # fmt: skip
def test_other_columns_and_keys_are_passed_over_with_one_note(tmp_path, name, text):
    save_tao(tmp_path / "a")
    where = tmp_path / name
    where.write_text(text)
    found = list_videos(where, "train")
    assert [entry.label for entry in found.entries] == ["w", "w"]
    told = f"{where}: unknown columns or keys are passed over: 'begin', 'labels'."
    assert found.notes == (told,)


def test_rows_without_a_split_among_others_are_counted(tmp_path):
    save_tao(tmp_path / "a")
    (tmp_path / "l.csv").write_text("path,label,split\na,w,train\na,w,\na,w,test\n")
    found = list_videos(tmp_path / "l.csv", "train")
    assert len(found.entries) == 1
    where = tmp_path / "l.csv"
    assert found.notes == (f"{where}: 1 of 3 rows name no split and are left out, the first 'a'.",)


def test_a_stretch_outside_its_video_is_named(tmp_path):
    make_video(tmp_path / "f.mp4", 25)
    (tmp_path / "l.csv").write_text("path,label,start,end\nf.mp4,w,0,0.5\nf.mp4,w,3,4\n")
    assert refused(tmp_path / "l.csv") == [
        "f.mp4#3-4: start, end: expected a stretch inside the 1.00 s of the video, got 3 to 4."
    ]


# Archives, as TAO's data sets are published


def test_the_archives_of_the_product_text_are_data_sets(tmp_path):
    save_classes(tmp_path / "made")
    (tmp_path / "test").mkdir()
    train = pack(tmp_path / "train.tar.gz", tmp_path / "made", inside="train")
    test = pack(tmp_path / "test.tar.gz", tmp_path / "made", inside="test")
    one = pack(tmp_path / "test" / "smile.tar.gz", tmp_path / "made" / "smile", inside="smile")
    cache = f"dataset.cache_dir={tmp_path / 'cache'}"
    whole = ["catch/v0", "catch/v1", "smile/v0", "smile/v1"]
    assert ids_of(videos_at(train, "train", cache)) == whole
    assert videos_at(test, "val", cache).labels.tolist() == [0, 0, 1, 1]
    assert ids_of(videos_at(one, "predict", cache)) == ["smile/v0", "smile/v1"]
    first = source_path(spec_for(train, "train", cache), "train")
    assert first == source_path(spec_for(train, "train", cache), "train")
    assert (tmp_path / "cache") in first.parents


def test_a_folder_packed_under_a_name_of_its_own_is_the_same_data_set(tmp_path):
    cache = f"dataset.cache_dir={tmp_path / 'cache'}"
    save_classes(tmp_path / "made", per_class=1)
    for number, inside in enumerate(("mine", "data/test", "mine/of 2026/train")):
        where = pack(tmp_path / f"{number}.tar.gz", tmp_path / "made", inside=inside)
        for split in ("train", "test", "predict"):
            assert ids_of(videos_at(where, split, cache)) == ["catch/v0", "smile/v0"]
    (tmp_path / "made" / "jump").mkdir()
    where = pack(tmp_path / "bad.tar.gz", tmp_path / "made", inside="mine")
    assert refused(where, "train", cache) == [
        "D/jump: expected videos or folders of frames, got none."
    ]


@pytest.mark.parametrize("split", ["train", "predict"])
def test_a_path_that_is_none_is_said(tmp_path, split):
    with pytest.raises(DataError, match="no such file"):
        videos_at(tmp_path / "gone", split)
    with pytest.raises(DataError, match=r"nothing there|no such file"):
        videos_at(tmp_path / "gone.mp4", split)


def test_one_video_is_no_training_data(tmp_path):
    make_video(tmp_path / "a.mp4", 5)
    assert refused(tmp_path / "a.mp4") == [
        "D: expected a folder of videos, a .csv or .jsonl list, or an archive, got a file."
    ]
