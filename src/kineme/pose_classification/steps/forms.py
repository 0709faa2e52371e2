"""ST-GCN and ST-GCN++ as layers that take one frame after the other; stepped_model.py runs them.

Promises: normalisation is folded into the products before it, in float64; a form is a copy, that
later training does not change.
Leaves out: memory and delays (stepped_model.py). CTR-GCN, whose weights between joints come from
the mean over the window: it has no step.
Legend: R rows (a person each), V joints, C channels in, O channels out, K partitions, L frames
that a block reaches over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kineme.errors import SpecError
from kineme.pose_classification.adaptive_gcn import STGCNPlus
from kineme.pose_classification.graph import Layout
from kineme.pose_classification.model import STGCN
from kineme.pose_classification.streams import Stream, Streams

Map = Callable[[Tensor], Tensor]


class Block(NamedTuple):
    """spatial: (R, V, C) -> (R, V, inner), of each frame by itself. temporal: (R, V, L, inner) ->
    (R, V, O), where L = 2 reach + 1. residual: (R, V, C) -> (R, V, O). stride: frames from one
    that is answered to the next. ReLU follows."""

    channels: int
    inner_channels: int
    spatial: Map
    temporal: Map
    residual: Map | None
    reach: int
    stride: int


class Form(NamedTuple):
    """entry: joints (R, V, C) and which were seen (R, V, S) -> (R, V, C'). head: (N, F) -> logits.
    kinds: of values that are looked at; looks_ahead: whether one needs the next frame."""

    num_joints: int
    entry: Callable[[Tensor, Tensor], Tensor]
    blocks: tuple[Block, ...]
    head: Map
    counts_nobody: bool
    kinds: tuple[str, ...] = ()
    layout: Layout | None = None

    @property
    def looks_ahead(self) -> bool:
        return any(kind.endswith("motion") for kind in self.kinds)


def stepped_form(model: nn.Module, dtype: torch.dtype) -> Form:
    """Raises SpecError for a model that has no steps."""
    if isinstance(model, Streams):
        given, fix = f"{len(model.streams)} models", "Distil them into one, or analyse by windows."
        raise SpecError("model.streams", "one model, to go a frame at a time", given, fix)
    if isinstance(model, Stream):
        if model.persons != "mean":
            fix = "Analyse by windows."
            raise SpecError("model.persons", "mean, to go a frame at a time", model.persons, fix)
        form = stepped_form(model.model, dtype)
        return form._replace(kinds=model.kinds, layout=model.layout)
    for kind, build in _FORMS.items():
        if type(model) is kind:
            return build(model, dtype)
    raise SpecError(
        "model.model_type",
        "ST-GCN or ST-GCN++, to go a frame at a time",
        type(model).__name__,
        "CTR-GCN weighs joints by the mean of the whole window; analyse by windows.",
    )


def _stgcn(model: Any, dtype: torch.dtype) -> Form:
    weights = model.edge_importance or [torch.ones_like(model.A)] * len(model.st_gcn_networks)
    blocks = []
    for block, weight in zip(model.st_gcn_networks, weights, strict=True):
        norm, _, temporal, norm_after, _ = block.tcn
        spatial = _graph_map(model.A * weight, block.gcn.conv, norm, None, dtype)
        taps = temporal.weight[..., 0].permute(2, 1, 0).flatten(0, 1).double()  # (L C, O)
        gain, offset = _affine(norm_after)
        blocks.append(
            Block(
                block.gcn.conv.in_channels,
                temporal.in_channels,
                spatial,
                _Taps(taps * gain, temporal.bias.double() * gain + offset, dtype),
                _residual(getattr(block, "residual", None), block.residual_kind, dtype),
                temporal.kernel_size[0] // 2,
                temporal.stride[0],
            )
        )
    head = _Linear(model.fcn.weight.flatten(1).t(), model.fcn.bias, dtype)
    return Form(len(model.A[0]), _Entry(model, None, dtype), tuple(blocks), head, True)


def _stgcn_plus(model: Any, dtype: torch.dtype) -> Form:
    blocks = []
    for block in model.blocks:
        spatial, temporal = block.spatial, block.temporal
        kind = "none"
        if block.has_residual:
            kind = "identity" if isinstance(block.residual, nn.Identity) else "conv"
        along = _Branches(temporal, dtype)
        down = "" if isinstance(spatial.down, nn.Identity) else spatial.down
        blocks.append(
            Block(
                spatial.conv.in_channels,
                sum(temporal.widths),
                _Narrowed(
                    _graph_map(spatial.graph, spatial.conv, spatial.norm, down, dtype),
                    temporal,
                    dtype,
                ),
                along,
                _residual(block.residual, kind, dtype),
                along.reach,
                temporal.stride,
            )
        )
    head = _Linear(model.fcn.weight.t(), model.fcn.bias, dtype)
    return Form(len(model.A[0]), _Entry(model, model.missing, dtype), tuple(blocks), head, False)


_FORMS: dict[type[nn.Module], Callable[[Any, torch.dtype], Form]] = {
    STGCN: _stgcn,
    STGCNPlus: _stgcn_plus,
}


# Pieces ----------------------------------------------------------------------------------------


class _Linear:
    """(..., A) -> (..., B): x @ weight + bias; a bias (V, B) is another for each joint."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = bias.detach().to(dtype).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) == 1 and x.dim() == 3:  # one row is the usual case, and needs no batch
            return torch.addmm(self.bias, x[0], self.weight)[None]
        return torch.matmul(x, self.weight).add_(self.bias)


class _Taps(_Linear):
    """(R, V, L, C) -> (R, V, O): a weight for each frame."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.flatten(2))


class _GraphMap:
    """(R, V, C) -> (R, V, O): what joints get from their neighbours, by partition, and a linear
    map of that; `adds_input` where the input comes on top unchanged; then ReLU."""

    def __init__(
        self, graph: Tensor, weight: Tensor, shift: Tensor, dtype: torch.dtype, *, adds_input: bool
    ) -> None:
        k, v, _ = graph.shape
        gather = graph.permute(2, 0, 1).reshape(v * k, v)  # rows by joint, then partition
        self.gather = gather.detach().to(dtype).contiguous()
        self.linear = _Linear(weight.flatten(0, 1), shift, dtype)
        self.adds_input = adds_input

    def __call__(self, x: Tensor) -> Tensor:
        neighbours = torch.mm(self.gather, x[0])[None] if len(x) == 1 else self.gather @ x
        y = self.linear(neighbours.view(len(x), x.shape[1], -1))
        return (y.add_(x) if self.adds_input else y).relu_()


def _graph_map(graph: Tensor, conv: Any, norm: Any, down: Any, dtype: torch.dtype) -> _GraphMap:
    """Graph convolution and its normalisation. down: None, or what is added of the input: "" is
    the input itself, else a convolution and its normalisation, one more partition here."""
    graph = graph.detach().double()
    k, (gain, offset) = len(graph), _affine(norm)
    weight = conv.weight.detach().double().view(k, len(gain), -1)  # (K, O, C)
    bias = conv.bias.detach().double().view(k, -1)
    shift = torch.einsum("ko,kvw->wo", bias * gain, graph) + offset
    maps = (weight * gain[:, None]).transpose(1, 2)  # (K, C, O)
    if isinstance(down, nn.Sequential):
        matrix, more = _conv_and_norm(down)
        graph = torch.cat([graph, torch.eye(graph.shape[1], dtype=graph.dtype)[None]])
        maps, shift = torch.cat([maps, matrix[None]]), shift + more
    return _GraphMap(graph, maps, shift, dtype, adds_input=down == "")


class _Narrowed:
    """A map, then the narrowing of temporal branches: all but the last are normalised, ReLU."""

    def __init__(self, before: Map, branches: Any, dtype: torch.dtype) -> None:
        gain, offset = _affine(branches.narrow_norm)
        width = branches.widths[-1]
        gain = torch.cat([gain, gain.new_ones(width)])
        offset = torch.cat([offset, offset.new_zeros(width)])
        matrix, bias = _matrix(branches.narrow)
        self.before, self.linear = before, _Linear(matrix * gain, bias * gain + offset, dtype)
        self.num_normed = sum(branches.widths[:-1])

    def __call__(self, x: Tensor) -> Tensor:
        y = self.linear(self.before(x))
        y[..., : self.num_normed].relu_()
        return y


class _Branches:
    """(R, V, L, C) -> (R, V, C): taps of several dilations, the largest of three frames, and the
    frame itself, channels side by side; normalised, and mixed where there is a tail."""

    def __init__(self, branches: Any, dtype: torch.dtype) -> None:
        gain, offset = (torch.split(part, branches.widths) for part in _affine(branches.norm))
        self.widths, self.taps = branches.widths, []
        parts = zip(branches.taps, branches.dilations, gain, offset, strict=False)
        for conv, dilation, g, o in parts:
            taps = conv.weight.detach()[..., 0].permute(2, 1, 0).flatten(0, 1).double()
            side = dilation * (conv.kernel_size[0] // 2)
            linear = _Linear(taps * g, conv.bias.detach().double() * g + o, dtype)
            self.taps.append((side, dilation, linear))
        self.reach = max(side for side, _, _ in self.taps)
        rest = [torch.cat(parts[-2:]).to(dtype) for parts in (gain, offset)]
        self.rest_gain, self.rest_offset = rest
        self.tail = None
        if branches.has_tail:
            (matrix, bias), (g, o) = _matrix(branches.mix), _affine(branches.mix_norm)
            self.tail = _Linear(matrix * g, bias * g + o, dtype)

    def __call__(self, frames: Tensor) -> Tensor:
        *parts, pooled, passed = torch.split(frames, self.widths, dim=3)
        at = self.reach
        found = [
            linear(part[:, :, at - side : at + side + 1 : dilation].flatten(2))
            for part, (side, dilation, linear) in zip(parts, self.taps, strict=True)
        ]
        rest = torch.cat([pooled[:, :, at - 1 : at + 2].amax(dim=2), passed[:, :, at]], dim=2)
        y = torch.cat([*found, torch.addcmul(self.rest_offset, rest, self.rest_gain)], dim=2)
        return y if self.tail is None else self.tail(y.relu_())


class _Entry:
    """Joints, normalised each for itself; where a mask is used, a missing one becomes its token,
    and one more channel for each of S streams tells. (R, V, C), (R, V, S)."""

    def __init__(self, model: Any, token: Tensor | None, dtype: torch.dtype) -> None:
        gain, offset = (part.view(len(model.A[0]), -1) for part in _affine(model.data_bn))
        self.gain, self.offset = gain.to(dtype), offset.to(dtype)
        self.token = None if token is None else token.detach().to(dtype)

    def __call__(self, x: Tensor, seen: Tensor) -> Tensor:
        x = torch.addcmul(self.offset, x, self.gain)
        if self.token is None:
            return x
        flags = seen.repeat_interleave(x.shape[2] // seen.shape[2], dim=2)
        return torch.cat([torch.where(flags, x, self.token), seen.to(x.dtype)], dim=2)


def _residual(module: Any, kind: str, dtype: torch.dtype) -> Map | None:
    if kind == "none":
        return None
    return (lambda x: x) if kind == "identity" else _Linear(*_conv_and_norm(module), dtype)


def _conv_and_norm(module: Any) -> tuple[Tensor, Tensor]:
    """A pointwise convolution and the normalisation after it: matrix (C, O), bias (O,)."""
    conv, norm = module
    (matrix, bias), (gain, offset) = _matrix(conv), _affine(norm)
    return matrix * gain, bias * gain + offset


def _matrix(conv: Any) -> tuple[Tensor, Tensor]:
    return conv.weight.detach().double().flatten(1).t(), conv.bias.detach().double()


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """BN in eval mode as x * gain + offset."""
    var, mean = norm.running_var.detach().double(), norm.running_mean.detach().double()
    gain = norm.weight.detach().double() * (var + norm.eps).rsqrt()
    return gain, norm.bias.detach().double() - mean * gain
