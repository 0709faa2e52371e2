"""Validation videos, or parts of them, that are in the training data too."""

import pytest

from clips_made import make_video
from kineme.action_recognition.sources import complete, load_videos
from kineme.action_recognition.spec import SPECS
from kineme.errors import DataError
from kineme.network import TRAIN, VAL
from kineme.spec.load import load_spec, with_values
from video_folders import save_classes, save_tao


def test_v30_validation_videos_that_training_has_too_are_told_and_can_be_refused(tmp_path):
    save_classes(tmp_path / "train", classes=("catch", "smile"), per_class=2)
    save_classes(tmp_path / "val", classes=("catch", "smile"), per_class=1)
    save_tao(tmp_path / "val" / "catch" / "v0", 4, seed=90)
    save_tao(tmp_path / "val" / "catch" / "new", 4, seed=91)
    words = {"dataset.train_dataset_dir": str(tmp_path / "train")}
    words |= {"dataset.val_dataset_dir": str(tmp_path / "val"), "results_dir": "r"}
    spec, _ = complete(load_spec(SPECS["train"], words)[0], TRAIN)
    note = (
        f"{tmp_path / 'val'}: 1 of 3 samples are also in {tmp_path / 'train'}: smile/v0. "
        "A figure measured on them flatters."
    )
    assert note in load_videos(spec, VAL).notes
    spec = with_values(spec, {"dataset.fail_on_leakage": True})
    with pytest.raises(DataError, match=r"expected no video of the training data, got .*smile/v0"):
        load_videos(spec, VAL)


@pytest.mark.parametrize(
    ("train", "val", "is_shared"),
    [
        (",", ",", True), (",", "0,0.5", True), ("0,0.6", ",", True), ("0,0.6", "0.2,0.9", True),
        ("0,0.5", "0.5,", False), ("0,0.5", "0.45,1", False), ("0.5,", ",0.3", False),
    ],
)  # fmt: skip
def test_v30_a_stretch_that_training_has_seen_part_of_is_told(tmp_path, train, val, is_shared):
    for name in ("catch", "smile"):
        make_video(tmp_path / f"{name}.mp4", 25)
    (tmp_path / "smile.mp4").write_bytes((tmp_path / "catch.mp4").read_bytes() + b"other")
    rows = [
        "path,label,split,start,end", "smile.mp4,b,train,,", f"catch.mp4,a,train,{train}",
        f"catch.mp4,a,val,{val}",
    ]  # fmt: skip
    (tmp_path / "l.csv").write_text("\n".join(rows))
    words = dict.fromkeys(
        ("dataset.train_dataset_dir", "dataset.val_dataset_dir"), str(tmp_path / "l.csv")
    )
    spec, _ = complete(load_spec(SPECS["train"], {**words, "results_dir": "r"})[0], TRAIN)
    told = [note for note in load_videos(spec, VAL).notes if "samples are also in" in note]
    assert len(told) == is_shared
    if is_shared:
        with pytest.raises(DataError, match="1 of 1 samples are also in"):
            load_videos(with_values(spec, {"dataset.fail_on_leakage": True}), VAL)
