"""Training data that lie on a GPU as a whole, and batches that are made there, many at once.

Promises: a batch is what `SkeletonDataset` makes of the same request, up to rounding; which
batches are made together follows from their place in the epoch alone, so an epoch that is
continued has the same ones.
Leaves out: which frames are chosen and what happens to them (dataset.py), steps (stepping.py).

Why this is fast: the arithmetic of one batch is too little for a GPU, which waits for it to be
asked for. Made together, many batches cost as much asking as one.
Shapes: N sequences, R rows, and x (R, C, T, V, M); F frames of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kineme.network import Batch, Request
from kineme.pose_classification.dataset import SkeletonDataset
from kineme.pose_classification.sources import Sequences

LARGEST_SHARE = 0.25  # of the device's memory, whoever else uses it, for the data
BYTES_AT_ONCE = 1 << 26  # of the rows that are made together
MOST_STEPS = 64  # of which the batches are made together
_CHUNK_SEQUENCES = 256


@dataclass(frozen=True, eq=False)
class Resident:
    """All sequences on a device. frames: (N T, C V M) float32, the frames one after the other."""

    frames: torch.Tensor
    shape: tuple[int, int, int, int, int]  # N, C, T, V, M

    def gather(self, samples: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """(R, C, F, V, M): frames (R, F) of each of samples (R,); -1 is an empty frame."""
        _, c, t, v, m = self.shape
        rows = samples[:, None] * t + frames.clamp(min=0)
        x = self.frames.index_select(0, rows.flatten()).view(*frames.shape, c, v, m)
        x = x.masked_fill((frames < 0)[:, :, None, None, None], 0)
        return x.transpose(1, 2).contiguous()


def place(
    sequences: Sequences, device: torch.device, *, total_bytes: int | None = None
) -> Resident | None:
    """The sequences on `device`; None where they take more than a share of its memory."""
    shape = sequences.shape
    n, c, t, v, m = shape
    if total_bytes is None:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
    if math.prod(shape) * 4 > LARGEST_SHARE * total_bytes:
        return None
    frames = torch.empty(n * t, c * v * m, device=device)
    for start in range(0, n, _CHUNK_SEQUENCES):
        chosen = np.arange(start, min(start + _CHUNK_SEQUENCES, n))
        x = torch.from_numpy(sequences.gather(chosen, None)).transpose(1, 2)
        frames[start * t : (start + len(chosen)) * t] = x.reshape(-1, c * v * m).to(device)
    return Resident(frames, shape)


class ResidentBatches:
    """Batches of training, ready for a model on `device`."""

    def __init__(self, dataset: SkeletonDataset, resident: Resident) -> None:
        self.dataset, self.resident = dataset, resident

    def __call__(self, requests: Sequence[Request], first_step: int = 0) -> Iterator[Batch]:
        """Those of an epoch's requests, all of one size, from `first_step` on."""
        if not requests:
            return
        together = self._steps_at_once(len(requests[0][1]))
        for start in range(first_step - first_step % together, len(requests), together):
            made = self._together(requests[start : start + together])
            yield from made[max(0, first_step - start) :]

    def _steps_at_once(self, batch_size: int) -> int:
        _, c, t, v, m = self.resident.shape
        settings = self.dataset.view.settings
        num_frames = settings.num_frames if settings.sampling == "uniform" else t
        num_bytes = 4 * batch_size * c * num_frames * v * m
        return max(1, min(MOST_STEPS, BYTES_AT_ONCE // num_bytes))

    def _together(self, requests: Sequence[Request]) -> list[Batch]:
        """The batches of some requests of one epoch."""
        epoch, size = requests[0][0], len(requests[0][1])
        indices = np.concatenate([indices for _, indices in requests])
        samples, frames = self.dataset.choose(indices, epoch)
        device = self.resident.frames.device
        if frames is None:
            frames = np.arange(self.resident.shape[2])
        frames = np.broadcast_to(frames, (len(samples), frames.shape[-1]))
        x = self.resident.gather(_on(samples, device), _on(frames, device))
        x = self.dataset.prepare(x, indices, epoch)
        labels = _on(self.dataset.labels[indices], device)
        rows = torch.arange(size, device=device)
        batches = []
        for step, (_, own) in enumerate(requests):
            part = slice(step * size, (step + 1) * size)
            batch = Batch({"skeleton": x[part]}, labels[part], torch.from_numpy(own), rows)
            batches.append(self.dataset.mix(batch, epoch))
        return batches


def keep_on(dataset: SkeletonDataset, device: torch.device) -> ResidentBatches | None:
    """Batches of training from data on `device`; None where the data do not fit."""
    resident = place(dataset.sequences, device)
    return ResidentBatches(dataset, resident) if resident else None


def _on(values: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, device=device)
