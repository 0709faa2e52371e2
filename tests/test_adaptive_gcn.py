"""ST-GCN++ and CTR-GCN: the same numbers as the slow, plain ones of tests/parity.

Names, sizes and golden logits: test_weights_parity.py.
"""

import copy

import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from kineme.pose_classification.adaptive_gcn import CTRGCN, AdaptiveGCN, STGCNPlus
from kineme.pose_classification.blocks.temporal_branches import largest_of_three
from kineme.pose_classification.layouts import LAYOUTS
from parity.adaptive_reference import ReferenceAdaptive, ReferenceCTRGCN

PAIRS = {"ST-GCN++": (STGCNPlus, ReferenceAdaptive), "CTR-GCN": (CTRGCN, ReferenceCTRGCN)}
both = pytest.mark.parametrize("name", PAIRS)


def build_pair(name: str, **settings) -> tuple[AdaptiveGCN, ReferenceAdaptive]:
    """Ours and the reference with the same weights, none of them at its initial value."""
    torch.manual_seed(0)
    settings = {"layout": LAYOUTS["coco"]} | settings
    ours, plain = PAIRS[name]
    reference = plain(5, 3, **settings)
    settings["num_flags"] = int(settings.pop("uses_mask", False))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    reference(skeletons(8, 16, num_joints=settings["layout"].num_joints))  # running statistics
    model = ours(5, 3, **settings)
    model.load_state_dict(reference.state_dict(), strict=True)
    return model, reference


def skeletons(num_samples=3, num_frames=9, num_joints=17, num_persons=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(num_samples, 3, num_frames, num_joints, num_persons, generator=generator)


@both
@pytest.mark.parametrize(
    ("strategy", "num_persons", "num_frames", "uses_mask"),
    [
        ("spatial", 1, 9, False),
        ("spatial", 2, 13, True),
        ("uniform", 1, 3, False),  # the last stride leaves one frame
        ("distance", 2, 1, True),
    ],
)
def test_training_gives_the_values_and_gradients_of_the_reference(
    name: str, strategy: str, num_persons: int, num_frames: int, uses_mask: bool
) -> None:
    pair = [m.double() for m in build_pair(name, strategy=strategy, uses_mask=uses_mask)]
    x = skeletons(3, num_frames, num_persons=num_persons).double()
    x[:, :, :, 3] = 0
    x[1, ..., 1:] = 0
    logits = [model(skeleton=x) for model in pair]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-9, atol=1e-9)
    for each in logits:
        F.cross_entropy(each, torch.tensor([0, 1, 2])).backward()
    ours, reference = (dict(model.named_parameters()) for model in pair)
    for key, parameter in reference.items():
        torch.testing.assert_close(ours[key].grad, parameter.grad, rtol=1e-6, atol=1e-8, msg=key)
    for ours_buffer, buffer in zip(pair[0].buffers(), pair[1].buffers(), strict=True):
        torch.testing.assert_close(ours_buffer, buffer)


