"""What a model says of every sample of a dataset, over all processes.

Promises: each sample is seen exactly once, and every process gets all answers, in the
dataset's order, whatever the batch size and number of processes. With a journal this
holds over several attempts as well.
Leaves out: what is made of the answers (metrics.py, the actions).

N samples, R rows of a batch (several per sample where clips are averaged), C classes.
"""

import contextlib
import itertools
from collections.abc import Callable

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from kineme.engine.answer_journal import AnswerJournal, Found
from kineme.engine.feeding import Feed, evaluation_requests
from kineme.errors import QualityError
from kineme.network import Answers, Batch, Remarks


def predict(
    fabric: Fabric,
    model: nn.Module,
    feed: Feed,
    *,
    batch_size: int,
    epoch: int = 0,
    poll: Callable[[int], None] | None = None,
    journal: AnswerJournal | None = None,
    may_lose: bool = False,
) -> Answers:
    """What `model` says of every sample; the probabilities of a sample's rows are averaged.

    model: on the fabric's device, not wrapped for training (the processes have different
    numbers of batches, and a wrapped model would wait). It is left in evaluation mode.
    Raises QualityError when a sample that was read gets no finite score; with `may_lose` such a
    sample fails as one that cannot be read, and it is raised only where no sample gets one.
    poll: called by all processes equally often, with the number of samples that all of them
    have seen by then; it may raise to stop.
    journal: where answers are kept as they come; what it knows already is not computed.
    """
    num_samples, world_size = len(feed.dataset), fabric.world_size
    found, done = (journal.found, journal.done) if journal else (Found(), ())
    shares = [
        evaluation_requests(
            num_samples, batch_size, epoch=epoch, rank=rank, world_size=world_size, done=done
        )
        for rank in range(world_size)
    ]
    num_seen = len(done)
    model.eval()
    with (
        torch.inference_mode(),
        contextlib.closing(feed.read(shares[fabric.global_rank])) as batches,
    ):
        for turn in itertools.zip_longest(*shares):
            batch = next(batches, None)
            if batch is not None:
                rows = _rows(fabric, model, feed, batch, epoch)
                sample_of_row = batch.indices[batch.sample_of_row.cpu()].numpy()
                found.add(rows, sample_of_row, batch.remarks)
                if journal:
                    journal.write(batch.indices.numpy(), rows, sample_of_row, batch.remarks)
            num_seen += sum(len(indices) for _, indices in filter(None, turn))
            if poll is not None:
                poll(num_seen)
    answers = _joined(_gathered(fabric, found), num_samples)
    return _checked(answers, feed, may_lose=may_lose)


def _rows(
    fabric: Fabric, model: nn.Module, feed: Feed, batch: Batch, epoch: int
) -> NDArray[np.float32]:
    """(R, C) log probabilities of a batch; (0, 0) where nothing of it could be read."""
    if not len(batch.sample_of_row):
        return np.zeros((0, 0), np.float32)
    batch = feed.dataset.transform(batch.to(fabric.device), epoch)
    with fabric.autocast():
        logits: torch.Tensor = model(**batch.inputs)
    rows: NDArray[np.float32] = logits.float().log_softmax(dim=1).cpu().numpy()
    return rows


def _gathered(fabric: Fabric, found: Found) -> Found:
    """What all processes have seen."""
    if fabric.world_size == 1:
        return found
    parts: list[Found] = [found] * fabric.world_size
    torch.distributed.all_gather_object(parts, found)
    whole = Found()
    for part in parts:
        whole.rows += part.rows
        whole.sample_of_row += part.sample_of_row
        whole.remarks |= part.remarks
    return whole


def _joined(found: Found, num_samples: int) -> Answers:
    """All rows in the dataset's order, and the log of their mean probability by sample."""
    if not found.rows:  # all failed; of how many classes nobody knows
        scores, rows = np.full((num_samples, 1), np.nan, np.float32), np.zeros((0, 1), np.float32)
        return Answers(scores, rows, np.zeros(0, np.int64), found.remarks)
    rows, sample_of_row = np.concatenate(found.rows), np.concatenate(found.sample_of_row)
    order = np.argsort(sample_of_row, kind="stable")
    rows, sample_of_row = rows[order], sample_of_row[order]
    counts = np.bincount(sample_of_row, minlength=num_samples)
    is_single = len(rows) == num_samples and bool((counts == 1).all())
    scores = rows if is_single else _averaged(rows, counts)
    return Answers(scores, rows, sample_of_row, found.remarks)


def _averaged(rows: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, C) log of the mean probability of each sample's `counts` rows (R, C); NaN for none."""
    scores = np.full((len(counts), rows.shape[1]), np.nan, np.float32)
    is_answered = counts > 0
    starts = (np.cumsum(counts) - counts)[is_answered]
    highest = np.maximum.reduceat(rows, starts)
    of_row = np.repeat(np.arange(len(starts)), counts[is_answered])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.add.reduceat(np.exp(rows - highest[of_row]), starts)
        scores[is_answered] = highest + np.log(shares / counts[is_answered, None])
    return scores


def _checked(answers: Answers, feed: Feed, *, may_lose: bool) -> Answers:
    """The answers, of which those that are not finite may be lost (see `predict`)."""
    is_lost = np.asarray(~np.isfinite(answers.scores).any(axis=1))
    is_lost[list(answers.remarks.failed)] = False
    lost = np.flatnonzero(is_lost)
    if not len(lost):
        return answers
    cause = "Its weights or this sample hold NaN or huge numbers."
    if not may_lose or len(lost) == len(answers.answered):
        raise QualityError(
            "model",
            "finite scores for every sample",
            f"none for {len(lost)} of {len(is_lost)}, the first {feed.dataset.ids[lost[0]]!r}",
            cause,
        )
    failed = {int(i): f"the model gives it no finite score. {cause}" for i in lost}
    is_kept = ~is_lost[answers.sample_of_row]
    return Answers(
        answers.scores,
        answers.rows[is_kept],
        answers.sample_of_row[is_kept],
        answers.remarks | Remarks(failed=failed),
    )
