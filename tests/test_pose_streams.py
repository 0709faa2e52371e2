"""What skeleton models look at, and what they learn from."""

import math

import pytest
import torch
from torch import nn

from kineme.actions import evaluate, export, train
from kineme.engine.objective import Objective, Teacher, answers_of
from kineme.network import Batch, load_network, load_specs
from kineme.pose_classification import settings as pose_settings
from kineme.pose_classification.graph import Layout
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.streams import (
    STREAMS,
    Stream,
    Streams,
    as_pair,
    paired,
    with_partner,
)
from kineme.spec.load import load_spec
from rooms import NUM_VAL, ROOMS

ARM = Layout(
    name="arm",
    joints=("pelvis", "left_elbow", "left_wrist"),
    bones=(("pelvis", "left_elbow"), ("left_elbow", "left_wrist")),
    centre="pelvis",
    source="made up",
    num_axes=2,
)


def skeleton(*frames):
    """(1, C, T, V, 1) from frames of joints (channels)."""
    return torch.tensor(frames, dtype=torch.float32).permute(2, 0, 1)[None, ..., None]


TWO_FRAMES = skeleton(
    [[1.0, 1.0, 0.8], [2.0, 3.0, 0.4], [4.0, 8.0, 0.6]],
    [[1.0, 2.0, 0.8], [2.5, 3.0, 0.4], [0.0, 0.0, 0.0]],
)


def of(kind, x):
    """Values (T, V, C) and presence (T, V) of a stream."""
    values, present = STREAMS[kind]((x, (x != 0).any(dim=1, keepdim=True)), ARM)
    return values[0, ..., 0].permute(1, 2, 0), present[0, 0, ..., 0]


def test_the_spec_names_the_streams_that_there_are():
    assert tuple(STREAMS) == pose_settings.STREAM_NAMES


def test_a_bone_is_a_joint_less_its_neighbour_towards_the_centre():
    values, present = of("bone", TWO_FRAMES)
    expected = torch.tensor([[0.0, 0.0, 0.8], [1.0, 2.0, 0.6], [2.0, 5.0, 0.5]])
    torch.testing.assert_close(values[0], expected)
    assert present.tolist() == [[True, True, True], [True, True, False]]
    assert values[1, 2].tolist() == [0, 0, 0]  # its joint is missing


def test_motion_is_the_next_frame_less_this_one_where_both_are_there():
    values, present = of("joint_motion", TWO_FRAMES)
    torch.testing.assert_close(values[0, 0], torch.tensor([0.0, 1.0, 0.8]))
    torch.testing.assert_close(values[0, 1], torch.tensor([0.5, 0.0, 0.4]))
    assert values[0, 2].tolist() == [0, 0, 0]
    torch.testing.assert_close(values[1, 1], torch.tensor([0.0, 0.0, 0.4]))  # the last frame
    assert present.tolist() == [[True, True, False], [True, True, False]]


def test_bone_motion_is_the_motion_of_bones():
    values, _ = of("bone_motion", TWO_FRAMES)
    torch.testing.assert_close(values[0, 1], torch.tensor([0.5, -1.0, 0.6]))


def test_a_joint_that_does_not_move_is_not_missing():
    still = skeleton(*[[[1.0, 1.0, 0.5]] * 3] * 2)
    _, present = of("joint_motion", still)
    assert present.all()


def test_two_people_become_one_skeleton_of_both():
    x = torch.arange(24, dtype=torch.float32).view(1, 2, 2, 3, 2)
    pair = as_pair(x)
    assert pair.shape == (1, 2, 2, 6, 1)
    assert torch.equal(pair[0, :, :, :3, 0], x[0, ..., 0])
    assert torch.equal(pair[0, :, :, 3:, 0], x[0, ..., 1])
    alone = as_pair(x[..., :1])
    assert torch.equal(alone[0, :, :, :3, 0], x[0, ..., 0])
    assert not alone[0, :, :, 3:].any()


