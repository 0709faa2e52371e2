"""Streams, pairs of people and teachers, from data to a trained model."""

import json

import numpy as np
import pytest
import torch

from kineme.actions import dry_run, evaluate, train
from kineme.engine.checkpoint import load_checkpoint
from kineme.errors import CheckpointError, SpecError
from kineme.network import TRAIN, load_specs
from kineme.pose_classification import transforms
from kineme.pose_classification.layouts import LAYOUTS
from kineme.spec.load import load_spec
from stick import NETWORK, spec_of, train_stick

STREAMS = "model.streams=[joint,bone,joint_motion]"


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("ensemble"), words=[STREAMS])


def spec_like(folder, target, *words):
    """A training on the data of `folder`, as `train_stick` does it."""
    layout = load_checkpoint(folder / "train" / "best.pth").facts["spec"]["model"]["layout"]
    (target / "stick.yaml").write_text(layout)  # JSON is YAML
    base = [
        f"results_dir={target}", f"model.layout={target / 'stick.yaml'}", "train.num_epochs=1",
        "dataset.batch_size=4", "dataset.num_workers=0", "train.tensorboard=false",
        "dataset.normalize=center", f"dataset.train_dataset.data_path={folder}",
    ]  # fmt: skip
    return load_spec(load_specs("pose_classification")["train"], None, [*base, *words])[0]


def test_an_evaluation_of_streams_tells_what_each_of_them_gets(ensemble, tmp_path):
    last = ensemble / "train" / "pc_model_latest.pth"
    words = ["evaluate.occlusion=true", f"evaluate.baseline={last}"]
    facts = evaluate.run(NETWORK, spec_of("evaluate", ensemble, tmp_path, *words))
    told = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert set(told["parts"]) == {"joint", "bone", "joint motion"}
    assert told["accuracy"] == facts["accuracy"]
    assert (
        "ST-GCN (joint + bone + joint motion)"
        in (tmp_path / "evaluate" / "report.html").read_text()
    )


def test_a_stream_of_an_ensemble_learns_as_it_would_alone(ensemble):
    """The gradients of one have no part in another: only the draws of dropout differ."""
    torch.manual_seed(0)
    spec = load_spec(load_specs("pose_classification")["train"], None, {
        "results_dir": "r", "dataset.train_dataset.data_path": "d", "model.dropout": 0,
        "model.streams": ["joint", "bone"],
    })[0]  # fmt: skip
    both = NETWORK.build_model(spec)
    x = torch.randn(2, 3, 8, 34, 1)
    both(skeleton=x)[:, 1].sum().backward()
    joint = both.get_submodule("streams.joint")
    assert all(p.grad is None or not p.grad.any() for p in joint.parameters())
    assert any(p.grad.any() for p in both.get_submodule("streams.bone").parameters())


def test_a_pupil_learns_from_a_checkpoint(ensemble, tmp_path):
    teacher = ensemble / "train" / "best.pth"
    (tmp_path / "pupil").mkdir()
    (tmp_path / "alone").mkdir()
    words = [f"train.distill.teacher={teacher}", "train.distill.weight=0.9"]
    taught = train.run(NETWORK, spec_like(ensemble, tmp_path / "pupil", *words))
    alone = train.run(NETWORK, spec_like(ensemble, tmp_path / "alone"))
    assert taught["train_loss"] != alone["train_loss"]
    pupil = load_checkpoint(tmp_path / "pupil" / "train" / "pc_model_latest.pth")
    assert set(pupil.weights) == set(
        load_checkpoint(tmp_path / "alone" / "train" / "pc_model_latest.pth").weights
    )


def test_a_teacher_that_sees_other_inputs_is_refused(ensemble, tmp_path):
    words = [f"train.distill.teacher={ensemble / 'train' / 'best.pth'}", "dataset.normalize=none"]
    with pytest.raises(CheckpointError) as error:
        train.run(NETWORK, spec_like(ensemble, tmp_path, *words))
    assert "expected a teacher with dataset.normalize 'none', got 'center'" in str(error.value)


