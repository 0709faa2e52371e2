"""`kineme data check` (row V32): finds what was planted, says it twice over, changes nothing."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from clips_made import make_video
from images_made import save_image
from kineme import cli
from kineme.data.labels import Labels, write_labels
from kineme.data.shards import ShardWriter
from kineme.pose_classification.layouts import LAYOUTS
from stick import CLASSES, waves
from video_folders import pack, save_classes, save_flow, save_frames, save_tao

TRAIN = "train/walk"


def _state(root):
    """Every path below `root` with its size, times and, of links, where they lead."""
    return {
        path: (
            path.lstat().st_size,
            path.lstat().st_mtime_ns,
            os.readlink(path) if path.is_symlink() else "",
        )
        for path in [root, *root.rglob("*")]
    }


def check(where, results, capsys):
    """(exit code, facts, stderr and stdout); nothing may have changed below `where`."""
    before = _state(where)
    code = cli.main(["data", "check", str(where), f"results_dir={results}"])
    assert _state(where) == before
    out, err = capsys.readouterr()
    return code, json.loads((results / "data_check.json").read_text()), err + out


def plant(root, outside):
    """25 faults in a data set with train/ and test/; what each is called, as a pattern."""
    good = save_tao(root / TRAIN / "good", 4, seed=200)
    save_tao(root / "test" / "walk" / "fine", 4, seed=201)

    def frames(name, seed, num=4):
        return save_tao(root / TRAIN / name, num, seed=seed) / "rgb"

    (root / "train" / "nothing").mkdir()
    save_tao(root / "train" / "bad\udcff" / "v")
    (root / TRAIN / "out").symlink_to(save_tao(outside / "v", seed=9))
    (root / TRAIN / "up").symlink_to("..")
    (root / TRAIN / "gone.mp4").symlink_to("nowhere")
    (frames("leaks", 10) / "000004.png").symlink_to(outside / "v" / "rgb" / "000000.png")
    (root / TRAIN / "hollow" / "rgb").mkdir(parents=True)
    torn = frames("torn", 11) / "000001.png"
    torn.write_bytes(torn.read_bytes()[:-15])
    (frames("zero", 12) / "000002.png").write_bytes(b"")
    (frames("page", 13) / "000000.png").write_text("<html></html>")
    (frames("gap", 14) / "000001.png").unlink()
    save_frames(frames("sizes", 15), [4], size=(10, 16))
    save_flow(frames("pairs", 16).parent)
    (root / TRAIN / "pairs" / "v" / "000002.png").rename(root / TRAIN / "pairs" / "v" / "x.png")
    save_flow(frames("more flow", 17).parent, range(9))
    save_flow(frames("coloured", 18).parent)
    save_frames(root / TRAIN / "coloured" / "u", [1])
    save_image(frames("two of one", 19) / "000001.bmp", np.zeros((12, 16, 3), np.uint8))
    Image.new("1", (20000, 20000)).save(frames("bomb", 20) / "000004.png")
    (root / TRAIN / "text.mp4").write_text("no video at all")
    (root / TRAIN / "empty.avi").write_bytes(b"")
    film = make_video(root / TRAIN / "cut.mkv", 30)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    os.mkfifo(root / TRAIN / "pipe.mp4")
    save_tao(root / TRAIN / "again", 4, seed=200)
    frames("both", 203)
    save_tao(root / "train" / "run" / "too", 4, seed=203)
    frames("seen", 204)
    save_tao(root / "test" / "walk" / "leak", 4, seed=204)
    frames("GOOD", 21)
    frames("still", 22, num=1)
    make_video(root / TRAIN / "black.mp4", frames=[np.zeros((64, 80, 3), np.uint8)] * 5)
    (frames("notes", 23) / "readme.txt").write_text("x")
    save_tao(root / "test" / "jump" / "v", 4, seed=202)
    (root / "labels.csv").write_text("x")
    assert good.is_dir()
    return [
        r"error: D/train/nothing: expected videos or folders of frames, got none",
        r"error: D/train/bad\\udcff: expected the name of a class in UTF-8, got b'bad\\xff'",
        r"error: D/train/walk/out: expected a path inside D/train, got a link to '.*/outside/v'",
        r"error: D/train/walk/up: expected a link that does not lead back above itself",
        r"error: D/train/walk/gone.mp4: expected a path inside the data set, got no such file",
        r"error: D/train/walk/leaks/rgb/000004.png: expected a path inside D/train",
        r"error: D/train/walk/hollow: expected frames, got none",
        r"error: D/train/walk/torn/rgb/000001.png: expected a whole PNG",
        r"error: D/train/walk/zero/rgb/000002.png: .* got an empty file",
        r"error: D/train/walk/page/rgb/000000.png: .* got a web page",
        r"note: D/train/walk/gap/rgb: 1 numbers are missing, the first after '000000.png'",
        r"error: D/train/walk/sizes/rgb: frames of 2 sizes: 16 x 12 .*, 16 x 10 \('000004.png'\)",
        r"error: D/train/walk/pairs/u/000002.png: expected an image of the same name in v/",
        r"error: D/train/walk/more flow: 4 frames in rgb/ and 9 in u/",
        r"error: D/train/walk/coloured/u/000001.png: expected an 8-bit gray image of flow",
        r"error: D/train/walk/two of one/rgb: expected one image of each frame",
        r"error: D/train/walk/bomb/rgb/000004.png: expected at most 67,108,864 pixels",
        r"error: D/train/walk/text.mp4: expected a video, got ",
        r"error: D/train/walk/empty.avi: expected a video, got ",
        r"note: D/train/walk/cut.mkv: damaged: ",
        r"error: D/train/walk/pipe.mp4: expected a regular file, got a FIFO",
        r"note: train/walk/good: the same video as 'train/walk/again'$",
        r"note: train/walk/both: the same video as 'train/run/too': it is in two classes$",
        r"note: test/walk/leak: the same video as 'train/walk/seen': it is in two splits$",
        r"note: D/train: 1 names of videos differ in upper and lower case only, the first "
        r"'walk/GOOD'",
        r"note: D/train/walk/still: it has one frame: nothing moves",
        r"note: D/train/walk/black.mp4: all 5 frames are the same picture",
        r"note: D/train/walk/notes/rgb: 1 others than images are passed over, the first 'readme",
        r"note: train: no videos of class 'jump'",
        r"note: test: no videos of class 'run'",
        r"note: D: 1 others beside the splits are passed over, the first 'labels.csv'",
        r"note: train: 19 samples of 'walk' and 1 of 'run'$",
    ]


def test_v32_a_check_finds_everything_that_was_planted_and_changes_nothing(tmp_path, capsys):
    root = tmp_path / "data"
    patterns = plant(root, tmp_path / "outside")
    assert len(patterns) >= 25
    code, facts, out = check(root, tmp_path / "found", capsys)
    assert code == 3
    said = [
        f"{fault['kind']}: {fault['where']}: {fault['what']}".replace(str(root), "D")
        for fault in facts["faults"]
    ]
    missed = [p for p in patterns if not any(re.match(p, line) for line in said)]
    assert missed == []
    unexpected = [line for line in said if not any(re.match(p, line) for p in patterns)]
    assert unexpected == []
    assert facts["errors"] + facts["notes"] == len(said)
    assert facts["classes"]["test"] == {"jump": 1, "walk": 2}
    assert f"... and {len(said) - 20} more" in out
    page = (tmp_path / "found" / "data_check.html").read_text()
    assert page.split("<h2>Faults</h2>")[1].count("<tr><td") == len(said)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_a_good_data_set_has_no_faults(tmp_path, capsys):
    save_classes(tmp_path / "data", 5, flow=True)
    code, facts, out = check(tmp_path / "data", tmp_path / "found", capsys)
    assert (code, facts["faults"]) == (0, [])
    assert (facts["samples"], facts["frames"]) == (4, 20)
    assert facts["classes"] == {"": {"catch": 2, "smile": 2}}
    assert out.splitlines()[-1] == (
        "4 samples, 20 frames: 0 errors, 0 notes; all of them in "
        f"{tmp_path / 'found' / 'data_check.html'}"
    )


def test_names_from_the_data_are_text_on_the_page(tmp_path, capsys):
    save_tao(tmp_path / "data" / "<script>alert(1)" / "a&b", 1)
    _, facts, _ = check(tmp_path / "data", tmp_path / "found", capsys)
    assert facts["notes"] == 1
    page = (tmp_path / "found" / "data_check.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)/a&amp;b" in page


def test_an_archive_and_a_list_are_checked_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    save_classes(tmp_path / "made", 3)
    where = pack(tmp_path / "a.tar.gz", tmp_path / "made", inside="train")
    assert cli.main(["data", "check", str(where), f"results_dir={tmp_path / 'one'}"]) == 0
    rows = "path,label\nmade/catch/v0,catch\nmade/none,catch\nmade/smile/v0,smile\n"
    (tmp_path / "l.csv").write_text(rows)
    where = (tmp_path / "l.csv").rename(tmp_path / "L.CSV")
    assert cli.main(["data", "check", str(where), f"results_dir={tmp_path / 'two'}"]) == 3
    out, err = capsys.readouterr()
    assert "4 samples, 12 frames: 0 errors, 0 notes" in out
    assert "2 samples, 6 frames: 1 errors, 0 notes" in out
    assert "L.CSV:3: path: expected a video, got 'made/none', which does not exist" in err


def test_an_archive_of_a_folder_with_a_name_of_its_own_is_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    for seed, split in enumerate(("train", "test")):
        save_classes(tmp_path / "made" / split, 3 + seed)
    (tmp_path / "made" / "train" / "jump").mkdir()
    where = pack(tmp_path / "a.tar.gz", tmp_path / "made", inside="mine")
    assert cli.main(["check", str(where), f"results_dir={tmp_path / 'found'}"]) == 3
    out, err = capsys.readouterr()
    assert f"error: {where}/train/jump: expected videos or folders of frames, got none." in err
    assert "8 samples, 28 frames: 1 errors" in out
    facts = json.loads((tmp_path / "found" / "data_check.json").read_text())
    assert facts["classes"] == {name: {"catch": 2, "smile": 2} for name in ("train", "test")}


def test_a_list_is_checked_as_training_reads_it(tmp_path, capsys):
    for group, name in enumerate(("a", "b", "c"), start=5):  # of one second
        make_video(tmp_path / f"{name}.mp4", 25, group=group)
    rows = ["path,label,split,start,end", "a.mp4,walk,train,0,0.2", "b.mp4,run,train,0.2,0.6",
            "b.mp4,walk,train,0.2,0.6", "a.mp4,walk,train,5,8", "c.mp4,,train,,",
            "a.mp4,walk,test,0,0.2", "c.mp4,run,test,,"]  # fmt: skip
    (tmp_path / "l.csv").write_text("\n".join(rows))
    (tmp_path / "found").mkdir()
    assert cli.main(["check", str(tmp_path / "l.csv"), f"results_dir={tmp_path / 'found'}"]) == 3
    facts = json.loads((tmp_path / "found" / "data_check.json").read_text())
    assert facts["classes"] == {"train": {"run": 1, "walk": 3}, "test": {"run": 1, "walk": 1}}
    lengths = {name: split["lengths"] for name, split in facts["overview"]["splits"].items()}
    assert [lengths["train"][key] for key in ("min", "median", "max")] == [5, 10, 10]
    assert [lengths["test"][key] for key in ("min", "max")] == [5, 25]
    told = [f"{fault['kind']}: {fault['where']}: {fault['what']}" for fault in facts["faults"]]
    assert [text.replace(f"{tmp_path}/", "") for text in told if "balance" not in text][:4] == [
        "error: l.csv:6: label: expected a class name, got nothing",
        "error: a.mp4#5-8: start, end: expected a stretch inside the 1.00 s of the video, got 5 "
        "to 8",
        "note: test/a.mp4#0-0.2: the same video as 'train/a.mp4#0-0.2': it is in two splits",
        "note: train/b.mp4#0.2-0.6: the same video as 'train/b.mp4#0.2-0.6': it is in two classes",
    ]
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_stretch_that_another_split_has_part_of_is_told(tmp_path, capsys):
    for group, name in enumerate(("a", "b"), start=5):  # of one second
        make_video(tmp_path / f"{name}.mp4", 25, group=group)
    rows = ["path,label,split,start,end", "a.mp4,walk,train,0,0.4", "b.mp4,run,train,,",
            "a.mp4,walk,test,0.36,0.8", "b.mp4,run,test,0.6,",
            "a.mp4,walk,test,0.4,0.8"]  # fmt: skip
    (tmp_path / "l.csv").write_text("\n".join(rows))
    _, facts, _ = check(tmp_path / "l.csv", tmp_path / "found", capsys)
    what = "some of its frames are in another split, too"
    assert [one["where"] for one in facts["faults"] if one["what"] == what] == [
        "test/a.mp4#0.36-0.8", "test/b.mp4#0.6-",
    ]  # fmt: skip


def test_a_list_without_any_label_is_for_inference_alone(tmp_path, capsys):
    save_classes(tmp_path / "made", 3)
    (tmp_path / "l.csv").write_text("path\nmade/catch/v0\nmade/smile/v1\n")
    code, facts, _ = check(tmp_path / "l.csv", tmp_path / "found", capsys)
    assert (code, facts["samples"], facts["frames"]) == (0, 2, 6)
    assert [fault["what"] for fault in facts["faults"]] == [
        "no labels: nothing can be learned from it"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path;label\na;walk\n", ["header with path,label,split,start,end, got path;label."]),
        ("Path,Label\na,walk\n", ["got 'Path'. Did you mean path?", "got 'Label'. Did you mean l"]),
    ],
)
def test_a_list_without_a_usable_row_says_why(tmp_path, capsys, text, expected):
    (tmp_path / "l.csv").write_text(text)
    assert cli.main(["check", str(tmp_path / "l.csv"), f"results_dir={tmp_path / 'found'}"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [words in line for words, line in zip(expected, lines, strict=True)] == [True] * len(
        expected
    )


def test_d22_one_class_of_videos_is_an_error_of_training_data_alone(tmp_path, capsys):
    root = tmp_path / "data"
    for seed, split in enumerate(("train", "val", "test")):
        save_tao(root / split / "walk" / "v", 4, seed=seed)
    errors = [text for text in faults_of(root, tmp_path, capsys) if text.startswith("error")]
    assert errors == ["error: train: expected samples of at least 2 classes, got only class 'walk'"]
    lone = faults_of(root / "train", tmp_path, capsys)
    assert "at least 2 classes, got only class 'walk'" in lone[0]


@pytest.mark.parametrize("name", ["train_data.npy", "DATA.NPY"])
def test_v32_one_file_of_skeletons_is_checked(tmp_path, capsys, name):
    where = tmp_path / name
    with open(where, "wb") as file:
        np.save(file, waves(4, 0)[0])
    code, facts, _ = check(where, tmp_path / "found", capsys)
    assert (code, facts["samples"], facts["errors"]) == (0, 4, 0)


def test_v32_an_archive_of_another_kind_is_named(tmp_path, capsys):
    where = tmp_path / "a.npy"
    where.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    assert cli.main(["data", "check", str(where), f"results_dir={tmp_path / 'found'}"]) == 3
    expected = f"{where}: expected a tar, tar.gz or zip file, got a 7z file."
    assert expected in capsys.readouterr().err


def test_v32_skeletons_are_checked_too(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    data, labels = waves(9, 0)
    names = [str(CLASSES[label]) for label in labels]

    def save(prefix, values, texts):
        np.save(root / f"{prefix}_data.npy", values)
        if texts is not None:
            samples = {f"{prefix}{i}": text for i, text in enumerate(texts)}
            (root / f"{prefix}_label.json").write_text(json.dumps(samples))

    save("train", data, names)
    hurt = waves(6, 1)[0]
    hurt[2, 0, 3, 1, 0] = np.nan
    hurt[4, 1] *= 1000
    save("hurt", hurt, names[:5])
    save("leak", np.concatenate([data[4:5], waves(3, 2)[0]]), ["a"] * 4)
    save("bare", waves(2, 3)[0], None)
    save("flat", data[..., 0], None)
    (root / "cut_data.npy").write_bytes((root / "train_data.npy").read_bytes()[:-100])
    (root / "text_data.npy").write_text("no array")
    code, facts, out = check(root, tmp_path / "found", capsys)
    assert code == 3
    said = [
        f"{fault['kind']}: {fault['where']}: {fault['what']}".replace(f"{root}/", "")
        for fault in facts["faults"]
    ]
    patterns = [
        r"error: hurt_data.npy: sample 2: expected finite numbers",
        r"note: hurt_data.npy: channel 1 is in \[-?\d+",
        r"error: hurt_label.json: expected 6 labels for 6 samples, got 5 labels",
        r"error: leak_label.json: expected samples of at least 2 classes, got only class 0",
        r"note: leak_data.npy: 1 of 4 samples are also in train_data.npy: .*leak0",
        r"note: bare_data.npy: no labels beside it \(bare_label.json, bare_label.csv, bare_l",
        r"error: flat_data.npy: expected ",
        r"error: cut_data.npy: expected [\d,]+ bytes",
        r"error: text_data.npy: expected ",
    ]
    assert [p for p in patterns if not any(re.match(p, line) for line in said)] == []
    rest = [line for line in said if "nearly the same" not in line]
    assert [line for line in rest if not any(re.match(p, line) for p in patterns)] == []
    assert facts["classes"]["train_data"] == dict.fromkeys(sorted(CLASSES), 3)
    assert out.splitlines()[-1].startswith("21 samples, ")


def save_labelled(root, prefix, data, labels, layout):
    root.mkdir(exist_ok=True)
    np.save(root / f"{prefix}_data.npy", data)
    ids = tuple(f"{prefix}{i}" for i in range(len(labels)))
    told = Labels(ids, np.asarray(labels), ("a", "b"), layout)
    write_labels(root / f"{prefix}_label.json", told)


def faults_of(root, tmp_path, capsys):
    _, facts, _ = check(root, tmp_path / "found", capsys)
    return [
        f"{fault['kind']}: {fault['where']}: {fault['what']}".replace(f"{root}/", "")
        for fault in facts["faults"]
    ]


def test_layouts_that_contradict_the_data_or_each_other_are_errors(tmp_path, capsys):
    root, draw = tmp_path / "data", np.random.default_rng(0)
    joints_17, joints_18 = (draw.random((4, 2, 8, v, 1)).astype(np.float32) for v in (17, 18))
    save_labelled(root, "train", joints_17, [0, 1, 0, 1], "coco")
    save_labelled(root, "val", joints_17 / 2, [0, 1, 0, 1], "human3.6m")
    save_labelled(root, "test", joints_18, [0, 1, 0, 1], "coco")
    assert sorted(text for text in faults_of(root, tmp_path, capsys) if "layout" in text) == [
        "error: test_data.npy: layout: expected one of 18 joints, as the data, got 'coco', which "
        "has 17",
        "error: val_data.npy: layout: expected 'coco', as of train_data.npy, got 'human3.6m'",
    ]


def test_one_class_is_an_error_of_training_data_alone(tmp_path, capsys):
    root, data = tmp_path / "data", np.random.default_rng(0).random((12, 2, 8, 18, 1))
    data = data.astype(np.float32)
    for number, prefix in enumerate(("val", "train", "test")):
        save_labelled(root, prefix, data[4 * number :][:4], [1] * 4, "openpose")
    errors = [text for text in faults_of(root, tmp_path, capsys) if text.startswith("error")]
    assert errors == [
        "error: train_label.json: expected samples of at least 2 classes, got only class 1"
    ]


def test_channels_and_joints_are_told_as_training_tells_them(tmp_path, capsys):
    root, data = tmp_path / "data", np.random.default_rng(0).random((4, 3, 8, 18, 1))
    data = data.astype(np.float32)
    data[:, :, :, LAYOUTS["openpose"].centre_index] = 0  # centred
    data[:, :, :, 4] = 0.5
    data[1, 2, 3, 5] = 93
    save_labelled(root, "train", data, [0, 1, 0, 1], "openpose")
    said = faults_of(root, tmp_path, capsys)
    assert said[:2] == [
        "note: train_data.npy: channel 2 is in [0, 93], expected a confidence in [0, 1]",
        "note: train_data.npy: 1 joints never change: 'right_wrist'",
    ]


def store_of(folder, labels, classes=("a", "b")):
    """A store of six samples, labels inside, in two shards."""
    data, _ = waves(6, 5)
    with ShardWriter(folder, class_names=classes, shard_bytes=3 * data[0].nbytes) as writer:
        for i, (sample, label) in enumerate(zip(data, labels, strict=True)):
            writer.add(sample, id=f"s{i}", label=label)
    return sorted(folder.glob("*.npy"))


def test_v32_the_labels_and_checksums_of_stores_are_looked_at(tmp_path, capsys):
    root = tmp_path / "data"
    store_of(root / "train_data", [0, 1, 0, 1, 0, 0])
    store_of(root / "bare_data", [-1] * 6)
    for shard in store_of(root / "hurt_data", [0, 0, 5, 1, -1, 0]):
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    code, facts, _ = check(root, tmp_path / "found", capsys)
    said = [
        f"{fault['kind']}: {fault['where']}: {fault['what']}".replace(f"{root}/", "")
        for fault in facts["faults"]
    ]
    assert code == 3
    assert facts["classes"]["train_data"] == {"a": 4, "b": 2}
    assert facts["classes"]["bare_data"] == {"": 6}
    expected = [
        r"error: hurt_data/skeletons-00000.npy: expected sha256 [0-9a-f]{16}\.\.\., got ",
        r"error: hurt_data/skeletons-00001.npy: expected sha256 ",
        r"error: hurt_data: labels\[2\]: expected an integer in \[0, 2\), got 5 \(and 1 more\)",
        r"note: bare_data: no labels in it \(bare_label.json, ",
    ]
    copies = ("samples are also in", "nearly the same")  # it is the same six in all of them
    lines = [line for line in said if not any(words in line for words in copies)]
    assert [p for p in expected if not any(re.match(p, line) for line in lines)] == []
    assert len(lines) == len(expected)


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["check"], 2, "expected kineme check DATA [LABELS] [results_dir=FOLDER] [window=FRAMES]"),
        (["check", "gone"], 3, "gone: expected a folder, a file of data or an archive"),
        (["check", "{}", "results_dir={}/found"], 2, "results_dir: expected a folder outside"),
        (["check", "{}"], 3, "expected videos in class folders, or skeletons in .npy files, got n"),
        (
            ["check", "s3://a:b@c/d"],
            2,
            "check: expected a path on this machine, got an address (s3",
        ),
        (["look", "{}"], 2, "expected kineme check DATA [LABELS]"),
        (["check", "{}", "window=0"], 2, "window: expected a number of frames, got '0'"),
        (["check", "{}", "{}/none.csv"], 3, "none.csv: expected a file of labels: .json, .csv or"),
    ],
)
def test_words_that_are_no_check_are_refused(tmp_path, capsys, words, code, expected):
    filled = [word.format(tmp_path) for word in words]
    assert cli.main(["data", *filled]) == code
    assert expected in capsys.readouterr().err


def test_a_misspelled_label_is_told_with_what_to_do_on_stderr_and_on_the_page(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "train_data.npy", np.ones((3, 3, 4, 17, 1), np.float32))
    labels = ("squat", "sqat", "lunge")
    samples = [{"id": f"s{i}", "label": label} for i, label in enumerate(labels)]
    text = json.dumps({"classes": ["lunge", "squat"], "samples": samples})
    (folder / "train_label.json").write_text(text)
    assert cli.main(["data", "check", str(folder), f"results_dir={tmp_path / 'found'}"]) == 3
    told = capsys.readouterr()
    line = "labels[1]: expected one of lunge, squat, got 'sqat'. Did you mean 'squat'?"
    assert f"error: {folder / 'train_label.json'}: {line}\n" in told.err
    assert "sqat" not in told.out
    assert "1 errors" in told.out
    page = (tmp_path / "found" / "data_check.html").read_text()
    assert "Did you mean &#39;squat&#39;?" in page


def test_validation_data_that_training_would_refuse_are_errors(tmp_path, capsys):
    root, draw = tmp_path / "data", np.random.default_rng(0)
    data = draw.random((4, 3, 8, 20, 1)).astype(np.float32)
    save_labelled(root, "train", data, [0, 1, 0, 1], None)
    save_labelled(root, "val", data[:, :2, :, :17], [0, 1, 0, 1], None)
    (root / "val_label.json").write_text('{"classes": ["c"], "samples": [' + ", ".join(
        f'{{"id": "{i}", "label": "c"}}' for i in range(4)) + "]}")  # fmt: skip
    (root / "test_label.json").write_text('{"classes": ["b", "a"], "samples": [' + ", ".join(
        f'{{"id": "{i}", "label": {i % 2}}}' for i in range(4)) + "]}")  # fmt: skip
    np.save(root / "test_data.npy", data + 1)
    (root / "test2_label.csv").write_text("id,label\na,0\nb,7\nc,1\nd,0\n")
    np.save(root / "test2_data.npy", data + 2)
    errors = [text for text in faults_of(root, tmp_path, capsys) if text.startswith("error")]
    assert [text.partition(". ")[0] for text in errors] == [
        "error: test2_label.csv: labels[1]: expected a class of train_data.npy, from 0 to 1, got 7 "
        "(1 such labels)",
        "error: val_data.npy: expected 3 channels, as train_data.npy, got 2",
        "error: val_data.npy: expected 20 joints, as train_data.npy, got 17",
        "error: val_label.json: labels[0]: expected one of a, b, got 'c' (and 3 more)",
    ]
