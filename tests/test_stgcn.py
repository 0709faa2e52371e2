"""ST-GCN: the published names and counts, and the answers of the slow obvious version."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kineme.pose_classification.graph import STRATEGIES
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.model import MODELS, STGCN

sys.path.insert(0, str(Path(__file__).parent / "parity"))
from stgcn_reference import ReferenceSTGCN

PARAMETERS = {  # contract 3.5: C=3, 6 classes, spatial
    "nvidia": 3_100_938,
    "openpose": 3_075_882,
    "human3.6m": 3_074_826,
    "coco": 3_074_826,
    "ntu-rgb+d": 3_084_954,
    "ntu_edge": 3_083_478,
}


def pair(layout="coco", **options):
    """Our model and the reference with the same weights, running statistics included."""
    torch.manual_seed(0)
    ours = STGCN(6, 3, layout=LAYOUTS[layout], dropout=0.0, **options)
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif "running_mean" in name or "edge_importance" in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    reference = ReferenceSTGCN(6, 3, layout=LAYOUTS[layout], dropout=0.0, **options)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


@pytest.mark.parametrize("layout", sorted(PARAMETERS))
def test_parameter_counts_are_the_published_ones(layout):
    model = STGCN(6, 3, layout=LAYOUTS[layout])
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[layout]


def test_state_dict_names_and_shapes_are_upstreams():
    state = {
        k: tuple(v.shape) for k, v in STGCN(6, 3, layout=LAYOUTS["nvidia"]).state_dict().items()
    }
    expected = {"A": (3, 34, 34), "fcn.weight": (6, 256, 1, 1), "fcn.bias": (6,)}
    norms = {"data_bn": 102}
    channels = [64, 64, 64, 64, 128, 128, 128, 256, 256, 256]
    for i, (before, after) in enumerate(zip([3, *channels], channels, strict=False)):
        block = f"st_gcn_networks.{i}"
        expected[f"edge_importance.{i}"] = (3, 34, 34)
        expected[f"{block}.gcn.conv.weight"] = (3 * after, before, 1, 1)
        expected[f"{block}.gcn.conv.bias"] = (3 * after,)
        expected[f"{block}.tcn.2.weight"] = (after, after, 9, 1)
        expected[f"{block}.tcn.2.bias"] = (after,)
        norms |= {f"{block}.tcn.0": after, f"{block}.tcn.3": after}
        if i in (4, 7):
            expected[f"{block}.residual.0.weight"] = (after, before, 1, 1)
            expected[f"{block}.residual.0.bias"] = (after,)
            norms[f"{block}.residual.1"] = after
    for name, size in norms.items():
        expected |= {
            f"{name}.{part}": (size,) for part in ("weight", "bias", "running_mean", "running_var")
        }
        expected[f"{name}.num_batches_tracked"] = ()
    assert state == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("shape", [(2, 3, 9, 17, 1), (2, 3, 12, 17, 2), (1, 3, 1, 17, 1)])
def test_eval_gives_the_references_answers(strategy, shape):
    ours, reference = pair(strategy=strategy)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = reference.eval()(x)
    torch.testing.assert_close(ours.eval()(skeleton=x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # the path that folds normalisation into convolutions
        torch.testing.assert_close(ours(skeleton=x), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(skeleton=x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighting", [True, False])
@pytest.mark.parametrize("layout", ["nvidia", "ntu-rgb+d"])
def test_training_gives_the_references_gradients(layout, weighting):
    # in float64: in float32 a sum in another order moves numbers across the kink of ReLU
    ours, reference = (m.double() for m in pair(layout, edge_importance_weighting=weighting))
    x = torch.randn(3, 3, 11, LAYOUTS[layout].num_joints, 2, dtype=torch.float64)
    labels = torch.tensor([0, 3, 5])
    for model in (ours, reference):
        F.cross_entropy(model(x), labels).backward()
    theirs = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = theirs[name].grad.abs().max().clamp(min=1e-6)
        assert (parameter.grad - theirs[name].grad).abs().max() / scale < 1e-8, name
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(
            buffer, dict(reference.named_buffers())[name], rtol=1e-4, atol=1e-5
        )


def test_weights_written_to_after_an_evaluation_are_used_in_the_next():
    ours, _ = pair()
    x = torch.randn(1, 3, 6, 17, 1)
    with torch.no_grad():
        before = ours.eval()(skeleton=x)
        ours.st_gcn_networks[5].tcn[3].running_mean.add_(1)
        ours.fcn.bias.add_(1)
        after = ours(skeleton=x)
        torch.testing.assert_close(after, pairless(ours)(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after)


def pairless(ours):
    """A fresh reference with the weights that `ours` has now."""
    reference = ReferenceSTGCN(6, 3, layout=LAYOUTS["coco"], dropout=0.0)
    reference.load_state_dict(ours.state_dict())
    return reference.eval()


def test_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    model = STGCN(6, 3, layout=LAYOUTS["coco"], dropout=0.5).train()
    x = torch.randn(4, 3, 16, 17, 1)
    torch.manual_seed(7)
    first = model(skeleton=x)
    torch.manual_seed(7)
    torch.testing.assert_close(model(skeleton=x), first)
    assert not torch.allclose(model(skeleton=x), first)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_skeletons_by_name_and_gives_logits_of_finite_gradients(name):
    model = MODELS[name](5, 3, layout=LAYOUTS["coco"])
    logits = model(skeleton=torch.randn(2, 3, 8, 17, 1))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
