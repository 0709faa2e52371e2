"""What skeleton models look at: joints, bones and how both move; several models at once.

Shi et al., Two-Stream Adaptive Graph Convolutional Networks for Skeleton-Based Action Recognition,
CVPR 2019 (bones); Shi et al., Skeleton-Based Action Recognition with Multi-Stream Adaptive Graph
Convolutional Networks, TIP 2020 (motion); Li et al., Two-person Graph Convolutional Network for
Skeleton-based Human Interaction Recognition, TCSVT 2022 (two people as one graph). That each
person is shown with the other one's joints is our own.
Promises: a value that needs a missing joint is missing itself; models of several streams share
nothing but their input, so that each learns as it would alone.
Leaves out: the models themselves (model.py, adaptive_gcn.py).

Shapes: N samples, C channels, T frames, V joints, M persons, S streams; skeletons (N, C, T, V, M),
`present` (N, 1, T, V, M) bool.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from kineme.pose_classification.graph import Layout

Values = tuple[torch.Tensor, torch.Tensor]  # skeletons, and which of their joints are there


class Stream(nn.Module):
    """A model that looks at `kinds` of values, one after the other in its channels.

    persons: as in the spec. pair: two people are one skeleton of 2 V joints, and the model was
    built for `paired(layout)`; partner: it was built for twice the values.
    """

    def __init__(
        self, model: nn.Module, kinds: Sequence[str], layout: Layout, *, persons: str = "mean"
    ) -> None:
        super().__init__()
        self.model, self.kinds, self.persons = model, tuple(kinds), persons
        self.layout = layout

    def forward(self, skeleton: torch.Tensor) -> torch.Tensor:
        """(N, C, T, V, M) -> logits (N, classes)."""
        logits: torch.Tensor = self.model(*self._seen(skeleton))
        return logits

    def varies_with(self, skeleton: torch.Tensor) -> bool:
        """Whether training passes over somebody of whom this stream sees nothing."""
        varies = getattr(self.model, "varies_with", None)
        several = self.persons == "partner" or (self.persons == "mean" and skeleton.shape[4] > 1)
        return several and varies is not None and bool(varies(*self._seen(skeleton)))

    def _seen(self, skeleton: torch.Tensor) -> Values:
        """What the model is shown."""
        present = (skeleton != 0).any(dim=1, keepdim=True)
        seen = [STREAMS[kind]((skeleton, present), self.layout) for kind in self.kinds]
        values = torch.cat([value for value, _ in seen], dim=1)
        there = torch.cat([own for _, own in seen], dim=1)
        if self.persons == "pair":
            values, there = as_pair(values), as_pair(there)
        elif self.persons == "partner":
            values, there = with_partner(values, there)
        return values, there


class Streams(nn.Module):
    """Models that look at different values of the same skeletons and answer together."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        super().__init__()
        self.streams = nn.ModuleDict(streams)

    def forward(self, skeleton: torch.Tensor) -> torch.Tensor:
        """(N, C, T, V, M) -> in training the logits of each, (N, S, classes), else the mean of
        their log probabilities, (N, classes)."""
        together = self._at_once if skeleton.device.type == "cuda" else self._in_turn
        logits = torch.stack(together(skeleton), dim=1)
        return logits if self.training else logits.float().log_softmax(dim=2).mean(dim=1)

    def varies_with(self, skeleton: torch.Tensor) -> bool:
        """As of each stream."""
        return any(stream.varies_with(skeleton) for stream in self.streams.values())  # type: ignore[operator]

    def _in_turn(self, skeleton: torch.Tensor) -> list[torch.Tensor]:
        return [stream(skeleton) for stream in self.streams.values()]

    def _at_once(self, skeleton: torch.Tensor) -> list[torch.Tensor]:
        """Each on a CUDA stream of its own: one alone leaves most of a GPU idle."""
        here, answers = torch.cuda.current_stream(skeleton.device), []
        lanes = _lanes(skeleton.device, len(self.streams))
        for lane, stream in zip(lanes, self.streams.values(), strict=True):
            lane.wait_stream(here)
            with torch.cuda.stream(lane):
                skeleton.record_stream(lane)
                answers.append(stream(skeleton))
        for lane, answer in zip(lanes, answers, strict=True):
            here.wait_stream(lane)
            answer.record_stream(here)
        return answers


