"""Skeleton models a frame at a time: a new frame costs one step, however long the window is.

Hedegaard, Heidari, Iosifidis: Continual Spatio-Temporal Graph Convolutional Networks, Pattern
Recognition 2023. Every layer along time remembers the few frames it reaches over, so that nothing
is computed twice; layers that skip frames work only when they are due.

What it equals: let the plain model run once over all frames from the first to the newest. Its
last layer gives a feature for every `stride` frames, centred on frames 0, stride, 2 stride ...
Those whose frames have all been seen, up to `delay` frames after their centre, are the ones that
steps give, to rounding; `finish` gives the rest, with zeros after the newest frame as the plain
model has them. An answer is the mean of the features centred in its span of frames.
What it does not equal: windows run each on its own. There a feature near either end of the window
sees zeros where a step sees the frames that are really there.

Promises: what steps give does not change afterwards, and depends on no other `Steps`.
Leaves out: the layers of each model (forms.py), normalisation (values.py),
models side by side (`Streams`), two people as one graph.
Legend: N samples, C channels, V joints, M persons, R = N M rows, F features, K classes.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kineme.pose_classification.steps.forms import Block, stepped_form
from kineme.pose_classification.streams import STREAMS


class SteppedModel:
    """A trained model, asked a frame at a time.

    window: frames that an answer is the mean over, if not said otherwise. delay: frames between
    the newest and the centre of the last feature, stride: between two features. counts_nobody:
    whether an empty person's features enter the mean over persons, as they do in ST-GCN.
    Raises SpecError for models whose layers look at the whole window at once.
    """

    def __init__(
        self, model: nn.Module, *, window: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.window, self.dtype = window, dtype
        self._form = form = stepped_form(model, dtype)
        self.counts_nobody = form.counts_nobody
        self.stride, self.delay = 1, int(form.looks_ahead)
        for block in form.blocks:
            self.delay += block.reach * self.stride
            self.stride *= block.stride

    def begin(self, num_samples: int = 1, num_persons: int = 1) -> Steps:
        """Before the first frame of samples that go in step."""
        rows, joints = num_samples * num_persons, self._form.num_joints
        return Steps(
            num_persons,
            [_Memory(block, rows, joints, self.dtype) for block in self._form.blocks],
            torch.zeros(rows, dtype=torch.bool),
            deque(maxlen=2 * math.ceil((self.window + self.delay) / self.stride)),
        )

    @torch.inference_mode()
    def step(self, steps: Steps, frame: Tensor, present: Tensor | None = None) -> bool:
        """Take the next frame, (N, C, V, M); whether that completed a feature.

        present: (N, 1, V, M), which joints were seen; else those with a channel that is not zero.
        """
        if present is None:
            present = (frame != 0).any(dim=1, keepdim=True)
        steps.num_frames += 1
        if not self._form.looks_ahead:
            return self._take(steps, frame[:, :, None], present[:, :, None])
        before, steps.before = steps.before, (frame, present)
        if before is None:
            return False
        pairs = (torch.stack(pair, dim=2) for pair in zip(before, (frame, present), strict=True))
        return self._take(steps, *pairs)

    @torch.inference_mode()
    def finish(self, steps: Steps) -> None:
        """Complete the features that are left; nothing comes after. Of a `copy`: an answer now."""
        if steps.before is not None:
            frame, present = steps.before
            self._take(steps, frame[:, :, None], present[:, :, None])
        for index, memory in enumerate(steps.memories):
            for _ in range(memory.block.reach):
                self._pass_on(steps, memory.push(None), index + 1)

    @torch.inference_mode()
    def answer(self, steps: Steps, span: tuple[int, int] | None = None) -> Tensor | None:
        """(N, K) logits of the features centred in `span`, from its first frame up to before its
        last; None where there are none yet. Without a span, of the last `window` frames that have
        features, or of the fewer there are.
        """
        number = steps.num_features - len(steps.features)  # of the first that is kept
        if span is None:
            first, last = -math.ceil(self.window / self.stride), None
        else:
            first, last = (max(math.ceil(at / self.stride) - number, 0) for at in span)
        kept = list(steps.features)[first:last]
        if not kept:
            return None
        features = torch.stack(kept).mean(dim=0).view(-1, steps.num_persons, kept[0].shape[1])
        if self.counts_nobody:
            return self._form.head(features.mean(dim=1))
        counted = steps.is_there.view(-1, steps.num_persons, 1).to(features.dtype)
        total = (features * counted).sum(dim=1)
        return self._form.head(total / counted.sum(dim=1).clamp(min=1))

    def _take(self, steps: Steps, skeleton: Tensor, present: Tensor) -> bool:
        """(N, C, 1 or 2, V, M), of which the first frame is the next."""
        form, there = self._form, present
        if form.layout is not None:
            seen = [STREAMS[kind]((skeleton, present), form.layout) for kind in form.kinds]
            skeleton, present = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
        x = skeleton[:, :, 0].permute(0, 3, 2, 1).flatten(0, 1).to(self.dtype)  # (R, V, C)
        seen_joints = present[:, :, 0].permute(0, 3, 2, 1).flatten(0, 1)  # (R, V, S)
        steps.is_there |= there[:, 0, 0].any(dim=1).flatten()
        return self._pass_on(steps, form.entry(x, seen_joints), 0)

    def _pass_on(self, steps: Steps, x: Tensor | None, index: int) -> bool:
        """Through the blocks from `index` on, as far as they are due."""
        for memory in steps.memories[index:]:
            if x is None:
                return False
            x = memory.push(x)
        if x is None:
            return False
        steps.features.append(x.mean(dim=1))
        steps.num_features += 1
        return True


@dataclass
class Steps:
    """What is remembered of samples that go in step. is_there: (R,) of whom anything was ever
    seen. features: (R, F) each, the last of num_features. before: the last frame and which joints
    it has, where movement is looked at."""

    num_persons: int
    memories: list[_Memory]
    is_there: Tensor
    features: deque[Tensor]
    num_frames: int = 0
    num_features: int = 0
    before: tuple[Tensor, Tensor] | None = None

    def copy(self) -> Steps:
        """The same again, that goes its own way."""
        return copy.deepcopy(self)

    @property
    def num_bytes(self) -> int:
        """Of all that is remembered."""
        lines = [line for memory in self.memories for line in (memory.seen, memory.came)]
        kept = [line.values for line in lines if line is not None] + list(self.features)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


class _Memory:
    """A block and the frames it reaches over, on both sides of the one it is to answer next."""

    def __init__(self, block: Block, rows: int, joints: int, dtype: torch.dtype) -> None:
        self.block, self.num_frames = block, 0
        self.seen = _Line((rows, joints), 2 * block.reach + 1, block.inner_channels, dtype)
        self.came = None
        if block.residual is not None:
            self.came = _Line((rows, joints), block.reach + 1, block.channels, dtype)

    def push(self, x: Tensor | None) -> Tensor | None:
        """The next frame (R, V, C), or None after the last; what is due of an earlier one."""
        block = self.block
        self.seen.push(None if x is None else block.spatial(x))
        if self.came is not None:
            self.came.push(x)
        middle = self.num_frames - block.reach
        self.num_frames += 1
        if middle < 0 or middle % block.stride:
            return None
        y = block.temporal(self.seen.frames())
        if self.came is not None and block.residual is not None:
            y += block.residual(self.came.oldest())
        return y.relu_()

    def __deepcopy__(self, known: dict[int, object]) -> _Memory:
        other = copy.copy(self)  # of the block too, whose weights are the same for all
        other.seen, other.came = copy.deepcopy((self.seen, self.came), known)
        return other


class _Line:
    """The last frames, side by side in memory: each is written twice, one length apart."""

    def __init__(
        self, shape: tuple[int, int], length: int, channels: int, dtype: torch.dtype
    ) -> None:
        self.values = torch.zeros(*shape, 2 * length, channels, dtype=dtype)
        self._length, self._next = length, 0

    def push(self, x: Tensor | None) -> None:
        """(R, V, C); None is zeros."""
        both = self.values[:, :, self._next :: self._length]
        if x is None:
            both.zero_()
        else:
            both.copy_(x.unsqueeze(2))
        self._next = (self._next + 1) % self._length

    def frames(self) -> Tensor:
        """(R, V, length, C), the oldest first."""
        return self.values[:, :, self._next : self._next + self._length]

    def oldest(self) -> Tensor:
        return self.values[:, :, self._next]