@both
@pytest.mark.parametrize("num_frames", [17, 3])
def test_inference_gives_the_logits_of_the_reference(name: str, num_frames: int) -> None:
    model, reference = (m.eval() for m in build_pair(name, uses_mask=True))
    x = skeletons(4, num_frames, num_persons=2)
    x[:, :, :, 2] = 0
    x[0] = 0
    with torch.no_grad():
        expected = reference(skeleton=x)
        torch.testing.assert_close(model(skeleton=x), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            received = model(skeleton=x)
    assert received.dtype == torch.float32
    torch.testing.assert_close(received, expected, rtol=0, atol=0.05 * expected.abs().max().item())
    torch.testing.assert_close(model(skeleton=x), expected, rtol=1e-4, atol=1e-4)  # not folded


@both
@pytest.mark.parametrize("num_frames", [16, 2])
def test_bfloat16_gradients_are_as_near_as_those_of_the_reference(
    name: str, num_frames: int
) -> None:
    pair = build_pair(name)
    x, labels = skeletons(8, num_frames), torch.arange(8) % 5
    gradients = []
    for model, is_half in ((pair[1], False), (pair[1], True), (pair[0], True)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            F.cross_entropy(model(skeleton=x), labels).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    exact, plain, ours = gradients
    assert (ours - exact).norm() < 1.3 * (plain - exact).norm()


@both
def test_inference_notices_new_weights(name: str) -> None:
    model, _ = build_pair(name)
    x = skeletons()
    with torch.no_grad():
        before = model.eval()(skeleton=x)
        model.blocks[4].temporal.norm.weight.mul_(2)
        after = model(skeleton=x)
        fresh = copy.deepcopy(model)
        fresh.train()
        torch.testing.assert_close(fresh.eval()(skeleton=x), after)
    assert not torch.allclose(before, after)


@both
def test_people_who_are_not_there_change_nothing(name: str) -> None:
    model, _ = build_pair(name)
    x = skeletons(2, num_persons=2)
    alone, crowd = x[..., :1], torch.cat([x, torch.zeros_like(x)], dim=-1)
    crowd[0, ..., 1] = 0
    with torch.no_grad():
        received = model.eval()(skeleton=crowd)
        torch.testing.assert_close(received[:1], model(skeleton=alone[:1]))
        torch.testing.assert_close(received[1:], model(skeleton=x[1:]))
        nobody = model(skeleton=torch.zeros_like(x))
    torch.testing.assert_close(nobody, model.fcn.bias.expand(2, -1))


@both
def test_a_mask_is_read_from_what_is_given_else_from_zeros(name: str) -> None:
    model, _ = build_pair(name, uses_mask=True)
    x, present = skeletons(), torch.ones(3, 1, 9, 17, 1, dtype=torch.bool)
    present[:, :, 2:5, 7] = False
    zeroed, filled = x * present, torch.where(present, x, 9.0)
    with torch.no_grad():
        expected = model.eval()(skeleton=zeroed)
        torch.testing.assert_close(model(skeleton=filled, present=present), expected)
        assert not torch.allclose(model(skeleton=zeroed, present=present | True), expected)


@both
def test_weights_between_joints_stay_those_of_the_skeleton_when_told_to(name: str) -> None:
    model = PAIRS[name][0](5, 3, layout=LAYOUTS["coco"], edge_importance_weighting=False)
    F.cross_entropy(model(skeleton=skeletons()), torch.tensor([0, 1, 2])).backward()
    assert all(block.spatial.graph.grad is None for block in model.blocks)


def test_parameters_are_as_many_as_published() -> None:
    """Duan et al., table 2, 1.39 M: 17 joints, 60 classes. Chen et al., table 3, 1.46 M: 25
    joints, 120 classes (a class has 257 parameters, and blocks have K V V each).
    """
    counts = [
        sum(p.numel() for p in model(classes, 3, layout=LAYOUTS[layout]).parameters())
        for model, layout, classes in (
            (STGCNPlus, "coco", 60),
            (STGCNPlus, "ntu-rgb+d", 60),
            (CTRGCN, "ntu-rgb+d", 60),
            (CTRGCN, "ntu-rgb+d", 120),
        )
    ]
    assert counts == [1_393_016, 1_403_144, 1_446_522, 1_446_522 + 60 * 257]


def test_of_equals_the_first_frame_has_the_gradient() -> None:
    x = torch.tensor([1.0, 3, 3, 0, 2, 2, 5])[None, None, None].requires_grad_()
    y = largest_of_three(x, 2)
    assert y.flatten().tolist() == [3, 3, 2, 5]
    y.backward(torch.tensor([1.0, 10, 100, 1000]).view_as(y))
    assert x.grad.flatten().tolist() == [0, 11, 0, 0, 100, 0, 1000]


@pytest.mark.slow
@both
def test_onnx_keeps_batch_frames_and_persons_free(name: str, tmp_path) -> None:
    model, reference = build_pair(name, uses_mask=True)
    names = {0: "batch", 2: "frames", 4: "persons"}
    program = torch.onnx.export(
        model.eval(),
        kwargs={"skeleton": skeletons(2, 16, num_persons=2)},
        dynamic_shapes={"skeleton": {dim: torch.export.Dim(word) for dim, word in names.items()}},
        dynamo=True,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for num_samples, num_frames, num_persons in ((1, 60, 1), (3, 5, 3), (2, 1, 2)):
        x = skeletons(num_samples, num_frames, num_persons=num_persons)
        x[:, :, :, 3] = 0
        x[1:, ..., 1:] = 0
        with torch.no_grad():
            expected = reference.eval()(skeleton=x)
        received = torch.from_numpy(session.run(None, {"skeleton": x.numpy()})[0])
        torch.testing.assert_close(received, expected, rtol=1e-3, atol=1e-3)
