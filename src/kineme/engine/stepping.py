"""One step of training: forward, backward and update; on a GPU recorded once and replayed.

Promises: random numbers of a step follow from its seed, recorded or not; a step that is taken
one by one leaves the weights where its gradient is not finite.
Leaves out: learning rates and seeds of steps, what is made of the figures (actions/train.py).

A small model asks a GPU for thousands of short kernels a step, and asking takes longer than they
do. A CUDA graph asks once for all of them: the kernels of a step are recorded while it is taken
for the second time, with the batch, the learning rate and the share of averaged weights at fixed
places in memory, and every later step fills these and plays the recording.

B samples of a batch, R rows (model inputs) of them, C classes.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from kineme.engine import optim
from kineme.engine.objective import Objective, answers_of
from kineme.engine.training import Training
from kineme.errors import ResourceError
from kineme.network import Batch

VARIES_WITH = "varies_with"  # a model's method: whether its kernels depend on what it is shown


@dataclass(frozen=True)
class Figures:
    """Of a step in one process. loss: of a stream, summed over the rows. norm: of the gradient,
    before it was clipped."""

    loss: float
    num_correct: float
    norm: float


def is_scaled(precision: str) -> bool:
    """Whether a scaler passes over steps that are not finite, by itself."""
    return precision == "16-mixed"


def can_be_recorded(fabric: Fabric, precision: str) -> bool:
    """Whether steps can be replayed here: on one GPU, without a scaler, which decides each time."""
    is_alone = fabric.device.type == "cuda" and fabric.world_size == 1
    return is_alone and not is_scaled(precision)


class Step:
    """Takes steps of `training`. model, optimizer: as Fabric wraps them; grad_clip: 0 for none.

    is_recorded: replay a CUDA graph, where `can_be_recorded`.
    """

    def __init__(
        self,
        fabric: Fabric,
        training: Training,
        model: nn.Module,
        optimizer: Any,
        objective: Objective,
        *,
        grad_clip: float,
        is_scaled: bool = False,
        is_recorded: bool = False,
    ) -> None:
        self.fabric, self.training, self.model = fabric, training, model
        self.optimizer, self.objective = optimizer, objective
        self.grad_clip, self.is_scaled = grad_clip, is_scaled
        self.last_norm = math.nan  # of the gradient, before it was clipped
        self._varies = getattr(training.module, VARIES_WITH, None)
        self._share = torch.zeros((), device=fabric.device)  # of the way of averaged weights
        self._stream = cast(Any, torch.cuda.Stream)(fabric.device) if is_recorded else None
        self.start_anew()

    def start_anew(self) -> None:
        """Ready for steps of a training whose state is new, or has been replaced."""
        self._recording: _Recording | None = None
        self._is_warm = False
        if self._stream:  # steps that are not replayed take the same numbers from the same places
            optim.keep_rate_on(self.training.optimizer, self.fabric.device)
            optim.begin_momentum(self.training.optimizer)

    def __call__(self, batch: Batch, *, rate: float, seed: int) -> Figures:
        """Learn from a batch on the device, prepared for the model.

        Where the gradient is not finite, and not `is_scaled`, a replay has spoiled the weights.
        """
        optim.set_rate(self.training.optimizer, rate)
        if not self.training.module.training:
            self.training.module.train()
        torch.manual_seed(seed)  # dropout
        with self._own_stream():
            figures = Figures(*self._taken(batch).tolist())
        self.last_norm = figures.norm
        return figures

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """A recording may not be made on the stream that all else uses."""
        if self._stream is None:
            yield
            return
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            yield
        outside.wait_stream(self._stream)

    def _taken(self, batch: Batch) -> torch.Tensor:
        """(3,) as `Figures`, after the update."""
        is_like_others = self._stream is None or not (self._varies and self._varies(**batch.inputs))
        if self._is_warm and is_like_others:
            self._recording = self._recording or self._record(batch)
            if self._recording.fits(batch):
                self._say_share()
                return self._recording.replay(batch)
        self.optimizer.zero_grad()
        figures = self._learn(batch)
        if self.is_scaled or bool(figures[2].isfinite()):
            self._say_share()
            self._update()
            self._is_warm |= self._stream is not None and is_like_others
        return figures

    def _record(self, batch: Batch) -> "_Recording":
        """Raises ResourceError where the model does what cannot be recorded."""
        self.optimizer.zero_grad()
        try:
            return _Recording(self._learn, self._update, batch, self._stream)
        except RuntimeError as error:
            first: BaseException = error
            while isinstance(first.__context__, RuntimeError):  # what ended the recording
                first = first.__context__
            if isinstance(first, torch.OutOfMemoryError):
                raise first from None
            raise ResourceError(
                "train.cuda_graph",
                "a step whose kernels can be recorded",
                str(first).splitlines()[0] if str(first) else "one that cannot",
                "Set train.cuda_graph=false: slower, and the same otherwise.",
            ) from error

    def _learn(self, batch: Batch) -> torch.Tensor:
        """Gradients, clipped; (3,) float64 as `Figures`."""
        logits = self.model(**batch.inputs).float()  # (R, C) or (R, S, C)
        loss = self.objective(logits, batch, self.fabric)
        self.fabric.backward(loss)
        if self._stream:
            optim.align_gradients(self.training.module)
        if self.grad_clip > 0:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.grad_clip, error_if_nonfinite=False
            )
        else:
            norm = optim.gradient_norm(self.training.module)
        targets = batch.labels[batch.sample_of_row]
        correct = (answers_of(logits.detach()).argmax(dim=1) == targets).sum()
        num_streams = logits.shape[1] if logits.dim() == 3 else 1
        shown = (loss.detach() / num_streams).double() * len(targets)
        return torch.stack([shown, correct.double(), norm.detach().double()])  # type: ignore[union-attr]

    def _say_share(self) -> None:
        """How far averaged weights go in this step, where a recording looks for it."""
        if self.training.averaged and self._stream:
            self._share.fill_(self.training.averaged.next_share())

    def _update(self) -> None:
        """Weights and averaged weights, by the gradients."""
        training = self.training
        (training.optimizer if self._stream else self.optimizer).step()
        if training.averaged and self._stream:
            training.averaged.move(training.module, self._share)
        elif training.averaged:
            training.averaged.update(training.module)


class _Recording:
    """A CUDA graph of `learn` and `update` for batches like `batch`, which were called before.

    stream: the current one, and not the default.
    """

    def __init__(
        self,
        learn: Callable[[Batch], torch.Tensor],
        update: Callable[[], None],
        batch: Batch,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self.batch = _kept(batch)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.figures = learn(self.batch)
            update()

    def fits(self, batch: Batch) -> bool:
        """Whether a batch has the shapes that were recorded."""
        own, given = _tensors(self.batch), _tensors(batch)
        return [mine.shape for mine in own] == [other.shape for other in given]

    def replay(self, batch: Batch) -> torch.Tensor:
        """A step on `batch`; (3,) as `Figures`."""
        for mine, other in zip(_tensors(self.batch), _tensors(batch), strict=True):
            mine.copy_(other)
        if isinstance(self.batch.mixed_share, torch.Tensor):
            self.batch.mixed_share.fill_(float(batch.mixed_share))
        self.graph.replay()
        return self.figures


def _kept(batch: Batch) -> Batch:
    """A copy at a place of its own, whose share of mixing can be written to."""
    share = batch.mixed_share
    if batch.mixed_labels is not None:
        share = torch.tensor(float(share), device=batch.labels.device)
    mixed = None if batch.mixed_labels is None else batch.mixed_labels.clone()
    return replace(
        batch,
        inputs={name: x.clone() for name, x in batch.inputs.items()},
        labels=batch.labels.clone(),
        sample_of_row=batch.sample_of_row.clone(),
        mixed_labels=mixed,
        mixed_share=share,
    )


def _tensors(batch: Batch) -> list[torch.Tensor]:
    """What a batch tells a step, beside the share of mixing."""
    mixed = [] if batch.mixed_labels is None else [batch.mixed_labels]
    return [*batch.inputs.values(), batch.labels, batch.sample_of_row, *mixed]
