"""Sources and dataset of the pose room: what is read, what is refused, what is drawn."""

import json

import numpy as np
import pytest
import torch

from kineme.data import sampling
from kineme.data.labels import Labels, write_labels
from kineme.data.randomness import uniform, uniform32
from kineme.engine.start import build_data, find_start
from kineme.errors import DataError, SpecError
from kineme.network import PREDICT, TEST, TRAIN, VAL
from kineme.pose_classification import transforms
from kineme.pose_classification.layouts import LAYOUTS, layout_facts
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.paths import resolve_paths
from kineme.pose_classification.people import motion_energy
from kineme.pose_classification.sources import load_sequences
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

V = 34


def skeletons(num=6, *, frames=8, joints=V, persons=1, channels=3, seed=0):
    """Random skeletons whose lengths differ, zero after their end."""
    data = np.random.default_rng(seed).normal(size=(num, channels, frames, joints, persons))
    for i in range(num):
        data[i, :, frames - i % 3 :] = 0
    return data.astype(np.float32)


def folder_of(path, data, labels, *, prefix="train", classes=None, layout=None):
    path.mkdir(exist_ok=True)
    np.save(path / f"{prefix}_data.npy", data)
    ids = tuple(f"{prefix}{i}" for i in range(len(labels)))
    write_labels(
        path / f"{prefix}_label.json", Labels(ids, np.asarray(labels, np.int64), classes, layout)
    )
    return path


def spec_of(folder, *overrides, action="train"):
    section = {"train": "dataset.train_dataset", "evaluate": "evaluate.test_dataset"}[action]
    words = [f"{section}.data_path={folder}", "results_dir=unused", *overrides]
    if action == "evaluate":
        words.append("evaluate.checkpoint=unused.pth")
    return load_spec(SPECS[action], None, words)[0]


def test_a_folder_stands_for_the_conventional_names(tmp_path):
    folder = folder_of(tmp_path / "data", skeletons(), [0, 1, 2, 3, 4, 5])
    section = spec_of(folder).dataset.train_dataset
    assert resolve_paths(section, TRAIN) == (
        folder / "train_data.npy",
        folder / "train_label.json",
    )


def test_test_data_falls_back_to_val_names(tmp_path):
    folder = folder_of(tmp_path / "data", skeletons(), [0, 1, 2, 3, 4, 5], prefix="val")
    section = spec_of(folder, action="evaluate").evaluate.test_dataset
    assert resolve_paths(section, TEST)[0] == folder / "val_data.npy"


def test_an_empty_folder_names_what_it_should_hold(tmp_path):
    with pytest.raises(
        DataError, match=r"expected one of train_data\.npy, data\.npy for dataset\.train"
    ):
        resolve_paths(spec_of(tmp_path).dataset.train_dataset, TRAIN)


def test_whether_data_are_centred_is_said_by_training_data_alone(tmp_path):
    """A joint that is never seen is at zero, too."""
    centre = LAYOUTS["nvidia"].centre_index
    unseen = skeletons(seed=1)
    unseen[:, :, :, centre] = 0
    folder_of(tmp_path, skeletons(), [0, 1, 2, 3, 4, 5])
    folder_of(tmp_path, unseen, [0, 1, 2, 3, 4, 5], prefix="val")
    words = [f"dataset.val_dataset.data_path={tmp_path}"]
    spec, notes = NETWORK.complete(spec_of(tmp_path, *words), TRAIN)
    assert (spec.dataset.centred, notes) == (False, ())
    assert not load_sequences(spec, VAL).is_centred
    np.save(tmp_path / "train_data.npy", unseen)
    spec, (note,) = NETWORK.complete(spec_of(tmp_path, *words), TRAIN)
    assert "'pelvis' never moves, so the data are taken as centred on it" in note
    np.save(tmp_path / "val_data.npy", skeletons())
    assert load_sequences(spec, VAL).is_centred
    assert "dataset.centred" in NETWORK.identity


def test_classes_and_layout_come_from_the_data_when_the_spec_is_silent(tmp_path):
    data = skeletons(4, joints=20)
    folder = folder_of(
        tmp_path / "d", data, [0, 1, 2, 1], classes=("a", "b", "c"), layout="kinect-20"
    )
    spec, notes = NETWORK.complete(spec_of(folder), TRAIN)
    assert spec.dataset.num_classes == 3
    assert spec.dataset.label_map == {"a": 0, "b": 1, "c": 2}
    assert spec.model.graph_layout == "kinect-20"
    assert "num_classes" in notes[0]
    assert NETWORK.class_names(spec) == ("a", "b", "c")
    assert len(NETWORK.build_dataset(spec, TRAIN)) == 4


