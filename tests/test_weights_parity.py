"""What checkpoints rely on: names, shapes, counts, graphs and logits of every architecture.

The goldens come from the plain networks in tests/parity (goldens/weights/make_goldens.py).
What fails here would make files that users have load wrongly or not at all.
"""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from kineme.action_recognition import model as video_models
from kineme.action_recognition.backbones import BACKBONES, VOLUME
from kineme.pose_classification.layouts import LAYOUTS, STRATEGIES, adjacency
from kineme.pose_classification.model import MODELS
from kineme.pose_classification.network import NETWORK as POSE
from parity.pose_specs import pose_spec
from parity.seeded import seeded, seeded_model
from parity.stgcn_reference import reference_graph
from parity.video_specs import video_spec
from parity.weight_lists import FOLDER, kinds_of, listed, load_golden, read_list

TOLERANCE = 1e-4
"""Of the largest logit. The goldens are computed in double precision. In single precision,
kernels add up in another order on every kind of CPU (SSE, AVX2, AVX-512), and batch norms are
folded into convolutions: 2e-6 was measured. What a wrong tensor does was 1e-3 at least."""

STREAMS = ("rgb", "of")
FORMS = [(name, form) for name, backbone in BACKBONES.items() for form in backbone.forms]
VIDEO = [(name, form, stream) for name, form in FORMS for stream in STREAMS]
POSES = [(name, layout, strategy) for name in MODELS for layout in LAYOUTS
         for strategy in STRATEGIES]  # fmt: skip
DEEPER = ("resnet_34", "resnet_101", "resnet_152")  # as the others, only slower
UNWEIGHTED = "nvidia spatial unweighted"


def file_of(backbone: str, form: str) -> str:
    return f"{backbone}_3d" if form == VOLUME else f"{backbone}_2d"


def build_video(backbone: str, form: str, stream: str) -> nn.Module:
    spec = video_spec(backbone, form, model_type=stream, of_seq_length=10, num_fc=64)
    return video_models.build_model(spec)


def build_pose(name: str, variant: str) -> nn.Module:
    layout, strategy, *ending = variant.split(" ")
    return POSE.build_model(
        pose_spec(layout, strategy, model_type=name, edge_importance_weighting=not ending)
    )


