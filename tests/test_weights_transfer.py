"""Fine-tuning across layouts: weights that know joints go to the joints of the same name."""

import json

import numpy as np
import pytest
import torch

from kineme.engine import checkpoint as checkpoints
from kineme.engine.start import start_from
from kineme.engine.weights import fit_weights
from kineme.errors import CheckpointError
from kineme.network import load_network
from kineme.pose_classification.layouts import LAYOUTS, Layout, layout_facts
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.spec import SPECS
from kineme.pose_classification.weights import transfer
from kineme.spec.load import load_spec

NETWORK = load_network("pose_classification")
SHORT = Layout(
    name="short",
    joints=("pelvis", "neck", "left_hand", "right_hand", "head"),
    bones=(("pelvis", "neck"), ("neck", "left_hand"), ("neck", "right_hand"), ("neck", "head")),
    centre="pelvis",
    source="a test",
)
ORDER = (3, 0, 4, 2, 1)
TURNED = Layout(
    "turned", tuple(SHORT.joints[i] for i in ORDER), SHORT.bones, SHORT.centre, "a test"
)


def spec_for(layout, *words):
    chosen = f"model.graph_layout={layout}" if isinstance(layout, str) else None
    text = None if chosen else {"model": {"layout": json.dumps(layout_facts(layout))}}
    base = ["results_dir=r", "dataset.train_dataset.data_path=d", "dataset.num_classes=3"]
    return load_spec(SPECS["train"], text, [*base, *([chosen] if chosen else []), *words])[0]