@functools.lru_cache
def _lanes(device: torch.device, number: int) -> tuple[torch.cuda.Stream, ...]:
    """The CUDA streams of every model of so many streams: they come after one another anyway."""
    return tuple(cast(Any, torch.cuda.Stream)(device) for _ in range(number))


def joint(values: Values, layout: Layout) -> Values:
    """The joints as they are."""
    del layout
    return values


def bone(values: Values, layout: Layout) -> Values:
    """Each joint less its neighbour towards the centre; zero for the centre."""
    x, present = values
    return _difference(x, present, _of_parents(x, layout), _of_parents(present, layout), layout)


def _of_parents(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(N, C, T, V, M): in place of each joint, its neighbour towards the centre."""
    if x.device.type == "cpu":
        return x[:, :, :, torch.as_tensor(layout.parents)]
    # a GPU would wait for the numbers to come from the CPU
    return torch.stack([x[:, :, :, parent] for parent in layout.parents], dim=3)


def motion(values: Values, layout: Layout) -> Values:
    """The next frame less this one; zero in the last."""
    x, present = values
    after = torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    there = torch.cat([present[:, :, 1:], present[:, :, -1:]], dim=2)
    y, both = _difference(after, there, x, present, layout)
    return y, both


def _difference(
    x: torch.Tensor, present: torch.Tensor, of: torch.Tensor, there: torch.Tensor, layout: Layout
) -> Values:
    """x - of in the axes; of a confidence after them, the mean."""
    num_axes = min(x.shape[1], layout.num_axes)
    axes, rest = x[:, :num_axes] - of[:, :num_axes], (x[:, num_axes:] + of[:, num_axes:]) / 2
    both = present & there
    return torch.cat([axes, rest], dim=1).masked_fill(~both, 0), both


STREAMS: Mapping[str, Callable[[Values, Layout], Values]] = {
    "joint": joint,
    "bone": bone,
    "joint_motion": motion,
    "bone_motion": lambda values, layout: motion(bone(values, layout), layout),
}


def as_pair(x: torch.Tensor) -> torch.Tensor:
    """(N, C, T, V, M) -> (N, C, T, 2 V, 1): the first two people side by side."""
    n, c, t, v, _ = x.shape
    return _first_two(x).transpose(3, 4).reshape(n, c, t, 2 * v, 1)


def with_partner(x: torch.Tensor, there: torch.Tensor) -> Values:
    """(N, C, T, V, M), (N, S, T, V, M) -> (N, 2 C, T, V, 2), (N, 2 S, T, V, 2).

    Each of the first two people, followed in the channels by the other one; nobody is followed
    by nobody.
    """
    x, there = _first_two(x), _first_two(there)
    someone = there.any(dim=(1, 2, 3), keepdim=True)
    other, seen = x.flip(4) * someone, there.flip(4) & someone
    return torch.cat([x, other], dim=1), torch.cat([there, seen], dim=1)


def _first_two(x: torch.Tensor) -> torch.Tensor:
    """(..., M) -> (..., 2), however many there are."""
    return torch.cat([x, torch.zeros_like(x[..., :1])], dim=-1)[..., :2]


def paired(layout: Layout) -> Layout:
    """Two skeletons as one, whose joints are linked to those of the other person by name."""
    people = ("first", "second")
    joints = tuple(f"{person}_{joint}" for person in people for joint in layout.joints)
    bones = [(f"{who}_{a}", f"{who}_{b}") for who in people for a, b in layout.bones]
    links = [(f"first_{joint}", f"second_{joint}") for joint in layout.joints]
    return Layout(
        name=f"two of {layout.name}",
        joints=joints,
        bones=(*bones, *links),
        centre=f"first_{layout.centre}",
        source=layout.source,
        num_persons=1,
        num_frames=layout.num_frames,
        num_axes=layout.num_axes,
    )
