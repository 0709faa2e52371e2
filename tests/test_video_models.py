"""Video models: the numbers of the slow, plain ones, and how they behave.

Names, sizes and golden logits: test_weights_parity.py.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kineme.action_recognition.backbones import BACKBONES, SHIFT, STACK, VOLUME
from kineme.action_recognition.conv_norm import conv_norm
from kineme.action_recognition.efficientnet import DepthwiseConv
from kineme.action_recognition.i3d import I3D
from kineme.action_recognition.model import build_model
from kineme.action_recognition.resnet import ResNet2d, ResNet3d
from kineme.action_recognition.shift import consensus, frames_of, shift_time
from parity.video_models_reference import (
    ReferenceEfficientNetLite0,
    ReferenceI3D,
    ReferenceResNet,
    clips,
    fill,
    shifted,
)
from parity.video_specs import video_spec

FORMS = [(name, form) for name, backbone in BACKBONES.items() for form in backbone.forms]


def build(backbone="resnet_18", form=SHIFT, **changes: Any) -> nn.Module:
    return build_model(video_spec(backbone, form, **changes))


@functools.cache
def on_paper(backbone: str, form: str, **changes: Any) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return build(backbone, form, **changes)


# Numbers


PAIRS = {
    "resnet_18 stack": (lambda: ReferenceResNet(5, 6, depth=18), (2, 6, 40, 33)),
    "resnet_18 shift": (
        lambda: ReferenceResNet(5, 3, depth=18, is_shifting=True), (2, 3, 3, 33, 32),
    ),
    "resnet_50 shift": (
        lambda: ReferenceResNet(5, 3, depth=50, is_shifting=True), (1, 3, 3, 33, 32),
    ),
    "resnet_18 3d": (lambda: ReferenceResNet(5, 3, depth=18, dims=3), (2, 3, 5, 33, 32)),
    "efficientnet_lite0 shift": (
        lambda: ReferenceEfficientNetLite0(5, 3, is_shifting=True), (2, 3, 2, 65, 40),
    ),
    "i3d 3d": (lambda: ReferenceI3D(5, 3, window=(2, 2, 1)), (1, 3, 17, 33, 32)),
}  # fmt: skip


LARGE = ("resnet_18 stack", "resnet_50 shift", "resnet_18 3d")


def build_pair(name: str, **changes: Any) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Ours and the reference with the same weights, and an input."""
    make, shape = PAIRS[name]
    reference = fill(make())
    model = build(*name.split(), **({"rgb_seq_length": 2} if "stack" in name else {}), **changes)
    model.load_state_dict(reference.state_dict(), strict=True)
    return model, reference, clips(*shape)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE), id=name) for name in PAIRS],
)
def test_training_gives_the_values_and_gradients_of_the_reference(name: str) -> None:
    model, reference, x = build_pair(name)
    x, labels = x.double(), torch.tensor([3, 1])[: len(x)]
    losses = []
    for module, inputs in ((model, {"rgb": x}), (reference, {"x": x})):
        module.double().train()
        losses.append(F.cross_entropy(module(**inputs), labels))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=1e-10)
    theirs = dict(reference.named_parameters())
    for key, ours in model.named_parameters():
        torch.testing.assert_close(ours.grad, theirs[key].grad, rtol=1e-7, atol=1e-9, msg=key)
    buffers = dict(reference.named_buffers())
    for key, ours in model.named_buffers():
        torch.testing.assert_close(ours, buffers[key], rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", PAIRS)
def test_inference_with_and_without_gradients_gives_the_reference(name: str) -> None:
    model, reference, x = build_pair(name)
    with torch.no_grad():
        expected = reference.eval()(x)
        folded = model.eval()(rgb=x)
    plain = model(rgb=x)
    assert plain.requires_grad
    close = {"rtol": 1e-4, "atol": 1e-4 * expected.abs().max().item()}
    torch.testing.assert_close(folded, expected, **close)
    torch.testing.assert_close(plain.detach(), expected, **close)


@pytest.mark.slow
def test_i3d_is_the_published_one_where_that_runs_at_all() -> None:
    reference = fill(ReferenceI3D(5, 3)).eval()
    model = build("i3d", VOLUME).eval()
    model.load_state_dict(reference.state_dict())
    for shape in ((1, 3, 9, 224, 224), (1, 3, 24, 193, 224)):
        with torch.no_grad():
            ours, theirs = model(rgb=clips(*shape)), reference(clips(*shape))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 3, 8, 32, 32), (2, 3, 9, 60, 40), (1, 3, 12, 72, 65)])
