"""From paths to videos: folders, lists and archives, and everything that is wrong with them.

Rows V01 to V08, V28 to V31 of docs/faults.md, as far as they are met before training begins.
"""

import os

import numpy as np
import pytest

from clips_made import make_video
from kineme.action_recognition import clips, network, video_flow
from kineme.action_recognition.listing import list_videos
from kineme.action_recognition.sources import complete, load_videos
from kineme.errors import CheckpointError, DataError
from kineme.network import PREDICT
from video_folders import (
    ids_of,
    refused,
    save_classes,
    save_flow,
    save_frames,
    save_tao,
    spec_for,
    videos_at,
)

# Folders


def test_taos_folders_give_labels_from_names_and_natural_order(tmp_path):
    for name in ("v10", "v9", "v1"):
        save_tao(tmp_path / "smile" / name, 5, flow=True)
    save_tao(tmp_path / "catch" / "x", 3)
    found = videos_at(tmp_path)
    assert ids_of(found) == ["catch/x", "smile/v1", "smile/v9", "smile/v10"]
    assert found.labels.tolist() == [0, 1, 1, 1]
    assert [(v.num_frames, v.num_flow, v.size) for v in found.items[:2]] == [
        (3, 2, (12, 16)), (5, 4, (12, 16)),
    ]  # fmt: skip
    assert [path.name for path in found.items[1].u] == [f"{k:06d}.png" for k in range(4)]


def test_empty_flow_folders_beside_frames_that_count_from_one_are_no_matter(tmp_path):
    """As TAO's recipe leaves a video where only colour was extracted."""
    for name in ("catch/a", "smile/b"):
        save_frames(tmp_path / name / "rgb", range(1, 6))
        for stream in ("u", "v"):
            (tmp_path / name / stream).mkdir()
    found = videos_at(tmp_path)
    assert ids_of(found) == ["catch/a", "smile/b"]
    assert [len(video.u) for video in found.items] == [0, 0]
    assert [[path.name for path in video.rgb] for video in found.items] == [
        [f"{k:06d}.png" for k in range(1, 6)]
    ] * 2


def test_frames_without_rgb_are_a_video_too_and_files_beside_them(tmp_path):
    save_frames(tmp_path / "catch" / "plain", range(3))
    make_video(tmp_path / "catch" / "film.mp4", 6)
    (tmp_path / "smile").mkdir()
    make_video(tmp_path / "smile" / "g.gif", 5, codec="gif", pixels="rgb8")
    found = videos_at(tmp_path)
    assert ids_of(found) == ["catch/film.mp4", "catch/plain", "smile/g.gif"]
    assert [video.num_frames for video in found.items] == [6, 3, 5]
    assert [video.is_file for video in found.items] == [True, False, True]
    assert found.items[0].fps == 25


def test_v06_what_is_no_video_is_passed_over(tmp_path):
    save_classes(tmp_path, classes=("catch",), per_class=1)
    for name in (".DS_Store", "catch/.hidden.mp4", "catch/notes.txt", "catch/v0/rgb/Thumbs.db",
                 "catch/v0/rgb/._000000.png", "labels.txt"):  # fmt: skip
        (tmp_path / name).write_text("x")
    save_tao(tmp_path / "__MACOSX" / "v")
    save_tao(tmp_path / ".cache" / "v")
    (tmp_path / "catch" / "empty").mkdir()
    found = videos_at(tmp_path)
    assert ids_of(found) == ["catch/v0"]
    assert [path.name for path in found.items[0].rgb] == [f"{k:06d}.png" for k in range(4)]


