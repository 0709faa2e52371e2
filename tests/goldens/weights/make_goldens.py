"""Write the goldens of this folder: names, shapes, counts and logits that checkpoints rely on.

Run from the repository: python tests/goldens/weights/make_goldens.py
Promises: everything comes from the slow, plain networks in tests/parity, computed in double
precision, and nothing from the networks that are tested. A golden that is there is left alone,
because what it says is in the checkpoints of users: a new architecture is a line in
`architectures` and a run. For a new variant of an old one (a layout), delete its file first;
the difference may only add rows.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from kineme.pose_classification.layouts import LAYOUTS
from parity.adaptive_reference import ReferenceAdaptive, ReferenceCTRGCN
from parity.seeded import seeded, seeded_weights
from parity.stgcn_reference import ReferenceSTGCN, reference_graph
from parity.video_models_reference import (
    ReferenceEfficientNetLite0,
    ReferenceI3D,
    ReferenceResNet,
    ReferenceTwoStream,
)
from parity.weight_lists import FOLDER, kinds_of, write_list

CLASSES, VIDEO_CLASSES = 6, 5  # of the published counts
TAO, OURS = "TAO", "ours"
TAO_LAYOUTS = ("nvidia", "openpose", "human3.6m", "ntu-rgb+d", "ntu_edge", "coco")
STRATEGIES = ("uniform", "distance", "spatial")
STACKED = {"rgb": 96, "of": 20}  # 32 colour frames, 10 of flow
CHANNELS = {"rgb": 3, "of": 2}  # of a frame


@dataclass(frozen=True)
class Variant:
    """One network of an architecture. input_shape: of its golden logits, if it has any."""

    origin: str
    sizes: Mapping[str, int]
    make: Callable[[], nn.Module]
    input_shapes: tuple[tuple[int, ...], ...] = ()
    without: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    names: str  # whose names of tensors these are
    variants: Mapping[str, Variant]
    facts: Mapping[str, Any] = field(default_factory=dict)


def architectures() -> Iterator[tuple[str, Callable[[], Architecture]]]:
    """Every golden: the name of its file, and what it describes."""
    yield "st-gcn", st_gcn
    yield "st-gcn++", functools.partial(adaptive, ReferenceAdaptive)
    yield "ctr-gcn", functools.partial(adaptive, ReferenceCTRGCN)
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet_{depth}_2d", functools.partial(resnet_2d, depth)
        yield f"resnet_{depth}_3d", functools.partial(resnet_3d, depth)
    yield "i3d_3d", i3d
    yield "efficientnet_lite0_2d", efficientnet_lite0


# The architectures


def st_gcn() -> Architecture:
    inputs = {
        "nvidia spatial": ((2, 3, 16, 34, 1), (2, 3, 16, 34, 2)),
        "nvidia spatial unweighted": ((2, 3, 16, 34, 2),),
        "ntu-rgb+d spatial": ((2, 3, 16, 25, 2),),
        "openpose distance": ((2, 3, 16, 18, 1),),
        "coco uniform": ((2, 3, 16, 17, 3),),
        "mediapipe-33 spatial": ((2, 3, 16, 33, 1),),
    }
    cases = [(layout, strategy, "") for layout in LAYOUTS for strategy in STRATEGIES]
    variants = {}
    for layout, strategy, ending in (*cases, ("nvidia", "spatial", " unweighted")):
        name = f"{layout} {strategy}{ending}"
        graph = graph_of(layout, strategy)
        variants[name] = Variant(
            TAO if layout in TAO_LAYOUTS else OURS,
            {"V": graph.shape[1], "K": graph.shape[0]},
            functools.partial(
                ReferenceSTGCN, CLASSES, 3, layout=LAYOUTS[layout], strategy=strategy,
                edge_importance_weighting=not ending,
            ),
            input_shapes=inputs.get(name, ()),
            without="edge_importance" if ending else "",
            facts={"partitions": graph.count_nonzero(dim=(1, 2)).tolist()},
        )  # fmt: skip
    return Architecture("yysijie/st-gcn and TAO", variants, {"layouts": layouts()})


def adaptive(reference: Callable[..., nn.Module]) -> Architecture:
    # with more joints, seeded topologies make CTR-GCN's activations explode
    inputs = {
        "coco spatial": ((2, 3, 16, 17, 1), (2, 3, 16, 17, 2)),
        "coco uniform": ((2, 3, 16, 17, 3),),
    }
    variants = {}
    for layout, strategy in ((layout, strategy) for layout in LAYOUTS for strategy in STRATEGIES):
        name, graph = f"{layout} {strategy}", graph_of(layout, strategy)
        variants[name] = Variant(
            OURS,
            {"V": graph.shape[1], "K": graph.shape[0]},
            functools.partial(
                reference, CLASSES, 3, layout=LAYOUTS[layout], strategy=strategy
            ),
            input_shapes=inputs.get(name, ()),
            facts={"partitions": graph.count_nonzero(dim=(1, 2)).tolist()},
        )  # fmt: skip
    return Architecture("ours", variants)


def graph_of(layout: str, strategy: str) -> torch.Tensor:
    row = LAYOUTS[layout]
    return reference_graph(row.num_joints, row.edges, row.centre_index, strategy)


def layouts() -> dict[str, Any]:
    """What the graph `A` in a checkpoint follows from, and what its joints mean."""
    return {
        name: {
            "joints": " ".join(layout.joints),
            "bones": " ".join(f"{a}-{b}" for a, b in sorted(map(sorted, layout.edges))),
            "centre": layout.centre_index,
        }
        for name, layout in LAYOUTS.items()
    }


def resnet_2d(depth: int) -> Architecture:
    make = functools.partial(ReferenceResNet, VIDEO_CLASSES, depth=depth)
    streams = ("rgb", "of") if depth == 18 else ("rgb",)  # the others differ in one layer alone
    return Architecture(
        "torchvision, whose fc is TAO's fc_cls",
        two_dimensional(make, TAO, streams, frame=(33, 32)),
    )


def resnet_3d(depth: int) -> Architecture:
    make = functools.partial(ReferenceResNet, VIDEO_CLASSES, depth=depth, dims=3)
    streams = ("rgb", "of") if depth == 18 else ("rgb",)
    return Architecture("TAO", volumes(make, streams, clip=(5, 33, 32)))


def i3d() -> Architecture:
    make = functools.partial(ReferenceI3D, VIDEO_CLASSES, window=(2, 2, 1))
    return Architecture(
        "piergiaj/pytorch-i3d and TAO", volumes(make, ("rgb", "of"), clip=(16, 33, 32))
    )


def efficientnet_lite0() -> Architecture:
    make = functools.partial(ReferenceEfficientNetLite0, VIDEO_CLASSES)
    return Architecture(
        "ml-illustrated/EfficientNet-Lite-PyTorch",
        two_dimensional(make, OURS, ("rgb", "of"), frame=(65, 40)),
    )


def two_dimensional(
    make: Callable[..., nn.Module], origin: str, streams: Sequence[str], *, frame: tuple[int, int]
) -> dict[str, Variant]:
    """Stacks of frames, and shifted frames, of both streams. streams: those with logits."""
    found = {}
    for stream, channels in CHANNELS.items():
        stacked, has_logits = STACKED[stream], stream in streams
        found[f"stack {stream}"] = Variant(
            origin, {"C": stacked}, functools.partial(make, stacked),
            input_shapes=((1, stacked, *frame),) if has_logits else (),
        )  # fmt: skip
        found[f"shift {stream}"] = Variant(
            OURS, {"C": channels}, functools.partial(make, channels, is_shifting=True),
            input_shapes=((1, channels, 3, *frame),) if has_logits else (),
        )  # fmt: skip
    return found


def volumes(
    make: Callable[..., nn.Module], streams: Sequence[str], *, clip: tuple[int, int, int]
) -> dict[str, Variant]:
    return {
        f"3d {stream}": Variant(
            TAO, {"C": channels}, functools.partial(make, channels),
            input_shapes=((1, channels, *clip),) if stream in streams else (),
        )
        for stream, channels in CHANNELS.items()
    }  # fmt: skip


JOINT = ("resnet_18_2d stack", "i3d_3d 3d", "efficientnet_lite0_2d shift")


def joint() -> dict[str, Any]:
    """Two streams of any architecture above; its lists are theirs, under a prefix each."""
    rows = dict(architectures())
    logits = []
    for case in JOINT:
        file, form = case.split(" ")
        branches = [rows[file]().variants[f"{form} {stream}"] for stream in CHANNELS]
        fusion = ReferenceTwoStream(*[branch.make() for branch in branches], VIDEO_CLASSES)
        shapes = [branch.input_shapes[0] for branch in branches]
        logits.append({"variant": case, "inputs": shapes, "logits": logits_of(fusion, *shapes)})
    nothing = ReferenceTwoStream(nn.Identity(), nn.Identity(), VIDEO_CLASSES)
    return {
        "names": "TAO",
        "tensors": write_list([kinds_of(nothing.state_dict())], [{}]),
        "branches": {"model_rgb": "rgb", "model_of": "of"},
        "logits": logits,
    }


# Writing


def describe(architecture: Architecture) -> dict[str, Any]:
    """The content of a golden, in the order of its file."""
    rows, kinds, logits = {}, {}, []
    for name, variant in architecture.variants.items():
        model = variant.make()
        kinds[name] = kinds_of(model.state_dict())
        rows[name] = {
            "from": variant.origin,
            "sizes": dict(variant.sizes),
            **({"without": variant.without} if variant.without else {}),
            "entries": len(kinds[name]),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            **variant.facts,
        }
        for shape in variant.input_shapes:
            found = logits_of(model, shape)
            logits.append({"variant": name, "inputs": [shape], "logits": found})
    whole = [name for name, variant in architecture.variants.items() if not variant.without]
    sizes = [architecture.variants[name].sizes for name in whole]
    return {
        "names": architecture.names,
        "tensors": write_list([kinds[name] for name in whole], sizes),
        **architecture.facts,
        "variants": rows,
        "logits": logits,
    }


def logits_of(model: nn.Module, *shapes: tuple[int, ...]) -> list[list[float]]:
    """Of seeded weights and inputs, in double precision, rounded to seven digits."""
    model.load_state_dict(seeded_weights(model.state_dict()))
    inputs = [seeded(f"input {i}", *shape).double() for i, shape in enumerate(shapes)]
    with torch.no_grad():
        rows = model.double().eval()(*inputs).tolist()
    return [[float(f"{x:.7g}") for x in row] for row in rows]


def write(path: Path, content: Mapping[str, Any]) -> None:
    """A line for each row of each table."""
    parts = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in value.items()]
            text = "{\n" + ",\n".join(lines) + "\n}"
        elif isinstance(value, list):
            text = "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
        else:
            text = json.dumps(value)
        parts.append(f"{json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    makers = {name: lambda make=make: describe(make()) for name, make in architectures()}
    for name, content in {**makers, "joint": joint}.items():
        path = FOLDER / f"{name}.json"
        if path.exists():
            print(f"{path.name}: there, left alone")
        else:
            write(path, content())
            print(f"{path.name}: written")
