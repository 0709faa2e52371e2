"""Skeleton sequences as whole batches: gathered on the CPU, prepared on the device.

Shapes: N sequences of the file, B samples, R = B x clips rows, and x (R, C, T, V, M).
Promises: a batch depends on (seed, epoch, indices) alone; data, labels, layout and spec
are held against each other before the first batch, and every problem is named.
Leaves out: file formats (data/), tensor arithmetic (transforms.py).
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.data import mixing, sampling, tensor_draws
from kineme.data.randomness import normal, uniform, uniform32
from kineme.network import Batch, Remarks
from kineme.pose_classification import transforms
from kineme.pose_classification.layouts import Layout
from kineme.pose_classification.sources import NO_PERSON, Sequences


@dataclass(frozen=True)
class View:
    """How a split looks at its sequences: what is drawn, cut, turned and hidden.

    settings: the spec's `dataset` section. is_random: training draws; otherwise every
    choice is the middle one. num_clips: windows a sample is seen through (test only), turned
    about the vertical evenly from -turn_degrees to turn_degrees.
    repeats: times an epoch visits each sequence. is_centred: as in `Sequences`.
    """

    settings: Any
    layout: Layout
    seed: int
    is_random: bool
    num_clips: int = 1
    turn_degrees: float = 0.0
    repeats: int = 1
    is_centred: bool = False

    @property
    def turns(self) -> tuple[float, ...]:
        """By what each clip of a sample is turned, in radians; none where none is."""
        has_clips = self.settings.sampling == "uniform" and self.num_clips > 1
        if self.is_random or not has_clips or not self.turn_degrees:
            return ()
        most = math.radians(self.turn_degrees)
        return tuple(np.linspace(-most, most, self.num_clips).tolist())


class SkeletonDataset:
    """N sequences x repeats; implements `network.Dataset`."""

    def __init__(self, sequences: Sequences, view: View) -> None:
        self.sequences, self.view = sequences, view
        self.ids = sequences.ids * view.repeats
        self.notes = (*sequences.notes, *_idle_settings(view, sequences.shape))
        self.labels: NDArray[np.int64] = np.tile(sequences.labels, view.repeats)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        """Choose frames and gather them: inputs["skeleton"] is (R, C, T, V, M) float32."""
        indices = np.asarray(indices, dtype=np.int64)
        rows, frames = self.choose(indices, epoch)
        clips = len(rows) // len(indices)
        empty = indices[self.sequences.is_empty[rows[::clips]]]
        return Batch(
            inputs={"skeleton": torch.from_numpy(self.sequences.gather(rows, frames))},
            labels=torch.from_numpy(self.labels[indices]),
            indices=torch.from_numpy(indices),
            sample_of_row=torch.arange(len(indices)).repeat_interleave(clips),
            remarks=Remarks(blank=dict.fromkeys(empty.tolist(), NO_PERSON)),
        )

    def choose(
        self, indices: NDArray[np.int64], epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The sequence (R,) of each row and its frames (R, F); None is all of them."""
        samples = indices % len(self.sequences.ids)
        lengths = self.sequences.lengths[samples]
        if self.view.settings.sampling != "uniform":
            return samples, self._contract_frames(samples, epoch, indices)
        num_frames = self.view.settings.num_frames
        if self.view.is_random:
            return samples, self._random_frames(lengths, num_frames, epoch, indices)
        clips = self.view.num_clips
        frames = sampling.test_clips(lengths, num_frames, clips).reshape(-1, num_frames)
        return np.repeat(samples, clips), frames

    def transform(self, batch: Batch, epoch: int) -> Batch:
        """Normalise, and in training augment and mix, all rows where they lie."""
        x = self.prepare(batch.inputs["skeleton"], batch.indices.numpy(), epoch)
        batch = Batch({"skeleton": x}, batch.labels, batch.indices, batch.sample_of_row)
        return self.mix(batch, epoch)

    def prepare(self, x: torch.Tensor, indices: NDArray[np.int64], epoch: int) -> torch.Tensor:
        """`transform` of the rows x, each by itself."""
        return prepare(x, self.view, indices, epoch)

    def mix(self, batch: Batch, epoch: int) -> Batch:
        """`transform` of rows that are prepared: those of one batch with each other."""
        alpha = self.view.settings.augmentation.mixup_alpha
        if not self.view.is_random or alpha <= 0:
            return batch
        mixed: Batch = mixing.mixed(
            batch, transforms.mixup, alpha=alpha, seed=self.view.seed, epoch=epoch
        )
        return mixed

    def frames_seen(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,): how many of the frames of a row are of the sequence, and not padding."""
        if self.view.settings.sampling == "uniform":
            return np.full(len(indices), self.view.settings.num_frames)
        lengths: NDArray[np.int64] = self.sequences.lengths[indices % len(self.sequences.ids)]
        return lengths

    def _random_frames(
        self, lengths: NDArray[np.int64], num_frames: int, epoch: int, indices: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """One frame from each segment of each sample, or of a random part of it; or unevenly."""
        options = self.view.settings.augmentation
        draws = self._draws("frames", epoch, indices, num_frames)
        low, high = options.time_crop
        starts: NDArray[np.int64] | None = None
        if low < 1:
            places = self._draws("crop", epoch, indices, 2)
            starts, lengths = sampling.random_parts(lengths, (low, high), places)
        if options.time_warp > 0:
            anywhere = self._draws("warp", epoch, indices, num_frames)
            frames = sampling.warped_indices(lengths, draws, anywhere, options.time_warp)
        else:
            frames = sampling.uniform_indices(lengths, num_frames, draws)
        return frames if starts is None else starts[:, None] + frames

    def _contract_frames(
        self, samples: NDArray[np.int64], epoch: int, indices: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Upstream's windowing (contract 2.4): only training crops or pads, None is all of T."""
        settings, num_frames = self.view.settings, self.sequences.shape[2]
        if not self.view.is_random or settings.window_size < 0:
            return None
        draws = self._draws("frames", epoch, indices, 1) if settings.random_choose else None
        places = None if draws is None else draws[:, 0]
        return sampling.crop_or_pad(num_frames, settings.window_size, draws=places)

    def _draws(
        self, name: str, epoch: int, indices: NDArray[np.int64], size: int
    ) -> NDArray[np.float64]:
        return uniform(self.view.seed, epoch, indices, name=name, size=size)