def test_videos_that_are_passed_over_are_told(tmp_path):
    save_classes(tmp_path, classes=("catch",), per_class=1)
    save_tao(tmp_path / "catch" / "ben" / "v1")
    for name in ("stray.mp4", "catch/w.ogv", "catch/ben/v2.mp4", "notes.txt"):
        (tmp_path / name).write_text("x")
    found = videos_at(tmp_path)
    assert ids_of(found) == ["catch/v0"]
    told = (
        f"{tmp_path}: passed over, as they are not where videos are looked for, or of another "
        "kind: 2 files of videos (the first 'stray.mp4') and 1 folders of videos (the first "
        "'catch/ben')."
    )
    assert found.notes == (told,)
    assert list_videos(tmp_path, PREDICT).notes == (
        f"{tmp_path}: passed over, as they are not where videos are looked for, or of another "
        "kind: 1 folders of videos (the first 'catch').",
    )


def test_v05_unpadded_names_come_in_the_order_of_time(tmp_path):
    save_frames(tmp_path / "catch" / "v" / "rgb", range(1, 13), name="frame{}.png")
    (video,) = videos_at(tmp_path).items
    seen = clips.read_rgb(video, np.arange(12), size=(12, 16)).frames
    assert seen[:, 0, 0, 0].tolist() == list(range(1, 13))


def test_v07_gaps_in_the_numbers_are_counted(tmp_path):
    save_classes(tmp_path, per_class=1)
    save_frames(tmp_path / "smile" / "gap" / "rgb", (0, 1, 2, 5, 6))
    found = videos_at(tmp_path)
    assert found.notes == (
        "1 of 3 videos have gaps in the numbers of their frames, the first 'smile/gap'.",
    )


# What one class folder, one video, is to inference


def test_one_class_folder_is_classified_video_by_video(tmp_path):
    save_classes(tmp_path)
    found = videos_at(tmp_path / "smile", "predict")
    assert ids_of(found) == ["v0", "v1"]
    assert found.labels.tolist() == [-1, -1]
    assert ids_of(videos_at(tmp_path, "predict")) == ["catch/v0", "catch/v1", "smile/v0",
                                                      "smile/v1"]  # fmt: skip


@pytest.mark.parametrize("kind", ["tao", "plain", "file"])
def test_one_video_is_classified_alone(tmp_path, kind):
    where = tmp_path / ("one.mp4" if kind == "file" else "one")
    if kind == "file":
        make_video(where, 5)
    elif kind == "tao":
        save_tao(where, 5, flow=True)
    else:
        save_frames(where, range(5))
        (where / "notes.txt").write_text("x")
    found = videos_at(where, "predict")
    assert [(video.id, video.num_frames) for video in found.items] == [(where.name, 5)]


def test_a_cover_picture_beside_videos_makes_no_video_of_their_folder(tmp_path):
    save_frames(tmp_path, [0], name="cover.png")
    save_tao(tmp_path / "a")
    assert ids_of(videos_at(tmp_path, "predict")) == ["a"]


# V01 to V04: what is missing


def test_v01_a_stream_that_is_missing_is_named_with_the_type_that_needs_it(tmp_path):
    save_tao(tmp_path / "catch" / "a", flow=True)
    save_tao(tmp_path / "catch" / "b")
    save_flow(tmp_path / "smile" / "c")
    assert refused(tmp_path, "train", "model.model_type=joint") == [
        "D/catch/b: expected frames in rgb/ and u/ and v/, as model.model_type is joint, got none "
        "in u/ and v/. dataset_convert makes u/ and v/ from videos.",
        "D/smile/c: expected frames in rgb/ and u/ and v/, as model.model_type is joint, got none "
        "in rgb/.",
    ]
    assert refused(tmp_path, "train", "model.model_type=of")[0].startswith(
        "D/catch/b: expected frames in u/ and v/, as model.model_type is of"
    )
    assert refused(tmp_path) == [
        "D/smile/c: expected frames in rgb/, as model.model_type is rgb, got none in rgb/."
    ]