def test_what_the_user_set_is_not_replaced_by_the_data(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4, joints=20), [0, 1, 2, 1], layout="kinect-20")
    spec, _ = NETWORK.complete(spec_of(folder, "model.graph_layout=coco"), TRAIN)
    assert spec.model.graph_layout == "coco"
    with pytest.raises(DataError, match="20 joints fit 'kinect-20'"):
        load_sequences(spec, TRAIN)


def test_labels_that_name_another_layout_with_as_many_joints_are_an_error(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4, joints=17), [0, 1, 0, 1], layout="coco")
    with pytest.raises(DataError) as told:
        load_sequences(spec_of(folder, "model.graph_layout=human3.6m"), TRAIN)
    where = folder / "train_label.json"
    assert str(told.value) == (
        f"{where}: layout: expected 'human3.6m', the model's, got 'coco'. "
        "Use data of one layout; if these are of that one, correct layout: in the labels."
    )


def test_labels_that_name_a_layout_of_other_joints_than_the_data_are_an_error(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4, joints=18), [0, 1, 0, 1], layout="coco")
    with pytest.raises(DataError) as told:
        load_sequences(spec_of(folder, "model.graph_layout=openpose"), TRAIN)
    assert str(told.value) == (
        f"{folder / 'train_label.json'}: layout: expected one of 18 joints, as the data, "
        "got 'coco', which has 17."
    )


def test_a_layout_of_the_users_own_may_have_another_name_for_the_same_joints(tmp_path):
    own = layout_facts(LAYOUTS["coco"]) | {"name": "mine"}
    (tmp_path / "mine.yaml").write_text(json.dumps(own))
    folder = folder_of(tmp_path / "d", skeletons(4, joints=17), [0, 1, 0, 1], layout="coco")
    spec, _ = NETWORK.complete(spec_of(folder, f"model.layout={tmp_path / 'mine.yaml'}"), TRAIN)
    assert len(load_sequences(spec, TRAIN).ids) == 4


def test_validation_data_of_another_layout_than_that_of_training_are_an_error(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4, joints=17), [0, 1, 0, 1], layout="coco")
    folder_of(folder, skeletons(4, joints=17), [0, 1, 0, 1], layout="human3.6m", prefix="val")
    spec = spec_of(folder, f"dataset.val_dataset.data_path={folder}")
    with pytest.raises(DataError, match=r"val_label\.json: layout: expected 'coco', the model's"):
        build_data(NETWORK, NETWORK.complete(spec, TRAIN)[0])


def test_d03_wrong_layout_names_the_layouts_that_fit(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(6, joints=25), [0, 1, 2, 3, 4, 5])
    with pytest.raises(DataError) as caught:
        load_sequences(spec_of(folder, "model.graph_layout=openpose"), TRAIN)
    text = str(caught.value)
    assert "expected 18 joints for model.graph_layout 'openpose', got 25" in text
    assert "body-25" in text
    assert "ntu-rgb+d" in text


def test_d03_data_that_do_not_fit_a_checkpoint_are_to_be_converted(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(6, joints=25), [0, 1, 2, 3, 4, 5])
    words = ("model.graph_layout=openpose", "dataset.num_classes=6")
    (folder / "train_data.npy").rename(folder / "test_data.npy")
    (folder / "train_label.json").rename(folder / "test_label.json")
    spec = spec_of(folder, *words, action="evaluate")
    with pytest.raises(DataError, match="trained with that layout: convert the data to it") as told:
        load_sequences(spec, TEST)
    assert "Set model.graph_layout" not in str(told.value)


def test_data_without_labels_are_told_so_whatever_their_joints_are(tmp_path):
    np.save(tmp_path / "train_data.npy", skeletons(6, joints=25))
    with pytest.raises(SpecError, match=r"train_dataset\.label_path: expected a label file"):
        load_sequences(spec_of(tmp_path / "train_data.npy"), TRAIN)


def test_labels_and_joints_that_are_wrong_are_told_together(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(2, joints=20), [0, 1])
    (folder / "train_label.json").write_text('{"a": "x", "b": "y"}')
    with pytest.raises(DataError) as told:
        load_sequences(spec_of(folder), TRAIN)
    assert [problem.expected for problem in told.value.problems] == [
        "34 joints for model.graph_layout 'nvidia'",
        "an integer in [0, 6)",
    ]


