"""The video networks written slowly and plainly, to hold the fast ones against.

Promises: nothing is fused, folded, reordered in memory or computed in another precision;
names of parameters are the published ones (torchvision's, the public I3D's and
EfficientNet-Lite's), so that weights move between the two. Layers are called by name.
Legend: N clips, C channels, T frames, H x W pixels.
"""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3),
          152: (3, 8, 36, 3)}  # fmt: skip


class ReferenceResNet(nn.Module):
    """dims 2: images or stacks; 3: volumes. is_shifting: (N, C, T, H, W), frame by frame."""

    def __init__(self, num_classes, in_channels, *, depth, dims=2, is_shifting=False) -> None:
        super().__init__()
        self.depth, self.dims, self.is_shifting = depth, dims, is_shifting
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)
        kernel, padding = ((7, 7), (3, 3)) if dims == 2 else ((5, 7, 7), (2, 3, 3))
        self.conv1 = conv(in_channels, 64, kernel, 2, padding, bias=False)
        self.bn1 = norm(64)
        channels = 64
        for stage in range(4):
            width, blocks = 64 * 2**stage, []
            for place in range(BLOCKS[depth][stage]):
                block, channels_in = nn.Module(), channels
                stride = 2 if stage > 0 and place == 0 else 1
                stride = stride if dims == 2 else (1, stride, stride)
                if depth < 50:
                    channels = width
                    block.conv1 = conv(channels_in, width, 3, stride, 1, bias=False)
                    block.bn1 = norm(width)
                    block.conv2 = conv(width, width, 3, 1, 1, bias=False)
                    block.bn2 = norm(width)
                else:
                    channels = 4 * width
                    block.conv1 = conv(channels_in, width, 1, bias=False)
                    block.bn1 = norm(width)
                    block.conv2 = conv(width, width, 3, stride, 1, bias=False)
                    block.bn2 = norm(width)
                    block.conv3 = conv(width, channels, 1, bias=False)
                    block.bn3 = norm(channels)
                if place == 0 and (stage > 0 or channels_in != channels):
                    block.downsample = nn.Sequential(
                        conv(channels_in, channels, 1, stride, bias=False), norm(channels)
                    )
                blocks.append(block)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc_cls = nn.Linear(channels, num_classes)

    def forward(self, x):
        if self.is_shifting:
            n, c, t, h, w = x.shape
            logits = self.frames(x.permute(0, 2, 1, 3, 4).reshape(n * t, c, h, w), t)
            return logits.reshape(n, t, -1).mean(1)
        return self.frames(x, None)

    def frames(self, x, num_frames):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.dims == 2:
            x = F.max_pool2d(x, 3, 2, 1)
        else:
            x = F.max_pool3d(x, (1, 3, 3), (2, 2, 2), (0, 1, 1))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for place, block in enumerate(layer):
                y = x
                if num_frames and not (self.depth > 50 and place % 2):
                    y = shifted(x, num_frames)
                y = F.relu(block.bn1(block.conv1(y)))
                y = block.bn2(block.conv2(y))
                if self.depth >= 50:
                    y = block.bn3(block.conv3(F.relu(y)))
                shortcut = block.downsample(x) if hasattr(block, "downsample") else x
                x = F.relu(y + shortcut)
        pooled = x.flatten(2).mean(2)
        return self.fc_cls(pooled)