def test_v02_flow_images_without_a_partner_are_named(tmp_path):
    save_tao(tmp_path / "catch" / "a", 6, flow=True)
    for k in (3, 4):
        os.remove(tmp_path / "catch" / "a" / "v" / f"{k:06d}.png")
    (said,) = refused(tmp_path, "train", "model.model_type=of")
    assert said == (
        "D/catch/a/u/000003.png: expected an image of the same name in v/, got none (5 images in "
        "u/, 3 in v/). Compute the flow again, or remove the image."
    )


def test_v02_more_flow_than_frames_is_an_error_of_joint_models_alone(tmp_path):
    save_frames(tmp_path / "catch" / "a" / "rgb", range(2))
    save_flow(tmp_path / "catch" / "a", range(5))
    (said,) = refused(tmp_path, "train", "model.model_type=joint")
    assert said == (
        "D/catch/a: expected as many frames in rgb/ as in u/, or one more, got 2 in rgb/, 5 in u/. "
        "Extract both from the same video again."
    )
    assert videos_at(tmp_path, "train", "model.model_type=of").items[0].num_flow == 5


def test_v03_short_videos_are_treated_as_the_policy_says_and_told_once(tmp_path):
    save_tao(tmp_path / "catch" / "long", 8)
    save_tao(tmp_path / "catch" / "a", 3, seed=1)
    save_tao(tmp_path / "smile" / "b", 5, seed=2)
    save_tao(tmp_path / "smile" / "long", 7, seed=3)
    words = ["model.rgb_seq_length=6", "model.sample_strategy=consecutive"]
    counted = "2 of 4 videos have fewer than 6 frames ('catch/a' has 3); they are "
    assert videos_at(tmp_path, "train", *words).notes == (
        f"{counted}padded with their last frame.",
    )
    for policy, told in (("loop", "looped."), ("drop", "left out.")):
        found = videos_at(tmp_path, "train", *words, f"dataset.short_clip={policy}")
        assert found.notes == (counted + told,)
        assert len(found.items) == (2 if policy == "drop" else 4)
    fix = "Remove it, or let dataset.short_clip pad, loop or drop it."
    assert refused(tmp_path, "train", *words, "dataset.short_clip=error") == [
        f"catch/a: expected at least 6 frames, got 3. {fix}",
        f"smile/b: expected at least 6 frames, got 5. {fix}",
    ]
    found = videos_at(tmp_path, "predict", *words, "dataset.short_clip=drop")
    assert len(found.items) == 4
    assert found.notes == (
        f"{counted}padded with their last frame, as only training drops videos.",
    )
    assert len(refused(tmp_path, "predict", *words, "dataset.short_clip=error")) == 2


@pytest.mark.parametrize("policy", ["dataset.short_clip=drop", "dataset.bad_sample=skip"])
def test_a_class_of_which_nothing_is_left_is_no_class_to_train(tmp_path, policy):
    for name in ("catch", "jump"):
        save_tao(tmp_path / name / "long", 8)
    if "drop" in policy:
        save_tao(tmp_path / "smile" / "a", 3, seed=1)
    else:
        (tmp_path / "smile").mkdir()
        (tmp_path / "smile" / "a.mp4").write_text("no video at all\n")
    words = ["model.rgb_seq_length=6", "model.sample_strategy=consecutive", policy]
    assert refused(tmp_path, "train", *words) == [
        "D: expected a video of class 'smile' that can be used, got none of 1 (dataset.bad_sample, "
        "dataset.short_clip). Mend them, or take the class out of the data."
    ]
    assert ids_of(videos_at(tmp_path, "val", *words)) in (
        ["catch/long", "jump/long"], ["catch/long", "jump/long", "smile/a"],
    )  # fmt: skip


def test_v03_of_a_joint_model_the_longer_stream_decides(tmp_path):
    save_tao(tmp_path / "catch" / "a", 6, flow=True)
    words = ["model.model_type=joint", "model.rgb_seq_length=6"]
    assert videos_at(tmp_path, "train", *words, "model.of_seq_length=5").notes == ()
    (note,) = videos_at(tmp_path, "train", *words, "model.of_seq_length=6").notes
    assert note.startswith("1 of 1 videos have fewer than 7 frames ('catch/a' has 6)")


