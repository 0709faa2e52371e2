"""From a spec to its model: one stream, or RGB and flow together.

Promises: models take their inputs by name (`rgb=`, `flow=`), and the names of their weights
are TAO's, without prefixes of ours.
Leaves out: the backbones (backbones.py) and weights (weights.py).
Legend: N clips; clips are (N, C T, H, W) where frames are stacked, else (N, C, T, H, W).
"""

import functools
from typing import Any

import torch
from torch import nn

from kineme.action_recognition.backbones import BACKBONES, SHIFT, STACK, VOLUME
from kineme.action_recognition.conv_norm import exact
from kineme.action_recognition.stream_words import CHANNELS, STREAM_OF


def build_model(spec: Any) -> nn.Module:
    """An untrained model of `spec.model`, with a head for every entry of the label map."""
    settings, num_classes = spec.model, len(spec.dataset.label_map)
    if settings.model_type != "joint":
        return build_stream(spec, STREAM_OF[settings.model_type])
    return TwoStream(
        build_stream(spec, "rgb"),
        build_stream(spec, "flow"),
        num_classes=num_classes,
        num_fc=settings.num_fc,
        is_sum=is_fusion_sum(spec),
    )


def build_stream(spec: Any, stream: str) -> nn.Module:
    """An untrained model of one stream, rgb or flow, which takes it by that name."""
    settings, backbone = spec.model, BACKBONES[spec.model.backbone]
    form = input_form(spec)
    if form not in backbone.forms:
        raise ValueError(f"{settings.backbone} takes {sorted(backbone.forms)}, not {form!r}")
    options = dict(backbone.options)
    if form == SHIFT:
        options["shift_fraction"] = settings.shift_fraction
    form_class: Any = backbone.forms[form]
    model: nn.Module = _taking(form_class, stream)(
        len(spec.dataset.label_map),
        stem_channels(spec, stream),
        dropout=settings.dropout_ratio,
        **options,
    )
    return model


def input_form(spec: Any) -> str:
    """How clips come: stack, shift or 3d (backbones.py)."""
    if spec.model.input_type == "3d":
        return VOLUME
    return SHIFT if spec.model.temporal == "shift" else STACK


def is_stacked(spec: Any) -> bool:
    """Whether the frames of a clip are the channels of the input."""
    return input_form(spec) == STACK


def stem_channels(spec: Any, stream: str) -> int:
    """Input channels of the first convolution."""
    return CHANNELS[stream] * (int(spec.model.lengths[stream]) if is_stacked(spec) else 1)


def is_fusion_sum(spec: Any) -> bool:
    """Whether the fusion starts as the sum of both streams' logits."""
    settings = spec.model
    is_wide = 2 * len(spec.dataset.label_map) <= settings.num_fc
    return bool(settings.fusion_init == "sum" and is_wide)


def fusion_note(spec: Any) -> str:
    """What to tell a user whose fusion cannot start as the sum it was asked to be, else ""."""
    settings, num_classes = spec.model, len(spec.dataset.label_map)
    if settings.model_type != "joint" or settings.fusion_init != "sum" or is_fusion_sum(spec):
        return ""
    return (
        f"model.fusion_init sum needs model.num_fc of {2 * num_classes} or more for"
        f" {num_classes} classes, got {settings.num_fc}: the fusion starts at random."
    )


class TwoStream(nn.Module):
    """Both streams' logits, RGB first, through two linear layers.

    is_sum: start as the sum of the logits, which needs num_fc >= 2 num_classes.
    """

    def __init__(
        self,
        model_rgb: nn.Module,
        model_of: nn.Module,
        *,
        num_classes: int,
        num_fc: int,
        is_sum: bool = True,
    ) -> None:
        super().__init__()
        self.model_rgb = model_rgb
        self.model_of = model_of
        self.fc1 = nn.Linear(2 * num_classes, num_fc)
        self.fc2 = nn.Linear(num_fc, num_classes)
        if is_sum:
            _start_as_sum(self.fc1, self.fc2)

    def forward(self, rgb: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Clips of both streams -> logits (N, classes), in float32 at least."""
        logits = torch.cat((self.model_rgb(rgb=rgb), self.model_of(flow=flow)), dim=1)
        with exact(logits):
            fused: torch.Tensor = self.fc2(torch.relu(self.fc1(logits)))
            return fused


@torch.no_grad()
def _start_as_sum(fc1: nn.Linear, fc2: nn.Linear) -> None:
    """relu(z) - relu(-z) = z for the sum z of a class's two logits; the hidden units that
    are left start at random, and unheard: fc2 is zero there.
    """
    num_classes = fc2.out_features
    classes = torch.arange(num_classes, device=fc1.weight.device)
    fc1.weight[: 2 * num_classes] = 0
    fc1.bias[: 2 * num_classes] = 0
    fc2.weight.zero_()
    fc2.bias.zero_()
    for row, sign in ((2 * classes, 1.0), (2 * classes + 1, -1.0)):
        fc1.weight[row, classes] = sign
        fc1.weight[row, num_classes + classes] = sign
        fc2.weight[classes, row] = sign


@functools.cache
def _taking(backbone: Any, word: str) -> Any:
    """The class `backbone` with its input called `word`.

    A module around it would put a prefix before the names of its weights.
    """

    class Rgb(backbone):  # type: ignore[misc]
        def forward(self, rgb: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(rgb)
            return logits

    class Flow(backbone):  # type: ignore[misc]
        def forward(self, flow: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(flow)
            return logits

    return {"rgb": Rgb, "flow": Flow}[word]