def test_each_person_is_followed_by_the_other_and_nobody_by_nobody():
    one, other = TWO_FRAMES, TWO_FRAMES + 1
    crowd = torch.cat([one, other, one], dim=4)
    there = torch.ones(1, 1, 2, 3, 3, dtype=torch.bool)
    there[0, 0, 1, 2, 0] = False
    values, seen = with_partner(crowd, there)
    torch.testing.assert_close(values[..., 0], torch.cat([one, other], dim=1)[..., 0])
    torch.testing.assert_close(values[..., 1], torch.cat([other, one], dim=1)[..., 0])
    assert seen[0, :, 1, 2].tolist() == [[False, True], [True, False]]
    alone, seen = with_partner(one, there[..., :1])
    torch.testing.assert_close(alone[:, :3, ..., :1], one)
    assert not alone[:, 3:, ..., :1].any()  # there is no other
    assert not alone[..., 1].any()
    assert not seen[..., 1].any()


def test_in_a_pair_each_joint_is_linked_to_that_of_the_other():
    both = paired(ARM)
    assert both.joints[:4] == (
        "first_pelvis", "first_left_elbow", "first_left_wrist", "second_pelvis"
    )  # fmt: skip
    assert set(both.edges) == {(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)}
    assert both.centre_index == 0


