"""Test sequences with parts hidden, to see how fast accuracy falls.

The protocol follows RA-GCN (Song et al. 2020): one limb hidden throughout, a block of
frames missing, random joints missing. Draws depend on the sample alone, so two models
see the same damage.
Shapes: x (R, C, T, V, M).
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.data.randomness import uniform
from kineme.network import Batch
from kineme.pose_classification import transforms
from kineme.pose_classification.dataset import SkeletonDataset, prepare, present_joints
from kineme.pose_classification.layouts import Layout

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
LIMBS = ("left_arm", "right_arm", "hands", "legs", "trunk")


class OccludedDataset:
    """A test dataset seen with some joints missing; implements `network.Dataset`."""

    def __init__(self, dataset: SkeletonDataset, kind: str, amount: float) -> None:
        self.dataset, self.kind, self.amount = dataset, kind, amount
        self.ids, self.labels, self.notes = dataset.ids, dataset.labels, ()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        """As the dataset itself."""
        return self.dataset.read(indices, epoch)

    def transform(self, batch: Batch, epoch: int) -> Batch:
        """Hide first, then normalise: what a camera would have delivered."""
        x = batch.inputs["skeleton"]
        hidden = self._hidden(x, batch.indices.numpy())[batch.sample_of_row.to(x.device)]
        present = present_joints(x, self.dataset.view)
        present = transforms.without(present, hidden, x.shape)
        x = transforms.hide(x, present)
        x = prepare(x, self.dataset.view, batch.indices.numpy(), epoch, present=present)
        return Batch({"skeleton": x}, batch.labels, batch.indices, batch.sample_of_row)

    def _hidden(self, x: torch.Tensor, indices: NDArray[np.int64]) -> torch.Tensor:
        """Bool, (B, 1, T or 1, V or 1, 1): what is missing in each sample."""
        layout, num_frames = self.dataset.view.layout, x.shape[2]
        if self.kind == "joints":
            draws = uniform(0, 0, indices, name="hidden joints", size=layout.num_joints)
            ranks = torch.from_numpy(draws.argsort(axis=1).argsort(axis=1))
            in_sample = ranks < round(self.amount * layout.num_joints)
            return in_sample[:, None, None, :, None].to(x.device)
        if self.kind == "frames":
            seen = torch.from_numpy(self.dataset.frames_seen(indices))[:, None]
            length = (self.amount * seen).round()
            places = torch.from_numpy(uniform(0, 0, indices, name="hidden frames"))
            start = (places * (seen - length + 1)).floor()
            frame = torch.arange(num_frames)
            in_block: torch.Tensor = (frame >= start) & (frame < start + length)
            return in_block[:, None, :, None, None].to(x.device)
        hidden = torch.zeros(1, 1, 1, layout.num_joints, 1, dtype=torch.bool)
        hidden[..., list(limb_joints(layout, self.kind)), :] = True
        return hidden.expand(len(indices), -1, -1, -1, -1).to(x.device)


def occluded(dataset: SkeletonDataset) -> Iterator[tuple[str, float, OccludedDataset]]:
    """(curve, share of joints hidden, dataset) for every step of the protocol.

    Limbs that the layout does not have are left out.
    """
    for curve, kind in (("random joints", "joints"), ("a block of frames", "frames")):
        for share in SHARES:
            yield curve, share, OccludedDataset(dataset, kind, share)
    layout = dataset.view.layout
    for limb in LIMBS:
        joints = limb_joints(layout, limb)
        if joints:
            share = len(joints) / layout.num_joints
            yield limb.replace("_", " "), share, OccludedDataset(dataset, limb, share)


def limb_joints(layout: Layout, limb: str) -> tuple[int, ...]:
    """The joints of a limb of the protocol; `legs` are both."""
    limbs = layout.limbs
    if limb == "legs":
        return (*limbs.get("left_leg", ()), *limbs.get("right_leg", ()))
    return limbs.get(limb, ())