def test_a_setting_that_neither_uses_does_not_part_a_teacher_from_its_pupil(ensemble, tmp_path):
    teacher = f"train.distill.teacher={ensemble / 'train' / 'best.pth'}"
    spec, _ = NETWORK.complete(
        spec_like(ensemble, tmp_path, teacher, "dataset.num_frames=8"), TRAIN
    )
    assert spec.dataset.sampling == "none"
    assert any("fits" in line for line in dry_run.check(NETWORK, spec))
    sampled, _ = NETWORK.complete(
        spec_like(ensemble, tmp_path, teacher, "dataset.sampling=uniform"), TRAIN
    )
    with pytest.raises(CheckpointError, match=r"with dataset\.sampling 'uniform', got 'none'"):
        list(dry_run.check(NETWORK, sampled))


def test_a_teacher_of_other_classes_is_refused_by_a_dry_run_too(ensemble, tmp_path):
    words = [
        f"train.distill.teacher={ensemble / 'train' / 'best.pth'}",
        """dataset.label_map={still: 0, "wave, 'hello'": 1, jump: 2, run: 3}""",
    ]
    spec, _ = NETWORK.complete(spec_like(ensemble, tmp_path, *words), TRAIN)
    with pytest.raises(CheckpointError) as error:
        list(dry_run.check(NETWORK, spec))
    assert "expected a teacher with dataset.num_classes 4, got 3" in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"model.streams": ["bone", "bone"]}, "one or more streams, each once"),
        ({"model.streams": []}, "one or more streams, each once"),
        ({"model.mask": True}, "expected a model that takes a mask, got ST-GCN"),
        ({"model.persons": "pair", "dataset.num_persons": 1}, "expected 2, as persons is pair"),
    ],
)
def test_what_cannot_be_is_told(words, told):
    needed = {"results_dir": "r", "dataset.train_dataset.data_path": "d"}
    with pytest.raises(SpecError, match=told):
        load_spec(load_specs("pose_classification")["train"], None, {**needed, **words})


def test_a_side_that_goes_missing_is_left_or_right_and_whole():
    layout = LAYOUTS["coco"]
    draws = torch.tensor([[0.1, 0.2], [0.1, 0.8], [0.9, 0.2]])
    hidden = transforms.dropped_side(draws, 0.5, layout)[:, 0, 0, :, 0]
    named = [[layout.joints[i] for i in row.nonzero()[:, 0]] for row in hidden]
    assert named[0] == [name for name in layout.joints if name.startswith("left_")]
    assert named[1] == [name for name in layout.joints if name.startswith("right_")]
    assert named[2] == []


def test_people_change_places_with_their_masks():
    x = torch.arange(12, dtype=torch.float32).view(2, 1, 1, 2, 3)
    present = x % 2 == 0
    swapped, there = transforms.swap_persons(x, present, torch.tensor([True, False]))
    assert swapped[0, 0, 0].tolist() == [[1, 0, 2], [4, 3, 5]]
    assert torch.equal(swapped[1], x[1])
    assert torch.equal(there, swapped % 2 == 0)
    assert transforms.swap_persons(x, None, torch.tensor([True, True]))[1] is None


def test_swapping_is_drawn_before_the_first_person_gives_the_origin(tmp_path):
    from kineme.pose_classification.dataset import View, prepare

    spec = load_spec(load_specs("pose_classification")["train"], None, {
        "results_dir": "r", "dataset.train_dataset.data_path": "d", "dataset.normalize": "center",
        "dataset.augmentation.swap_persons_prob": 1,
    })[0]  # fmt: skip
    layout = LAYOUTS["nvidia"]
    x = torch.rand(1, 3, 4, layout.num_joints, 2) + 1
    view = View(settings=spec.dataset, layout=layout, seed=0, is_random=True)
    found = prepare(x, view, np.zeros(1, np.int64), 0)
    origin = x[:, :, :1, layout.centre_index, 1][:, :, :, None, None]
    torch.testing.assert_close(found, x.flip(4) - origin)