class Told(nn.Module):
    """Answers what it was built with, and keeps what it was shown."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, skeleton, present=None):
        self.shown, self.present = skeleton, present
        return self.logits.expand(len(skeleton), -1)


def test_streams_answer_the_mean_of_their_log_probabilities_and_learn_each_alone():
    models = {"joint": Told(2.0, 0.0), "bone": Told(0.0, 4.0)}
    streams = Streams({kind: Stream(model, [kind], ARM) for kind, model in models.items()})
    each = streams(TWO_FRAMES)
    assert each.tolist() == [[[2.0, 0.0], [0.0, 4.0]]]
    found = streams.eval()(TWO_FRAMES)
    expected = [
        (-math.log(1 + math.exp(-2)) - 4 - math.log(1 + math.exp(-4))) / 2,
        (-2 - math.log(1 + math.exp(-2)) - math.log(1 + math.exp(-4))) / 2,
    ]
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(answers_of(each.detach()), found.detach())
    torch.testing.assert_close(models["bone"].shown, STREAMS["bone"]((
        TWO_FRAMES, (TWO_FRAMES != 0).any(dim=1, keepdim=True)), ARM)[0])  # fmt: skip


def test_one_model_of_several_streams_sees_them_one_after_the_other():
    model = Told(0.0)
    Stream(model, ["joint", "bone"], ARM)(TWO_FRAMES)
    assert torch.equal(model.shown[:, :3], TWO_FRAMES)
    assert torch.equal(model.shown[0, 3:, 0, 1, 0], torch.tensor([1.0, 2.0, 0.6]))
    assert model.present[0, 0, 1, :, 0].tolist() == [True, True, False]  # of the first of them


class PlainFabric:
    """What the objective needs of a fabric."""

    def autocast(self):
        return torch.autocast("cpu", enabled=False)


def batch_of(labels):
    rows = torch.arange(len(labels))
    inputs = {"skeleton": TWO_FRAMES.repeat(len(labels), 1, 1, 1, 1)}
    return Batch(inputs, torch.tensor(labels), rows, rows)


def test_the_loss_of_several_streams_is_the_sum_of_their_losses():
    objective = Objective(nn.functional.cross_entropy)
    logits = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
    total = objective(logits, batch_of([0]), PlainFabric())
    assert float(total) == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(4)))


def test_a_teacher_is_asked_once_for_all_streams():
    module, asked = Told(1.0, 3.0).eval(), []
    module.register_forward_hook(lambda *_: asked.append(1))
    logits = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
    together = Objective(nn.functional.cross_entropy, Teacher(module, 0.25, 2.0))
    total = together(logits, batch_of([0]), PlainFabric())
    assert len(asked) == 1
    alone = [float(together(one, batch_of([0]), PlainFabric())) for one in logits.unbind(dim=1)]
    assert float(total) == pytest.approx(sum(alone))


@pytest.mark.parametrize("kinds", [["joint", "bone"], ["bone", "joint"]])
def test_what_one_stream_misses_another_shows_whatever_their_order(kinds):
    """Without its elbow a wrist has no bone, and still a place."""
    settings = {"model__streams": kinds, "model__fusion": "early", "model__mask": True}
    _, model = size_of(pose(model__model_type="ST-GCN++", model__graph_layout="coco", **settings))
    layout = LAYOUTS["coco"]
    x = torch.rand(1, 3, 8, 17, 1, generator=torch.Generator().manual_seed(0)) + 1
    wrist = layout.joints.index("left_wrist")
    x[:, :, :, layout.parents[wrist]] = 0
    moved = x.clone()
    moved[:, :, :, wrist] += 1
    model.eval()
    assert not torch.equal(model(skeleton=x), model(skeleton=moved))


def test_a_pupil_is_pulled_to_its_teacher():
    teacher = Teacher(Told(1.0, 3.0).eval(), weight=0.25, temperature=2.0)
    objective = Objective(nn.functional.cross_entropy, teacher)
    logits = torch.tensor([[0.0, 0.0]], requires_grad=True)
    total = objective(logits, batch_of([0]), PlainFabric())
    p = 1 / (1 + math.exp(-1))  # of the second class, at temperature 2
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert float(total) == pytest.approx(0.75 * math.log(2) + 0.25 * 4 * divergence, rel=1e-5)
    total.backward()
    # labels pull to the first class by 0.75 * 0.5, the teacher away by 0.25 * 2 * (p - 0.5)
    assert float(logits.grad[0, 0]) == pytest.approx(0.75 * -0.5 + 0.25 * 2 * (p - 0.5), rel=1e-4)
    assert teacher.module.logits.grad is None


def pose(action="train", **settings):
    needed = {"results_dir": "r", "dataset.train_dataset.data_path": "d"}
    told = {key.replace("__", "."): value for key, value in settings.items()}
    return load_spec(load_specs("pose_classification")[action], None, {**needed, **told})[0]


def size_of(spec):
    model = load_network("pose_classification").build_model(spec)
    return sum(p.numel() for p in model.parameters()), model


def test_four_streams_are_four_models_and_early_fusion_is_one():
    four = ["joint", "bone", "joint_motion", "bone_motion"]
    alone, plain = size_of(pose())
    late, streams = size_of(pose(model__streams=four))
    early, _ = size_of(pose(model__streams=four, model__fusion="early"))
    first = plain.st_gcn_networks[0].gcn.conv.weight.numel()
    assert late == 4 * alone
    assert early == alone + 3 * first + 3 * 2 * 3 * 34  # the first map, and BN of the input
    assert list(streams.streams) == four
    parts = load_network("pose_classification").common(pose(model__streams=four)).parts
    assert parts["joint motion"] == "streams.joint_motion"


def test_the_head_of_every_stream_is_known_as_such():
    network = load_network("pose_classification")
    for settings in ({}, {"model__streams": ["bone"]}, {"model__streams": ["joint", "bone"]}):
        _, model = size_of(pose(**settings))
        heads = [name for name in model.state_dict() if name.endswith(("fcn.weight", "fcn.bias"))]
        assert heads
        assert set(heads) <= set(network.head)


TWO = {"model__graph_layout": "nvidia", "dataset__num_classes": 3}


def test_the_order_of_people_is_seen_by_pairs_alone():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 12, 34, 2)
    x[..., 1] += 1
    swapped = x.flip(4)
    for persons, is_same in (("mean", True), ("partner", True), ("pair", False)):
        _, model = size_of(pose(model__persons=persons, **TWO))
        model.eval()
        with torch.no_grad():
            same = torch.allclose(model(skeleton=x), model(skeleton=swapped), atol=1e-5)
        assert same is is_same


@pytest.mark.parametrize("persons", ["mean", "pair", "partner"])
def test_what_people_do_to_each_other_is_not_the_sum_of_what_each_does(persons):
    """Of people who are each looked at alone, who is with whom makes no difference."""
    torch.manual_seed(0)
    kind = {"model__model_type": "ST-GCN++", "model__persons": persons, "model__dropout": 0.0}
    _, model = size_of(pose(**TWO, **kind))
    model.eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)
    a, b, c, d = torch.randn(4, 1, 3, 12, 34, 1)
    with torch.no_grad():
        ab, cd, ad, cb = (
            model(skeleton=torch.cat(both, dim=4)) for both in ((a, b), (c, d), (a, d), (c, b))
        )
    rest = (ab + cd - ad - cb).abs().max()
    assert bool(rest < 1e-4 * ab.abs().max()) is (persons == "mean")


@pytest.mark.parametrize(
    "words",
    [
        ("model.streams=[bone]",),  # whose names in a checkpoint begin with model. twice
        ("model.persons=pair",),
        ("model.persons=partner", "model.streams=[joint,bone]"),
        ("model.streams=[joint,bone]", "model.fusion=early"),
    ],
)
def test_what_was_trained_is_resumed_judged_and_exported(tmp_path, words):
    room, network = ROOMS["pose_classification"], load_network("pose_classification")
    room.make(tmp_path)
    short = (*words, "train.num_epochs=1", "train.ema_decay=0.5")
    train.run(network, room.train_spec(tmp_path, tmp_path, *short))
    longer = (*short, "train.num_epochs=2", "train.resume=true")
    train.run(network, room.train_spec(tmp_path, tmp_path, *longer))
    answers = {}
    for name in ("pc_model_latest.pth", "last.safetensors"):
        out = tmp_path / name.split(".")[1]
        spec = room.spec("evaluate", tmp_path / "train" / name, out, data=tmp_path)
        evaluate.run(network, spec)
        answers[name] = (out / "evaluate" / "predictions.csv").read_text().splitlines()
    one, other = answers.values()
    assert one == other
    assert len(one) == 1 + NUM_VAL
    export.run(
        network,
        room.spec("export", tmp_path / "train" / "pc_model_latest.pth", tmp_path, data=tmp_path),
    )


def seen_by(persons=2):
    """Two samples of ARM in 6 frames, all there."""
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, len(ARM.joints), persons)


@pytest.mark.parametrize("model_type", ["ST-GCN++", "CTR-GCN"])
def test_training_varies_with_who_is_passed_over(model_type):
    def stream(*kinds, persons="mean"):
        layout = paired(ARM) if persons == "pair" else ARM
        channels = 3 * len(kinds) * (2 if persons == "partner" else 1)
        return Stream(MODELS[model_type](2, channels, layout=layout), kinds, ARM, persons=persons)

    full, lacking, moment = seen_by(), seen_by(), seen_by()
    lacking[1, ..., 1] = 0
    moment[1, :, :, :, 1] = 0
    moment[1, :, 3, :, 1] = 1  # there in one frame, so nothing of theirs moves
    plain = stream("joint").model
    assert [plain.varies_with(x) for x in (full, lacking, moment)] == [False, True, False]
    assert not plain.varies_with(lacking[..., 1:])  # one place: on a GPU all are looked at
    for kind, found in (("bone", False), ("joint_motion", True), ("bone_motion", True)):
        both = Streams({"joint": stream("joint"), kind: stream(kind)})
        assert [both.varies_with(x) for x in (full, lacking, moment)] == [False, True, found]
    assert not stream("joint", persons="pair").varies_with(lacking)
    assert stream("joint", persons="partner").varies_with(full[..., :1])  # nobody is the second
    assert not stream("joint", persons="partner").varies_with(full)
    still = Stream(MODELS["ST-GCN"](2, 3, layout=ARM), ("joint",), ARM)
    assert not still.varies_with(lacking)  # which looks at all places