def test_v04_empty_and_unknown_and_missing_classes_are_listed_together(tmp_path):
    save_tao(tmp_path / "catch" / "a")
    save_tao(tmp_path / "jump" / "b")
    save_tao(tmp_path / "smile" / "c")
    for path in (tmp_path / "smile" / "c" / "rgb").iterdir():
        path.unlink()
    (tmp_path / "empty").mkdir()
    words = ["dataset.label_map={catch: 0, smile: 1, walk: 2}"]
    known = "classes of dataset.label_map (catch, smile, walk)"
    assert refused(tmp_path, "train", *words) == [
        "D/empty: expected videos or folders of frames, got none.",
        f"D: expected {known}, got 'jump'. Add it to dataset.label_map, or remove its videos.",
        "D: expected videos of class 'walk', got none.",
        "D/smile/c: expected frames in rgb/, as model.model_type is rgb, got none in rgb/.",
    ]


def test_v04_a_class_of_validation_data_that_is_not_learned_can_be_mended_as_said(tmp_path):
    save_classes(tmp_path, classes=("catch", "dance", "smile"), per_class=1)
    words = ["dataset.label_map={catch: 0, smile: 1}"]
    assert refused(tmp_path, "val", *words) == [
        "D: expected classes of the training data (catch, smile), got 'dance'. Add videos of it to "
        "dataset.train_dataset_dir (and to dataset.label_map, if set), or remove it."
    ]


def test_d22_one_class_alone_cannot_be_learned(tmp_path):
    save_classes(tmp_path, classes=("smile",))
    spec, _ = complete(spec_for(tmp_path, "train"), "train")
    expected = "samples of at least 2 classes, got only class 'smile'"
    with pytest.raises(DataError, match=expected):
        network.build_dataset(spec, "train")
    assert len(network.unaugmented(spec)) == 2  # as when an export is calibrated


def test_v04_nothing_at_all(tmp_path):
    assert refused(tmp_path) == [
        "D: expected class folders with videos, got none. Give <root>/<class>/<video>."
    ]
    with pytest.raises(DataError, match="expected videos or folders of frames, got none"):
        videos_at(tmp_path, "predict")


def test_i17_classes_without_test_videos_are_a_note(tmp_path):
    save_classes(tmp_path, classes=("catch",))
    found = videos_at(tmp_path, "test", "dataset.label_map={catch: 0, smile: 1}")
    assert found.notes == (f"{tmp_path}: no videos of 1 classes: smile.",)


def test_i16_a_class_the_checkpoint_does_not_have_is_told_with_both_lists(tmp_path):
    save_classes(tmp_path, classes=("catch", "jump"))
    spec = spec_for(tmp_path, "test", "dataset.label_map={catch: 0, smile: 1}")
    with pytest.raises(CheckpointError) as caught:
        complete(spec, "test")
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        f"{tmp_path}: expected classes of the checkpoint ('catch', 'smile'), got 'jump', which it "
        "does not have. Classes are matched by name: rename the folders, or train with these "
        "classes."
    )


def test_classes_are_named_by_the_data_where_the_spec_is_silent(tmp_path):
    save_classes(tmp_path, classes=("b", "a", "c"), per_class=1)
    spec, notes = complete(spec_for(tmp_path), "train")
    assert spec.dataset.label_map == {"a": 0, "b": 1, "c": 2}
    assert notes == ("dataset.label_map: 3 classes by the data's own names: 'a', 'b', 'c'.",)
    assert load_videos(spec, "train").labels.tolist() == [0, 1, 2]


# V08: bad videos, and what is done with them