def lively(model, seed=0):
    """Every tensor but the graph a value of its own, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and name.rpartition(".")[2] != "A":
            draws = torch.rand(tensor.shape, generator=generator)
            tensor.mul_(0.9 + 0.2 * draws).add_(0.02 * draws)
    return model


def described(layout):
    return {"describe": {"layout": layout_facts(layout)}}


VARIANTS = [
    *([f"model.model_type={name}"] for name in MODELS),
    ["model.model_type=ST-GCN++", "model.mask=true"],
    ["model.streams=[joint,bone]", "model.fusion=early"],
    ["model.streams=[joint,joint_motion]"],
    ["model.model_type=CTR-GCN", "model.persons=pair"],
]


@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: ",".join(words))
def test_a_model_of_joints_in_another_order_answers_the_same(words):
    ours, theirs = spec_for(TURNED, *words), spec_for(SHORT, *words)
    source = lively(NETWORK.build_model(theirs)).double().eval()  # as logits are large
    target = NETWORK.build_model(ours).double().eval()
    weights, told = transfer(source.state_dict(), described(SHORT), ours, target)
    target.load_state_dict(dict(weights))
    assert told == "joints of turned from short: 5 of 5 by name"
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 12, 5, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected, found = source(skeleton=x), target(skeleton=x[:, :, :, list(ORDER)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for name, tensor in source.state_dict().items():  # the mapping itself is exact
        if tensor.numel() <= 300:
            assert torch.equal(weights[name].flatten().sort()[0], tensor.flatten().sort()[0]), name


@pytest.mark.parametrize("words", VARIANTS, ids=lambda words: ",".join(words))
def test_every_tensor_that_depends_on_joints_is_mapped(words):
    """By shape: what differs between models of 20 and of 17 joints has to fit afterwards."""
    ours, theirs = spec_for("coco", *words), spec_for("kinect-20", *words)
    target = NETWORK.build_model(ours)
    weights, _ = transfer(
        NETWORK.build_model(theirs).state_dict(), described(LAYOUTS["kinect-20"]), ours, target
    )
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    assert shapes == {name: tensor.shape for name, tensor in target.state_dict().items()}


def test_joints_without_a_partner_start_fresh_and_stand_ins_are_means():
    ours, theirs = spec_for("coco"), spec_for("kinect-20")
    source, target = lively(NETWORK.build_model(theirs)), NETWORK.build_model(ours)
    fresh = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    weights, told = transfer(source.state_dict(), described(LAYOUTS["kinect-20"]), ours, target)
    coco, kinect = LAYOUTS["coco"].joints, LAYOUTS["kinect-20"].joints
    scale, known = weights["data_bn.weight"].view(17, 3), source.data_bn.weight.view(20, 3)
    torch.testing.assert_close(
        scale[coco.index("left_knee")], known[kinect.index("left_knee")], rtol=0, atol=0
    )
    torch.testing.assert_close(scale[coco.index("nose")], known[kinect.index("head")])
    assert scale[coco.index("left_eye")].tolist() == [1.0, 1.0, 1.0]
    edges, theirs_edges = weights["edge_importance.4"], source.edge_importance[4]
    a, b = coco.index("left_knee"), coco.index("left_hip")
    at = theirs_edges[:, kinect.index("left_knee"), kinect.index("left_hip")]
    torch.testing.assert_close(edges[:, a, b], at, rtol=0, atol=0)
    assert edges[:, a, coco.index("left_eye")].tolist() == [1.0, 1.0, 1.0]
    assert weights["A"].equal(fresh["A"])
    assert weights["fcn.weight"] is not fresh["fcn.weight"]
    new = "left_eye, right_eye, left_ear, right_ear"
    assert told == f"joints of coco from kinect-20: 12 of 17 by name; nose from head; new: {new}"


def test_a_stand_in_of_two_joints_is_their_mean():
    ours, theirs = spec_for("body-25"), spec_for("coco")
    source, target = lively(NETWORK.build_model(theirs)), NETWORK.build_model(ours)
    weights, _ = transfer(source.state_dict(), described(LAYOUTS["coco"]), ours, target)
    hips = [LAYOUTS["coco"].joints.index(f"{side}_hip") for side in ("left", "right")]
    pelvis = LAYOUTS["body-25"].joints.index("pelvis")
    expected = source.data_bn.bias.view(17, 3)[hips].mean(dim=0)
    torch.testing.assert_close(weights["data_bn.bias"].view(25, 3)[pelvis], expected)
    expected = source.edge_importance[0][:, hips][:, :, hips].mean(dim=(1, 2))
    torch.testing.assert_close(weights["edge_importance.0"][:, pelvis, pelvis], expected)


def test_weights_of_tao_say_their_layout_by_their_graph():
    ours, theirs = spec_for("coco"), spec_for("nvidia")
    target = NETWORK.build_model(ours)
    _, told = transfer(NETWORK.build_model(theirs).state_dict(), {}, ours, target)
    assert told == "joints of coco from nvidia: 17 of 17 by name"


def test_the_same_skeleton_and_one_nobody_knows_are_left_as_they_are():
    ours = spec_for("coco")
    model = NETWORK.build_model(ours)
    weights = model.state_dict()
    assert transfer(weights, described(LAYOUTS["coco"]), ours, model) == (weights, "")
    odd = {**weights, "A": torch.rand(3, 17, 17)}
    assert transfer(odd, {"describe": {"layout": {"joints": 7}}}, ours, model) == (odd, "")


def test_a_skeleton_that_shares_no_joint_is_refused():
    ours = spec_for("coco")
    strange = Layout("hand", ("a", "b"), (("a", "b"),), "a", "a test")
    model = NETWORK.build_model(ours)
    with pytest.raises(CheckpointError, match=r"shares joints with 'coco'.*weights for 'hand'"):
        transfer(model.state_dict(), described(strange), ours, model)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (
            "",
            "model.model_type=ST-GCN++",
            r"model.model_type: expected 'ST-GCN', as of .* got 'ST-",
        ),
        ("model.model_type=CTR-GCN", "model.model_type=ST-GCN++", r"expected 'CTR-GCN', as of the"),
        ("", "model.streams=[bone]", r"model.streams: expected \['joint'\], .* got \['bone'\]"),
        ("model.streams=[bone]", "", r"model.streams: expected \['bone'\], .* got \['joint'\]"),
        ("", "model.persons=partner", r"model.persons: expected 'mean', .* got 'partner'"),
    ],
)
def test_weights_of_another_kind_of_model_are_refused_by_its_settings(theirs, ours, said):
    theirs, ours = (spec_for("coco", *filter(None, [words])) for words in (theirs, ours))
    weights, target = NETWORK.build_model(theirs).state_dict(), NETWORK.build_model(ours)
    facts = {"spec": {"model": theirs.model.model_dump()}}
    with pytest.raises(CheckpointError, match=said):
        transfer(weights, facts, ours, target)
    with pytest.raises(CheckpointError, match=r"pretrained_model_path: expected|shape"):
        fitted(transfer(weights, {}, ours, target)[0], target)


EARLY = ("model.fusion=early", "model.streams=[joint,bone]")
ADAPTIVE = "model.model_type=ST-GCN++"


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (EARLY, (EARLY[0], "model.streams=[bone,joint]"), r"streams: expected \['joint', 'bone'\]"),
        (
            EARLY,
            (EARLY[0], "model.streams=[joint,joint_motion]"),
            r"got \['joint', 'joint_motion'\]",
        ),
        (EARLY, (), r"model.streams, model.fusion: expected .* got \['joint'\], 'late'"),
        ((), EARLY, r"model.streams, model.fusion: expected \['joint'\], 'late', as of"),
        ((ADAPTIVE,), (ADAPTIVE, "model.mask=true"), r"model.mask: expected False, .* got True"),
        ((), ("model.graph_strategy=uniform",), r"model.graph_strategy: expected 'spatial', as of"),
        (EARLY, (*EARLY, "model.persons=partner"), r"model.persons: expected 'mean', as of"),
    ],
)
def test_weights_for_other_input_are_refused_where_names_are_the_same(theirs, ours, said):
    theirs, ours = spec_for("coco", *theirs), spec_for("coco", *ours)
    weights, target = NETWORK.build_model(theirs).state_dict(), NETWORK.build_model(ours)
    facts = {"spec": {"model": theirs.model.model_dump()}}
    with pytest.raises(CheckpointError, match=said):
        transfer(weights, facts, ours, target)


def test_a_lone_stream_is_the_same_model_however_it_would_be_fused():
    theirs, ours = spec_for("coco"), spec_for("coco", "model.fusion=early")
    model = NETWORK.build_model(theirs)
    facts = {"spec": {"model": theirs.model.model_dump()}}
    assert transfer(model.state_dict(), facts, ours, NETWORK.build_model(ours))[1] == ""


def fitted(weights, target):
    return fit_weights(target, weights, where="w.pth", is_partial=True)


def test_a_model_of_more_streams_starts_from_one_of_fewer():
    theirs = spec_for("coco", "model.streams=[joint,bone]")
    ours = spec_for("coco", "model.streams=[bone,joint_motion]")
    weights, target = NETWORK.build_model(theirs).state_dict(), NETWORK.build_model(ours)
    facts = {"spec": {"model": {"model_type": "ST-GCN", "streams": ["joint", "bone"]}}}
    taken, _ = transfer(weights, facts, ours, target)
    report = fitted(taken, target)
    assert {name.split(".")[1] for name in report.matched} == {"bone"}
    assert {name.split(".")[1] for name in report.missing} == {"joint_motion"}


def test_a_training_starts_from_weights_of_another_layout_and_says_so(tmp_path):
    theirs, ours = spec_for("kinect-20"), spec_for("coco", "dataset.num_classes=4")
    source = lively(NETWORK.build_model(theirs))
    facts = {"network": "pose_classification", "describe": NETWORK.describe(theirs)}
    checkpoints.save_weights(tmp_path / "w.safetensors", source.state_dict(), facts)
    target = NETWORK.build_model(ours)
    file = checkpoints.load_checkpoint(tmp_path / "w.safetensors")
    told = start_from(NETWORK, ours, target, file)
    assert "new head, other number of classes: fcn.weight, fcn.bias; joints of coco from k" in told
    block = "st_gcn_networks.3.tcn.2.weight"
    assert target.state_dict()[block].equal(source.state_dict()[block])
    assert np.isfinite(target.data_bn.running_var.numpy()).all()


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_a_graph_in_other_digits_is_the_same(dtype):
    spec = spec_for("kinect-20")
    module = NETWORK.build_model(spec)
    weights = {name: x.to(dtype) for name, x in module.state_dict().items()}
    assert NETWORK.adapt_weights(weights, spec, "") is weights
    assert transfer(weights, {}, spec, module) == (weights, "")
    other = spec_for("kinect-20", "model.graph_strategy=distance")
    short = {"A": weights["A"][:2]}  # distance has two partitions
    with pytest.raises(CheckpointError, match="graph `A` has other edges"):
        NETWORK.adapt_weights(short, other, "")


def test_weights_of_another_skeleton_with_as_many_joints_are_refused():
    words = ["results_dir=r", "dataset.train_dataset.data_path=d"]
    coco, _ = load_spec(SPECS["train"], None, [*words, "model.graph_layout=coco"])
    human, _ = load_spec(SPECS["train"], None, [*words, "model.graph_layout=human3.6m"])
    weights = NETWORK.build_model(coco).state_dict()
    assert NETWORK.adapt_weights(weights, coco, "") is weights
    with pytest.raises(CheckpointError, match=r"weights for 'human3\.6m'"):
        NETWORK.adapt_weights(weights, human, "")
