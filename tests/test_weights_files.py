"""Files of others, made of the goldens' names and seeded weights, in every family of models.

However its names are wrapped, a file loads completely and gives the golden logits; what does
not fit is named. tests/test_video_weights.py has the names of other programs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kineme.action_recognition.backbones import SHIFT, STACK, VOLUME
from kineme.action_recognition.network import NETWORK as VIDEO
from kineme.engine.checkpoint import load_checkpoint
from kineme.engine.weights import WeightsReport, fit_weights
from kineme.errors import CheckpointError
from kineme.network import Network
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.network import NETWORK as POSE
from parity.pose_specs import pose_spec
from parity.seeded import seeded, seeded_weights
from parity.stgcn_reference import reference_graph
from parity.video_specs import video_spec
from parity.weight_lists import Kind, listed, load_golden, read_list

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """file, variant: of its golden. kernel: a tensor that is not square. buffer: no parameter."""

    network: Network
    spec: Callable[[], Any]
    file: str
    variant: str
    words: tuple[str, ...]
    kernel: str
    buffer: str

    def kinds(self) -> dict[str, Kind]:
        golden = load_golden(self.file)
        if "branches" not in golden:
            return listed(self.file, self.variant)
        file, form = self.variant.split(" ")
        found: dict[str, Kind] = {}
        for branch, stream in golden["branches"].items():
            kinds = listed(file, f"{form} {stream}")
            found |= {f"{branch}.{name}": kind for name, kind in kinds.items()}
        return found | read_list(golden["tensors"], {})

    def case(self) -> Mapping[str, Any]:
        cases = load_golden(self.file)["logits"]
        return next(case for case in cases if case["variant"] == self.variant)


def video_family(
    backbone: str, form: str, kernel: str, buffer: str, *, stream: str = "rgb"
) -> Family:
    file = f"{backbone}_{'3d' if form == VOLUME else '2d'}"
    words = {"rgb": ("rgb",), "of": ("flow",), "joint": ("rgb", "flow")}[stream]
    is_joint = stream == "joint"
    return Family(
        VIDEO,
        lambda: video_spec(
            backbone, form, action="evaluate", model_type=stream, of_seq_length=10, num_fc=64
        ),
        "joint" if is_joint else file,
        f"{file} {form}" if is_joint else f"{form} {stream}",
        words,
        kernel,
        buffer,
    )


FAMILIES = {
    "ST-GCN": Family(
        POSE, lambda: pose_spec("ntu-rgb+d", action="evaluate"), "st-gcn", "ntu-rgb+d spatial",
        ("skeleton",), "st_gcn_networks.4.gcn.conv.weight", "A",
    ),
    "stacked ResNet": video_family(
        "resnet_18", STACK, "layer2.0.conv1.weight", "bn1.running_mean"
    ),
    "stacked ResNet of flow": video_family(
        "resnet_18", STACK, "conv1.weight", "layer4.1.bn2.running_var", stream="of"
    ),
    "shifted ResNet": video_family(
        "resnet_18", SHIFT, "layer3.0.downsample.0.weight", "layer3.0.downsample.1.running_var"
    ),
    "ResNet of volumes": video_family(
        "resnet_18", VOLUME, "layer4.0.conv1.weight", "layer1.0.bn2.running_mean"
    ),
    "I3D": video_family(
        "i3d", VOLUME, "Mixed_4c.b1b.conv3d.weight", "Mixed_5b.b3b.bn.running_var"
    ),
    "EfficientNet-Lite": video_family(
        "efficientnet_lite0", SHIFT, "_blocks.3._project_conv.weight", "_bn0.running_mean"
    ),
    "two streams": video_family(
        "efficientnet_lite0", SHIFT, "fc1.weight", "model_of._bn1.running_var", stream="joint"
    ),
}  # fmt: skip
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def file_of(family: Family) -> Weights:
    """What a user's file holds, without memory; but the graph of a skeleton is there."""
    made = {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, (shape, dtype) in family.kinds().items()
    }
    if "A" in made:
        layout, strategy = LAYOUTS["ntu-rgb+d"], "spatial"
        made["A"] = reference_graph(25, layout.edges, layout.centre_index, strategy)
    return made


def fit(family: Family, weights: Mapping[str, torch.Tensor], model: Any) -> WeightsReport:
    adapted = family.network.adapt_weights(weights, family.spec(), "")
    return fit_weights(model, adapted, where="a.pth")


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def lightning(weights: Weights) -> dict[str, Any]:
    return {
        "epoch": 9,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed("model.", weights),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
    }


WRAPPERS: Mapping[str, Callable[[Weights], dict[str, Any]]] = {
    "Lightning's names": lambda weights: dict(prefixed("model.", weights)),
    "DataParallel": lambda weights: {"state_dict": prefixed("module.", weights)},
    "a Lightning checkpoint": lightning,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
@EVERY_FAMILY
def test_a_foreign_file_loads_completely_and_gives_the_golden_logits(
    family: Family, wrap: Callable[[Weights], dict[str, Any]], tmp_path: Path
) -> None:
    torch.save(wrap(seeded_weights(file_of(family))), tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth").weights
    (tmp_path / "a.pth").unlink()
    with torch.device("meta"):
        model = family.network.build_model(family.spec())
    model.to_empty(device="cpu")  # what the file does not fill stays wild
    report = fit(family, loaded, model)
    assert report == WeightsReport(tuple(family.kinds()))
    case = family.case()
    inputs = [seeded(f"input {i}", *shape) for i, shape in enumerate(case["inputs"])]
    with torch.no_grad():
        logits = model.eval()(**dict(zip(family.words, inputs, strict=True)))
    expected = torch.tensor(case["logits"])
    limit = 1e-4 * expected.abs().max().item()  # test_weights_parity.py says why
    torch.testing.assert_close(logits, expected, rtol=0, atol=limit)


def refusal(family: Family, weights: Weights) -> str:
    """What is said of a file that does not fit; the model has no memory to write to."""
    with torch.device("meta"):
        model = family.network.build_model(family.spec())
    with pytest.raises(CheckpointError) as caught:
        fit(family, weights, model)
    return str(caught.value)


@EVERY_FAMILY
def test_a_renamed_tensor_is_reported_by_both_names(family: Family) -> None:
    weights, name = file_of(family), family.kernel
    shape = tuple(weights[name].shape)
    renamed = name.replace("weight", "kernel")
    weights[renamed] = weights.pop(name)
    assert refusal(family, weights).splitlines() == [
        f"a.pth: {name}: expected shape {shape}, got nothing.",
        f"a.pth: {renamed}: expected nothing, got shape {shape}.",
    ]


@EVERY_FAMILY
def test_a_transposed_tensor_is_reported_with_both_shapes(family: Family) -> None:
    weights, name = file_of(family), family.kernel
    after, before, *rest = weights[name].shape
    assert after != before
    weights[name] = weights[name].transpose(0, 1)
    assert refusal(family, weights) == (
        f"a.pth: {name}: expected shape {(after, before, *rest)}, got shape"
        f" {(before, after, *rest)}."
    )


@EVERY_FAMILY
def test_a_missing_buffer_is_reported_by_name(family: Family) -> None:
    weights = file_of(family)
    shape = tuple(weights.pop(family.buffer).shape)
    assert refusal(family, weights) == (
        f"a.pth: {family.buffer}: expected shape {shape}, got nothing."
    )
