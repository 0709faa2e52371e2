"""What a model says of every sample of a dataset, over all processes.

Promises: each sample is seen exactly once, and every process gets all answers, in the
dataset's order, whatever the batch size and number of processes.
Leaves out: what is made of the answers (metrics.py, the actions).

N samples, R rows of a batch (several per sample where clips are averaged), C classes.
"""

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from kineme.engine.feeding import Feed, evaluation_requests
from kineme.errors import QualityError
from kineme.network import Batch


def predict(
    fabric: Fabric,
    model: nn.Module,
    feed: Feed,
    *,
    batch_size: int,
    epoch: int = 0,
    poll: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """log of the class probabilities, (N, C) float32; those of a sample's rows are averaged.

    model: on the fabric's device, not wrapped for training (the processes have different
    numbers of batches, and a wrapped model would wait). It is left in evaluation mode.
    Raises QualityError when a sample gets no finite score.
    poll: called by all processes equally often, with the samples of this process seen so
    far; it may raise to stop.
    """
    num_samples, world_size = len(feed.dataset), fabric.world_size
    rank = fabric.global_rank
    requests = evaluation_requests(
        num_samples, batch_size, epoch=epoch, rank=rank, world_size=world_size
    )
    num_rounds = -(-num_samples // (batch_size * world_size))
    answers: list[tuple[torch.Tensor, torch.Tensor]] = []
    num_seen = 0
    model.eval()
    with torch.inference_mode(), contextlib.closing(feed.read(requests)) as batches:
        for _ in range(num_rounds):
            batch = next(batches, None)
            if batch is not None:
                answers.append((batch.indices, _answer(fabric, model, feed, batch, epoch)))
                num_seen += len(batch.indices)
            if poll is not None:
                poll(num_seen)
    scores = _gather(fabric, answers, num_samples)
    lost = np.flatnonzero(~np.isfinite(scores).any(axis=1))
    if len(lost):
        raise QualityError(
            "model",
            "finite scores for every sample",
            f"none for {len(lost)} of {num_samples}, the first {feed.dataset.ids[lost[0]]!r}",
            "Its weights or this sample hold NaN or huge numbers.",
        )
    return scores


def _answer(fabric: Fabric, model: nn.Module, feed: Feed, batch: Batch, epoch: int) -> torch.Tensor:
    """(B, C) log of the mean probability over the rows of each sample."""
    batch = feed.dataset.transform(batch.to(fabric.device), epoch)
    with fabric.autocast():
        logits: torch.Tensor = model(**batch.inputs)
    rows = logits.float().log_softmax(dim=1)  # (R, C)
    num_samples = len(batch.indices)
    if len(rows) == num_samples:
        return rows
    shape = (num_samples, rows.shape[1])
    of_row = batch.sample_of_row
    counts = torch.bincount(of_row, minlength=num_samples).unsqueeze(1)
    highest = torch.full(shape, -torch.inf, device=rows.device)
    highest.scatter_reduce_(0, of_row.unsqueeze(1).expand_as(rows), rows, "amax")
    shares = torch.zeros(shape, device=rows.device)
    shares.index_add_(0, of_row, (rows - highest[of_row]).exp())
    return highest + (shares / counts).log()


def _gather(
    fabric: Fabric, answers: list[tuple[torch.Tensor, torch.Tensor]], num_samples: int
) -> NDArray[np.float32]:
    """All answers in the dataset's order: each process fills its rows, and rows are summed."""
    num_classes = torch.tensor(answers[0][1].shape[1] if answers else 0, device=fabric.device)
    if fabric.world_size > 1:
        num_classes = fabric.all_reduce(num_classes, reduce_op="max")  # type: ignore[assignment]
    everything = torch.zeros(num_samples, int(num_classes), device=fabric.device)
    for indices, rows in answers:
        everything[indices.to(fabric.device)] = rows
    if fabric.world_size > 1:
        everything = fabric.all_reduce(everything, reduce_op="sum")  # type: ignore[assignment]
    return everything.cpu().numpy()