def _idle_settings(view: View, shape: tuple[int, ...]) -> Iterator[str]:
    """What has no effect on data (N, C, T, V, M)."""
    normalize = view.settings.normalize
    is_flat = min(shape[1], view.layout.num_axes) < 3
    if normalize.startswith("center_align") and (
        is_flat or not transforms.facing_pair(view.layout)
    ):
        yield (
            f"dataset.normalize {normalize} turns nobody: that takes three axes, and joints named "
            "left_shoulder and right_shoulder, or hips."
        )
    if view.is_random and view.settings.augmentation.swap_persons_prob > 0 and shape[4] == 1:
        yield "dataset.augmentation.swap_persons_prob has no effect: one person a sample."
    if view.num_clips > 1 and view.settings.sampling == "none":
        yield "num_clips has no effect: the model was trained with dataset.sampling none."
    if view.turn_degrees and not view.turns:
        yield "view_rotation_degrees of this action has no effect: there are no clips to turn."
    augmentation, layout = view.settings.augmentation, view.layout
    if view.is_random and augmentation.limb_dropout_prob > 0 and not layout.limbs:
        yield (
            "dataset.augmentation.limb_dropout_prob has no effect: no joint of layout "
            f"{layout.name!r} has a name that says of which limb it is."
        )
    if view.is_random and augmentation.side_dropout_prob > 0 and not any(layout.sides):
        yield (
            "dataset.augmentation.side_dropout_prob has no effect: no joint of layout "
            f"{layout.name!r} has a name that begins with left_ or right_."
        )


def present_joints(x: torch.Tensor, view: View) -> torch.Tensor | None:
    """Which joints of a data set are there, (R, 1, T, V, M); None where all are."""
    present = transforms.present_joints(x)
    if view.is_centred and present is not None:
        present = transforms.with_centre(present, view.layout)
    return present


