"""What is known of how a data set came about travels with its labels, up to the checkpoint."""

import json

import numpy as np
import pytest

from kineme.data.labels import Labels, read_labels, renumbered, write_labels
from kineme.data.origin import UNKNOWN_ORIGIN, Origin, origin_of, read_origin
from kineme.data.shards import INDEX_NAME, ShardWriter, open_shards
from kineme.errors import DataError
from kineme.pose_classification.network import build_dataset
from kineme.pose_classification.spec import SPECS
from kineme.pose_classification.training_data import describe_data
from kineme.spec.load import load_spec

KNOWN = Origin("blazepose", clip_seconds=2.5, fps=15.0)


def test_the_length_is_that_of_the_middle_clip_among_those_with_a_rate():
    clips = [(30, 15.0), (60, 30.0), (100, 25.0), (99, 0.0)]  # 2 s, 2 s, 4 s, and who knows
    assert origin_of(clips, {"movenet"}) == Origin("movenet", 2.0, 25.0)
    assert origin_of(clips, {"movenet", "blazepose"}) == Origin("", 2.0, 25.0)
    assert origin_of([(99, 0.0)], {""}) == UNKNOWN_ORIGIN
    assert UNKNOWN_ORIGIN.known() == {}


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ([1], "a list"), ({"estimator": 3}, "estimator 3"), ({"fps": -1}, "fps -1"),
        ({"fps": True}, "fps True"), ({"clip_seconds": float("inf")}, "clip_seconds inf"),
        ({"fps": float("nan")}, "fps nan"), ({"fps": 10**400}, r"fps 10+\.\.\."),
    ],
)  # fmt: skip
def test_what_a_file_says_is_checked(value, wrong):
    with pytest.raises(ValueError, match=wrong):
        read_origin(value)


def test_labels_carry_it_and_are_as_ever_where_nothing_is_known(tmp_path):
    labels = Labels(("a", "b"), np.array([0, 1]), ("x", "y"), "coco", KNOWN)
    write_labels(tmp_path / "a.json", labels)
    assert json.loads((tmp_path / "a.json").read_text())["origin"] == {
        "estimator": "blazepose", "clip_seconds": 2.5, "fps": 15.0,
    }  # fmt: skip
    read = read_labels(tmp_path / "a.json")
    assert read.origin == KNOWN
    assert renumbered(read, {"y": 0, "x": 1}, where="a").origin == KNOWN
    write_labels(tmp_path / "b.json", Labels(("a",), np.array([0]), ("x",)))
    assert (tmp_path / "b.json").read_text().startswith('{"classes": ["x"], "layout": null, "sam')
    (tmp_path / "c.json").write_text('{"classes": ["x"], "origin": {"fps": "1"}, "samples": []}')
    with pytest.raises(DataError, match=r"c\.json: origin: expected estimator, a name; clip_sec"):
        read_labels(tmp_path / "c.json")


def test_stores_carry_it_and_are_as_ever_where_nothing_is_known(tmp_path):
    for name, origin in (("known", KNOWN), ("unknown", UNKNOWN_ORIGIN)):
        with ShardWriter(tmp_path / name, origin=origin) as writer:
            writer.add(np.ones((3, 2, 4, 1)), id="a")
        assert open_shards(tmp_path / name).labels.origin == origin
    index = json.loads((tmp_path / "unknown" / INDEX_NAME).read_text())
    assert "origin" not in index
    (tmp_path / "unknown" / INDEX_NAME).write_text(json.dumps(index | {"origin": {"fps": "1"}}))
    with pytest.raises(DataError, match="origin: fps '1'"):
        open_shards(tmp_path / "unknown")


def test_a_checkpoint_is_told_of_frames_places_people_in_them_and_of_the_origin(tmp_path):
    data = np.zeros((4, 3, 5, 17, 3), np.float32)
    data[..., 0] = data[2, ..., 1] = 0.5  # one sample of two people, in three places
    np.save(tmp_path / "train_data.npy", data)
    labels = Labels(tuple("abcd"), np.arange(4) % 2, ("x", "y"), "coco", KNOWN)
    write_labels(tmp_path / "train_label.json", labels)

    def told(*words):
        where = f"dataset.train_dataset.data_path={tmp_path}"
        asked = [where, "results_dir=x", "model.graph_layout=coco", "dataset.num_classes=2"]
        return describe_data(
            build_dataset(load_spec(SPECS["train"], None, [*asked, *words])[0], "train")
        )

    origin = {"estimator": "blazepose", "clip_seconds": 2.5, "fps": 15.0}
    frames = {"num_frames": 5, "min_frames": 5, "y_up": 0, "has_depth": False}
    assert told() == {"num_persons": 3, "max_persons": 2, **frames, **origin}
    one = {"num_persons": 1, "max_persons": 1}
    assert told("dataset.num_persons=1") == {**one, **frames, **origin}
    data[1, :, 3:] = 0
    np.save(tmp_path / "train_data.npy", data)
    assert told() == {"num_persons": 3, "max_persons": 2, **frames, "min_frames": 3, **origin}
    cut = told("dataset.window_size=4", "dataset.random_choose=true")
    assert (cut["num_frames"], cut["min_frames"]) == (4, 3)
    assert told("dataset.window_size=4")["num_frames"] == 5  # without random_choose nothing is cut


@pytest.mark.parametrize("channels", [1, 2])
def test_data_of_fewer_channels_than_axes_have_neither_depth_nor_a_way_up(tmp_path, channels):
    np.save(tmp_path / "train_data.npy", np.full((4, channels, 5, 17, 1), 0.5, np.float32))
    labels = Labels(tuple("abcd"), np.arange(4) % 2, ("x", "y"))
    write_labels(tmp_path / "train_label.json", labels)
    asked = [
        f"dataset.train_dataset.data_path={tmp_path}", "results_dir=x", "dataset.num_classes=2",
        "model.graph_layout=human3.6m", f"model.input_channels={channels}",
    ]  # fmt: skip
    few = describe_data(build_dataset(load_spec(SPECS["train"], None, asked)[0], "train"))
    assert (few["y_up"], few["has_depth"]) == (0, False)
