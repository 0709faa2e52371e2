"""Action recognition from archives to answers: the product text as written, faults, forms.

Rows I01, I05 to I09, I16, I17, V08 of docs/faults.md where actions meet them.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from clips_made import make_video, number_in
from kineme import cli
from kineme.action_recognition import clips, network
from kineme.action_recognition.network import NETWORK
from kineme.action_recognition.samples import Video
from kineme.action_recognition.spec import SPECS
from kineme.actions import evaluate, export, inference, train
from kineme.data.clip_sampling import Sampling, eval_clips
from kineme.engine.results import read_metrics
from kineme.errors import CheckpointError, DataError, PartialError
from kineme.network import Answers, Remarks
from kineme.spec.load import load_spec
from stick import rows_of
from video_folders import pack, save_classes, save_tao, spec_for

SMALL = {  # beside what the product text says: for a laptop, and seconds
    "device": "cpu", "dataset.workers": 0, "model.input_width": 32, "model.input_height": 32,
    "dataset.augmentation_config.crop_smaller_edge": 32, "train.tensorboard": False,
}  # fmt: skip


def product_text(s3_train):
    """The override blocks of TAO's product text; `s3_train` is where the archives are."""
    return {
        "train": {
            "train.num_epochs": 30,
            "train.checkpoint_interval": 10,
            "train.validation_interval": 10,
            "train.num_gpus": 1,
            "dataset.label_map": {"catch": 0, "smile": 1},
            "dataset.batch_size": 2,
            "dataset.train_dataset_dir": f"{s3_train}/train.tar.gz",
            "dataset.val_dataset_dir": f"{s3_train}/test.tar.gz",
        },
        "evaluate": {"evaluate.test_dataset_dir": f"{s3_train}/test.tar.gz"},
        "inference": {"inference.inference_dataset_dir": f"{s3_train}/test/smile.tar.gz"},
        "export": {},
    }


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The archives of the product text: train.tar.gz, test.tar.gz, test/smile.tar.gz."""
    folder = tmp_path_factory.mktemp("s3")
    made = save_classes(folder / "made", 5)
    (folder / "test").mkdir()
    pack(folder / "train.tar.gz", made, inside="train")
    pack(folder / "test.tar.gz", made, inside="test")
    pack(folder / "test" / "smile.tar.gz", made / "smile", inside="smile")
    return folder


def run_text(action, shipped, results, values, **more):
    """What a runner does: the block of the text, and what it infers (results, parent model)."""
    inferred = {"results_dir": str(results), "dataset.cache_dir": str(shipped / "cache")}
    if action != "train":
        inferred[f"{action}.checkpoint"] = str(results / "train" / "ar_model_latest.pth")
    spec, _ = load_spec(SPECS[action], None, {**inferred, **values, **more})
    actions = {"train": train, "evaluate": evaluate, "inference": inference, "export": export}
    return actions[action].run(NETWORK, spec)


@pytest.fixture(scope="module")
def trained(shipped, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    torch.set_num_threads(1)
    run_text("train", shipped, results, {**product_text(shipped)["train"], **SMALL})
    return results


def later(action, trained, where, results, *words):
    """A spec of a later action on the data at `where`."""
    key = {"evaluate": "test_dataset_dir", "inference": "inference_dataset_dir"}[action]
    base = [
        f"results_dir={results}", f"{action}.checkpoint={trained / 'train/ar_model_latest.pth'}",
        f"{action}.{key}={where}", "dataset.workers=0", "device=cpu",
    ]  # fmt: skip
    return load_spec(SPECS[action], None, [*base, *words])[0]


# The product text


def test_the_train_block_of_the_product_text_runs_as_written(trained):
    names = sorted(path.name for path in (trained / "train").glob("model_epoch_*"))
    assert names == [f"model_epoch_{e:03d}_step_{2 * (e + 1):05d}.pth" for e in (9, 19, 29)]
    rows = read_metrics(trained / "train" / "metrics.csv")
    assert [row["epoch"] for row in rows if row["val_acc"]] == ["9", "19", "29"]
    said = [json.loads(x) for x in (trained / "train/status.json").read_text().splitlines()]
    assert said[0]["message"] == "Starting Action Recognition train."
    assert set(said[-1]["kpi"]) >= {"train_loss", "train_acc", "val_loss", "val_acc"}


def test_the_later_blocks_of_the_product_text_run_as_written(shipped, trained, capsys):
    text = product_text(shipped)
    more = {"device": "cpu", "dataset.workers": 0}
    facts = run_text("evaluate", shipped, trained, text["evaluate"], **more)
    assert set(facts) == {"accuracy", "m_accuracy"}
    out = capsys.readouterr().out.splitlines()
    assert out[0] == out[3] == "*" * 31
    assert out[1].startswith("catch         ")
    assert out[4] == f"Total accuracy: {facts['accuracy']:.3f}"
    assert out[5] == f"Average class accuracy: {facts['m_accuracy']:.3f}"
    run_text("inference", shipped, trained, text["inference"], **more)
    labels = [row["label"] for row in rows_of(trained / "inference" / "predictions.csv")]
    assert capsys.readouterr().out.splitlines() == [
        f"smile/v{i} : ['{label}']" for i, label in enumerate(labels)
    ]
    written = (trained / "inference" / "results.txt").read_text().splitlines()
    assert written == [f"smile/v{i} : ['{label}']" for i, label in enumerate(labels)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_product_text_runs_with_nothing_added(shipped, tmp_path):
    """224 pixels, 8 workers, resnet_18: what the text leaves to the defaults."""
    text = product_text(shipped)
    for action in ("train", "evaluate", "inference", "export"):
        run_text(action, shipped, tmp_path, text[action])
    assert (tmp_path / "export" / "model.onnx").stat().st_size > 10_000_000


# Upstream's forms


def test_evaluation_prints_a_line_per_class_and_both_means():
    facts = {
        "accuracy": 91.66667, "m_accuracy": 87.5,
        "classes": [{"label": "catch", "accuracy": 100.0}, {"label": "a very long name", "accuracy":
                    66.66667}, {"label": "smile", "accuracy": None}],
    }  # fmt: skip
    assert network.score_text(facts).splitlines() == [
        "*" * 31, "catch         100", "a very long name66.67", "smile         n/a", "*" * 31,
        "Total accuracy: 91.667", "Average class accuracy: 87.500",
    ]  # fmt: skip


class _Named:
    ids = ("catch/a", "catch/b", "smile/c")


def test_inference_prints_the_labels_of_all_clips_of_a_video():
    rows = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32))
    scores = np.full((3, 2), np.nan, np.float32)
    answers = Answers(scores, rows, np.array([0, 0, 2]), Remarks(failed={1: "torn"}))
    assert network.answer_text(_Named(), answers, ("catch", "smile")) == (
        "catch/a : ['catch', 'smile']\nsmile/c : ['smile']\n"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"input_rgb": (3, 9, 24, 32)}),
        (("model.input_type=3d", "model.rgb_seq_length=8"), {"input_rgb": (3, 3, 8, 24, 32)}),
        (("model.model_type=of",), {"input_of": (3, 20, 24, 32)}),
        (("model.model_type=of", "model.input_type=3d"), {"input_of": (3, 2, 10, 24, 32)}),
        (("model.model_type=joint",), {"input_rgb": (3, 9, 24, 32), "input_of": (3, 20, 24, 32)}),
        (("model.temporal=shift", "model.backbone=efficientnet_lite0"),
         {"input_rgb": (3, 3, 3, 24, 32)}),
    ],
)  # fmt: skip
def test_an_exported_model_has_taos_names_and_shapes(words, expected):
    size = ("model.input_height=24", "model.input_width=32",
            "dataset.augmentation_config.crop_smaller_edge=32")  # fmt: skip
    form = network.export_form(spec_for("data", "train", *size, *words, "dataset.label_map={a: 0}"))
    names = form.names
    assert {names[word]: tuple(x.shape) for word, x in form.examples.items()} == expected
    assert list(names.values()) == list(expected)  # rgb before of
    assert form.dynamic == {word: {0: "batch"} for word in form.examples}
    assert form.output == "fc_pred"


def test_an_exported_model_says_what_it_expects():
    words = ("model.model_type=joint", "dataset.label_map={smile: 1, catch: 0}",
             "dataset.flow_bound=15")  # fmt: skip
    spec = spec_for("data", "train", *words)
    said = {key: json.loads(value) for key, value in network.export_form(spec).metadata.items()}
    assert said == {
        "network": "action_recognition",
        "labels": ["catch", "smile"],
        "input": "(N, C T, H, W), channel-major, float32: (value / 255 - mean) / std",
        "frames": {"rgb": 3, "of": 10},
        "size": [224, 224],
        "mean": {"rgb": [0.485, 0.456, 0.406], "of": [0.5]},
        "std": {"rgb": [0.229, 0.224, 0.225], "of": [0.5]},
        "sampling": {"strategy": "random_interval", "rate": 1, "short_clip": "pad"},
        "crop": {"is_centred": False, "short_side": 256},
        "flow": {"method": "dis", "scaling": "fixed", "bound": 15.0, "short_side": 256},
    }


# Videos that cannot be read


def tear(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.fixture
def with_bad(tmp_path):
    """Ten videos; three of them bad, each in another way."""
    save_classes(tmp_path / "d", 5, per_class=5)
    tear(tmp_path / "d" / "catch" / "v1" / "rgb" / "000002.png")
    (tmp_path / "d" / "catch" / "v3" / "rgb" / "000000.png").write_bytes(b"")
    for path in (tmp_path / "d" / "smile" / "v4" / "rgb").iterdir():
        path.unlink()
    return tmp_path / "d"


def test_i01_the_good_are_answered_and_the_bad_have_a_reason(trained, with_bad, tmp_path):
    with pytest.raises(PartialError) as caught:
        inference.run(NETWORK, later("inference", trained, with_bad, tmp_path))
    assert caught.value.exit_code == 8
    assert (
        "expected all 10 samples to be answered, got 3 that failed, the first 'catch/v1': "
        in str(caught.value)
    )
    folder = tmp_path / "inference"
    rows = rows_of(folder / "predictions.csv")
    whole = [f"{name}/v{i}" for name in ("catch", "smile") for i in range(5)]
    bad = ["catch/v1", "catch/v3", "smile/v4"]
    assert [row["id"] for row in rows] == [name for name in whole if name not in bad]
    failed = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert [line["id"] for line in failed] == bad
    assert [line["reason"] for line in failed] == [
        "expected a whole PNG, got one that is cut off or fails its check",
        "expected a PNG, JPEG, WebP or BMP image, got an empty file",
        "expected frames in rgb/, as model.model_type is rgb, got none in rgb/",
    ]
    assert len((folder / "results.txt").read_text().splitlines()) == 7


def test_i01_a_share_of_bad_videos_can_be_allowed(trained, with_bad, tmp_path, capsys):
    words = ["inference.max_bad=0.3"]
    inference.run(NETWORK, later("inference", trained, with_bad, tmp_path, *words))
    assert "note: " in capsys.readouterr().err


def test_v08_an_evaluation_is_of_all_videos_unless_told_otherwise(trained, with_bad, tmp_path):
    with pytest.raises(DataError) as caught:
        evaluate.run(NETWORK, later("evaluate", trained, with_bad, tmp_path))
    assert len(caught.value.problems) == 2  # the torn frame is only met when it is read
    words = ["dataset.bad_sample=skip"]
    with pytest.raises(PartialError):
        evaluate.run(NETWORK, later("evaluate", trained, with_bad, tmp_path, *words))
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert (measured["samples"], measured["failed"]) == (7, 3)
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    right = sum(row["label"] == row["truth"] for row in rows)
    assert measured["accuracy"] == pytest.approx(100 * right / 7, abs=1e-4)
    assert [sum(line) for line in measured["confusion"]] == [3, 4]
    told = "3 of 10 samples failed and are in none of these figures (failed.jsonl), the first "
    assert told in (tmp_path / "evaluate" / "report.html").read_text()


def test_v08_where_none_can_be_read_the_reason_is_said(trained, tmp_path):
    save_tao(tmp_path / "d" / "a", 5)
    tear(tmp_path / "d" / "a" / "rgb" / "000002.png")
    with pytest.raises(PartialError, match="1 that failed, the first 'a': expected a whole PNG"):
        inference.run(NETWORK, later("inference", trained, tmp_path / "d", tmp_path))
    assert rows_of(tmp_path / "inference" / "predictions.csv") == []
    words = ["dataset.bad_sample=skip"]
    save_tao(tmp_path / "e" / "catch" / "a", 5)
    tear(tmp_path / "e" / "catch" / "a" / "rgb" / "000002.png")
    with pytest.raises(PartialError):
        evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "e", tmp_path, *words))
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert (measured["samples"], measured["accuracy"], measured["loss"]) == (0, None, None)


def test_v08_training_goes_on_without_a_bad_video_and_says_so(with_bad, tmp_path, capsys):
    words = [
        "action_recognition", "train", f"results_dir={tmp_path}", "train.num_epochs=1",
        f"dataset.train_dataset_dir={with_bad}", f"dataset.val_dataset_dir={with_bad}",
        "dataset.batch_size=4", *(f"{key}={value}" for key, value in SMALL.items()),
        "model.backbone=efficientnet_lite0", "model.temporal=shift",
    ]  # fmt: skip
    assert cli.main(words) == 3
    assert capsys.readouterr().err.count("error: ") == 4  # two bad ones, in both sets
    assert cli.main([*words, "dataset.bad_sample=skip"]) == 0
    said = capsys.readouterr().err
    assert "2 of 10 videos cannot be read and are left out, the first 'catch/v3'" in said
    assert "is seen in its place" in said
    assert (
        "note: 1 of 8 validation samples cannot be read and are left out, the first 'catch/v1': "
        "expected a whole PNG" in said
    )


# Names, numbers and classes


def test_i05_any_class_name_comes_back_from_every_file(tmp_path):
    names = sorted(["a,\"b'", "line\nbreak", "\U0001f468 paints"])
    save_classes(tmp_path / "d", 4, classes=names, per_class=1)
    spec = spec_for(
        tmp_path / "d", "train", f"results_dir={tmp_path}", "train.num_epochs=1",
        f"dataset.val_dataset_dir={tmp_path / 'd'}", "model.backbone=efficientnet_lite0",
        "model.temporal=shift", *(f"{key}={value}" for key, value in SMALL.items()),
    )  # fmt: skip
    train.run(NETWORK, spec)
    evaluate.run(NETWORK, later("evaluate", tmp_path, tmp_path / "d", tmp_path))
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    assert [row["truth"] for row in rows] == names
    lines = (tmp_path / "evaluate" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["truth"] for line in lines] == names
    assert [row["label"] for row in rows_of(tmp_path / "evaluate" / "per_class.csv")] == names
    inference.run(NETWORK, later("inference", tmp_path, tmp_path / "d", tmp_path))
    text = (tmp_path / "inference" / "results.txt").read_text()
    assert len(text.splitlines()) == 3


def test_i06_a_model_of_another_network_or_shape_is_named(trained, tmp_path):
    save_tao(tmp_path / "d" / "catch" / "a", 5)
    content = torch.load(trained / "train" / "ar_model_latest.pth", weights_only=True)
    content["state_dict"]["model.conv1.weight"] = torch.zeros(64, 6, 7, 7)
    torch.save(content, tmp_path / "shape.pth")
    content["kineme"]["network"] = "pose_classification"
    torch.save(content, tmp_path / "pose.pth")
    (tmp_path / "text.pth").write_text("not a model")
    for name, expected in (
        ("shape.pth", r"conv1\.weight: expected shape \(64, 9, 7, 7\), got shape \(64, 6, 7, 7\)"),
        ("pose.pth", "expected a checkpoint of action_recognition, got one of 'pose_classificat"),
        ("text.pth", "got a file that starts with b'no'"),
        ("none.pth", "expected a checkpoint, got no such file"),
    ):
        words = [f"evaluate.checkpoint={tmp_path / name}"]
        with pytest.raises(CheckpointError, match=expected) as caught:
            evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "d", tmp_path, *words))
        assert caught.value.exit_code == 4


def test_i07_one_video_none_and_a_batch_larger_than_the_data(trained, tmp_path):
    save_tao(tmp_path / "d" / "smile" / "a", 5)
    words = ["evaluate.batch_size=64"]
    facts = evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "d", tmp_path, *words))
    assert facts["accuracy"] in (0, 100)
    (tmp_path / "none").mkdir()
    for action, run in (("evaluate", evaluate.run), ("inference", inference.run)):
        spec = later(action, trained, tmp_path / "none", tmp_path)
        with pytest.raises(DataError) as caught:
            run(NETWORK, spec)
        assert caught.value.exit_code == 3


def test_i08_a_video_that_comes_twice_is_answered_twice_alike(trained, tmp_path):
    for i in range(3):
        save_tao(tmp_path / "d" / f"v{i}", 5, seed=40 * i)
        shutil.copytree(tmp_path / "d" / f"v{i}", tmp_path / "d" / f"w{2 - i}")
    words = ["inference.batch_size=4"]
    inference.run(NETWORK, later("inference", trained, tmp_path / "d", tmp_path, *words))
    rows = rows_of(tmp_path / "inference" / "predictions.csv")
    assert [row["id"] for row in rows] == ["v0", "v1", "v2", "w0", "w1", "w2"]
    for i in range(3):
        assert rows[i]["label"] == rows[5 - i]["label"]
        first, second = (float(rows[k]["probability"]) for k in (i, 5 - i))
        assert first == pytest.approx(second, abs=1e-6)


def _numbered(number):
    """(32, 40, 3): the lowest ten bits of a number as blocks, as `number_in` reads them."""
    bits = [235 * (number >> bit & 1) for bit in range(10)]
    return np.broadcast_to(np.repeat(bits, 4)[None, :, None], (32, 40, 3)).astype(np.uint8)


def test_i09_an_hour_of_one_frame_a_second_is_read_where_its_clips_are(tmp_path):
    path = make_video(
        tmp_path / "hour.mp4", fps=1, height=32, width=40, group=60,
        options={"preset": "ultrafast"}, frames=map(_numbered, range(3600)),
    )  # fmt: skip
    video = Video("hour.mp4", path, -1, num_frames=3600, fps=1.0, size=(32, 40))
    chosen = eval_clips(3600, 8, Sampling("consecutive"), mode="conv", num_segments=10)
    assert chosen[:, 0].tolist() == [int((k + 0.5) * 3593 / 10) for k in range(10)]
    frames = clips.read_rgb(video, chosen.reshape(-1), size=(32, 40)).frames
    assert [number_in(frame) for frame in frames] == [k % 1024 for k in chosen.reshape(-1)]


def test_i16_classes_are_matched_by_name(trained, tmp_path):
    save_tao(tmp_path / "d" / "smile" / "a", 5)
    save_tao(tmp_path / "d" / "catch" / "b", 5)
    (tmp_path / "l.csv").write_text("path,label\nd/smile/a,smile\nd/catch/b,catch\n")
    evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "l.csv", tmp_path))
    rows = rows_of(tmp_path / "evaluate" / "predictions.csv")
    assert [row["truth"] for row in rows] == ["smile", "catch"]
    words = ["dataset.label_map={smile: 0, catch: 1}"]
    with pytest.raises(CheckpointError, match=r"dataset\.label_map: expected .*'catch': 0"):
        evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "l.csv", tmp_path, *words))
    (tmp_path / "l.csv").write_text("path,label\nd/smile/a,laugh\n")
    with pytest.raises(CheckpointError, match="got 'laugh', which it does not have"):
        evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "l.csv", tmp_path))


def test_i17_absent_classes_are_n_a_and_one_class_is_enough(trained, tmp_path, recwarn, capsys):
    save_classes(tmp_path / "d", 5, classes=("smile",))
    facts = evaluate.run(NETWORK, later("evaluate", trained, tmp_path / "d", tmp_path))
    assert facts["m_accuracy"] == facts["accuracy"]
    table = rows_of(tmp_path / "evaluate" / "per_class.csv")
    assert [(row["label"], row["samples"]) for row in table] == [("catch", "0"), ("smile", "2")]
    assert table[0]["accuracy"] == "n/a"
    said = capsys.readouterr()
    assert "catch         n/a" in said.out
    assert f"note: {tmp_path / 'd'}: no videos of 1 classes: catch." in said.err
    assert [w for w in recwarn if issubclass(w.category, RuntimeWarning)] == []