def on_paper(build: Any, *arguments: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = build(*arguments)
    return model


def check_list(model: nn.Module, expected: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    found = kinds_of(model.state_dict())
    assert found == expected
    assert list(found) == list(expected)
    assert len(found) == row["entries"]
    assert sum(parameter.numel() for parameter in model.parameters()) == row["parameters"]


def test_every_architecture_has_a_golden_and_every_golden_an_architecture() -> None:
    variants: dict[str, set[str]] = {"st-gcn": {UNWEIGHTED}}
    for backbone, form, stream in VIDEO:
        variants.setdefault(file_of(backbone, form), set()).add(f"{form} {stream}")
    for name, layout, strategy in POSES:
        variants.setdefault(name.lower(), set()).add(f"{layout} {strategy}")
    assert {path.stem for path in FOLDER.glob("*.json")} == {*variants, "joint"}
    for file, expected in variants.items():
        golden = load_golden(file)
        assert set(golden["variants"]) == expected
        assert golden["logits"]


def test_every_form_of_a_backbone_has_golden_logits() -> None:
    for backbone, form in FORMS:
        with_logits = {case["variant"] for case in load_golden(file_of(backbone, form))["logits"]}
        assert f"{form} rgb" in with_logits


# Names, shapes, types


@pytest.mark.parametrize(("backbone", "form", "stream"), VIDEO)
def test_a_video_model_has_the_golden_tensors_in_their_order(
    backbone: str, form: str, stream: str
) -> None:
    file, variant = file_of(backbone, form), f"{form} {stream}"
    model = on_paper(build_video, backbone, form, stream)
    check_list(model, listed(file, variant), load_golden(file)["variants"][variant])


@pytest.mark.parametrize(("backbone", "form"), [pair for pair in FORMS if pair[0] not in DEEPER])
def test_a_joint_model_has_both_lists_and_two_layers(backbone: str, form: str) -> None:
    golden, file = load_golden("joint"), file_of(backbone, form)
    expected = {
        f"{branch}.{name}": kind
        for branch, stream in golden["branches"].items()
        for name, kind in listed(file, f"{form} {stream}").items()
    }
    expected |= read_list(golden["tensors"], {})
    rows = [load_golden(file)["variants"][f"{form} {stream}"] for stream in STREAMS]
    row = {
        "entries": sum(row["entries"] for row in rows) + 4,
        "parameters": sum(row["parameters"] for row in rows) + (10 + 1) * 64 + (64 + 1) * 5,
    }
    check_list(on_paper(build_video, backbone, form, "joint"), expected, row)


@pytest.mark.parametrize(
    ("name", "variant"),
    [*((name, f"{layout} {strategy}") for name, layout, strategy in POSES), ("ST-GCN", UNWEIGHTED)],
)
def test_a_pose_model_has_the_golden_tensors_in_their_order(name: str, variant: str) -> None:
    file = name.lower()
    row = load_golden(file)["variants"][variant]
    model = on_paper(build_pose, name, variant)
    check_list(model, listed(file, variant), row)
    assert model.get_buffer("A").count_nonzero(dim=(1, 2)).tolist() == row["partitions"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_keeps_its_joints_and_its_graph(name: str) -> None:
    layout, golden = LAYOUTS[name], load_golden("st-gcn")["layouts"][name]
    assert " ".join(layout.joints) == golden["joints"]
    bones = [(int(a), int(b)) for a, b in (bone.split("-") for bone in golden["bones"].split(" "))]
    for strategy in STRATEGIES:
        expected = reference_graph(layout.num_joints, bones, golden["centre"], strategy)
        assert torch.equal(torch.from_numpy(adjacency(layout, strategy)), expected)


# Logits


def cases_of(file: str) -> list[Any]:
    cases = load_golden(file)["logits"]
    return [pytest.param(file, i, id=f"{file} {c['variant']} {i}") for i, c in enumerate(cases)]


def check_logits(model: nn.Module, case: Mapping[str, Any], *words: str) -> None:
    """words: of the model's inputs, in the order of the golden's."""
    inputs = [seeded(f"input {i}", *shape) for i, shape in enumerate(case["inputs"])]
    expected = torch.tensor(case["logits"])
    with torch.no_grad():
        logits = model(**dict(zip(words, inputs, strict=True)))
    largest = expected.abs().max().item()
    torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize(
    ("file", "index"),
    [case for file in dict.fromkeys(file_of(*form) for form in FORMS) for case in cases_of(file)],
)
def test_a_video_model_with_seeded_weights_gives_the_golden_logits(file: str, index: int) -> None:
    case = load_golden(file)["logits"][index]
    form, stream = case["variant"].split(" ")
    model = seeded_model(lambda: build_video(file.rpartition("_")[0], form, stream))
    check_logits(model, case, {"rgb": "rgb", "of": "flow"}[stream])


@pytest.mark.parametrize(("file", "index"), cases_of("joint"))
def test_a_joint_model_with_seeded_weights_gives_the_golden_logits(file: str, index: int) -> None:
    case = load_golden(file)["logits"][index]
    backbone, form = case["variant"].split(" ")
    model = seeded_model(lambda: build_video(backbone.rpartition("_")[0], form, "joint"))
    check_logits(model, case, "rgb", "flow")


@pytest.mark.parametrize(
    ("file", "index"), [case for name in MODELS for case in cases_of(name.lower())]
)
def test_a_pose_model_with_seeded_weights_gives_the_golden_logits(file: str, index: int) -> None:
    case = load_golden(file)["logits"][index]
    name = next(name for name in MODELS if name.lower() == file)
    model = seeded_model(lambda: build_pose(name, case["variant"]))
    check_logits(model, case, "skeleton")
