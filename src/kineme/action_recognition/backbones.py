"""The backbones by name, and what a new one must offer.

A backbone is an `nn.Module` class that is called as
`Class(num_classes, in_channels, dropout=..., **options)` and whose `forward(clips)` gives
logits (N, classes) for clips in one of three forms:

- `stack`: (N, C T, H, W), the frames of a clip are channels; in_channels is C T;
- `shift`: (N, C, T, H, W), frames are images, channels are shifted between them;
  in_channels is C, and the class takes `shift_fraction`;
- `3d`: (N, C, T, H, W), kernels reach over time; in_channels is C.

It names its parameters as the place its public weights come from, trains and evaluates
under autocast, and exports to ONNX with a free batch. To add one, write the class and a
line in BACKBONES; its head and its first convolution are found by the names given there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kineme.action_recognition.efficientnet import EfficientNetLite0
from kineme.action_recognition.i3d import I3D
from kineme.action_recognition.resnet import PLANS, ResNet2d, ResNet3d

STACK, SHIFT, VOLUME = "stack", "shift", "3d"


@dataclass(frozen=True)
class Backbone:
    """One name of `model.backbone`.

    forms: input form -> class. options: what its classes take beside the common.
    stem, head: names of the first convolution and of the layer that names classes.
    """

    forms: Mapping[str, type[nn.Module]]
    stem: str
    head: str
    options: Mapping[str, Any]


def _resnet(depth: int) -> Backbone:
    forms = {STACK: ResNet2d, SHIFT: ResNet2d, VOLUME: ResNet3d}
    return Backbone(forms, stem="conv1", head="fc_cls", options={"depth": depth})


BACKBONES: Mapping[str, Backbone] = {
    **{f"resnet_{depth}": _resnet(depth) for depth in PLANS},
    "i3d": Backbone({VOLUME: I3D}, stem="Conv3d_1a_7x7.conv3d", head="logits.conv3d", options={}),
    "efficientnet_lite0": Backbone(
        {STACK: EfficientNetLite0, SHIFT: EfficientNetLite0},
        stem="_conv_stem",
        head="_fc",
        options={},
    ),
}