def test_training_data_that_are_not_there_cast_no_doubt_on_the_others(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4, joints=20), [0, 1, 2, 1], layout="kinect-20")
    (folder / "train_data.npy").rename(folder / "val_data.npy")
    (folder / "train_label.json").rename(folder / "val_label.json")
    spec = spec_of(tmp_path / "nope", f"dataset.val_dataset.data_path={folder}")
    with pytest.raises(DataError) as told:
        find_start(NETWORK, spec, tmp_path / "results")
    assert [problem.where for problem in told.value.problems] == [str(tmp_path / "nope")]


def test_d05_nan_is_an_error_unless_the_policy_says_otherwise(tmp_path):
    data = skeletons()
    data[3, 1, 2, 5, 0] = np.nan
    folder = folder_of(tmp_path / "d", data, [0, 1, 2, 3, 4, 5])
    with pytest.raises(DataError, match="sample 3: expected finite numbers"):
        load_sequences(spec_of(folder), TRAIN)
    zeroed = load_sequences(spec_of(folder, "dataset.nan_policy=zero"), TRAIN)
    expected = data[3:4].copy()
    expected[0, 1, 2, 5, 0] = 0
    np.testing.assert_array_equal(zeroed.gather(np.asarray([3]), None), expected)
    dropped = load_sequences(spec_of(folder, "dataset.nan_policy=drop"), TRAIN)
    assert dropped.ids == ("train0", "train1", "train2", "train4", "train5")
    np.testing.assert_array_equal(dropped.gather(np.asarray([3]), None), data[4:5])
    assert any("dropped" in note for note in dropped.notes)


def test_problems_of_data_and_labels_are_reported_together(tmp_path):
    data = skeletons()
    data[0, 0, 0, 0, 0] = np.inf
    folder = folder_of(tmp_path / "d", data, [0, 1, 2, 3, 4, 9])
    with pytest.raises(DataError) as caught:
        load_sequences(spec_of(folder), TRAIN)
    assert len(caught.value.problems) == 2
    assert "labels[5]: expected an integer in [0, 6), got 9" in str(caught.value)


def test_missing_labels_are_named_for_training_and_not_needed_for_inference(tmp_path):
    np.save(tmp_path / "x.npy", skeletons())
    with pytest.raises(SpecError, match="label_path"):
        load_sequences(spec_of(tmp_path / "x.npy"), TRAIN)
    words = [f"inference.test_dataset.data_path={tmp_path / 'x.npy'}", "results_dir=r"]
    spec, _ = load_spec(SPECS["inference"], None, [*words, "inference.checkpoint=c.pth"])
    sequences = load_sequences(spec, PREDICT)
    assert sequences.ids == ("0", "1", "2", "3", "4", "5")
    assert set(sequences.labels) == {-1}


def test_d21_leakage_is_counted_and_can_be_refused(tmp_path):
    data = skeletons()
    folder = folder_of(tmp_path / "d", data, [0, 1, 2, 3, 4, 5])
    folder_of(folder, data[2:4], [2, 3], prefix="val")
    words = [f"dataset.val_dataset.data_path={folder}"]
    sequences = load_sequences(spec_of(folder, *words), VAL)
    assert any("2 of 2 samples are also in" in note for note in sequences.notes)
    with pytest.raises(DataError, match="2 of 2 samples"):
        load_sequences(spec_of(folder, *words, "dataset.fail_on_leakage=true"), VAL)


def test_d24_the_people_who_move_most_are_kept(tmp_path):
    still, slow, fast = (np.zeros((1, 3, 4, V, 1), np.float32) for _ in range(3))
    still[:] = 1
    slow[0, 0, :, :, 0] = np.arange(1, 5)[:, None]
    fast[0, 0, :, :, 0] = 3 * np.arange(1, 5)[:, None]
    data = np.concatenate([still, slow, fast], axis=4).repeat(2, axis=0)
    np.testing.assert_allclose(motion_energy(data, (data != 0).any(axis=1))[0], [0, 3 * V, 27 * V])
    folder = folder_of(tmp_path / "d", data, [0, 1])
    sequences = load_sequences(spec_of(folder, "dataset.num_persons=2"), TRAIN)
    kept = sequences.gather(np.asarray([0]), None)
    np.testing.assert_array_equal(kept[..., 0], fast[..., 0])
    np.testing.assert_array_equal(kept[..., 1], slow[..., 0])
    assert any("kept the 2 of 3 persons" in note for note in sequences.notes)
    more = load_sequences(spec_of(folder, "dataset.num_persons=4"), TRAIN).notes
    assert any("num_persons is 4, but samples have places for 3." in note for note in more)