def shifted(x, num_frames, share=8):
    """Lin et al. 2019, figure 1: an eighth of the channels from each neighbour in time."""
    num_images, channels = x.shape[:2]
    y = torch.zeros_like(x)
    for image in range(num_images):
        frame = image % num_frames
        for channel in range(channels):
            if channel < channels // share:
                source = image + 1 if frame + 1 < num_frames else None
            elif channel < 2 * (channels // share):
                source = image - 1 if frame > 0 else None
            else:
                source = image
            if source is not None:
                y[image, channel] = x[source, channel]
    return y


def same(x, kernel, stride):
    """Zeros as TensorFlow's SAME puts them: an output for every stride-th input."""
    for axis in range(-1, -len(kernel) - 1, -1):
        size, k, s = x.shape[axis], kernel[axis], stride[axis]
        missing = max((math.ceil(size / s) - 1) * s + k - size, 0)
        for count, at_end in ((missing // 2, False), (missing - missing // 2, True)):
            shape = list(x.shape)
            shape[axis] = count
            zeros = x.new_zeros(shape)
            x = torch.cat((x, zeros) if at_end else (zeros, x), dim=axis)
    return x


MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32), "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64), "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64), "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128), "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


class ReferenceI3D(nn.Module):
    """With the published tail, whose window fits 9 frames or more and 193 to 224 pixels."""

    def __init__(self, num_classes, in_channels, *, window=(2, 7, 7)) -> None:
        super().__init__()
        self.window = window
        self.logits = nn.Module()
        self.logits.conv3d = nn.Conv3d(1024, num_classes, 1)
        self.Conv3d_1a_7x7 = self.unit(in_channels, 64, 7)
        self.Conv3d_2b_1x1 = self.unit(64, 64, 1)
        self.Conv3d_2c_3x3 = self.unit(64, 192, 3)
        for name, (before, b0, b1a, b1b, b2a, b2b, b3b) in MIXED.items():
            mixed = nn.Module()
            mixed.b0 = self.unit(before, b0, 1)
            mixed.b1a, mixed.b1b = self.unit(before, b1a, 1), self.unit(b1a, b1b, 3)
            mixed.b2a, mixed.b2b = self.unit(before, b2a, 1), self.unit(b2a, b2b, 3)
            mixed.b3b = self.unit(before, b3b, 1)
            self.add_module(f"Mixed_{name}", mixed)

    @staticmethod
    def unit(before, after, kernel):
        unit = nn.Module()
        unit.conv3d = nn.Conv3d(before, after, kernel, bias=False)
        unit.bn = nn.BatchNorm3d(after, eps=0.001, momentum=0.01)
        return unit

    @staticmethod
    def run(unit, x, stride=1):
        x = same(x, unit.conv3d.kernel_size, (stride,) * 3)
        return F.relu(unit.bn(F.conv3d(x, unit.conv3d.weight, stride=stride)))

    @staticmethod
    def pool(x, kernel, stride):
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    def forward(self, x):
        x = self.run(self.Conv3d_1a_7x7, x, 2)
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = self.run(self.Conv3d_2c_3x3, self.run(self.Conv3d_2b_1x1, x))
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "4b":
                x = self.pool(x, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                x = self.pool(x, (2, 2, 2), (2, 2, 2))
            mixed = self.get_submodule(f"Mixed_{name}")
            branches = [
                self.run(mixed.b0, x),
                self.run(mixed.b1b, self.run(mixed.b1a, x)),
                self.run(mixed.b2b, self.run(mixed.b2a, x)),
                self.run(mixed.b3b, self.pool(x, (3, 3, 3), (1, 1, 1))),
            ]
            x = torch.cat(branches, 1)
        x = F.avg_pool3d(x, self.window, 1)
        return self.logits.conv3d(x).squeeze(4).squeeze(3).mean(2)


class ReferenceEfficientNetLite0(nn.Module):
    """is_shifting: (N, C, T, H, W), frame by frame, shifted where a block has a shortcut."""

    # channels in, channels out, expansion, kernel, stride
    ROWS = (
        (32, 16, 1, 3, 1), (16, 24, 6, 3, 2), (24, 24, 6, 3, 1), (24, 40, 6, 5, 2),
        (40, 40, 6, 5, 1), (40, 80, 6, 3, 2), (80, 80, 6, 3, 1), (80, 80, 6, 3, 1),
        (80, 112, 6, 5, 1), (112, 112, 6, 5, 1), (112, 112, 6, 5, 1), (112, 192, 6, 5, 2),
        (192, 192, 6, 5, 1), (192, 192, 6, 5, 1), (192, 192, 6, 5, 1), (192, 320, 6, 3, 1),
    )  # fmt: skip

    def __init__(self, num_classes, in_channels, *, is_shifting=False) -> None:
        super().__init__()
        self.is_shifting = is_shifting
        self._conv_stem = nn.Conv2d(in_channels, 32, 3, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=0.001)
        self._blocks = nn.ModuleList()
        for before, after, expansion, kernel, _ in self.ROWS:
            block, inner = nn.Module(), before * expansion
            if expansion > 1:
                block._expand_conv = nn.Conv2d(before, inner, 1, bias=False)
                block._bn0 = nn.BatchNorm2d(inner, eps=0.001)
            block._depthwise_conv = nn.Conv2d(inner, inner, kernel, groups=inner, bias=False)
            block._bn1 = nn.BatchNorm2d(inner, eps=0.001)
            block._project_conv = nn.Conv2d(inner, after, 1, bias=False)
            block._bn2 = nn.BatchNorm2d(after, eps=0.001)
            self._blocks.append(block)
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=0.001)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x):
        if self.is_shifting:
            n, c, t, h, w = x.shape
            logits = self.frames(x.permute(0, 2, 1, 3, 4).reshape(n * t, c, h, w), t)
            return logits.reshape(n, t, -1).mean(1)
        return self.frames(x, None)

    def frames(self, x, num_frames):
        x = F.conv2d(same(x, (3, 3), (2, 2)), self._conv_stem.weight, stride=2)
        x = self._bn0(x).clamp(0, 6)
        for block, (before, after, expansion, k, s) in zip(self._blocks, self.ROWS, strict=True):
            has_shortcut = s == 1 and before == after
            y = shifted(x, num_frames) if num_frames and has_shortcut else x
            if expansion > 1:
                y = block._bn0(block._expand_conv(y)).clamp(0, 6)
            weight = block._depthwise_conv.weight
            y = F.conv2d(same(y, (k, k), (s, s)), weight, stride=s, groups=len(weight))
            y = block._bn2(block._project_conv(block._bn1(y).clamp(0, 6)))
            x = x + y if has_shortcut else y
        x = self._bn1(self._conv_head(x)).clamp(0, 6)
        return self._fc(x.mean((2, 3)))


class ReferenceTwoStream(nn.Module):
    """Late fusion: both streams' logits, colour first, through two linear layers."""

    def __init__(self, model_rgb, model_of, num_classes, *, num_fc=64) -> None:
        super().__init__()
        self.model_rgb, self.model_of = model_rgb, model_of
        self.fc1 = nn.Linear(2 * num_classes, num_fc)
        self.fc2 = nn.Linear(num_fc, num_classes)

    def forward(self, rgb, flow):
        return self.fc2(F.relu(self.fc1(torch.cat([self.model_rgb(rgb), self.model_of(flow)], 1))))


def fill(model: nn.Module) -> nn.Module:
    """Give every tensor values that follow from its name, none of them at its initial one."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.dim() == 0:
                continue
            noise = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            if name.endswith("running_var"):
                tensor.uniform_(0.6, 1.6, generator=noise)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.1, generator=noise)
            elif tensor.dim() == 1:
                tensor.normal_(0, 0.1, generator=noise)
            else:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=noise)
    return model


def clips(*shape: int) -> torch.Tensor:
    """Numbers like normalised pixels, the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