def prepare(
    x: torch.Tensor,
    view: View,
    indices: NDArray[np.int64],
    epoch: int,
    *,
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hide parts (training only), fill gaps, centre, align, augment (training only), scale: the
    order every action shares. present: as of `present_joints`, which is asked where it is None.
    """
    normalize, layout = view.settings.normalize, view.layout
    present = present_joints(x, view) if present is None else present
    draw = _Draws(view.seed, epoch, indices, x.device) if view.is_random else None
    options = view.settings.augmentation
    if draw:
        x, present = hide_parts(x, present, view, draw)
    if view.settings.fill_gaps:
        x, present = transforms.fill_gaps(x, present)
    if draw and options.swap_persons_prob > 0 and x.shape[4] > 1:
        chosen = draw("persons", 1)[:, 0] < options.swap_persons_prob
        x, present = transforms.swap_persons(x, present, chosen)
    turn = None
    if normalize.startswith("center_align"):
        turn = transforms.facing_turns(x, present, layout)
    if draw:
        turn = random_view(turn, options, draw)
    elif view.turns:
        own = transforms.about_y(torch.tensor(view.turns, device=x.device))
        own = own.repeat(len(x) // view.num_clips, 1, 1)
        turn = own if turn is None else torch.bmm(own, turn)
    if normalize != "none":
        origin = transforms.origins(x, present, layout)
        x = transforms.move(x, present, layout, origin=origin, turn=turn)
    elif turn is not None:
        origin = x.new_zeros(len(x), transforms.num_axes(x, layout))
        x = transforms.move(x, present, layout, origin=origin, turn=turn)
    if draw:
        x, present = augment(x, present, view, draw)
    if normalize.endswith("minmax"):
        x = transforms.min_max(x, present, layout)
    return transforms.told_apart(x, present)


def random_view(turn: torch.Tensor | None, options: Any, draw: "_Draws") -> torch.Tensor | None:
    """`turn` (R, 3, 3) followed by a random rotation, scale and shear, as the spec asks."""
    changes = []
    if options.view_rotation_degrees > 0 or tuple(options.scale) != (1.0, 1.0):
        low, high = options.scale
        changes.append(
            transforms.random_turns(
                draw("view", 3), max_degrees=options.view_rotation_degrees, scale=(low, high)
            )
        )
    if options.shear > 0:
        changes.append(transforms.random_shears(draw("shear", 6), options.shear))
    for change in changes:
        turn = change if turn is None else torch.bmm(change, turn)
    return turn


def augment(
    x: torch.Tensor, present: torch.Tensor | None, view: View, draw: "_Draws"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Drift, flip, other proportions and noise, as far as the spec asks for them."""
    options, layout = view.settings.augmentation, view.layout
    if view.settings.random_move:
        x = transforms.random_move(x, present, draw("move", 4, 2))
    if options.flip_prob > 0:
        chosen = draw("flip", 1)[:, 0] < options.flip_prob
        x = transforms.flip(x, chosen, layout)
        present = None if present is None else transforms.flip_mask(present, chosen, layout)
    axes, frames, *places = transforms.num_axes(x, layout), *x.shape[2:]
    if options.joint_offset_std > 0:
        noise = draw.normal("offset", axes, 1, *places)
        x = transforms.jitter(x, present, layout, noise=noise, std=options.joint_offset_std)
    if options.jitter_std > 0:
        noise = draw.normal("jitter", axes, frames, *places)
        x = transforms.jitter(x, present, layout, noise=noise, std=options.jitter_std)
    return x, present


def hide_parts(
    x: torch.Tensor, present: torch.Tensor | None, view: View, draw: "_Draws"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Joints, limbs, sides and stretches of frames, as far as the spec asks for it."""
    options, layout, hidden = view.settings.augmentation, view.layout, []
    if options.joint_dropout_prob > 0:
        draws = draw("joint", layout.num_joints)
        hidden.append(transforms.dropped_joints(draws, options.joint_dropout_prob))
    if options.limb_dropout_prob > 0:
        hidden.append(transforms.dropped_limb(draw("limb", 2), options.limb_dropout_prob, layout))
    if options.side_dropout_prob > 0:
        hidden.append(transforms.dropped_side(draw("side", 2), options.side_dropout_prob, layout))
    if options.time_dropout_prob > 0:
        draws = draw("time", 3)
        everyone = present if present is not None else x.new_ones(1, 1, 1, 1, 1, dtype=torch.bool)
        someone = everyone.any(dim=(1, 3, 4)).expand(len(x), x.shape[2])
        hidden.append(transforms.dropped_time(draws, options.time_dropout_prob, someone))
    for part in hidden:
        present = transforms.without(present, part, x.shape)
    return (transforms.hide(x, present) if hidden else x), present


@dataclass(frozen=True)
class _Draws:
    """Random tensors for the rows of a batch, by name; on a GPU made there."""

    seed: int
    epoch: int
    indices: NDArray[np.int64]
    device: torch.device

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        """(R, *shape) float32 in [0, 1)."""
        size = math.prod(shape)
        if self.device.type == "cpu":
            values = uniform32(self.seed, self.epoch, self.indices, name=name, size=size)
            return torch.from_numpy(values).view(-1, *shape)
        draws = tensor_draws.uniform32(self.seed, self.epoch, self._there, name=name, size=size)
        return draws.view(-1, *shape)

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """(R, *shape) standard normal float32."""
        size = math.prod(shape)
        if self.device.type == "cpu":
            values = normal(self.seed, self.epoch, self.indices, name=name, size=size)
            return torch.from_numpy(values.astype(np.float32)).view(-1, *shape)
        draws = tensor_draws.normal32(self.seed, self.epoch, self._there, name=name, size=size)
        return draws.view(-1, *shape)

    @functools.cached_property
    def _there(self) -> torch.Tensor:
        return torch.from_numpy(self.indices).to(self.device)