def test_d24_who_stands_still_is_kept_before_a_place_with_nobody(tmp_path):
    data = np.zeros((2, 3, 4, V, 3), np.float32)
    data[:, :, :, :, 2] = 1  # one person, in the last place, who never moves
    data[1, 0, :, :, 1] = np.arange(1, 5)[:, None]  # in sample 1 somebody moves as well
    folder = folder_of(tmp_path / "d", data, [0, 1])
    sequences = load_sequences(spec_of(folder, "dataset.num_persons=1"), TRAIN)
    kept = sequences.gather(np.asarray([0, 1]), None)[..., 0]
    np.testing.assert_array_equal(kept[0], data[0, ..., 2])
    np.testing.assert_array_equal(kept[1], data[1, ..., 1])
    assert any("1 of 2 samples had more" in note for note in sequences.notes)


def test_uniform_sampling_reads_the_frames_that_it_says(tmp_path):
    data = skeletons(3, frames=9)
    folder = folder_of(tmp_path / "d", data, [0, 1, 2])
    spec = spec_of(folder, "dataset.sampling=uniform", "dataset.num_frames=3")
    sequences = load_sequences(spec, TRAIN)
    frames = np.asarray([[0, 4, 8], [1, -1, 2]])
    x = sequences.gather(np.asarray([0, 2]), frames)
    np.testing.assert_array_equal(x[0], data[0][:, [0, 4, 8]])
    np.testing.assert_array_equal(x[1][:, [0, 2]], data[2][:, [1, 2]])
    assert not x[1][:, 1].any()


AUGMENTED = (
    "dataset.sampling=uniform",
    "dataset.num_frames=5",
    "dataset.normalize=center_minmax",
    "dataset.repeats=2",
    "dataset.random_move=true",
    "dataset.augmentation.view_rotation_degrees=30",
    "dataset.augmentation.scale=[0.5, 1.5]",
    "dataset.augmentation.shear=0.2",
    "dataset.augmentation.time_crop=[0.4, 0.9]",
    "dataset.augmentation.time_warp=0.5",
    "dataset.augmentation.flip_prob=0.5",
    "dataset.augmentation.jitter_std=0.01",
    "dataset.augmentation.joint_offset_std=0.02",
    "dataset.augmentation.joint_dropout_prob=0.1",
    "dataset.augmentation.limb_dropout_prob=0.3",
    "dataset.augmentation.time_dropout_prob=0.3",
)


def rows(dataset, indices, epoch):
    batch = dataset.transform(dataset.read(np.asarray(indices), epoch), epoch)
    return batch.inputs["skeleton"]


def test_a_sample_is_augmented_the_same_in_any_batch_and_differently_in_any_epoch(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(), [0, 1, 2, 3, 4, 5])
    dataset = NETWORK.build_dataset(spec_of(folder, *AUGMENTED), TRAIN)
    assert len(dataset) == 12
    together = rows(dataset, [0, 3, 7, 9], 4)
    alone = rows(dataset, [7], 4)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(rows(dataset, [7], 5), alone)
    assert not torch.allclose(rows(dataset, [1], 4), alone)  # the other visit of the same sample


def test_nothing_of_it_is_random_outside_training(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(), [0, 1, 2, 3, 4, 5], prefix="test")
    words = [*AUGMENTED, "dataset.augmentation.mixup_alpha=1"]
    dataset = NETWORK.build_dataset(spec_of(folder, *words, action="evaluate"), TEST)
    plain = NETWORK.build_dataset(spec_of(folder, *AUGMENTED[:3], action="evaluate"), TEST)
    batch = dataset.transform(dataset.read(np.arange(6), 3), 3)
    assert batch.mixed_labels is None
    assert torch.equal(batch.inputs["skeleton"], rows(plain, range(6), 0))


