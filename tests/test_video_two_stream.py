"""One stream or two: inputs by name, and what the fusion of both starts as."""

from typing import Any

import pytest
import torch
from torch import nn

from kineme.action_recognition.model import TwoStream, build_model, fusion_note
from kineme.action_recognition.network import NETWORK
from kineme.action_recognition.spec import SPECS
from kineme.spec.load import load_spec
from parity.video_models_reference import clips, fill
from parity.video_specs import video_spec


def build(*args: Any, **changes: Any) -> nn.Module:
    return build_model(video_spec(*args, **changes))


def test_inputs_go_by_name_alone() -> None:
    x = torch.zeros(1, 2, 2, 32, 32)
    model = build(model_type="of").eval()
    assert model(flow=x).shape == (1, 5)
    with pytest.raises(TypeError, match="rgb"):
        model(rgb=x)


def joint(**changes: Any) -> TwoStream:
    return fill_branches(build(model_type="joint", **changes)).eval()


def fill_branches(model: TwoStream) -> TwoStream:
    fill(model.model_rgb), fill(model.model_of)
    return model


@pytest.mark.parametrize(("num_classes", "num_fc"), [(5, 64), (5, 10), (1, 2)])
def test_fusion_starts_as_the_sum_of_both_streams(num_classes: int, num_fc: int) -> None:
    model = joint(num_classes=num_classes, num_fc=num_fc)
    rgb, flow = clips(3, 3, 2, 32, 32), clips(3, 2, 2, 32, 32)
    with torch.no_grad():
        fused = model(rgb=rgb, flow=flow)
        expected = model.model_rgb(rgb=rgb) + model.model_of(flow=flow)
    assert torch.equal(fused, expected)
    assert expected.abs().max() > 0.1


def test_fusion_as_a_sum_can_still_learn_in_every_layer() -> None:
    model = joint().train()
    model(rgb=clips(3, 3, 2, 32, 32), flow=clips(3, 2, 2, 32, 32)).square().sum().backward()
    assert model.fc2.weight.grad.count_nonzero() > 5 * 32  # spare units are heard from now on
    assert (model.fc1.weight.grad[:10].abs().sum(dim=1) > 0).sum() >= 5
    for name in ("model_rgb.conv1.weight", "model_of.conv1.weight"):
        assert model.get_parameter(name).grad.abs().max() > 0


def test_rgb_comes_first_in_the_fusion() -> None:
    model = joint(num_classes=2, num_fc=4)
    with torch.no_grad():
        for layer in (model.fc1, model.fc2):
            layer.weight.zero_(), layer.bias.zero_()
        model.fc1.weight[0, 1] = model.fc2.weight[0, 0] = 1  # the second logit of RGB
        model.fc1.weight[1, 2] = model.fc2.weight[1, 1] = 1  # the first of flow
        rgb, flow = clips(3, 3, 2, 32, 32), clips(3, 2, 2, 32, 32)
        expected = torch.stack(
            (model.model_rgb(rgb=rgb)[:, 1], model.model_of(flow=flow)[:, 0]), dim=1
        )
        torch.testing.assert_close(model(rgb=rgb, flow=flow), expected.relu())


def test_a_fusion_too_narrow_for_the_sum_starts_at_random_and_says_so() -> None:
    narrow = video_spec(model_type="joint", num_fc=9)
    assert fusion_note(narrow) == (
        "model.fusion_init sum needs model.num_fc of 10 or more for 5 classes, got 9: the fusion"
        " starts at random."
    )
    assert build_model(narrow).fc2.bias.abs().max() > 0
    for silent in (
        video_spec(model_type="joint", num_fc=10),
        video_spec(model_type="joint", num_fc=9, fusion_init="random"),
        video_spec(model_type="rgb", num_fc=9),
    ):
        assert fusion_note(silent) == ""
    asked = build_model(video_spec(model_type="joint", fusion_init="random"))
    assert asked.fc2.bias.abs().max() > 0


def test_training_hears_that_the_fusion_cannot_start_as_a_sum() -> None:
    names = {f"class{i}": i for i in range(40)}
    asked = {"model.model_type": "joint", "dataset.label_map": names, "results_dir": "unused"}
    asked |= {"dataset.train_dataset_dir": "unused"}
    spec, _ = load_spec(SPECS["train"], None, asked)
    _, notes = NETWORK.complete(spec, "train")
    assert notes == (
        "model.fusion_init sum needs model.num_fc of 80 or more for 40 classes, got 64: the"
        " fusion starts at random.",
    )
