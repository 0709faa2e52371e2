"""Training data kept on a device: the same batches, made many at once."""

import pytest
import torch

from kineme.engine.feeding import training_requests
from kineme.pose_classification import resident
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.resident import ResidentBatches, place
from test_pose_dataset import folder_of, skeletons, spec_of

CPU = torch.device("cpu")
ROOM = 2**30  # bytes of the device
EVERYTHING = [
    "dataset.sampling=uniform",
    "dataset.num_frames=5",
    "dataset.normalize=center_align_minmax",
    "dataset.fill_gaps=true",
    "dataset.repeats=3",
    *(
        f"dataset.augmentation.{option}"
        for option in (
            "flip_prob=0.5", "view_rotation_degrees=30", "scale=[0.9,1.1]", "jitter_std=0.01",
            "joint_offset_std=0.02", "joint_dropout_prob=0.2", "limb_dropout_prob=0.5",
            "side_dropout_prob=0.2", "time_dropout_prob=0.5", "swap_persons_prob=0.5",
            "mixup_alpha=0.4", "shear=0.2", "time_warp=0.3", "time_crop=[0.5,1]",
        )
    ),
]  # fmt: skip


def dataset_of(folder, *settings, num=7, **form):
    data = skeletons(num, **form)
    spec = spec_of(
        folder_of(folder / "data", data, [i % 3 for i in range(num)]),
        "dataset.num_classes=3", "dataset.label_map={a: 0, b: 1, c: 2}", *settings,
    )  # fmt: skip
    return NETWORK.build_dataset(spec, "train")


def check_like_one_by_one(dataset, size, first_step=0):
    """Every batch, bitwise, as `read` and `transform` make it."""
    requests = training_requests(len(dataset), size, seed=5, epoch=2)
    batches = ResidentBatches(dataset, place(dataset.sequences, CPU, total_bytes=ROOM))
    made = list(batches(requests, first_step))
    assert len(made) == len(requests) - first_step > 0
    for batch, (epoch, indices) in zip(made, requests[first_step:], strict=True):
        alone = dataset.transform(dataset.read(indices, epoch), epoch)
        assert torch.equal(batch.inputs["skeleton"], alone.inputs["skeleton"])
        assert batch.labels.tolist() == alone.labels.tolist()
        assert batch.indices.tolist() == indices.tolist()
        assert batch.sample_of_row.tolist() == list(range(size))
        assert batch.mixed_share == alone.mixed_share
        if alone.mixed_labels is not None:
            assert batch.mixed_labels.tolist() == alone.mixed_labels.tolist()
    return made


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_batches_are_those_of_one_by_one(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(resident, "MOST_STEPS", at_once)
    dataset = dataset_of(tmp_path, *EVERYTHING, persons=2)
    check_like_one_by_one(dataset, 2)


@pytest.mark.parametrize(
    "settings",
    [
        ["dataset.sampling=none"],
        ["dataset.sampling=none", "dataset.window_size=5", "dataset.random_choose=true"],
        ["dataset.sampling=none", "dataset.window_size=11"],  # empty frames at the end
        ["dataset.sampling=uniform", "dataset.num_frames=20", "dataset.num_persons=1"],
    ],
)
def test_every_way_to_choose_frames_and_people(tmp_path, settings):
    check_like_one_by_one(dataset_of(tmp_path, *settings, persons=2), 3)


def test_an_epoch_goes_on_within_what_is_made_together(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "MOST_STEPS", 3)
    dataset = dataset_of(tmp_path, *EVERYTHING)
    made = []
    prepare = dataset.prepare
    dataset.prepare = lambda x, *rest: made.append(len(x)) or prepare(x, *rest)
    check_like_one_by_one(dataset, 2, first_step=4)
    assert made[:3] == [6, 6, 2]  # of 10 steps: 3 to 5, though 3 is past, then 6 to 8, then 9


def test_data_that_take_too_much_of_the_device_stay_where_they_are(tmp_path):
    dataset = dataset_of(tmp_path, num=4)
    num_bytes = 4 * 3 * 8 * 34 * 4
    assert place(dataset.sequences, CPU, total_bytes=4 * num_bytes) is not None
    assert place(dataset.sequences, CPU, total_bytes=4 * num_bytes - 1) is None