def test_warped_frames_are_those_of_their_draws(tmp_path):
    data = np.ones((2, 3, 40, V, 1), np.float32)
    data[:, 0] = np.arange(1, 41)[:, None, None]
    folder = folder_of(tmp_path / "d", data, [0, 1])
    words = ["dataset.sampling=uniform", "dataset.num_frames=10"]
    words.append("dataset.augmentation.time_warp=0.8")
    x = rows(NETWORK.build_dataset(spec_of(folder, *words), TRAIN), [0, 1], 5)
    draws, anywhere = (uniform(1234, 5, [0, 1], name=n, size=10) for n in ("frames", "warp"))
    expected = sampling.warped_indices(np.array([40, 40]), draws, anywhere, 0.8) + 1
    np.testing.assert_array_equal(x[:, 0, :, 0, 0].numpy(), expected)


def test_shear_is_that_of_its_draws(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(num=3), [0, 1, 2])
    words = ["dataset.augmentation.shear=0.3"]
    x = rows(NETWORK.build_dataset(spec_of(folder, *words), TRAIN), [0, 1, 2], 5)
    draws = torch.from_numpy(uniform32(1234, 5, np.arange(3), name="shear", size=6))
    shears = transforms.random_shears(draws, 0.3)
    expected = torch.einsum("rij,rjtvm->ritvm", shears, torch.from_numpy(skeletons(num=3)))
    torch.testing.assert_close(x, expected)


def test_frames_come_from_a_random_stretch_as_long_as_asked(tmp_path):
    data = np.ones((2, 3, 40, V, 1), np.float32)
    data[:, 0] = np.arange(1, 41)[:, None, None]
    folder = folder_of(tmp_path / "d", data, [0, 1])
    words = ["dataset.sampling=uniform", "dataset.num_frames=10", "dataset.repeats=50"]
    words.append("dataset.augmentation.time_crop=[0.25, 0.25]")  # 10 frames: each of them once
    x = rows(NETWORK.build_dataset(spec_of(folder, *words), TRAIN), range(50), 0)
    frames = x[:, 0, :, 0, 0].numpy()
    assert (np.diff(frames) == 1).all()
    assert frames.min() >= 1
    assert frames.max() <= 40
    assert len(np.unique(frames[:, 0])) > 15  # of 31 places
    folder_of(folder, data, [0, 1], prefix="test")
    tested = NETWORK.build_dataset(spec_of(folder, *words, action="evaluate"), TEST)
    assert rows(tested, [0], 0)[0, 0, -1, 0, 0] == 39  # of all 40 frames, as without cropping


def test_an_offset_changes_proportions_and_jitter_each_frame(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(num=3, frames=40), [0, 1, 2])
    still = rows(NETWORK.build_dataset(spec_of(folder), TRAIN), [0, 1, 2], 0)
    there = (still != 0).any(dim=1)  # (R, T, V, M)
    moved = {}
    for name in ("joint_offset_std", "jitter_std"):
        spec = spec_of(folder, f"dataset.augmentation.{name}=0.1")
        noise = rows(NETWORK.build_dataset(spec, TRAIN), [0, 1, 2], 0) - still
        assert not noise.movedim(1, -1)[~there].any()
        moved[name] = noise[:, :, :30]  # in which all are there
        assert abs(moved[name].std() - 0.1) < 0.01
    assert moved["joint_offset_std"].std(dim=2).max() < 1e-6
    assert abs(moved["jitter_std"].std(dim=2).mean() - 0.1) < 0.01


def test_mixup_blends_each_sample_with_the_one_before_where_both_have_the_joint(tmp_path):
    # what only one of the two has stays as it was: a second person, frames beyond the shorter
    data = skeletons(num=3, frames=6)  # of 6, 5 and 4 frames, then zeros
    folder = folder_of(tmp_path / "d", data, [0, 1, 2])
    dataset = NETWORK.build_dataset(spec_of(folder, "dataset.augmentation.mixup_alpha=1"), TRAIN)
    batch = dataset.transform(dataset.read(np.array([0, 1, 2]), 2), 2)
    share = batch.mixed_share
    assert 0 < share <= 0.5
    assert batch.mixed_labels.tolist() == [2, 0, 1]
    mixed = batch.inputs["skeleton"].numpy()
    for own, other in ((0, 2), (1, 0), (2, 1)):
        both = min(6 - own, 6 - other)
        blend = data[own] * (1 - share) + data[other] * share
        np.testing.assert_allclose(mixed[own][:, :both], blend[:, :both], atol=1e-6)
        np.testing.assert_array_equal(mixed[own][:, both:], data[own][:, both:])