def test_i3d_takes_any_size_and_eight_frames(shape: tuple[int, ...]) -> None:
    window = (min(2, -(-shape[2] // 8)), -(-shape[3] // 32), -(-shape[4] // 32))
    reference = fill(ReferenceI3D(5, 3, window=window)).eval()
    model = build("i3d", VOLUME).eval()
    model.load_state_dict(reference.state_dict())
    with torch.no_grad():
        ours, theirs = model(rgb=clips(*shape)), reference(clips(*shape))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_i3d_says_that_it_needs_eight_frames() -> None:
    with pytest.raises(ValueError, match="I3D needs clips of 8 frames or more, got 7"):
        I3D(5, 3)(torch.zeros(1, 3, 7, 32, 32))


@pytest.mark.parametrize(
    ("num_frames", "after_stem"), [(1, 1), (2, 1), (3, 1), (8, 2), (16, 4), (32, 8), (64, 16)]
)
def test_volumes_are_a_quarter_as_long_after_the_stem(num_frames: int, after_stem: int) -> None:
    model, seen = ResNet3d(5, 3, depth=18).eval(), []
    model.layer1.register_forward_pre_hook(lambda _, args: seen.append(args))
    model.layer1[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    with torch.no_grad():
        model(torch.zeros(1, 3, num_frames, 8, 8))
    assert seen == [after_stem]


def test_fresh_convolutions_are_he_normal_by_what_leaves_them() -> None:
    torch.manual_seed(0)
    stacked, volume = ResNet2d(5, 96, depth=18), ResNet3d(5, 3, depth=18)
    lite = build("efficientnet_lite0", SHIFT)
    for weight, fan_out in (
        (stacked.conv1.weight, 64 * 49),
        (stacked.layer3[0].conv2.weight, 256 * 9),
        (volume.conv1.weight, 64 * 5 * 49),
        (lite._blocks[15]._depthwise_conv.weight, 9),
        (lite._conv_head.weight, 1280),
    ):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03)
        assert abs(weight.mean().item()) < 0.1 * (2 / fan_out) ** 0.5
    assert torch.equal(stacked.layer2[1].bn2.weight, torch.ones(128))
    assert torch.equal(stacked.layer2[1].bn2.bias, torch.zeros(128))


# Time in 2D


def test_channels_come_from_the_neighbours_in_time() -> None:
    x = torch.arange(1.0, 13).view(3, 4, 1, 1)  # one clip: frames 1 2 3 4, 5 6 7 8, 9 10 11 12
    expected = [[5, 0, 3, 4], [9, 2, 7, 8], [0, 6, 11, 12]]
    assert shift_time(x, 3, 0.25).flatten(1).tolist() == expected
    assert shift_time(x, 1, 0.25).flatten(1).tolist() == [
        [0, 0, 3, 4],
        [0, 0, 7, 8],
        [0, 0, 11, 12],
    ]
    assert shift_time(x, 3, 0.5).flatten(1).tolist() == [[5, 6, 0, 0], [9, 10, 3, 4], [0, 0, 7, 8]]
    assert shift_time(x, 3, 0.2) is x  # less than one channel


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_shift_is_the_slow_one_and_keeps_the_order_in_memory(order: torch.memory_format) -> None:
    x = clips(12, 19, 3, 4).contiguous(memory_format=order)
    ours = shift_time(x, 4)
    assert torch.equal(ours, shifted(x, 4))
    assert ours.is_contiguous(memory_format=order)


def test_frames_are_unpacked_clip_by_clip_and_their_logits_averaged() -> None:
    x = torch.arange(2 * 3 * 4.0).view(2, 3, 4, 1, 1)
    frames, num_frames = frames_of(x)
    assert num_frames == 4
    assert frames[:, :, 0, 0].tolist() == [
        [0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11],
        [12, 16, 20], [13, 17, 21], [14, 18, 22], [15, 19, 23],
    ]  # fmt: skip
    logits = torch.tensor([[1.0, 2], [3, 6], [10, 0], [20, 1]])
    assert consensus(logits, 2).tolist() == [[2, 4], [15, 0.5]]


@pytest.mark.parametrize("backbone", ["resnet_18", "efficientnet_lite0"])
def test_a_shifted_model_sees_order_in_time_and_no_other_clip(backbone: str) -> None:
    model, x = fill(build(backbone, SHIFT)).eval(), clips(2, 3, 4, 32, 32)
    with torch.no_grad():
        logits, reversed_logits = model(rgb=x), model(rgb=x.flip(2))
        alone = model(rgb=x[:1])
    torch.testing.assert_close(logits[:1], alone, rtol=1e-4, atol=1e-5)
    assert (logits - reversed_logits).abs().max() > 1e-3 * logits.abs().max()


def test_the_shift_fraction_of_the_spec_is_used() -> None:
    assert build("resnet_18", SHIFT, shift_fraction=0.25).shift_fraction == 0.25
    assert build("efficientnet_lite0", SHIFT, shift_fraction=0.25).shift_fraction == 0.25
    assert build("resnet_18", STACK).shift_fraction is None


# Behaviour


def test_inference_notices_every_way_of_changing_weights() -> None:
    model, x = fill(build("efficientnet_lite0", SHIFT)).eval(), clips(1, 3, 2, 32, 32)
    seen = []
    with torch.no_grad():
        for change in (
            lambda: None,
            lambda: model._blocks[3]._bn1.running_mean.add_(1),
            lambda: model._conv_stem.weight.data.mul_(2),
            lambda: model.load_state_dict(fill(copy.deepcopy(model)).state_dict()),
        ):
            change()
            seen.append(model(rgb=x))
    assert torch.equal(seen[0], seen[3])
    assert not torch.allclose(seen[0], seen[1], rtol=1e-3)
    assert not torch.allclose(seen[1], seen[2], rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet_18 shift", "efficientnet_lite0 shift", "i3d 3d"])
def test_bfloat16_gives_nearly_the_same_answers_in_float32(name: str) -> None:
    model, reference, x = build_pair(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours = model.eval()(rgb=x)
    with torch.no_grad():
        theirs = reference.eval()(x)
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 0.04 * theirs.abs().max()


@pytest.mark.parametrize("name", ["resnet_18 shift", "efficientnet_lite0 shift"])
def test_bfloat16_gradients_point_where_those_of_float32_do(name: str) -> None:
    model, _, x = build_pair(name)
    found = []
    for is_mixed in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            F.cross_entropy(model.eval()(rgb=x), torch.tensor([3, 1])).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert F.cosine_similarity(*found, dim=0) > 0.97


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(("width", "kernel"), [(2, 3), (1, 3), (2, 1)])
def test_bfloat16_is_right_where_a_stride_leaves_one_column(width, kernel, is_training) -> None:
    conv = torch.nn.Conv2d(256, 512, kernel, 2, kernel // 2, bias=False)
    norm = torch.nn.BatchNorm2d(512)
    norm.train(is_training)
    x = clips(6, 256, 3, width).contiguous(memory_format=torch.channels_last)
    with torch.set_grad_enabled(is_training):
        exact = norm(conv(x))
        with torch.autocast("cpu", torch.bfloat16):
            ours = conv_norm(x.bfloat16(), conv, norm)
    assert ours.shape == exact.shape
    assert (ours - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_gradients_of_single_channels_are_right(kernel: int, stride: int) -> None:
    conv = DepthwiseConv(19, 19, kernel, stride, kernel // 2, groups=19, bias=False)
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        conv.zero_grad()
        x = clips(3, 19, 9, 8).to(dtype).requires_grad_()
        plain = conv if dtype == torch.bfloat16 else copy.deepcopy(conv).double()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = plain(x)
        y.backward(clips(*y.shape).to(y.dtype))
        found.append((y.detach(), x.grad, plain.weight.grad))
    assert found[1][0].dtype == found[1][1].dtype == torch.bfloat16
    assert found[1][2].dtype == torch.float32
    for exact, ours in zip(*found, strict=True):
        assert (exact - ours).abs().max() < 0.02 * exact.abs().max()


def test_dropout_acts_in_training_alone_and_as_often_as_the_spec_says() -> None:
    torch.manual_seed(0)
    model, x = fill(build(dropout_ratio=0.5)), clips(2, 3, 2, 32, 32)
    assert model.dropout.p == 0.5
    assert build("efficientnet_lite0", SHIFT, dropout_ratio=0.3)._dropout.p == 0.3
    assert build("i3d", VOLUME, dropout_ratio=0.3).dropout.p == 0.3
    with torch.no_grad():
        assert not torch.equal(model.train()(rgb=x), model(rgb=x))
        assert torch.equal(model.eval()(rgb=x), model(rgb=x))


def test_a_model_made_in_inference_mode_answers() -> None:
    with torch.inference_mode():
        assert build().eval()(rgb=clips(1, 3, 2, 32, 32)).shape == (1, 5)


def test_nan_in_a_clip_reaches_its_logits_alone() -> None:
    model, x = build().eval(), clips(2, 3, 2, 32, 32)
    x[0, 1, 1, 7, 9] = torch.nan
    with torch.no_grad():
        assert model(rgb=x).isnan().any(dim=1).tolist() == [True, False]


@pytest.mark.parametrize(("backbone", "form"), FORMS)
def test_every_backbone_keeps_its_contract(backbone: str, form: str) -> None:
    row, names = BACKBONES[backbone], on_paper(backbone, form).state_dict()
    assert names[f"{row.stem}.weight"].shape[1] == (96 if form == STACK else 3)
    assert names[f"{row.head}.weight"].shape[0] == names[f"{row.head}.bias"].shape[0] == 5
    if backbone in ("resnet_34", "resnet_101", "resnet_152"):
        return  # like the others, only slower
    shape = (2, 6, 32, 32) if form == STACK else (2, 6, 8, 32, 32)
    options = row.options | ({"shift_fraction": 0.125} if form == SHIFT else {})
    with torch.device("meta"):
        model = row.forms[form](7, 6, dropout=0.1, **options)
        assert model(torch.zeros(shape)).shape == (2, 7)


def test_a_form_that_a_backbone_does_not_have_is_named() -> None:
    spec = video_spec("resnet_18", SHIFT)
    wrong = spec.model_copy(update={"model": spec.model.model_copy(update={"backbone": "i3d"})})
    with pytest.raises(ValueError, match=r"i3d takes \['3d'\], not 'shift'"):
        build_model(wrong)


# Export

EXPORTED = [
    pytest.param("resnet_18", SHIFT, {}, {"rgb": (3, 4, 40, 33)}, marks=pytest.mark.slow),
    pytest.param("resnet_18", STACK, {}, {"rgb": (96, 40, 33)}, marks=pytest.mark.slow),
    pytest.param("resnet_18", VOLUME, {}, {"rgb": (3, 8, 40, 33)}, marks=pytest.mark.slow),
    pytest.param("i3d", VOLUME, {}, {"rgb": (3, 9, 40, 33)}, marks=pytest.mark.slow),
    pytest.param("efficientnet_lite0", SHIFT, {}, {"rgb": (3, 4, 40, 33)}, marks=pytest.mark.slow),
    pytest.param(
        "resnet_18", STACK, {"model_type": "joint", "of_seq_length": 3},
        {"rgb": (96, 40, 33), "flow": (6, 40, 33)}, marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "form", "changes", "shapes"), EXPORTED)
def test_onnx_gives_the_same_logits_for_any_batch(
    backbone: str, form: str, changes: Any, shapes: Any, tmp_path: Path
) -> None:
    model = fill(build(backbone, form, **changes)).eval()
    program = torch.onnx.export(
        model,
        kwargs={word: clips(3, *shape) for word, shape in shapes.items()},
        dynamic_shapes={word: {0: torch.export.Dim.DYNAMIC} for word in shapes},
        dynamo=True,
        verbose=False,
    )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for num_clips in (1, 3, 5):
        inputs = {word: clips(num_clips, *shape) for word, shape in shapes.items()}
        with torch.no_grad():
            expected = model(**inputs)
        feeds = {word: x.numpy() for word, x in inputs.items()}
        received = torch.from_numpy(session.run(None, feeds)[0])
        torch.testing.assert_close(
            received, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item()
        )