@pytest.fixture
def with_bad(tmp_path):
    """Two good videos, a file that is none, and frames that begin with a web page."""
    save_tao(tmp_path / "catch" / "a")
    save_tao(tmp_path / "smile" / "b", seed=3)
    (tmp_path / "catch" / "text.mp4").write_text("no video at all\n")
    save_tao(tmp_path / "smile" / "page", seed=4)
    (tmp_path / "smile" / "page" / "rgb" / "000000.png").write_text("<html></html>")
    return tmp_path


def test_v08_bad_videos_are_all_named(with_bad):
    said = refused(with_bad)
    assert len(said) == 2
    assert "catch/text.mp4" in said[0]
    assert said[1] == (
        "D/smile/page/rgb/000000.png: expected a PNG, JPEG, WebP or BMP image, got a web page. "
        "Write or copy it again, or set dataset.bad_sample: skip."
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_v08_where_bad_videos_are_passed_over_training_counts_them(with_bad, split):
    found = videos_at(with_bad, split, "dataset.bad_sample=skip")
    assert ids_of(found) == ["catch/a", "smile/b"]
    assert found.failed == {}
    note = found.notes[-1]
    assert note.startswith(
        f"{with_bad}: 2 of 4 videos cannot be read and are left out, the first 'catch/text.mp4' ("
    )


@pytest.mark.parametrize(("split", "words"), [("predict", []), ("test", ["skip"])])
def test_v08_answers_keep_their_place_and_say_why_they_failed(with_bad, split, words):
    words = [f"dataset.bad_sample={word}" for word in words]
    found = videos_at(with_bad, split, *words)
    assert ids_of(found) == ["catch/a", "catch/text.mp4", "smile/b", "smile/page"]
    assert sorted(found.failed) == [1, 3]
    assert found.failed[3] == "expected a PNG, JPEG, WebP or BMP image, got a web page"
    assert refused(with_bad, "test")  # auto: an evaluation is of all videos


def test_v08_nothing_usable_is_an_error_with_a_reason(tmp_path):
    (tmp_path / "a.mp4").write_text("no video at all\n")
    (said,) = refused(tmp_path, "predict")
    assert said.startswith("D: expected at least one video, got 0 usable of 1: expected a video")


# V28 to V31: links, names, copies, caches


def test_v28_links_inside_are_followed_and_others_refused(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "outside"
    save_tao(root / "catch" / "a")
    save_tao(outside / "secret", seed=5)
    (root / "smile").mkdir()
    (root / "smile" / "same").symlink_to("../catch/a")
    assert ids_of(videos_at(root)) == ["catch/a", "smile/same"]
    (root / "smile" / "out").symlink_to(outside / "secret")
    (root / "smile" / "up").symlink_to("..")
    (root / "smile" / "round").symlink_to("round")
    (root / "smile" / "gone.mp4").symlink_to("nowhere.mp4")
    said = refused(root)
    assert [line.split(": ")[0] for line in said] == [
        f"D/smile/{name}" for name in ("gone.mp4", "out", "round", "up")
    ]
    assert said[1] == (
        f"D/smile/out: expected a path inside D, got a link to '{outside / 'secret'}'. Copy what "
        "it leads to into the data set, or give the folder it leads to."
    )
    assert said[3].startswith("D/smile/up: expected a link that does not lead back above itself")


@pytest.mark.parametrize("which", ["frame", "folder", "class"])
def test_v28_links_to_frames_outside_are_refused_too(tmp_path, which):
    root, outside = tmp_path / "data", tmp_path / "outside"
    save_tao(root / "catch" / "a")
    save_tao(outside / "v", seed=5)
    if which == "frame":
        (root / "catch" / "a" / "rgb" / "000009.png").symlink_to(outside / "v/rgb/000000.png")
    elif which == "folder":
        (root / "catch" / "b").mkdir()
        (root / "catch" / "b" / "rgb").symlink_to(outside / "v" / "rgb")
    else:
        (root / "smile").symlink_to(outside)
    (said,) = refused(root)
    assert "expected a path inside" in said
    assert f"a link to '{outside}" in said


def test_v28_a_link_to_the_data_set_itself_is_fine(tmp_path):
    save_classes(tmp_path / "data", per_class=1)
    (tmp_path / "link").symlink_to("data")
    assert ids_of(videos_at(tmp_path / "link")) == ["catch/v0", "smile/v0"]


NAMES = ["with space", "line\nbreak", "\U0001f468\u200d\U0001f3a8", "-rf", "%s{}", "\x1b[31mred",
         "bad\udcff", "comma,'quote\""]  # fmt: skip


def test_v29_names_of_any_kind_are_read_and_can_be_written(tmp_path):
    for name in NAMES:
        save_tao(tmp_path / "catch" / name)
    found = videos_at(tmp_path)
    assert len(found.items) == len(NAMES)
    assert all(id_.isprintable() and id_.encode() for id_ in ids_of(found))
    assert "catch/line\\nbreak" in ids_of(found)
    assert "catch/\\x1b[31mred" in ids_of(found)
    for video in found.items:
        assert len(clips.read_rgb(video, np.arange(4), size=(12, 16)).frames) == 4


def test_v29_a_class_must_be_text(tmp_path):
    save_tao(tmp_path / "catch" / "a")
    save_tao(tmp_path / "bad\udcff" / "a")
    (said,) = refused(tmp_path)
    assert "expected the name of a class in UTF-8, got b'bad\\xff'" in said


def test_v30_copies_and_names_that_differ_in_case_are_told_with_both_paths(tmp_path):
    save_tao(tmp_path / "catch" / "a")
    save_tao(tmp_path / "catch" / "A", seed=1)
    save_tao(tmp_path / "catch" / "copy")
    save_tao(tmp_path / "smile" / "other")
    save_tao(tmp_path / "smile" / "longer", 5)
    assert videos_at(tmp_path).notes == (
        "1 names of videos differ in upper and lower case only, the first 'catch/A' and 'catch/a'.",
        "1 of 5 videos are there twice, the first 'catch/a' and 'catch/copy'.",
        "1 of 5 videos are there in two classes, the first 'catch/a' and 'smile/other'.",
    )


def test_v30_files_are_compared_by_content_and_stretches_are_no_copies(tmp_path):
    make_video(tmp_path / "catch.mp4", 25)
    (tmp_path / "same.mp4").write_bytes((tmp_path / "catch.mp4").read_bytes())
    rows = ["path,label,start,end", "catch.mp4,a,,0.4", "catch.mp4,a,0.4,", "same.mp4,b,,0.4"]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    (note,) = videos_at(tmp_path / "l.csv").notes
    assert note == (
        "1 of 3 videos are there in two classes, the first 'catch.mp4#0-0.4' and 'same.mp4#0-0.4'."
    )


def test_v31_without_a_cache_flow_goes_to_a_temporary_folder_and_that_is_said(tmp_path):
    (tmp_path / "data").mkdir()
    make_video(tmp_path / "data" / "catch.mp4", 4)
    (tmp_path / "file").write_text("in the way")
    words = ["model.model_type=of", "model.of_seq_length=2",
             f"dataset.cache_dir={tmp_path / 'file' / 'cache'}"]  # fmt: skip
    spec = spec_for(tmp_path / "data", "predict", *words)
    found = video_flow.with_flow(load_videos(spec, "predict"), spec, "predict")
    assert found.notes == (
        f"{tmp_path / 'file' / 'cache'} cannot be written: optical flow goes to a temporary "
        "folder, and is computed at every start. Set dataset.cache_dir or KINEME_CACHE.",
    )
    flow = clips.read_flow(found.items[0], np.arange(3), size=(64, 80)).frames
    assert flow.shape == (3, 64, 80, 2)
    assert "kineme-flow-" in str(found.items[0].flow)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "file"]