@pytest.mark.parametrize(("part", "named"), [("limb", "says"), ("side", "begins")])
def test_a_part_cannot_go_missing_where_no_joint_is_named_after_one(tmp_path, part, named):
    layout = tmp_path / "loose.yaml"
    layout.write_text("{name: loose, joints: [a, b], bones: [[a, b]], centre: a}")
    folder = folder_of(tmp_path / "d", skeletons(joints=2), [0, 1, 2, 3, 4, 5])
    asked = f"dataset.augmentation.{part}_dropout_prob"
    spec = spec_of(folder, f"model.layout={layout}", f"{asked}=0.9")
    dataset = NETWORK.build_dataset(spec, TRAIN)
    note = f"{asked} has no effect: no joint of layout 'loose' has a name that {named}"
    assert sum(line.startswith(note) for line in dataset.notes) == 1
    np.testing.assert_array_equal(rows(dataset, [0, 1, 2, 3], 0), skeletons(joints=2)[:4])


def test_flat_skeletons_cannot_be_turned_and_that_is_told(tmp_path):
    data = skeletons(joints=17)
    folder = folder_of(tmp_path / "data", data, [0, 1, 2, 3, 4, 5], layout="coco")
    told = "dataset.normalize center_align_minmax turns nobody"
    for normalize, is_told in (("center_align_minmax", True), ("center_minmax", False)):
        spec = spec_of(folder, f"dataset.normalize={normalize}", "model.graph_layout=coco")
        notes = NETWORK.build_dataset(spec, TRAIN).notes
        assert any(note.startswith(told) for note in notes) == is_told


def test_contract_windowing_pads_at_the_end_and_random_choose_crops(tmp_path):
    data = skeletons(3, frames=8)
    data[:] = 1
    folder = folder_of(tmp_path / "d", data, [0, 1, 2])
    padded = rows(NETWORK.build_dataset(spec_of(folder, "dataset.window_size=10"), TRAIN), [0], 0)
    assert padded.shape[2] == 10
    assert padded[0, 0, :, 0, 0].tolist() == [1.0] * 8 + [0.0] * 2
    spec = spec_of(folder, "dataset.window_size=5", "dataset.random_choose=true")
    assert rows(NETWORK.build_dataset(spec, TRAIN), [0], 0).shape[2] == 5
    kept = rows(NETWORK.build_dataset(spec_of(folder, "dataset.window_size=5"), TRAIN), [0], 0)
    assert kept.shape[2] == 8


def test_labels_json_written_by_hand_is_read(tmp_path):
    np.save(tmp_path / "train_data.npy", skeletons(2))
    content = {
        "classes": ["sit", "walk"],
        "samples": [{"id": "a", "label": "walk"}, {"id": "b", "label": 0}],
    }
    (tmp_path / "train_label.json").write_text(json.dumps(content))
    spec, _ = NETWORK.complete(spec_of(tmp_path), TRAIN)
    dataset = NETWORK.build_dataset(spec, TRAIN)
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.ids == ("a", "b")


def test_classes_of_the_data_and_of_the_spec_must_agree_in_number(tmp_path):
    folder = folder_of(tmp_path / "d", skeletons(4), [0, 1, 2, 1], classes=("a", "b", "c"))
    with pytest.raises(SpecError, match=r"dataset\.num_classes: expected 3"):
        NETWORK.complete(spec_of(folder, "dataset.num_classes=5"), TRAIN)


def test_inference_does_not_mind_labels_of_other_classes(tmp_path):
    folder = folder_of(tmp_path, skeletons(3), [0, 9, 1], prefix="test")
    words = [f"inference.test_dataset.data_path={folder}", "results_dir=r"]
    spec, _ = load_spec(SPECS["inference"], None, [*words, "inference.checkpoint=c.pth"])
    assert load_sequences(spec, PREDICT).labels.tolist() == [0, -1, 1]


def test_test_data_is_never_paired_with_validation_labels(tmp_path):
    folder = folder_of(tmp_path, skeletons(), [0, 1, 2, 3, 4, 5], prefix="val")
    np.save(folder / "test_data.npy", skeletons(seed=1))
    with pytest.raises(DataError, match=r"one of test_label\.json"):
        load_sequences(spec_of(folder, action="evaluate"), TEST)


def test_a_policy_that_drops_everything_is_an_error(tmp_path):
    data = skeletons()
    data[:, 0, 0, 0, 0] = np.nan
    folder = folder_of(tmp_path, data, [0, 1, 2, 3, 4, 5])
    with pytest.raises(DataError, match="0 samples left"):
        load_sequences(spec_of(folder, "dataset.nan_policy=drop"), TRAIN)
